//! The metrics registry, to which the gateway, the store and every service add their metrics. `GET /metrics` encodes it in
//! the Prometheus text format 0.0.4.

mod process;

use std::{
    fmt,
    sync::{OnceLock, PoisonError, RwLock},
    time::Duration,
};

use http::StatusCode;
use prometheus_client::{
    encoding::{EncodeMetric, MetricEncoder, prometheus_text},
    metrics::{MetricType, counter::Counter, family::Family, gauge::ConstGauge, histogram::Histogram, info::Info},
    registry,
};

/// All metrics of the process. Names follow the Prometheus conventions: base units, counters end in `_total`.
pub struct Registry {
    inner: RwLock<registry::Registry>,
}

impl Registry {
    /// A registry with the build and process metrics.
    pub fn new(version: &'static str) -> Registry {
        let mut inner = registry::Registry::default();
        inner.register("openorch_build", "Version of the daemon", Info::new([("version", version)]));
        inner.register_collector(Box::new(process::Process::new()));
        Registry { inner: RwLock::new(inner) }
    }

    /// Adds the metric `openorch_<name>`. `help` has no full stop; the name of a counter has no `_total`. Services prefix
    /// their names with the name of the service.
    pub fn register(&self, name: &str, help: &str, metric: impl registry::Metric) {
        let mut inner = self.inner.write().unwrap_or_else(PoisonError::into_inner);
        inner.register(format!("openorch_{name}"), help, metric);
    }

    /// Adds a gauge that is read on each scrape, and omitted if it has no value.
    pub fn gauge(&self, name: &str, help: &str, read: impl Fn() -> Option<u64> + Send + Sync + 'static) {
        self.register(name, help, CallbackGauge(read));
    }

    /// Everything in the Prometheus text format 0.0.4.
    pub fn text(&self) -> String {
        let mut text = String::new();
        // Fails only if a metric fails to encode; the metrics before it are complete.
        let _ = prometheus_text::encode(&mut text, &self.inner.read().unwrap_or_else(PoisonError::into_inner));
        text
    }
}

/// A gauge whose value is read when it is encoded.
struct CallbackGauge<F>(F);

impl<F> fmt::Debug for CallbackGauge<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ReadGauge")
    }
}

impl<F: Fn() -> Option<u64>> EncodeMetric for CallbackGauge<F> {
    fn encode(&self, encoder: MetricEncoder) -> fmt::Result {
        match (self.0)() {
            Some(value) => ConstGauge::new(value).encode(encoder),
            None => Ok(()),
        }
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Gauge
    }

    fn is_empty(&self) -> bool {
        (self.0)().is_none()
    }
}

/// A histogram of durations in seconds, from half a millisecond to half a minute.
pub fn duration_histogram() -> Histogram {
    Histogram::new([0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0])
}

/// Histograms of durations by their labels.
pub type DurationFamily<const N: usize> = Family<[(&'static str, &'static str); N], Histogram, fn() -> Histogram>;

/// An empty family of [`duration_histogram`].
pub fn duration_family<const N: usize>() -> DurationFamily<N> {
    Family::new_with_constructor(duration_histogram as fn() -> Histogram)
}

/// Outcomes of an operation by status class: 2xx and 3xx, 4xx, 5xx.
const OUTCOMES: [&str; 3] = ["success", "refused", "failed"];

/// The durations of calls of an operation. The series of an outcome is created on its first use.
pub(crate) struct OperationDurations {
    id: &'static str,
    family: DurationFamily<2>,
    by_outcome: [OnceLock<Histogram>; OUTCOMES.len()],
}

impl OperationDurations {
    pub fn new(id: &'static str, family: &DurationFamily<2>) -> OperationDurations {
        OperationDurations { id, family: family.clone(), by_outcome: Default::default() }
    }

    pub fn observe(&self, status: StatusCode, elapsed: Duration) {
        let class = match status.as_u16() {
            0..400 => 0,
            400..500 => 1,
            _ => 2,
        };
        let labels = [("operation", self.id), ("outcome", OUTCOMES[class])];
        let histogram = self.by_outcome[class].get_or_init(|| self.family.get_or_create_owned(&labels));
        histogram.observe(elapsed.as_secs_f64());
    }
}

/// Counts calls in process by operation and calling operation. Their durations are included in those of all calls: a
/// histogram per pair would be a thousand unused series.
pub(crate) struct CallsInProcess(Family<[(&'static str, &'static str); 2], Counter>);

impl CallsInProcess {
    pub fn new(registry: &Registry) -> CallsInProcess {
        let family = Family::default();
        let help = "Calls of an operation by another one in process; `via` is the calling operation";
        registry.register("operation_calls_in_process", help, family.clone());
        CallsInProcess(family)
    }

    pub fn count(&self, operation: &'static str, via: &'static str) {
        self.0.get_or_create(&[("operation", operation), ("via", via)]).inc();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_are_written_with_their_help_and_those_without_a_value_are_not() {
        let registry = Registry::new("1.2.3");
        registry.gauge("a_bytes", "Bytes of a", || Some(7));
        registry.gauge("b_bytes", "Bytes of b", || None);
        let family = duration_family();
        registry.register("operation_duration_seconds", "Time", family.clone());
        let operation = OperationDurations::new("login", &family);
        operation.observe(StatusCode::OK, Duration::from_millis(2));
        operation.observe(StatusCode::FOUND, Duration::from_secs(40));
        operation.observe(StatusCode::BAD_GATEWAY, Duration::ZERO);
        let text = registry.text();
        for line in [
            "openorch_build_info{version=\"1.2.3\"} 1",
            "# HELP openorch_a_bytes Bytes of a.",
            "# TYPE openorch_a_bytes gauge",
            "openorch_a_bytes 7",
            "# TYPE openorch_operation_duration_seconds histogram",
            "openorch_operation_duration_seconds_bucket{le=\"0.0025\",operation=\"login\",outcome=\"success\"} 1",
            "openorch_operation_duration_seconds_count{operation=\"login\",outcome=\"success\"} 2",
            "openorch_operation_duration_seconds_count{operation=\"login\",outcome=\"failed\"} 1",
        ] {
            let is_there = text.lines().any(|one| one == line || sorted_labels(one) == line);
            assert!(is_there, "{line} is not in\n{text}");
        }
        assert!(!text.contains("openorch_b_bytes") && !text.contains("refused"), "{text}");
    }

    /// The line with its labels sorted by name.
    fn sorted_labels(line: &str) -> String {
        let Some((name, rest)) = line.split_once('{') else { return line.into() };
        let Some((labels, value)) = rest.split_once('}') else { return line.into() };
        let mut labels: Vec<&str> = labels.split(',').collect();
        labels.sort_unstable();
        format!("{name}{{{}}}{value}", labels.join(","))
    }
}
