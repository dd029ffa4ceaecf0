//! The audit log (one entry for each call of an operation whose row says so): who, from where, what, to what, and what
//! came of it. The entry of a change is in the very batch that makes the change: [`Audit::commit`] puts it there. A call
//! that succeeded and changed nothing, since it repeats what is there, leaves no entry, but for sign-ins, which have theirs
//! written before they are answered. Refused attempts and such repeats are gathered by actor, operation, target and minute
//! ([`gathered`]), and written every second. The log has a bound in age and one in size.

mod call;
mod gathered;
mod target;

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use openorch_api::{Time, audit::AuditEntry};
use openorch_store::{Batch, Collection, Filter, Index, Query, Result, Store, Table, Write};

pub use self::call::CallAudit;
use self::gathered::Due;
use crate::{LogLimit, clock::Clock, ids::Ids, metrics::Registry};

/// The entries, to be opened before the store is used. Named as by the first version.
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

/// Entries written or removed in one batch.
const AT_ONCE: usize = 1000;
/// When the log is too long, this part more of it goes than must, so that not each new entry removes one.
const SPARE_PART: u64 = 100;
/// What the entry that says how many were removed for the log's size names as its operation; also that entry's id.
pub const TRIMMED: &str = "auditLogTrimmed";
/// The number of entries is not known yet.
const NOT_COUNTED: u64 = u64::MAX;

/// What writes and keeps the log.
pub struct Audit {
    entries: Table<AuditEntry>,
    store: Arc<dyn Store>,
    /// The name of the collection of accounts, by id.
    accounts: &'static str,
    clock: Arc<dyn Clock>,
    ids: Arc<Ids>,
    gathered: Mutex<gathered::Table>,
    /// About how many entries there are: counted once, then kept by what is written and removed.
    count: AtomicU64,
    /// Of failures to write, which last as long as what they come from.
    unwritten: LogLimit,
}

impl Audit {
    pub fn new(store: Arc<dyn Store>, clock: Arc<dyn Clock>, ids: Arc<Ids>, accounts: &'static Collection) -> Audit {
        let entries = Table::new(store.clone(), &ENTRIES);
        let (count, unwritten) = (AtomicU64::new(NOT_COUNTED), LogLimit::once_a_minute());
        let accounts = accounts.name;
        Audit { entries, store, accounts, clock, ids, gathered: Mutex::default(), count, unwritten }
    }

    /// Adds how many entries there are, about; nothing before they were counted.
    pub fn register(self: &Arc<Audit>, registry: &Registry) {
        let audit = self.clone();
        registry.gauge("audit_entries", "Entries of the audit log, about", move || {
            Some(audit.count.load(Ordering::Relaxed)).filter(|count| *count != NOT_COUNTED)
        });
    }

    pub(crate) fn now(&self) -> jiff::Timestamp {
        self.clock.now()
    }

    /// Writes what was gathered since the last time, as far as it is due; the rest too where the daemon stops (`all`).
    pub async fn write_gathered(&self, all: bool) {
        let minute = self.clock.now().as_second().div_euclid(60);
        let (left, mut due, dropped) = lock(&self.gathered).due(minute, all);
        if dropped > 0 {
            tracing::warn!("{dropped} refused attempts are not in the audit log: it could not be written in time");
        }
        let outcome = async {
            for left in left.chunks(AT_ONCE) {
                let writes = left.iter().map(|entry| self.entries.upsert(&entry.id, entry));
                self.store.commit(writes.collect::<Result<Batch>>()?).await?;
                let mut gathered = lock(&self.gathered);
                left.iter().for_each(|entry| gathered.left_written(entry));
            }
            while !due.is_empty() {
                let rest = due.split_off(due.len().min(AT_ONCE));
                self.write(std::mem::replace(&mut due, rest)).await?;
            }
            Ok::<(), openorch_store::StoreError>(())
        };
        if let Err(error) = outcome.await
            && self.unwritten.allow().is_some()
        {
            tracing::warn!(
                "refused attempts could not be written to the audit log yet: {error}; written once a minute while this goes on"
            );
        }
    }

