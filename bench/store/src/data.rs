//! The documents: about 650 bytes, in 5,000 groups of twenty, readable by one of many accounts and, a fifth of them, by a
//! large organization.

use std::{path::Path, sync::Arc};

use openorch_store::{Batch, Collection, Index, SqliteOptions, SqliteStore, Store};
use serde_json::json;
use tokio::runtime::Runtime;

pub const DOCS: Collection = Collection {
    name: "benchSvcDocs",
    indexes: &[Index::on(&["group"]), Index::on(&["value"]), Index::each("readers", &["value"])],
};
pub const COUNT: usize = 100_000;
/// Documents in a group.
pub const GROUP: usize = 20;
/// An account of which few documents are readers', and one of which many are.
pub const SELECTIVE: &str = "account-7";
pub const POPULAR: &str = "organization";
const PER_BATCH: usize = 1000;

pub fn id(number: usize) -> String {
    format!("doc_{number:08}")
}

pub fn group(number: usize) -> String {
    format!("group-{}", number / GROUP)
}

pub fn body(number: usize) -> String {
    let mut readers = vec![format!("account-{}", number % 230)];
    if number.is_multiple_of(5) {
        readers.push(POPULAR.into());
    }
    json!({
        "id": id(number), "group": group(number), "value": (number * 7919) % 1_000_003, "readers": readers,
        "createdAt": created_at(number), "name": format!("Document {number}"), "text": "x".repeat(430),
    })
    .to_string()
}

/// A second after the one before it.
fn created_at(number: usize) -> String {
    let (minutes, seconds) = (number / 60, number % 60);
    let (hours, minutes) = (minutes / 60, minutes % 60);
    format!("2026-11-24T{hours:05}:{minutes:02}:{seconds:02}Z")
}

pub fn batch(numbers: std::ops::Range<usize>) -> Batch {
    numbers.fold(Batch::new(), |batch, number| batch.create(DOCS.name, id(number), body(number)))
}

pub fn open(folder: &Path) -> Arc<dyn Store> {
    SqliteStore::open(folder, SqliteOptions::default()).unwrap_or_else(|error| panic!("{error}"))
}

/// Opens the collection and puts documents `from..to` into it.
pub fn fill(runtime: &Runtime, store: &Arc<dyn Store>, from: usize, to: usize) {
    fill_into(DOCS, runtime, store, from, to);
}

/// The same with other indexes.
pub fn fill_into(collection: Collection, runtime: &Runtime, store: &Arc<dyn Store>, from: usize, to: usize) {
    runtime.block_on(async {
        store.open_collections(&[collection]).await.unwrap();
        for start in (from..to).step_by(PER_BATCH) {
            store.commit(batch(start..to.min(start + PER_BATCH))).await.unwrap();
        }
    });
}

pub fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}
