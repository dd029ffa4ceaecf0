//! The audit log (one entry for each call of an operation whose row says so): who, from where, what, to what, and what
//! came of it. The entry of a change is in the very batch that makes the change, whoever commits it: [`Audited`] puts it
//! there. A call that succeeded and changed nothing, since it repeats what is there, leaves no entry, but for sign-ins,
//! which have theirs written before they are answered. Refused attempts and such repeats are gathered by actor, operation,
//! target and minute ([`gathered`]), and written every second. The log has a bound in age and one in size.

mod gathered;
mod target;

use std::{
    net::IpAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use openorch_api::{
    Parts, Row, Time,
    audit::{AuditEntry, AuditOutcome},
    error::access,
    role,
};
use openorch_store::{
    Batch, BoxFuture, Collection, Committed, Filter, Guard, Index, Layer, Query, Result, Store, StoreError, Table,
    Write,
};

use self::{gathered::Due, target::Target};
use crate::{
    Caller, Error, LogLimit,
    clock::Clock,
    ids::Ids,
    metrics::Registry,
    repeat::{self, Keyed},
};

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

tokio::task_local! {
    /// The call that this task serves, where its row says that it is audited.
    static CALL: Arc<Call>;
}

/// A call of an audited operation while it is served.
#[derive(Default)]
pub(crate) struct Call {
    entry: Mutex<AuditEntry>,
    is_written: Mutex<bool>,
    /// It is told also where it changed nothing.
    is_told_anyway: AtomicBool,
    /// What must hold when it writes, beside that its account is there.
    standing: Mutex<Standing>,
    /// What did not hold any more when a write was refused.
    lost: Mutex<Option<Lost>>,
    /// Its answer is stored with its change.
    keyed: Mutex<Option<Arc<Keyed>>>,
}

/// What let a caller in, as guards of what it writes: that may be taken from it while the call is in progress.
#[derive(Clone, Default)]
struct Standing {
    /// See [`Identity::standing`](crate::Identity::standing).
    session: Vec<Guard>,
    /// See [`Identity::basis`](crate::Identity::basis); and what handlers add.
    right: Vec<Guard>,
}

#[derive(Clone, Copy)]
enum Lost {
    Session,
    Right,
    /// Another call with its key made its change.
    Key,
}

impl Call {
    /// `path`: the values of the path's parameters, which are known before the body is read, and so also of calls that
    /// are refused before that. `parent` is the operation that makes the call in process.
    pub(crate) fn new(
        row: &Row,
        path: &[String],
        client: IpAddr,
        request_id: &str,
        parent: Option<&'static str>,
    ) -> Arc<Call> {
        let entry = AuditEntry {
            operation: row.id.to_owned(),
            parent_operation: parent.unwrap_or_default().to_owned(),
            client_ip: client.to_string(),
            request_id: request_id.to_owned(),
            count: 1,
            ..AuditEntry::default()
        };
        let call = Call { entry: Mutex::new(entry), ..Call::default() };
        call.set_target(Target::of_path(path.iter().map(String::as_str)));
        Arc::new(call)
    }

    /// The error of a call, which says so where it came of what the caller lost while it was served.
    pub(crate) fn blame(&self, error: Error) -> Error {
        match *lock(&self.lost) {
            None => error,
            Some(Lost::Session) => Error::new(
                &access::LOST_MEANWHILE,
                format!(
                    "the session of this token ended, or its account lost the role `{}`, while the call was in progress: \
                     nothing was changed",
                    role::ADMIN
                ),
            )
            .because(error),
            Some(Lost::Key) => repeat::in_flight().because(error),
            Some(Lost::Right) => Error::new(
                &access::RIGHT_LOST_MEANWHILE,
                "the right to this call was taken from its account while the call was in progress: nothing was changed",
            )
            .because(error),
        }
    }

    /// Serves the call: what is committed within is told with it.
    pub(crate) async fn serve<F: Future>(self: Arc<Call>, work: F) -> F::Output {
        CALL.scope(self, work).await
    }
}

/// Says who calls, where the call that is served is audited; `via_service` is the service that does so with a delegated
/// token.
pub fn tell_actor(user_id: &str, slug: &str, via_service: Option<&str>) {
    // Outside of an audited call there is nobody to tell.
    let _ = CALL.try_with(|call| {
        let mut entry = lock(&call.entry);
        entry.actor_id = user_id.to_owned();
        entry.actor_slug = slug.to_owned();
        entry.via_service = via_service.unwrap_or_default().to_owned();
    });
}

/// Says who calls, and what must hold of that caller when the call writes.
pub(crate) fn tell_caller(caller: &Caller, standing: Vec<Guard>) {
    tell_actor(&caller.user_id, &caller.slug, caller.audience.as_deref());
    let _ = CALL.try_with(|call| *lock(&call.standing) = Standing { session: standing, right: Vec::new() });
}

/// Adds what must hold when the call writes, so that its caller may still do what it does.
pub fn require_right(guards: impl IntoIterator<Item = Guard>) {
    let _ = CALL.try_with(|call| {
        let right = &mut lock(&call.standing).right;
        for guard in guards {
            if !right.contains(&guard) {
                right.push(guard);
            }
        }
    });
}

/// Has the answer of the call that is served stored with its change.
pub(crate) fn keep_answer(keyed: Arc<Keyed>) {
    let _ = CALL.try_with(|call| *lock(&call.keyed) = Some(keyed));
}

/// The key of the call that is served, if it came with one.
pub(crate) fn keyed() -> Option<Arc<Keyed>> {
    CALL.try_with(|call| lock(&call.keyed).clone()).ok().flatten()
}

/// Whether the call that is served was refused a write since its caller may not make it any more: it is not tried again.
pub(crate) fn caller_lost_standing() -> bool {
    CALL.try_with(|call| lock(&call.lost).is_some()).unwrap_or_default()
}

/// Says what the call makes, where the caller named nothing that it could be told by.
pub fn tell_made(id: &str) {
    let _ = CALL.try_with(|call| {
        let is_named = !lock(&call.entry).target.is_empty();
        if !is_named {
            call.set_target(Target::of_path([id]));
        }
    });
}

/// Has the call told also where it changed nothing: a sign-in that found its session is one all the same.
pub fn tell_anyway() {
    let _ = CALL.try_with(|call| call.is_told_anyway.store(true, Ordering::Relaxed));
}

/// Does what is part of a call and not the change that it is about: what is committed within is not told as that.
pub async fn aside<F: Future>(work: F) -> F::Output {
    let call = Call { is_written: Mutex::new(true), ..Call::default() };
    CALL.scope(Arc::new(call), work).await
}

/// Says what the call is about: the path's parameters, and what the row names of the body.
pub(crate) fn tell_target(row: &Row, parts: &Parts) {
    let _ = CALL.try_with(|call| call.set_target(Target::of_call(row, parts)));
}

impl Call {
    fn set_target(&self, target: Target) {
        let mut entry = lock(&self.entry);
        (entry.target, entry.targets) = (target.text, target.names);
    }
}

/// What writes and keeps the log.
pub struct Audit {
    entries: Table<AuditEntry>,
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    ids: Arc<Ids>,
    gathered: Mutex<gathered::Table>,
    /// About how many entries there are: counted once, then kept by what is written and removed.
    count: AtomicU64,
    /// Of failures to write, which last as long as what they come from.
    unwritten: LogLimit,
}

impl Audit {
    pub fn new(store: Arc<dyn Store>, clock: Arc<dyn Clock>, ids: Arc<Ids>) -> Audit {
        let entries = Table::new(store.clone(), &ENTRIES);
        let (count, unwritten) = (AtomicU64::new(NOT_COUNTED), LogLimit::once_a_minute());
        Audit { entries, store, clock, ids, gathered: Mutex::default(), count, unwritten }
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

    /// Notes that a call came to nothing.
    pub(crate) fn refused(&self, call: &Call, error: &Error) {
        if error.status().is_server_error() {
            // Nothing could be written, and the log of the daemon has it.
            return;
        }
        let entry = AuditEntry {
            at: Time(self.clock.now()),
            outcome: AuditOutcome::Refused,
            status: error.code.status,
            ..lock(&call.entry).clone()
        };
        lock(&self.gathered).add(entry, || self.ids.next("aud"));
    }

    /// Tells of a sign-in that succeeded where no change of it did, since it found its session. Of another call that
    /// changed nothing there is nothing to tell.
    pub(crate) async fn succeeded(&self, call: &Call) {
        if *lock(&call.is_written) || !call.is_told_anyway.load(Ordering::Relaxed) {
            return;
        }
        let entry = AuditEntry {
            at: Time(self.clock.now()),
            outcome: AuditOutcome::Done,
            status: 200,
            ..lock(&call.entry).clone()
        };
        let first = lock(&self.gathered).add(entry, || self.ids.next("aud"));
        let Some(first) = first else { return };
        let operation = first.entry.operation.clone();
        // What was asked for is done: while the disk is full, an admin must be able to sign in.
        if let Err(error) = self.write(vec![first]).await {
            tracing::warn!(operation.id = operation, "a call could not be written to the audit log yet: {error}");
        }
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

    /// The write that tells a call that was done.
    fn change(&self, call: &Call) -> Result<Write> {
        let entry = AuditEntry {
            id: self.ids.next("aud"),
            at: Time(self.clock.now()),
            outcome: AuditOutcome::Done,
            status: 200,
            ..lock(&call.entry).clone()
        };
        self.entries.create(&entry.id, &entry)
    }
}

/// A store that tells the audit log of each change in the batch that makes it.
pub struct Audited {
    store: Arc<dyn Store>,
    audit: Arc<Audit>,
    /// The name of the collection of accounts, by id.
    accounts: &'static str,
}

impl Audited {
    pub fn new(store: Arc<dyn Store>, audit: Arc<Audit>, accounts: &'static Collection) -> Audited {
        Audited { store, audit, accounts: accounts.name }
    }

    async fn commit_with_entry(&self, call: Arc<Call>, mut batch: Batch) -> Result<Committed> {
        let steps = batch.0.len();
        let actor = lock(&call.entry).actor_id.clone();
        // An account that was deleted meanwhile changes nothing more. One that registers is made by this very batch.
        let mut standing = lock(&call.standing).clone();
        if !actor.is_empty() && !self.makes(&batch, &actor) {
            standing.session.push(Guard::Exists { collection: self.accounts, id: actor });
        }
        let keyed = lock(&call.keyed).clone();
        // First, so that a call may end what it stands on.
        let guards: Vec<Guard> = (standing.session.iter().chain(&standing.right).cloned())
            .chain(keyed.iter().map(|keyed| keyed.guard()))
            .collect();
        let count = guards.len();
        batch.0.splice(0..0, guards.into_iter().map(Write::Require));
        batch.push(self.audit.change(&call)?);
        if let Some(keyed) = &keyed {
            batch.push(keyed.write()?);
        }
        let mut committed = match self.store.commit(batch).await {
            Err(error @ StoreError::Conflict(_)) => {
                let lost = if !self.hold(&standing.session).await? {
                    Some(Lost::Session)
                } else if !self.hold(&standing.right).await? {
                    Some(Lost::Right)
                } else {
                    match &keyed {
                        Some(keyed) if keyed.is_known().await? => Some(Lost::Key),
                        _ => None,
                    }
                };
                *lock(&call.lost) = lost;
                return Err(error);
            }
            outcome => outcome?,
        };
        self.audit.counted(1);
        if let Some(keyed) = &keyed {
            keyed.written();
        }
        committed.touched.drain(..count);
        committed.touched.truncate(steps);
        *lock(&call.is_written) = true;
        Ok(committed)
    }

    /// Whether the batch makes this account.
    fn makes(&self, batch: &Batch, account: &str) -> bool {
        let is_of = |write: &Write| matches!(write, Write::Create { collection, id, .. } if *collection == self.accounts && id == account);
        batch.0.iter().any(is_of)
    }

    async fn hold(&self, guards: &[Guard]) -> Result<bool> {
        for guard in guards {
            let holds = match guard {
                Guard::Exists { collection, id } => self.store.get(collection, id).await?.is_some(),
                Guard::Count { collection, filters, at_least, at_most } => {
                    (*at_least..=*at_most).contains(&self.store.count(collection, filters).await?)
                }
                Guard::Absent { .. } | Guard::Version { .. } => true,
            };
            if !holds {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

fn removal(id: String) -> Write {
    Write::Delete { collection: ENTRIES.name, id, version: None }
}

impl Layer for Audited {
    fn inner(&self) -> &dyn Store {
        &*self.store
    }

    fn committing(&self, batch: Batch) -> BoxFuture<'_, Result<Committed>> {
        let changes = batch.0.iter().any(|write| !matches!(write, Write::Require(_)));
        match CALL.try_with(Arc::clone) {
            // A call may commit more than once; it is told with its first change.
            Ok(call) if changes && !*lock(&call.is_written) => Box::pin(self.commit_with_entry(call, batch)),
            Ok(call) if changes => match lock(&call.keyed).as_deref() {
                // What comes after the batch with the answer would be missing where the daemon is killed between them.
                Some(keyed) => {
                    let mistake = format!("`{}` commits twice, and its repeats are keyed", keyed.operation());
                    Box::pin(async { Err(StoreError::Internal(mistake)) })
                }
                None => self.store.commit(batch),
            },
            _ => self.store.commit(batch),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
