//! Where things end: the size of a document, and the disk.

use std::path::Path;

use openorch_store::{Batch, Filter, Query, SqliteOptions, SqliteStore, StoreError};
use serde_json::json;

use crate::{THINGS, body, ids, open, thing};

const T: &str = THINGS.name;

#[tokio::test]
async fn a_document_over_the_limit_is_too_large() {
    let folder = tempfile::tempdir().unwrap();
    let options = SqliteOptions { document_limit: 1000, ..SqliteOptions::default() };
    let store = SqliteStore::open(folder.path(), options).unwrap();
    store.open_collections(&[THINGS]).await.unwrap();
    let of = |bytes: usize| json!({"text": "x".repeat(bytes - r#"{"text":""}"#.len())});
    store.commit(thing("fits", of(1000))).await.unwrap();
    let error = store.commit(thing("over", of(1001))).await.unwrap_err();
    let sentence = "document `over` of testSvcThings has 1001 bytes; a document may have at most 1000";
    assert_eq!(error, StoreError::TooLarge(sentence.into()));
}

#[tokio::test]
async fn four_mebibytes_come_back_whole() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).unwrap();
    store.open_collections(&[THINGS]).await.unwrap();
    let large = json!({"kind": "k", "more": "k".repeat(1024 * 1024), "text": "é".repeat(1024 * 1024)});
    store.commit(thing("large", large.clone())).await.unwrap();
    assert_eq!(body(&store, "large").await, Some(large));
}

/// Writes until it fails, several at a time, and says how many documents were acknowledged.
async fn write_until_full(store: &std::sync::Arc<dyn openorch_store::Store>, name: &str) -> (u64, StoreError) {
    let mut written = 0;
    loop {
        let mut tasks = Vec::new();
        for _ in 0..8 {
            let id = format!("{name}{written:06}-{}", tasks.len());
            let store = store.clone();
            let batch = thing(&id, json!({"kind": "full", "text": "x".repeat(4000)}));
            tasks.push(tokio::spawn(async move { store.commit(batch).await }));
        }
        let mut failure = None;
        for task in tasks {
            match task.await.unwrap() {
                Ok(_) => written += 1,
                Err(error) => failure = Some(error),
            }
        }
        if let Some(error) = failure {
            return (written, error);
        }
    }
}

async fn a_full_store_reads_on_and_writes_again(
    store: &std::sync::Arc<dyn openorch_store::Store>,
    make_room: impl FnOnce(),
) {
    store.open_collections(&[THINGS]).await.unwrap();
    store.commit(thing("before", json!({"rank": 1}))).await.unwrap();
    let (written, error) = write_until_full(store, "f").await;
    assert!(matches!(&error, StoreError::StorageFull(text) if text.contains("the disk is full")), "{error:?}");
    assert!(written > 0);
    assert_eq!(body(store, "before").await, Some(json!({"rank": 1})));
    let full = [Filter::equals("kind", "full")];
    assert_eq!(store.count(T, &full).await.unwrap(), written, "what was acknowledged is there, and nothing else");
    let again = store.commit(thing("again", json!({"text": "x".repeat(2_000_000)}))).await;
    assert!(matches!(again, Err(StoreError::StorageFull(_))), "{again:?}");
    store.ready().await.unwrap();

    make_room();
    let mut victims = ids(store, T, &Query::all().equals("kind", "full")).await;
    victims.truncate(victims.len() / 2);
    let delete = victims.iter().fold(Batch::new(), |batch, id| batch.delete(T, id));
    store.commit(delete).await.unwrap();
    store.commit(thing("after", json!({"rank": 2}))).await.unwrap();
    assert_eq!(body(store, "after").await, Some(json!({"rank": 2})));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_at_its_page_limit_reads_on_and_writes_again() {
    let folder = tempfile::tempdir().unwrap();
    let options = SqliteOptions { page_limit: Some(300), ..SqliteOptions::default() };
    let store = SqliteStore::open(folder.path(), options).unwrap();
    a_full_store_reads_on_and_writes_again(&store, || {}).await;
}

#[cfg(target_os = "linux")]
struct SmallDisk(tempfile::TempDir);

#[cfg(target_os = "linux")]
impl SmallDisk {
    fn new() -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let mounted = crate::folder::run("mount", &["-t", "tmpfs", "-o", "size=4m", "tmpfs", folder.path().to_str()?]);
        if !mounted {
            eprintln!("SKIPPED: no small disk can be mounted here");
        }
        mounted.then_some(Self(folder))
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    /// Leaves no byte.
    fn fill(&self) -> std::path::PathBuf {
        use std::io::Write;
        let path = self.path().join("ballast");
        let mut file = std::fs::File::create(&path).unwrap();
        while file.write(&[1; 4096]).is_ok_and(|written| written > 0) {}
        path
    }
}

#[cfg(target_os = "linux")]
impl Drop for SmallDisk {
    fn drop(&mut self) {
        crate::folder::run("umount", &["-l", self.path().to_str().unwrap()]);
    }
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_a_full_disk_reads_go_on_and_writes_work_again_once_there_is_room() {
    let Some(disk) = SmallDisk::new() else { return };
    let ballast = disk.path().join("ballast");
    std::fs::write(&ballast, vec![1; 1024 * 1024]).unwrap();
    let folder = disk.path().join("server");
    let store = open(&folder).unwrap();
    a_full_store_reads_on_and_writes_again(&store, || std::fs::remove_file(&ballast).unwrap()).await;
    let count = store.count(T, &[]).await.unwrap();
    store.mark_seeded().await.unwrap();
    store.close().await;
    drop(store);
    let store = open(&folder).unwrap();
    store.open_collections(&[THINGS]).await.unwrap();
    assert_eq!(store.count(T, &[]).await.unwrap(), count);
    drop(store);
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_start_on_a_full_disk_is_refused_and_works_once_there_is_room() {
    let Some(disk) = SmallDisk::new() else { return };
    let folder = disk.path().join("server");
    for seeded in [false, true] {
        let ballast = disk.fill();
        let error = open(&folder).err().expect("a full disk");
        assert!(
            matches!(&error, StoreError::StorageFull(text) if text.contains("the disk is full")),
            "{seeded} {error:?}"
        );
        std::fs::remove_file(ballast).unwrap();
        let store = open(&folder).unwrap();
        store.open_collections(&[THINGS]).await.unwrap();
        if seeded {
            assert_eq!(body(&store, "a").await, Some(json!({})));
        } else {
            store.commit(thing("a", json!({}))).await.unwrap();
            store.mark_seeded().await.unwrap();
        }
    }
}
