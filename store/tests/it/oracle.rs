//! The oracle: a naive store that defines the expected results. Everything is in a map, and every query scans it.
//! Shares no code with the engines, so that they can be compared with it.

use std::{
    cmp::Ordering,
    collections::BTreeMap,
    path::Path,
    sync::{Arc, Mutex},
    time::SystemTime,
};

use openorch_store::{
    Batch, BoxFuture, Collection, Committed, Cursor, Direction, Filter, Guard, Index, MAX_FILTER_VALUES, MAX_FILTERS,
    MAX_ORDER_FIELDS, MAX_ROWS_AFFECTED, Notes, Page, Query, Result, Row, RowStream, Store, StoreError, Write,
};
use serde_json::Value;

const DOCUMENT_LIMIT: usize = 4 * 1024 * 1024;

#[derive(Default)]
pub struct MemStore(Mutex<State>);

#[derive(Clone, Default)]
struct State {
    collections: BTreeMap<&'static str, Data>,
    version: u64,
    seeded: bool,
    closed: bool,
}

#[derive(Clone)]
struct Data {
    declared: Collection,
    rows: BTreeMap<String, (u64, Box<str>)>,
}

impl MemStore {
    pub fn open() -> Arc<dyn Store> {
        Arc::new(Self::default())
    }

    fn with<T>(&self, work: impl FnOnce(&mut State) -> Result<T>) -> BoxFuture<'_, Result<T>>
    where
        T: Send + 'static,
    {
        let mut state = self.0.lock().unwrap();
        let answer = if state.closed { Err(unavailable()) } else { work(&mut state) };
        Box::pin(async move { answer })
    }
}

fn unavailable() -> StoreError {
    StoreError::Unavailable("the store is closed".into())
}

impl Store for MemStore {
    fn open_collections<'a>(&'a self, collections: &'a [Collection]) -> BoxFuture<'a, Result<()>> {
        self.with(|state| {
            let mut next = state.clone();
            for declared in collections {
                let data = next.collections.entry(declared.name);
                data.or_insert(Data { declared: *declared, rows: BTreeMap::new() }).declared = *declared;
                let data = &next.collections[declared.name];
                for (id, (_, body)) in &data.rows {
                    if let Some(index) = data.broken(id, &parse(body)) {
                        let fields = index.fields.join(",");
                        return Err(StoreError::AlreadyExists(format!(
                            "documents of {} have the same {fields}, which was declared unique",
                            declared.name
                        )));
                    }
                }
            }
            *state = next;
            Ok(())
        })
    }

    fn get<'a>(&'a self, collection: &'a str, id: &'a str) -> BoxFuture<'a, Result<Option<Row>>> {
        self.with(|state| Ok(state.data(collection)?.row(id)))
    }

    fn find<'a>(&'a self, collection: &'a str, query: &'a Query) -> BoxFuture<'a, Result<Page>> {
        self.with(|state| state.data(collection)?.find(query))
    }

    fn stream<'a>(&'a self, collection: &'a str, query: &'a Query) -> BoxFuture<'a, Result<RowStream>> {
        self.with(|state| Ok(RowStream::from_rows(state.data(collection)?.find(query)?.rows)))
    }

    fn count<'a>(&'a self, collection: &'a str, filters: &'a [Filter]) -> BoxFuture<'a, Result<u64>> {
        self.with(|state| Ok(state.data(collection)?.matching(filters)?.len() as u64))
    }

    fn commit(&self, batch: Batch) -> BoxFuture<'_, Result<Committed>> {
        self.with(|state| {
            for write in &batch.0 {
                state.check(write)?;
            }
            let mut next = state.clone();
            next.version += 1;
            let touched = batch.0.iter().map(|write| next.apply(write)).collect::<Result<Vec<_>>>()?;
            if touched.iter().all(|touched| *touched == 0) {
                return Ok(Committed { version: 0, rows_affected: touched });
            }
            let version = next.version;
            *state = next;
            Ok(Committed { version, rows_affected: touched })
        })
    }

    fn back_up<'a>(&'a self, _: &'a Path, _: &'a Notes) -> BoxFuture<'a, Result<u64>> {
        let none = StoreError::Invalid("the oracle has no backup format".into());
        Box::pin(async move { Err(none) })
    }

    fn mark_seeded(&self) -> BoxFuture<'_, Result<()>> {
        self.with(|state| {
            state.seeded = true;
            Ok(())
        })
    }

    fn is_seeded(&self) -> bool {
        self.0.lock().unwrap().seeded
    }

    fn database_id(&self) -> &str {
        "00000000000000000000000000000000"
    }

    fn ready(&self) -> BoxFuture<'_, Result<()>> {
        self.with(|_| Ok(()))
    }

    fn server_time(&self) -> BoxFuture<'_, Result<Option<SystemTime>>> {
        self.with(|_| Ok(None))
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        self.0.lock().unwrap().closed = true;
        Box::pin(async {})
    }
}

