//! Batches: atomicity, guards, versions, uniqueness, and isolation from a failed neighbour in the same group.

use std::sync::Arc;

use openorch_store::{Batch, Filter, Guard, Query, StoreError, Stored, Table, Write};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::{Bench, Engine, THINGS, body, fill, ids, thing};

cases! {
    a_document_lives_from_create_to_delete,
    a_document_made_again_never_has_an_old_version,
    a_batch_is_all_or_nothing,
    a_guard_that_does_not_hold_stops_the_whole_batch,
    a_guard_sees_the_writes_before_it,
    a_unique_index_names_itself_and_spares_documents_without_the_field,
    one_failing_batch_of_32_neither_fails_nor_undoes_the_others,
    of_many_who_read_and_replace_at_a_version_nobody_is_lost,
    of_many_with_the_same_guard_exactly_one_wins,
    of_many_who_change_one_document_without_a_guard_nobody_is_refused_or_lost,
    a_table_turns_values_into_writes_and_back,
    what_is_refused_says_what_and_why,
    the_limits_of_integers_come_back_exactly,
    a_closed_store_says_so_and_what_was_committed_is_there_again,
}

const T: &str = THINGS.name;

async fn a_document_lives_from_create_to_delete(bench: Bench) {
    let store = &bench.store;
    store.commit(thing("a", json!({"name": "one"}))).await.unwrap();
    let first = store.get(T, "a").await.unwrap().unwrap();
    assert_eq!((first.id.as_str(), &*first.body), ("a", r#"{"name":"one"}"#));

    assert!(matches!(store.commit(thing("a", json!({}))).await, Err(StoreError::AlreadyExists(_))));
    store.commit(Batch::new().replace_at(T, "a", r#"{"name":"two"}"#, first.version)).await.unwrap();
    let second = store.get(T, "a").await.unwrap().unwrap();
    assert!(second.version > first.version);
    assert_eq!(body(store, "a").await, Some(json!({"name": "two"})));

    let stale = store.commit(Batch::new().replace_at(T, "a", "{}", first.version)).await.unwrap_err();
    assert_eq!(stale, StoreError::Conflict("`a` of testSvcThings has been changed".into()));
    let stale = store.commit(Batch::new().delete_at(T, "a", first.version)).await.unwrap_err();
    assert!(matches!(stale, StoreError::Conflict(_)));

    store.commit(Batch::new().upsert(T, "a", r#"{"name":"three"}"#).upsert(T, "b", "{}")).await.unwrap();
    assert_eq!(body(store, "a").await, Some(json!({"name": "three"})));
    store.commit(Batch::new().delete(T, "a")).await.unwrap();
    assert_eq!(store.get(T, "a").await.unwrap(), None);
    for gone in [Batch::new().delete(T, "a"), Batch::new().replace(T, "a", "{}"), Batch::new().delete_at(T, "a", 1)] {
        let error = store.commit(gone).await.unwrap_err();
        assert_eq!(error, StoreError::NotFound("`a` is not in testSvcThings".into()));
    }
}

async fn a_document_made_again_never_has_an_old_version(bench: Bench) {
    let store = &bench.store;
    store.commit(thing("a", json!({}))).await.unwrap();
    let old = store.get(T, "a").await.unwrap().unwrap().version;
    store.commit(Batch::new().delete(T, "a").create(T, "a", "{}")).await.unwrap();
    let stale = store.commit(Batch::new().replace_at(T, "a", r#"{"lost":1}"#, old)).await;
    assert!(matches!(stale, Err(StoreError::Conflict(_))));
}

async fn a_batch_is_all_or_nothing(bench: Bench) {
    let store = &bench.store;
    store.commit(thing("b", json!({}))).await.unwrap();
    let batch = Batch::new().create(T, "a", "{}").delete(T, "b").create(T, "c", "{}").delete(T, "nobody");
    assert!(matches!(store.commit(batch).await, Err(StoreError::NotFound(_))));
    assert_eq!(ids(store, T, &Query::all()).await, ["b"]);
    store.commit(Batch::new()).await.unwrap();
}

async fn a_guard_that_does_not_hold_stops_the_whole_batch(bench: Bench) {
    let store = &bench.store;
    store.commit(thing("a", json!({"kind": "k", "other": 1}))).await.unwrap();
    let version = store.get(T, "a").await.unwrap().unwrap().version;
    let (a, b) = (|| "a".to_owned(), || "b".to_owned());
    let kind = || vec![Filter::equals("kind", "k")];
    let undeclared = || vec![Filter::equals("other", 1)];
    for (guard, holds) in [
        (Guard::Absent { collection: T, id: b() }, true),
        (Guard::Absent { collection: T, id: a() }, false),
        (Guard::Exists { collection: T, id: a() }, true),
        (Guard::Exists { collection: T, id: b() }, false),
        (Guard::Version { collection: T, id: a(), version }, true),
        (Guard::Version { collection: T, id: a(), version: version + 1 }, false),
        (Guard::Version { collection: T, id: a(), version: u64::MAX }, false),
        (Guard::Version { collection: T, id: b(), version }, false),
        (Guard::at_most(T, kind(), 1), true),
        (Guard::at_most(T, kind(), 0), false),
        (Guard::at_most(T, vec![], u64::MAX), true),
        (Guard::at_least(T, kind(), 1), true),
        (Guard::at_least(T, kind(), 2), false),
        (Guard::at_most(T, undeclared(), 1), true),
        (Guard::at_most(T, undeclared(), 0), false),
        (Guard::at_least(T, undeclared(), 2), false),
    ] {
        let shown = format!("{guard:?}");
        let outcome = store.commit(Batch::new().create(T, "new", "{}").require(guard).delete(T, "new")).await;
        assert_eq!(outcome.is_ok(), holds, "{shown}: {outcome:?}");
        assert!(holds || matches!(outcome, Err(StoreError::Conflict(_))), "{shown}: {outcome:?}");
    }
    assert_eq!(ids(store, T, &Query::all()).await, ["a"]);
}

async fn a_guard_sees_the_writes_before_it(bench: Bench) {
    let store = &bench.store;
    let one = |id: &str| {
        thing(id, json!({"kind": "seat"})).require(Guard::at_most(T, vec![Filter::equals("kind", "seat")], 2))
    };
    store.commit(one("a")).await.unwrap();
    store.commit(one("b")).await.unwrap();
    let full = store.commit(one("c")).await.unwrap_err();
    assert_eq!(full, StoreError::Conflict("testSvcThings has more than 2 such documents".into()));
}

async fn a_unique_index_names_itself_and_spares_documents_without_the_field(bench: Bench) {
    let store = &bench.store;
    store.commit(thing("a", json!({"slug": "x"}))).await.unwrap();
    let taken = StoreError::AlreadyExists("another document of testSvcThings has the same slug".into());
    assert_eq!(store.commit(thing("b", json!({"slug": "x"}))).await, Err(taken.clone()));
    store.commit(thing("b", json!({}))).await.unwrap();
    store.commit(thing("c", json!({"slug": null}))).await.unwrap();
    store.commit(thing("d", json!({"slug": "X"}))).await.unwrap();
    assert_eq!(store.commit(Batch::new().replace(T, "b", r#"{"slug":"x"}"#)).await, Err(taken.clone()));
    assert_eq!(store.commit(Batch::new().upsert(T, "e", r#"{"slug":"x"}"#)).await, Err(taken));
    // A document keeps its own slug; a duplicate document is reported by its id.
    store.commit(Batch::new().upsert(T, "a", r#"{"slug":"x","rank":1}"#)).await.unwrap();
    assert_eq!(
        store.commit(thing("a", json!({"slug": "x"}))).await,
        Err(StoreError::AlreadyExists("`a` is already in testSvcThings".into()))
    );
    assert_eq!(
        store.commit(thing("c", json!({}))).await,
        Err(StoreError::AlreadyExists("`c` is already in testSvcThings".into()))
    );
    // The slug moves from one document to the other within a batch.
    store.commit(Batch::new().replace(T, "a", "{}").replace(T, "b", r#"{"slug":"x"}"#)).await.unwrap();
}

async fn one_failing_batch_of_32_neither_fails_nor_undoes_the_others(bench: Bench) {
    let store = &bench.store;
    for round in 0..20 {
        let mut tasks = Vec::new();
        for i in 0..32 {
            let store = store.clone();
            tasks.push(tokio::spawn(async move {
                let mut batch = Batch::new().create(T, format!("r{round}i{i}a"), "{}");
                if i == round {
                    batch = batch.delete(T, "nobody");
                }
                store.commit(batch.create(T, format!("r{round}i{i}b"), "{}")).await
            }));
        }
        for (i, task) in tasks.into_iter().enumerate() {
            assert_eq!(task.await.unwrap().is_ok(), i != round, "batch {i} of round {round}");
        }
        for i in 0..32 {
            for half in ["a", "b"] {
                let there = store.get(T, &format!("r{round}i{i}{half}")).await.unwrap().is_some();
                assert_eq!(there, i != round, "document {half} of batch {i} of round {round}");
            }
        }
    }
}

async fn of_many_who_read_and_replace_at_a_version_nobody_is_lost(bench: Bench) {
    let store = &bench.store;
    store.commit(thing("n", json!({"rank": 0}))).await.unwrap();
    let add_one = |store: Arc<dyn openorch_store::Store>| async move {
        loop {
            let row = store.get(T, "n").await.unwrap().unwrap();
            let old: serde_json::Value = serde_json::from_str(&row.body).unwrap();
            let new = json!({"rank": old["rank"].as_u64().unwrap() + 1}).to_string();
            match store.commit(Batch::new().replace_at(T, "n", new, row.version)).await {
                Ok(_) => return,
                Err(StoreError::Conflict(_)) => {}
                Err(other) => panic!("{other}"),
            }
        }
    };
    let tasks: Vec<_> = (0..40).map(|_| tokio::spawn(add_one(store.clone()))).collect();
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(body(store, "n").await, Some(json!({"rank": 40})));
}

async fn of_many_with_the_same_guard_exactly_one_wins(bench: Bench) {
    let one = |round: usize| vec![Filter::equals("kind", format!("seat{round}"))];
    let plain = |round: usize| vec![Filter::equals("other", round)];
    let absent = |round: usize| Guard::Absent { collection: T, id: format!("key{round}") };
    for round in 0..12 {
        let guard = match round % 3 {
            // Each batch writes its own documents, so that only the guards conflict.
            0 => Guard::at_most(T, one(round), 0),
            1 => Guard::at_most(T, plain(round), 0),
            _ => absent(round),
        };
        let tasks = (0..12).map(|i| {
            let id = if round % 3 == 2 { format!("key{round}") } else { format!("r{round}i{i}") };
            let body = json!({"kind": format!("seat{round}"), "other": round, "rank": i}).to_string();
            let batch = Batch::new().require(guard.clone()).upsert(T, id, body);
            let store = bench.store.clone();
            tokio::spawn(async move { store.commit(batch).await })
        });
        let mut won = 0;
        for task in tasks.collect::<Vec<_>>() {
            match task.await.unwrap() {
                Ok(_) => won += 1,
                Err(StoreError::Conflict(_)) => {}
                Err(other) => panic!("{other:?}"),
            }
        }
        assert_eq!(won, 1, "round {round}");
        assert_eq!(bench.store.count(T, &one(round)).await, Ok(1), "round {round}");
    }
}

async fn of_many_who_change_one_document_without_a_guard_nobody_is_refused_or_lost(bench: Bench) {
    bench.store.commit(thing("n", json!({}))).await.unwrap();
    let tasks = (0..24).map(|i| {
        let fields = vec![(format!("field{i}"), json!(i))];
        let set = Write::UpdateFields { collection: T, filters: vec![Filter::equals("id", "n")], fields };
        let batch = Batch::new().create(T, format!("with{i}"), "{}").with(set);
        let store = bench.store.clone();
        tokio::spawn(async move { store.commit(batch).await })
    });
    for task in tasks.collect::<Vec<_>>() {
        assert_eq!(task.await.unwrap().unwrap().rows_affected, [1, 1]);
    }
    let wanted: serde_json::Map<_, _> = (0..24).map(|i| (format!("field{i}"), json!(i))).collect();
    assert_eq!(body(&bench.store, "n").await, Some(wanted.into()));
    assert_eq!(bench.store.count(T, &[]).await, Ok(25));
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Thing {
    name: String,
    rank: i64,
}

async fn a_table_turns_values_into_writes_and_back(bench: Bench) {
    let store = &bench.store;
    let table: Table<Thing> = Table::new(store.clone(), &THINGS);
    let (one, two) = (Thing { name: "one".into(), rank: i64::MAX }, Thing { name: "two".into(), rank: i64::MIN });
    let writes = [table.create("1", &one).unwrap(), table.upsert("2", &two).unwrap()];
    store.commit(writes.into_iter().collect()).await.unwrap();

    let Stored { id, version, value } = table.get("1").await.unwrap().unwrap();
    assert_eq!((id.as_str(), value), ("1", one.clone()));
    assert_eq!(table.get("3").await.unwrap(), None);
    let names: Vec<String> = table
        .find(&Query::all().ascending("rank"))
        .await
        .unwrap()
        .into_iter()
        .map(|stored| stored.value.name)
        .collect();
    assert_eq!(names, ["two", "one"]);
    assert_eq!(table.first(&Query::all().equals("name", "two")).await.unwrap().unwrap().value, two);
    assert_eq!(table.count(&[Filter::equals("rank", i64::MAX)]).await.unwrap(), 1);

    store.commit(table.replace("1", &two, Some(version)).unwrap().into()).await.unwrap();
    store.commit(table.delete("1", None).into()).await.unwrap();
    store.commit(Write::Create { collection: T, id: "odd".into(), body: "{}".into() }.into()).await.unwrap();
    let odd = table.get("odd").await.unwrap_err();
    assert!(matches!(&odd, StoreError::Corrupt(text) if text.contains("`odd` of testSvcThings")), "{odd}");
}

async fn what_is_refused_says_what_and_why(bench: Bench) {
    let store = &bench.store;
    let long = "x".repeat(513);
    for (batch, words) in [
        (Batch::new().create(T, "", "{}"), "an id of testSvcThings must have 1 to 512 bytes"),
        (Batch::new().create(T, long, "{}"), "an id of testSvcThings"),
        (Batch::new().create(T, "a\0b", "{}"), "no NUL"),
        (Batch::new().create(T, "a", "[]"), "must be a JSON object"),
        (Batch::new().create(T, "a", "{"), "document `a` of testSvcThings is not JSON"),
        (Batch::new().create(T, "a", json!({"deep": ["a\0b"]}).to_string()), "NUL"),
        (Batch::new().create(T, "a", r#"{"n":9223372036854775808}"#), "9223372036854775808 does not fit 64 bits"),
        (Batch::new().create(T, "a", r#"{"n":-99999999999999999999}"#), "does not fit 64 bits"),
    ] {
        let error = store.commit(batch).await.unwrap_err();
        assert!(matches!(&error, StoreError::Invalid(text) if text.contains(words)), "{error:?} should say {words}");
    }
    let unknown = store.commit(Batch::new().create("nowhere", "a", "{}")).await.unwrap_err();
    assert_eq!(unknown, StoreError::Internal("the collection nowhere was not opened".into()));
}

async fn the_limits_of_integers_come_back_exactly(bench: Bench) {
    let store = &bench.store;
    for (id, rank) in [("min", i64::MIN), ("max", i64::MAX), ("past", 9_007_199_254_740_993)] {
        store.commit(thing(id, json!({"rank": rank}))).await.unwrap();
        assert_eq!(body(store, id).await, Some(json!({"rank": rank})));
        assert_eq!(ids(store, T, &Query::all().equals("rank", rank)).await, [id]);
    }
    assert_eq!(ids(store, T, &Query::all().equals("rank", 9_007_199_254_740_992i64)).await, [""; 0]);
}

async fn a_closed_store_says_so_and_what_was_committed_is_there_again(mut bench: Bench) {
    let store = bench.store.clone();
    fill(&store, 10).await;
    let id = store.database_id().to_owned();
    assert!(!store.is_seeded());
    store.mark_seeded().await.unwrap();
    assert!(store.is_seeded());
    store.ready().await.unwrap();
    bench.reopen().await;
    if bench.engine != Engine::Memory {
        let closed = StoreError::Unavailable("the store is closed".into());
        assert_eq!(store.get(T, "t00001").await, Err(closed.clone()));
        assert_eq!(store.find(T, &Query::all()).await, Err(closed.clone()));
        assert_eq!(store.count(T, &[]).await, Err(closed.clone()));
        assert_eq!(store.stream(T, &Query::all()).await.err(), Some(closed.clone()));
        assert_eq!(store.ready().await, Err(closed.clone()));
        assert_eq!(store.open_collections(&[THINGS]).await, Err(closed.clone()));
        assert_eq!(store.mark_seeded().await, Err(closed.clone()));
        assert_eq!(store.commit(thing("x", json!({}))).await, Err(closed));
        store.close().await;
    }
    assert_eq!(bench.store.count(T, &[]).await.unwrap(), 10);
    assert_eq!(bench.store.database_id(), id);
    assert!(bench.store.is_seeded());
}
