//! The clean-shutdown flag, a value in the database: set if the database file alone is complete. The first commit after
//! a start clears it, in the main file and before anything is acknowledged; a shutdown sets it after the log is
//! checkpointed. A database with neither the flag nor a log is therefore missing its newest writes: it is a copy of the
//! main file alone, or its log was removed.
//!
//! A main file with a log from another point in time is not detected, since both files exist.

use std::{fs, path::Path};

use rusqlite::Connection;

use super::{
    data_dir::{DATABASE, DatabaseInfo, lock_data_dir, open_alongside, read_info, with_suffix},
    errors::from_sqlite,
    schema,
};
use crate::{Result, StoreError, sql::quote};

/// The first layout with the flag.
const FIRST_LAYOUT: u32 = 3;

const SET: &str = "INSERT INTO _store_info VALUES ('clean_stop', 1) ON CONFLICT(key) DO UPDATE SET value = 1";
const CLEAR: &str = "UPDATE _store_info SET value = 0 WHERE key = 'clean_stop'";

/// Sets the flag, within the caller's transaction or a transaction of its own.
pub(crate) fn set(connection: &Connection) -> rusqlite::Result<()> {
    connection.execute(SET, []).map(drop)
}

/// Clears the flag and checkpoints, so that it is cleared in the main file on return. `Unavailable` if a long read of
/// an older snapshot prevents that.
pub(super) fn clear(connection: &Connection) -> Result<()> {
    let clear = || {
        connection.execute(CLEAR, [])?;
        connection.query_row("PRAGMA wal_checkpoint(FULL)", [], |row| {
            Ok(row.get::<_, i64>(0)? == 0 && row.get::<_, i64>(1)? == row.get::<_, i64>(2)?)
        })
    };
    match clear() {
        Ok(true) => Ok(()),
        Ok(false) => Err(StoreError::Unavailable(
            "the first write since the start waits for a read that began before it; try again in a moment".into(),
        )),
        Err(error) => Err(from_sqlite(error, "writing")),
    }
}

/// Whether the flag is set; an older layout counts as set.
pub(super) fn is_set(layout: u32, value: Option<i64>) -> bool {
    layout < FIRST_LAYOUT || value == Some(1)
}

/// Whether the database has a log file, even an empty one.
pub(super) fn has_log(database: &Path) -> bool {
    fs::metadata(with_suffix(database, "-wal")).is_ok()
}

/// Refuses a database that is missing its newest writes.
pub(crate) fn require(identity: &DatabaseInfo, database: &Path) -> Result<()> {
    if !identity.seeded || identity.is_clean || has_log(database) {
        return Ok(());
    }
    Err(StoreError::Corrupt(missing_writes_error(database)))
}

/// The error for a database with neither the flag nor a log.
pub(super) fn missing_writes_error(database: &Path) -> String {
    let data_dir = database.parent().unwrap_or(database);
    format!(
        "`{}` is missing its newest writes: it was not shut down cleanly, and its write-ahead log `{}` is gone (it was \
         removed, or the database was copied without `openorch backup`). Put the log back, or restore a backup with \
         `openorch restore`; to continue without those writes: openorch check --accept --folder '{}'. Nothing was \
         changed",
        database.display(),
        with_suffix(database, "-wal").display(),
        data_dir.display()
    )
}

/// The newest document of a database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LastWrite {
    /// Its collection.
    pub collection: String,
    /// Its id.
    pub id: String,
    /// Its version.
    pub version: u64,
    /// The text of its first existing field of `at`, `updatedAt` and `createdAt`.
    pub time: Option<String>,
}

/// Accepts a database that is missing its newest writes, after [`crate::check`] found it sound, so that a daemon can
/// start on it again. Returns its newest document; `None` if it has no documents.
///
/// `NotFound` if there is no database, `InUse` if a process holds the directory.
pub fn accept_missing_writes(folder: &Path) -> Result<Option<LastWrite>> {
    let database = folder.join(DATABASE);
    if read_info(&database)?.is_none() {
        return Err(StoreError::NotFound(format!("there is no data in `{}`", folder.display())));
    }
    let _held = lock_data_dir(folder)?;
    let failed = |error| from_sqlite(error, &format!("accepting `{}`", database.display()));
    // With a log, nothing is missing, and the flag would be wrong: it describes the main file alone.
    let lacks_writes = !has_log(&database);
    let connection = open_alongside(&database).map_err(failed)?;
    let newest = last_write(&connection).map_err(failed)?;
    if lacks_writes {
        connection.execute_batch("PRAGMA synchronous = FULL").and_then(|()| set(&connection)).map_err(failed)?;
    }
    connection.close().map_err(|(_, error)| failed(error))?;
    Ok(newest)
}

fn last_write(connection: &Connection) -> rusqlite::Result<Option<LastWrite>> {
    let mut newest: Option<LastWrite> = None;
    for collection in schema::collections(connection)? {
        let table = quote(&format!("c_{collection}"));
        let sql = format!(
            "SELECT id, ver, CASE WHEN json_valid(doc) THEN coalesce(doc ->> '$.at', doc ->> '$.updatedAt', \
             doc ->> '$.createdAt') END FROM {table} ORDER BY ver DESC LIMIT 1"
        );
        let mut select = connection.prepare(&sql)?;
        let mut rows = select.query([])?;
        if let Some(row) = rows.next()? {
            let version = row.get::<_, i64>(1)?.unsigned_abs();
            if newest.as_ref().is_none_or(|newest| version > newest.version) {
                let time = row.get::<_, Option<rusqlite::types::Value>>(2)?;
                let time = time.and_then(|time| match time {
                    rusqlite::types::Value::Text(text) => Some(text),
                    _ => None,
                });
                newest = Some(LastWrite { collection: collection.clone(), id: row.get(0)?, version, time });
            }
        }
    }
    Ok(newest)
}
