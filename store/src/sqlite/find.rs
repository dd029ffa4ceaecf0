//! A query as SQL: filters and orders on declared fields are answered by SQLite, the rest by looking at the documents
//! that pass, with the same keys. Values are always bound; the only names in the text are those of `schema.rs`.

use std::collections::HashSet;
use std::sync::Arc;

use rusqlite::{Connection, params_from_iter, types::Value as SqlValue};
use serde_json::Value;

use super::errors::from_sqlite;
use super::schema::Spec;
use crate::query::check_field;
use crate::{Cursor, Direction, Filter, Order, Page, Query, Result, Row, StoreError, document, key};

/// The most values of one `IsIn`.
const MOST_VALUES: usize = 10_000;
/// Longer lists of values are not worth keeping a prepared statement for.
const MOST_VALUES_KEPT: usize = 64;
/// After so many rows, whether somebody still waits is asked.
const ROWS_PER_CHECK: usize = 256;

/// A query, ready to be run on any connection.
pub(super) struct Plan {
    spec: Arc<Spec>,
    conditions: Conditions,
    order: Vec<Order>,
    /// Where SQLite cannot order, the rows are ordered here, and the cursor is looked at here.
    ordered_here: Option<Option<Place>>,
    limit: Option<usize>,
    sql: String,
}

/// A count, ready to be run.
pub(super) struct CountPlan {
    conditions: Conditions,
    spec: Arc<Spec>,
}

/// The filters: SQL with its values, and what is left to Rust.
#[derive(Default)]
struct Conditions {
    sql: Vec<String>,
    values: Vec<SqlValue>,
    rest: Vec<Rest>,
    long: bool,
}

/// A filter on an undeclared field.
enum Rest {
    Equals(String, Vec<u8>),
    IsIn(String, HashSet<Vec<u8>>),
    StartsWith(String, String),
}

/// A cursor as keys.
struct Place {
    keys: Vec<Vec<u8>>,
    id: Option<String>,
}

impl Plan {
    /// Checks a query and makes its SQL.
    pub(super) fn new(spec: Arc<Spec>, query: &Query) -> Result<Self> {
        let mut conditions = Conditions::new(&spec, &query.filters)?;
        for order in &query.order {
            check_field(&order.field)?;
        }
        if let Some(cursor) = &query.after {
            check_cursor(cursor, &query.order)?;
        }
        let columns: Option<Vec<String>> = query.order.iter().map(|order| order_column(&spec, &order.field)).collect();
        let mut end = String::new();
        let ordered_here = match columns {
            Some(columns) => {
                if let Some(cursor) = &query.after {
                    conditions.after(&query.order, &columns, cursor)?;
                }
                end = order_by(&query.order, &columns);
                if let (Some(limit), true) = (query.limit, conditions.rest.is_empty()) {
                    end.push_str(" LIMIT ?");
                    conditions
                        .values
                        .push(SqlValue::Integer(i64::try_from(limit).unwrap_or(i64::MAX).saturating_add(1)));
                }
                None
            }
            None => Some(query.after.as_ref().map(Place::new).transpose()?),
        };
        let sql = format!("SELECT id, ver, doc FROM {}{}{end}", spec.table, conditions.clause());
        let limit = query.limit.map(|limit| usize::try_from(limit).unwrap_or(usize::MAX));
        Ok(Self { spec, conditions, order: query.order.clone(), ordered_here, limit, sql })
    }

    /// Runs it. `abandoned` is asked now and then; once it says yes the answer does not matter.
    pub(super) fn run(&self, connection: &Connection, abandoned: &dyn Fn() -> bool) -> Result<Page> {
        if self.limit == Some(0) {
            return Ok(Page { rows: Vec::new(), next: None });
        }
        let mut found = Found::default();
        self.conditions.each(connection, &self.spec, &self.sql, abandoned, |row, parsed| {
            let Some(place) = &self.ordered_here else {
                found.rows.push(row);
                return Ok(self.limit.is_none_or(|limit| found.rows.len() <= limit));
            };
            let document = match parsed {
                Some(document) => document,
                None => document::parse_stored(&row.body, self.spec.name, &row.id)?,
            };
            let keys = self.keys(&row.id, &document)?;
            if place.as_ref().is_none_or(|place| self.is_after(&keys, &row.id, place)) {
                found.sortable.push((keys, row));
            }
            // Only the first rows are wanted, so the others need not be kept until the end.
            if let Some(limit) = self.limit
                && found.sortable.len() >= limit.saturating_mul(2).max(1024)
            {
                self.sort(&mut found.sortable);
                found.sortable.truncate(limit.saturating_add(1));
            }
            Ok(true)
        })?;
        self.sort(&mut found.sortable);
        found.rows.extend(found.sortable.into_iter().map(|(_, row)| row));
        self.page(found.rows)
    }

