//! Reading an archive. Nothing of a file is believed before it is looked at; see the bounds of the format.

use std::path::{Path, PathBuf};

use rusqlite::Connection;

use super::{Notes, Origin, not_of_ours, read_notes, reading};
use crate::sql::{check_name, quote};
use crate::sqlite::{Identity, look_into, mark, read_identity, row_of, shape};
use crate::{Result, Row, StoreError};

/// The most documents of a page, and about how many bytes.
const PAGE: usize = 500;
const PAGE_BYTES: usize = 1024 * 1024;
const MAX_COLLECTIONS: usize = 10_000;

/// A collection as it was declared where its documents come from.
pub(crate) struct Declared {
    pub(crate) name: String,
    pub(crate) declaration: String,
}

/// An archive that is read, to be restored by an [`Engine`](crate::Engine).
pub struct ArchiveReader {
    file: PathBuf,
    connection: Connection,
    pub(crate) origin: Origin,
    pub(crate) collections: Vec<Declared>,
    notes: Notes,
}

impl ArchiveReader {
    /// Opens an archive that either engine made, or the database of a data folder that was stopped cleanly.
    ///
    /// Refused: a file that is not there or has no data (`NotFound`), that is damaged, cut off, no backup of ours or larger
    /// than it says (`Corrupt`), or that a newer version wrote, whole or with a section that must be understood
    /// (`Unavailable`).
    pub fn open(file: &Path) -> Result<Self> {
        let identity = require_backup(file)?;
        let failed = |error| reading(error, file);
        let connection = look_into(file).map_err(failed)?;
        shape::require(&connection, file)?;
        let notes = read_notes(&connection, file)?;
        let read = || {
            let last_version =
                connection
                    .query_row("SELECT value FROM _store_info WHERE key = 'last_version'", [], |row| row.get(0))?;
            let declared = |row: &rusqlite::Row<'_>| Ok(Declared { name: row.get(0)?, declaration: row.get(1)? });
            let sql =
                format!("SELECT collection, spec FROM _store_meta ORDER BY collection LIMIT {}", MAX_COLLECTIONS + 1);
            let mut select = connection.prepare(&sql)?;
            let collections = select.query_map([], declared)?.collect::<rusqlite::Result<Vec<_>>>()?;
            Ok((last_version, collections))
        };
        let (last_version, collections) = read().map_err(failed)?;
        if collections.len() > MAX_COLLECTIONS {
            return Err(not_of_ours(file, "it has more collections than any version of OpenOrch makes"));
        }
        let origin = Origin { database_id: identity.id, last_version };
        Ok(Self { file: file.into(), connection, origin, collections, notes })
    }

    /// What the makers of the backup wrote.
    pub fn notes(&self) -> &Notes {
        &self.notes
    }

    /// Where it is.
    pub(crate) fn file(&self) -> &Path {
        &self.file
    }

    /// Checks all of its pages: before documents are read.
    pub(crate) fn require_sound(&self) -> Result<()> {
        require_sound(&self.connection, &self.file)
    }

    /// How many documents a collection has.
    pub(crate) fn count(&self, collection: &str) -> Result<u64> {
        let sql = format!("SELECT count(*) FROM {}", table_of(collection)?);
        let count = self.connection.query_row(&sql, [], |row| row.get::<_, i64>(0));
        count.map(i64::unsigned_abs).map_err(|error| self.reading(error))
    }

    /// Some documents of a collection: those behind `place`, which moves on. None when there are no more.
    pub(crate) fn page(&self, collection: &str, place: &mut i64) -> Result<Vec<Row>> {
        let sql = format!("SELECT id, ver, doc, rid FROM {} WHERE rid > ? ORDER BY rid LIMIT ?", table_of(collection)?);
        let mut read = || {
            let mut select = self.connection.prepare_cached(&sql)?;
            let mut found = select.query([*place, PAGE as i64])?;
            let (mut rows, mut bytes) = (Vec::new(), 0);
            while let (true, Some(row)) = (bytes < PAGE_BYTES, found.next()?) {
                *place = row.get(3)?;
                let row = row_of(row)?;
                bytes += row.body.len();
                rows.push(row);
            }
            Ok(rows)
        };
        read().map_err(|error| self.reading(error))
    }

    fn reading(&self, error: rusqlite::Error) -> StoreError {
        reading(error, &self.file)
    }
}

/// Refuses a file that is not there, not a database that was seeded, or one that lacks its newest writes; answers what it
/// says of itself.
fn require_backup(file: &Path) -> Result<Identity> {
    let identity = read_identity(file)?.filter(|identity| identity.seeded);
    let identity = identity
        .ok_or_else(|| StoreError::NotFound(format!("`{}` is missing, empty, or has no data", file.display())))?;
    mark::require(&identity, file)?;
    Ok(identity)
}

pub(super) fn require_sound(connection: &Connection, file: &Path) -> Result<()> {
    let found: String =
        connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0)).map_err(|error| reading(error, file))?;
    match found.as_str() {
        "ok" => Ok(()),
        _ => Err(StoreError::Corrupt(format!("`{}` is damaged: {found}", file.display()))),
    }
}

/// The table of a collection whose name was read from somewhere.
pub(super) fn table_of(collection: &str) -> Result<String> {
    check_name(collection)
        .map_err(|_| StoreError::Corrupt(format!("`{}` is no name of a collection", collection.escape_debug())))?;
    Ok(quote(&format!("c_{collection}")))
}
