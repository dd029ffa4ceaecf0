//! Counters of operations, kept as atomics and written in the Prometheus text format 0.0.4.

use std::{
    fmt::Write,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

/// What is counted of one operation.
#[derive(Default)]
pub struct OperationMetrics {
    /// By class of status: 2xx and 3xx, 4xx, 5xx.
    outcomes: [AtomicU64; 3],
    microseconds: AtomicU64,
}

const OUTCOMES: [&str; 3] = ["success", "refused", "failed"];

impl OperationMetrics {
    pub fn count(&self, status: http::StatusCode, elapsed: Duration) {
        let class = match status.as_u16() {
            0..400 => 0,
            400..500 => 1,
            _ => 2,
        };
        self.outcomes[class].fetch_add(1, Ordering::Relaxed);
        self.microseconds.fetch_add(elapsed.as_micros() as u64, Ordering::Relaxed);
    }

    /// Appends the samples of the operation `id`.
    pub fn write(&self, id: &str, requests: &mut String, seconds: &mut String) {
        for (class, outcome) in OUTCOMES.iter().enumerate() {
            let count = self.outcomes[class].load(Ordering::Relaxed);
            if count > 0 {
                let _ = writeln!(
                    requests,
                    "openorch_operation_requests_total{{operation=\"{id}\",outcome=\"{outcome}\"}} {count}"
                );
            }
        }
        let spent = self.microseconds.load(Ordering::Relaxed);
        if spent > 0 {
            let _ =
                writeln!(seconds, "openorch_operation_seconds_total{{operation=\"{id}\"}} {:.6}", spent as f64 / 1e6);
        }
    }
}
