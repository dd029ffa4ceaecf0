//! What is kept of a request while it is served, and what becomes of it at the end: its duration in the metrics, a span,
//! a line of the access log if it is sampled, an event while somebody follows requests, and a line about each 502 and 503
//! of ours, limited by service. Neither lines nor events have a token, a query or a part of a body.

use std::{
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use http::{HeaderMap, Method, StatusCode};
use openorch_chassis::{
    CallNotes, LogLimit, RequestMonitor, RequestSeen,
    forwarded::{RequestId, random},
};
use tracing::{Span, debug, debug_span, field::Empty, info, warn};

use crate::{
    Gateway,
    connection::Connection,
    pool::Instance,
    refusal::{Refusal, shown},
    table::Presence,
};

/// Keeps the lines about failed requests from filling the log.
pub struct RequestLog {
    /// Of all services together; each has a limit of its own beside its entry in the table.
    failures: LogLimit,
    /// Of requests that failed before their service was looked up.
    early_failures: LogLimit,
}

impl Default for RequestLog {
    fn default() -> RequestLog {
        RequestLog { failures: LogLimit::new(100, Duration::from_secs(60)), early_failures: LogLimit::once_a_minute() }
    }
}

impl RequestLog {
    /// Writes a line about a request that was answered 502 or 503.
    pub fn refused(&self, record: &Record, refusal: &Refusal, id: &RequestId) {
        if ![StatusCode::BAD_GATEWAY, StatusCode::SERVICE_UNAVAILABLE].contains(&refusal.status()) {
            return;
        }
        let service = record.service();
        let limit = service.map_or(&self.early_failures, |service| &service.failures);
        let Some(more) = limit.allow() else { return };
        let Some(_) = self.failures.allow() else { return };
        let instance = record.instance.as_deref();
        let more = if more > 0 { format!("; {more} more since the last such line") } else { String::new() };
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

/// What is known of a request so far.
pub struct Record {
    started: Instant,
    destination: Destination,
    /// The one that was tried last.
    pub instance: Option<Arc<Instance>>,
    /// The slug of the account whose token the request has.
    pub caller: Option<Arc<str>>,
    /// The error behind a refusal.
    pub cause: Option<String>,
    span: Span,
    line: Option<Box<EndedRequest>>,
}

/// What the slug of a request names.
enum Destination {
    /// It was not looked up: the request is for a built-in operation, or was refused before.
    None,
    Unknown,
    Service(Arc<Presence>),
}

impl Record {
    pub fn begin(connection: &Connection, method: &Method, path: &str, headers: &HeaderMap, id: &RequestId) -> Record {
        let gateway = &connection.gateway;
        let is_sampled = gateway.settings.http.access_log.sample(random);
        let monitor = gateway.monitor.is_followed().then(|| gateway.monitor.clone());
        let line = (is_sampled || monitor.is_some()).then(|| {
            Box::new(EndedRequest {
                is_sampled,
                monitor,
                started: Instant::now(),
                method: cut(method.as_str(), MAX_METHOD).into(),
                path: cut(path, MAX_PATH).to_owned(),
                client: connection.hop.client(headers, None).ip,
                request_id: id.clone(),
                status: StatusCode::OK,
                service: None,
                instance: None,
                caller: None,
                notes: Arc::default(),
                bytes: 0,
            })
        });
        Record {
            started: Instant::now(),
            destination: Destination::None,
            instance: None,
            caller: None,
            cause: None,
            span: Span::none(),
            line,
        }
    }

    /// Where the router notes what it finds out for what the request leaves at its end, if it leaves something.
    pub fn notes(&self) -> Option<Arc<CallNotes>> {
        self.line.as_ref().map(|line| line.notes.clone())
    }

    /// The span of a request that is forwarded.
    pub fn open_span(&mut self, slug: &str, id: &RequestId) -> Span {
        self.span = debug_span!(
            "forward",
            request.id = id.as_str(),
            service = &*shown(slug),
            instance = Empty,
            caller = Empty,
            status = Empty,
            duration = Empty
        );
        self.span.clone()
    }

    /// What the slug was found to name; `None` where it is no service's.
    pub fn set_service(&mut self, service: Option<&Arc<Presence>>) {
        self.destination = match service {
            Some(service) => Destination::Service(service.clone()),
            None => Destination::Unknown,
        };
    }

    fn service(&self) -> Option<&Arc<Presence>> {
        match &self.destination {
            Destination::Service(service) => Some(service),
            Destination::None | Destination::Unknown => None,
        }
    }

    /// The response begins. Answers what is to be told of the request at its end, if it is.
    pub fn respond(self, gateway: &Gateway, status: StatusCode) -> Option<Box<EndedRequest>> {
        let elapsed = self.started.elapsed();
        match &self.destination {
            Destination::None => {}
            Destination::Unknown => gateway.table.shared.observe(None, status, elapsed),
            Destination::Service(service) => gateway.table.shared.observe(Some(&service.durations), status, elapsed),
        }
        if !self.span.is_disabled() {
            let Record { span, instance, caller, .. } = &self;
            span.record("instance", instance.as_ref().map(|instance| &*instance.id));
            span.record("caller", caller.as_deref());
            span.record("status", status.as_u16());
            span.record("duration", tracing::field::debug(elapsed));
            debug!(parent: span, "responded");
        }
        let service = self.service().map(|service| service.slug.clone());
        let Record { line, instance, caller, .. } = self;
        line.map(|mut line| {
            (line.status, line.service, line.caller) = (status, service, caller);
            line.instance = instance.map(|instance| instance.id.clone());
            line
        })
    }
}

/// What a request leaves when its response has ended: a line of the access log, an event for those who follow requests.
pub struct EndedRequest {
    /// Whether it has a line.
    is_sampled: bool,
    /// Told of it, if somebody followed when it began.
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
    notes: Arc<CallNotes>,
    /// Of the body that were sent.
    pub bytes: u64,
}

impl EndedRequest {
    pub fn tell(&self) {
        let took = self.started.elapsed();
        if self.is_sampled {
            self.write_line(took);
        }
        if let Some(monitor) = &self.monitor {
            monitor.ended(self.seen(), took);
        }
    }

    fn caller(&self) -> Option<&str> {
        self.caller.as_deref().or(self.notes.caller.get().map(|slug| &**slug))
    }

    fn write_line(&self, took: Duration) {
        info!(
            target: "access",
            method = &*self.method,
            path = self.path,
            status = self.status.as_u16(),
            duration.ms = took.as_micros() as f64 / 1000.0,
            bytes = self.bytes,
            operation = self.notes.operation.get().copied(),
            service = self.service.as_deref(),
            instance.id = self.instance.as_deref(),
            caller = self.caller(),
            client.address = %self.client,
            request.id = self.request_id.as_str(),
            "access"
        );
    }

    fn seen(&self) -> RequestSeen {
        let built_in = self.notes.service.get().copied();
        RequestSeen {
            request_id: self.request_id.as_str().into(),
            method: self.method.to_string(),
            path: self.path.clone(),
            service: self.service.as_deref().or(built_in).unwrap_or_default().into(),
            operation: self.notes.operation.get().copied().unwrap_or_default().into(),
            instance_id: self.instance.as_deref().unwrap_or_default().into(),
            caller: self.caller().unwrap_or_default().into(),
            status: self.status.as_u16(),
            ..RequestSeen::default()
        }
    }
}

/// Bytes of a path that a line has, and of a method, which may be as long as a client likes.
const MAX_PATH: usize = 1024;
const MAX_METHOD: usize = 32;

fn cut(text: &str, most: usize) -> &str {
    &text[..text.floor_char_boundary(most)]
}
