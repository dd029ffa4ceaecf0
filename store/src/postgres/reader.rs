//! Reads, each on one connection of the read pool and with a timeout. A dead connection is replaced once, since reads
//! are idempotent.

use std::{
    future::Future,
    pin::pin,
    sync::Arc,
    time::{Duration, SystemTime},
};

use deadpool_postgres::{ClientWrapper, Transaction};
use futures_util::TryStreamExt;
use tokio::{
    sync::Semaphore,
    time::{Instant, sleep, timeout, timeout_at},
};
use tokio_postgres::{IsolationLevel, Portal, Statement};

use super::{
    OpenCollection,
    errors::PgError,
    pool::{ABANDONED_TIMEOUT, ConnectionPool, PooledConnection, closed_error, prepare},
    statements::{Param, row_of},
};
use crate::{
    Page, Result, Row, RowStream, StoreError,
    row_stream::{RowSender, too_many_streams},
    sql::{CountPlan, Plan},
};

/// The maximum number of rows fetched at a time, and their approximate maximum size in bytes; for the first fetch the
/// size of a row is not known.
const CHUNK_ROWS: usize = 512;
const CHUNK_BYTES: usize = 512 * 1024;
const FIRST_CHUNK_ROWS: usize = 32;
/// The number of buffered chunks of a stream.
const STREAM_BUFFER: usize = 2;
/// The margin of our timeout after the server's, so that the server's error arrives first.
const SERVER_TIMEOUT_MARGIN: Duration = Duration::from_millis(500);

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

/// Executes reads.
#[derive(Clone)]
pub(super) struct Reader {
    pool: ConnectionPool,
    limits: Limits,
    /// Limits concurrent streams, so that half of the connections remain for short reads.
    streams: Arc<Semaphore>,
}

/// A read.
pub(super) trait ReadRequest: Send + Sync + 'static {
    type Output: Send + 'static;

    fn execute(&self, client: &mut PooledConnection) -> impl Future<Output = Outcome<Self::Output>> + Send;
}

type Outcome<T> = std::result::Result<T, PgError>;

impl Reader {
    pub(super) fn new(sessions: ConnectionPool, connections: usize, limits: Limits) -> Self {
        Self { pool: sessions, limits, streams: Arc::new(Semaphore::new((connections / 2).max(1))) }
    }

