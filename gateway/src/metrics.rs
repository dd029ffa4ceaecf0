//! What the data plane counts. Plain atomics: a request must not wait for being counted.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use http::StatusCode;

#[derive(Debug, Default)]
pub struct Metrics {
    pub(crate) builtin: AtomicU64,
    pub(crate) forwarded: AtomicU64,
    pub(crate) refused: AtomicU64,
    pub(crate) bad_gateway: AtomicU64,
    pub(crate) unavailable: AtomicU64,
    pub(crate) retried: AtomicU64,
    pub(crate) connected: AtomicU64,
    pub(crate) connect_failed: AtomicU64,
    pub(crate) reused: AtomicU64,
    pub(crate) tunnels: AtomicU64,
    pub(crate) in_flight: AtomicU64,
    pub(crate) refused_in_flight: AtomicU64,
    pub(crate) connections: AtomicU64,
    pub(crate) connections_refused: AtomicU64,
    pub(crate) connections_failed: AtomicU64,
    pub(crate) stalled: AtomicU64,
    pub(crate) session_ended: AtomicU64,
}

/// The counts at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// Requests answered by the daemon's own services.
    pub builtin: u64,
    /// Requests answered by an instance.
    pub forwarded: u64,
    /// Requests the gateway refused with a 4xx, or as a loop.
    pub refused: u64,
    /// Requests answered 502.
    pub bad_gateway: u64,
    /// Requests answered 503: no instance to send to, or the identity of the caller could not be known.
    pub unavailable: u64,
    /// Requests sent a second time.
    pub retried: u64,
    /// Connections opened to instances, and attempts that failed.
    pub connected: u64,
    pub connect_failed: u64,
    /// Requests sent on a connection that was open already.
    pub reused: u64,
    /// Upgraded connections since the start.
    pub tunnels: u64,
    /// Now: requests and tunnels, and connections from clients.
    pub in_flight: u64,
    /// Now: refusals for want of a place whose answer the client has not taken.
    pub refused_in_flight: u64,
    pub connections: u64,
    /// Connections closed at once, since their address had its share.
    pub connections_refused: u64,
    /// Connections that ended with an error, mostly of the client's.
    pub connections_failed: u64,
    /// Requests ended since the client did not take the answer, or did not go on with the body.
    pub stalled: u64,
    /// Requests and tunnels ended since their session or service ended.
    pub session_ended: u64,
}

impl Metrics {
    pub fn snapshot(&self) -> Snapshot {
        Snapshot {
            builtin: self.builtin.load(Relaxed),
            forwarded: self.forwarded.load(Relaxed),
            refused: self.refused.load(Relaxed),
            bad_gateway: self.bad_gateway.load(Relaxed),
            unavailable: self.unavailable.load(Relaxed),
            retried: self.retried.load(Relaxed),
            connected: self.connected.load(Relaxed),
            connect_failed: self.connect_failed.load(Relaxed),
            reused: self.reused.load(Relaxed),
            tunnels: self.tunnels.load(Relaxed),
            in_flight: self.in_flight.load(Relaxed),
            refused_in_flight: self.refused_in_flight.load(Relaxed),
            connections: self.connections.load(Relaxed),
            connections_refused: self.connections_refused.load(Relaxed),
            connections_failed: self.connections_failed.load(Relaxed),
            stalled: self.stalled.load(Relaxed),
            session_ended: self.session_ended.load(Relaxed),
        }
    }

    pub(crate) fn count_refusal(&self, status: StatusCode) {
        let counter = match status {
            StatusCode::BAD_GATEWAY => &self.bad_gateway,
            StatusCode::SERVICE_UNAVAILABLE => &self.unavailable,
            _ => &self.refused,
        };
        counter.fetch_add(1, Relaxed);
    }
}

pub(crate) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Relaxed);
}
