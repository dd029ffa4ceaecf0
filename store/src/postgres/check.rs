//! Checks a snapshot of a schema, with or without a running daemon: every document against its index columns and list
//! entries. Checking the pages is up to the server, with `pg_amcheck`.

use std::collections::{BTreeSet, HashMap};

use tokio_postgres::Transaction;

use super::{
    PostgresOptions, backup::count, errors::PgError, reader::PortalChunks, schema, schema_check, snapshot::Snapshot,
    statements::row_of,
};
use crate::{
    Collection, Result,
    check::{Checker, Findings, OnProgress, Progress},
    sql::{Entry, ListSpec, Spec, migration, quote},
};

type Outcome<T> = std::result::Result<T, PgError>;

/// Checks a schema. First its tables and indexes are compared with the recorded declarations; if they differ, nothing
/// else is checked. Then each document is checked against the declaration recorded for its collection. A member of
/// `collections` without a recorded declaration is a problem too.
pub(super) async fn check(
    options: &PostgresOptions,
    collections: &[Collection],
    progress: OnProgress<'_>,
) -> Result<Findings> {
    let checked = check_snapshot(options, collections, progress).await;
    checked.map_err(|failure| failure.into_store(&format!("checking the schema `{}`", options.schema)))
}

async fn check_snapshot(
    options: &PostgresOptions,
    collections: &[Collection],
    progress: OnProgress<'_>,
) -> Outcome<Findings> {
    let mut visit = Snapshot::connect(options).await?;
    let (transaction, _) = visit.begin_transaction().await?;
    let recorded = schema::recorded(transaction.client()).await?;
    let mut findings = Findings::default();
    for collection in collections.iter().filter(|collection| !recorded.contains_key(collection.name)) {
        findings.report_missing_collection(collection.name);
    }
    let mut specs = Vec::new();
    for (name, (declaration, version)) in &recorded {
        match Spec::recorded(name, if *version == migration::DOCUMENTS_ONLY { "" } else { declaration }) {
            Ok(spec) => specs.push(spec),
            Err(error) => findings.report(error.sentence().to_owned()),
        }
    }
    let problems = schema_check::problems(&transaction, &specs).await?;
    if !problems.is_empty() {
        problems.into_iter().for_each(|problem| findings.report(problem));
        findings.report(
            "the documents were not checked, because the tables and indexes are not those that OpenOrch created".into(),
        );
        return Ok(findings);
    }
    for spec in &specs {
        let checker = Checker::new(spec, &mut findings);
        CollectionCheck { transaction: &transaction, checker }.run(progress).await?;
    }
    Ok(findings)
}

/// The check of one collection.
struct CollectionCheck<'a> {
    transaction: &'a Transaction<'a>,
    checker: Checker<'a>,
}

impl CollectionCheck<'_> {
    async fn run(mut self, progress: OnProgress<'_>) -> Outcome<()> {
        let spec = self.checker.spec;
        let of = count(self.transaction, &spec.table).await?;
        let columns: String = spec.columns.iter().map(|column| format!(", {}", quote(&column.name))).collect();
        let select = format!("SELECT id, ver, doc{columns} FROM {}", spec.table);
        let mut chunks = PortalChunks::from_portal(self.transaction, self.transaction.bind(&select, &[]).await?);
        let mut done = 0;
        while let Some(rows) = chunks.next_raw().await? {
            self.check_documents(&rows).await?;
            done += rows.len() as u64;
            progress(Progress { task: spec.name, done, total: of });
        }
        for (at, list) in spec.lists.iter().enumerate() {
            self.check_orphans(at, list).await?;
        }
        Ok(())
    }

    async fn check_documents(&mut self, rows: &[tokio_postgres::Row]) -> Outcome<()> {
        let spec = self.checker.spec;
        // By list: the checked ids and the expected entries of each.
        let mut expected = vec![HashMap::new(); spec.lists.len()];
        for found in rows {
            let columns =
                (0..spec.columns.len()).map(|at| found.try_get(at + 3)).collect::<std::result::Result<Vec<_>, _>>()?;
            let row = row_of(found)?;
            let entries = self.checker.check_document(&row.id, &row.body, &columns);
            // A document that cannot be parsed is already reported and has no expected entries.
            for (of_list, entries) in expected.iter_mut().zip(entries) {
                of_list.insert(row.id.clone(), BTreeSet::from_iter(entries));
            }
        }
        for (at, (list, expected)) in spec.lists.iter().zip(&expected).enumerate() {
            self.check_entries(at, list, expected).await?;
        }
        Ok(())
    }

    /// Compares the entries of some documents in one list with the expected ones.
    async fn check_entries(
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
            wanted.difference(found).for_each(|_| self.checker.report_missing_entry(at, id));
            found.difference(wanted).for_each(|_| self.checker.report_surplus_entry(at, id));
        }
        Ok(())
    }

    /// Reports entries of missing documents.
    async fn check_orphans(&mut self, at: usize, list: &ListSpec<'_>) -> Outcome<()> {
        let (table, documents) = (&list.table, &self.checker.spec.table);
        let select = format!(
            "SELECT id FROM {table} s WHERE NOT EXISTS (SELECT FROM {documents} c WHERE c.id = s.id) ORDER BY id"
        );
        let mut chunks = PortalChunks::from_portal(self.transaction, self.transaction.bind(&select, &[]).await?);
        while let Some(rows) = chunks.next_raw().await? {
            for row in &rows {
                self.checker.report_surplus_entry(at, row.try_get(0)?);
            }
        }
        Ok(())
    }
}
