//! The data model: collections and their indexes, rows, and a batch of writes with guards. Queries are in `query.rs`.

use serde_json::Value;

use crate::Filter;

/// A declared collection of JSON documents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Collection {
    /// Its name, for example `userSvcUsers`: a letter, then at most 47 letters, digits and `_`.
    pub name: &'static str,
    /// Its indexes, for queries without a full scan.
    pub indexes: &'static [Index],
}

/// A declared index. The values of one document in the fields of one index may take up to 2,048 bytes together; a
/// larger document is `Invalid`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Index {
    /// The fields in order: dotted paths into the document. `lower(name)` is the lower-cased text of `name`, which
    /// answers [`Filter::StartsWith`] on `name`. The id is always part of the index and need not be named.
    pub fields: &'static [&'static str],
    /// Whether the values must be unique. A document in which one of the fields is missing or null is exempt.
    pub unique: bool,
    /// For an index on list elements: the list. Each element has its own entry, with the element before the fields.
    pub each: Option<&'static str>,
}

impl Index {
    /// An index on these fields, in this order.
    pub const fn on(fields: &'static [&'static str]) -> Self {
        Self { fields, unique: false, each: None }
    }

    /// A unique index on these fields.
    pub const fn unique(fields: &'static [&'static str]) -> Self {
        Self { fields, unique: true, each: None }
    }

    /// An index for [`Filter::Intersects`] on `list`: for each element the documents that contain it, in the order of
    /// `fields`. A query that fixes the first fields by `Equals` and orders by all the others in one direction, with a
    /// limit, costs the same however many documents contain the element. A list may have at most 1,000 elements; a
    /// longer one is `Invalid`.
    pub const fn each(list: &'static str, fields: &'static [&'static str]) -> Self {
        Self { fields, unique: false, each: Some(list) }
    }
}

/// A stored document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// Its id within the collection.
    pub id: String,
    /// The version of the batch that wrote it. Versions grow with every batch of the whole store, so a document that
    /// was deleted and created again never has an old version. They are neither consecutive nor do they start at 1.
    pub version: u64,
    /// The document: JSON text.
    pub body: Box<str>,
}

/// The maximum number of documents that one write by filters may change; beyond it, the write is `Invalid` and nothing
/// is changed.
pub const MAX_ROWS_AFFECTED: usize = 50_000;

