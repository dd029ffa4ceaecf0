//! Several operations by one request, each called in process as its caller.

use openorch_api::{
    Body, Effect, Json, Row,
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
    // Built for the first batch, whose time has not begun yet.
    cx.batch_operations.get_or_init(api::batch_operations);
    let calls = cx.calls()?.within(cx.limits.batch_timeout);
    let mut room = cx.limits.max_batch_answer_bytes;
    let (mut answers, mut has_failed) = (Vec::with_capacity(request.calls.len()), false);
    // What they count as held until the answer to the batch is made of them.
    let mut held = Vec::new();
    for OperationCall { operation, input } in request.calls {
        let outcome = async {
            if has_failed && request.stop_on_error {
                return Err(Error::new(
                    &api::CALL_SKIPPED,
                    "not called, since a call before it failed; correct that one, then send this one again",
                ));
            }
            let row = cx.in_batch(&operation)?;
            if row.effect() == Effect::Read && !row.audited {
                calls.count_write(cx.caller()?)?;
            }
            calls.call_by_id(row.id, input, room).await
        };
        let outcome = outcome.await;
        has_failed |= outcome.is_err();
        answers.push(match outcome {
            Ok(mut answer) => {
                room = room.saturating_sub(answer.body.len());
                let told = success(&mut answer)?;
                held.push(answer);
                told
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
    /// The operation of this id, where it can be called in a batch.
    fn in_batch(&self, operation: &str) -> Result<&'static Row> {
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

fn success(answer: &mut Answer) -> Result<OperationAnswer> {
    let text = String::from_utf8(std::mem::take(&mut answer.body)).map_err(Error::internal)?;
    let body = match text.is_empty() {
        true => None,
        false => Some(RawValue::from_string(text).map_err(Error::internal)?),
    };
    Ok(OperationAnswer { status: answer.status.as_u16(), body, ..OperationAnswer::default() })
}
