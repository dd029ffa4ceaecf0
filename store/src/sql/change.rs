//! What has to change so that the tables of a collection are what is declared: the difference alone, as data. Engines
//! find out what is there and carry the difference out, in one transaction.

use std::collections::{BTreeMap, BTreeSet};

use super::{Column, IndexSpec, ListSpec, Spec};
use crate::{Result, StoreError};

/// Written beside each collection's declaration; another one means that its columns must be made again.
pub(crate) const SPEC_VERSION: i64 = 1;
/// Written there instead for a collection that has its documents alone: its columns, lists and indexes are yet to be made.
pub(crate) const DOCUMENTS_ALONE: i64 = 0;
/// So many documents at a time are read while a new column is filled.
pub(crate) const FILL_AT_ONCE: usize = 200;

/// What is recorded of a collection: its declaration, and the [`SPEC_VERSION`] it was brought up with.
pub(crate) type Recorded = BTreeMap<String, (String, i64)>;

/// What the table of a collection has.
#[derive(Default)]
pub(crate) struct There {
    /// Whether it was made a moment ago, with every declared column, and has no documents.
    pub(crate) is_new: bool,
    pub(crate) columns: BTreeSet<String>,
    pub(crate) indexes: BTreeSet<String>,
}

/// The difference, in the order in which it is to be carried out.
pub(crate) struct Change<'a> {
    pub(crate) drop_indexes: Vec<&'a str>,
    pub(crate) drop_columns: Vec<&'a str>,
    pub(crate) add_columns: Vec<&'a Column<'a>>,
    pub(crate) drop_lists: Vec<String>,
    pub(crate) add_lists: Vec<&'a ListSpec<'a>>,
    /// After the new columns and lists are filled.
    pub(crate) add_indexes: Vec<&'a IndexSpec>,
}

/// Whether a collection is recorded as it is declared, so that nothing has to be done.
pub(crate) fn is_as_declared(recorded: &Recorded, spec: &Spec<'_>) -> bool {
    let found = recorded.get(spec.name);
    found.is_some_and(|(declaration, version)| *declaration == spec.declaration && *version == SPEC_VERSION)
}

/// Refuses a collection that would share its tables with another.
pub(crate) fn check_case(recorded: &Recorded, spec: &Spec<'_>) -> Result<()> {
    match recorded.keys().find(|other| other.eq_ignore_ascii_case(spec.name) && *other != spec.name) {
        Some(other) => {
            Err(StoreError::Internal(format!("collections differ in case alone: {other} and {}", spec.name)))
        }
        None => Ok(()),
    }
}

impl<'a> Change<'a> {
    pub(crate) fn new(spec: &'a Spec<'a>, recorded: &Recorded, there: &'a There) -> Self {
        let found = recorded.get(spec.name);
        let declaration = found.map_or("", |(declaration, _)| declaration.as_str());
        // Columns made by another version of the keys are made again.
        let keep = there.is_new || found.is_some_and(|(_, version)| *version == SPEC_VERSION);
        let lists: BTreeSet<String> = ListSpec::tables(declaration).collect();

        let keeps_index = |name: &str| keep && spec.indexes.iter().any(|index| index.name == name);
        let keeps_column = |name: &str| keep && spec.columns.iter().any(|column| column.name == name);
        let keeps_list = |name: &str| keep && spec.lists.iter().any(|list| list.name == name);
        let ours = |name: &str| ["f_", "l_", "u_"].iter().any(|start| name.starts_with(start));
        Self {
            drop_indexes: names(&there.indexes, |name| !keeps_index(name)),
            drop_columns: names(&there.columns, |name| ours(name) && !keeps_column(name)),
            add_columns: spec.columns.iter().filter(|one| !(keep && there.columns.contains(&one.name))).collect(),
            drop_lists: lists.iter().filter(|name| !keeps_list(name)).cloned().collect(),
            add_lists: spec.lists.iter().filter(|one| !(keep && lists.contains(&one.name))).collect(),
            add_indexes: spec.indexes.iter().filter(|one| !(keep && there.indexes.contains(&one.name))).collect(),
        }
    }

    /// Whether every document has to be looked at.
    pub(crate) fn fills(&self) -> bool {
        !self.add_columns.is_empty() || !self.add_lists.is_empty()
    }
}

/// The answer where existing documents break an index that was declared unique.
pub(crate) fn broken_by_documents(spec: &Spec<'_>, index: &IndexSpec) -> StoreError {
    StoreError::AlreadyExists(format!(
        "documents of {} have the same {}, which was declared unique",
        spec.name, index.declared
    ))
}

fn names(all: &BTreeSet<String>, wanted: impl Fn(&str) -> bool) -> Vec<&str> {
    all.iter().map(String::as_str).filter(|name| wanted(name)).collect()
}
