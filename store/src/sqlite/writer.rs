//! The writer thread, with group commit: all waiting batches are committed in one transaction. A failed batch does not
//! affect the others (`exec_write.rs`); no batch is acknowledged before the commit is on disk.

use std::{
    fs,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use rusqlite::{Connection, ErrorCode};
use tokio::sync::{mpsc, oneshot};

use super::{
    OpenCollection,
    data_dir::{DataDir, upgrade, with_suffix},
    disk::Reserve,
    errors::from_sqlite,
    exec_write::PreparedWrite,
    schema,
};
use crate::{Committed, Result, StoreError};

/// The maximum number of batches in one transaction.
const MAX_GROUP_BATCHES: usize = 512;
/// The number of log pages of 4 KiB before a checkpoint. A page that is written repeatedly, such as those of an index,
/// is written to the main file once per checkpoint. After a crash, the next start recovers about 16 MiB of log.
const CHECKPOINT_PAGES: u32 = 4000;

/// The log size in bytes above which the writer waits for readers and truncates the log. SQLite restarts the log only
/// if no read is active at a commit; under constant reads that never happens, and the log would grow without limit.
const MAX_LOG_BYTES: u64 = 128 * 1024 * 1024;

/// The minimum interval between checks of the log size, each of which costs a small part of a commit.
const LOG_CHECK_INTERVAL: Duration = Duration::from_millis(1);

/// The maximum time to wait for further batches. Half of the last commit may be seconds if the disk stalled.
const MAX_GATHER_TIME: Duration = Duration::from_millis(10);

/// The timeout for locks of the database.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// The channel for the result of a job.
pub(super) type Reply<T> = oneshot::Sender<Result<T>>;

/// A job for the writer.
pub(super) enum Job {
    /// Applies a batch.
    Commit(Vec<PreparedWrite>, Reply<Committed>),
    /// Migrates tables to their declaration.
    Open(Vec<Arc<OpenCollection>>, Reply<()>),
    /// Records in the database and in the lock file that seeding is finished.
    MarkSeeded(Reply<()>),
}

/// A batch in a group, with its result so far.
struct GroupMember {
    steps: Vec<PreparedWrite>,
    reply: Reply<Committed>,
    outcome: Result<Committed>,
}

/// The state of the writer thread.
pub(super) struct Writer {
    pub(super) connection: Connection,
    pub(super) folder: Arc<DataDir>,
    seeded: Arc<AtomicBool>,
    pub(super) document_limit: usize,
    /// The last version given to a batch.
    pub(super) last_version: u64,
    /// The last version that is on disk.
    pub(super) saved_version: u64,
    /// Whether the clean-shutdown flag may still be set.
    pub(super) may_be_clean: bool,
    pub(super) reserve: Reserve,
    log: PathBuf,
    max_log_bytes: u64,
    /// The log size in bytes at which it is truncated next.
    truncate_log_at: u64,
    log_checked_at: Instant,
    /// The number of batches in the last group, and the duration of its commit.
    last_group: (usize, Duration),
}

impl Writer {
    /// Opens the connection for writing.
    pub(super) fn open(
        data_dir: Arc<DataDir>,
        seeded: Arc<AtomicBool>,
        document_limit: usize,
        page_limit: Option<u32>,
    ) -> Result<Self> {
        let connection = data_dir.connect()?;
        let doing = format!("opening `{}`", data_dir.database.display());
        let prepare = || -> rusqlite::Result<(String, u64)> {
            connection.set_prepared_statement_cache_capacity(128);
            connection.busy_timeout(BUSY_TIMEOUT)?;
            connection.execute_batch(
                "PRAGMA synchronous = FULL; \
                 PRAGMA temp_store = MEMORY; PRAGMA cache_size = -4096; PRAGMA journal_size_limit = 67108864;",
            )?;
            connection.query_row(&format!("PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}"), [], |_| Ok(()))?;
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
                "{doing} failed: this file system does not support shared memory (it may be a network mount); choose a \
                 data directory on a local disk"
            )));
        }
        upgrade(&connection, &data_dir.database)?;
        data_dir.open_files.record();
        Ok(Self {
            connection,
            reserve: Reserve::new(data_dir.database.parent().unwrap_or(&data_dir.database)),
            log: with_suffix(&data_dir.database, "-wal"),
            max_log_bytes: MAX_LOG_BYTES,
            truncate_log_at: MAX_LOG_BYTES,
            log_checked_at: Instant::now(),
            folder: data_dir,
            seeded,
            document_limit,
            last_version,
            saved_version: last_version,
            // True even if it is not set, after a crash: clearing it once more is simpler than reading it here.
            may_be_clean: true,
            last_group: (0, Duration::ZERO),
        })
    }

    pub(super) fn data_dir(&self) -> Arc<DataDir> {
        self.folder.clone()
    }

    /// The flag that tells whether seeding is finished.
    pub(super) fn seeded(&self) -> Arc<AtomicBool> {
        self.seeded.clone()
    }

    /// Processes jobs until all senders are dropped, then checkpoints the log and closes.
    pub(super) fn run_jobs(mut self, mut jobs: mpsc::Receiver<Job>) {
        self.reserve.refill();
        let mut next = jobs.blocking_recv();
        while let Some(job) = next.take() {
            match job {
                Job::Commit(steps, reply) => {
                    self.gather(&jobs);
                    next = self.commit_group(steps, reply, &mut jobs);
                }
                Job::Open(collections, reply) => send_reply(reply, self.migrate(&collections)),
                Job::MarkSeeded(reply) => send_reply(reply, self.mark_seeded()),
            }
            if next.is_none() {
                next = jobs.blocking_recv();
            }
        }
        self.shut_down();
    }

    /// Waits for as many batches as the last group had: their callers were just answered and may be about to commit
    /// again, and one commit for all is cheaper than two. Waits at most a part of the duration of a commit.
    fn gather(&self, jobs: &mpsc::Receiver<Job>) {
        let (members, commit) = self.last_group;
        let (start, most) = (Instant::now(), MAX_GATHER_TIME.min(commit / 2));
        while jobs.len() + 1 < members && start.elapsed() < most {
            std::thread::yield_now();
        }
    }

    /// Commits this batch and those queued meanwhile as a group; returns a job of another kind that ended the group.
    fn commit_group(
        &mut self,
        steps: Vec<PreparedWrite>,
        reply: Reply<Committed>,
        jobs: &mut mpsc::Receiver<Job>,
    ) -> Option<Job> {
        // A batch of guards alone is evaluated even if nothing can be written.
        let may_go = if has_writes(&steps) { self.prepare_write() } else { Ok(()) };
        if let Err(error) = may_go.and_then(|()| self.execute("BEGIN IMMEDIATE")) {
            send_reply(reply, Err(error));
            return None;
        }
        let mut group = Vec::new();
        let mut left = None;
        let mut use_savepoints = false;
        let mut current = Some((steps, reply));
        while let Some((steps, reply)) = current.take() {
            let applied = if use_savepoints { Some(self.apply_in_savepoint(&steps)) } else { self.apply(&steps) };
            let is_partly_written = applied.is_none();
            group.push(GroupMember { steps, reply, outcome: applied.unwrap_or_else(|| Err(transaction_lost())) });
            if is_partly_written {
                use_savepoints = true;
                self.replay(&mut group);
            }
            if self.connection.is_autocommit() {
                // SQLite rolled back the whole transaction, as it may on a full disk: no batch of the group was
                // written.
                let failure = group.last().and_then(|last| last.outcome.as_ref().err().cloned());
                self.fail_group(group, failure.unwrap_or_else(transaction_lost));
                return None;
            }
            if group.len() < MAX_GROUP_BATCHES {
                match jobs.try_recv() {
                    Ok(Job::Commit(steps, reply)) if self.is_prepared_to_write() || !has_writes(&steps) => {
                        current = Some((steps, reply));
                    }
                    Ok(other) => left = Some(other),
                    Err(_) => {}
                }
            }
        }
        let start = Instant::now();
        let has_written = self.last_version != self.saved_version;
        match self.save_version().and_then(|()| self.execute("COMMIT")) {
            Ok(()) => {
                self.saved_version = self.last_version;
                self.last_group = (group.len(), start.elapsed());
                let in_place = if has_written { self.check_files() } else { Ok(()) };
                for member in group {
                    send_reply(member.reply, in_place.clone().and(member.outcome));
                }
                if has_written && in_place.is_ok() {
                    self.truncate_log();
                    self.reserve.refill();
                }
            }
            Err(error) => self.fail_group(group, error),
        }
        left
    }

    /// Truncates the log if it is too long. Waits for readers one second for each [`MAX_LOG_BYTES`] of log, at most the
    /// timeout for locks, so that a read of minutes does not block writes that long.
    fn truncate_log(&mut self) {
        if self.log_checked_at.elapsed() < LOG_CHECK_INTERVAL {
            return;
        }
        self.log_checked_at = Instant::now();
        let length = fs::metadata(&self.log).map_or(0, |log| log.len());
        if length < self.truncate_log_at {
            return;
        }
        let is_done = self
            .connection
            .busy_timeout(Duration::from_secs(length / self.max_log_bytes).min(BUSY_TIMEOUT))
            .and_then(|()| {
                let is_busy = |row: &rusqlite::Row<'_>| row.get::<_, i64>(0);
                self.connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], is_busy)
            })
            .is_ok_and(|busy| busy == 0);
        self.truncate_log_at = self.max_log_bytes + if is_done { 0 } else { length };
        // Best effort, like the whole function: the next write reports an error of the database.
        let _ = self.connection.busy_timeout(BUSY_TIMEOUT);
    }

    /// Rolls back the transaction and replays its batches, each in a savepoint. If that fails, the transaction is lost,
    /// and the remaining batches get the error.
    fn replay(&mut self, group: &mut [GroupMember]) {
        self.roll_back();
        self.last_version = self.saved_version;
        let mut going = self.execute("BEGIN IMMEDIATE");
        for member in group {
            member.outcome = going.clone().and_then(|()| self.apply_in_savepoint(&member.steps));
            if going.is_ok() && self.connection.is_autocommit() {
                going = member.outcome.clone().and_then(|_| Err(transaction_lost()));
            }
        }
    }

    /// Rolls back the transaction and fails all batches in it, including those refused before: the refusal may be due
    /// to a write that is now rolled back.
    fn fail_group(&mut self, group: Vec<GroupMember>, error: StoreError) {
        self.roll_back();
        // Otherwise the next group would save this version, even a group of guards alone, which must work on a full
        // disk.
        self.last_version = self.saved_version;
        for member in group {
            send_reply(member.reply, Err(error.clone()));
        }
    }

    pub(super) fn roll_back(&self) {
        if !self.connection.is_autocommit() {
            // If this fails too, the next BEGIN reports it.
            let _ = self.execute("ROLLBACK");
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

    fn migrate(&mut self, collections: &[Arc<OpenCollection>]) -> Result<()> {
        // Without a transaction if nothing changed, so that a daemon starts on a full disk.
        if schema::is_as_declared(&self.connection, collections.iter().map(|known| &*known.spec))? {
            return Ok(());
        }
        self.in_transaction(|writer| schema::migrate(&writer.connection, collections.iter().map(|known| &*known.spec)))
    }

    /// First the database, then the lock file: the next start repairs a crash between the two. Checkpointed into the
    /// main file: a copy of that file alone would otherwise look like an unfinished first start and be deleted.
    fn mark_seeded(&mut self) -> Result<()> {
        self.in_transaction(|writer| writer.execute("UPDATE _store_info SET value = 1 WHERE key = 'seeded'"))?;
        match self.connection.query_row("PRAGMA wal_checkpoint(FULL)", [], |_| Ok(())) {
            // It is in the log and will be checkpointed once there is space.
            Err(error) if error.sqlite_error_code() == Some(ErrorCode::DiskFull) => {}
            done => done.map_err(|error| from_sqlite(error, "writing"))?,
        }
        self.folder.record_id()?;
        self.seeded.store(true, Ordering::Release);
        Ok(())
    }

    fn in_transaction(&mut self, work: impl FnOnce(&Self) -> Result<()>) -> Result<()> {
        self.prepare_write()?;
        self.execute("BEGIN IMMEDIATE")?;
        let outcome = work(self).and_then(|()| self.execute("COMMIT"));
        if outcome.is_err() {
            self.roll_back();
        }
        outcome.and_then(|()| self.check_files())
    }

    pub(super) fn execute(&self, sql: &'static str) -> Result<()> {
        let done = self.connection.prepare_cached(sql).and_then(|mut statement| statement.execute([]));
        done.map(drop).map_err(|error| from_sqlite(error, "writing"))
    }
}

fn has_writes(steps: &[PreparedWrite]) -> bool {
    let is_guard = |step: &PreparedWrite| {
        matches!(
            step,
            PreparedWrite::Absent(_)
                | PreparedWrite::Exists(_)
                | PreparedWrite::Version(..)
                | PreparedWrite::Count { .. }
        )
    };
    !steps.iter().all(is_guard)
}

fn transaction_lost() -> StoreError {
    StoreError::Internal("the transaction was lost".into())
}

/// Sends a reply; the caller may have stopped waiting.
fn send_reply<T>(reply: Reply<T>, outcome: Result<T>) {
    let _ = reply.send(outcome);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Collection, Index,
        sql::{self, Spec},
    };

    const COLLECTION: Collection =
        Collection { name: "group", indexes: &[Index::unique(&["slug"]), Index::each("tags", &[])] };

    const ENTRIES: &str = "SELECT count(*) FROM \"s_group(tags/)\"";

    struct Bench {
        _folder: tempfile::TempDir,
        writer: Writer,
        known: Arc<OpenCollection>,
    }

    impl Bench {
        fn new() -> Self {
            let temp = tempfile::tempdir().unwrap();
            let folder = Arc::new(DataDir::open(temp.path()).unwrap());
            let mut writer = Writer::open(folder, Arc::default(), 1000, None).unwrap();
            let known = Arc::new(OpenCollection::new(Spec::new(&COLLECTION).unwrap()));
            writer.migrate(std::slice::from_ref(&known)).unwrap();
            Self { _folder: temp, writer, known }
        }

        fn create(&self, id: &str) -> PreparedWrite {
            let value = serde_json::json!({ "tags": ["a"] });
            let text = value.to_string().into();
            PreparedWrite::Create(sql::PreparedDocument::new(self.known.clone(), id.into(), text, &value).unwrap())
        }

        /// Runs these batches as one group and returns the result of each.
        fn group(&mut self, batches: Vec<Vec<PreparedWrite>>) -> Vec<Result<Committed>> {
            let (jobs, mut receiver) = mpsc::channel(MAX_GROUP_BATCHES);
            let (replies, mut answers): (Vec<_>, Vec<_>) = batches.iter().map(|_| oneshot::channel()).unzip();
            let mut waiting = batches.into_iter().zip(replies);
            let (first, reply) = waiting.next().unwrap();
            for (steps, reply) in waiting {
                assert!(jobs.try_send(Job::Commit(steps, reply)).is_ok());
            }
            assert!(self.writer.commit_group(first, reply, &mut receiver).is_none());
            assert!(receiver.try_recv().is_err(), "all batches were in one group");
            answers.iter_mut().map(|answer| answer.try_recv().unwrap()).collect()
        }

        fn count(&self) -> i64 {
            self.ask("SELECT count(*) FROM c_group")
        }

        fn ask(&self, sql: &str) -> i64 {
            self.writer.connection.query_row(sql, [], |row| row.get(0)).unwrap()
        }

        /// Simulates damage: a list entry without its document, which conflicts with the entry of a new document.
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
                _ => assert_eq!(answer.as_ref().unwrap().rows_affected, [1], "{i}"),
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
        assert_eq!(versions, [2, 3], "each batch has its own version, assigned by the replay");
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
        bench.writer.max_log_bytes = 1024 * 1024;
        bench.writer.truncate_log_at = bench.writer.max_log_bytes;
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
        // Three times the size at which the log is truncated: a busy machine may get to it late.
        for i in 0..90 {
            let value = serde_json::json!({ "text": "x".repeat(200_000) });
            let text = value.to_string().into();
            let document = sql::PreparedDocument::new(bench.known.clone(), format!("i{i}"), text, &value).unwrap();
            assert!(bench.group(vec![vec![PreparedWrite::Create(document)]])[0].is_ok());
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
        bench.writer.max_log_bytes = 64 * 1024;
        bench.writer.truncate_log_at = bench.writer.max_log_bytes;
        let reader = Connection::open(&bench.writer.folder.database).unwrap();
        reader.execute_batch("BEGIN; SELECT count(*) FROM c_group").unwrap();
        let (start, mut count) = (Instant::now(), 0);
        while bench.writer.truncate_log_at == bench.writer.max_log_bytes {
            let create = bench.create(&format!("i{count}"));
            assert!(bench.group(vec![vec![create]])[0].is_ok());
            count += 1;
        }
        assert!(start.elapsed() < Duration::from_secs(4), "{:?}", start.elapsed());
        reader.execute_batch("COMMIT").unwrap();
        while bench.writer.truncate_log_at > bench.writer.max_log_bytes {
            let create = bench.create(&format!("i{count}"));
            assert!(bench.group(vec![vec![create]])[0].is_ok());
            count += 1;
        }
        assert_eq!(fs::metadata(&bench.writer.log).unwrap().len(), 0, "it was truncated once there was no read");
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
        // The second batch conflicted with a document of the first, which was rolled back.
        assert!(answers.iter().all(|answer| *answer == answers[0]), "{answers:?}");
        assert!(!matches!(answers[0], Err(StoreError::AlreadyExists(_))), "{answers:?}");
        assert_eq!(bench.count(), 0);
        // Otherwise a group of guards alone would save the version.
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
