//! Query plans: SQL as far as the index columns allow, the rest in Rust, row by row. An engine executes the SQL of a
//! [`Plan`] and passes the rows to its [`Collector`].

use std::{cmp::Ordering, collections::VecDeque, sync::Arc};

use serde_json::Value;

use super::{
    Bind, Conditions, Dialect, ListSpec, Spec,
    condition::{is_declared, tie_direction},
};
use crate::{
    Cursor, Direction, Filter, Order, Page, Query, Result, Row, StoreError, document, filter_eval::field_key, key,
    query,
};

/// The maximum number of elements whose list entries are merged; more are looked up as a set.
const MAX_MERGED_ELEMENTS: usize = 64;

/// The maximum number of rows in a chunk of a stream, and its approximate maximum size.
const MAX_CHUNK_ROWS: usize = 256;
const CHUNK_BYTES: usize = 1024 * 1024;

/// A query plan for any connection. Its statement selects id, version and document.
pub(crate) struct Plan {
    pub(crate) spec: Arc<Spec<'static>>,
    pub(crate) sql: String,
    conditions: Conditions,
    order: Vec<Order>,
    shuffled: bool,
    /// Set if SQL cannot sort: the rows are sorted here, and the cursor is applied here.
    in_memory_sort: Option<Option<CursorKeys>>,
    limit: Option<usize>,
}

/// A count plan.
pub(crate) struct CountPlan {
    pub(crate) spec: Arc<Spec<'static>>,
    /// Selects the count, or the documents if there are residual filters.
    pub(crate) sql: String,
    conditions: Conditions,
    enough: u64,
}

/// A cursor, encoded as keys.
struct CursorKeys {
    keys: Vec<Vec<u8>>,
    id: Option<String>,
}

impl Plan {
    /// Validates a query and builds its SQL.
    pub(crate) fn new(dialect: Dialect, spec: Arc<Spec<'static>>, query: &Query) -> Result<Self> {
        query.check()?;
        let limit = query.limit.map(|limit| usize::try_from(limit).unwrap_or(usize::MAX));
        if let Some((conditions, sql)) = plan_by_list_index(dialect, &spec, query)? {
            let order = query.order.clone();
            return Ok(Self { spec, sql, conditions, order, shuffled: false, in_memory_sort: None, limit });
        }
        let mut conditions = Conditions::new(dialect, &spec, &query.filters)?;
        let columns: Option<Vec<String>> = query.order.iter().map(|order| spec.column(&order.field)).collect();
        let mut end = String::new();
        let ordered_here = match columns {
            Some(columns) => {
                if let Some(cursor) = &query.after {
                    conditions.after(&query.order, &columns, cursor)?;
                }
                end = if query.shuffled { " ORDER BY random()".into() } else { order_by(&query.order, &columns) };
                if let (Some(limit), true) = (query.limit, conditions.residual.is_empty()) {
                    end += &format!(" LIMIT {}", conditions.bind_value(limit_plus_one(limit)));
                }
                None
            }
            None => Some(query.after.as_ref().map(CursorKeys::new).transpose()?),
        };
        let sql = format!("SELECT id, ver, doc FROM {}{}{end}", spec.table, conditions.where_clause());
        let (order, shuffled) = (query.order.clone(), query.shuffled);
        Ok(Self { spec, sql, conditions, order, shuffled, in_memory_sort: ordered_here, limit })
    }

    pub(crate) fn values(&self) -> &[Bind] {
        &self.conditions.values
    }

    /// Whether the prepared statement should be cached.
    pub(crate) fn is_cacheable(&self) -> bool {
        !self.conditions.has_long_list
    }

    /// Whether SQL does everything: no residual filters, no sorting in Rust.
    pub(crate) fn is_fully_sql(&self) -> bool {
        self.conditions.residual.is_empty() && self.in_memory_sort.is_none()
    }

    /// Whether the limit is zero, so that no query is needed.
    pub(crate) fn has_zero_limit(&self) -> bool {
        self.limit == Some(0)
    }

