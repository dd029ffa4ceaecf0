//! A backup as another engine writes and reads it: a database of ours with documents alone. Of its collections nothing else
//! is there yet ([`DOCUMENTS_ALONE`]); the embedded engine makes it when it restores the file, and can read such a file as
//! well as it reads its own.

use std::path::{Path, PathBuf};

use rusqlite::{Connection, OpenFlags};

use super::backup::{NewFile, Notes, read_notes, require_backup, require_sound, seal};
use super::errors::from_sqlite;
use super::folder::{look_into, make_own_tables};
use super::run::row_of;
use super::shape;
use crate::sql::change::DOCUMENTS_ALONE;
use crate::sql::{check_name, quote};
use crate::{Result, Row, StoreError};

/// The most documents of a page, and about how many bytes.
const PAGE: usize = 500;
const PAGE_BYTES: usize = 1024 * 1024;

/// What a database says of itself.
pub(crate) struct Origin {
    pub(crate) database_id: String,
    /// No document has a later version.
    pub(crate) last_version: i64,
}

/// A collection as it was declared where its documents come from.
pub(crate) struct Declared {
    pub(crate) name: String,
    pub(crate) declaration: String,
}

/// A backup on its way. Dropping it leaves nothing.
pub(crate) struct NewArchive {
    // Closed before the file is removed.
    connection: Connection,
    file: NewFile,
}

impl NewArchive {
    /// Makes the file under another name. `AlreadyExists` where there is one of its own.
    pub(crate) fn make(file: &Path, origin: &Origin) -> Result<Self> {
        let file = NewFile::make(file)?;
        let make = || {
            let connection = Connection::open_with_flags(&file.part, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
            // A file that is not whole is thrown away, so that nothing is gained by writing it twice.
            connection.execute_batch("PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; BEGIN")?;
            make_own_tables(&connection, &origin.database_id, true, origin.last_version)?;
            Ok(connection)
        };
        let made = make().map_err(|error| writing(error, &file));
        made.map(|connection| Self { connection, file })
    }

    /// Adds a collection without documents.
    pub(crate) fn collection(&self, declared: &Declared) -> Result<()> {
        let table = table_of(&declared.name)?;
        let sql = format!(
            "CREATE TABLE {table}(rid INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, ver INTEGER NOT NULL, doc TEXT NOT NULL)"
        );
        let values = (&declared.name, &declared.declaration, DOCUMENTS_ALONE);
        self.connection
            .execute_batch(&sql)
            .and_then(|()| self.connection.execute("INSERT INTO _store_meta VALUES (?, ?, ?)", values))
            .map(drop)
            .map_err(|error| writing(error, &self.file))
    }

    /// Adds documents to a collection that was added.
    pub(crate) fn add(&self, collection: &str, rows: &[Row]) -> Result<()> {
        let sql = format!("INSERT INTO {}(id, ver, doc) VALUES (?, ?, ?)", table_of(collection)?);
        let add = || {
            let mut insert = self.connection.prepare_cached(&sql)?;
            for row in rows {
                insert.execute((&row.id, row.version.cast_signed(), &*row.body))?;
            }
            Ok(())
        };
        add().map_err(|error| writing(error, &self.file))
    }

    /// Adds the notes and gives the file its name. Answers its size.
    pub(crate) fn finish(self, notes: &Notes) -> Result<u64> {
        let Self { connection, file } = self;
        connection
            .execute_batch("COMMIT")
            .and_then(|()| connection.close().map_err(|(_, error)| error))
            .map_err(|error| writing(error, &file))?;
        seal(&file.part, notes)?;
        file.finish()
    }
}

fn writing(error: rusqlite::Error, file: &NewFile) -> StoreError {
    from_sqlite(error, &format!("writing `{}`", file.part.display()))
}

/// A backup that is read.
pub(crate) struct Archive {
    file: PathBuf,
    connection: Connection,
    pub(crate) origin: Origin,
    pub(crate) notes: Notes,
    pub(crate) collections: Vec<Declared>,
}

impl Archive {
    /// Opens a backup that this or another engine made. Refused as by [`super::Restoring::prepare`].
    pub(crate) fn open(file: &Path) -> Result<Self> {
        let identity = require_backup(file)?;
        let failed = |error| from_sqlite(error, &format!("reading `{}`", file.display()));
        let connection = look_into(file).map_err(failed)?;
        shape::require(&connection, file)?;
        require_sound(&connection, file)?;
        let read = || {
            let last_version =
                connection
                    .query_row("SELECT value FROM _store_info WHERE key = 'last_version'", [], |row| row.get(0))?;
            let declared = |row: &rusqlite::Row<'_>| Ok(Declared { name: row.get(0)?, declaration: row.get(1)? });
            let mut select = connection.prepare("SELECT collection, spec FROM _store_meta ORDER BY collection")?;
            let collections = select.query_map([], declared)?.collect::<rusqlite::Result<Vec<_>>>()?;
            Ok((last_version, collections, read_notes(&connection)?.unwrap_or_default()))
        };
        let (last_version, collections, notes) = read().map_err(failed)?;
        let origin = Origin { database_id: identity.id, last_version };
        Ok(Self { file: file.into(), connection, origin, notes, collections })
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
        from_sqlite(error, &format!("reading `{}`", self.file.display()))
    }
}

/// The table of a collection whose name was read from somewhere.
fn table_of(collection: &str) -> Result<String> {
    check_name(collection)
        .map_err(|_| StoreError::Corrupt(format!("`{}` is no name of a collection", collection.escape_debug())))?;
    Ok(quote(&format!("c_{collection}")))
}
