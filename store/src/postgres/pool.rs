//! Connection pools: one for reads and one for writes. Connections are created on demand and closed when idle.
//! Configures their sessions, and cancels statements of abandoned connections.

use std::{
    future::Future,
    ops::{Deref, DerefMut},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::Duration,
};

use deadpool_postgres::{
    Client, ClientWrapper, Hook, HookError, Manager, ManagerConfig, Object, Pool, PoolError, QueueMode,
    RecyclingMethod, Runtime, TimeoutType,
};
use tokio::{
    runtime::Handle,
    sync::{OwnedSemaphorePermit, Semaphore},
    time::Instant,
};
use tokio_postgres::{Error, Statement, error::SqlState};

use super::{
    connection_string::{CONNECT_TIMEOUT, ConnectOptions},
    errors::{PgError, describe},
    schema_lock::SchemaLock,
};
use crate::{BoxFuture, Result, StoreError, sql::quote};

/// The idle timeout of a connection.
const IDLE_TIMEOUT: Duration = Duration::from_secs(300);
/// How often idle connections are closed.
const REAP_INTERVAL: Duration = Duration::from_secs(10);
/// The maximum number of cached prepared statements per connection; callers can produce any number of distinct queries.
const MAX_STATEMENTS: usize = 256;
/// How long a statement waits for a lock of another program.
const LOCK_TIMEOUT: Duration = Duration::from_secs(30);
/// How long the server keeps an idle write transaction and its locks.
const IDLE_TRANSACTION_TIMEOUT: Duration = Duration::from_secs(60);

/// How long a statement may continue after its caller stopped waiting. Most finish within milliseconds, and reusing the
/// connection is cheaper than closing it and making a new one.
pub(super) const ABANDONED_TIMEOUT: Duration = Duration::from_secs(1);

/// The settings of every session. JIT compilation costs more than any statement here saves. `random_page_cost`: on SSDs
/// and in memory, a random page costs about as much as the next one; with the default of 4, generic plans, which do not
/// know the limit, would rather sort a whole table than walk an index.
pub(super) fn session_settings(schema: &str) -> String {
    format!(
        "SET search_path = {}; SET client_min_messages = warning; SET jit = off; SET random_page_cost = 1.1; \
         SET tcp_keepalives_idle = 10; SET tcp_keepalives_interval = 5; SET tcp_keepalives_count = 3;",
        quote(schema)
    )
}

/// The two connection pools.
#[derive(Clone)]
pub(super) struct Pools {
    pub(super) reads: ConnectionPool,
    pub(super) writes: ConnectionPool,
}

/// A connection pool.
#[derive(Clone)]
pub(super) struct ConnectionPool {
    pool: Pool,
    slots: Arc<Slots>,
    runtime: Handle,
    target: Arc<ConnectOptions>,
    wait: Duration,
}

/// The limit on connections that are in use or being created. It is lowered while the server refuses more of them, so that
/// callers wait for one of the existing ones.
struct Slots {
    max: usize,
    free: Arc<Semaphore>,
    removed: AtomicUsize,
}

/// A connection acquired from a pool. [`PooledConnection::release`] returns it, after the conversation is complete;
/// otherwise it is closed and its statement is cancelled, so that no other work waits behind an abandoned statement.
pub(super) struct PooledConnection {
    client: Option<Client>,
    slot: Option<OwnedSemaphorePermit>,
    runtime: Handle,
    target: Arc<ConnectOptions>,
}

/// The sizes and timeouts of the pools.
pub(super) struct PoolSettings {
    pub(super) reads: usize,
    pub(super) writes: usize,
    pub(super) read_timeout: Duration,
    pub(super) write_timeout: Duration,
}

