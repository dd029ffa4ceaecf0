//! Checks a snapshot of a database, with or without a running daemon: its pages by SQLite's integrity check, then every
//! document against its index columns and list entries.

use std::path::Path;

use rusqlite::{Connection, Row, params_from_iter, types::Value as SqlValue};

use super::{
    clean_shutdown,
    data_dir::{DATABASE, inspect, open_alongside},
    errors::from_sqlite,
    schema,
};
use crate::{
    Collection, Result, StoreError,
    check::{Checker, Findings, OnProgress, Progress},
    sql::{ListSpec, Spec, migration::DOCUMENTS_ONLY, quote},
};

/// The number of documents between two progress reports.
const DOCUMENTS_PER_REPORT: u64 = 1000;
/// The maximum number of page faults reported.
const MAX_FAULTS: u32 = 20;

/// Checks the database of a data directory. First its tables and indexes are compared with the recorded declarations;
/// if they differ, nothing else is checked. Then each document is checked against the declaration recorded for its
/// collection. A member of `collections` without a recorded declaration is a problem too.
///
/// `NotFound` if there is no database; an error too if it cannot be read at all.
pub(super) fn check(data_dir: &Path, collections: &[Collection], progress: OnProgress<'_>) -> Result<Findings> {
    let database = data_dir.join(DATABASE);
    let Some((identity, problems)) = inspect(&database)? else {
        return Err(StoreError::NotFound(format!("there is no data in `{}`", data_dir.display())));
    };
    let lacks_writes = clean_shutdown::require(&identity, &database).err();
    let failed = |error| from_sqlite(error, &format!("checking `{}`", database.display()));
    let connection = open_alongside(&database).map_err(failed)?;
    connection.execute_batch("PRAGMA query_only = ON; BEGIN").map_err(failed)?;
    let mut findings = Findings { missing_writes: lacks_writes.map(|error| error.to_string()), ..Findings::default() };
    if !problems.is_empty() {
        problems.into_iter().for_each(|problem| findings.report(problem));
        findings.report(
            "the documents were not checked, because the tables and indexes are not those that OpenOrch created".into(),
        );
        return Ok(findings);
    }
    progress(Progress { task: "the pages of the database", done: 0, total: 1 });
    check_pages(&connection, &mut findings).map_err(failed)?;
    let recorded = schema::recorded(&connection)?;
    for collection in collections.iter().filter(|collection| !recorded.contains_key(collection.name)) {
        findings.report_missing_collection(collection.name);
    }
    for (name, (declaration, version)) in &recorded {
        let declaration = if *version == DOCUMENTS_ONLY { "" } else { declaration };
        match Spec::recorded(name, declaration) {
            Ok(spec) => check_documents(&connection, Checker::new(&spec, &mut findings), progress).map_err(failed)?,
            // For example, of a newer layout.
            Err(error) => findings.report(error.sentence().to_owned()),
        }
    }
    Ok(findings)
}

fn check_pages(connection: &Connection, findings: &mut Findings) -> rusqlite::Result<()> {
    let mut check = connection.prepare(&format!("PRAGMA integrity_check({MAX_FAULTS})"))?;
    let faults = check.query_map([], |row| row.get::<_, String>(0))?;
    for fault in faults {
        match fault?.as_str() {
            "ok" => {}
            fault => findings.report(format!("the database file is damaged: {fault}")),
        }
    }
    Ok(())
}

fn check_documents(
    connection: &Connection,
    mut checker: Checker<'_>,
    progress: OnProgress<'_>,
) -> rusqlite::Result<()> {
    let spec = checker.spec;
    let columns: String = spec.columns.iter().map(|column| format!(", {}", quote(&column.name))).collect();
    let mut select = connection.prepare(&format!("SELECT rid, id, doc{columns} FROM {} ORDER BY rid", spec.table))?;
    let mut lists = Vec::new();
    for list in &spec.lists {
        lists.push(connection.prepare(&has_entry(list))?);
    }
    let count =
        |table: &str| connection.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get::<_, i64>(0));
    let of = u64::try_from(count(&spec.table)?).unwrap_or_default();
    let mut rows = select.query([])?;
    let mut done = 0;
    while let Some(row) = rows.next()? {
        if done % DOCUMENTS_PER_REPORT == 0 {
            progress(Progress { task: spec.name, done, total: of });
        }
        done += 1;
        let (rid, id, doc): (i64, String, String) = (row.get(0)?, row.get(1)?, row.get(2)?);
        let expected = checker.check_document(&id, &doc, &keys(row, spec.columns.len())?);
        for (list, entries) in expected.iter().enumerate() {
            for entry in entries {
                let keys = entry.iter().map(|key| SqlValue::Blob(key.clone()));
                let whole = keys.chain([SqlValue::Text(id.clone()), SqlValue::Integer(rid)]);
                if !lists[list].exists(params_from_iter(whole))? {
                    checker.report_missing_entry(list, &id);
                }
            }
        }
    }
    for (at, list) in spec.lists.iter().enumerate() {
        checker.check_entry_count(at, u64::try_from(count(&list.table)?).unwrap_or_default());
    }
    Ok(())
}

fn keys(row: &Row<'_>, columns: usize) -> rusqlite::Result<Vec<Vec<u8>>> {
    (0..columns).map(|at| row.get(at + 3)).collect()
}

fn has_entry(list: &ListSpec<'_>) -> String {
    let columns: String = list.columns().iter().map(|column| format!("{column} = ? AND ")).collect();
    format!("SELECT 1 FROM {} WHERE {columns}id = ? AND rid = ?", list.table)
}
