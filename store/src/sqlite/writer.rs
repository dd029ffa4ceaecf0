//! The one writer: a thread that commits what waits in one transaction. Each batch has a savepoint of its own, so a
//! batch that fails takes nothing with it; nobody is answered before the commit is on disk.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rusqlite::types::{ToSqlOutput, ValueRef};
use rusqlite::{Connection, ErrorCode, OptionalExtension, params_from_iter};
use tokio::sync::{mpsc, oneshot};

use super::errors::from_sqlite;
use super::find::CountPlan;
use super::folder::{Folder, check_layout};
use super::schema::{self, Spec};
use crate::{Result, StoreError};

/// The most batches in one transaction.
const GROUP: usize = 512;

/// Where the answer to a job goes.
pub(super) type Reply = oneshot::Sender<Result<()>>;

/// What the writer is asked to do.
pub(super) enum Job {
    /// Apply a batch.
    Commit(Vec<Step>, Reply),
    /// Bring the tables to what is declared.
    Open(Vec<Arc<Spec>>, Reply),
    /// Say in the database and in the lock file that seeding is finished.
    MarkSeeded(Reply),
}

/// A write, checked and with its keys made, so that the writer only has to execute it.
pub(super) enum Step {
    Create(Document),
    Replace(Document, Option<u64>),
    Upsert(Document),
    Delete(Place, Option<u64>),
    Absent(Place),
    Exists(Place),
    Version(Place, u64),
    Count { plan: CountPlan, at_least: u64, at_most: u64 },
}

/// An id of a collection.
pub(super) struct Place {
    pub(super) spec: Arc<Spec>,
    pub(super) id: String,
}

/// A document to be stored.
pub(super) struct Document {
    pub(super) place: Place,
    pub(super) body: Box<str>,
    pub(super) keys: Vec<Vec<u8>>,
}

/// The state of the writing thread.
pub(super) struct Writer {
    connection: Connection,
    folder: Arc<Folder>,
    seeded: Arc<AtomicBool>,
    /// The last version given to a document.
    last_version: u64,
    /// The last version that is on disk.
    saved_version: u64,
}

impl Writer {
    /// Opens the connection that writes.
    pub(super) fn open(folder: Arc<Folder>, seeded: Arc<AtomicBool>, page_limit: Option<u32>) -> Result<Self> {
        let connection = folder.connect()?;
        let doing = format!("opening `{}`", folder.database.display());
        let prepare = || -> rusqlite::Result<(String, u32, u64)> {
            connection.set_prepared_statement_cache_capacity(128);
            connection.execute_batch(
                "PRAGMA busy_timeout = 5000; PRAGMA synchronous = FULL; \
                 PRAGMA temp_store = MEMORY; PRAGMA cache_size = -4096; PRAGMA journal_size_limit = 67108864;",
            )?;
            if let Some(pages) = page_limit {
                connection.execute_batch(&format!("PRAGMA max_page_count = {pages}"))?;
            }
            let mode = connection.query_row("PRAGMA journal_mode = WAL", [], |row| row.get(0))?;
            let layout = connection.query_row("PRAGMA user_version", [], |row| row.get(0))?;
            let last = connection.query_row("SELECT value FROM _store_info WHERE key = 'last_version'", [], |row| {
                row.get::<_, i64>(0)
            })?;
            Ok((mode, layout, last.unsigned_abs()))
        };
        let (mode, layout, last_version) = prepare().map_err(|error| from_sqlite(error, &doing))?;
        if mode != "wal" {
            return Err(StoreError::Unavailable(format!(
                "{doing} failed: this file system has no shared memory for files (it may be a network mount); choose a \
                 data folder on a local disk"
            )));
        }
        check_layout(&folder.database, layout)?;
        Ok(Self { connection, folder, seeded, last_version, saved_version: last_version })
    }

