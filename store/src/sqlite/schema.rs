//! Migrates the tables of SQLite to their declaration in one transaction.

use std::collections::BTreeSet;

use rusqlite::{Connection, Statement, params_from_iter, types::Value as SqlValue};

use super::errors::from_sqlite;
use crate::{
    Result, StoreError, document,
    sql::{
        Column, Dialect, Entry, ListSpec, Spec,
        migration::{self, BACKFILL_BATCH, ExistingTable, Migration, RecordedCollections, SPEC_VERSION},
        quote,
    },
};

/// The statements of one collection.
pub(super) struct Statements {
    pub(super) insert: String,
    pub(super) update: String,
    pub(super) delete: String,
    pub(super) version: String,
    pub(super) get: String,
    /// Selects the rowid and the document, for collections with lists.
    pub(super) rowid_and_doc: String,
    /// For each list: insert and delete of an entry.
    pub(super) lists: Vec<(String, String)>,
}

impl From<&Spec<'_>> for Statements {
    fn from(spec: &Spec<'_>) -> Self {
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
            rowid_and_doc: format!("SELECT rid, doc FROM {table} WHERE id = ?"),
            lists: spec.lists.iter().map(list_statements).collect(),
        }
    }
}

fn list_statements(list: &ListSpec<'_>) -> (String, String) {
    let (table, columns) = (&list.table, list.columns());
    let marks = "?, ".repeat(columns.len());
    let all = columns.join(", ");
    let same = columns.iter().map(|column| format!("{column} = ?")).collect::<Vec<_>>().join(" AND ");
    (
        format!("INSERT INTO {table}({all}, id, rid) VALUES ({marks}?, ?)"),
        format!("DELETE FROM {table} WHERE {same} AND id = ?"),
    )
}

/// Inserts or deletes one list entry.
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

/// The names of the recorded collections.
pub(super) fn collections(connection: &Connection) -> rusqlite::Result<Vec<String>> {
    let mut select = connection.prepare("SELECT collection FROM _store_meta ORDER BY collection")?;
    select.query_map([], |row| row.get(0))?.collect()
}

/// The recorded collections.
pub(super) fn recorded(connection: &Connection) -> Result<RecordedCollections> {
    let failed = |error| from_sqlite(error, "reading the declared collections");
    let mut statement = connection.prepare("SELECT collection, spec, version FROM _store_meta").map_err(failed)?;
    statement
        .query_map([], |row| Ok((row.get(0)?, (row.get(1)?, row.get(2)?))))
        .and_then(Iterator::collect)
        .map_err(failed)
}

/// Whether no migration is needed.
pub(super) fn is_as_declared<'a>(
    connection: &Connection,
    mut specs: impl Iterator<Item = &'a Spec<'a>>,
) -> Result<bool> {
    let recorded = recorded(connection)?;
    Ok(specs.all(|spec| migration::is_up_to_date(&recorded, spec)))
}

/// Migrates the tables to their declaration, within the caller's transaction.
pub(super) fn migrate<'a>(connection: &Connection, specs: impl Iterator<Item = &'a Spec<'a>>) -> Result<()> {
    let recorded = recorded(connection)?;
    for spec in specs {
        if !migration::is_up_to_date(&recorded, spec) {
            migration::check_name_case(&recorded, spec)?;
            TableMigration { connection, spec }.run(&recorded)?;
        }
    }
    Ok(())
}

/// The migration of the tables of one collection.
struct TableMigration<'a> {
    connection: &'a Connection,
    spec: &'a Spec<'a>,
}

impl TableMigration<'_> {
    fn run(&self, recorded: &RecordedCollections) -> Result<()> {
        let there = self.create_or_inspect()?;
        let change = Migration::new(self.spec, recorded, &there);
        let table = &self.spec.table;
        for index in &change.drop_indexes {
            self.execute(&format!("DROP INDEX {}", quote(index)))?;
        }
        for column in &change.drop_columns {
            self.execute(&format!("ALTER TABLE {table} DROP COLUMN {}", quote(column)))?;
        }
        for column in &change.add_columns {
            self.execute(&format!("ALTER TABLE {table} ADD COLUMN {}", column_definition(column)))?;
        }
        for list in &change.drop_lists {
            self.execute(&format!("DROP TABLE IF EXISTS {}", quote(list)))?;
        }
        for list in &change.add_lists {
            self.execute(&list.create())?;
        }
        if change.needs_backfill() {
            self.backfill(&change.add_columns, &change.add_lists)?;
        }
        for index in &change.add_indexes {
            self.connection.execute_batch(&index.create(table)).map_err(|error| match error.sqlite_error_code() {
                Some(rusqlite::ErrorCode::ConstraintViolation) if index.unique => {
                    migration::unique_violation_in_documents(self.spec, index)
                }
                _ => self.failed(error),
            })?;
        }
        self.connection
            .execute(
                "INSERT INTO _store_meta VALUES (?1, ?2, ?3) \
                 ON CONFLICT(collection) DO UPDATE SET spec = ?2, version = ?3",
                (self.spec.name, &self.spec.declaration, SPEC_VERSION),
            )
            .map(drop)
            .map_err(|error| self.failed(error))
    }

    /// Creates the table if it is missing, and returns its columns and indexes.
    fn create_or_inspect(&self) -> Result<ExistingTable> {
        let is_new = self.names("SELECT name FROM sqlite_schema WHERE type = 'table' AND name = ?")?.is_empty();
        if is_new {
            let columns: String =
                self.spec.columns.iter().map(|column| format!("{}, ", column_definition(column))).collect();
            self.execute(&format!(
                "CREATE TABLE {}(
                   rid INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, ver INTEGER NOT NULL, {columns}doc TEXT NOT NULL)",
                self.spec.table
            ))?;
        }
        Ok(ExistingTable {
            is_new,
            columns: self.names("SELECT name FROM pragma_table_info(?)")?,
            indexes: self
                .names("SELECT name FROM sqlite_schema WHERE type = 'index' AND tbl_name = ? AND sql IS NOT NULL")?,
        })
    }

    /// Fills new columns and lists from the documents.
    fn backfill(&self, columns: &[&Column<'_>], lists: &[&ListSpec<'_>]) -> Result<()> {
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
            .prepare(&format!("SELECT rid, id, doc FROM {table} WHERE rid > ? ORDER BY rid LIMIT {BACKFILL_BATCH}"))
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
                    values.push(SqlValue::Blob(column.content.key_of(id, &document)?));
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

/// A column definition, as in the statement that creates its table.
pub(super) fn column_definition(column: &Column<'_>) -> String {
    format!("{} {}", quote(&column.name), column.content.column_type(Dialect::Sqlite))
}
