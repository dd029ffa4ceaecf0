//! Metrics of the data plane. Requests never block on them: counters are atomic, and the histograms of a service are in its
//! routing table entry.

use std::{
    fmt,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use http::StatusCode;
use openorch_chassis::metrics::{Registry, duration_histogram};
use prometheus_client::{
    encoding::{EncodeMetric, MetricEncoder},
    metrics::{MetricType, counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
};

use crate::{HttpSettings, RoutingTable};

/// An integer gauge.
pub type UintGauge = Gauge<u64, AtomicU64>;

/// Counters and gauges of the gateway.
#[derive(Debug, Default)]
pub struct Metrics {
    pub(crate) requests: Requests,
    pub(crate) retried: Counter,
    /// Connections opened to instances, and attempts that failed.
    pub connected: Counter,
    pub(crate) connect_failed: Counter,
    pub(crate) reused: Counter,
    pub(crate) tunnels: Counter,
    /// Requests and tunnels in progress.
    pub in_flight: UintGauge,
    /// Requests refused by a concurrency limit whose response is unread.
    pub refused_in_flight: UintGauge,
    /// Open client connections.
    pub connections: UintGauge,
    /// Client connections closed because of a connection limit.
    pub connections_refused: Counter,
    pub(crate) connections_failed: Counter,
    /// Requests aborted because the client did not read the response or send the body.
    pub stalled: Counter,
    /// Requests and tunnels aborted because their session or service ended.
    pub session_ended: Counter,
}

/// Requests by outcome.
#[derive(Debug)]
pub(crate) struct Requests {
    family: Family<[(&'static str, &'static str); 1], Counter>,
    pub builtin: Counter,
    pub forwarded: Counter,
    refused: Counter,
    bad_gateway: Counter,
    unavailable: Counter,
}

impl Default for Requests {
    fn default() -> Requests {
        let family = Family::default();
        let of = |outcome| family.get_or_create_owned(&[("outcome", outcome)]);
        Requests {
            builtin: of("builtin"),
            forwarded: of("forwarded"),
            refused: of("refused"),
            bad_gateway: of("bad_gateway"),
            unavailable: of("unavailable"),
            family,
        }
    }
}

impl Requests {
    /// Counts a refused request, including loops.
    pub fn refused(&self, status: StatusCode) {
        let counter = match status {
            StatusCode::BAD_GATEWAY => &self.bad_gateway,
            StatusCode::SERVICE_UNAVAILABLE => &self.unavailable,
            _ => &self.refused,
        };
        counter.inc();
    }
}

impl Metrics {
    /// Registers these metrics, the durations of the table's services, and the limits.
    pub fn register(&self, registry: &Registry, table: &Arc<RoutingTable>, settings: &HttpSettings) {
        let requests = "Requests: handled by built-in operations, forwarded to an instance, refused with a 4xx or as a loop, \
                        502 (bad_gateway) and 503 (unavailable)";
        registry.register("gateway_requests", requests, self.requests.family.clone());
        registry.register(
            "gateway_request_duration_seconds",
            "Time from a request for a service to the head of the response, by service and status class",
            ByService(table.clone()),
        );
        for (name, help, counter) in [
            ("retries", "Requests sent to an instance a second time", &self.retried),
            ("connects", "Connections opened to instances", &self.connected),
            ("connect_failures", "Failed attempts to open a connection to an instance", &self.connect_failed),
            ("reuses", "Requests sent on a pooled connection", &self.reused),
            ("tunnels", "Upgraded connections since the start", &self.tunnels),
            (
                "connections_refused",
                "Client connections closed because of a connection limit",
                &self.connections_refused,
            ),
            ("connection_errors", "Client connections that ended with an error", &self.connections_failed),
            ("stalled_answers", "Requests aborted because the client stalled", &self.stalled),
            (
                "session_ended",
                "Requests and tunnels aborted because their session or service ended",
                &self.session_ended,
            ),
        ] {
            registry.register(&format!("gateway_{name}"), help, counter.clone());
        }
        for (name, help, gauge) in [
            ("in_flight", "Requests and tunnels in progress", &self.in_flight),
            ("refused_in_flight", "Refused requests whose response is unread", &self.refused_in_flight),
            ("connections", "Open client connections", &self.connections),
        ] {
            registry.register(&format!("gateway_{name}"), help, gauge.clone());
        }
        let (connections, requests) = (settings.max_connections as u64, settings.max_requests as u64);
        registry.gauge("gateway_connections_limit", "Maximum number of client connections", move || Some(connections));
        registry.gauge("gateway_requests_limit", "Maximum number of concurrent requests", move || Some(requests));
    }
}

/// Maximum number of services with their own series; further ones share those of `(other)`.
const MAX_SERVICES: usize = 1000;

const CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];

/// Durations of requests by status class. The series of a class is created on its first use.
#[derive(Default)]
pub(crate) struct Durations([OnceLock<Histogram>; CLASSES.len()]);

impl Durations {
    fn observe(&self, status: StatusCode, elapsed: Duration) {
        let class = usize::from(status.as_u16() / 100).clamp(1, CLASSES.len()) - 1;
        self.0[class].get_or_init(duration_histogram).observe(elapsed.as_secs_f64());
    }

    fn is_empty(&self) -> bool {
        self.0.iter().all(|class| class.get().is_none())
    }

    fn encode(&self, service: &str, encoder: &mut MetricEncoder) -> fmt::Result {
        for (class, histogram) in CLASSES.iter().zip(&self.0) {
            if let Some(histogram) = histogram.get() {
                histogram.encode(encoder.encode_family(&[("service", service), ("status", class)])?)?;
            }
        }
        Ok(())
    }
}

/// The durations of a service, with its own series unless [`MAX_SERVICES`] is reached.
#[derive(Default)]
pub(crate) struct ServiceDurations {
    durations: Durations,
    slot: OnceLock<Option<SeriesSlot>>,
}

/// The durations of requests without a service series of their own.
#[derive(Default)]
pub(crate) struct DurationMetrics {
    /// For services beyond [`MAX_SERVICES`].
    others: Durations,
    /// For unknown slugs.
    unknown: Durations,
    /// The number of services with their own series.
    slots: Arc<AtomicUsize>,
}

/// One of [`MAX_SERVICES`] slots, released when the service is removed.
struct SeriesSlot(Arc<AtomicUsize>);

impl SeriesSlot {
    fn acquire(slots: &Arc<AtomicUsize>) -> Option<SeriesSlot> {
        let taken = slots.fetch_update(Relaxed, Relaxed, |taken| (taken < MAX_SERVICES).then_some(taken + 1));
        taken.is_ok().then(|| SeriesSlot(slots.clone()))
    }
}

impl Drop for SeriesSlot {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

impl DurationMetrics {
    /// Records a request; `service` is `None` for an unknown slug.
    pub fn observe(&self, service: Option<&ServiceDurations>, status: StatusCode, elapsed: Duration) {
        let durations = match service {
            None => &self.unknown,
            Some(service) => match service.slot.get_or_init(|| SeriesSlot::acquire(&self.slots)) {
                Some(_) => &service.durations,
                None => &self.others,
            },
        };
        durations.observe(status, elapsed);
    }
}

/// The durations of all services of a table.
struct ByService(Arc<RoutingTable>);

impl fmt::Debug for ByService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ByService")
    }
}

