//! Converts the query object of the API to the store's, for all services that accept one.

use openorch_api::{error::request, query as wire};
use openorch_chassis::{Error, Result};
use openorch_store::{Cursor, Direction, Filter, MAX_FILTER_VALUES, MAX_FILTERS, Query};
use serde_json::Value;

/// The store's query for a query of the API. `default_limit` is the limit if the query has none, `max_limit` the maximum limit.
pub fn from_wire(query: &wire::Query, default_limit: u64, max_limit: u64) -> Result<Query> {
    let limit = match query.limit.unwrap_or_default() {
        0 => default_limit,
        limit => u64::try_from(limit).map_err(|_| Error::invalid("`limit` is below 0"))?,
    };
    if limit > max_limit {
        return Err(Error::invalid(format!(
            "`limit` is {limit}; the maximum is {max_limit}; continue with the returned `next`"
        )));
    }
    let mut budget = QueryBudget { filters: MAX_FILTERS, values: MAX_FILTER_VALUES };
    let filters = query.filters.iter().map(|filter| self::filter(filter, &mut budget)).collect::<Result<_>>()?;
    let mut store_query = Query { filters, ..Query::all() }.limit(limit);
    for order in &query.order_bys {
        if order.randomize {
            store_query = store_query.shuffled();
            continue;
        }
        let direction = if order.desc { Direction::Descending } else { Direction::Ascending };
        store_query = store_query.order_by(field(&order.field), direction);
    }
    let after = cursor_of(query, store_query.order.len())?;
    Ok(Query { after, ..store_query })
}

/// The cursor of a query ordered by `fields` fields, if it has one.
pub fn cursor_of(query: &wire::Query, fields: usize) -> Result<Option<Cursor>> {
    query.after().map_err(Error::invalid)?.map(|values| cursor(values, fields)).transpose()
}

/// The cursor of a list ordered by one field, whose `after` is the `next` of the previous response.
pub fn cursor_by_field(next: Option<String>) -> Result<Option<Cursor>> {
    parse_cursor(next, 1)
}

/// The cursor of a list ordered by id.
pub fn cursor_by_id(next: Option<String>) -> Result<Option<Cursor>> {
    parse_cursor(next, 0)
}

fn parse_cursor(next: Option<String>, fields: usize) -> Result<Option<Cursor>> {
    let query = wire::Query { json_after: next.unwrap_or_default(), ..wire::Query::default() };
    match cursor_of(&query, fields) {
        Ok(None) => Ok(None),
        Ok(Some(place)) if place.id.is_some() => Ok(Some(place)),
        _ => Err(Error::invalid("`after` must be the `next` of the previous response")),
    }
}

/// The page of a list that is requested, for lists that may also be requested whole.
pub struct Paging {
    /// Maximum number of entries in the response.
    pub limit: usize,
    /// A whole list longer than `limit` is refused; a page is cut and continued.
    pub is_page: bool,
    /// The `next` of the previous page.
    pub after: Option<String>,
}

/// Default page size.
const DEFAULT_PAGE_SIZE: usize = 1000;

impl Paging {
    /// Without a limit and a cursor, the whole list is requested, which may have at most `max_unpaged_list` entries.
    pub fn new(limit: Option<i64>, after: Option<String>, max_unpaged_list: usize) -> Result<Paging> {
        let after = after.filter(|after| !after.is_empty());
        let max_limit = DEFAULT_PAGE_SIZE.min(max_unpaged_list);
        let limit = match limit.unwrap_or_default() {
            0 if after.is_none() => return Ok(Paging { limit: max_unpaged_list, is_page: false, after }),
            0 => max_limit,
            limit => usize::try_from(limit).ok().filter(|limit| *limit <= max_limit).ok_or_else(|| {
                Error::invalid(format!("`limit` must be from 1 to {max_limit}; continue with the returned `next`"))
            })?,
        };
        Ok(Paging { limit, is_page: true, after })
    }

