//! The data directory: one daemon at a time, the right database or none, migration of indexes to the declaration.

use std::{
    fs,
    path::{Path, PathBuf},
};

use openorch_store::{Collection, Index, Query, SqliteOptions, SqliteStore, StoreError};
use serde_json::json;

use crate::{
    THINGS,
    child::{lines, run, start},
    fill, ids, open, thing,
};

const T: &str = THINGS.name;

fn temp() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let server = folder.path().join("data").join("server");
    (folder, server)
}

async fn seeded(folder: &Path) -> String {
    let store = open(folder).unwrap();
    store.open_collections(&[THINGS]).await.unwrap();
    store.commit(thing("a", json!({"slug": "first"}))).await.unwrap();
    store.mark_seeded().await.unwrap();
    assert!(store.is_seeded());
    store.close().await;
    store.database_id().to_owned()
}

/// Every file in the directory except the lock, with its content.
fn content(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut all: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| !path.ends_with("openorch.lock"))
        .map(|path| (path.clone(), fs::read(path).unwrap()))
        .collect();
    all.sort();
    all
}

/// Asserts that opening fails with an error that names the directory, and changes no file. For directories that no
/// store has open.
fn refused(folder: &Path) -> StoreError {
    let before = content(folder);
    let error = refused_while_open(folder);
    assert!(content(folder) == before, "a refused start must not change anything: {error}");
    error
}

/// Asserts that opening fails with an error that names the directory. The store that has it open may write meanwhile.
fn refused_while_open(folder: &Path) -> StoreError {
    let error = open(folder).err().expect("should have been refused");
    assert!(error.sentence().contains(&folder.display().to_string()), "the directory should be named: {error}");
    error
}

#[tokio::test]
async fn a_second_opener_is_told_the_folder_and_the_pid_of_the_first() {
    let (_temp, folder) = temp();
    let first = open(&folder).unwrap();
    let error = refused_while_open(&folder);
    let pid = format!("(pid {})", std::process::id());
    assert!(matches!(&error, StoreError::InUse(text) if text.contains(&pid)), "{error:?}");
    drop(first);
    open(&folder).unwrap();
}

/// Not a test: the child process of the tests here.
#[tokio::test]
#[ignore = "runs as a child of other tests"]
async fn child_that_holds_a_folder() {
    let Some(folder) = std::env::var_os("STORE_CHILD_FOLDER") else { return };
    let _store = open(Path::new(&folder)).unwrap();
    println!("holding");
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).unwrap();
}

#[tokio::test]
async fn another_process_holds_the_folder_until_it_dies() {
    let (_temp, folder) = temp();
    let mut child = start("child_that_holds_a_folder", &[("STORE_CHILD_FOLDER", folder.as_os_str())]);
    assert!(lines(&mut child).any(|line| line.contains("holding")));
    let error = refused_while_open(&folder);
    let pid = format!("(pid {})", child.id());
    assert!(matches!(&error, StoreError::InUse(text) if text.contains(&pid)), "{error:?}");
    child.kill().unwrap();
    openorch_test_support::process::wait(&mut child);
    open(&folder).unwrap();
}

#[cfg(unix)]
#[tokio::test]
async fn files_are_for_the_owner_alone() {
    use std::os::unix::fs::PermissionsExt;
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let (_temp, folder) = temp();
    seeded(&folder).await;
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(folder.join("openorch.db"), fs::Permissions::from_mode(0o644)).unwrap();
    let store = open(&folder).unwrap();
    store.open_collections(&[THINGS]).await.unwrap();
    store.commit(thing("b", json!({}))).await.unwrap();
    assert_eq!(mode(&folder), 0o700);
    let files: Vec<PathBuf> = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(files.len() >= 3, "{files:?}");
    for file in files {
        assert_eq!(mode(&file), 0o600, "{}", file.display());
    }
}

#[tokio::test]
async fn a_start_that_was_not_finished_begins_afresh() {
    let (_temp, folder) = temp();
    let store = open(&folder).unwrap();
    store.open_collections(&[THINGS]).await.unwrap();
    store.commit(thing("half", json!({}))).await.unwrap();
    let first = store.database_id().to_owned();
    drop(store);

    let store = open(&folder).unwrap();
    store.open_collections(&[THINGS]).await.unwrap();
    assert!(!store.is_seeded());
    assert_ne!(store.database_id(), first);
    assert_eq!(store.count(T, &[]).await.unwrap(), 0);
}

