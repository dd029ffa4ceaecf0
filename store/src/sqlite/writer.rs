//! The one writer: a thread that commits what waits in one transaction. Each batch has a savepoint of its own, so a
//! batch that fails takes nothing with it; nobody is answered before the commit is on disk.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rusqlite::types::{ToSqlOutput, ValueRef};
use rusqlite::{Connection, ErrorCode, OptionalExtension, params_from_iter};
use serde_json::Value;
use tokio::sync::{mpsc, oneshot};

use super::errors::from_sqlite;
use super::folder::{Folder, upgrade};
use super::schema::{self, Statements, change_entry};
use super::{Known, run};
use crate::sql::{self, Body, Entry, count_refusal};
use crate::{Committed, Result, StoreError, document};

/// The most batches in one transaction.
const GROUP: usize = 512;
/// Pages of 4 KiB in the log before they are written back. Those that are written again and again, as those of an index
/// are, are written back once. A crash leaves about 16 MiB of log to be read at the next start.
const LOG_PAGES: u32 = 4000;

/// Where the answer to a job goes.
pub(super) type Reply<T> = oneshot::Sender<Result<T>>;

/// What the writer is asked to do.
pub(super) enum Job {
    /// Apply a batch.
    Commit(Vec<Step>, Reply<Committed>),
    /// Bring the tables to what is declared.
    Open(Vec<Arc<Known>>, Reply<()>),
    /// Say in the database and in the lock file that seeding is finished.
    MarkSeeded(Reply<()>),
}

type Step = sql::Step<Statements>;
type Place = sql::Place<Statements>;
type Document = sql::Document<Statements>;
type Matches = sql::Matches<Statements>;

/// The state of the writing thread.
pub(super) struct Writer {
    connection: Connection,
    folder: Arc<Folder>,
    seeded: Arc<AtomicBool>,
    document_limit: usize,
    /// The last version given to a batch.
    last_version: u64,
    /// The last version that is on disk.
    saved_version: u64,
    /// How many batches the last group had, and how long its commit took.
    last_group: (usize, Duration),
}

impl Writer {
    /// Opens the connection that writes.
    pub(super) fn open(
        folder: Arc<Folder>,
        seeded: Arc<AtomicBool>,
        document_limit: usize,
        page_limit: Option<u32>,
    ) -> Result<Self> {
        let connection = folder.connect()?;
        let doing = format!("opening `{}`", folder.database.display());
        let prepare = || -> rusqlite::Result<(String, u64)> {
            connection.set_prepared_statement_cache_capacity(128);
            connection.execute_batch(
                "PRAGMA busy_timeout = 5000; PRAGMA synchronous = FULL; \
                 PRAGMA temp_store = MEMORY; PRAGMA cache_size = -4096; PRAGMA journal_size_limit = 67108864;",
            )?;
            connection.query_row(&format!("PRAGMA wal_autocheckpoint = {LOG_PAGES}"), [], |_| Ok(()))?;
            if let Some(pages) = page_limit {
                connection.execute_batch(&format!("PRAGMA max_page_count = {pages}"))?;
            }
            let mode = connection.query_row("PRAGMA journal_mode = WAL", [], |row| row.get(0))?;
            let last = connection.query_row("SELECT value FROM _store_info WHERE key = 'last_version'", [], |row| {
                row.get::<_, i64>(0)
            })?;
            Ok((mode, last.unsigned_abs()))
        };
        let (mode, last_version) = prepare().map_err(|error| from_sqlite(error, &doing))?;
        if mode != "wal" {
            return Err(StoreError::Unavailable(format!(
                "{doing} failed: this file system has no shared memory for files (it may be a network mount); choose a \
                 data folder on a local disk"
            )));
        }
        upgrade(&connection, &folder.database)?;
        Ok(Self {
            connection,
            folder,
            seeded,
            document_limit,
            last_version,
            saved_version: last_version,
            last_group: (0, Duration::ZERO),
        })
    }

