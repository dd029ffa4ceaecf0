//! Calls in process (decision "Calls in process"): an operation calls another one on behalf of its caller, with the
//! caller's current permissions and the restrictions of its token, through the same pipeline as a request. Calls are
//! not transactional: a failure does not roll back earlier calls.

use std::{sync::Arc, time::Duration};

use http::{Response, StatusCode};
use http_body_util::BodyExt;
use openorch_api::{
    Access, Effect, Input, InvalidInput, Op, Operation, Output, RequestParts, error as codes, error::request,
};
use serde_json::{Map, Value};
use tokio::time::Instant;

use super::{
    Inner, MountedOperation,
    call::{Source, span_of},
    origin::CallOrigin,
};
use crate::{
    Body, Caller, Error, Result,
    budget::{self, Reservation},
};

/// Maximum depth of calls that an operation called by a request may start.
const MAX_DEPTH: usize = 8;
/// Maximum bytes of the answer to a typed call of an operation that reads.
const MAX_ANSWER: usize = 16 << 20;

/// Calls operations of the daemon in process; for handlers.
#[derive(Clone)]
pub struct Calls {
    inner: Arc<Inner>,
    /// The calling operation.
    parent: &'static Operation,
    origin: Arc<CallOrigin>,
    deadline: Option<Instant>,
}

/// The answer to a successful call by id.
pub struct Answer {
    /// The status of the success.
    pub status: StatusCode,
    /// JSON, or nothing.
    pub body: Vec<u8>,
    /// Counts the body in the memory budget of requests.
    _reservation: Reservation,
}

impl Calls {
    pub(super) fn new(inner: Arc<Inner>, parent: &'static Operation, origin: Arc<CallOrigin>) -> Calls {
        let deadline = origin.deadline;
        Calls { inner, parent, origin, deadline }
    }

    /// Sets a time limit for all calls and the calls that they make. An earlier deadline stays in force.
    pub fn with_timeout(mut self, time: Duration) -> Calls {
        let deadline = Instant::now() + time;
        self.deadline = Some(self.deadline.map_or(deadline, |earlier| earlier.min(deadline)));
        self
    }

    /// Counts a read against the account's rate limit on writes, and fails if it is exceeded. For requests whose sender
    /// chooses how many calls they make; calls that write are counted when they are made.
    pub fn check_write_rate(&self, caller: &Caller) -> Result<()> {
        self.inner.check_write_rate(self.parent, caller)
    }

    /// Calls an operation. Its errors are returned with their codes.
    pub async fn call<I: Input, O: Output>(&self, op: Op<I, O>, input: I) -> Result<O> {
        let operation = self.operation(op.row.id)?;
        let mut parts = RequestParts::default();
        input.encode(&mut parts);
        let origin = self.origin()?;
        let response = self.serve(operation, parts, &origin).await?;
        let answer = self.collect_body(op.row, response, MAX_ANSWER).await?;
        O::decode(&answer.body).map_err(Error::internal)
    }

    /// Calls the operation with this id; `input` has the keys of its path, query and body ([`openorch_api::InputKeys`]). The
    /// answer of an operation that reads has at most `max_bytes` bytes. An error is logged like that of a request.
    pub async fn call_by_id(&self, id: &str, input: Map<String, Value>, max_bytes: usize) -> Result<Answer> {
        let operation = self.operation(id)?;
        let origin = self.origin()?;
        let outcome = async {
            let invalid = |refused: InvalidInput| Error::new(&request::INVALID_INPUT, refused.0);
            let parts = operation.keys.request_parts(input).map_err(invalid)?;
            let response = self.serve(operation.clone(), parts, &origin).await?;
            self.collect_body(operation.definition, response, max_bytes).await
        };
        outcome.await.map_err(|error| {
            let span = span_of(operation.definition, &origin);
            self.inner.log_failure(&operation, &span, &origin.request_id, error)
        })
    }

    fn operation(&self, id: &str) -> Result<Arc<MountedOperation>> {
        self.inner.operations_by_id.get(id).cloned().ok_or_else(|| {
            let shown = openorch_api::text::without_hidden(id);
            Error::new(&request::NO_SUCH_OPERATION, format!("there is no operation `{shown}`; /docs lists them"))
        })
    }

    /// The origin of a new call.
    fn origin(&self) -> Result<Arc<CallOrigin>> {
        let from = &self.origin;
        if from.depth >= MAX_DEPTH {
            return Err(Error::new(
                &codes::platform::CALLS_TOO_DEEP,
                format!(
                    "`{}` cannot call another operation: calls can be nested at most {MAX_DEPTH} deep",
                    self.parent.id
                ),
            ));
        }
        if self.deadline.is_some_and(|deadline| deadline <= Instant::now()) {
            return Err(timed_out());
        }
        Ok(Arc::new(CallOrigin {
            token: from.token.clone().filter(|_| !matches!(self.parent.access, Access::Public)),
            request_id: from.request_id.clone(),
            client_ip: from.client_ip,
            is_local: from.is_local,
            asks_extended: from.asks_extended,
            slot: from.slot.clone(),
            call_info: None,
            parent: Some(self.parent.id),
            depth: from.depth + 1,
            deadline: self.deadline,
        }))
    }

    async fn serve(
        &self,
        operation: Arc<MountedOperation>,
        parts: RequestParts,
        origin: &Arc<CallOrigin>,
    ) -> Result<Response<Body>> {
        self.inner.nested.count(operation.definition.id, self.parent.id);
        let span = span_of(operation.definition, origin);
        self.inner.clone().serve(operation, Source::InProcess(parts), origin.clone(), &span).await
    }

    /// Collects the body of a response. The answer of a write has no size limit, since the write was committed.
    async fn collect_body(&self, row: &Operation, response: Response<Body>, max_bytes: usize) -> Result<Answer> {
        let reads = row.effect() == Effect::Read;
        let (head, mut body) = response.into_parts();
        let reservation = self.inner.memory.reservation(self.origin.client_ip, budget::BudgetClass::Authenticated);
        let mut reservation = reservation.of_local(self.origin.is_local);
        let mut bytes = Vec::new();
        while let Some(frame) = body.frame().await {
            let Ok(data) = frame.map_err(Error::internal)?.into_data() else { continue };
            if reads && bytes.len() + data.len() > max_bytes {
                return Err(Error::new(
                    &codes::platform::ANSWER_TOO_LARGE,
                    format!("the answer of `{}` has more than {max_bytes} bytes; ask for less at once", row.id),
                ));
            }
            match reads {
                true => reservation.grow_now(data.len())?,
                false => reservation.grow_unchecked(data.len()),
            }
            bytes.extend_from_slice(&data);
        }
        Ok(Answer { status: head.status, body: bytes, _reservation: reservation })
    }
}

/// The error of a call that exceeded its time limit.
pub(super) fn timed_out() -> Error {
    Error::new(
        &codes::platform::CALL_TIMED_OUT,
        "the calls of this request exceeded their time limit; a write in progress continues, so check what was changed \
         before retrying",
    )
}

#[cfg(test)]
mod tests;
