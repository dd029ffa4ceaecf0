//! The typed view of a collection: a [`Table`] turns values into writes and rows into values.

use std::{marker::PhantomData, sync::Arc};

use serde::{Serialize, de::DeserializeOwned};

use crate::{Collection, Cursor, Filter, Query, Result, Row, RowStream, Store, StoreError, Write};

/// A collection whose documents are `T`. Cheap to clone. Reads query the store; writes are values to put in a
/// [`Batch`](crate::Batch), so that related writes are committed together.
pub struct Table<T> {
    store: Arc<dyn Store>,
    collection: &'static Collection,
    kind: PhantomData<fn() -> T>,
}

/// A document read from the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored<T> {
    /// Its id.
    pub id: String,
    /// Its version, for [`Write::Replace`] and [`Guard::Version`](crate::Guard).
    pub version: u64,
    /// The deserialized body.
    pub value: T,
}

/// One page of results.
#[derive(Debug, Clone, PartialEq)]
pub struct TypedPage<T> {
    /// The documents, in order.
    pub items: Vec<Stored<T>>,
    /// The cursor for the next page; `None` at the end.
    pub next: Option<Cursor>,
}

impl<T: Serialize + DeserializeOwned> Table<T> {
    /// The typed view of a collection, which must be opened before the first use.
    pub fn new(store: Arc<dyn Store>, collection: &'static Collection) -> Self {
        Self { store, collection, kind: PhantomData }
    }

    /// The declaration of the collection.
    pub fn collection(&self) -> &'static Collection {
        self.collection
    }

    /// The store, to commit to.
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    /// The document with this id. `Corrupt` if it cannot be read as `T`.
    pub async fn get(&self, id: &str) -> Result<Option<Stored<T>>> {
        self.store.get(self.collection.name, id).await?.map(|row| self.read(row)).transpose()
    }

    /// The documents that match a query.
    pub async fn find(&self, query: &Query) -> Result<Vec<Stored<T>>> {
        Ok(self.page(query).await?.items)
    }

    /// The documents that match a query, and the cursor for the next page.
    pub async fn page(&self, query: &Query) -> Result<TypedPage<T>> {
        let page = self.store.find(self.collection.name, query).await?;
        let items = page.rows.into_iter().map(|row| self.read(row)).collect::<Result<_>>()?;
        Ok(TypedPage { items, next: page.next })
    }

    /// Streams the documents as rows; [`Table::read`] deserializes them.
    pub async fn stream(&self, query: &Query) -> Result<RowStream> {
        self.store.stream(self.collection.name, query).await
    }

    /// The first document that matches a query.
    pub async fn first(&self, query: &Query) -> Result<Option<Stored<T>>> {
        Ok(self.find(&query.clone().limit(1)).await?.pop())
    }

    /// The number of documents that match all filters.
    pub async fn count(&self, filters: &[Filter]) -> Result<u64> {
        self.store.count(self.collection.name, filters).await
    }

    /// [`Write::Create`] of this value.
    pub fn create(&self, id: impl Into<String>, value: &T) -> Result<Write> {
        Ok(Write::Create { collection: self.collection.name, id: id.into(), body: self.write(value)? })
    }

    /// [`Write::Replace`] by this value, for any version or only for the given one.
    pub fn replace(&self, id: impl Into<String>, value: &T, version: Option<u64>) -> Result<Write> {
        Ok(Write::Replace { collection: self.collection.name, id: id.into(), body: self.write(value)?, version })
    }

    /// [`Write::Upsert`] of this value.
    pub fn upsert(&self, id: impl Into<String>, value: &T) -> Result<Write> {
        Ok(Write::Upsert { collection: self.collection.name, id: id.into(), body: self.write(value)? })
    }

    /// [`Write::Delete`], for any version or only for the given one.
    pub fn delete(&self, id: impl Into<String>, version: Option<u64>) -> Write {
        Write::Delete { collection: self.collection.name, id: id.into(), version }
    }

    /// Deserializes a row. `Corrupt` if it cannot be read as `T`.
    pub fn read(&self, row: Row) -> Result<Stored<T>> {
        let value = serde_json::from_str(&row.body).map_err(|error| {
            StoreError::Corrupt(format!("document `{}` of {} cannot be read: {error}", row.id, self.collection.name))
        })?;
        Ok(Stored { id: row.id, version: row.version, value })
    }

    fn write(&self, value: &T) -> Result<Box<str>> {
        let body = serde_json::to_string(value).map_err(|error| {
            StoreError::Internal(format!("a document of {} cannot be written: {error}", self.collection.name))
        })?;
        Ok(body.into())
    }
}

impl<T> Clone for Table<T> {
    fn clone(&self) -> Self {
        Self { store: self.store.clone(), collection: self.collection, kind: PhantomData }
    }
}
