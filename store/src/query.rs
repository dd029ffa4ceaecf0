//! A query as data: filters, order, limit and cursor. The same for every engine; how it is executed is up to the
//! engine.

use serde_json::Value;

use crate::{Result, Row, StoreError, key};

/// The maximum number of filters in one query, including those nested in [`Filter::Any`].
pub const MAX_FILTERS: usize = 256;
/// The maximum number of values in one query, over all its filters.
pub const MAX_FILTER_VALUES: usize = 10_000;
/// The maximum number of order fields in one query.
pub const MAX_ORDER_FIELDS: usize = 32;
/// The maximum nesting depth of [`Filter::Any`].
const MAX_FILTER_DEPTH: usize = 8;

/// Which documents to return, in which order, and how many. Without a limit, all; without an order, by id.
///
/// Values compare by type, then value: null or missing < false < true < numbers < text < arrays < objects. `1` equals
/// `1.0` and differs from `"1"` and `true`. Text compares by its UTF-8 bytes. Ties are broken by id, in the direction
/// of the last order field. The field `id` is the document's id.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Query {
    /// A document must match all of them.
    pub filters: Vec<Filter>,
    /// The order fields, most significant first; at most [`MAX_ORDER_FIELDS`].
    pub order: Vec<Order>,
    /// Random order, different for each query; then neither an order nor a cursor is allowed.
    pub shuffled: bool,
    /// The maximum number of rows; `None` means all.
    pub limit: Option<u64>,
    /// Only rows after this cursor.
    pub after: Option<Cursor>,
}

/// A condition on a document. A field is a dotted path of at most eight names, each of letters, digits and `_` and not
/// starting with a digit; any other is `Invalid`, and so are integers beyond 64 bits and more than [`MAX_FILTERS`] or
/// [`MAX_FILTER_VALUES`]. Filters on indexed fields use the index; the others are evaluated on every document that
/// matches the rest. Ignoring case means equal after `to_lowercase`.
#[derive(Debug, Clone, PartialEq)]
pub enum Filter {
    /// The field has this value. Null also matches a missing field.
    Equals { field: String, value: Value },
    /// The field has one of these values; an empty list matches nothing.
    IsIn { field: String, values: Vec<Value> },
    /// The field is at or above `from` and below `to`, in the order of values; a missing bound is no limit.
    Range { field: String, from: Option<Value>, to: Option<Value> },
    /// The field is text with this prefix, ignoring case. Uses an index on `lower(field)`.
    StartsWith { field: String, prefix: String },
    /// The field is text that contains this, ignoring case. Scans all documents, or an index on `lower(field)`, which
    /// is smaller.
    Contains { field: String, text: String },
    /// The field is a list that contains one of these values; an empty list matches nothing. Uses an
    /// [`Index::each`](crate::Index::each).
    Intersects { field: String, values: Vec<Value> },
    /// At least one of these matches; an empty list matches nothing.
    Any(Vec<Filter>),
}

/// One field of the order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order {
    /// The dotted path.
    pub field: String,
    /// The direction.
    pub direction: Direction,
}

/// The direction of an order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// Smallest first.
    Ascending,
    /// Largest first.
    Descending,
}

impl Direction {
    /// The SQL keyword.
    pub(crate) fn keyword(self) -> &'static str {
        match self {
            Self::Ascending => "ASC",
            Self::Descending => "DESC",
        }
    }

    /// The SQL comparison operator for later values.
    pub(crate) fn operator(self) -> &'static str {
        match self {
            Self::Ascending => ">",
            Self::Descending => "<",
        }
    }

    /// Applies the direction to an ordering.
    pub(crate) fn apply(self, ordering: std::cmp::Ordering) -> std::cmp::Ordering {
        match self {
            Self::Ascending => ordering,
            Self::Descending => ordering.reverse(),
        }
    }
}

