//! Writes. A batch of one write is a single statement in autocommit; any other is a transaction with pipelined
//! statements. All of it is serializable: after a conflict with another transaction, the batch is retried as a whole,
//! so that the result is the same as with a single writer thread.

use std::{collections::HashMap, sync::Arc, time::Duration};

use tokio::{
    sync::{Mutex, RwLock},
    time::timeout,
};
use tokio_postgres::{Row, Statement};

use super::{
    DocRef, MatchingDocs, OpenCollection, PostgresOptions, PreparedDocument, PreparedWrite,
    errors::PgError,
    pipeline::{PendingResponse, Request, StepResult, collection_of, is_by_filters, is_plain_write},
    pool::{ConnectionPool, PooledConnection},
    schema,
    schema_lock::SchemaLock,
    statements::{NEXT_VERSION, Writes},
};
use crate::{Committed, Result, StoreError, document};

/// The number of conflicts after which a batch runs exclusively, so that no other batch of ours can conflict with it.
const CONFLICTS_BEFORE_EXCLUSIVE: u32 = 4;
/// The maximum number of retries: with more conflicts, another program is constantly writing to our tables.
const MAX_RETRIES: u32 = 20;
/// The maximum number of pipelined statements.
const MAX_PIPELINE_STEPS: usize = 256;
/// The approximate maximum size of pipelined documents in bytes.
const MAX_PIPELINE_BYTES: usize = 4 * 1024 * 1024;

type Outcome<T> = std::result::Result<T, PgError>;

/// Executes batches.
pub(super) struct Writer {
    pool: ConnectionPool,
    lock: SchemaLock,
    document_limit: usize,
    write_timeout: Duration,
    /// Held during a retry, so that retried batches do not conflict with each other.
    retry_turn: Mutex<()>,
    /// Read-locked by each running batch, write-locked by an exclusive one. Only the holder of the schema lock writes
    /// to the schema, so an exclusive batch meets no conflict of ours and cannot starve.
    running_batches: RwLock<()>,
}

impl Writer {
    pub(super) fn new(sessions: ConnectionPool, holding: SchemaLock, options: &PostgresOptions) -> Self {
        let (document_limit, limit) = (options.document_limit, options.write_limit);
        Self {
            pool: sessions,
            lock: holding,
            document_limit,
            write_timeout: limit,
            retry_turn: Mutex::default(),
            running_batches: RwLock::default(),
        }
    }

    /// Applies a batch.
    pub(super) async fn commit(&self, steps: &[PreparedWrite]) -> Result<Committed> {
        let mut turn = None;
        let (mut tries, mut again) = (0, true);
        loop {
            let outcome = if tries < CONFLICTS_BEFORE_EXCLUSIVE {
                let _shared = self.running_batches.read().await;
                self.attempt(steps).await?
            } else {
                let _exclusive = self.running_batches.write().await;
                self.attempt(steps).await?
            };
            match outcome {
                Err(failure) if failure.is_conflict() && tries < MAX_RETRIES => {
                    tries += 1;
                    drop(turn.take());
                    back_off(tries).await;
                    turn = Some(self.retry_turn.lock().await);
                }
                Err(failure) if failure.is_conflict() => {
                    return Err(StoreError::Conflict(
                        "too many conflicts with another program that writes the same documents; nothing was written, \
                         try again"
                            .into(),
                    ));
                }
                // Nothing of the batch had been sent. A later loss is an error of the store.
                Err(failure) if failure.is_connection_lost() && again => {
                    again = false;
                    self.pool.discard_idle();
                }
                outcome => return outcome.map_err(|failure| failure.into_store(&action(steps))),
            }
        }
    }

