//! The pipeline of every call, over HTTP or in process: authorization, reading the input within its limits, validation, the
//! handler, metrics and the audit log.

use std::{sync::Arc, time::Instant};

use http::{HeaderMap, Response, StatusCode, request};
use openorch_api::{Access, Effect, Parts, Repeat, Row, error as codes, header::IF_NONE_MATCH};
use tokio::task::JoinHandle;
use tracing::{Instrument, Span, debug, error, field::Empty, info_span, warn};

use super::{Calls, Inner, Operation, head::query, origin::Origin};
use crate::{
    Body, ClientBody, Error, Result,
    audit::CallAudit,
    budget::{self, Reservation},
    headers::DeclaredHeaders,
    repeat::{self, Begun},
    request as bodies, respond,
    service::{RequestContext, Verdict, panic_text},
    turns::Turn,
};

/// Where the input of a call comes from.
pub(super) enum Source {
    /// An HTTP request with its parsed path.
    Request { path: Vec<String>, head: Box<request::Parts>, body: ClientBody },
    /// A call in process.
    Made(Parts),
}

impl Source {
    fn path(&self) -> &[String] {
        match self {
            Source::Request { path, .. } => path,
            Source::Made(parts) => &parts.path,
        }
    }
}

/// The input of a call.
struct Read {
    parts: Parts,
    headers: DeclaredHeaders,
    is_large: bool,
    /// Reading may have taken time, so the caller must be authorized again.
    waited: bool,
    /// The value of the header `Idempotency-Key`.
    key: Option<String>,
}

impl Inner {
    /// Serves a call. Errors are logged by [`Inner::log_failure`], where they become responses.
    pub(super) async fn serve(
        self: Arc<Inner>,
        operation: Arc<Operation>,
        source: Source,
        origin: Arc<Origin>,
        span: &Span,
    ) -> Result<Response<Body>> {
        let started = Instant::now();
        let row = operation.row;
        let call = CallAudit::new(row, source.path(), origin.client_ip, &origin.request_id, origin.parent);
        let work = self.clone().run(operation.clone(), source, origin.clone(), call.clone());
        let (audit, served) = (self.audit.clone(), call.clone());
        let work = async move {
            let outcome = work.await;
            if outcome.is_ok() {
                audit.succeeded(&served).await;
            }
            outcome
        };
        // In its own task, so that a client that disconnects cannot stop a write between the commit and the update of the
        // in-memory state. A read without an audit entry is cancelled with its caller.
        let ends = row.effect() == Effect::Read && !row.audited;
        let mut task = Task { handle: tokio::spawn(work.instrument(span.clone())), ends };
        let outcome = match origin.deadline {
            None => Some((&mut task.handle).await),
            Some(deadline) => tokio::time::timeout_at(deadline, &mut task.handle).await.ok(),
        };
        let outcome = match outcome {
            Some(Ok(outcome)) => outcome,
            Some(Err(ended)) if ended.is_panic() => Err(Error::internal(panic_text(ended.into_panic()))),
            Some(Err(_)) => {
                Err(Error::new(&codes::platform::STOPPING, "the daemon is stopping; try again in a moment"))
            }
            None => Err(super::nested::timed_out()),
        };
        let outcome = outcome.map_err(|error| {
            let error = call.blame(error);
            self.audit.refused(&call, &error);
            error
        });
        let status = outcome.as_ref().map_or_else(Error::status, Response::status);
        let elapsed = started.elapsed();
        operation.durations.observe(status, elapsed);
        // Recording these fields costs more than the rest of this function, and they are only shown at level debug.
        if tracing::enabled!(tracing::Level::DEBUG) {
            span.record("status", status.as_u16());
            span.record("duration", tracing::field::debug(elapsed));
            span.in_scope(|| debug!("responded"));
        }
        outcome
    }

    /// Logs an error of a call, and adds the request id to the message of an internal one.
    pub(super) fn report(&self, operation: &Operation, span: &Span, request_id: &str, mut error: Error) -> Error {
        if error.status() == StatusCode::INTERNAL_SERVER_ERROR {
            match operation.faults.allow() {
                Some(0) => span.in_scope(|| error!("{error:?}")),
                Some(more) => span.in_scope(|| error!("{error:?}; {more} similar errors suppressed")),
                None => span.in_scope(|| debug!("{error:?}")),
            }
            error.message = format!("{} (request {request_id})", error.message).into();
        } else if error.is_of_store() && self.store_failures.allow().is_some() {
            span.in_scope(|| warn!("{error:?}; logged at most once a minute"));
        } else {
            span.in_scope(|| debug!("{error:?}"));
        }
        error
    }

