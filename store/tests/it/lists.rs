//! Lists with indexed elements: queries by any element, their order, and the maintenance of entries.

use openorch_store::{Batch, Cursor, Filter, Query, StoreError, Write};
use serde_json::{Value, json};

use crate::{BOTH, Bench, THINGS, ids, noise};

const T: &str = THINGS.name;

cases! {
    any_of_some_elements_finds_each_document_once_and_in_order,
    pages_over_elements_add_up_to_the_whole,
    entries_follow_their_document_through_every_kind_of_write,
    many_elements_are_asked_for_at_once,
}

cases_of_engines! {
    a_list_of_too_many_elements_is_refused,
    what_does_not_fit_an_index_is_refused_and_what_fits_is_kept,
}

/// Sixty documents that share readers, kinds and ranks.
async fn shared(bench: &Bench) {
    let mut batch = Batch::new();
    for i in 0..60 {
        let mut readers: Vec<Value> = (0..i % 4).map(|n| json!(format!("r{}", (i + n * 7) % 9))).collect();
        if i % 5 == 0 {
            readers.extend([json!("all"), json!("all"), json!(i), json!(null)]);
        }
        let rank = [json!(i / 3), json!(null), json!("x"), json!(1.5)][i % 4].clone();
        let body =
            json!({"readers": readers, "kind": format!("k{}", i % 2), "rank": rank, "tags": readers, "other": i % 3});
        for collection in BOTH {
            batch = batch.create(collection, format!("d{i:02}"), body.to_string());
        }
    }
    bench.store.commit(batch).await.unwrap();
}

fn questions() -> Vec<Query> {
    let asked = |values: &[&str]| Query::all().intersects("readers", values.iter().copied());
    let mut all = Vec::new();
    for values in [vec!["r1"], vec!["all"], vec!["r0", "r1", "r2", "r1", "none"], vec!["none"], vec!["all", "r3", "r8"]]
    {
        let k = || asked(&values).equals("kind", "k1");
        all.extend([
            asked(&values),
            asked(&values).ascending("rank"),
            asked(&values).descending("rank"),
            k().ascending("rank"),
            k().descending("rank"),
            k().equals("rank", "x"),
            k().descending("other"),
            asked(&values).descending("kind").descending("rank"),
            asked(&values).descending("kind").ascending("rank"),
            asked(&values).equals("other", 1).ascending("rank"),
            k().equals("other", 1).ascending("rank"),
            k().filter(Filter::Any(vec![Filter::equals("other", 2), Filter::contains("other", "x")]))
                .descending("rank"),
            asked(&values).intersects("tags", ["all"]).ascending("rank"),
            asked(&values).is_in("kind", ["k0", "k1"]),
            Query::all()
                .filter(Filter::Any(vec![Filter::intersects("readers", values.clone()), Filter::equals("rank", "x")])),
            Query::all().intersects("tags", values.clone()),
        ]);
    }
    all
}

async fn any_of_some_elements_finds_each_document_once_and_in_order(bench: Bench) {
    shared(&bench).await;
    let mut found = 0;
    for query in questions() {
        let declared = ids(&bench.store, BOTH[0], &query).await;
        assert_eq!(declared, ids(&bench.store, BOTH[1], &query).await, "{query:?}");
        let mut once = declared.clone();
        once.sort();
        once.dedup();
        assert_eq!(once.len(), declared.len(), "{query:?}");
        let count = bench.store.count(T, &query.filters).await.unwrap();
        assert_eq!(count, declared.len() as u64, "{query:?}");
        found += declared.len();
    }
    assert!(found > 500, "{found}");
}

async fn pages_over_elements_add_up_to_the_whole(bench: Bench) {
    shared(&bench).await;
    for query in questions() {
        let whole = ids(&bench.store, T, &query).await;
        for limit in [1, 3, 7, 100] {
            let (mut walked, mut next) = (Vec::new(), query.clone().limit(limit));
            loop {
                let page = bench.store.find(T, &next).await.unwrap();
                walked.extend(page.rows.into_iter().map(|row| row.id));
                let Some(cursor) = page.next else { break };
                next.after = Some(cursor);
            }
            assert_eq!(walked, whole, "{query:?} by {limit}");
        }
        // A made-up cursor.
        if query.order.len() == 1 {
            for id in [None, Some("d30".to_owned())] {
                let next = query.clone().limit(4).after(Cursor { values: vec![json!(1.5)], id });
                let (declared, plain) =
                    (ids(&bench.store, BOTH[0], &next).await, ids(&bench.store, BOTH[1], &next).await);
                assert_eq!(declared, plain, "{next:?}");
            }
        }
    }
}

