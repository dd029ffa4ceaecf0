//! Order, filters and pages, whether a field is indexed or not.

use std::sync::Arc;

use openorch_store::{Batch, Cursor, Direction, Filter, Query, Store, StoreError};
use serde_json::{Value, json};

use crate::{Bench, PLAIN, THINGS, fill, ids};

cases! {
    values_of_all_types_come_in_the_order_of_the_contract,
    equality_knows_types_and_nothing_else_is_equal,
    one_of_many_values_is_enough,
    a_prefix_ignores_case_and_has_no_wildcards,
    pages_of_every_size_add_up_to_the_whole,
    declared_or_not_the_answer_is_the_same,
    a_cursor_without_an_id_passes_over_every_tie,
    a_question_that_cannot_be_asked_is_refused,
    a_limit_says_whether_there_is_more_and_none_means_all,
    a_range_has_its_lower_end_and_not_its_upper,
    any_of_some_filters_is_enough,
    filters_of_all_kinds_answer_alike_declared_or_not,
    a_shuffled_answer_has_everything_and_another_order_each_time,
    as_many_filters_as_may_be_are_answered_and_one_more_is_refused,
    as_many_order_fields_as_may_be_decide_and_one_more_is_refused,
    a_cursor_of_another_query_is_a_place_or_refused_but_never_wrong,
    a_moment_passes_between_pages_and_nothing_is_repeated,
}

/// Values of every type in the order of the contract; ties are broken by id.
fn ascending() -> Vec<Value> {
    vec![
        json!(null),
        json!(null),
        json!(false),
        json!(true),
        json!(i64::MIN),
        json!(-1.5),
        json!(0),
        json!(9),
        json!(9.0),
        json!(10),
        json!(9_007_199_254_740_992i64),
        json!(9_007_199_254_740_993i64),
        json!(i64::MAX),
        json!(1e300),
        json!(""),
        json!("10"),
        json!("9"),
        json!("B"),
        json!("Z"),
        json!("_"),
        json!("a"),
        json!("a%"),
        json!("a'\"\\"),
        json!("é"),
        json!([1]),
        json!({"a": 1}),
    ]
}

async fn mixed(bench: &Bench) -> &Arc<dyn Store> {
    let store = &bench.store;
    let mut batch = Batch::new();
    // Inserted in reverse order.
    for (i, value) in ascending().into_iter().enumerate().rev() {
        let body =
            if i == 0 { json!({}) } else { json!({"rank": value, "kind": (if i % 2 == 0 { "x" } else { "y" })}) };
        for collection in [THINGS.name, PLAIN.name] {
            batch = batch.create(collection, format!("v{i:02}"), body.to_string());
        }
    }
    store.commit(batch).await.unwrap();
    store
}

async fn values_of_all_types_come_in_the_order_of_the_contract(bench: Bench) {
    let store = mixed(&bench).await;
    let mut wanted: Vec<String> = (0..ascending().len()).map(|i| format!("v{i:02}")).collect();
    for collection in [THINGS.name, PLAIN.name] {
        assert_eq!(ids(store, collection, &Query::all().ascending("rank")).await, wanted, "{collection}");
    }
    wanted.reverse();
    for collection in [THINGS.name, PLAIN.name] {
        assert_eq!(ids(store, collection, &Query::all().descending("rank")).await, wanted, "{collection}");
    }
}

async fn equality_knows_types_and_nothing_else_is_equal(bench: Bench) {
    let store = mixed(&bench).await;
    for (value, found) in [
        (json!(null), vec!["v00", "v01"]),
        (json!(false), vec!["v02"]),
        (json!(true), vec!["v03"]),
        (json!(1), vec![]),
        (json!(9), vec!["v07", "v08"]),
        (json!(9.0), vec!["v07", "v08"]),
        (json!("9"), vec!["v16"]),
        (json!("b"), vec![]),
        (json!("a'\"\\"), vec!["v22"]),
        (json!([1.0]), vec!["v24"]),
        (json!({"a": 1}), vec!["v25"]),
    ] {
        for collection in [THINGS.name, PLAIN.name] {
            let query = Query::all().equals("rank", value.clone());
            assert_eq!(ids(store, collection, &query).await, found, "{collection} {value}");
            let count = store.count(collection, &query.filters).await.unwrap();
            assert_eq!(count, found.len() as u64, "{collection} {value}");
        }
    }
}

