//! Reads of the SQLite engine compared with the same statements through plain rusqlite on one thread, on the same file.

use std::{path::Path, sync::Arc};

use openorch_store::{Query, Store};
use rusqlite::{Connection, OpenFlags};
use tempfile::tempdir;
use tokio::runtime::Runtime;

use crate::{
    data::{COUNT, DOCS, GROUP, POPULAR, SELECTIVE, fill, group, id, open, runtime},
    measure::{Cost, Limit, Rng, Table, cost, medians},
    redb_peer,
};

const GETS: usize = 40_000;
const FINDS: usize = 8_000;
const PAGES: usize = 2_000;
const TASKS: usize = 32;

/// Shared state of the read benchmarks.
struct Bench {
    runtime: Runtime,
    store: Arc<dyn Store>,
    raw: Connection,
}

pub fn run(table: &mut Table) {
    let directory = tempdir().unwrap();
    let runtime = runtime();
    let store = open(directory.path());
    fill(&runtime, &store, 0, COUNT);
    let bench = Bench { raw: raw(&directory.path().join("openorch.db")), runtime, store };
    gets(&bench, table);
    finds(&bench, table);
    pages(&bench, table);
    intersects(&bench, table);
    redb_peer::gets(table, |numbers| bench.sequential(|store| gets_of(store, numbers)), GETS);
}

/// A connection with the settings of the store's reader connections.
pub fn raw(database: &Path) -> Connection {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(database, flags).unwrap();
    connection.execute_batch("PRAGMA query_only = ON; PRAGMA cache_size = -2048; PRAGMA temp_store = MEMORY").unwrap();
    connection
}

fn numbers(seed: u64, count: usize) -> Vec<usize> {
    let mut numbers = Rng(seed);
    (0..count).map(|_| numbers.below(COUNT)).collect()
}

async fn gets_of(store: Arc<dyn Store>, numbers: Vec<usize>) {
    for number in numbers {
        assert!(store.get(DOCS.name, &id(number)).await.unwrap().is_some());
    }
}

async fn finds_of(store: Arc<dyn Store>, numbers: Vec<usize>) {
    for number in numbers {
        let found = store.find(DOCS.name, &Query::all().equals("group", group(number))).await.unwrap();
        assert_eq!(found.rows.len(), GROUP);
    }
}

impl Bench {
    /// The cost of sequential work on the current thread.
    fn sequential<F: Future<Output = ()>>(&self, work: impl FnOnce(Arc<dyn Store>) -> F) -> Cost {
        cost(|| self.runtime.block_on(work(self.store.clone())))
    }

    /// The cost of the same work split over concurrent tasks.
    fn concurrent<F>(&self, numbers: &[usize], work: impl Fn(Arc<dyn Store>, Vec<usize>) -> F) -> Cost
    where
        F: Future<Output = ()> + Send + 'static,
    {
        cost(|| {
            let parts = numbers.chunks(numbers.len().div_ceil(TASKS));
            let tasks: Vec<_> = parts.map(|part| self.runtime.spawn(work(self.store.clone(), part.to_vec()))).collect();
            self.runtime.block_on(async {
                for task in tasks {
                    task.await.unwrap();
                }
            });
        })
    }

    fn raw_rows(&self, sql: &str, times: usize, bind: impl Fn(usize) -> Vec<rusqlite::types::Value>) -> Cost {
        cost(|| {
            for time in 0..times {
                let mut statement = self.raw.prepare_cached(sql).unwrap();
                let mut rows = statement.query(rusqlite::params_from_iter(bind(time))).unwrap();
                let mut count = 0;
                while let Some(row) = rows.next().unwrap() {
                    let row: (String, i64, String) = (row.get(0).unwrap(), row.get(1).unwrap(), row.get(2).unwrap());
                    count += usize::from(!row.2.is_empty());
                }
                assert!(count > 0);
            }
        })
    }
}

fn gets(bench: &Bench, table: &mut Table) {
    let mut seed = 0;
    let [alone, shared, cpu, micros] = medians(|| {
        seed += 1;
        let numbers = numbers(seed, GETS);
        let sql = "SELECT id, ver, doc FROM c_benchSvcDocs WHERE id = ?";
        let raw = bench.raw_rows(sql, GETS, |time| vec![id(numbers[time]).into()]);
        let alone = bench.sequential(|store| gets_of(store, numbers.clone()));
        let shared = bench.concurrent(&numbers, gets_of);
        let rate = |cost: &Cost| cost.rate(GETS) / raw.rate(GETS);
        [rate(&alone), rate(&shared), shared.micros(GETS) / raw.micros(GETS), shared.micros(GETS)]
    });
    table.add_row("get c1 / raw", alone, Limit::AtLeast(0.6), String::new());
    table.add_row("get c32 / raw, one thread", shared, Limit::AtLeast(1.0), String::new());
    table.add_row("get CPU c32 / raw", cpu, Limit::AtMost(2.0), format!("{micros:.1} us"));
}

