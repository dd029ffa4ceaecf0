//! Foreign objects in a database file: triggers, views, tables and indexes. They are refused before any of them could
//! run, and reported by name.

use std::{
    fs,
    path::{Path, PathBuf},
};

use openorch_store::{Batch, Collection, StoreError};
use rusqlite::Connection;
use serde_json::json;

use crate::{
    THINGS,
    backup::{P, PAIRS, backup, check, filled, pair, prepare, silent},
    open, thing,
};

/// The definition of the documents table.
const TABLE: &str = "\"c_testSvcPairs\"(rid INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, ver INTEGER NOT NULL, \
                     \"f_rank\" BLOB NOT NULL DEFAULT x'10', \"f_slug\" BLOB NOT NULL DEFAULT x'10', \
                     \"u_slug\" BLOB NOT NULL DEFAULT x''";
const ENDLESS: &str = "AS WITH RECURSIVE r(rid, id, ver, doc) AS (SELECT 1, 'a', 1, '{}' UNION ALL \
                       SELECT rid + 1, 'a' || rid, 1, '{}' FROM r) SELECT * FROM r";

struct TestDir {
    temp: tempfile::TempDir,
    /// A database with documents that was shut down cleanly.
    good: Vec<u8>,
}

impl TestDir {
    async fn new() -> TestDir {
        let temp = tempfile::tempdir().unwrap();
        let folder = temp.path().join("first");
        filled(&folder, 20).await.close().await;
        let good = fs::read(folder.join("openorch.db")).unwrap();
        TestDir { temp, good }
    }

    /// A new directory with the database, changed by these statements.
    fn folder(&self, name: &str, change: &str) -> PathBuf {
        let folder = self.temp.path().join(name);
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("openorch.db"), &self.good).unwrap();
        Connection::open(folder.join("openorch.db")).unwrap().execute_batch(change).unwrap();
        folder
    }

    /// A backup, changed by these statements.
    fn backup(&self, name: &str, change: &str) -> PathBuf {
        let file = self.temp.path().join(name);
        backup(&self.folder(&format!("{name}-from"), ""), &file, &vec![], &mut silent).unwrap();
        Connection::open(&file).unwrap().execute_batch(change).unwrap();
        file
    }
}

fn problems(folder: &Path) -> Vec<String> {
    match check(folder, &[PAIRS], &mut silent) {
        Ok(findings) => findings.problems,
        Err(error) => vec![error.sentence().to_owned()],
    }
}

