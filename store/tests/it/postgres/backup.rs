//! Backup, restore and check of a schema, and migration between the engines.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
};

use openorch_store::{
    ArchiveReader, Batch, Collection, Engine, Findings, Index, Notes, PendingRestore, PostgresEngine, PostgresOptions,
    PostgresStore, Progress, Query, Result, Row, Store, StoreError,
};

use crate::{
    backup::{self as files, P, PAIRS, back_up, fill_with_pairs, filled, pair, silent, sound},
    suite::Schema,
};

const MORE: Collection = Collection { name: "testSvcMore", indexes: &[Index::on(&["rank"]), Index::each("tags", &[])] };

/// The same documents with a stricter declaration.
const STRICT: Collection = Collection { name: P, indexes: &[Index::unique(&["text"])] };

async fn filled_schema(schema: &Schema, pairs: usize) -> Arc<dyn Store> {
    let store = PostgresStore::open(schema.options()).await.unwrap();
    fill_with_pairs(&store, pairs).await;
    store
}

fn engine(schema: &Schema) -> PostgresEngine {
    PostgresEngine(schema.options())
}

async fn prepare(file: &Path, options: PostgresOptions, collections: &[Collection]) -> Result<Box<dyn PendingRestore>> {
    PostgresEngine(options).restore(ArchiveReader::open(file)?, collections, &mut silent).await
}

async fn check(schema: &Schema, collections: &[Collection]) -> Result<Findings> {
    engine(schema).check(collections, &mut silent).await
}

async fn restore(file: &Path, schema: &Schema) -> Notes {
    let restoring = prepare(file, schema.options(), &[PAIRS]).await.unwrap();
    let notes = restoring.notes().clone();
    restoring.finish(&mut silent).await.unwrap();
    notes
}

async fn sound_schema(schema: &Schema) -> u64 {
    let findings = check(schema, &[PAIRS]).await.unwrap();
    assert_eq!(findings.problems, Vec::<String>::new());
    findings.documents
}

async fn all(store: &Arc<dyn Store>) -> Vec<Row> {
    store.open_collections(&[PAIRS]).await.unwrap();
    store.find(P, &Query::all()).await.unwrap().rows
}

