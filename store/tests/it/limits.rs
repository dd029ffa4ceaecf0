//! Limits: the size of a document, and a full disk.

use std::{path::Path, sync::Arc};

use openorch_store::{
    Batch, Filter, Guard, PostgresOptions, PostgresStore, Query, SqliteOptions, SqliteStore, Store, StoreError, Write,
};
use serde_json::json;

use crate::{
    Bench, THINGS, body,
    child::run,
    ids, noise, open,
    postgres::{Server, with_option},
    suite::{TestOptions, ask},
    thing,
};

const T: &str = THINGS.name;

cases_of_engines! {
    a_document_over_the_limit_is_too_large,
    four_mebibytes_come_back_whole,
}

async fn a_document_over_the_limit_is_too_large(bench: Bench) {
    let wishes = TestOptions { document_limit: Some(1000), ..TestOptions::default() };
    let bench = Bench::with_options(bench.engine, wishes).await.unwrap();
    let of = |bytes: usize| json!({"text": "x".repeat(bytes - r#"{"text":""}"#.len())});
    bench.store.commit(thing("fits", of(1000))).await.unwrap();
    let error = bench.store.commit(thing("over", of(1001))).await.unwrap_err();
    let sentence = "document `over` of testSvcThings has 1001 bytes; a document may have at most 1000";
    assert_eq!(error, StoreError::TooLarge(sentence.into()));
    // The limit holds for a document that grows, too.
    let fields = vec![("more".to_owned(), json!(1))];
    let grow = Write::UpdateFields { collection: T, filters: vec![], fields };
    let error = bench.store.commit(Batch::new().create(T, "small", "{}").with(grow)).await.unwrap_err();
    assert!(matches!(&error, StoreError::TooLarge(text) if text.contains("`fits`")), "{error:?}");
    assert_eq!(ids(&bench.store, T, &Query::all()).await, ["fits"]);
    assert_eq!(body(&bench.store, "fits").await, Some(of(1000)));
}

async fn four_mebibytes_come_back_whole(bench: Bench) {
    let large = json!({"kind": "k", "more": "k".repeat(1024 * 1024), "text": "é".repeat(1024 * 1024)});
    bench.store.commit(thing("large", large.clone())).await.unwrap();
    assert_eq!(body(&bench.store, "large").await, Some(large));
}

/// Writes concurrently until a write fails; returns the number of acknowledged documents.
async fn write_until_full(store: &Arc<dyn Store>, name: &str) -> (u64, StoreError) {
    let mut written = 0;
    loop {
        let mut tasks = Vec::new();
        for _ in 0..8 {
            let id = format!("{name}{written:06}-{}", tasks.len());
            let store = store.clone();
            let batch = thing(&id, json!({"kind": "full", "text": noise(4000)}));
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

async fn check_full_store(store: &Arc<dyn Store>, make_room: impl FnOnce()) {
    store.open_collections(&[THINGS]).await.unwrap();
    store.commit(thing("before", json!({"rank": 1}))).await.unwrap();
    let (written, error) = write_until_full(store, "f").await;
    assert!(
        matches!(&error, StoreError::StorageFull(text) if text.contains("is full; free some space, nothing was lost")),
        "{error:?}"
    );
    assert!(written > 0);
    assert_eq!(body(store, "before").await, Some(json!({"rank": 1})));
    let full = [Filter::equals("kind", "full")];
    assert_eq!(store.count(T, &full).await.unwrap(), written, "exactly the acknowledged documents exist");
    let again = store.commit(thing("again", json!({"text": noise(2_000_000)}))).await;
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
    check_full_store(&store, || {}).await;
}

#[cfg(target_os = "linux")]
struct SmallDisk(tempfile::TempDir);

#[cfg(target_os = "linux")]
impl SmallDisk {
    fn new() -> Option<Self> {
        Self::of("size=4m")
    }

    fn of(size: &str) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let mounted = run("mount", &["-t", "tmpfs", "-o", size, "tmpfs", folder.path().to_str()?]);
        if !mounted {
            eprintln!("SKIPPED: no small disk can be mounted here");
        }
        mounted.then_some(Self(folder))
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    /// Fills the disk completely.
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
        run("umount", &["-l", self.path().to_str().unwrap()]);
    }
}

/// The tables are on a small disk, the server's WAL is not: without space for its WAL, the server shuts down.
#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_a_full_disk_of_the_server_reads_go_on_and_writes_work_again_once_there_is_room() {
    let Some(server) = Server::new().await else { return };
    let Some(disk) = SmallDisk::new() else { return };
    server.chown(disk.path());
    ask(&server.connection(), &format!("CREATE TABLESPACE small LOCATION '{}'", disk.path().display())).await;
    let ballast = disk.path().join("ballast");
    std::fs::write(&ballast, vec![1; 1024 * 1024]).unwrap();
    let there = with_option(&server.connection(), "options=-c%20default_tablespace%3Dsmall");
    let store = PostgresStore::open(PostgresOptions::new(&*there)).await.unwrap();
    check_full_store(&store, || std::fs::remove_file(&ballast).unwrap()).await;
    let count = store.count(T, &[]).await.unwrap();
    store.mark_seeded().await.unwrap();
    store.close().await;
    let store = PostgresStore::open(PostgresOptions::new(there)).await.unwrap();
    store.open_collections(&[THINGS]).await.unwrap();
    assert_eq!(store.count(T, &[]).await.unwrap(), count);
    store.close().await;
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_a_full_disk_reads_go_on_and_writes_work_again_once_there_is_room() {
    let Some(disk) = SmallDisk::new() else { return };
    let ballast = disk.path().join("ballast");
    std::fs::write(&ballast, vec![1; 1024 * 1024]).unwrap();
    let folder = disk.path().join("server");
    let store = open(&folder).unwrap();
    check_full_store(&store, || std::fs::remove_file(&ballast).unwrap()).await;
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

/// A larger disk has a reserve. Operations that need no space, such as the guards of a sign-in, work.
#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_a_reserve_a_store_is_opened_on_a_full_disk_reads_and_is_closed_cleanly() {
    let Some(disk) = SmallDisk::of("size=24m") else { return };
    let folder = disk.path().join("server");
    let store = open(&folder).unwrap();
    store.open_collections(&[THINGS]).await.unwrap();
    store.mark_seeded().await.unwrap();
    store.commit(thing("a", json!({"rank": 1}))).await.unwrap();
    store.close().await;
    drop(store);
    let reserve = folder.join("openorch.reserve");
    assert_eq!(std::fs::metadata(&reserve).unwrap().len(), 1024 * 1024);

    for round in 0..3 {
        let ballast = disk.fill();
        let store = open(&folder).unwrap();
        store.open_collections(&[THINGS]).await.unwrap();
        // Another file uses the released space.
        let more = disk.path().join("more");
        std::fs::rename(&ballast, &more).unwrap();
        let ballast = disk.fill();
        store.ready().await.unwrap();
        assert_eq!(body(&store, "a").await, Some(json!({"rank": 1})));
        assert_eq!(ids(&store, T, &Query::all().equals("rank", 1)).await[0], "a");
        let guards = Batch::new().require(Guard::Exists { collection: T, id: "a".into() });
        store.commit(guards).await.unwrap();
        let full = store.commit(thing(&format!("full{round}"), json!({}))).await;
        assert!(matches!(full, Err(StoreError::StorageFull(_))), "{full:?}");
        if round > 0 {
            std::fs::remove_file(&ballast).unwrap();
            store.commit(thing(&format!("later{round}"), json!({}))).await.unwrap();
            disk.fill();
        }
        store.close().await;
        drop(store);
        for file in [more, disk.path().join("ballast")] {
            std::fs::remove_file(file).unwrap();
        }
        assert!(std::fs::metadata(&reserve).unwrap().len() < 1024 * 1024, "the reserve was used");
        let store = open(&folder).unwrap();
        store.open_collections(&[THINGS]).await.unwrap();
        store.commit(thing(&format!("after{round}"), json!({}))).await.unwrap();
        store.close().await;
        assert_eq!(std::fs::metadata(&reserve).unwrap().len(), 1024 * 1024, "the reserve is restored");
    }
}
