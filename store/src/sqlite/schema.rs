//! How collections become tables: what is declared, the SQL that follows from it, and the difference to what is
//! there. Names in SQL come from declarations in code alone.

use std::collections::{BTreeMap, BTreeSet};

use rusqlite::{Connection, params_from_iter, types::Value as SqlValue};
use serde_json::Value;

use super::errors::from_sqlite;
use crate::query::check_field;
use crate::{Collection, Result, StoreError, document, key};

/// Written beside each collection's declaration; another one means that its columns must be made again.
const SPEC_VERSION: i64 = 1;
/// So many documents at a time are read while a new column is filled.
const FILL_AT_ONCE: usize = 200;

/// A declared collection, checked, with its statements.
pub(super) struct Spec {
    pub(super) name: &'static str,
    pub(super) table: String,
    columns: Vec<Column>,
    indexes: Vec<IndexSpec>,
    declaration: String,
    pub(super) insert: String,
    pub(super) update: String,
    pub(super) delete: String,
    pub(super) version: String,
    pub(super) get: String,
}

/// A column that Rust fills from the document.
struct Column {
    name: String,
    content: Content,
}

enum Content {
    /// The key of a field: `f_…`, or `l_…` without regard to case.
    Key(Field),
    /// At the end of a unique index: empty, or the id where a field is missing, which exempts the document: `u_…`.
    Exemption(Vec<Field>),
}

#[derive(Clone, PartialEq)]
struct Field {
    path: &'static str,
    lower: bool,
}

struct IndexSpec {
    name: String,
    sql: String,
    /// The declared fields, and the column of exemptions of a unique index.
    unique: Option<(String, String)>,
}

impl Spec {
    /// Checks a declaration and makes its statements.
    pub(super) fn new(collection: &Collection) -> Result<Self> {
        check_name(collection.name)?;
        let name = collection.name;
        let table = format!("\"c_{name}\"");
        let mut columns: Vec<Column> = Vec::new();
        let mut indexes = Vec::new();
        let mut add = |column: Column| {
            let clash = columns.iter().find(|there| there.name.eq_ignore_ascii_case(&column.name));
            match clash {
                None => columns.push(column),
                Some(there) if there.name == column.name => {}
                Some(there) => {
                    return Err(StoreError::Internal(format!(
                        "fields of {name} differ in case alone: {} and {}",
                        there.name, column.name
                    )));
                }
            }
            Ok(())
        };
        for index in collection.indexes {
            let fields = index.fields.iter().map(|text| Field::new(text)).collect::<Result<Vec<_>>>()?;
            if fields.is_empty() {
                return Err(StoreError::Internal(format!("an index of {name} has no fields")));
            }
            let declared = index.fields.join(",");
            let mut names: Vec<String> = fields.iter().map(|field| quote(&field.column())).collect();
            for field in &fields {
                if !field.is_id() {
                    add(Column { name: field.column(), content: Content::Key(field.clone()) })?;
                }
            }
            let unique = if index.unique {
                let exemption = format!("u_{declared}");
                names.push(quote(&exemption));
                add(Column { name: exemption.clone(), content: Content::Exemption(fields) })?;
                Some((declared.clone(), exemption))
            } else {
                if !fields.last().is_some_and(Field::is_id) {
                    names.push("id".into());
                }
                None
            };
            // The name says all that the index is, so a changed declaration is another index.
            let kind = if index.unique { "ux" } else { "ix" };
            let index_name = format!("{kind} {name}({declared})");
            let unique_word = if index.unique { "UNIQUE " } else { "" };
            let sql = format!("CREATE {unique_word}INDEX {} ON {table}({})", quote(&index_name), names.join(", "));
            if !indexes.iter().any(|there: &IndexSpec| there.name == index_name) {
                indexes.push(IndexSpec { name: index_name, sql, unique });
            }
        }
        let declaration = indexes.iter().map(|index| index.name.as_str()).collect::<Vec<_>>().join(";");
        Ok(Self::with_statements(name, table, columns, indexes, declaration))
    }

