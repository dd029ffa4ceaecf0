//! The PostgreSQL engine, in one schema of a database. Connection pools are in `pool.rs`, writes in `writer.rs`, reads
//! in `reader.rs`; `open.rs` validates and opens a schema, `schema_lock.rs` keeps other daemons out. Documents are
//! validated before anything is sent, by the same code as for SQLite.

mod backup;
mod check;
mod engine;
mod errors;
#[cfg(any(test, feature = "explain"))]
mod explain;
mod flight;
mod hold;
#[cfg(test)]
mod plan_tests;
mod reader;
mod restore;
mod schema;
mod sessions;
mod shape;
mod start;
mod statements;
mod target;
mod tls;
mod visit;
mod writer;

use std::fmt;
use std::future::{Future, poll_fn};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::runtime::Handle;
use tokio::sync::{OwnedRwLockReadGuard, RwLock, oneshot, watch};
use tokio::task::AbortHandle;

pub use self::engine::PostgresEngine;
#[cfg(any(test, feature = "explain"))]
pub use self::explain::OnPostgres;

use self::hold::Keeper;
use self::reader::{Get, Limits, Reader, Ready, ServerTime};
use self::sessions::{Sessions, Sizes, closed};
use self::start::Opened;
use self::statements::Statements;
use self::target::Target;
use self::writer::Writer;
use crate::sql::{self, Dialect};
use crate::{
    ArchiveWriter, Batch, BoxFuture, Collection, Committed, Filter, Notes, Page, Progress, Query, Result, Row, Rows,
    Store, StoreError,
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
    pub read_limit: Duration,
    /// The timeout of a whole stream.
    pub stream_limit: Duration,
    /// The timeout for the caller to take the next chunk of a stream.
    pub piece_limit: Duration,
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
            read_limit: Duration::from_secs(30),
            stream_limit: Duration::from_secs(600),
            piece_limit: Duration::from_secs(30),
            write_limit: Duration::from_secs(120),
            connect_patience: Duration::from_secs(30),
        }
    }
}

impl PostgresOptions {
    /// The hosts and ports, as `host:port`; empty for a local socket. `Invalid` if the connection string cannot be
    /// parsed.
    pub fn hosts(&self) -> Result<Vec<String>> {
        Ok(Target::parse(&self.connection)?.hosts())
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
            .field("read_timeout", &self.read_limit)
            .field("stream_timeout", &self.stream_limit)
            .field("chunk_timeout", &self.piece_limit)
            .field("write_timeout", &self.write_limit)
            .field("connect_timeout", &self.connect_patience)
            .finish_non_exhaustive()
    }
}

/// A store in a schema of a PostgreSQL database. Its connections run on the runtime it was opened on, which must
/// outlive it.
pub struct PostgresStore(Arc<Inner>);

type Known = sql::Known<Statements>;
type Collections = sql::Collections<Statements>;
type Step = sql::Step<Statements>;
type Place = sql::Place<Statements>;
type Document = sql::Document<Statements>;
type Matches = sql::Matches<Statements>;

struct Inner {
    runtime: Handle,
    collections: Collections,
    sessions: Sessions,
    reader: Reader,
    writer: Writer,
    keeper: Keeper,
    database_id: String,
    /// For backups, which use a connection of their own.
    options: PostgresOptions,
    seeded: AtomicBool,
    /// The result of the running readiness check, shared by concurrent callers.
    readiness: Mutex<Option<watch::Receiver<Option<Result<()>>>>>,
    /// Read-locked by every operation; closing takes the write lock to wait for all of them.
    gate: Arc<RwLock<()>>,
    closed: watch::Sender<bool>,
    tidying: AbortHandle,
}

impl PostgresStore {
    /// Connects, locks the schema, and creates it or recognizes it as ours. Waits for an unreachable database.
    ///
    /// Errors, each naming the database and the remedy, and with nothing changed: an invalid connection string or
    /// schema name (`Invalid`); a database that is unreachable, refuses the user, is not suitable, or is of a newer
    /// version (`Unavailable`); a schema that another daemon holds (`InUse`); one that is not OpenOrch's, or not the
    /// expected one (`Corrupt`).
    pub async fn open(options: PostgresOptions) -> Result<Arc<dyn Store>> {
        start::check_schema(&options.schema)?;
        let target = Arc::new(Target::parse(&options.connection)?);
        let wanted = options.database_id.as_deref();
        let opened = start::open(&target, &options.schema, options.connect_patience, wanted).await?;
        let Opened { keeper, database_id, seeded } = opened;
        let sizes = Sizes {
            reads: options.read_connections,
            writes: options.write_connections,
            read_limit: options.read_limit,
            write_limit: options.write_limit,
        };
        let sessions = Sessions::new(&target, &options.schema, &sizes, keeper.holding())?;
        let limits = Limits { read: options.read_limit, stream: options.stream_limit, piece: options.piece_limit };
        Ok(Arc::new(Self(Arc::new(Inner {
            runtime: Handle::current(),
            collections: Collections::new(Dialect::Postgres, options.document_limit),
            reader: Reader::new(sessions.reads.clone(), options.read_connections, limits),
            writer: Writer::new(sessions.writes.clone(), keeper.holding().clone(), &options),
            tidying: tokio::spawn(sessions.clone().tidy()).abort_handle(),
            sessions,
            keeper,
            database_id,
            seeded: AtomicBool::new(seeded),
            options,
            readiness: Mutex::default(),
            gate: Arc::default(),
            closed: watch::Sender::new(false),
        }))))
    }