    async fn write(&self, due: Vec<Due>) -> Result<()> {
        let writes = due.iter().map(|due| self.entries.upsert(&due.entry.id, &due.entry));
        self.store.commit(writes.collect::<Result<Batch>>()?).await?;
        let mut gathered = lock(&self.gathered);
        let new = due.iter().filter(|due| gathered.written(due)).count() as u64;
        drop(gathered);
        self.counted(new);
        Ok(())
    }

    fn counted(&self, new: u64) {
        if self.count.load(Ordering::Relaxed) != NOT_COUNTED {
            self.count.fetch_add(new, Ordering::Relaxed);
        }
    }

    /// When the newest entry was written.
    pub async fn newest(&self) -> Result<Option<Time>> {
        Ok(self.entries.first(&Query::all().descending("at")).await?.map(|newest| newest.value.at))
    }

    /// Removes entries that are older than this.
    pub async fn remove_older(&self, age: Duration) -> Result<()> {
        let age = jiff::SignedDuration::try_from(age).unwrap_or(jiff::SignedDuration::MAX);
        let Ok(before) = self.clock.now().checked_sub(age) else { return Ok(()) };
        let old = Query::all().filter(Filter::range("at", None, Some(Time(before).to_string().into())));
        loop {
            let page = self.store.find(ENTRIES.name, &old.clone().ascending("at").limit(AT_ONCE as u64)).await?;
            let count = page.rows.len();
            if count > 0 {
                self.store.commit(page.rows.into_iter().map(|row| removal(row.id)).collect()).await?;
                self.count.store(NOT_COUNTED, Ordering::Relaxed);
            }
            if count < AT_ONCE {
                return Ok(());
            }
        }
    }

    /// Removes the oldest entries where there are more than `most`; one entry, [`TRIMMED`], says how many and up to when.
    /// Costs nothing while there are fewer.
    pub async fn remove_beyond(&self, most: u64) -> Result<()> {
        if self.count.load(Ordering::Relaxed) == NOT_COUNTED {
            let count = self.entries.count(&[]).await?;
            self.count.store(count, Ordering::Relaxed);
        }
        if self.count.load(Ordering::Relaxed) <= most {
            return Ok(());
        }
        // What was counted may be a little off: a batch of which nobody knows what came was not counted.
        let count = self.entries.count(&[]).await?;
        self.count.store(count, Ordering::Relaxed);
        let Some(beyond) = count.checked_sub(most).filter(|beyond| *beyond > 0) else { return Ok(()) };
        let mut left = beyond + most / SPARE_PART;
        while left > 0 {
            let at_once = left.min(AT_ONCE as u64);
            let page = self.entries.find(&Query::all().ascending("at").limit(at_once + 1)).await?;
            let page: Vec<_> = page.into_iter().filter(|row| row.id != TRIMMED).take(at_once as usize).collect();
            let Some(last) = page.last() else { break };
            let known = self.entries.get(TRIMMED).await?.map_or(0, |known| known.value.count);
            let told = AuditEntry {
                id: TRIMMED.to_owned(),
                at: Time(self.clock.now()),
                operation: TRIMMED.to_owned(),
                target: format!("entries up to {}", last.value.at),
                status: 200,
                count: known + page.len() as u64,
                ..AuditEntry::default()
            };
            let removed = page.len() as u64;
            let batch: Batch = page.into_iter().map(|row| removal(row.id)).collect();
            self.store.commit(batch.with(self.entries.upsert(TRIMMED, &told)?)).await?;
            left = left.saturating_sub(removed);
            let _ = self.count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |count| count.checked_sub(removed));
        }
        Ok(())
    }
}

fn removal(id: String) -> Write {
    Write::Delete { collection: ENTRIES.name, id, version: None }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
