//! Consistency check, shared by the engines: each document can be parsed, and the index columns and list entries of its
//! collection are the ones that would be derived from it today.

use crate::{
    Result, document,
    sql::{Entry, Spec},
};

/// Problems reported individually; further ones are only counted.
const MAX_PROBLEMS: usize = 100;

/// The progress of a long operation.
#[derive(Debug, Clone, Copy)]
pub struct Progress<'a> {
    /// The current task.
    pub task: &'a str,
    /// The amount done.
    pub done: u64,
    /// The total amount, as far as it is known; in the unit of `done`.
    pub total: u64,
}

/// Progress callback; it is called often and should be cheap.
pub type OnProgress<'a> = &'a mut (dyn FnMut(Progress<'_>) + Send);

/// The result of a check.
#[derive(Debug, Default)]
pub struct Findings {
    /// The number of documents checked.
    pub documents: u64,
    /// The problems, one sentence each; at most a hundred.
    pub problems: Vec<String>,
    /// The number of further problems.
    pub unreported: u64,
    /// Set if the newest writes are missing although the rest is sound: what is missing, and the remedy.
    pub missing_writes: Option<String>,
}

impl Findings {
    pub(crate) fn report(&mut self, problem: String) {
        if self.problems.len() < MAX_PROBLEMS {
            self.problems.push(problem);
        } else {
            self.unreported += 1;
        }
    }

    /// Reports a declared collection without a table.
    pub(crate) fn report_missing_collection(&mut self, collection: &str) {
        self.report(format!(
            "the collection {collection} is missing; the next start creates it empty. This is expected if a newer \
             version added it and has not been started yet; otherwise restore a backup"
        ));
    }
}

/// The check of one collection.
pub(crate) struct Checker<'a> {
    pub(crate) spec: &'a Spec<'a>,
    findings: &'a mut Findings,
    /// The number of entries that each list should have.
    entries: Vec<u64>,
}

/// What is derived from a document.
struct Derived {
    /// The values of the index columns.
    keys: Vec<Vec<u8>>,
    /// The entries of each list.
    entries: Vec<Vec<Entry>>,
}

impl<'a> Checker<'a> {
    pub(crate) fn new(spec: &'a Spec<'a>, findings: &'a mut Findings) -> Self {
        Self { entries: vec![0; spec.lists.len()], spec, findings }
    }

    /// Checks one document and its index columns; returns the entries it should have in each list.
    pub(crate) fn check_document(&mut self, id: &str, doc: &str, columns: &[Vec<u8>]) -> Vec<Vec<Entry>> {
        self.findings.documents += 1;
        match self.derived(id, doc) {
            Ok(Derived { keys, entries }) => {
                if keys != columns {
                    let name = self.spec.name;
                    self.findings
                        .report(format!("the index columns of document `{id}` of {name} do not match the document"));
                }
                self.entries.iter_mut().zip(&entries).for_each(|(count, of_list)| *count += of_list.len() as u64);
                entries
            }
            Err(error) => {
                self.findings.report(error.to_string());
                Vec::new()
            }
        }
    }

    fn derived(&self, id: &str, doc: &str) -> Result<Derived> {
        let value = document::parse_stored(doc, self.spec.name, id)?;
        let lists = self.spec.lists.iter().map(|list| self.spec.entries(list, id, &value));
        Ok(Derived { keys: self.spec.keys(id, &value)?, entries: lists.collect::<Result<_>>()? })
    }

    /// Reports a missing list entry.
    pub(crate) fn report_missing_entry(&mut self, list: usize, id: &str) {
        let (name, list) = (self.spec.name, self.spec.lists[list].list);
        self.findings
            .report(format!("an entry of document `{id}` of {name} is missing from the index of list `{list}`"));
    }

    /// Reports a list entry that the document does not have.
    pub(crate) fn report_surplus_entry(&mut self, list: usize, id: &str) {
        let (name, list) = (self.spec.name, self.spec.lists[list].list);
        self.findings.report(format!(
            "the index of list `{list}` of {name} has an entry of document `{id}` that it should not have"
        ));
    }

    /// Compares the total number of entries of a list, after the last document. For an engine that only looked for
    /// missing entries.
    pub(crate) fn check_entry_count(&mut self, list: usize, entries: u64) {
        let (name, path, wanted) = (self.spec.name, self.spec.lists[list].list, self.entries[list]);
        if entries > wanted {
            let surplus = entries - wanted;
            self.findings
                .report(format!("the index of list `{path}` of {name} has {surplus} entries that no document has"));
        }
    }
}