#[tokio::test]
async fn a_crash_while_the_database_is_made_leaves_nothing_in_the_way() {
    let (_temp, folder) = temp();
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("openorch.lock"), "data").unwrap();
    fs::write(folder.join("openorch.db"), "").unwrap();
    fs::write(folder.join("openorch.db.new"), "half").unwrap();
    fs::write(folder.join("openorch.db.new-journal"), "half").unwrap();
    let id = seeded(&folder).await;
    let names: Vec<_> = content(&folder).into_iter().map(|(path, _)| path).collect();
    assert_eq!(names, [folder.join("openorch.db"), folder.join("openorch.reserve")]);
    let lock = fs::read_to_string(folder.join("openorch.lock")).unwrap();
    assert_eq!(lock, format!("database {id}\npid {:<10}\n", std::process::id()));
}

#[tokio::test]
async fn once_seeded_the_database_is_found_again() {
    let (_temp, folder) = temp();
    let id = seeded(&folder).await;
    for _ in 0..2 {
        let store = open(&folder).unwrap();
        store.open_collections(&[THINGS]).await.unwrap();
        assert!(store.is_seeded());
        assert_eq!(store.database_id(), id);
        assert_eq!(ids(&store, T, &Query::all()).await, ["a"]);
    }
}

#[tokio::test]
async fn a_lost_lock_file_does_not_lose_the_database() {
    let (_temp, folder) = temp();
    let id = seeded(&folder).await;
    fs::remove_file(folder.join("openorch.lock")).unwrap();
    assert_eq!(open(&folder).unwrap().database_id(), id);
    // The id is recorded in the lock file again.
    fs::remove_file(folder.join("openorch.db")).unwrap();
    assert!(matches!(refused(&folder), StoreError::Corrupt(_)));
}

#[tokio::test]
async fn once_seeded_a_missing_emptied_or_other_database_is_refused() {
    let (_temp, folder) = temp();
    let id = seeded(&folder).await;
    let database = folder.join("openorch.db");
    let sound = fs::read(&database).unwrap();

    fs::remove_file(&database).unwrap();
    let error = refused(&folder);
    assert!(matches!(&error, StoreError::Corrupt(text) if text.contains("is missing or empty") && text.contains(&id)));

    fs::write(&database, "").unwrap();
    assert!(matches!(refused(&folder), StoreError::Corrupt(text) if text.contains("is missing or empty")));

    let (_temp, other) = temp();
    let other_id = seeded(&other).await;
    fs::copy(other.join("openorch.db"), &database).unwrap();
    let error = refused(&folder);
    assert!(matches!(&error, StoreError::Corrupt(text) if text.contains(&id) && text.contains(&other_id)), "{error}");

    fs::write(&database, sound).unwrap();
    assert_eq!(open(&folder).unwrap().database_id(), id);
}

#[tokio::test]
async fn another_database_with_a_log_is_refused_and_keeps_its_log() {
    let (_temp, folder) = temp();
    seeded(&folder).await;
    let (_temp, other) = temp();
    seeded(&other).await;
    let running = open(&other).unwrap();
    running.open_collections(&[THINGS]).await.unwrap();
    running.commit(thing("b", json!({}))).await.unwrap();
    for name in ["openorch.db", "openorch.db-wal"] {
        fs::copy(other.join(name), folder.join(name)).unwrap();
    }
    let log = fs::read(folder.join("openorch.db-wal")).unwrap();
    assert!(!log.is_empty());
    let database = fs::read(folder.join("openorch.db")).unwrap();
    assert!(matches!(open(&folder), Err(StoreError::Corrupt(_))));
    assert_eq!(fs::read(folder.join("openorch.db-wal")).unwrap(), log);
    assert_eq!(fs::read(folder.join("openorch.db")).unwrap(), database);
}

#[tokio::test]
async fn a_file_that_is_no_sound_database_of_ours_is_refused() {
    let (_temp, sound) = temp();
    seeded(&sound).await;
    let sound = fs::read(sound.join("openorch.db")).unwrap();
    let foreign = tempfile::tempdir().unwrap();
    let foreign = foreign.path().join("foreign.db");
    rusqlite::Connection::open(&foreign).unwrap().execute_batch("CREATE TABLE t(a); INSERT INTO t VALUES (1)").unwrap();
    let mut no_id = sound.clone();
    let at = no_id.windows(11).position(|window| window == b"_store_info").unwrap();
    no_id[at] = b'-';
    for (what, bytes) in [
        ("garbage", b"garbage".repeat(1000)),
        ("a few bytes", b"x".to_vec()),
        ("the header alone", sound[..100].to_vec()),
        ("half of it", sound[..sound.len() / 2].to_vec()),
        ("another program's", fs::read(&foreign).unwrap()),
        ("one whose tables are damaged", no_id),
    ] {
        for seeded_before in [false, true] {
            let (_temp, folder) = temp();
            if seeded_before {
                seeded(&folder).await;
            }
            fs::create_dir_all(&folder).unwrap();
            fs::write(folder.join("openorch.db"), &bytes).unwrap();
            let error = refused(&folder);
            assert!(matches!(error, StoreError::Corrupt(_)), "{what}: {error:?}");
        }
    }
    let (_temp, folder) = temp();
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("openorch.db-wal"), b"log").unwrap();
    assert!(matches!(refused(&folder), StoreError::Corrupt(_)));
}

