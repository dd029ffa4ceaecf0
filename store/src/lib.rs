//! Document store: collections of JSON documents with declared indexes, changed by batches with guards. This file has
//! the [`Store`] trait; each engine has a directory beside it. Access control and the meaning of a document belong to
//! the callers.
//!
//! Start reading with [`Store`], then [`Batch`] and [`Query`]; most callers use a [`Table`], the typed view.

mod archive;
mod check;
mod document;
mod engine;
mod error;
mod filter_eval;
mod key;
mod layer;
mod model;
mod postgres;
mod query;
mod row_stream;
mod sql;
mod sqlite;
mod table;

use std::{future::Future, path::Path, pin::Pin, time::SystemTime};

pub use archive::{ArchiveReader, ArchiveWriter, Notes};
pub use check::{Findings, OnProgress, Progress};
pub use engine::{Engine, PendingRestore};
pub use error::{INDETERMINATE_WINDOW, StoreError};
pub use layer::Layer;
pub use model::{Batch, Collection, Committed, Guard, Index, MAX_ROWS_AFFECTED, Row, Write};
pub use postgres::{PostgresEngine, PostgresOptions, PostgresStore};
pub use query::{Cursor, Direction, Filter, MAX_FILTER_VALUES, MAX_FILTERS, MAX_ORDER_FIELDS, Order, Page, Query};
pub use row_stream::RowStream;
pub use sqlite::{LastWrite, SqliteEngine, SqliteOptions, SqliteStore, accept_missing_writes};
pub use table::{Stored, Table, TypedPage};

/// Query plans of the engines, so that tests of other crates can assert that a query uses an index.
#[cfg(any(test, feature = "explain"))]
pub mod explain {
    pub use crate::{postgres::PostgresExplainer, sqlite::explain_on_sqlite};
}

/// A boxed future, so that [`Store`] is usable as `Arc<dyn Store>`.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// The result of a store operation.
pub type Result<T> = std::result::Result<T, StoreError>;

/// A document store. Acknowledged writes survive a kill and a power failure; reads see committed data only.
///
/// Collections are declared once by [`Store::open_collections`]; any other name is [`StoreError::Internal`]. The
/// futures need no particular runtime. Dropping the future of a write does not cancel the write.
pub trait Store: Send + Sync {
    /// Opens the given collections and migrates their columns and indexes to the declaration, all in one transaction.
    /// Costs one lookup if nothing changed. Documents are never dropped; indexes that are no longer declared are. May
    /// be called again with further collections.
    ///
    /// Fails with `AlreadyExists` if existing documents violate a newly declared unique index.
    fn open_collections<'a>(&'a self, collections: &'a [Collection]) -> BoxFuture<'a, Result<()>>;

    /// The document with this id, if it exists.
    fn get<'a>(&'a self, collection: &'a str, id: &'a str) -> BoxFuture<'a, Result<Option<Row>>>;

    /// The documents that match a query, in its order, from one snapshot. `TimedOut` if it takes too long.
    fn find<'a>(&'a self, collection: &'a str, query: &'a Query) -> BoxFuture<'a, Result<Page>>;

    /// Like [`Store::find`], but streams the documents, however many there are.
    fn stream<'a>(&'a self, collection: &'a str, query: &'a Query) -> BoxFuture<'a, Result<RowStream>>;

    /// The number of documents that match all filters.
    fn count<'a>(&'a self, collection: &'a str, filters: &'a [Filter]) -> BoxFuture<'a, Result<u64>>;

    /// Applies a batch: all of its writes, in order, or none. Returns when it is on disk.
    ///
    /// The first write or guard that fails determines the error: see [`Write`] and [`Guard`].
    fn commit(&self, batch: Batch) -> BoxFuture<'_, Result<Committed>>;

    /// Writes a snapshot of all data into a new file, which either engine can restore. Returns its size in bytes. Uses
    /// the open connections, so it works even if a file of the database was removed. The file appears only when it is
    /// complete and is readable by its owner alone. Needs as much disk space as the data, and little memory. Dropping
    /// the future cancels the backup.
    ///
    /// `AlreadyExists` if the file exists.
    fn back_up<'a>(&'a self, file: &'a Path, notes: &'a Notes) -> BoxFuture<'a, Result<u64>>;

    /// Records that the first seeding is committed. From then on, a start refuses a database that is missing, empty or
    /// a different one. Before that, a start begins from scratch and drops whatever an unfinished seeding left behind.
    fn mark_seeded(&self) -> BoxFuture<'_, Result<()>>;

    /// Whether [`Store::mark_seeded`] was ever called for this database.
    fn is_seeded(&self) -> bool;

    /// The random id that the database got when it was created: 32 hex digits.
    fn database_id(&self) -> &str;

    /// Readiness check: one small read, and the writer is running.
    fn ready(&self) -> BoxFuture<'_, Result<()>>;

    /// The clock of the database server, accurate to the round trip; `None` for an engine without a server.
    fn server_time(&self) -> BoxFuture<'_, Result<Option<SystemTime>>>;

    /// Finishes pending requests, checkpoints the log and releases the data directory. Later calls return
    /// `Unavailable`. Dropping the store does the same; the embedded engine blocks for it.
    fn close(&self) -> BoxFuture<'_, ()>;
}