    /// Whether the SQL may return more rows than are needed.
    pub(crate) fn may_stop_early(&self) -> bool {
        self.limit.is_some() && self.in_memory_sort.is_none() && !self.conditions.residual.is_empty()
    }

    /// Creates the collector of the rows.
    pub(crate) fn collector(&self) -> Collector<'_> {
        Collector { plan: self, drained: 0, rows: VecDeque::new(), bytes: 0, sortable: Vec::new() }
    }

    fn cursor(&self, row: &Row) -> Result<Cursor> {
        let document = document::parse_stored(&row.body, self.spec.name, &row.id)?;
        let value = |order: &Order| match order.field.as_str() {
            "id" => Value::String(row.id.clone()),
            field => document::field(&document, field).clone(),
        };
        Ok(Cursor { values: self.order.iter().map(value).collect(), id: Some(row.id.clone()) })
    }

    fn sort(&self, rows: &mut [(Vec<Vec<u8>>, Row)]) {
        rows.sort_by(|(a, row_a), (b, row_b)| {
            self.compare(a, b).then_with(|| tie_direction(&self.order).apply(row_a.id.cmp(&row_b.id)))
        });
    }

    fn is_after(&self, keys: &[Vec<u8>], id: &str, place: &CursorKeys) -> bool {
        let by_id = match &place.id {
            Some(last) => tie_direction(&self.order).apply(id.cmp(last)),
            None => Ordering::Equal,
        };
        self.compare(keys, &place.keys).then(by_id).is_gt()
    }

    fn compare(&self, a: &[Vec<u8>], b: &[Vec<u8>]) -> Ordering {
        let one = |((a, b), order): ((&Vec<u8>, &Vec<u8>), &Order)| order.direction.apply(a.cmp(b));
        let first = a.iter().zip(b).zip(&self.order).map(one).find(|ordering| ordering.is_ne());
        first.unwrap_or(Ordering::Equal)
    }
}

/// The rows that a query has found so far.
pub(crate) struct Collector<'a> {
    plan: &'a Plan,
    /// The number of rows already drained.
    drained: usize,
    rows: VecDeque<Row>,
    /// The total size of their bodies in bytes.
    bytes: usize,
    sortable: Vec<(Vec<Vec<u8>>, Row)>,
}

impl Collector<'_> {
    /// Adds a row that passed the SQL conditions; returns whether more rows are needed.
    pub(crate) fn push(&mut self, row: Row) -> Result<bool> {
        let plan = self.plan;
        let read = !plan.conditions.residual.is_empty() || plan.in_memory_sort.is_some();
        let document = if read { document::parse_stored(&row.body, plan.spec.name, &row.id)? } else { Value::Null };
        if !plan.conditions.residual.is_empty() && !plan.conditions.residual.matches(&row.id, &document)? {
            return Ok(true);
        }
        let Some(place) = &plan.in_memory_sort else {
            self.bytes += row.body.len();
            self.rows.push_back(row);
            return Ok(plan.limit.is_none_or(|limit| self.drained + self.rows.len() <= limit));
        };
        let keys = plan.order.iter().map(|order| field_key(&order.field, &row.id, &document));
        let keys = keys.collect::<Result<Vec<_>>>()?;
        if place.as_ref().is_none_or(|place| plan.is_after(&keys, &row.id, place)) {
            self.sortable.push((keys, row));
        }
        // Only the first rows are returned, so the others need not be kept until the end.
        if let Some(limit) = plan.limit
            && self.sortable.len() >= limit.saturating_mul(2).max(1024)
        {
            plan.sort(&mut self.sortable);
            self.sortable.truncate(limit.saturating_add(1));
        }
        Ok(true)
    }

    /// Whether there are enough rows for a chunk of a stream.
    pub(crate) fn has_full_chunk(&self) -> bool {
        self.rows.len() >= MAX_CHUNK_ROWS || self.bytes >= CHUNK_BYTES
    }

    /// The next chunk, in order: rows that can already be sent; empty if there are none. They count towards the limit.
    pub(crate) fn drain(&mut self) -> Vec<Row> {
        let room = self.plan.limit.map_or(usize::MAX, |limit| limit - self.drained.min(limit)).min(MAX_CHUNK_ROWS);
        let (mut piece, mut bytes) = (Vec::new(), 0);
        while piece.len() < room
            && bytes < CHUNK_BYTES
            && let Some(row) = self.rows.pop_front()
        {
            bytes += row.body.len();
            piece.push(row);
        }
        self.bytes = self.bytes.saturating_sub(bytes);
        self.drained += piece.len();
        piece
    }

    /// Ends the collection: sorts the rows that are sorted in Rust.
    pub(crate) fn finish(&mut self) {
        self.plan.sort(&mut self.sortable);
        self.rows.extend(self.sortable.drain(..).map(|(_, row)| row));
    }

    pub(crate) fn page(mut self) -> Result<Page> {
        self.finish();
        let mut rows = Vec::from(self.rows);
        let Some(limit) = self.plan.limit.filter(|limit| rows.len() > *limit) else {
            return Ok(Page { rows, next: None });
        };
        rows.truncate(limit);
        let next = match rows.last() {
            Some(last) if !self.plan.shuffled => Some(self.plan.cursor(last)?),
            _ => None,
        };
        Ok(Page { rows, next })
    }
}