#[tokio::test]
async fn what_does_not_belong_in_a_database_is_refused_by_start_restore_and_backup_and_told_by_a_check() {
    let place = TestDir::new().await;
    let remade = |columns: &str| {
        format!(
            "ALTER TABLE c_testSvcPairs RENAME TO away; CREATE TABLE {TABLE}{columns}; \
             INSERT INTO c_testSvcPairs SELECT * FROM away; DROP TABLE away; \
             CREATE INDEX \"ix testSvcPairs(rank)\" ON \"c_testSvcPairs\"(\"f_rank\", id); \
             CREATE UNIQUE INDEX \"ux testSvcPairs(slug)\" ON \"c_testSvcPairs\"(\"f_slug\", \"u_slug\")"
        )
    };
    let rank = "DROP INDEX \"ix testSvcPairs(rank)\"; CREATE INDEX \"ix testSvcPairs(rank)\" ON \"c_testSvcPairs\"";
    let slug = "DROP INDEX \"ux testSvcPairs(slug)\"; CREATE";
    let cases = [
        (
            "CREATE TRIGGER hidden AFTER INSERT ON c_testSvcPairs BEGIN DELETE FROM c_testSvcPairs WHERE id = 'x'; END"
                .to_owned(),
            "a trigger `hidden`",
        ),
        ("CREATE TRIGGER t2 AFTER UPDATE ON _store_info BEGIN DELETE FROM _store_meta; END".into(), "a trigger `t2`"),
        ("CREATE VIEW whatever AS SELECT 1".into(), "a view `whatever`"),
        (
            format!("ALTER TABLE c_testSvcPairs RENAME TO away; CREATE VIEW c_testSvcPairs {ENDLESS}"),
            "a view `c_testSvcPairs`",
        ),
        (
            format!(
                "ALTER TABLE _store_meta RENAME TO away; CREATE VIEW _store_meta(collection, spec, version) {ENDLESS}"
            )
            .replace("SELECT * FROM r", "SELECT id, doc, ver FROM r"),
            "a view `_store_meta`",
        ),
        ("CREATE VIRTUAL TABLE words USING fts5(text)".into(), "a virtual table `words`"),
        ("CREATE TABLE strange(x)".into(), "a table `strange` that OpenOrch did not create"),
        ("CREATE INDEX more ON c_testSvcPairs(ver)".into(), "an index `more`"),
        (format!("{rank}(\"f_rank\", id) WHERE ver > 0"), "`ix testSvcPairs(rank)` is defined in another way"),
        (format!("{rank}(length(doc))"), "`ix testSvcPairs(rank)` is defined in another way"),
        (format!("{slug} INDEX \"ux testSvcPairs(slug)\" ON c_testSvcPairs(f_slug, u_slug)"), "in another way"),
        ("DROP INDEX \"ux testSvcPairs(slug)\"".into(), "`ux testSvcPairs(slug)` is missing"),
        ("DROP TABLE \"s_testSvcPairs(readers/rank)\"".into(), "`s_testSvcPairs(readers/rank)` is missing"),
        (remade(", doc TEXT NOT NULL CHECK (length(doc) < 9999999))"), "`c_testSvcPairs` is defined in another way"),
        (remade(", doc TEXT NOT NULL DEFAULT (hex(randomblob(9))))"), "`c_testSvcPairs` is defined in another way"),
        (remade(", doc TEXT NOT NULL) STRICT"), "`c_testSvcPairs` is defined in another way"),
        ("UPDATE _store_meta SET spec = 'null'".into(), "`testSvcPairs` is not one that this version knows"),
        ("UPDATE _store_meta SET spec = 'ix testSvcPairs(rank)'".into(), "that OpenOrch did not create"),
        (
            "INSERT INTO _store_meta VALUES ('x\"; DROP TABLE c_testSvcPairs; --', '', 1)".into(),
            "`x\\\"; DROP TABLE c_testSvcPairs; --` is not one that this version knows",
        ),
        ("INSERT INTO _store_meta VALUES ('testSvcOther', '', 1)".into(), "`c_testSvcOther` is missing"),
        ("UPDATE _store_info SET value = 'zzz' WHERE key = 'last_version'".into(), "restore a backup"),
        ("DELETE FROM _store_info WHERE key = 'last_version'".into(), "restore a backup"),
        ("UPDATE _store_meta SET version = 'one'".into(), "restore a backup"),
    ];
    for (number, (change, words)) in cases.iter().enumerate() {
        let folder = place.folder(&format!("folder-{number}"), change);
        let before = fs::read(folder.join("openorch.db")).unwrap();
        let refused = open(&folder).err().expect(change);
        assert!(matches!(&refused, StoreError::Corrupt(text) if text.contains(words)), "{change}: {refused}");
        assert!(
            refused.sentence().contains("openorch.db") && refused.sentence().contains("estore a backup"),
            "{refused}"
        );
        let told = problems(&folder);
        assert!(told.iter().any(|problem| problem.contains(words)), "{change}: {told:?}");
        let made = backup(&folder, &place.temp.path().join("made"), &vec![], &mut silent);
        assert!(matches!(&made, Err(StoreError::Corrupt(text)) if text.contains(words)), "{change}: {made:?}");
        assert_eq!(fs::read(folder.join("openorch.db")).unwrap(), before, "the file was not changed");

        let (file, into) = (place.backup(&format!("backup-{number}"), change), place.temp.path().join("into"));
        let restored = prepare(&file, &into, &[PAIRS]).err().expect(change);
        assert!(matches!(&restored, StoreError::Corrupt(text) if text.contains(words)), "{change}: {restored}");
        assert!(!into.join("openorch.db").exists());
    }
}

