//! The engines under test, and the macro that instantiates a case for each of them.

use std::{
    io::Write,
    sync::{
        Arc, Once,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use openorch_store::{PostgresOptions, PostgresStore, Result, SqliteOptions, SqliteStore, Store};

use crate::{PLAIN, THINGS, oracle::MemStore};

/// Creates a test of each function for each engine. The functions take a [`Bench`].
macro_rules! cases {
    ($($name:ident),* $(,)?) => {
        mod memory { $(case!($name, Memory);)* }
        mod sqlite { $(case!($name, Sqlite);)* }
        mod postgres { $(case!($name, Postgres);)* }
    };
}

/// The same for features that the oracle lacks: limits of indexes, timeouts, a disk. In a module of its own, since a
/// file may have cases of both kinds.
macro_rules! cases_of_engines {
    ($($name:ident),* $(,)?) => {
        mod engines {
            use super::{$($name),*};
            mod sqlite { $(case!($name, Sqlite);)* }
            mod postgres { $(case!($name, Postgres);)* }
        }
    };
}

macro_rules! case {
    ($name:ident, $engine:ident) => {
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $name() {
            if let Some(bench) = crate::Bench::new(crate::Engine::$engine).await {
                super::$name(bench).await;
            }
        }
    };
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Engine {
    Memory,
    Sqlite,
    Postgres,
}

/// A store with the collections of the tests, and the resources to clean up.
pub struct Bench {
    pub store: Arc<dyn Store>,
    pub engine: Engine,
    place: Backing,
}

pub enum Backing {
    Memory,
    Folder(tempfile::TempDir),
    Schema(Schema),
}

/// Options of a case that differ from the default.
#[derive(Clone, Debug, Default)]
pub struct TestOptions {
    pub document_limit: Option<usize>,
    pub read_limit: Option<Duration>,
    pub stream_limit: Option<Duration>,
    pub piece_limit: Option<Duration>,
}

impl Bench {
    /// `None` if there is no PostgreSQL to test with, which is reported.
    pub async fn new(engine: Engine) -> Option<Self> {
        let bench = Self::empty(engine, &TestOptions::default()).await?;
        bench.store.open_collections(&[THINGS, PLAIN]).await.unwrap();
        Some(bench)
    }

    pub async fn with_options(engine: Engine, wishes: TestOptions) -> Option<Self> {
        let bench = Self::empty(engine, &wishes).await?;
        bench.store.open_collections(&[THINGS, PLAIN]).await.unwrap();
        Some(bench)
    }

    /// A store without collections.
    pub async fn empty(engine: Engine, wishes: &TestOptions) -> Option<Self> {
        let place = match engine {
            Engine::Memory => Backing::Memory,
            Engine::Sqlite => Backing::Folder(tempfile::tempdir().unwrap()),
            Engine::Postgres => Backing::Schema(Schema::new()?),
        };
        let store = place.open(wishes).await.unwrap();
        Some(Self { store, engine, place })
    }

    /// Closes the store and opens it again, with the collections of the tests.
    pub async fn reopen(&mut self) {
        if self.engine != Engine::Memory {
            self.store.close().await;
            self.store = self.place.open(&TestOptions::default()).await.unwrap();
            self.store.open_collections(&[THINGS, PLAIN]).await.unwrap();
        }
    }
}

impl Backing {
    pub async fn open(&self, wishes: &TestOptions) -> Result<Arc<dyn Store>> {
        match self {
            Self::Memory => Ok(MemStore::open()),
            Self::Folder(folder) => {
                let mut options = SqliteOptions::default();
                options.document_limit = wishes.document_limit.unwrap_or(options.document_limit);
                options.read_timeout = wishes.read_limit.unwrap_or(options.read_timeout);
                options.stream_timeout = wishes.stream_limit.unwrap_or(options.stream_timeout);
                options.chunk_timeout = wishes.piece_limit.unwrap_or(options.chunk_timeout);
                SqliteStore::open(folder.path().join("server"), options)
            }
            Self::Schema(schema) => {
                let mut options = schema.options();
                options.document_limit = wishes.document_limit.unwrap_or(options.document_limit);
                options.read_timeout = wishes.read_limit.unwrap_or(options.read_timeout);
                options.stream_timeout = wishes.stream_limit.unwrap_or(options.stream_timeout);
                options.chunk_timeout = wishes.piece_limit.unwrap_or(options.chunk_timeout);
                PostgresStore::open(options).await
            }
        }
    }
}

/// A schema with a unique name; dropped at the end, with its content.
pub struct Schema {
    pub connection: String,
    pub name: String,
}

impl Schema {
    /// `None` if there is no PostgreSQL to test with, which is reported.
    pub fn new() -> Option<Self> {
        Some(Self::in_database(database()?))
    }

    pub fn in_database(connection: String) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        Self { connection, name: format!("test_{}_{count}", std::process::id()) }
    }

    pub fn options(&self) -> PostgresOptions {
        PostgresOptions { schema: self.name.clone(), ..PostgresOptions::new(&*self.connection) }
    }

    /// The rows of a statement, as text.
    pub async fn ask(&self, sql: &str) -> Vec<Vec<String>> {
        ask(&self.connection, &format!("SET search_path = {}; {sql}", self.name)).await
    }
}

impl Drop for Schema {
    fn drop(&mut self) {
        let (connection, name) = (self.connection.clone(), self.name.clone());
        let dropping = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                // A test may have stopped the server.
                if let Ok((client, task)) = tokio_postgres::connect(&connection, tokio_postgres::NoTls).await {
                    let task = tokio::spawn(task);
                    let _ = client
                        .batch_execute(&format!("SET lock_timeout = '10s'; DROP SCHEMA IF EXISTS {name} CASCADE"))
                        .await;
                    task.abort();
                }
            });
        });
        let _ = dropping.join();
    }
}

/// The rows of statements, as text, on a connection of its own.
pub async fn ask(connection: &str, sql: &str) -> Vec<Vec<String>> {
    let (client, task) = tokio_postgres::connect(connection, tokio_postgres::NoTls).await.unwrap();
    let task = tokio::spawn(task);
    let messages = client.simple_query(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    task.abort();
    let rows = messages.into_iter().filter_map(|message| match message {
        tokio_postgres::SimpleQueryMessage::Row(row) => {
            Some((0..row.len()).map(|at| row.get(at).unwrap_or_default().to_owned()).collect())
        }
        _ => None,
    });
    rows.collect()
}

/// The connection string of the PostgreSQL to test with.
pub fn database() -> Option<String> {
    let connection = std::env::var("OPENORCH_TEST_DB_STRING").ok();
    if connection.is_none() {
        skip("the tests of PostgreSQL", "OPENORCH_TEST_DB_STRING is not set; run `tools/postgres cargo test`");
    }
    connection
}

/// Reports what is not tested, bypassing the capture of the test's output; panics if nothing may be skipped.
pub fn skip(what: &str, why: &str) {
    if std::env::var_os("REQUIRE_POSTGRES").is_some_and(|value| value != "0") {
        panic!("{what} cannot run: {why}");
    }
    static SAID: Once = Once::new();
    SAID.call_once(|| {
        let _ = writeln!(std::io::stderr(), "SKIPPED: {what}: {why}");
    });
}
