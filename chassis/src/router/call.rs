//! The pipeline of every call, over HTTP or in process: authorization, reading the input within its limits, validation, the
//! handler, metrics and the audit log.

use std::{sync::Arc, time::Instant};

use http::{HeaderMap, Response, StatusCode, request};
use openorch_api::{Access, Effect, Idempotency, Operation, RequestParts, error as codes, header::IF_NONE_MATCH};
use tokio::task::JoinHandle;
use tracing::{Instrument, Span, debug, error, field::Empty, info_span, warn};

use super::{Calls, Inner, MountedOperation, head::query, origin::CallOrigin};
use crate::{
    Body, ClientBody, Error, Result,
    audit::CallAudit,
    body_reader as bodies,
    budget::{self, Reservation},
    fair_semaphore::FairPermit,
    headers::DeclaredHeaders,
    idempotency::{self, KeyLookup},
    response,
    service::{Authorization, RequestContext, panic_text},
};

/// Where the input of a call comes from.
pub(super) enum Source {
    /// An HTTP request with its parsed path.
    Request { path: Vec<String>, head: Box<request::Parts>, body: ClientBody },
    /// A call in process.
    InProcess(RequestParts),
}

impl Source {
    fn path(&self) -> &[String] {
        match self {
            Source::Request { path, .. } => path,
            Source::InProcess(parts) => &parts.path,
        }
    }
}

/// The input of a call.
struct CallInput {
    parts: RequestParts,
    headers: DeclaredHeaders,
    is_large: bool,
    /// Reading may have taken time, so the caller must be authorized again.
    needs_reauthorization: bool,
    /// The value of the header `Idempotency-Key`.
    key: Option<String>,
}

impl Inner {
    /// Serves a call. Errors are logged by [`Inner::log_failure`], where they become responses.
    pub(super) async fn serve(
        self: Arc<Inner>,
        operation: Arc<MountedOperation>,
        source: Source,
        origin: Arc<CallOrigin>,
        span: &Span,
    ) -> Result<Response<Body>> {
        let started = Instant::now();
        let row = operation.definition;
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
        let mut task = Task { handle: tokio::spawn(work.instrument(span.clone())), abort_on_drop: ends };
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
            let error = call.explain(error);
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
    pub(super) fn log_failure(
        &self,
        operation: &MountedOperation,
        span: &Span,
        request_id: &str,
        mut error: Error,
    ) -> Error {
        if error.status() == StatusCode::INTERNAL_SERVER_ERROR {
            match operation.internal_error_limit.allow() {
                Some(0) => span.in_scope(|| error!("{error:?}")),
                Some(more) => span.in_scope(|| error!("{error:?}; {more} similar errors suppressed")),
                None => span.in_scope(|| debug!("{error:?}")),
            }
            error.message = format!("{} (request {request_id})", error.message).into();
        } else if error.is_store_unavailable() && self.store_error_limit.allow().is_some() {
            span.in_scope(|| warn!("{error:?}; logged at most once a minute"));
        } else {
            span.in_scope(|| debug!("{error:?}"));
        }
        error
    }

    async fn run(
        self: Arc<Inner>,
        operation: Arc<MountedOperation>,
        source: Source,
        origin: Arc<CallOrigin>,
        audit: CallAudit,
    ) -> Result<Response<Body>> {
        let row = operation.definition;
        let mut admitted = self.authorize(row, &origin, &audit, true).await?;
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
            Access::Public => budget::BudgetClass::Public,
            Access::SignedIn | Access::Needs(_) => budget::BudgetClass::Authenticated,
        };
        let account = admitted.0.as_ref().map(|caller| caller.user_id.clone());
        let reservation = self.memory.reservation(origin.client_ip, budgeted);
        let mut reservation = reservation.of_account(account).of_local(origin.is_local);
        let input = self.read(&operation, source, &origin, &mut reservation).await?;
        let permit = match &operation.queue {
            None => None,
            Some(queue) => Some(queue.acquire(admitted.0.as_ref(), origin.client_ip, origin.is_local).await?),
        };
        if input.needs_reauthorization || permit.as_ref().is_some_and(FairPermit::has_waited) {
            // Receiving the body or waiting may have taken long, and the caller must be authorized when the work begins. The
            // handler decides the condition of the operation with this caller.
            admitted = self.authorize(row, &origin, &audit, false).await?;
        }
        let (caller, authorization) = admitted;
        audit.set_target(row, &input.parts);
        let credential = caller.as_ref().map(|caller| self.credential(row, caller));
        let is_large = input.is_large;
        let parts = match (input.key, &caller) {
            (Some(key), Some(caller)) => {
                let (request, parts) = idempotency::request_digest(caller, input.parts, is_large).await?;
                match self.idempotency.begin(caller, row, &key, request).await? {
                    KeyLookup::Replay(answer) => {
                        let response = response::json(operation.status, answer);
                        return self.reserve_response(row, response, reservation).await;
                    }
                    KeyLookup::New(keyed) => audit.keep_answer(keyed),
                }
                parts
            }
            _ => input.parts,
        };
        let context = Arc::new(RequestContext {
            caller,
            request_id: origin.request_id.clone(),
            client_ip: origin.client_ip,
            is_local: origin.is_local,
            headers: input.headers,
            audit: audit.clone(),
            large_body: is_large,
            streams: self.streams.clone(),
            calls: Some(Calls::new(self.clone(), row, origin.clone())),
        });
        let began = Instant::now();
        let response = (operation.handler)(context.clone(), parts, authorization, permit).await?;
        // A list may take long, and the caller may have lost its permission meanwhile.
        if row.effect() == Effect::Read && began.elapsed() > RECHECK_AFTER {
            let (_, now) = self.authorize(row, &origin, &audit, false).await?;
            if (authorization, now) == (Authorization::Allowed, Authorization::OwnerOnly) {
                return Err(Error::new(
                    &codes::access::RIGHT_LOST_MEANWHILE,
                    "the account lost the permission for this call while it was in progress",
                ));
            }
        }
        let response = response::unless_not_modified(response, context.headers.get(&IF_NONE_MATCH));
        let mut response = self.reserve_response(row, response, reservation).await?;
        if let Some(credential) = credential.filter(|_| response.body().is_streamed()) {
            // The gateway ends the response when this credential ends.
            response.extensions_mut().insert(credential);
        }
        Ok(response)
    }

