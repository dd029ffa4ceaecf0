//! Translates errors of PostgreSQL into store errors with a remedy.

use std::{error::Error as _, io};

use tokio_postgres::{Error, error::SqlState};

use crate::StoreError;

/// The SQLSTATE of a write by a daemon that has lost the schema to another.
pub(super) const FENCED: &str = "OO001";

/// A failed operation: an error of PostgreSQL or its connection, or of the store itself.
#[derive(Debug)]
pub(super) enum PgError {
    Postgres(Error),
    Store(StoreError),
}

impl From<Error> for PgError {
    fn from(error: Error) -> Self {
        Self::Postgres(error)
    }
}

impl From<StoreError> for PgError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl PgError {
    /// Converts it to an error of the store; `doing` names the action.
    pub(super) fn into_store(self, doing: &str) -> StoreError {
        match self {
            Self::Postgres(error) => from_postgres(&error, doing),
            Self::Store(error) => error,
        }
    }

    /// Whether the connection is lost.
    pub(super) fn is_connection_lost(&self) -> bool {
        matches!(self, Self::Postgres(error) if is_connection_lost(error))
    }

    /// Whether the statement was cancelled, by a timeout or by an operator.
    pub(super) fn is_cancelled(&self) -> bool {
        matches!(self, Self::Postgres(error) if error.code() == Some(&SqlState::QUERY_CANCELED))
    }

    /// Whether the transaction conflicted with another one, so that a retry may succeed.
    pub(super) fn is_conflict(&self) -> bool {
        let Self::Postgres(error) = self else { return false };
        matches!(error.code(), Some(&SqlState::T_R_SERIALIZATION_FAILURE | &SqlState::T_R_DEADLOCK_DETECTED))
    }
}

/// Translates an error of PostgreSQL; `doing` names the action, for example "writing to x".
pub(super) fn from_postgres(error: &Error, doing: &str) -> StoreError {
    let told = describe(error);
    let Some(code) = error.code() else {
        return match is_connection_lost(error) {
            true => StoreError::Unavailable(format!("{doing} failed: {told}")),
            false => StoreError::Internal(format!("{doing} failed: {told}")),
        };
    };
    match *code {
        // Not a timeout of ours: the code that sets one handles this error itself.
        SqlState::QUERY_CANCELED => StoreError::Unavailable(format!(
            "{doing} failed: {told}; it was cancelled at the database server and nothing was changed, try again"
        )),
        SqlState::DISK_FULL => StoreError::StorageFull(format!(
            "{doing} failed because the disk of the database is full; free some space, nothing was lost"
        )),
        SqlState::DATA_CORRUPTED | SqlState::INDEX_CORRUPTED => {
            StoreError::Corrupt(format!("{doing} failed because the database is damaged ({told}); restore a backup"))
        }
        SqlState::INSUFFICIENT_PRIVILEGE => StoreError::Unavailable(format!(
            "{doing} failed: {told}; grant the database user all privileges on the schema and its tables"
        )),
        SqlState::READ_ONLY_SQL_TRANSACTION => {
            StoreError::Unavailable(format!("{doing} failed: {told}; the server is a standby or in read-only mode"))
        }
        _ if code.code() == FENCED => {
            StoreError::Unavailable(format!("{doing} failed: {told}; nothing was written, restart this daemon"))
        }
        SqlState::LOCK_NOT_AVAILABLE => {
            StoreError::Unavailable(format!("{doing} failed: {told}; another program holds a lock on the tables"))
        }
        // Classes of SQLSTATE: connection exceptions, insufficient resources, operator intervention, system errors.
        _ if ["08", "53", "57", "58"].iter().any(|class| code.code().starts_with(class)) => {
            StoreError::Unavailable(format!("{doing} failed: {told}"))
        }
        _ => StoreError::Internal(format!("{doing} failed: {told}")),
    }
}

/// Whether a connection is lost: it was closed, or the server reports that it is closing it.
pub(super) fn is_connection_lost(error: &Error) -> bool {
    match error.code() {
        Some(code) => {
            let ending = [SqlState::ADMIN_SHUTDOWN, SqlState::CRASH_SHUTDOWN, SqlState::CANNOT_CONNECT_NOW];
            ending.contains(code) || code.code().starts_with("08") || is_idle_timeout(code)
        }
        None => error.is_closed() || error.source().is_some_and(|source| source.is::<io::Error>()),
    }
}

fn is_idle_timeout(code: &SqlState) -> bool {
    // 57P05 is `idle_session_timeout`, for which the crate has no constant.
    *code == SqlState::IDLE_IN_TRANSACTION_SESSION_TIMEOUT || code.code() == "57P05"
}

/// Whether a failed connection attempt may succeed later without a change of configuration.
pub(super) fn is_transient(error: &Error) -> bool {
    match error.code() {
        Some(code) => is_connection_lost(error) || *code == SqlState::TOO_MANY_CONNECTIONS,
        None => is_connection_lost(error) && !is_refused_certificate(error),
    }
}

fn is_refused_certificate(error: &Error) -> bool {
    let io = error.source().and_then(|source| source.downcast_ref::<io::Error>());
    io.and_then(io::Error::get_ref).is_some_and(|inner| inner.is::<rustls::Error>())
}

/// The message of an error. PostgreSQL includes neither passwords nor bound values in it.
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