impl Pools {
    pub(super) fn new(
        target: &Arc<ConnectOptions>,
        schema: &str,
        sizes: &PoolSettings,
        holding: &SchemaLock,
    ) -> Result<Self> {
        let settings = session_settings(schema);
        let milliseconds = |time: Duration| time.as_millis().clamp(1, i32::MAX as u128);
        let reading = format!(
            "{settings} SET default_transaction_read_only = on; SET default_transaction_isolation = 'read committed'; \
             SET statement_timeout = {};",
            milliseconds(sizes.read_timeout)
        );
        // All writes are serializable, including single statements: PostgreSQL detects conflicts only among
        // serializable transactions. `synchronous_commit` is turned on if the server would acknowledge a commit before
        // it is on disk.
        let writing = format!(
            "{settings} {} SET default_transaction_read_only = off; SET default_transaction_isolation = 'serializable'; \
             SET default_transaction_deferrable = off; SET statement_timeout = 0; SET lock_timeout = {}; \
             SET idle_in_transaction_session_timeout = {}; \
             SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off';",
            holding.session_setting(),
            milliseconds(LOCK_TIMEOUT),
            milliseconds(IDLE_TRANSACTION_TIMEOUT)
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
                match holding.verify_held(client).await {
                    Ok(()) => Ok(()),
                    Err(PgError::Postgres(error)) => Err(HookError::Backend(error)),
                    Err(PgError::Store(error)) => Err(HookError::message(error.sentence().to_owned())),
                }
            })
        });
        Ok(Self {
            reads: ConnectionPool::new(target, sizes.reads, sizes.read_timeout, reads)?,
            writes: ConnectionPool::new(target, sizes.writes, sizes.write_timeout.min(LOCK_TIMEOUT), writes)?,
        })
    }

    /// Closes idle connections, in a loop. Each pool keeps one, since the server may refuse another one later. Also tries
    /// again whether the server accepts as many connections as are configured.
    pub(super) async fn reap_idle(self) {
        loop {
            tokio::time::sleep(REAP_INTERVAL).await;
            for pool in [&self.reads, &self.writes] {
                let mut open = pool.pool.status().size;
                pool.pool.retain(|_, metrics| {
                    let is_kept = metrics.last_used() < IDLE_TIMEOUT || open <= 1;
                    open -= usize::from(!is_kept);
                    is_kept
                });
                pool.slots.restore();
            }
        }
    }

    /// Refuses further acquisitions and closes idle connections.
    pub(super) fn close(&self) {
        for pool in [&self.reads, &self.writes] {
            pool.pool.close();
            pool.slots.free.close();
        }
    }
}

impl Slots {
    fn new(max: usize) -> Arc<Self> {
        Arc::new(Self { max, free: Arc::new(Semaphore::new(max)), removed: AtomicUsize::new(0) })
    }

    /// Whether other callers than this one have a slot, which they will release.
    fn has_others(&self) -> bool {
        self.removed.load(Relaxed) + self.free.available_permits() + 1 < self.max
    }

    fn remove(&self, slot: OwnedSemaphorePermit) {
        slot.forget();
        self.removed.fetch_add(1, Relaxed);
    }

    fn restore(&self) {
        self.free.add_permits(self.removed.swap(0, Relaxed));
    }
}

impl ConnectionPool {
    fn new(target: &Arc<ConnectOptions>, size: usize, wait: Duration, set_up: Hook) -> Result<Self> {
        let manager = ManagerConfig { recycling_method: RecyclingMethod::Fast };
        let manager = Manager::from_config(target.config.clone(), target.tls.clone(), manager);
        let pool = Pool::builder(manager)
            .max_size(size.max(1))
            .runtime(Runtime::Tokio1)
            .wait_timeout(Some(wait))
            // A new connection takes a few round trips, even if the timeout of a read is shorter.
            .create_timeout(Some(wait.clamp(Duration::from_secs(1), CONNECT_TIMEOUT)))
            // The most recently used connection is reused first, so that surplus ones become idle.
            .queue_mode(QueueMode::Lifo)
            .post_create(set_up)
            .build()
            .map_err(|error| StoreError::Internal(format!("no pool of connections can be made: {error}")))?;
        let slots = Slots::new(size.max(1));
        Ok(Self { pool, slots, runtime: Handle::current(), target: target.clone(), wait })
    }

    /// Acquires a connection, creating one if none is idle. If the caller stops waiting, the new connection is still
    /// completed and goes to the pool; otherwise callers that give up early would keep the pool empty.
    pub(super) async fn acquire(&self) -> Result<PooledConnection> {
        let deadline = Instant::now() + self.wait;
        loop {
            let free = tokio::time::timeout_at(deadline, self.slots.free.clone().acquire_owned()).await;
            let timed_out = || self.pool_error(PoolError::Timeout(TimeoutType::Wait));
            let slot = free.map_err(|_| timed_out())?.map_err(|_| closed_error())?;
            let pool = self.pool.clone();
            match self.detach_on_drop(CONNECT_TIMEOUT, async move { (pool.get().await, slot) }).await {
                (Ok(client), slot) => {
                    let (runtime, target) = (self.runtime.clone(), self.target.clone());
                    return Ok(PooledConnection { client: Some(client), slot: Some(slot), runtime, target });
                }
                (Err(error), slot) if is_limit_of_server(&error) && self.has_connections() => self.slots.remove(slot),
                (Err(error), _) => return Err(self.pool_error(error)),
            }
        }
    }

