//! The one writer: a thread that commits what waits in one transaction. A batch that fails takes nothing with it
//! (`apply.rs`); nobody is answered before the commit is on disk.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rusqlite::{Connection, ErrorCode};
use tokio::sync::{mpsc, oneshot};

use super::Known;
use super::apply::Step;
use super::disk::Reserve;
use super::errors::from_sqlite;
use super::folder::{Folder, beside, upgrade};
use super::schema;
use crate::{Committed, Result, StoreError};

/// The most batches in one transaction.
const GROUP: usize = 512;
/// Pages of 4 KiB in the log before they are written back. Those that are written again and again, as those of an index
/// are, are written back once. A crash leaves about 16 MiB of log to be read at the next start.
const LOG_PAGES: u32 = 4000;

/// Bytes of log after which the writer waits until readers let it begin the log anew. Without that it may only where none
/// reads at the moment of a commit, which never comes where there is always one: the log would grow as long as that lasts.
const LOG_MOST: u64 = 128 * 1024 * 1024;

/// How long the log is not looked at after a look, which costs as much as a small part of a commit.
const LOG_PAUSE: Duration = Duration::from_millis(1);

/// The longest that is waited for others to come. One commit may have taken seconds, where the disk stood still.
const GATHER_LIMIT: Duration = Duration::from_millis(10);

/// How long a lock is waited for.
const BUSY: Duration = Duration::from_secs(5);

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

/// A batch in a group, and what came of it so far.
struct Member {
    steps: Vec<Step>,
    reply: Reply<Committed>,
    outcome: Result<Committed>,
}

/// The state of the writing thread.
pub(super) struct Writer {
    pub(super) connection: Connection,
    pub(super) folder: Arc<Folder>,
    seeded: Arc<AtomicBool>,
    pub(super) document_limit: usize,
    /// The last version given to a batch.
    pub(super) last_version: u64,
    /// The last version that is on disk.
    pub(super) saved_version: u64,
    /// Whether the database still has the mark of a clean stop.
    pub(super) marked: bool,
    pub(super) reserve: Reserve,
    log: PathBuf,
    log_most: u64,
    /// The length of the log at which it is to begin anew.
    log_due: u64,
    log_looked_at: Instant,
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
            connection.busy_timeout(BUSY)?;
            connection.execute_batch(
                "PRAGMA synchronous = FULL; \
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
        folder.place.remember();
        Ok(Self {
            connection,
            reserve: Reserve::of(folder.database.parent().unwrap_or(&folder.database)),
            log: beside(&folder.database, "-wal"),
            log_most: LOG_MOST,
            log_due: LOG_MOST,
            log_looked_at: Instant::now(),
            folder,
            seeded,
            document_limit,
            last_version,
            saved_version: last_version,
            // Also where it has none, after a crash: once more costs less than another way through all this.
            marked: true,
            last_group: (0, Duration::ZERO),
        })
    }

    pub(super) fn folder(&self) -> Arc<Folder> {
        self.folder.clone()
    }

    /// Says whether seeding is finished, from now on.
    pub(super) fn seeded(&self) -> Arc<AtomicBool> {
        self.seeded.clone()
    }

    /// Works until nobody can ask any more, then writes the log back and closes.
    pub(super) fn work(mut self, mut jobs: mpsc::Receiver<Job>) {
        self.reserve.tend();
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
        self.finish();
    }

    /// Lets as many come as were in the last group: those who were answered a moment ago may be about to ask again, and one
    /// commit for all of them is cheaper than two. Not for longer than a part of what a commit takes.
    fn gather(&self, jobs: &mpsc::Receiver<Job>) {
        let (members, commit) = self.last_group;
        let (start, most) = (Instant::now(), GATHER_LIMIT.min(commit / 2));
        while jobs.len() + 1 < members && start.elapsed() < most {
            std::thread::yield_now();
        }
    }

