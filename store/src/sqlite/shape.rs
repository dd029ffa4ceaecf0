//! Whether a database has the tables and indexes that its own records say, and nothing else: a trigger or a view that came
//! with a file would run with each write or read from then on, and an endless one for ever. Looked at before anything else
//! is read of a database, and by connections on which neither triggers nor views work ([`harden`]).

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use rusqlite::Connection;
use rusqlite::config::DbConfig;

use super::errors::from_file;
use super::folder::{LAYOUT, OWN_TABLES};
use super::schema::column_of;
use crate::archive;
use crate::sql::change::DOCUMENTS_ALONE;
use crate::sql::{Spec, shown};
use crate::{Result, StoreError};

/// Problems that are told one by one.
const MOST_PROBLEMS: usize = 20;
/// The tables in which SQLite keeps what `ANALYZE` counted, for its planner alone.
const STATISTICS: [&str; 2] = ["sqlite_stat1", "sqlite_stat4"];

/// How the tables begin in which Litestream, which replicates SQLite databases, keeps its place in the log. A table alone does
/// nothing.
const LITESTREAM: &str = "_litestream_";

/// Switches off what a database could do by itself: triggers, views, and functions with side effects in its schema.
pub(super) fn harden(connection: Connection) -> rusqlite::Result<Connection> {
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, false)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_VIEW, false)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false)?;
    Ok(connection)
}

/// The same, and pages are looked at more closely as they are read: for files from outside.
pub(crate) fn harden_for_file(connection: Connection) -> rusqlite::Result<Connection> {
    let connection = harden(connection)?;
    connection.execute_batch("PRAGMA cell_size_check = ON")?;
    Ok(connection)
}

/// What is in a database that its records do not say, or missing though they say it: a sentence for each.
///
/// A newer layout may have tables and indexes of its own; whatever else there is is told of it too.
pub(super) fn problems(connection: &Connection) -> rusqlite::Result<Vec<String>> {
    let layout: u32 = connection.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    let mut look = Look { objects: BTreeMap::new(), problems: Vec::new(), has_sections: false };
    let mut select = connection.prepare("SELECT type, name, tbl_name, coalesce(sql, '') FROM sqlite_schema")?;
    let mut rows = select.query([])?;
    while let Some(row) = rows.next()? {
        let (kind, name): (String, String) = (row.get(0)?, row.get(1)?);
        look.add(kind, name, Object { table: row.get(2)?, sql: row.get(3)? });
    }
    // Of one that has anything else, no table is read.
    if layout <= LAYOUT && look.problems.is_empty() {
        look.own_tables();
        if look.problems.is_empty() {
            look.sections(connection)?;
            look.recorded(connection)?;
            look.nothing_else();
        }
    }
    Ok(look.problems)
}

/// Refuses a database that has problems.
pub(crate) fn require(connection: &Connection, database: &Path) -> Result<()> {
    let found = problems(connection).map_err(|error| from_file(error, database))?;
    refuse(&found, database)
}

/// The refusal of a database with these problems.
pub(super) fn refuse(problems: &[String], database: &Path) -> Result<()> {
    if problems.is_empty() {
        return Ok(());
    }
    Err(StoreError::Corrupt(format!(
        "`{}` is not as OpenOrch made it: {}. Restore a backup that has none of this with `openorch restore`, or, if you made \
         the change yourself, undo it with the program you made it with. Nothing was changed",
        database.display(),
        problems.join("; ")
    )))
}

struct Object {
    table: String,
    /// Empty for the indexes that SQLite makes for a table.
    sql: String,
}

struct Look {
    /// Tables and indexes, by name; those are taken out that belong there.
    objects: BTreeMap<String, Object>,
    problems: Vec<String>,
    has_sections: bool,
}

impl Look {
    fn tell(&mut self, problem: String) {
        if self.problems.len() < MOST_PROBLEMS {
            self.problems.push(problem);
        }
    }

    fn add(&mut self, kind: String, name: String, object: Object) {
        let is_virtual = kind == "table" && !object.sql.starts_with("CREATE TABLE ");
        match &*kind {
            "table" if is_virtual => self.tell(format!("it has a virtual table `{}`", shown(&name))),
            "table" | "index" => _ = self.objects.insert(name, object),
            // A word of SQLite's, or whatever somebody wrote there.
            kind => self.tell(format!("it has a {} `{}`", shown(kind), shown(&name))),
        }
    }

    /// Takes out a table or index that belongs there, and tells it where it is not, or another.
    fn expect(&mut self, name: &str, table: &str, is_as_made: impl FnOnce(&str) -> bool) {
        match self.objects.remove(name) {
            None => self.tell(format!("`{}` is missing", shown(name))),
            Some(object) if object.table == table && is_as_made(&object.sql) => {}
            Some(_) => self.tell(format!("`{}` is defined in another way", shown(name))),
        }
    }

