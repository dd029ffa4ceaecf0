//! The embedded engine: one folder with one SQLite database, for a daemon that stands alone. One thread writes
//! (`writer.rs`), a few read (`reader.rs`); what a document may be is checked here, on the caller's thread.

mod errors;
mod find;
mod folder;
mod reader;
mod schema;
mod writer;

use std::collections::HashMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::thread::JoinHandle;

use rusqlite::OptionalExtension;
use tokio::sync::{mpsc, oneshot};

use self::errors::from_sqlite;
use self::find::{CountPlan, Plan};
use self::folder::Folder;
use self::reader::{Readers, closed};
use self::schema::Spec;
use self::writer::{Document, Job, Place, Reply, Step, Writer};
use crate::{
    Batch, BoxFuture, Collection, Filter, Guard, Page, Query, Result, Row, Store, StoreError, Write, document,
};

/// So many jobs may wait for the writer; whoever comes next waits for room.
const WAITING: usize = 1024;
/// The longest id in bytes.
const ID_LIMIT: usize = 512;

/// What can be set when a folder is opened; the defaults are what the daemon runs with.
#[derive(Debug, Clone)]
pub struct SqliteOptions {
    /// The largest document in bytes.
    pub document_limit: usize,
    /// At most so many reads at a time; threads and connections are made when needed.
    pub readers: usize,
    /// The database may grow to so many pages of 4 KiB; beyond, it behaves as on a full disk.
    pub page_limit: Option<u32>,
}

impl Default for SqliteOptions {
    fn default() -> Self {
        Self { document_limit: 4 * 1024 * 1024, readers: 4, page_limit: None }
    }
}

/// A store in a folder of this machine.
pub struct SqliteStore(Arc<Inner>);

struct Inner {
    folder: Arc<Folder>,
    document_limit: usize,
    specs: RwLock<HashMap<&'static str, Arc<Spec>>>,
    seeded: Arc<AtomicBool>,
    readers: Readers,
    /// None once the store is closed; the writer ends when it has worked off what was sent.
    jobs: Mutex<Option<mpsc::Sender<Job>>>,
    writer: Mutex<Option<JoinHandle<()>>>,
}

impl SqliteStore {
    /// Takes the folder, which is made where there is none, and opens its database, or makes one. Blocks, for a few
    /// milliseconds; looks at no document.
    ///
    /// Refused, each with a sentence that names the path and the way out, and with nothing changed: a folder that
    /// another process holds (`InUse`); one that cannot be written, or a database of a newer version
    /// (`Unavailable`); a full disk (`StorageFull`); a file that is not a sound database of OpenOrch, and, once
    /// seeded, a database that is missing, empty or another (`Corrupt`).
    pub fn open(folder: impl AsRef<Path>, options: SqliteOptions) -> Result<Arc<dyn Store>> {
        let folder = Arc::new(Folder::open(folder.as_ref())?);
        let seeded = Arc::new(AtomicBool::new(folder.seeded));
        let writer = Writer::open(folder.clone(), seeded.clone(), options.page_limit)?;
        let (jobs, receiver) = mpsc::channel(WAITING);
        let thread = std::thread::Builder::new()
            .name("store-writer".into())
            .spawn(move || writer.work(receiver))
            .map_err(|error| StoreError::Unavailable(format!("no thread can be started for writing: {error}")))?;
        Ok(Arc::new(Self(Arc::new(Inner {
            readers: Readers::new(folder.clone(), options.readers),
            folder,
            document_limit: options.document_limit,
            specs: RwLock::default(),
            seeded,
            jobs: Mutex::new(Some(jobs)),
            writer: Mutex::new(Some(thread)),
        }))))
    }
}

