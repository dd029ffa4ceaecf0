//! The audit log: for each call of an audited operation, an entry with the actor, client address, operation, target and
//! outcome. The entry of a change is committed in the batch of the change ([`Audit::commit`]). A successful call that changed
//! nothing has no entry, except a sign-in, whose entry is written before the response. Refused calls and repeated sign-ins
//! are aggregated by actor, operation, target and minute ([`aggregation`]) and written every second. The log has a maximum
//! age and a maximum size.

mod aggregation;
mod call;
mod target;

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use openorch_api::{Time, audit::AuditEntry};
use openorch_store::{Batch, Collection, Cursor, Filter, Index, Query, Result, Store, Stored, Table, Write};
use serde::{Deserialize, Serialize};

use self::aggregation::Due;
pub use self::call::CallAudit;
use crate::{LogLimit, clock::Clock, ids::Ids, metrics::Registry};

/// The entries; must be opened before the store is used. The name is that of the first version.
pub static ENTRIES: Collection = Collection {
    name: "userSvcAuditEntries",
    indexes: &[
        Index::on(&["at"]),
        Index::on(&["actorId", "at"]),
        Index::on(&["actorSlug", "at"]),
        Index::on(&["operation", "at"]),
        Index::on(&["target", "at"]),
        Index::each("targets", &["at"]),
        Index::on(&["outcome", "at"]),
    ],
};

/// An entry as it is stored.
#[derive(Serialize, Deserialize)]
struct StoredEntry {
    #[serde(flatten)]
    entry: AuditEntry,
    /// Plain accounts cannot cause such an entry: see [`CallAudit`]. It is removed last when the log is too long, or they
    /// could remove it by causing many others.
    #[serde(default, rename = "removedLast", skip_serializing_if = "std::ops::Not::not")]
    is_removed_last: bool,
}

/// How far the log has been trimmed: no entry before the cursor is one of those that are removed first.
#[derive(Default)]
struct Trimmed {
    until: Option<Cursor>,
    /// The number of entries before the cursor.
    passed: u64,
}

/// Maximum entries written or removed in one batch.
const BATCH_SIZE: usize = 1000;
/// A log that is too long is trimmed by an extra 1/`TRIM_DIVISOR` of its maximum, so that not every new entry trims it again.
const TRIM_DIVISOR: u64 = 100;
/// The operation, and the id, of the entry that counts the entries removed because of the log's size.
pub const TRIMMED: &str = "auditLogTrimmed";
/// The number of entries has not been counted yet.
const COUNT_UNKNOWN: u64 = u64::MAX;

/// Writes the log and enforces its limits.
pub struct Audit {
    entries: Table<AuditEntry>,
    stored: Table<StoredEntry>,
    store: Arc<dyn Store>,
    /// The name of the collection of accounts.
    accounts: &'static str,
    clock: Arc<dyn Clock>,
    ids: Arc<Ids>,
    aggregated: Mutex<aggregation::Table>,
    /// The approximate number of entries: counted once, then updated by writes and removals.
    count: AtomicU64,
    trimmed: Mutex<Trimmed>,
    /// Limits log lines about failed writes, which repeat while their cause persists.
    write_error_limit: LogLimit,
}

impl Audit {
    /// The log in `store`. `accounts` is the collection of accounts.
    pub fn new(store: Arc<dyn Store>, clock: Arc<dyn Clock>, ids: Arc<Ids>, accounts: &'static Collection) -> Audit {
        let (entries, stored) = (Table::new(store.clone(), &ENTRIES), Table::new(store.clone(), &ENTRIES));
        let (count, unwritten) = (AtomicU64::new(COUNT_UNKNOWN), LogLimit::once_a_minute());
        let accounts = accounts.name;
        Audit {
            entries,
            stored,
            store,
            accounts,
            clock,
            ids,
            aggregated: Mutex::default(),
            count,
            trimmed: Mutex::default(),
            write_error_limit: unwritten,
        }
    }

