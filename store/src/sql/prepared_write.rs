//! The open collections of an engine, and prepared writes: validated, with their keys computed, so that an engine only
//! executes them. Documents are validated here, in the caller's task, the same for every engine.

use std::{
    collections::HashMap,
    sync::{Arc, PoisonError, RwLock},
};

use serde_json::Value;

use super::{CountPlan, Dialect, Entry, Plan, Spec};
use crate::{Collection, Filter, Guard, MAX_ROWS_AFFECTED, Query, Result, StoreError, Write, document};

/// An open collection, with the engine's statements for it.
pub(crate) struct OpenCollection<S> {
    pub(crate) spec: Arc<Spec<'static>>,
    pub(crate) statements: S,
}

impl<S: for<'a> From<&'a Spec<'static>>> OpenCollection<S> {
    pub(crate) fn new(spec: Spec<'static>) -> Self {
        Self { statements: S::from(&spec), spec: Arc::new(spec) }
    }
}

/// The open collections, by name.
pub(crate) struct Collections<S> {
    dialect: Dialect,
    document_limit: usize,
    by_name: RwLock<HashMap<&'static str, Arc<OpenCollection<S>>>>,
}

/// A validated write or guard.
pub(crate) enum PreparedWrite<S> {
    Create(PreparedDocument<S>),
    Replace(PreparedDocument<S>, Option<u64>),
    Upsert(PreparedDocument<S>),
    Delete(DocRef<S>, Option<u64>),
    ReplaceWhere(MatchingDocs<S>, Body),
    /// The document is inserted if nothing matches.
    UpsertWhere(MatchingDocs<S>, Box<PreparedDocument<S>>, Body),
    UpdateFields(MatchingDocs<S>, Vec<(String, Value)>),
    DeleteWhere(MatchingDocs<S>),
    Absent(DocRef<S>),
    Exists(DocRef<S>),
    Version(DocRef<S>, u64),
    Count {
        plan: CountPlan,
        at_least: u64,
        at_most: u64,
    },
}

/// A document id within a collection.
pub(crate) struct DocRef<S> {
    pub(crate) known: Arc<OpenCollection<S>>,
    pub(crate) id: String,
}

/// A document to be stored.
pub(crate) struct PreparedDocument<S> {
    pub(crate) doc_ref: DocRef<S>,
    pub(crate) body: Box<str>,
    pub(crate) keys: Vec<Vec<u8>>,
    /// Its entries in each indexed list of the collection.
    pub(crate) entries: Vec<Vec<Entry>>,
}

/// A body without an id.
pub(crate) struct Body {
    pub(crate) text: Box<str>,
    pub(crate) value: Value,
}

/// The documents that match some filters: at most [`MAX_ROWS_AFFECTED`], and whether there are more.
pub(crate) struct MatchingDocs<S> {
    pub(crate) known: Arc<OpenCollection<S>>,
    pub(crate) plan: Plan,
}