impl CountPlan {
    /// Validates the filters and builds their SQL, which stops counting at `enough`.
    pub(crate) fn new(dialect: Dialect, spec: Arc<Spec<'static>>, filters: &[Filter], enough: u64) -> Result<Self> {
        query::check_filters(filters)?;
        let mut conditions = Conditions::new(dialect, &spec, filters)?;
        let (table, clause) = (&spec.table, conditions.where_clause());
        let sql = if !conditions.residual.is_empty() {
            format!("SELECT id, ver, doc FROM {table}{clause}")
        } else if enough == u64::MAX {
            format!("SELECT count(*) FROM {table}{clause}")
        } else {
            let enough = Bind::Integer(i64::try_from(enough).unwrap_or(i64::MAX));
            format!("SELECT count(*) FROM (SELECT 1 FROM {table}{clause} LIMIT {}) t", conditions.bind_value(enough))
        };
        Ok(Self { spec, sql, conditions, enough })
    }

    pub(crate) fn values(&self) -> &[Bind] {
        &self.conditions.values
    }

    /// Whether the prepared statement should be cached.
    pub(crate) fn is_cacheable(&self) -> bool {
        !self.conditions.has_long_list
    }

    /// Whether SQL counts; otherwise the documents are passed to [`CountPlan::count_row`].
    pub(crate) fn is_counted_in_sql(&self) -> bool {
        self.conditions.residual.is_empty()
    }

    /// Counts a document that passed the SQL conditions; returns whether more are needed.
    pub(crate) fn count_row(&self, row: &Row, count: &mut u64) -> Result<bool> {
        let document = document::parse_stored(&row.body, self.spec.name, &row.id)?;
        *count += u64::from(self.conditions.residual.matches(&row.id, &document)?);
        Ok(*count < self.enough)
    }
}

/// The error for a failed [`Guard::Count`](crate::Guard::Count).
pub(crate) fn count_guard_error(spec: &Spec<'_>, count: u64, at_least: u64, at_most: u64) -> StoreError {
    let name = spec.name;
    StoreError::Conflict(if count < at_least {
        format!("{name} has {count} such documents and must have at least {at_least}")
    } else {
        format!("{name} has more than {at_most} such documents")
    })
}

impl CursorKeys {
    fn new(cursor: &Cursor) -> Result<Self> {
        Ok(Self { keys: cursor.values.iter().map(key::encode).collect::<Result<_>>()?, id: cursor.id.clone() })
    }
}

