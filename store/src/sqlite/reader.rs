//! The reader pool: a few threads with a connection each, started on demand and ended when idle, so that an idle daemon
//! has neither; separate threads for streams; and connections for short reads, which run in the caller's thread. One
//! connection of each kind is open from the start: if the files are removed or replaced, no other can be opened, and
//! all reads share these.

use std::{
    collections::VecDeque,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use rusqlite::Connection;
use tokio::{
    sync::{Semaphore, oneshot},
    time::timeout,
};

use super::{data_dir::DataDir, errors::from_sqlite, exec_query};
use crate::{
    Result, Row, RowStream, StoreError,
    row_stream::{RowSender, SendOutcome, receiver_too_slow, too_many_streams},
    sql::Plan,
};

/// The idle timeout of a thread.
const IDLE_TIMEOUT: Duration = Duration::from_secs(20);
/// The maximum number of concurrent streams; further ones wait.
const MAX_STREAMS: usize = 8;
/// The number of buffered chunks of a stream.
const STREAM_BUFFER: usize = 2;
/// The number of SQLite VM steps between two checks of the deadline.
const STEPS_PER_CHECK: i32 = 20_000;

/// The page cache of a connection in KiB: for long reads, which visit a page once, and for short ones, which visit the
/// same pages again. Among a million documents, each row of a result page is on a page of its own: reading them from
/// the operating system again took half of the time of such a read.
const CACHE_KIB: u32 = 2048;
const SHORT_READ_CACHE_KIB: u32 = 16_384;
/// The heap in bytes that SQLite may use in this process before connections reuse their own cached pages instead of
/// allocating: concurrent short reads share this limit.
const HEAP: u32 = 32 * 1024 * 1024;

/// The timeout of a copy of the database.
const COPY_TIMEOUT: Duration = Duration::from_secs(24 * 3600);

/// Timeouts of reads.
#[derive(Clone, Copy)]
pub(super) struct Limits {
    /// Of a read.
    pub(super) read: Duration,
    /// Of a whole stream.
    pub(super) stream: Duration,
    /// Until the caller takes the next chunk of a stream.
    pub(super) chunk: Duration,
}

/// The reader pool.
pub(super) struct ReaderPool {
    shared: Arc<Shared>,
    streams: Arc<Semaphore>,
}

struct Shared {
    data_dir: Arc<DataDir>,
    limits: Limits,
    max_threads: usize,
    state: Mutex<State>,
    wake: Condvar,
    /// Idle connections for short reads.
    short: IdleConnections,
    /// Idle connections for longer reads, while no connection can be opened.
    spare: IdleConnections,
}

/// Idle connections.
#[derive(Default)]
struct IdleConnections {
    readers: Mutex<Vec<Reader>>,
    returned: Condvar,
}

impl IdleConnections {
    fn readers(&self) -> MutexGuard<'_, Vec<Reader>> {
        self.readers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn release(&self, reader: Reader) {
        self.readers().push(reader);
        self.returned.notify_one();
    }

    /// Waits for an idle connection.
    fn acquire(&self, max_wait: Duration) -> Result<Reader> {
        let none = |readers: &mut Vec<Reader>| readers.is_empty();
        let waited = self.returned.wait_timeout_while(self.readers(), max_wait, none);
        waited.unwrap_or_else(PoisonError::into_inner).0.pop().ok_or_else(|| {
            StoreError::TimedOut(format!(
                "no connection for reading became free within {} s; try again",
                max_wait.as_secs_f32()
            ))
        })
    }
}

#[derive(Default)]
struct State {
    queue: VecDeque<Job>,
    threads: usize,
    waiting: usize,
    closed: bool,
    /// The cancel flags of the running streams and copies.
    streams: Vec<Arc<AtomicBool>>,
    handles: Vec<JoinHandle<()>>,
}

type Job = Box<dyn FnOnce(Result<&Reader>) + Send>;

/// A connection for reading.
struct Reader {
    connection: Connection,
    watch: Arc<Mutex<Option<ReadDeadline>>>,
}

/// When to interrupt the current read.
struct ReadDeadline {
    until: Instant,
    abandoned: Arc<AtomicBool>,
}

/// Sets the cancel flag when dropped.
struct CancelOnDrop(Arc<AtomicBool>);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl ReaderPool {
    pub(super) fn open(data_dir: Arc<DataDir>, most: usize, limits: Limits) -> Result<Self> {
        let shared = Shared {
            data_dir,
            limits,
            max_threads: most.max(1),
            state: Mutex::default(),
            wake: Condvar::new(),
            short: IdleConnections::default(),
            spare: IdleConnections::default(),
        };
        let moved = || StoreError::Unavailable("the database was moved while it was opened; start again".into());
        for (kept, cache) in [(&shared.short, SHORT_READ_CACHE_KIB), (&shared.spare, CACHE_KIB)] {
            kept.release(Reader::open(&shared.data_dir, cache)?.ok_or_else(moved)?);
        }
        Ok(Self { shared: Arc::new(shared), streams: Arc::new(Semaphore::new(MAX_STREAMS)) })
    }

    /// Runs `read` on one of the threads, until it is done, times out, or the caller stops waiting.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Connection) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let (reply, answer) = oneshot::channel();
        let abandoned = Arc::new(AtomicBool::new(false));
        let _abandon = CancelOnDrop(abandoned.clone());
        let most = self.shared.limits.read;
        self.submit(Box::new(move |reader| {
            if reply.is_closed() {
                return;
            }
            let result = reader.and_then(|reader| reader.with_deadline(most, abandoned, read));
            // The caller may have stopped waiting.
            let _ = reply.send(result);
        }))?;
        answer.await.unwrap_or_else(|_| Err(StoreError::Internal("a reader ended without an answer".into())))
    }

    /// Runs `read` in the caller's thread, for reads by id: they take some microseconds, less than the handover to a
    /// thread. At worst they wait for a page or two of the disk.
    pub(super) fn run_inline<T>(&self, read: impl FnOnce(&Connection) -> Result<T>) -> Result<T> {
        self.with_short_reader(|reader| read(&reader.connection))
    }

    fn with_short_reader<T>(&self, work: impl FnOnce(&Reader) -> Result<T>) -> Result<T> {
        if self.shared.state().closed {
            return Err(closed_error());
        }
        let Shared { data_dir: folder, short, max_threads: most, limits, .. } = &*self.shared;
        let kept = short.readers().pop();
        let reader = match kept {
            Some(reader) => reader,
            None => match Reader::open(folder, SHORT_READ_CACHE_KIB)? {
                Some(reader) => reader,
                // Short reads return their connection within a millisecond or two.
                None => short.acquire(limits.read)?,
            },
        };
        let result = work(&reader);
        if folder.open_files.must_keep_connections() || short.readers().len() < *most {
            short.release(reader);
        }
        result
    }

    /// Runs `read` in the caller's thread if it turns out to be short; `None` if it does not and must run on a reader
    /// thread. An abandoned attempt costs at most `STEPS_PER_CHECK` steps, about a millisecond.
    pub(super) fn try_inline<T>(&self, read: impl FnOnce(&Connection) -> Result<T>) -> Result<Option<T>> {
        self.with_short_reader(|reader| {
            reader.watch(Some(ReadDeadline { until: Instant::now(), abandoned: Arc::default() }));
            let result = read(&reader.connection);
            reader.watch(None);
            match result {
                Err(StoreError::TimedOut(_)) => Ok(None),
                other => other.map(Some),
            }
        })
    }

    /// Streams rows from a thread of its own.
    pub(super) async fn stream(&self, plan: Plan) -> Result<RowStream> {
        let turn = timeout(self.shared.limits.read, self.streams.clone().acquire_owned()).await;
        let turn = turn.map_err(|_| too_many_streams())?.map_err(|_| closed_error())?;
        let (pieces, mut rows) = RowStream::new(STREAM_BUFFER);
        let (shared, left) = (self.shared.clone(), rows.cancel_flag().clone());
        let read = move || {
            let until = Instant::now() + shared.limits.stream;
            let outcome = shared.with_reader(|reader| {
                reader.with_deadline(shared.limits.stream, left.clone(), |connection| {
                    exec_query::stream(&plan, connection, |rows| shared.send_chunk(&pieces, rows, until))
                })
            });
            // A caller that still listens was cancelled because the store is closed.
            pieces.finish(outcome.map_err(|error| if left.load(Ordering::Relaxed) { closed_error() } else { error }));
            drop(turn);
        };
        let left = rows.cancel_flag().clone();
        self.spawn_cancellable("store-stream", &left, read, |thread| rows.wake_on_capacity(thread.clone()))?;
        Ok(rows)
    }

    /// Runs `copy` on a thread of its own, until it is done or the caller stops waiting. The connection may write to
    /// other files.
    pub(super) async fn run_copy<T: Send + 'static>(
        &self,
        copy: impl FnOnce(&Connection) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let (reply, answer) = oneshot::channel();
        let abandoned = Arc::new(AtomicBool::new(false));
        let _abandon = CancelOnDrop(abandoned.clone());
        let (shared, left) = (self.shared.clone(), abandoned.clone());
        let run = move || {
            let may_write = |reader: &Reader, may: bool| {
                let set = reader.connection.pragma_update(None, "query_only", !may);
                set.map_err(|error| from_sqlite(error, "opening a reader"))
            };
            let outcome = shared.with_reader(|reader| {
                may_write(reader, true)?;
                let copied = reader.with_deadline(COPY_TIMEOUT, left, copy);
                may_write(reader, false).and(copied)
            });
            // The caller may have stopped waiting.
            let _ = reply.send(outcome);
        };
        self.spawn_cancellable("store-copy", &abandoned, run, |_| {})?;
        answer.await.unwrap_or_else(|_| Err(StoreError::Internal("a copy ended without an answer".into())))
    }

    /// Starts a thread that is cancelled and joined when the pool is closed.
    fn spawn_cancellable(
        &self,
        name: &str,
        left: &Arc<AtomicBool>,
        work: impl FnOnce() + Send + 'static,
        tell: impl FnOnce(&std::thread::Thread),
    ) -> Result<()> {
        let mut state = self.shared.state();
        if state.closed {
            return Err(closed_error());
        }
        state.handles.retain(|handle| !handle.is_finished());
        let handle = std::thread::Builder::new()
            .name(name.into())
            .spawn(work)
            .map_err(|error| StoreError::Unavailable(format!("no thread can be started for reading: {error}")))?;
        tell(handle.thread());
        state.handles.push(handle);
        state.streams.retain(|stream| Arc::strong_count(stream) > 1);
        state.streams.push(left.clone());
        Ok(())
    }

    fn submit(&self, job: Job) -> Result<()> {
        let mut state = self.shared.state();
        if state.closed {
            return Err(closed_error());
        }
        state.queue.push_back(job);
        if state.queue.len() > state.waiting && state.threads < self.shared.max_threads {
            state.handles.retain(|handle| !handle.is_finished());
            let shared = self.shared.clone();
            match std::thread::Builder::new().name("store-reader".into()).spawn(move || shared.work()) {
                Ok(handle) => {
                    state.handles.push(handle);
                    state.threads += 1;
                }
                Err(error) if state.threads == 0 => {
                    state.queue.pop_back();
                    return Err(StoreError::Unavailable(format!("no thread can be started for reading: {error}")));
                }
                Err(_) => {}
            }
        }
        drop(state);
        self.shared.wake.notify_one();
        Ok(())
    }

    /// Finishes queued reads, cancels streams and joins the threads.
    pub(super) fn close(&self) {
        let handles = {
            let mut state = self.shared.state();
            state.closed = true;
            state.streams.drain(..).for_each(|left| left.store(true, Ordering::Relaxed));
            std::mem::take(&mut state.handles)
        };
        self.streams.close();
        self.shared.wake.notify_all();
        for handle in handles {
            handle.thread().unpark();
            // A panicked reader has nothing left to finish.
            let _ = handle.join();
        }
        self.shared.short.readers().clear();
        self.shared.spare.readers().clear();
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs `work` with a new connection or, while none can be opened, with the spare one.
    fn with_reader<T>(&self, work: impl FnOnce(&Reader) -> Result<T>) -> Result<T> {
        let reader = self.reader()?;
        let result = work(&reader);
        self.release(reader);
        result
    }

    fn reader(&self) -> Result<Reader> {
        match Reader::open(&self.data_dir, CACHE_KIB)? {
            Some(reader) => Ok(reader),
            None => self.spare.acquire(self.limits.read),
        }
    }

    fn release(&self, reader: Reader) {
        if self.data_dir.open_files.must_keep_connections() {
            self.spare.release(reader);
        }
    }

    /// Sends a chunk, waiting for capacity; returns whether the receiver still exists.
    fn send_chunk(&self, pieces: &RowSender, rows: Vec<Row>, until: Instant) -> Result<bool> {
        let until = until.min(Instant::now() + self.limits.chunk);
        let mut piece = rows;
        loop {
            piece = match pieces.try_send(piece) {
                SendOutcome::Sent => return Ok(true),
                SendOutcome::Closed => return Ok(false),
                SendOutcome::Full(piece) => piece,
            };
            if self.state().closed {
                return Err(closed_error());
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(receiver_too_slow());
            }
            // Unparked when a chunk is received; a spurious wake-up costs one more check.
            std::thread::park_timeout(left);
        }
    }

    fn work(self: Arc<Self>) {
        let mut own = None;
        while let Some(job) = self.next() {
            let reader = match own.take().map_or_else(|| self.reader(), Ok) {
                Ok(reader) => reader,
                Err(error) => {
                    job(Err(error));
                    continue;
                }
            };
            // After a panic the thread continues with a new connection, since this one may be in the middle of a
            // statement.
            let is_whole = catch_unwind(AssertUnwindSafe(|| job(Ok(&reader)))).is_ok();
            if self.data_dir.open_files.must_keep_connections() {
                self.spare.release(reader);
            } else if is_whole {
                own = Some(reader);
            }
        }
        own.into_iter().for_each(|reader| self.release(reader));
    }

    /// The next job; `None` if the thread must end. That is counted under the same lock, so that the next caller does
    /// not rely on a thread that is ending.
    fn next(&self) -> Option<Job> {
        let mut state = self.state();
        loop {
            if let Some(job) = state.queue.pop_front() {
                return Some(job);
            }
            if state.closed {
                state.threads -= 1;
                return None;
            }
            state.waiting += 1;
            let (guard, time) = self.wake.wait_timeout(state, IDLE_TIMEOUT).unwrap_or_else(PoisonError::into_inner);
            state = guard;
            state.waiting -= 1;
            if time.timed_out() && state.queue.is_empty() {
                state.threads -= 1;
                return None;
            }
        }
    }
}

