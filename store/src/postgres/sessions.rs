//! Connection pools: one for reads and one for writes. Connections are created on demand and closed when idle.
//! Configures their sessions, and cancels statements of abandoned connections.

use std::future::Future;
use std::ops::{Deref, DerefMut};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::task::{Context, Poll};
use std::time::Duration;

use deadpool_postgres::{
    Client, ClientWrapper, Hook, HookError, Manager, ManagerConfig, Object, Pool, PoolError, QueueMode,
    RecyclingMethod, Runtime, TimeoutType, Timeouts,
};
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use tokio_postgres::error::SqlState;
use tokio_postgres::{Error, Statement};

use super::errors::{Failure, describe};
use super::hold::Holding;
use super::target::{CONNECT_LIMIT, Target};
use crate::sql::quote;
use crate::{BoxFuture, Result, StoreError};

/// The idle timeout of a connection.
const IDLE: Duration = Duration::from_secs(300);
/// The interval at which the pools are tidied.
const TIDY: Duration = Duration::from_secs(10);
/// The maximum number of cached prepared statements per connection; callers can produce any number of distinct queries.
const MOST_STATEMENTS: usize = 256;
/// How long a statement waits for a lock of another program.
const LOCK_LIMIT: Duration = Duration::from_secs(30);
/// How long the server keeps an idle write transaction and its locks.
const SILENCE_LIMIT: Duration = Duration::from_secs(60);

/// How long a statement may continue after its caller stopped waiting. Most finish within milliseconds, and reusing the
/// connection is cheaper than closing it and making a new one.
pub(super) const LEFT_LIMIT: Duration = Duration::from_secs(1);

/// The settings of every session. JIT compilation costs more than any statement here saves. `random_page_cost`: on SSDs
/// and in memory, a random page costs about as much as the next one; with the default of 4, generic plans, which do not
/// know the limit, would rather sort a whole table than walk an index.
pub(super) fn settings(schema: &str) -> String {
    format!(
        "SET search_path = {}; SET client_min_messages = warning; SET jit = off; SET random_page_cost = 1.1; \
         SET tcp_keepalives_idle = 10; SET tcp_keepalives_interval = 5; SET tcp_keepalives_count = 3;",
        quote(schema)
    )
}

/// The two connection pools.
#[derive(Clone)]
pub(super) struct Sessions {
    pub(super) reads: Lessor,
    pub(super) writes: Lessor,
}

/// A connection pool.
#[derive(Clone)]
pub(super) struct Lessor {
    pool: Pool,
    places: Arc<Places>,
    runtime: Handle,
    target: Arc<Target>,
    wait: Duration,
}

/// The number of connections that may be in use or created. It is reduced while the server refuses more of them, so that
/// callers wait for one of those that there are.
struct Places {
    most: usize,
    free: Arc<Semaphore>,
    removed: AtomicUsize,
}

/// A connection acquired from a pool. [`PooledConnection::release`] returns it, after the conversation is complete;
/// otherwise it is closed and its statement is cancelled, so that no other work waits behind an abandoned statement.
pub(super) struct Lease {
    client: Option<Client>,
    place: Option<OwnedSemaphorePermit>,
    runtime: Handle,
    target: Arc<Target>,
}

/// The sizes and timeouts of the pools.
pub(super) struct Sizes {
    pub(super) reads: usize,
    pub(super) writes: usize,
    pub(super) read_limit: Duration,
    pub(super) write_limit: Duration,
}

