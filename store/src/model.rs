//! The words of a store: collections and their indexes, rows, and a batch of writes with guards.
//! Questions are in `query.rs`.

use serde_json::Value;

use crate::Filter;

/// A declared collection of JSON documents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Collection {
    /// Its name, for example `userSvcUsers`: a letter, then at most 47 letters, digits and `_`.
    pub name: &'static str,
    /// What can be found without looking at every document.
    pub indexes: &'static [Index],
}

/// A declared index. The values that one document has in the fields of one index may take up to 2,048 bytes together;
/// a document beyond that is `Invalid`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Index {
    /// The fields in order: dotted paths into the document. `lower(name)` stands for the text of `name` without
    /// regard to case: what [`Filter::StartsWith`] on `name` is answered from. The id need not be named.
    pub fields: &'static [&'static str],
    /// Whether no two documents may have the same values. A document that lacks one of the fields, or has null
    /// there, is exempt.
    pub unique: bool,
    /// The list each of whose elements has an entry of its own, before the fields.
    pub each: Option<&'static str>,
}

impl Index {
    /// An index that answers by these fields, and in their order.
    pub const fn on(fields: &'static [&'static str]) -> Self {
        Self { fields, unique: false, each: None }
    }

    /// The same, and no two documents may agree in all of the fields.
    pub const fn unique(fields: &'static [&'static str]) -> Self {
        Self { fields, unique: true, each: None }
    }

    /// An index that answers [`Filter::Intersects`] on `list`: for each element the documents that hold it, in the
    /// order of `fields`. A query that gives the first fields by `Equals` and orders by all the others, one way, with
    /// a limit, costs the same however many documents hold the element. At most 1,000 elements count; a longer list is
    /// `Invalid`.
    pub const fn each(list: &'static str, fields: &'static [&'static str]) -> Self {
        Self { fields, unique: false, each: Some(list) }
    }
}

/// A stored document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// Its id within the collection.
    pub id: String,
    /// The version of the batch that wrote it. Grows with every batch for the whole store, so a document that was
    /// deleted and made again never has an old version. Means nothing else: neither consecutive nor starting at 1.
    pub version: u64,
    /// The document: JSON text.
    pub body: Box<str>,
}

/// The most documents that one write by filters may touch; beyond, it is `Invalid` and nothing is changed.
pub const MOST_TOUCHED: usize = 50_000;

/// One step of a [`Batch`]. Bodies are JSON objects, as text; ids have 1 to 512 bytes. Those that go by filters touch
/// [`MOST_TOUCHED`] documents at most.
#[derive(Debug, Clone, PartialEq)]
pub enum Write {
    /// Adds a document; `AlreadyExists` where the id is taken.
    Create { collection: &'static str, id: String, body: Box<str> },
    /// Puts another body in the place of what is there; `NotFound` where nothing is, `Conflict` where it is not at
    /// the given version.
    Replace { collection: &'static str, id: String, body: Box<str>, version: Option<u64> },
    /// Adds the document or replaces what is there.
    Upsert { collection: &'static str, id: String, body: Box<str> },
    /// Removes a document; `NotFound` where nothing is, `Conflict` where it is not at the given version.
    Delete { collection: &'static str, id: String, version: Option<u64> },
    /// Puts this body in the place of every document that passes all filters; none is fine.
    ReplaceWhere { collection: &'static str, filters: Vec<Filter>, body: Box<str> },
    /// Puts this body in the place of every document that passes all filters; where none does, adds it under this id,
    /// or `AlreadyExists` where that is taken.
    UpsertWhere { collection: &'static str, filters: Vec<Filter>, id: String, body: Box<str> },
    /// Sets these fields, dotted paths, in every document that passes all filters, and leaves its others; none is
    /// fine. Objects on the way that are missing are made; `Invalid` where something else is in the way, and for `id`.
    UpdateFields { collection: &'static str, filters: Vec<Filter>, fields: Vec<(String, Value)> },
    /// Removes every document that passes all filters; none is fine.
    DeleteWhere { collection: &'static str, filters: Vec<Filter> },
    /// Goes on only if this holds.
    Require(Guard),
}

/// What must hold at its place in the batch, after the writes before it; where it does not, the whole batch is
/// `Conflict` and changes nothing.
#[derive(Debug, Clone, PartialEq)]
pub enum Guard {
    /// No document has this id.
    Absent { collection: &'static str, id: String },
    /// Some document has this id.
    Exists { collection: &'static str, id: String },
    /// The document is there, at this version.
    Version { collection: &'static str, id: String, version: u64 },
    /// As many documents as this pass all filters, the limits included. A cost per document counted: keep the
    /// filters on declared fields.
    Count { collection: &'static str, filters: Vec<Filter>, at_least: u64, at_most: u64 },
}

impl Guard {
    /// At most so many documents pass the filters.
    pub fn at_most(collection: &'static str, filters: Vec<Filter>, at_most: u64) -> Self {
        Self::Count { collection, filters, at_least: 0, at_most }
    }

    /// At least so many documents pass the filters.
    pub fn at_least(collection: &'static str, filters: Vec<Filter>, at_least: u64) -> Self {
        Self::Count { collection, filters, at_least, at_most: u64::MAX }
    }
}

/// What came of a batch.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Committed {
    /// The version that every document of the batch has now; 0 where none was touched.
    pub version: u64,
    /// How many documents each step of the batch wrote or removed; 0 for a guard.
    pub touched: Vec<u64>,
}

/// Writes and guards that happen together or not at all. An empty one is committed at once.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Batch(pub Vec<Write>);

impl Batch {
    /// Nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Then [`Write::Create`].
    pub fn create(self, collection: &'static str, id: impl Into<String>, body: impl Into<Box<str>>) -> Self {
        self.with(Write::Create { collection, id: id.into(), body: body.into() })
    }

    /// Then [`Write::Replace`], whatever the version.
    pub fn replace(self, collection: &'static str, id: impl Into<String>, body: impl Into<Box<str>>) -> Self {
        self.with(Write::Replace { collection, id: id.into(), body: body.into(), version: None })
    }

    /// Then [`Write::Replace`], of this version alone.
    pub fn replace_at(
        self,
        collection: &'static str,
        id: impl Into<String>,
        body: impl Into<Box<str>>,
        version: u64,
    ) -> Self {
        self.with(Write::Replace { collection, id: id.into(), body: body.into(), version: Some(version) })
    }

    /// Then [`Write::Upsert`].
    pub fn upsert(self, collection: &'static str, id: impl Into<String>, body: impl Into<Box<str>>) -> Self {
        self.with(Write::Upsert { collection, id: id.into(), body: body.into() })
    }

    /// Then [`Write::Delete`], whatever the version.
    pub fn delete(self, collection: &'static str, id: impl Into<String>) -> Self {
        self.with(Write::Delete { collection, id: id.into(), version: None })
    }

    /// Then [`Write::Delete`], of this version alone.
    pub fn delete_at(self, collection: &'static str, id: impl Into<String>, version: u64) -> Self {
        self.with(Write::Delete { collection, id: id.into(), version: Some(version) })
    }

    /// Then this must hold.
    pub fn require(self, guard: Guard) -> Self {
        self.with(Write::Require(guard))
    }

    /// Then this.
    pub fn with(mut self, write: Write) -> Self {
        self.0.push(write);
        self
    }

    /// Then this; for loops.
    pub fn push(&mut self, write: Write) {
        self.0.push(write);
    }

    /// Whether there is nothing to do.
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
