//! Tests of the store through its public interface. Facts that hold for every engine are cases of the suite
//! (`suite.rs`), instantiated for the oracle, SQLite and PostgreSQL; facts of one engine have files of their own.

#[macro_use]
mod suite;

mod archive;
mod backup;
mod child;
mod crash;
mod data_dir;
mod file_removal;
mod foreign_objects;
mod limits;
mod lists;
mod oracle;
mod pitfalls;
mod postgres;
mod queries;
mod random;
mod timeouts;
mod writes;

use std::{path::Path, sync::Arc};

use openorch_store::{Batch, Collection, Index, Query, SqliteOptions, SqliteStore, Store, StoreError};
use serde_json::{Value, json};
pub use suite::{Bench, Engine};

/// A collection with all kinds of indexes.
pub const THINGS: Collection = Collection {
    name: "testSvcThings",
    indexes: &[
        Index::on(&["kind", "rank"]),
        Index::on(&["rank"]),
        Index::on(&["lower(name)"]),
        Index::unique(&["slug"]),
        Index::unique(&["place.zip", "lower(code)"]),
        Index::on(&["place.city"]),
        Index::each("readers", &["kind", "rank"]),
        Index::each("readers", &["rank"]),
        Index::each("tags", &[]),
    ],
};

/// A collection for the same documents without any index.
pub const PLAIN: Collection = Collection { name: "testSvcPlain", indexes: &[] };

/// Both, for results that must not depend on indexes.
pub const BOTH: [&str; 2] = [THINGS.name, PLAIN.name];

pub fn thing(id: &str, body: Value) -> Batch {
    Batch::new().create(THINGS.name, id, body.to_string())
}

/// The same documents in both collections.
pub fn in_both<'a>(documents: impl IntoIterator<Item = (&'a str, Value)>) -> Batch {
    documents.into_iter().fold(Batch::new(), |batch, (id, body)| {
        BOTH.iter().fold(batch, |batch, collection| batch.create(collection, id, body.to_string()))
    })
}

pub async fn ids(store: &Arc<dyn Store>, collection: &str, query: &Query) -> Vec<String> {
    store.find(collection, query).await.unwrap().rows.into_iter().map(|row| row.id).collect()
}

pub async fn body(store: &Arc<dyn Store>, id: &str) -> Option<Value> {
    let row = store.get(THINGS.name, id).await.unwrap();
    row.map(|row| serde_json::from_str(&row.body).unwrap())
}

/// Opens the embedded engine in this directory.
pub fn open(folder: &Path) -> Result<Arc<dyn Store>, StoreError> {
    SqliteStore::open(folder, SqliteOptions::default())
}

/// Numbered things, `t00000` upwards.
pub async fn fill(store: &Arc<dyn Store>, count: usize) {
    let mut batch = Batch::new();
    for i in 0..count {
        let body =
            json!({"kind": format!("k{}", i % 10), "rank": i, "name": format!("Name {i}"), "text": "x".repeat(300)});
        batch = batch.create(THINGS.name, format!("t{i:05}"), body.to_string());
    }
    store.commit(batch).await.unwrap();
}

/// Incompressible text of this many bytes.
pub fn noise(bytes: usize) -> String {
    let mut state = 0x9E37_79B9_7F4A_7C15u64;
    let letters = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        letters[(state >> 20) as usize % 64] as char
    };
    (0..bytes).map(|_| next()).collect()
}
