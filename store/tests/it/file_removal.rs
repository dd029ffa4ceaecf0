//! External changes of the files of a store, while it is open and while it is not: a file is removed or replaced, a
//! copy is missing the log.

use std::{fs, path::Path, sync::Arc};

use openorch_store::{Filter, Notes, Query, Store, StoreError, accept_missing_writes};
use serde_json::json;

use crate::{
    THINGS,
    backup::{backup, check, finish, prepare, silent},
    body,
    child::{lines, start},
    fill, ids, open, thing,
};

const T: &str = THINGS.name;
const FOLDER: &str = "STORE_CHILD_FOLDER";

async fn running(folder: &Path) -> Arc<dyn Store> {
    let store = open(folder).unwrap();
    store.open_collections(&[THINGS]).await.unwrap();
    store.mark_seeded().await.unwrap();
    store.commit(thing("before", json!({"rank": -1}))).await.unwrap();
    store
}

fn assert_replaced_error<T: std::fmt::Debug>(outcome: Result<T, StoreError>, file: &Path) {
    let named = |text: &str| text.contains(file.to_str().unwrap()) && text.contains("oo backup");
    assert!(matches!(&outcome, Err(StoreError::Replaced(text)) if named(text)), "{outcome:?}");
}

/// All kinds of concurrent reads, more than there are connections left.
async fn assert_reads_work(store: &Arc<dyn Store>) {
    let reads = (0..8).map(|_| {
        let store = store.clone();
        tokio::spawn(async move {
            assert_eq!(body(&store, "before").await, Some(json!({"rank": -1})));
            assert_eq!(store.count(T, &[Filter::equals("rank", -1)]).await.unwrap(), 1);
            assert_eq!(ids(&store, T, &Query::all().equals("rank", -1)).await, ["before"]);
            let mut rows = store.stream(T, &Query::all()).await.unwrap();
            let mut count = 0;
            while let Some(piece) = rows.next().await.unwrap() {
                count += piece.iter().filter(|row| row.id == "before").count();
            }
            assert_eq!(count, 1);
            store.ready().await.unwrap();
        })
    });
    for read in reads.collect::<Vec<_>>() {
        read.await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn once_a_file_is_removed_or_replaced_nothing_is_acknowledged_and_a_copy_has_everything() {
    let names = ["openorch.db", "openorch.db-wal", "openorch.db-shm", "openorch.lock"];
    for (name, replaced) in names.iter().flat_map(|name| [(name, false), (name, true)]) {
        let place = tempfile::tempdir().unwrap();
        let (folder, other) = (place.path().join("a"), place.path().join("b"));
        let store = running(&folder).await;
        fill(&store, 1000).await;
        let file = folder.join(name);
        if replaced {
            fs::copy(&file, place.path().join("copy")).unwrap();
            fs::rename(place.path().join("copy"), &file).unwrap();
        } else {
            fs::remove_file(&file).unwrap();
        }
        // Before and after the first refused write.
        assert_reads_work(&store).await;
        assert_replaced_error(store.commit(thing("first", json!({}))).await, &file);
        for _ in 0..3 {
            assert_replaced_error(store.commit(thing("later", json!({}))).await, &file);
        }
        assert_replaced_error(store.mark_seeded().await, &file);
        assert_eq!(body(&store, "later").await, None);
        assert_reads_work(&store).await;
        assert_eq!(file.exists(), replaced, "the file is not created again");

        let copy = place.path().join("saved");
        let notes: Notes = vec![("key".into(), "secret".into())];
        assert!(store.back_up(&copy, &notes).await.unwrap() > 100_000);
        assert_reads_work(&store).await;
        let restoring = prepare(&copy, &other, &[THINGS]).unwrap();
        assert_eq!(*restoring.notes(), notes);
        finish(restoring).unwrap();
        let saved = open(&other).unwrap();
        saved.open_collections(&[THINGS]).await.unwrap();
        // A committed but unacknowledged write may be included.
        assert!(saved.count(T, &[]).await.unwrap() >= 1001, "{name}");
        saved.close().await;
        store.close().await;
    }
}

#[tokio::test]
async fn a_database_moved_into_the_place_of_another_keeps_its_log_when_that_one_ends() {
    let place = tempfile::tempdir().unwrap();
    let (folder, other) = (place.path().join("a"), place.path().join("b"));
    let store = running(&folder).await;
    let second = running(&other).await;
    let moved = place.path().join("moved");
    fs::create_dir(&moved).unwrap();
    for name in ["openorch.db", "openorch.db-wal"] {
        fs::rename(folder.join(name), moved.join(name)).unwrap();
        fs::copy(other.join(name), folder.join(name)).unwrap();
    }
    let log = fs::read(folder.join("openorch.db-wal")).unwrap();
    assert!(!log.is_empty());
    assert_reads_work(&store).await;
    assert_replaced_error(store.commit(thing("after", json!({}))).await, &folder.join("openorch.db"));
    store.close().await;
    drop(store);
    assert_eq!(fs::read(folder.join("openorch.db-wal")).unwrap(), log);
    second.close().await;
    // The moved database is complete.
    let store = open(&moved).unwrap();
    store.open_collections(&[THINGS]).await.unwrap();
    assert_eq!(body(&store, "before").await, Some(json!({"rank": -1})));
}

#[tokio::test]
async fn a_folder_that_is_moved_away_and_back_is_refused_until_the_store_is_opened_again() {
    let place = tempfile::tempdir().unwrap();
    let (folder, away) = (place.path().join("a"), place.path().join("away"));
    let store = running(&folder).await;
    fs::rename(&folder, &away).unwrap();
    assert_replaced_error(store.commit(thing("after", json!({}))).await, &folder.join("openorch.db"));
    fs::rename(&away, &folder).unwrap();
    assert_replaced_error(store.commit(thing("after", json!({}))).await, &folder.join("openorch.db"));
    store.close().await;
    let store = open(&folder).unwrap();
    store.open_collections(&[THINGS]).await.unwrap();
    store.commit(thing("later", json!({}))).await.unwrap();
    assert_eq!(body(&store, "before").await, Some(json!({"rank": -1})));
}

/// Copies files of a directory into a new one.
fn copy_of(folder: &Path, names: &[&str]) -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    for name in names {
        fs::copy(folder.join(name), copy.path().join(name)).unwrap();
    }
    copy
}

fn assert_missing_writes(folder: &Path) {
    let database = folder.join("openorch.db");
    let before = fs::read(&database).unwrap();
    let error = open(folder).err().expect("it is missing its newest writes");
    let all = [folder.to_str().unwrap(), "openorch backup", "openorch restore", "openorch check --accept"];
    assert!(matches!(&error, StoreError::Corrupt(text) if all.iter().all(|word| text.contains(word))), "{error}");
    let place = tempfile::tempdir().unwrap();
    assert!(backup(folder, &place.path().join("file"), &vec![], &mut silent).is_err(), "a backup would hide it");
    let restored = prepare(&database, &place.path().join("b"), &[THINGS]);
    assert!(restored.is_err(), "so would a restore");
    let findings = check(folder, &[THINGS], &mut silent).unwrap();
    assert!(findings.problems.is_empty() && findings.missing_writes.is_some(), "{findings:?}");
    assert_eq!(fs::read(&database).unwrap(), before, "nothing was changed");
}

#[tokio::test]
async fn a_copy_of_the_main_file_alone_is_refused_until_it_is_accepted() {
    let place = tempfile::tempdir().unwrap();
    let folder = place.path().join("a");
    let store = running(&folder).await;
    store.close().await;
    drop(store);

    // While it is open, before the first write: the main file is complete.
    let store = open(&folder).unwrap();
    store.open_collections(&[THINGS]).await.unwrap();
    assert_eq!(body(&store, "before").await, Some(json!({"rank": -1})));
    let copy = copy_of(&folder, &["openorch.db"]);
    let copied = open(copy.path()).unwrap();
    copied.open_collections(&[THINGS]).await.unwrap();
    assert_eq!(body(&copied, "before").await, Some(json!({"rank": -1})));
    copied.close().await;

    // After the first acknowledged write.
    store.commit(thing("after", json!({"rank": 2, "createdAt": "2026-11-30T12:00:00Z"}))).await.unwrap();
    let copy = copy_of(&folder, &["openorch.db", "openorch.lock"]);
    assert_missing_writes(copy.path());
    let with_log = copy_of(&folder, &["openorch.db", "openorch.db-wal"]);
    let copied = open(with_log.path()).unwrap();
    copied.open_collections(&[THINGS]).await.unwrap();
    assert!(body(&copied, "after").await.is_some());
    copied.close().await;

    // A backup is complete, even of a database with a log.
    backup(&folder, &place.path().join("file"), &vec![], &mut silent).unwrap();
    finish(prepare(&place.path().join("file"), &place.path().join("b"), &[THINGS]).unwrap()).unwrap();
    open(&place.path().join("b")).unwrap().close().await;

    let error = accept_missing_writes(&folder).unwrap_err();
    assert!(matches!(error, StoreError::InUse(_)), "{error}");
    let newest = accept_missing_writes(copy.path()).unwrap().unwrap();
    assert_eq!((newest.collection.as_str(), newest.id.as_str()), (T, "before"));
    let copied = open(copy.path()).unwrap();
    copied.open_collections(&[THINGS]).await.unwrap();
    assert!(body(&copied, "before").await.is_some() && body(&copied, "after").await.is_none());
    copied.close().await;
    store.close().await;
    let newest = accept_missing_writes(&folder).unwrap().unwrap();
    assert_eq!((newest.id.as_str(), newest.time.as_deref()), ("after", Some("2026-11-30T12:00:00Z")));
}

/// Not a test: writes one document, then waits to be killed.
#[tokio::test]
#[ignore = "runs as a child of other tests"]
async fn child_that_writes_once() {
    let Some(folder) = std::env::var_os(FOLDER) else { return };
    let store = running(Path::new(&folder)).await;
    println!("written");
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).unwrap();
    drop(store);
}

