//! Whether what is stored fits together: each document can be read, and what was derived from it, the columns of its
//! collection and the entries of its lists, is what would be derived from it today. Engines bring the rows.

use crate::sql::{Entry, Spec};
use crate::{Result, document};

/// Problems that are told one by one; of further ones the number is.
const MOST_PROBLEMS: usize = 100;

/// How far a long piece of work is.
#[derive(Debug, Clone, Copy)]
pub struct Progress<'a> {
    /// What is worked on.
    pub what: &'a str,
    /// How much of it is done.
    pub done: u64,
    /// How much there is, as far as that is known; in the unit of `done`.
    pub of: u64,
}

/// Told how far the work is, often; tells nobody by itself.
pub type OnProgress<'a> = &'a mut (dyn FnMut(Progress<'_>) + Send);

/// What a check found.
#[derive(Debug, Default)]
pub struct Findings {
    /// Documents that were looked at.
    pub documents: u64,
    /// What is wrong, a sentence for each; a hundred at most.
    pub problems: Vec<String>,
    /// How many problems there are beyond those.
    pub further: u64,
    /// That the newest writes are missing, though what is there is sound, and the way out.
    pub lacks_writes: Option<String>,
}

impl Findings {
    pub(crate) fn add(&mut self, problem: String) {
        if self.problems.len() < MOST_PROBLEMS {
            self.problems.push(problem);
        } else {
            self.further += 1;
        }
    }

    /// A collection that is declared is not there.
    pub(crate) fn add_missing(&mut self, collection: &str) {
        self.add(format!(
            "the collection {collection} is missing: a start makes it anew, without documents. Where a newer version brought \
             it and was not started yet, that is as it should be; else restore a backup"
        ));
    }
}

/// The check of one collection.
pub(crate) struct Checker<'a> {
    pub(crate) spec: &'a Spec<'a>,
    findings: &'a mut Findings,
    /// The entries that each list should have.
    entries: Vec<u64>,
}

/// What follows from a document.
struct Derived {
    /// What belongs in the columns.
    keys: Vec<Vec<u8>>,
    /// What belongs in each list.
    entries: Vec<Vec<Entry>>,
}

impl<'a> Checker<'a> {
    pub(crate) fn new(spec: &'a Spec<'a>, findings: &'a mut Findings) -> Self {
        Self { entries: vec![0; spec.lists.len()], spec, findings }
    }

    /// Looks at one document and its columns; answers the entries that it should have in each list.
    pub(crate) fn document(&mut self, id: &str, doc: &str, columns: &[Vec<u8>]) -> Vec<Vec<Entry>> {
        self.findings.documents += 1;
        match self.derived(id, doc) {
            Ok(Derived { keys, entries }) => {
                if keys != columns {
                    let name = self.spec.name;
                    self.findings.add(format!("the indexed fields of document `{id}` of {name} are not those it has"));
                }
                self.entries.iter_mut().zip(&entries).for_each(|(count, of_list)| *count += of_list.len() as u64);
                entries
            }
            Err(error) => {
                self.findings.add(error.to_string());
                Vec::new()
            }
        }
    }

    fn derived(&self, id: &str, doc: &str) -> Result<Derived> {
        let value = document::parse_stored(doc, self.spec.name, id)?;
        let lists = self.spec.lists.iter().map(|list| self.spec.entries(list, id, &value));
        Ok(Derived { keys: self.spec.keys(id, &value)?, entries: lists.collect::<Result<_>>()? })
    }

    /// An entry that should be there is not.
    pub(crate) fn missing_entry(&mut self, list: usize, id: &str) {
        let (name, list) = (self.spec.name, self.spec.lists[list].list);
        self.findings.add(format!("an entry of document `{id}` of {name} is missing in its list `{list}`"));
    }

    /// An entry is there that the document does not have.
    pub(crate) fn surplus_entry(&mut self, list: usize, id: &str) {
        let (name, list) = (self.spec.name, self.spec.lists[list].list);
        self.findings
            .add(format!("the list `{list}` of {name} has an entry of document `{id}` that it should not have"));
    }

    /// After the last document, where the entries of each were not looked at one by one: how many entries each list has.
    pub(crate) fn list_has(&mut self, list: usize, entries: u64) {
        let (name, path, wanted) = (self.spec.name, self.spec.lists[list].list, self.entries[list]);
        if entries > wanted {
            let surplus = entries - wanted;
            self.findings.add(format!("the list `{path}` of {name} has {surplus} entries that no document has"));
        }
    }
}