impl State {
    fn data(&self, collection: &str) -> Result<&Data> {
        let unknown = || StoreError::Internal(format!("the collection {collection} was not opened"));
        self.collections.get(collection).ok_or_else(unknown)
    }

    /// Validation, before any document is read.
    fn check(&self, write: &Write) -> Result<()> {
        let document = |collection: &str, id: &str, body: &str| {
            if id.is_empty() || id.len() > 512 || id.contains('\0') {
                let text = format!("an id of {collection} must have 1 to 512 bytes and no NUL");
                return Err(StoreError::Invalid(text));
            }
            check_body(collection, id, body)?;
            self.data(collection).map(drop)
        };
        let filters = |collection: &str, filters: &[Filter]| {
            self.data(collection)?;
            check_query(&Query { filters: filters.to_vec(), ..Query::default() })
        };
        match write {
            Write::Create { collection, id, body }
            | Write::Replace { collection, id, body, .. }
            | Write::Upsert { collection, id, body } => document(collection, id, body),
            Write::ReplaceWhere { collection, filters: f, body } => {
                filters(collection, f)?;
                check_body(collection, "*", body)
            }
            Write::UpsertWhere { collection, filters: f, id, body } => {
                document(collection, id, body)?;
                filters(collection, f)
            }
            Write::UpdateFields { collection, filters: f, fields } => {
                for (field, _) in fields {
                    if field == "id" {
                        return Err(StoreError::Invalid("the id of a document cannot be changed".into()));
                    }
                    check_field(field)?;
                }
                filters(collection, f)
            }
            Write::DeleteWhere { collection, filters: f }
            | Write::Require(Guard::Count { collection, filters: f, .. }) => filters(collection, f),
            Write::Delete { collection, .. }
            | Write::Require(
                Guard::Absent { collection, .. } | Guard::Exists { collection, .. } | Guard::Version { collection, .. },
            ) => self.data(collection).map(drop),
        }
    }

