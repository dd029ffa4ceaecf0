//! Where documents are kept: collections of JSON documents with declared indexes, changed by batches with guards.
//! This file has the [`Store`] seam; engines are folders beside it. Who may see or change a document is not decided
//! here, and neither is what a document means.
//!
//! Start reading with [`Store`], then [`Batch`] and [`Query`]; most callers hold a [`Table`], the typed view.

mod archive;
mod check;
mod document;
mod engine;
mod error;
mod key;
mod layer;
mod matching;
mod model;
mod postgres;
mod query;
mod rows;
mod sql;
mod sqlite;
mod table;

use std::future::Future;
use std::path::Path;
use std::pin::Pin;
use std::time::SystemTime;

pub use archive::{ArchiveReader, ArchiveWriter, Notes};
pub use check::{Findings, OnProgress, Progress};
pub use engine::{Engine, Restoring};
pub use error::{OPEN_FOR, StoreError};
pub use layer::Layer;
pub use model::{Batch, Collection, Committed, Guard, Index, MOST_TOUCHED, Row, Write};
pub use postgres::{PostgresEngine, PostgresOptions, PostgresStore};
pub use query::{Cursor, Direction, Filter, MOST_FILTERS, MOST_ORDERS, MOST_VALUES, Order, Page, Query};
pub use rows::Rows;
pub use sqlite::{Newest, SqliteEngine, SqliteOptions, SqliteStore, accept};
pub use table::{Stored, Table, TypedPage};

/// What the engines say they will do for a query, so that tests of those who ask see whether an index answers.
#[cfg(any(test, feature = "explain"))]
pub mod explain {
    pub use crate::postgres::OnPostgres;
    pub use crate::sqlite::on_sqlite;
}

/// A future in a box: what lets [`Store`] be used as `Arc<dyn Store>`.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// What a store answers.
pub type Result<T> = std::result::Result<T, StoreError>;

/// A place that keeps documents. What it has acknowledged survives a kill and a power cut; what it shows is committed.
///
/// Collections are declared once by [`Store::open_collections`]; naming another one is [`StoreError::Internal`].
/// The futures need no particular runtime. Dropping the future of a write does not take the write back.
pub trait Store: Send + Sync {
    /// Makes the given collections usable and brings their columns and indexes to what is declared: all of it in one
    /// transaction, or nothing. Costs one look-up where nothing changed. Documents are never dropped; indexes that
    /// are no longer declared are. May be called again with further collections.
    ///
    /// Fails with `AlreadyExists` where existing documents break a newly declared unique index.
    fn open_collections<'a>(&'a self, collections: &'a [Collection]) -> BoxFuture<'a, Result<()>>;

    /// The document with this id, `None` where there is none.
    fn get<'a>(&'a self, collection: &'a str, id: &'a str) -> BoxFuture<'a, Result<Option<Row>>>;

    /// The documents a query describes, in its order, all as of one moment. `TimedOut` where that takes too long.
    fn find<'a>(&'a self, collection: &'a str, query: &'a Query) -> BoxFuture<'a, Result<Page>>;

    /// The same piece by piece, however many there are.
    fn stream<'a>(&'a self, collection: &'a str, query: &'a Query) -> BoxFuture<'a, Result<Rows>>;

    /// How many documents pass all filters.
    fn count<'a>(&'a self, collection: &'a str, filters: &'a [Filter]) -> BoxFuture<'a, Result<u64>>;

    /// Applies a batch: all of its writes, in their order, or none. Answered when it is on disk.
    ///
    /// The first write or guard that does not hold decides the error: see [`Write`] and [`Guard`].
    fn commit(&self, batch: Batch) -> BoxFuture<'_, Result<Committed>>;

    /// Writes all data as of one moment into a new file, which either engine restores, by the connections that the store
    /// has: also where a file of the database was removed. Answers its size. The file is whole or not there, and
    /// for its owner alone. Needs as much room as the data, and little memory. Ends when the future is dropped.
    ///
    /// `AlreadyExists` where there is such a file.
    fn back_up<'a>(&'a self, file: &'a Path, notes: &'a Notes) -> BoxFuture<'a, Result<u64>>;

    /// Says that the first seeding is committed. From then on a start that finds the database missing, empty or
    /// another is refused; before, a start begins afresh, and drops whatever an unfinished seeding left behind.
    fn mark_seeded(&self) -> BoxFuture<'_, Result<()>>;

    /// Whether [`Store::mark_seeded`] was ever called for this database.
    fn is_seeded(&self) -> bool;

    /// The random name this database got when it was made: 32 hex digits.
    fn database_id(&self) -> &str;

    /// Whether the store answers right now: one small read, and the writer is there.
    fn ready(&self) -> BoxFuture<'_, Result<()>>;

    /// The time of the database server, to the round trip; `None` where there is no server, and so no time but this machine's.
    fn server_time(&self) -> BoxFuture<'_, Result<Option<SystemTime>>>;

    /// Finishes what was asked, writes everything back and lets go of the folder. Later calls answer `Unavailable`.
    /// Dropping the store does the same, blocking.
    fn close(&self) -> BoxFuture<'_, ()>;
}