impl Sessions {
    pub(super) fn new(target: &Arc<Target>, schema: &str, sizes: &Sizes, holding: &Holding) -> Result<Self> {
        let settings = settings(schema);
        let milliseconds = |time: Duration| time.as_millis().clamp(1, i32::MAX as u128);
        let reading = format!(
            "{settings} SET default_transaction_read_only = on; SET default_transaction_isolation = 'read committed'; \
             SET statement_timeout = {};",
            milliseconds(sizes.read_limit)
        );
        // All writes are serializable, including single statements: PostgreSQL detects conflicts only among
        // serializable transactions. `synchronous_commit` is turned on if the server would acknowledge a commit before
        // it is on disk.
        let writing = format!(
            "{settings} {} SET default_transaction_read_only = off; SET default_transaction_isolation = 'serializable'; \
             SET default_transaction_deferrable = off; SET statement_timeout = 0; SET lock_timeout = {}; \
             SET idle_in_transaction_session_timeout = {}; \
             SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off';",
            holding.introduction(),
            milliseconds(LOCK_LIMIT),
            milliseconds(SILENCE_LIMIT)
        );
        let reads = Hook::async_fn(move |client: &mut ClientWrapper, _| {
            let reading = reading.clone();
            Box::pin(async move { client.batch_execute(&reading).await.map_err(HookError::Backend) })
        });
        let holding = holding.clone();
        let writes = Hook::async_fn(move |client: &mut ClientWrapper, _| {
            let (writing, holding) = (writing.clone(), holding.clone());
            Box::pin(async move {
                client.batch_execute(&writing).await.map_err(HookError::Backend)?;
                match holding.confirm(client).await {
                    Ok(()) => Ok(()),
                    Err(Failure::Postgres(error)) => Err(HookError::Backend(error)),
                    Err(Failure::Store(error)) => Err(HookError::message(error.sentence().to_owned())),
                }
            })
        });
        Ok(Self {
            reads: Lessor::new(target, sizes.reads, sizes.read_limit, reads)?,
            writes: Lessor::new(target, sizes.writes, sizes.write_limit.min(LOCK_LIMIT), writes)?,
        })
    }

    /// Closes idle connections, in a loop. Each pool keeps one, since the server may refuse another one later. Also tries
    /// again whether the server accepts as many connections as are configured.
    pub(super) async fn tidy(self) {
        loop {
            tokio::time::sleep(TIDY).await;
            for lessor in [&self.reads, &self.writes] {
                let mut others = lessor.pool.status().size;
                lessor.pool.retain(|_, metrics| {
                    let stays = metrics.last_used() < IDLE || others <= 1;
                    others -= usize::from(!stays);
                    stays
                });
                lessor.places.restore();
            }
        }
    }

    /// Refuses further acquisitions and closes idle connections.
    pub(super) fn close(&self) {
        for lessor in [&self.reads, &self.writes] {
            lessor.pool.close();
            lessor.places.free.close();
        }
    }
}

impl Places {
    fn new(most: usize) -> Arc<Self> {
        Arc::new(Self { most, free: Arc::new(Semaphore::new(most)), removed: AtomicUsize::new(0) })
    }

    /// Whether others than the caller have a place, who will give it back.
    fn has_others(&self) -> bool {
        self.removed.load(Relaxed) + self.free.available_permits() + 1 < self.most
    }

    fn remove(&self, place: OwnedSemaphorePermit) {
        place.forget();
        self.removed.fetch_add(1, Relaxed);
    }

    fn restore(&self) {
        self.free.add_permits(self.removed.swap(0, Relaxed));
    }
}

impl Lessor {
    fn new(target: &Arc<Target>, size: usize, wait: Duration, set_up: Hook) -> Result<Self> {
        let manager = ManagerConfig { recycling_method: RecyclingMethod::Fast };
        let manager = Manager::from_config(target.config.clone(), target.tls.clone(), manager);
        let pool = Pool::builder(manager)
            .max_size(size.max(1))
            .runtime(Runtime::Tokio1)
            .wait_timeout(Some(wait))
            // A new connection takes a few round trips, even if the timeout of a read is shorter.
            .create_timeout(Some(wait.clamp(Duration::from_secs(1), CONNECT_LIMIT)))
            // The most recently used connection is reused first, so that surplus ones become idle.
            .queue_mode(QueueMode::Lifo)
            .post_create(set_up)
            .build()
            .map_err(|error| StoreError::Internal(format!("no pool of connections can be made: {error}")))?;
        let places = Places::new(size.max(1));
        Ok(Self { pool, places, runtime: Handle::current(), target: target.clone(), wait })
    }

    /// Acquires a connection, creating one if none is idle. If the caller stops waiting, the new connection is still
    /// completed and goes to the pool; otherwise callers that give up early would keep the pool empty.
    pub(super) async fn lease(&self) -> Result<Lease> {
        let deadline = Instant::now() + self.wait;
        loop {
            let free = tokio::time::timeout_at(deadline, self.places.free.clone().acquire_owned()).await;
            let place = free.map_err(|_| self.refused(PoolError::Timeout(TimeoutType::Wait)))?.map_err(|_| closed())?;
            let pool = self.pool.clone();
            let got = self.finishing(CONNECT_LIMIT, async move { (pool.get().await, place) }).await;
            match got {
                (Ok(client), place) => {
                    let (runtime, target) = (self.runtime.clone(), self.target.clone());
                    return Ok(Lease { client: Some(client), place: Some(place), runtime, target });
                }
                (Err(error), place) if is_refused_another(&error) && self.places.has_others() => {
                    self.places.remove(place);
                }
                (Err(error), _) => return Err(self.refused(error)),
            }
        }
    }