    fn page(&self, mut rows: Vec<Row>) -> Result<Page> {
        let Some(limit) = self.limit.filter(|limit| rows.len() > *limit) else {
            return Ok(Page { rows, next: None });
        };
        rows.truncate(limit);
        let next = match rows.last() {
            Some(last) => Some(self.cursor(last)?),
            None => None,
        };
        Ok(Page { rows, next })
    }

    fn cursor(&self, row: &Row) -> Result<Cursor> {
        let document = document::parse_stored(&row.body, self.spec.name, &row.id)?;
        let value = |order: &Order| match order.field.as_str() {
            "id" => Value::String(row.id.clone()),
            field => document::field(&document, field).clone(),
        };
        Ok(Cursor { values: self.order.iter().map(value).collect(), id: Some(row.id.clone()) })
    }

    fn keys(&self, id: &str, document: &Value) -> Result<Vec<Vec<u8>>> {
        self.order.iter().map(|order| field_key(&order.field, id, document)).collect()
    }

    fn sort(&self, rows: &mut [(Vec<Vec<u8>>, Row)]) {
        rows.sort_by(|(a, row_a), (b, row_b)| {
            let by_keys = self.compare(a, b);
            by_keys.then_with(|| tie(&self.order).of(row_a.id.cmp(&row_b.id)))
        });
    }

    fn is_after(&self, keys: &[Vec<u8>], id: &str, place: &Place) -> bool {
        let by_id = match &place.id {
            Some(last) => tie(&self.order).of(id.cmp(last)),
            None => std::cmp::Ordering::Equal,
        };
        self.compare(keys, &place.keys).then(by_id).is_gt()
    }

    fn compare(&self, a: &[Vec<u8>], b: &[Vec<u8>]) -> std::cmp::Ordering {
        let one = |((a, b), order): ((&Vec<u8>, &Vec<u8>), &Order)| order.direction.of(a.cmp(b));
        let first = a.iter().zip(b).zip(&self.order).map(one).find(|ordering| ordering.is_ne());
        first.unwrap_or(std::cmp::Ordering::Equal)
    }

    /// What SQLite says it will do.
    #[cfg(test)]
    pub(super) fn explain(&self, connection: &Connection) -> String {
        let mut statement = connection.prepare(&format!("EXPLAIN QUERY PLAN {}", self.sql)).unwrap();
        let lines = statement.query_map(params_from_iter(&self.conditions.values), |row| row.get::<_, String>(3));
        lines.unwrap().map(|line| line.unwrap()).collect::<Vec<_>>().join("; ")
    }
}

impl CountPlan {
    /// Checks the filters and makes their SQL.
    pub(super) fn new(spec: Arc<Spec>, filters: &[Filter]) -> Result<Self> {
        Ok(Self { conditions: Conditions::new(&spec, filters)?, spec })
    }

    /// Counts, and stops at `enough`.
    pub(super) fn run(&self, connection: &Connection, enough: u64, abandoned: &dyn Fn() -> bool) -> Result<u64> {
        let (table, clause) = (&self.spec.table, self.conditions.clause());
        if self.conditions.rest.is_empty() {
            let mut values = self.conditions.values.clone();
            let sql = if enough == u64::MAX {
                format!("SELECT count(*) FROM {table}{clause}")
            } else {
                values.push(SqlValue::Integer(i64::try_from(enough).unwrap_or(i64::MAX)));
                format!("SELECT count(*) FROM (SELECT 1 FROM {table}{clause} LIMIT ?)")
            };
            return connection
                .prepare_cached(&sql)
                .and_then(|mut statement| statement.query_row(params_from_iter(values), |row| row.get::<_, i64>(0)))
                .map(i64::unsigned_abs)
                .map_err(|error| from_sqlite(error, &format!("counting in {}", self.spec.name)));
        }
        let mut count = 0;
        let sql = format!("SELECT id, ver, doc FROM {table}{clause}");
        self.conditions.each(connection, &self.spec, &sql, abandoned, |_, _| {
            count += 1;
            Ok(count < enough)
        })?;
        Ok(count.min(enough))
    }

