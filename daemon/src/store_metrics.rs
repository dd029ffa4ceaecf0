//! Measures the calls of the store, whichever engine it has.

use std::{sync::Arc, time::Instant};

use openorch_chassis::metrics::{Registry, duration_family};
use openorch_store::{Batch, BoxFuture, Committed, Layer, Result, Store};
use prometheus_client::metrics::{counter::Counter, family::Family, histogram::Histogram};

/// A store with metrics.
pub struct MeteredStore {
    store: Arc<dyn Store>,
    reads: CallMetrics,
    commits: CallMetrics,
}

/// Metrics of one kind of call.
struct CallMetrics {
    durations: Histogram,
    failures: Counter,
}

impl CallMetrics {
    async fn measure<T>(&self, work: BoxFuture<'_, Result<T>>) -> Result<T> {
        let started = Instant::now();
        let outcome = work.await;
        self.durations.observe(started.elapsed().as_secs_f64());
        self.failures.inc_by(outcome.is_err().into());
        outcome
    }
}

impl MeteredStore {
    /// Wraps the store and registers its metrics.
    pub fn new(store: Arc<dyn Store>, registry: &Registry) -> MeteredStore {
        let (durations, failures) = (duration_family(), Family::<[(&str, &str); 1], Counter>::default());
        registry.register("store_duration_seconds", "Time that calls of the store took", durations.clone());
        registry.register("store_failures", "Calls of the store that failed", failures.clone());
        let kind = |kind| CallMetrics {
            durations: durations.get_or_create_owned(&[("kind", kind)]),
            failures: failures.get_or_create_owned(&[("kind", kind)]),
        };
        MeteredStore { store, reads: kind("read"), commits: kind("commit") }
    }
}

impl Layer for MeteredStore {
    fn inner(&self) -> &dyn Store {
        &*self.store
    }

    fn wrap_read<'a, T: Send + 'a>(&'a self, work: BoxFuture<'a, Result<T>>) -> BoxFuture<'a, Result<T>> {
        Box::pin(self.reads.measure(work))
    }

    fn wrap_commit(&self, batch: Batch) -> BoxFuture<'_, Result<Committed>> {
        Box::pin(self.commits.measure(self.store.commit(batch)))
    }
}
