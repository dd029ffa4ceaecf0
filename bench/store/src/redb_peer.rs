//! redb, an embedded key-value store in Rust, to compare gets and durable inserts without SQL.

use redb::{Database, Durability, ReadableDatabase, TableDefinition};
use tempfile::tempdir;

use crate::{
    data::{COUNT, body, id},
    measure::{Cost, Limit, Rng, Table, cost, medians},
};

const DOCS: TableDefinition<'_, &str, &str> = TableDefinition::new("docs");

fn insert(database: &Database, numbers: impl Iterator<Item = usize>) {
    let mut transaction = database.begin_write().unwrap();
    transaction.set_durability(Durability::Immediate).unwrap();
    {
        let mut table = transaction.open_table(DOCS).unwrap();
        for number in numbers {
            table.insert(id(number).as_str(), body(number).as_str()).unwrap();
        }
    }
    transaction.commit().unwrap();
}

/// Compares gets of the store, run by `ours`, with gets of redb.
pub fn gets(table: &mut Table, ours: impl Fn(Vec<usize>) -> Cost, times: usize) {
    let directory = tempdir().unwrap();
    let database = Database::create(directory.path().join("redb")).unwrap();
    insert(&database, 0..COUNT);
    let mut seed = 500;
    let [ratio] = medians(|| {
        seed += 1;
        let mut numbers = Rng(seed);
        let numbers: Vec<usize> = (0..times).map(|_| numbers.below(COUNT)).collect();
        let theirs = cost(|| {
            for number in &numbers {
                let transaction = database.begin_read().unwrap();
                let docs = transaction.open_table(DOCS).unwrap();
                assert!(!docs.get(id(*number).as_str()).unwrap().unwrap().value().to_owned().is_empty());
            }
        });
        [ours(numbers).rate(times) / theirs.rate(times)]
    });
    table.add_row("get c1 / redb", ratio, Limit::None, "redb has no versions and no indexes".into());
}

/// Sequential inserts, each durable before the next.
pub fn inserts(times: usize) -> Cost {
    let directory = tempdir().unwrap();
    let database = Database::create(directory.path().join("redb")).unwrap();
    cost(|| (0..times).for_each(|number| insert(&database, std::iter::once(number))))
}
