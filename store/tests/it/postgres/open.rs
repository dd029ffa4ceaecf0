//! What opening a schema waits for and refuses, with errors that name the place and the remedy.

use std::time::{Duration, Instant};

use openorch_store::{Batch, PostgresOptions, Query, StoreError};
use openorch_test_support::free_address;

use super::{Schema, Server, database, opened, refused, try_open};
use crate::{THINGS, ids, suite::ask};

const T: &str = THINGS.name;

/// The same server with another database.
fn in_database(connection: &str, name: &str) -> String {
    format!("{}/{name}", connection.rsplit_once('/').unwrap().0)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_is_away_is_waited_for_and_then_named() {
    let port = free_address().port();
    let place = format!("the database `d` at 127.0.0.1:{port}");
    let mut options = PostgresOptions::new(format!("postgres://u:secret-word@127.0.0.1:{port}/d"));
    options.connect_patience = Duration::from_millis(350);
    let start = Instant::now();
    let error = refused(options).await;
    assert!(start.elapsed() >= Duration::from_millis(300), "it was tried more than once");
    let StoreError::Unavailable(text) = &error else { panic!("{error:?}") };
    assert!(text.starts_with(&format!("{place} did not answer within 0.35 s")), "{text}");
    assert!(text.contains("start it, or correct the connection string"), "{text}");
    assert_eq!(PostgresOptions::new("").connect_patience, Duration::from_secs(30), "the timeout of the daemon");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_listens_and_says_nothing_is_named_in_time() {
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = silent.local_addr().unwrap().port();
    let mut options = PostgresOptions::new(format!("postgres://u@127.0.0.1:{port}/d"));
    options.connect_patience = Duration::from_millis(300);
    let error = refused(options).await;
    assert!(matches!(&error, StoreError::Unavailable(text) if text.contains("but sent nothing for")), "{error:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_comes_up_while_it_is_waited_for_is_used() {
    let Some(mut server) = Server::create(None, &[]) else { return };
    let options = PostgresOptions::new(server.connection());
    let opening = tokio::spawn(opened(options));
    tokio::task::yield_now().await;
    server.start().await;
    let store = opening.await.unwrap();
    store.commit(Batch::new().create(T, "a", "{}")).await.unwrap();
    store.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whom_the_database_refuses_is_told_what_to_correct_and_does_not_wait() {
    let Some(connection) = database() else { return };
    let start = Instant::now();
    let wrong = connection.replacen("@", "wrong@", 1);
    let error = refused(PostgresOptions::new(wrong)).await;
    let words = "refused the connection: password authentication failed for user \"openorch\" (28P01); correct the user \
                 and the password in the connection string";
    assert!(matches!(&error, StoreError::Unavailable(text) if text.contains(words)), "{error:?}");
    let nobody = connection.replacen("://openorch:", "://nobody:", 1);
    let error = refused(PostgresOptions::new(nobody)).await;
    assert!(matches!(&error, StoreError::Unavailable(text) if text.contains("correct the user")), "{error:?}");
    let nowhere = in_database(&connection, "nowhere");
    let error = refused(PostgresOptions::new(nowhere)).await;
    assert!(
        matches!(&error, StoreError::Unavailable(text) if text.contains("create it with CREATE DATABASE")),
        "{error:?}"
    );
    assert!(start.elapsed() < Duration::from_secs(10), "permanent errors are not retried");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_cannot_keep_every_text_is_refused_and_any_collation_will_do() {
    let Some(connection) = database() else { return };
    for (encoding, fits) in [("LATIN1", false), ("SQL_ASCII", false), ("UTF8", true)] {
        let name = format!("test_{}_{}", std::process::id(), encoding.to_lowercase());
        let create =
            format!("CREATE DATABASE {name} ENCODING '{encoding}' LOCALE 'C' LOCALE_PROVIDER libc TEMPLATE template0");
        ask(&connection, &create).await;
        let outcome = try_open(PostgresOptions::new(in_database(&connection, &name))).await;
        ask(&connection, &format!("DROP DATABASE {name} WITH (FORCE)")).await;
        match outcome {
            Ok(()) => assert!(fits, "{encoding}"),
            Err(error) => {
                let words = format!("has the encoding {encoding}, which cannot represent all text");
                let told = matches!(&error, StoreError::Unavailable(text) if text.contains(&words) && text.contains("ENCODING 'UTF8'"));
                assert!(told && !fits, "{encoding}: {error:?}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_without_the_right_is_told_which_statement_gives_it() {
    let Some(schema) = Schema::new() else { return };
    let user = format!("{}_user", schema.name);
    schema.ask(&format!("CREATE ROLE {user} LOGIN PASSWORD 'secret-word'")).await;
    let host = schema.connection.split_once('@').unwrap().1;
    let options = || PostgresOptions {
        schema: schema.name.clone(),
        ..PostgresOptions::new(format!("postgres://{user}:secret-word@{host}"))
    };
    let error = refused(options()).await;
    let give = format!("CREATE SCHEMA {} AUTHORIZATION \"{user}\"", schema.name);
    assert!(matches!(&error, StoreError::Unavailable(text) if text.contains(&give)), "{error:?}");

    schema.ask(&format!("CREATE SCHEMA {}", schema.name)).await;
    let error = refused(options()).await;
    let give = format!("ALTER SCHEMA {} OWNER TO \"{user}\"", schema.name);
    assert!(matches!(&error, StoreError::Unavailable(text) if text.contains(&give)), "{error:?}");

    // The suggested statement is sufficient.
    schema.ask(&give).await;
    let store = opened(options()).await;
    store.commit(Batch::new().create(T, "a", "{}")).await.unwrap();
    // A privilege that is revoked while the store is open is reported too.
    schema.ask(&format!("REVOKE ALL ON \"c_{T}\" FROM {user}")).await;
    let error = store.commit(Batch::new().create(T, "b", "{}")).await.unwrap_err();
    let words = "permission denied for table c_testSvcThings (42501); grant the database user";
    assert!(matches!(&error, StoreError::Unavailable(text) if text.contains(words)), "{error:?}");
    schema.ask(&format!("GRANT ALL ON \"c_{T}\" TO {user}")).await;
    store.commit(Batch::new().create(T, "b", "{}")).await.unwrap();
    store.close().await;
    schema.ask(&format!("DROP SCHEMA {} CASCADE; DROP OWNED BY {user}; DROP ROLE {user}", schema.name)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_schema_of_a_newer_layout_is_refused_unless_it_says_that_we_can_work_with_it() {
    let Some(schema) = Schema::new() else { return };
    let store = opened(schema.options()).await;
    store.mark_seeded().await.unwrap();
    store.close().await;
    let set = async |key: &str, value: &str| {
        schema.ask(&format!("UPDATE _store_info SET value = '{value}' WHERE key = '{key}'")).await
    };
    set("layout", "9").await;
    set("min_compatible", "9").await;
    let before = schema.ask("SELECT * FROM _store_info ORDER BY 1").await;
    let error = refused(schema.options()).await;
    assert!(matches!(&error, StoreError::Unavailable(text) if text.contains("newer version (layout 9, ")), "{error:?}");
    assert_eq!(schema.ask("SELECT * FROM _store_info ORDER BY 1").await, before, "nothing was changed");
    set("min_compatible", "2").await;
    let store = opened(schema.options()).await;
    store.commit(Batch::new().create(T, "a", "{}")).await.unwrap();
    store.close().await;
    let layout = schema.ask("SELECT value FROM _store_info WHERE key = 'layout'").await;
    assert_eq!(layout, [["9"]], "an older program does not change the layout");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_or_a_missing_database_than_the_one_that_is_wanted_is_refused() {
    let Some(schema) = Schema::new() else { return };
    let of = |id: Option<&str>| PostgresOptions { database_id: id.map(Into::into), ..schema.options() };
    let unknown = "0".repeat(32);
    let error = refused(of(Some(&unknown))).await;
    let words = format!("is missing or empty, but this daemon was started with database {unknown}");
    assert!(matches!(&error, StoreError::Corrupt(text) if text.contains(&words)), "{error:?}");
    assert!(
        schema.ask("SELECT 1 FROM pg_namespace WHERE nspname = current_schema").await.is_empty(),
        "nothing was created"
    );

    let store = opened(schema.options()).await;
    store.mark_seeded().await.unwrap();
    store.close().await;
    let id = store.database_id().to_owned();
    let error = refused(of(Some(&unknown))).await;
    let told = |text: &str| text.contains(&id) && text.contains(&unknown);
    assert!(matches!(&error, StoreError::Corrupt(text) if told(text)), "{error:?}");
    let store = opened(of(Some(&id))).await;
    assert!(store.is_seeded());
    store.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_that_was_not_finished_begins_afresh_and_leaves_what_is_not_ours() {
    let Some(schema) = Schema::new() else { return };
    let store = opened(schema.options()).await;
    store.commit(Batch::new().create(T, "half", r#"{"readers":["a"]}"#)).await.unwrap();
    store.close().await;
    schema.ask("CREATE TABLE theirs(a int); INSERT INTO theirs VALUES (1)").await;
    let again = opened(schema.options()).await;
    assert!(!again.is_seeded());
    assert_ne!(again.database_id(), store.database_id());
    assert_eq!(ids(&again, T, &Query::all()).await, [""; 0]);
    assert_eq!(ids(&again, T, &Query::all().intersects("readers", ["a"])).await, [""; 0]);
    assert_eq!(schema.ask("SELECT a FROM theirs").await, [["1"]]);
    again.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_schema_with_tables_of_our_names_that_are_not_ours_is_refused() {
    for (made, words) in [
        ("CREATE TABLE _store_info(a int)", "is not OpenOrch's"),
        ("CREATE TABLE _store_info(key text, value text)", "lacks what OpenOrch writes there"),
        (
            "CREATE TABLE _store_info(key text, value text); INSERT INTO _store_info VALUES ('layout', 'x')",
            "lacks what OpenOrch writes there",
        ),
    ] {
        let Some(schema) = Schema::new() else { return };
        schema.ask(&format!("CREATE SCHEMA {}; {made}", schema.name)).await;
        let error = refused(schema.options()).await;
        assert!(matches!(&error, StoreError::Corrupt(text) if text.contains(words)), "{error:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_that_cannot_be_a_schema_is_refused_before_anybody_is_asked() {
    for name in
        ["", "a b", "A", "1a", "a\"; DROP SCHEMA public; --", "pg_x", "information_schema", "é", &"a".repeat(64)]
    {
        let options = PostgresOptions { schema: name.into(), ..PostgresOptions::new("postgres://u@127.0.0.1:1/d") };
        let error = refused(options).await;
        assert!(
            matches!(&error, StoreError::Invalid(text) if text.contains("cannot be the schema")),
            "{name}: {error:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn w188_calls_wait_for_existing_connections_if_the_server_allows_no_more() {
    let Some(server) = Server::new().await else { return };
    let (admin, task) = tokio_postgres::connect(&server.connection(), tokio_postgres::NoTls).await.unwrap();
    let task = tokio::spawn(task);
    let role = "CREATE ROLE few LOGIN CONNECTION LIMIT 4; GRANT CREATE ON DATABASE postgres TO few";
    admin.batch_execute(role).await.unwrap();
    let connection = server.connection().replace("openorch@", "few@");
    let store =
        opened(PostgresOptions { read_connections: 12, write_connections: 12, ..PostgresOptions::new(connection) })
            .await;
    // Both pools have a connection, so that neither is left without one.
    store.commit(Batch::new().create(T, "first", "{}")).await.unwrap();
    assert_eq!(store.count(T, &[]).await, Ok(1));
    let mut calls = tokio::task::JoinSet::new();
    for n in 0..60 {
        let store = store.clone();
        calls.spawn(async move {
            match n % 2 {
                0 => store.commit(Batch::new().create(T, format!("a{n}"), "{}")).await.map(|_| 0),
                _ => store.count(T, &[]).await,
            }
        });
    }
    for done in calls.join_all().await {
        assert!(done.is_ok(), "{done:?}");
    }
    assert_eq!(store.count(T, &[]).await, Ok(31));
    store.close().await;
    task.abort();
}