impl Reader {
    /// Opens a connection with a page cache of this many KiB; `None` if the files are not in place.
    fn open(data_dir: &DataDir, cache: u32) -> Result<Option<Self>> {
        let Some(mut connection) = data_dir.connect_reader()? else { return Ok(None) };
        connection.set_prepared_statement_cache_capacity(64);
        let watch = Arc::<Mutex<Option<ReadDeadline>>>::default();
        let asked = watch.clone();
        let is_over =
            move || asked.lock().unwrap_or_else(PoisonError::into_inner).as_ref().is_some_and(ReadDeadline::is_expired);
        connection
            .progress_handler(STEPS_PER_CHECK, Some(is_over))
            .and_then(|()| {
                connection.execute_batch(&format!(
                    "PRAGMA query_only = 1; PRAGMA temp_store = MEMORY; \
                     PRAGMA cache_size = -{cache}; PRAGMA soft_heap_limit = {HEAP};"
                ))
            })
            .map_err(|error| from_sqlite(error, "opening a reader"))?;
        Ok(Some(Self { connection, watch }))
    }

    /// Runs `read` and interrupts SQLite on timeout or cancellation.
    fn with_deadline<T>(
        &self,
        most: Duration,
        abandoned: Arc<AtomicBool>,
        read: impl FnOnce(&Connection) -> Result<T>,
    ) -> Result<T> {
        self.watch(Some(ReadDeadline { until: Instant::now() + most, abandoned }));
        let result = read(&self.connection);
        self.watch(None);
        match result {
            // A slow receiver has an error message of its own.
            Err(StoreError::TimedOut(text)) if text.is_empty() => Err(StoreError::TimedOut(format!(
                "the read took longer than {} s; narrow the query, or filter by indexed fields",
                most.as_secs_f32()
            ))),
            other => other,
        }
    }