fn killed(folder: &Path) {
    let mut child = start("child_that_writes_once", &[(FOLDER, folder.as_os_str())]);
    assert!(lines(&mut child).any(|line| line.contains("written")));
    child.kill().unwrap();
    openorch_test_support::process::wait(&mut child);
}

#[tokio::test]
async fn after_a_kill_the_log_is_there_whatever_looked_at_it_and_without_it_the_start_is_refused() {
    let place = tempfile::tempdir().unwrap();
    let folder = place.path().join("a");
    killed(&folder);
    let copy = copy_of(&folder, &["openorch.db"]);
    assert_missing_writes(copy.path());
    // Neither a backup nor a check removes the log.
    backup(&folder, &place.path().join("file"), &vec![], &mut silent).unwrap();
    assert_eq!(check(&folder, &[THINGS], &mut silent).unwrap().missing_writes, None);
    assert!(accept_missing_writes(&folder).unwrap().is_some(), "there is nothing to accept");
    assert!(folder.join("openorch.db-wal").exists());
    let store = open(&folder).unwrap();
    store.open_collections(&[THINGS]).await.unwrap();
    assert!(body(&store, "before").await.is_some());
    store.close().await;
    drop(store);
    assert!(!folder.join("openorch.db-wal").exists());
    // It was shut down cleanly, so the main file alone is complete.
    open(copy_of(&folder, &["openorch.db"]).path()).unwrap().close().await;

    let folder = place.path().join("b");
    killed(&folder);
    fs::remove_file(folder.join("openorch.db-wal")).unwrap();
    assert_missing_writes(&folder);
}
