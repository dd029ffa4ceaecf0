//! Random batches and queries have the same results on the oracle, SQLite and PostgreSQL: outcome, order, pages, and
//! kind of error; between the two engines also the error message. The generators are in `random/generate.rs`.
//!
//! Few cases run by default; `PROPTEST_CASES=1000` runs more. A failing case is shrunk and printed; add it as a case of
//! its own.

mod generate;

use std::{collections::BTreeSet, mem::discriminant, sync::Arc};

use generate::{CURRENT, Walk};
use openorch_store::{Committed, Filter, Guard, Page, Query, Result, Row, Store, StoreError, Write};
use proptest::test_runner::{Config, TestRunner};
use serde_json::json;
use tokio::runtime::Runtime;

use crate::{BOTH, Bench, Engine, PLAIN, THINGS, suite::TestOptions};

/// The number of cases of each property, unless `PROPTEST_CASES` is set.
const CASES: u32 = 32;

/// The stores to compare: the oracle first, then the available engines.
struct Stores(Vec<Bench>);

/// Runs a property over random input, on stores that are emptied before each case.
fn check<S: proptest::strategy::Strategy>(input: S, property: impl AsyncFn(&Stores, S::Value)) {
    let runtime = Runtime::new().unwrap();
    let stores = runtime.block_on(Stores::open());
    let cases = std::env::var("PROPTEST_CASES").map_or(CASES, |cases| cases.parse().unwrap());
    // In milliseconds.
    let max_shrink_time = 60_000;
    let mut runner = TestRunner::new(Config { cases, failure_persistence: None, max_shrink_time, ..Config::default() });
    let outcome = runner.run(&input, |input| {
        runtime.block_on(async {
            stores.clear().await;
            property(&stores, input).await;
        });
        Ok(())
    });
    if let Err(error) = outcome {
        panic!("{error}");
    }
    runtime.block_on(async { drop(stores) });
}

impl Stores {
    async fn open() -> Self {
        let mut all = Vec::new();
        for engine in [Engine::Memory, Engine::Sqlite, Engine::Postgres] {
            if let Some(bench) = Bench::with_options(engine, TestOptions::default()).await {
                all.push(bench);
            }
        }
        Self(all)
    }

    async fn clear(&self) {
        for bench in &self.0 {
            let all = |collection| Write::DeleteWhere { collection, filters: vec![] };
            bench.store.commit(BOTH.map(all).into_iter().collect()).await.unwrap();
        }
    }

    /// Runs the same operation on every store and asserts equal results. Returns the oracle's.
    async fn same<T: PartialEq + std::fmt::Debug>(
        &self,
        what: impl std::fmt::Debug,
        ask: impl AsyncFn(&Arc<dyn Store>) -> Result<T>,
    ) -> Result<T> {
        let wanted = ask(&self.0[0].store).await;
        let mut sentence = None;
        for bench in &self.0[1..] {
            let found = ask(&bench.store).await;
            match (&wanted, &found) {
                (Ok(wanted), Ok(found)) => {
                    assert_eq!(found, wanted, "{:?} has another result for {what:?}", bench.engine)
                }
                (Err(wanted), Err(found)) => {
                    let same = discriminant(wanted) == discriminant(found);
                    assert!(same, "{:?} returned {found:?} instead of {wanted:?} for {what:?}", bench.engine);
                    let first = sentence.get_or_insert_with(|| found.clone());
                    assert_eq!(found, first, "{:?} has another error message for {what:?}", bench.engine);
                }
                _ => panic!("{:?} returned {found:?} instead of {wanted:?} for {what:?}", bench.engine),
            }
        }
        wanted
    }

    /// Commits the same batch to every store.
    async fn commit(&self, batch: &[Write]) -> Result<Vec<u64>> {
        let commit = async |store: &Arc<dyn Store>| {
            let mut writes = Vec::new();
            for write in batch {
                writes.push(at_its_version(write.clone(), store).await);
            }
            let Committed { version, rows_affected: touched } = store.commit(writes.into_iter().collect()).await?;
            assert_eq!(version == 0, touched.iter().all(|touched| *touched == 0), "{batch:?}");
            Ok(touched)
        };
        self.same(batch, commit).await
    }

    /// Reads all pages of a query, and compares them with the whole result, a stream and a count.
    async fn walk(&self, walk: &Walk) {
        for collection in BOTH {
            let query = &walk.query;
            let pages = self.pages(collection, query).await;
            let whole = Query { limit: None, after: query.after.clone(), ..query.clone() };
            let find = async |store: &Arc<dyn Store>| Ok(shown(store.find(collection, &whole).await?));
            let found = self.same((collection, &whole), find).await;
            let Ok((rows, _)) = found else {
                assert!(pages.is_err(), "{collection} {query:?}");
                continue;
            };
            if query.limit != Some(0) {
                assert_eq!(pages.unwrap(), rows, "the pages of {query:?} of {collection} differ from the whole");
            }
            let stream = async |store: &Arc<dyn Store>| {
                let mut all = Vec::new();
                let mut pieces = store.stream(collection, &whole).await?;
                while let Some(rows) = pieces.next().await? {
                    all.extend(rows.into_iter().map(without_version));
                }
                Ok(all)
            };
            assert_eq!(self.same((collection, &whole, "stream"), stream).await.unwrap(), rows);
            let count = async |store: &Arc<dyn Store>| store.count(collection, &query.filters).await;
            let count = self.same((collection, &query.filters), count).await.unwrap();
            assert!(query.after.is_some() || count == rows.len() as u64, "{collection} {query:?}");
        }
    }