    /// Commits this batch and those that came meanwhile; gives back a job of another kind that it met.
    fn group(&mut self, steps: Vec<Step>, reply: Reply<Committed>, jobs: &mut mpsc::Receiver<Job>) -> Option<Job> {
        // Guards alone hold or do not hold, also where nothing can be written.
        let may_go = if writes(&steps) { self.may_write() } else { Ok(()) };
        if let Err(error) = may_go.and_then(|()| self.run("BEGIN IMMEDIATE")) {
            answer(reply, Err(error));
            return None;
        }
        let mut group = Vec::new();
        let mut left = None;
        let mut all_apart = false;
        let mut current = Some((steps, reply));
        while let Some((steps, reply)) = current.take() {
            let applied = if all_apart { Some(self.apply_apart(&steps)) } else { self.apply(&steps) };
            let is_torn = applied.is_none();
            group.push(Member { steps, reply, outcome: applied.unwrap_or_else(|| Err(lost())) });
            if is_torn {
                all_apart = true;
                self.redo(&mut group);
            }
            if self.connection.is_autocommit() {
                // SQLite gave the whole transaction up, as it may on a full disk: nobody's writes are there.
                let failure = group.last().and_then(|last| last.outcome.as_ref().err().cloned());
                self.fail(group, failure.unwrap_or_else(lost));
                return None;
            }
            if group.len() < GROUP {
                match jobs.try_recv() {
                    Ok(Job::Commit(steps, reply)) if self.may_write_now() || !writes(&steps) => {
                        current = Some((steps, reply));
                    }
                    Ok(other) => left = Some(other),
                    Err(_) => {}
                }
            }
        }
        let start = Instant::now();
        let has_written = self.last_version != self.saved_version;
        match self.save_version().and_then(|()| self.run("COMMIT")) {
            Ok(()) => {
                self.saved_version = self.last_version;
                self.last_group = (group.len(), start.elapsed());
                let in_place = if has_written { self.still_in_place() } else { Ok(()) };
                for member in group {
                    answer(member.reply, in_place.clone().and(member.outcome));
                }
                if has_written && in_place.is_ok() {
                    self.limit_log();
                    self.reserve.tend();
                }
            }
            Err(error) => self.fail(group, error),
        }
        left
    }

    /// Begins the log anew where it is too long. Those who read by it are waited for, a second for each [`LOG_MOST`] that it
    /// has and not longer than for any lock, so that one who reads for minutes does not hold up the writes as long.
    fn limit_log(&mut self) {
        if self.log_looked_at.elapsed() < LOG_PAUSE {
            return;
        }
        self.log_looked_at = Instant::now();
        let length = fs::metadata(&self.log).map_or(0, |log| log.len());
        if length < self.log_due {
            return;
        }
        let is_done = self
            .connection
            .busy_timeout(Duration::from_secs(length / self.log_most).min(BUSY))
            .and_then(|()| {
                let is_busy = |row: &rusqlite::Row<'_>| row.get::<_, i64>(0);
                self.connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], is_busy)
            })
            .is_ok_and(|busy| busy == 0);
        self.log_due = self.log_most + if is_done { 0 } else { length };
        // Best effort, as all of this: what is wrong with the database is told to whoever writes next.
        let _ = self.connection.busy_timeout(BUSY);
    }

    /// Undoes the transaction and does again what was in it, each batch apart from the others. The transaction is gone
    /// where that fails, and whoever's turn has not come by then is told why.
    fn redo(&mut self, group: &mut [Member]) {
        self.roll_back();
        self.last_version = self.saved_version;
        let mut going = self.run("BEGIN IMMEDIATE");
        for member in group {
            member.outcome = going.clone().and_then(|()| self.apply_apart(&member.steps));
            if going.is_ok() && self.connection.is_autocommit() {
                going = member.outcome.clone().and_then(|_| Err(lost()));
            }
        }
    }

    /// Undoes the transaction and tells everybody whose batch was in it; those too that had been refused, perhaps for what
    /// is undone now.
    fn fail(&mut self, group: Vec<Member>, error: StoreError) {
        self.roll_back();
        // Else the next group would write it down, also one of guards alone, which must do without room on the disk.
        self.last_version = self.saved_version;
        for member in group {
            answer(member.reply, Err(error.clone()));
        }
    }

    pub(super) fn roll_back(&self) {
        if !self.connection.is_autocommit() {
            // If even this fails the next BEGIN says so.
            let _ = self.run("ROLLBACK");
        }
    }

    pub(super) fn cached(&self, sql: &str) -> rusqlite::Result<rusqlite::CachedStatement<'_>> {
        self.connection.prepare_cached(sql)
    }

    pub(super) fn save_version(&self) -> Result<()> {
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
        // Without a transaction where nothing changed, so that a daemon starts on a full disk.
        if schema::is_as_declared(&self.connection, collections.iter().map(|known| &*known.spec))? {
            return Ok(());
        }
        self.alone(|writer| schema::bring_up(&writer.connection, collections.iter().map(|known| &*known.spec)))
    }

    /// First the database, then the lock file: a crash between the two is made good at the next start. In the main file,
    /// too: a copy of that alone would look like a first start that did not come to its end, and be begun afresh.
    fn mark_seeded(&mut self) -> Result<()> {
        self.alone(|writer| writer.run("UPDATE _store_info SET value = 1 WHERE key = 'seeded'"))?;
        match self.connection.query_row("PRAGMA wal_checkpoint(FULL)", [], |_| Ok(())) {
            // It is in the log, and gets there when there is room.
            Err(error) if error.sqlite_error_code() == Some(ErrorCode::DiskFull) => {}
            done => done.map_err(|error| from_sqlite(error, "writing"))?,
        }
        self.folder.remember()?;
        self.seeded.store(true, Ordering::Release);
        Ok(())
    }

    fn alone(&mut self, work: impl FnOnce(&Self) -> Result<()>) -> Result<()> {
        self.may_write()?;
        self.run("BEGIN IMMEDIATE")?;
        let outcome = work(self).and_then(|()| self.run("COMMIT"));
        if outcome.is_err() {
            self.roll_back();
        }
        outcome.and_then(|()| self.still_in_place())
    }

    pub(super) fn run(&self, sql: &'static str) -> Result<()> {
        let done = self.connection.prepare_cached(sql).and_then(|mut statement| statement.execute([]));
        done.map(drop).map_err(|error| from_sqlite(error, "writing"))
    }
}

