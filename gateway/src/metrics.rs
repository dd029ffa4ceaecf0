//! What the data plane counts and measures. A request must not wait for being counted: there are only atomics, and a
//! histogram of each service beside its entry in the routing table.

use std::{
    fmt,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use http::StatusCode;
use openorch_chassis::metrics::{Registry, durations};
use prometheus_client::{
    encoding::{EncodeMetric, MetricEncoder},
    metrics::{MetricType, counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
};

use crate::{HttpSettings, Table};

/// A number that goes up and down.
pub type Count = Gauge<u64, AtomicU64>;

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
    /// Requests and tunnels now.
    pub in_flight: Count,
    /// Refusals for want of a place whose answer the client has not taken.
    pub refused_in_flight: Count,
    /// Of clients, now.
    pub connections: Count,
    /// Closed at once, since their address had its share.
    pub connections_refused: Counter,
    pub(crate) connections_failed: Counter,
    /// Requests ended since the client did not take the answer, or did not go on with the body.
    pub stalled: Counter,
    /// Requests and tunnels ended since their session or service ended.
    pub session_ended: Counter,
}

/// Requests by what came of them.
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
    /// Counts one that was refused, a loop included.
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
    /// Adds these, the durations of the table's services, and what may be open at once.
    pub fn register(&self, registry: &Registry, table: &Arc<Table>, settings: &HttpSettings) {
        let requests = "Requests: handled by built-in operations, forwarded to an instance, refused with a 4xx or as a loop, \
                        502 (bad_gateway) and 503 (unavailable)";
        registry.register("gateway_requests", requests, self.requests.family.clone());
        registry.register(
            "gateway_request_duration_seconds",
            "Time from a request for a service to the head of the response, by service and class of status",
            ByService(table.clone()),
        );
        for (name, help, counter) in [
            ("retries", "Requests sent to an instance a second time", &self.retried),
            ("connects", "Connections opened to instances", &self.connected),
            ("connect_failures", "Failed attempts to open a connection to an instance", &self.connect_failed),
            ("reuses", "Requests sent on a connection that was open already", &self.reused),
            ("tunnels", "Upgraded connections since the start", &self.tunnels),
            (
                "connections_refused",
                "Client connections closed since their address had its share",
                &self.connections_refused,
            ),
            ("connection_errors", "Client connections that ended with an error", &self.connections_failed),
            ("stalled_answers", "Requests ended since the client did not go on with its side", &self.stalled),
            ("session_ended", "Requests and tunnels ended since their session or service ended", &self.session_ended),
        ] {
            registry.register(&format!("gateway_{name}"), help, counter.clone());
        }
        for (name, help, gauge) in [
            ("in_flight", "Requests and tunnels in progress", &self.in_flight),
            ("refused_in_flight", "Refusals that clients have not taken yet", &self.refused_in_flight),
            ("connections", "Open connections of clients", &self.connections),
        ] {
            registry.register(&format!("gateway_{name}"), help, gauge.clone());
        }
        let (connections, requests) = (settings.max_connections as u64, settings.max_requests as u64);
        registry
            .gauge("gateway_connections_limit", "Connections of clients that may be open", move || Some(connections));
        registry.gauge("gateway_requests_limit", "Requests that may be in progress", move || Some(requests));
    }
}

/// Services with series of their own; further ones share those of `(other)`.
const MAX_SERVICES: usize = 1000;

const CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];

/// How long requests took, by class of status. A class has a series once there was a request of it.
#[derive(Default)]
pub(crate) struct Durations([OnceLock<Histogram>; CLASSES.len()]);

impl Durations {
    fn observe(&self, status: StatusCode, elapsed: Duration) {
        let class = usize::from(status.as_u16() / 100).clamp(1, CLASSES.len()) - 1;
        self.0[class].get_or_init(durations).observe(elapsed.as_secs_f64());
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

/// The durations of one service, in series of its own as long as there are not too many such services.
#[derive(Default)]
pub(crate) struct OfService {
    durations: Durations,
    place: OnceLock<Option<Place>>,
}

/// The durations of requests that no service has for itself.
#[derive(Default)]
pub(crate) struct Shared {
    /// Of services beyond [`MAX_SERVICES`].
    others: Durations,
    /// Of requests for slugs that no service has.
    unknown: Durations,
    /// Services with series of their own.
    places: Arc<AtomicUsize>,
}

/// One of [`MAX_SERVICES`]; given back when the service is forgotten.
struct Place(Arc<AtomicUsize>);

impl Place {
    fn take(places: &Arc<AtomicUsize>) -> Option<Place> {
        let taken = places.fetch_update(Relaxed, Relaxed, |taken| (taken < MAX_SERVICES).then_some(taken + 1));
        taken.is_ok().then(|| Place(places.clone()))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

impl Shared {
    /// Counts a request; without a service where its slug is none's.
    pub fn observe(&self, service: Option<&OfService>, status: StatusCode, elapsed: Duration) {
        let durations = match service {
            None => &self.unknown,
            Some(service) => match service.place.get_or_init(|| Place::take(&self.places)) {
                Some(_) => &service.durations,
                None => &self.others,
            },
        };
        durations.observe(status, elapsed);
    }
}

/// The durations of all services of a table.
struct ByService(Arc<Table>);

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
        table.shared.others.encode("(other)", &mut encoder)?;
        table.shared.unknown.encode("(unknown)", &mut encoder)
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
        let shared = Shared::default();
        let services: Vec<OfService> = (0..MAX_SERVICES + 2).map(|_| OfService::default()).collect();
        for service in &services {
            shared.observe(Some(service), StatusCode::OK, Duration::ZERO);
        }
        assert_eq!(services.iter().filter(|service| !service.durations.is_empty()).count(), MAX_SERVICES);
        assert!(!shared.others.is_empty() && shared.unknown.is_empty());
        drop(services);
        let later = OfService::default();
        shared.observe(Some(&later), StatusCode::OK, Duration::ZERO);
        assert!(!later.durations.is_empty(), "places are given back");
        shared.observe(None, StatusCode::NOT_FOUND, Duration::ZERO);
        assert!(!shared.unknown.is_empty());
    }
}