    /// Works until nobody can ask any more, then writes the log back and closes.
    pub(super) fn work(mut self, mut jobs: mpsc::Receiver<Job>) {
        let mut next = jobs.blocking_recv();
        while let Some(job) = next.take() {
            match job {
                Job::Commit(steps, reply) => next = self.group(steps, reply, &mut jobs),
                Job::Open(specs, reply) => answer(reply, self.bring_up(&specs)),
                Job::MarkSeeded(reply) => answer(reply, self.mark_seeded()),
            }
            if next.is_none() {
                next = jobs.blocking_recv();
            }
        }
        // Best effort: what stays in the log is read from there at the next start.
        let _ = self.connection.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)");
    }

    /// Commits this batch and those that came meanwhile; gives back a job of another kind that it met.
    fn group(&mut self, steps: Vec<Step>, reply: Reply, jobs: &mut mpsc::Receiver<Job>) -> Option<Job> {
        if let Err(error) = self.run("BEGIN IMMEDIATE") {
            answer(reply, Err(error));
            return None;
        }
        let mut group = Vec::new();
        let mut left = None;
        let mut current = Some((steps, reply));
        while let Some((steps, reply)) = current.take() {
            let outcome = self.apply(&steps);
            let lost = self.connection.is_autocommit();
            let failure = outcome.as_ref().err().cloned();
            group.push((reply, outcome));
            if lost {
                // SQLite gave the whole transaction up, as it may on a full disk: nobody's writes are there.
                let error = failure.unwrap_or_else(|| StoreError::Internal("the transaction was lost".into()));
                self.fail(group, error);
                return None;
            }
            if group.len() < GROUP {
                match jobs.try_recv() {
                    Ok(Job::Commit(steps, reply)) => current = Some((steps, reply)),
                    Ok(other) => left = Some(other),
                    Err(_) => {}
                }
            }
        }
        match self.save_version().and_then(|()| self.run("COMMIT")) {
            Ok(()) => {
                self.saved_version = self.last_version;
                for (reply, outcome) in group {
                    answer(reply, outcome);
                }
            }
            Err(error) => self.fail(group, error),
        }
        left
    }

    /// Undoes the transaction and tells everybody whose batch was in it; one that had failed keeps its own reason.
    fn fail(&mut self, group: Vec<(Reply, Result<()>)>, error: StoreError) {
        self.roll_back();
        for (reply, outcome) in group {
            answer(reply, outcome.and(Err(error.clone())));
        }
    }

    fn roll_back(&self) {
        if !self.connection.is_autocommit() {
            // If even this fails the next BEGIN says so.
            let _ = self.run("ROLLBACK");
        }
    }

    fn apply(&mut self, steps: &[Step]) -> Result<()> {
        self.run("SAVEPOINT batch")?;
        let outcome = steps.iter().try_for_each(|step| self.step(step));
        if self.connection.is_autocommit() {
            return outcome;
        }
        match outcome {
            Ok(()) => self.run("RELEASE batch"),
            Err(error) => match self.run("ROLLBACK TO batch").and_then(|()| self.run("RELEASE batch")) {
                Ok(()) => Err(error),
                Err(worse) => {
                    self.roll_back();
                    Err(worse)
                }
            },
        }
    }

    fn step(&mut self, step: &Step) -> Result<()> {
        match step {
            Step::Create(document) => self.create(document),
            // Not ON CONFLICT: a row that breaks two unique indexes at once would depend on which is looked at first.
            Step::Upsert(document) => match self.put(&document.place.spec.update, document)? {
                0 => self.create(document),
                _ => Ok(()),
            },
            Step::Replace(document, version) => {
                self.expect_version(&document.place, *version)?;
                match self.put(&document.place.spec.update, document)? {
                    0 => Err(document.place.missing()),
                    _ => Ok(()),
                }
            }
            Step::Delete(place, version) => {
                self.expect_version(place, *version)?;
                let deleted =
                    self.connection.prepare_cached(&place.spec.delete).and_then(|mut s| s.execute([&place.id]));
                match deleted.map_err(|error| place.failed(error))? {
                    0 => Err(place.missing()),
                    _ => Ok(()),
                }
            }
            Step::Absent(place) => match self.version(place)? {
                None => Ok(()),
                Some(_) => Err(place.conflict("is there")),
            },
            Step::Exists(place) => match self.version(place)? {
                Some(_) => Ok(()),
                None => Err(place.conflict("is not there")),
            },
            Step::Version(place, wanted) => match self.version(place)? {
                Some(found) if found == *wanted => Ok(()),
                Some(_) => Err(place.conflict("has been changed")),
                None => Err(place.conflict("is not there")),
            },
            Step::Count { plan, at_least, at_most } => {
                let count = plan.run(&self.connection, at_most.saturating_add(1).max(*at_least), &|| false)?;
                if count >= *at_least && count <= *at_most {
                    return Ok(());
                }
                Err(StoreError::Conflict(plan.refusal(count, *at_least, *at_most)))
            }
        }
    }

    fn create(&mut self, document: &Document) -> Result<()> {
        match self.put(&document.place.spec.insert, document) {
            Ok(_) => Ok(()),
            // The same document twice breaks every unique index; the id is what to tell.
            Err(StoreError::AlreadyExists(_)) if self.version(&document.place)?.is_some() => {
                Err(document.place.taken())
            }
            Err(error) => Err(error),
        }
    }

    /// Executes one of the statements that store a document, and says how many rows it changed.
    fn put(&mut self, sql: &str, document: &Document) -> Result<usize> {
        self.last_version += 1;
        let version = i64::try_from(self.last_version).unwrap_or(i64::MAX);
        let place = &document.place;
        let head = [ValueRef::from(&*place.id), ValueRef::Integer(version), ValueRef::from(&*document.body)];
        let keys = document.keys.iter().map(|key| ValueRef::Blob(key));
        let values = head.into_iter().chain(keys).map(ToSqlOutput::Borrowed);
        let done = self.connection.prepare_cached(sql).and_then(|mut s| s.execute(params_from_iter(values)));
        done.map_err(|error| place.failed(error))
    }

    fn expect_version(&self, place: &Place, wanted: Option<u64>) -> Result<()> {
        let Some(wanted) = wanted else { return Ok(()) };
        match self.version(place)? {
            Some(found) if found == wanted => Ok(()),
            Some(_) => Err(place.conflict("has been changed")),
            None => Err(place.missing()),
        }
    }

    fn version(&self, place: &Place) -> Result<Option<u64>> {
        let found = self
            .connection
            .prepare_cached(&place.spec.version)
            .and_then(|mut s| s.query_row([&place.id], |row| row.get::<_, i64>(0)).optional());
        Ok(found.map_err(|error| place.failed(error))?.map(i64::unsigned_abs))
    }

    fn save_version(&self) -> Result<()> {
        if self.last_version == self.saved_version {
            return Ok(());
        }
        let version = i64::try_from(self.last_version).unwrap_or(i64::MAX);
        self.connection
            .prepare_cached("UPDATE _store_info SET value = ? WHERE key = 'last_version'")
            .and_then(|mut statement| statement.execute([version]))
            .map(drop)
            .map_err(|error| from_sqlite(error, "writing"))
    }

    fn bring_up(&mut self, specs: &[Arc<Spec>]) -> Result<()> {
        self.alone(|writer| schema::bring_up(&writer.connection, specs.iter().map(AsRef::as_ref)))
    }

    /// First the database, then the lock file: a crash between the two is made good at the next start.
    fn mark_seeded(&mut self) -> Result<()> {
        self.alone(|writer| writer.run("UPDATE _store_info SET value = 1 WHERE key = 'seeded'"))?;
        self.folder.remember()?;
        self.seeded.store(true, Ordering::Release);
        Ok(())
    }

    fn alone(&mut self, work: impl FnOnce(&Self) -> Result<()>) -> Result<()> {
        self.run("BEGIN IMMEDIATE")?;
        let outcome = work(self).and_then(|()| self.run("COMMIT"));
        if outcome.is_err() {
            self.roll_back();
        }
        outcome
    }

    fn run(&self, sql: &'static str) -> Result<()> {
        let done = self.connection.prepare_cached(sql).and_then(|mut statement| statement.execute([]));
        done.map(drop).map_err(|error| from_sqlite(error, "writing"))
    }
}

