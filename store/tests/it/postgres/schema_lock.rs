//! The schema lock: one daemon at a time, even if the connection that holds the lock is lost.

use openorch_store::{Batch, StoreError};

use super::{Schema, commit_once_possible, opened, refused, sessions, terminate, until, with_option};
use crate::{THINGS, ids};

const T: &str = THINGS.name;

fn create(id: &str) -> Batch {
    Batch::new().create(T, id, "{}")
}

/// The session that holds the lock.
const HOLDS: &str = "pid IN (SELECT pid FROM pg_locks WHERE locktype = 'advisory')";

/// Options of a daemon whose application name is the name of the schema.
fn named(schema: &Schema) -> openorch_store::PostgresOptions {
    let mut options = schema.options();
    options.connection = with_option(&options.connection, &format!("application_name={}", schema.name));
    options
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_daemon_is_told_who_has_the_schema_and_gets_it_once_it_is_let_go() {
    let Some(schema) = Schema::new() else { return };
    let first = opened(named(&schema)).await;
    first.mark_seeded().await.unwrap();
    let session = sessions(&schema, &schema.name, HOLDS).await[0];
    let error = refused(schema.options()).await;
    let words = [
        format!("the schema `{}` of the database `postgres` at ", schema.name),
        format!("is in use by another daemon (`{}` at 127.0.0.1, session {session} of the server)", schema.name),
        "stop that one, or choose another schema".into(),
    ];
    for words in words {
        assert!(matches!(&error, StoreError::InUse(text) if text.contains(&words)), "{error:?}");
    }
    first.commit(create("a")).await.unwrap();
    first.close().await;
    let second = opened(schema.options()).await;
    assert_eq!(ids(&second, T, &Default::default()).await, ["a"]);
    // Another schema of the same database is independent.
    let Some(other) = Schema::new() else { return };
    opened(other.options()).await.close().await;
    second.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hold_that_is_lost_is_taken_again() {
    let Some(schema) = Schema::new() else { return };
    let store = opened(named(&schema)).await;
    store.mark_seeded().await.unwrap();
    for round in 0..3 {
        terminate(&schema, &sessions(&schema, &schema.name, HOLDS).await).await;
        commit_once_possible(&store, create(&format!("a{round}"))).await;
        // Reads do not need the lock.
        assert_eq!(ids(&store, T, &Default::default()).await.len(), round + 1);
    }
    until("the store is ready", async || store.ready().await.ok()).await;
    store.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hold_that_another_daemon_had_meanwhile_is_lost_for_good() {
    let Some(schema) = Schema::new() else { return };
    let store = opened(named(&schema)).await;
    store.mark_seeded().await.unwrap();
    store.commit(create("a")).await.unwrap();
    // A waiting session gets the lock as soon as it is free; it acts as the other daemon.
    let (other, task) = tokio_postgres::connect(&schema.connection, tokio_postgres::NoTls).await.unwrap();
    let task = tokio::spawn(task);
    let lock = schema.ask("SELECT classid::int8, objid::int8 FROM pg_locks WHERE locktype = 'advisory'").await;
    let holder = sessions(&schema, &schema.name, HOLDS).await[0];
    let mine = schema
        .ask(&format!("SELECT classid::int8, objid::int8 FROM pg_locks WHERE locktype = 'advisory' AND pid = {holder}"))
        .await;
    assert!(lock.contains(&mine[0]));
    let numbers = format!(
        "{}, {}",
        mine[0][0].parse::<u32>().unwrap().cast_signed(),
        mine[0][1].parse::<u32>().unwrap().cast_signed()
    );
    let waiting = tokio::spawn(async move {
        other.batch_execute(&format!("SELECT pg_advisory_lock({numbers})")).await.unwrap();
        other
    });
    let queued = "SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted";
    until("the other waits", async || (!schema.ask(queued).await.is_empty()).then_some(())).await;
    terminate(&schema, &[holder]).await;
    let other = waiting.await.unwrap();
    // The loss is noticed with a delay; until then writes succeed, so this one changes nothing.
    let nothing = || Batch::new().delete(T, "nothing");
    let error = until("writes are refused", async || store.commit(nothing()).await.err()).await;
    assert!(matches!(error, StoreError::Unavailable(_)), "{error:?}");
    // As an opening does.
    let use_it = format!("UPDATE {}._store_info SET value = 'another' WHERE key = 'opening'", schema.name);
    other.batch_execute(&use_it).await.unwrap();
    drop(other);
    task.await.unwrap().unwrap();
    let told = until("the loss is found out", async || {
        let error = store.commit(create("b")).await.expect_err("no write succeeds without the lock");
        let StoreError::Unavailable(text) = error else { panic!("{error:?}") };
        text.contains("another daemon has used the schema").then_some(text)
    })
    .await;
    assert!(told.contains("restart this one"), "{told}");
    assert!(store.ready().await.is_err());
    assert_eq!(ids(&store, T, &Default::default()).await, ["a"], "reads continue");
    store.close().await;
}

/// A proxy to the server; once aborted, it accepts no further connections.
async fn start_proxy(server: &str) -> (u16, tokio::task::JoinHandle<()>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (port, server) = (listener.local_addr().unwrap().port(), server.to_owned());
    let carrying = tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let mut server = tokio::net::TcpStream::connect(&server).await.unwrap();
            tokio::spawn(async move { tokio::io::copy_bidirectional(&mut client, &mut server).await });
        }
    });
    (port, carrying)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn w151_what_a_daemon_was_writing_when_it_lost_the_schema_is_not_committed_behind_the_next_ones_back() {
    let Some(schema) = Schema::new() else { return };
    let (user, place) = schema.connection.split_once('@').unwrap();
    let (server, database) = place.split_once('/').unwrap();
    let (port, carrying) = start_proxy(server).await;
    let mut options = named(&schema);
    options.connection = options.connection.replace(&schema.connection, &format!("{user}@127.0.0.1:{port}/{database}"));
    let first = opened(options).await;
    first.mark_seeded().await.unwrap();
    first.commit(create("row")).await.unwrap();
    // A lock of another program blocks its write, and it cannot reconnect when its lock is lost.
    let (other, task) = tokio_postgres::connect(&schema.connection, tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(task);
    let lock = format!("SET search_path = {}; BEGIN; SELECT FROM \"c_{T}\" WHERE id = 'row' FOR UPDATE", schema.name);
    other.batch_execute(&lock).await.unwrap();
    let writing = tokio::spawn(async move { first.commit(Batch::new().replace(T, "row", r#"{"rank":1}"#)).await });
    let waits = "wait_event_type = 'Lock'";
    until("the write waits", async || sessions(&schema, &schema.name, waits).await.first().copied()).await;
    carrying.abort();
    let holds = format!("{HOLDS} AND NOT ({waits})");
    terminate(&schema, &sessions(&schema, &schema.name, &holds).await).await;
    let second = opened(schema.options()).await;
    other.batch_execute("ROLLBACK").await.unwrap();
    let error = writing.await.unwrap().unwrap_err();
    assert!(matches!(&error, StoreError::Unavailable(text) if text.contains("not known")), "{error:?}");
    assert_eq!(second.get(T, "row").await.unwrap().unwrap().body.as_ref(), "{}");
    second.commit(create("another")).await.unwrap();
    // Later writes on a connection of the first daemon are refused by the server.
    for opening in ["RESET openorch.opening", "SET openorch.opening = 5"] {
        let write = format!("SET search_path = {}; {opening}; SELECT _store_next()", schema.name);
        let error = other.batch_execute(&write).await.unwrap_err();
        assert_eq!(error.code().map(|code| code.code()), Some("OO001"));
    }
    second.close().await;
}
