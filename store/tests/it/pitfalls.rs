//! Behavior in which SQLite and PostgreSQL differ by default: one case each, named by the required result.

use openorch_store::{Batch, Cursor, Filter, Query, StoreError, Write};
use serde_json::{Value, json};

use crate::{BOTH, Bench, PLAIN, THINGS, body, ids, in_both, thing};

const T: &str = THINGS.name;

cases! {
    null_and_missing_come_first_and_going_down_last,
    numbers_compare_as_numbers_and_text_beside_them_breaks_nothing,
    ten_is_not_its_text,
    true_is_not_one,
    missing_and_null_are_the_same,
    integers_are_exact_up_to_64_bits_and_refused_beyond,
    percent_underscore_and_case_of_any_letter_mean_nothing_in_a_search,
    text_is_ordered_by_its_bytes,
    a_cursor_over_mixed_directions_goes_on_exactly,
    a_nested_field_is_found_by_its_path_declared_or_not,
    field_names_meant_for_sql_are_refused_everywhere,
    a_step_into_a_list_by_number_is_no_field,
    a_key_with_a_dot_or_a_quote_is_kept_and_not_a_path,
    nul_is_refused_wherever_it_stands,
    lone_surrogates_are_refused,
    of_a_key_given_twice_the_last_counts,
    setting_a_field_makes_the_objects_on_its_way,
    setting_a_field_leaves_every_digit_of_the_others,
    only_lists_hold_elements,
    a_document_comes_back_byte_for_byte,
    a_count_counts_what_passes,
}

/// Runs the same query on the collection with indexes and on the one without.
async fn both(bench: &Bench, query: &Query, found: &[&str]) {
    for collection in BOTH {
        assert_eq!(ids(&bench.store, collection, query).await, found, "{collection} {query:?}");
        let count = bench.store.count(collection, &query.filters).await.unwrap();
        assert!(count >= found.len() as u64, "{collection} {query:?}");
    }
}

async fn null_and_missing_come_first_and_going_down_last(bench: Bench) {
    let documents =
        [("a", json!({"rank": null})), ("b", json!({})), ("c", json!({"rank": false})), ("d", json!({"rank": -1}))];
    bench.store.commit(in_both(documents)).await.unwrap();
    both(&bench, &Query::all().ascending("rank"), &["a", "b", "c", "d"]).await;
    both(&bench, &Query::all().descending("rank"), &["d", "c", "b", "a"]).await;
    both(&bench, &Query::all().descending("rank").limit(1), &["d"]).await;
    let after = Cursor { values: vec![json!(null)], id: Some("a".into()) };
    both(&bench, &Query::all().ascending("rank").after(after.clone()), &["b", "c", "d"]).await;
    both(&bench, &Query::all().descending("rank").after(after), &[]).await;
}

async fn numbers_compare_as_numbers_and_text_beside_them_breaks_nothing(bench: Bench) {
    let documents = [
        ("a", json!({"rank": 10})),
        ("b", json!({"rank": 9})),
        ("c", json!({"rank": "abc"})),
        ("d", json!({"rank": 9.5})),
    ];
    bench.store.commit(in_both(documents)).await.unwrap();
    both(&bench, &Query::all().ascending("rank"), &["b", "d", "a", "c"]).await;
    let range = Filter::range("rank", Some(json!(9.5)), Some(json!("")));
    both(&bench, &Query::all().filter(range), &["a", "d"]).await;
}

async fn ten_is_not_its_text(bench: Bench) {
    let documents = [("a", json!({"rank": 10, "readers": [10]})), ("b", json!({"rank": "10", "readers": ["10"]}))];
    bench.store.commit(in_both(documents)).await.unwrap();
    both(&bench, &Query::all().equals("rank", 10), &["a"]).await;
    both(&bench, &Query::all().equals("rank", "10"), &["b"]).await;
    both(&bench, &Query::all().is_in("rank", [json!(10.0), json!("10.0")]), &["a"]).await;
    both(&bench, &Query::all().intersects("readers", [10]), &["a"]).await;
    both(&bench, &Query::all().intersects("readers", ["10"]), &["b"]).await;
}