    /// Works until nobody can ask any more, then writes the log back and closes.
    pub(super) fn work(mut self, mut jobs: mpsc::Receiver<Job>) {
        let mut next = jobs.blocking_recv();
        while let Some(job) = next.take() {
            match job {
                Job::Commit(steps, reply) => {
                    self.gather(&jobs);
                    next = self.group(steps, reply, &mut jobs);
                }
                Job::Open(collections, reply) => answer(reply, self.bring_up(&collections)),
                Job::MarkSeeded(reply) => answer(reply, self.mark_seeded()),
            }
            if next.is_none() {
                next = jobs.blocking_recv();
            }
        }
        // Best effort: what stays in the log is read from there at the next start.
        let _ = self.connection.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)");
    }

    /// Lets as many come as were in the last group: those who were answered a moment ago may be about to ask again, and one
    /// commit for all of them is cheaper than two. Not for longer than a part of what a commit takes.
    fn gather(&self, jobs: &mpsc::Receiver<Job>) {
        let (members, commit) = self.last_group;
        let start = Instant::now();
        while jobs.len() + 1 < members && start.elapsed() < commit / 2 {
            std::thread::yield_now();
        }
    }

    /// Commits this batch and those that came meanwhile; gives back a job of another kind that it met.
    fn group(&mut self, steps: Vec<Step>, reply: Reply<Committed>, jobs: &mut mpsc::Receiver<Job>) -> Option<Job> {
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
        let start = Instant::now();
        match self.save_version().and_then(|()| self.run("COMMIT")) {
            Ok(()) => {
                self.saved_version = self.last_version;
                self.last_group = (group.len(), start.elapsed());
                for (reply, outcome) in group {
                    answer(reply, outcome);
                }
            }
            Err(error) => self.fail(group, error),
        }
        left
    }

    /// Undoes the transaction and tells everybody whose batch was in it; one that had failed keeps its own reason.
    fn fail(&mut self, group: Vec<(Reply<Committed>, Result<Committed>)>, error: StoreError) {
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

    fn apply(&mut self, steps: &[Step]) -> Result<Committed> {
        self.run("SAVEPOINT batch")?;
        let version = self.last_version + 1;
        let outcome = steps.iter().map(|step| self.step(step, version)).collect::<Result<Vec<_>>>();
        if self.connection.is_autocommit() {
            return outcome.map(|touched| Committed { version, touched });
        }
        match outcome {
            Ok(touched) => {
                self.run("RELEASE batch")?;
                if touched.iter().all(|touched| *touched == 0) {
                    return Ok(Committed { version: 0, touched });
                }
                self.last_version = version;
                Ok(Committed { version, touched })
            }
            Err(error) => match self.run("ROLLBACK TO batch").and_then(|()| self.run("RELEASE batch")) {
                Ok(()) => Err(error),
                Err(worse) => {
                    self.roll_back();
                    Err(worse)
                }
            },
        }
    }

    /// Takes a step; says how many documents it touched.
    fn step(&self, step: &Step, version: u64) -> Result<u64> {
        match step {
            Step::Create(document) => self.create(document, version).map(|()| 1),
            Step::Upsert(document) => self.upsert(document, version).map(|()| 1),
            Step::Replace(document, wanted) => {
                self.expect_version(&document.place, *wanted)?;
                if self.replace(document, version)? { Ok(1) } else { Err(document.place.missing()) }
            }
            Step::Delete(place, wanted) => {
                self.expect_version(place, *wanted)?;
                if self.delete(place)? { Ok(1) } else { Err(place.missing()) }
            }
            Step::ReplaceWhere(matches, body) => self.replace_where(matches, body, version),
            Step::UpsertWhere(matches, document, body) => match self.replace_where(matches, body, version)? {
                0 => self.create(document, version).map(|()| 1),
                touched => Ok(touched),
            },
            Step::UpdateFields(matches, fields) => self.update_fields(matches, fields, version),
            Step::DeleteWhere(matches) => {
                let found = self.matching(matches)?;
                for (id, _) in &found {
                    self.delete(&Place { known: matches.known.clone(), id: id.clone() })?;
                }
                Ok(found.len() as u64)
            }
            Step::Absent(place) => place.must_be_absent(self.version(place)?),
            Step::Exists(place) => place.must_exist(self.version(place)?),
            Step::Version(place, wanted) => place.must_be_at(self.version(place)?, *wanted),
            Step::Count { plan, at_least, at_most } => {
                let count = run::count(plan, &self.connection)?;
                if count >= *at_least && count <= *at_most {
                    return Ok(0);
                }
                Err(count_refusal(&plan.spec, count, *at_least, *at_most))
            }
        }
    }

    fn create(&self, document: &Document, version: u64) -> Result<()> {
        let place = &document.place;
        match self.put(&place.known.statements.insert, document, version) {
            Ok(_) => self.change_entries(place, self.connection.last_insert_rowid(), &[], &document.entries),
            // The same document twice breaks every unique index; the id is what to tell.
            Err(StoreError::AlreadyExists(_)) if self.version(place)?.is_some() => Err(place.taken()),
            Err(error) => Err(error),
        }
    }

    /// Not ON CONFLICT: a row that breaks two unique indexes at once would depend on which is looked at first.
    fn upsert(&self, document: &Document, version: u64) -> Result<()> {
        if self.replace(document, version)? { Ok(()) } else { self.create(document, version) }
    }

    /// Puts a document in the place of what is there; says whether there was something.
    fn replace(&self, document: &Document, version: u64) -> Result<bool> {
        let place = &document.place;
        let old = self.old_entries(place)?;
        if self.put(&place.known.statements.update, document, version)? == 0 {
            return Ok(false);
        }
        if let Some((rid, old)) = old {
            self.change_entries(place, rid, &old, &document.entries)?;
        }
        Ok(true)
    }

    fn delete(&self, place: &Place) -> Result<bool> {
        if let Some((rid, old)) = self.old_entries(place)? {
            self.change_entries(place, rid, &old, &[])?;
        }
        let deleted = self.cached(&place.known.statements.delete).and_then(|mut s| s.execute([&place.id]));
        deleted.map(|rows| rows > 0).map_err(|error| failed(place, error))
    }

    fn replace_where(&self, matches: &Matches, body: &Body, version: u64) -> Result<u64> {
        let found = self.matching(matches)?;
        for (id, _) in &found {
            let document = Document::new(matches.known.clone(), id.clone(), body.text.clone(), &body.value)?;
            self.replace(&document, version)?;
        }
        Ok(found.len() as u64)
    }

    fn update_fields(&self, matches: &Matches, fields: &[(String, Value)], version: u64) -> Result<u64> {
        let found = self.matching(matches)?;
        for (id, body) in &found {
            let name = matches.known.spec.name;
            let (text, value) = document::with_fields(body, fields, self.document_limit, name, id)?;
            self.replace(&Document::new(matches.known.clone(), id.clone(), text, &value)?, version)?;
        }
        Ok(found.len() as u64)
    }

    /// The ids and bodies of what passes the filters.
    fn matching(&self, matches: &Matches) -> Result<Vec<(String, Box<str>)>> {
        let mut collector = matches.plan.collector();
        run::each(&self.connection, &matches.plan, |row| collector.take(row))?;
        let page = collector.page()?;
        if page.next.is_some() {
            return Err(matches.known.spec.too_many_touched());
        }
        Ok(page.rows.into_iter().map(|row| (row.id, row.body)).collect())
    }

    /// What the lists of a collection have of a document now, and its row number; none where there are no lists or no
    /// document. The keys of an entry are all that removes it, and only the old document has them.
    fn old_entries(&self, place: &Place) -> Result<Option<(i64, Vec<Vec<Entry>>)>> {
        let spec = &place.known.spec;
        if spec.lists.is_empty() {
            return Ok(None);
        }
        let found = self.cached(&place.known.statements.old).and_then(|mut statement| {
            statement.query_row([&place.id], |row| Ok((row.get(0)?, row.get::<_, String>(1)?))).optional()
        });
        let Some((rid, body)) = found.map_err(|error| failed(place, error))? else { return Ok(None) };
        let value = document::parse_stored(&body, spec.name, &place.id)?;
        Ok(Some((rid, place.known.entries(&place.id, &value)?)))
    }

    /// Makes the entries of a document what they are to be.
    fn change_entries(&self, place: &Place, rid: i64, old: &[Vec<Entry>], new: &[Vec<Entry>]) -> Result<()> {
        let none = Vec::new();
        for (at, (add, remove)) in place.known.statements.lists.iter().enumerate() {
            let (old, new) = (old.get(at).unwrap_or(&none), new.get(at).unwrap_or(&none));
            // Entries are in order, so that looking for one is quick.
            let gone = old.iter().filter(|entry| new.binary_search(entry).is_err());
            let come = new.iter().filter(|entry| old.binary_search(entry).is_err());
            let changed = gone
                .map(|entry| (remove, entry, None))
                .chain(come.map(|entry| (add, entry, Some(rid))))
                .try_for_each(|(sql, entry, rid)| {
                    self.cached(sql).and_then(|mut s| change_entry(&mut s, entry, &place.id, rid)).map(drop)
                });
            changed.map_err(|error| failed(place, error))?;
        }
        Ok(())
    }

    /// Executes one of the statements that store a document, and says how many rows it changed.
    fn put(&self, sql: &str, document: &Document, version: u64) -> Result<usize> {
        let version = i64::try_from(version).unwrap_or(i64::MAX);
        let place = &document.place;
        let head = [ValueRef::from(&*place.id), ValueRef::Integer(version), ValueRef::from(&*document.body)];
        let keys = document.keys.iter().map(|key| ValueRef::Blob(key));
        let values = head.into_iter().chain(keys).map(ToSqlOutput::Borrowed);
        match self.cached(sql).and_then(|mut s| s.execute(params_from_iter(values))) {
            Err(error) if error.sqlite_error_code() == Some(ErrorCode::ConstraintViolation) => {
                Err(self.broken_by(document)?)
            }
            done => done.map_err(|error| failed(place, error)),
        }
    }

    /// The first declared unique index that a document breaks. SQLite names the one it looked at first, which depends on
    /// when the indexes were made.
    fn broken_by(&self, document: &Document) -> Result<StoreError> {
        let Place { known, id } = &document.place;
        for index in known.spec.indexes.iter().filter(|index| index.unique) {
            let mut sql = format!("SELECT 1 FROM {} WHERE id <> ?", known.spec.table);
            let mut values = vec![ValueRef::from(&**id)];
            for column in &index.columns {
                sql += &format!(" AND {column} = ?");
                values.push(match known.spec.place_of(column) {
                    Some(place) => ValueRef::Blob(&document.keys[place]),
                    None => ValueRef::from(&**id),
                });
            }
            let values = values.into_iter().map(ToSqlOutput::Borrowed);
            let found = self.connection.prepare(&sql).and_then(|mut s| s.exists(params_from_iter(values)));
            if found.map_err(|error| failed(&document.place, error))? {
                return Ok(known.spec.taken(index));
            }
        }
        Ok(document.place.taken())
    }

    fn expect_version(&self, place: &Place, wanted: Option<u64>) -> Result<()> {
        if wanted.is_none() { Ok(()) } else { place.expect(self.version(place)?, wanted) }
    }

    fn version(&self, place: &Place) -> Result<Option<u64>> {
        let found = self
            .cached(&place.known.statements.version)
            .and_then(|mut s| s.query_row([&place.id], |row| row.get::<_, i64>(0)).optional());
        Ok(found.map_err(|error| failed(place, error))?.map(i64::unsigned_abs))
    }

    fn cached(&self, sql: &str) -> rusqlite::Result<rusqlite::CachedStatement<'_>> {
        self.connection.prepare_cached(sql)
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

    fn bring_up(&mut self, collections: &[Arc<Known>]) -> Result<()> {
        self.alone(|writer| schema::bring_up(&writer.connection, collections.iter().map(|known| &*known.spec)))
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

fn failed(place: &Place, error: rusqlite::Error) -> StoreError {
    from_sqlite(error, &format!("writing to {}", place.known.spec.name))
}

/// Whoever asked may have stopped waiting.
fn answer<T>(reply: Reply<T>, outcome: Result<T>) {
    let _ = reply.send(outcome);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Collection, Index, sql::Spec};

    const COLLECTION: Collection = Collection { name: "group", indexes: &[Index::unique(&["slug"])] };

    struct Bench {
        _folder: tempfile::TempDir,
        writer: Writer,
        known: Arc<Known>,
    }

    impl Bench {
        fn new() -> Self {
            let temp = tempfile::tempdir().unwrap();
            let folder = Arc::new(Folder::open(temp.path()).unwrap());
            let mut writer = Writer::open(folder, Arc::default(), 1000, None).unwrap();
            let known = Arc::new(Known::new(Spec::new(&COLLECTION).unwrap()));
            writer.bring_up(std::slice::from_ref(&known)).unwrap();
            Self { _folder: temp, writer, known }
        }

        fn create(&self, id: &str) -> Step {
            let value = serde_json::json!({});
            Step::Create(Document::new(self.known.clone(), id.into(), "{}".into(), &value).unwrap())
        }

        /// Runs these batches as one group and gives back what each was answered.
        fn group(&mut self, batches: Vec<Vec<Step>>) -> Vec<Result<Committed>> {
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
                _ => assert_eq!(answer.as_ref().unwrap().touched, [1], "{i}"),
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
        assert!(bench.group(again)[0].is_ok());
        assert_eq!(bench.count(), 1);
    }

    #[test]
    fn versions_go_on_where_they_stood_before_a_restart() {
        let mut bench = Bench::new();
        let batches = vec![vec![bench.create("a")], vec![bench.create("b")]];
        bench.group(batches);
        let last = bench.writer.last_version;
        let folder = bench.writer.folder.clone();
        assert_eq!(Writer::open(folder, Arc::default(), 1000, None).unwrap().last_version, last);
    }
}
