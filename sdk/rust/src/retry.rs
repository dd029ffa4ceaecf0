//! Retry policy: only reads and calls with an idempotency key, only after transient errors, with exponential backoff and
//! jitter.

use std::time::{Duration, Instant};

use http::{HeaderMap, HeaderValue, header};
use openorch_api::error::repeat::{ANSWER_TOO_LARGE, ANSWERS_FULL, IN_FLIGHT, TOO_MANY_KEYS};

use crate::{Error, Response, trace::random};

const INITIAL_BACKOFF: Duration = Duration::from_millis(100);
/// Maximum delay between the attempts of `retry_until`.
const MAX_BACKOFF: Duration = Duration::from_secs(5);
/// Maximum number of retries of a call.
const MAX_RETRIES: u32 = 2;
/// No retry is started later than this after the first attempt.
const RETRY_DEADLINE: Duration = Duration::from_secs(10);
/// If `Retry-After` is longer than this, the error is returned instead.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(5);

/// The delay before the next retry, given the outcome, the number of retries so far and the elapsed time; `None` if the
/// outcome is final.
pub(crate) fn retry_delay(outcome: &Result<Response, Error>, retries: u32, elapsed: Duration) -> Option<Duration> {
    let asked = match outcome {
        Ok(answer) if is_temporary(answer.status.as_u16()) => retry_after(&answer.headers),
        // A previous attempt, whose response was lost, is still in progress.
        Ok(answer) if answer.code().as_deref() == Some(IN_FLIGHT.id) => retry_after(&answer.headers),
        Ok(_) => return None,
        Err(error) if error.is_temporary() => None,
        Err(_) => return None,
    };
    let pause = match asked {
        Some(asked) if asked > MAX_RETRY_AFTER => return None,
        // Never earlier than requested, plus jitter, so that clients do not all retry at the same time.
        Some(asked) => asked + jitter(INITIAL_BACKOFF),
        None => backoff(INITIAL_BACKOFF, retries, RETRY_DEADLINE),
    };
    (retries < MAX_RETRIES && elapsed + pause < RETRY_DEADLINE).then_some(pause)
}

/// Whether the daemon rejected the call because it cannot store the response under the idempotency key.
pub(crate) fn cannot_store_response(answer: &Response) -> bool {
    let code = answer.code();
    [&TOO_MANY_KEYS, &ANSWERS_FULL, &ANSWER_TOO_LARGE].iter().any(|refusal| code.as_deref() == Some(refusal.id))
}

/// A unique value for `Idempotency-Key`.
pub(crate) fn new_idempotency_key() -> Option<HeaderValue> {
    HeaderValue::try_from(format!("{:016x}{:016x}", random(), random())).ok()
}

/// Retries transient failures with exponential backoff, respecting `Retry-After`, until `timeout` has elapsed. `what`
/// names the action in the log; consecutive failures with the same cause are logged once.
pub(crate) async fn retry_until<T, F: Future<Output = Result<T, Error>>>(
    timeout: Duration,
    what: &str,
    attempt: impl Fn() -> F,
) -> Result<T, Error> {
    let (started, mut failures) = (Instant::now(), 0);
    let mut logged = String::new();
    loop {
        let wait = backoff(INITIAL_BACKOFF, failures, MAX_BACKOFF);
        match attempt().await {
            Err(error) if error.is_temporary() => {
                let wait = error.retry_after().map_or(wait, |asked| wait.max(asked + jitter(INITIAL_BACKOFF)));
                if started.elapsed() + wait >= timeout {
                    return Err(error);
                }
                let reason = stable_message(&error);
                if reason != logged {
                    tracing::warn!("{what} failed, retrying: {error}");
                    logged = reason;
                }
                tokio::time::sleep(wait).await;
                failures += 1;
            }
            settled => return settled,
        }
    }
}

/// The error message without variable parts (numbers and request ids), to detect a repeated error.
fn stable_message(error: &Error) -> String {
    let text = match error {
        Error::Refused { status, message, .. } => format!("{status} {message}"),
        other => other.to_string(),
    };
    text.chars().filter(|letter| !letter.is_ascii_digit()).collect()
}

/// Whether an HTTP status is transient.
pub(crate) fn is_temporary(status: u16) -> bool {
    matches!(status, 429 | 502 | 503 | 504)
}

/// Exponential backoff with jitter: `first` doubled per failure, at most `max`, of which a random 50 to 100 per cent.
pub(crate) fn backoff(first: Duration, failures: u32, max: Duration) -> Duration {
    let delay = first.saturating_mul(2u32.saturating_pow(failures)).min(max);
    delay / 2 + jitter(delay / 2)
}

/// A random duration below `max`.
pub(crate) fn jitter(most: Duration) -> Duration {
    Duration::from_nanos(random() % u64::try_from(most.as_nanos()).unwrap_or(u64::MAX).max(1))
}

/// `Retry-After` in seconds. The date format (RFC 9110, section 10.2.3) is ignored, since clocks differ.
pub(crate) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim().parse().ok().map(Duration::from_secs)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http::StatusCode;

    use super::*;

    #[test]
    fn what_is_tried_again_and_when() {
        let answer = |status: u16, retry_after: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::RETRY_AFTER, retry_after.parse().unwrap());
            Ok(Response { status: StatusCode::from_u16(status).unwrap(), headers, bytes: Bytes::new() })
        };
        let ms = Duration::from_millis;
        for (outcome, retries, elapsed, want) in [
            (answer(503, ""), 0, 0, Some(50..=100)),
            (answer(503, ""), 1, 0, Some(100..=200)),
            (answer(503, ""), 2, 0, None),
            (answer(503, "1"), 0, 0, Some(1000..=1100)),
            (answer(429, "0"), 0, 0, Some(0..=100)),
            (answer(503, "60"), 0, 0, None),
            (answer(503, "Wed, 21 Oct 2026 07:28:00 GMT"), 0, 0, Some(50..=100)),
            (answer(503, ""), 0, 9_990, None),
            (answer(500, ""), 0, 0, None),
            (answer(404, ""), 0, 0, None),
            (answer(200, ""), 0, 0, None),
            (Err(Error::Invalid(String::new())), 0, 0, None),
        ] {
            let pause = retry_delay(&outcome, retries, ms(elapsed));
            match want {
                Some(range) => assert!(range.contains(&pause.unwrap().as_millis()), "{outcome:?}: {pause:?}"),
                None => assert_eq!(pause, None, "{outcome:?}"),
            }
        }
    }
}
