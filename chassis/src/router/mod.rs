//! The router of the built-in paths: matches a request to an operation and serves it. It takes everything about an operation
//! from the table of operations.

mod admit;
mod call;
mod head;
mod nested;
mod origin;
mod settings;

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use openorch_api::{ErrorCode, InputKeys, Operation, error as codes};
use tokio::sync::Semaphore;

use self::{
    call::{Source, span_of},
    head::decode_segments,
    origin::CallOrigin,
};
pub use self::{
    nested::{Answer, Calls},
    settings::ApiSettings,
};
use crate::{
    Audit, Body, BoxFuture, Builtin, ClientBody, Error, Identity, LogLimit, Peer,
    budget::MemoryBudget,
    events::EventStreams,
    idempotency::IdempotencyStore,
    metrics::{CallsInProcess, OperationDurations, Registry, duration_family},
    rate_limit::{Rate, RateLimiter},
    response,
    service::{BoundOperation, BuiltService, Handler, WorkQueue},
};

/// Serves the operations of the built-in services, over HTTP and in process.
pub struct Router {
    inner: Arc<Inner>,
}

struct Inner {
    identity: Arc<dyn Identity>,
    audit: Arc<Audit>,
    idempotency: Arc<IdempotencyStore>,
    settings: ApiSettings,
    streams: Arc<EventStreams>,
    memory: Arc<MemoryBudget>,
    body_workers: Semaphore,
    /// By account.
    write_limiter: RateLimiter<String>,
    /// By number of segments; paths with more literal segments come first.
    routes: HashMap<usize, Vec<Route>>,
    operations_by_id: HashMap<&'static str, Arc<MountedOperation>>,
    first_segments: HashSet<&'static str>,
    /// While the store is unavailable, every request fails for the same reason.
    store_error_limit: LogLimit,
    nested: CallsInProcess,
}

struct Route {
    segments: Vec<Segment>,
    /// The operations of this path, which differ by method.
    operations: Vec<Arc<MountedOperation>>,
}

#[derive(PartialEq)]
enum Segment {
    Literal(&'static str),
    Parameter,
}

/// The matched operation and the values of its path parameters.
type RouteMatch = (Arc<MountedOperation>, Vec<String>);

struct MountedOperation {
    definition: &'static Operation,
    /// Maps the keys of a JSON input object to path, query and body.
    keys: InputKeys,
    /// The slug of its service.
    service: &'static str,
    reads_body: bool,
    /// The answer is an event stream, which ends when the caller loses its session or permission.
    is_stream: bool,
    /// The status of a success.
    status: StatusCode,
    /// Where its calls wait for a permit; `None` if they are short.
    queue: Option<WorkQueue>,
    handler: Handler,
    durations: OperationDurations,
    /// Limits log lines about internal errors, which a client may be able to provoke.
    internal_error_limit: LogLimit,
}

impl Router {
    /// # Panics
    ///
    /// If two operations have the same path and method: a mistake in the table that no input can cause.
    pub fn new(
        services: Vec<BuiltService>,
        identity: Arc<dyn Identity>,
        audit: Arc<Audit>,
        idempotency: Arc<IdempotencyStore>,
        settings: ApiSettings,
        streams: EventStreams,
        metrics: &Registry,
    ) -> Router {
        let mut routes: HashMap<usize, Vec<Route>> = HashMap::new();
        let (mut first_segments, mut by_id) = (HashSet::new(), HashMap::new());
        let durations = duration_family();
        metrics.register(
            "operation_duration_seconds",
            "Time from a call of an operation to the head of its response",
            durations.clone(),
        );
        let bound = services
            .into_iter()
            .flat_map(|service| service.operations.into_iter().map(move |bound| (service.slug, bound)));
        for (service, BoundOperation { definition: row, reads_body, status, queue, handler }) in bound {
            let (durations, faults) =
                (OperationDurations::new(row.id, &durations), LogLimit::new(30, Duration::from_secs(60)));
            let keys = InputKeys::new(row);
            let is_stream = row.stream().is_some();
            let operation = Arc::new(MountedOperation {
                definition: row,
                service,
                keys,
                reads_body,
                is_stream,
                status,
                queue,
                handler,
                durations,
                internal_error_limit: faults,
            });
            by_id.insert(row.id, operation.clone());
            for path in std::iter::once(&row.path).chain(row.aliases) {
                let segments = pattern(path);
                if let Some(Segment::Literal(first)) = segments.first() {
                    first_segments.insert(*first);
                }
                add(routes.entry(segments.len()).or_default(), segments, operation.clone());
            }
        }
        for same_length in routes.values_mut() {
            same_length.sort_by_key(|route| route.segments.iter().filter(|s| **s == Segment::Parameter).count());
        }
        let memory = MemoryBudget::new(settings.memory());
        memory.register(metrics);
        let streams = Arc::new(streams);
        let counted = streams.clone();
        let help = "Open event streams";
        metrics.gauge("event_streams", help, move || u64::try_from(counted.count()).ok());
        Router {
            inner: Arc::new(Inner {
                identity,
                audit,
                idempotency,
                memory,
                body_workers: Semaphore::new(settings.body_concurrency),
                write_limiter: RateLimiter::new(Rate {
                    per_second: settings.max_writes_per_account,
                    burst: settings.max_writes_burst,
                }),
                settings,
                streams,
                routes,
                operations_by_id: by_id,
                first_segments,
                store_error_limit: LogLimit::once_a_minute(),
                nested: CallsInProcess::new(metrics),
            }),
        }
    }
}

fn pattern(path: &'static str) -> Vec<Segment> {
    path[1..]
        .split('/')
        .map(|segment| if segment.starts_with('{') { Segment::Parameter } else { Segment::Literal(segment) })
        .collect()
}

fn add(routes: &mut Vec<Route>, segments: Vec<Segment>, operation: Arc<MountedOperation>) {
    match routes.iter_mut().find(|route| route.segments == segments) {
        None => routes.push(Route { segments, operations: vec![operation] }),
        Some(route) => {
            let taken = route.operations.iter().any(|other| other.definition.method == operation.definition.method);
            assert!(!taken, "two operations at {} {}", operation.definition.method.as_str(), operation.definition.path);
            route.operations.push(operation);
        }
    }
}

impl Builtin for Router {
    fn owns(&self, first_segment: &str) -> bool {
        // Browsers and crawlers request these from every host; no slug has a dot.
        let of_host = ["favicon.ico", "robots.txt"].contains(&first_segment);
        of_host || self.inner.first_segments.contains(first_segment) || openorch_api::slug::is_reserved(first_segment)
    }