#[tokio::test]
async fn a_newer_layout_is_refused() {
    let (_temp, folder) = temp();
    seeded(&folder).await;
    rusqlite::Connection::open(folder.join("openorch.db"))
        .unwrap()
        .execute_batch("PRAGMA user_version = 9; UPDATE _store_info SET value = 9 WHERE key = 'min_compatible'")
        .unwrap();
    let error = refused(&folder);
    assert!(matches!(&error, StoreError::Unavailable(text) if text.contains("newer version (layout 9")), "{error:?}");
}

#[tokio::test]
async fn a_newer_layout_that_says_we_can_work_with_it_is_opened_and_left_as_it_is() {
    let (_temp, folder) = temp();
    seeded(&folder).await;
    let database = folder.join("openorch.db");
    let layout = |sql: &str| {
        let connection = rusqlite::Connection::open(&database).unwrap();
        connection.execute_batch(sql).unwrap();
        connection.query_row("PRAGMA user_version", [], |row| row.get::<_, u32>(0)).unwrap()
    };
    layout("PRAGMA user_version = 9");
    let store = open(&folder).unwrap();
    store.open_collections(&[THINGS]).await.unwrap();
    store.commit(thing("new", json!({}))).await.unwrap();
    store.close().await;
    assert_eq!(layout(""), 9);
}

const WITH_READERS: &[Index] = &[Index::on(&["rank"]), Index::unique(&["slug"]), Index::each("readers", &["rank"])];

#[tokio::test]
async fn a_folder_of_an_older_layout_is_upgraded_after_a_copy_was_made() {
    let (_temp, folder) = temp();
    fs::create_dir_all(&folder).unwrap();
    let old = rusqlite::Connection::open(folder.join("openorch.db")).unwrap();
    old.execute_batch(include_str!("layout-1.sql")).unwrap();
    drop(old);

    let store = open(&folder).unwrap();
    let declared = Collection { name: THINGS.name, indexes: WITH_READERS };
    store.open_collections(&[declared]).await.unwrap();
    let query = Query::all().intersects("readers", ["r1", "r2"]).descending("rank").limit(3);
    assert_eq!(ids(&store, THINGS.name, &query).await, ["t038", "t037", "t034"]);
    assert_eq!(ids(&store, THINGS.name, &Query::all().equals("slug", "s7")).await, ["t007"]);
    // Versions continue after the old ones.
    let before = store.get(THINGS.name, "t039").await.unwrap().unwrap().version;
    let now = store.commit(thing("new", json!({"readers": ["r1"], "rank": 99}))).await.unwrap().version;
    assert!(now > before, "{now} {before}");
    store.close().await;

    let number = |database: &str, sql: &str| {
        let connection = rusqlite::Connection::open(folder.join(database)).unwrap();
        connection.query_row(sql, [], |row| row.get::<_, u32>(0)).unwrap()
    };
    assert_eq!(number("openorch.db", "PRAGMA user_version"), 3);
    assert_eq!(number("openorch.db", "SELECT value FROM _store_info WHERE key = 'min_compatible'"), 3);
    assert_eq!(number("openorch-layout-1.db", "PRAGMA user_version"), 1);
    assert_eq!(number("openorch-layout-1.db", "SELECT count(*) FROM c_testSvcThings"), 40);
    let store = open(&folder).unwrap();
    store.open_collections(&[declared]).await.unwrap();
    assert_eq!(ids(&store, THINGS.name, &query).await, ["new", "t038", "t037"]);
}

#[tokio::test]
async fn damage_beyond_what_a_start_reads_is_found_when_it_is_read() {
    let (_temp, folder) = temp();
    let store = open(&folder).unwrap();
    store.open_collections(&[THINGS]).await.unwrap();
    fill(&store, 3000).await;
    store.mark_seeded().await.unwrap();
    drop(store);
    let database = folder.join("openorch.db");
    let mut bytes = fs::read(&database).unwrap();
    let (middle, end) = (bytes.len() / 3, bytes.len() * 2 / 3);
    bytes[middle..end].fill(0xA5);
    fs::write(&database, bytes).unwrap();

    let store = open(&folder).unwrap();
    store.open_collections(&[THINGS]).await.unwrap();
    let error = store.find(T, &Query::all()).await.unwrap_err();
    assert!(matches!(&error, StoreError::Corrupt(text) if text.contains(T)), "{error:?}");
    assert!(store.get(T, "t00000").await.is_ok());
}

