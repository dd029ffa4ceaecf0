//! What PostgreSQL reports, as the store's errors with a way out.

use std::error::Error as _;
use std::io;

use tokio_postgres::Error;
use tokio_postgres::error::SqlState;

use crate::StoreError;

/// What a write of a daemon is refused with that has lost the schema to another.
pub(super) const FENCED: &str = "OO001";

/// Why something did not go: what PostgreSQL or the way to it says, or what the store itself says.
#[derive(Debug)]
pub(super) enum Failure {
    Postgres(Error),
    Store(StoreError),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Postgres(error)
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl Failure {
    /// As an error of the store; `doing` says what was tried.
    pub(super) fn into_store(self, doing: &str) -> StoreError {
        match self {
            Self::Postgres(error) => from_postgres(&error, doing),
            Self::Store(error) => error,
        }
    }

    /// Whether the connection is gone, so that nothing more can be said on it.
    pub(super) fn is_lost(&self) -> bool {
        matches!(self, Self::Postgres(error) if is_lost(error))
    }

    /// Whether the server was told to end it, by its own limit of time or by somebody.
    pub(super) fn is_cancelled(&self) -> bool {
        matches!(self, Self::Postgres(error) if error.code() == Some(&SqlState::QUERY_CANCELED))
    }

    /// Whether another transaction came in between, and doing all of it again may go well.
    pub(super) fn is_lost_race(&self) -> bool {
        let Self::Postgres(error) = self else { return false };
        matches!(error.code(), Some(&SqlState::T_R_SERIALIZATION_FAILURE | &SqlState::T_R_DEADLOCK_DETECTED))
    }
}

/// Turns an error of PostgreSQL into ours; `doing` says what was tried, for example "writing to x".
pub(super) fn from_postgres(error: &Error, doing: &str) -> StoreError {
    let told = describe(error);
    let Some(code) = error.code() else {
        return match is_lost(error) {
            true => StoreError::Unavailable(format!("{doing} failed: {told}")),
            false => StoreError::Internal(format!("{doing} failed: {told}")),
        };
    };
    match *code {
        // No limit of ours: those who set one look for this themselves.
        SqlState::QUERY_CANCELED => StoreError::Unavailable(format!(
            "{doing} failed: {told}; somebody ended it at the database and nothing of it was done, try again"
        )),
        SqlState::DISK_FULL => StoreError::StorageFull(format!(
            "{doing} failed because the disk of the database is full; free some space, nothing was lost"
        )),
        SqlState::DATA_CORRUPTED | SqlState::INDEX_CORRUPTED => {
            StoreError::Corrupt(format!("{doing} failed because the database is damaged ({told}); restore a backup"))
        }
        SqlState::INSUFFICIENT_PRIVILEGE => StoreError::Unavailable(format!(
            "{doing} failed: {told}; give the user this connects as the right to the schema and all in it"
        )),
        SqlState::READ_ONLY_SQL_TRANSACTION => StoreError::Unavailable(format!(
            "{doing} failed: {told}; what answers is a standby, or was set to reading alone"
        )),
        _ if code.code() == FENCED => {
            StoreError::Unavailable(format!("{doing} failed: {told}; nothing was written, start this daemon again"))
        }
        SqlState::LOCK_NOT_AVAILABLE => {
            StoreError::Unavailable(format!("{doing} failed: {told}; another program holds a lock on the tables"))
        }
        // The classes of codes: connections, resources, an operator's doing, errors of the system.
        _ if ["08", "53", "57", "58"].iter().any(|class| code.code().starts_with(class)) => {
            StoreError::Unavailable(format!("{doing} failed: {told}"))
        }
        _ => StoreError::Internal(format!("{doing} failed: {told}")),
    }
}

/// Whether nothing more can be said on a connection: it was closed, or the server says that it is ending it.
pub(super) fn is_lost(error: &Error) -> bool {
    match error.code() {
        Some(code) => {
            let ending = [SqlState::ADMIN_SHUTDOWN, SqlState::CRASH_SHUTDOWN, SqlState::CANNOT_CONNECT_NOW];
            ending.contains(code) || code.code().starts_with("08") || is_idle_timeout(code)
        }
        None => error.is_closed() || error.source().is_some_and(|source| source.is::<io::Error>()),
    }
}

fn is_idle_timeout(code: &SqlState) -> bool {
    // The second is `idle_session_timeout`, which the crate has no name for.
    *code == SqlState::IDLE_IN_TRANSACTION_SESSION_TIMEOUT || code.code() == "57P05"
}

/// Whether a database that cannot be connected to may answer later without anybody changing the settings.
pub(super) fn may_come_back(error: &Error) -> bool {
    match error.code() {
        Some(code) => is_lost(error) || *code == SqlState::TOO_MANY_CONNECTIONS,
        None => is_lost(error) && !is_refused_certificate(error),
    }
}

fn is_refused_certificate(error: &Error) -> bool {
    let io = error.source().and_then(|source| source.downcast_ref::<io::Error>());
    io.and_then(io::Error::get_ref).is_some_and(|inner| inner.is::<rustls::Error>())
}

/// The reason in words. PostgreSQL puts neither passwords nor the values of a statement into these.
pub(super) fn describe(error: &Error) -> String {
    if let Some(told) = error.as_db_error() {
        return format!("{} ({})", told.message(), told.code().code());
    }
    let mut words = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        words += &format!(": {cause}");
        source = cause.source();
    }
    words
}
