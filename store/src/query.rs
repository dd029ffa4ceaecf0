//! A question to a collection as data: filters, order, limit and where to go on. The same on every engine; how it is
//! answered is the engine's.

use serde_json::Value;

use crate::{Result, Row, StoreError, key};

/// The most filters in one question, those within [`Filter::Any`] counted too.
pub const MOST_FILTERS: usize = 256;
/// The most values in one question, over all its filters.
pub const MOST_VALUES: usize = 10_000;
/// The most fields that decide the order of one answer.
pub const MOST_ORDERS: usize = 32;
/// How deep [`Filter::Any`] may be within itself.
const MOST_DEEP: usize = 8;

/// Which documents, in which order, and how many. Without a limit it means all; without an order, by id.
///
/// Values compare by type, then value: null or missing < false < true < numbers < text < arrays < objects. `1` equals
/// `1.0` and differs from `"1"` and `true`. Text compares by its UTF-8 bytes. Ties are broken by id, in the direction
/// of the last order. The field `id` is the document's id.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Query {
    /// All must hold.
    pub filters: Vec<Filter>,
    /// The first decides, the next breaks its ties; at most [`MOST_ORDERS`].
    pub order: Vec<Order>,
    /// In an order made up anew each time; then there is neither another order nor a place to go on from.
    pub shuffled: bool,
    /// At most so many rows; none means all.
    pub limit: Option<u64>,
    /// Only what comes after this place.
    pub after: Option<Cursor>,
}

/// What a document must have. A field is a dotted path of at most eight names, each of letters, digits and `_` and not
/// starting with a digit; any other is `Invalid`, and so are integers beyond 64 bits and more than [`MOST_FILTERS`] or
/// [`MOST_VALUES`]. Filters on declared fields are answered from the index, others by looking at every document that
/// passes the rest. Ignoring case means equal after `to_lowercase`.
#[derive(Debug, Clone, PartialEq)]
pub enum Filter {
    /// The field has this value. Null also means missing.
    Equals { field: String, value: Value },
    /// The field has one of these values; none at all finds nothing.
    IsIn { field: String, values: Vec<Value> },
    /// The field is at or above `from` and below `to`, in the order of values; one that is missing is no limit.
    Range { field: String, from: Option<Value>, to: Option<Value> },
    /// The field is text that starts so, ignoring case. Answered from an index on `lower(field)`.
    StartsWith { field: String, prefix: String },
    /// The field is text that has this in it, ignoring case. Looks at every document, or at an index on
    /// `lower(field)`, which is less to look at.
    Contains { field: String, text: String },
    /// The field is a list that holds one of these values; none at all finds nothing. Answered from
    /// [`Index::each`](crate::Index::each).
    Intersects { field: String, values: Vec<Value> },
    /// One of these holds; none at all finds nothing.
    Any(Vec<Filter>),
}

/// A field that decides the order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order {
    /// The dotted path.
    pub field: String,
    /// Which way.
    pub direction: Direction,
}

/// Which way an order goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// Smallest first.
    Ascending,
    /// Largest first.
    Descending,
}

impl Direction {
    /// The word of SQL.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Ascending => "ASC",
            Self::Descending => "DESC",
        }
    }

    /// How what comes later compares.
    pub(crate) fn sign(self) -> &'static str {
        match self {
            Self::Ascending => ">",
            Self::Descending => "<",
        }
    }

    /// An ordering seen this way.
    pub(crate) fn of(self, ordering: std::cmp::Ordering) -> std::cmp::Ordering {
        match self {
            Self::Ascending => ordering,
            Self::Descending => ordering.reverse(),
        }
    }
}

/// A place in an ordered list: strictly after the given values of the order fields and, with an id, within those
/// values after that id. As many values as order fields, else `Invalid`.
#[derive(Debug, Clone, PartialEq)]
pub struct Cursor {
    /// One value for each order field.
    pub values: Vec<Value>,
    /// The last row's id, to resume exactly; without it every row that ties with the values is passed over. A query
    /// without an order needs it.
    pub id: Option<String>,
}

/// A piece of an answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Page {
    /// The rows, in order.
    pub rows: Vec<Row>,
    /// Where to go on; none where this was the end.
    pub next: Option<Cursor>,
}

impl Query {
    /// Every document, by id.
    pub fn all() -> Self {
        Self::default()
    }

    /// And the field has this value.
    pub fn equals(self, field: impl Into<String>, value: impl Into<Value>) -> Self {
        self.filter(Filter::equals(field, value))
    }

    /// And the field has one of these values.
    pub fn is_in<V: Into<Value>>(self, field: impl Into<String>, values: impl IntoIterator<Item = V>) -> Self {
        self.filter(Filter::is_in(field, values))
    }

