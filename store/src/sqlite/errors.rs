//! Translates errors of SQLite and the file system into store errors with a remedy.

use std::{io, path::Path};

use rusqlite::ErrorCode;

use crate::StoreError;

/// Translates an error of SQLite; `doing` names the action, for example "writing" or "opening `x`".
pub(crate) fn from_sqlite(error: rusqlite::Error, doing: &str) -> StoreError {
    let Some(code) = error.sqlite_error().copied() else {
        return StoreError::Internal(format!("{doing} failed: {error}"));
    };
    match code.code {
        // Extending the shared-memory file is a write, which fails with this code on a full disk.
        _ if code.extended_code == rusqlite::ffi::SQLITE_IOERR_SHMSIZE => full(doing),
        ErrorCode::DiskFull => full(doing),
        // The caller adds the message, because it knows the timeout.
        ErrorCode::OperationInterrupted => StoreError::TimedOut(String::new()),
        ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase => {
            StoreError::Corrupt(format!("{doing} failed because the database is damaged ({error}); restore a backup"))
        }
        ErrorCode::TooBig => StoreError::TooLarge(format!("{doing} failed: {error}")),
        ErrorCode::PermissionDenied | ErrorCode::ReadOnly | ErrorCode::CannotOpen => StoreError::Unavailable(format!(
            "{doing} failed: {error}; grant the user this process runs as write access to the data directory and its \
             files"
        )),
        ErrorCode::DatabaseBusy
        | ErrorCode::DatabaseLocked
        | ErrorCode::FileLockingProtocolFailed
        | ErrorCode::OutOfMemory
        | ErrorCode::SystemIoFailure => StoreError::Unavailable(format!("{doing} failed: {error}")),
        _ => StoreError::Internal(format!("{doing} failed: {error}")),
    }
}

/// Translates an error of SQLite for a read of an untrusted file, which is limited in cost.
pub(crate) fn from_file(error: rusqlite::Error, file: &Path) -> StoreError {
    match error.sqlite_error_code() {
        Some(ErrorCode::OperationInterrupted | ErrorCode::TooBig) => StoreError::Corrupt(format!(
            "`{}` is damaged: reading it takes more steps than a file of its size can need; restore a backup. Nothing \
             was changed",
            file.display()
        )),
        _ => from_sqlite(error, &format!("reading `{}`", file.display())),
    }
}

/// Translates an error of the file system.
pub(crate) fn from_io(error: &io::Error, doing: &str, path: &Path) -> StoreError {
    let place = path.display();
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => full(&format!("{doing} `{place}`")),
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => StoreError::Unavailable(format!(
            "{doing} `{place}` failed: {error}; grant the user this process runs as access to it, or choose another \
             data directory"
        )),
        io::ErrorKind::NotADirectory | io::ErrorKind::AlreadyExists => StoreError::Unavailable(format!(
            "`{place}` cannot be the data directory: a file is in the way; move the file or choose another directory"
        )),
        _ => StoreError::Unavailable(format!("{doing} `{place}` failed: {error}")),
    }
}

fn full(doing: &str) -> StoreError {
    StoreError::StorageFull(format!("{doing} failed because the disk is full; free some space, nothing was lost"))
}