    /// Registers the approximate number of entries as a metric, absent until they were counted.
    pub fn register(self: &Arc<Audit>, registry: &Registry) {
        let audit = self.clone();
        registry.gauge("audit_entries", "Approximate number of entries of the audit log", move || {
            Some(audit.count.load(Ordering::Relaxed)).filter(|count| *count != COUNT_UNKNOWN)
        });
    }

    /// Leaves the targets of an entry that its text shows. It can be found by more of them if it gives rights.
    pub fn cut_targets(entry: &mut AuditEntry) {
        target::Target::cut(&mut entry.targets);
    }

    pub(crate) fn now(&self) -> jiff::Timestamp {
        self.clock.now()
    }

    /// Writes the aggregated entries that are due; with `all`, at shutdown, also the others.
    pub async fn flush_aggregated(&self, all: bool) {
        let minute = self.clock.now().as_second().div_euclid(60);
        let (pending, mut due, dropped) = lock(&self.aggregated).due(minute, all);
        if dropped > 0 {
            tracing::warn!("dropped {dropped} refused attempts from the audit log: it could not be written in time");
        }
        let outcome = async {
            for left in pending.chunks(BATCH_SIZE) {
                let writes = left.iter().map(|entry| self.entries.upsert(&entry.id, entry));
                self.store.commit(writes.collect::<Result<Batch>>()?).await?;
                let mut gathered = lock(&self.aggregated);
                left.iter().for_each(|entry| gathered.mark_pending_written(entry));
            }
            while !due.is_empty() {
                let rest = due.split_off(due.len().min(BATCH_SIZE));
                self.write(std::mem::replace(&mut due, rest)).await?;
            }
            Ok::<(), openorch_store::StoreError>(())
        };
        if let Err(error) = outcome.await
            && self.write_error_limit.allow().is_some()
        {
            tracing::warn!(
                "writing refused attempts to the audit log failed and is retried: {error}; logged at most once a minute"
            );
        }
    }

    async fn write(&self, due: Vec<Due>) -> Result<()> {
        let writes = due.iter().map(|due| self.entries.upsert(&due.entry.id, &due.entry));
        self.store.commit(writes.collect::<Result<Batch>>()?).await?;
        let mut gathered = lock(&self.aggregated);
        let new = due.iter().filter(|due| gathered.mark_written(due)).count() as u64;
        drop(gathered);
        self.add_to_count(new);
        Ok(())
    }

    fn add_to_count(&self, new: u64) {
        if self.count.load(Ordering::Relaxed) != COUNT_UNKNOWN {
            self.count.fetch_add(new, Ordering::Relaxed);
        }
    }

    /// When the newest entry was written.
    pub async fn newest(&self) -> Result<Option<Time>> {
        Ok(self.entries.first(&Query::all().descending("at")).await?.map(|newest| newest.value.at))
    }

    /// Removes entries older than `age`.
    pub async fn remove_older_than(&self, age: Duration) -> Result<()> {
        let age = jiff::SignedDuration::try_from(age).unwrap_or(jiff::SignedDuration::MAX);
        let Ok(before) = self.clock.now().checked_sub(age) else { return Ok(()) };
        let old = Query::all().filter(Filter::range("at", None, Some(Time(before).to_string().into())));
        loop {
            let page = self.store.find(ENTRIES.name, &old.clone().ascending("at").limit(BATCH_SIZE as u64)).await?;
            let count = page.rows.len();
            if count > 0 {
                self.store.commit(page.rows.into_iter().map(|row| removal(row.id)).collect()).await?;
                self.count.store(COUNT_UNKNOWN, Ordering::Relaxed);
                *lock(&self.trimmed) = Trimmed::default();
            }
            if count < BATCH_SIZE {
                return Ok(());
            }
        }
    }

