//! Reads the JSON request body of a built-in operation within its limits (decision "JSON input", decision "Limits"):
//! bytes as sent and decompressed, JSON values, time, and the shared memory budget.

use std::{io::Read, time::Duration};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, header};
use http_body_util::BodyExt;
use openorch_api::{
    error::request,
    json::{self, JsonError, Limits},
};
use serde_json::Value;
use tokio::{
    sync::Semaphore,
    time::{Instant, timeout_at},
};

use crate::{ClientBody, Error, Result, budget::Reservation};

/// Larger bodies are decompressed, parsed and decoded on blocking threads: it takes milliseconds, which would delay the other
/// tasks of an async worker.
pub const LARGE_BYTES: usize = 64 << 10;

/// The decompression ratio is not limited up to this size: short repetitive texts are common.
const RATIO_EXEMPT_BYTES: usize = 64 << 10;

/// Minimum step in which memory for a body is reserved.
const MIN_GROWTH_BYTES: usize = 4 << 10;

/// The limits of one body.
#[derive(Clone, Copy, Debug)]
pub struct BodyLimits {
    /// Bytes as sent.
    pub bytes: usize,
    /// Bytes after decompression (gzip or br).
    pub decompressed_bytes: usize,
    /// Maximum ratio of decompressed to compressed size.
    pub decompression_ratio: usize,
    /// The limits on the structure of JSON.
    pub json: Limits,
    /// The time limits on receiving it.
    pub pace: Pace,
}

/// Time limits on receiving a body.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Maximum time between two pieces.
    pub idle: Duration,
    /// From the start of reading to the last byte.
    pub timeout: Duration,
    /// Bytes a second, on average from the start of reading.
    pub min_rate: usize,
    /// Time before [`Pace::min_rate`] is enforced.
    pub grace: Duration,
}

impl Pace {
    /// The deadline for the next byte, and the error if it is missed.
    fn deadline(&self, started: Instant, now: Instant, received: usize) -> (Instant, impl FnOnce() -> Error + use<>) {
        let by_rate = self.grace + Duration::from_secs_f64(received as f64 / self.min_rate.max(1) as f64);
        let limits = [now + self.idle, started + self.timeout, started + by_rate];
        let deadline = limits.into_iter().min().unwrap_or(now);
        let pace = *self;
        let refusal = move || {
            Error::new(
                &request::BODY_TOO_SLOW,
                if deadline == limits[0] {
                    format!("no byte of the body arrived for {} s; send it without pauses", pace.idle.as_secs_f32())
                } else if deadline == limits[1] {
                    format!(
                        "the body was not complete after {} s; send it faster or in parts",
                        pace.timeout.as_secs_f32()
                    )
                } else {
                    format!("the body arrives at less than {} bytes per second; send it faster", pace.min_rate)
                },
            )
        };
        (deadline, refusal)
    }
}

/// A parsed body.
pub struct ParsedBody {
    /// `None` for an empty one.
    pub value: Option<Value>,
    /// Whether it has more than [`LARGE_BYTES`] bytes after decompression.
    pub is_large: bool,
}

/// Reads and parses a body. Its memory is added to the reservation, which must live as long as the value. `workers` limits
/// how many large or compressed bodies are processed concurrently.
pub async fn read_json(
    headers: &HeaderMap,
    body: ClientBody,
    limits: BodyLimits,
    reservation: &mut Reservation,
    workers: &Semaphore,
) -> Result<ParsedBody> {
    let coding = Coding::of(headers)?;
    let announced = headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    if announced.is_some_and(|length| length > limits.bytes as u64) {
        return Err(too_large(limits.bytes));
    }
    let sent = collect(body, announced, &limits, reservation).await?;
    let is_compressed = !matches!(coding, Coding::Identity) && !sent.is_empty();
    if !is_compressed && sent.len() <= LARGE_BYTES {
        reservation.grow(json::estimate_memory(&sent, limits.json)).await?;
        return Ok(ParsedBody { value: parse(&sent, limits.json)?, is_large: false });
    }
    // Memory is reserved before a permit is acquired: a request that waits for memory must not block those that have it.
    let bytes = if is_compressed { decompress(coding, sent, &limits, reservation, workers).await? } else { sent };
    let is_large = bytes.len() > LARGE_BYTES;
    reservation.grow(json::estimate_memory(&bytes, limits.json)).await?;
    let text_bytes = bytes.len();
    let value = run_on_worker(workers, move || parse(&bytes, limits.json)).await?;
    // The text was dropped; the values remain.
    reservation.shrink_to(reservation.bytes().saturating_sub(text_bytes));
    Ok(ParsedBody { value, is_large })
}

/// Checks the body of a call in process against the limits of request bodies. Returns whether it is larger than
/// [`LARGE_BYTES`].
pub fn check_in_process_body(body: &Value, limits: BodyLimits) -> Result<bool> {
    if !json::is_within_depth(body, limits.json.depth) {
        let reason = format!("the body is nested deeper than {} levels", limits.json.depth);
        return Err(Error::new(&request::INVALID_BODY, reason));
    }
    if json::count(body) > limits.json.values {
        return Err(too_many_values(limits.json.values));
    }
    let mut length = ByteCounter(0);
    serde_json::to_writer(&mut length, body).map_err(Error::internal)?;
    if length.0 > limits.bytes {
        return Err(too_large(limits.bytes));
    }
    Ok(length.0 > LARGE_BYTES)
}

/// A writer that counts bytes.
struct ByteCounter(usize);