impl<S: for<'a> From<&'a Spec<'static>>> Collections<S> {
    /// No open collections.
    pub(crate) fn new(dialect: Dialect, document_limit: usize) -> Self {
        Self { dialect, document_limit, by_name: RwLock::default() }
    }

    /// Validates declarations. They are usable after the engine has created their tables and called
    /// [`Collections::add`].
    pub(crate) fn validate(declared: &[Collection]) -> Result<Vec<Arc<OpenCollection<S>>>> {
        declared.iter().map(|one| Ok(Arc::new(OpenCollection::new(Spec::new(one)?)))).collect()
    }

    pub(crate) fn add(&self, opened: Vec<Arc<OpenCollection<S>>>) {
        let mut known = self.by_name.write().unwrap_or_else(PoisonError::into_inner);
        known.extend(opened.into_iter().map(|one| (one.spec.name, one)));
    }

    pub(crate) fn get(&self, collection: &str) -> Result<Arc<OpenCollection<S>>> {
        let known = self.by_name.read().unwrap_or_else(PoisonError::into_inner);
        known
            .get(collection)
            .cloned()
            .ok_or_else(|| StoreError::Internal(format!("the collection {collection} was not opened")))
    }

    pub(crate) fn plan(&self, collection: &str, query: &Query) -> Result<Plan> {
        Plan::new(self.dialect, self.get(collection)?.spec.clone(), query)
    }

    /// The count stops at `enough`.
    pub(crate) fn count(&self, collection: &str, filters: &[Filter], enough: u64) -> Result<CountPlan> {
        CountPlan::new(self.dialect, self.get(collection)?.spec.clone(), filters, enough)
    }

    /// Validates a write.
    pub(crate) fn prepare(&self, write: Write) -> Result<PreparedWrite<S>> {
        Ok(match write {
            Write::Create { collection, id, body } => PreparedWrite::Create(self.document(collection, id, body)?),
            Write::Replace { collection, id, body, version } => {
                PreparedWrite::Replace(self.document(collection, id, body)?, version)
            }
            Write::Upsert { collection, id, body } => PreparedWrite::Upsert(self.document(collection, id, body)?),
            Write::Delete { collection, id, version } => PreparedWrite::Delete(self.doc_ref(collection, id)?, version),
            Write::ReplaceWhere { collection, filters, body } => {
                PreparedWrite::ReplaceWhere(self.matches(collection, filters)?, self.body(collection, "*", body)?)
            }
            Write::UpsertWhere { collection, filters, id, body } => {
                let document = self.document(collection, id, body.clone())?;
                let body = self.body(collection, &document.doc_ref.id, body)?;
                PreparedWrite::UpsertWhere(self.matches(collection, filters)?, Box::new(document), body)
            }
            Write::UpdateFields { collection, filters, fields } => {
                fields.iter().try_for_each(|(field, _)| document::check_settable(field))?;
                PreparedWrite::UpdateFields(self.matches(collection, filters)?, fields)
            }
            Write::DeleteWhere { collection, filters } => {
                PreparedWrite::DeleteWhere(self.matches(collection, filters)?)
            }
            Write::Require(Guard::Absent { collection, id }) => PreparedWrite::Absent(self.doc_ref(collection, id)?),
            Write::Require(Guard::Exists { collection, id }) => PreparedWrite::Exists(self.doc_ref(collection, id)?),
            Write::Require(Guard::Version { collection, id, version }) => {
                PreparedWrite::Version(self.doc_ref(collection, id)?, version)
            }
            Write::Require(Guard::Count { collection, filters, at_least, at_most }) => {
                let enough = at_most.saturating_add(1).max(at_least);
                PreparedWrite::Count { plan: self.count(collection, &filters, enough)?, at_least, at_most }
            }
        })
    }

    fn doc_ref(&self, collection: &str, id: String) -> Result<DocRef<S>> {
        Ok(DocRef { known: self.get(collection)?, id })
    }

    fn matches(&self, collection: &str, filters: Vec<Filter>) -> Result<MatchingDocs<S>> {
        let query = Query { filters, limit: Some(MAX_ROWS_AFFECTED as u64), ..Query::default() };
        Ok(MatchingDocs { known: self.get(collection)?, plan: self.plan(collection, &query)? })
    }

    fn body(&self, collection: &str, id: &str, body: Box<str>) -> Result<Body> {
        let value = document::parse_new(&body, self.document_limit, &format!("document `{id}` of {collection}"))?;
        Ok(Body { text: body, value })
    }

    fn document(&self, collection: &str, id: String, body: Box<str>) -> Result<PreparedDocument<S>> {
        document::check_id(collection, &id)?;
        let Body { text, value } = self.body(collection, &id, body)?;
        PreparedDocument::new(self.get(collection)?, id, text, &value)
    }
}

impl<S> PreparedDocument<S> {
    /// Computes the keys of a document with a valid body.
    pub(crate) fn new(known: Arc<OpenCollection<S>>, id: String, body: Box<str>, value: &Value) -> Result<Self> {
        let keys = known.spec.keys(&id, value)?;
        let entries = known.entries(&id, value)?;
        Ok(Self { doc_ref: DocRef { known, id }, body, keys, entries })
    }
}

impl<S> OpenCollection<S> {
    /// The entries of a document in each indexed list of the collection.
    pub(crate) fn entries(&self, id: &str, value: &Value) -> Result<Vec<Vec<Entry>>> {
        self.spec.lists.iter().map(|list| self.spec.entries(list, id, value)).collect()
    }
}

impl<S> DocRef<S> {
    pub(crate) fn not_found(&self) -> StoreError {
        self.known.spec.not_found(&self.id)
    }

    pub(crate) fn already_exists(&self) -> StoreError {
        self.known.spec.already_exists(&self.id)
    }

    pub(crate) fn conflict(&self, what: &str) -> StoreError {
        self.known.spec.conflict(&self.id, what)
    }

    /// Evaluates [`Guard::Absent`].
    pub(crate) fn must_be_absent(&self, found: Option<u64>) -> Result<u64> {
        match found {
            None => Ok(0),
            Some(_) => Err(self.conflict("already exists")),
        }
    }

    /// Evaluates [`Guard::Exists`].
    pub(crate) fn must_exist(&self, found: Option<u64>) -> Result<u64> {
        match found {
            Some(_) => Ok(0),
            None => Err(self.conflict("does not exist")),
        }
    }

    /// Evaluates [`Guard::Version`].
    pub(crate) fn must_be_at(&self, found: Option<u64>, wanted: u64) -> Result<u64> {
        match found {
            Some(found) if found == wanted => Ok(0),
            Some(_) => Err(self.conflict("has been changed")),
            None => Err(self.conflict("does not exist")),
        }
    }

    /// Checks that the document exists and, if the write names a version, that it is at that version.
    pub(crate) fn check_version(&self, found: Option<u64>, wanted: Option<u64>) -> Result<()> {
        match (found, wanted) {
            (None, _) => Err(self.not_found()),
            (Some(found), Some(wanted)) if found != wanted => Err(self.conflict("has been changed")),
            _ => Ok(()),
        }
    }
}
