//! Translates filters into SQL conditions as far as index columns exist; the rest is evaluated in Rust.

use serde_json::Value;

use super::{Dialect, ListSpec, Spec};
use crate::{Cursor, Direction, Filter, Order, Result, filter_eval::Matcher, key};

/// A value to bind.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Bind {
    /// The key of a value.
    Key(Vec<u8>),
    /// An id.
    Text(String),
    Integer(i64),
    /// Several keys as one array value; PostgreSQL only.
    Keys(Vec<Vec<u8>>),
    /// Several ids as one array value; PostgreSQL only.
    Texts(Vec<String>),
}

/// A conjunction: SQL conditions with their values, and the residual filters for Rust.
pub(crate) struct Conditions {
    dialect: Dialect,
    sql: Vec<String>,
    pub(crate) values: Vec<Bind>,
    pub(crate) residual: Matcher,
    /// Whether a list of values is too long for the statement to be cached.
    pub(crate) has_long_list: bool,
}

/// The maximum length of a value list in a cached prepared statement.
const MAX_CACHED_VALUES: usize = 64;

impl Conditions {
    pub(crate) fn new(dialect: Dialect, spec: &Spec<'_>, filters: &[Filter]) -> Result<Self> {
        let mut this =
            Self { dialect, sql: Vec::new(), values: Vec::new(), residual: Matcher::default(), has_long_list: false };
        for filter in filters {
            if is_declared(spec, filter) {
                let sql = this.condition(spec, filter)?;
                this.sql.push(sql);
            } else {
                this.residual.add(filter)?;
            }
        }
        Ok(this)
    }

    /// The SQL condition of a filter whose fields are all indexed.
    fn condition(&mut self, spec: &Spec<'_>, filter: &Filter) -> Result<String> {
        Ok(match filter {
            Filter::Equals { field, value } => {
                let bind = bind_for(field, value)?;
                format!("{} = {}", column(spec, field), self.bind_value(bind))
            }
            Filter::IsIn { field, values } => {
                let binds = values.iter().map(|value| bind_for(field, value)).collect::<Result<Vec<_>>>()?;
                self.is_one_of(&column(spec, field), binds)
            }
            Filter::Range { field, from, to } => {
                let mut parts = Vec::new();
                for (sign, end) in [(">=", from), ("<", to)] {
                    if let Some(value) = end {
                        let bind = bind_for(field, value)?;
                        parts.push(format!("{} {sign} {}", column(spec, field), self.bind_value(bind)));
                    }
                }
                if parts.is_empty() { "1 = 1".into() } else { parts.join(" AND ") }
            }
            Filter::StartsWith { field, prefix } => {
                let from = key::encode_text(&prefix.to_lowercase());
                let to = key::prefix_upper_bound(from.clone());
                let column = lower_column(spec, field);
                let from = self.bind_value(Bind::Key(from));
                format!("{column} >= {from} AND {column} < {}", self.bind_value(Bind::Key(to)))
            }
            Filter::Contains { field, text } => {
                let column = lower_column(spec, field);
                let part = self.bind_value(Bind::Key(text.to_lowercase().into_bytes()));
                // In this column, anything but text has the key of null, which is below all text keys. The first byte
                // of a key is its type.
                let texts = self.dialect.bytes_literal(&key::encode_text(""));
                match self.dialect {
                    Dialect::Sqlite => format!("{column} >= {texts} AND instr(substr({column}, 2), {part}) > 0"),
                    Dialect::Postgres => format!("{column} >= {texts} AND position({part} in substr({column}, 2)) > 0"),
                }
            }
            Filter::Intersects { field, values } => {
                let keys = values.iter().map(|value| key::encode(value).map(Bind::Key)).collect::<Result<Vec<_>>>()?;
                let table = indexed_list(spec, field).map_or("", |list| &list.table);
                format!("id IN (SELECT id FROM {table} WHERE {})", self.is_one_of("val", keys))
            }
            Filter::Any(parts) => {
                let parts = parts.iter().map(|part| Ok(format!("({})", self.condition(spec, part)?)));
                let parts = parts.collect::<Result<Vec<_>>>()?;
                if parts.is_empty() { "1 = 0".into() } else { format!("({})", parts.join(" OR ")) }
            }
        })
    }

