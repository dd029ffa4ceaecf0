//! An answer that comes piece by piece: however long it is, only a few pieces are in memory.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::Thread;
use std::time::Duration;

use tokio::sync::mpsc;

use crate::{Result, Row, StoreError};

/// The rows of an answer, in order, all as of one moment. Dropping it ends the reading.
pub struct Rows {
    pieces: mpsc::Receiver<Vec<Row>>,
    /// Why the answer ended before its end.
    failure: Arc<Mutex<Option<StoreError>>>,
    /// A thread that waits for room; woken when there is some.
    reader: Option<Thread>,
    /// Whether nobody wants more.
    left: Arc<AtomicBool>,
}

/// The other end: where an engine puts the pieces.
pub(crate) struct Pieces {
    pieces: mpsc::Sender<Vec<Row>>,
    failure: Arc<Mutex<Option<StoreError>>>,
}

/// What became of a piece.
pub(crate) enum Given {
    Taken,
    NoRoom(Vec<Row>),
    NobodyThere,
}

impl Rows {
    /// Both ends, with room for so many pieces.
    pub(crate) fn new(room: usize) -> (Pieces, Self) {
        let (sender, receiver) = mpsc::channel(room);
        let failure = Arc::<Mutex<Option<StoreError>>>::default();
        (
            Pieces { pieces: sender, failure: failure.clone() },
            Self { pieces: receiver, failure, reader: None, left: Arc::default() },
        )
    }

    /// An answer that is there already.
    pub fn of(rows: Vec<Row>) -> Self {
        let (pieces, this) = Self::new(1);
        // There is room for one piece.
        let _ = pieces.try_give(rows);
        this
    }

    /// Wakes this thread whenever there is room.
    pub(crate) fn wakes(&mut self, reader: Thread) {
        self.reader = Some(reader);
    }

    /// Set when this is dropped, for a reader that is between two pieces; whoever sets it ends the reading too.
    pub(crate) fn left(&self) -> &Arc<AtomicBool> {
        &self.left
    }

    /// The next rows, some at a time; none when there are no more. `TimedOut` where the rows were not taken for too
    /// long, or the whole took too long; after an error nothing comes.
    pub async fn next(&mut self) -> Result<Option<Vec<Row>>> {
        let piece = self.pieces.recv().await;
        self.wake();
        match piece {
            Some(rows) => Ok(Some(rows)),
            // Kept apart from the pieces, so that it never waits for room and never gets lost.
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
    /// Gives a piece if there is room.
    pub(crate) fn try_give(&self, rows: Vec<Row>) -> Given {
        match self.pieces.try_send(rows) {
            Ok(()) => Given::Taken,
            Err(mpsc::error::TrySendError::Full(rows)) => Given::NoRoom(rows),
            Err(mpsc::error::TrySendError::Closed(_)) => Given::NobodyThere,
        }
    }

    /// Gives a piece, waiting so long for room; says whether anybody still takes.
    pub(crate) async fn give(&self, rows: Vec<Row>, most: Duration) -> Result<bool> {
        match tokio::time::timeout(most, self.pieces.send(rows)).await {
            Ok(sent) => Ok(sent.is_ok()),
            Err(_) => Err(not_taken()),
        }
    }

    /// Waits until nobody takes any more.
    pub(crate) async fn left(&self) {
        self.pieces.closed().await;
    }

    /// No more pieces come.
    pub(crate) fn end(self, outcome: Result<()>) {
        *self.failure.lock().unwrap_or_else(PoisonError::into_inner) = outcome.err();
    }
}

/// The answer was not taken in time.
pub(crate) fn not_taken() -> StoreError {
    StoreError::TimedOut("the rest of the answer was not taken in time; ask again, and take it faster".into())
}

/// Why an answer is not given that would have to wait too long for others to end.
pub(crate) fn too_many_streams() -> StoreError {
    StoreError::TimedOut("too many long answers are being given at the same time; try again".into())
}