/// A position in an ordered list: strictly after the given values of the order fields and, with an id, within those
/// values after that id. It must have one value for each order field, otherwise it is `Invalid`.
#[derive(Debug, Clone, PartialEq)]
pub struct Cursor {
    /// One value for each order field.
    pub values: Vec<Value>,
    /// The last row's id, to resume exactly; without it, every row that ties with the values is skipped. Required for a
    /// query without an order.
    pub id: Option<String>,
}

/// One page of results.
#[derive(Debug, Clone, PartialEq)]
pub struct Page {
    /// The rows, in order.
    pub rows: Vec<Row>,
    /// The cursor for the next page; `None` at the end.
    pub next: Option<Cursor>,
}

impl Query {
    /// All documents, by id.
    pub fn all() -> Self {
        Self::default()
    }

    /// Adds [`Filter::Equals`].
    pub fn equals(self, field: impl Into<String>, value: impl Into<Value>) -> Self {
        self.filter(Filter::equals(field, value))
    }

    /// Adds [`Filter::IsIn`].
    pub fn is_in<V: Into<Value>>(self, field: impl Into<String>, values: impl IntoIterator<Item = V>) -> Self {
        self.filter(Filter::is_in(field, values))
    }

    /// Adds [`Filter::StartsWith`].
    pub fn starts_with(self, field: impl Into<String>, prefix: impl Into<String>) -> Self {
        self.filter(Filter::starts_with(field, prefix))
    }

    /// Adds [`Filter::Intersects`].
    pub fn intersects<V: Into<Value>>(self, field: impl Into<String>, values: impl IntoIterator<Item = V>) -> Self {
        self.filter(Filter::intersects(field, values))
    }

    /// Adds a filter.
    pub fn filter(mut self, filter: Filter) -> Self {
        self.filters.push(filter);
        self
    }

    /// Adds an ascending order field.
    pub fn ascending(self, field: impl Into<String>) -> Self {
        self.order_by(field, Direction::Ascending)
    }

    /// Adds a descending order field.
    pub fn descending(self, field: impl Into<String>) -> Self {
        self.order_by(field, Direction::Descending)
    }

    /// Adds an order field.
    pub fn order_by(mut self, field: impl Into<String>, direction: Direction) -> Self {
        self.order.push(Order { field: field.into(), direction });
        self
    }

    /// Returns the rows in random order.
    pub fn shuffled(mut self) -> Self {
        self.shuffled = true;
        self
    }

    /// Limits the number of rows.
    pub fn limit(mut self, limit: u64) -> Self {
        self.limit = Some(limit);
        self
    }

    /// Continues after a cursor.
    pub fn after(mut self, cursor: Cursor) -> Self {
        self.after = Some(cursor);
        self
    }
}

impl Filter {
    /// See [`Filter::Equals`].
    pub fn equals(field: impl Into<String>, value: impl Into<Value>) -> Self {
        Self::Equals { field: field.into(), value: value.into() }
    }

    /// See [`Filter::IsIn`].
    pub fn is_in<V: Into<Value>>(field: impl Into<String>, values: impl IntoIterator<Item = V>) -> Self {
        Self::IsIn { field: field.into(), values: values.into_iter().map(Into::into).collect() }
    }

    /// See [`Filter::StartsWith`].
    pub fn starts_with(field: impl Into<String>, prefix: impl Into<String>) -> Self {
        Self::StartsWith { field: field.into(), prefix: prefix.into() }
    }

    /// See [`Filter::Contains`].
    pub fn contains(field: impl Into<String>, text: impl Into<String>) -> Self {
        Self::Contains { field: field.into(), text: text.into() }
    }

    /// See [`Filter::Intersects`].
    pub fn intersects<V: Into<Value>>(field: impl Into<String>, values: impl IntoIterator<Item = V>) -> Self {
        Self::Intersects { field: field.into(), values: values.into_iter().map(Into::into).collect() }
    }

    /// See [`Filter::Range`].
    pub fn range(field: impl Into<String>, from: Option<Value>, to: Option<Value>) -> Self {
        Self::Range { field: field.into(), from, to }
    }
}

