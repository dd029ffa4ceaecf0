//! The embedded engine: a data directory with one SQLite database, for a single daemon. One thread writes
//! (`writer.rs`), a few read (`reader.rs`); documents are validated in the caller's task.

mod backup;
mod check;
pub(crate) mod clean_shutdown;
mod data_dir;
mod disk;
mod durability;
mod engine;
mod errors;
mod exec_query;
mod exec_write;
#[cfg(any(test, feature = "explain"))]
mod explain;
mod open_files;
mod reader;
mod restore;
mod schema;
pub(crate) mod schema_check;
mod writer;

use std::{
    path::Path,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, SystemTime},
};

use rusqlite::OptionalExtension;
use tokio::sync::{mpsc, oneshot};

#[cfg(any(test, feature = "explain"))]
pub use self::explain::explain_on_sqlite;
pub use self::{
    clean_shutdown::{LastWrite, accept_missing_writes},
    engine::SqliteEngine,
};
use self::{
    data_dir::{DataDir, create_data_dir},
    disk::Reserve,
    reader::{Limits, ReaderPool, closed_error},
    schema::Statements,
    writer::{Job, Reply, Writer},
};
pub(crate) use self::{
    data_dir::{
        DatabaseInfo, make_own_tables, open_private, open_read_only, read_info, remove_database, remove_side_files,
        sync_file, sync_parent_dir, with_suffix,
    },
    errors::{from_file, from_io, from_sqlite},
    exec_query::row_of,
    schema_check::harden_for_file,
};
use crate::{
    ArchiveWriter, Batch, BoxFuture, Collection, Committed, Filter, Notes, Page, Query, Result, Row, RowStream, Store,
    StoreError,
    sql::{self, Dialect},
};

/// The capacity of the writer's queue; further callers wait for a free slot.
const JOB_QUEUE_CAPACITY: usize = 1024;

/// Options for opening a data directory; the daemon uses the defaults.
#[derive(Debug, Clone)]
pub struct SqliteOptions {
    /// The maximum size of a document in bytes.
    pub document_limit: usize,
    /// The maximum number of concurrent reads; threads and connections are created on demand.
    pub readers: usize,
    /// The maximum size of the database in pages of 4 KiB; beyond it, writes fail as on a full disk.
    pub page_limit: Option<u32>,
    /// Whether the directory may be on a network file system (NFS, SMB, 9p), where the lock does not keep daemons on
    /// two machines apart.
    pub allow_network: bool,
    /// The timeout of a read.
    pub read_timeout: Duration,
    /// The timeout of a whole stream.
    pub stream_timeout: Duration,
    /// The timeout for the caller to take the next chunk of a stream.
    pub chunk_timeout: Duration,
}

impl Default for SqliteOptions {
    fn default() -> Self {
        Self {
            document_limit: 4 * 1024 * 1024,
            readers: 4,
            page_limit: None,
            allow_network: false,
            read_timeout: Duration::from_secs(30),
            stream_timeout: Duration::from_secs(600),
            chunk_timeout: Duration::from_secs(30),
        }
    }
}

/// A store in a local data directory.
pub struct SqliteStore(Arc<Inner>);

struct Inner {
    data_dir: Arc<DataDir>,
    collections: Collections,
    seeded: Arc<AtomicBool>,
    readers: ReaderPool,
    /// `None` once the store is closed; the writer ends after the queued jobs.
    jobs: Mutex<Option<mpsc::Sender<Job>>>,
    writer: Mutex<Option<JoinHandle<()>>>,
}

type OpenCollection = sql::OpenCollection<Statements>;
type Collections = sql::Collections<Statements>;

impl SqliteStore {
    /// Locks the data directory, which is created if it is missing, and opens its database, or creates one. Blocks for
    /// a few milliseconds; reads no document.
    ///
    /// Errors, each naming the path and the remedy, and with nothing changed: a directory that another process holds
    /// (`InUse`); one that is not writable or is on a network file system, or a database of a newer version
    /// (`Unavailable`); a full disk, once the reserve is used up (`StorageFull`); a file that is not a sound database
    /// of OpenOrch, and, once seeded, a database that is missing, empty or a different one (`Corrupt`).
    pub fn open(data_dir: impl AsRef<Path>, options: SqliteOptions) -> Result<Arc<dyn Store>> {
        let folder = data_dir.as_ref();
        create_data_dir(folder)?;
        disk::check_file_system(folder, options.allow_network)?;
        let reserve = Reserve::new(folder);
        let (writer, readers) = loop {
            match Self::open_files(folder, &options) {
                // A daemon that only reads and routes is still useful; writes fail until there is space.
                Err(StoreError::StorageFull(_)) if reserve.release() => {}
                opened => break opened?,
            }
        };
        let (folder, seeded) = (writer.data_dir(), writer.seeded());
        let (jobs, receiver) = mpsc::channel(JOB_QUEUE_CAPACITY);
        let thread =
            std::thread::Builder::new()
                .name("store-writer".into())
                .spawn(move || writer.run_jobs(receiver))
                .map_err(|error| StoreError::Unavailable(format!("no thread can be started for writing: {error}")))?;
        Ok(Arc::new(Self(Arc::new(Inner {
            readers,
            data_dir: folder,
            collections: Collections::new(Dialect::Sqlite, options.document_limit),
            seeded,
            jobs: Mutex::new(Some(jobs)),
            writer: Mutex::new(Some(thread)),
        }))))
    }
}

