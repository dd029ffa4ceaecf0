//! Lost connections: reads and unsent writes are retried; for a sent write the outcome is reported truthfully, and it
//! is never written twice.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    time::Duration,
};

use openorch_store::{Batch, Filter, Guard, PostgresOptions, Query, Store, StoreError};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use super::{Schema, Server, commit_once_possible, opened, sessions, terminate, until, with_option};
use crate::{THINGS, body, ids};

const T: &str = THINGS.name;

/// Sessions that wait for a lock.
const BLOCKED: &str = "wait_event_type = 'Lock'";

async fn named(schema: &Schema) -> Arc<dyn Store> {
    let mut options = schema.options();
    options.connection = with_option(&options.connection, &format!("application_name={}", schema.name));
    let store = opened(options).await;
    store.mark_seeded().await.unwrap();
    store
}

/// Holds the lock of a statement until it is dropped.
struct Blocker {
    client: tokio_postgres::Client,
    _task: tokio::task::JoinHandle<Result<(), tokio_postgres::Error>>,
}

impl Blocker {
    async fn new(schema: &Schema, sql: &str) -> Self {
        let (client, task) = tokio_postgres::connect(&schema.connection, tokio_postgres::NoTls).await.unwrap();
        let task = tokio::spawn(task);
        client.batch_execute(&format!("SET search_path = {}; BEGIN; {sql}", schema.name)).await.unwrap();
        Self { client, _task: task }
    }

