//! `oo batch`: many calls in a few requests. Each input line is a call, each output line the answer to one.

use std::io::{self, Write};

use openorch_sdk::api::{
    Body, Json, json,
    op::DEFAULT_MAX_BODY_BYTES,
    platform::{CALL_OPERATIONS, CALL_SKIPPED, CallOperationsRequest, MAX_CALLS, OperationAnswer, OperationCall},
};

use crate::{
    context::Context,
    error::{CliError, printable},
    manifest,
    print::Output,
};

/// Makes the calls in `file`, one per line, and prints their answers as they arrive. The exit code is 1 if one failed.
pub async fn run(context: &Context, file: &str, stop_on_error: bool) -> Result<(Output, u8), CliError> {
    // All lines are checked before the first request.
    let calls = parse_calls(file, &manifest::read_text(file)?)?;
    let connection = context.connection_for(CALL_OPERATIONS.row)?;
    let mut code = 0;
    let mut pieces = split_into_requests(calls).into_iter();
    while let Some(calls) = pieces.next() {
        let request = CallOperationsRequest { calls, stop_on_error };
        let call = connection.client.call(CALL_OPERATIONS, Body(request));
        let Json(answer) = context.await_answer(&connection, Some(CALL_OPERATIONS.row.id), call).await?;
        let has_failed = answer.answers.iter().any(|answer| !answer.code.is_empty());
        if !print_answers(&answer.answers)? {
            break;
        }
        if has_failed {
            code = 1;
            if stop_on_error {
                // One line per call, including those that were not sent.
                let skipped = pieces.flatten().map(|_| skipped_answer()).collect::<Vec<_>>();
                print_answers(&skipped)?;
                break;
            }
        }
    }
    Ok((Output::Printed, code))
}

/// The answer to a skipped call, in the daemon's words.
fn skipped_answer() -> OperationAnswer {
    OperationAnswer {
        status: CALL_SKIPPED.status,
        error: "not called, because an earlier call failed; correct that one, then send this one again".into(),
        code: CALL_SKIPPED.id.into(),
        ..OperationAnswer::default()
    }
}

/// The calls of a text: one JSON object per line; empty lines are ignored.
fn parse_calls(file: &str, text: &str) -> Result<Vec<OperationCall>, CliError> {
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    let call = |(index, line): (usize, &str)| {
        let wrong = |reason: String| CliError::Usage(format!("`{file}`, line {}: {}", index + 1, printable(&reason)));
        let value =
            json::parse(line.as_bytes(), json::Limits::TRUSTED).map_err(|refused| wrong(refused.to_string()))?;
        serde_json::from_value(value.unwrap_or_default()).map_err(|error| {
            wrong(format!(
                "{error}; expected a line such as {{\"operation\": \"listApps\", \"input\": {{\"ids\": []}}}}"
            ))
        })
    };
    lines.map(call).collect()
}

/// Splits the calls into requests, each within the limits on calls and bytes.
fn split_into_requests(calls: Vec<OperationCall>) -> Vec<Vec<OperationCall>> {
    let (mut pieces, mut bytes): (Vec<Vec<OperationCall>>, usize) = (Vec::new(), 0);
    for call in calls {
        let size = serde_json::to_vec(&call).map_or(0, |text| text.len() + 1);
        match pieces.last_mut() {
            Some(last) if last.len() < MAX_CALLS && bytes + size < DEFAULT_MAX_BODY_BYTES - ENVELOPE_BYTES => {
                last.push(call)
            }
            _ => {
                bytes = 0;
                pieces.push(vec![call]);
            }
        }
        bytes += size;
    }
    pieces
}

/// Maximum bytes of a request around its calls.
const ENVELOPE_BYTES: usize = 64;

/// Prints each answer as a line. False if the reader has closed the pipe.
fn print_answers(answers: &[OperationAnswer]) -> Result<bool, CliError> {
    let mut out = io::stdout().lock();
    for answer in answers {
        let line = serde_json::to_string(answer).map_err(|error| CliError::Other(error.to_string()))?;
        match writeln!(out, "{}", printable(&line)) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(false),
            written => written.map_err(|error| CliError::Other(format!("cannot write the response: {error}")))?,
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_line_is_a_call() {
        let calls =
            parse_calls("f", "{\"operation\":\"health\"}\n\n{\"operation\":\"a\",\"input\":{\"id\":1}}\n").unwrap();
        assert_eq!(serde_json::to_value(calls).unwrap()[1], json!({ "operation": "a", "input": { "id": 1 } }));
        for (text, words) in [
            ("{\"operation\":\"a\"}\n[1]", "line 2"),
            ("{\"input\":{}}", "operation"),
            ("{", "line 1"),
            ("{\"operation\":\"a\",\"operation\":\"b\"}", "line 1"),
        ] {
            let refused = parse_calls("f", text).unwrap_err().to_string();
            assert!(refused.contains(words), "{text}: {refused}");
        }
    }

    #[test]
    fn no_request_has_more_calls_or_bytes_than_one_may() {
        let call = |bytes: usize| OperationCall { operation: "x".repeat(bytes), ..OperationCall::default() };
        let lengths = |calls: Vec<OperationCall>| split_into_requests(calls).iter().map(Vec::len).collect::<Vec<_>>();
        assert_eq!(lengths(vec![call(1); 41]), [20, 20, 1]);
        assert_eq!(lengths(vec![call(DEFAULT_MAX_BODY_BYTES / 3); 5]), [2, 2, 1]);
        assert!(lengths(Vec::new()).is_empty());
    }
}