    /// Removes entries if there are more than `max`: the oldest ones that plain accounts can cause, and if the others exceed
    /// half of `max`, or no others are left, the oldest of those. The entry [`TRIMMED`] records how many, and up to which
    /// time. Does not query the store while the approximate count is within the limit.
    pub async fn trim_to(&self, max: u64) -> Result<()> {
        if self.count.load(Ordering::Relaxed) == COUNT_UNKNOWN {
            let count = self.entries.count(&[]).await?;
            self.count.store(count, Ordering::Relaxed);
        }
        if self.count.load(Ordering::Relaxed) <= max {
            return Ok(());
        }
        // The count is approximate: batches of unknown outcome were not counted.
        let count = self.entries.count(&[]).await?;
        self.count.store(count, Ordering::Relaxed);
        let Some(excess) = count.checked_sub(max).filter(|beyond| *beyond > 0) else { return Ok(()) };
        let mut remaining = excess + max / TRIM_DIVISOR;
        let surplus = lock(&self.trimmed).passed.saturating_sub(max / 2).min(remaining);
        if surplus > 0 {
            self.remove_oldest(surplus).await?;
            // A removal by age may have reset the count meanwhile.
            let mut trimmed = lock(&self.trimmed);
            trimmed.passed = trimmed.passed.saturating_sub(surplus);
            drop(trimmed);
            remaining -= surplus;
        }
        let mut is_end = false;
        while remaining > 0 && !is_end {
            let after = lock(&self.trimmed).until.clone();
            let page = self.stored.page(&Query { after, ..oldest() }).await?;
            is_end = page.next.is_none();
            let rows = page.items.into_iter().filter(|row| row.id != TRIMMED);
            let (passed, mut gone): (Vec<_>, Vec<_>) = rows.partition(|row| row.value.is_removed_last);
            let is_whole = gone.len() as u64 <= remaining;
            gone.truncate(remaining as usize);
            remaining -= gone.len() as u64;
            self.remove_trimmed(gone).await?;
            let mut trimmed = lock(&self.trimmed);
            match (is_whole, is_end) {
                (_, true) => *trimmed = Trimmed::default(),
                (true, false) => {
                    *trimmed = Trimmed { until: page.next, passed: trimmed.passed + passed.len() as u64 };
                }
                (false, false) => {}
            }
        }
        self.remove_oldest(remaining).await
    }

    /// Removes this many of the oldest entries, whatever they are.
    async fn remove_oldest(&self, mut remaining: u64) -> Result<()> {
        while remaining > 0 {
            let mut page = self.stored.find(&oldest()).await?;
            page.retain(|row| row.id != TRIMMED);
            page.truncate(remaining as usize);
            if page.is_empty() {
                return Ok(());
            }
            remaining -= page.len() as u64;
            self.remove_trimmed(page).await?;
        }
        Ok(())
    }

    async fn remove_trimmed(&self, gone: Vec<Stored<StoredEntry>>) -> Result<()> {
        let Some(last) = gone.last() else { return Ok(()) };
        let removed = gone.len() as u64;
        let known = self.entries.get(TRIMMED).await?.map_or(0, |known| known.value.count);
        let trimmed = AuditEntry {
            id: TRIMMED.to_owned(),
            at: Time(self.clock.now()),
            operation: TRIMMED.to_owned(),
            target: format!("entries up to {}", last.value.entry.at),
            status: 200,
            count: known + removed,
            ..AuditEntry::default()
        };
        let batch: Batch = gone.into_iter().map(|row| removal(row.id)).collect();
        self.store.commit(batch.with(self.entries.upsert(TRIMMED, &trimmed)?)).await?;
        let _ = self.count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |count| count.checked_sub(removed));
        Ok(())
    }
}

fn oldest() -> Query {
    Query::all().ascending("at").limit(BATCH_SIZE as u64)
}

fn removal(id: String) -> Write {
    Write::Delete { collection: ENTRIES.name, id, version: None }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
