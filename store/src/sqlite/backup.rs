//! Copies of a data folder's database and the way back. A backup is a database of ours, compacted, as of one moment; it
//! carries notes, which its makers read again when it is restored.

use std::collections::BTreeSet;
use std::fs::{self, File, TryLockError};
#[cfg(unix)]
use std::io;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use rusqlite::{Connection, OpenFlags};

use super::errors::{from_io, from_sqlite};
use super::folder::{
    BACKUP_NOTES, DATABASE, Identity, beside, copy_into, make_folder, open_private, read_identity, remove_beside,
    remove_database, sync_file, sync_folder_of, take_folder, visit,
};
use super::shape::harden_for_file;
use super::{mark, schema, shape};
use crate::check::{OnProgress, Progress};
use crate::sql::Spec;
use crate::sql::change::DOCUMENTS_ALONE;
use crate::{Collection, Result, StoreError};

/// Bytes that are copied between two words about the progress.
const PIECE: usize = 1 << 20;
/// Between two looks at how far SQLite is.
const PAUSE: Duration = Duration::from_millis(100);

/// What the makers of a backup wrote beside the documents, as pairs of name and text.
pub type Notes = Vec<(String, String)>;

/// Writes the database of a data folder as of this moment into a new file that its owner alone can read, whether a
/// daemon runs on the folder or not. Answers its size in bytes. The file is whole or not there.
///
/// Refused, with nothing written: a file that exists already (`AlreadyExists`), a folder without a database that was
/// seeded (`NotFound`), a database that is not sound (`Corrupt`), a disk that is full (`StorageFull`).
pub fn backup(folder: &Path, file: &Path, notes: &Notes, progress: OnProgress<'_>) -> Result<u64> {
    let database = folder.join(DATABASE);
    let Some(identity) = read_identity(&database)?.filter(|identity| identity.seeded) else {
        return Err(StoreError::NotFound(format!(
            "there is no data in `{}`; name the folder of a daemon that was started before",
            folder.display()
        )));
    };
    mark::require(&identity, &database)?;
    let failed = |error| from_sqlite(error, &format!("opening `{}`", database.display()));
    write(&visit(&database).map_err(failed)?, file, notes, progress)
}

/// Writes the database of a connection as of this moment into a new file. Answers its size.
pub(super) fn write(connection: &Connection, file: &Path, notes: &Notes, progress: OnProgress<'_>) -> Result<u64> {
    let new = NewFile::make(file)?;
    copy(connection, &new.part, progress)?;
    seal(&new.part, notes)?;
    new.finish()
}

/// A backup that is being made, under another name until it is whole. Dropping it leaves nothing.
pub(super) struct NewFile {
    file: PathBuf,
    pub(super) part: PathBuf,
    is_whole: bool,
    /// Keeps others off the part until the value is dropped.
    _lock: File,
}

impl NewFile {
    /// Makes an empty file that its owner alone can read. `InUse` where another process is making the same one.
    pub(super) fn make(file: &Path) -> Result<Self> {
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
    pub(super) fn finish(mut self) -> Result<u64> {
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

fn copy(connection: &Connection, part: &Path, progress: OnProgress<'_>) -> Result<()> {
    let failed = |error| from_sqlite(error, &format!("copying the database into `{}`", part.display()));
    let size = "SELECT (SELECT page_count FROM pragma_page_count) * (SELECT page_size FROM pragma_page_size)";
    let of: i64 = connection.query_row(size, [], |row| row.get(0)).map_err(failed)?;
    let of = u64::try_from(of).unwrap_or_default();
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !is_over.load(Ordering::Acquire) {
                let done = fs::metadata(part).map_or(0, |part| part.len());
                progress(Progress { what: "copying the database", done: done.min(of), of });
                thread::park_timeout(PAUSE);
            }
        });
        let copied = copy_into(connection, part).map_err(failed);
        is_over.store(true, Ordering::Release);
        copied
    })
}

/// Adds the notes and the mark, and makes sure that the copy is one that can be restored.
pub(super) fn seal(part: &Path, notes: &Notes) -> Result<()> {
    let failed = |error| from_sqlite(error, &format!("writing `{}`", part.display()));
    let opened = Connection::open_with_flags(part, OpenFlags::SQLITE_OPEN_READ_WRITE);
    let mut connection = opened.and_then(harden_for_file).map_err(failed)?;
    let add = |connection: &mut Connection| {
        let transaction = connection.transaction()?;
        transaction.execute_batch(BACKUP_NOTES.1)?;
        for note in notes {
            transaction.execute("INSERT INTO _backup VALUES (?, ?)", (&note.0, &note.1))?;
        }
        mark::set(&transaction)?;
        transaction.commit()
    };
    add(&mut connection).map_err(failed)?;
    shape::require(&connection, part)?;
    require_sound(&connection, part)?;
    connection.close().map_err(|(_, error)| failed(error))
}

pub(super) fn require_sound(connection: &Connection, file: &Path) -> Result<()> {
    let found: String = connection
        .query_row("PRAGMA quick_check(1)", [], |row| row.get(0))
        .map_err(|error| from_sqlite(error, &format!("checking `{}`", file.display())))?;
    match found.as_str() {
        "ok" => Ok(()),
        _ => Err(StoreError::Corrupt(format!("`{}` is damaged: {found}", file.display()))),
    }
}

