//! The schema lock: one daemon at a time uses a schema, guarded by an advisory lock of the server on a dedicated
//! connection. The server releases it when that connection ends, so a dead holder blocks others only until the server
//! notices.
//!
//! The connection may also be lost while its daemon lives. Then writes are refused until the lock is taken again, and
//! permanently if another daemon has held it meanwhile: the caches of this daemon may be stale.
//!
//! A stalled daemon may learn of the loss late, with a write still on its way. Therefore each write asks the server, in
//! its own transaction, whether its opening of the schema is still the latest one (a fencing token). It does so under a
//! second lock, which writes share and an opening takes exclusively: an opening waits for earlier writes, and later
//! ones of the previous holder are refused.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{sync::Notify, task::JoinHandle};
use tokio_postgres::{Client, Error};

use super::{
    connection_string::{CONNECT_TIMEOUT, ConnectOptions},
    errors::{FENCED, PgError, describe},
};
use crate::{Result, StoreError, sql::quote};

/// "OpOr": the first half of the advisory lock key; the second is a hash of the schema name.
const LOCK_CLASS: u32 = 0x4F70_4F72;
/// "OpOs": the same, for the lock that writes share and an opening takes exclusively.
const FENCE_CLASS: u32 = 0x4F70_4F73;
/// How long a start waits for a holder that is just exiting.
const HOLDER_GRACE: Duration = Duration::from_secs(3);
/// How long an opening waits for the writes of the previous holder before it terminates them, and in total.
const WRITES_GRACE: Duration = Duration::from_secs(1);
const WRITES_LIMIT: Duration = Duration::from_secs(30);

/// The state of the schema lock, shared with writers.
#[derive(Clone)]
pub(super) struct SchemaLock(Arc<Shared>);

/// The task that keeps the lock. Dropping it releases the schema.
pub(super) struct LockKeeper {
    lock: SchemaLock,
    task: Mutex<Option<JoinHandle<()>>>,
}

struct Shared {
    target: Arc<ConnectOptions>,
    schema: String,
    /// The fencing token of this opening, sent with its writes.
    fencing_token: i64,
    state: Mutex<State>,
    /// Signalled when the server does not show the lock.
    lock_suspect: Notify,
    closing: Notify,
}

enum State {
    /// Held by the server session with this pid.
    Held(i32),
    /// Not held, for this reason.
    Lost(String),
}

/// A connection that holds the lock.
pub(super) struct LockConnection {
    pub(super) client: Client,
    connection: JoinHandle<()>,
    session: i32,
}

