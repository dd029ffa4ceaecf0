//! Reads, each on one connection of the read pool and with a timeout. A dead connection is replaced once, since reads
//! are idempotent.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use deadpool_postgres::{ClientWrapper, Transaction};
use futures_util::TryStreamExt;
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tokio_postgres::{IsolationLevel, Portal, Statement};

use super::Known;
use super::errors::Failure;
use super::sessions::{LEFT_LIMIT, Lease, Lessor, closed, prepare};
use super::statements::{Value, row_of};
use crate::rows::{Pieces, too_many_streams};
use crate::sql::{CountPlan, Plan};
use crate::{Page, Result, Row, Rows, StoreError};

/// The maximum number of rows fetched at a time, and their approximate maximum size in bytes; for the first fetch the
/// size of a row is not known.
const CHUNK: usize = 512;
const CHUNK_BYTES: usize = 512 * 1024;
const FIRST_CHUNK: usize = 32;
/// The number of buffered chunks of a stream.
const PIECES_WAITING: usize = 2;
/// The margin of our timeout after the server's, so that the server's error arrives first.
const MARGIN: Duration = Duration::from_millis(500);

/// Timeouts of reads.
#[derive(Clone, Copy)]
pub(super) struct Limits {
    /// Of a read.
    pub(super) read: Duration,
    /// Of a whole stream.
    pub(super) stream: Duration,
    /// Until the caller takes the next chunk of a stream.
    pub(super) piece: Duration,
}

/// Executes reads.
#[derive(Clone)]
pub(super) struct Reader {
    sessions: Lessor,
    limits: Limits,
    /// Limits concurrent streams, so that half of the connections remain for short reads.
    streams: Arc<Semaphore>,
}

/// A read.
pub(super) trait Ask: Send + Sync + 'static {
    type Answer: Send + 'static;

    fn on(&self, client: &mut Lease) -> impl Future<Output = Outcome<Self::Answer>> + Send;
}

type Outcome<T> = std::result::Result<T, Failure>;

impl Reader {
    pub(super) fn new(sessions: Lessor, connections: usize, limits: Limits) -> Self {
        Self { sessions, limits, streams: Arc::new(Semaphore::new((connections / 2).max(1))) }
    }

