//! The backup format: its sections, sections of other versions, and malicious files. A refused file leaves the restore
//! target without data.

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use openorch_store::{ArchiveReader, Engine, Notes, PostgresEngine, Query, StoreError};
use rusqlite::Connection;

use crate::{
    backup::{P, PAIRS, backup, filled, finish, prepare, silent, sound},
    open,
    suite::Schema,
};

const PAGE: usize = 4096;

struct TestDir(tempfile::TempDir);

impl TestDir {
    async fn new() -> TestDir {
        let place = TestDir(tempfile::tempdir().unwrap());
        filled(&place.at("data"), 20).await.close().await;
        backup(&place.at("data"), &place.at("good"), &vec![("made_at".into(), "now".into())], &mut silent).unwrap();
        place
    }

    fn at(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// A copy of the backup, changed by these statements.
    fn changed(&self, statements: &str) -> PathBuf {
        let file = self.at("changed");
        fs::copy(self.at("good"), &file).unwrap();
        Connection::open(&file).unwrap().execute_batch(statements).unwrap();
        file
    }

    /// The error of a refused restore.
    fn refused(&self, file: &Path) -> StoreError {
        let folder = self.at("new");
        let error = prepare(file, &folder, &[PAIRS]).err().expect("should have been refused");
        let left = fs::read_dir(&folder).map_or(vec![], |all| all.map(|one| one.unwrap().file_name()).collect());
        assert!(left.iter().all(|name| name == "openorch.lock"), "{left:?} after {error}");
        error
    }
}

fn tables(database: &Path) -> Vec<String> {
    let connection = Connection::open(database).unwrap();
    let mut select = connection.prepare("SELECT name FROM sqlite_schema WHERE name LIKE '\\_%' ESCAPE '\\'").unwrap();
    select.query_map([], |row| row.get(0)).unwrap().collect::<Result<_, _>>().unwrap()
}

#[tokio::test]
async fn an_archive_says_what_is_in_it_and_a_restored_database_does_not() {
    let place = TestDir::new().await;
    let connection = Connection::open(place.at("good")).unwrap();
    let sections = connection.query_row("SELECT group_concat(name || version || optional) FROM _sections", [], |row| {
        row.get::<_, String>(0)
    });
    assert_eq!(sections.unwrap(), "documents10");
    drop(connection);
    finish(prepare(&place.at("good"), &place.at("new"), &[PAIRS]).unwrap()).unwrap();
    assert_eq!(tables(&place.at("new/openorch.db")), ["_store_info", "_store_meta"]);
}

#[tokio::test]
async fn backups_of_before_there_were_sections_and_the_file_of_a_data_folder_are_restored() {
    let place = TestDir::new().await;
    for (number, file) in [place.changed("DROP TABLE _sections"), place.at("data/openorch.db")].into_iter().enumerate()
    {
        let folder = place.at(&format!("restored-{number}"));
        let restoring = prepare(&file, &folder, &[PAIRS]).unwrap();
        assert_eq!(restoring.notes().len(), 1 - number);
        finish(restoring).unwrap();
        assert_eq!(sound(&folder).documents, 40);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_section_that_this_version_does_not_know_is_refused_by_name_unless_it_is_optional() {
    let place = TestDir::new().await;
    let blobs = "CREATE TABLE _section_blobs(at INTEGER PRIMARY KEY, bytes BLOB NOT NULL); \
                 INSERT INTO _section_blobs VALUES (1, x'00ff');";
    for (change, words) in [
        (format!("{blobs} INSERT INTO _sections VALUES ('blobs', 3, 0)"), "a section `blobs` of version 3"),
        ("INSERT INTO _sections VALUES ('search', 1, 0)".into(), "a section `search` of version 1"),
        ("UPDATE _sections SET version = 2".into(), "a section `documents` of version 2"),
    ] {
        let file = place.changed(&change);
        let error = place.refused(&file);
        assert!(matches!(&error, StoreError::Unavailable(text) if text.contains(words)), "{error}");
        assert_eq!(ArchiveReader::open(&file).err(), Some(error), "the same for every engine");
    }

    let optional = place.changed(&format!("{blobs} INSERT INTO _sections VALUES ('blobs', 3, 1)"));
    finish(prepare(&optional, &place.at("without"), &[PAIRS]).unwrap()).unwrap();
    assert_eq!(tables(&place.at("without/openorch.db")), ["_store_info", "_store_meta"]);
    assert_eq!(sound(&place.at("without")).documents, 40);
    let Some(schema) = Schema::new() else { return };
    let engine = PostgresEngine(schema.options());
    let restoring = engine.restore(ArchiveReader::open(&optional).unwrap(), &[PAIRS], &mut silent).await.unwrap();
    restoring.finish(&mut silent).await.unwrap();
    assert_eq!(engine.check(&[PAIRS], &mut silent).await.unwrap().documents, 40);
}

#[tokio::test]
async fn what_no_version_writes_is_refused_as_damaged() {
    let place = TestDir::new().await;
    let note = "INSERT INTO _backup WITH RECURSIVE n(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n LIMIT 100)";
    for change in [
        "UPDATE _sections SET name = 'x y'",
        "UPDATE _sections SET optional = 1, name = 'other'",
        "INSERT INTO _sections WITH RECURSIVE n(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n LIMIT 100) \
         SELECT 's' || n, 1, 1 FROM n",
        "CREATE TABLE _section_blobs(at INTEGER PRIMARY KEY, bytes BLOB NOT NULL)",
        "INSERT INTO _sections VALUES ('blobs', 1, 1); CREATE TABLE _section_blobs(at INTEGER PRIMARY KEY, bytes, more)",
        "DROP TABLE _sections; CREATE TABLE _sections(name, version, optional)",
        "INSERT INTO _backup VALUES ('key', printf('%.70000c', 'x'))",
        &format!("{note} SELECT 'n' || n, '' FROM n"),
    ] {
        let error = place.refused(&place.changed(change));
        assert!(matches!(error, StoreError::Corrupt(_)), "{change}: {error:?}");
    }
}

#[tokio::test]
async fn an_archive_in_the_place_of_a_database_is_one_unless_it_has_what_is_not_known() {
    let place = TestDir::new().await;
    let folder = place.at("by-hand");
    fs::create_dir(&folder).unwrap();
    fs::copy(place.at("good"), folder.join("openorch.db")).unwrap();
    let store = open(&folder).unwrap();
    store.open_collections(&[PAIRS]).await.unwrap();
    store.back_up(&place.at("again"), &vec![]).await.unwrap();
    store.close().await;
    let restoring = prepare(&place.at("again"), &place.at("new"), &[PAIRS]).unwrap();
    assert_eq!(*restoring.notes(), vec![], "the notes of the first backup are not in this one");
    finish(restoring).unwrap();
    assert_eq!(sound(&place.at("new")).documents, 40);

    fs::remove_dir_all(&folder).unwrap();
    fs::create_dir(&folder).unwrap();
    fs::copy(place.changed("INSERT INTO _sections VALUES ('blobs', 1, 0)"), folder.join("openorch.db")).unwrap();
    let error = open(&folder).err().unwrap();
    assert!(matches!(&error, StoreError::Unavailable(text) if text.contains("a section `blobs`")), "{error}");
}

/// An index page with 300 identical short entries, which all point to the same child page, if any.
fn page(below: Option<u32>) -> Vec<u8> {
    let below = below.map(u32::to_be_bytes);
    // A record of two texts: `a` and the empty text.
    let cell = [below.as_ref().map_or(&[][..], |number| &number[..]), &[4, 3, 15, 13, b'a']].concat();
    let mut page = vec![0; PAGE];
    let mut head = vec![if below.is_some() { 2 } else { 10 }, 0, 0];
    head.extend(300_u16.to_be_bytes());
    head.extend(((PAGE - 300 * cell.len()) as u16).to_be_bytes());
    head.push(0);
    head.extend(below.into_iter().flatten());
    for entry in 1..=300 {
        let at = PAGE - entry * cell.len();
        page[at..at + cell.len()].copy_from_slice(&cell);
        head.extend((at as u16).to_be_bytes());
    }
    page[..head.len()].copy_from_slice(&head);
    page
}

/// The pages are nested so that the small file has billions of entries.
#[tokio::test]
async fn a_file_whose_entries_never_end_is_refused_soon() {
    let place = TestDir::new().await;
    let file = place.at("good");
    let root = Connection::open(&file)
        .unwrap()
        .query_row("SELECT rootpage FROM sqlite_schema WHERE name = '_backup'", [], |row| row.get::<_, u32>(0))
        .unwrap();
    let mut bytes = fs::read(&file).unwrap();
    let last = (bytes.len() / PAGE) as u32;
    let root = root as usize;
    bytes[(root - 1) * PAGE..root * PAGE].copy_from_slice(&page(Some(last + 1)));
    for level in 1..=5 {
        bytes.extend(page((level < 5).then_some(last + level + 1)));
    }
    bytes[28..32].copy_from_slice(&(last + 5).to_be_bytes());
    fs::write(&file, bytes).unwrap();
    let start = Instant::now();
    let error = place.refused(&file);
    assert!(matches!(&error, StoreError::Corrupt(text) if text.contains("than a file of its size")), "{error:?}");
    assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
}

#[tokio::test]
async fn a_file_that_is_cut_off_anywhere_is_refused() {
    let place = TestDir::new().await;
    let whole = fs::read(place.at("good")).unwrap();
    for length in (0..whole.len()).step_by(whole.len() / 20) {
        fs::write(place.at("short"), &whole[..length]).unwrap();
        place.refused(&place.at("short"));
    }
    for other in ["/dev/zero", "/dev/null"] {
        assert!(matches!(place.refused(Path::new(other)), StoreError::NotFound(_)));
    }
}

/// The backup uses the connections of the open store.
#[tokio::test]
async fn a_backup_by_the_open_store_is_an_archive_too() {
    let place = TestDir::new().await;
    let store = open(&place.at("data")).unwrap();
    store.open_collections(&[PAIRS]).await.unwrap();
    let notes: Notes = vec![("made_at".into(), "later".into())];
    store.back_up(&place.at("live"), &notes).await.unwrap();
    let archive = ArchiveReader::open(&place.at("live")).unwrap();
    assert_eq!(*archive.notes(), notes);
    assert_eq!(store.find(P, &Query::all()).await.unwrap().rows.len(), 40);
}
