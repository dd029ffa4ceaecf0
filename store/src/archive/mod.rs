//! The backup format, shared by the engines: either engine restores what the other wrote.
//!
//! An archive is a SQLite database. If the data is in SQLite, the archive is a page-by-page copy by SQLite, a snapshot
//! taken while a daemon writes, and restoring it is a rename. A format of our own would have to be written and read
//! document by document, and would lack what SQLite provides: an integrity check of the whole file, and reading in
//! bounded memory. For the same reason the database file of a data directory, of any older layout, is a valid archive.
//!
//! The content of an archive is in *sections*, each with a name and a version:
//!
//! | tables | content |
//! | --- | --- |
//! | `_store_info`, `_store_meta` | the database's identity, and its collections with their declarations |
//! | `_backup(name, value)` | notes of the program that made it, such as the time and the key |
//! | `_sections(name, version, optional)` | the list of sections; without this table, only `documents` |
//! | `c_<collection>` … | section `documents`, version 1: the tables of the collections, or only their documents ([`DOCUMENTS_ONLY`](crate::sql::migration::DOCUMENTS_ONLY)), from which a restore rebuilds columns, lists and indexes |
//! | `_section_<name>(at, bytes)` | the content of any further section, in chunks by position |
//!
//! A section of an unknown name or version is refused by name, unless it is marked as optional: then it is skipped.
//! Blobs will be such a section.
//!
//! A file may come from an untrusted source. Before its content is used, it must have exactly these tables (checked by
//! [`crate::sqlite`]), reading it is limited to the cost that a file of its size can have, no text or number of entries
//! exceeds the limits here, and its pages pass the integrity check. A refused file leaves the restore target untouched.

mod read;
mod write;

use std::path::Path;

use rusqlite::Connection;

pub(crate) use self::read::ArchivedCollection;
pub use self::{read::ArchiveReader, write::ArchiveWriter};
use crate::{Result, StoreError, sqlite::from_file};

/// Notes stored in a backup beside the documents, as pairs of name and text.
pub type Notes = Vec<(String, String)>;

/// The notes table, and the statement that creates it.
pub(crate) const NOTES: (&str, &str) =
    ("_backup", "CREATE TABLE _backup(name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID");
/// The sections table, and the statement that creates it.
pub(crate) const SECTIONS: (&str, &str) = (
    "_sections",
    "CREATE TABLE _sections(name TEXT PRIMARY KEY, version INTEGER NOT NULL, optional INTEGER NOT NULL) WITHOUT ROWID",
);
/// The only existing section, and its version.
const DOCUMENTS: (&str, i64) = ("documents", 1);

const MAX_SECTIONS: usize = 64;
const MAX_SECTION_NAME: usize = 64;
const MAX_NOTES: i64 = 64;
const MAX_NOTE_BYTES: i64 = 64 * 1024;

/// The identity of the database that a backup comes from.
pub(crate) struct SourceDatabase {
    pub(crate) database_id: String,
    /// The highest version of any document.
    pub(crate) last_version: i64,
}

/// The table of a section, and the statement that creates it; `None` for an invalid section name and for the documents.
pub(crate) fn section_table(name: &str) -> Option<(String, String)> {
    let is_name = |letter: u8| letter.is_ascii_lowercase() || letter.is_ascii_digit() || letter == b'_';
    if name.is_empty() || name.len() > MAX_SECTION_NAME || !name.bytes().all(is_name) || name == DOCUMENTS.0 {
        return None;
    }
    let table = format!("_section_{name}");
    let statement = format!("CREATE TABLE {table}(at INTEGER PRIMARY KEY, bytes BLOB NOT NULL)");
    Some((table, statement))
}

/// The section names in a database, up to one more than is allowed.
pub(crate) fn section_names(connection: &Connection) -> rusqlite::Result<Vec<String>> {
    let mut select = connection.prepare(&format!("SELECT name FROM _sections LIMIT {}", MAX_SECTIONS + 1))?;
    select.query_map([], |row| row.get(0))?.collect()
}