async fn one_of_many_values_is_enough(bench: Bench) {
    let store = mixed(&bench).await;
    for collection in [THINGS.name, PLAIN.name] {
        let query = Query::all().is_in("rank", [json!("9"), json!(9), json!("none"), json!(null), json!("9")]);
        assert_eq!(ids(store, collection, &query).await, ["v00", "v01", "v07", "v08", "v16"]);
        let none: [Value; 0] = [];
        assert_eq!(ids(store, collection, &Query::all().is_in("rank", none)).await, [""; 0]);
        let by_id = Query::all().is_in("id", [json!("v03"), json!(3), json!("v02")]);
        assert_eq!(ids(store, collection, &by_id).await, ["v02", "v03"]);
        let many = Query::all().is_in("id", (0..10_000).map(|i| json!(format!("v{i:02}"))));
        assert_eq!(ids(store, collection, &many).await.len(), ascending().len());
        let too_many = Query::all().is_in("id", (0..10_001).map(|i| json!(i)));
        assert!(matches!(store.find(collection, &too_many).await, Err(StoreError::Invalid(_))));
    }
}

async fn a_prefix_ignores_case_and_has_no_wildcards(bench: Bench) {
    let store = &bench.store;
    let mut batch = Batch::new();
    let names = ["Alpha", "alphabet", "ALP", "al", "Ärger", "äRGER 2", "a%b", "a_b", "axb", "日本語", "日本"];
    for (i, name) in names.iter().enumerate() {
        for collection in [THINGS.name, PLAIN.name] {
            batch = batch.create(collection, format!("n{i:02}"), json!({"name": name}).to_string());
        }
    }
    for collection in [THINGS.name, PLAIN.name] {
        batch = batch.create(collection, "x", json!({"name": 1}).to_string()).create(collection, "y", "{}");
    }
    store.commit(batch).await.unwrap();
    for (prefix, found) in [
        ("alp", vec!["n00", "n01", "n02"]),
        ("ALPHA", vec!["n00", "n01"]),
        ("ärger", vec!["n04", "n05"]),
        ("a%", vec!["n06"]),
        ("a_", vec!["n07"]),
        ("日本", vec!["n09", "n10"]),
        ("zz", vec![]),
        (
            "",
            (0..names.len())
                .map(|i| ["n00", "n01", "n02", "n03", "n04", "n05", "n06", "n07", "n08", "n09", "n10"][i])
                .collect(),
        ),
    ] {
        for collection in [THINGS.name, PLAIN.name] {
            let query = Query::all().starts_with("name", prefix);
            assert_eq!(ids(store, collection, &query).await, found, "{collection} {prefix}");
        }
    }
    assert_eq!(ids(store, PLAIN.name, &Query::all().starts_with("id", "N0")).await.len(), 10);
}

async fn pages_of_every_size_add_up_to_the_whole(bench: Bench) {
    let store = mixed(&bench).await;
    use Direction::{Ascending, Descending};
    let orders: [&[(&str, Direction)]; 9] = [
        &[],
        &[("id", Descending)],
        &[("rank", Ascending)],
        &[("rank", Descending)],
        &[("kind", Ascending), ("rank", Ascending)],
        &[("kind", Descending), ("rank", Ascending)],
        &[("kind", Ascending), ("rank", Descending)],
        &[("kind", Ascending)],
        &[("undeclared", Ascending), ("kind", Descending)],
    ];
    for collection in [THINGS.name, PLAIN.name] {
        for order in orders {
            let query = order.iter().fold(Query::all(), |query, (field, way)| query.order_by(*field, *way));
            let whole = ids(store, collection, &query).await;
            assert_eq!(whole.len(), ascending().len());
            for limit in 1..=7 {
                let mut walked = Vec::new();
                let mut query = query.clone().limit(limit);
                loop {
                    let page = store.find(collection, &query).await.unwrap();
                    assert!(page.rows.len() as u64 <= limit);
                    walked.extend(page.rows.into_iter().map(|row| row.id));
                    match page.next {
                        Some(next) => query.after = Some(next),
                        None => break,
                    }
                }
                assert_eq!(walked, whole, "{collection} {order:?} by {limit}");
            }
        }
    }
}

