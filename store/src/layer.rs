//! Middleware for stores: wraps another store, to count its requests or to add to its writes.

use std::{path::Path, time::SystemTime};

use crate::{Batch, BoxFuture, Collection, Committed, Filter, Notes, Page, Query, Result, Row, RowStream, Store};

/// A store that wraps another one. Methods that are not overridden delegate to it.
pub trait Layer: Send + Sync {
    /// The wrapped store.
    fn inner(&self) -> &dyn Store;

    /// Wraps each read.
    fn wrap_read<'a, T: Send + 'a>(&'a self, work: BoxFuture<'a, Result<T>>) -> BoxFuture<'a, Result<T>> {
        work
    }

    /// Applies a batch; see [`Store::commit`].
    fn wrap_commit(&self, batch: Batch) -> BoxFuture<'_, Result<Committed>> {
        self.inner().commit(batch)
    }
}

impl<L: Layer> Store for L {
    fn open_collections<'a>(&'a self, collections: &'a [Collection]) -> BoxFuture<'a, Result<()>> {
        self.inner().open_collections(collections)
    }

    fn get<'a>(&'a self, collection: &'a str, id: &'a str) -> BoxFuture<'a, Result<Option<Row>>> {
        self.wrap_read(self.inner().get(collection, id))
    }

    fn find<'a>(&'a self, collection: &'a str, query: &'a Query) -> BoxFuture<'a, Result<Page>> {
        self.wrap_read(self.inner().find(collection, query))
    }

    fn stream<'a>(&'a self, collection: &'a str, query: &'a Query) -> BoxFuture<'a, Result<RowStream>> {
        self.wrap_read(self.inner().stream(collection, query))
    }

    fn count<'a>(&'a self, collection: &'a str, filters: &'a [Filter]) -> BoxFuture<'a, Result<u64>> {
        self.wrap_read(self.inner().count(collection, filters))
    }

    fn commit(&self, batch: Batch) -> BoxFuture<'_, Result<Committed>> {
        self.wrap_commit(batch)
    }

    fn back_up<'a>(&'a self, file: &'a Path, notes: &'a Notes) -> BoxFuture<'a, Result<u64>> {
        self.inner().back_up(file, notes)
    }

    fn mark_seeded(&self) -> BoxFuture<'_, Result<()>> {
        self.inner().mark_seeded()
    }

    fn is_seeded(&self) -> bool {
        self.inner().is_seeded()
    }

    fn database_id(&self) -> &str {
        self.inner().database_id()
    }

    fn ready(&self) -> BoxFuture<'_, Result<()>> {
        self.inner().ready()
    }

    fn server_time(&self) -> BoxFuture<'_, Result<Option<SystemTime>>> {
        self.inner().server_time()
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        self.inner().close()
    }
}
