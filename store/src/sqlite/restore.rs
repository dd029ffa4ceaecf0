//! Restores an archive into an empty data directory: it is copied under a temporary name, checked, and renamed at the
//! end.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use rusqlite::{Connection, OpenFlags};

use super::errors::{from_io, from_sqlite};
use super::folder::{
    DATABASE, beside, make_folder, open_private, remove_database, sync_file, sync_folder_of, take_folder,
};
use super::shape::harden_for_file;
use super::{mark, schema};
use crate::check::{OnProgress, Progress};
use crate::sql::Spec;
use crate::sql::change::DOCUMENTS_ALONE;
use crate::{ArchiveReader, BoxFuture, Collection, Notes, Restoring, Result, StoreError, archive};

/// The number of bytes copied between two progress reports.
const PIECE: usize = 1 << 20;

/// A backup that was copied into an empty directory under a temporary name. Dropping it leaves the directory empty.
pub(super) struct Copied {
    folder: PathBuf,
    part: PathBuf,
    notes: Notes,
    /// Holds the lock until the database is in place.
    _lock: File,
    is_placed: bool,
}

impl Copied {
    /// Copies a backup into a directory without a database, which is created if it is missing, and checks the copy. A
    /// backup of another engine contains only documents; the rest is built here for the given collections.
    pub(super) fn prepare(
        archive: ArchiveReader,
        folder: &Path,
        collections: &[Collection],
        progress: OnProgress<'_>,
    ) -> Result<Self> {
        let specs = collections.iter().map(Spec::new).collect::<Result<Vec<_>>>()?;
        make_folder(folder)?;
        let lock = take_folder(folder)?;
        let database = folder.join(DATABASE);
        if fs::metadata(&database).is_ok_and(|there| there.len() > 0) || lock.has_database {
            return Err(StoreError::AlreadyExists(format!(
                "the data directory `{}` has data; restore into an empty one, or move this one away",
                folder.display()
            )));
        }
        let part = beside(&database, ".part");
        let mut this = Self { folder: folder.into(), part, notes: Notes::new(), _lock: lock.file, is_placed: false };
        this.copy(archive.file(), progress)?;
        this.make_database(&specs)?;
        Ok(this)
    }

    fn copy(&self, file: &Path, progress: OnProgress<'_>) -> Result<()> {
        let reading = |error| from_io(&error, "reading", file);
        let writing = |error| from_io(&error, "writing", &self.part);
        remove_database(&self.part)?;
        let from = File::open(file).map_err(reading)?;
        let mut to = open_private(&self.part)?;
        let of = from.metadata().map_err(reading)?.len();
        // The copy of a growing file would never end.
        let mut from = from.take(of);
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

    /// Turns the copy into an ordinary database.
    fn make_database(&mut self, specs: &[Spec<'_>]) -> Result<()> {
        // The archive was checked before, but the file may have changed while it was copied.
        let archive = ArchiveReader::open(&self.part)?;
        archive.require_sound()?;
        self.notes = archive.notes().clone();
        drop(archive);
        let failed = |error| from_sqlite(error, &format!("reading `{}`", self.part.display()));
        let opened = Connection::open_with_flags(&self.part, OpenFlags::SQLITE_OPEN_READ_WRITE);
        let connection = opened.and_then(harden_for_file).map_err(failed)?;
        connection.execute_batch("BEGIN").map_err(failed)?;
        archive::remove_own(&connection).map_err(failed)?;
        let alone = documents_alone(&connection).map_err(failed)?;
        schema::bring_up(&connection, specs.iter().filter(|spec| alone.contains(spec.name)))?;
        mark::set(&connection).map_err(failed)?;
        connection.execute_batch("COMMIT").map_err(failed)?;
        connection.close().map_err(|(_, error)| failed(error))?;
        sync_file(&self.part)
    }

    fn put_in_place(&mut self) -> Result<()> {
        let database = self.folder.join(DATABASE);
        remove_database(&database)?;
        fs::rename(&self.part, &database).map_err(|error| from_io(&error, "making", &database))?;
        self.is_placed = true;
        sync_folder_of(&database)
    }
}

impl Restoring for Copied {
    fn notes(&self) -> &Notes {
        &self.notes
    }

    fn finish<'a>(mut self: Box<Self>, _: OnProgress<'a>) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move { self.put_in_place() })
    }
}

impl Drop for Copied {
    fn drop(&mut self) {
        if !self.is_placed {
            // Best effort: leftovers are removed by the next restore.
            let _ = remove_database(&self.part);
        }
    }
}

/// The collections that have only their documents.
fn documents_alone(connection: &Connection) -> rusqlite::Result<BTreeSet<String>> {
    let mut select = connection.prepare("SELECT collection FROM _store_meta WHERE version = ?")?;
    select.query_map([DOCUMENTS_ALONE], |row| row.get(0))?.collect()
}
