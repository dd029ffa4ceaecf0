//! Counts and times what is asked of the store, whichever engine is behind it.

use std::{
    fmt::Write as _,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Instant,
};

use openorch_store::{Batch, BoxFuture, Committed, Layer, Result, Store};

/// What was asked of the store.
#[derive(Default)]
pub struct StoreMetrics {
    reads: Counter,
    commits: Counter,
}

#[derive(Default)]
struct Counter {
    count: AtomicU64,
    failures: AtomicU64,
    microseconds: AtomicU64,
}

impl Counter {
    async fn measure<T>(&self, work: BoxFuture<'_, Result<T>>) -> Result<T> {
        let started = Instant::now();
        let outcome = work.await;
        self.count.fetch_add(1, Relaxed);
        self.failures.fetch_add(outcome.is_err().into(), Relaxed);
        self.microseconds.fetch_add(started.elapsed().as_micros() as u64, Relaxed);
        outcome
    }
}

impl StoreMetrics {
    /// In the Prometheus text format 0.0.4.
    pub fn text(&self) -> String {
        let mut text = String::new();
        let kinds = [("read", &self.reads), ("commit", &self.commits)];
        let mut family = |name: &str, value: &dyn Fn(&Counter) -> String| {
            let _ = writeln!(text, "# TYPE {name} counter");
            for (kind, counter) in kinds {
                let _ = writeln!(text, "{name}{{kind=\"{kind}\"}} {}", value(counter));
            }
        };
        family("openorch_store_calls_total", &|counter| counter.count.load(Relaxed).to_string());
        family("openorch_store_failures_total", &|counter| counter.failures.load(Relaxed).to_string());
        family("openorch_store_seconds_total", &|counter| {
            format!("{:.6}", counter.microseconds.load(Relaxed) as f64 / 1e6)
        });
        text
    }
}

/// A store that is counted.
pub struct Metered {
    store: Arc<dyn Store>,
    metrics: Arc<StoreMetrics>,
}

impl Metered {
    pub fn new(store: Arc<dyn Store>, metrics: Arc<StoreMetrics>) -> Metered {
        Metered { store, metrics }
    }
}

impl Layer for Metered {
    fn inner(&self) -> &dyn Store {
        &*self.store
    }

    fn reading<'a, T: Send + 'a>(&'a self, work: BoxFuture<'a, Result<T>>) -> BoxFuture<'a, Result<T>> {
        Box::pin(self.metrics.reads.measure(work))
    }

    fn committing(&self, batch: Batch) -> BoxFuture<'_, Result<Committed>> {
        Box::pin(self.metrics.commits.measure(self.store.commit(batch)))
    }
}
