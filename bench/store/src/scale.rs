//! A million documents in one collection: what a get and a page cost against ten thousand, what the store keeps in
//! memory, how long opening takes.

use std::{path::Path, time::Instant};

use tempfile::tempdir;

use crate::{
    data::{DOCS, batch, fill, id, open, runtime},
    measure::{Hold, Numbers, Table, median, medians},
    reads::page,
};

const FEW: usize = 10_000;
const MANY: usize = 1_000_000;
const GETS: usize = 20_000;
const PAGES: usize = 1_000;

pub fn run(table: &mut Table) {
    let (small, large) = (tempdir().unwrap(), tempdir().unwrap());
    made(small.path(), FEW);
    made(large.path(), MANY);
    let before = memory();
    let opens = |folder: &Path| median((0..5).map(|_| opened(folder)).collect());
    let (few, many) = (opens(small.path()), opens(large.path()));
    let detail = format!("{many:.1} ms");
    table.line("opening 1,000,000 documents / 10,000", many / few, Hold::AtMost(1.5), detail);
    let mut seed = 0;
    let [gets, pages] = medians(|| {
        seed += 1;
        let (get_few, page_few) = cost_in(small.path(), FEW, seed);
        let (get_many, page_many) = cost_in(large.path(), MANY, seed);
        [get_many / get_few, page_many / page_few]
    });
    table.line("get, 1,000,000 / 10,000", gets, Hold::AtMost(1.3), String::new());
    table.line("page of 50, 1,000,000 / 10,000", pages, Hold::AtMost(1.3), String::new());
    table.line("memory at 1,000,000 documents, MiB", worked(large.path()) - before, Hold::AtMost(60.0), String::new());
}

fn made(folder: &Path, count: usize) {
    let runtime = runtime();
    let store = open(folder);
    fill(&runtime, &store, 0, count);
    runtime.block_on(async {
        store.mark_seeded().await.unwrap();
        store.close().await;
    });
}

/// Milliseconds until the collection can be used.
fn opened(folder: &Path) -> f64 {
    let runtime = runtime();
    let started = Instant::now();
    let store = open(folder);
    runtime.block_on(store.open_collections(&[DOCS])).unwrap();
    let taken = started.elapsed();
    runtime.block_on(store.close());
    taken.as_secs_f64() * 1e3
}

/// Microseconds of a get and of a page, the documents asked for again and again being as many in both: what is
/// compared is the depth of the trees, not the size of the machine's cache.
fn cost_in(folder: &Path, count: usize, seed: u64) -> (f64, f64) {
    let runtime = runtime();
    let store = open(folder);
    runtime.block_on(async {
        store.open_collections(&[DOCS]).await.unwrap();
        let mut numbers = Numbers(seed);
        let asked: Vec<String> = (0..FEW / 10).map(|_| id(numbers.below(count))).collect();
        for id in &asked {
            store.get(DOCS.name, id).await.unwrap();
        }
        let started = Instant::now();
        for at in 0..GETS {
            assert!(store.get(DOCS.name, &asked[at % asked.len()]).await.unwrap().is_some());
        }
        let get = started.elapsed().as_secs_f64() * 1e6 / GETS as f64;
        let mut first = store.find(DOCS.name, &page(None)).await.unwrap().next;
        let started = Instant::now();
        for turned in 0..PAGES {
            let next = store.find(DOCS.name, &page(first.as_ref())).await.unwrap().next;
            first = if turned % 100 == 99 { None } else { next };
        }
        let page = started.elapsed().as_secs_f64() * 1e6 / PAGES as f64;
        store.close().await;
        (get, page)
    })
}

/// Resident MiB after work of every kind.
fn worked(folder: &Path) -> f64 {
    let runtime = runtime();
    let store = open(folder);
    let most = runtime.block_on(async {
        store.open_collections(&[DOCS]).await.unwrap();
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
