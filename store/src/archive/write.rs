//! Writing an archive: under another name until it is whole, and looked at as a restore would before it gets its own.

use std::fs::{self, File, TryLockError};
#[cfg(unix)]
use std::io;
use std::path::{Path, PathBuf};

use rusqlite::{Connection, OpenFlags};

use super::read::{require_sound, table_of};
use super::{Declared, Notes, Origin, add_own};
use crate::sql::change::DOCUMENTS_ALONE;
use crate::sqlite::{
    beside, from_io, from_sqlite, harden_for_file, make_own_tables, mark, open_private, remove_beside, remove_database,
    shape, sync_file, sync_folder_of,
};
use crate::{Result, Row, StoreError};

/// An archive on its way, into which an [`Engine`](crate::Engine) puts its data. Dropping it leaves nothing.
pub struct ArchiveWriter {
    /// Where documents are added one by one. Closed before the file is removed.
    documents: Option<Connection>,
    file: NewFile,
}

impl ArchiveWriter {
    /// Makes the file, which its owner alone can read, under another name. `AlreadyExists` where there is one of its own,
    /// `InUse` where another process is making the same one.
    pub fn create(file: &Path) -> Result<Self> {
        Ok(Self { documents: None, file: NewFile::make(file)? })
    }

    /// Adds the notes and gives the file its name, with all of it on disk. Answers its size in bytes.
    pub fn finish(self, notes: &Notes) -> Result<u64> {
        let Self { documents, file } = self;
        if let Some(connection) = documents {
            let committed =
                connection.execute_batch("COMMIT").and_then(|()| connection.close().map_err(|(_, error)| error));
            committed.map_err(|error| writing(error, &file.part))?;
        }
        seal(&file.part, notes)?;
        file.finish()
    }

    /// The empty file, for an engine that puts a whole database there.
    pub(crate) fn part(&self) -> &Path {
        &self.file.part
    }

    /// Begins with documents that come one by one.
    pub(crate) fn begin(&mut self, origin: &Origin) -> Result<()> {
        let make = || {
            let connection = Connection::open_with_flags(&self.file.part, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
            // A file that is not whole is thrown away, so that nothing is gained by writing it twice.
            connection.execute_batch("PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; BEGIN")?;
            make_own_tables(&connection, &origin.database_id, true, origin.last_version)?;
            Ok(connection)
        };
        self.documents = Some(make().map_err(|error| writing(error, &self.file.part))?);
        Ok(())
    }

    /// Adds a collection without documents.
    pub(crate) fn collection(&self, declared: &Declared) -> Result<()> {
        let (connection, table) = (self.begun()?, table_of(&declared.name)?);
        let sql = format!(
            "CREATE TABLE {table}(rid INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, ver INTEGER NOT NULL, doc TEXT NOT NULL)"
        );
        let values = (&declared.name, &declared.declaration, DOCUMENTS_ALONE);
        connection
            .execute_batch(&sql)
            .and_then(|()| connection.execute("INSERT INTO _store_meta VALUES (?, ?, ?)", values))
            .map(drop)
            .map_err(|error| writing(error, &self.file.part))
    }

    /// Adds documents to a collection that was added.
    pub(crate) fn add(&self, collection: &str, rows: &[Row]) -> Result<()> {
        let connection = self.begun()?;
        let sql = format!("INSERT INTO {}(id, ver, doc) VALUES (?, ?, ?)", table_of(collection)?);
        let add = || {
            let mut insert = connection.prepare_cached(&sql)?;
            for row in rows {
                insert.execute((&row.id, row.version.cast_signed(), &*row.body))?;
            }
            Ok(())
        };
        add().map_err(|error| writing(error, &self.file.part))
    }

    fn begun(&self) -> Result<&Connection> {
        self.documents.as_ref().ok_or_else(|| StoreError::Internal("documents before the archive was begun".into()))
    }
}

fn writing(error: rusqlite::Error, part: &Path) -> StoreError {
    from_sqlite(error, &format!("writing `{}`", part.display()))
}

/// Adds what an archive has beside the documents, and the mark, and makes sure that it is one that can be restored.
fn seal(part: &Path, notes: &Notes) -> Result<()> {
    let failed = |error| writing(error, part);
    let opened = Connection::open_with_flags(part, OpenFlags::SQLITE_OPEN_READ_WRITE);
    let mut connection = opened.and_then(harden_for_file).map_err(failed)?;
    let add = |connection: &mut Connection| {
        let transaction = connection.transaction()?;
        add_own(&transaction, notes)?;
        mark::set(&transaction)?;
        transaction.commit()
    };
    add(&mut connection).map_err(failed)?;
    shape::require(&connection, part)?;
    require_sound(&connection, part)?;
    connection.close().map_err(|(_, error)| failed(error))
}

/// A backup that is being made, under another name until it is whole. Dropping it leaves nothing.
struct NewFile {
    file: PathBuf,
    part: PathBuf,
    is_whole: bool,
    /// Keeps others off the part until the value is dropped.
    _lock: File,
}

impl NewFile {
    /// Makes an empty file that its owner alone can read. `InUse` where another process is making the same one.
    fn make(file: &Path) -> Result<Self> {
        refuse_another(file)?;
        let part = beside(file, ".part");
        let lock = open_private(&part)?;
        // Some file systems have no locks, and most backups are made alone.
        let is_another = matches!(lock.try_lock(), Err(TryLockError::WouldBlock));
        // Whoever had the lock a moment ago may have given the file its name, or removed it.
        refuse_another(file)?;
        if is_another || !is_at(&lock, &part) {
            return Err(StoreError::InUse(format!(
                "another process is making `{}`; wait for it, or choose another name",
                file.display()
            )));
        }
        // What is there is of a backup that did not come to its end.
        remove_beside(&part)?;
        lock.set_len(0).map_err(|error| from_io(&error, "writing", &part))?;
        Ok(Self { file: file.into(), part, is_whole: false, _lock: lock })
    }

    /// Gives it its name. Answers its size.
    fn finish(mut self) -> Result<u64> {
        sync_file(&self.part)?;
        let size = fs::metadata(&self.part).map_err(|error| from_io(&error, "reading", &self.part))?.len();
        refuse_another(&self.file)?;
        fs::rename(&self.part, &self.file).map_err(|error| from_io(&error, "making", &self.file))?;
        self.is_whole = true;
        sync_folder_of(&self.file)?;
        Ok(size)
    }
}

fn refuse_another(file: &Path) -> Result<()> {
    match file.exists() {
        false => Ok(()),
        true => Err(StoreError::AlreadyExists(format!("`{}` exists already; choose another name", file.display()))),
    }
}

/// Whether an open file is the one that has this name now.
fn is_at(file: &File, path: &Path) -> bool {
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
        if !self.is_whole {
            // Best effort: half a backup is of no use to anyone.
            let _ = remove_database(&self.part);
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
        fs::write(&first.part, "half").unwrap();
        let second = NewFile::make(&file).err().expect("the first one is being made");
        assert!(matches!(&second, StoreError::InUse(text) if text.contains("another process is making")), "{second:?}");
        assert_eq!(fs::read(&first.part).unwrap(), b"half");
        assert_eq!(first.finish(), Ok(4));
        let second = NewFile::make(&file).err().expect("there is one");
        assert!(matches!(second, StoreError::AlreadyExists(_)), "{second:?}");

        // As one that was killed leaves it.
        fs::remove_file(&file).unwrap();
        fs::write(temp.path().join("backup.part"), "half").unwrap();
        assert_eq!(NewFile::make(&file).unwrap().finish(), Ok(0));
    }
}