    async fn release(self) {
        self.client.batch_execute("ROLLBACK").await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_died_while_nobody_used_them_are_replaced() {
    let Some(schema) = Schema::new() else { return };
    let store = named(&schema).await;
    for round in 0..3 {
        commit_once_possible(&store, Batch::new().create(T, format!("a{round}"), "{}")).await;
        terminate(&schema, &sessions(&schema, &schema.name, "true").await).await;
        assert_eq!(ids(&store, T, &Query::all()).await.len(), round + 1);
        assert_eq!(store.count(T, &[]).await, Ok(round as u64 + 1));
    }
    store.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_whose_connection_is_lost_before_its_commit_is_undone_and_says_so() {
    let Some(schema) = Schema::new() else { return };
    let store = named(&schema).await;
    store.commit(Batch::new().create(T, "row", "{}")).await.unwrap();
    let blocker = Blocker::new(&schema, &format!("SELECT FROM \"c_{T}\" WHERE id = 'row' FOR UPDATE")).await;
    let batch = Batch::new().create(T, "first", "{}").replace(T, "row", r#"{"rank":1}"#);
    let writing = tokio::spawn({
        let store = store.clone();
        async move { store.commit(batch).await }
    });
    let blocked = async || sessions(&schema, &schema.name, BLOCKED).await.first().copied();
    let session = until("the batch waits", blocked).await;
    terminate(&schema, &[session]).await;
    let error = writing.await.unwrap().unwrap_err();
    assert!(matches!(&error, StoreError::Unavailable(text) if text.contains("nothing was written")), "{error:?}");
    blocker.release().await;
    assert_eq!(ids(&store, T, &Query::all()).await, ["row"]);
    assert_eq!(body(&store, "row").await, Some(json!({})));
    commit_once_possible(&store, Batch::new().replace(T, "row", r#"{"rank":2}"#)).await;
    store.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_single_write_whose_connection_is_lost_is_unknown_and_is_not_tried_again() {
    let Some(schema) = Schema::new() else { return };
    let store = named(&schema).await;
    store.commit(Batch::new().create(T, "row", "{}")).await.unwrap();
    let blocker = Blocker::new(&schema, &format!("SELECT FROM \"c_{T}\" WHERE id = 'row' FOR UPDATE")).await;
    let writing = tokio::spawn({
        let store = store.clone();
        async move { store.commit(Batch::new().replace(T, "row", r#"{"rank":1}"#)).await }
    });
    let blocked = async || sessions(&schema, &schema.name, BLOCKED).await.first().copied();
    let session = until("the write waits", blocked).await;
    terminate(&schema, &[session]).await;
    let error = writing.await.unwrap().unwrap_err();
    assert!(matches!(&error, StoreError::Unavailable(text) if text.contains("not known")), "{error:?}");
    blocker.release().await;
    assert!(sessions(&schema, &schema.name, BLOCKED).await.is_empty());
    assert_eq!(body(&store, "row").await, Some(json!({})));
    store.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_is_left_before_its_first_row_is_ended_at_the_server() {
    let Some(schema) = Schema::new() else { return };
    let store = named(&schema).await;
    let blocker = Blocker::new(&schema, &format!("LOCK TABLE \"c_{T}\" IN ACCESS EXCLUSIVE MODE")).await;
    let rows = store.stream(T, &Query::all()).await.unwrap();
    let blocked = async || sessions(&schema, &schema.name, BLOCKED).await.first().copied();
    until("the stream waits", blocked).await;
    drop(rows);
    let ended = async || sessions(&schema, &schema.name, BLOCKED).await.is_empty().then_some(());
    until("the stream is ended", ended).await;
    blocker.release().await;
    store.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn w150_reads_that_are_given_up_cost_no_connection() {
    let Some(schema) = Schema::new() else { return };
    let mut options = schema.options();
    options.connection = with_option(&options.connection, &format!("application_name={}", schema.name));
    options.read_connections = 1;
    let store = opened(options).await;
    store.commit(Batch::new().create(T, "row", "{}")).await.unwrap();
    assert_eq!(ids(&store, T, &Query::all()).await, ["row"]);
    let before = sessions(&schema, &schema.name, "true").await;
    for round in 0..200 {
        // Abandoned immediately or a little later.
        let mut reading = store.get(T, "row");
        for _ in 0..round % 4 {
            // A zero timeout polls once.
            if tokio::time::timeout(Duration::ZERO, reading.as_mut()).await.is_ok() {
                break;
            }
            tokio::task::yield_now().await;
        }
    }
    assert_eq!(ids(&store, T, &Query::all()).await, ["row"]);
    let after = sessions(&schema, &schema.name, "true").await;
    assert!(after.iter().all(|session| before.contains(session)), "{before:?} {after:?}");
    store.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn w150_a_read_that_is_given_up_and_does_not_end_is_ended_at_the_server() {
    let Some(schema) = Schema::new() else { return };
    let store = named(&schema).await;
    let blocker = Blocker::new(&schema, &format!("LOCK TABLE \"c_{T}\" IN ACCESS EXCLUSIVE MODE")).await;
    let reading = tokio::spawn({
        let store = store.clone();
        async move { store.get(T, "row").await }
    });
    let blocked = async || sessions(&schema, &schema.name, BLOCKED).await.first().copied();
    until("the read waits", blocked).await;
    reading.abort();
    let ended = async || sessions(&schema, &schema.name, BLOCKED).await.is_empty().then_some(());
    until("the read is ended", ended).await;
    blocker.release().await;
    store.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn w150_all_who_ask_whether_the_store_is_ready_have_one_answer() {
    let Some(schema) = Schema::new() else { return };
    let store = named(&schema).await;
    store.ready().await.unwrap();
    let blocker = Blocker::new(&schema, "LOCK TABLE _store_info IN ACCESS EXCLUSIVE MODE").await;
    let asking: Vec<_> = (0..20).map(|_| store.ready()).collect();
    let blocked = async || sessions(&schema, &schema.name, BLOCKED).await.first().copied();
    until("the question waits", blocked).await;
    assert_eq!(sessions(&schema, &schema.name, BLOCKED).await.len(), 1);
    blocker.release().await;
    for answer in asking {
        answer.await.unwrap();
    }
    store.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_that_somebody_ends_at_the_server_is_undone_and_says_so() {
    let Some(schema) = Schema::new() else { return };
    let store = named(&schema).await;
    store.commit(Batch::new().create(T, "row", "{}")).await.unwrap();
    for batch in [
        Batch::new().replace(T, "row", r#"{"rank":1}"#),
        Batch::new().create(T, "first", "{}").replace(T, "row", r#"{"rank":1}"#),
    ] {
        let blocker = Blocker::new(&schema, &format!("SELECT FROM \"c_{T}\" WHERE id = 'row' FOR UPDATE")).await;
        let writing = tokio::spawn({
            let store = store.clone();
            async move { store.commit(batch).await }
        });
        let blocked = async || sessions(&schema, &schema.name, BLOCKED).await.first().copied();
        let session = until("the write waits", blocked).await;
        schema.ask(&format!("SELECT pg_cancel_backend({session})")).await;
        let error = writing.await.unwrap().unwrap_err();
        let told = matches!(&error, StoreError::Unavailable(text) if text.contains("nothing was changed"));
        assert!(told, "{error:?}");
        blocker.release().await;
        assert_eq!(ids(&store, T, &Query::all()).await, ["row"]);
        assert_eq!(body(&store, "row").await, Some(json!({})));
    }
    store.close().await;
}

/// A proxy between a store and its server that cuts connections on demand.
struct CuttingProxy {
    port: u16,
    cut: Arc<AtomicU8>,
}

/// The action on the next response.
const PASS: u8 = 0;
/// Cuts the connection at the response to a COMMIT.
const CUT_COMMIT: u8 = 1;
/// Cuts the connection at the first response to a later request.
const CUT_ANSWER: u8 = 2;

impl CuttingProxy {
    async fn new(server: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (port, server) = (listener.local_addr().unwrap().port(), server.to_owned());
        let cut = Arc::new(AtomicU8::new(PASS));
        let of_all = cut.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (server, cut) = (TcpStream::connect(&server).await.unwrap(), of_all.clone());
                tokio::spawn(Self::proxy(client, server, cut));
            }
        });
        Self { port, cut }
    }

    async fn proxy(mut client: TcpStream, mut server: TcpStream, cut: Arc<AtomicU8>) {
        let (mut sent, mut answer) = (vec![0; 65536], vec![0; 65536]);
        let mut doomed = false;
        loop {
            tokio::select! {
                read = client.read(&mut sent) => {
                    let Ok(count @ 1..) = read else { return };
                    let is_commit = sent[..count].windows(7).any(|window| window == b"COMMIT\0");
                    doomed = match cut.load(Ordering::SeqCst) {
                        CUT_COMMIT => is_commit,
                        CUT_ANSWER => true,
                        _ => false,
                    };
                    if doomed {
                        cut.store(PASS, Ordering::SeqCst);
                    }
                    server.write_all(&sent[..count]).await.unwrap();
                }
                read = server.read(&mut answer) => {
                    let Ok(count @ 1..) = read else { return };
                    if doomed {
                        return;
                    }
                    if client.write_all(&answer[..count]).await.is_err() {
                        return;
                    }
                }
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_whose_answer_is_lost_is_unknown_and_is_written_once() {
    let Some(schema) = Schema::new() else { return };
    let (user, place) = schema.connection.split_once('@').unwrap();
    let (server, database) = place.split_once('/').unwrap();
    let wire = CuttingProxy::new(server).await;
    let mut options = schema.options();
    options.connection = format!("{user}@127.0.0.1:{}/{database}", wire.port);
    let store = opened(options).await;
    store.mark_seeded().await.unwrap();
    store.commit(Batch::new().create(T, "n", r#"{"rank":0}"#)).await.unwrap();

    let two = |rank: u64| {
        let body = json!({ "rank": rank }).to_string();
        Batch::new().upsert(T, "n", body.clone()).upsert(T, format!("with{rank}"), body)
    };
    // Prepares the statements, so that the cut hits the write and nothing before it.
    store.commit(two(1)).await.unwrap();
    wire.cut.store(CUT_COMMIT, Ordering::SeqCst);
    let error = store.commit(two(2)).await.unwrap_err();
    assert!(matches!(&error, StoreError::Unavailable(text) if text.contains("not known")), "{error:?}");
    // The server did commit; a retry would have changed the version.
    until("the commit", async || (body(&store, "n").await == Some(json!({"rank": 2}))).then_some(())).await;
    let version = async |id: &str| store.get(T, id).await.unwrap().unwrap().version;
    assert_eq!(version("n").await, version("with2").await);
    let taken = schema.ask("SELECT last_value FROM _store_version").await[0][0].parse::<u64>().unwrap();
    assert_eq!(version("n").await, taken, "there was no retry");

    let one = |rank: u64| Batch::new().upsert(T, "n", json!({ "rank": rank }).to_string());
    store.commit(one(3)).await.unwrap();
    wire.cut.store(CUT_ANSWER, Ordering::SeqCst);
    let error = store.commit(one(4)).await.unwrap_err();
    assert!(matches!(&error, StoreError::Unavailable(text) if text.contains("not known")), "{error:?}");
    until("the write", async || (body(&store, "n").await == Some(json!({"rank": 4}))).then_some(())).await;
    let taken = schema.ask("SELECT last_value FROM _store_version").await[0][0].parse::<u64>().unwrap();
    assert_eq!(version("n").await, taken, "there was no retry");
    store.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_writes_under_connections_that_die_all_acknowledged_ones_are_there_once_and_none_that_was_undone() {
    let Some(schema) = Schema::new() else { return };
    let store = named(&schema).await;
    store.commit(Batch::new().create(T, "n", r#"{"rank":0}"#)).await.unwrap();
    let writers: Vec<_> = (0..6)
        .map(|writer| {
            let store = store.clone();
            tokio::spawn(async move {
                let (mut acknowledged, mut undone, mut lost) = (Vec::new(), Vec::new(), 0);
                for i in 0.. {
                    if acknowledged.len() == 40 {
                        break;
                    }
                    let id = format!("w{writer}i{i}");
                    let row = store.get(T, "n").await.unwrap().unwrap();
                    let counter: serde_json::Value = serde_json::from_str(&row.body).unwrap();
                    let next = json!({"rank": counter["rank"].as_u64().unwrap() + 1}).to_string();
                    let batch = Batch::new().create(T, &*id, r#"{"kind":"k"}"#).replace_at(T, "n", next, row.version);
                    match store.commit(batch).await {
                        Ok(_) => acknowledged.push(id),
                        Err(StoreError::Conflict(_)) => undone.push(id),
                        Err(StoreError::Unavailable(text)) if text.contains("not known") => lost += 1,
                        Err(StoreError::Unavailable(_)) => {
                            lost += 1;
                            undone.push(id);
                        }
                        Err(other) => panic!("{other:?}"),
                    }
                }
                (acknowledged, undone, lost)
            })
        })
        .collect();
    while writers.iter().any(|writer| !writer.is_finished()) {
        // Active sessions, and occasionally the one that holds the schema lock.
        let busy = sessions(&schema, &schema.name, "state <> 'idle' OR random() < 0.05").await;
        terminate(&schema, &busy).await;
    }
    let (mut acknowledged, mut undone, mut lost) = (Vec::new(), Vec::new(), 0);
    for writer in writers {
        let (a, u, l) = writer.await.unwrap();
        acknowledged.extend(a);
        undone.extend(u);
        lost += l;
    }
    assert!(lost > 0, "no connection was lost, so the test proves nothing");
    let there = ids(&store, T, &Query::all().equals("kind", "k")).await;
    for id in &acknowledged {
        assert!(there.contains(id), "{id} was acknowledged and is missing");
    }
    for id in &undone {
        assert!(!there.contains(id), "{id} was reported as not written and exists");
    }
    assert_eq!(body(&store, "n").await, Some(json!({"rank": there.len()})), "each was counted once");
    store.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_stands_still_is_given_up_on_and_used_again() {
    let Some(server) = Server::new().await else { return };
    let mut options = PostgresOptions::new(server.connection());
    (options.read_timeout, options.write_limit) = (Duration::from_millis(200), Duration::from_millis(300));
    let store = opened(options).await;
    store.commit(Batch::new().create(T, "a", "{}").create(T, "b", "{}")).await.unwrap();
    assert_eq!(store.count(T, &[]).await, Ok(2));
    server.freeze();
    for batch in [Batch::new().create(T, "c", "{}"), Batch::new().create(T, "d", "{}").create(T, "e", "{}")] {
        // The outcome is unknown, or there is no connection for the attempt.
        let error = store.commit(batch).await.unwrap_err();
        assert!(matches!(&error, StoreError::Unavailable(_)), "{error:?}");
    }
    assert!(matches!(store.count(T, &[]).await, Err(StoreError::TimedOut(_))));
    server.thaw();
    commit_once_possible(&store, Batch::new().create(T, "f", "{}")).await;
    let there = until("reading", async || store.find(T, &Query::all()).await.ok()).await;
    let there: Vec<_> = there.rows.into_iter().map(|row| row.id).filter(|id| id != "c").collect();
    assert_eq!(there, ["a", "b", "f"], "an uncommitted batch left nothing behind");
    store.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_and_a_guard_that_wait_for_others_end_in_time() {
    let Some(schema) = Schema::new() else { return };
    let mut options = schema.options();
    options.read_timeout = Duration::from_millis(150);
    let store = opened(options).await;
    store.commit(Batch::new().create(T, "a", "{}")).await.unwrap();
    let blocker = Blocker::new(&schema, &format!("LOCK TABLE \"c_{T}\" IN ACCESS EXCLUSIVE MODE")).await;
    let sentence = "the read took longer than 0.15 s; narrow the query, or filter by indexed fields";
    let too_long = StoreError::TimedOut(sentence.into());
    assert_eq!(store.get(T, "a").await, Err(too_long.clone()));
    assert_eq!(store.find(T, &Query::all()).await.map(drop), Err(too_long.clone()));
    assert_eq!(store.count(T, &[Filter::equals("other", 1)]).await, Err(too_long));
    blocker.release().await;
    assert_eq!(ids(&store, T, &Query::all()).await, ["a"], "the connections are usable again");
    let full = Guard::at_most(T, vec![], 0);
    assert!(matches!(store.commit(Batch::new().require(full)).await, Err(StoreError::Conflict(_))));
    store.close().await;
}