    /// What to say when a guard did not hold.
    pub(super) fn refusal(&self, count: u64, at_least: u64, at_most: u64) -> String {
        let name = self.spec.name;
        if count < at_least {
            format!("{name} has {count} such documents and must have at least {at_least}")
        } else {
            format!("{name} has more than {at_most} such documents")
        }
    }
}

impl Conditions {
    fn new(spec: &Spec, filters: &[Filter]) -> Result<Self> {
        let mut this = Self::default();
        for filter in filters {
            check_field(filter.field())?;
            match filter {
                Filter::Equals { field, value } => this.equals(spec, field, value)?,
                Filter::IsIn { field, values } => this.is_in(spec, field, values)?,
                Filter::StartsWith { field, prefix } => this.starts_with(spec, field, prefix)?,
            }
        }
        Ok(this)
    }

    fn equals(&mut self, spec: &Spec, field: &str, value: &Value) -> Result<()> {
        let key = key::of(value)?;
        match order_column(spec, field) {
            Some(column) => self.add(format!("{column} = ?"), [column_value(field, value, key)]),
            None => self.rest.push(Rest::Equals(field.into(), key)),
        }
        Ok(())
    }

    fn is_in(&mut self, spec: &Spec, field: &str, values: &[Value]) -> Result<()> {
        if values.len() > MOST_VALUES {
            return Err(StoreError::Invalid(format!(
                "`{field}` is compared with {} values; use at most {MOST_VALUES}",
                values.len()
            )));
        }
        let keys = values.iter().map(key::of).collect::<Result<Vec<_>>>()?;
        let Some(column) = order_column(spec, field) else {
            self.rest.push(Rest::IsIn(field.into(), keys.into_iter().collect()));
            return Ok(());
        };
        let mut bound: Vec<SqlValue> =
            values.iter().zip(keys).map(|(value, key)| column_value(field, value, key)).collect();
        // Lengths are rounded up by repeating the last value, so that few statements serve all lists.
        if let Some(last) = bound.last().cloned() {
            bound.resize(bound.len().next_power_of_two(), last);
        }
        self.long |= bound.len() > MOST_VALUES_KEPT;
        let marks = vec!["?"; bound.len()].join(", ");
        self.add(format!("{column} IN ({marks})"), bound);
        Ok(())
    }

    fn starts_with(&mut self, spec: &Spec, field: &str, prefix: &str) -> Result<()> {
        key::refuse_nul(prefix)?;
        let lower = prefix.to_lowercase();
        match spec.lower_column(field) {
            Some(column) => {
                let from = key::of_text(&lower);
                let to = key::after_prefix(from.clone());
                self.add(format!("{column} >= ? AND {column} < ?"), [SqlValue::Blob(from), SqlValue::Blob(to)]);
            }
            None => self.rest.push(Rest::StartsWith(field.into(), lower)),
        }
        Ok(())
    }

    /// Goes on after a cursor. The first comparison alone lets SQLite seek; the others cut exactly.
    fn after(&mut self, order: &[Order], columns: &[String], cursor: &Cursor) -> Result<()> {
        let mut parts = Vec::new();
        for ((order, column), value) in order.iter().zip(columns).zip(&cursor.values) {
            let value = column_value(&order.field, value, key::of(value)?);
            parts.push((column.as_str(), order.direction, value));
        }
        if let Some(id) = &cursor.id {
            key::refuse_nul(id)?;
            parts.push(("id", tie(order), SqlValue::Text(id.clone())));
        }
        if let [(column, direction, value), _, ..] = parts.as_slice() {
            self.add(format!("{column} {}= ?", direction.sign()), [value.clone()]);
        }
        let mut values = Vec::new();
        let sql = strictly_after(&parts, &mut values);
        self.add(sql, values);
        Ok(())
    }

    fn add(&mut self, sql: String, values: impl IntoIterator<Item = SqlValue>) {
        self.sql.push(sql);
        self.values.extend(values);
    }

    fn clause(&self) -> String {
        if self.sql.is_empty() { String::new() } else { format!(" WHERE {}", self.sql.join(" AND ")) }
    }

