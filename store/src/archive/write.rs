//! Writes an archive under a temporary name; it gets its final name after it passed the checks that a restore makes.

#[cfg(unix)]
use std::io;
use std::{
    fs::{self, File, TryLockError},
    path::{Path, PathBuf},
};

use rusqlite::{Connection, OpenFlags};

use super::{
    ArchivedCollection, Notes, SourceDatabase,
    read::{require_sound, table_name},
    write_own_tables,
};
use crate::{
    Result, Row, StoreError,
    sql::migration::DOCUMENTS_ONLY,
    sqlite::{
        clean_shutdown, from_io, from_sqlite, harden_for_file, make_own_tables, open_private, remove_database,
        remove_side_files, schema_check, sync_file, sync_parent_dir, with_suffix,
    },
};

/// An archive in progress, to which an [`Engine`](crate::Engine) writes its data. Dropping it deletes the file.
pub struct ArchiveWriter {
    /// The connection that inserts documents one by one. Closed before the file is removed.
    documents: Option<Connection>,
    file: NewFile,
}

impl ArchiveWriter {
    /// Creates the file under a temporary name, readable by its owner only. `AlreadyExists` if the final name is taken,
    /// `InUse` if another process is writing the same backup.
    pub fn create(file: &Path) -> Result<Self> {
        Ok(Self { documents: None, file: NewFile::make(file)? })
    }

    /// Adds the notes, syncs the file and renames it to its final name. Returns its size in bytes.
    pub fn finish(self, notes: &Notes) -> Result<u64> {
        let Self { documents, file } = self;
        if let Some(connection) = documents {
            let committed =
                connection.execute_batch("COMMIT").and_then(|()| connection.close().map_err(|(_, error)| error));
            committed.map_err(|error| write_error(error, &file.temp_path))?;
        }
        finalize(&file.temp_path, notes)?;
        file.finish()
    }

    /// The empty temporary file, for an engine that copies a whole database into it.
    pub(crate) fn temp_path(&self) -> &Path {
        &self.file.temp_path
    }

    /// Starts an archive whose documents are inserted one by one.
    pub(crate) fn begin(&mut self, origin: &SourceDatabase) -> Result<()> {
        let make = || {
            let connection = Connection::open_with_flags(&self.file.temp_path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
            // An incomplete file is deleted, so a journal would gain nothing.
            connection.execute_batch("PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; BEGIN")?;
            make_own_tables(&connection, &origin.database_id, true, origin.last_version)?;
            Ok(connection)
        };
        self.documents = Some(make().map_err(|error| write_error(error, &self.file.temp_path))?);
        Ok(())
    }

    /// Adds an empty collection.
    pub(crate) fn collection(&self, declared: &ArchivedCollection) -> Result<()> {
        let (connection, table) = (self.documents_connection()?, table_name(&declared.name)?);
        let sql = format!(
            "CREATE TABLE {table}(rid INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, ver INTEGER NOT NULL, doc TEXT NOT NULL)"
        );
        let values = (&declared.name, &declared.declaration, DOCUMENTS_ONLY);
        connection
            .execute_batch(&sql)
            .and_then(|()| connection.execute("INSERT INTO _store_meta VALUES (?, ?, ?)", values))
            .map(drop)
            .map_err(|error| write_error(error, &self.file.temp_path))
    }

    /// Adds documents to a collection that was added before.
    pub(crate) fn add(&self, collection: &str, rows: &[Row]) -> Result<()> {
        let connection = self.documents_connection()?;
        let sql = format!("INSERT INTO {}(id, ver, doc) VALUES (?, ?, ?)", table_name(collection)?);
        let add = || {
            let mut insert = connection.prepare_cached(&sql)?;
            for row in rows {
                insert.execute((&row.id, row.version.cast_signed(), &*row.body))?;
            }
            Ok(())
        };
        add().map_err(|error| write_error(error, &self.file.temp_path))
    }

    fn documents_connection(&self) -> Result<&Connection> {
        self.documents
            .as_ref()
            .ok_or_else(|| StoreError::Internal("documents were added before the archive was begun".into()))
    }
}

fn write_error(error: rusqlite::Error, part: &Path) -> StoreError {
    from_sqlite(error, &format!("writing `{}`", part.display()))
}

/// Adds the archive's own tables and the clean-shutdown flag, and verifies that the file can be restored.
fn finalize(part: &Path, notes: &Notes) -> Result<()> {
    let failed = |error| write_error(error, part);
    let opened = Connection::open_with_flags(part, OpenFlags::SQLITE_OPEN_READ_WRITE);
    let mut connection = opened.and_then(harden_for_file).map_err(failed)?;
    let add = |connection: &mut Connection| {
        let transaction = connection.transaction()?;
        write_own_tables(&transaction, notes)?;
        clean_shutdown::set(&transaction)?;
        transaction.commit()
    };
    add(&mut connection).map_err(failed)?;
    schema_check::require(&connection, part)?;
    require_sound(&connection, part)?;
    connection.close().map_err(|(_, error)| failed(error))
}

/// A backup in progress under a temporary name. Dropping it deletes the file.
struct NewFile {
    file: PathBuf,
    temp_path: PathBuf,
    is_complete: bool,
    /// Locks the temporary file against other processes.
    _lock: File,
}

impl NewFile {
    /// Creates an empty file that only its owner can read. `InUse` if another process is writing the same one.
    fn make(file: &Path) -> Result<Self> {
        refuse_existing(file)?;
        let part = with_suffix(file, ".part");
        let lock = open_private(&part)?;
        // Some file systems have no locks; concurrent backups to one file are rare, so this is not an error.
        let is_locked = matches!(lock.try_lock(), Err(TryLockError::WouldBlock));
        // The previous holder of the lock may have renamed or removed the file meanwhile.
        refuse_existing(file)?;
        if is_locked || !is_same_file(&lock, &part) {
            return Err(StoreError::InUse(format!(
                "another process is making `{}`; wait for it, or choose another name",
                file.display()
            )));
        }
        // Leftovers of an interrupted backup.
        remove_side_files(&part)?;
        lock.set_len(0).map_err(|error| from_io(&error, "writing", &part))?;
        Ok(Self { file: file.into(), temp_path: part, is_complete: false, _lock: lock })
    }