    fn with_statements(
        name: &'static str,
        table: String,
        columns: Vec<Column>,
        indexes: Vec<IndexSpec>,
        declaration: String,
    ) -> Self {
        let names: Vec<String> = columns.iter().map(|column| quote(&column.name)).collect();
        let all: String = names.iter().map(|column| format!(", {column}")).collect();
        let marks = ", ?".repeat(names.len());
        let set: String = names.iter().enumerate().map(|(i, column)| format!(", {column} = ?{}", i + 4)).collect();
        let insert = format!("INSERT INTO {table}(id, ver, doc{all}) VALUES (?, ?, ?{marks})");
        Self {
            insert,
            update: format!("UPDATE {table} SET ver = ?2, doc = ?3{set} WHERE id = ?1"),
            delete: format!("DELETE FROM {table} WHERE id = ?"),
            version: format!("SELECT ver FROM {table} WHERE id = ?"),
            get: format!("SELECT id, ver, doc FROM {table} WHERE id = ?"),
            name,
            table,
            columns,
            indexes,
            declaration,
        }
    }

    /// What belongs in the columns for this document, in their order.
    pub(super) fn keys(&self, id: &str, document: &Value) -> Result<Vec<Vec<u8>>> {
        self.columns.iter().map(|column| column.content.of(id, document)).collect()
    }

    /// The column that holds the key of a field, quoted; none where the field is not declared.
    pub(super) fn column(&self, field: &str) -> Option<String> {
        self.key_column(field, false)
    }

    /// The column that holds the key of a field without regard to case.
    pub(super) fn lower_column(&self, field: &str) -> Option<String> {
        self.key_column(field, true)
    }

    fn key_column(&self, wanted: &str, case: bool) -> Option<String> {
        let is_it = |column: &&Column| match &column.content {
            Content::Key(field) => field.path == wanted && field.lower == case,
            Content::Exemption(_) => false,
        };
        self.columns.iter().find(is_it).map(|column| quote(&column.name))
    }

    /// Which declared index SQLite's message about a broken constraint means; none where it is the id.
    pub(super) fn broken_index(&self, message: &str) -> Option<&str> {
        let is_it = |index: &&IndexSpec| {
            let ends = |exemption| message.ends_with(&format!("c_{}.{exemption}", self.name));
            index.unique.as_ref().is_some_and(|(_, exemption)| ends(exemption))
        };
        self.indexes.iter().find(is_it).and_then(|index| index.unique.as_ref()).map(|(fields, _)| fields.as_str())
    }

    /// The answer to a broken unique index.
    pub(super) fn taken(&self, fields: &str) -> StoreError {
        StoreError::AlreadyExists(format!("another document of {} has the same {fields}", self.name))
    }
}

impl Field {
    fn new(text: &'static str) -> Result<Self> {
        let inner = text.strip_prefix("lower(").and_then(|rest| rest.strip_suffix(')'));
        let field = Self { path: inner.unwrap_or(text), lower: inner.is_some() };
        check_field(field.path)?;
        Ok(field)
    }

    fn is_id(&self) -> bool {
        self.path == "id" && !self.lower
    }

    fn column(&self) -> String {
        match self {
            _ if self.is_id() => "id".into(),
            Self { lower: true, path } => format!("l_{path}"),
            Self { lower: false, path } => format!("f_{path}"),
        }
    }

    fn key(&self, id: &str, document: &Value) -> Result<Vec<u8>> {
        match (self.path, self.lower) {
            ("id", false) => Ok(key::of_text(id)),
            ("id", true) => Ok(key::of_text(&id.to_lowercase())),
            (path, false) => key::of(document::field(document, path)),
            (path, true) => Ok(key::of_lower(document::field(document, path))),
        }
    }
}

impl Content {
    fn of(&self, id: &str, document: &Value) -> Result<Vec<u8>> {
        match self {
            Self::Key(field) => field.key(id, document),
            Self::Exemption(fields) => {
                for field in fields {
                    if field.key(id, document)? == key::NULL {
                        return Ok(id.as_bytes().to_vec());
                    }
                }
                Ok(Vec::new())
            }
        }
    }
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
        // Columns made by another version of the keys are made again.
        let keep = recorded.is_some_and(|(_, version)| *version == SPEC_VERSION);
        change(connection, spec, keep)?;
    }
    Ok(())
}