fn order_by(order: &[Order], columns: &[String]) -> String {
    let mut terms: Vec<String> =
        order.iter().zip(columns).map(|(order, column)| format!("{column} {}", order.direction.keyword())).collect();
    terms.push(format!("id {}", tie_direction(order).keyword()));
    format!(" ORDER BY {}", terms.join(", "))
}

/// One row more than the limit tells whether there is a next page.
fn limit_plus_one(limit: u64) -> Bind {
    Bind::Integer(i64::try_from(limit).unwrap_or(i64::MAX).saturating_add(1))
}

/// The first rows that contain one of some elements, if the list entries are in the order of the query: the first
/// entries of each element, merged. The cost does not depend on how many documents contain the elements. With residual
/// filters, the entries of a single element are scanned in order until enough rows pass. `None` if the query does not
/// allow this.
fn plan_by_list_index(dialect: Dialect, spec: &Spec<'_>, query: &Query) -> Result<Option<(Conditions, String)>> {
    let Some(limit) = query.limit.filter(|_| !query.shuffled) else { return Ok(None) };
    let is_list = |filter: &&Filter| matches!(filter, Filter::Intersects { .. });
    let (lists, others): (Vec<_>, Vec<_>) = query.filters.iter().partition(is_list);
    let [Filter::Intersects { field, values }] = lists.as_slice() else { return Ok(None) };
    let found = spec.lists.iter().filter(|list| list.list == field).find_map(|list| {
        let is_of_list =
            |filter: &Filter| matches!(filter, Filter::Equals { field, .. } if list.position_of(field).is_some());
        let (known, rest): (Vec<_>, Vec<_>) =
            others.iter().copied().partition(|filter| is_of_list(filter) || is_declared(spec, filter));
        Some((list, fixed_prefix_values(list, &known, &query.order)?, rest))
    });
    let Some((list, given, rest)) = found else { return Ok(None) };
    let max_elements = if rest.is_empty() { MAX_MERGED_ELEMENTS } else { 1 };
    if values.is_empty() || values.len() > max_elements {
        return Ok(None);
    }
    let rest: Vec<Filter> = rest.into_iter().cloned().collect();
    let mut conditions = Conditions::new(dialect, spec, &rest)?;
    let keys = values.iter().map(key::encode).collect::<Result<std::collections::BTreeSet<_>>>()?;
    let mut elements = Vec::new();
    if dialect == Dialect::Postgres && rest.is_empty() {
        elements.push(conditions.bind_value(Bind::Keys(keys.into_iter().collect())));
    } else {
        elements.extend(keys.into_iter().map(|key| conditions.bind_value(Bind::Key(key))));
    }
    let mut fixed = String::new();
    for (place, value) in given.iter().enumerate() {
        fixed += &format!(" AND k{} = {}", place + 1, conditions.bind_value(Bind::Key(key::encode(value)?)));
    }
    let columns: Vec<String> = (given.len() + 1..=list.fields.len()).map(|n| format!("k{n}")).collect();
    if let Some(cursor) = &query.after {
        conditions.after(&query.order, &columns, cursor)?;
        fixed += &conditions.where_clause().replacen(" WHERE", " AND", 1);
    }
    if let ([element], false) = (elements.as_slice(), rest.is_empty()) {
        let sql = list_scan_sql(dialect, spec, list, &query.order, &columns, &format!("val = {element}{fixed}"));
        return Ok(Some((conditions, sql)));
    }
    let limit = conditions.bind_value(limit_plus_one(limit));
    Ok(Some((conditions, list_merge_sql(dialect, spec, list, &query.order, &columns, &elements, &fixed, &limit))))
}