    fn apply(&mut self, write: &Write) -> Result<u64> {
        let version = self.version;
        let (Write::Create { collection, .. }
        | Write::Replace { collection, .. }
        | Write::Upsert { collection, .. }
        | Write::Delete { collection, .. }
        | Write::ReplaceWhere { collection, .. }
        | Write::UpsertWhere { collection, .. }
        | Write::UpdateFields { collection, .. }
        | Write::DeleteWhere { collection, .. }
        | Write::Require(
            Guard::Absent { collection, .. }
            | Guard::Exists { collection, .. }
            | Guard::Version { collection, .. }
            | Guard::Count { collection, .. },
        )) = write;
        let name = *collection;
        let Some(data) = self.collections.get_mut(name) else { return self.data(name).map(|_| 0) };
        let missing = |id: &str| StoreError::NotFound(format!("`{id}` is not in {name}"));
        let conflict = |id: &str, what: &str| StoreError::Conflict(format!("`{id}` of {name} {what}"));
        match write {
            Write::Create { id, body, .. } => data.create(id, body, version),
            Write::Upsert { id, body, .. } => data.put(id, body, version),
            Write::Replace { id, body, version: wanted, .. } => match (data.rows.get(id), wanted) {
                (None, _) => Err(missing(id)),
                (Some((found, _)), Some(wanted)) if found != wanted => Err(conflict(id, "has been changed")),
                _ => data.put(id, body, version),
            },
            Write::Delete { id, version: wanted, .. } => match (data.rows.get(id), wanted) {
                (None, _) => Err(missing(id)),
                (Some((found, _)), Some(wanted)) if found != wanted => Err(conflict(id, "has been changed")),
                _ => Ok(data.rows.remove(id).map_or(0, |_| 1)),
            },
            Write::ReplaceWhere { filters, body, .. } => data.replace_where(filters, body, version),
            Write::UpsertWhere { filters, id, body, .. } => match data.replace_where(filters, body, version)? {
                0 => data.create(id, body, version),
                touched => Ok(touched),
            },
            Write::UpdateFields { filters, fields, .. } => {
                let found = data.find_matches(filters)?;
                for row in &found {
                    let mut document = parse(&row.body);
                    for (field, value) in fields {
                        set(&mut document, field, value)?;
                    }
                    let body = document.to_string();
                    check_body(name, &row.id, &body)?;
                    data.put(&row.id, &body, version)?;
                }
                Ok(found.len() as u64)
            }
            Write::DeleteWhere { filters, .. } => {
                let found = data.find_matches(filters)?;
                for row in &found {
                    data.rows.remove(&row.id);
                }
                Ok(found.len() as u64)
            }
            Write::Require(Guard::Absent { id, .. }) => match data.rows.get(id) {
                None => Ok(0),
                Some(_) => Err(conflict(id, "already exists")),
            },
            Write::Require(Guard::Exists { id, .. }) => match data.rows.get(id) {
                Some(_) => Ok(0),
                None => Err(conflict(id, "does not exist")),
            },
            Write::Require(Guard::Version { id, version, .. }) => match data.rows.get(id) {
                Some((found, _)) if found == version => Ok(0),
                Some(_) => Err(conflict(id, "has been changed")),
                None => Err(conflict(id, "does not exist")),
            },
            Write::Require(Guard::Count { filters, at_least, at_most, .. }) => {
                let count = data.matching(filters)?.len() as u64;
                if count < *at_least {
                    let text = format!("{name} has {count} such documents and must have at least {at_least}");
                    return Err(StoreError::Conflict(text));
                }
                if count > *at_most {
                    return Err(StoreError::Conflict(format!("{name} has more than {at_most} such documents")));
                }
                Ok(0)
            }
        }
    }
}

impl Data {
    fn row(&self, id: &str) -> Option<Row> {
        let (version, body) = self.rows.get(id)?;
        Some(Row { id: id.into(), version: *version, body: body.clone() })
    }

    fn create(&mut self, id: &str, body: &str, version: u64) -> Result<u64> {
        if self.rows.contains_key(id) {
            return Err(StoreError::AlreadyExists(format!("`{id}` is already in {}", self.declared.name)));
        }
        self.put(id, body, version)
    }

    fn put(&mut self, id: &str, body: &str, version: u64) -> Result<u64> {
        if let Some(index) = self.broken(id, &parse(body)) {
            let fields = index.fields.join(",");
            let text = format!("another document of {} has the same {fields}", self.declared.name);
            return Err(StoreError::AlreadyExists(text));
        }
        self.rows.insert(id.into(), (version, body.into()));
        Ok(1)
    }

    fn replace_where(&mut self, filters: &[Filter], body: &str, version: u64) -> Result<u64> {
        let found = self.find_matches(filters)?;
        for row in &found {
            self.put(&row.id, body, version)?;
        }
        Ok(found.len() as u64)
    }

    fn find_matches(&self, filters: &[Filter]) -> Result<Vec<Row>> {
        let found = self.matching(filters)?;
        if found.len() > MAX_ROWS_AFFECTED {
            return Err(StoreError::Invalid("too many".into()));
        }
        Ok(found)
    }

