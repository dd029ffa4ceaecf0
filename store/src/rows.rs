//! A stream of rows in chunks; only a few chunks are in memory, however long the result is.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::Thread;
use std::time::Duration;

use tokio::sync::mpsc;

use crate::{Result, Row, StoreError};

/// The rows of a query, in order, from one snapshot. Dropping it cancels the read.
pub struct Rows {
    pieces: mpsc::Receiver<Vec<Row>>,
    /// Why the stream ended early.
    failure: Arc<Mutex<Option<StoreError>>>,
    /// The reader thread, unparked when the channel has capacity again.
    reader: Option<Thread>,
    /// Set when the stream is dropped.
    left: Arc<AtomicBool>,
}

/// The sending half, for an engine.
pub(crate) struct Pieces {
    pieces: mpsc::Sender<Vec<Row>>,
    failure: Arc<Mutex<Option<StoreError>>>,
}

/// The result of a non-blocking send.
pub(crate) enum Given {
    Taken,
    NoRoom(Vec<Row>),
    NobodyThere,
}

impl Rows {
    /// Creates both halves, with a buffer of this many chunks.
    pub(crate) fn new(room: usize) -> (Pieces, Self) {
        let (sender, receiver) = mpsc::channel(room);
        let failure = Arc::<Mutex<Option<StoreError>>>::default();
        (
            Pieces { pieces: sender, failure: failure.clone() },
            Self { pieces: receiver, failure, reader: None, left: Arc::default() },
        )
    }

    /// A stream of rows that are already in memory.
    pub fn of(rows: Vec<Row>) -> Self {
        let (pieces, this) = Self::new(1);
        // The buffer has capacity for one chunk.
        let _ = pieces.try_give(rows);
        this
    }

    /// Unparks this thread whenever a chunk was received.
    pub(crate) fn wakes(&mut self, reader: Thread) {
        self.reader = Some(reader);
    }

    /// Set when this is dropped, so that a reader that is between two chunks stops. Setting it cancels the read.
    pub(crate) fn left(&self) -> &Arc<AtomicBool> {
        &self.left
    }

    /// The next chunk of rows; `None` at the end. `TimedOut` if the rows were read too slowly, or the whole read took
    /// too long. After an error, the stream has ended.
    pub async fn next(&mut self) -> Result<Option<Vec<Row>>> {
        let piece = self.pieces.recv().await;
        self.wake();
        match piece {
            Some(rows) => Ok(Some(rows)),
            // Kept outside the channel, so that an error never waits for capacity and is never lost.
            None => match self.failure.lock().unwrap_or_else(PoisonError::into_inner).take() {
                Some(error) => Err(error),
                None => Ok(None),
            },
        }
    }

    fn wake(&self) {
        if let Some(reader) = &self.reader {
            reader.unpark();
        }
    }
}

impl Drop for Rows {
    fn drop(&mut self) {
        self.left.store(true, Ordering::Relaxed);
        self.pieces.close();
        self.wake();
    }
}

impl Pieces {
    /// Sends a chunk if the buffer has capacity.
    pub(crate) fn try_give(&self, rows: Vec<Row>) -> Given {
        match self.pieces.try_send(rows) {
            Ok(()) => Given::Taken,
            Err(mpsc::error::TrySendError::Full(rows)) => Given::NoRoom(rows),
            Err(mpsc::error::TrySendError::Closed(_)) => Given::NobodyThere,
        }
    }

    /// Sends a chunk, waiting up to `max_wait` for capacity; returns whether the receiver still exists.
    pub(crate) async fn give(&self, rows: Vec<Row>, most: Duration) -> Result<bool> {
        match tokio::time::timeout(most, self.pieces.send(rows)).await {
            Ok(sent) => Ok(sent.is_ok()),
            Err(_) => Err(not_taken()),
        }
    }

    /// Waits until the receiver is dropped.
    pub(crate) async fn left(&self) {
        self.pieces.closed().await;
    }

    /// Ends the stream with this outcome.
    pub(crate) fn end(self, outcome: Result<()>) {
        *self.failure.lock().unwrap_or_else(PoisonError::into_inner) = outcome.err();
    }
}

/// The error for a caller that reads too slowly.
pub(crate) fn not_taken() -> StoreError {
    StoreError::TimedOut("the result was read too slowly; repeat the query and read it faster".into())
}

/// The error for a stream that waited too long for a free slot.
pub(crate) fn too_many_streams() -> StoreError {
    StoreError::TimedOut("too many streamed results at the same time; try again".into())
}
