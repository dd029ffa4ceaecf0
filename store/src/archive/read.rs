//! Reads an archive. A file is untrusted until it passes the checks of the format.

use std::path::{Path, PathBuf};

use rusqlite::Connection;

use super::{Notes, SourceDatabase, invalid_archive, read_error, read_notes};
use crate::{
    Result, Row, StoreError,
    sql::{check_name, quote},
    sqlite::{DatabaseInfo, clean_shutdown, open_read_only, read_info, row_of, schema_check},
};

/// The maximum number of documents in a page, and its approximate maximum size.
const PAGE_ROWS: usize = 500;
const PAGE_BYTES: usize = 1024 * 1024;
const MAX_COLLECTIONS: usize = 10_000;

/// A collection with the declaration recorded in its source.
pub(crate) struct ArchivedCollection {
    pub(crate) name: String,
    pub(crate) declaration: String,
}

/// An archive opened for a restore by an [`Engine`](crate::Engine).
pub struct ArchiveReader {
    file: PathBuf,
    connection: Connection,
    pub(crate) origin: SourceDatabase,
    pub(crate) collections: Vec<ArchivedCollection>,
    notes: Notes,
}

impl ArchiveReader {
    /// Opens an archive that either engine made, or the database file of a data directory that was shut down cleanly.
    ///
    /// Errors: a file that is missing or has no data (`NotFound`); one that is damaged, truncated, not a backup, or
    /// inconsistent with its own size (`Corrupt`); one of a newer version, as a whole or with a required section of a
    /// newer version (`Unavailable`).
    pub fn open(file: &Path) -> Result<Self> {
        let identity = require_backup(file)?;
        let failed = |error| read_error(error, file);
        let connection = open_read_only(file).map_err(failed)?;
        schema_check::require(&connection, file)?;
        let notes = read_notes(&connection, file)?;
        let read = || {
            let last_version =
                connection
                    .query_row("SELECT value FROM _store_info WHERE key = 'last_version'", [], |row| row.get(0))?;
            let declared =
                |row: &rusqlite::Row<'_>| Ok(ArchivedCollection { name: row.get(0)?, declaration: row.get(1)? });
            let sql =
                format!("SELECT collection, spec FROM _store_meta ORDER BY collection LIMIT {}", MAX_COLLECTIONS + 1);
            let mut select = connection.prepare(&sql)?;
            let collections = select.query_map([], declared)?.collect::<rusqlite::Result<Vec<_>>>()?;
            Ok((last_version, collections))
        };
        let (last_version, collections) = read().map_err(failed)?;
        if collections.len() > MAX_COLLECTIONS {
            return Err(invalid_archive(file, "it has more collections than OpenOrch allows"));
        }
        let origin = SourceDatabase { database_id: identity.id, last_version };
        Ok(Self { file: file.into(), connection, origin, collections, notes })
    }

    /// The notes stored in the backup.
    pub fn notes(&self) -> &Notes {
        &self.notes
    }

    /// The path of the archive.
    pub(crate) fn file(&self) -> &Path {
        &self.file
    }

    /// Runs the integrity check of all pages, before documents are read.
    pub(crate) fn require_sound(&self) -> Result<()> {
        require_sound(&self.connection, &self.file)
    }

    /// The number of documents in a collection.
    pub(crate) fn count(&self, collection: &str) -> Result<u64> {
        let sql = format!("SELECT count(*) FROM {}", table_name(collection)?);
        let count = self.connection.query_row(&sql, [], |row| row.get::<_, i64>(0));
        count.map(i64::unsigned_abs).map_err(|error| self.read_error(error))
    }

    /// The next page of documents after `place`, which is advanced. Empty at the end.
    pub(crate) fn page(&self, collection: &str, place: &mut i64) -> Result<Vec<Row>> {
        let sql =
            format!("SELECT id, ver, doc, rid FROM {} WHERE rid > ? ORDER BY rid LIMIT ?", table_name(collection)?);
        let mut read = || {
            let mut select = self.connection.prepare_cached(&sql)?;
            let mut found = select.query([*place, PAGE_ROWS as i64])?;
            let (mut rows, mut bytes) = (Vec::new(), 0);
            while let (true, Some(row)) = (bytes < PAGE_BYTES, found.next()?) {
                *place = row.get(3)?;
                let row = row_of(row)?;
                bytes += row.body.len();
                rows.push(row);
            }
            Ok(rows)
        };
        read().map_err(|error| self.read_error(error))
    }

    fn read_error(&self, error: rusqlite::Error) -> StoreError {
        read_error(error, &self.file)
    }
}

/// Refuses a file that is missing, not a seeded database, or without its newest writes; returns its identity.
fn require_backup(file: &Path) -> Result<DatabaseInfo> {
    let identity = read_info(file)?.filter(|identity| identity.seeded);
    let identity = identity
        .ok_or_else(|| StoreError::NotFound(format!("`{}` is missing, empty, or has no data", file.display())))?;
    clean_shutdown::require(&identity, file)?;
    Ok(identity)
}

pub(super) fn require_sound(connection: &Connection, file: &Path) -> Result<()> {
    let found: String =
        connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0)).map_err(|error| read_error(error, file))?;
    match found.as_str() {
        "ok" => Ok(()),
        _ => Err(StoreError::Corrupt(format!("`{}` is damaged: {found}", file.display()))),
    }
}

/// The table of a collection whose name comes from a file.
pub(super) fn table_name(collection: &str) -> Result<String> {
    check_name(collection)
        .map_err(|_| StoreError::Corrupt(format!("`{}` is not a valid collection name", collection.escape_debug())))?;
    Ok(quote(&format!("c_{collection}")))
}
