//! Verifies that a database has exactly the tables and indexes of its recorded declarations: a trigger or view brought
//! in by a file would run with every read or write from then on, possibly forever. Checked before anything else is read
//! from a database, and on connections with triggers and views disabled ([`harden`]).

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use rusqlite::{Connection, config::DbConfig};

use super::{
    data_dir::{LAYOUT, OWN_TABLES},
    errors::from_file,
    schema::column_definition,
};
use crate::{
    Result, StoreError, archive,
    sql::{Spec, escape_name, migration::DOCUMENTS_ONLY},
};

/// The maximum number of problems reported.
const MAX_PROBLEMS: usize = 20;
/// The statistics tables of `ANALYZE`, used by SQLite's planner only.
const STATISTICS: [&str; 2] = ["sqlite_stat1", "sqlite_stat4"];

/// The name prefix of the tables in which Litestream, a replication tool for SQLite, stores its position. A table alone
/// is harmless.
const LITESTREAM: &str = "_litestream_";

/// Disables active content of a database: triggers, views, and functions with side effects in its schema.
pub(super) fn harden(connection: Connection) -> rusqlite::Result<Connection> {
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, false)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_VIEW, false)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false)?;
    Ok(connection)
}

/// The same, with stricter checks of pages as they are read: for untrusted files.
pub(crate) fn harden_for_file(connection: Connection) -> rusqlite::Result<Connection> {
    let connection = harden(connection)?;
    connection.execute_batch("PRAGMA cell_size_check = ON")?;
    Ok(connection)
}

/// The unexpected and missing objects of a database, one sentence each.
///
/// A newer layout may have more tables and indexes; everything else is reported for it too.
pub(super) fn problems(connection: &Connection) -> rusqlite::Result<Vec<String>> {
    let layout: u32 = connection.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    let mut inspector = SchemaInspector { objects: BTreeMap::new(), problems: Vec::new(), has_sections: false };
    let mut select = connection.prepare("SELECT type, name, tbl_name, coalesce(sql, '') FROM sqlite_schema")?;
    let mut rows = select.query([])?;
    while let Some(row) = rows.next()? {
        let (kind, name): (String, String) = (row.get(0)?, row.get(1)?);
        inspector.add(kind, name, Object { table: row.get(2)?, sql: row.get(3)? });
    }
    // If there are unexpected objects, no table is read.
    if layout <= LAYOUT && inspector.problems.is_empty() {
        inspector.own_tables();
        if inspector.problems.is_empty() {
            inspector.sections(connection)?;
            inspector.recorded(connection)?;
            inspector.report_unexpected();
        }
    }
    Ok(inspector.problems)
}

/// Refuses a database with problems.
pub(crate) fn require(connection: &Connection, database: &Path) -> Result<()> {
    let found = problems(connection).map_err(|error| from_file(error, database))?;
    refuse(&found, database)
}

/// The error for a database with these problems.
pub(super) fn refuse(problems: &[String], database: &Path) -> Result<()> {
    if problems.is_empty() {
        return Ok(());
    }
    Err(StoreError::Corrupt(format!(
        "`{}` does not have the tables and indexes that OpenOrch created: {}. Restore a backup without these changes \
         with `openorch restore`, or, if you made them yourself, revert them with the program you used. Nothing was \
         changed",
        database.display(),
        problems.join("; ")
    )))
}

struct Object {
    table: String,
    /// Empty for the indexes that SQLite creates automatically.
    sql: String,
}

struct SchemaInspector {
    /// The tables and indexes by name; expected ones are removed.
    objects: BTreeMap<String, Object>,
    problems: Vec<String>,
    has_sections: bool,
}

impl SchemaInspector {
    fn report(&mut self, problem: String) {
        if self.problems.len() < MAX_PROBLEMS {
            self.problems.push(problem);
        }
    }

    fn add(&mut self, kind: String, name: String, object: Object) {
        let is_virtual = kind == "table" && !object.sql.starts_with("CREATE TABLE ");
        match &*kind {
            "table" if is_virtual => self.report(format!("it has a virtual table `{}`", escape_name(&name))),
            "table" | "index" => _ = self.objects.insert(name, object),
            // A type of SQLite's, or arbitrary text in a manipulated file.
            kind => self.report(format!("it has a {} `{}`", escape_name(kind), escape_name(&name))),
        }
    }

    /// Removes an expected table or index, and reports it if it is missing or different.
    fn expect(&mut self, name: &str, table: &str, is_as_made: impl FnOnce(&str) -> bool) {
        match self.objects.remove(name) {
            None => self.report(format!("`{}` is missing", escape_name(name))),
            Some(object) if object.table == table && is_as_made(&object.sql) => {}
            Some(_) => self.report(format!("`{}` is defined in another way", escape_name(name))),
        }
    }

    fn expect_statement(&mut self, name: &str, table: &str, statement: &str) {
        self.expect(name, table, |sql| normalize(sql) == normalize(statement));
    }

    fn own_tables(&mut self) {
        for (name, statement) in OWN_TABLES {
            self.expect_statement(name, name, statement);
        }
        for (name, statement) in [archive::NOTES, archive::SECTIONS] {
            if self.objects.contains_key(name) {
                self.has_sections |= name == archive::SECTIONS.0;
                self.expect_statement(name, name, statement);
            }
        }
    }

    /// Removes the expected tables of an archive. Whether its sections are known is checked by the restore.
    fn sections(&mut self, connection: &Connection) -> rusqlite::Result<()> {
        let names = if self.has_sections { archive::section_names(connection)? } else { Vec::new() };
        for (table, statement) in names.iter().filter_map(|name| archive::section_table(name)) {
            if self.objects.contains_key(&table) {
                self.expect_statement(&table, &table, &statement);
            }
        }
        Ok(())
    }

