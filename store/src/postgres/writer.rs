//! Writes. A batch of one write is a single statement in autocommit; any other is a transaction with pipelined
//! statements. All of it is serializable: after a conflict with another transaction, the batch is retried as a whole,
//! so that the result is the same as with a single writer thread.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Mutex, RwLock};
use tokio::time::timeout;
use tokio_postgres::{Row, Statement};

use super::errors::Failure;
use super::flight::{Answer, Request, Sent, collection_of, is_by_filters, is_plain_write};
use super::hold::Holding;
use super::sessions::{Lease, Lessor};
use super::statements::{NEXT_VERSION, Writes};
use super::{Document, Known, Matches, Place, PostgresOptions, Step, schema};
use crate::{Committed, Result, StoreError, document};

/// The number of conflicts after which a batch runs exclusively, so that no other batch of ours can conflict with it.
const LOST_BEFORE_ALONE: u32 = 4;
/// The maximum number of retries: with more conflicts, another program is constantly writing to our tables.
const MOST_TRIES: u32 = 20;
/// The maximum number of pipelined statements.
const FLIGHT: usize = 256;
/// The approximate maximum size of pipelined documents in bytes.
const FLIGHT_BYTES: usize = 4 * 1024 * 1024;

type Outcome<T> = std::result::Result<T, Failure>;

/// Executes batches.
pub(super) struct Writer {
    sessions: Lessor,
    holding: Holding,
    document_limit: usize,
    limit: Duration,
    /// Held during a retry, so that retried batches do not conflict with each other.
    losers: Mutex<()>,
    /// Read-locked by each running batch, write-locked by an exclusive one. Only the holder of the schema lock writes
    /// to the schema, so an exclusive batch meets no conflict of ours and cannot starve.
    road: RwLock<()>,
}

impl Writer {
    pub(super) fn new(sessions: Lessor, holding: Holding, options: &PostgresOptions) -> Self {
        let (document_limit, limit) = (options.document_limit, options.write_limit);
        Self { sessions, holding, document_limit, limit, losers: Mutex::default(), road: RwLock::default() }
    }

    /// Applies a batch.
    pub(super) async fn commit(&self, steps: &[Step]) -> Result<Committed> {
        let mut turn = None;
        let (mut tries, mut again) = (0, true);
        loop {
            let outcome = if tries < LOST_BEFORE_ALONE {
                let _others_too = self.road.read().await;
                self.attempt(steps).await?
            } else {
                let _alone = self.road.write().await;
                self.attempt(steps).await?
            };
            match outcome {
                Err(failure) if failure.is_lost_race() && tries < MOST_TRIES => {
                    tries += 1;
                    drop(turn.take());
                    pause(tries).await;
                    turn = Some(self.losers.lock().await);
                }
                Err(failure) if failure.is_lost_race() => {
                    return Err(StoreError::Conflict(
                        "too many conflicts with another program that writes the same documents; nothing was written, \
                         try again"
                            .into(),
                    ));
                }
                // Nothing of the batch had been sent. A later loss is an error of the store.
                Err(failure) if failure.is_lost() && again => {
                    again = false;
                    self.sessions.renew();
                }
                outcome => return outcome.map_err(|failure| failure.into_store(&doing(steps))),
            }
        }
    }

    /// One attempt to commit a batch.
    async fn attempt(&self, steps: &[Step]) -> Result<Outcome<Committed>> {
        self.holding.check()?;
        let lease = self.sessions.lease().await?;
        // A stalled server, such as a suspended machine, neither responds nor closes the connection.
        let outcome = timeout(self.limit, self.write(lease, steps)).await;
        outcome.map_err(|_| unanswered(steps, self.limit))
    }

    /// Migrates the tables of these collections to their declaration.
    pub(super) async fn bring_up(&self, collections: &[Arc<Known>]) -> Result<()> {
        self.holding.check()?;
        let mut lease = self.sessions.lease().await?;
        schema::bring_up(&mut lease, collections)
            .await
            .map_err(|failure| failure.into_store("changing the indexes of collections"))?;
        lease.give_back();
        Ok(())
    }

    /// Records that seeding is finished.
    pub(super) async fn mark_seeded(&self) -> Result<()> {
        self.holding.check()?;
        let lease = self.sessions.lease().await?;
        lease
            .batch_execute("UPDATE _store_info SET value = '1' WHERE key = 'seeded' AND _store_next() > 0")
            .await
            .map_err(|error| Failure::from(error).into_store("writing"))?;
        lease.give_back();
        Ok(())
    }