impl Query {
    /// Validates the query, for all engines alike.
    pub(crate) fn check(&self) -> Result<()> {
        check_filters(&self.filters)?;
        if self.order.len() > MAX_ORDER_FIELDS {
            return Err(StoreError::Invalid(format!(
                "the order has {} fields; at most {MAX_ORDER_FIELDS} are allowed",
                self.order.len()
            )));
        }
        for order in &self.order {
            check_field(&order.field)?;
        }
        if self.shuffled && (self.after.is_some() || !self.order.is_empty()) {
            return Err(StoreError::Invalid("a shuffled query takes neither an order nor a cursor; omit both".into()));
        }
        self.after.as_ref().map_or(Ok(()), |cursor| cursor.check(&self.order))
    }
}

impl Cursor {
    fn check(&self, order: &[Order]) -> Result<()> {
        if self.values.len() != order.len() {
            return Err(StoreError::Invalid(format!(
                "the cursor has {} values for {} order fields; give one for each",
                self.values.len(),
                order.len()
            )));
        }
        match &self.id {
            None if order.is_empty() => {
                Err(StoreError::Invalid("a cursor without order fields needs the last row's id".into()))
            }
            Some(id) => key::refuse_nul(id),
            None => Ok(()),
        }
    }
}

/// Validates filters, for all engines alike.
pub(crate) fn check_filters(filters: &[Filter]) -> Result<()> {
    let (mut nodes, mut values) = (0, 0);
    filters.iter().try_for_each(|filter| filter.check(0, &mut nodes, &mut values))
}

impl Filter {
    fn check(&self, depth: usize, nodes: &mut usize, values: &mut usize) -> Result<()> {
        *nodes += 1;
        if *nodes > MAX_FILTERS {
            return Err(StoreError::Invalid(format!("the query has more than {MAX_FILTERS} filters; split it")));
        }
        match self {
            Self::Equals { field, .. } => check_field(field)?,
            Self::Range { field, .. } => check_field(field)?,
            Self::StartsWith { field, prefix: text } | Self::Contains { field, text } => {
                check_field(field)?;
                key::refuse_nul(text)?;
            }
            Self::IsIn { field, values: list } | Self::Intersects { field, values: list } => {
                check_field(field)?;
                *values += list.len();
                if *values > MAX_FILTER_VALUES {
                    return Err(StoreError::Invalid(format!(
                        "the filters up to the one on `{field}` have more than {MAX_FILTER_VALUES} values; split the query"
                    )));
                }
            }
            Self::Any(_) if depth == MAX_FILTER_DEPTH => {
                return Err(StoreError::Invalid(format!(
                    "filters are nested more than {MAX_FILTER_DEPTH} levels deep"
                )));
            }
            Self::Any(parts) => parts.iter().try_for_each(|part| part.check(depth + 1, nodes, values))?,
        }
        Ok(())
    }
}

/// Refuses a field name that is not a dotted path of at most eight plain names. The column names in SQL are made from
/// declared fields, which pass this check too; no other text gets into a statement.
pub(crate) fn check_field(field: &str) -> Result<()> {
    let plain = |name: &str| {
        name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
            && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
    };
    if field.split('.').count() <= 8 && field.split('.').all(plain) {
        return Ok(());
    }
    let shown: String = field.chars().take(100).collect();
    Err(StoreError::Invalid(format!(
        "`{}` cannot be a field name; use up to eight names of letters, digits and `_`, joined by dots",
        shown.escape_debug()
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn field_names_are_plain_dotted_paths() {
        for good in ["a", "_a", "aB9", "a.b", "a.b.c.d.e.f.g.h", "id"] {
            assert!(check_field(good).is_ok(), "{good}");
        }
        for bad in ["", ".", "a.", ".a", "a..b", "a.0", "9a", "a-b", "a b", "a'b", "a\"b", "é", "a.b.c.d.e.f.g.h.i"] {
            assert!(matches!(check_field(bad), Err(StoreError::Invalid(_))), "{bad}");
        }
    }
}
