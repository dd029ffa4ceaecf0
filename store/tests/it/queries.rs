//! Order, filters and pages: the same whether a field is declared or not.

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
}

/// Every type, in the order of the contract; ties are broken by id.
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
    // Stored in another order than the one that is expected.
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