/// A query that needs the index columns and lists.
async fn asked(store: &Arc<dyn Store>) -> Vec<String> {
    let query = Query::all().intersects("readers", ["r3"]).descending("rank").limit(4);
    store.find(P, &query).await.unwrap().rows.into_iter().map(|row| row.id).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_made_while_others_write_is_of_one_moment_and_both_engines_restore_it() {
    let (Some(first), Some(second)) = (Schema::new(), Schema::new()) else { return };
    let place = tempfile::tempdir().unwrap();
    let (file, folder) = (place.path().join("backup"), place.path().join("data"));
    let store = filled_schema(&first, 1000).await;
    let is_over = Arc::new(AtomicBool::new(false));
    let writer = tokio::spawn({
        let (store, is_over) = (store.clone(), is_over.clone());
        async move {
            let mut number = 1000;
            while !is_over.load(SeqCst) {
                store.commit(pair(Batch::new(), number)).await.unwrap();
                number += 1;
            }
        }
    });
    let notes: Notes = vec![("made_at".into(), "now".into())];
    let mut told = 0;
    let mut tell = |progress: Progress<'_>| {
        assert!(progress.task == P && progress.done <= progress.total);
        told += 1;
    };
    let size = back_up(&engine(&first), &file, &notes, &mut tell).await.unwrap();
    assert_eq!(size, std::fs::metadata(&file).unwrap().len());
    assert!(told > 1);
    assert!(sound_schema(&first).await >= 2000, "a check may run during writes");
    is_over.store(true, SeqCst);
    writer.await.unwrap();

    assert_eq!(restore(&file, &second).await, notes);
    let restoring = files::prepare(&file, &folder, &[PAIRS]).unwrap();
    assert_eq!(*restoring.notes(), notes);
    files::finish(restoring).unwrap();
    let documents = sound_schema(&second).await;
    assert_eq!(sound(&folder).documents, documents);
    let (other, embedded) = (PostgresStore::open(second.options()).await.unwrap(), crate::open(&folder).unwrap());
    let rows = all(&other).await;
    assert_eq!(rows.len() as u64, documents);
    assert_eq!(rows, all(&embedded).await);
    let (left, right) = rows.split_at(rows.len() / 2);
    assert!(
        left.iter().zip(right).all(|(left, right)| left.id[1..] == right.id[1..]),
        "both documents of a pair or none"
    );
    for row in &rows {
        assert_eq!(store.get(P, &row.id).await.unwrap().as_ref(), Some(row));
    }
    for restored in [&other, &embedded] {
        assert!(restored.is_seeded());
        assert_eq!(restored.database_id(), store.database_id());
        let version = restored.commit(Batch::new().create(P, "new", "{}")).await.unwrap().version;
        assert!(rows.iter().all(|row| row.version < version), "versions continue");
    }
    assert_eq!(asked(&other).await, asked(&embedded).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_data_of_a_folder_go_into_a_schema_with_collections_that_nobody_declares_yet() {
    let Some(schema) = Schema::new() else { return };
    let place = tempfile::tempdir().unwrap();
    let (file, folder) = (place.path().join("backup"), place.path().join("data"));
    let embedded = filled(&folder, 300).await;
    embedded.open_collections(&[MORE]).await.unwrap();
    let more = Batch::new().create(MORE.name, "a", r#"{ "rank": 2, "tags": ["x"] }"#).create(MORE.name, "b", "{}");
    embedded.commit(more).await.unwrap();
    files::backup(&folder, &file, &vec![("key".into(), "secret".into())], &mut silent).unwrap();

    assert_eq!(restore(&file, &schema).await, [("key".to_owned(), "secret".to_owned())]);
    assert_eq!(sound_schema(&schema).await, 602);
    let store = PostgresStore::open(schema.options()).await.unwrap();
    assert_eq!(all(&store).await, all(&embedded).await);
    assert_eq!(asked(&store).await, asked(&embedded).await);
    store.open_collections(&[MORE]).await.unwrap();
    let by_list = store.find(MORE.name, &Query::all().intersects("tags", ["x"])).await.unwrap();
    assert_eq!(by_list.rows[0].body.as_ref(), r#"{ "rank": 2, "tags": ["x"] }"#);
    store.close().await;
    assert_eq!(sound_schema(&schema).await, 602);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_backed_up_or_restored_is_refused_and_changes_nothing() {
    let (Some(full), Some(empty)) = (Schema::new(), Schema::new()) else { return };
    let place = tempfile::tempdir().unwrap();
    let at = |name: &str| place.path().join(name);
    let not_there = back_up(&engine(&empty), &at("x"), &vec![], &mut silent).await.unwrap_err();
    assert!(matches!(&not_there, StoreError::NotFound(text) if text.contains(&empty.name)), "{not_there}");
    let checked = check(&empty, &[PAIRS]).await;
    assert!(matches!(checked, Err(StoreError::NotFound(_))));
    let store = filled_schema(&full, 100).await;
    back_up(&engine(&full), &at("good"), &vec![], &mut silent).await.unwrap();
    let again = back_up(&engine(&full), &at("good"), &vec![], &mut silent).await.unwrap_err();
    assert!(matches!(&again, StoreError::AlreadyExists(text) if text.contains("good")), "{again}");
    assert!(back_up(&engine(&full), &at("no/such"), &vec![], &mut silent).await.is_err());

    let refused = |file: &str, schema: &Schema| {
        let (file, options) = (at(file), schema.options());
        async move { prepare(&file, options, &[PAIRS]).await.err().unwrap() }
    };
    assert!(matches!(refused("good", &full).await, StoreError::InUse(_)));
    let before = all(&store).await;
    store.close().await;
    let has_data = refused("good", &full).await;
    assert!(
        matches!(&has_data, StoreError::AlreadyExists(text) if text.contains(&full.name) && text.contains("is not empty")),
        "{has_data}"
    );
    assert_eq!(all(&PostgresStore::open(full.options()).await.unwrap()).await, before);
    assert!(matches!(refused("missing", &empty).await, StoreError::NotFound(_)));
    std::fs::write(at("foreign"), "x".repeat(5000)).unwrap();
    assert!(matches!(refused("foreign", &empty).await, StoreError::Corrupt(_)));
    let mut broken = std::fs::read(at("good")).unwrap();
    broken[8192..16384].fill(0x5a);
    std::fs::write(at("broken"), &broken).unwrap();
    assert!(matches!(refused("broken", &empty).await, StoreError::Corrupt(_)));

    // A prepared restore that is not finished, and one whose documents violate a declaration here.
    drop(prepare(&at("good"), empty.options(), &[PAIRS]).await.unwrap());
    let restoring = prepare(&at("good"), empty.options(), &[STRICT]).await.unwrap();
    let breaking = restoring.finish(&mut silent).await.unwrap_err();
    assert!(matches!(&breaking, StoreError::AlreadyExists(text) if text.contains("declared unique")), "{breaking}");
    let schemas = format!("SELECT 1 FROM pg_namespace WHERE nspname = '{}'", empty.name);
    assert!(empty.ask(&schemas).await.is_empty(), "not even the schema exists");
    restore(&at("good"), &empty).await;
    assert_eq!(sound_schema(&empty).await, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_check_finds_what_does_not_fit_together() {
    let Some(schema) = Schema::new() else { return };
    filled_schema(&schema, 50).await.close().await;
    assert_eq!(sound_schema(&schema).await, 100);
    let list = "SELECT tablename FROM pg_tables WHERE schemaname = current_schema AND tablename LIKE 's%'";
    let list = format!("\"{}\"", schema.ask(list).await[0][0]);
    let pairs = format!("\"c_{P}\"");
    let surplus = |id: &str| format!("has an entry of document `{id}` that it should not have");
    let missing = |id: &str| format!("an entry of document `{id}` of {P} is missing");
    for (damage, words) in [
        (format!("UPDATE {pairs} SET f_rank = '\\x00' WHERE id = 'l000007'"), "`l000007`".to_owned()),
        (format!("UPDATE {pairs} SET doc = '[1e999]' WHERE id = 'l000008'"), "`l000008`".into()),
        (
            format!(
                "UPDATE {pairs} SET doc = jsonb_set(doc::jsonb, '{{readers}}', '[\"b\"]')::json WHERE id = 'l000009'"
            ),
            missing("l000009"),
        ),
        (format!("DELETE FROM {list} WHERE id = 'r000010'"), missing("r000010")),
        (
            format!("INSERT INTO {list}(val, k1, id) SELECT '\\xff', k1, id FROM {list} WHERE id = 'l000001' LIMIT 1"),
            surplus("l000001"),
        ),
        (format!("DELETE FROM {pairs} WHERE id = 'l000003'"), surplus("l000003")),
    ] {
        schema.ask(&damage).await;
        let findings = check(&schema, &[PAIRS]).await.unwrap();
        assert!(findings.problems.iter().any(|problem| problem.contains(&words)), "{damage}: {findings:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_check_tells_what_acts_on_the_tables_or_stands_in_their_place() {
    let Some(schema) = Schema::new() else { return };
    filled_schema(&schema, 20).await.close().await;
    assert_eq!(sound_schema(&schema).await, 40);
    let pairs = format!("\"c_{P}\"");
    let function = "CREATE FUNCTION nothing() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'";
    schema.ask(function).await;
    // Other objects of an operator are ignored.
    schema.ask(&format!("CREATE VIEW slugs AS SELECT doc->>'slug' FROM {pairs}")).await;
    assert_eq!(sound_schema(&schema).await, 40);
    let endless = "WITH RECURSIVE r(id, ver, doc) AS (SELECT 'a', 1::bigint, '{}'::json UNION ALL \
                   SELECT id, ver + 1, doc FROM r) SELECT * FROM r";
    let index = format!("\"ix {P}(rank)\"");
    let remade = |of: &str| format!("DROP INDEX {index}; CREATE INDEX {index} ON {pairs}{of}");
    let usual = "(f_rank, id)";
    for (change, back, words) in [
        (
            format!("CREATE TRIGGER hidden BEFORE DELETE ON {pairs} FOR EACH ROW EXECUTE FUNCTION nothing()"),
            format!("DROP TRIGGER hidden ON {pairs}"),
            "has the trigger `hidden`",
        ),
        (
            format!("CREATE RULE quiet AS ON DELETE TO {pairs} DO INSTEAD NOTHING"),
            format!("DROP RULE quiet ON {pairs}"),
            "has the rule `quiet`",
        ),
        (
            format!("ALTER TABLE {pairs} ENABLE ROW LEVEL SECURITY"),
            format!("ALTER TABLE {pairs} DISABLE ROW LEVEL SECURITY"),
            "has row security",
        ),
        (
            format!("ALTER TABLE {pairs} RENAME TO away; CREATE VIEW {pairs} AS {endless}"),
            format!("DROP VIEW {pairs}; ALTER TABLE away RENAME TO {pairs}"),
            "is a view",
        ),
        (
            format!("ALTER TABLE {pairs} ADD COLUMN more text"),
            format!("ALTER TABLE {pairs} DROP COLUMN more"),
            "has different columns",
        ),
        (remade(&format!("{usual} WHERE ver > 0")), remade(usual), "ix testSvcPairs(rank)` is missing"),
        (remade("(id, f_rank)"), remade(usual), "ix testSvcPairs(rank)` is missing"),
        (
            "UPDATE _store_meta SET spec = 'null'".into(),
            format!("UPDATE _store_meta SET spec = 'ix {P}(rank);ux {P}(slug);s_{P}(readers/rank)'"),
            "is not one that this version knows",
        ),
    ] {
        for statement in change.split("; ") {
            schema.ask(statement).await;
        }
        let findings = check(&schema, &[PAIRS]).await.unwrap();
        assert!(findings.problems.iter().any(|problem| problem.contains(words)), "{change}: {findings:?}");
        for statement in back.split("; ") {
            schema.ask(statement).await;
        }
        assert_eq!(sound_schema(&schema).await, 40);
    }
    let findings = check(&schema, &[PAIRS, MORE]).await.unwrap();
    assert!(matches!(&*findings.problems, [one] if one.contains("testSvcMore is missing")), "{findings:?}");
}
