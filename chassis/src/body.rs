//! The response body of a built-in operation.

use std::{
    collections::VecDeque,
    io,
    pin::Pin,
    sync::LazyLock,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
pub use openorch_api::output::EncodedBody;
use openorch_api::output::{ChunkIterator, ChunkStream};
use tokio::{sync::Semaphore, task::spawn_blocking};

use crate::{BoxFuture, budget::Reservation};

/// Maximum bytes of a frame: a large body is passed to the connection in slices, so that the client's progress is visible.
const MAX_FRAME_BYTES: usize = 64 << 10;

/// Complete bytes, or pieces produced while the client reads.
pub struct Body {
    kind: Kind,
    /// For the data from which pieces are encoded; complete bytes own their reservation.
    _reservation: Option<Reservation>,
}

enum Kind {
    /// Owned by this response, or too small to be counted.
    Whole(Bytes),
    /// Shared by all responses.
    Shared(Bytes),
    Pieces {
        list: PieceStream,
        held: usize,
    },
    /// `None` after its end or an error.
    Awaited {
        pieces: Option<ChunkStream>,
        held: usize,
    },
}

/// Smaller bodies are not counted: the limit on concurrent requests bounds them.
const UNCOUNTED_BYTES: usize = 4 << 10;

impl Body {
    /// Bytes of memory that this response holds until it is read, without shared ones.
    pub fn counted_bytes(&self) -> usize {
        match &self.kind {
            Kind::Whole(bytes) if bytes.len() > UNCOUNTED_BYTES => bytes.len(),
            Kind::Whole(_) | Kind::Shared(_) => 0,
            Kind::Pieces { held, .. } | Kind::Awaited { held, .. } => *held,
        }
    }

    /// Whether it is produced while the client reads, and so may take long.
    pub fn is_streamed(&self) -> bool {
        matches!(self.kind, Kind::Pieces { .. } | Kind::Awaited { .. })
    }

    /// Releases the reservation when the last byte was read or the body is dropped.
    pub fn with_reservation(self, reservation: Reservation) -> Body {
        match self.kind {
            Kind::Whole(bytes) => Kind::Whole(reservation.attach_to(bytes)).into(),
            kind => Body { kind, _reservation: Some(reservation) },
        }
    }
}

/// A list as a stream of pieces, encoded ahead of the client on a blocking thread: with a fast client, encoding would keep
/// an async worker busy.
struct PieceStream {
    ready: VecDeque<io::Result<Bytes>>,
    source: Source,
}

/// The source of further pieces.
enum Source {
    Idle(ChunkIterator),
    Encoding(BoxFuture<'static, io::Result<EncodedAhead>>),
    Ended,
}

/// Encoded pieces, and the iterator that encodes more.
type EncodedAhead = (VecDeque<io::Result<Bytes>>, Option<ChunkIterator>);

/// Pieces encoded at a time: enough to amortize the change of thread.
const PIECES_AHEAD: usize = 4;
/// Approximate bytes of these pieces.
const AHEAD_BYTES: usize = PIECES_AHEAD * (32 << 10);

/// Threads that encode lists concurrently: half of the cores are left to everything else.
static ENCODERS: LazyLock<Semaphore> = LazyLock::new(|| {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    Semaphore::new((cores / 2).max(1))
});

impl PieceStream {
    fn new(pieces: ChunkIterator) -> PieceStream {
        PieceStream { ready: VecDeque::new(), source: Source::Idle(pieces) }
    }

    fn has_ended(&self) -> bool {
        self.ready.is_empty() && matches!(self.source, Source::Ended)
    }

    fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<io::Result<Bytes>>> {
        loop {
            if let Some(piece) = self.ready.pop_front() {
                return Poll::Ready(Some(piece));
            }
            match std::mem::replace(&mut self.source, Source::Ended) {
                Source::Ended => return Poll::Ready(None),
                Source::Idle(pieces) => self.source = Source::Encoding(Box::pin(encode_ahead(pieces))),
                Source::Encoding(mut making) => match making.as_mut().poll(context) {
                    Poll::Pending => {
                        self.source = Source::Encoding(making);
                        return Poll::Pending;
                    }
                    Poll::Ready(Err(error)) => return Poll::Ready(Some(Err(error))),
                    Poll::Ready(Ok((made, rest))) => {
                        self.ready = made;
                        self.source = rest.map_or(Source::Ended, Source::Idle);
                    }
                },
            }
        }
    }
}

/// Encodes the next pieces on a blocking thread, once it has a permit.
async fn encode_ahead(mut pieces: ChunkIterator) -> io::Result<EncodedAhead> {
    let permit = ENCODERS.acquire().await.map_err(io::Error::other)?;
    let making = spawn_blocking(move || {
        // Released when the work ends, even if the body is dropped before.
        let _turn = permit;
        let mut made = VecDeque::with_capacity(PIECES_AHEAD);
        while made.len() < PIECES_AHEAD {
            match pieces.next() {
                Some(Ok(piece)) => made.push_back(Ok(piece)),
                Some(Err(error)) => {
                    made.push_back(Err(io::Error::other(error)));
                    return (made, None);
                }
                None => return (made, None),
            }
        }
        (made, Some(pieces))
    });
    making.await.map_err(io::Error::other)
}

impl From<Kind> for Body {
    fn from(kind: Kind) -> Body {
        Body { kind, _reservation: None }
    }
}

impl Default for Body {
    fn default() -> Body {
        Kind::Whole(Bytes::new()).into()
    }
}

impl From<String> for Body {
    fn from(text: String) -> Body {
        Kind::Whole(text.into()).into()
    }
}

impl From<EncodedBody> for Body {
    fn from(body: EncodedBody) -> Body {
        match body {
            EncodedBody::Whole(bytes) => Kind::Whole(bytes).into(),
            EncodedBody::Shared(document) => Kind::Shared(document.bytes).into(),
            EncodedBody::Chunks { pieces, held } => {
                Kind::Pieces { list: PieceStream::new(pieces), held: held + AHEAD_BYTES }.into()
            }
            EncodedBody::Stream { pieces, held } => Kind::Awaited { pieces: Some(pieces), held }.into(),
        }
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let next = match &mut self.get_mut().kind {
            Kind::Whole(bytes) | Kind::Shared(bytes) => {
                let slice = bytes.split_to(bytes.len().min(MAX_FRAME_BYTES));
                (!slice.is_empty()).then_some(Ok(slice))
            }
            Kind::Pieces { list, .. } => ready!(list.poll_next(context)),
            Kind::Awaited { pieces, .. } => {
                let next = match pieces {
                    Some(pieces) => ready!(pieces(context)),
                    None => None,
                };
                if !matches!(next, Some(Ok(_))) {
                    *pieces = None;
                }
                next
            }
        };
        Poll::Ready(next.map(|piece| piece.map(Frame::data)))
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Whole(bytes) | Kind::Shared(bytes) => bytes.is_empty(),
            Kind::Pieces { list, .. } => list.has_ended(),
            Kind::Awaited { pieces, .. } => pieces.is_none(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Whole(bytes) | Kind::Shared(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Kind::Pieces { .. } | Kind::Awaited { .. } => SizeHint::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::mpsc, time::Duration};

    use http_body_util::BodyExt;

    use super::*;

    /// There is one async worker, which must stay free while a piece is encoded.
    #[tokio::test]
    async fn pieces_are_made_beside_the_async_workers() {
        let (allow, wait) = mpsc::channel::<()>();
        let mut left = 10;
        let pieces: ChunkIterator = Box::new(std::iter::from_fn(move || {
            left -= 1;
            let allowed = wait.recv_timeout(Duration::from_secs(10)).is_ok();
            (left >= 0).then(|| Ok(Bytes::from(if allowed { "1" } else { "0" })))
        }));
        let body: Body = EncodedBody::Chunks { pieces, held: 0 }.into();
        let reading = tokio::spawn(body.collect());
        tokio::task::yield_now().await;
        for _ in 0..11 {
            allow.send(()).unwrap();
        }
        assert_eq!(&reading.await.unwrap().unwrap().to_bytes()[..], b"1111111111");
    }

    #[tokio::test]
    async fn a_piece_that_cannot_be_made_ends_the_body_after_those_before_it() {
        let made = [Ok(Bytes::from_static(b"a")), Err(serde_json::from_str::<u8>("x").unwrap_err())];
        let mut body: Body = EncodedBody::Chunks { pieces: Box::new(made.into_iter()), held: 0 }.into();
        assert_eq!(&body.frame().await.unwrap().unwrap().into_data().unwrap()[..], b"a");
        assert!(body.frame().await.unwrap().is_err());
        assert!(body.frame().await.is_none());
    }
}