    fn expect_statement(&mut self, name: &str, table: &str, statement: &str) {
        self.expect(name, table, |sql| words(sql) == words(statement));
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

    /// Takes out what an archive has beside its documents. Whether its sections are known is looked at where it is restored.
    fn sections(&mut self, connection: &Connection) -> rusqlite::Result<()> {
        let names = if self.has_sections { archive::section_names(connection)? } else { Vec::new() };
        for (table, statement) in names.iter().filter_map(|name| archive::section_table(name)) {
            if self.objects.contains_key(&table) {
                self.expect_statement(&table, &table, &statement);
            }
        }
        Ok(())
    }

    /// Takes out what the collections that are recorded have.
    fn recorded(&mut self, connection: &Connection) -> rusqlite::Result<()> {
        let mut select = connection.prepare("SELECT collection, spec, version FROM _store_meta")?;
        let mut rows = select.query([])?;
        while let (true, Some(row)) = (self.problems.len() < MOST_PROBLEMS, rows.next()?) {
            let (name, declaration, version): (String, String, i64) = (row.get(0)?, row.get(1)?, row.get(2)?);
            // Without its columns, lists and indexes.
            let declaration = if version == DOCUMENTS_ALONE { "" } else { &declaration };
            match Spec::recorded(&name, declaration) {
                Ok(spec) => self.collection(&spec),
                Err(error) => self.tell(error.sentence().to_owned()),
            }
        }
        Ok(())
    }

    fn collection(&mut self, spec: &Spec<'_>) {
        let table = format!("c_{}", spec.name);
        let wanted: BTreeSet<String> = ["rid INTEGER PRIMARY KEY", "id TEXT NOT NULL UNIQUE", "ver INTEGER NOT NULL"]
            .into_iter()
            .map(str::to_owned)
            .chain(spec.columns.iter().map(column_of))
            .chain(["doc TEXT NOT NULL".to_owned()])
            .collect();
        // Columns come and go, so their order is another in each database.
        self.expect(&table, &table, |sql| columns(sql, &spec.table) == Some(wanted));
        for index in &spec.indexes {
            self.expect_statement(&index.name, &table, &index.create(&spec.table));
        }
        for list in &spec.lists {
            self.expect_statement(&list.name, &list.name, &list.create());
        }
    }

    /// Tells what is left.
    fn nothing_else(&mut self) {
        let left = std::mem::take(&mut self.objects);
        for (name, object) in left {
            let is_of_table = object.sql.is_empty() && name.starts_with("sqlite_autoindex_");
            let is_harmless = STATISTICS.contains(&&*name) || name.starts_with(LITESTREAM);
            if !is_of_table && !is_harmless {
                let what = if object.table == name { "a table" } else { "an index" };
                self.tell(format!("it has {what} `{}` that belongs to nothing", shown(&name)));
            }
        }
    }
}

/// The columns of a statement that makes a table, each as it is written there; none where it is not one of this table.
fn columns(sql: &str, table: &str) -> Option<BTreeSet<String>> {
    let sql = words(sql);
    let inner = sql.strip_prefix(&format!("CREATE TABLE {table}("))?.strip_suffix(')')?;
    let mut columns = BTreeSet::new();
    let (mut start, mut quote) = (0, None);
    for (at, letter) in inner.char_indices() {
        match (quote, letter) {
            (Some(open), _) if letter == open => quote = None,
            (None, '"' | '\'') => quote = Some(letter),
            (None, ',') => {
                // The same twice is nothing that was made here.
                columns.insert(inner[start..at].to_owned()).then_some(())?;
                start = at + 1;
            }
            _ => {}
        }
    }
    columns.insert(inner[start..].to_owned()).then_some(columns)
}

/// A statement without the white space that means nothing: one blank between words, none beside brackets and commas.
fn words(sql: &str) -> String {
    let mut words = String::with_capacity(sql.len());
    let (mut quote, mut blank) = (None, false);
    for letter in sql.chars() {
        match quote {
            Some(open) => {
                words.push(letter);
                if letter == open {
                    quote = None;
                }
            }
            None if letter.is_ascii_whitespace() => blank = true,
            None => {
                let is_tight = |letter: char| matches!(letter, '(' | ')' | ',');
                if blank && !is_tight(letter) && !words.ends_with(is_tight) && !words.is_empty() {
                    words.push(' ');
                }
                // A word follows a closing bracket with a blank or without one.
                if words.ends_with(')') && !is_tight(letter) {
                    words.push(' ');
                }
                blank = false;
                words.push(letter);
                quote = matches!(letter, '"' | '\'').then_some(letter);
            }
        }
    }
    words
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
            assert_eq!(words(text), want);
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