async fn declared_or_not_the_answer_is_the_same(bench: Bench) {
    let store = mixed(&bench).await;
    for value in ascending() {
        for query in [
            Query::all().equals("kind", "x").ascending("rank"),
            Query::all().equals("kind", "y").descending("rank").limit(3),
            Query::all().equals("missing.deep", Value::Null).ascending("rank").limit(4),
            Query::all().equals("rank", value.clone()).descending("kind"),
            Query::all().ascending("rank").after(Cursor { values: vec![value.clone()], id: None }),
            Query::all().descending("rank").after(Cursor { values: vec![value.clone()], id: None }),
            Query::all().descending("rank").after(Cursor { values: vec![value.clone()], id: Some("v08".into()) }),
            Query::all().ascending("id").after(Cursor { values: vec![value.clone()], id: None }),
            Query::all().equals("id", value.clone()),
        ] {
            let (declared, plain) = (ids(store, THINGS.name, &query).await, ids(store, PLAIN.name, &query).await);
            assert_eq!(declared, plain, "{query:?}");
        }
    }
}

async fn a_cursor_without_an_id_passes_over_every_tie(bench: Bench) {
    let store = mixed(&bench).await;
    for collection in [THINGS.name, PLAIN.name] {
        let after = |id: Option<&str>| {
            let cursor = Cursor { values: vec![json!(9)], id: id.map(Into::into) };
            Query::all().ascending("rank").limit(1).after(cursor)
        };
        assert_eq!(ids(store, collection, &after(None)).await, ["v09"]);
        assert_eq!(ids(store, collection, &after(Some("v07"))).await, ["v08"]);
    }
}

async fn a_question_that_cannot_be_asked_is_refused(bench: Bench) {
    let store = &bench.store;
    let cursor = |values: Vec<Value>| Cursor { values, id: None };
    for query in [
        Query::all().equals("a'b", 1),
        Query::all().equals("a.0", 1),
        Query::all().equals("", 1),
        Query::all().ascending("rank; DROP TABLE x"),
        Query::all().equals("rank", u64::MAX),
        Query::all().equals("rank", "a\0b"),
        Query::all().starts_with("name", "\0"),
        Query::all().after(cursor(vec![])),
        Query::all().after(cursor(vec![json!(1)])),
        Query::all().ascending("rank").after(cursor(vec![])),
        Query::all().ascending("rank").after(cursor(vec![json!(1), json!(2)])),
        Query::all().ascending("rank").after(cursor(vec![json!(u64::MAX)])),
    ] {
        let error = store.find(THINGS.name, &query).await.unwrap_err();
        assert!(matches!(error, StoreError::Invalid(_)), "{query:?}: {error:?}");
    }
    let error = store.count(THINGS.name, &[Filter::equals("a b", 1)]).await.unwrap_err();
    assert!(error.sentence().contains("`a b` cannot be a field name"), "{error}");
}