    /// Removes the expected tables and indexes of the recorded collections.
    fn recorded(&mut self, connection: &Connection) -> rusqlite::Result<()> {
        let mut select = connection.prepare("SELECT collection, spec, version FROM _store_meta")?;
        let mut rows = select.query([])?;
        while let (true, Some(row)) = (self.problems.len() < MAX_PROBLEMS, rows.next()?) {
            let (name, declaration, version): (String, String, i64) = (row.get(0)?, row.get(1)?, row.get(2)?);
            // It has no columns, lists and indexes.
            let declaration = if version == DOCUMENTS_ONLY { "" } else { &declaration };
            match Spec::recorded(&name, declaration) {
                Ok(spec) => self.collection(&spec),
                Err(error) => self.report(error.sentence().to_owned()),
            }
        }
        Ok(())
    }

    fn collection(&mut self, spec: &Spec<'_>) {
        let table = format!("c_{}", spec.name);
        let wanted: BTreeSet<String> = ["rid INTEGER PRIMARY KEY", "id TEXT NOT NULL UNIQUE", "ver INTEGER NOT NULL"]
            .into_iter()
            .map(str::to_owned)
            .chain(spec.columns.iter().map(column_definition))
            .chain(["doc TEXT NOT NULL".to_owned()])
            .collect();
        // Migrations add and drop columns, so their order differs between databases.
        self.expect(&table, &table, |sql| columns(sql, &spec.table) == Some(wanted));
        for index in &spec.indexes {
            self.expect_statement(&index.name, &table, &index.create(&spec.table));
        }
        for list in &spec.lists {
            self.expect_statement(&list.name, &list.name, &list.create());
        }
    }

    /// Reports the remaining objects.
    fn report_unexpected(&mut self) {
        let left = std::mem::take(&mut self.objects);
        for (name, object) in left {
            let is_of_table = object.sql.is_empty() && name.starts_with("sqlite_autoindex_");
            let is_harmless = STATISTICS.contains(&&*name) || name.starts_with(LITESTREAM);
            if !is_of_table && !is_harmless {
                let what = if object.table == name { "a table" } else { "an index" };
                self.report(format!("it has {what} `{}` that OpenOrch did not create", escape_name(&name)));
            }
        }
    }
}

/// The column definitions of a CREATE TABLE statement; `None` if it is for another table.
fn columns(sql: &str, table: &str) -> Option<BTreeSet<String>> {
    let sql = normalize(sql);
    let inner = sql.strip_prefix(&format!("CREATE TABLE {table}("))?.strip_suffix(')')?;
    let mut columns = BTreeSet::new();
    let (mut start, mut quote) = (0, None);
    for (at, letter) in inner.char_indices() {
        match (quote, letter) {
            (Some(open), _) if letter == open => quote = None,
            (None, '"' | '\'') => quote = Some(letter),
            (None, ',') => {
                // A duplicate column is not ours.
                columns.insert(inner[start..at].to_owned()).then_some(())?;
                start = at + 1;
            }
            _ => {}
        }
    }
    columns.insert(inner[start..].to_owned()).then_some(columns)
}

/// Normalizes the white space of a statement: one space between words, none beside brackets and commas.
fn normalize(sql: &str) -> String {
    let mut normalized = String::with_capacity(sql.len());
    let (mut quote, mut blank) = (None, false);
    for letter in sql.chars() {
        match quote {
            Some(open) => {
                normalized.push(letter);
                if letter == open {
                    quote = None;
                }
            }
            None if letter.is_ascii_whitespace() => blank = true,
            None => {
                let is_tight = |letter: char| matches!(letter, '(' | ')' | ',');
                if blank && !is_tight(letter) && !normalized.ends_with(is_tight) && !normalized.is_empty() {
                    normalized.push(' ');
                }
                // A word after a closing bracket may have a space before it or not.
                if normalized.ends_with(')') && !is_tight(letter) {
                    normalized.push(' ');
                }
                blank = false;
                normalized.push(letter);
                quote = matches!(letter, '"' | '\'').then_some(letter);
            }
        }
    }
    normalized
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn white_space_outside_of_names_means_nothing() {
        for (text, want) in [
            ("CREATE TABLE a ( b  TEXT,\n  c )\n WITHOUT ROWID", "CREATE TABLE a(b TEXT,c) WITHOUT ROWID"),
            ("CREATE INDEX \"ix a ( b )\" ON x(\"f_a b\" , id)", "CREATE INDEX \"ix a ( b )\" ON x(\"f_a b\",id)"),
            ("b DEFAULT x'  '", "b DEFAULT x'  '"),
            ("a(b)c", "a(b) c"),
        ] {
            assert_eq!(normalize(text), want);
        }
    }

    #[test]
    fn columns_are_told_apart_by_commas_outside_of_names() {
        let found = columns("CREATE TABLE \"c_x\"(a INTEGER, \"u_b,c\" BLOB DEFAULT x'2c')", "\"c_x\"").unwrap();
        let want = ["a INTEGER", "\"u_b,c\" BLOB DEFAULT x'2c'"].map(str::to_owned);
        assert_eq!(found, BTreeSet::from(want));
        for other in ["CREATE TABLE \"c_y\"(a)", "CREATE TABLE \"c_x\"(a) STRICT", "CREATE TABLE \"c_x\"(a, a)"] {
            assert_eq!(columns(other, "\"c_x\""), None);
        }
    }
}