    /// Runs a read in the caller's task, on any executor, with our runtime entered: the connections belong to it.
    fn here<'a, T>(&self, work: impl Future<Output = Result<T>> + Send + 'a) -> BoxFuture<'a, Result<T>> {
        let runtime = self.0.runtime.clone();
        let mut work = Box::pin(work);
        Box::pin(poll_fn(move |context| {
            let _entered = runtime.enter();
            work.as_mut().poll(context)
        }))
    }

    /// Runs a write to completion as a task: if the caller stops waiting, nothing is left half done.
    fn to_the_end<'a, T: Send + 'static>(
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
        let (inner, opened) = (self.0.clone(), Collections::check(collections));
        self.to_the_end(async move {
            let opened = opened?;
            let _open = inner.enter().await?;
            inner.writer.bring_up(&opened).await?;
            inner.collections.add(opened);
            Ok(())
        })
    }

    fn get<'a>(&'a self, collection: &'a str, id: &'a str) -> BoxFuture<'a, Result<Option<Row>>> {
        self.here(async move {
            let _open = self.0.enter().await?;
            let known = self.0.collections.get(collection)?;
            self.0.reader.ask(Get { known, id: id.to_owned() }, &format!("reading {collection}")).await
        })
    }

    fn find<'a>(&'a self, collection: &'a str, query: &'a Query) -> BoxFuture<'a, Result<Page>> {
        self.here(async move {
            let _open = self.0.enter().await?;
            let plan = self.0.collections.plan(collection, query)?;
            self.0.reader.ask(plan, &format!("reading {collection}")).await
        })
    }

    fn stream<'a>(&'a self, collection: &'a str, query: &'a Query) -> BoxFuture<'a, Result<Rows>> {
        self.here(async move {
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
        self.here(async move {
            let _open = self.0.enter().await?;
            let plan = self.0.collections.count(collection, filters, u64::MAX)?;
            self.0.reader.ask(plan, &format!("counting in {collection}")).await
        })
    }

    fn commit(&self, batch: Batch) -> BoxFuture<'_, Result<Committed>> {
        let inner = self.0.clone();
        self.to_the_end(async move {
            let _open = inner.enter().await?;
            let steps = batch.0.into_iter().map(|write| inner.collections.step(write)).collect::<Result<Vec<_>>>()?;
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
                    _ = is_closed.wait_for(|closed| *closed) => Err(closed()),
                    () = reply.closed() => Err(closed()),
                }
            });
            // The caller may have stopped waiting.
            let _ = reply.send(outcome);
        });
        Box::pin(async move { answer.await.unwrap_or_else(|_| Err(closed())) })
    }

    fn mark_seeded(&self) -> BoxFuture<'_, Result<()>> {
        let inner = self.0.clone();
        self.to_the_end(async move {
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
        let mut answer = self.0.ask_whether_ready();
        Box::pin(async move {
            match answer.wait_for(Option::is_some).await {
                Ok(answer) => answer.clone().unwrap_or(Ok(())),
                Err(_) => Err(closed()),
            }
        })
    }

    fn server_time(&self) -> BoxFuture<'_, Result<Option<SystemTime>>> {
        self.here(async move {
            let _open = self.0.enter().await?;
            self.0.reader.ask(ServerTime, "asking for the time").await.map(Some)
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
        self.0.sessions.close();
        self.0.tidying.abort();
    }
}

impl Inner {
    /// Concurrent callers share one check: the endpoint is public, and health checks call it constantly.
    fn ask_whether_ready(self: &Arc<Self>) -> watch::Receiver<Option<Result<()>>> {
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
        self.keeper.holding().check()?;
        self.reader.ask(Ready, "reading").await
    }

    /// Registers a running operation, until the guard is dropped.
    async fn enter(&self) -> Result<OwnedRwLockReadGuard<()>> {
        let open = self.gate.clone().read_owned().await;
        if *self.closed.borrow() { Err(closed()) } else { Ok(open) }
    }

    async fn close(&self) {
        self.closed.send_replace(true);
        let _all = self.gate.write().await;
        self.sessions.close();
        self.tidying.abort();
        self.keeper.let_go().await;
    }
}
