//! Server-sent events: encoding for the server and decoding for the client, per the WHATWG HTML Standard, section 9.2
//! (<https://html.spec.whatwg.org/multipage/server-sent-events.html>).

use std::{fmt, marker::PhantomData, time::Duration};

use bytes::Bytes;
use schemars::{JsonSchema, SchemaGenerator};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::output::{ChunkStream, Encoded, EncodedBody, Output, OutputSchema, Stream, single_chunk};

/// The media type of an event stream.
pub const EVENT_STREAM: &str = "text/event-stream";
/// A comment line, which clients ignore. It shows both sides that the connection is alive.
pub const HEARTBEAT: &[u8] = b":\n\n";

/// The data of one kind of event, sent as JSON.
pub trait Event: Serialize + DeserializeOwned + JsonSchema + Send + Sync + 'static {
    /// The value of the `event` field.
    const NAME: &'static str;
}

/// 200 with events as they happen, until either side closes the stream. Besides events of type `T` a client may receive
/// [`MissedEvents`]; it ignores events with unknown names.
pub struct Events<T> {
    pieces: ChunkStream,
    held: usize,
    types: PhantomData<fn() -> T>,
}

/// The number of events that were dropped because the client reads too slowly. Sent before the next event.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct MissedEvents {
    /// Number of dropped events.
    pub count: u64,
}

impl Event for MissedEvents {
    const NAME: &'static str = "missed";
}

impl<T: Event> Events<T> {
    /// `held`: approximate bytes of memory that `pieces` uses at any time.
    pub fn new(pieces: ChunkStream, held: usize) -> Events<T> {
        Events { pieces, held, types: PhantomData }
    }
}

impl<T: Event> Output for Events<T> {
    const STATUS: u16 = 200;
    fn describe(generator: &mut SchemaGenerator) -> OutputSchema {
        let schema = generator.subschema_for::<T>();
        let events = vec![(T::NAME, schema.clone()), (MissedEvents::NAME, generator.subschema_for::<MissedEvents>())];
        OutputSchema { status: 200, body: Some((EVENT_STREAM, schema)), stream: Some(Stream::Events(events)) }
    }
    fn encode(self) -> Result<Option<Encoded>, serde_json::Error> {
        let Events { pieces, held, .. } = self;
        Ok(Some(Encoded { content_type: EVENT_STREAM, body: EncodedBody::Stream { pieces, held } }))
    }
    fn decode(bytes: &[u8]) -> Result<Self, serde_json::Error> {
        Ok(Events::new(single_chunk(bytes), bytes.len()))
    }
}

/// Encodes an event for sending.
pub fn encode<T: Event>(event: &T) -> Result<Bytes, serde_json::Error> {
    let mut text = format!("event: {}\ndata: ", T::NAME).into_bytes();
    // JSON escapes line breaks, so the whole value fits one `data` field.
    serde_json::to_writer(&mut text, event)?;
    text.extend_from_slice(b"\n\n");
    Ok(text.into())
}

/// Encodes the reconnection delay that clients use after the stream has ended.
pub fn encode_retry(pause: Duration) -> Bytes {
    format!("retry: {}\n\n", pause.as_millis()).into()
}

/// A received event.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReceivedEvent {
    /// The `event` field; empty if there was none, which means `message`.
    pub name: String,
    /// The lines of its data, joined by line feeds.
    pub data: String,
}

/// An event exceeded the reader's size limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventTooLong {
    /// The limit in bytes.
    pub limit: usize,
}

impl fmt::Display for EventTooLong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "an event exceeds the client's limit of {} bytes", self.limit)
    }
}

/// Incremental parser of an event stream, which accepts chunks of any size.
pub struct EventReader {
    limit: usize,
    /// The incomplete last line.
    line: Vec<u8>,
    /// The last byte was a carriage return, which ended a line; a line feed that follows is part of the same line ending.
    is_after_cr: bool,
    has_begun: bool,
    name: String,
    data: String,
    retry: Option<Duration>,
}

