//! Durable writes of the SQLite engine compared with the same statements through plain rusqlite.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use openorch_store::Store;
use rusqlite::{Connection, types::Value};
use tempfile::{TempDir, tempdir};
use tokio::runtime::Runtime;

use crate::{
    data::{DOCS, batch, fill, id, open, runtime},
    measure::{Cost, Limit, Rng, Table, cost, medians},
    redb_peer,
};

const ALONE: usize = 1500;
const SHARED: usize = 6000;
const TASKS: usize = 32;
const BATCHES: usize = 20;
const PER_BATCH: usize = 1000;

/// A new store with the collection.
fn new_store(runtime: &Runtime) -> (TempDir, Arc<dyn Store>) {
    let directory = tempdir().unwrap();
    let store = open(directory.path());
    fill(runtime, &store, 0, 1);
    (directory, store)
}

/// A database of the store opened with plain rusqlite, and the rows to insert under new ids.
struct Raw {
    _directory: TempDir,
    connection: Connection,
    rows: Vec<(Vec<Value>, Vec<Vec<Value>>)>,
    list: String,
}

impl Raw {
    /// Reads the rows that the store wrote for the documents `1..=count`, so that the same bytes are written.
    fn new(runtime: &Runtime, count: usize) -> Raw {
        let (from, store) = new_store(runtime);
        runtime.block_on(async {
            for start in (1..=count).step_by(PER_BATCH) {
                store.commit(batch(start..(start + PER_BATCH).min(count + 1))).await.unwrap();
            }
            store.close().await;
        });
        let source = Connection::open(from.path().join("openorch.db")).unwrap();
        let list: String = source
            .query_row(
                "SELECT name FROM sqlite_schema WHERE type = 'table' AND name LIKE 's!_%' ESCAPE '!'",
                [],
                |row| row.get(0),
            )
            .unwrap();
        let rows = read_rows(&source, &list);
        drop(source);
        Raw { connection: open_emptied(from.path(), &list), _directory: from, rows, list }
    }

    fn insert(&self, at: usize, number: usize) {
        let (row, entries) = &self.rows[at % self.rows.len()];
        let document = "INSERT INTO c_benchSvcDocs(id, ver, doc, f_group, f_value) VALUES (?, ?, ?, ?, ?)";
        let mut row = row.clone();
        row[0] = id(number).into();
        self.connection.prepare_cached(document).unwrap().execute(rusqlite::params_from_iter(row)).unwrap();
        let rid = self.connection.last_insert_rowid();
        let entry = format!("INSERT INTO \"{}\"(val, k1, id, rid) VALUES (?, ?, ?, ?)", self.list);
        for keys in entries {
            let whole = keys.iter().cloned().chain([id(number).into(), rid.into()]);
            self.connection.prepare_cached(&entry).unwrap().execute(rusqlite::params_from_iter(whole)).unwrap();
        }
    }

    /// Runs `transactions` transactions of `each` documents.
    fn inserts(&self, transactions: usize, each: usize, start: usize) -> Cost {
        cost(|| {
            for transaction in 0..transactions {
                self.connection.execute_batch("BEGIN IMMEDIATE").unwrap();
                for one in 0..each {
                    let at = transaction * each + one;
                    self.insert(at, start + at);
                }
                self.connection.execute_batch("COMMIT").unwrap();
            }
        })
    }
}

fn read_rows(source: &Connection, list: &str) -> Vec<(Vec<Value>, Vec<Vec<Value>>)> {
    let mut select = source.prepare("SELECT id, ver, doc, f_group, f_value, rid FROM c_benchSvcDocs").unwrap();
    let mut entries = std::collections::HashMap::<i64, Vec<Vec<Value>>>::new();
    let mut of_list = source.prepare(&format!("SELECT val, k1, rid FROM \"{list}\"")).unwrap();
    let mut found = of_list.query([]).unwrap();
    while let Some(row) = found.next().unwrap() {
        entries.entry(row.get(2).unwrap()).or_default().push(vec![row.get(0).unwrap(), row.get(1).unwrap()]);
    }
    let mut rows = select.query([]).unwrap();
    let mut all = Vec::new();
    while let Some(row) = rows.next().unwrap() {
        let values = (0..5).map(|at| row.get(at).unwrap()).collect();
        all.push((values, entries.remove(&row.get(5).unwrap()).unwrap_or_default()));
    }
    all
}

fn open_emptied(directory: &Path, list: &str) -> Connection {
    let connection = Connection::open(directory.join("openorch.db")).unwrap();
    connection
        .execute_batch(&format!(
            "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA cache_size = -16384;
             DELETE FROM c_benchSvcDocs; DELETE FROM \"{list}\"; PRAGMA wal_checkpoint(TRUNCATE);"
        ))
        .unwrap();
    connection
}