    /// Gives every row that passes to `take`, with its document where it was read, until that says it has enough.
    fn each(
        &self,
        connection: &Connection,
        spec: &Spec,
        sql: &str,
        abandoned: &dyn Fn() -> bool,
        mut take: impl FnMut(Row, Option<Value>) -> Result<bool>,
    ) -> Result<()> {
        let failed = |error| from_sqlite(error, &format!("reading {}", spec.name));
        let (mut kept, mut passing);
        let statement: &mut rusqlite::Statement<'_> = if self.long {
            passing = connection.prepare(sql).map_err(failed)?;
            &mut passing
        } else {
            kept = connection.prepare_cached(sql).map_err(failed)?;
            &mut kept
        };
        let mut rows = statement.query(params_from_iter(&self.values)).map_err(failed)?;
        let mut seen = 0;
        while let Some(row) = rows.next().map_err(failed)? {
            seen += 1;
            if seen % ROWS_PER_CHECK == 0 && abandoned() {
                return Err(StoreError::Unavailable("nobody waits for this answer".into()));
            }
            let row = row_of(row).map_err(failed)?;
            let mut parsed = None;
            if !self.rest.is_empty() {
                let document = document::parse_stored(&row.body, spec.name, &row.id)?;
                if !self.pass(&row.id, &document)? {
                    continue;
                }
                parsed = Some(document);
            }
            if !take(row, parsed)? {
                break;
            }
        }
        Ok(())
    }

    fn pass(&self, id: &str, document: &Value) -> Result<bool> {
        for rest in &self.rest {
            let holds = match rest {
                Rest::Equals(field, key) => field_key(field, id, document)? == *key,
                Rest::IsIn(field, keys) => keys.contains(&field_key(field, id, document)?),
                Rest::StartsWith(field, prefix) if field == "id" => id.to_lowercase().starts_with(prefix),
                Rest::StartsWith(field, prefix) => match document::field(document, field) {
                    Value::String(text) => text.to_lowercase().starts_with(prefix),
                    _ => false,
                },
            };
            if !holds {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

impl Place {
    fn new(cursor: &Cursor) -> Result<Self> {
        Ok(Self { keys: cursor.values.iter().map(key::of).collect::<Result<_>>()?, id: cursor.id.clone() })
    }
}

impl Direction {
    fn word(self) -> &'static str {
        match self {
            Self::Ascending => "ASC",
            Self::Descending => "DESC",
        }
    }

    fn sign(self) -> &'static str {
        match self {
            Self::Ascending => ">",
            Self::Descending => "<",
        }
    }

    fn of(self, ordering: std::cmp::Ordering) -> std::cmp::Ordering {
        match self {
            Self::Ascending => ordering,
            Self::Descending => ordering.reverse(),
        }
    }
}

/// The columns of a row that every statement here selects: id, version, document.
pub(super) fn row_of(row: &rusqlite::Row<'_>) -> rusqlite::Result<Row> {
    let version: i64 = row.get(1)?;
    let body = row.get_ref(2)?.as_str()?;
    Ok(Row { id: row.get(0)?, version: version.unsigned_abs(), body: body.into() })
}

#[derive(Default)]
struct Found {
    rows: Vec<Row>,
    sortable: Vec<(Vec<Vec<u8>>, Row)>,
}

fn check_cursor(cursor: &Cursor, order: &[Order]) -> Result<()> {
    if cursor.values.len() != order.len() {
        return Err(StoreError::Invalid(format!(
            "the cursor has {} values for {} order fields; give one for each",
            cursor.values.len(),
            order.len()
        )));
    }
    if order.is_empty() && cursor.id.is_none() {
        return Err(StoreError::Invalid("a cursor without order fields needs the last row's id".into()));
    }
    Ok(())
}

fn field_key(field: &str, id: &str, document: &Value) -> Result<Vec<u8>> {
    match field {
        "id" => Ok(key::of_text(id)),
        path => key::of(document::field(document, path)),
    }
}

fn order_column(spec: &Spec, field: &str) -> Option<String> {
    if field == "id" { Some("id".into()) } else { spec.column(field) }
}

/// What a column is compared with: the key, or for the id its text. A value that is no text is below or above every
/// id, as the order of types says: ids are never empty, and blobs come after texts.
fn column_value(field: &str, value: &Value, key: Vec<u8>) -> SqlValue {
    match (field, value) {
        ("id", Value::String(text)) => SqlValue::Text(text.clone()),
        ("id", Value::Array(_) | Value::Object(_)) => SqlValue::Blob(Vec::new()),
        ("id", _) => SqlValue::Text(String::new()),
        _ => SqlValue::Blob(key),
    }
}

fn tie(order: &[Order]) -> Direction {
    order.last().map_or(Direction::Ascending, |last| last.direction)
}

fn order_by(order: &[Order], columns: &[String]) -> String {
    let mut terms: Vec<String> =
        order.iter().zip(columns).map(|(order, column)| format!("{column} {}", order.direction.word())).collect();
    terms.push(format!("id {}", tie(order).word()));
    format!(" ORDER BY {}", terms.join(", "))
}

fn strictly_after(parts: &[(&str, Direction, SqlValue)], values: &mut Vec<SqlValue>) -> String {
    let Some(((column, direction, value), others)) = parts.split_first() else { return "0".into() };
    let sign = direction.sign();
    values.push(value.clone());
    if others.is_empty() {
        return format!("{column} {sign} ?");
    }
    values.push(value.clone());
    format!("({column} {sign} ? OR ({column} = ? AND {}))", strictly_after(others, values))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Collection, Index};
    use serde_json::json;

    const COLLECTION: Collection = Collection {
        name: "plans",
        indexes: &[
            Index::on(&["owner", "at"]),
            Index::on(&["at"]),
            Index::on(&["lower(name)"]),
            Index::on(&["place.city"]),
            Index::unique(&["slug"]),
        ],
    };

    #[test]
    fn declared_fields_are_sought_and_their_order_needs_no_sorting() {
        let connection = Connection::open_in_memory().unwrap();
        let spec = Arc::new(Spec::new(&COLLECTION).unwrap());
        let info = "CREATE TABLE _store_meta(collection TEXT PRIMARY KEY, spec TEXT, version INTEGER)";
        connection.execute_batch(info).unwrap();
        super::super::schema::bring_up(&connection, [&*spec].into_iter()).unwrap();
        let after = |values: Vec<Value>| Cursor { values, id: Some("x".into()) };
        let owner = || Query::all().equals("owner", "o");
        for (query, index) in [
            (Query::all().equals("id", "x"), "(id=?)"),
            (Query::all().is_in("id", ["x", "y"]), "(id=?)"),
            (Query::all().after(after(vec![])).limit(5), "(id>?)"),
            (owner(), "ix plans(owner,at) (f_owner=?)"),
            (owner().ascending("at"), "ix plans(owner,at) (f_owner=?)"),
            (owner().descending("at").limit(50), "ix plans(owner,at) (f_owner=?)"),
            (owner().equals("at", 1), "ix plans(owner,at) (f_owner=? AND f_at=?)"),
            (owner().ascending("at").after(after(vec![json!(1)])), "ix plans(owner,at) (f_owner=? AND f_at>?)"),
            (owner().descending("at").after(after(vec![json!(1)])), "ix plans(owner,at) (f_owner=? AND f_at<?)"),
            (Query::all().ascending("at").after(after(vec![json!(1)])), "ix plans(at) (f_at>?)"),
            (Query::all().descending("at").after(after(vec![json!(null)])).limit(9), "ix plans(at) (f_at<?)"),
            (Query::all().starts_with("name", "Ab"), "ix plans(lower(name)) (l_name>? AND l_name<?)"),
            (Query::all().equals("place.city", "x"), "ix plans(place.city) (f_place.city=?)"),
            (Query::all().is_in("place.city", ["x", "y", "z"]), "ix plans(place.city) (f_place.city=?)"),
            (Query::all().equals("slug", "x"), "ux plans(slug) (f_slug=?)"),
            (owner().equals("undeclared", 1).ascending("at").limit(3), "ix plans(owner,at) (f_owner=?)"),
        ] {
            let shown = Plan::new(spec.clone(), &query).unwrap().explain(&connection);
            assert!(shown.contains("SEARCH") && shown.contains(index) && !shown.contains("SCAN"), "{query:?}: {shown}");
            if !query.order.is_empty() {
                assert!(!shown.contains("TEMP B-TREE"), "{query:?}: {shown}");
            }
        }
        // In the order of an index without any filter: SQLite walks the index and calls that a scan.
        let shown = Plan::new(spec, &Query::all().descending("at").limit(3)).unwrap().explain(&connection);
        assert!(shown.contains("SCAN c_plans USING INDEX ix plans(at)") && !shown.contains("TEMP B-TREE"), "{shown}");
    }
}
