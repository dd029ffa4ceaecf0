//! Copies of a data folder's database and the way back. A backup is a database of ours, compacted, as of one moment; it
//! carries notes, which its makers read again when it is restored.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use rusqlite::{Connection, OpenFlags};

use super::errors::{from_io, from_sqlite};
use super::folder::{
    DATABASE, beside, copy_into, make_folder, open_private, read_identity, remove_database, sync_file, sync_folder_of,
    take_folder,
};
use crate::check::{OnProgress, Progress};
use crate::{Result, StoreError};

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
    if !read_identity(&database)?.is_some_and(|identity| identity.seeded) {
        return Err(StoreError::NotFound(format!(
            "there is no data in `{}`; name the folder of a daemon that was started before",
            folder.display()
        )));
    }
    write_whole(file, |part| {
        copy(&database, part, progress)?;
        seal(part, notes)
    })
}

/// Makes a file that its owner alone can read, under another name until `write` has filled it.
pub(crate) fn write_whole(file: &Path, write: impl FnOnce(&Path) -> Result<()>) -> Result<u64> {
    let there = || StoreError::AlreadyExists(format!("`{}` exists already; choose another name", file.display()));
    if file.exists() {
        return Err(there());
    }
    let part = beside(file, ".part");
    // What is there is of a backup that did not come to its end.
    remove_database(&part)?;
    drop(open_private(&part)?);
    let written = write(&part).and_then(|()| {
        sync_file(&part)?;
        let size = fs::metadata(&part).map_err(|error| from_io(&error, "reading", &part))?.len();
        if file.exists() {
            return Err(there());
        }
        fs::rename(&part, file).map_err(|error| from_io(&error, "making", file))?;
        sync_folder_of(file)?;
        Ok(size)
    });
    if written.is_err() {
        // Best effort: half a backup is of no use to anyone.
        let _ = remove_database(&part);
    }
    written
}

fn copy(database: &Path, part: &Path, progress: OnProgress<'_>) -> Result<()> {
    let failed = |error| from_sqlite(error, &format!("copying `{}`", database.display()));
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(database, flags).map_err(failed)?;
    connection.busy_timeout(Duration::from_secs(5)).map_err(failed)?;
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
        let copied = copy_into(&connection, part).map_err(failed);
        is_over.store(true, Ordering::Release);
        copied
    })
}

/// Adds the notes and makes sure that the copy is one that can be restored.
fn seal(part: &Path, notes: &Notes) -> Result<()> {
    let failed = |error| from_sqlite(error, &format!("writing `{}`", part.display()));
    let mut connection = Connection::open_with_flags(part, OpenFlags::SQLITE_OPEN_READ_WRITE).map_err(failed)?;
    let add = |connection: &mut Connection| {
        let transaction = connection.transaction()?;
        transaction.execute_batch("CREATE TABLE _backup(name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID")?;
        for note in notes {
            transaction.execute("INSERT INTO _backup VALUES (?, ?)", (&note.0, &note.1))?;
        }
        transaction.commit()
    };
    add(&mut connection).map_err(failed)?;
    require_sound(&connection, part)?;
    connection.close().map_err(|(_, error)| failed(error))
}

fn require_sound(connection: &Connection, file: &Path) -> Result<()> {
    let found: String = connection
        .query_row("PRAGMA quick_check(1)", [], |row| row.get(0))
        .map_err(|error| from_sqlite(error, &format!("checking `{}`", file.display())))?;
    match found.as_str() {
        "ok" => Ok(()),
        _ => Err(StoreError::Corrupt(format!("`{}` is damaged: {found}", file.display()))),
    }
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
    /// Copies a backup into a folder without a database, which is made where there is none, and checks the copy.
    ///
    /// Refused, with nothing left behind: a folder that another process holds (`InUse`) or that has data
    /// (`AlreadyExists`), a file that is not there (`NotFound`), is damaged or not a backup (`Corrupt`), or was written
    /// by a newer version (`Unavailable`), a disk that is full (`StorageFull`).
    pub fn prepare(file: &Path, folder: &Path, progress: OnProgress<'_>) -> Result<Restoring> {
        if !read_identity(file)?.is_some_and(|identity| identity.seeded) {
            return Err(StoreError::NotFound(format!("`{}` is missing, empty, or has no data", file.display())));
        }
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
        this.open()?;
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
    fn open(&mut self) -> Result<()> {
        let failed = |error| from_sqlite(error, &format!("reading `{}`", self.part.display()));
        let connection = Connection::open_with_flags(&self.part, OpenFlags::SQLITE_OPEN_READ_WRITE).map_err(failed)?;
        require_sound(&connection, &self.part)?;
        let take = || {
            let has_notes = "SELECT count(*) FROM sqlite_schema WHERE name = '_backup'";
            if connection.query_row(has_notes, [], |row| row.get::<_, i64>(0))? == 0 {
                return Ok(Notes::new());
            }
            let mut select = connection.prepare("SELECT name, value FROM _backup ORDER BY name")?;
            let notes = select.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?.collect::<rusqlite::Result<_>>()?;
            drop(select);
            connection.execute_batch("DROP TABLE _backup")?;
            Ok(notes)
        };
        let notes = take().map_err(failed)?;
        connection.close().map_err(|(_, error)| failed(error))?;
        self.notes = notes;
        sync_file(&self.part)
    }
}

impl Drop for Restoring {
    fn drop(&mut self) {
        if !self.is_placed {
            // Best effort: what is left is removed by the next restore.
            let _ = remove_database(&self.part);
        }
    }
}