    /// And the field's text starts so, without regard to case.
    pub fn starts_with(self, field: impl Into<String>, prefix: impl Into<String>) -> Self {
        self.filter(Filter::starts_with(field, prefix))
    }

    /// And the field is a list that holds one of these values.
    pub fn intersects<V: Into<Value>>(self, field: impl Into<String>, values: impl IntoIterator<Item = V>) -> Self {
        self.filter(Filter::intersects(field, values))
    }

    /// And this holds.
    pub fn filter(mut self, filter: Filter) -> Self {
        self.filters.push(filter);
        self
    }

    /// Then smallest first by this field.
    pub fn ascending(self, field: impl Into<String>) -> Self {
        self.order_by(field, Direction::Ascending)
    }

    /// Then largest first by this field.
    pub fn descending(self, field: impl Into<String>) -> Self {
        self.order_by(field, Direction::Descending)
    }

    /// Then by this field.
    pub fn order_by(mut self, field: impl Into<String>, direction: Direction) -> Self {
        self.order.push(Order { field: field.into(), direction });
        self
    }

    /// In an order made up anew each time.
    pub fn shuffled(mut self) -> Self {
        self.shuffled = true;
        self
    }

    /// At most so many rows.
    pub fn limit(mut self, limit: u64) -> Self {
        self.limit = Some(limit);
        self
    }

    /// Only what comes after this place.
    pub fn after(mut self, cursor: Cursor) -> Self {
        self.after = Some(cursor);
        self
    }
}

impl Filter {
    /// The field has this value.
    pub fn equals(field: impl Into<String>, value: impl Into<Value>) -> Self {
        Self::Equals { field: field.into(), value: value.into() }
    }

    /// The field has one of these values.
    pub fn is_in<V: Into<Value>>(field: impl Into<String>, values: impl IntoIterator<Item = V>) -> Self {
        Self::IsIn { field: field.into(), values: values.into_iter().map(Into::into).collect() }
    }

    /// The field's text starts so, without regard to case.
    pub fn starts_with(field: impl Into<String>, prefix: impl Into<String>) -> Self {
        Self::StartsWith { field: field.into(), prefix: prefix.into() }
    }

    /// The field's text has this in it, without regard to case.
    pub fn contains(field: impl Into<String>, text: impl Into<String>) -> Self {
        Self::Contains { field: field.into(), text: text.into() }
    }

    /// The field is a list that holds one of these values.
    pub fn intersects<V: Into<Value>>(field: impl Into<String>, values: impl IntoIterator<Item = V>) -> Self {
        Self::Intersects { field: field.into(), values: values.into_iter().map(Into::into).collect() }
    }

    /// The field is at or above `from` and below `to`.
    pub fn range(field: impl Into<String>, from: Option<Value>, to: Option<Value>) -> Self {
        Self::Range { field: field.into(), from, to }
    }
}

impl Query {
    /// Refuses what no engine is to be asked.
    pub(crate) fn check(&self) -> Result<()> {
        check_filters(&self.filters)?;
        if self.order.len() > MOST_ORDERS {
            return Err(StoreError::Invalid(format!(
                "the order has {} fields; at most {MOST_ORDERS} can decide it",
                self.order.len()
            )));
        }
        for order in &self.order {
            check_field(&order.field)?;
        }
        if self.shuffled && (self.after.is_some() || !self.order.is_empty()) {
            return Err(StoreError::Invalid(
                "a shuffled answer has no other order and no place to go on from; leave out the cursor and the order"
                    .into(),
            ));
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

/// Refuses filters that no engine is to be asked.
pub(crate) fn check_filters(filters: &[Filter]) -> Result<()> {
    let (mut nodes, mut values) = (0, 0);
    filters.iter().try_for_each(|filter| filter.check(0, &mut nodes, &mut values))
}

impl Filter {
    fn check(&self, depth: usize, nodes: &mut usize, values: &mut usize) -> Result<()> {
        *nodes += 1;
        if *nodes > MOST_FILTERS {
            return Err(StoreError::Invalid(format!(
                "there are more than {MOST_FILTERS} filters; ask for less at once"
            )));
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
                if *values > MOST_VALUES {
                    return Err(StoreError::Invalid(format!(
                        "`{field}` and others are compared with more than {MOST_VALUES} values; ask for less at once"
                    )));
                }
            }
            Self::Any(_) if depth == MOST_DEEP => {
                return Err(StoreError::Invalid(format!(
                    "the filters are within each other more than {MOST_DEEP} deep"
                )));
            }
            Self::Any(parts) => parts.iter().try_for_each(|part| part.check(depth + 1, nodes, values))?,
        }
        Ok(())
    }
}

/// Refuses a field name that is not a dotted path of at most eight plain names. Column names are made from declared
/// fields alone, and these pass through here too, so nothing else ever stands in SQL.
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
