//! Writes. A batch of one write is one statement and commits itself; any other is a transaction whose statements are
//! sent without waiting for one another's answers. All of it is serializable: where another transaction came in between,
//! everything is done again, and a batch means here what it means to a single writing thread.

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

/// A batch that others came in between of so often goes alone from then on, so that nothing of ours can.
const LOST_BEFORE_ALONE: u32 = 4;
/// How often it is tried again: beyond, it is another program that writes to our tables all the time.
const MOST_TRIES: u32 = 20;
/// So many statements are sent before their answers are looked at.
const FLIGHT: usize = 256;
/// And about so many bytes.
const FLIGHT_BYTES: usize = 4 * 1024 * 1024;

type Outcome<T> = std::result::Result<T, Failure>;

/// Who writes.
pub(super) struct Writer {
    sessions: Lessor,
    holding: Holding,
    document_limit: usize,
    limit: Duration,
    /// Whoever has lost a race tries again under this, so that the losers do not race each other as well.
    losers: Mutex<()>,
    /// Read-locked by each batch under way; one that goes alone has it to itself. Who holds the schema is the only one
    /// who writes to it, so that such a batch cannot lose: none is refused for what the others do.
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
                        "another program is writing the same documents all the time; nothing was written, try again"
                            .into(),
                    ));
                }
                // Nothing of the batch had been sent. What is lost later comes as an error of the store.
                Err(failure) if failure.is_lost() && again => {
                    again = false;
                    self.sessions.renew();
                }
                outcome => return outcome.map_err(|failure| failure.into_store(&doing(steps))),
            }
        }
    }

    /// Tries a batch once, if that can be.
    async fn attempt(&self, steps: &[Step]) -> Result<Outcome<Committed>> {
        self.holding.check()?;
        let lease = self.sessions.lease().await?;
        // A server that stands still, as a machine does that is paused, says nothing and closes nothing.
        let outcome = timeout(self.limit, self.write(lease, steps)).await;
        outcome.map_err(|_| unanswered(steps, self.limit))
    }

    /// Brings the tables of these collections to what is declared.
    pub(super) async fn bring_up(&self, collections: &[Arc<Known>]) -> Result<()> {
        self.holding.check()?;
        let mut lease = self.sessions.lease().await?;
        schema::bring_up(&mut lease, collections)
            .await
            .map_err(|failure| failure.into_store("changing the indexes of collections"))?;
        lease.give_back();
        Ok(())
    }

    /// Remembers that seeding is finished.
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
                // Where even that failed the connection is gone, and the transaction with it; the reason stands.
                let _ = settle(lease, done.map_err(Failure::from), || undone(steps));
                Err(failure)
            }
        }
    }
}

/// A transaction: its connection, and the statements it will need. They are prepared before it begins, since nothing can
/// be prepared between statements that were sent and their answers.
struct Transaction<'a> {
    lease: &'a Lease,
    statements: HashMap<&'a str, Statement>,
    document_limit: usize,
}

/// What begins a transaction.
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

    /// Begins and takes the steps in their order. The first that does not hold decides what comes of it.
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

    /// Sends some steps, and then takes their answers; before them those to what was sent before. Says which version was
    /// taken.
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

    /// Writes what a step by filters has found; says how many documents it touched. Nothing has to be locked between
    /// finding and writing: whatever another transaction changes in between fails one of the two.
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

    /// Puts what is made of each document in its place, in their order. One that cannot be made stops it, but those before
    /// it have their say first.
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

/// How many of these steps go together. One by filters ends a flight, since what it writes depends on what it finds.
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

/// Gives a connection back after the last word on it; where it was lost instead, `lost` says what that means.
fn settle<T>(lease: Lease, outcome: Outcome<T>, lost: impl Fn() -> StoreError) -> Outcome<T> {
    if matches!(&outcome, Err(failure) if failure.is_lost()) {
        return Err(lost().into());
    }
    lease.give_back();
    outcome
}

/// Waits, longer each time and never just as long as others do.
async fn pause(tries: u32) {
    let mut random = [0; 2];
    // Without random numbers everyone waits as long as everyone else, which is no more than a pity.
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