    /// Executes a read; `doing` names the action. A sent statement continues for a moment after the caller stopped
    /// waiting.
    pub(super) async fn ask<Q: Ask>(&self, question: Q, doing: &str) -> Result<Q::Answer> {
        let question = Arc::new(question);
        let limit = self.limits.read + MARGIN;
        let mut again = true;
        loop {
            let mut lease = self.sessions.lease().await?;
            let question = question.clone();
            let asking = self.sessions.finishing(LEFT_LIMIT, async move {
                let answer = timeout(limit, question.on(&mut lease)).await;
                if matches!(answer, Ok(Ok(_))) {
                    lease.give_back();
                }
                answer
            });
            match asking.await {
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(failure)) if failure.is_lost() && again => {
                    again = false;
                    self.sessions.renew();
                }
                Ok(Err(failure)) => return Err(within(failure, doing, self.limits.read)),
                Err(_) => return Err(too_long(self.limits.read)),
            }
        }
    }

    /// Streams rows from a task of its own, from one snapshot.
    pub(super) async fn stream(&self, plan: Plan, end: impl Future<Output = ()> + Send + 'static) -> Result<Rows> {
        let until = Instant::now() + self.limits.read;
        let turn = match timeout_at(until, self.streams.clone().acquire_owned()).await {
            Ok(turn) => turn.map_err(|_| closed())?,
            Err(_) => return Err(too_many_streams()),
        };
        let lease = self.sessions.lease().await?;
        let (pieces, rows) = Rows::new(PIECES_WAITING);
        let this = self.clone();
        tokio::spawn(async move {
            let outcome = tokio::select! {
                outcome = this.pump(lease, &plan, &pieces) => outcome,
                // `run_stream` notices a dropped receiver only at its next chunk, which may take long.
                () = async { pieces.left().await; sleep(LEFT_LIMIT).await } => Ok(()),
                () = end => Err(closed()),
            };
            pieces.end(outcome);
            drop(turn);
        });
        Ok(rows)
    }

    async fn pump(&self, mut lease: Lease, plan: &Plan, pieces: &Pieces) -> Result<()> {
        let limit = self.limits.stream;
        let until = Instant::now() + limit;
        // A dead connection is replaced as long as no row was sent.
        let mut again = true;
        loop {
            let mut given = false;
            let pumped = timeout_at(until, self.give(&mut lease, plan, pieces, until, &mut given)).await;
            match pumped {
                Ok(Ok(())) => {
                    lease.give_back();
                    return Ok(());
                }
                Ok(Err(failure)) if failure.is_lost() && again && !given => {
                    again = false;
                    self.sessions.renew();
                    lease = self.sessions.lease().await?;
                }
                Ok(Err(failure)) => {
                    return Err(within(failure, &format!("reading {}", plan.spec.name), limit));
                }
                Err(_) => return Err(too_long(limit)),
            }
        }
    }

    async fn give(
        &self,
        lease: &mut Lease,
        plan: &Plan,
        pieces: &Pieces,
        until: Instant,
        given: &mut bool,
    ) -> Outcome<()> {
        let statement = lease.prepare(&plan.sql).await?;
        let transaction = begin(lease).await?;
        let limit = self.limits.stream.as_millis().clamp(1, i32::MAX as u128);
        transaction.batch_execute(&format!("SET LOCAL statement_timeout = {limit}")).await?;
        let patience =
            || self.limits.piece.min(until.saturating_duration_since(Instant::now()).saturating_sub(MARGIN / 5));
        let mut collector = plan.collector();
        let mut chunks = Chunks::new(&transaction, &statement, plan).await?;
        let mut wanted = !plan.wants_nothing();
        while let (true, Some(rows)) = (wanted, chunks.next().await?) {
            for row in rows {
                wanted = wanted && collector.take(row)?;
            }
            if collector.is_ready() || !wanted {
                *given = true;
                if !pieces.give(collector.drain(), patience()).await? {
                    return end(transaction).await;
                }
            }
        }
        // Rows sorted in Rust are complete now, so the transaction can end.
        end(transaction).await?;
        collector.finish();
        let mut rest = collector.drain();
        while !rest.is_empty() {
            *given = true;
            if !pieces.give(rest, patience()).await? {
                return Ok(());
            }
            rest = collector.drain();
        }
        Ok(())
    }
}

/// Reads one document by its id.
pub(super) struct Get {
    pub(super) known: Arc<Known>,
    pub(super) id: String,
}

impl Ask for Get {
    type Answer = Option<Row>;

    async fn on(&self, client: &mut Lease) -> Outcome<Option<Row>> {
        let statement = client.prepare(&self.known.statements.get).await?;
        let row = client.query_opt(&statement, &[&Value::id(&self.id)]).await?;
        Ok(row.as_ref().map(row_of).transpose()?)
    }
}

impl Ask for Plan {
    type Answer = Page;

    async fn on(&self, client: &mut Lease) -> Outcome<Page> {
        let mut collector = self.collector();
        if self.wants_nothing() {
            return Ok(collector.page()?);
        }
        let statement = client.prepare(&self.sql).await?;
        if self.may_stop_early() {
            let transaction = begin(client).await?;
            let mut chunks = Chunks::new(&transaction, &statement, self).await?;
            let mut wanted = true;
            while let (true, Some(rows)) = (wanted, chunks.next().await?) {
                for row in rows {
                    wanted = wanted && collector.take(row)?;
                }
            }
            end(transaction).await?;
        } else {
            each(client, &statement, self, |row| collector.take(row)).await?;
        }
        Ok(collector.page()?)
    }
}

impl Ask for CountPlan {
    type Answer = u64;

