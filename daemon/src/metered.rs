//! Measures the calls of the store, whichever engine it has.

use std::{sync::Arc, time::Instant};

use openorch_chassis::metrics::{Registry, duration_family};
use openorch_store::{Batch, BoxFuture, Committed, Layer, Result, Store};
use prometheus_client::metrics::{counter::Counter, family::Family, histogram::Histogram};

/// A store with metrics.
pub struct Metered {
    store: Arc<dyn Store>,
    reads: Kind,
    commits: Kind,
}

/// Metrics of one kind of call.
struct Kind {
    durations: Histogram,
    failures: Counter,
}

impl Kind {
    async fn measure<T>(&self, work: BoxFuture<'_, Result<T>>) -> Result<T> {
        let started = Instant::now();
        let outcome = work.await;
        self.durations.observe(started.elapsed().as_secs_f64());
        self.failures.inc_by(outcome.is_err().into());
        outcome
    }
}

impl Metered {
    /// Wraps the store and registers its metrics.
    pub fn new(store: Arc<dyn Store>, registry: &Registry) -> Metered {
        let (durations, failures) = (duration_family(), Family::<[(&str, &str); 1], Counter>::default());
        registry.register("store_duration_seconds", "Time that calls of the store took", durations.clone());
        registry.register("store_failures", "Calls of the store that failed", failures.clone());
        let kind = |kind| Kind {
            durations: durations.get_or_create_owned(&[("kind", kind)]),
            failures: failures.get_or_create_owned(&[("kind", kind)]),
        };
        Metered { store, reads: kind("read"), commits: kind("commit") }
    }
}

impl Layer for Metered {
    fn inner(&self) -> &dyn Store {
        &*self.store
    }

    fn reading<'a, T: Send + 'a>(&'a self, work: BoxFuture<'a, Result<T>>) -> BoxFuture<'a, Result<T>> {
        Box::pin(self.reads.measure(work))
    }

    fn committing(&self, batch: Batch) -> BoxFuture<'_, Result<Committed>> {
        Box::pin(self.commits.measure(self.store.commit(batch)))
    }
}