    /// Reads the input of a call, and converts a legacy form of it to the documented one.
    async fn read(
        &self,
        operation: &MountedOperation,
        source: Source,
        origin: &CallOrigin,
        reservation: &mut Reservation,
    ) -> Result<CallInput> {
        let row = operation.definition;
        let limits = self.settings.body_limits(row);
        let mut read = match source {
            Source::InProcess(parts) => {
                let is_large = match &parts.body {
                    Some(body) if operation.reads_body => bodies::check_in_process_body(body, limits)?,
                    _ => false,
                };
                let headers = DeclaredHeaders::of_nested(row, origin.asks_extended);
                CallInput { parts, headers, is_large, needs_reauthorization: false, key: None }
            }
            Source::Request { path, head, body } => {
                // HTTP/2 compresses a large head to few bytes, so its decompressed size above the usual one is counted.
                reservation.grow(head_size(&head.headers).saturating_sub(UNCOUNTED_HEAD_BYTES)).await?;
                let key = match row.idempotency() {
                    Idempotency::Keyed => idempotency::idempotency_key(&head.headers)?,
                    Idempotency::Natural | Idempotency::Never => None,
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
                CallInput {
                    parts: RequestParts { path, query, body },
                    headers,
                    is_large,
                    needs_reauthorization: operation.reads_body,
                    key,
                }
            }
        };
        if let (Some(normalise), Some(body)) = (row.normalize_body, read.parts.body.as_mut()) {
            normalise(body);
        }
        Ok(read)
    }

    /// Reserves memory for a response until the client has read it. Without enough memory, a read fails (at once if its
    /// response is large). A write was committed, so its response is always sent.
    async fn reserve_response(
        &self,
        row: &Operation,
        response: Response<Body>,
        mut reservation: Reservation,
    ) -> Result<Response<Body>> {
        reservation.shrink_to(0);
        let memory = response.body().counted_bytes();
        if memory == 0 {
            return Ok(response);
        }
        match row.effect() {
            Effect::Read if memory <= SMALL_RESPONSE_BYTES => reservation.grow(memory).await?,
            Effect::Read => reservation.grow_now(memory)?,
            Effect::Write => reservation.grow_unchecked(memory),
        }
        Ok(response.map(|body| body.with_reservation(reservation)))
    }
}

/// The span of a call.
pub(super) fn span_of(row: &Operation, origin: &CallOrigin) -> Span {
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
const SMALL_RESPONSE_BYTES: usize = 16 << 10;

/// Duration of a read after which its caller is authorized again before the response is sent.
const RECHECK_AFTER: std::time::Duration = std::time::Duration::from_millis(500);

/// The task of a call. The task of a read is aborted when its caller disconnects.
struct Task<T> {
    handle: JoinHandle<T>,
    abort_on_drop: bool,
}

impl<T> Drop for Task<T> {
    fn drop(&mut self) {
        if self.abort_on_drop {
            self.handle.abort();
        }
    }
}

/// Bytes of a head that are not counted: the limit on concurrent requests bounds them.
const UNCOUNTED_HEAD_BYTES: usize = 4 << 10;

/// Total bytes of the names and values.
fn head_size(headers: &HeaderMap) -> usize {
    headers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum()
}