async fn a_limit_says_whether_there_is_more_and_none_means_all(bench: Bench) {
    let store = &bench.store;
    fill(store, 2000).await;
    let find = async |query: Query| store.find(THINGS.name, &query).await.unwrap();
    assert_eq!(find(Query::all()).await.rows.len(), 2000);
    let page = find(Query::all().limit(2000)).await;
    assert_eq!((page.rows.len(), page.next), (2000, None));
    assert!(find(Query::all().limit(1999)).await.next.is_some());
    assert_eq!(find(Query::all().limit(u64::MAX)).await.rows.len(), 2000);
    assert_eq!(find(Query::all().limit(0)).await.rows.len(), 0);
    let page = find(Query::all().ascending("text").descending("name").limit(10)).await;
    assert_eq!(page.rows.len(), 10);
    assert_eq!(page.rows[0].id, "t00999");
    let next = find(Query::all().equals("text", "x".repeat(300)).limit(1500)).await.next;
    assert_eq!(next.unwrap().id.as_deref(), Some("t01499"));
}

async fn a_range_has_its_lower_end_and_not_its_upper(bench: Bench) {
    let store = mixed(&bench).await;
    for (from, to, found) in [
        (Some(json!(0)), Some(json!(10)), vec!["v06", "v07", "v08"]),
        (Some(json!(-1.5)), Some(json!(0.0)), vec!["v05"]),
        (Some(json!(i64::MAX)), Some(json!(1e300)), vec!["v12"]),
        (None, Some(json!(true)), vec!["v00", "v01", "v02"]),
        (Some(json!("é")), None, vec!["v23", "v24", "v25"]),
        (Some(json!("a")), Some(json!("b")), vec!["v20", "v21", "v22"]),
        (Some(json!(10)), Some(json!(10)), vec![]),
        (Some(json!("z")), Some(json!("a")), vec![]),
        (Some(json!([])), Some(json!({})), vec!["v24"]),
    ] {
        for collection in [THINGS.name, PLAIN.name] {
            let query = Query::all().filter(Filter::range("rank", from.clone(), to.clone()));
            assert_eq!(ids(store, collection, &query).await, found, "{collection} {from:?} {to:?}");
            let ordered = query.clone().descending("rank").limit(2);
            let mut last = found.clone();
            last.reverse();
            last.truncate(2);
            assert_eq!(ids(store, collection, &ordered).await, last, "{collection} {from:?} {to:?}");
        }
    }
    for collection in [THINGS.name, PLAIN.name] {
        let all = Query::all().filter(Filter::range("rank", None, None));
        assert_eq!(ids(store, collection, &all).await.len(), ascending().len());
        let by_id = Query::all().filter(Filter::range("id", Some(json!("v03")), Some(json!("v05"))));
        assert_eq!(ids(store, collection, &by_id).await, ["v03", "v04"]);
        let above = Query::all().filter(Filter::range("id", Some(json!(7)), Some(json!({}))));
        assert_eq!(ids(store, collection, &above).await.len(), ascending().len());
    }
}

async fn any_of_some_filters_is_enough(bench: Bench) {
    let store = mixed(&bench).await;
    let any = |parts: Vec<Filter>| Query::all().filter(Filter::Any(parts));
    for (query, found) in [
        (any(vec![Filter::equals("rank", 9), Filter::equals("rank", "9")]), vec!["v07", "v08", "v16"]),
        (any(vec![Filter::equals("rank", 9), Filter::equals("undeclared", Value::Null)]).limit(2), vec!["v00", "v01"]),
        (any(vec![]), vec![]),
        (any(vec![Filter::Any(vec![]), Filter::Any(vec![Filter::equals("id", "v03")])]), vec!["v03"]),
        (any(vec![Filter::equals("id", "v03"), Filter::is_in("id", ["v01", "v04"])]).equals("kind", "x"), vec!["v04"]),
        (any(vec![Filter::equals("rank", true), Filter::starts_with("kind", "none")]), vec!["v03"]),
        (
            any(vec![Filter::equals("rank", true), Filter::intersects("rank", [1])]).descending("rank"),
            vec!["v24", "v03"],
        ),
    ] {
        for collection in [THINGS.name, PLAIN.name] {
            assert_eq!(ids(store, collection, &query).await, found, "{collection} {query:?}");
        }
    }
    let nested = |depth: usize| (0..depth).fold(Filter::equals("id", "v03"), |inner, _| Filter::Any(vec![inner]));
    for collection in [THINGS.name, PLAIN.name] {
        assert_eq!(ids(store, collection, &Query::all().filter(nested(8))).await, ["v03"]);
        let error = store.find(collection, &Query::all().filter(nested(9))).await.unwrap_err();
        assert!(matches!(error, StoreError::Invalid(_)), "{error:?}");
    }
}