    /// One attempt to commit a batch.
    async fn attempt(&self, steps: &[PreparedWrite]) -> Result<Outcome<Committed>> {
        self.lock.check()?;
        let lease = self.pool.acquire().await?;
        // A stalled server, such as a suspended machine, neither responds nor closes the connection.
        let outcome = timeout(self.write_timeout, self.write(lease, steps)).await;
        outcome.map_err(|_| write_timed_out(steps, self.write_timeout))
    }

    /// Migrates the tables of these collections to their declaration.
    pub(super) async fn migrate(&self, collections: &[Arc<OpenCollection>]) -> Result<()> {
        self.lock.check()?;
        let mut lease = self.pool.acquire().await?;
        schema::migrate(&mut lease, collections)
            .await
            .map_err(|failure| failure.into_store("changing the indexes of collections"))?;
        lease.release();
        Ok(())
    }

    /// Records that seeding is finished.
    pub(super) async fn mark_seeded(&self) -> Result<()> {
        self.lock.check()?;
        let lease = self.pool.acquire().await?;
        lease
            .batch_execute("UPDATE _store_info SET value = '1' WHERE key = 'seeded' AND _store_next() > 0")
            .await
            .map_err(|error| PgError::from(error).into_store("writing"))?;
        lease.release();
        Ok(())
    }

    async fn write(&self, lease: PooledConnection, steps: &[PreparedWrite]) -> Outcome<Committed> {
        if let [step] = steps
            && is_plain_write(step)
        {
            let request = Request::of(step, |known| &known.statements.standalone);
            let statement = lease.prepare(request.sql).await?;
            let answer = StepResult::read(step, request.send(&lease, &statement).await).await;
            let answer = release_connection(lease, answer, || outcome_unknown(steps))?;
            return Ok(Committed {
                version: answer.version.unwrap_or_default(),
                rows_affected: vec![answer.rows_affected],
            });
        }
        let outcome = Transaction::new(&lease, steps, self.document_limit).await?.run(steps).await;
        match outcome {
            Ok(committed) => {
                let done = lease.batch_execute("COMMIT").await;
                release_connection(lease, done.map_err(PgError::from), || outcome_unknown(steps)).map(|()| committed)
            }
            Err(failure) if failure.is_connection_lost() => {
                release_connection(lease, Err(failure), || rolled_back(steps))
            }
            Err(failure) => {
                let done = lease.batch_execute("ROLLBACK").await;
                // If the rollback fails too, the connection is lost and the transaction with it; the first error is
                // reported.
                let _ = release_connection(lease, done.map_err(PgError::from), || rolled_back(steps));
                Err(failure)
            }
        }
    }
}

/// A transaction: its connection, and the statements it needs. They are prepared before it begins, because no statement
/// can be prepared while responses are pending.
struct Transaction<'a> {
    lease: &'a PooledConnection,
    statements: HashMap<&'a str, Statement>,
    document_limit: usize,
}

/// The pipelined start of a transaction.
struct PendingStart<'a> {
    begun: PendingResponse<'a, ()>,
    version: PendingResponse<'a, Row>,
}

impl<'a> Transaction<'a> {
    async fn new(lease: &'a PooledConnection, steps: &'a [PreparedWrite], document_limit: usize) -> Outcome<Self> {
        let mut statements = HashMap::new();
        for sql in steps.iter().flat_map(statements_of).chain([NEXT_VERSION]) {
            if !statements.contains_key(sql) {
                statements.insert(sql, lease.prepare(sql).await?);
            }
        }
        Ok(Self { lease, statements, document_limit })
    }

