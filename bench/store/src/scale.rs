//! A collection of one million documents compared with ten thousand: cost of gets and pages, memory, and time to open.

use std::{path::Path, time::Instant};

use openorch_store::{Collection, Cursor, Index, Query};
use tempfile::tempdir;

use crate::{
    data::{DOCS, batch, fill_into, id, open, runtime},
    measure::{Hold, Numbers, Table, median, medians},
    reads::page,
};

/// With an index for listing newest first, as the services do.
const LISTED: Collection = Collection {
    name: DOCS.name,
    indexes: &[
        Index::on(&["group"]),
        Index::on(&["value"]),
        Index::each("readers", &["value"]),
        Index::on(&["createdAt"]),
    ],
};
const FEW: usize = 10_000;
const MANY: usize = 1_000_000;
const GETS: usize = 20_000;
const PAGES: usize = 1_000;
/// Number of documents in the working set, and the pages that they fill.
const ASKED: usize = 1_000;
const TURNED: usize = ASKED / 50;
/// Number of pages read beyond the working set, which are not cached.
const FAR: usize = 100;

pub fn run(table: &mut Table) {
    // Taken before the documents are created, so that memory left over from that is included.
    let before = memory();
    let (small, large) = (tempdir().unwrap(), tempdir().unwrap());
    made(small.path(), FEW);
    made(large.path(), MANY);
    let opens = |directory: &Path| median((0..5).map(|_| opened(directory)).collect());
    let (few, many) = (opens(small.path()), opens(large.path()));
    let detail = format!("{many:.1} ms");
    table.line("opening 1,000,000 documents / 10,000", many / few, Hold::AtMost(1.5), detail);
    let mut seed = 0;
    let [gets, newest, pages, far] = medians(|| {
        seed += 1;
        let few = cost_in(small.path(), FEW, seed);
        let many = cost_in(large.path(), MANY, seed);
        [many.get / few.get, many.newest / few.newest, many.page / few.page, many.far_page / few.far_page]
    });
    table.line("get, 1,000,000 / 10,000", gets, Hold::AtMost(1.3), String::new());
    table.line("page of 50, newest first, 1,000,000 / 10,000", newest, Hold::AtMost(1.3), String::new());
    table.line("page of 50 in a scattered order, 1,000,000 / 10,000", pages, Hold::AtMost(1.3), String::new());
    table.line("the same, pages that are not cached", far, Hold::Nothing, String::new());
    table.line("memory at 1,000,000 documents, MiB", worked(large.path()) - before, Hold::AtMost(60.0), String::new());
}

fn made(directory: &Path, count: usize) {
    let runtime = runtime();
    let store = open(directory);
    fill_into(LISTED, &runtime, &store, 0, count);
    runtime.block_on(async {
        store.mark_seeded().await.unwrap();
        store.close().await;
    });
}

/// Milliseconds to open the store and the collection.
fn opened(directory: &Path) -> f64 {
    let runtime = runtime();
    let started = Instant::now();
    let store = open(directory);
    runtime.block_on(store.open_collections(&[LISTED])).unwrap();
    let taken = started.elapsed();
    runtime.block_on(store.close());
    taken.as_secs_f64() * 1e3
}

/// Costs in microseconds per operation.
struct Costs {
    get: f64,
    /// A page of documents that were stored one after another.
    newest: f64,
    /// A page of documents that are scattered over the collection.
    page: f64,
    far_page: f64,
}

/// Measures gets and pages. The working set has the same size for both collections, so that the comparison shows the depth
/// of the trees and not the size of a cache; only the far pages are uncached.
fn cost_in(directory: &Path, count: usize, seed: u64) -> Costs {
    let runtime = runtime();
    let store = open(directory);
    runtime.block_on(async {
        store.open_collections(&[LISTED]).await.unwrap();
        let mut numbers = Numbers(seed);
        let asked: Vec<String> = (0..ASKED).map(|_| id(numbers.below(count))).collect();
        let get = async |times: usize| {
            for at in 0..times {
                assert!(store.get(DOCS.name, &asked[at % asked.len()]).await.unwrap().is_some());
            }
        };
        get(ASKED).await;
        let get = micros(GETS, get(GETS)).await;
        let mut far = None;
        let near = async |times: usize, page: fn(Option<&Cursor>) -> Query| {
            let mut last = None;
            for turned in 1..=times {
                let next = store.find(DOCS.name, &page(last.as_ref())).await.unwrap().next;
                last = if turned % TURNED == 0 { None } else { next };
            }
        };
        near(TURNED + 1, by_time).await;
        let newest = micros(PAGES, near(PAGES, by_time)).await;
        near(TURNED + 1, page).await;
        let near = micros(PAGES, near(PAGES, page)).await;
        for _ in 0..TURNED {
            far = store.find(DOCS.name, &page(far.as_ref())).await.unwrap().next;
        }
        let far_page = micros(FAR, async {
            for _ in 0..FAR {
                far = store.find(DOCS.name, &page(far.as_ref())).await.unwrap().next;
            }
        });
        let far_page = far_page.await;
        store.close().await;
        eprintln!("  {count} documents: get {get:.1} us, newest {newest:.0} us, scattered {near:.0} us, uncached {far_page:.0} us");
        Costs { get, newest, page: near, far_page }
    })
}

fn by_time(last: Option<&Cursor>) -> Query {
    let query = Query::all().descending("createdAt").limit(50);
    match last {
        Some(last) => query.after(last.clone()),
        None => query,
    }
}

/// Wall-clock time per operation in microseconds.
async fn micros(times: usize, work: impl Future<Output = ()>) -> f64 {
    let started = Instant::now();
    work.await;
    started.elapsed().as_secs_f64() * 1e6 / times as f64
}

/// Resident memory in MiB after a mix of operations.
fn worked(directory: &Path) -> f64 {
    let runtime = runtime();
    let store = open(directory);
    let most = runtime.block_on(async {
        store.open_collections(&[LISTED]).await.unwrap();
        let mut numbers = Numbers(1);
        let mut last = None;
        for round in 0..2000 {
            store.get(DOCS.name, &id(numbers.below(MANY))).await.unwrap();
            last = store.find(DOCS.name, &page(last.as_ref())).await.unwrap().next;
            store.commit(batch(MANY + round..MANY + round + 1)).await.unwrap();
        }
        memory()
    });
    runtime.block_on(store.close());
    most
}

fn memory() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<f64>().unwrap() / 1024.0
}
