//! The body of a built-in operation's answer.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
pub use openorch_api::output::EncodedBody;
use openorch_api::output::{AwaitedPieces, Pieces};

use crate::budget::Reservation;

/// Bytes of one frame: a large answer is handed to the connection in slices, so that how far the client has read shows.
const SLICE: usize = 64 << 10;

/// Bytes that are there already, or pieces that are made while the client reads.
pub struct Body {
    kind: Kind,
    /// For what the pieces are made of; whole bytes carry theirs with them.
    _reservation: Option<Reservation>,
}

enum Kind {
    /// Made for this answer alone, or too small to be counted.
    Whole(Bytes),
    /// The same memory in every answer.
    Shared(Bytes),
    /// `None` once it has ended or failed.
    Pieces { pieces: Option<Pieces>, held: usize },
    /// The same.
    Awaited { pieces: Option<AwaitedPieces>, held: usize },
}

/// Smaller answers are not counted: the number of requests in progress bounds them.
const UNCOUNTED: usize = 4 << 10;

impl Body {
    /// Bytes of memory that this answer alone holds until it is read.
    pub fn memory(&self) -> usize {
        match &self.kind {
            Kind::Whole(bytes) if bytes.len() > UNCOUNTED => bytes.len(),
            Kind::Whole(_) | Kind::Shared(_) => 0,
            Kind::Pieces { held, .. } | Kind::Awaited { held, .. } => *held,
        }
    }

    /// Whether it is made while the client reads, and so may take long.
    pub fn is_streamed(&self) -> bool {
        matches!(self.kind, Kind::Pieces { .. } | Kind::Awaited { .. })
    }

    /// Gives the reservation back when the last byte was read, or the answer is given up.
    pub fn holding(self, reservation: Reservation) -> Body {
        match self.kind {
            Kind::Whole(bytes) => Kind::Whole(reservation.hold(bytes)).into(),
            kind => Body { kind, _reservation: Some(reservation) },
        }
    }
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
            EncodedBody::Shared(bytes) => Kind::Shared(bytes).into(),
            EncodedBody::Pieces { pieces, held } => Kind::Pieces { pieces: Some(pieces), held }.into(),
            EncodedBody::Awaited { pieces, held } => Kind::Awaited { pieces: Some(pieces), held }.into(),
        }
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let next = match &mut self.get_mut().kind {
            Kind::Whole(bytes) | Kind::Shared(bytes) => {
                let slice = bytes.split_to(bytes.len().min(SLICE));
                (!slice.is_empty()).then_some(Ok(slice))
            }
            Kind::Pieces { pieces, .. } => {
                let next = pieces.as_mut().and_then(Iterator::next);
                if !matches!(next, Some(Ok(_))) {
                    *pieces = None;
                }
                next.map(|piece| piece.map_err(io::Error::other))
            }
            Kind::Awaited { pieces, .. } => {
                let next = match pieces {
                    Some(pieces) => std::task::ready!(pieces(context)),
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
            Kind::Pieces { pieces, .. } => pieces.is_none(),
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