    async fn write(&self, lease: Lease, steps: &[Step]) -> Outcome<Committed> {
        if let [step] = steps
            && is_plain_write(step)
        {
            let request = Request::of(step, |known| &known.statements.alone);
            let statement = lease.prepare(request.sql).await?;
            let answer = Answer::read(step, request.send(&lease, &statement).await).await;
            let answer = settle(lease, answer, || unknown(steps))?;
            return Ok(Committed { version: answer.version.unwrap_or_default(), touched: vec![answer.touched] });
        }
        let outcome = Transaction::new(&lease, steps, self.document_limit).await?.run(steps).await;
        match outcome {
            Ok(committed) => {
                let done = lease.batch_execute("COMMIT").await;
                settle(lease, done.map_err(Failure::from), || unknown(steps)).map(|()| committed)
            }
            Err(failure) if failure.is_lost() => settle(lease, Err(failure), || undone(steps)),
            Err(failure) => {
                let done = lease.batch_execute("ROLLBACK").await;
                // If the rollback fails too, the connection is lost and the transaction with it; the first error is
                // reported.
                let _ = settle(lease, done.map_err(Failure::from), || undone(steps));
                Err(failure)
            }
        }
    }
}

/// A transaction: its connection, and the statements it needs. They are prepared before it begins, because no statement
/// can be prepared while responses are pending.
struct Transaction<'a> {
    lease: &'a Lease,
    statements: HashMap<&'a str, Statement>,
    document_limit: usize,
}

/// The pipelined start of a transaction.
struct Start<'a> {
    begun: Sent<'a, ()>,
    version: Sent<'a, Row>,
}

impl<'a> Transaction<'a> {
    async fn new(lease: &'a Lease, steps: &'a [Step], document_limit: usize) -> Outcome<Self> {
        let mut statements = HashMap::new();
        for sql in steps.iter().flat_map(statements_of).chain([NEXT_VERSION]) {
            if !statements.contains_key(sql) {
                statements.insert(sql, lease.prepare(sql).await?);
            }
        }
        Ok(Self { lease, statements, document_limit })
    }

    /// Begins the transaction and executes the steps in order. The first failing step determines the error.
    async fn run(&self, steps: &[Step]) -> Outcome<Committed> {
        let begun = Sent::of(self.lease.batch_execute("BEGIN")).await;
        let version = Sent::of(self.lease.query_one(self.statement(NEXT_VERSION)?, &[])).await;
        let mut start = Some(Start { begun, version });
        let mut committed = Committed::default();
        let mut rest = steps;
        while !rest.is_empty() {
            let (flight, later) = rest.split_at(flight_of(rest));
            rest = later;
            let (version, answers) = self.fly(flight, start.take()).await?;
            committed.version = version.unwrap_or(committed.version);
            for (step, answer) in flight.iter().zip(answers) {
                committed.touched.push(if is_by_filters(step) {
                    self.write_found(step, answer.found).await?
                } else {
                    answer.touched
                });
            }
        }
        if committed.touched.iter().all(|touched| *touched == 0) {
            committed.version = 0;
        }
        Ok(committed)
    }

    /// Pipelines some steps and reads their responses, after those of the transaction start. Returns the allocated
    /// version, if any.
    async fn fly(&self, steps: &[Step], start: Option<Start<'_>>) -> Outcome<(Option<u64>, Vec<Answer>)> {
        let mut sent = Vec::with_capacity(steps.len());
        for step in steps {
            let request = Request::of(step, within);
            let statement = self.statement(request.sql)?;
            sent.push(request.send(self.lease, statement).await);
        }
        let mut version = None;
        if let Some(start) = start {
            start.begun.answer().await?;
            version = Some(start.version.answer().await?.try_get::<_, i64>(0)?.unsigned_abs());
        }
        let mut answers = Vec::with_capacity(steps.len());
        for (step, sent) in steps.iter().zip(sent) {
            answers.push(Answer::read(step, sent).await?);
        }
        Ok((version, answers))
    }