impl EventReader {
    /// `limit`: maximum bytes of one event, and of one line.
    pub fn new(limit: usize) -> EventReader {
        EventReader {
            limit,
            line: Vec::new(),
            is_after_cr: false,
            has_begun: false,
            name: String::new(),
            data: String::new(),
            retry: None,
        }
    }

    /// The reconnection delay that the server requested, if any.
    pub fn retry(&self) -> Option<Duration> {
        self.retry
    }

    /// Parses a chunk and appends the events that it completes to `events`. An event that is incomplete at the end of the
    /// stream is discarded.
    pub fn read(&mut self, mut piece: &[u8], events: &mut Vec<ReceivedEvent>) -> Result<(), EventTooLong> {
        while !piece.is_empty() {
            if std::mem::take(&mut self.is_after_cr) && piece[0] == b'\n' {
                piece = &piece[1..];
                continue;
            }
            let end = piece.iter().position(|byte| matches!(byte, b'\r' | b'\n'));
            let part = &piece[..end.unwrap_or(piece.len())];
            if self.line.len() + self.data.len() + part.len() > self.limit {
                return Err(EventTooLong { limit: self.limit });
            }
            self.line.extend_from_slice(part);
            let Some(end) = end else { return Ok(()) };
            self.is_after_cr = piece[end] == b'\r';
            piece = &piece[end + 1..];
            let line = std::mem::take(&mut self.line);
            events.extend(self.take_line(&line));
        }
        Ok(())
    }

