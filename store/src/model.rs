//! The words of a store: collections and their indexes, rows, and a batch of writes with guards.
//! Questions are in `query.rs`.

use crate::Filter;

/// A declared collection of JSON documents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Collection {
    /// Its name, for example `userSvcUsers`: a letter, then at most 47 letters, digits and `_`.
    pub name: &'static str,
    /// What can be found without looking at every document.
    pub indexes: &'static [Index],
}

/// A declared index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Index {
    /// The fields in order: dotted paths into the document. `lower(name)` stands for the text of `name` without
    /// regard to case: what [`Filter::StartsWith`] on `name` is answered from. The id need not be named.
    pub fields: &'static [&'static str],
    /// Whether no two documents may have the same values. A document that lacks one of the fields, or has null
    /// there, is exempt.
    pub unique: bool,
}

impl Index {
    /// An index that answers by these fields, and in their order.
    pub const fn on(fields: &'static [&'static str]) -> Self {
        Self { fields, unique: false }
    }

    /// The same, and no two documents may agree in all of the fields.
    pub const fn unique(fields: &'static [&'static str]) -> Self {
        Self { fields, unique: true }
    }
}

/// A stored document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// Its id within the collection.
    pub id: String,
    /// Grows with every write to the whole store, so a document that was deleted and made again never has an old
    /// version. Means nothing else: neither consecutive nor starting at 1.
    pub version: u64,
    /// The document: JSON text.
    pub body: Box<str>,
}

/// One step of a [`Batch`]. Bodies are JSON objects, as text; ids have 1 to 512 bytes.
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