impl Place {
    fn missing(&self) -> StoreError {
        StoreError::NotFound(format!("`{}` is not in {}", self.id, self.spec.name))
    }

    fn taken(&self) -> StoreError {
        StoreError::AlreadyExists(format!("`{}` is already in {}", self.id, self.spec.name))
    }

    fn conflict(&self, what: &str) -> StoreError {
        StoreError::Conflict(format!("`{}` of {} {what}", self.id, self.spec.name))
    }

    fn failed(&self, error: rusqlite::Error) -> StoreError {
        let rusqlite::Error::SqliteFailure(code, Some(message)) = &error else {
            return from_sqlite(error, &format!("writing to {}", self.spec.name));
        };
        if code.code != ErrorCode::ConstraintViolation {
            return from_sqlite(error, &format!("writing to {}", self.spec.name));
        }
        match self.spec.broken_index(message) {
            Some(fields) => self.spec.taken(fields),
            None => self.taken(),
        }
    }
}

/// Whoever asked may have stopped waiting.
fn answer(reply: Reply, outcome: Result<()>) {
    let _ = reply.send(outcome);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Collection, Index};

    const COLLECTION: Collection = Collection { name: "group", indexes: &[Index::unique(&["slug"])] };

    struct Bench {
        _folder: tempfile::TempDir,
        writer: Writer,
        spec: Arc<Spec>,
    }

    impl Bench {
        fn new() -> Self {
            let temp = tempfile::tempdir().unwrap();
            let folder = Arc::new(Folder::open(temp.path()).unwrap());
            let mut writer = Writer::open(folder, Arc::default(), None).unwrap();
            let spec = Arc::new(Spec::new(&COLLECTION).unwrap());
            writer.bring_up(std::slice::from_ref(&spec)).unwrap();
            Self { _folder: temp, writer, spec }
        }

        fn create(&self, id: &str) -> Step {
            let place = Place { spec: self.spec.clone(), id: id.into() };
            let keys = self.spec.keys(id, &serde_json::json!({})).unwrap();
            Step::Create(Document { place, body: "{}".into(), keys })
        }

        /// Runs these batches as one group and gives back what each was answered.
        fn group(&mut self, batches: Vec<Vec<Step>>) -> Vec<Result<()>> {
            let (jobs, mut receiver) = mpsc::channel(GROUP);
            let (replies, mut answers): (Vec<_>, Vec<_>) = batches.iter().map(|_| oneshot::channel()).unzip();
            let mut waiting = batches.into_iter().zip(replies);
            let (first, reply) = waiting.next().unwrap();
            for (steps, reply) in waiting {
                assert!(jobs.try_send(Job::Commit(steps, reply)).is_ok());
            }
            assert!(self.writer.group(first, reply, &mut receiver).is_none());
            assert!(receiver.try_recv().is_err(), "one group took them all");
            answers.iter_mut().map(|answer| answer.try_recv().unwrap()).collect()
        }

        fn count(&self) -> i64 {
            self.writer.connection.query_row("SELECT count(*) FROM c_group", [], |row| row.get(0)).unwrap()
        }
    }

    #[test]
    fn a_batch_that_fails_within_a_group_is_undone_alone() {
        let mut bench = Bench::new();
        let batches = (0..32).map(|i| match i {
            7 => vec![bench.create("seven"), bench.create("i6")],
            i => vec![bench.create(&format!("i{i}"))],
        });
        let batches: Vec<_> = batches.collect();
        let answers = bench.group(batches);
        for (i, answer) in answers.iter().enumerate() {
            match i {
                7 => assert_eq!(*answer, Err(StoreError::AlreadyExists("`i6` is already in group".into()))),
                _ => assert_eq!(*answer, Ok(()), "{i}"),
            }
        }
        assert_eq!(bench.count(), 31);
    }

    #[test]
    fn a_commit_that_fails_fails_everyone_in_it_and_the_next_one_works() {
        let mut bench = Bench::new();
        bench.writer.connection.commit_hook(Some(|| true)).unwrap();
        let batches = (0..4).map(|i| vec![bench.create(&format!("i{i}")), bench.create(&format!("j{}", i / 2))]);
        let batches: Vec<_> = batches.collect();
        let answers = bench.group(batches);
        assert!(answers.iter().all(Result::is_err), "{answers:?}");
        // One that had failed before keeps its own reason.
        assert_eq!(answers[1], Err(StoreError::AlreadyExists("`j0` is already in group".into())));
        assert!(!matches!(answers[0], Err(StoreError::AlreadyExists(_))), "{answers:?}");
        assert_eq!(bench.count(), 0);

        bench.writer.connection.commit_hook(None::<fn() -> bool>).unwrap();
        let again = vec![vec![bench.create("i0")]];
        assert_eq!(bench.group(again), [Ok(())]);
        assert_eq!(bench.count(), 1);
    }

    #[test]
    fn versions_go_on_where_they_stood_before_a_restart() {
        let mut bench = Bench::new();
        let batches = vec![vec![bench.create("a")], vec![bench.create("b")]];
        bench.group(batches);
        let last = bench.writer.last_version;
        let folder = bench.writer.folder.clone();
        assert_eq!(Writer::open(folder, Arc::default(), None).unwrap().last_version, last);
    }
}