#[tokio::test]
async fn a_file_where_the_folder_should_be_is_told() {
    let temp = tempfile::tempdir().unwrap();
    let file = temp.path().join("file");
    fs::write(&file, "x").unwrap();
    for folder in [file.clone(), file.join("server")] {
        let error = open(&folder).err().unwrap();
        assert!(matches!(&error, StoreError::Unavailable(text) if text.contains("a file is in the way")), "{error:?}");
    }
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_folder_that_cannot_be_written_is_told() {
    let temp = tempfile::tempdir().unwrap();
    let folder = temp.path().join("server");
    seeded(&folder).await;
    // Permissions do not restrict root, a read-only mount does.
    let path = folder.to_str().unwrap();
    let mounted = run("mount", &["--bind", path, path]) && run("mount", &["-o", "remount,bind,ro", path]);
    if !mounted {
        use std::os::unix::fs::PermissionsExt;
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o500)).unwrap();
        if fs::write(folder.join("probe"), "").is_ok() {
            eprintln!("SKIPPED: root, and nothing can be mounted here");
            return;
        }
    }
    let outcome = open(&folder).map(|_| ());
    if mounted {
        assert!(run("umount", &[path]));
    }
    let error = outcome.unwrap_err();
    let told = |text: &str| text.contains(path) && text.contains("grant the user this process runs as");
    assert!(matches!(&error, StoreError::Unavailable(text) if told(text)), "{error:?}");
}

const BEFORE: Collection =
    Collection { name: "testSvcChanging", indexes: &[Index::on(&["a"]), Index::on(&["gone", "a"])] };
const AFTER: Collection = Collection {
    name: "testSvcChanging",
    indexes: &[Index::on(&["a"]), Index::on(&["b.c", "a"]), Index::on(&["lower(name)"]), Index::unique(&["slug"])],
};

fn shape(folder: &Path) -> (Vec<String>, Vec<String>) {
    let connection = rusqlite::Connection::open(folder.join("openorch.db")).unwrap();
    let all = |sql: &str| -> Vec<String> {
        let mut statement = connection.prepare(sql).unwrap();
        statement.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
    };
    (
        all("SELECT name FROM pragma_table_info('c_testSvcChanging') ORDER BY name"),
        all(
            "SELECT name FROM sqlite_schema WHERE tbl_name = 'c_testSvcChanging' AND type = 'index' AND sql NOT NULL ORDER BY name",
        ),
    )
}