fn writes(steps: &[Step]) -> bool {
    let is_guard =
        |step: &Step| matches!(step, Step::Absent(_) | Step::Exists(_) | Step::Version(..) | Step::Count { .. });
    !steps.iter().all(is_guard)
}

fn lost() -> StoreError {
    StoreError::Internal("the transaction was lost".into())
}

/// Whoever asked may have stopped waiting.
fn answer<T>(reply: Reply<T>, outcome: Result<T>) {
    let _ = reply.send(outcome);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sql::{self, Spec};
    use crate::{Collection, Index};

    const COLLECTION: Collection =
        Collection { name: "group", indexes: &[Index::unique(&["slug"]), Index::each("tags", &[])] };

    const ENTRIES: &str = "SELECT count(*) FROM \"s_group(tags/)\"";

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
            let value = serde_json::json!({ "tags": ["a"] });
            let text = value.to_string().into();
            Step::Create(sql::Document::new(self.known.clone(), id.into(), text, &value).unwrap())
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
            self.ask("SELECT count(*) FROM c_group")
        }

        fn ask(&self, sql: &str) -> i64 {
            self.writer.connection.query_row(sql, [], |row| row.get(0)).unwrap()
        }

        /// As damage would: an entry without its document, which stands in the way of that document's own.
        fn leave_an_entry_of(&mut self, id: &str) {
            let create = self.create(id);
            self.group(vec![vec![create]]);
            self.writer.connection.execute_batch("DELETE FROM c_group").unwrap();
            assert_eq!(self.ask(ENTRIES), 1);
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
    fn a_write_that_fails_in_its_middle_is_undone_alone() {
        let mut bench = Bench::new();
        bench.leave_an_entry_of("torn");
        let batches = ["before", "torn", "after"].map(|id| vec![bench.create(id)]);
        let answers = bench.group(batches.into());
        assert!(answers[0].is_ok() && answers[1].is_err() && answers[2].is_ok(), "{answers:?}");
        assert_eq!((bench.count(), bench.ask(ENTRIES)), (2, 3));
        let versions = [0, 2].map(|at| answers[at].as_ref().unwrap().version);
        assert_eq!(versions, [2, 3], "each has one of its own, told after what was done again");
    }

    #[test]
    fn where_nothing_can_be_done_again_everyone_is_told_why() {
        let mut bench = Bench::new();
        bench.leave_an_entry_of("torn");
        let other = Connection::open(&bench.writer.folder.database).unwrap();
        bench.writer.connection.execute_batch("PRAGMA busy_timeout = 0").unwrap();
        bench.writer.connection.rollback_hook(Some(move || other.execute_batch("BEGIN IMMEDIATE").unwrap())).unwrap();
        let batches = ["before", "torn"].map(|id| vec![bench.create(id)]);
        let answers = bench.group(batches.into());
        let told = |answer: &Result<Committed>| matches!(answer, Err(StoreError::Unavailable(_)));
        assert!(answers.iter().all(told), "{answers:?}");
        bench.writer.connection.rollback_hook(None::<fn()>).unwrap();
        assert_eq!(bench.count(), 0);
    }

    #[test]
    fn readers_of_whom_one_is_always_there_do_not_make_the_log_grow() {
        let mut bench = Bench::new();
        bench.writer.log_most = 1024 * 1024;
        bench.writer.log_due = bench.writer.log_most;
        let over = Arc::new(AtomicBool::new(false));
        let readers = [0, 1].map(|_| {
            let (over, connection) = (over.clone(), Connection::open(&bench.writer.folder.database).unwrap());
            std::thread::spawn(move || {
                while !over.load(Ordering::Relaxed) {
                    connection.execute_batch("BEGIN; SELECT count(*) FROM c_group").unwrap();
                    std::thread::sleep(Duration::from_millis(20));
                    connection.execute_batch("COMMIT").unwrap();
                }
            })
        });
        // Three times as much as the log may have: a machine that is busy with other things does not come to it at once.
        for i in 0..90 {
            let value = serde_json::json!({ "text": "x".repeat(200_000) });
            let text = value.to_string().into();
            let document = sql::Document::new(bench.known.clone(), format!("i{i}"), text, &value).unwrap();
            assert!(bench.group(vec![vec![Step::Create(document)]])[0].is_ok());
            let length = fs::metadata(&bench.writer.log).unwrap().len();
            assert!(length < 6 * 1024 * 1024, "{i}: {length}");
        }
        over.store(true, Ordering::Relaxed);
        for reader in readers {
            reader.join().unwrap();
        }
    }

    #[test]
    fn one_who_reads_on_and_on_holds_up_no_write_for_long() {
        let mut bench = Bench::new();
        bench.writer.log_most = 64 * 1024;
        bench.writer.log_due = bench.writer.log_most;
        let reader = Connection::open(&bench.writer.folder.database).unwrap();
        reader.execute_batch("BEGIN; SELECT count(*) FROM c_group").unwrap();
        let (start, mut count) = (Instant::now(), 0);
        while bench.writer.log_due == bench.writer.log_most {
            let create = bench.create(&format!("i{count}"));
            assert!(bench.group(vec![vec![create]])[0].is_ok());
            count += 1;
        }
        assert!(start.elapsed() < Duration::from_secs(4), "{:?}", start.elapsed());
        reader.execute_batch("COMMIT").unwrap();
        while bench.writer.log_due > bench.writer.log_most {
            let create = bench.create(&format!("i{count}"));
            assert!(bench.group(vec![vec![create]])[0].is_ok());
            count += 1;
        }
        assert_eq!(fs::metadata(&bench.writer.log).unwrap().len(), 0, "it began anew once nobody read");
        assert_eq!(bench.count(), count);
    }

    #[test]
    fn a_disk_that_stood_still_once_holds_nobody_up_afterwards() {
        let mut bench = Bench::new();
        bench.writer.last_group = (2, Duration::from_secs(60));
        let (_jobs, receiver) = mpsc::channel(1);
        let start = Instant::now();
        bench.writer.gather(&receiver);
        assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    }

    #[test]
    fn a_commit_that_fails_fails_everyone_in_it_and_the_next_one_works() {
        let mut bench = Bench::new();
        bench.writer.connection.commit_hook(Some(|| true)).unwrap();
        let batches = (0..4).map(|i| vec![bench.create(&format!("i{i}")), bench.create(&format!("j{}", i / 2))]);
        let batches: Vec<_> = batches.collect();
        let answers = bench.group(batches);
        assert!(answers.iter().all(Result::is_err), "{answers:?}");
        // The second met a document of the first, which is not there.
        assert!(answers.iter().all(|answer| *answer == answers[0]), "{answers:?}");
        assert!(!matches!(answers[0], Err(StoreError::AlreadyExists(_))), "{answers:?}");
        assert_eq!(bench.count(), 0);
        // Else a group of guards alone would write the version down.
        assert_eq!(bench.writer.last_version, bench.writer.saved_version);

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