impl EncodeMetric for ByService {
    fn encode(&self, mut encoder: MetricEncoder) -> fmt::Result {
        let ByService(table) = self;
        for service in table.services().filter(|service| !service.durations.durations.is_empty()) {
            service.durations.durations.encode(&service.slug, &mut encoder)?;
        }
        table.durations.others.encode("(other)", &mut encoder)?;
        table.durations.unknown.encode("(unknown)", &mut encoder)
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Histogram
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thousand_services_have_series_of_their_own_and_the_others_share_one() {
        let shared = DurationMetrics::default();
        let services: Vec<ServiceDurations> = (0..MAX_SERVICES + 2).map(|_| ServiceDurations::default()).collect();
        for service in &services {
            shared.observe(Some(service), StatusCode::OK, Duration::ZERO);
        }
        assert_eq!(services.iter().filter(|service| !service.durations.is_empty()).count(), MAX_SERVICES);
        assert!(!shared.others.is_empty() && shared.unknown.is_empty());
        drop(services);
        let later = ServiceDurations::default();
        shared.observe(Some(&later), StatusCode::OK, Duration::ZERO);
        assert!(!later.durations.is_empty(), "slots are released");
        shared.observe(None, StatusCode::NOT_FOUND, Duration::ZERO);
        assert!(!shared.unknown.is_empty());
    }
}