    /// Executes a read; `doing` names the action. A sent statement continues for a moment after the caller stopped
    /// waiting.
    pub(super) async fn read<Q: ReadRequest>(&self, question: Q, doing: &str) -> Result<Q::Output> {
        let question = Arc::new(question);
        let limit = self.limits.read + SERVER_TIMEOUT_MARGIN;
        let mut again = true;
        loop {
            let mut lease = self.pool.acquire().await?;
            let question = question.clone();
            let asking = self.pool.detach_on_drop(ABANDONED_TIMEOUT, async move {
                let answer = timeout(limit, question.execute(&mut lease)).await;
                if matches!(answer, Ok(Ok(_))) {
                    lease.release();
                }
                answer
            });
            match asking.await {
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(failure)) if failure.is_connection_lost() && again => {
                    again = false;
                    self.pool.discard_idle();
                }
                Ok(Err(failure)) => return Err(read_error(failure, doing, self.limits.read)),
                Err(_) => return Err(read_timed_out(self.limits.read)),
            }
        }
    }

    /// Streams rows from a task of its own, from one snapshot.
    pub(super) async fn stream(&self, plan: Plan, end: impl Future<Output = ()> + Send + 'static) -> Result<RowStream> {
        let until = Instant::now() + self.limits.read;
        let turn = match timeout_at(until, self.streams.clone().acquire_owned()).await {
            Ok(turn) => turn.map_err(|_| closed_error())?,
            Err(_) => return Err(too_many_streams()),
        };
        let lease = self.pool.acquire().await?;
        let (pieces, rows) = RowStream::new(STREAM_BUFFER);
        let this = self.clone();
        tokio::spawn(async move {
            let outcome = tokio::select! {
                outcome = this.run_stream(lease, &plan, &pieces) => outcome,
                // `run_stream` notices a dropped receiver only at its next chunk, which may take long.
                () = async { pieces.closed().await; sleep(ABANDONED_TIMEOUT).await } => Ok(()),
                () = end => Err(closed_error()),
            };
            pieces.finish(outcome);
            drop(turn);
        });
        Ok(rows)
    }

    async fn run_stream(&self, mut lease: PooledConnection, plan: &Plan, pieces: &RowSender) -> Result<()> {
        let limit = self.limits.stream;
        let until = Instant::now() + limit;
        // A dead connection is replaced as long as no row was sent.
        let mut again = true;
        loop {
            let mut has_sent = false;
            let pumped = timeout_at(until, self.send_rows(&mut lease, plan, pieces, until, &mut has_sent)).await;
            match pumped {
                Ok(Ok(())) => {
                    lease.release();
                    return Ok(());
                }
                Ok(Err(failure)) if failure.is_connection_lost() && again && !has_sent => {
                    again = false;
                    self.pool.discard_idle();
                    lease = self.pool.acquire().await?;
                }
                Ok(Err(failure)) => {
                    return Err(read_error(failure, &format!("reading {}", plan.spec.name), limit));
                }
                Err(_) => return Err(read_timed_out(limit)),
            }
        }
    }

    async fn send_rows(
        &self,
        lease: &mut PooledConnection,
        plan: &Plan,
        pieces: &RowSender,
        until: Instant,
        given: &mut bool,
    ) -> Outcome<()> {
        let statement = lease.prepare(&plan.sql).await?;
        let transaction = begin_snapshot(lease).await?;
        let limit = self.limits.stream.as_millis().clamp(1, i32::MAX as u128);
        transaction.batch_execute(&format!("SET LOCAL statement_timeout = {limit}")).await?;
        let patience = || {
            self.limits
                .chunk
                .min(until.saturating_duration_since(Instant::now()).saturating_sub(SERVER_TIMEOUT_MARGIN / 5))
        };
        let mut collector = plan.collector();
        let mut chunks = PortalChunks::new(&transaction, &statement, plan).await?;
        let mut wanted = !plan.has_zero_limit();
        while let (true, Some(rows)) = (wanted, chunks.next().await?) {
            for row in rows {
                wanted = wanted && collector.push(row)?;
            }
            if collector.has_full_chunk() || !wanted {
                *given = true;
                if !pieces.send(collector.drain(), patience()).await? {
                    return end_snapshot(transaction).await;
                }
            }
        }
        // Rows sorted in Rust are complete now, so the transaction can end.
        end_snapshot(transaction).await?;
        collector.finish();
        let mut rest = collector.drain();
        while !rest.is_empty() {
            *given = true;
            if !pieces.send(rest, patience()).await? {
                return Ok(());
            }
            rest = collector.drain();
        }
        Ok(())
    }
}

/// Reads one document by its id.
pub(super) struct Get {
    pub(super) known: Arc<OpenCollection>,
    pub(super) id: String,
}

impl ReadRequest for Get {
    type Output = Option<Row>;

    async fn execute(&self, client: &mut PooledConnection) -> Outcome<Option<Row>> {
        let statement = client.prepare(&self.known.statements.get).await?;
        let row = client.query_opt(&statement, &[&Param::id(&self.id)]).await?;
        Ok(row.as_ref().map(row_of).transpose()?)
    }
}

impl ReadRequest for Plan {
    type Output = Page;

