//! One daemon at a time holds a schema: an advisory lock of the server, on a connection of its own. The server lets go
//! of it when that connection ends, so a dead holder blocks nobody for longer than it takes to notice.
//!
//! A connection may also end while its daemon lives. Then writes are refused until the lock is taken again, and for good
//! if another daemon has held it meanwhile: what this one has in memory may not be what is stored any more.
//!
//! A daemon that stands still may learn late of that, and a write of it may be on its way. So each write asks the server,
//! in its own transaction, whether the opening it belongs to is still the last one, under a lock that writes share and an
//! opening has to itself: an opening waits for the writes before it, and those behind it are refused.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio_postgres::{Client, Error};

use super::errors::{FENCED, Failure, describe};
use super::target::{CONNECT_LIMIT, Target};
use crate::sql::quote;
use crate::{Result, StoreError};

/// "OpOr": the first half of the number of the lock; the other is made of the schema's name.
const LOCK_CLASS: u32 = 0x4F70_4F72;
/// "OpOs": the same, of the lock that writes share and an opening has to itself.
const FENCE_CLASS: u32 = 0x4F70_4F73;
/// How long a start waits for a holder that is just ending.
const GRACE: Duration = Duration::from_secs(3);
/// How long an opening waits for the writes of a holder before, until it ends them; and then for their end.
const WRITES_GRACE: Duration = Duration::from_secs(1);
const WRITES_LIMIT: Duration = Duration::from_secs(30);

/// The hold on a schema, to be asked from anywhere.
#[derive(Clone)]
pub(super) struct Holding(Arc<Shared>);

/// The task that keeps it. Dropping this lets the schema go.
pub(super) struct Keeper {
    holding: Holding,
    task: Mutex<Option<JoinHandle<()>>>,
}

struct Shared {
    target: Arc<Target>,
    schema: String,
    /// What the writes of this opening say of themselves.
    fence: i64,
    state: Mutex<State>,
    /// The lock was looked for and was not there.
    doubt: Notify,
    closing: Notify,
}

enum State {
    /// By the session with this number at the server.
    Held(i32),
    /// Why it is not held.
    Lost(String),
}

/// A connection that has the lock.
pub(super) struct Lock {
    pub(super) client: Client,
    connection: JoinHandle<()>,
    session: i32,
}

