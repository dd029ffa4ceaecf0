//! A collection of one million documents compared with ten thousand: cost of gets and pages, memory, and time to open.

use std::{path::Path, time::Instant};

use openorch_store::{Collection, Cursor, Index, Query};
use tempfile::tempdir;

use crate::{
    data::{DOCS, batch, fill_into, id, open, runtime},
    measure::{Limit, Rng, Table, median, medians},
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
const SMALL_COUNT: usize = 10_000;
const LARGE_COUNT: usize = 1_000_000;
const GETS: usize = 20_000;
const PAGES: usize = 1_000;
/// Number of documents in the working set, and the pages that they fill.
const WORKING_SET: usize = 1_000;
const WORKING_SET_PAGES: usize = WORKING_SET / 50;
/// Number of pages read beyond the working set, which are not cached.
const UNCACHED_PAGES: usize = 100;

pub fn run(table: &mut Table) {
    // Taken before the documents are created, so that memory left over from that is included.
    let before = memory();
    let (small, large) = (tempdir().unwrap(), tempdir().unwrap());
    create_store(small.path(), SMALL_COUNT);
    create_store(large.path(), LARGE_COUNT);
    let opens = |directory: &Path| median((0..5).map(|_| open_millis(directory)).collect());
    let (few, many) = (opens(small.path()), opens(large.path()));
    let detail = format!("{many:.1} ms");
    table.add_row("opening 1,000,000 documents / 10,000", many / few, Limit::AtMost(1.5), detail);
    let mut seed = 0;
    let [gets, newest, pages, far] = medians(|| {
        seed += 1;
        let few = measure_costs(small.path(), SMALL_COUNT, seed);
        let many = measure_costs(large.path(), LARGE_COUNT, seed);
        [many.get / few.get, many.newest / few.newest, many.page / few.page, many.uncached_page / few.uncached_page]
    });
    table.add_row("get, 1,000,000 / 10,000", gets, Limit::AtMost(1.3), String::new());
    table.add_row("page of 50, newest first, 1,000,000 / 10,000", newest, Limit::AtMost(1.3), String::new());
    table.add_row("page of 50 in a scattered order, 1,000,000 / 10,000", pages, Limit::AtMost(1.3), String::new());
    table.add_row("the same, pages that are not cached", far, Limit::None, String::new());
    table.add_row(
        "memory at 1,000,000 documents, MiB",
        memory_after_work(large.path()) - before,
        Limit::AtMost(60.0),
        String::new(),
    );
}

fn create_store(directory: &Path, count: usize) {
    let runtime = runtime();
    let store = open(directory);
    fill_into(LISTED, &runtime, &store, 0, count);
    runtime.block_on(async {
        store.mark_seeded().await.unwrap();
        store.close().await;
    });
}

/// Milliseconds to open the store and the collection.
fn open_millis(directory: &Path) -> f64 {
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
    uncached_page: f64,
}

/// Measures gets and pages. The working set has the same size for both collections, so that the comparison shows the depth
/// of the trees and not the size of a cache; only the far pages are uncached.
fn measure_costs(directory: &Path, count: usize, seed: u64) -> Costs {
    let runtime = runtime();
    let store = open(directory);
    runtime.block_on(async {
        store.open_collections(&[LISTED]).await.unwrap();
        let mut numbers = Rng(seed);
        let asked: Vec<String> = (0..WORKING_SET).map(|_| id(numbers.below(count))).collect();
        let get = async |times: usize| {
            for at in 0..times {
                assert!(store.get(DOCS.name, &asked[at % asked.len()]).await.unwrap().is_some());
            }
        };
        get(WORKING_SET).await;
        let get = micros(GETS, get(GETS)).await;
        let mut far = None;
        let near = async |times: usize, page: fn(Option<&Cursor>) -> Query| {
            let mut last = None;
            for turned in 1..=times {
                let next = store.find(DOCS.name, &page(last.as_ref())).await.unwrap().next;
                last = if turned % WORKING_SET_PAGES == 0 { None } else { next };
            }
        };
        near(WORKING_SET_PAGES + 1, by_time).await;
        let newest = micros(PAGES, near(PAGES, by_time)).await;
        near(WORKING_SET_PAGES + 1, page).await;
        let near = micros(PAGES, near(PAGES, page)).await;
        for _ in 0..WORKING_SET_PAGES {
            far = store.find(DOCS.name, &page(far.as_ref())).await.unwrap().next;
        }
        let far_page = micros(UNCACHED_PAGES, async {
            for _ in 0..UNCACHED_PAGES {
                far = store.find(DOCS.name, &page(far.as_ref())).await.unwrap().next;
            }
        });
        let far_page = far_page.await;
        store.close().await;
        eprintln!("  {count} documents: get {get:.1} us, newest {newest:.0} us, scattered {near:.0} us, uncached {far_page:.0} us");
        Costs { get, newest, page: near, uncached_page: far_page }
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
fn memory_after_work(directory: &Path) -> f64 {
    let runtime = runtime();
    let store = open(directory);
    let resident_mib = runtime.block_on(async {
        store.open_collections(&[LISTED]).await.unwrap();
        let mut numbers = Rng(1);
        let mut last = None;
        for round in 0..2000 {
            store.get(DOCS.name, &id(numbers.below(LARGE_COUNT))).await.unwrap();
            last = store.find(DOCS.name, &page(last.as_ref())).await.unwrap().next;
            store.commit(batch(LARGE_COUNT + round..LARGE_COUNT + round + 1)).await.unwrap();
        }
        memory()
    });
    runtime.block_on(store.close());
    resident_mib
}

fn memory() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<f64>().unwrap() / 1024.0
}
