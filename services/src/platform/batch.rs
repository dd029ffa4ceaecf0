//! Batches: several operations in one request, each called in process with the rights of the caller.

use openorch_api::{
    Body, Effect, Json, Operation,
    error::request,
    platform::{self as api, CallOperationsRequest, CallOperationsResponse, OperationAnswer, OperationCall},
    text::without_hidden,
};
use openorch_chassis::{Cx, Error, Result, router::Answer};
use serde_json::value::RawValue;

use super::Platform;

pub async fn call_operations(
    cx: Cx<Platform>,
    Body(request): Body<CallOperationsRequest>,
) -> Result<Json<CallOperationsResponse>> {
    // The table is built for the first batch. It is built here so that this does not count against the batch timeout.
    cx.batch_operations.get_or_init(api::batch_operations);
    let calls = cx.calls()?.with_timeout(cx.limits.batch_timeout);
    let mut remaining_bytes = cx.limits.max_batch_answer_bytes;
    let (mut answers, mut has_failed) = (Vec::with_capacity(request.calls.len()), false);
    // The answers stay counted against the memory budget until the response is built from them.
    let mut held = Vec::new();
    for OperationCall { operation, input } in request.calls {
        let outcome = async {
            if has_failed && request.stop_on_error {
                return Err(Error::new(
                    &api::CALL_SKIPPED,
                    "not called, because an earlier call failed; correct that one, then send this one again",
                ));
            }
            let row = cx.batchable_operation(&operation)?;
            if row.effect() == Effect::Read && !row.audited {
                calls.check_write_rate(cx.caller()?)?;
            }
            calls.call_by_id(row.id, input, remaining_bytes).await
        };
        let outcome = outcome.await;
        has_failed |= outcome.is_err();
        answers.push(match outcome {
            Ok(mut answer) => {
                remaining_bytes = remaining_bytes.saturating_sub(answer.body.len());
                let entry = successful_answer(&mut answer)?;
                held.push(answer);
                entry
            }
            Err(error) => OperationAnswer {
                status: error.code.status,
                error: error.message.into_owned(),
                code: error.code.id.to_owned(),
                retry_after: error.retry_after,
                body: None,
            },
        });
    }
    Ok(Json(CallOperationsResponse { answers }))
}

impl Platform {
    /// The operation with this id, if it may be called in a batch.
    fn batchable_operation(&self, operation: &str) -> Result<&'static Operation> {
        match self.batch_operations.get_or_init(api::batch_operations).get(operation) {
            Some((row, true)) => Ok(row),
            Some((row, false)) => Err(Error::new(
                &api::NOT_IN_BATCH,
                format!(
                    "`{}` cannot be called in a batch; call it by itself: {} {}",
                    row.id,
                    row.method.as_str(),
                    row.path
                ),
            )),
            None => Err(Error::new(
                &request::NO_SUCH_OPERATION,
                format!("there is no operation `{}`; /docs lists them", without_hidden(operation)),
            )),
        }
    }
}

fn successful_answer(answer: &mut Answer) -> Result<OperationAnswer> {
    let text = String::from_utf8(std::mem::take(&mut answer.body)).map_err(Error::internal)?;
    let body = match text.is_empty() {
        true => None,
        false => Some(RawValue::from_string(text).map_err(Error::internal)?),
    };
    Ok(OperationAnswer { status: answer.status.as_u16(), body, ..OperationAnswer::default() })
}
