//! Reads the body of a built-in operation's request within its limits (contract decisions 3 and 23): packed size,
//! unpacked size, and how long it may be silent.

use std::{io::Read, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, header};
use http_body_util::BodyExt;
use tokio::sync::Semaphore;

use crate::{ClientBody, Error, Result};

pub struct BodyLimits {
    /// Bytes as sent.
    pub packed: usize,
    /// Bytes after gzip or br.
    pub unpacked: usize,
    /// The longest silence between two pieces.
    pub idle: Duration,
}

/// The body, unpacked in one of the turns that `unpacking` has.
pub async fn read_body(
    headers: &HeaderMap,
    body: ClientBody,
    limits: &BodyLimits,
    unpacking: &Semaphore,
) -> Result<Vec<u8>> {
    let coding = Coding::of(headers)?;
    let announced = headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    if announced.is_some_and(|length| length > limits.packed as u64) {
        return Err(too_large(limits.packed));
    }
    let packed = collect(body, limits).await?;
    match coding {
        Coding::Identity => Ok(packed),
        _ if packed.is_empty() => Ok(packed),
        // Unpacking 16 MiB takes tens of milliseconds: not on a thread that serves requests.
        coding => {
            let limit = limits.unpacked;
            let _turn = unpacking.acquire().await.map_err(Error::internal)?;
            tokio::task::spawn_blocking(move || coding.unpack(&packed, limit)).await.map_err(Error::internal)?
        }
    }
}

async fn collect(mut body: ClientBody, limits: &BodyLimits) -> Result<Vec<u8>> {
    let mut whole = Vec::new();
    loop {
        let frame = match tokio::time::timeout(limits.idle, body.frame()).await {
            Err(_) => {
                return Err(Error::timed_out(format!(
                    "no byte of the body came for {} s; send it without such a pause",
                    limits.idle.as_secs_f32()
                )));
            }
            Ok(None) => return Ok(whole),
            Ok(Some(Err(error))) => return Err(Error::invalid("the body ended too early").because(error)),
            Ok(Some(Ok(frame))) => frame,
        };
        let Ok(data): Result<Bytes, _> = frame.into_data() else { continue };
        if whole.len() + data.len() > limits.packed {
            return Err(too_large(limits.packed));
        }
        whole.extend_from_slice(&data);
    }
}

fn too_large(limit: usize) -> Error {
    Error::too_large(format!("the body is larger than {limit} bytes, the limit of this operation"))
}

enum Coding {
    Identity,
    Gzip,
    Brotli,
}

impl Coding {
    fn of(headers: &HeaderMap) -> Result<Coding> {
        let mut codings = headers.get_all(header::CONTENT_ENCODING).iter();
        let Some(value) = codings.next() else { return Ok(Coding::Identity) };
        let refused = || Error::invalid("Content-Encoding may be gzip, br or identity, and only one of them");
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

    fn unpack(&self, packed: &[u8], limit: usize) -> Result<Vec<u8>> {
        match self {
            Coding::Identity => Ok(packed.to_vec()),
            // One member, as clients send: a body of many empty ones would cost time and give nothing.
            Coding::Gzip => read_at_most(flate2::read::GzDecoder::new(packed), limit, "gzip"),
            Coding::Brotli => read_at_most(brotli_decompressor::Decompressor::new(packed, 4096), limit, "br"),
        }
    }
}

fn read_at_most(reader: impl Read, limit: usize, coding: &str) -> Result<Vec<u8>> {
    let mut unpacked = Vec::new();
    reader
        .take(limit as u64 + 1)
        .read_to_end(&mut unpacked)
        .map_err(|error| Error::invalid(format!("the body is not valid {coding}")).because(error))?;
    if unpacked.len() > limit {
        return Err(Error::too_large(format!(
            "the body unpacks to more than {limit} bytes, the limit of this operation"
        )));
    }
    Ok(unpacked)
}