    /// Whether there are connections to wait for: open ones, or those that other callers use or create.
    fn has_connections(&self) -> bool {
        self.pool.status().size > 0 || self.slots.has_others()
    }

    /// Wraps `work` so that it continues for up to `longest` after its caller stopped waiting.
    pub(super) fn detach_on_drop<T: Send + 'static>(
        &self,
        longest: Duration,
        work: impl Future<Output = T> + Send + 'static,
    ) -> DetachOnDrop<T> {
        DetachOnDrop { work: Some(Box::pin(work)), longest, runtime: self.runtime.clone() }
    }

    /// Closes idle connections: one was found dead, and the others probably are too.
    pub(super) fn discard_idle(&self) {
        self.pool.retain(|_, _| false);
    }

    fn pool_error(&self, error: PoolError) -> StoreError {
        let place = &self.target.display_name;
        let unavailable = |why: &str| StoreError::Unavailable(format!("{place} is not available: {why}"));
        match error {
            PoolError::Timeout(TimeoutType::Wait) => StoreError::TimedOut(format!(
                "no connection to the database became free within {} s; try again with fewer concurrent requests",
                self.wait.as_secs_f32()
            )),
            PoolError::Timeout(_) => unavailable("connecting took too long"),
            PoolError::Backend(error) | PoolError::PostCreateHook(HookError::Backend(error)) => {
                unavailable(&describe(&error))
            }
            PoolError::PostCreateHook(HookError::Message(why)) => unavailable(&why),
            PoolError::Closed => closed_error(),
            PoolError::NoRuntimeSpecified => StoreError::Internal("a pool has no runtime".into()),
        }
    }
}

/// Whether the server refuses another connection of this role, of this database, or of any.
fn is_limit_of_server(error: &PoolError) -> bool {
    matches!(error, PoolError::Backend(error) if error.code() == Some(&SqlState::TOO_MANY_CONNECTIONS))
}

/// The future of [`ConnectionPool::detach_on_drop`].
pub(super) struct DetachOnDrop<T: Send + 'static> {
    /// `None` once it has completed.
    work: Option<BoxFuture<'static, T>>,
    longest: Duration,
    runtime: Handle,
}

impl<T: Send + 'static> Future for DetachOnDrop<T> {
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

impl<T: Send + 'static> Drop for DetachOnDrop<T> {
    fn drop(&mut self) {
        if let Some(work) = self.work.take() {
            let longest = self.longest;
            self.runtime.spawn(async move { drop(tokio::time::timeout(longest, work).await) });
        }
    }
}

impl PooledConnection {
    pub(super) fn release(mut self) {
        self.client = None;
    }

    /// A prepared statement, from the cache if possible.
    pub(super) async fn prepare(&self, sql: &str) -> std::result::Result<Statement, Error> {
        prepare(self, sql).await
    }
}

/// A prepared statement of a connection, from the cache if possible.
pub(super) async fn prepare(client: &ClientWrapper, sql: &str) -> std::result::Result<Statement, Error> {
    if client.statement_cache.size() >= MAX_STATEMENTS {
        client.statement_cache.clear();
    }
    client.prepare_cached(sql).await
}

impl Deref for PooledConnection {
    type Target = ClientWrapper;

    fn deref(&self) -> &ClientWrapper {
        self.client.as_ref().expect("a pooled connection is present until it is released")
    }
}

impl DerefMut for PooledConnection {
    fn deref_mut(&mut self) -> &mut ClientWrapper {
        self.client.as_mut().expect("a pooled connection is present until it is released")
    }
}

impl Drop for PooledConnection {
    fn drop(&mut self) {
        let Some(client) = self.client.take() else { return };
        let client = Object::take(client);
        if client.is_closed() {
            return;
        }
        // Best effort: without the cancellation, the server notices when it sends its response.
        let (token, tls, slot) = (client.cancel_token(), self.target.tls.clone(), self.slot.take());
        self.runtime.spawn(async move {
            let _ = tokio::time::timeout(Duration::from_secs(5), token.cancel_query(tls)).await;
            drop((client, slot));
        });
    }
}

pub(super) fn closed_error() -> StoreError {
    StoreError::Unavailable("the store is closed".into())
}