#[tokio::test]
async fn a_trigger_that_comes_while_the_store_is_open_does_nothing() {
    let place = TestDir::new().await;
    let folder = place.folder("data", "");
    let store = open(&folder).unwrap();
    store.open_collections(&[PAIRS]).await.unwrap();
    Connection::open(folder.join("openorch.db"))
        .unwrap()
        .execute_batch("CREATE TRIGGER late AFTER INSERT ON c_testSvcPairs BEGIN DELETE FROM c_testSvcPairs; END")
        .unwrap();
    store.commit(pair(Batch::new(), 900)).await.unwrap();
    assert_eq!(store.count(P, &[]).await.unwrap(), 42);
    // A backup with it is refused.
    let made = store.back_up(&place.temp.path().join("made"), &vec![]).await;
    assert!(matches!(&made, Err(StoreError::Corrupt(text)) if text.contains("a trigger `late`")), "{made:?}");
    assert!(!place.temp.path().join("made").exists());
}

#[tokio::test]
async fn what_was_made_here_in_any_way_is_as_it_should_be() {
    let place = TestDir::new().await;
    let folder = place.folder("data", "");
    // Migrations add and drop columns and indexes, which changes the order of columns.
    const OTHER: Collection = Collection { name: P, indexes: &[openorch_store::Index::on(&["text", "rank"])] };
    for declared in [OTHER, PAIRS, Collection { name: P, indexes: &[] }, PAIRS] {
        let store = open(&folder).unwrap();
        store.open_collections(&[declared, THINGS]).await.unwrap();
        store.close().await;
        let found = check(&folder, &[declared, THINGS], &mut silent).unwrap();
        assert_eq!((found.problems, found.documents), (vec![], 40));
    }
    // Planner statistics are allowed.
    Connection::open(folder.join("openorch.db")).unwrap().execute_batch("ANALYZE").unwrap();
    // A table of a replication tool is allowed.
    let litestream = "CREATE TABLE _litestream_seq (id INTEGER PRIMARY KEY, seq INTEGER)";
    Connection::open(folder.join("openorch.db")).unwrap().execute_batch(litestream).unwrap();
    open(&folder).unwrap().close().await;
    // A newer, compatible layout may have more tables, but no triggers or views.
    let newer = |sql: &str| Connection::open(folder.join("openorch.db")).unwrap().execute_batch(sql).unwrap();
    newer("PRAGMA user_version = 9; CREATE TABLE _store_new(x); INSERT INTO _store_meta VALUES ('a', 'px a(b)', 2)");
    let store = open(&folder).unwrap();
    store.open_collections(&[PAIRS]).await.unwrap();
    store.commit(pair(Batch::new(), 900)).await.unwrap();
    store.close().await;
    newer("CREATE VIEW late AS SELECT 1");
    assert!(open(&folder).err().unwrap().sentence().contains("a view `late`"));
}

#[tokio::test]
async fn a_check_looks_at_collections_that_are_declared_otherwise_and_misses_those_that_are_not_there() {
    let place = TestDir::new().await;
    let folder = place.folder("data", "UPDATE c_testSvcPairs SET doc = '{' WHERE id = 'l000008'");
    for declared in [&[PAIRS][..], &[Collection { name: P, indexes: &[] }], &[]] {
        let found = check(&folder, declared, &mut silent).unwrap();
        assert!(found.documents == 40 && !found.problems.is_empty(), "{found:?}");
        assert!(
            found.problems.iter().all(|problem| problem.contains("l000008") || problem.contains("no document has"))
        );
    }
    let gone = place.folder(
        "gone",
        "DELETE FROM _store_meta; DROP TABLE c_testSvcPairs; DROP TABLE \"s_testSvcPairs(readers/rank)\"",
    );
    let found = check(&gone, &[PAIRS], &mut silent).unwrap();
    assert!(matches!(&*found.problems, [one] if one.contains("testSvcPairs is missing")), "{found:?}");
    // A start creates it again.
    let store = open(&gone).unwrap();
    store.open_collections(&[PAIRS, THINGS]).await.unwrap();
    store.commit(thing("new", json!({}))).await.unwrap();
}