    async fn execute(&self, client: &mut PooledConnection) -> Outcome<Page> {
        let mut collector = self.collector();
        if self.has_zero_limit() {
            return Ok(collector.page()?);
        }
        let statement = client.prepare(&self.sql).await?;
        if self.may_stop_early() {
            let transaction = begin_snapshot(client).await?;
            let mut chunks = PortalChunks::new(&transaction, &statement, self).await?;
            let mut wanted = true;
            while let (true, Some(rows)) = (wanted, chunks.next().await?) {
                for row in rows {
                    wanted = wanted && collector.push(row)?;
                }
            }
            end_snapshot(transaction).await?;
        } else {
            for_each_row(client, &statement, self, |row| collector.push(row)).await?;
        }
        Ok(collector.page()?)
    }
}

impl ReadRequest for CountPlan {
    type Output = u64;

    async fn execute(&self, client: &mut PooledConnection) -> Outcome<u64> {
        let statement = client.prepare(&self.sql).await?;
        let mut rows = pin!(client.query_raw(&statement, self.values()).await?);
        let mut count = 0;
        while let Some(row) = rows.try_next().await? {
            if self.is_counted_in_sql() {
                count = row.try_get::<_, i64>(0)?.unsigned_abs();
            } else {
                self.count_row(&row_of(&row)?, &mut count)?;
            }
        }
        Ok(count)
    }
}

/// Readiness check.
pub(super) struct Ready;

impl ReadRequest for Ready {
    type Output = ();

    async fn execute(&self, client: &mut PooledConnection) -> Outcome<()> {
        let statement = prepare(client, "SELECT value FROM _store_info WHERE key = 'database_id'").await?;
        client.query_one(&statement, &[]).await?;
        Ok(())
    }
}

/// The server's current clock, not the start time of the transaction.
pub(super) struct ServerTime;

impl ReadRequest for ServerTime {
    type Output = SystemTime;

    async fn execute(&self, client: &mut PooledConnection) -> Outcome<SystemTime> {
        let statement = prepare(client, "SELECT clock_timestamp()").await?;
        Ok(client.query_one(&statement, &[]).await?.try_get(0)?)
    }
}

/// Passes every row of a plan to `take`.
pub(super) async fn for_each_row(
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
pub(super) struct PortalChunks<'a> {
    transaction: &'a tokio_postgres::Transaction<'a>,
    portal: Portal,
    /// The number of rows of the next fetch; `None` at the end.
    next: Option<usize>,
}

impl<'a> PortalChunks<'a> {
    async fn new(transaction: &'a Transaction<'a>, statement: &Statement, plan: &Plan) -> Outcome<Self> {
        let portal = transaction.bind_raw(statement, plan.values()).await?;
        Ok(Self::from_portal(transaction, portal))
    }

    pub(super) fn from_portal(transaction: &'a tokio_postgres::Transaction<'a>, portal: Portal) -> Self {
        Self { transaction, portal, next: Some(FIRST_CHUNK_ROWS) }
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
        self.next = (found.len() == wanted).then(|| (CHUNK_BYTES * found.len() / bytes).clamp(1, CHUNK_ROWS));
        Ok(Some(found))
    }
}

async fn begin_snapshot(client: &mut ClientWrapper) -> Outcome<Transaction<'_>> {
    let transaction = client.build_transaction().isolation_level(IsolationLevel::RepeatableRead).read_only(true);
    Ok(transaction.start().await?)
}

/// Rolls back: nothing was changed, so this equals a commit and cannot fail for reasons of its own.
async fn end_snapshot(transaction: Transaction<'_>) -> Outcome<()> {
    Ok(transaction.rollback().await?)
}

/// Translates the error of a read. A cancelled statement has exceeded the timeout.
fn read_error(failure: PgError, doing: &str, limit: Duration) -> StoreError {
    if failure.is_cancelled() { read_timed_out(limit) } else { failure.into_store(doing) }
}

fn read_timed_out(limit: Duration) -> StoreError {
    StoreError::TimedOut(format!(
        "the read took longer than {} s; narrow the query, or filter by indexed fields",
        limit.as_secs_f32()
    ))
}