    async fn run(
        self: Arc<Inner>,
        operation: Arc<Operation>,
        source: Source,
        origin: Arc<Origin>,
        audit: CallAudit,
    ) -> Result<Response<Body>> {
        let row = operation.row;
        let mut admitted = self.admit(row, &origin, &audit, true).await?;
        if let (true, Some(audience)) =
            (operation.is_stream, admitted.0.as_ref().and_then(|caller| caller.audience.as_ref()))
        {
            // The stream would outlive the delegated token and the delegation.
            return Err(Error::new(
                &codes::access::NOT_DELEGATED,
                format!(
                    "`{}` cannot be called with a delegated token of the service `{audience}`: its answer is an event stream, \
                     which only the caller may have",
                    row.id
                ),
            ));
        }
        let budgeted = match row.access {
            Access::Public => budget::Caller::Anybody,
            Access::SignedIn | Access::Needs(_) => budget::Caller::Authenticated,
        };
        let account = admitted.0.as_ref().map(|caller| caller.user_id.clone());
        let reservation = self.memory.reservation(origin.client_ip, budgeted);
        let mut reservation = reservation.of_account(account).of_this_machine(origin.from_this_machine);
        let read = self.read(&operation, source, &origin, &mut reservation).await?;
        let turn = match &operation.lane {
            None => None,
            Some(lane) => Some(lane.take(admitted.0.as_ref(), origin.client_ip, origin.from_this_machine).await?),
        };
        if read.waited || turn.as_ref().is_some_and(Turn::has_waited) {
            // Receiving the body or waiting may have taken long, and the caller must be authorized when the work begins. The
            // handler decides the condition of the operation with this caller.
            admitted = self.admit(row, &origin, &audit, false).await?;
        }
        let (caller, verdict) = admitted;
        audit.tell_target(row, &read.parts);
        let credential = caller.as_ref().map(|caller| self.credential(row, caller));
        let is_large = read.is_large;
        let parts = match (read.key, &caller) {
            (Some(key), Some(caller)) => {
                let (request, parts) = repeat::digest_of(caller, read.parts, is_large).await?;
                match self.repeats.begin(caller, row, &key, request).await? {
                    Begun::Known(answer) => {
                        let response = respond::json(operation.status, answer);
                        return self.count_answer(row, response, reservation).await;
                    }
                    Begun::New(keyed) => audit.keep_answer(keyed),
                }
                parts
            }
            _ => read.parts,
        };
        let context = Arc::new(RequestContext {
            caller,
            request_id: origin.request_id.clone(),
            client_ip: origin.client_ip,
            from_this_machine: origin.from_this_machine,
            headers: read.headers,
            audit: audit.clone(),
            large_body: is_large,
            streams: self.streams.clone(),
            calls: Some(Calls::new(self.clone(), row, origin.clone())),
        });
        let began = Instant::now();
        let response = (operation.handler)(context.clone(), parts, verdict, turn).await?;
        // A list may take long, and the caller may have lost its permission meanwhile.
        if row.effect() == Effect::Read && began.elapsed() > RECHECK_AFTER {
            let (_, now) = self.admit(row, &origin, &audit, false).await?;
            if (verdict, now) == (Verdict::Allowed, Verdict::IfOwner) {
                return Err(Error::new(
                    &codes::access::RIGHT_LOST_MEANWHILE,
                    "the account lost the permission for this call while it was in progress",
                ));
            }
        }
        let response = respond::unless_known(response, context.headers.get(&IF_NONE_MATCH));
        let mut response = self.count_answer(row, response, reservation).await?;
        if let Some(credential) = credential.filter(|_| response.body().is_streamed()) {
            // The gateway ends the response when this credential ends.
            response.extensions_mut().insert(credential);
        }
        Ok(response)
    }

    /// Reads the input of a call, and converts a legacy form of it to the documented one.
    async fn read(
        &self,
        operation: &Operation,
        source: Source,
        origin: &Origin,
        reservation: &mut Reservation,
    ) -> Result<Read> {
        let row = operation.row;
        let limits = self.settings.body_limits(row);
        let mut read = match source {
            Source::Made(parts) => {
                let is_large = match &parts.body {
                    Some(body) if operation.reads_body => bodies::check_made(body, limits)?,
                    _ => false,
                };
                let headers = DeclaredHeaders::of_nested(row, origin.asks_extended);
                Read { parts, headers, is_large, waited: false, key: None }
            }
            Source::Request { path, head, body } => {
                // HTTP/2 compresses a large head to few bytes, so its decompressed size above the usual one is counted.
                reservation.grow(head_size(&head.headers).saturating_sub(USUAL_HEAD)).await?;
                let key = match row.repeats() {
                    Repeat::Keyed => repeat::key_of(&head.headers)?,
                    Repeat::Natural | Repeat::Never => None,
                };
                let (body, is_large) = match operation.reads_body {
                    true => {
                        let read =
                            bodies::read_json(&head.headers, body, limits, reservation, &self.body_workers).await?;
                        (read.value, read.is_large)
                    }
                    false => (None, false),
                };
                let query = query(head.uri.query().unwrap_or_default())?;
                let headers = DeclaredHeaders::of(row, &head.headers);
                Read { parts: Parts { path, query, body }, headers, is_large, waited: operation.reads_body, key }
            }
        };
        if let (Some(normalise), Some(body)) = (row.normalise, read.parts.body.as_mut()) {
            normalise(body);
        }
        Ok(read)
    }

    /// Reserves memory for a response until the client has read it. Without enough memory, a read fails (at once if its
    /// response is large). A write was committed, so its response is always sent.
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
}

/// The span of a call.
pub(super) fn span_of(row: &Row, origin: &Origin) -> Span {
    info_span!(
        "call",
        operation = row.id,
        request.id = &*origin.request_id,
        via = origin.parent,
        caller = Empty,
        status = Empty,
        duration = Empty
    )
}

/// Maximum bytes of a response that waits for request memory.
const SMALL_ANSWER: usize = 16 << 10;

/// Duration of a read after which its caller is authorized again before the response is sent.
const RECHECK_AFTER: std::time::Duration = std::time::Duration::from_millis(500);

/// The task of a call. The task of a read is aborted when its caller disconnects.
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

/// Bytes of a head that are not counted: the limit on concurrent requests bounds them.
const USUAL_HEAD: usize = 4 << 10;

/// Total bytes of the names and values.
fn head_size(headers: &HeaderMap) -> usize {
    headers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum()
}
