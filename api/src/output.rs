//! Operation outputs: the success status and the body, encoded by the server and decoded by the client.

use std::{
    hash::{DefaultHasher, Hasher},
    io,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Serialize, de::DeserializeOwned};

/// The status and schemas of an output, for the OpenAPI document.
pub struct OutputSchema {
    /// The HTTP status of a successful response.
    pub status: u16,
    /// Content type and schema, if there is a body.
    pub body: Option<(&'static str, Schema)>,
    /// How it is streamed, if it is.
    pub stream: Option<Stream>,
}

/// How an output is streamed. A stream has no size limit; the client reads it incrementally.
#[derive(Clone, Debug)]
pub enum Stream {
    /// [`Events`](crate::Events), with the names of the events and the schemas of their data.
    Events(Vec<(&'static str, Schema)>),
    /// [`Download`].
    Download,
}

impl Stream {
    /// The value of `x-stream` in the OpenAPI document.
    pub fn kind(&self) -> &'static str {
        match self {
            Stream::Events(_) => "events",
            Stream::Download => "download",
        }
    }
}

/// An encoded response body.
pub struct Encoded {
    /// The value of the header `Content-Type`.
    pub content_type: &'static str,
    /// The bytes of the body, or their source.
    pub body: EncodedBody,
}

/// The bytes of a body, or a source that produces them while they are sent.
pub enum EncodedBody {
    /// Encoded for this response.
    Whole(Bytes),
    /// Shared by every response.
    Shared(SharedDocument),
    /// Chunks in order; the first error ends the body.
    Chunks {
        /// The chunks.
        pieces: ChunkIterator,
        /// Approximate bytes of memory that the source holds.
        held: usize,
    },
    /// Chunks that are produced asynchronously.
    Stream {
        /// The chunks; `None` after the last one.
        pieces: ChunkStream,
        /// Approximate bytes of memory that the source holds.
        held: usize,
    },
}

/// Asynchronously produced chunks of a body, polled like a stream.
pub type ChunkStream = Box<dyn FnMut(&mut Context<'_>) -> Poll<Option<io::Result<Bytes>>> + Send>;

/// Lazily produced chunks of a body.
pub type ChunkIterator = Box<dyn Iterator<Item = Result<Bytes, serde_json::Error>> + Send>;

impl Encoded {
    /// A body that is encoded completely.
    pub fn whole(content_type: &'static str, bytes: impl Into<Bytes>) -> Encoded {
        Encoded { content_type, body: EncodedBody::Whole(bytes.into()) }
    }

    fn shared(content_type: &'static str, document: SharedDocument) -> Encoded {
        Encoded { content_type, body: EncodedBody::Shared(document) }
    }
}

/// A static document, shared by all responses, with its entity tag.
#[derive(Clone, Debug, PartialEq)]
pub struct SharedDocument {
    /// The encoded document.
    pub bytes: Bytes,
    /// A strong validator, in quotes (RFC 9110, 8.8.3).
    pub etag: Arc<str>,
}

impl SharedDocument {
    /// Takes an encoded document and computes its entity tag from the content.
    pub fn new(bytes: impl Into<Bytes>) -> SharedDocument {
        let bytes = bytes.into();
        // `DefaultHasher::new` uses fixed keys, so the tag is the same in every process.
        let mut hasher = DefaultHasher::new();
        hasher.write(&bytes);
        SharedDocument { etag: format!("\"{:016x}\"", hasher.finish()).into(), bytes }
    }
}

/// The output of an operation: its success status and body.
pub trait Output: Sized + Send + 'static {
    /// The status and schemas of this output; `generator` collects the definitions that they reference.
    fn describe(generator: &mut SchemaGenerator) -> OutputSchema;
    /// Encodes the body; `None` if there is none.
    fn encode(self) -> Result<Option<Encoded>, serde_json::Error>;
    /// Decodes a complete body; fails if it does not match the type.
    fn decode(bytes: &[u8]) -> Result<Self, serde_json::Error>;
    /// The HTTP status of the response.
    const STATUS: u16;
}

/// The content type of JSON (RFC 8259).
pub const JSON: &str = "application/json";
const OCTET_STREAM: &str = "application/octet-stream";

macro_rules! json_output {
    ($($(#[doc = $doc:literal])+ $name:ident $status:literal;)*) => {
        $(
            $(#[doc = $doc])+
            #[derive(Clone, Debug, PartialEq)]
            pub struct $name<T>(pub T);

            impl<T: Serialize + DeserializeOwned + JsonSchema + Send + 'static> Output for $name<T> {
                const STATUS: u16 = $status;
                fn describe(generator: &mut SchemaGenerator) -> OutputSchema {
                    OutputSchema { status: $status, body: Some((JSON, generator.subschema_for::<T>())), stream: None }
                }
                fn encode(self) -> Result<Option<Encoded>, serde_json::Error> {
                    Ok(Some(Encoded::whole(JSON, serde_json::to_vec(&self.0)?)))
                }
                fn decode(bytes: &[u8]) -> Result<Self, serde_json::Error> {
                    serde_json::from_slice(bytes).map($name)
                }
            }
        )*
    };
}

json_output! {
    /// 200 with a JSON body.
    Json 200;
    /// 201 with a JSON body.
    Created 201;
}

/// 204.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoContent;

impl Output for NoContent {
    const STATUS: u16 = 204;
    fn describe(_: &mut SchemaGenerator) -> OutputSchema {
        OutputSchema { status: 204, body: None, stream: None }
    }
    fn encode(self) -> Result<Option<Encoded>, serde_json::Error> {
        Ok(None)
    }
    fn decode(_: &[u8]) -> Result<Self, serde_json::Error> {
        Ok(NoContent)
    }
}

macro_rules! text_output {
    ($($(#[doc = $doc:literal])+ $name:ident $held:ident $content:ident $content_type:literal;)*) => {
        $(
            $(#[doc = $doc])+
            #[derive(Clone, Debug, PartialEq)]
            pub struct $name(pub $content);

            impl Output for $name {
                const STATUS: u16 = 200;
                fn describe(_: &mut SchemaGenerator) -> OutputSchema {
                    let media_type = $content_type.split(';').next().unwrap_or($content_type);
                    let schema = schemars::json_schema!({ "type": "string" });
                    OutputSchema { status: 200, body: Some((media_type, schema)), stream: None }
                }
                fn encode(self) -> Result<Option<Encoded>, serde_json::Error> {
                    Ok(Some(Encoded::$held($content_type, self.0)))
                }
                fn decode(bytes: &[u8]) -> Result<Self, serde_json::Error> {
                    Ok($name(Bytes::copy_from_slice(bytes).into()))
                }
            }
        )*
    };
}

impl From<Bytes> for SharedDocument {
    fn from(bytes: Bytes) -> SharedDocument {
        SharedDocument::new(bytes)
    }
}

text_output! {
    /// 200 with a static HTML page.
    Html shared SharedDocument "text/html; charset=utf-8";
    /// 200 with metrics in the Prometheus text format 0.0.4.
    PrometheusText whole Bytes "text/plain; version=0.0.4; charset=utf-8";
}

/// 200 with binary data of any size, sent as it is produced.
pub struct Download {
    /// The data in order; the first error ends the download.
    pub pieces: ChunkStream,
    /// Approximate bytes of memory that `pieces` uses at any time.
    pub held: usize,
}

impl Output for Download {
    const STATUS: u16 = 200;
    fn describe(_: &mut SchemaGenerator) -> OutputSchema {
        let schema = schemars::json_schema!({ "type": "string", "format": "binary" });
        OutputSchema { status: 200, body: Some((OCTET_STREAM, schema)), stream: Some(Stream::Download) }
    }
    fn encode(self) -> Result<Option<Encoded>, serde_json::Error> {
        let Download { pieces, held } = self;
        Ok(Some(Encoded { content_type: OCTET_STREAM, body: EncodedBody::Stream { pieces, held } }))
    }
    fn decode(bytes: &[u8]) -> Result<Self, serde_json::Error> {
        Ok(Download { held: bytes.len(), pieces: single_chunk(bytes) })
    }
}

/// A complete body as a single chunk.
pub(crate) fn single_chunk(bytes: &[u8]) -> ChunkStream {
    let mut whole = Some(Ok(Bytes::copy_from_slice(bytes)));
    Box::new(move |_| Poll::Ready(whole.take()))
}

/// 200 with a JSON document that is encoded once and shared by all responses.
#[derive(Clone, Debug, PartialEq)]
pub struct SharedJson(pub SharedDocument);

impl Output for SharedJson {
    const STATUS: u16 = 200;
    fn describe(generator: &mut SchemaGenerator) -> OutputSchema {
        let schema = generator.subschema_for::<serde_json::Value>();
        OutputSchema { status: 200, body: Some((JSON, schema)), stream: None }
    }
    fn encode(self) -> Result<Option<Encoded>, serde_json::Error> {
        Ok(Some(Encoded::shared(JSON, self.0)))
    }
    fn decode(bytes: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice::<serde::de::IgnoredAny>(bytes)?;
        Ok(SharedJson(Bytes::copy_from_slice(bytes).into()))
    }
}

/// A JSON response that consists of one possibly long list. The server encodes it item by item while the client reads,
/// so that it is never in memory as a whole and its encoding does not block other requests.
pub trait LongList: Send + 'static {
    /// An element of the list.
    type Item: Serialize + Send + 'static;
    /// The key of the list in the JSON object.
    const KEY: &'static str;
}

/// The items of a [`LongList`], each created when it is encoded.
pub struct Items<T: LongList> {
    items: Box<dyn Iterator<Item = T::Item> + Send>,
    held: usize,
}

impl<T: LongList> Items<T> {
    /// Creates each item from its source with `encode` when it is sent; `held` is the approximate size of the sources in
    /// bytes. A source for which `encode` returns `None`, because its item no longer exists, is skipped.
    pub fn new<S: Send + 'static>(
        sources: Vec<S>,
        held: usize,
        encode: impl FnMut(S) -> Option<T::Item> + Send + 'static,
    ) -> Items<T> {
        Items { items: Box::new(sources.into_iter().filter_map(encode)), held }
    }

    /// Encodes `{"KEY":[…]}`, or `{}` for an empty list. A list that fits one chunk is sent as a whole.
    pub fn encode(self) -> Result<Encoded, serde_json::Error> {
        let mut items = self.items.peekable();
        if items.peek().is_none() {
            return Ok(Encoded::whole(JSON, Bytes::from_static(b"{}")));
        }
        let start = format!("{{\"{}\":[", T::KEY).into_bytes();
        let mut pieces = ListChunks { items, next: Some(start) };
        let first = pieces.next().transpose()?.unwrap_or_default();
        if pieces.next.is_none() {
            return Ok(Encoded::whole(JSON, first));
        }
        let pieces = Box::new(std::iter::once(Ok(first)).chain(pieces));
        Ok(Encoded { content_type: JSON, body: EncodedBody::Chunks { pieces, held: self.held + CHUNK_BYTES } })
    }
}

/// Approximate bytes per chunk of a long list.
const CHUNK_BYTES: usize = 32 << 10;

struct ListChunks<I: Iterator> {
    items: std::iter::Peekable<I>,
    /// The beginning of the next chunk; `None` after the last one.
    next: Option<Vec<u8>>,
}

impl<I: Iterator<Item: Serialize>> Iterator for ListChunks<I> {
    type Item = Result<Bytes, serde_json::Error>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut piece = self.next.take()?;
        while let Some(item) = self.items.next() {
            if let Err(error) = serde_json::to_writer(&mut piece, &item) {
                return Some(Err(error));
            }
            if self.items.peek().is_some() {
                piece.push(b',');
                if piece.len() >= CHUNK_BYTES {
                    self.next = Some(Vec::with_capacity(CHUNK_BYTES));
                    return Some(Ok(piece.into()));
                }
            }
        }
        piece.extend_from_slice(b"]}");
        Some(Ok(piece.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Numbers;

    impl LongList for Numbers {
        type Item = usize;
        const KEY: &'static str = "numbers";
    }

    #[test]
    fn a_list_in_pieces_is_the_list() {
        for count in [0, 1, 2, 5000, 100_000] {
            let (mut text, mut chunk_count) = (Vec::new(), 0);
            let items = Items::<Numbers>::new((0..count).collect(), 0, Some);
            match items.encode().unwrap().body {
                EncodedBody::Whole(bytes) => text.extend(bytes),
                EncodedBody::Shared(_) | EncodedBody::Stream { .. } => unreachable!("a list is encoded per response"),
                EncodedBody::Chunks { pieces: all, .. } => {
                    for piece in all {
                        let piece = piece.unwrap();
                        assert!(piece.len() < CHUNK_BYTES + 32);
                        text.extend(piece);
                        chunk_count += 1;
                    }
                }
            }
            let want = match count {
                0 => serde_json::json!({}),
                _ => serde_json::json!({ "numbers": (0..count).collect::<Vec<_>>() }),
            };
            assert_eq!(serde_json::from_slice::<serde_json::Value>(&text).unwrap(), want, "{count}");
            assert_eq!(chunk_count > 1, count > 50_000, "{count}: {chunk_count}");
        }
    }
}
