//! When a call is tried again: only one that reads or that the server knows by its key, only where a moment may help, each
//! time later than before, and not at the same moment as everybody else.

use std::time::{Duration, Instant};

use http::{HeaderMap, HeaderValue, header};
use openorch_api::error::repeat::{ANSWER_TOO_LARGE, ANSWERS_FULL, IN_FLIGHT, TOO_MANY_KEYS};

use crate::{Error, Response, trace::random};

const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// Between attempts of what is tried for long.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// So often a call is tried again.
const RETRIES: u32 = 2;
/// After this long a call is not tried again: whoever waits for it has waited enough.
const PATIENCE: Duration = Duration::from_secs(10);
/// A server that asks for more patience than this is told to its caller instead.
const LONGEST_ASKED: Duration = Duration::from_secs(5);

/// How long to wait before trying again what came to this outcome after `retries` retries and `elapsed` in all; `None`:
/// it stays.
pub(crate) fn pause(outcome: &Result<Response, Error>, retries: u32, elapsed: Duration) -> Option<Duration> {
    let asked = match outcome {
        Ok(answer) if is_temporary(answer.status.as_u16()) => retry_after(&answer.headers),
        // An attempt whose answer was lost is still in progress.
        Ok(answer) if answer.code().as_deref() == Some(IN_FLIGHT.id) => retry_after(&answer.headers),
        Ok(_) => return None,
        Err(error) if error.is_temporary() => None,
        Err(_) => return None,
    };
    let pause = match asked {
        Some(asked) if asked > LONGEST_ASKED => return None,
        // Never earlier than asked; a little later, so that those who were asked together do not return together.
        Some(asked) => asked + spread(FIRST_PAUSE),
        None => backoff(FIRST_PAUSE, retries, PATIENCE),
    };
    (retries < RETRIES && elapsed + pause < PATIENCE).then_some(pause)
}

/// Whether a call was refused, and nothing done, since the daemon has no room to store its answer for repeats.
pub(crate) fn is_not_kept(answer: &Response) -> bool {
    let code = answer.code();
    [&TOO_MANY_KEYS, &ANSWERS_FULL, &ANSWER_TOO_LARGE].iter().any(|refusal| code.as_deref() == Some(refusal.id))
}

/// A value of `Idempotency-Key` that no other call has.
pub(crate) fn key() -> Option<HeaderValue> {
    HeaderValue::try_from(format!("{:016x}{:016x}", random(), random())).ok()
}

/// Tries again what fails because the daemon is away or asks for patience, ever less often, and not before the daemon
/// says. `what` is for the log, in which one reason stands once.
pub(crate) async fn patiently<T, F: Future<Output = Result<T, Error>>>(
    patience: Duration,
    what: &str,
    attempt: impl Fn() -> F,
) -> Result<T, Error> {
    let (started, mut failures) = (Instant::now(), 0);
    let mut logged = String::new();
    loop {
        let wait = backoff(FIRST_PAUSE, failures, LONGEST_PAUSE);
        match attempt().await {
            Err(error) if error.is_temporary() => {
                let wait = error.retry_after().map_or(wait, |asked| wait.max(asked + spread(FIRST_PAUSE)));
                if started.elapsed() + wait >= patience {
                    return Err(error);
                }
                let reason = reason(&error);
                if reason != logged {
                    tracing::warn!("{what} waits: {error}");
                    logged = reason;
                }
                tokio::time::sleep(wait).await;
                failures += 1;
            }
            settled => return settled,
        }
    }
}

/// What is the same in a failure that comes again: neither seconds to wait nor the id of the request.
fn reason(error: &Error) -> String {
    let text = match error {
        Error::Refused { status, message, .. } => format!("{status} {message}"),
        other => other.to_string(),
    };
    text.chars().filter(|letter| !letter.is_ascii_digit()).collect()
}

/// Statuses that say "not now".
pub(crate) fn is_temporary(status: u16) -> bool {
    matches!(status, 429 | 502 | 503 | 504)
}

/// The wait after `failures` failures: doubled each time up to `most`, of which between half and all.
pub(crate) fn backoff(first: Duration, failures: u32, most: Duration) -> Duration {
    let whole = first.saturating_mul(2u32.saturating_pow(failures)).min(most);
    whole / 2 + spread(whole / 2)
}

/// Any part of this time.
pub(crate) fn spread(most: Duration) -> Duration {
    Duration::from_nanos(random() % u64::try_from(most.as_nanos()).unwrap_or(u64::MAX).max(1))
}

/// What a server asks for, in seconds. A date (RFC 9110, section 10.2.3) is read as no wish: clocks differ.
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
            let pause = pause(&outcome, retries, ms(elapsed));
            match want {
                Some(range) => assert!(range.contains(&pause.unwrap().as_millis()), "{outcome:?}: {pause:?}"),
                None => assert_eq!(pause, None, "{outcome:?}"),
            }
        }
    }
}
