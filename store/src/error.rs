//! Errors of the store. Each message names the object concerned; none contains a document or a secret.

use std::{fmt, time::Duration};

/// An error of the store. The text is a sentence for the user, except in `Internal` and `Corrupt`, whose causes are for
/// the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreError {
    /// The document of a write does not exist.
    NotFound(String),
    /// The id is taken, or a unique index already has these values.
    AlreadyExists(String),
    /// A guard failed, or a document has another version: read again and retry.
    Conflict(String),
    /// The request is not valid: a field name, an integer beyond 64 bits, a NUL.
    Invalid(String),
    /// The document exceeds the size limit.
    TooLarge(String),
    /// A read exceeded its timeout, or the caller read a stream too slowly.
    TimedOut(String),
    /// The disk is full. Reads continue; writes work again once there is space.
    StorageFull(String),
    /// The store is not available: closed, missing permissions, input/output errors.
    Unavailable(String),
    /// A file of the store was removed or replaced while it is open. Reads continue; writes are refused.
    Replaced(String),
    /// The stored data is damaged, missing, or not OpenOrch's. Nothing was changed.
    Corrupt(String),
    /// Another process has locked the data directory or schema.
    InUse(String),
    /// A bug in this program.
    Internal(String),
}

/// How long a batch with an unknown outcome ([`StoreError::outcome_unknown`]) may still be committed: a database server
/// may go on working on it after the connection was lost.
pub const INDETERMINATE_WINDOW: Duration = Duration::from_secs(60);

impl StoreError {
    /// Whether a batch that failed with this error may have been committed, or may still be. After any other error it
    /// was not.
    pub fn outcome_unknown(&self) -> bool {
        matches!(self, Self::Unavailable(_) | Self::TimedOut(_) | Self::Replaced(_))
    }

    /// The message alone.
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