impl std::io::Write for ByteCounter {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0 += bytes.len();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Runs the work on a blocking thread, once it has a permit.
async fn run_on_worker<T: Send + 'static>(
    workers: &Semaphore,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let _permit = workers.acquire().await.map_err(Error::internal)?;
    tokio::task::spawn_blocking(work).await.map_err(Error::internal)?
}

fn parse(bytes: &[u8], limits: Limits) -> Result<Option<Value>> {
    json::parse(bytes, limits).map_err(|refused| match refused {
        JsonError::Invalid(reason) => Error::new(&request::INVALID_BODY, reason.0),
        JsonError::TooManyValues(most) => too_many_values(most),
    })
}

fn too_many_values(max: usize) -> Error {
    Error::new(
        &request::TOO_MANY_VALUES,
        format!("the body has more than {max} JSON values, the limit of this operation; send it in parts"),
    )
}

/// Receives a body; `announced` is its length if that is known.
async fn collect(
    mut body: ClientBody,
    announced: Option<u64>,
    limits: &BodyLimits,
    reservation: &mut Reservation,
) -> Result<Bytes> {
    let expected = announced.map_or(limits.bytes, |length| length as usize);
    let started = Instant::now();
    let mut whole = BytesMut::new();
    loop {
        let (deadline, refusal) = limits.pace.deadline(started, Instant::now(), whole.len());
        let frame = match timeout_at(deadline, body.frame()).await {
            Err(_) => return Err(refusal()),
            Ok(None) => {
                reservation.arrived();
                return Ok(whole.freeze());
            }
            Ok(Some(Err(error))) => {
                return Err(Error::new(&request::INVALID_BODY, "the body ended too early").with_cause(error));
            }
            Ok(Some(Ok(frame))) => frame,
        };
        let Ok(data): Result<Bytes, _> = frame.into_data() else { continue };
        let length = whole.len() + data.len();
        if length > limits.bytes {
            return Err(too_large(limits.bytes));
        }
        if length > whole.capacity() {
            let capacity = (whole.capacity() * 2).max(MIN_GROWTH_BYTES).min(expected).max(length);
            reservation.grow_arriving(capacity - whole.capacity()).await?;
            whole.reserve(capacity - whole.len());
        }
        whole.extend_from_slice(&data);
    }
}

fn too_large(limit: usize) -> Error {
    Error::new(&request::BODY_TOO_LARGE, format!("the body is larger than {limit} bytes, the limit of this operation"))
}

async fn decompress(
    coding: Coding,
    sent: Bytes,
    limits: &BodyLimits,
    reservation: &mut Reservation,
    workers: &Semaphore,
) -> Result<Bytes> {
    let sent_bytes = reservation.bytes();
    let by_ratio = sent.len().saturating_mul(limits.decompression_ratio).max(RATIO_EXEMPT_BYTES);
    let most = by_ratio.min(limits.decompressed_bytes);
    // One more byte shows that the limit is exceeded.
    reservation.grow(most + 1).await?;
    let bytes = run_on_worker(workers, move || coding.decompress(&sent, most)).await?;
    if bytes.len() > most {
        return Err(Error::new(
            &request::BODY_TOO_LARGE,
            if most == by_ratio {
                let ratio = limits.decompression_ratio;
                format!("the body decompresses to more than {ratio} times its size; send it uncompressed or in parts")
            } else {
                format!("the body decompresses to more than {most} bytes, the limit of this operation")
            },
        ));
    }
    // The compressed bytes were dropped.
    reservation.shrink_to(reservation.bytes() - sent_bytes - (most + 1 - bytes.len()));
    Ok(bytes.into())
}

#[derive(Clone, Copy)]
enum Coding {
    Identity,
    Gzip,
    Brotli,
}

impl Coding {
    fn of(headers: &HeaderMap) -> Result<Coding> {
        let mut codings = headers.get_all(header::CONTENT_ENCODING).iter();
        let Some(value) = codings.next() else { return Ok(Coding::Identity) };
        let refused = || Error::new(&request::INVALID_BODY, "Content-Encoding must be one of gzip, br and identity");
        if codings.next().is_some() {
            return Err(refused());
        }
        match value.to_str().unwrap_or_default().trim().to_ascii_lowercase().as_str() {
            "" | "identity" => Ok(Coding::Identity),
            "gzip" | "x-gzip" => Ok(Coding::Gzip),
            "br" => Ok(Coding::Brotli),
            _ => Err(refused()),
        }
    }

    /// Decompresses at most `max + 1` bytes.
    fn decompress(self, sent: &[u8], max: usize) -> Result<Vec<u8>> {
        match self {
            Coding::Identity => Ok(sent.to_vec()),
            // Only one member, as clients send: a body of many empty ones would waste time.
            Coding::Gzip => read_at_most(flate2::read::GzDecoder::new(sent), max, "gzip"),
            Coding::Brotli => read_at_most(brotli_decompressor::Decompressor::new(sent, 4096), max, "br"),
        }
    }
}

fn read_at_most(mut reader: impl Read, most: usize, coding: &str) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    // Grown explicitly: a vector that grows by itself may allocate twice what was reserved in the budget.
    while bytes.len() <= most {
        let step = bytes.len().max(MIN_GROWTH_BYTES).min(most + 1 - bytes.len());
        bytes.reserve_exact(step);
        let read = (&mut reader).take(step as u64).read_to_end(&mut bytes);
        let read = read.map_err(|error| {
            Error::new(&request::INVALID_BODY, format!("the body is not valid {coding}")).with_cause(error)
        })?;
        if read < step {
            break;
        }
    }
    Ok(bytes)
}
