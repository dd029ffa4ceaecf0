//! The format of a backup, the same whichever engine writes it: either engine restores what the other wrote.
//!
//! An archive is a SQLite database. Where the data is in SQLite, the archive is its copy, which SQLite makes page by page,
//! beside a daemon that writes and as of one moment, and restoring it is giving it a name. A format of our own would have to
//! be written and read document by document, and would need what SQLite brings: a check of the whole file, and reading in
//! bounded memory. For the same reason the database of a data folder, as old as it may be, is an archive.
//!
//! What an archive says is in *sections*, each with a name and a version:
//!
//! | tables | what |
//! | --- | --- |
//! | `_store_info`, `_store_meta` | what the database is, and its collections with their declarations |
//! | `_backup(name, value)` | the notes of who made it, such as the time and the key |
//! | `_sections(name, version, optional)` | which sections there are; without this table it is `documents` alone |
//! | `c_<collection>` … | section `documents`, version 1: the tables of the collections, or of each its documents alone ([`DOCUMENTS_ALONE`](crate::sql::change::DOCUMENTS_ALONE)), from which columns, lists and indexes are made when it is restored |
//! | `_section_<name>(at, bytes)` | the content of any further section, in pieces by their place |
//!
//! A section that this version does not know, by its name or its version, is refused by its name, unless it is marked as
//! optional: then it is left out. Blobs will be such a section.
//!
//! A file may come from anywhere. Before anything of it is believed it must have exactly these tables ([`crate::sqlite`] says
//! how that is told), reading it may cost what a file of its size can cost and no more, no text or number of entries is
//! longer than the bounds here, and its pages are checked. Whatever is refused leaves the place that it was to be restored
//! into untouched.

mod read;
mod write;

use std::path::Path;

use rusqlite::Connection;

pub use self::read::ArchiveReader;
pub(crate) use self::read::Declared;
pub use self::write::ArchiveWriter;

use crate::sqlite::from_file;
use crate::{Result, StoreError};

/// What the makers of a backup wrote beside the documents, as pairs of name and text.
pub type Notes = Vec<(String, String)>;

/// The table of the notes, and the statement that makes it.
pub(crate) const NOTES: (&str, &str) =
    ("_backup", "CREATE TABLE _backup(name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID");
/// The table of the sections, and the statement that makes it.
pub(crate) const SECTIONS: (&str, &str) = (
    "_sections",
    "CREATE TABLE _sections(name TEXT PRIMARY KEY, version INTEGER NOT NULL, optional INTEGER NOT NULL) WITHOUT ROWID",
);
/// The one section that there is, and its version.
const DOCUMENTS: (&str, i64) = ("documents", 1);

const MAX_SECTIONS: usize = 64;
const MAX_SECTION_NAME: usize = 64;
const MAX_NOTES: i64 = 64;
const MAX_NOTE_BYTES: i64 = 64 * 1024;

/// What a database says of itself.
pub(crate) struct Origin {
    pub(crate) database_id: String,
    /// No document has a later version.
    pub(crate) last_version: i64,
}

/// The table with the content of a section of this name, and the statement that makes it; none of a name that no section
/// has, and none for the documents.
pub(crate) fn section_table(name: &str) -> Option<(String, String)> {
    let is_name = |letter: u8| letter.is_ascii_lowercase() || letter.is_ascii_digit() || letter == b'_';
    if name.is_empty() || name.len() > MAX_SECTION_NAME || !name.bytes().all(is_name) || name == DOCUMENTS.0 {
        return None;
    }
    let table = format!("_section_{name}");
    let statement = format!("CREATE TABLE {table}(at INTEGER PRIMARY KEY, bytes BLOB NOT NULL)");
    Some((table, statement))
}

/// The names of the sections that a database lists, as far as there may be any.
pub(crate) fn section_names(connection: &Connection) -> rusqlite::Result<Vec<String>> {
    let mut select = connection.prepare(&format!("SELECT name FROM _sections LIMIT {}", MAX_SECTIONS + 1))?;
    select.query_map([], |row| row.get(0))?.collect()
}

/// Adds notes and sections in place of those that are there, within the caller's transaction.
fn add_own(connection: &Connection, notes: &Notes) -> rusqlite::Result<()> {
    remove_own(connection)?;
    connection.execute_batch(NOTES.1)?;
    for note in notes {
        connection.execute("INSERT INTO _backup VALUES (?, ?)", (&note.0, &note.1))?;
    }
    connection.execute_batch(SECTIONS.1)?;
    connection.execute("INSERT INTO _sections VALUES (?, ?, 0)", DOCUMENTS).map(drop)
}

/// Removes what an archive has beside its documents, within the caller's transaction: what is left is a database like any
/// other.
pub(crate) fn remove_own(connection: &Connection) -> rusqlite::Result<()> {
    if has_table(connection, SECTIONS.0)? {
        for (table, _) in section_names(connection)?.iter().filter_map(|name| section_table(name)) {
            connection.execute_batch(&format!("DROP TABLE IF EXISTS {table}"))?;
        }
    }
    connection.execute_batch("DROP TABLE IF EXISTS _sections; DROP TABLE IF EXISTS _backup")
}

/// Refuses sections that must be understood and are not.
pub(crate) fn require_sections(connection: &Connection, file: &Path) -> Result<()> {
    let failed = |error| reading(error, file);
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
            return Err(not_of_ours(file, "its list of sections is not one that a version of OpenOrch writes"));
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
        false => Err(not_of_ours(file, "it has no section `documents`")),
    }
}

/// The notes of an archive; none in a database that is no backup.
fn read_notes(connection: &Connection, file: &Path) -> Result<Notes> {
    let failed = |error| reading(error, file);
    if !has_table(connection, NOTES.0).map_err(failed)? {
        return Ok(Notes::new());
    }
    let most = "SELECT count(*), coalesce(max(octet_length(name) + octet_length(value)), 0) FROM _backup";
    let (count, bytes): (i64, i64) =
        connection.query_row(most, [], |row| Ok((row.get(0)?, row.get(1)?))).map_err(failed)?;
    if count > MAX_NOTES || bytes > MAX_NOTE_BYTES {
        return Err(not_of_ours(file, "it has more notes, or longer ones, than any version of OpenOrch writes"));
    }
    let mut select = connection.prepare("SELECT name, value FROM _backup ORDER BY name").map_err(failed)?;
    let notes = select.query_map([], |row| Ok((row.get(0)?, row.get(1)?)));
    notes.and_then(Iterator::collect).map_err(failed)
}

fn has_table(connection: &Connection, name: &str) -> rusqlite::Result<bool> {
    connection.prepare("SELECT 1 FROM sqlite_schema WHERE name = ?")?.exists([name])
}

fn reading(error: rusqlite::Error, file: &Path) -> StoreError {
    from_file(error, file)
}

fn not_of_ours(file: &Path, why: &str) -> StoreError {
    StoreError::Corrupt(format!("`{}` is no backup that can be restored: {why}. Nothing was changed", file.display()))
}