#[tokio::test]
async fn indexes_follow_the_declaration_and_old_documents_are_in_them() {
    let (_temp, folder) = temp();
    let store = open(&folder).unwrap();
    store.open_collections(&[BEFORE]).await.unwrap();
    let mut batch = openorch_store::Batch::new();
    for i in 0..1000 {
        let body = json!({"a": i % 3, "b": {"c": i % 7}, "name": format!("Name{i}"), "slug": format!("s{i}")});
        batch = batch.create(BEFORE.name, format!("d{i:04}"), body.to_string());
    }
    store.commit(batch).await.unwrap();
    store.mark_seeded().await.unwrap();
    let questions = [
        Query::all().equals("b.c", 3).ascending("a").limit(10),
        Query::all().starts_with("name", "NAME99"),
        Query::all().equals("slug", "s500"),
        Query::all().descending("gone").limit(5),
    ];
    let mut old = Vec::new();
    for question in &questions {
        old.push(ids(&store, BEFORE.name, question).await);
    }
    store.close().await;
    assert_eq!(shape(&folder).0, ["doc", "f_a", "f_gone", "id", "rid", "ver"]);

    // Migrate, reopen without a change, and migrate back.
    for declared in [AFTER, AFTER, BEFORE] {
        let store = open(&folder).unwrap();
        store.open_collections(&[declared]).await.unwrap();
        for (question, old) in questions.iter().zip(&old) {
            assert_eq!(ids(&store, declared.name, question).await, *old);
        }
        let version = store.get(declared.name, "d0001").await.unwrap().unwrap().version;
        assert_eq!(version, 1, "a migration does not change versions");
        if declared == AFTER {
            let taken = store.commit(openorch_store::Batch::new().create(AFTER.name, "x", r#"{"slug":"s7"}"#)).await;
            assert!(matches!(taken, Err(StoreError::AlreadyExists(_))));
        }
        store.close().await;
        let (columns, indexes) = shape(&folder);
        if declared == AFTER {
            assert_eq!(columns, ["doc", "f_a", "f_b.c", "f_slug", "id", "l_name", "rid", "u_slug", "ver"]);
            let names = [
                "ix testSvcChanging(a)",
                "ix testSvcChanging(b.c,a)",
                "ix testSvcChanging(lower(name))",
                "ux testSvcChanging(slug)",
            ];
            assert_eq!(indexes, names);
        } else {
            assert_eq!(columns, ["doc", "f_a", "f_gone", "id", "rid", "ver"]);
        }
    }
}

#[tokio::test]
async fn a_unique_index_that_the_documents_break_is_refused_and_changes_nothing() {
    let (_temp, folder) = temp();
    let store = open(&folder).unwrap();
    store.open_collections(&[BEFORE]).await.unwrap();
    let twice = openorch_store::Batch::new().create(BEFORE.name, "1", r#"{"slug":"x"}"#).create(
        BEFORE.name,
        "2",
        r#"{"slug":"x"}"#,
    );
    store.commit(twice).await.unwrap();
    let error = store.open_collections(&[AFTER]).await.unwrap_err();
    let sentence = "documents of testSvcChanging have the same slug, which was declared unique";
    assert_eq!(error, StoreError::AlreadyExists(sentence.into()));
    assert_eq!(ids(&store, BEFORE.name, &Query::all()).await, ["1", "2"]);
    store.close().await;
    assert_eq!(shape(&folder).0, ["doc", "f_a", "f_gone", "id", "rid", "ver"]);
}

#[tokio::test]
async fn a_declaration_that_cannot_be_is_refused() {
    let (_temp, folder) = temp();
    let store = open(&folder).unwrap();
    for wrong in WRONG {
        assert!(store.open_collections(&[*wrong]).await.is_err(), "{wrong:?}");
    }
    store.open_collections(&[WITH_IDS]).await.unwrap();
    assert!(store.open_collections(&[Collection { name: "X", indexes: &[] }]).await.is_err());
}

const WITH_IDS: Collection =
    Collection { name: "x", indexes: &[Index::on(&["id", "a"]), Index::on(&["a", "id"]), Index::on(&["lower(id)"])] };
const WRONG: &[Collection] = &[
    Collection { name: "a b", indexes: &[] },
    Collection { name: "", indexes: &[] },
    Collection { name: "x", indexes: &[Index::on(&["a b"])] },
    Collection { name: "x", indexes: &[Index::on(&["lower(a"])] },
    Collection { name: "x", indexes: &[Index::on(&["aB"]), Index::on(&["Ab"])] },
    Collection { name: "x", indexes: &[Index::on(&[])] },
];

#[tokio::test]
async fn twenty_thousand_documents_do_not_slow_the_start_and_are_read_at_once() {
    let (_temp, folder) = temp();
    let store = open(&folder).unwrap();
    store.open_collections(&[THINGS]).await.unwrap();
    fill(&store, 20_000).await;
    store.mark_seeded().await.unwrap();
    store.close().await;

    let start = std::time::Instant::now();
    let store = SqliteStore::open(&folder, SqliteOptions::default()).unwrap();
    store.open_collections(&[THINGS]).await.unwrap();
    let opened = start.elapsed();
    let start = std::time::Instant::now();
    assert_eq!(store.find(T, &Query::all()).await.unwrap().rows.len(), 20_000);
    let read = start.elapsed();
    println!("opened in {opened:?}, read 20,000 in {read:?}");
    // Far above the measured time, far below the time to read every document on a slow machine.
    assert!(opened.as_millis() < 500, "{opened:?}");
}

#[cfg(unix)]
#[tokio::test]
async fn no_link_in_the_folder_has_another_file_overwritten() {
    let (temp, folder) = temp();
    let other = temp.path().join("other");
    fs::write(&other, "precious").unwrap();
    fs::create_dir_all(&folder).unwrap();
    std::os::unix::fs::symlink(&other, folder.join("openorch.lock")).unwrap();
    let error = open(&folder).err().expect("a link is not a lock file");
    assert!(error.sentence().contains("openorch.lock"), "{error}");
    fs::remove_file(folder.join("openorch.lock")).unwrap();
    std::os::unix::fs::symlink(&other, folder.join("openorch.reserve")).unwrap();
    seeded(&folder).await;
    assert_eq!(fs::read_to_string(&other).unwrap(), "precious");
}