fn change(connection: &Connection, spec: &Spec, keep: bool) -> Result<()> {
    let failed = |error| from_sqlite(error, &format!("changing the indexes of {}", spec.name));
    let run = |sql: &str| connection.execute_batch(sql).map_err(failed);
    let names = |sql: &str| -> Result<BTreeSet<String>> {
        let mut statement = connection.prepare(sql).map_err(failed)?;
        let names = statement.query_map([format!("c_{}", spec.name)], |row| row.get(0)).map_err(failed)?;
        names.collect::<rusqlite::Result<_>>().map_err(failed)
    };
    let table = &spec.table;
    let columns: String =
        spec.columns.iter().map(|column| format!("{} {}, ", quote(&column.name), column.content.kind())).collect();
    run(&format!(
        "CREATE TABLE IF NOT EXISTS {table}(
           rid INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, ver INTEGER NOT NULL, {columns}doc TEXT NOT NULL)"
    ))?;

    let indexes = names("SELECT name FROM sqlite_schema WHERE type = 'index' AND tbl_name = ? AND sql IS NOT NULL")?;
    let wanted = |name: &str| keep && spec.indexes.iter().any(|index| index.name == name);
    for index in indexes.iter().filter(|index| !wanted(index)) {
        run(&format!("DROP INDEX {}", quote(index)))?;
    }
    let there = names("SELECT name FROM pragma_table_info(?)")?;
    let ours = |name: &str| ["f_", "l_", "u_"].iter().any(|start| name.starts_with(start));
    let declared = |name: &str| keep && spec.columns.iter().any(|column| column.name == name);
    for column in there.iter().filter(|column| ours(column) && !declared(column)) {
        run(&format!("ALTER TABLE {table} DROP COLUMN {}", quote(column)))?;
    }
    let missing: Vec<&Column> = spec.columns.iter().filter(|column| !keep || !there.contains(&column.name)).collect();
    for column in &missing {
        run(&format!("ALTER TABLE {table} ADD COLUMN {} {}", quote(&column.name), column.content.kind()))?;
    }
    fill(connection, spec, &missing)?;
    for index in spec.indexes.iter().filter(|index| !(keep && indexes.contains(&index.name))) {
        connection.execute_batch(&index.sql).map_err(|error| match (&index.unique, error.sqlite_error_code()) {
            (Some((fields, _)), Some(rusqlite::ErrorCode::ConstraintViolation)) => StoreError::AlreadyExists(format!(
                "documents of {} have the same {fields}, which was declared unique",
                spec.name
            )),
            _ => failed(error),
        })?;
    }
    connection
        .execute(
            "INSERT INTO _store_meta VALUES (?1, ?2, ?3) \
             ON CONFLICT(collection) DO UPDATE SET spec = ?2, version = ?3",
            (spec.name, &spec.declaration, SPEC_VERSION),
        )
        .map_err(failed)?;
    Ok(())
}

fn fill(connection: &Connection, spec: &Spec, columns: &[&Column]) -> Result<()> {
    if columns.is_empty() {
        return Ok(());
    }
    let failed = |error| from_sqlite(error, &format!("filling the indexes of {}", spec.name));
    let table = &spec.table;
    let set: Vec<String> = columns.iter().map(|column| format!("{} = ?", quote(&column.name))).collect();
    let mut update =
        connection.prepare(&format!("UPDATE {table} SET {} WHERE rid = ?", set.join(", "))).map_err(failed)?;
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
            update.execute(params_from_iter(values)).map_err(failed)?;
        }
    }
}

impl Content {
    fn kind(&self) -> &'static str {
        match self {
            Self::Key(_) => "BLOB NOT NULL DEFAULT x'10'",
            Self::Exemption(_) => "BLOB NOT NULL DEFAULT x''",
        }
    }
}

fn check_name(name: &str) -> Result<()> {
    let plain = name.starts_with(|c: char| c.is_ascii_alphabetic())
        && name.len() <= 48
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    if plain {
        return Ok(());
    }
    Err(StoreError::Internal(format!("`{name}` cannot be the name of a collection")))
}

/// Names that reach here have neither quotes nor NUL: they are made of declared names.
fn quote(name: &str) -> String {
    format!("\"{name}\"")
}
