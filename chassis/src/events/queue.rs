//! The events that wait for one client. It is bounded in bytes: where the client does not keep up, the oldest are dropped
//! and counted, since what happens now matters more to one who follows than what happened a while ago.

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};

use bytes::{Bytes, BytesMut};
use openorch_api::events::{MissedEvents, encode};

/// Bytes that are handed to the connection at once, but for an event that is longer by itself.
pub const MAX_PIECE: usize = 16 << 10;
/// Bytes that are counted for each event beside its own.
const OVERHEAD: usize = 64;

pub struct Queue {
    max_bytes: usize,
    waiting: Mutex<Waiting>,
}

#[derive(Default)]
struct Waiting {
    /// Encoded once for all who follow.
    events: VecDeque<Bytes>,
    /// Of all these, with what they cost beside.
    bytes: usize,
    /// Events that were dropped since the client was told of such.
    missed: u64,
    waker: Option<Waker>,
}

impl Queue {
    pub fn new(max_bytes: usize) -> Queue {
        Queue { max_bytes, waiting: Mutex::default() }
    }

    pub fn max_bytes(&self) -> usize {
        self.max_bytes
    }

    pub fn push(&self, event: Bytes) {
        let size = event.len() + OVERHEAD;
        let mut waiting = self.lock();
        let fits = size <= self.max_bytes;
        while fits
            && waiting.bytes + size > self.max_bytes
            && let Some(oldest) = waiting.events.pop_front()
        {
            waiting.bytes -= oldest.len() + OVERHEAD;
            waiting.missed += 1;
        }
        if fits {
            waiting.bytes += size;
            waiting.events.push_back(event);
        } else {
            waiting.missed += 1;
        }
        let waker = waiting.waker.take();
        drop(waiting);
        waker.into_iter().for_each(Waker::wake);
    }

    /// The next piece, as soon as there is one.
    pub fn poll_take(&self, context: &Context<'_>) -> Poll<Bytes> {
        let mut waiting = self.lock();
        if waiting.is_empty() {
            waiting.waker = Some(context.waker().clone());
            return Poll::Pending;
        }
        // Mostly one waits, whose bytes need not be copied.
        if waiting.missed == 0
            && waiting.events.len() == 1
            && let Some(only) = waiting.take()
        {
            return Poll::Ready(only);
        }
        Poll::Ready(waiting.take_up_to(MAX_PIECE).freeze())
    }

    /// All that waits.
    pub fn take_all(&self) -> BytesMut {
        self.lock().take_up_to(usize::MAX)
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiting {
    fn is_empty(&self) -> bool {
        self.events.is_empty() && self.missed == 0
    }

    fn take(&mut self) -> Option<Bytes> {
        let event = self.events.pop_front()?;
        self.bytes -= event.len() + OVERHEAD;
        Some(event)
    }

    fn take_up_to(&mut self, most: usize) -> BytesMut {
        let mut piece = BytesMut::new();
        let missed = MissedEvents { count: std::mem::take(&mut self.missed) };
        if missed.count > 0
            // A number always has a JSON form.
            && let Ok(told) = encode(&missed)
        {
            piece.extend_from_slice(&told);
        }
        while let Some(next) = self.events.front()
            && (piece.is_empty() || piece.len() + next.len() <= most)
            && let Some(event) = self.take()
        {
            piece.extend_from_slice(&event);
        }
        piece
    }
}