    /// Parses one line; returns the event that it completes.
    fn take_line(&mut self, mut line: &[u8]) -> Option<ReceivedEvent> {
        if !std::mem::replace(&mut self.has_begun, true) {
            line = line.strip_prefix("\u{feff}".as_bytes()).unwrap_or(line);
        }
        if line.is_empty() {
            let (name, mut data) = (std::mem::take(&mut self.name), std::mem::take(&mut self.data));
            // Each data line has appended a line feed; the last one is removed.
            return data.pop().map(|_| ReceivedEvent { name, data });
        }
        let line = String::from_utf8_lossy(line);
        let (field, value) = line.split_once(':').unwrap_or((&line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => value.clone_into(&mut self.name),
            "data" => {
                self.data.push_str(value);
                self.data.push('\n');
            }
            "retry" if !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit()) => {
                self.retry = Some(Duration::from_millis(value.parse().unwrap_or(u64::MAX)));
            }
            // Comments have an empty field name. Event ids are ignored, since this client does not resume from an id.
            _ => {}
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pieces: &[&[u8]]) -> (Vec<ReceivedEvent>, Option<Duration>) {
        let (mut reader, mut events) = (EventReader::new(1000), Vec::new());
        pieces.iter().for_each(|piece| reader.read(piece, &mut events).unwrap());
        (events, reader.retry())
    }

    /// Streams with the names and data of their events, mostly the examples of the standard.
    const STREAMS: &[(&str, &[(&str, &str)])] = &[
        ("data: a\n\n", &[("", "a")]),
        ("\u{feff}data: a\n\n\u{feff}data: b\n\n", &[("", "a")]),
        ("event: add\ndata: 73857293\n\nevent: remove\rdata: 2153\r\r", &[("add", "73857293"), ("remove", "2153")]),
        ("data: YHOO\r\ndata: +2\r\ndata:   10\r\n\r\n", &[("", "YHOO\n+2\n  10")]),
        (
            ": test stream\n\ndata: first event\nid: 1\n\ndata:second event\nid\n\ndata:  third event",
            &[("", "first event"), ("", "second event")],
        ),
        ("data\n\ndata\ndata\n\ndata:", &[("", ""), ("", "\n")]),
        ("data:test\n\ndata: test\n\n", &[("", "test"), ("", "test")]),
        ("event: lost\n\ndata: x\n\n", &[("", "x")]),
        ("event: a\nevent: b\ndata: x\n\r\n\n", &[("b", "x")]),
        ("data: ä€😀\nDATA: no\nother: no\n\n", &[("", "ä€😀")]),
        ("\r\r\n\ndata: a:b\n\n", &[("", "a:b")]),
    ];

    #[test]
    fn a_stream_is_read_alike_wherever_it_is_cut() {
        for (text, want) in STREAMS {
            let bytes = text.as_bytes();
            let want: Vec<_> =
                want.iter().map(|(name, data)| ReceivedEvent { name: (*name).into(), data: (*data).into() }).collect();
            assert_eq!(read(&[bytes]).0, want, "{text:?}");
            for first in 0..=bytes.len() {
                for second in first..=bytes.len() {
                    let pieces = [&bytes[..first], &bytes[first..second], &bytes[second..]];
                    assert_eq!(read(&pieces).0, want, "{text:?} cut at {first} and {second}");
                }
            }
            let single: Vec<&[u8]> = bytes.chunks(1).collect();
            assert_eq!(read(&single).0, want, "{text:?} byte by byte");
        }
    }

    /// All sequences of four significant tokens: splitting the stream anywhere changes nothing, and the events equal those
    /// of parsing the whole text line by line.
    #[test]
    fn no_stream_of_a_few_tokens_is_read_otherwise_than_the_grammar_says() {
        let tokens: [&[u8]; 8] = [b"\r", b"\n", b"data", b"event", b":", b" ", b"x", "\u{feff}".as_bytes()];
        for number in 0..8_usize.pow(4) {
            let picked = (0..4).map(|place| tokens[number / 8_usize.pow(place) % 8]);
            let text = [&picked.collect::<Vec<_>>().concat()[..], b"\ndata:end\n\n"].concat();
            let whole = read(&[&text]).0;
            assert_eq!(whole, by_lines(std::str::from_utf8(&text).unwrap()), "{text:?}");
            for cut in 0..text.len() {
                assert_eq!(read(&[&text[..cut], &text[cut..]]).0, whole, "{text:?} cut at {cut}");
            }
        }
    }

    /// Reference parser: the grammar of the standard applied to the whole text.
    fn by_lines(text: &str) -> Vec<ReceivedEvent> {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text).replace("\r\n", "\n").replace('\r', "\n");
        let mut events = Vec::new();
        for block in text.split("\n\n") {
            let (mut name, mut data) = (String::new(), Vec::new());
            for line in block.split('\n') {
                let (field, value) = line.split_once(':').unwrap_or((line, ""));
                let value = value.strip_prefix(' ').unwrap_or(value).to_owned();
                match field {
                    "event" => name = value,
                    "data" => data.push(value),
                    _ => {}
                }
            }
            if !data.is_empty() {
                events.push(ReceivedEvent { name, data: data.join("\n") });
            }
        }
        events
    }

    #[test]
    fn what_is_encoded_is_read_back() {
        let text = [&encode(&MissedEvents { count: 7 }).unwrap()[..], HEARTBEAT, &encode_retry(Duration::from_secs(2))];
        let (events, retry) = read(&text);
        assert_eq!(events, [ReceivedEvent { name: "missed".into(), data: "{\"count\":7}".into() }]);
        assert_eq!(retry, Some(Duration::from_secs(2)));
        for text in ["retry: x\n\n", "retry: -1\n\n", "retry\n\n", "retry: 1.5\n\n"] {
            assert_eq!(read(&[text.as_bytes()]).1, None, "{text}");
        }
    }

    #[test]
    fn an_event_has_a_bound_in_one_line_and_in_many() {
        let long = format!("data: {}", "x".repeat(2000));
        for text in [long, "data: 1234567890\n".repeat(100)] {
            let (mut reader, mut events) = (EventReader::new(1000), Vec::new());
            let pieces = text.as_bytes().chunks(7).try_for_each(|piece| reader.read(piece, &mut events));
            assert_eq!(pieces, Err(EventTooLong { limit: 1000 }));
            assert!(reader.line.len() + reader.data.len() <= 1000);
        }
    }
}
