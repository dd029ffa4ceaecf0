//! Random documents, batches and queries. Values come from small pools so that they coincide: equal keys, taken ids,
//! filters with matches. A few of each are invalid.

use openorch_store::{Cursor, Direction, Filter, Guard, Order, Query, Write};
use proptest::{collection::vec, option, prelude::*, sample::select};
use serde_json::{Map, Value, json};

use crate::BOTH;

/// Stands for the current version of the document; any other number for a wrong one.
pub const CURRENT: u64 = 0;

/// A query to read page by page.
#[derive(Debug, Clone)]
pub struct Walk {
    pub query: Query,
}

const FIELDS: &[&str] =
    &["kind", "rank", "name", "slug", "place.zip", "place.city", "place", "code", "readers", "tags", "other", "id"];
const TEXTS: &[&str] = &[
    "",
    "a",
    "A",
    "ab",
    "aB",
    "b",
    "z",
    "10",
    "9",
    "true",
    "null",
    "%",
    "_",
    "a%",
    "a_b",
    "'",
    "\"",
    "\\",
    "a'b\"c\\d",
    " ",
    "é",
    "É",
    "ß",
    "SS",
    "İ",
    "i̇",
    "ﬀ",
    "日本",
    "😀",
    "\u{1}",
    "\u{7f}",
    "\u{fffd}",
    "\u{10FFFF}",
    "$1",
    "?1",
    "--",
];
const IDS: &[&str] = &["a", "b", "c", "d", "e", "A", "aa", "a b", "é", "%", "'", "\u{10FFFF}", "10", "9"];

/// The elements of lists.
pub fn elements() -> Vec<Value> {
    vec![json!("r1"), json!("r2"), json!("r3"), json!("R1"), json!(1), json!(null), json!(true), json!(["r1"])]
}

fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        8 => select(TEXTS).prop_map(str::to_owned),
        2 => "[a-cA-Cé ]{0,3}",
        1 => "\\PC{0,6}",
    ]
}

fn number() -> impl Strategy<Value = Value> {
    let integers =
        [i64::MIN, i64::MIN + 1, -1, 0, 1, 2, 9, 10, (1 << 53) - 1, 1 << 53, (1 << 53) + 1, i64::MAX - 1, i64::MAX];
    let floats =
        [0.0, -0.0, 1.0, 1.5, -1.5, 9.0, 5e-324, 1e300, -1e300, 9_007_199_254_740_992.0, 9_223_372_036_854_775_808.0];
    prop_oneof![
        6 => select(integers.to_vec()).prop_map(Value::from),
        3 => select(floats.to_vec()).prop_map(Value::from),
        1 => any::<i64>().prop_map(Value::from),
        1 => any::<f64>().prop_map(Value::from),
    ]
}

fn leaf() -> BoxedStrategy<Value> {
    prop_oneof![
        3 => Just(Value::Null),
        2 => any::<bool>().prop_map(Value::from),
        6 => number(),
        8 => text().prop_map(Value::from),
    ]
    .boxed()
}

/// Any value; lists and objects may be nested.
fn value() -> BoxedStrategy<Value> {
    let nested = leaf().prop_recursive(3, 8, 3, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..3).prop_map(Value::from),
            vec((text(), inner), 0..3).prop_map(|fields| Value::Object(fields.into_iter().collect())),
        ]
    });
    prop_oneof![
        200 => nested,
        1 => Just(json!(u64::MAX)),
        1 => Just(json!("a\0b")),
    ]
    .boxed()
}

fn list() -> BoxedStrategy<Value> {
    prop_oneof![
        8 => vec(prop_oneof![6 => select(elements()), 1 => value()], 0..4).prop_map(Value::from),
        1 => value(),
    ]
    .boxed()
}

fn document() -> BoxedStrategy<Value> {
    let kind = prop_oneof![8 => select(vec![json!("k1"), json!("k2"), json!("K1")]), 1 => value()];
    let place = prop_oneof![
        6 => (option::of(leaf()), option::of(text())).prop_map(|(zip, city)| object([("zip", zip), ("city", city.map(Value::from))])),
        1 => value(),
    ];
    let first = (option::of(kind), option::of(value()), option::of(text()), option::weighted(0.3, leaf()));
    let second = (option::of(place), option::of(text()), option::of(list()), option::of(list()), option::of(value()));
    (first, second)
        .prop_map(|((kind, rank, name, slug), (place, code, readers, tags, other))| {
            object([
                ("kind", kind),
                ("rank", rank),
                ("name", name.map(Value::from)),
                ("slug", slug),
                ("place", place),
                ("code", code.map(Value::from)),
                ("readers", readers),
                ("tags", tags),
                ("other", other),
            ])
        })
        .boxed()
}

fn object<const N: usize>(fields: [(&str, Option<Value>); N]) -> Value {
    let given = fields.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?)));
    Value::Object(given.collect::<Map<_, _>>())
}

fn body() -> BoxedStrategy<Box<str>> {
    prop_oneof![
        60 => document().prop_map(|document| document.to_string().into()),
        1 => select(vec!["[]", "{", "", "{\"rank\":99999999999999999999}", "{\"a\":\"\\ud800\"}", "{\"rank\":1,\"rank\":2}"])
            .prop_map(Box::from),
    ]
    .boxed()
}

fn id() -> impl Strategy<Value = String> {
    prop_oneof![
        80 => select(IDS).prop_map(str::to_owned),
        1 => select(vec![String::new(), "a\0".to_owned(), "x".repeat(513), "é".repeat(256)]),
    ]
}

