//! Operations on all data of an engine: open, back up, restore and check. Each storage engine implements [`Engine`], so
//! that maintenance code does not depend on a particular one.

use std::sync::Arc;

use crate::{ArchiveReader, ArchiveWriter, BoxFuture, Collection, Findings, Notes, OnProgress, Result, Store};

/// A data directory or a database schema, with or without data.
///
/// All methods but [`Engine::open`] may block the calling thread: they are for programs that do nothing else meanwhile.
/// They work while a daemon uses the data, except for the restore, which needs an empty target.
pub trait Engine: Send + Sync {
    /// Opens the data, creating the data directory or schema if it is missing; see the `open` of each store for the
    /// errors.
    fn open(&self) -> BoxFuture<'_, Result<Arc<dyn Store>>>;

    /// Writes a snapshot of all data into an archive, which appears when it is finished.
    ///
    /// Errors: no data, or not seeded (`NotFound`); damaged data (`Corrupt`); unreadable data (`Unavailable`); a full
    /// disk (`StorageFull`).
    fn backup<'a>(&'a self, archive: &'a mut ArchiveWriter, progress: OnProgress<'a>) -> BoxFuture<'a, Result<()>>;

    /// Prepares a restore from an archive. If another engine wrote it, columns, lists and indexes are created for
    /// `collections`; those of any other collection are created when it is opened.
    ///
    /// Errors, with nothing changed: the target is held by another process (`InUse`) or has data (`AlreadyExists`); the
    /// archive is damaged (`Corrupt`); the disk is full (`StorageFull`).
    fn restore<'a>(
        &'a self,
        archive: ArchiveReader,
        collections: &'a [Collection],
        progress: OnProgress<'a>,
    ) -> BoxFuture<'a, Result<Box<dyn PendingRestore>>>;

    /// Checks the data. First the tables and indexes are compared with the recorded declarations; if they differ,
    /// nothing else is checked. Then each document is checked against the declaration recorded for its collection. A
    /// member of `collections` without a recorded declaration is a problem too.
    ///
    /// `NotFound` if there is no data; an error too if it cannot be read at all.
    fn check<'a>(&'a self, collections: &'a [Collection], progress: OnProgress<'a>) -> BoxFuture<'a, Result<Findings>>;
}

/// A prepared restore into a locked target. Nothing is visible before [`PendingRestore::finish`]; dropping it leaves
/// the target empty.
pub trait PendingRestore: Send {
    /// The notes stored in the backup.
    fn notes(&self) -> &Notes;

    /// Completes the restore; a daemon can then start on the data. Fails, with nothing changed, if the declarations do
    /// not allow a document.
    fn finish<'a>(self: Box<Self>, progress: OnProgress<'a>) -> BoxFuture<'a, Result<()>>;
}