    async fn on(&self, client: &mut Lease) -> Outcome<u64> {
        let statement = client.prepare(&self.sql).await?;
        let mut rows = pin!(client.query_raw(&statement, self.values()).await?);
        let mut count = 0;
        while let Some(row) = rows.try_next().await? {
            if self.is_counted_there() {
                count = row.try_get::<_, i64>(0)?.unsigned_abs();
            } else {
                self.take(&row_of(&row)?, &mut count)?;
            }
        }
        Ok(count)
    }
}

/// Readiness check.
pub(super) struct Ready;

impl Ask for Ready {
    type Answer = ();

    async fn on(&self, client: &mut Lease) -> Outcome<()> {
        let statement = prepare(client, "SELECT value FROM _store_info WHERE key = 'database_id'").await?;
        client.query_one(&statement, &[]).await?;
        Ok(())
    }
}

/// The server's current clock, not the start time of the transaction.
pub(super) struct ServerTime;

impl Ask for ServerTime {
    type Answer = SystemTime;

    async fn on(&self, client: &mut Lease) -> Outcome<SystemTime> {
        let statement = prepare(client, "SELECT clock_timestamp()").await?;
        Ok(client.query_one(&statement, &[]).await?.try_get(0)?)
    }
}

/// Passes every row of a plan to `take`.
pub(super) async fn each(
    client: &ClientWrapper,
    statement: &Statement,
    plan: &Plan,
    mut take: impl FnMut(Row) -> Result<bool>,
) -> Outcome<()> {
    let mut rows = pin!(client.query_raw(statement, plan.values()).await?);
    while let Some(row) = rows.try_next().await? {
        if !take(row_of(&row)?)? {
            break;
        }
    }
    Ok(())
}

/// Fetches the rows of a statement in chunks, so that the server produces no more than are needed.
pub(super) struct Chunks<'a> {
    transaction: &'a tokio_postgres::Transaction<'a>,
    portal: Portal,
    /// The number of rows of the next fetch; `None` at the end.
    next: Option<usize>,
}

impl<'a> Chunks<'a> {
    async fn new(transaction: &'a Transaction<'a>, statement: &Statement, plan: &Plan) -> Outcome<Self> {
        let portal = transaction.bind_raw(statement, plan.values()).await?;
        Ok(Self::of(transaction, portal))
    }

    pub(super) fn of(transaction: &'a tokio_postgres::Transaction<'a>, portal: Portal) -> Self {
        Self { transaction, portal, next: Some(FIRST_CHUNK) }
    }

    /// The next documents.
    pub(super) async fn next(&mut self) -> Outcome<Option<Vec<Row>>> {
        let Some(found) = self.next_raw().await? else { return Ok(None) };
        Ok(Some(found.iter().map(row_of).collect::<std::result::Result<Vec<_>, _>>()?))
    }

    /// The next rows, with any columns.
    pub(super) async fn next_raw(&mut self) -> Outcome<Option<Vec<tokio_postgres::Row>>> {
        let Some(wanted) = self.next else { return Ok(None) };
        let found = self.transaction.query_portal(&self.portal, wanted as i32).await?;
        let bytes = found.iter().map(|row| row.raw_size_bytes()).sum::<usize>().max(1);
        self.next = (found.len() == wanted).then(|| (CHUNK_BYTES * found.len() / bytes).clamp(1, CHUNK));
        Ok(Some(found))
    }
}

async fn begin(client: &mut ClientWrapper) -> Outcome<Transaction<'_>> {
    let transaction = client.build_transaction().isolation_level(IsolationLevel::RepeatableRead).read_only(true);
    Ok(transaction.start().await?)
}

/// Rolls back: nothing was changed, so this equals a commit and cannot fail for reasons of its own.
async fn end(transaction: Transaction<'_>) -> Outcome<()> {
    Ok(transaction.rollback().await?)
}

/// Translates the error of a read. A cancelled statement has exceeded the timeout.
fn within(failure: Failure, doing: &str, limit: Duration) -> StoreError {
    if failure.is_cancelled() { too_long(limit) } else { failure.into_store(doing) }
}

fn too_long(limit: Duration) -> StoreError {
    StoreError::TimedOut(format!(
        "the read took longer than {} s; narrow the query, or filter by indexed fields",
        limit.as_secs_f32()
    ))
}
