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
    pub fn has_subscribers(&self) -> bool {
        self.requests.has_subscribers()
    }

    /// Publishes a completed request. Its start time is computed from its duration.
    pub fn publish(&self, mut request: RequestSeen, duration: Duration) {
        let now = self.clock.now();
        request.at = Time(now.checked_sub(duration).unwrap_or(now));
        request.duration_ms = duration.as_micros() as f64 / 1000.0;
        self.requests.publish(&request);
    }

    /// Subscribes to the requests that match the filter.
    pub fn subscribe(&self, filter: MonitorRequestsRequest) -> Subscription<RequestSeen> {
        self.requests.subscribe(move |seen| filter.matches(seen))
    }
}
