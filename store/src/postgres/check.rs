//! Checks a snapshot of a schema, with or without a running daemon: every document against its index columns and list
//! entries. Checking the pages is up to the server, with `pg_amcheck`.

use std::collections::{BTreeSet, HashMap};

use tokio_postgres::Transaction;

use super::PostgresOptions;
use super::backup::count;
use super::errors::Failure;
use super::reader::Chunks;
use super::statements::row_of;
use super::visit::Visit;
use super::{schema, shape};
use crate::check::{Checker, Findings, OnProgress, Progress};
use crate::sql::{Entry, ListSpec, Spec, change, quote};
use crate::{Collection, Result};

type Outcome<T> = std::result::Result<T, Failure>;

/// Checks a schema. First its tables and indexes are compared with the recorded declarations; if they differ, nothing
/// else is checked. Then each document is checked against the declaration recorded for its collection. A member of
/// `collections` without a recorded declaration is a problem too.
pub(super) async fn check(
    options: &PostgresOptions,
    collections: &[Collection],
    progress: OnProgress<'_>,
) -> Result<Findings> {
    let checked = look(options, collections, progress).await;
    checked.map_err(|failure| failure.into_store(&format!("checking the schema `{}`", options.schema)))
}

async fn look(options: &PostgresOptions, collections: &[Collection], progress: OnProgress<'_>) -> Outcome<Findings> {
    let mut visit = Visit::begin(options).await?;
    let (transaction, _) = visit.look().await?;
    let recorded = schema::recorded(transaction.client()).await?;
    let mut findings = Findings::default();
    for collection in collections.iter().filter(|collection| !recorded.contains_key(collection.name)) {
        findings.add_missing(collection.name);
    }
    let mut specs = Vec::new();
    for (name, (declaration, version)) in &recorded {
        match Spec::recorded(name, if *version == change::DOCUMENTS_ALONE { "" } else { declaration }) {
            Ok(spec) => specs.push(spec),
            Err(error) => findings.add(error.sentence().to_owned()),
        }
    }
    let problems = shape::problems(&transaction, &specs).await?;
    if !problems.is_empty() {
        problems.into_iter().for_each(|problem| findings.add(problem));
        findings.add(
            "the documents were not checked, because the tables and indexes are not those that OpenOrch created".into(),
        );
        return Ok(findings);
    }
    for spec in &specs {
        let checker = Checker::new(spec, &mut findings);
        Looking { transaction: &transaction, checker }.at_all(progress).await?;
    }
    Ok(findings)
}

/// The check of one collection.
struct Looking<'a> {
    transaction: &'a Transaction<'a>,
    checker: Checker<'a>,
}

impl Looking<'_> {
    async fn at_all(mut self, progress: OnProgress<'_>) -> Outcome<()> {
        let spec = self.checker.spec;
        let of = count(self.transaction, &spec.table).await?;
        let columns: String = spec.columns.iter().map(|column| format!(", {}", quote(&column.name))).collect();
        let select = format!("SELECT id, ver, doc{columns} FROM {}", spec.table);
        let mut chunks = Chunks::of(self.transaction, self.transaction.bind(&select, &[]).await?);
        let mut done = 0;
        while let Some(rows) = chunks.next_raw().await? {
            self.documents(&rows).await?;
            done += rows.len() as u64;
            progress(Progress { what: spec.name, done, of });
        }
        for (at, list) in spec.lists.iter().enumerate() {
            self.without_document(at, list).await?;
        }
        Ok(())
    }

    async fn documents(&mut self, rows: &[tokio_postgres::Row]) -> Outcome<()> {
        let spec = self.checker.spec;
        // By list: the checked ids and the expected entries of each.
        let mut expected = vec![HashMap::new(); spec.lists.len()];
        for found in rows {
            let columns =
                (0..spec.columns.len()).map(|at| found.try_get(at + 3)).collect::<std::result::Result<Vec<_>, _>>()?;
            let row = row_of(found)?;
            let entries = self.checker.document(&row.id, &row.body, &columns);
            // A document that cannot be parsed is already reported and has no expected entries.
            for (of_list, entries) in expected.iter_mut().zip(entries) {
                of_list.insert(row.id.clone(), BTreeSet::from_iter(entries));
            }
        }
        for (at, (list, expected)) in spec.lists.iter().zip(&expected).enumerate() {
            self.entries(at, list, expected).await?;
        }
        Ok(())
    }

    /// Compares the entries of some documents in one list with the expected ones.
    async fn entries(
        &mut self,
        at: usize,
        list: &ListSpec<'_>,
        expected: &HashMap<String, BTreeSet<Entry>>,
    ) -> Outcome<()> {
        let columns = list.columns();
        let select = format!("SELECT id, {} FROM {} WHERE id = ANY($1)", columns.join(", "), list.table);
        let ids: Vec<&String> = expected.keys().collect();
        let mut there: HashMap<String, BTreeSet<Entry>> = HashMap::new();
        for row in self.transaction.query(&select, &[&ids]).await? {
            let entry = (1..=columns.len()).map(|at| row.try_get(at)).collect::<std::result::Result<Entry, _>>()?;
            there.entry(row.try_get(0)?).or_default().insert(entry);
        }
        let none = BTreeSet::new();
        for (id, wanted) in expected {
            let found = there.get(id).unwrap_or(&none);
            wanted.difference(found).for_each(|_| self.checker.missing_entry(at, id));
            found.difference(wanted).for_each(|_| self.checker.surplus_entry(at, id));
        }
        Ok(())
    }

    /// Reports entries of missing documents.
    async fn without_document(&mut self, at: usize, list: &ListSpec<'_>) -> Outcome<()> {
        let (table, documents) = (&list.table, &self.checker.spec.table);
        let select = format!(
            "SELECT id FROM {table} s WHERE NOT EXISTS (SELECT FROM {documents} c WHERE c.id = s.id) ORDER BY id"
        );
        let mut chunks = Chunks::of(self.transaction, self.transaction.bind(&select, &[]).await?);
        while let Some(rows) = chunks.next_raw().await? {
            for row in &rows {
                self.checker.surplus_entry(at, row.try_get(0)?);
            }
        }
        Ok(())
    }
}