/// What the makers of a backup wrote; none in a database that is no backup.
pub(super) fn read_notes(connection: &Connection) -> rusqlite::Result<Option<Notes>> {
    let has_notes = "SELECT count(*) FROM sqlite_schema WHERE name = '_backup'";
    if connection.query_row(has_notes, [], |row| row.get::<_, i64>(0))? == 0 {
        return Ok(None);
    }
    let mut select = connection.prepare("SELECT name, value FROM _backup ORDER BY name")?;
    select.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?.collect::<rusqlite::Result<_>>().map(Some)
}

/// A backup that was copied into an empty folder and is not in its place yet. Dropping it leaves the folder empty.
pub struct Restoring {
    folder: PathBuf,
    part: PathBuf,
    notes: Notes,
    /// Held until the database is in place.
    _lock: File,
    is_placed: bool,
}

impl Restoring {
    /// Copies a backup into a folder without a database, which is made where there is none, and checks the copy. One that
    /// another engine made has documents alone, of which everything else is made here for the given collections.
    ///
    /// Refused, with nothing left behind: a folder that another process holds (`InUse`) or that has data
    /// (`AlreadyExists`), a file that is not there (`NotFound`), is damaged or not a backup (`Corrupt`), or was written
    /// by a newer version (`Unavailable`), a disk that is full (`StorageFull`).
    pub fn prepare(
        file: &Path,
        folder: &Path,
        collections: &[Collection],
        progress: OnProgress<'_>,
    ) -> Result<Restoring> {
        let specs = collections.iter().map(Spec::new).collect::<Result<Vec<_>>>()?;
        require_backup(file)?;
        make_folder(folder)?;
        let lock = take_folder(folder)?;
        let database = folder.join(DATABASE);
        if fs::metadata(&database).is_ok_and(|there| there.len() > 0) || lock.has_database {
            return Err(StoreError::AlreadyExists(format!(
                "the data folder `{}` has data; restore into an empty one, or move this one away",
                folder.display()
            )));
        }
        let part = beside(&database, ".part");
        let mut this =
            Restoring { folder: folder.into(), part, notes: Notes::new(), _lock: lock.file, is_placed: false };
        this.copy(file, progress)?;
        this.open(&specs)?;
        Ok(this)
    }

    /// What the makers of the backup wrote.
    pub fn notes(&self) -> &Notes {
        &self.notes
    }

    /// Puts the database in its place. From then on a daemon can be started on the folder.
    pub fn finish(mut self) -> Result<()> {
        let database = self.folder.join(DATABASE);
        remove_database(&database)?;
        fs::rename(&self.part, &database).map_err(|error| from_io(&error, "making", &database))?;
        self.is_placed = true;
        sync_folder_of(&database)
    }

    fn copy(&self, file: &Path, progress: OnProgress<'_>) -> Result<()> {
        let reading = |error| from_io(&error, "reading", file);
        let writing = |error| from_io(&error, "writing", &self.part);
        remove_database(&self.part)?;
        let mut from = File::open(file).map_err(reading)?;
        let mut to = open_private(&self.part)?;
        let of = from.metadata().map_err(reading)?.len();
        let mut piece = vec![0; PIECE];
        let mut done = 0;
        loop {
            progress(Progress { what: "copying the backup", done, of });
            let read = from.read(&mut piece).map_err(reading)?;
            if read == 0 {
                return to.sync_all().map_err(writing);
            }
            to.write_all(&piece[..read]).map_err(writing)?;
            done += read as u64;
        }
    }

    /// Takes the notes out of the copy, which is then a database like any other.
    fn open(&mut self, specs: &[Spec<'_>]) -> Result<()> {
        let failed = |error| from_sqlite(error, &format!("reading `{}`", self.part.display()));
        let opened = Connection::open_with_flags(&self.part, OpenFlags::SQLITE_OPEN_READ_WRITE);
        let connection = opened.and_then(harden_for_file).map_err(failed)?;
        // The file was looked at; what counts is what was copied.
        shape::require(&connection, &self.part)?;
        require_sound(&connection, &self.part)?;
        let notes = read_notes(&connection).map_err(failed)?;
        connection.execute_batch("BEGIN; DROP TABLE IF EXISTS _backup").map_err(failed)?;
        let alone = documents_alone(&connection).map_err(failed)?;
        schema::bring_up(&connection, specs.iter().filter(|spec| alone.contains(spec.name)))?;
        mark::set(&connection).map_err(failed)?;
        connection.execute_batch("COMMIT").map_err(failed)?;
        connection.close().map_err(|(_, error)| failed(error))?;
        self.notes = notes.unwrap_or_default();
        sync_file(&self.part)
    }
}

/// The collections that have their documents alone.
fn documents_alone(connection: &Connection) -> rusqlite::Result<BTreeSet<String>> {
    let mut select = connection.prepare("SELECT collection FROM _store_meta WHERE version = ?")?;
    select.query_map([DOCUMENTS_ALONE], |row| row.get(0))?.collect()
}

/// Refuses a file that is not there, not a database that was seeded, or one that lacks its newest writes; answers what it
/// says of itself.
pub(super) fn require_backup(file: &Path) -> Result<Identity> {
    let identity = read_identity(file)?.filter(|identity| identity.seeded);
    let identity = identity
        .ok_or_else(|| StoreError::NotFound(format!("`{}` is missing, empty, or has no data", file.display())))?;
    mark::require(&identity, file)?;
    Ok(identity)
}

impl Drop for Restoring {
    fn drop(&mut self) {
        if !self.is_placed {
            // Best effort: what is left is removed by the next restore.
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