/// Writes notes and sections, replacing existing ones, within the caller's transaction.
fn write_own_tables(connection: &Connection, notes: &Notes) -> rusqlite::Result<()> {
    drop_own_tables(connection)?;
    connection.execute_batch(NOTES.1)?;
    for note in notes {
        connection.execute("INSERT INTO _backup VALUES (?, ?)", (&note.0, &note.1))?;
    }
    connection.execute_batch(SECTIONS.1)?;
    connection.execute("INSERT INTO _sections VALUES (?, ?, 0)", DOCUMENTS).map(drop)
}

/// Drops the archive's own tables, within the caller's transaction: what is left is an ordinary database.
pub(crate) fn drop_own_tables(connection: &Connection) -> rusqlite::Result<()> {
    if has_table(connection, SECTIONS.0)? {
        for (table, _) in section_names(connection)?.iter().filter_map(|name| section_table(name)) {
            connection.execute_batch(&format!("DROP TABLE IF EXISTS {table}"))?;
        }
    }
    connection.execute_batch("DROP TABLE IF EXISTS _sections; DROP TABLE IF EXISTS _backup")
}

/// Refuses unknown sections that are not optional.
pub(crate) fn require_sections(connection: &Connection, file: &Path) -> Result<()> {
    let failed = |error| read_error(error, file);
    if !has_table(connection, SECTIONS.0).map_err(failed)? {
        return Ok(());
    }
    let mut select = connection
        .prepare(&format!("SELECT name, version, optional FROM _sections ORDER BY name LIMIT {}", MAX_SECTIONS + 1))
        .map_err(failed)?;
    let mut rows = select.query([]).map_err(failed)?;
    let (mut count, mut has_documents) = (0, false);
    while let Some(row) = rows.next().map_err(failed)? {
        let read = || Ok((row.get::<_, String>(0)?, row.get::<_, i64>(1)?, row.get::<_, bool>(2)?));
        let (name, version, is_optional) = read().map_err(failed)?;
        count += 1;
        has_documents |= (name.as_str(), version) == DOCUMENTS;
        let is_name = name == DOCUMENTS.0 || section_table(&name).is_some();
        if count > MAX_SECTIONS || !is_name {
            return Err(invalid_archive(file, "its list of sections is not one that OpenOrch writes"));
        }
        if (name.as_str(), version) != DOCUMENTS && !is_optional {
            return Err(StoreError::Unavailable(format!(
                "`{}` has a section `{name}` of version {version}, which this version of OpenOrch does not know; use the \
                 version that made it, or a newer version. Nothing was changed",
                file.display()
            )));
        }
    }
    match has_documents {
        true => Ok(()),
        false => Err(invalid_archive(file, "it has no section `documents`")),
    }
}

/// The notes of an archive; empty for a database that is not a backup.
fn read_notes(connection: &Connection, file: &Path) -> Result<Notes> {
    let failed = |error| read_error(error, file);
    if !has_table(connection, NOTES.0).map_err(failed)? {
        return Ok(Notes::new());
    }
    let usage = "SELECT count(*), coalesce(max(octet_length(name) + octet_length(value)), 0) FROM _backup";
    let (count, bytes): (i64, i64) =
        connection.query_row(usage, [], |row| Ok((row.get(0)?, row.get(1)?))).map_err(failed)?;
    if count > MAX_NOTES || bytes > MAX_NOTE_BYTES {
        return Err(invalid_archive(file, "its notes exceed the limits of OpenOrch"));
    }
    let mut select = connection.prepare("SELECT name, value FROM _backup ORDER BY name").map_err(failed)?;
    let notes = select.query_map([], |row| Ok((row.get(0)?, row.get(1)?)));
    notes.and_then(Iterator::collect).map_err(failed)
}

fn has_table(connection: &Connection, name: &str) -> rusqlite::Result<bool> {
    connection.prepare("SELECT 1 FROM sqlite_schema WHERE name = ?")?.exists([name])
}

fn read_error(error: rusqlite::Error, file: &Path) -> StoreError {
    from_file(error, file)
}

fn invalid_archive(file: &Path, why: &str) -> StoreError {
    StoreError::Corrupt(format!("`{}` is not a valid backup: {why}. Nothing was changed", file.display()))
}