async fn true_is_not_one(bench: Bench) {
    let documents = [("a", json!({"rank": true})), ("b", json!({"rank": 1})), ("c", json!({"rank": "true"}))];
    bench.store.commit(in_both(documents)).await.unwrap();
    both(&bench, &Query::all().equals("rank", true), &["a"]).await;
    both(&bench, &Query::all().equals("rank", 1), &["b"]).await;
    both(&bench, &Query::all().equals("rank", "true"), &["c"]).await;
}

async fn missing_and_null_are_the_same(bench: Bench) {
    let documents = [
        ("a", json!({"place": {"city": null}})),
        ("b", json!({"place": 7})),
        ("c", json!({"place": {"city": "x"}})),
        ("d", json!({})),
    ];
    bench.store.commit(in_both(documents)).await.unwrap();
    both(&bench, &Query::all().equals("place.city", Value::Null), &["a", "b", "d"]).await;
    both(&bench, &Query::all().is_in("place.city", [json!(null), json!("x")]), &["a", "b", "c", "d"]).await;
    let something = Filter::range("place.city", Some(json!(false)), None);
    both(&bench, &Query::all().filter(something), &["c"]).await;
}

async fn integers_are_exact_up_to_64_bits_and_refused_beyond(bench: Bench) {
    let past = 9_007_199_254_740_993i64;
    let documents = [
        ("a", json!({"rank": past})),
        ("b", json!({"rank": past - 1})),
        ("c", json!({"rank": i64::MAX})),
        ("d", json!({"rank": i64::MIN})),
    ];
    bench.store.commit(in_both(documents)).await.unwrap();
    both(&bench, &Query::all().equals("rank", past), &["a"]).await;
    both(&bench, &Query::all().equals("rank", past - 1), &["b"]).await;
    both(&bench, &Query::all().equals("rank", 9_007_199_254_740_992.0), &["b"]).await;
    both(&bench, &Query::all().ascending("rank"), &["d", "b", "a", "c"]).await;
    both(&bench, &Query::all().equals("rank", 9.223_372_036_854_776e18), &[]).await;
    let after = Cursor { values: vec![json!(past - 1)], id: None };
    both(&bench, &Query::all().ascending("rank").after(after), &["a", "c"]).await;
    for beyond in ["9223372036854775808", "-9223372036854775809", "12000000000000000000", "99999999999999999999999"] {
        for body in [format!("{{\"rank\":{beyond}}}"), format!("{{\"deep\":[{{\"x\":{beyond}}}]}}")] {
            let error = bench.store.commit(Batch::new().create(T, "x", body)).await.unwrap_err();
            let told = format!("the integer {beyond} does not fit 64 bits");
            assert!(matches!(&error, StoreError::Invalid(text) if text.contains(&told)), "{beyond}: {error:?}");
        }
    }
    for query in [
        Query::all().equals("rank", u64::MAX),
        Query::all().filter(Filter::range("rank", Some(json!(u64::MAX)), None)),
        Query::all().intersects("readers", [u64::MAX]),
    ] {
        let error = bench.store.find(T, &query).await.unwrap_err();
        assert!(matches!(error, StoreError::Invalid(_)), "{query:?}: {error:?}");
    }
    // Decimal fractions and exponents are floats, with the range of floats.
    bench.store.commit(thing("e", json!({"rank": 1e300}))).await.unwrap();
}