    /// The first unique index that a document would violate.
    fn broken(&self, id: &str, document: &Value) -> Option<&Index> {
        let values = |index: &Index, id: &str, document: &Value| -> Vec<Value> {
            let one = |field: &&str| match field.strip_prefix("lower(").and_then(|rest| rest.strip_suffix(')')) {
                Some(field) => match field_of(document, id, field) {
                    Value::String(text) => text.to_lowercase().into(),
                    _ => Value::Null,
                },
                None => field_of(document, id, field),
            };
            index.fields.iter().map(one).collect()
        };
        self.declared.indexes.iter().filter(|index| index.unique).find(|index| {
            let mine = values(index, id, document);
            let is_same = |(other, (_, body)): (&String, &(u64, Box<str>))| {
                other != id
                    && values(index, other, &parse(body))
                        .iter()
                        .zip(&mine)
                        .all(|(theirs, mine)| compare(theirs, mine) == Ordering::Equal)
            };
            !mine.contains(&Value::Null) && self.rows.iter().any(is_same)
        })
    }

    fn matching(&self, filters: &[Filter]) -> Result<Vec<Row>> {
        check_query(&Query { filters: filters.to_vec(), ..Query::default() })?;
        let passes = |row: &Row| {
            let document = parse(&row.body);
            filters.iter().all(|filter| holds(filter, &row.id, &document))
        };
        Ok(self.rows.keys().filter_map(|id| self.row(id)).filter(passes).collect())
    }

    fn find(&self, query: &Query) -> Result<Page> {
        check_query(query)?;
        let mut rows = self.matching(&query.filters)?;
        let values = |row: &Row| -> Vec<Value> {
            let document = parse(&row.body);
            query.order.iter().map(|order| field_of(&document, &row.id, &order.field)).collect()
        };
        let way = |direction: Direction, ordering: Ordering| match direction {
            Direction::Ascending => ordering,
            Direction::Descending => ordering.reverse(),
        };
        let by_values = |a: &[Value], b: &[Value]| {
            let pairs = a.iter().zip(b).zip(&query.order);
            pairs.fold(Ordering::Equal, |sofar, ((a, b), order)| sofar.then(way(order.direction, compare(a, b))))
        };
        let last = query.order.last().map_or(Direction::Ascending, |order| order.direction);
        let by_id = |a: &str, b: &str| way(last, a.cmp(b));
        rows.sort_by(|a, b| by_values(&values(a), &values(b)).then(by_id(&a.id, &b.id)));
        if let Some(cursor) = &query.after {
            rows.retain(|row| match by_values(&values(row), &cursor.values) {
                Ordering::Greater => true,
                Ordering::Equal => cursor.id.as_ref().is_some_and(|id| by_id(&row.id, id).is_gt()),
                Ordering::Less => false,
            });
        }
        let mut next = None;
        if let Some(limit) = query.limit
            && (rows.len() as u64) > limit
        {
            rows.truncate(limit as usize);
            next = rows.last().map(|row| Cursor { values: values(row), id: Some(row.id.clone()) });
        }
        Ok(Page { rows, next: next.filter(|_| !query.shuffled) })
    }
}

fn parse(body: &str) -> Value {
    serde_json::from_str(body).unwrap()
}

fn field_of(document: &Value, id: &str, path: &str) -> Value {
    if path == "id" {
        return id.into();
    }
    path.split('.').try_fold(document, |value, name| value.get(name)).cloned().unwrap_or(Value::Null)
}

fn set(document: &mut Value, path: &str, value: &Value) -> Result<()> {
    let (first, rest) = path.split_once('.').map_or((path, None), |(first, rest)| (first, Some(rest)));
    if document.is_null() {
        *document = Value::Object(serde_json::Map::new());
    }
    let Value::Object(fields) = document else { return Err(StoreError::Invalid("something is in the way".into())) };
    match rest {
        None => drop(fields.insert(first.into(), value.clone())),
        Some(rest) => return set(fields.entry(first).or_insert(Value::Null), rest, value),
    }
    Ok(())
}