    /// Wraps `work` so that it continues for up to `longest` after its caller stopped waiting.
    pub(super) fn finishing<T: Send + 'static>(
        &self,
        longest: Duration,
        work: impl Future<Output = T> + Send + 'static,
    ) -> Finishing<T> {
        Finishing { work: Some(Box::pin(work)), longest, runtime: self.runtime.clone() }
    }

    /// Closes idle connections: one was found dead, and the others probably are too.
    pub(super) fn renew(&self) {
        self.pool.retain(|_, _| false);
    }

    fn refused(&self, error: PoolError) -> StoreError {
        let place = &self.target.place;
        let away = |why: &str| StoreError::Unavailable(format!("{place} is not available: {why}"));
        match error {
            PoolError::Timeout(TimeoutType::Wait) => StoreError::TimedOut(format!(
                "no connection to the database became free within {} s; try again with fewer concurrent requests",
                self.wait.as_secs_f32()
            )),
            PoolError::Timeout(_) => away("connecting took too long"),
            PoolError::Backend(error) | PoolError::PostCreateHook(HookError::Backend(error)) => away(&describe(&error)),
            PoolError::PostCreateHook(HookError::Message(why)) => away(&why),
            PoolError::Closed => closed(),
            PoolError::NoRuntimeSpecified => StoreError::Internal("a pool has no runtime".into()),
        }
    }
}

/// Whether the server refuses another connection of this role or database, or of all.
fn is_refused_another(error: &PoolError) -> bool {
    matches!(error, PoolError::Backend(error) if error.code() == Some(&SqlState::TOO_MANY_CONNECTIONS))
}

/// The future of [`ConnectionPool::detach_on_drop`].
pub(super) struct Finishing<T: Send + 'static> {
    /// `None` once it has completed.
    work: Option<BoxFuture<'static, T>>,
    longest: Duration,
    runtime: Handle,
}

impl<T: Send + 'static> Future for Finishing<T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<T> {
        let Some(work) = &mut self.work else { return Poll::Pending };
        let polled = work.as_mut().poll(context);
        if polled.is_ready() {
            self.work = None;
        }
        polled
    }
}

impl<T: Send + 'static> Drop for Finishing<T> {
    fn drop(&mut self) {
        if let Some(work) = self.work.take() {
            let longest = self.longest;
            self.runtime.spawn(async move { drop(tokio::time::timeout(longest, work).await) });
        }
    }
}

impl Lease {
    pub(super) fn give_back(mut self) {
        self.client = None;
    }

    /// A prepared statement, from the cache if possible.
    pub(super) async fn prepare(&self, sql: &str) -> std::result::Result<Statement, Error> {
        prepare(self, sql).await
    }
}

/// A prepared statement of a connection, from the cache if possible.
pub(super) async fn prepare(client: &ClientWrapper, sql: &str) -> std::result::Result<Statement, Error> {
    if client.statement_cache.size() >= MOST_STATEMENTS {
        client.statement_cache.clear();
    }
    client.prepare_cached(sql).await
}

impl Deref for Lease {
    type Target = ClientWrapper;

    fn deref(&self) -> &ClientWrapper {
        self.client.as_ref().expect("a pooled connection is present until it is released")
    }
}

impl DerefMut for Lease {
    fn deref_mut(&mut self) -> &mut ClientWrapper {
        self.client.as_mut().expect("a pooled connection is present until it is released")
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let Some(client) = self.client.take() else { return };
        let client = Object::take(client);
        if client.is_closed() {
            return;
        }
        // Best effort: without the cancellation, the server notices when it sends its response.
        let (token, tls) = (client.cancel_token(), self.target.tls.clone());
        let place = self.place.take();
        self.runtime.spawn(async move {
            let _ = tokio::time::timeout(Duration::from_secs(5), token.cancel_query(tls)).await;
            drop((client, place));
        });
    }
}

pub(super) fn closed() -> StoreError {
    StoreError::Unavailable("the store is closed".into())
}
