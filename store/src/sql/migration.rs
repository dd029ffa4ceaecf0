//! The migration of a collection's tables to its declaration, as data: only the difference. The engines inspect the
//! existing tables and execute the migration in one transaction.

use std::collections::{BTreeMap, BTreeSet};

use super::{Column, IndexSpec, ListSpec, Spec};
use crate::{Result, StoreError};

/// The version of the key encoding, recorded with each declaration; if it differs, the columns are rebuilt.
pub(crate) const SPEC_VERSION: i64 = 1;
/// Recorded instead for a collection that has only its documents: its columns, lists and indexes are not built yet.
pub(crate) const DOCUMENTS_ONLY: i64 = 0;
/// The number of documents read at a time while new columns are filled.
pub(crate) const BACKFILL_BATCH: usize = 200;

/// The recorded collections by name: declaration, and the [`SPEC_VERSION`] of its columns.
pub(crate) type RecordedCollections = BTreeMap<String, (String, i64)>;

/// The existing table of a collection.
#[derive(Default)]
pub(crate) struct ExistingTable {
    /// Whether it was just created, with all declared columns and without documents.
    pub(crate) is_new: bool,
    pub(crate) columns: BTreeSet<String>,
    pub(crate) indexes: BTreeSet<String>,
}

/// The migration steps, in the order of execution.
pub(crate) struct Migration<'a> {
    pub(crate) drop_indexes: Vec<&'a str>,
    pub(crate) drop_columns: Vec<&'a str>,
    pub(crate) add_columns: Vec<&'a Column<'a>>,
    pub(crate) drop_lists: Vec<String>,
    pub(crate) add_lists: Vec<&'a ListSpec<'a>>,
    /// Created after the new columns and lists are filled.
    pub(crate) add_indexes: Vec<&'a IndexSpec>,
}

/// Whether the recorded declaration is the current one, so that no migration is needed.
pub(crate) fn is_up_to_date(recorded: &RecordedCollections, spec: &Spec<'_>) -> bool {
    let found = recorded.get(spec.name);
    found.is_some_and(|(declaration, version)| *declaration == spec.declaration && *version == SPEC_VERSION)
}

/// Refuses a collection that would share its tables with another.
pub(crate) fn check_name_case(recorded: &RecordedCollections, spec: &Spec<'_>) -> Result<()> {
    match recorded.keys().find(|other| other.eq_ignore_ascii_case(spec.name) && *other != spec.name) {
        Some(other) => {
            Err(StoreError::Internal(format!("collection names differ only in case: {other} and {}", spec.name)))
        }
        None => Ok(()),
    }
}

impl<'a> Migration<'a> {
    pub(crate) fn new(spec: &'a Spec<'a>, recorded: &RecordedCollections, existing: &'a ExistingTable) -> Self {
        let found = recorded.get(spec.name);
        let declaration = found.map_or("", |(declaration, _)| declaration.as_str());
        // Columns with keys of another version are rebuilt.
        let keep = existing.is_new || found.is_some_and(|(_, version)| *version == SPEC_VERSION);
        let lists: BTreeSet<String> = ListSpec::tables(declaration).collect();

        let keeps_index = |name: &str| keep && spec.indexes.iter().any(|index| index.name == name);
        let keeps_column = |name: &str| keep && spec.columns.iter().any(|column| column.name == name);
        let keeps_list = |name: &str| keep && spec.lists.iter().any(|list| list.name == name);
        let ours = |name: &str| ["f_", "l_", "u_"].iter().any(|start| name.starts_with(start));
        Self {
            drop_indexes: filter_names(&existing.indexes, |name| !keeps_index(name)),
            drop_columns: filter_names(&existing.columns, |name| ours(name) && !keeps_column(name)),
            add_columns: spec.columns.iter().filter(|one| !(keep && existing.columns.contains(&one.name))).collect(),
            drop_lists: lists.iter().filter(|name| !keeps_list(name)).cloned().collect(),
            add_lists: spec.lists.iter().filter(|one| !(keep && lists.contains(&one.name))).collect(),
            add_indexes: spec.indexes.iter().filter(|one| !(keep && existing.indexes.contains(&one.name))).collect(),
        }
    }

    /// Whether every document must be read.
    pub(crate) fn needs_backfill(&self) -> bool {
        !self.add_columns.is_empty() || !self.add_lists.is_empty()
    }
}

/// The error for existing documents that violate an index newly declared unique.
pub(crate) fn unique_violation_in_documents(spec: &Spec<'_>, index: &IndexSpec) -> StoreError {
    StoreError::AlreadyExists(format!(
        "documents of {} have the same {}, which was declared unique",
        spec.name, index.declared
    ))
}

fn filter_names(all: &BTreeSet<String>, wanted: impl Fn(&str) -> bool) -> Vec<&str> {
    all.iter().map(String::as_str).filter(|name| wanted(name)).collect()
}
