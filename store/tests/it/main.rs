//! The facts of the store, told across its boundary: real SQLite in folders of their own.

mod backup;
mod crash;
mod folder;
mod limits;
mod queries;
mod writes;

use std::path::Path;
use std::sync::Arc;

use openorch_store::{Batch, Collection, Index, Query, SqliteOptions, SqliteStore, Store, StoreError};
use serde_json::{Value, json};

/// Things with everything declared that a test may want.
pub const THINGS: Collection = Collection {
    name: "testSvcThings",
    indexes: &[
        Index::on(&["kind", "rank"]),
        Index::on(&["rank"]),
        Index::on(&["lower(name)"]),
        Index::unique(&["slug"]),
        Index::on(&["place.city"]),
    ],
};

/// The same documents without any index.
pub const PLAIN: Collection = Collection { name: "testSvcPlain", indexes: &[] };

pub fn open(folder: &Path) -> Result<Arc<dyn Store>, StoreError> {
    SqliteStore::open(folder, SqliteOptions::default())
}

/// A store in a new folder, with both collections, and the folder that must outlive it.
pub async fn new_store() -> (tempfile::TempDir, Arc<dyn Store>) {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder.path().join("server")).unwrap();
    store.open_collections(&[THINGS, PLAIN]).await.unwrap();
    (folder, store)
}

pub fn thing(id: &str, body: Value) -> Batch {
    Batch::new().create(THINGS.name, id, body.to_string())
}

pub async fn ids(store: &Arc<dyn Store>, collection: &str, query: &Query) -> Vec<String> {
    store.find(collection, query).await.unwrap().rows.into_iter().map(|row| row.id).collect()
}

pub async fn body(store: &Arc<dyn Store>, id: &str) -> Option<Value> {
    let row = store.get(THINGS.name, id).await.unwrap();
    row.map(|row| serde_json::from_str(&row.body).unwrap())
}

/// Numbered things, `t0000` upwards.
pub async fn fill(store: &Arc<dyn Store>, count: usize) {
    let mut batch = Batch::new();
    for i in 0..count {
        let body =
            json!({"kind": format!("k{}", i % 10), "rank": i, "name": format!("Name {i}"), "text": "x".repeat(300)});
        batch = batch.create(THINGS.name, format!("t{i:05}"), body.to_string());
    }
    store.commit(batch).await.unwrap();
}
