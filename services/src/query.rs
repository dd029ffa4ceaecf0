//! From the query object of the wire to the store's: what every service that takes one shares.

use openorch_api::{error::request, query as wire};
use openorch_chassis::{Error, Result};
use openorch_store::{Cursor, Direction, Filter, MOST_FILTERS, MOST_VALUES, Query};
use serde_json::Value;

/// The store's query for one of the wire. `usual` rows where it names no limit, `most` whatever it names.
pub fn from_wire(query: &wire::Query, usual: u64, most: u64) -> Result<Query> {
    let limit = match query.limit.unwrap_or_default() {
        0 => usual,
        limit => u64::try_from(limit).map_err(|_| Error::invalid("`limit` is below 0"))?,
    };
    if limit > most {
        return Err(Error::invalid(format!("`limit` is {limit}; at most {most} come in one answer, `next` goes on")));
    }
    let mut room = Room { filters: MOST_FILTERS, values: MOST_VALUES };
    let filters = query.filters.iter().map(|filter| self::filter(filter, &mut room)).collect::<Result<_>>()?;
    let mut asked = Query { filters, ..Query::all() }.limit(limit);
    for order in &query.order_bys {
        if order.randomize {
            asked = asked.shuffled();
            continue;
        }
        let direction = if order.desc { Direction::Descending } else { Direction::Ascending };
        asked = asked.order_by(field(&order.field), direction);
    }
    let after = place(query, asked.order.len())?;
    Ok(Query { after, ..asked })
}

/// Where to go on in an order of so many fields, if the query says.
pub fn place(query: &wire::Query, fields: usize) -> Result<Option<Cursor>> {
    query.after().map_err(Error::invalid)?.map(|values| cursor(values, fields)).transpose()
}

/// The same of a list in one order, which takes the `next` of an answer as `after`.
pub fn place_of(next: Option<String>) -> Result<Option<Cursor>> {
    place_after(next, 1)
}

/// The same of a list in the order of its ids.
pub fn place_by_id(next: Option<String>) -> Result<Option<Cursor>> {
    place_after(next, 0)
}

fn place_after(next: Option<String>, fields: usize) -> Result<Option<Cursor>> {
    let query = wire::Query { json_after: next.unwrap_or_default(), ..wire::Query::default() };
    match place(&query, fields) {
        Ok(None) => Ok(None),
        Ok(Some(place)) if place.id.is_some() => Ok(Some(place)),
        _ => Err(Error::invalid("`after` is the `next` of the answer before")),
    }
}

/// What piece of a list is asked for, where a list may also be asked for whole.
pub struct Paging {
    /// Most entries of the answer.
    pub limit: usize,
    /// A list asked for whole is refused where it is longer than `limit`, a page is not.
    pub is_page: bool,
    /// The `next` of the page before.
    pub after: Option<String>,
}

/// Entries of a page whose request names none.
const PAGE: usize = 1000;

impl Paging {
    /// Without a limit and a place the whole list is asked for, which has at most `max_unpaged_list` entries.
    pub fn new(limit: Option<i64>, after: Option<String>, max_unpaged_list: usize) -> Result<Paging> {
        let after = after.filter(|after| !after.is_empty());
        let most = PAGE.min(max_unpaged_list);
        let limit = match limit.unwrap_or_default() {
            0 if after.is_none() => return Ok(Paging { limit: max_unpaged_list, is_page: false, after }),
            0 => most,
            limit => usize::try_from(limit)
                .ok()
                .filter(|limit| *limit <= most)
                .ok_or_else(|| Error::invalid(format!("`limit` is from 1 to {most}; `next` goes on")))?,
        };
        Ok(Paging { limit, is_page: true, after })
    }

    /// Refuses a whole list that is longer than may be answered at once.
    pub fn refuse_long(&self, length: usize, of: &str, way_out: &str) -> Result<()> {
        if !self.is_page && length > self.limit {
            return Err(Error::new(
                &request::LIST_TOO_LONG,
                format!(
                    "there are more than {} {of}; {way_out}, and go on with the `next` of each answer as `after`",
                    self.limit
                ),
            ));
        }
        Ok(())
    }

