//! What is done with a place of data as a whole, the same for each kind of place: opened, written into an archive, filled
//! from one, checked. Engines implement it; whoever keeps the data needs no engine's name for it.

use std::sync::Arc;

use crate::{ArchiveReader, ArchiveWriter, BoxFuture, Collection, Findings, Notes, OnProgress, Result, Store};

/// A place that has data, or may have them.
///
/// All but [`Engine::open`] may block the thread that asks: they are for programs that do nothing else meanwhile. They work
/// beside a daemon that runs on the data, but for the restore, which needs a place without data.
pub trait Engine: Send + Sync {
    /// Opens the data for use, and makes the place where there is none; see the `open` of each store for what is refused.
    fn open(&self) -> BoxFuture<'_, Result<Arc<dyn Store>>>;

    /// Puts all data as of this moment into an archive, which is there once it is finished.
    ///
    /// Refused: a place without data that were seeded (`NotFound`), data that are not sound (`Corrupt`) or cannot be read
    /// (`Unavailable`), a disk that is full (`StorageFull`).
    fn backup<'a>(&'a self, archive: &'a mut ArchiveWriter, progress: OnProgress<'a>) -> BoxFuture<'a, Result<()>>;

    /// Prepares to fill the place from an archive, which may be another engine's: then columns, lists and indexes are made
    /// for these collections; those of a collection beyond them are made when it is opened.
    ///
    /// Refused, with nothing changed: a place that another process holds (`InUse`) or that has data (`AlreadyExists`), an
    /// archive that is damaged (`Corrupt`), a disk that is full (`StorageFull`).
    fn restore<'a>(
        &'a self,
        archive: ArchiveReader,
        collections: &'a [Collection],
        progress: OnProgress<'a>,
    ) -> BoxFuture<'a, Result<Box<dyn Restoring>>>;

    /// Looks for what is wrong: first whether the tables and indexes are those that are recorded, without which nothing else
    /// is looked at; then in all documents, each collection by the declaration that is recorded of it. One of `collections`
    /// of which nothing is recorded is a problem too.
    ///
    /// `NotFound` where there are no data; an error too where they cannot be read at all.
    fn check<'a>(&'a self, collections: &'a [Collection], progress: OnProgress<'a>) -> BoxFuture<'a, Result<Findings>>;
}

/// A place that is held and about to be filled. Nothing of it is to be seen before it is finished; dropping it leaves the
/// place without data.
pub trait Restoring: Send {
    /// What the makers of the backup wrote.
    fn notes(&self) -> &Notes;

    /// Fills the place. From then on a daemon can be started on it. Refused, with nothing changed: documents that the
    /// declarations do not allow.
    fn finish<'a>(self: Box<Self>, progress: OnProgress<'a>) -> BoxFuture<'a, Result<()>>;
}