impl Store for SqliteStore {
    fn open_collections<'a>(&'a self, collections: &'a [Collection]) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            let specs = collections.iter().map(|one| Spec::new(one).map(Arc::new)).collect::<Result<Vec<_>>>()?;
            self.0.ask(|reply| Job::Open(specs.clone(), reply)).await?;
            let mut known = self.0.specs.write().unwrap_or_else(PoisonError::into_inner);
            known.extend(specs.into_iter().map(|spec| (spec.name, spec)));
            Ok(())
        })
    }

    fn get<'a>(&'a self, collection: &'a str, id: &'a str) -> BoxFuture<'a, Result<Option<Row>>> {
        Box::pin(async move {
            let (spec, id) = (self.0.spec(collection)?, id.to_owned());
            let read = move |connection: &rusqlite::Connection, _: &dyn Fn() -> bool| {
                connection
                    .prepare_cached(&spec.get)
                    .and_then(|mut statement| statement.query_row([&id], find::row_of).optional())
                    .map_err(|error| from_sqlite(error, &format!("reading {}", spec.name)))
            };
            self.0.readers.run(read).await
        })
    }

    fn find<'a>(&'a self, collection: &'a str, query: &'a Query) -> BoxFuture<'a, Result<Page>> {
        Box::pin(async move {
            let plan = Plan::new(self.0.spec(collection)?, query)?;
            self.0.readers.run(move |connection, abandoned| plan.run(connection, abandoned)).await
        })
    }

    fn count<'a>(&'a self, collection: &'a str, filters: &'a [Filter]) -> BoxFuture<'a, Result<u64>> {
        Box::pin(async move {
            let plan = CountPlan::new(self.0.spec(collection)?, filters)?;
            self.0.readers.run(move |connection, abandoned| plan.run(connection, u64::MAX, abandoned)).await
        })
    }

    fn commit(&self, batch: Batch) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            let steps = batch.0.into_iter().map(|write| self.0.step(write)).collect::<Result<Vec<_>>>()?;
            if steps.is_empty() {
                return Ok(());
            }
            self.0.ask(|reply| Job::Commit(steps, reply)).await
        })
    }

    fn mark_seeded(&self) -> BoxFuture<'_, Result<()>> {
        Box::pin(self.0.ask(Job::MarkSeeded))
    }

    fn is_seeded(&self) -> bool {
        self.0.seeded.load(Ordering::Acquire)
    }

    fn database_id(&self) -> &str {
        &self.0.folder.database_id
    }

    fn ready(&self) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            if self.0.sender()?.is_closed() {
                return Err(StoreError::Unavailable("the writing thread has ended".into()));
            }
            let read = |connection: &rusqlite::Connection, _: &dyn Fn() -> bool| {
                connection
                    .prepare_cached("SELECT value FROM _store_info WHERE key = 'database_id'")
                    .and_then(|mut statement| statement.query_row([], |_| Ok(())))
                    .map_err(|error| from_sqlite(error, "reading"))
            };
            self.0.readers.run(read).await
        })
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            let (reply, done) = oneshot::channel::<()>();
            let inner = self.0.clone();
            // Closing joins threads, which must not hold up the caller's.
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
    fn spec(&self, collection: &str) -> Result<Arc<Spec>> {
        let known = self.specs.read().unwrap_or_else(PoisonError::into_inner);
        known
            .get(collection)
            .cloned()
            .ok_or_else(|| StoreError::Internal(format!("the collection {collection} was not opened")))
    }

    fn sender(&self) -> Result<mpsc::Sender<Job>> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner).clone().ok_or_else(closed)
    }

    async fn ask(&self, job: impl FnOnce(Reply) -> Job) -> Result<()> {
        let (reply, answer) = oneshot::channel();
        self.sender()?.send(job(reply)).await.map_err(|_| closed())?;
        let ended = || StoreError::Unavailable("the writing thread ended without an answer".into());
        answer.await.unwrap_or_else(|_| Err(ended()))
    }

    /// Readers first: the connection that goes last, the writer's, writes the log back.
    fn close(&self) {
        self.readers.close();
        drop(self.jobs.lock().unwrap_or_else(PoisonError::into_inner).take());
        // Held while joining, so that a second caller does not come back before the folder is let go.
        let mut writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(writer) = writer.take() {
            // A writer that panicked has answered nobody; there is nothing to add.
            let _ = writer.join();
            self.folder.let_go();
        }
    }

    fn step(&self, write: Write) -> Result<Step> {
        Ok(match write {
            Write::Create { collection, id, body } => Step::Create(self.document(collection, id, body)?),
            Write::Replace { collection, id, body, version } => {
                Step::Replace(self.document(collection, id, body)?, version)
            }
            Write::Upsert { collection, id, body } => Step::Upsert(self.document(collection, id, body)?),
            Write::Delete { collection, id, version } => Step::Delete(self.place(collection, id)?, version),
            Write::Require(Guard::Absent { collection, id }) => Step::Absent(self.place(collection, id)?),
            Write::Require(Guard::Exists { collection, id }) => Step::Exists(self.place(collection, id)?),
            Write::Require(Guard::Version { collection, id, version }) => {
                Step::Version(self.place(collection, id)?, version)
            }
            Write::Require(Guard::Count { collection, filters, at_least, at_most }) => {
                Step::Count { plan: CountPlan::new(self.spec(collection)?, &filters)?, at_least, at_most }
            }
        })
    }

    fn place(&self, collection: &str, id: String) -> Result<Place> {
        Ok(Place { spec: self.spec(collection)?, id })
    }

    fn document(&self, collection: &str, id: String, body: Box<str>) -> Result<Document> {
        let place = self.place(collection, id)?;
        if place.id.is_empty() || place.id.len() > ID_LIMIT || place.id.contains('\0') {
            return Err(StoreError::Invalid(format!(
                "an id of {} must have 1 to {ID_LIMIT} bytes and no NUL",
                place.spec.name
            )));
        }
        let name = format!("document `{}` of {}", place.id, place.spec.name);
        let value = document::parse_new(&body, self.document_limit, &name)?;
        let keys = place.spec.keys(&place.id, &value)?;
        Ok(Document { place, body, keys })
    }
}