    fn call(&self, request: Request<ClientBody>, peer: Arc<Peer>) -> BoxFuture<'static, Response<Body>> {
        let inner = self.inner.clone();
        Box::pin(async move { response::with_cors(inner.answer(request, &peer).await) })
    }

    fn drain(&self) {
        self.inner.streams.drain();
    }
}

impl Inner {
    async fn answer(self: Arc<Inner>, request: Request<ClientBody>, peer: &Peer) -> Response<Body> {
        if request.method() == Method::OPTIONS {
            return response::success(StatusCode::OK, None);
        }
        let (operation, path) = match self.find(request.method(), request.uri().path()) {
            Ok(found) => found,
            Err(refusal) => return *refusal,
        };
        let (head, body) = request.into_parts();
        let origin = Arc::new(CallOrigin::of_request(&head, peer));
        if let Some(notes) = &origin.call_info {
            // Set once: a request has one operation.
            let _ = notes.operation.set(operation.definition.id);
            let _ = notes.service.set(operation.service);
        }
        let span = span_of(operation.definition, &origin);
        let source = Source::Request { path, head: Box::new(head), body };
        let outcome = self.clone().serve(operation.clone(), source, origin.clone(), &span).await;
        outcome
            .unwrap_or_else(|error| response::failure(&self.log_failure(&operation, &span, &origin.request_id, error)))
    }

    /// The operation of a path, with its parameters decoded once (decision "Paths are decoded once").
    fn find(&self, method: &Method, path: &str) -> Result<RouteMatch, Box<Response<Body>>> {
        let no_such = || refusal(&codes::request::NO_SUCH_OPERATION, "no such operation; /docs lists them");
        let segments = decode_segments(path).map_err(|sentence| refusal(&codes::request::INVALID_URL, sentence))?;
        let candidates = self.routes.get(&segments.len()).ok_or_else(no_such)?;
        let route = candidates.iter().find(|route| matches(&route.segments, &segments)).ok_or_else(no_such)?;
        // HEAD is served as GET; hyper omits the body (RFC 9110, 9.3.2).
        let asked = if method == Method::HEAD { "GET" } else { method.as_str() };
        let Some(operation) = route.operations.iter().find(|operation| operation.definition.method.as_str() == asked)
        else {
            return Err(Box::new(method_not_allowed(route)));
        };
        let parameters = route
            .segments
            .iter()
            .zip(segments)
            .filter(|(segment, _)| **segment == Segment::Parameter)
            .map(|(_, value)| value)
            .collect();
        Ok((operation.clone(), parameters))
    }
}

fn matches(pattern: &[Segment], segments: &[String]) -> bool {
    pattern.iter().zip(segments).all(|(pattern, segment)| match pattern {
        Segment::Literal(literal) => literal == segment,
        Segment::Parameter => !segment.is_empty(),
    })
}

fn refusal(code: &'static ErrorCode, sentence: &'static str) -> Box<Response<Body>> {
    Box::new(response::failure(&Error::new(code, sentence)))
}

fn method_not_allowed(route: &Route) -> Response<Body> {
    let mut allowed: Vec<&str> =
        route.operations.iter().map(|operation| operation.definition.method.as_str()).collect();
    if allowed.contains(&"GET") {
        allowed.push("HEAD");
    }
    allowed.push("OPTIONS");
    let allowed = allowed.join(", ");
    let sentence = format!("method not allowed; this path supports {allowed} (see /docs)");
    let mut response = response::failure(&Error::new(&codes::request::METHOD_NOT_ALLOWED, sentence));
    if let Ok(value) = HeaderValue::from_str(&allowed) {
        response.headers_mut().insert(header::ALLOW, value);
    }
    response
}
