//! What was acknowledged is there after a kill.

use std::collections::HashSet;
use std::path::Path;

use openorch_store::Query;
use serde_json::json;

use crate::folder::{lines, start_child};
use crate::{THINGS, open, thing};

const T: &str = THINGS.name;
const WRITERS: usize = 8;

/// Not a test of its own: writes and says what was acknowledged, until it is killed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "runs as a child of other tests"]
async fn child_that_writes_until_it_is_killed() {
    let Some(folder) = std::env::var_os("STORE_CHILD_FOLDER") else { return };
    let store = open(Path::new(&folder)).unwrap();
    store.open_collections(&[THINGS]).await.unwrap();
    if !store.is_seeded() {
        store.mark_seeded().await.unwrap();
    }
    let pid = std::process::id();
    let tasks = (0..WRITERS).map(|writer| {
        let store = store.clone();
        tokio::spawn(async move {
            for i in 0.. {
                let id = format!("p{pid}w{writer}i{i}");
                // Two documents that belong together.
                let batch =
                    thing(&id, json!({"kind": "half", "rank": i, "slug": id})).create(T, format!("{id}b"), "{}");
                store.commit(batch).await.unwrap();
                println!("acknowledged {id}");
            }
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        task.await.unwrap();
    }
}

#[tokio::test]
async fn every_acknowledged_write_survives_kill_9() {
    let temp = tempfile::tempdir().unwrap();
    let folder = temp.path().join("server");
    let mut acknowledged: Vec<String> = Vec::new();
    for round in 0..20 {
        let mut child = start_child("crash::child_that_writes_until_it_is_killed", &folder);
        // Killed at another place each time; what was printed before the kill is still read.
        let mut printed =
            lines(&mut child).filter_map(|line| line.split_once("acknowledged ").map(|(_, id)| id.to_owned()));
        acknowledged.extend(printed.by_ref().take(1 + round * 37));
        child.kill().unwrap();
        acknowledged.extend(printed);
        child.wait().unwrap();
    }
    let store = open(&folder).unwrap();
    store.open_collections(&[THINGS]).await.unwrap();
    let stored: HashSet<String> =
        store.find(T, &Query::all()).await.unwrap().rows.into_iter().map(|row| row.id).collect();
    for id in &acknowledged {
        assert!(stored.contains(id) && stored.contains(&format!("{id}b")), "{id} was acknowledged and is gone");
    }
    let halves = store.find(T, &Query::all().equals("kind", "half")).await.unwrap().rows;
    assert_eq!(halves.len() * 2, stored.len(), "a batch is there whole or not at all");
    assert!(acknowledged.len() > 3000, "{}", acknowledged.len());
    store.close().await;
    let check: String = rusqlite::Connection::open(folder.join("openorch.db"))
        .unwrap()
        .query_row("PRAGMA integrity_check", [], |row| row.get(0))
        .unwrap();
    assert_eq!(check, "ok");
}