async fn filters_of_all_kinds_answer_alike_declared_or_not(bench: Bench) {
    let store = mixed(&bench).await;
    let mut filters = vec![
        Filter::equals("kind", "x"),
        Filter::starts_with("rank", "A"),
        Filter::contains("rank", "\""),
        Filter::contains("kind", "X"),
        Filter::starts_with("id", "V0"),
        Filter::contains("id", "1"),
        Filter::is_in("rank", [json!(0), json!(null), json!([1])]),
        Filter::intersects("rank", [json!(1), json!("a")]),
        Filter::equals("undeclared", Value::Null),
        Filter::range("id", Some(json!("v05")), Some(json!("v15"))),
    ];
    filters.push(Filter::Any(filters[1..3].to_vec()));
    for a in &filters {
        for b in &filters {
            for query in [
                Query::all().filter(a.clone()).filter(b.clone()).descending("rank"),
                Query::all().filter(a.clone()).filter(b.clone()).ascending("kind").limit(3),
                Query::all().filter(Filter::Any(vec![a.clone(), b.clone()])).ascending("undeclared").limit(7),
            ] {
                let (declared, plain) = (ids(store, THINGS.name, &query).await, ids(store, PLAIN.name, &query).await);
                assert_eq!(declared, plain, "{query:?}");
            }
        }
    }
}

async fn a_shuffled_answer_has_everything_and_another_order_each_time(bench: Bench) {
    let store = mixed(&bench).await;
    let whole = ids(store, THINGS.name, &Query::all()).await;
    let mut orders = std::collections::HashSet::new();
    for _ in 0..5 {
        for collection in [THINGS.name, PLAIN.name] {
            let found = ids(store, collection, &Query::all().shuffled()).await;
            orders.insert(found.clone());
            let mut sorted = found;
            sorted.sort();
            assert_eq!(sorted, whole);
            let page = store.find(collection, &Query::all().equals("kind", "x").shuffled().limit(3)).await.unwrap();
            assert_eq!((page.rows.len(), page.next), (3, None));
        }
    }
    // The oracle does not shuffle.
    assert!(orders.len() > 5 || bench.engine == crate::Engine::Memory, "{}", orders.len());
    let place = Cursor { values: vec![], id: Some("v01".into()) };
    for query in [Query::all().shuffled().ascending("rank"), Query::all().shuffled().after(place)] {
        assert!(matches!(store.find(THINGS.name, &query).await, Err(StoreError::Invalid(_))), "{query:?}");
    }
}

async fn as_many_filters_as_may_be_are_answered_and_one_more_is_refused(bench: Bench) {
    let store = mixed(&bench).await;
    let many = |count: usize| Query { filters: vec![Filter::equals("rank", 9); count], ..Query::default() };
    let any = |count: usize| {
        let parts = (0..count).map(|i| Filter::equals(["rank", "id", "undeclared"][i % 3], i as u64));
        Query::all().filter(Filter::Any(parts.collect()))
    };
    for collection in [THINGS.name, PLAIN.name] {
        assert_eq!(ids(store, collection, &many(256)).await, ["v07", "v08"], "{collection}");
        assert_eq!(ids(store, collection, &any(255)).await, ["v06", "v07", "v08"].map(String::from), "{collection}");
        for query in [many(257), many(10_000), any(256), any(10_000)] {
            let error = store.find(collection, &query).await.unwrap_err();
            assert!(matches!(&error, StoreError::Invalid(text) if !text.is_empty()), "{error:?}");
            let error = store.count(collection, &query.filters).await.unwrap_err();
            assert!(matches!(error, StoreError::Invalid(_)), "{error:?}");
        }
    }
}

