//! The PostgreSQL engine, in one schema of a database. Connection pools are in `pool.rs`, writes in `writer.rs`, reads
//! in `reader.rs`; `open.rs` validates and opens a schema, `schema_lock.rs` keeps other daemons out. Documents are
//! validated before anything is sent, by the same code as for SQLite.

mod backup;
mod check;
mod connection_string;
mod engine;
mod errors;
#[cfg(any(test, feature = "explain"))]
mod explain;
mod open;
mod pipeline;
#[cfg(test)]
mod plan_tests;
mod pool;
mod reader;
mod restore;
mod schema;
mod schema_check;
mod schema_lock;
mod snapshot;
mod statements;
mod tls;
mod writer;

use std::{
    fmt,
    future::{Future, poll_fn},
    path::Path,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime},
};

use tokio::{
    runtime::Handle,
    sync::{OwnedRwLockReadGuard, RwLock, oneshot, watch},
    task::AbortHandle,
};

pub use self::engine::PostgresEngine;
#[cfg(any(test, feature = "explain"))]
pub use self::explain::PostgresExplainer;
use self::{
    connection_string::ConnectOptions,
    open::OpenedSchema,
    pool::{PoolSettings, Pools, closed_error},
    reader::{Get, Limits, Reader, Ready, ServerTime},
    schema_lock::LockKeeper,
    statements::Statements,
    writer::Writer,
};
use crate::{
    ArchiveWriter, Batch, BoxFuture, Collection, Committed, Filter, Notes, Page, Progress, Query, Result, Row,
    RowStream, Store, StoreError,
    sql::{self, Dialect},
};

/// Options for opening a schema; the daemon uses the defaults. The `Debug` output omits the connection string, which
/// may contain a password.
#[derive(Clone)]
pub struct PostgresOptions {
    /// The connection string, for example `postgres://user:password@host:5432/database?sslmode=verify-full`, or the
    /// same as `host=… user=…`. TLS is configured by `sslmode`: `disable`, `prefer` (the default), `require`,
    /// `verify-ca` or `verify-full`, with the certificate authorities of the file `sslrootcert`, or else of the system.
    pub connection: String,
    /// The schema of all our tables; created if it is missing.
    pub schema: String,
    /// The maximum number of connections for writing, created on demand.
    pub write_connections: usize,
    /// The maximum number of connections for reading. Streams use at most half of them.
    pub read_connections: usize,
    /// The expected database id, if known: a database that is missing, empty or a different one is then refused.
    pub database_id: Option<String>,
    /// The maximum size of a document in bytes.
    pub document_limit: usize,
    /// The timeout of a read, and of the wait for a connection to read with.
    pub read_timeout: Duration,
    /// The timeout of a whole stream.
    pub stream_timeout: Duration,
    /// The timeout for the caller to take the next chunk of a stream.
    pub chunk_timeout: Duration,
    /// The timeout of a batch; after it, the outcome is unknown.
    pub write_limit: Duration,
    /// How long a start waits for an unreachable database.
    pub connect_patience: Duration,
}

impl PostgresOptions {
    /// The defaults, with this connection string.
    pub fn new(connection: impl Into<String>) -> Self {
        Self {
            connection: connection.into(),
            schema: "openorch".into(),
            // More than there are cores: the server syncs concurrent commits to disk together.
            write_connections: 16,
            read_connections: 8,
            database_id: None,
            document_limit: 4 * 1024 * 1024,
            read_timeout: Duration::from_secs(30),
            stream_timeout: Duration::from_secs(600),
            chunk_timeout: Duration::from_secs(30),
            write_limit: Duration::from_secs(120),
            connect_patience: Duration::from_secs(30),
        }
    }
}

impl PostgresOptions {
    /// The hosts and ports, as `host:port`; empty for a local socket. `Invalid` if the connection string cannot be
    /// parsed.
    pub fn hosts(&self) -> Result<Vec<String>> {
        Ok(ConnectOptions::parse(&self.connection)?.hosts())
    }
}

impl fmt::Debug for PostgresOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresOptions")
            .field("schema", &self.schema)
            .field("write_connections", &self.write_connections)
            .field("read_connections", &self.read_connections)
            .field("database_id", &self.database_id)
            .field("document_limit", &self.document_limit)
            .field("read_timeout", &self.read_timeout)
            .field("stream_timeout", &self.stream_timeout)
            .field("chunk_timeout", &self.chunk_timeout)
            .field("write_timeout", &self.write_limit)
            .field("connect_timeout", &self.connect_patience)
            .finish_non_exhaustive()
    }
}

/// A store in a schema of a PostgreSQL database. Its connections run on the runtime it was opened on, which must
/// outlive it.
pub struct PostgresStore(Arc<Inner>);

type OpenCollection = sql::OpenCollection<Statements>;
type Collections = sql::Collections<Statements>;
type PreparedWrite = sql::PreparedWrite<Statements>;
type DocRef = sql::DocRef<Statements>;
type PreparedDocument = sql::PreparedDocument<Statements>;
type MatchingDocs = sql::MatchingDocs<Statements>;

