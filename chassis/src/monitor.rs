//! The requests that have ended, for those who follow them: the gateway tells each, `monitorRequests` sends them on.

use std::{sync::Arc, time::Duration};

use openorch_api::{
    Time,
    platform::{MonitorRequestsRequest, RequestSeen},
};

use crate::{
    clock::Clock,
    events::{Subscription, Topic},
};

/// The seam between the gateway, which sees all requests, and the operation that shows them.
pub struct RequestMonitor {
    requests: Arc<Topic<RequestSeen>>,
    clock: Arc<dyn Clock>,
}

impl RequestMonitor {
    /// `max_queue_bytes`: most bytes of events that wait for one who follows.
    pub fn new(max_queue_bytes: usize, clock: Arc<dyn Clock>) -> RequestMonitor {
        RequestMonitor { requests: Topic::new(max_queue_bytes), clock }
    }

    /// Whether anybody follows: one load from memory, asked for each request.
    pub fn is_followed(&self) -> bool {
        self.requests.is_followed()
    }

    /// Publishes a request that has ended. Its start is computed from `took`.
    pub fn ended(&self, mut seen: RequestSeen, took: Duration) {
        let now = self.clock.now();
        seen.at = Time(now.checked_sub(took).unwrap_or(now));
        seen.duration_ms = took.as_micros() as f64 / 1000.0;
        self.requests.publish(&seen);
    }

    /// Follows those that are asked for.
    pub fn follow(&self, asked: MonitorRequestsRequest) -> Subscription<RequestSeen> {
        self.requests.subscribe(move |seen| asked.asks_for(seen))
    }
}
