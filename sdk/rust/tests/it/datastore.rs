//! Tests of the datastore with both engines; PostgreSQL only if `OPENORCH_TEST_DB_STRING` is set
//! (`tools/postgres cargo test` starts a server and sets it).

use openorch_sdk::{
    Credential, CredentialStore, Error,
    api::user::READ_USER_BY_TOKEN,
    datastore::{Batch, Collection, Datastore, DatastoreFactory, Direction, Index, Query, StoreError},
    service_client,
};
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Note {
    author: String,
    text: String,
}

static NOTES: Collection = Collection { name: "notes", indexes: &[Index::on(&["author"])] };

fn note(author: &str, text: &str) -> Note {
    Note { author: author.into(), text: text.into() }
}

#[tokio::test]
async fn documents_in_a_file_stay_and_belong_to_one_program_at_a_time() {
    let directory = tempfile::tempdir().unwrap();
    let factory = DatastoreFactory::in_directory(directory.path());
    exercise_datastore(&factory).await;
    let held = factory.open(&[]).await.unwrap();
    let error = factory.open(&[]).await.unwrap_err();
    assert!(matches!(error, Error::Datastore(StoreError::InUse(_))), "{error}");
    assert!(held.location().contains(directory.path().to_str().unwrap()));
}

#[tokio::test]
async fn the_collection_of_the_credential_is_nobody_elses() {
    let directory = tempfile::tempdir().unwrap();
    let credentials = Collection { name: "credentials", indexes: &[] };
    let error = DatastoreFactory::in_directory(directory.path()).open(&[credentials]).await.unwrap_err();
    assert!(matches!(&error, Error::Datastore(StoreError::Invalid(why)) if why.contains("another name")), "{error}");
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0, "no file was created");
}

#[tokio::test]
async fn documents_in_postgres_stay_too() {
    let Ok(connection) = std::env::var("OPENORCH_TEST_DB_STRING") else {
        assert!(std::env::var_os("REQUIRE_POSTGRES").is_none(), "OPENORCH_TEST_DB_STRING is not set");
        eprintln!("SKIP: OPENORCH_TEST_DB_STRING is not set");
        return;
    };
    // A separate schema for this run.
    let slug = format!("sdk-test-{}", std::process::id());
    exercise_datastore(&DatastoreFactory::on_postgres(&connection, &slug).unwrap()).await;
}

async fn exercise_datastore(factory: &DatastoreFactory) {
    let datastore = factory.open(&[NOTES]).await.unwrap();
    let notes = datastore.table::<Note>(&NOTES);
    let batch = Batch::new()
        .with(notes.create("note_1", &note("joe", "milk")).unwrap())
        .with(notes.create("note_2", &note("ann", "bread")).unwrap())
        .with(notes.create("note_3", &note("joe", "eggs")).unwrap());
    datastore.commit(batch).await.unwrap();
    let of_joe = Query::all().equals("author", "joe").order_by("text", Direction::Descending);
    let found = notes.find(&of_joe).await.unwrap();
    assert_eq!(found.iter().map(|one| one.value.text.as_str()).collect::<Vec<_>>(), ["milk", "eggs"]);
    let again = datastore.commit(Batch::new().with(notes.create("note_1", &note("x", "y")).unwrap())).await;
    assert!(matches!(again, Err(Error::Datastore(StoreError::AlreadyExists(_)))), "{again:?}");
    let credential = store_credential(&datastore).await;
    datastore.store().close().await;
    drop((notes, datastore));

    let datastore = factory.open(&[NOTES]).await.unwrap();
    assert_eq!(datastore.table::<Note>(&NOTES).get("note_2").await.unwrap().unwrap().value, note("ann", "bread"));
    assert_eq!(datastore.load().await.unwrap(), Some(credential));
    datastore.store().close().await;
}

async fn store_credential(datastore: &Datastore) -> Credential {
    assert_eq!(datastore.load().await.unwrap(), None);
    let first = datastore.get_or_insert(Credential::random("a-svc").unwrap()).await.unwrap();
    assert_eq!(
        datastore.get_or_insert(Credential::random("a-svc").unwrap()).await.unwrap(),
        first,
        "the first credential is kept"
    );
    first
}

#[tokio::test]
async fn a_service_signs_in_with_the_credential_in_its_datastore() {
    let (daemon, directory) = (crate::daemon::start(&[]).await, tempfile::tempdir().unwrap());
    let datastore = DatastoreFactory::in_directory(directory.path()).open(&[]).await.unwrap();
    for _ in 0..2 {
        let client = service_client(&daemon.client(), "a-svc", "A", datastore.clone()).await.unwrap();
        assert_eq!(client.call(READ_USER_BY_TOKEN, ()).await.unwrap().0.user.slug, "a-svc");
    }
}