fn finds(bench: &Bench, table: &mut Table) {
    let key = |number: usize| -> Vec<u8> {
        let sql = "SELECT f_group FROM c_benchSvcDocs WHERE id = ?";
        bench.raw.query_row(sql, [id(number)], |row| row.get(0)).unwrap()
    };
    let mut seed = 100;
    let [alone, shared] = medians(|| {
        seed += 1;
        let numbers = numbers(seed, FINDS);
        let keys: Vec<Vec<u8>> = numbers.iter().map(|number| key(*number)).collect();
        let sql = "SELECT id, ver, doc FROM c_benchSvcDocs WHERE f_group = ? ORDER BY id";
        let raw = bench.raw_rows(sql, FINDS, |time| vec![keys[time].clone().into()]);
        let alone = bench.sequential(|store| finds_of(store, numbers.clone()));
        let shared = bench.concurrent(&numbers, finds_of);
        [alone.rate(FINDS) / raw.rate(FINDS), shared.rate(FINDS) / raw.rate(FINDS)]
    });
    table.add_row("20 by equality c1 / raw", alone, Limit::AtLeast(0.4), String::new());
    table.add_row("20 by equality c32 / raw, one thread", shared, Limit::AtLeast(1.0), String::new());
}

/// A query for a page of fifty documents by `value`, after a cursor.
pub fn page(last: Option<&openorch_store::Cursor>) -> Query {
    let query = Query::all().descending("value").limit(50);
    match last {
        Some(last) => query.after(last.clone()),
        None => query,
    }
}

fn pages(bench: &Bench, table: &mut Table) {
    let [ratio, micros] = medians(|| {
        let sql = "SELECT id, ver, doc FROM c_benchSvcDocs WHERE f_value <= ?1 AND (f_value < ?1 OR id < ?2) \
                   ORDER BY f_value DESC, id DESC LIMIT 51";
        let starts: Vec<(Vec<u8>, String)> = numbers(9, PAGES)
            .iter()
            .map(|number| {
                let sql = "SELECT f_value, id FROM c_benchSvcDocs WHERE id = ?";
                bench.raw.query_row(sql, [id(*number)], |row| Ok((row.get(0)?, row.get(1)?))).unwrap()
            })
            .collect();
        let raw = bench.raw_rows(sql, PAGES, |time| vec![starts[time].0.clone().into(), starts[time].1.clone().into()]);
        let ours = bench.sequential(|store| async move {
            let mut last = None;
            for _ in 0..PAGES {
                last = store.find(DOCS.name, &page(last.as_ref())).await.unwrap().next;
            }
        });
        [ours.rate(PAGES) / raw.rate(PAGES), ours.wall.as_secs_f64() * 1e6 / PAGES as f64]
    });
    table.add_row("page of 50 / raw", ratio, Limit::AtLeast(0.5), format!("{micros:.0} us"));
}

fn readable(account: &str) -> Query {
    Query::all().intersects("readers", [account, "nobody"]).descending("value").limit(50)
}

fn intersects(bench: &Bench, table: &mut Table) {
    const TIMES: usize = 500;
    let list: String = bench
        .raw
        .query_row("SELECT name FROM sqlite_schema WHERE type = 'table' AND name LIKE 's!_%' ESCAPE '!'", [], |row| {
            row.get(0)
        })
        .unwrap();
    let keys = |number: usize| -> Vec<Vec<u8>> {
        let sql = format!("SELECT val FROM \"{list}\" WHERE id = ? ORDER BY val");
        let mut select = bench.raw.prepare(&sql).unwrap();
        select.query_map([id(number)], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
    };
    // Document 7 has one account as reader; document 5 has one account and the organization, which sorts after it.
    let (few, many) = (keys(7).remove(0), keys(5).remove(1));
    let top =
        "SELECT k1, id, rid FROM (SELECT k1, id, rid FROM \"LIST\" WHERE val = ? ORDER BY k1 DESC, id DESC LIMIT 51)";
    let sql = format!(
        "SELECT c.id, c.ver, c.doc FROM (SELECT * FROM ({} UNION {}) ORDER BY k1 DESC, id DESC LIMIT 51) t \
         CROSS JOIN c_benchSvcDocs c ON c.rid = t.rid ORDER BY t.k1 DESC, t.id DESC",
        top.replace("LIST", &list),
        top.replace("LIST", &list)
    );
    let ours = |account: &str, times: usize| {
        let query = readable(account);
        bench.sequential(|store| async move {
            for _ in 0..times {
                assert_eq!(store.find(DOCS.name, &query).await.unwrap().rows.len(), 50);
            }
        })
    };
    let raw = |key: &Vec<u8>| bench.raw_rows(&sql, TIMES, |_| vec![key.clone().into(), vec![0_u8].into()]);
    let scan = "SELECT id, ver, doc FROM c_benchSvcDocs WHERE EXISTS \
                (SELECT 1 FROM json_each(doc, '$.readers') WHERE value IN (?, 'nobody')) ORDER BY f_value DESC, id DESC LIMIT 50";
    let [selective, popular, against, scans] = medians(|| {
        let (raw_few, raw_many) = (raw(&few), raw(&many));
        let (ours_few, ours_many) = (ours(SELECTIVE, TIMES), ours(POPULAR, TIMES));
        let scanned = bench.raw_rows(scan, 3, |_| vec![SELECTIVE.to_owned().into()]);
        [
            ours_few.rate(TIMES) / raw_few.rate(TIMES),
            ours_many.rate(TIMES) / raw_many.rate(TIMES),
            ours_few.rate(TIMES) / ours_many.rate(TIMES),
            scanned.micros(3) / ours_few.micros(TIMES),
        ]
    });
    table.add_row("intersects, few documents / raw", selective, Limit::AtLeast(0.4), String::new());
    table.add_row("intersects, many documents / raw", popular, Limit::AtLeast(0.4), String::new());
    table.add_row("intersects, many / few", against, Limit::AtMost(2.0), "time".into());
    table.add_row("CPU of a scan by json_each / intersects", scans, Limit::AtLeast(100.0), String::new());
}
