//! Connections to the database: a pool that reads and a pool that writes, made when needed and closed when nobody has
//! needed them for a while, how a session on them is set up, and what becomes of one that is left in its middle.

use std::future::Future;
use std::ops::{Deref, DerefMut};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use deadpool_postgres::{
    Client, ClientWrapper, Hook, HookError, Manager, ManagerConfig, Object, Pool, PoolError, QueueMode,
    RecyclingMethod, Runtime, TimeoutType, Timeouts,
};
use tokio::runtime::Handle;
use tokio_postgres::{Error, Statement};

use super::errors::{Failure, describe};
use super::hold::Holding;
use super::target::{CONNECT_LIMIT, Target};
use crate::sql::quote;
use crate::{BoxFuture, Result, StoreError};

/// How long a connection is kept that nobody needs.
const IDLE: Duration = Duration::from_secs(300);
/// The most prepared statements of one connection; queries come in as many shapes as callers like.
const MOST_STATEMENTS: usize = 256;
/// How long a statement waits for a lock that another program holds.
const LOCK_LIMIT: Duration = Duration::from_secs(30);
/// How long the server keeps a writing transaction whose daemon says nothing, with all its locks.
const SILENCE_LIMIT: Duration = Duration::from_secs(60);

/// How long a statement goes on that nobody waits for any more. Most end within milliseconds, and a connection given back
/// costs nothing, where one that is closed has to be made anew.
pub(super) const LEFT_LIMIT: Duration = Duration::from_secs(1);

/// What every session of ours has. The schema comes first where names are looked up. JIT compiling costs more than any
/// statement here. That a page anywhere costs about as much as the next one is true of disks without heads and of
/// memory; with the default of four times as much, plans that do not know the limit yet (generic ones) would rather
/// sort a whole table than walk an index.
pub(super) fn settings(schema: &str) -> String {
    format!(
        "SET search_path = {}; SET client_min_messages = warning; SET jit = off; SET random_page_cost = 1.1; \
         SET tcp_keepalives_idle = 10; SET tcp_keepalives_interval = 5; SET tcp_keepalives_count = 3;",
        quote(schema)
    )
}

/// The two pools.
#[derive(Clone)]
pub(super) struct Sessions {
    pub(super) reads: Lessor,
    pub(super) writes: Lessor,
}

/// A pool.
#[derive(Clone)]
pub(super) struct Lessor {
    pool: Pool,
    runtime: Handle,
    target: Arc<Target>,
    wait: Duration,
}

/// A connection taken from a pool. It goes back when [`Lease::give_back`] says that the conversation came to its end;
/// otherwise it is closed and the server is told to stop, so that nobody waits behind what nobody wants any more.
pub(super) struct Lease {
    client: Option<Client>,
    runtime: Handle,
    target: Arc<Target>,
}

/// How many connections, and how long they may take.
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
        // All writes are serializable, also those of one statement: a transaction can be checked against others only if
        // these are checked too. A server that answers before the write is on disk is told not to.
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

    /// Closes, for as long as it runs, the connections that nobody has needed for a while.
    pub(super) async fn tidy(self) {
        loop {
            tokio::time::sleep(IDLE / 4).await;
            for pool in [&self.reads.pool, &self.writes.pool] {
                pool.retain(|_, metrics| metrics.last_used() < IDLE);
            }
        }
    }

    /// Lets no more connections be taken, and closes those that nobody uses.
    pub(super) fn close(&self) {
        self.reads.pool.close();
        self.writes.pool.close();
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
            // Making one takes a few round trips, however little time there is for an answer.
            .create_timeout(Some(wait.clamp(Duration::from_secs(1), CONNECT_LIMIT)))
            // The one used last is used again, so that those that are too many are found to be idle.
            .queue_mode(QueueMode::Lifo)
            .post_create(set_up)
            .build()
            .map_err(|error| StoreError::Internal(format!("no pool of connections can be made: {error}")))?;
        Ok(Self { pool, runtime: Handle::current(), target: target.clone(), wait })
    }

    /// A connection, made if there is none that is free. Where whoever asked leaves while it is made, it is there for the
    /// next one: who asks and leaves all the time does not keep the others without.
    pub(super) async fn lease(&self) -> Result<Lease> {
        let pool = self.pool.clone();
        let at_once = Timeouts { wait: Some(Duration::ZERO), ..pool.timeouts() };
        let got = match self.finishing(CONNECT_LIMIT, async move { pool.timeout_get(&at_once).await }).await {
            Err(PoolError::Timeout(TimeoutType::Wait)) => self.pool.get().await,
            got => got,
        };
        let client = got.map_err(|error| self.refused(error))?;
        Ok(Lease { client: Some(client), runtime: self.runtime.clone(), target: self.target.clone() })
    }

    /// Work that goes on for so long where whoever waits for it leaves.
    pub(super) fn finishing<T: Send + 'static>(
        &self,
        longest: Duration,
        work: impl Future<Output = T> + Send + 'static,
    ) -> Finishing<T> {
        Finishing { work: Some(Box::pin(work)), longest, runtime: self.runtime.clone() }
    }

    /// Closes the connections that nobody uses: one of them was found dead, and the others are likely to be.
    pub(super) fn renew(&self) {
        self.pool.retain(|_, _| false);
    }

    fn refused(&self, error: PoolError) -> StoreError {
        let place = &self.target.place;
        let away = |why: &str| StoreError::Unavailable(format!("{place} cannot be used now: {why}"));
        match error {
            PoolError::Timeout(TimeoutType::Wait) => StoreError::TimedOut(format!(
                "no connection to the database was free within {} s; try again, and ask for less at a time",
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

/// What [`Lessor::finishing`] gives.
pub(super) struct Finishing<T: Send + 'static> {
    /// None once it has ended.
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

    /// A prepared statement, from before if there is one.
    pub(super) async fn prepare(&self, sql: &str) -> std::result::Result<Statement, Error> {
        prepare(self, sql).await
    }
}

/// A prepared statement of a connection, from before if there is one.
pub(super) async fn prepare(client: &ClientWrapper, sql: &str) -> std::result::Result<Statement, Error> {
    if client.statement_cache.size() >= MOST_STATEMENTS {
        client.statement_cache.clear();
    }
    client.prepare_cached(sql).await
}

impl Deref for Lease {
    type Target = ClientWrapper;

    fn deref(&self) -> &ClientWrapper {
        self.client.as_ref().expect("a lease has its connection until it is given back")
    }
}

impl DerefMut for Lease {
    fn deref_mut(&mut self) -> &mut ClientWrapper {
        self.client.as_mut().expect("a lease has its connection until it is given back")
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let Some(client) = self.client.take() else { return };
        let client = Object::take(client);
        if client.is_closed() {
            return;
        }
        // Best effort: a server that does not hear of it finds out when it wants to answer.
        let (token, tls) = (client.cancel_token(), self.target.tls.clone());
        self.runtime.spawn(async move {
            let _ = tokio::time::timeout(Duration::from_secs(5), token.cancel_query(tls)).await;
            drop(client);
        });
    }
}

pub(super) fn closed() -> StoreError {
    StoreError::Unavailable("the store is closed".into())
}