/// Scans the matching entries in order and looks up each row only when it is needed, because the number of rows needed
/// is not known in advance.
fn list_scan_sql(
    dialect: Dialect,
    spec: &Spec<'_>,
    list: &ListSpec<'_>,
    order: &[Order],
    columns: &[String],
    condition: &str,
) -> String {
    let terms: String = columns.iter().map(|column| format!("{column}, ")).collect();
    let (table, side) = (&spec.table, &list.table);
    match dialect {
        Dialect::Sqlite => format!(
            "SELECT c.id, c.ver, c.doc FROM (SELECT {terms}id, rid FROM {side} WHERE {condition}) t \
             CROSS JOIN {table} c ON c.rid = t.rid ORDER BY {}",
            order_terms(order, columns, "t.")
        ),
        // `OFFSET 0` has no effect on the result, but keeps PostgreSQL from joining both tables completely and sorting
        // the result.
        Dialect::Postgres => format!(
            "SELECT c.id, c.ver, c.doc FROM (SELECT {terms}id FROM {side} WHERE {condition} ORDER BY {} OFFSET 0) t \
             CROSS JOIN LATERAL (SELECT id, ver, doc FROM {table} WHERE id = t.id OFFSET 0) c ORDER BY {}",
            order_terms(order, columns, ""),
            order_terms(order, columns, "t.")
        ),
    }
}

/// The ORDER BY terms over the columns of a list's entries.
fn order_terms(order: &[Order], columns: &[String], prefix: &str) -> String {
    let direction: Direction = tie_direction(order);
    let terms = columns.iter().map(String::as_str).chain(["id"]);
    terms.map(|term| format!("{prefix}{term} {}", direction.keyword())).collect::<Vec<_>>().join(", ")
}

/// The values of the list's leading fields, if the other filters fix exactly those and the order consists of the
/// remaining fields, all in one direction.
fn fixed_prefix_values<'a>(list: &ListSpec<'_>, filters: &[&'a Filter], order: &[Order]) -> Option<Vec<&'a Value>> {
    if filters.len() + order.len() != list.fields.len() || order.iter().any(|one| one.direction != tie_direction(order))
    {
        return None;
    }
    let is_next = |(place, order): (usize, &Order)| list.position_of(&order.field) == Some(filters.len() + place);
    if !order.iter().enumerate().all(is_next) {
        return None;
    }
    let mut given: Vec<Option<&Value>> = vec![None; filters.len()];
    for filter in filters {
        let Filter::Equals { field, value } = filter else { return None };
        *given.get_mut(list.position_of(field)?)? = Some(value);
    }
    given.into_iter().collect()
}

#[expect(clippy::too_many_arguments, reason = "the parts of one statement")]
fn list_merge_sql(
    dialect: Dialect,
    spec: &Spec<'_>,
    list: &ListSpec<'_>,
    order: &[Order],
    columns: &[String],
    elements: &[String],
    fixed: &str,
    limit: &str,
) -> String {
    let terms: String = columns.iter().map(|column| format!("{column}, ")).collect();
    let (table, side) = (&spec.table, &list.table);
    let (sorted, sorted_t) = (order_terms(order, columns, ""), order_terms(order, columns, "t."));
    match dialect {
        Dialect::Sqlite => {
            let one = |element: &String| {
                format!(
                    "SELECT * FROM (SELECT {terms}id, rid FROM {side} WHERE val = {element}{fixed} ORDER BY {sorted} LIMIT {limit})"
                )
            };
            let each = elements.iter().map(one).collect::<Vec<_>>().join(" UNION ");
            format!(
                "SELECT c.id, c.ver, c.doc FROM (SELECT * FROM ({each}) ORDER BY {sorted} LIMIT {limit}) t \
                 CROSS JOIN {table} c ON c.rid = t.rid ORDER BY {sorted_t}"
            )
        }
        Dialect::Postgres => {
            let element = elements.join("");
            format!(
                "SELECT c.id, c.ver, c.doc FROM (SELECT DISTINCT {terms}id FROM unnest({element}::bytea[]) v CROSS JOIN LATERAL \
                 (SELECT {terms}id FROM {side} WHERE val = v{fixed} ORDER BY {sorted} LIMIT {limit}) e \
                 ORDER BY {sorted} LIMIT {limit}) t JOIN {table} c ON c.id = t.id ORDER BY {sorted_t}"
            )
        }
    }
}