fn holds(filter: &Filter, id: &str, document: &Value) -> bool {
    let is = |field: &str, value: &Value| compare(&field_of(document, id, field), value) == Ordering::Equal;
    let text = |field: &str| field_of(document, id, field).as_str().map(str::to_lowercase);
    match filter {
        Filter::Equals { field, value } => is(field, value),
        Filter::IsIn { field, values } => values.iter().any(|value| is(field, value)),
        Filter::Range { field, from, to } => {
            let found = field_of(document, id, field);
            from.as_ref().is_none_or(|from| compare(&found, from).is_ge())
                && to.as_ref().is_none_or(|to| compare(&found, to).is_lt())
        }
        Filter::StartsWith { field, prefix } => {
            text(field).is_some_and(|text| text.starts_with(&prefix.to_lowercase()))
        }
        Filter::Contains { field, text: part } => text(field).is_some_and(|text| text.contains(&part.to_lowercase())),
        Filter::Intersects { field, values } => {
            let found = field_of(document, id, field);
            let is_wanted = |item: &Value| values.iter().any(|value| compare(item, value) == Ordering::Equal);
            found.as_array().is_some_and(|items| items.iter().any(is_wanted))
        }
        Filter::Any(parts) => parts.iter().any(|part| holds(part, id, document)),
    }
}

/// The order of values: null < false < true < numbers < text < lists < objects.
fn compare(a: &Value, b: &Value) -> Ordering {
    let kind = |value: &Value| match value {
        Value::Null => 0,
        Value::Bool(false) => 1,
        Value::Bool(true) => 2,
        Value::Number(_) => 3,
        Value::String(_) => 4,
        Value::Array(_) => 5,
        Value::Object(_) => 6,
    };
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => match (a.as_i64(), b.as_i64()) {
            (Some(a), Some(b)) => a.cmp(&b),
            (Some(a), None) => integer_and_float(a, b.as_f64().unwrap()),
            (None, Some(b)) => integer_and_float(b, a.as_f64().unwrap()).reverse(),
            (None, None) => a.as_f64().partial_cmp(&b.as_f64()).unwrap(),
        },
        (Value::String(a), Value::String(b)) => a.as_bytes().cmp(b.as_bytes()),
        (Value::Array(a), Value::Array(b)) => {
            let pairs = a.iter().zip(b).map(|(a, b)| compare(a, b));
            pairs.fold(Ordering::Equal, Ordering::then).then(a.len().cmp(&b.len()))
        }
        (Value::Object(a), Value::Object(b)) => {
            let sorted = |fields: &serde_json::Map<String, Value>| -> Vec<(String, Value)> {
                let fields = fields.iter().map(|(name, value)| (name.clone(), value.clone()));
                fields.collect::<BTreeMap<_, _>>().into_iter().collect()
            };
            let (a, b) = (sorted(a), sorted(b));
            let pairs = a.iter().zip(&b).map(|(a, b)| a.0.as_bytes().cmp(b.0.as_bytes()).then(compare(&a.1, &b.1)));
            pairs.fold(Ordering::Equal, Ordering::then).then(a.len().cmp(&b.len()))
        }
        _ => kind(a).cmp(&kind(b)),
    }
}

/// Exact comparison, without a lossy conversion.
fn integer_and_float(integer: i64, float: f64) -> Ordering {
    if float >= 2f64.powi(63) {
        return Ordering::Less;
    }
    if float < -(2f64.powi(63)) {
        return Ordering::Greater;
    }
    let whole = float.trunc();
    integer.cmp(&(whole as i64)).then(0f64.partial_cmp(&(float - whole)).unwrap())
}

fn check_body(collection: &str, id: &str, body: &str) -> Result<()> {
    let place = format!("document `{id}` of {collection}");
    if body.len() > DOCUMENT_LIMIT {
        return Err(StoreError::TooLarge(place));
    }
    let invalid = |why: &str| StoreError::Invalid(format!("the body of {place} {why}"));
    let document: Value = serde_json::from_str(body).map_err(|error| invalid(&format!("is not JSON: {error}")))?;
    if !document.is_object() {
        return Err(invalid("must be a JSON object"));
    }
    check_numbers(body).map_err(|error| StoreError::Invalid(format!("{place}: {error}")))?;
    check_values(&document)
}