async fn percent_underscore_and_case_of_any_letter_mean_nothing_in_a_search(bench: Bench) {
    let names = ["Éclair 100%", "éclair 100 ", "a_b", "axb", "STRASSE", "straße", "a\\b'\"", "日本語"];
    let keys = ["a", "b", "c", "d", "e", "f", "g", "h"];
    bench.store.commit(in_both(keys.iter().zip(names).map(|(id, name)| (*id, json!({"name": name}))))).await.unwrap();
    for (part, starts, contains) in [
        ("éCLAIR", vec!["a", "b"], vec!["a", "b"]),
        ("100%", vec![], vec!["a"]),
        ("a_", vec!["c"], vec!["c"]),
        ("_", vec![], vec!["c"]),
        ("%", vec![], vec!["a"]),
        ("strasse", vec!["e"], vec!["e"]),
        ("STRASSE", vec!["e"], vec!["e"]),
        ("SSE", vec![], vec!["e"]),
        ("aß", vec![], vec!["f"]),
        ("a\\b", vec!["g"], vec!["g"]),
        ("'\"", vec![], vec!["g"]),
        ("本", vec![], vec!["h"]),
        ("", keys.to_vec(), keys.to_vec()),
        ("zz", vec![], vec![]),
    ] {
        both(&bench, &Query::all().starts_with("name", part), &starts).await;
        both(&bench, &Query::all().filter(Filter::contains("name", part)), &contains).await;
    }
}

async fn text_is_ordered_by_its_bytes(bench: Bench) {
    // A linguistic collation, which the test databases have, would sort them differently.
    let names = ["", " ", "10", "9", "B", "Z", "_", "a", "a b", "ab", "z", "É", "é", "ﬀ", "😀"];
    let documents: Vec<_> = names
        .iter()
        .map(|name| (if name.is_empty() { "-" } else { name }, json!({"rank": name, "name": name})))
        .collect();
    bench.store.commit(in_both(documents.iter().rev().cloned())).await.unwrap();
    for collection in BOTH {
        for field in ["rank", "name"] {
            let rows = bench.store.find(collection, &Query::all().ascending(field)).await.unwrap().rows;
            let found: Vec<Value> =
                rows.iter().map(|row| serde_json::from_str::<Value>(&row.body).unwrap()["name"].clone()).collect();
            assert_eq!(found, names, "{collection} {field}");
        }
        let mut by_id: Vec<&str> = documents.iter().map(|(id, _)| *id).collect();
        by_id.sort_unstable();
        assert_eq!(ids(&bench.store, collection, &Query::all()).await, by_id);
        let after = Cursor { values: vec![], id: Some("Z".into()) };
        assert_eq!(ids(&bench.store, collection, &Query::all().after(after).limit(3)).await, ["_", "a", "a b"]);
    }
}

async fn a_cursor_over_mixed_directions_goes_on_exactly(bench: Bench) {
    let mut documents = Vec::new();
    let names: Vec<String> = (0..30).map(|i| format!("d{i:02}")).collect();
    for (i, id) in names.iter().enumerate() {
        let rank = [json!(null), json!(1), json!(1.0), json!("x"), json!(2)][i % 5].clone();
        documents.push((id.as_str(), json!({"kind": format!("k{}", i % 3), "rank": rank})));
    }
    bench.store.commit(in_both(documents)).await.unwrap();
    for collection in BOTH {
        for query in [
            Query::all().ascending("kind").descending("rank"),
            Query::all().descending("kind").ascending("rank"),
            Query::all().descending("rank").ascending("id"),
            Query::all().ascending("rank").descending("id").ascending("kind"),
            Query::all().equals("kind", "k1").descending("rank"),
        ] {
            let whole = ids(&bench.store, collection, &query).await;
            for limit in 1..=7 {
                let mut walked = Vec::new();
                let mut next = query.clone().limit(limit);
                loop {
                    let page = bench.store.find(collection, &next).await.unwrap();
                    walked.extend(page.rows.into_iter().map(|row| row.id));
                    let Some(cursor) = page.next else { break };
                    next.after = Some(cursor);
                }
                assert_eq!(walked, whole, "{collection} {query:?} by {limit}");
            }
        }
    }
}

async fn a_nested_field_is_found_by_its_path_declared_or_not(bench: Bench) {
    let documents =
        [("a", json!({"place": {"city": "x", "b": {"c": {"d": 1}}}})), ("b", json!({"place": {"city": "y"}}))];
    bench.store.commit(in_both(documents)).await.unwrap();
    both(&bench, &Query::all().equals("place.city", "x"), &["a"]).await;
    both(&bench, &Query::all().equals("place.b.c.d", 1), &["a"]).await;
    both(&bench, &Query::all().equals("place.city.x", "x"), &[]).await;
    both(&bench, &Query::all().descending("place.city"), &["b", "a"]).await;
}

