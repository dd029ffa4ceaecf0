//! The test documents: about 650 bytes each, in 5,000 groups of twenty. Each is readable by one of many accounts, and every
//! fifth one also by a large organization.

use std::{path::Path, sync::Arc};

use openorch_store::{Batch, Collection, Index, SqliteOptions, SqliteStore, Store};
use serde_json::json;
use tokio::runtime::Runtime;

pub const DOCS: Collection = Collection {
    name: "benchSvcDocs",
    indexes: &[Index::on(&["group"]), Index::on(&["value"]), Index::each("readers", &["value"])],
};
pub const COUNT: usize = 100_000;
/// Documents per group.
pub const GROUP: usize = 20;
/// A reader of few documents, and a reader of many.
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

/// One second after the previous document.
fn created_at(number: usize) -> String {
    let (minutes, seconds) = (number / 60, number % 60);
    let (hours, minutes) = (minutes / 60, minutes % 60);
    format!("2026-11-24T{hours:05}:{minutes:02}:{seconds:02}Z")
}

pub fn batch(numbers: std::ops::Range<usize>) -> Batch {
    numbers.fold(Batch::new(), |batch, number| batch.create(DOCS.name, id(number), body(number)))
}

pub fn open(directory: &Path) -> Arc<dyn Store> {
    SqliteStore::open(directory, SqliteOptions::default()).unwrap_or_else(|error| panic!("{error}"))
}

/// Opens the collection and inserts documents `from..to`.
pub fn fill(runtime: &Runtime, store: &Arc<dyn Store>, from: usize, to: usize) {
    fill_into(DOCS, runtime, store, from, to);
}

/// The same for a given collection, whose indexes may differ.
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
