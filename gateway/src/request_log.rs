//! Observability of requests: the record of a request in progress, and at its end a duration in the metrics, a span, an access
//! log line if it is sampled, an event for subscribers of the request monitor, and a warning for each 502 and 503 of the
//! gateway, rate-limited by service. Log lines and events never contain tokens, queries or bodies.

use std::{
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use http::{HeaderMap, Method, StatusCode};
use openorch_chassis::{
    CallInfo, LogLimit, RequestMonitor, RequestSeen,
    forwarded::{RequestId, random},
};
use tracing::{Span, debug, debug_span, field::Empty, info, warn};

use crate::{
    Gateway,
    connection::Connection,
    pool::Upstream,
    refusal::{Refusal, display_slug},
    routing_table::ServiceEntry,
};

/// Rate limits of the log lines about failed requests.
pub struct RequestLog {
    /// For all services together; each service also has its own limit in its routing table entry.
    failures: LogLimit,
    /// For requests that failed before the lookup of their service.
    early_failures: LogLimit,
}

impl Default for RequestLog {
    fn default() -> RequestLog {
        RequestLog { failures: LogLimit::new(100, Duration::from_secs(60)), early_failures: LogLimit::once_a_minute() }
    }
}

impl RequestLog {
    /// Logs a request that the gateway answered with 502 or 503.
    pub fn refused(&self, record: &RequestRecord, refusal: &Refusal, id: &RequestId) {
        if ![StatusCode::BAD_GATEWAY, StatusCode::SERVICE_UNAVAILABLE].contains(&refusal.status()) {
            return;
        }
        let service = record.service();
        let limit = service.map_or(&self.early_failures, |service| &service.failures);
        let Some(more) = limit.allow() else { return };
        let Some(_) = self.failures.allow() else { return };
        let instance = record.instance.as_deref();
        let more = if more > 0 { format!("; {more} similar lines suppressed") } else { String::new() };
        warn!(
            status = refusal.status().as_u16(),
            service = service.map(|service| &*service.slug),
            instance.id = instance.map(|instance| &*instance.id),
            instance.address = instance.map(|instance| instance.url.authority()),
            cause = record.cause.as_deref(),
            request.id = id.as_str(),
            "{}{more}",
            refusal.sentence()
        );
    }
}

/// The record of a request in progress.
pub struct RequestRecord {
    started: Instant,
    destination: Destination,
    /// The instance that was tried last.
    pub instance: Option<Arc<Upstream>>,
    /// The slug of the account whose token the request has.
    pub caller: Option<Arc<str>>,
    /// The cause of a refusal.
    pub cause: Option<String>,
    span: Span,
    completed: Option<Box<CompletedRequest>>,
}

/// The result of the lookup of a request's slug.
enum Destination {
    /// Not looked up: the request is for a built-in operation, or was refused before.
    None,
    Unknown,
    Service(Arc<ServiceEntry>),
}

impl RequestRecord {
    pub fn begin(
        connection: &Connection,
        method: &Method,
        path: &str,
        headers: &HeaderMap,
        id: &RequestId,
    ) -> RequestRecord {
        let gateway = &connection.gateway;
        let is_sampled = gateway.settings.http.access_log.sample(random);
        let monitor = gateway.monitor.has_subscribers().then(|| gateway.monitor.clone());
        let line = (is_sampled || monitor.is_some()).then(|| {
            Box::new(CompletedRequest {
                is_sampled,
                monitor,
                started: Instant::now(),
                method: truncate(method.as_str(), MAX_METHOD).into(),
                path: truncate(path, MAX_PATH).to_owned(),
                client: connection.forwarded.client(headers, None).ip,
                request_id: id.clone(),
                status: StatusCode::OK,
                service: None,
                instance: None,
                caller: None,
                call_info: Arc::default(),
                bytes: 0,
            })
        });
        RequestRecord {
            started: Instant::now(),
            destination: Destination::None,
            instance: None,
            caller: None,
            cause: None,
            span: Span::none(),
            completed: line,
        }
    }

    /// The extension in which the router records details for the access log and the monitor, if either is active.
    pub fn call_info(&self) -> Option<Arc<CallInfo>> {
        self.completed.as_ref().map(|line| line.call_info.clone())
    }

    /// Opens the span of a forwarded request.
    pub fn open_span(&mut self, slug: &str, id: &RequestId) -> Span {
        self.span = debug_span!(
            "forward",
            request.id = id.as_str(),
            service = &*display_slug(slug),
            instance = Empty,
            caller = Empty,
            status = Empty,
            duration = Empty
        );
        self.span.clone()
    }

    /// Sets the result of the lookup of the slug; `None` if there is no such service.
    pub fn set_service(&mut self, service: Option<&Arc<ServiceEntry>>) {
        self.destination = match service {
            Some(service) => Destination::Service(service.clone()),
            None => Destination::Unknown,
        };
    }

    fn service(&self) -> Option<&Arc<ServiceEntry>> {
        match &self.destination {
            Destination::Service(service) => Some(service),
            Destination::None | Destination::Unknown => None,
        }
    }

    /// Records the head of the response. Returns the data to publish when the response has ended, if any.
    pub fn on_response_head(self, gateway: &Gateway, status: StatusCode) -> Option<Box<CompletedRequest>> {
        let elapsed = self.started.elapsed();
        match &self.destination {
            Destination::None => {}
            Destination::Unknown => gateway.table.durations.observe(None, status, elapsed),
            Destination::Service(service) => gateway.table.durations.observe(Some(&service.durations), status, elapsed),
        }
        if !self.span.is_disabled() {
            let RequestRecord { span, instance, caller, .. } = &self;
            span.record("instance", instance.as_ref().map(|instance| &*instance.id));
            span.record("caller", caller.as_deref());
            span.record("status", status.as_u16());
            span.record("duration", tracing::field::debug(elapsed));
            debug!(parent: span, "responded");
        }
        let service = self.service().map(|service| service.slug.clone());
        let RequestRecord { completed: line, instance, caller, .. } = self;
        line.map(|mut line| {
            (line.status, line.service, line.caller) = (status, service, caller);
            line.instance = instance.map(|instance| instance.id.clone());
            line
        })
    }
}

/// A request to be published when its response has ended: as an access log line, an event, or both.
pub struct CompletedRequest {
    /// Whether to write an access log line.
    is_sampled: bool,
    /// Set if there were subscribers when the request began.
    monitor: Option<Arc<RequestMonitor>>,
    started: Instant,
    method: Box<str>,
    path: String,
    client: IpAddr,
    request_id: RequestId,
    status: StatusCode,
    service: Option<Arc<str>>,
    instance: Option<Arc<str>>,
    caller: Option<Arc<str>>,
    call_info: Arc<CallInfo>,
    /// Bytes of the body that were sent.
    pub bytes: u64,
}

impl CompletedRequest {
    pub fn publish(&self) {
        let took = self.started.elapsed();
        if self.is_sampled {
            self.write_line(took);
        }
        if let Some(monitor) = &self.monitor {
            monitor.publish(self.event(), took);
        }
    }

    fn caller(&self) -> Option<&str> {
        self.caller.as_deref().or(self.call_info.caller.get().map(|slug| &**slug))
    }

    fn write_line(&self, took: Duration) {
        info!(
            target: "access",
            method = &*self.method,
            path = self.path,
            status = self.status.as_u16(),
            duration.ms = took.as_micros() as f64 / 1000.0,
            bytes = self.bytes,
            operation = self.call_info.operation.get().copied(),
            service = self.service.as_deref(),
            instance.id = self.instance.as_deref(),
            caller = self.caller(),
            client.address = %self.client,
            request.id = self.request_id.as_str(),
            "access"
        );
    }

    fn event(&self) -> RequestSeen {
        let built_in = self.call_info.service.get().copied();
        RequestSeen {
            request_id: self.request_id.as_str().into(),
            method: self.method.to_string(),
            path: self.path.clone(),
            service: self.service.as_deref().or(built_in).unwrap_or_default().into(),
            operation: self.call_info.operation.get().copied().unwrap_or_default().into(),
            instance_id: self.instance.as_deref().unwrap_or_default().into(),
            caller: self.caller().unwrap_or_default().into(),
            status: self.status.as_u16(),
            ..RequestSeen::default()
        }
    }
}

/// Maximum logged bytes of a path and of a method, whose lengths the client chooses.
const MAX_PATH: usize = 1024;
const MAX_METHOD: usize = 32;

fn truncate(text: &str, max_bytes: usize) -> &str {
    &text[..text.floor_char_boundary(max_bytes)]
}