struct Inner {
    runtime: Handle,
    collections: Collections,
    pools: Pools,
    reader: Reader,
    writer: Writer,
    lock_keeper: LockKeeper,
    database_id: String,
    /// For backups, which use a connection of their own.
    options: PostgresOptions,
    seeded: AtomicBool,
    /// The result of the running readiness check, shared by concurrent callers.
    readiness: Mutex<Option<watch::Receiver<Option<Result<()>>>>>,
    /// Read-locked by every operation; closing takes the write lock to wait for all of them.
    gate: Arc<RwLock<()>>,
    closed: watch::Sender<bool>,
    idle_reaper: AbortHandle,
}

impl PostgresStore {
    /// Connects, locks the schema, and creates it or recognizes it as ours. Waits for an unreachable database.
    ///
    /// Errors, each naming the database and the remedy, and with nothing changed: an invalid connection string or
    /// schema name (`Invalid`); a database that is unreachable, refuses the user, is not suitable, or is of a newer
    /// version (`Unavailable`); a schema that another daemon holds (`InUse`); one that is not OpenOrch's, or not the
    /// expected one (`Corrupt`).
    pub async fn open(options: PostgresOptions) -> Result<Arc<dyn Store>> {
        open::check_schema(&options.schema)?;
        let target = Arc::new(ConnectOptions::parse(&options.connection)?);
        let wanted = options.database_id.as_deref();
        let opened = open::open(&target, &options.schema, options.connect_patience, wanted).await?;
        let OpenedSchema { keeper, database_id, seeded } = opened;
        let sizes = PoolSettings {
            reads: options.read_connections,
            writes: options.write_connections,
            read_timeout: options.read_timeout,
            write_timeout: options.write_limit,
        };
        let sessions = Pools::new(&target, &options.schema, &sizes, keeper.lock())?;
        let limits =
            Limits { read: options.read_timeout, stream: options.stream_timeout, chunk: options.chunk_timeout };
        Ok(Arc::new(Self(Arc::new(Inner {
            runtime: Handle::current(),
            collections: Collections::new(Dialect::Postgres, options.document_limit),
            reader: Reader::new(sessions.reads.clone(), options.read_connections, limits),
            writer: Writer::new(sessions.writes.clone(), keeper.lock().clone(), &options),
            idle_reaper: tokio::spawn(sessions.clone().reap_idle()).abort_handle(),
            pools: sessions,
            lock_keeper: keeper,
            database_id,
            seeded: AtomicBool::new(seeded),
            options,
            readiness: Mutex::default(),
            gate: Arc::default(),
            closed: watch::Sender::new(false),
        }))))
    }

    /// Runs a read in the caller's task, on any executor, with our runtime entered: the connections belong to it.
    fn on_runtime<'a, T>(&self, work: impl Future<Output = Result<T>> + Send + 'a) -> BoxFuture<'a, Result<T>> {
        let runtime = self.0.runtime.clone();
        let mut work = Box::pin(work);
        Box::pin(poll_fn(move |context| {
            let _entered = runtime.enter();
            work.as_mut().poll(context)
        }))
    }

    /// Runs a write to completion as a task: if the caller stops waiting, nothing is left half done.
    fn run_to_completion<'a, T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T>> + Send + 'static,
    ) -> BoxFuture<'a, Result<T>> {
        let task = self.0.runtime.spawn(work);
        Box::pin(async move {
            task.await.unwrap_or_else(|_| Err(StoreError::Unavailable("writing ended without an answer".into())))
        })
    }
}

impl Store for PostgresStore {
    fn open_collections<'a>(&'a self, collections: &'a [Collection]) -> BoxFuture<'a, Result<()>> {
        let (inner, opened) = (self.0.clone(), Collections::validate(collections));
        self.run_to_completion(async move {
            let opened = opened?;
            let _open = inner.enter().await?;
            inner.writer.migrate(&opened).await?;
            inner.collections.add(opened);
            Ok(())
        })
    }