    /// Begins the transaction and executes the steps in order. The first failing step determines the error.
    async fn run(&self, steps: &[PreparedWrite]) -> Outcome<Committed> {
        let begun = PendingResponse::send(self.lease.batch_execute("BEGIN")).await;
        let version = PendingResponse::send(self.lease.query_one(self.statement(NEXT_VERSION)?, &[])).await;
        let mut start = Some(PendingStart { begun, version });
        let mut committed = Committed::default();
        let mut rest = steps;
        while !rest.is_empty() {
            let (flight, later) = rest.split_at(pipeline_len(rest));
            rest = later;
            let (version, answers) = self.pipeline(flight, start.take()).await?;
            committed.version = version.unwrap_or(committed.version);
            for (step, answer) in flight.iter().zip(answers) {
                committed.rows_affected.push(if is_by_filters(step) {
                    self.write_found(step, answer.found).await?
                } else {
                    answer.rows_affected
                });
            }
        }
        if committed.rows_affected.iter().all(|touched| *touched == 0) {
            committed.version = 0;
        }
        Ok(committed)
    }

    /// Pipelines some steps and reads their responses, after those of the transaction start. Returns the allocated
    /// version, if any.
    async fn pipeline(
        &self,
        steps: &[PreparedWrite],
        start: Option<PendingStart<'_>>,
    ) -> Outcome<(Option<u64>, Vec<StepResult>)> {
        let mut sent = Vec::with_capacity(steps.len());
        for step in steps {
            let request = Request::of(step, in_transaction_writes);
            let statement = self.statement(request.sql)?;
            sent.push(request.send(self.lease, statement).await);
        }
        let mut version = None;
        if let Some(start) = start {
            start.begun.response().await?;
            version = Some(start.version.response().await?.try_get::<_, i64>(0)?.unsigned_abs());
        }
        let mut answers = Vec::with_capacity(steps.len());
        for (step, sent) in steps.iter().zip(sent) {
            answers.push(StepResult::read(step, sent).await?);
        }
        Ok((version, answers))
    }

    /// Writes the documents that a step by filters has found; returns the number of documents changed. No locks are
    /// needed between the read and the writes: in case of a concurrent change, one of the two transactions fails.
    async fn write_found(&self, step: &PreparedWrite, found: Vec<(String, Box<str>)>) -> Outcome<u64> {
        match step {
            PreparedWrite::ReplaceWhere(matches, body) => {
                self.replace(found, |id, _| document_of(matches, id, &body.text, &body.value)).await
            }
            PreparedWrite::UpsertWhere(matches, document, body) if found.is_empty() => {
                let document = document_of(matches, &document.doc_ref.id, &body.text, &body.value)?;
                self.pipeline(&[PreparedWrite::Create(document)], None).await.map(|_| 1)
            }
            PreparedWrite::UpsertWhere(matches, _, body) => {
                self.replace(found, |id, _| document_of(matches, id, &body.text, &body.value)).await
            }
            PreparedWrite::UpdateFields(matches, fields) => {
                let name = matches.known.spec.name;
                let update = |id: &str, body: &str| {
                    let (text, value) = document::with_fields(body, fields, self.document_limit, name, id)?;
                    document_of(matches, id, &text, &value)
                };
                self.replace(found, update).await
            }
            PreparedWrite::DeleteWhere(matches) => {
                for chunk in found.chunks(MAX_PIPELINE_STEPS) {
                    let place = |(id, _): &(String, _)| DocRef { known: matches.known.clone(), id: id.clone() };
                    let steps: Vec<PreparedWrite> =
                        chunk.iter().map(|one| PreparedWrite::Delete(place(one), None)).collect();
                    self.pipeline(&steps, None).await?;
                }
                Ok(found.len() as u64)
            }
            _ => Ok(0),
        }
    }

    /// Replaces each document by the result of `make`, in order. If `make` fails for one, the earlier ones are executed
    /// first, so that their errors take precedence.
    async fn replace(
        &self,
        found: Vec<(String, Box<str>)>,
        make: impl Fn(&str, &str) -> Result<PreparedDocument>,
    ) -> Outcome<u64> {
        for chunk in found.chunks(MAX_PIPELINE_STEPS) {
            let (mut steps, mut refused) = (Vec::with_capacity(chunk.len()), Ok(()));
            for (id, body) in chunk {
                match make(id, body) {
                    Ok(document) => steps.push(PreparedWrite::Replace(document, None)),
                    Err(error) => {
                        refused = Err(error);
                        break;
                    }
                }
            }
            self.pipeline(&steps, None).await?;
            refused?;
        }
        Ok(found.len() as u64)
    }