    /// The rows of all pages of a query.
    async fn pages(&self, collection: &str, query: &Query) -> Result<Vec<(String, Box<str>)>> {
        let (mut all, mut query) = (Vec::new(), query.clone());
        loop {
            let find = async |store: &Arc<dyn Store>| Ok(shown(store.find(collection, &query).await?));
            let (rows, next) = self.same((collection, &query), find).await?;
            let more = !rows.is_empty();
            all.extend(rows);
            match next {
                Some(next) if more => query.after = Some(next),
                _ => return Ok(all),
            }
        }
    }

    /// Compares all documents, and which of them were written together.
    async fn same_content(&self) {
        let content = async |store: &Arc<dyn Store>| {
            let mut rows = Vec::new();
            for collection in BOTH {
                rows.extend(store.find(collection, &Query::all()).await?.rows);
            }
            let versions: BTreeSet<u64> = rows.iter().map(|row| row.version).collect();
            let place = |row: &Row| versions.iter().position(|version| *version == row.version);
            Ok(rows.iter().map(|row| (row.id.clone(), row.body.clone(), place(row))).collect::<Vec<_>>())
        };
        self.same("everything", content).await.unwrap();
    }
}

/// Versions differ between stores: an expected version in a batch stands for the current one, or for another.
async fn at_its_version(mut write: Write, store: &Arc<dyn Store>) -> Write {
    let (collection, id, wanted) = match &mut write {
        Write::Replace { collection, id, version: Some(version), .. }
        | Write::Delete { collection, id, version: Some(version) }
        | Write::Require(Guard::Version { collection, id, version }) => (collection, id, version),
        _ => return write,
    };
    // A missing document gets a version that is never assigned: low ones are those of documents that the batch itself
    // creates.
    let there = store.get(collection, id).await.unwrap().map_or(1 << 40, |row| row.version);
    *wanted = if *wanted == CURRENT { there } else { there - 1 };
    write
}

fn without_version(row: Row) -> (String, Box<str>) {
    (row.id, row.body)
}

fn shown(page: Page) -> (Vec<(String, Box<str>)>, Option<openorch_store::Cursor>) {
    (page.rows.into_iter().map(without_version).collect(), page.next)
}

#[test]
fn random_batches_mean_the_same_everywhere() {
    check(generate::batches(), async |stores, batches| {
        for batch in &batches {
            // A refused batch counts too: it must be refused everywhere, and leave nothing behind.
            let _ = stores.commit(batch).await;
        }
        stores.same_content().await;
        for element in generate::elements() {
            let query = Query::all().intersects("readers", [element]).descending("rank").limit(5);
            stores.walk(&Walk { query }).await;
        }
        for field in ["rank", "name", "slug", "place.city"] {
            stores.walk(&Walk { query: Query::all().ascending(field).limit(3) }).await;
        }
    });
}

#[test]
fn random_questions_have_the_same_answer_everywhere() {
    check(generate::documents_and_questions(), async |stores, (documents, walks)| {
        for (id, document) in &documents {
            // A document that violates a unique index of one collection is only in the other.
            for collection in BOTH {
                let body = document.to_string().into();
                let _ = stores.commit(&[Write::Upsert { collection, id: id.clone(), body }]).await;
            }
        }
        // The collection without indexes has all documents of the other; those that only it has are deleted.
        let get = async |store: &Arc<dyn Store>| store.count(THINGS.name, &[]).await;
        stores.same("count", get).await.unwrap();
        for (id, _) in &documents {
            let there = stores.0[0].store.get(THINGS.name, id).await.unwrap().is_some();
            if !there {
                let filters = vec![Filter::equals("id", json!(id))];
                let _ = stores.commit(&[Write::DeleteWhere { collection: PLAIN.name, filters }]).await;
            }
        }
        for walk in &walks {
            stores.walk(walk).await;
        }
    });
}

#[test]
fn what_is_generated_is_worth_asking() {
    // A generator whose batches are all refused, or whose queries find nothing, would prove nothing.
    let runtime = Runtime::new().unwrap();
    let (mut runner, mut taken, mut refused) = (TestRunner::deterministic(), 0, BTreeSet::new());
    let store = crate::oracle::MemStore::open();
    runtime.block_on(async {
        store.open_collections(&[THINGS, PLAIN]).await.unwrap();
        for _ in 0..100 {
            let batches = proptest::strategy::Strategy::new_tree(&generate::batches(), &mut runner).unwrap();
            for batch in proptest::strategy::ValueTree::current(&batches) {
                match store.commit(batch.into_iter().collect()).await {
                    Ok(_) => taken += 1,
                    Err(error) => drop(refused.insert(kind(&error))),
                }
            }
        }
        assert!(taken > 100, "{taken}");
        assert_eq!(refused, BTreeSet::from(["AlreadyExists", "Conflict", "Invalid", "NotFound"]));
        let mut found = 0;
        for _ in 0..200 {
            let tree = proptest::strategy::Strategy::new_tree(&generate::walk(), &mut runner).unwrap();
            let Walk { query } = proptest::strategy::ValueTree::current(&tree);
            found += usize::from(store.find(THINGS.name, &query).await.is_ok_and(|page| !page.rows.is_empty()));
        }
        assert!(found > 40, "{found}");
    });
}

fn kind(error: &StoreError) -> &'static str {
    match error {
        StoreError::NotFound(_) => "NotFound",
        StoreError::AlreadyExists(_) => "AlreadyExists",
        StoreError::Conflict(_) => "Conflict",
        StoreError::Invalid(_) => "Invalid",
        _ => "another",
    }
}