async fn field_names_meant_for_sql_are_refused_everywhere(bench: Bench) {
    bench.store.commit(in_both([("a", json!({"rank": 1}))])).await.unwrap();
    for name in [
        "rank'; DROP TABLE c_testSvcThings; --",
        "rank\"",
        "rank) OR 1=1 --",
        "f_rank = f_rank",
        "rank\0",
        "rank->>'x'",
        "ränk",
        " rank",
        "rank.",
        "$.rank",
        "a.b.c.d.e.f.g.h.i",
        "",
    ] {
        for collection in BOTH {
            for query in [
                Query::all().equals(name, 1),
                Query::all().is_in(name, [1]),
                Query::all().filter(Filter::range(name, None, None)),
                Query::all().starts_with(name, "x"),
                Query::all().filter(Filter::contains(name, "x")),
                Query::all().intersects(name, [1]),
                Query::all().filter(Filter::Any(vec![Filter::equals("rank", 1), Filter::equals(name, 1)])),
                Query::all().ascending(name),
            ] {
                let error = bench.store.find(collection, &query).await.unwrap_err();
                assert!(matches!(error, StoreError::Invalid(_)), "{name}: {error:?}");
                if query.order.is_empty() {
                    let error = bench.store.count(collection, &query.filters).await.unwrap_err();
                    assert!(matches!(error, StoreError::Invalid(_)), "{name}: {error:?}");
                    let delete = Write::DeleteWhere { collection, filters: query.filters };
                    let error = bench.store.commit(delete.into()).await.unwrap_err();
                    assert!(matches!(error, StoreError::Invalid(_)), "{name}: {error:?}");
                }
            }
            let fields = vec![(name.to_owned(), json!(1))];
            let set = Write::UpdateFields { collection, filters: vec![], fields };
            assert!(matches!(bench.store.commit(set.into()).await, Err(StoreError::Invalid(_))), "{name}");
        }
    }
    both(&bench, &Query::all(), &["a"]).await;
}

async fn a_step_into_a_list_by_number_is_no_field(bench: Bench) {
    bench.store.commit(in_both([("a", json!({"readers": ["x"], "a": {"0": "x"}}))])).await.unwrap();
    for name in ["readers.0", "a.0", "0", "readers[0]"] {
        let error = bench.store.find(T, &Query::all().equals(name, "x")).await.unwrap_err();
        assert!(matches!(error, StoreError::Invalid(_)), "{name}: {error:?}");
    }
}

async fn a_key_with_a_dot_or_a_quote_is_kept_and_not_a_path(bench: Bench) {
    let odd = json!({"place.city": "x", "a\"b": 1, "a\\b": 2, "": 3, "é": {"ü": 4}, "$": 5});
    bench.store.commit(in_both([("a", odd.clone())])).await.unwrap();
    assert_eq!(body(&bench.store, "a").await, Some(odd));
    both(&bench, &Query::all().equals("place.city", "x"), &[]).await;
    both(&bench, &Query::all().equals("place.city", Value::Null), &["a"]).await;
}

async fn nul_is_refused_wherever_it_stands(bench: Bench) {
    let store = &bench.store;
    let invalid = |outcome: Result<(), StoreError>, what: &str| {
        assert!(matches!(&outcome, Err(StoreError::Invalid(text)) if text.contains("NUL")), "{what}: {outcome:?}");
    };
    for text in [r#"{"a":"x\u0000y"}"#, r#"{"a\u0000":1}"#, r#"{"a":[{"b":["\u0000"]}]}"#] {
        invalid(store.commit(Batch::new().create(T, "x", text)).await.map(drop), text);
    }
    invalid(store.commit(Batch::new().create(T, "a\0b", "{}")).await.map(drop), "id");
    for query in [
        Query::all().equals("rank", "\0"),
        Query::all().equals("id", "a\0"),
        Query::all().is_in("undeclared", ["x", "y\0"]),
        Query::all().starts_with("name", "\0"),
        Query::all().filter(Filter::contains("undeclared", "a\0b")),
        Query::all().intersects("readers", ["\0"]),
        Query::all().filter(Filter::range("rank", Some(json!("\0")), None)),
        Query::all().ascending("rank").after(Cursor { values: vec![json!("\0")], id: None }),
        Query::all().after(Cursor { values: vec![], id: Some("\0".into()) }),
    ] {
        invalid(store.find(T, &query).await.map(drop), &format!("{query:?}"));
    }
    // No document has an id with a NUL.
    assert_eq!(store.get(T, "a\0b").await, Ok(None));
    let gone = store.commit(Batch::new().delete(T, "a\0b")).await.unwrap_err();
    assert!(matches!(gone, StoreError::NotFound(_)), "{gone:?}");
    let absent = openorch_store::Guard::Absent { collection: T, id: "a\0b".into() };
    store.commit(thing("y", json!({})).require(absent)).await.unwrap();
}

