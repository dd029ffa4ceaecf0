//! Brings the tables of SQLite to what is declared: the difference to what is there, in one transaction.

use std::collections::{BTreeMap, BTreeSet};

use rusqlite::{Connection, Statement, params_from_iter, types::Value as SqlValue};

use super::errors::from_sqlite;
use crate::sql::{Column, Dialect, Entry, ListSpec, Spec, list_table, quote};
use crate::{Result, StoreError, document};

/// Written beside each collection's declaration; another one means that its columns must be made again.
const SPEC_VERSION: i64 = 1;
/// So many documents at a time are read while a new column is filled.
const FILL_AT_ONCE: usize = 200;

/// The statements of one collection.
pub(super) struct Statements {
    pub(super) insert: String,
    pub(super) update: String,
    pub(super) delete: String,
    pub(super) version: String,
    pub(super) get: String,
    /// The row number and the document, for those that have lists.
    pub(super) old: String,
    /// For each list: adding and removing an entry.
    pub(super) lists: Vec<(String, String)>,
}

impl Statements {
    pub(super) fn new(spec: &Spec) -> Self {
        let table = &spec.table;
        let names: Vec<String> = spec.columns.iter().map(|column| quote(&column.name)).collect();
        let all: String = names.iter().map(|column| format!(", {column}")).collect();
        let marks = ", ?".repeat(names.len());
        let set: String = names.iter().enumerate().map(|(i, column)| format!(", {column} = ?{}", i + 4)).collect();
        Self {
            insert: format!("INSERT INTO {table}(id, ver, doc{all}) VALUES (?, ?, ?{marks})"),
            update: format!("UPDATE {table} SET ver = ?2, doc = ?3{set} WHERE id = ?1"),
            delete: format!("DELETE FROM {table} WHERE id = ?"),
            version: format!("SELECT ver FROM {table} WHERE id = ?"),
            get: format!("SELECT id, ver, doc FROM {table} WHERE id = ?"),
            old: format!("SELECT rid, doc FROM {table} WHERE id = ?"),
            lists: spec.lists.iter().map(list_statements).collect(),
        }
    }
}

fn list_statements(list: &ListSpec) -> (String, String) {
    let (table, columns) = (&list.table, list.columns());
    let marks = "?, ".repeat(columns.len());
    let all = columns.join(", ");
    let same = columns.iter().map(|column| format!("{column} = ?")).collect::<Vec<_>>().join(" AND ");
    (
        format!("INSERT INTO {table}({all}, id, rid) VALUES ({marks}?, ?)"),
        format!("DELETE FROM {table} WHERE {same} AND id = ?"),
    )
}

/// Adds or removes one entry.
pub(super) fn change_entry(
    statement: &mut Statement<'_>,
    entry: &Entry,
    id: &str,
    rid: Option<i64>,
) -> rusqlite::Result<usize> {
    let keys = entry.iter().map(|key| SqlValue::Blob(key.clone()));
    let end = std::iter::once(SqlValue::Text(id.to_owned())).chain(rid.map(SqlValue::Integer));
    statement.execute(params_from_iter(keys.chain(end)))
}

/// Brings the database to what is declared, within the caller's transaction.
pub(super) fn bring_up<'a>(connection: &Connection, specs: impl Iterator<Item = &'a Spec>) -> Result<()> {
    let failed = |error| from_sqlite(error, "reading the declared collections");
    let mut statement = connection.prepare("SELECT collection, spec, version FROM _store_meta").map_err(failed)?;
    let known: BTreeMap<String, (String, i64)> = statement
        .query_map([], |row| Ok((row.get(0)?, (row.get(1)?, row.get(2)?))))
        .and_then(Iterator::collect)
        .map_err(failed)?;
    for spec in specs {
        let recorded = known.get(spec.name);
        if recorded.is_some_and(|(declaration, version)| *declaration == spec.declaration && *version == SPEC_VERSION) {
            continue;
        }
        if let Some(other) = known.keys().find(|other| other.eq_ignore_ascii_case(spec.name) && *other != spec.name) {
            return Err(StoreError::Internal(format!("collections differ in case alone: {other} and {}", spec.name)));
        }
        let declared = recorded.map_or("", |(declaration, _)| declaration.as_str());
        let change = Change {
            connection,
            spec,
            // Columns made by another version of the keys are made again.
            keep: recorded.is_some_and(|(_, version)| *version == SPEC_VERSION),
            lists: declared.split(';').filter_map(list_table).collect(),
        };
        change.run()?;
    }
    Ok(())
}

/// One collection on its way to its declaration.
struct Change<'a> {
    connection: &'a Connection,
    spec: &'a Spec,
    /// Whether what is there can stay.
    keep: bool,
    /// The tables of lists that are there.
    lists: BTreeSet<String>,
}

