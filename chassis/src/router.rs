//! The built-in paths: finds the operation of a request, checks who calls, reads the input within its limits, runs the
//! handler, and counts and logs what came of it. Everything it knows of an operation comes from its row.

mod head;
mod settings;

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::{Duration, Instant},
};

use http::{Extensions, HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use openorch_api::{Access, Effect, ErrorCode, Exempt, Guard, Parts, Row, error as codes, header::EXTENDED};
use tokio::{sync::Semaphore, task::JoinHandle};
use tracing::{Instrument, Span, debug, error, field::Empty, info_span, warn};

use crate::{
    Audit, Body, BoxFuture, Builtin, CallNotes, Caller, ClientBody, Credential, Error, Identity, LogLimit, Peer,
    Result,
    audit::{self, Call},
    budget::{self, MemoryBudget, Reservation},
    events::Streams,
    forwarded::{ClientAddress, RequestId},
    local::FromThisMachine,
    metrics::{OperationDurations, Registry, duration_family},
    place::Place,
    rate::{Limiter, Rate},
    request, respond,
    service::{Bound, Handler, Mounted, RequestContext, Verdict, panic_text},
};

use self::head::{bearer, decode_segments, query};
pub use self::settings::ApiSettings;

pub struct Router {
    inner: Arc<Inner>,
}

struct Inner {
    identity: Arc<dyn Identity>,
    audit: Arc<Audit>,
    settings: ApiSettings,
    streams: Arc<Streams>,
    memory: Arc<MemoryBudget>,
    body_workers: Semaphore,
    /// By account.
    writes: Limiter<String>,
    /// By number of segments; within it, paths with more literal segments come first.
    routes: HashMap<usize, Vec<Route>>,
    first_segments: HashSet<&'static str>,
    /// While the store cannot be used, requests fail for the same reason one after the other.
    store_failures: LogLimit,
}

struct Route {
    segments: Vec<Segment>,
    /// One path may be several operations by method.
    operations: Vec<Arc<Operation>>,
}

#[derive(PartialEq)]
enum Segment {
    Literal(&'static str),
    Parameter,
}

/// An operation and the values of its path parameters.
type Found = (Arc<Operation>, Vec<String>);

struct Operation {
    row: &'static Row,
    /// The slug of its service.
    service: &'static str,
    reads_body: bool,
    handler: Handler,
    durations: OperationDurations,
    /// Faults of ours, which somebody may have found a way to provoke.
    faults: LogLimit,
}

impl Router {
    /// Panics when two operations claim one path and method: a mistake in the table that no input can cause.
    pub fn new(
        services: Vec<Mounted>,
        identity: Arc<dyn Identity>,
        audit: Arc<Audit>,
        settings: ApiSettings,
        streams: Streams,
        metrics: &Registry,
    ) -> Router {
        let mut routes: HashMap<usize, Vec<Route>> = HashMap::new();
        let mut first_segments = HashSet::new();
        let durations = duration_family();
        metrics.register(
            "operation_duration_seconds",
            "Time from a call of an operation to its response, whose body may take longer",
            durations.clone(),
        );
        let bound =
            services.into_iter().flat_map(|service| service.bound.into_iter().map(move |bound| (service.slug, bound)));
        for (service, Bound { row, reads_body, handler }) in bound {
            let (durations, faults) =
                (OperationDurations::new(row.id, &durations), LogLimit::new(30, Duration::from_secs(60)));
            let operation = Arc::new(Operation { row, service, reads_body, handler, durations, faults });
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
        let help = "Streams of server-sent events that are open";
        metrics.gauge("event_streams", help, move || u64::try_from(counted.count()).ok());
        Router {
            inner: Arc::new(Inner {
                identity,
                audit,
                memory,
                body_workers: Semaphore::new(settings.body_concurrency),
                writes: Limiter::new(Rate {
                    per_second: settings.max_writes_per_account,
                    burst: settings.max_writes_burst,
                }),
                settings,
                streams,
                routes,
                first_segments,
                store_failures: LogLimit::once_a_minute(),
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

fn add(routes: &mut Vec<Route>, segments: Vec<Segment>, operation: Arc<Operation>) {
    match routes.iter_mut().find(|route| route.segments == segments) {
        None => routes.push(Route { segments, operations: vec![operation] }),
        Some(route) => {
            let taken = route.operations.iter().any(|other| other.row.method == operation.row.method);
            assert!(!taken, "two operations at {} {}", operation.row.method.as_str(), operation.row.path);
            route.operations.push(operation);
        }
    }
}

impl Builtin for Router {
    fn owns(&self, first_segment: &str) -> bool {
        // What browsers and crawlers ask every host for; no slug has a dot.
        let of_host = ["favicon.ico", "robots.txt"].contains(&first_segment);
        of_host || self.inner.first_segments.contains(first_segment) || openorch_api::slug::is_reserved(first_segment)
    }

    fn call(&self, request: Request<ClientBody>, peer: Arc<Peer>) -> BoxFuture<'static, Response<Body>> {
        let inner = self.inner.clone();
        Box::pin(async move { respond::with_cors(inner.answer(request, &peer).await) })
    }

    fn drain(&self) {
        self.inner.streams.drain();
    }
}

impl Inner {
    async fn answer(self: Arc<Inner>, request: Request<ClientBody>, peer: &Peer) -> Response<Body> {
        if request.method() == Method::OPTIONS {
            return respond::success(StatusCode::OK, None);
        }
        let (operation, path) = match self.find(request.method(), request.uri().path()) {
            Ok(found) => found,
            Err(refusal) => return *refusal,
        };
        let request_id: Box<str> =
            request.extensions().get::<RequestId>().map(|id| id.as_str().into()).unwrap_or_default();
        let started = Instant::now();
        let span = info_span!(
            "call",
            operation = operation.row.id,
            request.id = &*request_id,
            caller = Empty,
            status = Empty,
            duration = Empty
        );
        if let Some(notes) = request.extensions().get::<Arc<CallNotes>>() {
            // A request is of one operation.
            let _ = notes.operation.set(operation.row.id);
            let _ = notes.service.set(operation.service);
        }
        let client_ip = request.extensions().get::<ClientAddress>().map_or(peer.address.ip(), |client| client.ip);
        let call = operation.row.audited.then(|| Call::new(operation.row, &path, client_ip, &request_id));
        let work = self.clone().run(operation.clone(), path, request, client_ip, request_id.clone());
        let (audit, served) = (self.audit.clone(), call.clone());
        let work = async move {
            let outcome = work.await;
            if let (Some(call), Ok(_)) = (&served, &outcome) {
                audit.succeeded(call).await;
            }
            outcome
        };
        let work: BoxFuture<'static, _> = match call.clone() {
            Some(call) => Box::pin(call.serve(work)),
            None => Box::pin(work),
        };
        // On a task of its own, so that a caller who leaves cannot stop a write between the store and the memory. What reads
        // and leaves no entry in the audit log ends with its caller.
        let ends = operation.row.effect() == Effect::Read && !operation.row.audited;
        let mut task = Task { handle: tokio::spawn(work.instrument(span.clone())), ends };
        let outcome = match (&mut task.handle).await {
            Ok(outcome) => outcome,
            Err(ended) if ended.is_panic() => Err(Error::internal(panic_text(ended.into_panic()))),
            Err(_) => Err(Error::new(&codes::platform::STOPPING, "the daemon is stopping; try again in a moment")),
        };
        let response = match outcome {
            Ok(response) => response,
            Err(mut error) => {
                if let Some(call) = &call {
                    error = call.blame(error);
                    self.audit.refused(call, &error);
                }
                if error.status() == StatusCode::INTERNAL_SERVER_ERROR {
                    match operation.faults.allow() {
                        Some(0) => span.in_scope(|| error!("{error:?}")),
                        Some(more) => span.in_scope(|| error!("{error:?}; {more} more since the last such line")),
                        None => span.in_scope(|| debug!("{error:?}")),
                    }
                    error.message = format!("{} (request {request_id})", error.message).into();
                } else if error.is_of_store() && self.store_failures.allow().is_some() {
                    span.in_scope(|| warn!("{error:?}; written once a minute while this goes on"));
                } else {
                    span.in_scope(|| debug!("{error:?}"));
                }
                respond::failure(&error)
            }
        };
        let elapsed = started.elapsed();
        operation.durations.observe(response.status(), elapsed);
        // They cost more than everything else that is done here, and without this line nobody sees them.
        if tracing::enabled!(tracing::Level::DEBUG) {
            span.record("status", response.status().as_u16());
            span.record("duration", tracing::field::debug(elapsed));
            span.in_scope(|| debug!("responded"));
        }
        response
    }

    /// The operation of a path, its parameters decoded once (contract decision 4).
    fn find(&self, method: &Method, path: &str) -> Result<Found, Box<Response<Body>>> {
        let no_such = || refusal(&codes::request::NO_SUCH_OPERATION, "no such operation; /docs lists them");
        let segments = decode_segments(path).map_err(|sentence| refusal(&codes::request::INVALID_URL, sentence))?;
        let candidates = self.routes.get(&segments.len()).ok_or_else(no_such)?;
        let route = candidates.iter().find(|route| matches(&route.segments, &segments)).ok_or_else(no_such)?;
        // HEAD is GET without the body, which the HTTP library leaves out (RFC 9110, 9.3.2).
        let asked = if method == Method::HEAD { "GET" } else { method.as_str() };
        let Some(operation) = route.operations.iter().find(|operation| operation.row.method.as_str() == asked) else {
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

    async fn run(
        self: Arc<Inner>,
        operation: Arc<Operation>,
        path: Vec<String>,
        request: Request<ClientBody>,
        client_ip: std::net::IpAddr,
        request_id: Box<str>,
    ) -> Result<Response<Body>> {
        let row = operation.row;
        let (head, body) = request.into_parts();
        // Until the work is done, also where the client does not wait for it.
        let _place = head.extensions.get::<Place>().cloned();
        let from_this_machine = head.extensions.get::<FromThisMachine>().is_some();
        let token = bearer(&head.headers);
        let mut admitted = self.admit(row, token, Some(&head.extensions)).await?;
        let budgeted = match row.access {
            Access::Public => budget::Caller::Anybody,
            Access::SignedIn | Access::Needs(_) => budget::Caller::Authenticated,
        };
        let mut reservation = self.memory.reservation(client_ip, budgeted);
        // HTTP/2 packs a large head into few bytes, so what is beyond the usual size counts as it is held.
        reservation.grow(head_size(&head.headers).saturating_sub(USUAL_HEAD)).await?;
        let mut large_body = false;
        let body = if operation.reads_body {
            let limits = self.settings.body_limits(row);
            let read = request::read_json(&head.headers, body, limits, &mut reservation, &self.body_workers).await?;
            let mut value = read.value;
            large_body = read.is_large;
            if let (Some(normalise), Some(value)) = (row.normalise, value.as_mut()) {
                normalise(value);
            }
            // A body may take its time. What counts is what the caller may when the work begins.
            admitted = self.admit(row, token, None).await?;
            value
        } else {
            None
        };
        let (caller, verdict) = admitted;
        let context = RequestContext {
            caller,
            request_id,
            client_ip,
            from_this_machine,
            extended: row.reads.iter().any(|read| read.name == EXTENDED.name)
                && head.headers.get(EXTENDED.name).is_some_and(|value| value == "1"),
            large_body,
            streams: self.streams.clone(),
        };
        let parts = Parts { path, query: query(head.uri.query().unwrap_or_default())?, body };
        audit::tell_target(row, &parts);
        let credential = context.caller.as_ref().map(|caller| self.credential(row, caller));
        let began = Instant::now();
        let response = (operation.handler)(Arc::new(context), parts, verdict).await?;
        // A list may have waited for its turn: it is for those alone who may have it now.
        if row.effect() == Effect::Read && began.elapsed() > RECHECK_AFTER {
            let (_, now) = self.admit(row, token, None).await?;
            if (verdict, now) == (Verdict::Allowed, Verdict::IfOwner) {
                return Err(Error::new(
                    &codes::access::RIGHT_LOST_MEANWHILE,
                    "the right to this call was taken from its account while it was in progress",
                ));
            }
        }
        let mut response = self.count_answer(row, response, reservation).await?;
        if let Some(credential) = credential.filter(|_| response.body().is_streamed()) {
            // For the gateway, which ends an answer that lasts when the caller may not have it any more.
            response.extensions_mut().insert(credential);
        }
        Ok(response)
    }

    /// Counts an answer until the client has read it. A read whose answer finds no room is refused, a large one at once;
    /// what a write did stands, and so does its answer.
    async fn count_answer(
        &self,
        row: &Row,
        response: Response<Body>,
        mut reservation: Reservation,
    ) -> Result<Response<Body>> {
        reservation.shrink_to(0);
        let memory = response.body().memory();
        if memory == 0 {
            return Ok(response);
        }
        match row.effect() {
            Effect::Read if memory <= SMALL_ANSWER => reservation.grow(memory).await?,
            Effect::Read => reservation.grow_now(memory)?,
            Effect::Write => reservation.grow_always(memory),
        }
        Ok(response.map(|body| body.holding(reservation)))
    }

    /// Who calls, and whether the row lets them (contract decisions 5 and 9). The first time, with what
    /// the request came with, the call is counted, since one that is refused leaves a trace as well.
    async fn admit(
        &self,
        row: &Row,
        token: Option<&str>,
        first: Option<&Extensions>,
    ) -> Result<(Option<Caller>, Verdict)> {
        if let Access::Public = row.access {
            return Ok((None, Verdict::Allowed));
        }
        let token = token.ok_or_else(|| {
            Error::new(
                &codes::access::NO_TOKEN,
                "Unauthorized: send the token of a sign-in as `Authorization: Bearer …`",
            )
        })?;
        let caller = self.identity.authenticate(token).await?;
        audit::tell_caller(&caller, self.identity.standing(&caller));
        if let Some(extensions) = first {
            Span::current().record("caller", &*caller.slug);
            if let Some(notes) = extensions.get::<Arc<CallNotes>>() {
                // Only the first time.
                let _ = notes.caller.set(caller.slug.clone());
            }
        }
        if let (Some(audience), false) = (&caller.audience, row.delegated)
            && !self.identity.opens(audience, row.id)
        {
            let way_out = match row.answers_token() {
                true => "its answer is for the caller alone",
                false => "an admin can open it to the service by a delegation",
            };
            return Err(Error::new(
                &codes::access::NOT_DELEGATED,
                format!(
                    "`{}` cannot be called with a token that was made for the service `{audience}`; {way_out}",
                    row.id
                ),
            ));
        }
        if first.is_some() {
            self.count_write(row, &caller)?;
        }
        let verdict = match row.access {
            Access::Public | Access::SignedIn => Verdict::Allowed,
            Access::Needs(guard) => self.decide(&guard, &caller)?,
        };
        if let (Access::Needs(guard), Verdict::Allowed, true) = (row.access, verdict, row.audited)
            && !guard.also_slugs.contains(&&*caller.slug)
        {
            audit::require_right(self.identity.basis(&caller, guard.permission.id));
        }
        Ok((Some(caller), verdict))
    }

    /// What one account writes, in the store and in the audit log, is bounded by how often it may.
    fn count_write(&self, row: &Row, caller: &Caller) -> Result<()> {
        let writes = (row.effect() == Effect::Write || row.audited) && !row.ends_sessions;
        let is_built_in = openorch_api::SERVICES.iter().any(|service| *service.slug == *caller.slug);
        if !writes || caller.is_admin() || is_built_in {
            return Ok(());
        }
        // What a service does with the caller's delegated tokens is counted apart.
        let writer = match &caller.audience {
            None => caller.user_id.to_string(),
            Some(service) => format!("{} {service}", caller.user_id),
        };
        self.writes.take(writer.as_str(), self.audit.now().as_microsecond()).map_err(|wait| {
            let (Rate { per_second, burst }, seconds) = (self.writes.rate(), wait.as_secs() as i64 + 1);
            Error::new(&codes::access::TOO_MANY_WRITES, format!(
                "the account `{}` makes more than {per_second} calls a second that write, after {burst} at once; try again \
                 in {seconds} s (an operator can raise OPENORCH_API_MAX_WRITES_PER_ACCOUNT)",
                caller.slug
            ))
            .after(seconds)
        })
    }

    /// What a call that was admitted rests on.
    fn credential(&self, row: &Row, caller: &Caller) -> Credential {
        let session_id = caller.session_id.clone();
        match row.access {
            Access::Needs(guard) if self.identity.allows(caller, guard.permission.id) => {
                Credential::Permission { session_id, permission: guard.permission.id }
            }
            _ => Credential::Session(session_id),
        }
    }

    fn decide(&self, guard: &Guard, caller: &Caller) -> Result<Verdict> {
        if guard.also_slugs.contains(&&*caller.slug) || self.identity.allows(caller, guard.permission.id) {
            return Ok(Verdict::Allowed);
        }
        if guard.exempt != Exempt::Nobody {
            return Ok(Verdict::IfOwner);
        }
        Err(Error::new(
            &codes::access::PERMISSION_MISSING,
            format!(
                "the account `{}` lacks the permission `{}`; an admin can give it",
                caller.slug, guard.permission.id
            ),
        ))
    }
}

/// Answers up to here wait for room in the memory of requests.
const SMALL_ANSWER: usize = 16 << 10;

/// After so long a call that reads is asked once more whether its caller may have the answer.
const RECHECK_AFTER: Duration = Duration::from_millis(500);

/// The task of a call; one that changes nothing is aborted when its caller leaves.
struct Task<T> {
    handle: JoinHandle<T>,
    ends: bool,
}

impl<T> Drop for Task<T> {
    fn drop(&mut self) {
        if self.ends {
            self.handle.abort();
        }
    }
}

/// Bytes of a head that are not counted: the number of requests in progress bounds them.
const USUAL_HEAD: usize = 4 << 10;

/// Bytes of names and values.
fn head_size(headers: &HeaderMap) -> usize {
    headers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum()
}

fn matches(pattern: &[Segment], segments: &[String]) -> bool {
    pattern.iter().zip(segments).all(|(pattern, segment)| match pattern {
        Segment::Literal(literal) => literal == segment,
        Segment::Parameter => !segment.is_empty(),
    })
}

fn refusal(code: &'static ErrorCode, sentence: &'static str) -> Box<Response<Body>> {
    Box::new(respond::failure(&Error::new(code, sentence)))
}

fn method_not_allowed(route: &Route) -> Response<Body> {
    let mut allowed: Vec<&str> = route.operations.iter().map(|operation| operation.row.method.as_str()).collect();
    if allowed.contains(&"GET") {
        allowed.push("HEAD");
    }
    allowed.push("OPTIONS");
    let allowed = allowed.join(", ");
    let sentence = format!("this path answers {allowed}; see /docs for what each does");
    let mut response = respond::failure(&Error::new(&codes::request::METHOD_NOT_ALLOWED, sentence));
    if let Ok(value) = HeaderValue::from_str(&allowed) {
        response.headers_mut().insert(header::ALLOW, value);
    }
    response
}