    fn watch(&self, watch: Option<ReadDeadline>) {
        *self.watch.lock().unwrap_or_else(PoisonError::into_inner) = watch;
    }
}

impl ReadDeadline {
    fn is_expired(&self) -> bool {
        self.abandoned.load(Ordering::Relaxed) || Instant::now() > self.until
    }
}

pub(super) fn closed_error() -> StoreError {
    StoreError::Unavailable("the store is closed".into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Collection, Query,
        sql::{Dialect, Spec},
    };

    const LIMITS: Limits =
        Limits { read: Duration::from_secs(5), stream: Duration::from_secs(5), chunk: Duration::from_secs(5) };

    #[tokio::test]
    async fn a_read_that_panics_fails_alone() {
        let temp = tempfile::tempdir().unwrap();
        let readers = ReaderPool::open(Arc::new(DataDir::open(temp.path()).unwrap()), 1, LIMITS).unwrap();
        let broken = readers.run(|_| -> Result<()> { panic!("on purpose") }).await;
        assert!(matches!(broken, Err(StoreError::Internal(_))));
        assert_eq!(readers.run(|_| Ok(1)).await, Ok(1));
        readers.close();
        assert_eq!(readers.run(|_| Ok(1)).await, Err(closed_error()));
    }

    /// A query that never ends and returns no rows.
    fn endless() -> Plan {
        let spec = Arc::new(Spec::new(&Collection { name: "endless", indexes: &[] }).unwrap());
        let mut plan = Plan::new(Dialect::Sqlite, spec, &Query::all()).unwrap();
        plan.sql = "WITH RECURSIVE n(x) AS (VALUES (1) UNION ALL SELECT x + 1 FROM n) \
                    SELECT 'a', 1, '{}' FROM n WHERE x < 0"
            .into();
        plan
    }

    #[tokio::test]
    async fn a_stream_that_finds_nothing_ends_when_it_is_left_and_when_the_store_is_closed() {
        let limits = Limits { stream: Duration::from_secs(60), ..LIMITS };
        let temp = tempfile::tempdir().unwrap();
        let readers = ReaderPool::open(Arc::new(DataDir::open(temp.path()).unwrap()), 1, limits).unwrap();
        let start = Instant::now();
        for _ in 0..3 * MAX_STREAMS {
            drop(readers.stream(endless()).await.unwrap());
        }
        let mut rows = readers.stream(endless()).await.unwrap();
        readers.close();
        assert_eq!(rows.next().await, Err(closed_error()));
        assert!(start.elapsed() < Duration::from_secs(30), "{:?}", start.elapsed());
    }

    #[tokio::test]
    async fn threads_come_with_the_work_and_never_more_than_said() {
        let temp = tempfile::tempdir().unwrap();
        let readers = Arc::new(ReaderPool::open(Arc::new(DataDir::open(temp.path()).unwrap()), 2, LIMITS).unwrap());
        assert_eq!(readers.shared.state().threads, 0);
        let tasks: Vec<_> = (0..50)
            .map(|i| {
                let readers = readers.clone();
                tokio::spawn(async move { readers.run(move |_| Ok(i)).await })
            })
            .collect();
        for (i, task) in tasks.into_iter().enumerate() {
            assert_eq!(task.await.unwrap(), Ok(i));
        }
        assert!((1..=2).contains(&readers.shared.state().threads));
        readers.close();
        assert_eq!(readers.shared.state().threads, 0);
    }
}