    fn statement(&self, sql: &str) -> Outcome<&Statement> {
        Ok(self.statements.get(sql).ok_or_else(|| StoreError::Internal("a statement was not prepared".into()))?)
    }
}

/// The number of steps to pipeline together. A step by filters is the last one, since its writes depend on what it
/// finds.
fn pipeline_len(steps: &[PreparedWrite]) -> usize {
    let mut bytes = 0;
    for (at, step) in steps.iter().enumerate() {
        bytes += match step {
            PreparedWrite::Create(document) | PreparedWrite::Upsert(document) | PreparedWrite::Replace(document, _) => {
                document.body.len()
            }
            _ => 0,
        };
        if at + 1 == MAX_PIPELINE_STEPS || bytes > MAX_PIPELINE_BYTES || is_by_filters(step) {
            return at + 1;
        }
    }
    steps.len()
}

fn in_transaction_writes(known: &OpenCollection) -> &Writes {
    &known.statements.in_transaction
}

/// The statements that a step may need.
fn statements_of(step: &PreparedWrite) -> Vec<&str> {
    let mut all = vec![Request::of(step, in_transaction_writes).sql];
    match step {
        PreparedWrite::ReplaceWhere(matches, _) | PreparedWrite::UpdateFields(matches, _) => {
            all.push(&in_transaction_writes(&matches.known).replace)
        }
        PreparedWrite::UpsertWhere(matches, _, _) => {
            all.extend([
                &*in_transaction_writes(&matches.known).replace,
                &*in_transaction_writes(&matches.known).create,
            ]);
        }
        PreparedWrite::DeleteWhere(matches) => all.push(&in_transaction_writes(&matches.known).delete),
        _ => {}
    }
    all
}

fn document_of(matches: &MatchingDocs, id: &str, text: &str, value: &serde_json::Value) -> Result<PreparedDocument> {
    PreparedDocument::new(matches.known.clone(), id.to_owned(), text.into(), value)
}

/// Releases a connection after its last response; if it was lost, returns the error `lost` instead.
fn release_connection<T>(lease: PooledConnection, outcome: Outcome<T>, lost: impl Fn() -> StoreError) -> Outcome<T> {
    if matches!(&outcome, Err(failure) if failure.is_connection_lost()) {
        return Err(lost().into());
    }
    lease.release();
    outcome
}

/// Exponential backoff with jitter.
async fn back_off(tries: u32) {
    let mut random = [0; 2];
    // Without random numbers there is no jitter, which is acceptable.
    let _ = getrandom::fill(&mut random);
    let most = 1_000u64 << tries.min(6);
    tokio::time::sleep(Duration::from_micros(u64::from(u16::from_le_bytes(random)) * most / 65_536)).await;
}

fn action(steps: &[PreparedWrite]) -> String {
    steps.first().map_or_else(|| "writing".into(), |step| format!("writing to {}", collection_of(step)))
}

fn outcome_unknown(steps: &[PreparedWrite]) -> StoreError {
    StoreError::Unavailable(format!(
        "{} failed: the connection to the database was lost before its answer came, so it is not known whether it was \
         written",
        action(steps)
    ))
}

fn write_timed_out(steps: &[PreparedWrite], limit: Duration) -> StoreError {
    StoreError::Unavailable(format!(
        "{} failed: the database did not answer within {} s, so it is not known whether it was written",
        action(steps),
        limit.as_secs_f32()
    ))
}

fn rolled_back(steps: &[PreparedWrite]) -> StoreError {
    StoreError::Unavailable(format!(
        "{} failed: the connection to the database was lost; nothing was written",
        action(steps)
    ))
}