fn field() -> impl Strategy<Value = String> {
    prop_oneof![
        80 => select(FIELDS).prop_map(str::to_owned),
        1 => select(vec!["", "a b", "a.0", "rank'--", "lower(name)", "a.b.c.d.e.f.g.h.i", "\0"]).prop_map(str::to_owned),
    ]
}

fn values() -> impl Strategy<Value = Vec<Value>> {
    vec(prop_oneof![value(), select(elements())], 0..5)
}

fn filter() -> BoxedStrategy<Filter> {
    let known = prop_oneof![
        (Just("kind".to_owned()), select(vec![json!("k1"), json!("k2")])),
        (Just("id".to_owned()), select(IDS).prop_map(Value::from)),
        (field(), value()),
    ];
    let one = prop_oneof![
        4 => known.prop_map(|(field, value)| Filter::Equals { field, value }),
        2 => (field(), values()).prop_map(|(field, values)| Filter::IsIn { field, values }),
        1 => vec(select(IDS).prop_map(Value::from), 0..6).prop_map(|values| Filter::is_in("id", values)),
        3 => (field(), option::of(value()), option::of(value())).prop_map(|(field, from, to)| Filter::Range { field, from, to }),
        2 => (prop_oneof![Just("name".to_owned()), field()], text()).prop_map(|(field, prefix)| Filter::StartsWith { field, prefix }),
        2 => (prop_oneof![Just("name".to_owned()), field()], text()).prop_map(|(field, text)| Filter::Contains { field, text }),
        4 => (select(vec!["readers", "tags", "other", "id"]), values()).prop_map(|(field, values)| Filter::intersects(field, values)),
    ];
    one.prop_recursive(2, 6, 3, |inner| vec(inner, 0..3).prop_map(Filter::Any)).boxed()
}

fn filters() -> impl Strategy<Value = Vec<Filter>> {
    vec(filter(), 0..3)
}

fn guard() -> BoxedStrategy<Guard> {
    let place = || (select(BOTH.to_vec()), id());
    prop_oneof![
        place().prop_map(|(collection, id)| Guard::Absent { collection, id }),
        place().prop_map(|(collection, id)| Guard::Exists { collection, id }),
        (place(), 0..5u64).prop_map(|((collection, id), version)| Guard::Version {
            collection,
            id,
            version: version.saturating_sub(3)
        }),
        (select(BOTH.to_vec()), filters(), 0..3u64, prop_oneof![Just(u64::MAX), 0..4u64]).prop_map(
            |(collection, filters, at_least, at_most)| Guard::Count { collection, filters, at_least, at_most }
        ),
    ]
    .boxed()
}

fn write() -> BoxedStrategy<Write> {
    let place = || (select(BOTH.to_vec()), id());
    let version = || option::of(prop_oneof![3 => Just(CURRENT), 1 => Just(CURRENT + 1)]);
    let settable = prop_oneof![10 => field(), 1 => Just("place.deep.er".to_owned())];
    prop_oneof![
        6 => (place(), body()).prop_map(|((collection, id), body)| Write::Create { collection, id, body }),
        4 => (place(), body()).prop_map(|((collection, id), body)| Write::Upsert { collection, id, body }),
        3 => (place(), body(), version())
            .prop_map(|((collection, id), body, version)| Write::Replace { collection, id, body, version }),
        2 => (place(), version()).prop_map(|((collection, id), version)| Write::Delete { collection, id, version }),
        1 => (select(BOTH.to_vec()), filters(), body())
            .prop_map(|(collection, filters, body)| Write::ReplaceWhere { collection, filters, body }),
        2 => (place(), filters(), body())
            .prop_map(|((collection, id), filters, body)| Write::UpsertWhere { collection, filters, id, body }),
        3 => (select(BOTH.to_vec()), filters(), vec((settable, value()), 0..3))
            .prop_map(|(collection, filters, fields)| Write::UpdateFields { collection, filters, fields }),
        1 => (select(BOTH.to_vec()), filters())
            .prop_map(|(collection, filters)| Write::DeleteWhere { collection, filters }),
        2 => guard().prop_map(Write::Require),
    ]
    .boxed()
}

/// Batches to commit in sequence.
pub fn batches() -> impl Strategy<Value = Vec<Vec<Write>>> {
    vec(prop_oneof![2 => vec(write(), 1..2), 1 => vec(write(), 2..6)], 1..10)
}

/// A query with a small limit.
pub fn walk() -> impl Strategy<Value = Walk> {
    let direction = select(vec![Direction::Ascending, Direction::Descending]);
    let order = vec((field(), direction), 0..3);
    let orders =
        order.prop_map(|order| order.into_iter().map(|(field, direction)| Order { field, direction }).collect());
    (filters(), orders, 1..6u64).prop_flat_map(|(filters, order, limit): (_, Vec<Order>, _)| {
        let of = order.len();
        // Usually one value for each order field, as required.
        let values = prop_oneof![20 => vec(value(), of..=of), 1 => vec(value(), 0..3)];
        let cursor = (values, option::of(id())).prop_map(|(values, id)| Cursor { values, id });
        option::weighted(0.3, cursor).prop_map(move |after| {
            let (filters, order) = (filters.clone(), order.clone());
            Walk { query: Query { filters, order, shuffled: false, limit: Some(limit), after } }
        })
    })
}

/// Documents with different ids, and queries on them.
pub fn documents_and_questions() -> impl Strategy<Value = (Vec<(String, Value)>, Vec<Walk>)> {
    let ids = (0..40u32).prop_map(|number| format!("d{number:02}"));
    (vec((prop_oneof![1 => id(), 4 => ids], document()), 1..25), vec(walk(), 1..6))
}
