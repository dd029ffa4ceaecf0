//! A stream of rows in chunks; only a few chunks are in memory, however long the result is.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::Thread,
    time::Duration,
};

use tokio::sync::mpsc;

use crate::{Result, Row, StoreError};

/// The rows of a query, in order, from one snapshot. Dropping it cancels the read.
pub struct RowStream {
    chunks: mpsc::Receiver<Vec<Row>>,
    /// Why the stream ended early.
    failure: Arc<Mutex<Option<StoreError>>>,
    /// The reader thread, unparked when the channel has capacity again.
    reader: Option<Thread>,
    /// Set when the stream is dropped.
    cancelled: Arc<AtomicBool>,
}

/// The sending half, for an engine.
pub(crate) struct RowSender {
    chunks: mpsc::Sender<Vec<Row>>,
    failure: Arc<Mutex<Option<StoreError>>>,
}

/// The result of a non-blocking send.
pub(crate) enum SendOutcome {
    Sent,
    Full(Vec<Row>),
    Closed,
}

impl RowStream {
    /// Creates both halves, with a buffer of this many chunks.
    pub(crate) fn new(capacity: usize) -> (RowSender, Self) {
        let (sender, receiver) = mpsc::channel(capacity);
        let failure = Arc::<Mutex<Option<StoreError>>>::default();
        (
            RowSender { chunks: sender, failure: failure.clone() },
            Self { chunks: receiver, failure, reader: None, cancelled: Arc::default() },
        )
    }

    /// A stream of rows that are already in memory.
    pub fn from_rows(rows: Vec<Row>) -> Self {
        let (pieces, this) = Self::new(1);
        // The buffer has capacity for one chunk.
        let _ = pieces.try_send(rows);
        this
    }

    /// Unparks this thread whenever a chunk was received.
    pub(crate) fn wake_on_capacity(&mut self, reader: Thread) {
        self.reader = Some(reader);
    }

    /// Set when this is dropped, so that a reader that is between two chunks stops. Setting it cancels the read.
    pub(crate) fn cancel_flag(&self) -> &Arc<AtomicBool> {
        &self.cancelled
    }

    /// The next chunk of rows; `None` at the end. `TimedOut` if the rows were read too slowly, or the whole read took
    /// too long. After an error, the stream has ended.
    pub async fn next(&mut self) -> Result<Option<Vec<Row>>> {
        let chunk = self.chunks.recv().await;
        self.wake();
        match chunk {
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

impl Drop for RowStream {
    fn drop(&mut self) {
        self.cancelled.store(true, Ordering::Relaxed);
        self.chunks.close();
        self.wake();
    }
}

impl RowSender {
    /// Sends a chunk if the buffer has capacity.
    pub(crate) fn try_send(&self, rows: Vec<Row>) -> SendOutcome {
        match self.chunks.try_send(rows) {
            Ok(()) => SendOutcome::Sent,
            Err(mpsc::error::TrySendError::Full(rows)) => SendOutcome::Full(rows),
            Err(mpsc::error::TrySendError::Closed(_)) => SendOutcome::Closed,
        }
    }

    /// Sends a chunk, waiting up to `max_wait` for capacity; returns whether the receiver still exists.
    pub(crate) async fn send(&self, rows: Vec<Row>, max_wait: Duration) -> Result<bool> {
        match tokio::time::timeout(max_wait, self.chunks.send(rows)).await {
            Ok(sent) => Ok(sent.is_ok()),
            Err(_) => Err(receiver_too_slow()),
        }
    }

    /// Waits until the receiver is dropped.
    pub(crate) async fn closed(&self) {
        self.chunks.closed().await;
    }

    /// Ends the stream with this outcome.
    pub(crate) fn finish(self, outcome: Result<()>) {
        *self.failure.lock().unwrap_or_else(PoisonError::into_inner) = outcome.err();
    }
}

/// The error for a caller that reads too slowly.
pub(crate) fn receiver_too_slow() -> StoreError {
    StoreError::TimedOut("the result was read too slowly; repeat the query and read it faster".into())
}

/// The error for a stream that waited too long for a free slot.
pub(crate) fn too_many_streams() -> StoreError {
    StoreError::TimedOut("too many streamed results at the same time; try again".into())
}