impl Change<'_> {
    fn run(&self) -> Result<()> {
        let (table, spec) = (&self.spec.table, self.spec);
        let columns = spec.columns.iter();
        let columns: String = columns.map(|column| format!("{}, ", self.column(column))).collect();
        self.execute(&format!(
            "CREATE TABLE IF NOT EXISTS {table}(
               rid INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, ver INTEGER NOT NULL, {columns}doc TEXT NOT NULL)"
        ))?;
        let indexes =
            self.names("SELECT name FROM sqlite_schema WHERE type = 'index' AND tbl_name = ? AND sql IS NOT NULL")?;
        let wanted = |name: &str| self.keep && spec.indexes.iter().any(|index| index.name == name);
        for index in indexes.iter().filter(|index| !wanted(index)) {
            self.execute(&format!("DROP INDEX {}", quote(index)))?;
        }
        let missing = self.change_columns()?;
        let lists = self.change_lists()?;
        self.fill(&missing, &lists)?;
        for index in spec.indexes.iter().filter(|index| !(self.keep && indexes.contains(&index.name))) {
            self.connection.execute_batch(&index.create(table)).map_err(|error| match error.sqlite_error_code() {
                Some(rusqlite::ErrorCode::ConstraintViolation) if index.unique => StoreError::AlreadyExists(format!(
                    "documents of {} have the same {}, which was declared unique",
                    spec.name, index.declared
                )),
                _ => self.failed(error),
            })?;
        }
        self.connection
            .execute(
                "INSERT INTO _store_meta VALUES (?1, ?2, ?3) \
                 ON CONFLICT(collection) DO UPDATE SET spec = ?2, version = ?3",
                (spec.name, &spec.declaration, SPEC_VERSION),
            )
            .map(drop)
            .map_err(|error| self.failed(error))
    }

    /// Drops the columns that are not declared and adds those that are not there; answers the latter.
    fn change_columns(&self) -> Result<Vec<&Column>> {
        let there = self.names("SELECT name FROM pragma_table_info(?)")?;
        let ours = |name: &str| ["f_", "l_", "u_"].iter().any(|start| name.starts_with(start));
        let declared = |name: &str| self.keep && self.spec.columns.iter().any(|column| column.name == name);
        for column in there.iter().filter(|column| ours(column) && !declared(column)) {
            self.execute(&format!("ALTER TABLE {} DROP COLUMN {}", self.spec.table, quote(column)))?;
        }
        let is_missing = |column: &&Column| !self.keep || !there.contains(&column.name);
        let missing: Vec<&Column> = self.spec.columns.iter().filter(is_missing).collect();
        for column in &missing {
            self.execute(&format!("ALTER TABLE {} ADD COLUMN {}", self.spec.table, self.column(column)))?;
        }
        Ok(missing)
    }

    /// The same with the tables of lists.
    fn change_lists(&self) -> Result<Vec<&ListSpec>> {
        let declared = |name: &str| self.keep && self.spec.lists.iter().any(|list| list.name == name);
        for name in self.lists.iter().filter(|name| !declared(name)) {
            self.execute(&format!("DROP TABLE IF EXISTS {}", quote(name)))?;
        }
        let is_missing = |list: &&ListSpec| !self.keep || !self.lists.contains(&list.name);
        let missing: Vec<&ListSpec> = self.spec.lists.iter().filter(is_missing).collect();
        for list in &missing {
            let columns = list.columns();
            let typed: String = columns.iter().map(|column| format!("{column} BLOB NOT NULL, ")).collect();
            self.execute(&format!(
                "CREATE TABLE {}({typed}id TEXT NOT NULL, rid INTEGER NOT NULL, PRIMARY KEY({}, id)) WITHOUT ROWID",
                list.table,
                columns.join(", ")
            ))?;
        }
        Ok(missing)
    }

    /// Fills new columns and lists from the documents.
    fn fill(&self, columns: &[&Column], lists: &[&ListSpec]) -> Result<()> {
        if columns.is_empty() && lists.is_empty() {
            return Ok(());
        }
        let (connection, spec) = (self.connection, self.spec);
        let failed = |error| from_sqlite(error, &format!("filling the indexes of {}", spec.name));
        let set: Vec<String> = columns.iter().map(|column| format!("{} = ?", quote(&column.name))).collect();
        let update = format!("UPDATE {} SET {} WHERE rid = ?", spec.table, set.join(", "));
        let mut update = match columns {
            [] => None,
            _ => Some(connection.prepare(&update).map_err(failed)?),
        };
        let mut adding = Vec::new();
        for list in lists {
            adding.push((*list, connection.prepare(&list_statements(list).0).map_err(failed)?));
        }
        let table = &spec.table;
        let mut select = connection
            .prepare(&format!("SELECT rid, id, doc FROM {table} WHERE rid > ? ORDER BY rid LIMIT {FILL_AT_ONCE}"))
            .map_err(failed)?;
        let mut last = i64::MIN;
        loop {
            let rows: Vec<(i64, String, String)> = select
                .query_map([last], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
                .and_then(Iterator::collect)
                .map_err(failed)?;
            let Some((rid, ..)) = rows.last() else { return Ok(()) };
            last = *rid;
            for (rid, id, doc) in &rows {
                let document = document::parse_stored(doc, spec.name, id)?;
                let mut values = Vec::with_capacity(columns.len() + 1);
                for column in columns {
                    values.push(SqlValue::Blob(column.content.of(id, &document)?));
                }
                values.push(SqlValue::Integer(*rid));
                if let Some(update) = &mut update {
                    update.execute(params_from_iter(values)).map_err(failed)?;
                }
                for (list, add) in &mut adding {
                    for entry in spec.entries(list, id, &document)? {
                        change_entry(add, &entry, id, Some(*rid)).map_err(failed)?;
                    }
                }
            }
        }
    }

    fn column(&self, column: &Column) -> String {
        format!("{} {}", quote(&column.name), column.content.kind(Dialect::Sqlite))
    }

    fn names(&self, sql: &str) -> Result<BTreeSet<String>> {
        let mut statement = self.connection.prepare(sql).map_err(|error| self.failed(error))?;
        let names = statement.query_map([format!("c_{}", self.spec.name)], |row| row.get(0));
        names.and_then(Iterator::collect).map_err(|error| self.failed(error))
    }

    fn execute(&self, sql: &str) -> Result<()> {
        self.connection.execute_batch(sql).map_err(|error| self.failed(error))
    }

    fn failed(&self, error: rusqlite::Error) -> StoreError {
        from_sqlite(error, &format!("changing the indexes of {}", self.spec.name))
    }
}
