//! What can go wrong in a store. Each carries a sentence that names the thing; none holds a document or a secret.

use std::fmt;
use std::time::Duration;

/// Why a store said no. The text is a sentence for the person who asked, except in `Internal` and `Corrupt`, whose
/// causes are for the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreError {
    /// A write named a document that is not there.
    NotFound(String),
    /// The id is taken, or a unique index has these values already.
    AlreadyExists(String),
    /// A guard did not hold, or a document is at another version: read again, then try again.
    Conflict(String),
    /// What was asked cannot be stored or asked for: a field name, an integer beyond 64 bits, a NUL.
    Invalid(String),
    /// The document is over the size limit.
    TooLarge(String),
    /// Reading took longer than it may, or what was read was not taken.
    TimedOut(String),
    /// The disk is full. Reads go on; writes work again once there is room.
    StorageFull(String),
    /// The store cannot be reached or used now: closed, no right to the folder, input/output errors.
    Unavailable(String),
    /// A file of the store was removed or replaced while it is open. Reads go on; nothing is written any more.
    Replaced(String),
    /// What is stored is damaged, missing, or not ours. Nothing was changed.
    Corrupt(String),
    /// Another process holds the folder.
    InUse(String),
    /// A mistake in this program.
    Internal(String),
}

/// How long a batch may still be written of which nobody knows what came ([`StoreError::is_open`]): a database server may
/// be at it after its connection was lost.
pub const OPEN_FOR: Duration = Duration::from_secs(60);

impl StoreError {
    /// Whether it leaves open, as the answer to a batch, if that was written or will be. All other errors say that it was
    /// not.
    pub fn is_open(&self) -> bool {
        matches!(self, Self::Unavailable(_) | Self::TimedOut(_) | Self::Replaced(_))
    }

    /// The sentence alone.
    pub fn sentence(&self) -> &str {
        match self {
            Self::NotFound(text)
            | Self::AlreadyExists(text)
            | Self::Conflict(text)
            | Self::Invalid(text)
            | Self::TooLarge(text)
            | Self::TimedOut(text)
            | Self::StorageFull(text)
            | Self::Unavailable(text)
            | Self::Replaced(text)
            | Self::Corrupt(text)
            | Self::InUse(text)
            | Self::Internal(text) => text,
        }
    }
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.sentence())
    }
}

impl std::error::Error for StoreError {}
