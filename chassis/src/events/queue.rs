//! The event queue of a subscriber, bounded in bytes. If the client is too slow, the oldest events are dropped and counted:
//! recent events matter more.

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};

use bytes::{Bytes, BytesMut};
use openorch_api::events::{MissedEvents, encode};

/// Maximum bytes passed to the connection at a time, except for a single larger event.
pub const MAX_PIECE: usize = 16 << 10;
/// Bytes counted for each event in addition to its length.
const OVERHEAD: usize = 64;

pub struct Queue {
    max_bytes: usize,
    state: Mutex<QueueState>,
}

#[derive(Default)]
struct QueueState {
    /// Encoded once for all subscribers.
    events: VecDeque<Bytes>,
    /// Total size of the events, including overhead.
    bytes: usize,
    /// Events dropped since the client was last notified.
    missed: u64,
    waker: Option<Waker>,
}

impl Queue {
    pub fn new(max_bytes: usize) -> Queue {
        Queue { max_bytes, state: Mutex::default() }
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

    /// Polls for the next piece.
    pub fn poll_take(&self, context: &Context<'_>) -> Poll<Bytes> {
        let mut waiting = self.lock();
        if waiting.is_empty() {
            waiting.waker = Some(context.waker().clone());
            return Poll::Pending;
        }
        // Usually there is one event, whose bytes need no copy.
        if waiting.missed == 0
            && waiting.events.len() == 1
            && let Some(only) = waiting.take()
        {
            return Poll::Ready(only);
        }
        Poll::Ready(waiting.take_up_to(MAX_PIECE).freeze())
    }

    /// All queued events.
    pub fn take_all(&self) -> BytesMut {
        self.lock().take_up_to(usize::MAX)
    }

    fn lock(&self) -> MutexGuard<'_, QueueState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl QueueState {
    fn is_empty(&self) -> bool {
        self.events.is_empty() && self.missed == 0
    }

    fn take(&mut self) -> Option<Bytes> {
        let event = self.events.pop_front()?;
        self.bytes -= event.len() + OVERHEAD;
        Some(event)
    }

    fn take_up_to(&mut self, max_bytes: usize) -> BytesMut {
        let mut piece = BytesMut::new();
        let missed = MissedEvents { count: std::mem::take(&mut self.missed) };
        if missed.count > 0
            // Encoding a number as JSON cannot fail.
            && let Ok(encoded) = encode(&missed)
        {
            piece.extend_from_slice(&encoded);
        }
        while let Some(next) = self.events.front()
            && (piece.is_empty() || piece.len() + next.len() <= max_bytes)
            && let Some(event) = self.take()
        {
            piece.extend_from_slice(&event);
        }
        piece
    }
}
