//! Backup, restore and check: a backup is a complete snapshot, and a check finds inconsistencies.

use std::{
    fs,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
};

use futures_util::FutureExt;
use openorch_store::{
    ArchiveReader, ArchiveWriter, Batch, Collection, Engine, Findings, Index, Notes, OnProgress, PendingRestore,
    Progress, Query, Result, SqliteEngine, Store, StoreError,
};
use serde_json::json;

use crate::open;

pub const PAIRS: Collection = Collection {
    name: "testSvcPairs",
    indexes: &[Index::on(&["rank"]), Index::unique(&["slug"]), Index::each("readers", &["rank"])],
};
pub const P: &str = PAIRS.name;

pub fn silent(_: Progress<'_>) {}

/// Runs a future of the embedded engine, which blocks and is ready on the first poll.
fn now<T>(work: impl Future<Output = T>) -> T {
    work.now_or_never().expect("the embedded engine does not wait")
}

pub async fn back_up(engine: &dyn Engine, file: &Path, notes: &Notes, progress: OnProgress<'_>) -> Result<u64> {
    let mut archive = ArchiveWriter::create(file)?;
    engine.backup(&mut archive, progress).await?;
    archive.finish(notes)
}

/// Backs up a data directory.
pub fn backup(folder: &Path, file: &Path, notes: &Notes, progress: OnProgress<'_>) -> Result<u64> {
    now(back_up(&SqliteEngine::new(folder), file, notes, progress))
}

pub fn check(folder: &Path, collections: &[Collection], progress: OnProgress<'_>) -> Result<Findings> {
    now(SqliteEngine::new(folder).check(collections, progress))
}

/// Prepares the restore of a backup into a data directory.
pub fn prepare(file: &Path, folder: &Path, collections: &[Collection]) -> Result<Box<dyn PendingRestore>> {
    now(SqliteEngine::new(folder).restore(ArchiveReader::open(file)?, collections, &mut silent))
}

pub fn finish(restoring: Box<dyn PendingRestore>) -> Result<()> {
    now(restoring.finish(&mut silent))
}

pub fn pair(batch: Batch, number: usize) -> Batch {
    let body = |side: &str| {
        let readers = [format!("r{}", number % 7), "all".to_owned()];
        json!({ "rank": number, "slug": format!("{side}{number}"), "readers": readers, "text": "x".repeat(500) })
    };
    let (left, right) = (body("l"), body("r"));
    batch.create(P, format!("l{number:06}"), left.to_string()).create(P, format!("r{number:06}"), right.to_string())
}

pub async fn filled(folder: &Path, pairs: usize) -> Arc<dyn Store> {
    let store = open(folder).unwrap();
    fill_with_pairs(&store, pairs).await;
    store
}

pub async fn fill_with_pairs(store: &Arc<dyn Store>, pairs: usize) {
    store.open_collections(&[PAIRS]).await.unwrap();
    store.commit((0..pairs).fold(Batch::new(), pair)).await.unwrap();
    store.mark_seeded().await.unwrap();
}

pub fn sound(folder: &Path) -> Findings {
    let findings = check(folder, &[PAIRS], &mut silent).unwrap();
    assert_eq!(findings.problems, Vec::<String>::new());
    findings
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_made_while_others_write_is_of_one_moment_and_comes_back_whole() {
    let place = tempfile::tempdir().unwrap();
    let (folder, other, file) = (place.path().join("a"), place.path().join("b"), place.path().join("backup"));
    let store = filled(&folder, 2000).await;
    let is_over = Arc::new(AtomicBool::new(false));
    let writer = tokio::spawn({
        let (store, is_over) = (store.clone(), is_over.clone());
        async move {
            let mut number = 2000;
            while !is_over.load(SeqCst) {
                store.commit(pair(Batch::new(), number)).await.unwrap();
                number += 1;
            }
            number
        }
    });
    let notes: Notes = vec![("key".into(), "secret".into()), ("version".into(), "1".into())];
    let (from, into, written) = (folder.clone(), file.clone(), notes.clone());
    let told = tokio::task::spawn_blocking(move || {
        let mut told = 0;
        let size = backup(&from, &into, &written, &mut |progress: Progress<'_>| {
            assert!(progress.done <= progress.total);
            told += 1;
        });
        (size.unwrap(), told)
    });
    let (size, told) = told.await.unwrap();
    sound(&folder);
    is_over.store(true, SeqCst);
    let written = writer.await.unwrap();
    assert_eq!(fs::metadata(&file).unwrap().len(), size);
    assert!(told > 0);
    #[cfg(unix)]
    assert_eq!(std::os::unix::fs::PermissionsExt::mode(&fs::metadata(&file).unwrap().permissions()) & 0o777, 0o600);

    let restoring = prepare(&file, &other, &[PAIRS]).unwrap();
    assert_eq!(*restoring.notes(), notes);
    finish(restoring).unwrap();
    let documents = sound(&other).documents as usize;
    let restored = open(&other).unwrap();
    assert!(restored.is_seeded());
    assert_eq!(restored.database_id(), store.database_id());
    restored.open_collections(&[PAIRS]).await.unwrap();
    let rows = restored.find(P, &Query::all()).await.unwrap().rows;
    assert_eq!(rows.len(), documents);
    assert!((4000..=written * 2).contains(&documents), "{documents}");
    let (left, right) = rows.split_at(documents / 2);
    assert!(
        left.iter().zip(right).all(|(left, right)| left.id[1..] == right.id[1..]),
        "both documents of a pair or none"
    );
    for row in &rows {
        let original = store.get(P, &row.id).await.unwrap().unwrap();
        assert_eq!((&original.body, original.version), (&row.body, row.version));
    }
}

#[tokio::test]
async fn what_cannot_be_backed_up_or_restored_is_refused_and_leaves_nothing() {
    let place = tempfile::tempdir().unwrap();
    let at = |name: &str| place.path().join(name);
    let refused = |file: &str, folder: &str, words: &str| {
        let error = prepare(&at(file), &at(folder), &[PAIRS]).err().expect(words);
        assert!(error.sentence().contains(words), "{error}");
        error
    };
    let error = backup(&at("nothing"), &at("x"), &vec![], &mut silent).unwrap_err();
    assert!(matches!(&error, StoreError::NotFound(text) if text.contains("nothing")), "{error}");
    let store = filled(&at("data"), 100).await;
    backup(&at("data"), &at("good"), &vec![], &mut silent).unwrap();
    let again = backup(&at("data"), &at("good"), &vec![], &mut silent).unwrap_err();
    assert!(matches!(&again, StoreError::AlreadyExists(text) if text.contains("good")), "{again}");
    assert!(backup(&at("data"), &at("no/such/folder"), &vec![], &mut silent).is_err());

    assert!(matches!(refused("good", "data", "in use"), StoreError::InUse(_)));
    store.close().await;
    assert!(matches!(refused("good", "data", "has data"), StoreError::AlreadyExists(_)));
    refused("missing", "new", "missing");
    fs::write(at("foreign"), "x".repeat(5000)).unwrap();
    refused("foreign", "new", "not a database of OpenOrch");
    let good = fs::read(at("good")).unwrap();
    fs::write(at("short"), &good[..good.len() / 2]).unwrap();
    refused("short", "new", "truncated");
    let mut broken = good.clone();
    broken[8192..16384].fill(0x5a);
    fs::write(at("broken"), &broken).unwrap();
    refused("broken", "new", "damaged");
    let newer = rusqlite::Connection::open(at("good")).unwrap();
    newer
        .execute_batch("PRAGMA user_version = 99; UPDATE _store_info SET value = 99 WHERE key = 'min_compatible'")
        .unwrap();
    drop(newer);
    refused("good", "new", "newer version");
    let left = fs::read_dir(at("new")).map_or(vec![], |all| all.map(|one| one.unwrap().file_name()).collect());
    assert!(left.iter().all(|name| name == "openorch.lock"), "{left:?}");

    fs::write(at("good"), &good).unwrap();
    drop(prepare(&at("good"), &at("new"), &[PAIRS]).unwrap());
    assert!(!at("new").join("openorch.db").exists(), "an unfinished restore leaves no database");
    finish(prepare(&at("good"), &at("new"), &[PAIRS]).unwrap()).unwrap();
    assert_eq!(sound(&at("new")).documents, 200);
}

#[tokio::test]
async fn a_check_finds_what_does_not_fit_together() {
    let place = tempfile::tempdir().unwrap();
    let folder = place.path().join("data");
    filled(&folder, 50).await.close().await;
    assert_eq!(sound(&folder).documents, 100);
    let database = folder.join("openorch.db");
    let good = fs::read(&database).unwrap();
    let list: String = rusqlite::Connection::open(&database)
        .unwrap()
        .query_row("SELECT name FROM sqlite_schema WHERE type = 'table' AND name LIKE 's%'", [], |row| row.get(0))
        .unwrap();
    for (damage, words) in [
        ("UPDATE c_testSvcPairs SET f_rank = x'00' WHERE id = 'l000007'".to_owned(), "`l000007`"),
        ("UPDATE c_testSvcPairs SET doc = '{' WHERE id = 'l000008'".into(), "`l000008`"),
        (
            "UPDATE c_testSvcPairs SET doc = json_set(doc, '$.readers', json('[\"other\"]')) WHERE id = 'l000009'"
                .into(),
            "an entry of document `l000009`",
        ),
        (format!("DELETE FROM \"{list}\" WHERE id = 'r000010'"), "an entry of document `r000010`"),
        (
            format!("INSERT INTO \"{list}\" SELECT x'FF', k1, id, rid FROM \"{list}\" WHERE id = 'l000001' LIMIT 1"),
            "1 entries that no document has",
        ),
        ("DELETE FROM c_testSvcPairs WHERE id = 'l000003'".into(), "2 entries that no document has"),
    ] {
        fs::write(&database, &good).unwrap();
        rusqlite::Connection::open(&database).unwrap().execute_batch(&damage).unwrap();
        let findings = check(&folder, &[PAIRS], &mut silent).unwrap();
        assert!(findings.problems.iter().any(|problem| problem.contains(words)), "{damage}: {findings:?}");
    }
    let mut broken = good.clone();
    let middle = good.len() / 2 / 4096 * 4096;
    broken[middle..middle + 4096].fill(0x5a);
    fs::write(&database, &broken).unwrap();
    let found = check(&folder, &[PAIRS], &mut silent);
    assert!(found.as_ref().map_or(true, |findings| !findings.problems.is_empty()), "{found:?}");
    assert!(matches!(check(&place.path().join("none"), &[PAIRS], &mut silent), Err(StoreError::NotFound(_))));
}
