//! The topic of completed requests: the gateway publishes them, `monitorRequests` streams them to its subscribers.

use std::{sync::Arc, time::Duration};

use openorch_api::{
    Time,
    platform::{MonitorRequestsRequest, RequestSeen},
};

use crate::{
    clock::Clock,
    events::{Subscription, Topic},
};

/// Publishes completed requests.
pub struct RequestMonitor {
    requests: Arc<Topic<RequestSeen>>,
    clock: Arc<dyn Clock>,
}

impl RequestMonitor {
    /// `max_queue_bytes`: maximum bytes of the queue of a subscriber.
    pub fn new(max_queue_bytes: usize, clock: Arc<dyn Clock>) -> RequestMonitor {
        RequestMonitor { requests: Topic::new(max_queue_bytes), clock }
    }

    /// Whether there are subscribers. A single atomic load, since it is called for each request.
    pub fn is_followed(&self) -> bool {
        self.requests.is_followed()
    }

    /// Publishes a completed request. Its start time is computed from its duration.
    pub fn ended(&self, mut seen: RequestSeen, took: Duration) {
        let now = self.clock.now();
        seen.at = Time(now.checked_sub(took).unwrap_or(now));
        seen.duration_ms = took.as_micros() as f64 / 1000.0;
        self.requests.publish(&seen);
    }

    /// Subscribes to the requests that match the filter.
    pub fn follow(&self, asked: MonitorRequestsRequest) -> Subscription<RequestSeen> {
        self.requests.subscribe(move |seen| asked.asks_for(seen))
    }
}