impl SqliteStore {
    fn open_files(data_dir: &Path, options: &SqliteOptions) -> Result<(Writer, ReaderPool)> {
        let folder = Arc::new(DataDir::open(data_dir)?);
        let seeded = Arc::new(AtomicBool::new(folder.seeded));
        let writer = Writer::open(folder.clone(), seeded, options.document_limit, options.page_limit)?;
        let limits =
            Limits { read: options.read_timeout, stream: options.stream_timeout, chunk: options.chunk_timeout };
        let readers = ReaderPool::open(folder, options.readers, limits)?;
        Ok((writer, readers))
    }
}

/// Yields to other tasks from time to time: reads that complete synchronously would otherwise never yield.
async fn yield_if_needed() {
    tokio::task::coop::consume_budget().await;
}

impl Store for SqliteStore {
    fn open_collections<'a>(&'a self, collections: &'a [Collection]) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            let opened = Collections::validate(collections)?;
            self.0.submit(|reply| Job::Open(opened.clone(), reply)).await?;
            self.0.collections.add(opened);
            Ok(())
        })
    }

    fn get<'a>(&'a self, collection: &'a str, id: &'a str) -> BoxFuture<'a, Result<Option<Row>>> {
        Box::pin(async move {
            let known = self.0.collections.get(collection)?;
            yield_if_needed().await;
            self.0.readers.run_inline(|connection| {
                connection
                    .prepare_cached(&known.statements.get)
                    .and_then(|mut statement| statement.query_row([id], exec_query::row_of).optional())
                    .map_err(|error| from_sqlite(error, &format!("reading {collection}")))
            })
        })
    }

    fn find<'a>(&'a self, collection: &'a str, query: &'a Query) -> BoxFuture<'a, Result<Page>> {
        Box::pin(async move {
            let plan = self.0.collections.plan(collection, query)?;
            yield_if_needed().await;
            if plan.is_fully_sql()
                && let Some(page) = self.0.readers.try_inline(|connection| exec_query::find_short(&plan, connection))?
            {
                return Ok(page);
            }
            self.0.readers.run(move |connection| exec_query::find(&plan, connection)).await
        })
    }

    fn stream<'a>(&'a self, collection: &'a str, query: &'a Query) -> BoxFuture<'a, Result<RowStream>> {
        Box::pin(async move { self.0.readers.stream(self.0.collections.plan(collection, query)?).await })
    }

    fn count<'a>(&'a self, collection: &'a str, filters: &'a [Filter]) -> BoxFuture<'a, Result<u64>> {
        Box::pin(async move {
            let plan = self.0.collections.count(collection, filters, u64::MAX)?;
            self.0.readers.run(move |connection| exec_query::count(&plan, connection)).await
        })
    }

    fn commit(&self, batch: Batch) -> BoxFuture<'_, Result<Committed>> {
        Box::pin(async move {
            let steps =
                batch.0.into_iter().map(|write| self.0.collections.prepare(write)).collect::<Result<Vec<_>>>()?;
            if steps.is_empty() {
                return Ok(Committed::default());
            }
            self.0.submit(|reply| Job::Commit(steps, reply)).await
        })
    }

    fn back_up<'a>(&'a self, file: &'a Path, notes: &'a Notes) -> BoxFuture<'a, Result<u64>> {
        let (file, notes) = (file.to_owned(), notes.clone());
        Box::pin(self.0.readers.run_copy(move |connection| {
            let archive = ArchiveWriter::create(&file)?;
            backup::copy(connection, archive.temp_path(), &mut |_| {})?;
            archive.finish(&notes)
        }))
    }

    fn mark_seeded(&self) -> BoxFuture<'_, Result<()>> {
        Box::pin(self.0.submit(Job::MarkSeeded))
    }

    fn is_seeded(&self) -> bool {
        self.0.seeded.load(Ordering::Acquire)
    }

    fn database_id(&self) -> &str {
        &self.0.data_dir.database_id
    }

    fn ready(&self) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            if self.0.sender()?.is_closed() {
                return Err(StoreError::Unavailable("the writer thread has ended".into()));
            }
            let read = |connection: &rusqlite::Connection| {
                connection
                    .prepare_cached("SELECT value FROM _store_info WHERE key = 'database_id'")
                    .and_then(|mut statement| statement.query_row([], |_| Ok(())))
                    .map_err(|error| from_sqlite(error, "reading"))
            };
            self.0.readers.run(read).await
        })
    }

    fn server_time(&self) -> BoxFuture<'_, Result<Option<SystemTime>>> {
        Box::pin(async { Ok(None) })
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            let (reply, done) = oneshot::channel::<()>();
            let inner = self.0.clone();
            // Closing joins threads, which must not block the caller's runtime.
            let closing = std::thread::Builder::new().name("store-closing".into()).spawn(move || {
                inner.close();
                drop(reply);
            });
            match closing {
                Ok(_) => drop(done.await),
                Err(_) => self.0.close(),
            }
        })
    }
}

impl Drop for SqliteStore {
    fn drop(&mut self) {
        self.0.close();
    }
}

impl Inner {
    fn sender(&self) -> Result<mpsc::Sender<Job>> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner).clone().ok_or_else(closed_error)
    }

    async fn submit<T>(&self, job: impl FnOnce(Reply<T>) -> Job) -> Result<T> {
        let (reply, answer) = oneshot::channel();
        self.sender()?.send(job(reply)).await.map_err(|_| closed_error())?;
        let ended = || StoreError::Unavailable("the writer thread ended without an answer".into());
        answer.await.unwrap_or_else(|_| Err(ended()))
    }

    /// Readers first: the writer's connection must be the last, since it checkpoints the log.
    fn close(&self) {
        self.readers.close();
        drop(self.jobs.lock().unwrap_or_else(PoisonError::into_inner).take());
        // Held while joining, so that a second caller does not return before the directory is unlocked.
        let mut writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(writer) = writer.take() {
            // A panicked writer has already dropped all replies.
            let _ = writer.join();
            self.data_dir.release();
        }
    }
}