    fn get<'a>(&'a self, collection: &'a str, id: &'a str) -> BoxFuture<'a, Result<Option<Row>>> {
        self.on_runtime(async move {
            let _open = self.0.enter().await?;
            let known = self.0.collections.get(collection)?;
            self.0.reader.read(Get { known, id: id.to_owned() }, &format!("reading {collection}")).await
        })
    }

    fn find<'a>(&'a self, collection: &'a str, query: &'a Query) -> BoxFuture<'a, Result<Page>> {
        self.on_runtime(async move {
            let _open = self.0.enter().await?;
            let plan = self.0.collections.plan(collection, query)?;
            self.0.reader.read(plan, &format!("reading {collection}")).await
        })
    }

    fn stream<'a>(&'a self, collection: &'a str, query: &'a Query) -> BoxFuture<'a, Result<RowStream>> {
        self.on_runtime(async move {
            let open = self.0.enter().await?;
            let plan = self.0.collections.plan(collection, query)?;
            let mut closed = self.0.closed.subscribe();
            self.0
                .reader
                .stream(plan, async move {
                    // Closing waits for the gate, so the stream must end when the store is closed.
                    let _open = open;
                    let _ = closed.wait_for(|closed| *closed).await;
                })
                .await
        })
    }

    fn count<'a>(&'a self, collection: &'a str, filters: &'a [Filter]) -> BoxFuture<'a, Result<u64>> {
        self.on_runtime(async move {
            let _open = self.0.enter().await?;
            let plan = self.0.collections.count(collection, filters, u64::MAX)?;
            self.0.reader.read(plan, &format!("counting in {collection}")).await
        })
    }

    fn commit(&self, batch: Batch) -> BoxFuture<'_, Result<Committed>> {
        let inner = self.0.clone();
        self.run_to_completion(async move {
            let _open = inner.enter().await?;
            let steps =
                batch.0.into_iter().map(|write| inner.collections.prepare(write)).collect::<Result<Vec<_>>>()?;
            if steps.is_empty() {
                return Ok(Committed::default());
            }
            inner.writer.commit(&steps).await
        })
    }

    fn back_up<'a>(&'a self, file: &'a Path, notes: &'a Notes) -> BoxFuture<'a, Result<u64>> {
        let (inner, file, notes) = (self.0.clone(), file.to_owned(), notes.clone());
        let runtime = self.0.runtime.clone();
        // Writing and verifying the file blocks.
        let (mut reply, answer) = oneshot::channel();
        self.0.runtime.spawn_blocking(move || {
            let outcome = runtime.block_on(async {
                let _open = inner.enter().await?;
                let mut is_closed = inner.closed.subscribe();
                let mut silent = |_: Progress<'_>| {};
                let copying = async {
                    let mut archive = ArchiveWriter::create(&file)?;
                    backup::backup(&inner.options, &mut archive, &mut silent).await?;
                    archive.finish(&notes)
                };
                tokio::select! {
                    outcome = copying => outcome,
                    _ = is_closed.wait_for(|closed| *closed) => Err(closed_error()),
                    () = reply.closed() => Err(closed_error()),
                }
            });
            // The caller may have stopped waiting.
            let _ = reply.send(outcome);
        });
        Box::pin(async move { answer.await.unwrap_or_else(|_| Err(closed_error())) })
    }

    fn mark_seeded(&self) -> BoxFuture<'_, Result<()>> {
        let inner = self.0.clone();
        self.run_to_completion(async move {
            let _open = inner.enter().await?;
            inner.writer.mark_seeded().await?;
            inner.seeded.store(true, Ordering::Release);
            Ok(())
        })
    }

    fn is_seeded(&self) -> bool {
        self.0.seeded.load(Ordering::Acquire)
    }

    fn database_id(&self) -> &str {
        &self.0.database_id
    }

    fn ready(&self) -> BoxFuture<'_, Result<()>> {
        let mut answer = self.0.shared_readiness();
        Box::pin(async move {
            match answer.wait_for(Option::is_some).await {
                Ok(answer) => answer.clone().unwrap_or(Ok(())),
                Err(_) => Err(closed_error()),
            }
        })
    }

    fn server_time(&self) -> BoxFuture<'_, Result<Option<SystemTime>>> {
        self.on_runtime(async move {
            let _open = self.0.enter().await?;
            self.0.reader.read(ServerTime, "asking for the time").await.map(Some)
        })
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        let inner = self.0.clone();
        let task = self.0.runtime.spawn(async move { inner.close().await });
        Box::pin(async move { drop(task.await) })
    }
}

impl Drop for PostgresStore {
    /// Does not wait, because running operations are on a runtime that this may be called from. The server releases the
    /// schema lock a moment later.
    fn drop(&mut self) {
        self.0.closed.send_replace(true);
        self.0.pools.close();
        self.0.idle_reaper.abort();
    }
}

impl Inner {
    /// Concurrent callers share one check: the endpoint is public, and health checks call it constantly.
    fn shared_readiness(self: &Arc<Self>) -> watch::Receiver<Option<Result<()>>> {
        let mut readiness = self.readiness.lock().unwrap_or_else(PoisonError::into_inner);
        // The sender is dropped once it has sent the result.
        if let Some(asked) = readiness.as_ref().filter(|asked| asked.has_changed().is_ok()) {
            return asked.clone();
        }
        let (tell, answer) = watch::channel(None);
        let inner = self.clone();
        self.runtime.spawn(async move { tell.send_replace(Some(inner.is_ready().await)) });
        *readiness = Some(answer.clone());
        answer
    }

    async fn is_ready(&self) -> Result<()> {
        let _open = self.enter().await?;
        self.lock_keeper.lock().check()?;
        self.reader.read(Ready, "reading").await
    }

    /// Registers a running operation, until the guard is dropped.
    async fn enter(&self) -> Result<OwnedRwLockReadGuard<()>> {
        let open = self.gate.clone().read_owned().await;
        if *self.closed.borrow() { Err(closed_error()) } else { Ok(open) }
    }

    async fn close(&self) {
        self.closed.send_replace(true);
        let _all = self.gate.write().await;
        self.pools.close();
        self.idle_reaper.abort();
        self.lock_keeper.release().await;
    }
}