    /// The piece of a list that is in memory, ordered by unique keys; and the place of what follows, empty at the end.
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
                _ => return Err(Error::invalid("`after` is the `next` of the answer before")),
            },
        };
        let is_asked = |key: &[&str; N]| {
            after.as_ref().is_none_or(|after| key.iter().copied().gt(after.iter().map(String::as_str)))
        };
        let mut found: Vec<_> = items.filter(|(key, _)| is_asked(key)).collect();
        self.refuse_long(found.len(), of, way_out)?;
        let goes_on = found.len() > self.limit;
        if goes_on {
            found.select_nth_unstable_by(self.limit, |a, b| a.0.cmp(&b.0));
            found.truncate(self.limit);
        }
        found.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        let next = found.last().filter(|_| goes_on).map(|(key, _)| Value::from(key.to_vec()).to_string());
        Ok((found.into_iter().map(|(_, item)| item).collect(), next.unwrap_or_default()))
    }
}

/// As many values as order fields: strictly after them. One more, the last row's id: exactly after that row.
fn cursor(mut values: Vec<Value>, fields: usize) -> Result<Cursor> {
    if values.len() != fields + 1 {
        return Ok(Cursor { values, id: None });
    }
    match values.pop() {
        Some(Value::String(id)) => Ok(Cursor { values, id: Some(id) }),
        _ => Err(Error::invalid("the last value of `jsonAfter` is the last row's id, which is text")),
    }
}

/// A cursor as `jsonAfter` takes it.
pub fn to_wire(cursor: &Cursor) -> String {
    let values: Vec<Value> = cursor.values.iter().cloned().chain(cursor.id.clone().map(Value::String)).collect();
    Value::Array(values).to_string()
}

/// What a query may still hold. Counted before anything is built: a filter over many fields compares each of them with
/// all its values, so a short text could otherwise become a very large query.
struct Room {
    filters: usize,
    values: usize,
}

impl Room {
    /// Takes the place of filters over `fields` fields with `values` values each.
    fn take(&mut self, fields: usize, values: usize) -> Result<()> {
        let too_many = |most: usize, of: &str| {
            Error::invalid(format!(
                "the query has more than {most} {of}, each field of a filter counted by itself; ask for less at once"
            ))
        };
        self.filters = self.filters.checked_sub(fields).ok_or_else(|| too_many(MOST_FILTERS, "filters"))?;
        let values = fields.saturating_mul(values);
        self.values = self.values.checked_sub(values).ok_or_else(|| too_many(MOST_VALUES, "values"))?;
        Ok(())
    }
}

fn filter(filter: &wire::Filter, room: &mut Room) -> Result<Filter> {
    if filter.op == wire::Op::Or {
        room.take(1, 0)?;
        let inner = filter.filters.iter().map(|inner| self::filter(inner, room));
        return Ok(Filter::Any(inner.collect::<Result<_>>()?));
    }
    let values = filter.values(room.values).map_err(Error::invalid)?;
    if filter.fields.is_empty() {
        return Err(Error::invalid("a filter names no `fields`"));
    }
    room.take(filter.fields.len(), values.len())?;
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
        other => Err(Error::invalid(format!("`{other}` is no text, and only text starts with or contains text"))),
    };
    Ok(match op {
        wire::Op::Equals => {
            let value = first()?;
            let held = Filter::Intersects { field: field.clone(), values: vec![value.clone()] };
            Filter::Any(vec![Filter::Equals { field, value }, held])
        }
        wire::Op::ContainsSubstring => Filter::contains(field, text()?),
        wire::Op::StartsWith => Filter::starts_with(field, text()?),
        wire::Op::Intersects => Filter::Intersects { field, values: values.to_vec() },
        wire::Op::IsInList => Filter::IsIn { field, values: values.to_vec() },
        wire::Op::Or => Filter::Any(Vec::new()),
    })
}

/// The first letter of each field name is lower-cased.
fn field(path: &str) -> String {
    let small = |name: &str| {
        let mut letters = name.chars();
        letters.next().map_or_else(String::new, |first| first.to_ascii_lowercase().to_string() + letters.as_str())
    };
    path.split('.').map(small).collect::<Vec<_>>().join(".")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn asked(value: Value) -> Result<Query> {
        from_wire(&serde_json::from_value(value).unwrap(), 20, 1000)
    }

    fn list_of(values: usize) -> String {
        json!(vec![1; values]).to_string()
    }

    #[test]
    fn both_spellings_mean_the_same() {
        let old = asked(json!({ "filters": [{ "op": "startsWith", "fields": ["Name"], "jsonValues": "[\"a\"]" }],
            "orderBys": [{ "field": "CreatedAt", "desc": true }], "jsonAfter": "[\"t\",\"id\"]" }));
        let new = asked(json!({ "filters": [{ "op": "startsWith", "fields": ["name"], "valuesJson": "[\"a\"]" }],
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
            assert!(asked(query.clone()).is_err(), "{query}");
        }
    }
}
