//! The engine for a database server: one schema of a PostgreSQL database. Connections are in `sessions.rs`, writes in
//! `writer.rs`, reads in `reader.rs`; `start.rs` decides whether a database will do, `hold.rs` keeps other daemons off.
//! What a document may be is checked before anything is sent, by the same code as for the other engine.

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

/// What can be set when a schema is opened; the defaults are what the daemon runs with. Its text never shows the
/// connection string, which may hold a password.
#[derive(Clone)]
pub struct PostgresOptions {
    /// Where the database is, for example `postgres://user:password@host:5432/database?sslmode=verify-full`, or the
    /// same as `host=… user=…`. TLS is as `sslmode` says: `disable`, `prefer` (if nothing is said), `require`,
    /// `verify-ca` or `verify-full`, by the authorities in the file `sslrootcert`, or else those of the system.
    pub connection: String,
    /// The schema that everything of ours is in; made where there is none.
    pub schema: String,
    /// At most so many connections that write; they are made when needed.
    pub write_connections: usize,
    /// At most so many that read. Answers that are given away piece by piece take at most half of them.
    pub read_connections: usize,
    /// The id that the database must have, where it is known: then one that is missing, empty or another is refused.
    pub database_id: Option<String>,
    /// The largest document in bytes.
    pub document_limit: usize,
    /// The longest that answering may take, and the longest that a read waits for a connection.
    pub read_limit: Duration,
    /// The longest that an answer may take that is given away piece by piece.
    pub stream_limit: Duration,
    /// The longest that the next piece of such an answer may wait to be taken.
    pub piece_limit: Duration,
    /// The longest that a batch may take; beyond, it is not known whether it was written.
    pub write_limit: Duration,
    /// How long a start waits for a database that is away.
    pub connect_patience: Duration,
}

impl PostgresOptions {
    /// The defaults, for this connection string.
    pub fn new(connection: impl Into<String>) -> Self {
        Self {
            connection: connection.into(),
            schema: "openorch".into(),
            // More than there are cores: the server writes the commits that come together to disk together.
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
    /// The hosts and ports it leads to, as `host:port`; none where it is a socket of this machine. `Invalid` where the
    /// connection string cannot be read.
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
            .field("read_limit", &self.read_limit)
            .field("stream_limit", &self.stream_limit)
            .field("piece_limit", &self.piece_limit)
            .field("write_limit", &self.write_limit)
            .field("connect_patience", &self.connect_patience)
            .finish_non_exhaustive()
    }
}

/// A store in a schema of a PostgreSQL database. Connections are served on the runtime it was opened on, which must
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
    /// A copy is made by a connection of its own.
    options: PostgresOptions,
    seeded: AtomicBool,
    /// The answer to come to whether the store is ready.
    readiness: Mutex<Option<watch::Receiver<Option<Result<()>>>>>,
    /// Read-locked by everything that is under way; closing waits for all of it.
    gate: Arc<RwLock<()>>,
    closed: watch::Sender<bool>,
    tidying: AbortHandle,
}

impl PostgresStore {
    /// Connects, takes hold of the schema, and makes it or recognises it. A database that is away is waited for.
    ///
    /// Refused, each with a sentence that names the place and the way out, and with nothing changed: a connection string
    /// or a schema name that cannot be (`Invalid`); a database that is away, that refuses the user, or that cannot keep
    /// what is stored here, or was written by a newer version (`Unavailable`); a schema that another daemon holds
    /// (`InUse`); one that is not OpenOrch's, or not the one that was asked for (`Corrupt`).
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

    /// Runs something that reads, where it is asked for, wherever that is: the connections belong to our own runtime.
    fn here<'a, T>(&self, work: impl Future<Output = Result<T>> + Send + 'a) -> BoxFuture<'a, Result<T>> {
        let runtime = self.0.runtime.clone();
        let mut work = Box::pin(work);
        Box::pin(poll_fn(move |context| {
            let _entered = runtime.enter();
            work.as_mut().poll(context)
        }))
    }

    /// Runs something that writes, to its end: whoever asked may stop waiting, but nothing is left in its middle.
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
                    // Closing waits for the gate, and the gate for this.
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
        // Writing and checking the file blocks.
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
            // Whoever asked may have left.
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
    /// Without waiting, since what is under way runs on a runtime that this may be called on. The server lets go of the
    /// schema a moment later.
    fn drop(&mut self) {
        self.0.closed.send_replace(true);
        self.0.sessions.close();
        self.0.tidying.abort();
    }
}

impl Inner {
    /// One question for all who ask at once: anybody may, and health checks do all the time.
    fn ask_whether_ready(self: &Arc<Self>) -> watch::Receiver<Option<Result<()>>> {
        let mut readiness = self.readiness.lock().unwrap_or_else(PoisonError::into_inner);
        // The sender is gone once it has told the answer.
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

    /// Says that something is under way, for as long as what it gives is kept.
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
