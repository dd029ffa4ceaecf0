//! Restores an archive into an empty data directory: it is copied under a temporary name, checked, and renamed at the
//! end.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::{Read, Write},
    path::{Path, PathBuf},
};

use rusqlite::{Connection, OpenFlags};

use super::{
    clean_shutdown,
    data_dir::{
        DATABASE, create_data_dir, lock_data_dir, open_private, remove_database, sync_file, sync_parent_dir,
        with_suffix,
    },
    errors::{from_io, from_sqlite},
    schema,
    schema_check::harden_for_file,
};
use crate::{
    ArchiveReader, BoxFuture, Collection, Notes, PendingRestore, Result, StoreError, archive,
    check::{OnProgress, Progress},
    sql::{Spec, migration::DOCUMENTS_ONLY},
};

/// The number of bytes copied between two progress reports.
const COPY_CHUNK: usize = 1 << 20;

/// A backup that was copied into an empty directory under a temporary name. Dropping it leaves the directory empty.
pub(super) struct StagedRestore {
    data_dir: PathBuf,
    temp_path: PathBuf,
    notes: Notes,
    /// Holds the lock until the database is in place.
    _lock: File,
    is_placed: bool,
}

impl StagedRestore {
    /// Copies a backup into a directory without a database, which is created if it is missing, and checks the copy. A
    /// backup of another engine contains only documents; the rest is built here for the given collections.
    pub(super) fn prepare(
        archive: ArchiveReader,
        data_dir: &Path,
        collections: &[Collection],
        progress: OnProgress<'_>,
    ) -> Result<Self> {
        let specs = collections.iter().map(Spec::new).collect::<Result<Vec<_>>>()?;
        create_data_dir(data_dir)?;
        let lock = lock_data_dir(data_dir)?;
        let database = data_dir.join(DATABASE);
        if fs::metadata(&database).is_ok_and(|there| there.len() > 0) || lock.has_database {
            return Err(StoreError::AlreadyExists(format!(
                "the data directory `{}` has data; restore into an empty one, or move this one away",
                data_dir.display()
            )));
        }
        let part = with_suffix(&database, ".part");
        let mut this = Self {
            data_dir: data_dir.into(),
            temp_path: part,
            notes: Notes::new(),
            _lock: lock.file,
            is_placed: false,
        };
        this.copy(archive.file(), progress)?;
        this.make_database(&specs)?;
        Ok(this)
    }

    fn copy(&self, file: &Path, progress: OnProgress<'_>) -> Result<()> {
        let reading = |error| from_io(&error, "reading", file);
        let writing = |error| from_io(&error, "writing", &self.temp_path);
        remove_database(&self.temp_path)?;
        let from = File::open(file).map_err(reading)?;
        let mut to = open_private(&self.temp_path)?;
        let of = from.metadata().map_err(reading)?.len();
        // The copy of a growing file would never end.
        let mut from = from.take(of);
        let mut piece = vec![0; COPY_CHUNK];
        let mut done = 0;
        loop {
            progress(Progress { task: "copying the backup", done, total: of });
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
        let archive = ArchiveReader::open(&self.temp_path)?;
        archive.require_sound()?;
        self.notes = archive.notes().clone();
        drop(archive);
        let failed = |error| from_sqlite(error, &format!("reading `{}`", self.temp_path.display()));
        let opened = Connection::open_with_flags(&self.temp_path, OpenFlags::SQLITE_OPEN_READ_WRITE);
        let connection = opened.and_then(harden_for_file).map_err(failed)?;
        connection.execute_batch("BEGIN").map_err(failed)?;
        archive::drop_own_tables(&connection).map_err(failed)?;
        let alone = documents_only_collections(&connection).map_err(failed)?;
        schema::migrate(&connection, specs.iter().filter(|spec| alone.contains(spec.name)))?;
        clean_shutdown::set(&connection).map_err(failed)?;
        connection.execute_batch("COMMIT").map_err(failed)?;
        connection.close().map_err(|(_, error)| failed(error))?;
        sync_file(&self.temp_path)
    }

    fn put_in_place(&mut self) -> Result<()> {
        let database = self.data_dir.join(DATABASE);
        remove_database(&database)?;
        fs::rename(&self.temp_path, &database).map_err(|error| from_io(&error, "making", &database))?;
        self.is_placed = true;
        sync_parent_dir(&database)
    }
}

impl PendingRestore for StagedRestore {
    fn notes(&self) -> &Notes {
        &self.notes
    }

    fn finish<'a>(mut self: Box<Self>, _: OnProgress<'a>) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move { self.put_in_place() })
    }
}

impl Drop for StagedRestore {
    fn drop(&mut self) {
        if !self.is_placed {
            // Best effort: leftovers are removed by the next restore.
            let _ = remove_database(&self.temp_path);
        }
    }
}

/// The collections that have only their documents.
fn documents_only_collections(connection: &Connection) -> rusqlite::Result<BTreeSet<String>> {
    let mut select = connection.prepare("SELECT collection FROM _store_meta WHERE version = ?")?;
    select.query_map([DOCUMENTS_ONLY], |row| row.get(0))?.collect()
}