    /// Renames it to its final name. Returns its size in bytes.
    fn finish(mut self) -> Result<u64> {
        sync_file(&self.temp_path)?;
        let size = fs::metadata(&self.temp_path).map_err(|error| from_io(&error, "reading", &self.temp_path))?.len();
        refuse_existing(&self.file)?;
        fs::rename(&self.temp_path, &self.file).map_err(|error| from_io(&error, "making", &self.file))?;
        self.is_complete = true;
        sync_parent_dir(&self.file)?;
        Ok(size)
    }
}

fn refuse_existing(file: &Path) -> Result<()> {
    match file.exists() {
        false => Ok(()),
        true => Err(StoreError::AlreadyExists(format!("`{}` exists already; choose another name", file.display()))),
    }
}

/// Whether an open file is the one at this path now.
fn is_same_file(file: &File, path: &Path) -> bool {
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        let number = |found: io::Result<fs::Metadata>| found.ok().map(|found| (found.dev(), found.ino()));
        number(file.metadata()) == number(fs::metadata(path))
    }
    #[cfg(not(unix))]
    {
        let _ = file;
        path.exists()
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        if !self.is_complete {
            // Best effort: an incomplete backup is useless.
            let _ = remove_database(&self.temp_path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_two_backups_to_the_same_file_the_second_is_refused_and_the_first_goes_on() {
        let temp = tempfile::tempdir().unwrap();
        let file = temp.path().join("backup");
        let first = NewFile::make(&file).unwrap();
        fs::write(&first.temp_path, "half").unwrap();
        let second = NewFile::make(&file).err().expect("the first one is being made");
        assert!(matches!(&second, StoreError::InUse(text) if text.contains("another process is making")), "{second:?}");
        assert_eq!(fs::read(&first.temp_path).unwrap(), b"half");
        assert_eq!(first.finish(), Ok(4));
        let second = NewFile::make(&file).err().expect("there is one");
        assert!(matches!(second, StoreError::AlreadyExists(_)), "{second:?}");

        // The state after a killed backup.
        fs::remove_file(&file).unwrap();
        fs::write(temp.path().join("backup.part"), "half").unwrap();
        assert_eq!(NewFile::make(&file).unwrap().finish(), Ok(0));
    }
}
