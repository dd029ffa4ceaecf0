//! Detects whether the open files are still the ones at their paths. A removed or renamed file stays usable for the
//! process that has it open, so without this check a daemon would acknowledge writes that the next start cannot find.
//! File systems without stable inode numbers are detected by the writer (`durability.rs`), which can test them.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{
        Mutex, OnceLock, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use super::data_dir::with_suffix;
use crate::{Result, StoreError};

/// The database, its log, the shared-memory index of the log, and the lock file.
const FILES: usize = 4;

/// Device and inode; `None` if the file does not exist.
type Number = Option<(u64, u64)>;

/// The paths of the open files, with the file ids recorded when they were opened.
pub(super) struct OpenFiles {
    paths: [PathBuf; FILES],
    /// `None` until the files are open, and if file ids turned out to be unstable.
    recorded: Mutex<Option<[Number; FILES]>>,
    /// A reader found a different file; the writer has not checked yet.
    suspect: AtomicBool,
    /// The error for the removed or replaced file.
    replaced: OnceLock<String>,
}

impl OpenFiles {
    pub(super) fn new(database: &Path, lock: &Path) -> Self {
        let paths =
            [database.to_owned(), with_suffix(database, "-wal"), with_suffix(database, "-shm"), lock.to_owned()];
        Self { paths, recorded: Mutex::default(), suspect: AtomicBool::new(false), replaced: OnceLock::new() }
    }

    /// Records the current file ids, right after the files were opened.
    pub(super) fn record(&self) {
        *self.recorded_ids() = Some(self.current_ids());
    }

    /// Disables the check, on a file system with unstable file ids.
    pub(super) fn disable(&self) {
        *self.recorded_ids() = None;
        self.suspect.store(false, Ordering::Relaxed);
    }

    /// The first path whose file is another one now. Costs one `stat` per path.
    pub(super) fn first_replaced(&self) -> Option<&Path> {
        let known = (*self.recorded_ids())?;
        let now = self.current_ids();
        let at = (0..FILES).find(|at| known[*at] != now[*at])?;
        Some(&self.paths[at])
    }

    pub(super) fn is_database(&self, path: &Path) -> bool {
        path == self.paths[0]
    }

    /// Whether a different log is at the path of ours.
    pub(super) fn has_foreign_log(&self) -> bool {
        let known = self.recorded_ids().and_then(|known| known[1]);
        let now = number(&self.paths[1]);
        now.is_some() && known.is_some() && now != known
    }

    /// Whether a connection may be opened by path; checks the files unless they are already known to differ.
    pub(super) fn may_open_by_path(&self) -> bool {
        if self.must_keep_connections() {
            return false;
        }
        let is_sure = self.first_replaced().is_none();
        if !is_sure {
            self.suspect.store(true, Ordering::Relaxed);
        }
        is_sure
    }

    /// Whether the open connections must be kept, because no other can be opened. Does not check the files.
    pub(super) fn must_keep_connections(&self) -> bool {
        self.replaced.get().is_some() || self.suspect.load(Ordering::Relaxed)
    }

    /// Records permanently that a file was removed or replaced: further writes would be lost.
    pub(super) fn mark_replaced(&self, path: &Path) -> StoreError {
        let path = path.display();
        let text = self.replaced.get_or_init(|| {
            tracing::error!(
                "`{path}` was removed or replaced while the process has it open: writes are refused. The process still \
                 has all data until it exits, and reads continue; save the data of a daemon with `oo backup FILE`, of \
                 a service with `Datastore::back_up`, then stop the process and restore that file"
            );
            format!(
                "`{path}` was removed or replaced while it is in use, so writes are refused; an operator must save the \
                 data with `oo backup FILE` before the process exits, and restore that file"
            )
        });
        StoreError::Replaced(text.clone())
    }

    /// Refuses writes once a file was removed or replaced.
    pub(super) fn check(&self) -> Result<()> {
        match self.replaced.get() {
            None => Ok(()),
            Some(text) => Err(StoreError::Replaced(text.clone())),
        }
    }

    fn current_ids(&self) -> [Number; FILES] {
        self.paths.each_ref().map(|path| number(path))
    }

    fn recorded_ids(&self) -> std::sync::MutexGuard<'_, Option<[Number; FILES]>> {
        self.recorded.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(unix)]
fn number(path: &Path) -> Number {
    use std::os::unix::fs::MetadataExt;
    fs::metadata(path).ok().map(|found| (found.dev(), found.ino()))
}

/// On other systems, open files cannot be removed.
#[cfg(not(unix))]
fn number(path: &Path) -> Number {
    path.exists().then_some((0, 0))
}