async fn lone_surrogates_are_refused(bench: Bench) {
    for body in [r#"{"a":"\ud800"}"#, r#"{"a":"\udc00\ud800"}"#, r#"{"\ud83d":1}"#, r#"{"a":"\ud83dx"}"#] {
        let error = bench.store.commit(Batch::new().create(T, "x", body)).await.unwrap_err();
        assert!(matches!(error, StoreError::Invalid(_)), "{body}: {error:?}");
    }
    bench.store.commit(Batch::new().create(T, "x", r#"{"name":"\ud83d\ude00"}"#)).await.unwrap();
    assert_eq!(ids(&bench.store, T, &Query::all().starts_with("name", "😀")).await, ["x"]);
}

async fn of_a_key_given_twice_the_last_counts(bench: Bench) {
    let twice = r#"{"rank":1,"rank":2,"place":{"city":"x","city":"y"}}"#;
    for collection in BOTH {
        bench.store.commit(Batch::new().create(collection, "a", twice)).await.unwrap();
    }
    both(&bench, &Query::all().equals("rank", 2).equals("place.city", "y"), &["a"]).await;
    both(&bench, &Query::all().equals("rank", 1), &[]).await;
    let fields = vec![("other".to_owned(), json!(1))];
    let set = Write::UpdateFields { collection: T, filters: vec![], fields };
    bench.store.commit(set.into()).await.unwrap();
    assert_eq!(body(&bench.store, "a").await, Some(json!({"rank": 2, "place": {"city": "y"}, "other": 1})));
}

async fn setting_a_field_makes_the_objects_on_its_way(bench: Bench) {
    let documents = [("a", json!({"keep": 1})), ("b", json!({"place": null})), ("c", json!({"place": {"zip": "z"}}))];
    bench.store.commit(in_both(documents)).await.unwrap();
    for collection in BOTH {
        let fields = vec![("place.city".to_owned(), json!("x")), ("deep.er.still".to_owned(), json!([1]))];
        let touched = bench.store.commit(Write::UpdateFields { collection, filters: vec![], fields }.into()).await;
        assert_eq!(touched.unwrap().rows_affected, [3]);
    }
    both(&bench, &Query::all().equals("place.city", "x"), &["a", "b", "c"]).await;
    both(&bench, &Query::all().equals("place.zip", "z"), &["c"]).await;
    both(&bench, &Query::all().equals("keep", 1).equals("deep.er.still", json!([1])), &["a"]).await;
    let fields = vec![("keep.inside".to_owned(), json!(1))];
    let blocked = Write::UpdateFields { collection: T, filters: vec![], fields };
    let error = bench.store.commit(blocked.into()).await.unwrap_err();
    assert!(matches!(error, StoreError::Invalid(_)), "{error:?}");
}

async fn setting_a_field_leaves_every_digit_of_the_others(bench: Bench) {
    // Adjacent floats, which differ only in the last digit.
    let mut floats = Vec::new();
    for start in [0.1, 1.0 / 3.0, 1e23, 5.5e-17, 123_456_789.123_456_79, 8.41e21, 2.2e-308] {
        let mut float: f64 = start;
        for _ in 0..20 {
            floats.push(float);
            float = float.next_up();
        }
    }
    for (at, float) in floats.iter().enumerate() {
        let body = json!({"rank": float, "other": float}).to_string();
        bench.store.commit(Batch::new().create(T, format!("f{at:03}"), body)).await.unwrap();
    }
    let fields = vec![("kind".to_owned(), json!("k"))];
    bench.store.commit(Write::UpdateFields { collection: T, filters: vec![], fields }.into()).await.unwrap();
    for (at, float) in floats.iter().enumerate() {
        let id = format!("f{at:03}");
        let text = bench.store.get(T, &id).await.unwrap().unwrap().body;
        assert!(text.contains(&format!("\"other\":{}", json!(float))), "{float:?} became {text}");
        assert_eq!(ids(&bench.store, T, &Query::all().equals("rank", *float)).await, [id]);
    }
}

async fn only_lists_hold_elements(bench: Bench) {
    let documents = [
        ("a", json!({"readers": ["x", "y"], "tags": ["x"]})),
        ("b", json!({"readers": "x", "tags": "x"})),
        ("c", json!({"readers": {"x": 1, "0": "x"}, "tags": {"x": "x"}})),
        ("d", json!({"readers": [["x"], {"y": 1}], "tags": [null]})),
        ("e", json!({"readers": [1, true], "tags": []})),
        ("f", json!({"readers": null})),
    ];
    bench.store.commit(in_both(documents)).await.unwrap();
    for (field, element, found) in [
        ("readers", json!("x"), vec!["a"]),
        ("readers", json!("y"), vec!["a"]),
        ("readers", json!(["x"]), vec!["d"]),
        ("readers", json!({"y": 1.0}), vec!["d"]),
        ("readers", json!(1), vec!["e"]),
        ("readers", json!(true), vec!["e"]),
        ("readers", json!(null), vec![]),
        ("tags", json!(null), vec!["d"]),
        ("tags", json!("x"), vec!["a"]),
        ("id", json!("a"), vec![]),
    ] {
        both(&bench, &Query::all().intersects(field, [element.clone()]), &found).await;
        both(&bench, &Query::all().intersects(field, [element]).ascending("rank").limit(10), &found).await;
    }
    let nothing: [Value; 0] = [];
    both(&bench, &Query::all().intersects("readers", nothing), &[]).await;
}

async fn a_document_comes_back_byte_for_byte(bench: Bench) {
    let odd = "{ \"b\" : 1e2,\t\"a\":100.0, \"z\": -0, \"a\\u0062c\": \"\\u00e9é\\/\", \"\": {\"y\":1,\"x\":[ ]} }\n";
    for collection in BOTH {
        bench.store.commit(Batch::new().create(collection, "a", odd)).await.unwrap();
        assert_eq!(&*bench.store.get(collection, "a").await.unwrap().unwrap().body, odd);
        assert_eq!(&*bench.store.find(collection, &Query::all()).await.unwrap().rows[0].body, odd);
    }
    both(&bench, &Query::all().equals("b", 100).equals("z", 0).equals("abc", "éé/"), &["a"]).await;
    assert_eq!(bench.store.get(PLAIN.name, "b").await, Ok(None));
}

async fn a_count_counts_what_passes(bench: Bench) {
    let names: Vec<String> = (0..100).map(|i| format!("{i:03}")).collect();
    let documents =
        names.iter().enumerate().map(|(i, id)| (id.as_str(), json!({"kind": format!("k{}", i % 4), "other": i % 5})));
    bench.store.commit(in_both(documents)).await.unwrap();
    for (filters, wanted) in [
        (vec![], 100),
        (vec![Filter::equals("kind", "k1")], 25),
        (vec![Filter::equals("other", 2)], 20),
        (vec![Filter::equals("kind", "k1"), Filter::equals("other", 2)], 5),
        (vec![Filter::equals("kind", "none")], 0),
        (vec![Filter::is_in("kind", ["k1", "k2", "k1"])], 50),
    ] {
        for collection in BOTH {
            assert_eq!(bench.store.count(collection, &filters).await, Ok(wanted), "{collection} {filters:?}");
        }
    }
}