async fn entries_follow_their_document_through_every_kind_of_write(bench: Bench) {
    let store = &bench.store;
    let all = |element: &str| Query::all().intersects("readers", [element]).descending("rank").limit(10);
    let expect = async |a: &[&str], b: &[&str]| {
        for (element, wanted) in [("a", a), ("b", b)] {
            assert_eq!(ids(store, T, &all(element)).await, wanted, "{element}");
            assert_eq!(ids(store, T, &Query::all().intersects("readers", [element])).await.len(), wanted.len());
        }
    };
    let body = |readers: &[&str], rank: i64| json!({"readers": readers, "rank": rank, "kind": "k"}).to_string();
    store.commit(Batch::new().create(T, "1", body(&["a", "b"], 1))).await.unwrap();
    store.commit(Batch::new().create(T, "2", body(&["a"], 2)).create(T, "3", body(&[], 3))).await.unwrap();
    expect(&["2", "1"], &["1"]).await;
    // The list is unchanged, the order field changes.
    store.commit(Batch::new().replace(T, "1", body(&["a", "b"], 9))).await.unwrap();
    expect(&["1", "2"], &["1"]).await;
    store.commit(Batch::new().upsert(T, "1", body(&["b"], 9)).upsert(T, "4", body(&["b", "a"], 4))).await.unwrap();
    expect(&["4", "2"], &["1", "4"]).await;
    let version = store.get(T, "4").await.unwrap().unwrap().version;
    store.commit(Batch::new().replace_at(T, "4", body(&["a", "b", "a"], 10), version)).await.unwrap();
    expect(&["4", "2"], &["4", "1"]).await;
    // Failed batches leave the entries unchanged.
    for failing in [
        Batch::new().replace_at(T, "4", body(&["b"], 0), version),
        Batch::new().delete_at(T, "4", version),
        Batch::new().replace(T, "none", body(&["a"], 0)),
        Batch::new().create(T, "4", body(&["b"], 0)),
        Batch::new().upsert(T, "4", body(&["b"], 0)).delete(T, "none"),
    ] {
        store.commit(failing).await.unwrap_err();
        expect(&["4", "2"], &["4", "1"]).await;
    }
    let fields = vec![("readers".to_owned(), json!(["b"])), ("rank".to_owned(), json!(7))];
    let filters = vec![Filter::equals("id", "2")];
    store.commit(Write::UpdateFields { collection: T, filters, fields }.into()).await.unwrap();
    expect(&["4"], &["4", "1", "2"]).await;
    let fields = vec![("rank".to_owned(), json!(8))];
    store.commit(Write::UpdateFields { collection: T, filters: vec![], fields }.into()).await.unwrap();
    expect(&["4"], &["4", "2", "1"]).await;
    store.commit(Batch::new().delete(T, "2").create(T, "2", body(&["a"], 8)).delete(T, "2")).await.unwrap();
    expect(&["4"], &["4", "1"]).await;
    let filters = vec![Filter::intersects("readers", ["b"])];
    let replaced = store
        .commit(Write::ReplaceWhere { collection: T, filters: filters.clone(), body: body(&["a"], 8).into() }.into())
        .await
        .unwrap();
    assert_eq!(replaced.rows_affected, [2]);
    expect(&["4", "1"], &[]).await;
    let filters = vec![Filter::intersects("readers", ["a"])];
    assert_eq!(store.commit(Write::DeleteWhere { collection: T, filters }.into()).await.unwrap().rows_affected, [2]);
    expect(&[], &[]).await;
    let upsert = |id: &str| Write::UpsertWhere {
        collection: T,
        filters: vec![Filter::intersects("readers", ["b"])],
        id: id.into(),
        body: body(&["b"], 1).into(),
    };
    for id in ["5", "6"] {
        store.commit(upsert(id).into()).await.unwrap();
        expect(&[], &["5"]).await;
    }
}

async fn many_elements_are_asked_for_at_once(bench: Bench) {
    shared(&bench).await;
    let wanted = ids(&bench.store, BOTH[1], &Query::all().intersects("readers", ["all", "r1"]).ascending("rank")).await;
    for count in [2, 63, 64, 65, 200, 10_000] {
        let values = (2..count).map(|i| format!("nobody{i}")).chain(["all".into(), "r1".into()]);
        let query = Query::all().intersects("readers", values).ascending("rank").limit(60);
        assert_eq!(ids(&bench.store, T, &query).await, wanted, "{count}");
    }
    let query = Query::all().intersects("readers", (0..10_001).map(|i| format!("r{i}")));
    assert!(matches!(bench.store.find(T, &query).await, Err(StoreError::Invalid(_))));
}

async fn a_list_of_too_many_elements_is_refused(bench: Bench) {
    let of = |count: usize| json!({"readers": (0..count).map(|i| format!("r{i}")).collect::<Vec<_>>()}).to_string();
    bench.store.commit(Batch::new().create(T, "a", of(1000))).await.unwrap();
    let error = bench.store.commit(Batch::new().create(T, "b", of(1001))).await.unwrap_err();
    let sentence = "`readers` of document `b` of testSvcThings has 1001 elements; it may have at most 1000";
    assert_eq!(error, StoreError::Invalid(sentence.into()));
    assert_eq!(ids(&bench.store, T, &Query::all().intersects("readers", ["r999"])).await, ["a"]);
}

async fn what_does_not_fit_an_index_is_refused_and_what_fits_is_kept(bench: Bench) {
    let (store, id) = (&bench.store, noise(512));
    // The longest id, and the maximum size in every index of the collection, all in one document.
    let fits = json!({
        "kind": noise(1022), "rank": noise(1024), "name": noise(2047), "slug": noise(2046),
        "place": {"zip": noise(1040), "city": noise(2048)}, "code": noise(1007), "tags": [noise(2048), "x"], "readers": [noise(50)],
    });
    store.commit(Batch::new().create(T, &*id, fits.to_string())).await.unwrap();
    assert_eq!(ids(store, T, &Query::all().equals("slug", fits["slug"].clone())).await, [&*id]);
    assert_eq!(ids(store, T, &Query::all().intersects("tags", [fits["tags"][0].clone()])).await, [&*id]);
    assert_eq!(ids(store, T, &Query::all().equals("place.city", fits["place"]["city"].clone())).await, [&*id]);
    for (field, value) in [
        ("slug", json!(noise(2200))),
        ("kind", json!(noise(1200))),
        ("tags", json!(["x", noise(2200)])),
        ("name", json!(noise(2200))),
    ] {
        let mut over = fits.clone();
        over[field] = value;
        let error = store.commit(Batch::new().replace(T, &*id, over.to_string())).await.unwrap_err();
        assert!(
            matches!(&error, StoreError::Invalid(text) if text.contains("in its index; at most")),
            "{field}: {error}"
        );
    }
    store.commit(Batch::new().delete(T, &*id)).await.unwrap();
}