    /// Refuses a whole list that is too long for one response.
    pub fn check_length(&self, length: usize, of: &str, remedy: &str) -> Result<()> {
        if !self.is_page && length > self.limit {
            return Err(Error::new(
                &request::LIST_TOO_LONG,
                format!(
                    "there are more than {} {of}; {remedy}, and send the `next` of each response as `after`",
                    self.limit
                ),
            ));
        }
        Ok(())
    }

    /// The requested page of a list in memory, ordered by unique keys, and the cursor of the next page; empty on the
    /// last.
    pub fn page<'a, T, const N: usize>(
        &self,
        items: impl Iterator<Item = ([&'a str; N], T)>,
        of: &str,
        way_out: &str,
    ) -> Result<(Vec<T>, String)> {
        let after: Option<Vec<String>> = match &self.after {
            None => None,
            Some(text) => match serde_json::from_str::<Vec<String>>(text) {
                Ok(place) if place.len() == N => Some(place),
                _ => return Err(Error::invalid("`after` must be the `next` of the previous response")),
            },
        };
        let is_after_cursor = |key: &[&str; N]| {
            after.as_ref().is_none_or(|after| key.iter().copied().gt(after.iter().map(String::as_str)))
        };
        let mut found: Vec<_> = items.filter(|(key, _)| is_after_cursor(key)).collect();
        self.check_length(found.len(), of, way_out)?;
        let has_more = found.len() > self.limit;
        if has_more {
            found.select_nth_unstable_by(self.limit, |a, b| a.0.cmp(&b.0));
            found.truncate(self.limit);
        }
        found.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        let next = found.last().filter(|_| has_more).map(|(key, _)| Value::from(key.to_vec()).to_string());
        Ok((found.into_iter().map(|(_, item)| item).collect(), next.unwrap_or_default()))
    }
}

/// With as many values as order fields, the results are strictly after them. One more value is the id of the last row,
/// and the results are exactly after that row.
fn cursor(mut values: Vec<Value>, fields: usize) -> Result<Cursor> {
    if values.len() != fields + 1 {
        return Ok(Cursor { values, id: None });
    }
    match values.pop() {
        Some(Value::String(id)) => Ok(Cursor { values, id: Some(id) }),
        _ => Err(Error::invalid("the last value of `jsonAfter` is the last row's id, which is text")),
    }
}

/// Formats a cursor as `jsonAfter`.
pub fn to_wire(cursor: &Cursor) -> String {
    let values: Vec<Value> = cursor.values.iter().cloned().chain(cursor.id.clone().map(Value::String)).collect();
    Value::Array(values).to_string()
}

/// The remaining budget of a query. It is checked before anything is built: a filter compares each of its fields with
/// all its values, so a short request could otherwise become a very large query.
struct QueryBudget {
    filters: usize,
    values: usize,
}

impl QueryBudget {
    /// Spends the budget of filters over `fields` fields with `values` values each.
    fn spend(&mut self, fields: usize, values: usize) -> Result<()> {
        let too_many = |most: usize, of: &str| {
            Error::invalid(format!(
                "the query has more than {most} {of}, where each field of a filter counts separately; split it into \
                 several queries"
            ))
        };
        self.filters = self.filters.checked_sub(fields).ok_or_else(|| too_many(MAX_FILTERS, "filters"))?;
        let values = fields.saturating_mul(values);
        self.values = self.values.checked_sub(values).ok_or_else(|| too_many(MAX_FILTER_VALUES, "values"))?;
        Ok(())
    }
}

fn filter(filter: &wire::Filter, budget: &mut QueryBudget) -> Result<Filter> {
    if filter.op == wire::Op::Or {
        budget.spend(1, 0)?;
        let inner = filter.filters.iter().map(|inner| self::filter(inner, budget));
        return Ok(Filter::Any(inner.collect::<Result<_>>()?));
    }
    let values = filter.values(budget.values).map_err(Error::invalid)?;
    if filter.fields.is_empty() {
        return Err(Error::invalid("a filter names no `fields`"));
    }
    budget.spend(filter.fields.len(), values.len())?;
    let mut by_field = filter.fields.iter().map(|name| of_field(filter.op, field(name), &values));
    match (by_field.next(), filter.fields.len()) {
        (Some(only), 1) => only,
        (first, _) => Ok(Filter::Any(first.into_iter().chain(by_field).collect::<Result<_>>()?)),
    }
}

fn of_field(op: wire::Op, field: String, values: &[Value]) -> Result<Filter> {
    let first = || values.first().cloned().ok_or_else(|| Error::invalid("a filter has no value in `jsonValues`"));
    let text = || match first()? {
        Value::String(text) => Ok(text),
        other => {
            Err(Error::invalid(format!("`{other}` is not a string; `startsWith` and `containsSubstring` take strings")))
        }
    };
    Ok(match op {
        wire::Op::Equals => {
            let value = first()?;
            let list_contains = Filter::Intersects { field: field.clone(), values: vec![value.clone()] };
            Filter::Any(vec![Filter::Equals { field, value }, list_contains])
        }
        wire::Op::ContainsSubstring => Filter::contains(field, text()?),
        wire::Op::StartsWith => Filter::starts_with(field, text()?),
        wire::Op::Intersects => Filter::Intersects { field, values: values.to_vec() },
        wire::Op::IsInList => Filter::IsIn { field, values: values.to_vec() },
        wire::Op::Or => Filter::Any(Vec::new()),
    })
}

/// The first letter of each field name is lower-cased (contract, `services.md` 1.2).
fn field(path: &str) -> String {
    let lower_first = |name: &str| {
        let mut letters = name.chars();
        letters.next().map_or_else(String::new, |first| first.to_ascii_lowercase().to_string() + letters.as_str())
    };
    path.split('.').map(lower_first).collect::<Vec<_>>().join(".")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn parse(value: Value) -> Result<Query> {
        from_wire(&serde_json::from_value(value).unwrap(), 20, 1000)
    }

    fn list_of(values: usize) -> String {
        json!(vec![1; values]).to_string()
    }

    #[test]
    fn both_spellings_mean_the_same() {
        let old = parse(json!({ "filters": [{ "op": "startsWith", "fields": ["Name"], "jsonValues": "[\"a\"]" }],
            "orderBys": [{ "field": "CreatedAt", "desc": true }], "jsonAfter": "[\"t\",\"id\"]" }));
        let new = parse(json!({ "filters": [{ "op": "startsWith", "fields": ["name"], "valuesJson": "[\"a\"]" }],
            "orderBys": [{ "field": "createdAt", "desc": true }], "afterJson": "[\"t\",\"id\"]", "limit": 20 }));
        let want = Query::all().filter(Filter::starts_with("name", "a")).descending("createdAt").limit(20);
        let want = want.after(Cursor { values: vec![json!("t")], id: Some("id".into()) });
        assert_eq!((old.unwrap(), new.unwrap()), (want.clone(), want.clone()));
        assert_eq!(to_wire(want.after.as_ref().unwrap()), "[\"t\",\"id\"]");
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        for query in [
            json!({ "limit": -1 }),
            json!({ "limit": 1001 }),
            json!({ "filters": [{ "op": "equals", "fields": ["a"], "jsonValues": "[]" }] }),
            json!({ "filters": [{ "op": "equals", "fields": ["a"] }] }),
            json!({ "filters": [{ "op": "equals", "jsonValues": "[1]" }] }),
            json!({ "filters": [{ "op": "startsWith", "fields": ["a"], "jsonValues": "[1]" }] }),
            json!({ "orderBys": [{ "field": "a" }], "jsonAfter": "[1,2]" }),
            json!({ "jsonAfter": "1" }),
            json!({ "filters": [{ "op": "equals", "fields": vec!["a"; 257], "jsonValues": "[1]" }] }),
            json!({ "filters": [{ "op": "isInList", "fields": vec!["a"; 200], "jsonValues": list_of(100) }] }),
            json!({ "filters": vec![json!({ "op": "isInList", "fields": ["a"], "jsonValues": list_of(6000) }); 2] }),
            json!({ "filters": [{ "op": "isInList", "fields": ["a"], "jsonValues": list_of(10_001) }] }),
        ] {
            assert!(parse(query.clone()).is_err(), "{query}");
        }
    }
}