impl Lock {
    /// Takes the lock of a schema on this connection. `InUse` where another has it and keeps it.
    pub(super) async fn take(
        target: &Target,
        schema: &str,
        client: Client,
        connection: JoinHandle<()>,
    ) -> std::result::Result<Self, Failure> {
        let until = tokio::time::Instant::now() + GRACE;
        loop {
            if let Some(session) = try_lock(&client, schema).await? {
                return Ok(Self { client, connection, session });
            }
            if tokio::time::Instant::now() > until {
                let holder = holder(&client, schema).await?;
                return Err(Failure::Store(StoreError::InUse(format!(
                    "the schema `{schema}` of {} is in use by another daemon ({holder}); stop that one, or choose another \
                     schema",
                    target.place
                ))));
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Waits until nothing of a holder before is being written any more, and ends what does not end: all that is read from
    /// now on is to be the last word. Nobody writes until [`Lock::let_write`].
    pub(super) async fn shut_writers_out(&self, schema: &str) -> std::result::Result<(), Failure> {
        let began = tokio::time::Instant::now();
        let lock = format!("SELECT WHERE pg_try_advisory_lock({})", numbers(FENCE_CLASS, schema));
        while self.client.query_typed(&lock, &[]).await?.is_empty() {
            if began.elapsed() > WRITES_LIMIT {
                return Err(Failure::Store(StoreError::InUse(format!(
                    "a write of the daemon that had the schema `{schema}` before does not end; end its sessions at the server"
                ))));
            }
            if began.elapsed() > WRITES_GRACE {
                let end =
                    format!("SELECT pg_terminate_backend(l.pid) FROM pg_locks l WHERE {}", is_of(FENCE_CLASS, schema));
                // One who may not is told at the end.
                let _ = self.client.query_typed(&end, &[]).await;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    }

    pub(super) async fn let_write(&self, schema: &str) -> std::result::Result<(), Failure> {
        let sql = format!("SELECT pg_advisory_unlock({})", numbers(FENCE_CLASS, schema));
        Ok(self.client.batch_execute(&sql).await?)
    }
}

impl Keeper {
    /// Keeps the lock. `opening` is what the schema remembers of this opening of it.
    pub(super) fn new(target: Arc<Target>, schema: String, lock: Lock, opening: String) -> Self {
        let shared = Shared {
            target,
            schema,
            fence: fence_of(&opening),
            state: Mutex::new(State::Held(lock.session)),
            doubt: Notify::new(),
            closing: Notify::new(),
        };
        let holding = Holding(Arc::new(shared));
        let task = tokio::spawn(holding.clone().keep(lock, opening));
        Self { holding, task: Mutex::new(Some(task)) }
    }

    pub(super) fn holding(&self) -> &Holding {
        &self.holding
    }

    /// Lets the schema go, so that another daemon can have it at once.
    pub(super) async fn let_go(&self) {
        let task = self.task.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(mut task) = task {
            self.holding.0.closing.notify_one();
            if tokio::time::timeout(Duration::from_secs(5), &mut task).await.is_err() {
                task.abort();
            }
        }
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        if let Some(task) = self.task.lock().unwrap_or_else(PoisonError::into_inner).take() {
            task.abort();
        }
    }
}

impl Holding {
    /// Whether this daemon may write.
    pub(super) fn check(&self) -> Result<()> {
        self.session().map(drop)
    }

    /// Asks the server whether it sees the lock, before a new connection is written on: a daemon that was cut off for a
    /// while may not know yet that it has lost it.
    pub(super) async fn confirm(&self, client: &Client) -> std::result::Result<(), Failure> {
        loop {
            let session = self.session()?;
            let sql = format!("SELECT FROM pg_locks l WHERE l.pid = {session} AND {}", is_lock(&self.0.schema));
            if !client.query_typed(&sql, &[]).await?.is_empty() {
                return Ok(());
            }
            // It may have been taken again between the two looks.
            if self.session()? == session {
                self.0.doubt.notify_one();
                return Err(StoreError::Unavailable(format!("the hold on {} was lost", self.schema())).into());
            }
        }
    }

    /// What a session says that writes for this opening.
    pub(super) fn introduction(&self) -> String {
        format!("SET openorch.opening = {};", self.0.fence)
    }

    fn session(&self) -> Result<i32> {
        match &*self.0.state.lock().unwrap_or_else(PoisonError::into_inner) {
            State::Held(session) => Ok(*session),
            State::Lost(why) => Err(StoreError::Unavailable(format!("nothing can be written now: {why}"))),
        }
    }

    fn set(&self, state: State) {
        *self.0.state.lock().unwrap_or_else(PoisonError::into_inner) = state;
    }

    fn lost(&self, why: String) {
        self.set(State::Lost(why));
    }

    fn schema(&self) -> String {
        format!("the schema `{}` of {}", self.0.schema, self.0.target.place)
    }

    async fn keep(self, mut lock: Lock, opening: String) {
        loop {
            tokio::select! {
                _ = &mut lock.connection => {}
                () = self.0.doubt.notified() => {}
                () = self.0.closing.notified() => {
                    self.lost("the store is closed".into());
                    let sql = format!("SELECT pg_advisory_unlock({})", lock_number(&self.0.schema));
                    // Best effort: the end of the connection does the same.
                    let _ = lock.client.batch_execute(&sql).await;
                    return;
                }
            }
            let why = format!("the connection that holds {} was lost", self.schema());
            tracing::warn!("{why}; nothing is written until it is there again");
            self.lost(why);
            drop(lock);
            lock = tokio::select! {
                regained = self.regain(&opening) => match regained {
                    Some(lock) => lock,
                    None => return,
                },
                () = self.0.closing.notified() => return self.lost("the store is closed".into()),
            };
            tracing::info!("{} is held again", self.schema());
            self.set(State::Held(lock.session));
        }
    }

    /// Takes the lock again, as soon as that can be; `None` where it must not be any more.
    async fn regain(&self, opening: &str) -> Option<Lock> {
        let mut pause = Duration::from_millis(50);
        loop {
            match self.try_regain(opening).await {
                Ok(Some(lock)) => return Some(lock),
                Ok(None) => {
                    let why = format!("another daemon has used {} meanwhile; start this one again", self.schema());
                    tracing::error!("{why}");
                    self.lost(why);
                    return None;
                }
                Err(Failure::Postgres(error)) => {
                    self.lost(format!("{} cannot be reached: {}", self.0.target.place, describe(&error)));
                }
                Err(Failure::Store(error)) => self.lost(error.sentence().to_owned()),
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_secs(2));
        }
    }

    async fn try_regain(&self, opening: &str) -> std::result::Result<Option<Lock>, Failure> {
        let (client, connection) = self.0.target.connect(CONNECT_LIMIT).await?;
        set_up(&client).await?;
        let lock = Lock::take(&self.0.target, &self.0.schema, client, connection).await?;
        Ok((read_opening(&lock.client, &self.0.schema).await?.as_deref() == Some(opening)).then_some(lock))
    }
}

/// Keeps the server from ending the session that holds the lock, and lets it notice when the daemon is gone.
pub(super) async fn set_up(client: &Client) -> std::result::Result<(), Error> {
    client
        .batch_execute(
            "SET tcp_keepalives_idle = 10; SET tcp_keepalives_interval = 5; SET tcp_keepalives_count = 3; \
             SET statement_timeout = 0; SET lock_timeout = 0; SET idle_in_transaction_session_timeout = 0; \
             SELECT set_config(name, '0', false) FROM pg_settings WHERE name = 'idle_session_timeout'",
        )
        .await
}

/// Where an opening is written down for the writes after it, and what each of them asks before it takes a version. What
/// an opening is goes into a sequence, since that is the one thing that a transaction sees as it is now and not as it was
/// when the transaction began, before it had the lock.
pub(super) fn fence(schema: &str, opening: &str) -> String {
    let (lock, opening) = (numbers(FENCE_CLASS, schema), fence_of(opening));
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
    // Only its owner may replace a function, and the user this connects as may be another one by now.
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

/// The number of an opening.
fn fence_of(opening: &str) -> i64 {
    let digits = opening.get(..15).unwrap_or(opening);
    i64::from_str_radix(digits, 16).unwrap_or_default().max(1)
}

/// The opening that the schema remembers.
async fn read_opening(client: &Client, schema: &str) -> std::result::Result<Option<String>, Error> {
    let sql = format!("SELECT value FROM {}._store_info WHERE key = 'opening'", quote(schema));
    let rows = client.query_typed(&sql, &[]).await?;
    rows.first().map(|row| row.try_get(0)).transpose()
}

/// The number of this session, if it has the lock now.
async fn try_lock(client: &Client, schema: &str) -> std::result::Result<Option<i32>, Error> {
    let sql = format!("SELECT pg_backend_pid() WHERE pg_try_advisory_lock({})", lock_number(schema));
    let rows = client.query_typed(&sql, &[]).await?;
    rows.first().map(|row| row.try_get(0)).transpose()
}

/// Who has the lock, for people.
async fn holder(client: &Client, schema: &str) -> std::result::Result<String, Error> {
    let sql = format!(
        "SELECT a.application_name, a.pid, host(a.client_addr) FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid \
         WHERE {}",
        is_lock(schema)
    );
    let rows = client.query_typed(&sql, &[]).await?;
    let Some(row) = rows.first() else { return Ok("which has just let it go".into()) };
    let (name, session): (Option<String>, i32) = (row.try_get(0)?, row.try_get(1)?);
    let address: Option<String> = row.try_get(2)?;
    Ok(format!(
        "`{}`{}, session {session} of the server",
        name.unwrap_or_default(),
        address.map(|address| format!(" at {address}")).unwrap_or_default()
    ))
}

/// Whether `l`, a row of `pg_locks`, is the lock of a schema and somebody has it.
fn is_lock(schema: &str) -> String {
    is_of(LOCK_CLASS, schema)
}

fn is_of(class: u32, schema: &str) -> String {
    format!(
        "l.locktype = 'advisory' AND l.granted AND l.objsubid = 2 AND l.classid::int8 = {class} \
         AND l.objid::int8 = {} AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())",
        hash(schema)
    )
}

/// The arguments of the functions that lock: two numbers of 32 bits, with a sign.
fn lock_number(schema: &str) -> String {
    numbers(LOCK_CLASS, schema)
}

fn numbers(class: u32, schema: &str) -> String {
    format!("{}, {}", class.cast_signed(), hash(schema).cast_signed())
}

/// FNV-1a.
fn hash(text: &str) -> u32 {
    text.bytes().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}