async fn as_many_order_fields_as_may_be_decide_and_one_more_is_refused(bench: Bench) {
    let store = mixed(&bench).await;
    let many = |count: usize| (0..count).fold(Query::all(), |query, i| query.ascending(["rank", "kind"][i % 2]));
    for collection in [THINGS.name, PLAIN.name] {
        let whole = ids(store, collection, &many(32)).await;
        assert_eq!(whole, ids(store, collection, &many(2)).await, "{collection}");
        let page = store.find(collection, &many(32).limit(3)).await.unwrap();
        let rest = ids(store, collection, &many(32).after(page.next.unwrap())).await;
        assert_eq!(rest, whole[3..], "{collection}");
        for count in [33, 3000] {
            let error = store.find(collection, &many(count)).await.unwrap_err();
            assert!(matches!(error, StoreError::Invalid(_)), "{collection} {count}: {error:?}");
        }
    }
}

async fn a_cursor_of_another_query_is_a_place_or_refused_but_never_wrong(bench: Bench) {
    let store = mixed(&bench).await;
    let places = [
        Cursor { values: vec![], id: Some("v10".into()) },
        Cursor { values: vec![], id: Some(String::new()) },
        Cursor { values: vec![], id: Some("\u{10FFFF}".into()) },
        Cursor { values: vec![json!({"not": "there"})], id: Some("nobody".into()) },
        Cursor { values: vec![json!("x"), json!(9)], id: Some("v07".into()) },
        Cursor { values: vec![json!(9), json!("x")], id: None },
        Cursor { values: vec![json!([]), json!(null)], id: Some("v07".into()) },
        Cursor { values: vec![json!(1); 3], id: Some("v07".into()) },
    ];
    let queries = [
        Query::all(),
        Query::all().descending("id"),
        Query::all().ascending("rank"),
        Query::all().descending("kind").ascending("rank"),
        Query::all().equals("kind", "x").ascending("kind").descending("rank"),
    ];
    for place in &places {
        for query in &queries {
            for limit in [2, 100] {
                let query = query.clone().after(place.clone()).limit(limit);
                let (a, b) = (store.find(THINGS.name, &query).await, store.find(PLAIN.name, &query).await);
                if place.values.len() != query.order.len() {
                    assert!(matches!(a, Err(StoreError::Invalid(_))), "{query:?}");
                    assert_eq!(a, b);
                    continue;
                }
                let all = |page: &openorch_store::Page| page.rows.iter().map(|row| row.id.clone()).collect::<Vec<_>>();
                let (a, b) = (a.unwrap(), b.unwrap());
                assert_eq!(all(&a), all(&b), "{query:?}");
                assert_eq!(a.next, b.next, "{query:?}");
            }
        }
    }
}

async fn a_moment_passes_between_pages_and_nothing_is_repeated(bench: Bench) {
    let store = &bench.store;
    fill(store, 40).await;
    let mut query = Query::all().descending("rank").limit(10);
    let mut seen = Vec::new();
    for round in 0.. {
        let page = store.find(THINGS.name, &query).await.unwrap();
        seen.extend(page.rows.into_iter().map(|row| row.id));
        let Some(next) = page.next else { break };
        query.after = Some(next);
        // Documents that the cursor has already passed are changed, added and deleted.
        let batch = Batch::new()
            .upsert(THINGS.name, format!("t000{:02}", 39 - round * 10), json!({"rank": 1000 + round}).to_string())
            .create(THINGS.name, format!("new{round}"), json!({"rank": 2000}).to_string())
            .delete(THINGS.name, format!("t000{:02}", 38 - round * 10));
        store.commit(batch).await.unwrap();
    }
    let wanted: Vec<String> = (0..40).rev().map(|i| format!("t{i:05}")).collect();
    assert_eq!(seen, wanted);
}