    /// Writes the documents that a step by filters has found; returns the number of documents changed. No locks are
    /// needed between the read and the writes: in case of a concurrent change, one of the two transactions fails.
    async fn write_found(&self, step: &Step, found: Vec<(String, Box<str>)>) -> Outcome<u64> {
        match step {
            Step::ReplaceWhere(matches, body) => {
                self.replace(found, |id, _| document_of(matches, id, &body.text, &body.value)).await
            }
            Step::UpsertWhere(matches, document, body) if found.is_empty() => {
                let document = document_of(matches, &document.place.id, &body.text, &body.value)?;
                self.fly(&[Step::Create(document)], None).await.map(|_| 1)
            }
            Step::UpsertWhere(matches, _, body) => {
                self.replace(found, |id, _| document_of(matches, id, &body.text, &body.value)).await
            }
            Step::UpdateFields(matches, fields) => {
                let name = matches.known.spec.name;
                let update = |id: &str, body: &str| {
                    let (text, value) = document::with_fields(body, fields, self.document_limit, name, id)?;
                    document_of(matches, id, &text, &value)
                };
                self.replace(found, update).await
            }
            Step::DeleteWhere(matches) => {
                for chunk in found.chunks(FLIGHT) {
                    let place = |(id, _): &(String, _)| Place { known: matches.known.clone(), id: id.clone() };
                    let steps: Vec<Step> = chunk.iter().map(|one| Step::Delete(place(one), None)).collect();
                    self.fly(&steps, None).await?;
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
        make: impl Fn(&str, &str) -> Result<Document>,
    ) -> Outcome<u64> {
        for chunk in found.chunks(FLIGHT) {
            let (mut steps, mut refused) = (Vec::with_capacity(chunk.len()), Ok(()));
            for (id, body) in chunk {
                match make(id, body) {
                    Ok(document) => steps.push(Step::Replace(document, None)),
                    Err(error) => {
                        refused = Err(error);
                        break;
                    }
                }
            }
            self.fly(&steps, None).await?;
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
fn flight_of(steps: &[Step]) -> usize {
    let mut bytes = 0;
    for (at, step) in steps.iter().enumerate() {
        bytes += match step {
            Step::Create(document) | Step::Upsert(document) | Step::Replace(document, _) => document.body.len(),
            _ => 0,
        };
        if at + 1 == FLIGHT || bytes > FLIGHT_BYTES || is_by_filters(step) {
            return at + 1;
        }
    }
    steps.len()
}

fn within(known: &Known) -> &Writes {
    &known.statements.within
}

/// The statements that a step may need.
fn statements_of(step: &Step) -> Vec<&str> {
    let mut all = vec![Request::of(step, within).sql];
    match step {
        Step::ReplaceWhere(matches, _) | Step::UpdateFields(matches, _) => all.push(&within(&matches.known).replace),
        Step::UpsertWhere(matches, _, _) => {
            all.extend([&*within(&matches.known).replace, &*within(&matches.known).create]);
        }
        Step::DeleteWhere(matches) => all.push(&within(&matches.known).delete),
        _ => {}
    }
    all
}

fn document_of(matches: &Matches, id: &str, text: &str, value: &serde_json::Value) -> Result<Document> {
    Document::new(matches.known.clone(), id.to_owned(), text.into(), value)
}

/// Releases a connection after its last response; if it was lost, returns the error `lost` instead.
fn settle<T>(lease: Lease, outcome: Outcome<T>, lost: impl Fn() -> StoreError) -> Outcome<T> {
    if matches!(&outcome, Err(failure) if failure.is_lost()) {
        return Err(lost().into());
    }
    lease.give_back();
    outcome
}

/// Exponential backoff with jitter.
async fn pause(tries: u32) {
    let mut random = [0; 2];
    // Without random numbers there is no jitter, which is acceptable.
    let _ = getrandom::fill(&mut random);
    let most = 1_000u64 << tries.min(6);
    tokio::time::sleep(Duration::from_micros(u64::from(u16::from_le_bytes(random)) * most / 65_536)).await;
}

fn doing(steps: &[Step]) -> String {
    steps.first().map_or_else(|| "writing".into(), |step| format!("writing to {}", collection_of(step)))
}

fn unknown(steps: &[Step]) -> StoreError {
    StoreError::Unavailable(format!(
        "{} failed: the connection to the database was lost before its answer came, so it is not known whether it was \
         written",
        doing(steps)
    ))
}

fn unanswered(steps: &[Step], limit: Duration) -> StoreError {
    StoreError::Unavailable(format!(
        "{} failed: the database did not answer within {} s, so it is not known whether it was written",
        doing(steps),
        limit.as_secs_f32()
    ))
}

fn undone(steps: &[Step]) -> StoreError {
    StoreError::Unavailable(format!(
        "{} failed: the connection to the database was lost; nothing was written",
        doing(steps)
    ))
}