/// One step of a [`Batch`]. Bodies are JSON objects, as text; ids have 1 to 512 bytes. A write by filters changes at
/// most [`MAX_ROWS_AFFECTED`] documents.
#[derive(Debug, Clone, PartialEq)]
pub enum Write {
    /// Adds a document; `AlreadyExists` if the id is taken.
    Create { collection: &'static str, id: String, body: Box<str> },
    /// Replaces the body of a document; `NotFound` if it does not exist, `Conflict` if it is not at the given version.
    Replace { collection: &'static str, id: String, body: Box<str>, version: Option<u64> },
    /// Adds the document or replaces the existing one.
    Upsert { collection: &'static str, id: String, body: Box<str> },
    /// Removes a document; `NotFound` if it does not exist, `Conflict` if it is not at the given version.
    Delete { collection: &'static str, id: String, version: Option<u64> },
    /// Replaces the body of every document that matches all filters. No match is not an error.
    ReplaceWhere { collection: &'static str, filters: Vec<Filter>, body: Box<str> },
    /// Replaces the body of every document that matches all filters. If none does, adds it under this id, or fails with
    /// `AlreadyExists` if the id is taken.
    UpsertWhere { collection: &'static str, filters: Vec<Filter>, id: String, body: Box<str> },
    /// Sets these fields, given as dotted paths, in every document that matches all filters. No match is not an error.
    /// Missing objects on the path are created; `Invalid` if another kind of value is on the path, and for `id`.
    UpdateFields { collection: &'static str, filters: Vec<Filter>, fields: Vec<(String, Value)> },
    /// Removes every document that matches all filters. No match is not an error.
    DeleteWhere { collection: &'static str, filters: Vec<Filter> },
    /// Continues only if the guard holds.
    Require(Guard),
}

/// A condition that must hold at its position in the batch, after the writes before it; otherwise the whole batch is
/// `Conflict` and changes nothing.
#[derive(Debug, Clone, PartialEq)]
pub enum Guard {
    /// No document has this id.
    Absent { collection: &'static str, id: String },
    /// A document has this id.
    Exists { collection: &'static str, id: String },
    /// The document exists and has this version.
    Version { collection: &'static str, id: String, version: u64 },
    /// The number of documents that match all filters is within these limits, both included. Every matching document is
    /// counted, so filter on indexed fields.
    Count { collection: &'static str, filters: Vec<Filter>, at_least: u64, at_most: u64 },
}

impl Guard {
    /// At most this many documents match the filters.
    pub fn at_most(collection: &'static str, filters: Vec<Filter>, at_most: u64) -> Self {
        Self::Count { collection, filters, at_least: 0, at_most }
    }

    /// At least this many documents match the filters.
    pub fn at_least(collection: &'static str, filters: Vec<Filter>, at_least: u64) -> Self {
        Self::Count { collection, filters, at_least, at_most: u64::MAX }
    }
}

/// The outcome of a committed batch.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Committed {
    /// The version that every document of the batch has now; 0 if none was changed.
    pub version: u64,
    /// The number of documents that each step of the batch wrote or removed; 0 for a guard.
    pub rows_affected: Vec<u64>,
}

/// Writes and guards that are applied atomically. An empty batch commits immediately.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Batch(pub Vec<Write>);

impl Batch {
    /// An empty batch.
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends [`Write::Create`].
    pub fn create(self, collection: &'static str, id: impl Into<String>, body: impl Into<Box<str>>) -> Self {
        self.with(Write::Create { collection, id: id.into(), body: body.into() })
    }

    /// Appends [`Write::Replace`] for any version.
    pub fn replace(self, collection: &'static str, id: impl Into<String>, body: impl Into<Box<str>>) -> Self {
        self.with(Write::Replace { collection, id: id.into(), body: body.into(), version: None })
    }

    /// Appends [`Write::Replace`] for this version only.
    pub fn replace_at(
        self,
        collection: &'static str,
        id: impl Into<String>,
        body: impl Into<Box<str>>,
        version: u64,
    ) -> Self {
        self.with(Write::Replace { collection, id: id.into(), body: body.into(), version: Some(version) })
    }

    /// Appends [`Write::Upsert`].
    pub fn upsert(self, collection: &'static str, id: impl Into<String>, body: impl Into<Box<str>>) -> Self {
        self.with(Write::Upsert { collection, id: id.into(), body: body.into() })
    }

    /// Appends [`Write::Delete`] for any version.
    pub fn delete(self, collection: &'static str, id: impl Into<String>) -> Self {
        self.with(Write::Delete { collection, id: id.into(), version: None })
    }

    /// Appends [`Write::Delete`] for this version only.
    pub fn delete_at(self, collection: &'static str, id: impl Into<String>, version: u64) -> Self {
        self.with(Write::Delete { collection, id: id.into(), version: Some(version) })
    }

    /// Appends a guard.
    pub fn require(self, guard: Guard) -> Self {
        self.with(Write::Require(guard))
    }

    /// Appends a write.
    pub fn with(mut self, write: Write) -> Self {
        self.0.push(write);
        self
    }

    /// Appends a write in place; for loops.
    pub fn push(&mut self, write: Write) {
        self.0.push(write);
    }

    /// Whether the batch has no steps.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl From<Write> for Batch {
    fn from(write: Write) -> Self {
        Self(vec![write])
    }
}

impl FromIterator<Write> for Batch {
    fn from_iter<I: IntoIterator<Item = Write>>(writes: I) -> Self {
        Self(writes.into_iter().collect())
    }
}
