//! The mark of a clean stop, a value in the database: what is in the database file is all there is. The first commit after
//! a start takes it away, in the file itself before anything is acknowledged, and a stop puts it back once the log is
//! written back. A database without mark and without log is therefore one whose newest writes are missing: a copy of the
//! main file alone, or one whose log was removed.
//!
//! Not found is a main file with a log of another moment, since both are there.

use std::fs;
use std::path::Path;

use rusqlite::Connection;

use super::errors::from_sqlite;
use super::folder::{DATABASE, Identity, beside, read_identity, take_folder, visit};
use super::schema;
use crate::sql::quote;
use crate::{Result, StoreError};

/// The layout that first had the mark.
const FIRST_LAYOUT: u32 = 3;

const SET: &str = "INSERT INTO _store_info VALUES ('clean_stop', 1) ON CONFLICT(key) DO UPDATE SET value = 1";
const CLEAR: &str = "UPDATE _store_info SET value = 0 WHERE key = 'clean_stop'";

/// Puts the mark into a database, within the caller's transaction or one of its own.
pub(crate) fn set(connection: &Connection) -> rusqlite::Result<()> {
    connection.execute(SET, []).map(drop)
}

/// Takes it away; it is gone from the file itself when this answers. `Unavailable` where somebody reads on and on what was
/// there before.
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

/// Whether a database has the mark; one of an older layout never had it.
pub(super) fn is_set(layout: u32, value: Option<i64>) -> bool {
    layout < FIRST_LAYOUT || value == Some(1)
}

/// Whether there is a log beside a database; an empty one is one, too.
pub(super) fn has_log(database: &Path) -> bool {
    fs::metadata(beside(database, "-wal")).is_ok()
}

/// Refuses a database that lacks its newest writes.
pub(crate) fn require(identity: &Identity, database: &Path) -> Result<()> {
    if !identity.seeded || identity.clean || has_log(database) {
        return Ok(());
    }
    Err(StoreError::Corrupt(missing(database)))
}

/// What is wrong with a database that has neither mark nor log.
pub(super) fn missing(database: &Path) -> String {
    let folder = database.parent().unwrap_or(database);
    format!(
        "`{}` lacks its newest writes: it was not stopped cleanly, and its log `{}` is not beside it (a copy made without \
         `openorch backup`, or the log was removed). Put the log back, or restore a backup with `openorch restore`; to go on \
         without those writes: openorch check --accept --folder '{}'. Nothing was changed",
        database.display(),
        beside(database, "-wal").display(),
        folder.display()
    )
}

/// What was written last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Newest {
    /// Its collection.
    pub collection: String,
    /// Its id.
    pub id: String,
    /// Its version.
    pub version: u64,
    /// The text of its field `at`, `updatedAt` or `createdAt`, the first of them that it has.
    pub time: Option<String>,
}

/// Accepts a database that lacks its newest writes, after [`crate::check`] found it sound: a daemon starts on it again.
/// Answers what was written last of all that is there; none where there is no document.
///
/// `NotFound` where there is no database, `InUse` where a process holds the folder.
pub fn accept(folder: &Path) -> Result<Option<Newest>> {
    let database = folder.join(DATABASE);
    if read_identity(&database)?.is_none() {
        return Err(StoreError::NotFound(format!("there is no data in `{}`", folder.display())));
    }
    let _held = take_folder(folder)?;
    let failed = |error| from_sqlite(error, &format!("accepting `{}`", database.display()));
    // With a log all is there, and the mark would say that of the file alone.
    let lacks_writes = !has_log(&database);
    let connection = visit(&database).map_err(failed)?;
    let newest = newest(&connection).map_err(failed)?;
    if lacks_writes {
        connection.execute_batch("PRAGMA synchronous = FULL").and_then(|()| set(&connection)).map_err(failed)?;
    }
    connection.close().map_err(|(_, error)| failed(error))?;
    Ok(newest)
}

fn newest(connection: &Connection) -> rusqlite::Result<Option<Newest>> {
    let mut newest: Option<Newest> = None;
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
                newest = Some(Newest { collection: collection.clone(), id: row.get(0)?, version, time });
            }
        }
    }
    Ok(newest)
}
