//! Whether the files that this process has open are still those that their paths lead to. A file that is removed or renamed
//! stays usable for whoever has it open, so that a daemon would go on to acknowledge writes that nobody finds again.
//! File systems without stable numbers of files are told apart by the writer (`writer.rs`), which can try it out.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

use super::folder::beside;
use crate::{Result, StoreError};

/// The database, its log, the index of its log, and the lock.
const FILES: usize = 4;

/// Device and inode; none where there is no file.
type Number = Option<(u64, u64)>;

/// The paths of the open files, and what was found there when they were opened.
pub(super) struct Place {
    paths: [PathBuf; FILES],
    /// None until the files are open, and where their numbers turned out to mean nothing.
    known: Mutex<Option<[Number; FILES]>>,
    /// A reader found another file; the writer has not yet.
    in_doubt: AtomicBool,
    /// What is to be said of the file that is not there any more.
    lost: OnceLock<String>,
}

impl Place {
    pub(super) fn new(database: &Path, lock: &Path) -> Self {
        let paths = [database.to_owned(), beside(database, "-wal"), beside(database, "-shm"), lock.to_owned()];
        Self { paths, known: Mutex::default(), in_doubt: AtomicBool::new(false), lost: OnceLock::new() }
    }

    /// Remembers what is at the paths now: the files that were just opened.
    pub(super) fn remember(&self) {
        *self.known() = Some(self.look());
    }

    /// Stops comparing, on a file system that gives one file several numbers.
    pub(super) fn forget(&self) {
        *self.known() = None;
        self.in_doubt.store(false, Ordering::Relaxed);
    }

    /// The first path that leads elsewhere now. Costs one look at each.
    pub(super) fn moved(&self) -> Option<&Path> {
        let known = (*self.known())?;
        let now = self.look();
        let at = (0..FILES).find(|at| known[*at] != now[*at])?;
        Some(&self.paths[at])
    }

    pub(super) fn is_database(&self, path: &Path) -> bool {
        path == self.paths[0]
    }

    /// Whether another log is where ours was.
    pub(super) fn has_another_log(&self) -> bool {
        let known = self.known().and_then(|known| known[1]);
        let now = number(&self.paths[1]);
        now.is_some() && known.is_some() && now != known
    }

    /// Whether connections may be opened by path; looks where that was not in doubt before.
    pub(super) fn is_sure(&self) -> bool {
        if self.is_kept() {
            return false;
        }
        let is_sure = self.moved().is_none();
        if !is_sure {
            self.in_doubt.store(true, Ordering::Relaxed);
        }
        is_sure
    }

    /// Whether the open connections must be kept, since no other one can be opened. Does not look.
    pub(super) fn is_kept(&self) -> bool {
        self.lost.get().is_some() || self.in_doubt.load(Ordering::Relaxed)
    }

    /// Says for good that a file is gone: what is written from now on would be lost.
    pub(super) fn lose(&self, path: &Path) -> StoreError {
        let path = path.display();
        let text = self.lost.get_or_init(|| {
            tracing::error!(
                "`{path}` was removed or replaced under the running process: nothing is written any more. The process \
                 still holds all data until it ends, and reads go on; `oo backup FILE` saves the data of a daemon, \
                 `Datastore::back_up` that of a service, then stop the process and restore that file"
            );
            format!(
                "`{path}` was removed or replaced while it is in use: nothing can be written; an operator must save the \
                 data with `oo backup FILE` before the process ends, and restore that file"
            )
        });
        StoreError::Replaced(text.clone())
    }

    /// Refuses to write once a file is gone.
    pub(super) fn check(&self) -> Result<()> {
        match self.lost.get() {
            None => Ok(()),
            Some(text) => Err(StoreError::Replaced(text.clone())),
        }
    }

    fn look(&self) -> [Number; FILES] {
        self.paths.each_ref().map(|path| number(path))
    }

    fn known(&self) -> std::sync::MutexGuard<'_, Option<[Number; FILES]>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(unix)]
fn number(path: &Path) -> Number {
    use std::os::unix::fs::MetadataExt;
    fs::metadata(path).ok().map(|found| (found.dev(), found.ino()))
}

/// There, open files cannot be removed.
#[cfg(not(unix))]
fn number(path: &Path) -> Number {
    path.exists().then_some((0, 0))
}