async fn create(store: Arc<dyn Store>, numbers: std::ops::Range<usize>) {
    for number in numbers {
        store.commit(batch(number..number + 1)).await.unwrap();
    }
}

/// Inserts `count` documents with concurrent tasks.
fn shared(runtime: &Runtime, store: &Arc<dyn Store>, start: usize, count: usize) -> Cost {
    let each = count / TASKS;
    cost(|| {
        let tasks: Vec<_> = (0..TASKS)
            .map(|task| runtime.spawn(create(store.clone(), start + task * each..start + (task + 1) * each)))
            .collect();
        runtime.block_on(async {
            for task in tasks {
                task.await.unwrap();
            }
        });
    })
}

pub fn run(table: &mut Table) {
    let runtime = runtime();
    let (_directory, store) = new_store(&runtime);
    let raw = Raw::new(&runtime, PER_BATCH);
    let mut next = 10;
    let mut take = |count: usize| {
        next += count;
        next - count
    };
    let [alone, batches, redb] = medians(|| {
        let start = take(ALONE);
        let theirs = raw.inserts(ALONE, 1, start);
        let mine = cost(|| runtime.block_on(create(store.clone(), start..start + ALONE)));
        let start = take(BATCHES * PER_BATCH);
        let their_batches = raw.inserts(BATCHES, PER_BATCH, start);
        let mut ready: Vec<_> =
            (0..BATCHES).map(|at| batch(start + at * PER_BATCH..start + (at + 1) * PER_BATCH)).collect();
        let my_batches = cost(|| {
            runtime.block_on(async {
                for batch in ready.drain(..) {
                    store.commit(batch).await.unwrap();
                }
            });
        });
        [
            mine.rate(ALONE) / theirs.rate(ALONE),
            my_batches.rate(BATCHES) / their_batches.rate(BATCHES),
            mine.rate(ALONE) / redb_peer::inserts(ALONE).rate(ALONE),
        ]
    });
    table.add_row("insert c1 / raw, sequential", alone, Limit::AtLeast(0.6), String::new());
    table.add_row("batch of 1000 / raw", batches, Limit::AtLeast(0.85), String::new());
    table.add_row("insert c1 / redb", redb, Limit::None, String::new());
    group_commit(table, "insert c32 / sequential", 3.0);
    mixed(table);
}

/// The effect of group commit: inserts by 32 concurrent tasks compared with sequential ones.
pub fn group_commit(table: &mut Table, what: &str, least: f64) {
    let runtime = runtime();
    let (_directory, store) = new_store(&runtime);
    let raw = Raw::new(&runtime, PER_BATCH);
    let mut start = 10;
    let [ratio, rate] = medians(|| {
        let alone = raw.inserts(ALONE / 5, 1, start);
        let together = shared(&runtime, &store, start, SHARED);
        start += SHARED;
        [together.rate(SHARED) / alone.rate(ALONE / 5), together.rate(SHARED)]
    });
    table.add_row(what, ratio, Limit::AtLeast(least), format!("{rate:.0} inserts/s"));
}

/// 28 tasks that read and 4 that insert, for some seconds.
fn mixed(table: &mut Table) {
    const MIXED_DURATION: Duration = Duration::from_secs(3);
    let runtime = runtime();
    let (_directory, store) = new_store(&runtime);
    fill(&runtime, &store, 1, 20_000);
    let (gets, inserts, is_over) =
        (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
    for task in 0..28 {
        let (store, gets, is_over) = (store.clone(), gets.clone(), is_over.clone());
        runtime.spawn(async move {
            let mut numbers = Rng(task);
            while !is_over.load(Relaxed) {
                store.get(DOCS.name, &id(numbers.below(20_000))).await.unwrap();
                gets.fetch_add(1, Relaxed);
                tokio::task::consume_budget().await;
            }
        });
    }
    for task in 0..4 {
        let (store, inserts, is_over) = (store.clone(), inserts.clone(), is_over.clone());
        runtime.spawn(async move {
            for number in (1_000_000 + task * 100_000).. {
                if is_over.load(Relaxed) {
                    return;
                }
                store.commit(batch(number..number + 1)).await.unwrap();
                inserts.fetch_add(1, Relaxed);
            }
        });
    }
    runtime.block_on(async { tokio::time::sleep(MIXED_DURATION).await });
    is_over.store(true, Relaxed);
    let rate = |count: &AtomicUsize| count.load(Relaxed) as f64 / MIXED_DURATION.as_secs_f64();
    let detail = format!("{:.0} concurrent gets/s", rate(&gets));
    table.add_row("inserts per second with 28 concurrent readers", rate(&inserts), Limit::AtLeast(100.0), detail);
}