/// Parsing turns long integers into floats, so this looks for digits outside of strings.
fn check_numbers(body: &str) -> Result<()> {
    let mut outside = String::new();
    let (mut inside, mut escaped) = (false, false);
    for letter in body.chars() {
        match letter {
            _ if escaped => escaped = false,
            '\\' if inside => escaped = true,
            '"' => {
                inside = !inside;
                outside.push(' ');
            }
            _ if !inside => outside.push(letter),
            _ => {}
        }
    }
    for word in outside.split(|c: char| !(c.is_ascii_alphanumeric() || "+-.".contains(c))) {
        let is_integer = !word.is_empty() && word.trim_start_matches('-').chars().all(|c| c.is_ascii_digit());
        if is_integer && word.parse::<i64>().is_err() {
            return Err(StoreError::Invalid(format!("the integer {word} does not fit 64 bits; send it as text")));
        }
    }
    Ok(())
}

/// No NUL, and no integer that fits only u64.
fn check_values(value: &Value) -> Result<()> {
    match value {
        Value::String(text) => check_text(text),
        Value::Number(number) if number.is_u64() && number.as_i64().is_none() => {
            Err(StoreError::Invalid("an integer beyond 64 bits".into()))
        }
        Value::Array(items) => items.iter().try_for_each(check_values),
        Value::Object(fields) => fields.iter().try_for_each(|(name, value)| check_text(name).and(check_values(value))),
        _ => Ok(()),
    }
}

fn check_text(text: &str) -> Result<()> {
    match text.contains('\0') {
        true => Err(StoreError::Invalid("text with a NUL character cannot be stored or queried".into())),
        false => Ok(()),
    }
}

fn check_field(field: &str) -> Result<()> {
    let names: Vec<&str> = field.split('.').collect();
    let plain = |name: &&str| {
        name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
            && name.chars().next().is_some_and(|c| !c.is_ascii_digit())
    };
    if names.len() <= 8 && names.iter().all(plain) {
        return Ok(());
    }
    Err(StoreError::Invalid(format!("`{}` cannot be a field name", field.escape_debug())))
}

fn check_query(query: &Query) -> Result<()> {
    let (mut filters, mut values) = (0, 0);
    for filter in &query.filters {
        check_filter(filter, 0, &mut filters, &mut values)?;
    }
    let invalid = |why: &str| Err(StoreError::Invalid(why.into()));
    if filters > MAX_FILTERS || values > MAX_FILTER_VALUES || query.order.len() > MAX_ORDER_FIELDS {
        return invalid("too much at once");
    }
    query.order.iter().try_for_each(|order| check_field(&order.field))?;
    if query.shuffled && (query.after.is_some() || !query.order.is_empty()) {
        return invalid("shuffled has no order");
    }
    if let Some(cursor) = &query.after {
        if cursor.values.len() != query.order.len() || (cursor.id.is_none() && query.order.is_empty()) {
            return invalid("the cursor does not fit the order");
        }
        cursor.values.iter().try_for_each(check_values)?;
        cursor.id.as_deref().map_or(Ok(()), check_text)?;
    }
    Ok(())
}

fn check_filter(filter: &Filter, depth: usize, filters: &mut usize, values: &mut usize) -> Result<()> {
    *filters += 1;
    match filter {
        Filter::Equals { field, value } => check_field(field).and(check_values(value)),
        Filter::IsIn { field, values: list } | Filter::Intersects { field, values: list } => {
            *values += list.len();
            check_field(field)?;
            list.iter().try_for_each(check_values)
        }
        Filter::Range { field, from, to } => {
            check_field(field)?;
            from.iter().chain(to).try_for_each(check_values)
        }
        Filter::StartsWith { field, prefix: text } | Filter::Contains { field, text } => {
            check_field(field).and(check_text(text))
        }
        Filter::Any(_) if depth == 8 => Err(StoreError::Invalid("too deep".into())),
        Filter::Any(parts) => parts.iter().try_for_each(|part| check_filter(part, depth + 1, filters, values)),
    }
}