impl LockConnection {
    /// Acquires the lock of a schema on this connection. `InUse` if another session keeps it.
    pub(super) async fn acquire(
        target: &ConnectOptions,
        schema: &str,
        client: Client,
        connection: JoinHandle<()>,
    ) -> std::result::Result<Self, PgError> {
        let until = tokio::time::Instant::now() + HOLDER_GRACE;
        loop {
            if let Some(session) = try_lock(&client, schema).await? {
                return Ok(Self { client, connection, session });
            }
            if tokio::time::Instant::now() > until {
                let holder = holder(&client, schema).await?;
                return Err(PgError::Store(StoreError::InUse(format!(
                    "the schema `{schema}` of {} is in use by another daemon ({holder}); stop that one, or choose another \
                     schema",
                    target.display_name
                ))));
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Waits for running writes of the previous holder and terminates those that do not finish, so that later reads see
    /// the final state. No write is possible until [`LockConnection::allow_writes`].
    pub(super) async fn block_writers(&self, schema: &str) -> std::result::Result<(), PgError> {
        let began = tokio::time::Instant::now();
        let lock = format!("SELECT WHERE pg_try_advisory_lock({})", lock_key(FENCE_CLASS, schema));
        while self.client.query_typed(&lock, &[]).await?.is_empty() {
            if began.elapsed() > WRITES_LIMIT {
                return Err(PgError::Store(StoreError::InUse(format!(
                    "a write of the previous daemon on the schema `{schema}` does not finish; terminate its sessions \
                     at the server"
                ))));
            }
            if began.elapsed() > WRITES_GRACE {
                let end = format!(
                    "SELECT pg_terminate_backend(l.pid) FROM pg_locks l WHERE {}",
                    lock_condition(FENCE_CLASS, schema)
                );
                // Without the privilege to do so, this runs into the timeout.
                let _ = self.client.query_typed(&end, &[]).await;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    }

    pub(super) async fn allow_writes(&self, schema: &str) -> std::result::Result<(), PgError> {
        let sql = format!("SELECT pg_advisory_unlock({})", lock_key(FENCE_CLASS, schema));
        Ok(self.client.batch_execute(&sql).await?)
    }
}

impl LockKeeper {
    /// Starts the task that keeps the lock. `opening` is the id of this opening, which the schema records.
    pub(super) fn new(target: Arc<ConnectOptions>, schema: String, lock: LockConnection, opening: String) -> Self {
        let shared = Shared {
            target,
            schema,
            fencing_token: fencing_token(&opening),
            state: Mutex::new(State::Held(lock.session)),
            lock_suspect: Notify::new(),
            closing: Notify::new(),
        };
        let holding = SchemaLock(Arc::new(shared));
        let task = tokio::spawn(holding.clone().keep_loop(lock, opening));
        Self { lock: holding, task: Mutex::new(Some(task)) }
    }

    pub(super) fn lock(&self) -> &SchemaLock {
        &self.lock
    }

    /// Releases the schema, so that another daemon can open it immediately.
    pub(super) async fn release(&self) {
        let task = self.task.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(mut task) = task {
            self.lock.0.closing.notify_one();
            if tokio::time::timeout(Duration::from_secs(5), &mut task).await.is_err() {
                task.abort();
            }
        }
    }
}

impl Drop for LockKeeper {
    fn drop(&mut self) {
        if let Some(task) = self.task.lock().unwrap_or_else(PoisonError::into_inner).take() {
            task.abort();
        }
    }
}

impl SchemaLock {
    /// Refuses writes while the lock is not held.
    pub(super) fn check(&self) -> Result<()> {
        self.session().map(drop)
    }

    /// Asks the server for the lock before a new connection is used for writes: after a network outage, this daemon may
    /// not have noticed yet that it lost the lock.
    pub(super) async fn verify_held(&self, client: &Client) -> std::result::Result<(), PgError> {
        loop {
            let session = self.session()?;
            let sql =
                format!("SELECT FROM pg_locks l WHERE l.pid = {session} AND {}", schema_lock_condition(&self.0.schema));
            if !client.query_typed(&sql, &[]).await?.is_empty() {
                return Ok(());
            }
            // The keeper may have taken the lock again in between, on another session.
            if self.session()? == session {
                self.0.lock_suspect.notify_one();
                return Err(StoreError::Unavailable(format!("the lock on {} was lost", self.schema())).into());
            }
        }
    }

    /// The session setting with the fencing token of this opening.
    pub(super) fn session_setting(&self) -> String {
        format!("SET openorch.opening = {};", self.0.fencing_token)
    }

    fn session(&self) -> Result<i32> {
        match &*self.0.state.lock().unwrap_or_else(PoisonError::into_inner) {
            State::Held(session) => Ok(*session),
            State::Lost(why) => Err(StoreError::Unavailable(format!("writes are refused: {why}"))),
        }
    }

    fn set(&self, state: State) {
        *self.0.state.lock().unwrap_or_else(PoisonError::into_inner) = state;
    }

    fn mark_lost(&self, why: String) {
        self.set(State::Lost(why));
    }

    fn schema(&self) -> String {
        format!("the schema `{}` of {}", self.0.schema, self.0.target.display_name)
    }

    async fn keep_loop(self, mut lock: LockConnection, opening: String) {
        loop {
            tokio::select! {
                _ = &mut lock.connection => {}
                () = self.0.lock_suspect.notified() => {}
                () = self.0.closing.notified() => {
                    self.mark_lost("the store is closed".into());
                    let sql = format!("SELECT pg_advisory_unlock({})", schema_lock_key(&self.0.schema));
                    // Best effort: closing the connection does the same.
                    let _ = lock.client.batch_execute(&sql).await;
                    return;
                }
            }
            let why = format!("the connection that holds the lock on {} was lost", self.schema());
            tracing::warn!("{why}; writes are refused until the lock is taken again");
            self.mark_lost(why);
            drop(lock);
            lock = tokio::select! {
                regained = self.reacquire(&opening) => match regained {
                    Some(lock) => lock,
                    None => return,
                },
                () = self.0.closing.notified() => return self.mark_lost("the store is closed".into()),
            };
            tracing::info!("the lock on {} was taken again", self.schema());
            self.set(State::Held(lock.session));
        }
    }

    /// Takes the lock again, with retries; `None` if another daemon has opened the schema.
    async fn reacquire(&self, opening: &str) -> Option<LockConnection> {
        let mut pause = Duration::from_millis(50);
        loop {
            match self.try_reacquire(opening).await {
                Ok(Some(lock)) => return Some(lock),
                Ok(None) => {
                    let why = format!("another daemon has used {} meanwhile; restart this one", self.schema());
                    tracing::error!("{why}");
                    self.mark_lost(why);
                    return None;
                }
                Err(PgError::Postgres(error)) => {
                    self.mark_lost(format!("{} cannot be reached: {}", self.0.target.display_name, describe(&error)));
                }
                Err(PgError::Store(error)) => self.mark_lost(error.sentence().to_owned()),
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_secs(2));
        }
    }

    async fn try_reacquire(&self, opening: &str) -> std::result::Result<Option<LockConnection>, PgError> {
        let (client, connection) = self.0.target.connect(CONNECT_TIMEOUT).await?;
        set_up_session(&client).await?;
        let lock = LockConnection::acquire(&self.0.target, &self.0.schema, client, connection).await?;
        Ok((read_opening(&lock.client, &self.0.schema).await?.as_deref() == Some(opening)).then_some(lock))
    }
}

/// Keeps the server from ending the session that holds the lock, and lets it detect a dead daemon.
pub(super) async fn set_up_session(client: &Client) -> std::result::Result<(), Error> {
    client
        .batch_execute(
            "SET tcp_keepalives_idle = 10; SET tcp_keepalives_interval = 5; SET tcp_keepalives_count = 3; \
             SET statement_timeout = 0; SET lock_timeout = 0; SET idle_in_transaction_session_timeout = 0; \
             SELECT set_config(name, '0', false) FROM pg_settings WHERE name = 'idle_session_timeout'",
        )
        .await
}

/// Creates the fence: the sequence that records the current opening, and the function that every write calls to check
/// it and to allocate a version. The opening is stored in a sequence because a transaction sees the current value of a
/// sequence, and not the one from before it waited for the lock.
pub(super) fn create_fence_sql(schema: &str, opening: &str) -> String {
    let (lock, opening) = (lock_key(FENCE_CLASS, schema), fencing_token(opening));
    let body = format!(
        "BEGIN
           PERFORM pg_advisory_xact_lock_shared({lock});
           IF (SELECT last_value FROM _store_opening) IS DISTINCT FROM
                nullif(current_setting('openorch.opening', true), '')::bigint THEN
             RAISE 'another daemon has opened the schema meanwhile' USING ERRCODE = '{FENCED}';
           END IF;
           RETURN nextval('_store_version');
         END"
    );
    // Only its owner may replace a function, and the database user may have changed since.
    format!(
        "CREATE SEQUENCE IF NOT EXISTS _store_opening;
         DO $do$ BEGIN
           IF NOT EXISTS (SELECT FROM pg_proc WHERE proname = '_store_next' AND prosrc = $body${body}$body$
                          AND pronamespace = current_schema()::regnamespace) THEN
             CREATE OR REPLACE FUNCTION _store_next() RETURNS bigint LANGUAGE plpgsql AS $body${body}$body$;
           END IF;
         END $do$;
         SELECT setval('_store_opening', {opening});"
    )
}

/// The fencing token of an opening.
fn fencing_token(opening: &str) -> i64 {
    let digits = opening.get(..15).unwrap_or(opening);
    i64::from_str_radix(digits, 16).unwrap_or_default().max(1)
}

/// The opening that the schema records.
async fn read_opening(client: &Client, schema: &str) -> std::result::Result<Option<String>, Error> {
    let sql = format!("SELECT value FROM {}._store_info WHERE key = 'opening'", quote(schema));
    let rows = client.query_typed(&sql, &[]).await?;
    rows.first().map(|row| row.try_get(0)).transpose()
}

/// Tries to take the lock; returns the pid of the server session.
async fn try_lock(client: &Client, schema: &str) -> std::result::Result<Option<i32>, Error> {
    let sql = format!("SELECT pg_backend_pid() WHERE pg_try_advisory_lock({})", schema_lock_key(schema));
    let rows = client.query_typed(&sql, &[]).await?;
    rows.first().map(|row| row.try_get(0)).transpose()
}

/// A description of the holder of the lock, for messages.
async fn holder(client: &Client, schema: &str) -> std::result::Result<String, Error> {
    let sql = format!(
        "SELECT a.application_name, a.pid, host(a.client_addr) FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid \
         WHERE {}",
        schema_lock_condition(schema)
    );
    let rows = client.query_typed(&sql, &[]).await?;
    let Some(row) = rows.first() else { return Ok("which has just released it".into()) };
    let (name, session): (Option<String>, i32) = (row.try_get(0)?, row.try_get(1)?);
    let address: Option<String> = row.try_get(2)?;
    Ok(format!(
        "`{}`{}, session {session} of the server",
        name.unwrap_or_default(),
        address.map(|address| format!(" at {address}")).unwrap_or_default()
    ))
}

/// The SQL condition for `l`, a row of `pg_locks`, to be the granted lock of a schema.
fn schema_lock_condition(schema: &str) -> String {
    lock_condition(LOCK_CLASS, schema)
}

fn lock_condition(class: u32, schema: &str) -> String {
    format!(
        "l.locktype = 'advisory' AND l.granted AND l.objsubid = 2 AND l.classid::int8 = {class} \
         AND l.objid::int8 = {} AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())",
        hash(schema)
    )
}

/// The key of the advisory lock: two signed 32-bit integers.
fn schema_lock_key(schema: &str) -> String {
    lock_key(LOCK_CLASS, schema)
}

fn lock_key(class: u32, schema: &str) -> String {
    format!("{}, {}", class.cast_signed(), hash(schema).cast_signed())
}

/// FNV-1a.
fn hash(text: &str) -> u32 {
    text.bytes().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}
