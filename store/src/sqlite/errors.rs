//! What SQLite and the file system report, as the store's errors with a way out.

use std::io;
use std::path::Path;

use rusqlite::ErrorCode;

use crate::StoreError;

/// Turns an error of SQLite into ours; `doing` says what was tried, for example "writing" or "opening `x`".
pub(crate) fn from_sqlite(error: rusqlite::Error, doing: &str) -> StoreError {
    let Some(code) = error.sqlite_error().copied() else {
        return StoreError::Internal(format!("{doing} failed: {error}"));
    };
    match code.code {
        // The shared-memory file beside the database is grown by writing, which fails so where the disk is full.
        _ if code.extended_code == rusqlite::ffi::SQLITE_IOERR_SHMSIZE => full(doing),
        ErrorCode::DiskFull => full(doing),
        // Whoever set the limit knows how long it was.
        ErrorCode::OperationInterrupted => StoreError::TimedOut(String::new()),
        ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase => {
            StoreError::Corrupt(format!("{doing} failed because the database is damaged ({error}); restore a backup"))
        }
        ErrorCode::TooBig => StoreError::TooLarge(format!("{doing} failed: {error}")),
        ErrorCode::PermissionDenied | ErrorCode::ReadOnly | ErrorCode::CannotOpen => StoreError::Unavailable(format!(
            "{doing} failed: {error}; give the user this runs as the right to write the data folder and its files"
        )),
        ErrorCode::DatabaseBusy
        | ErrorCode::DatabaseLocked
        | ErrorCode::FileLockingProtocolFailed
        | ErrorCode::OutOfMemory
        | ErrorCode::SystemIoFailure => StoreError::Unavailable(format!("{doing} failed: {error}")),
        _ => StoreError::Internal(format!("{doing} failed: {error}")),
    }
}

/// Turns an error of SQLite into ours where a file is read that may come from anywhere, within bounds.
pub(crate) fn from_file(error: rusqlite::Error, file: &Path) -> StoreError {
    match error.sqlite_error_code() {
        Some(ErrorCode::OperationInterrupted | ErrorCode::TooBig) => StoreError::Corrupt(format!(
            "`{}` is damaged: reading it takes more than a file of its size can; restore a backup. Nothing was changed",
            file.display()
        )),
        _ => from_sqlite(error, &format!("reading `{}`", file.display())),
    }
}

/// Turns an error of the file system into ours.
pub(crate) fn from_io(error: &io::Error, doing: &str, path: &Path) -> StoreError {
    let place = path.display();
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => full(&format!("{doing} `{place}`")),
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => StoreError::Unavailable(format!(
            "{doing} `{place}` failed: {error}; give the user this runs as the right to it, or choose another data folder"
        )),
        io::ErrorKind::NotADirectory | io::ErrorKind::AlreadyExists => StoreError::Unavailable(format!(
            "`{place}` cannot be the data folder, there is a file in its way; move the file or choose another folder"
        )),
        _ => StoreError::Unavailable(format!("{doing} `{place}` failed: {error}")),
    }
}

fn full(doing: &str) -> StoreError {
    StoreError::StorageFull(format!("{doing} failed because the disk is full; free some space, nothing was lost"))
}