    /// Adds the condition for rows after a cursor. The first comparison alone allows an index seek; the others are
    /// exact.
    pub(crate) fn after(&mut self, order: &[Order], columns: &[String], cursor: &Cursor) -> Result<()> {
        let mut parts = Vec::new();
        for ((order, column), value) in order.iter().zip(columns).zip(&cursor.values) {
            parts.push((column.as_str(), order.direction, bind_for(&order.field, value)?));
        }
        if let Some(id) = &cursor.id {
            parts.push(("id", tie_direction(order), Bind::Text(id.clone())));
        }
        if let [(column, direction, value), _, ..] = parts.as_slice() {
            let mark = self.bind_value(value.clone());
            self.sql.push(format!("{column} {}= {mark}", direction.operator()));
        }
        let sql = self.strictly_after(&parts);
        self.sql.push(sql);
        Ok(())
    }

    fn strictly_after(&mut self, parts: &[(&str, Direction, Bind)]) -> String {
        let Some(((column, direction, value), others)) = parts.split_first() else { return "1 = 0".into() };
        let sign = direction.operator();
        let mark = self.bind_value(value.clone());
        if others.is_empty() {
            return format!("{column} {sign} {mark}");
        }
        format!("({column} {sign} {mark} OR ({column} = {mark} AND {}))", self.strictly_after(others))
    }

    /// Binds a value and returns its placeholder.
    pub(crate) fn bind_value(&mut self, value: Bind) -> String {
        self.values.push(value);
        self.dialect.placeholder(self.values.len())
    }

    /// `IN (…)`, or `= ANY($n)` on PostgreSQL. Few distinct statements should serve lists of all lengths.
    fn is_one_of(&mut self, column: &str, mut binds: Vec<Bind>) -> String {
        // An empty list matches nothing.
        let Some(last) = binds.last().cloned() else { return "1 = 0".into() };
        if self.dialect == Dialect::Postgres {
            return format!("{column} = ANY({})", self.bind_value(merge_binds(binds)));
        }
        // The length is rounded up to a power of two by repeating the last value.
        binds.resize(binds.len().next_power_of_two(), last);
        self.has_long_list |= binds.len() > MAX_CACHED_VALUES;
        let marks: Vec<String> = binds.into_iter().map(|bind| self.bind_value(bind)).collect();
        format!("{column} IN ({})", marks.join(", "))
    }

    /// ` WHERE …`, or an empty string.
    pub(crate) fn where_clause(&self) -> String {
        if self.sql.is_empty() { String::new() } else { format!(" WHERE {}", self.sql.join(" AND ")) }
    }
}

/// Whether all fields of a filter are indexed, so that SQL can express it.
pub(super) fn is_declared(spec: &Spec<'_>, filter: &Filter) -> bool {
    match filter {
        Filter::Equals { field, .. } | Filter::IsIn { field, .. } | Filter::Range { field, .. } => {
            spec.column(field).is_some()
        }
        Filter::StartsWith { field, .. } | Filter::Contains { field, .. } => spec.lower_column(field).is_some(),
        Filter::Intersects { field, .. } => indexed_list(spec, field).is_some(),
        Filter::Any(parts) => parts.iter().all(|part| is_declared(spec, part)),
    }
}

/// An indexed list of the collection, with any order fields.
fn indexed_list<'a>(spec: &'a Spec<'a>, field: &str) -> Option<&'a ListSpec<'a>> {
    spec.lists.iter().find(|list| list.list == field)
}

fn column(spec: &Spec<'_>, field: &str) -> String {
    spec.column(field).unwrap_or_default()
}

fn lower_column(spec: &Spec<'_>, field: &str) -> String {
    spec.lower_column(field).unwrap_or_default()
}

/// The value to compare a column with: the key, or the text for the id. A value that is not text is below or above
/// every id, as the order of types defines: ids are never empty and have at most 512 bytes.
fn bind_for(field: &str, value: &Value) -> Result<Bind> {
    let key = key::encode(value)?;
    Ok(match (field, value) {
        ("id", Value::String(text)) => Bind::Text(text.clone()),
        ("id", Value::Array(_) | Value::Object(_)) => Bind::Text("\u{10FFFF}".repeat(129)),
        ("id", _) => Bind::Text(String::new()),
        _ => Bind::Key(key),
    })
}

fn merge_binds(binds: Vec<Bind>) -> Bind {
    let texts = matches!(binds.first(), Some(Bind::Text(_)));
    let (mut keys, mut ids) = (Vec::new(), Vec::new());
    for bind in binds {
        match bind {
            Bind::Key(key) => keys.push(key),
            Bind::Text(text) => ids.push(text),
            _ => {}
        }
    }
    if texts { Bind::Texts(ids) } else { Bind::Keys(keys) }
}

/// The direction in which the id breaks ties.
pub(crate) fn tie_direction(order: &[Order]) -> Direction {
    order.last().map_or(Direction::Ascending, |last| last.direction)
}
