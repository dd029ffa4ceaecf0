//! The audit log (one entry for each call of an operation whose row says so): who, from where, what, to what, and what
//! came of it. The entry of a change is in the very batch that makes the change, whoever commits it: [`Audited`] puts it
//! there. A call that succeeded and changed nothing has its entry written before it is answered. Refused attempts are
//! gathered by caller, operation and minute, and written every second.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use openorch_api::{
    Parts, Row, Time,
    user::{AuditEntry, AuditOutcome},
};
use openorch_store::{
    Batch, BoxFuture, Collection, Committed, Filter, Guard, Index, Layer, Query, Result, Row as StoredRow, Store,
    Table, Write,
};
use serde_json::Value;

use crate::{Error, clock::Clock, error::Kind, identity::ACCOUNTS, ids::Ids};

/// The entries, to be opened before the store is used.
pub static ENTRIES: Collection = Collection {
    name: "userSvcAuditEntries",
    indexes: &[
        Index::on(&["at"]),
        Index::on(&["actorId", "at"]),
        Index::on(&["actorSlug", "at"]),
        Index::on(&["operation", "at"]),
        Index::on(&["target", "at"]),
    ],
};

/// Longer than any path parameter, so that each can be asked for.
const MAX_TARGET_BYTES: usize = 1024;
/// How many of a list are named as targets.
const MAX_LISTED: usize = 4;
/// Callers and operations whose refusals are told apart within a minute; those beyond count together.
const MAX_GATHERED: usize = 10_000;
/// Entries removed in one batch when their time is over.
const REMOVED_AT_ONCE: u64 = 1000;

tokio::task_local! {
    /// The call that this task serves, where its row says that it is audited.
    static CALL: Arc<Call>;
}

/// A call of an audited operation while it is served.
pub(crate) struct Call {
    entry: Mutex<AuditEntry>,
    is_written: Mutex<bool>,
}

impl Call {
    pub(crate) fn new(row: &Row, client: IpAddr, request_id: &str) -> Arc<Call> {
        let entry = AuditEntry {
            operation: row.id.to_owned(),
            client_ip: client.to_string(),
            request_id: request_id.to_owned(),
            count: 1,
            ..AuditEntry::default()
        };
        Arc::new(Call { entry: Mutex::new(entry), is_written: Mutex::new(false) })
    }

    /// Serves the call: what is committed within is told with it.
    pub(crate) async fn serve<F: Future>(self: Arc<Call>, work: F) -> F::Output {
        CALL.scope(self, work).await
    }
}

/// Says who calls, where the call that is served is audited.
pub fn tell_actor(user_id: &str, slug: &str) {
    // Outside of an audited call there is nobody to tell.
    let _ = CALL.try_with(|call| {
        let mut entry = lock(&call.entry);
        entry.actor_id = user_id.to_owned();
        entry.actor_slug = slug.to_owned();
    });
}

/// Says what the call makes, where the caller named nothing that it could be told by.
pub fn tell_made(id: &str) {
    let _ = CALL.try_with(|call| {
        let mut entry = lock(&call.entry);
        if entry.target.is_empty() {
            entry.target = id.to_owned();
        }
    });
}

/// Does what is part of a call and not the change that it is about: what is committed within is not told as that.
pub async fn aside<F: Future>(work: F) -> F::Output {
    let call = Call { entry: Mutex::default(), is_written: Mutex::new(true) };
    CALL.scope(Arc::new(call), work).await
}

/// Says what the call is about: the path's parameters, and what the row names of the body.
pub(crate) fn tell_target(row: &Row, parts: &Parts) {
    let _ = CALL.try_with(|call| lock(&call.entry).target = target(row, parts));
}

fn target(row: &Row, parts: &Parts) -> String {
    let mut names: Vec<&str> = parts.path.iter().map(String::as_str).collect();
    for pointer in row.target {
        if let Some(body) = &parts.body {
            collect(body, pointer, &mut names);
        }
    }
    let mut target = String::new();
    for name in names.into_iter().filter(|name| !name.is_empty()) {
        let room = MAX_TARGET_BYTES.saturating_sub(target.len() + 1);
        if !target.is_empty() {
            target.push(' ');
        }
        let cut = (0..=name.len().min(room)).rev().find(|at| name.is_char_boundary(*at)).unwrap_or_default();
        target.extend(name[..cut].chars().filter(|letter| !letter.is_control()));
    }
    target
}

/// The texts at a JSON pointer (RFC 6901) in which `*` stands for each element of a list.
fn collect<'a>(value: &'a Value, pointer: &str, found: &mut Vec<&'a str>) {
    let Some((before, after)) = pointer.split_once("/*") else {
        found.extend(value.pointer(pointer).and_then(Value::as_str));
        return;
    };
    let list = value.pointer(before).and_then(Value::as_array);
    for element in list.into_iter().flatten().take(MAX_LISTED) {
        collect(element, after, found);
    }
}

/// What writes and keeps the log.
pub struct Audit {
    entries: Table<AuditEntry>,
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    ids: Arc<Ids>,
    refusals: Mutex<HashMap<Gathered, Refusal>>,
}

/// Refusals with the same of all these are one entry.
#[derive(PartialEq, Eq, Hash, Clone)]
struct Gathered {
    caller: String,
    operation: String,
    minute: i64,
}

struct Refusal {
    entry: AuditEntry,
    /// How many of it are in the store.
    written: u64,
}

impl Audit {
    pub fn new(store: Arc<dyn Store>, clock: Arc<dyn Clock>, ids: Arc<Ids>) -> Audit {
        Audit { entries: Table::new(store.clone(), &ENTRIES), store, clock, ids, refusals: Mutex::default() }
    }

    /// Notes that a call came to nothing.
    pub(crate) fn refused(&self, call: &Call, error: &Error) {
        if matches!(error.kind, Kind::Internal | Kind::Unavailable | Kind::StorageFull) {
            // Nothing could be written, and the log of the daemon has it.
            return;
        }
        let now = self.clock.now();
        let mut entry = lock(&call.entry).clone();
        entry.at = Time(now);
        entry.outcome = AuditOutcome::Refused;
        entry.status = error.kind.status().as_u16();
        let caller = if entry.actor_id.is_empty() { entry.client_ip.clone() } else { entry.actor_id.clone() };
        let mut key = Gathered { caller, operation: entry.operation.clone(), minute: now.as_second() / 60 };
        let mut refusals = lock(&self.refusals);
        if refusals.len() >= MAX_GATHERED && !refusals.contains_key(&key) {
            key.caller.clear();
            (entry.actor_id, entry.actor_slug, entry.client_ip) = Default::default();
            entry.target.clear();
        }
        refusals.entry(key).and_modify(|known| known.entry.count += 1).or_insert_with(|| {
            entry.id = self.ids.next("aud");
            Refusal { entry, written: 0 }
        });
    }

    /// Tells of a call that succeeded, where no change of it did: a sign-in that found its session, a save of what was
    /// there already.
    pub(crate) async fn succeeded(&self, call: &Call) {
        if *lock(&call.is_written) {
            return;
        }
        let outcome = match self.change(call) {
            Ok(write) => self.store.commit(write.into()).await.map(drop),
            Err(error) => Err(error),
        };
        if let Err(error) = outcome {
            // What was asked for is done: while the disk is full, an admin must be able to sign in.
            let entry = lock(&call.entry).clone();
            tracing::warn!(operation.id = entry.operation, "a call could not be written to the audit log: {error}");
        }
    }

    /// Writes what was refused since the last time, and lets go of minutes that are over.
    pub async fn write_refusals(&self) {
        let minute = self.clock.now().as_second() / 60;
        let due: Vec<(Gathered, AuditEntry)> = lock(&self.refusals)
            .iter()
            .filter(|(_, refusal)| refusal.written < refusal.entry.count)
            .map(|(key, refusal)| (key.clone(), refusal.entry.clone()))
            .collect();
        for due in due.chunks(REMOVED_AT_ONCE as usize) {
            let writes = due.iter().map(|(_, entry)| self.entries.upsert(&entry.id, entry)).collect::<Result<Batch>>();
            let outcome = match writes {
                Ok(batch) => self.store.commit(batch).await.map(drop),
                Err(error) => Err(error),
            };
            if let Err(error) = outcome {
                tracing::warn!("refused attempts could not be written to the audit log yet: {error}");
                return;
            }
            let mut refusals = lock(&self.refusals);
            for (key, entry) in due {
                if let Some(refusal) = refusals.get_mut(key) {
                    refusal.written = entry.count;
                }
            }
        }
        lock(&self.refusals).retain(|key, refusal| key.minute >= minute || refusal.written < refusal.entry.count);
    }

    /// Removes entries that are older than this.
    pub async fn remove_older(&self, age: Duration) -> Result<()> {
        let age = jiff::SignedDuration::try_from(age).unwrap_or(jiff::SignedDuration::MAX);
        let Ok(before) = self.clock.now().checked_sub(age) else { return Ok(()) };
        let old = Filter::range("at", None, Some(Time(before).to_string().into()));
        loop {
            let found = Query::all().filter(old.clone()).ascending("at").limit(REMOVED_AT_ONCE);
            let page = self.store.find(ENTRIES.name, &found).await?;
            let count = page.rows.len();
            let remove = |row: StoredRow| Write::Delete { collection: ENTRIES.name, id: row.id, version: None };
            self.store.commit(page.rows.into_iter().map(remove).collect()).await?;
            if count < REMOVED_AT_ONCE as usize {
                return Ok(());
            }
        }
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
}

impl Audited {
    pub fn new(store: Arc<dyn Store>, audit: Arc<Audit>) -> Audited {
        Audited { store, audit }
    }

    async fn commit_with_entry(&self, call: Arc<Call>, mut batch: Batch) -> Result<Committed> {
        let steps = batch.0.len();
        let actor = lock(&call.entry).actor_id.clone();
        // An account that was deleted meanwhile changes nothing more. One that registers is made by this very batch.
        let guards = !actor.is_empty() && !makes(&batch, &actor);
        if guards {
            batch.0.insert(0, Write::Require(Guard::Exists { collection: ACCOUNTS, id: actor }));
        }
        batch.push(self.audit.change(&call)?);
        let mut committed = self.store.commit(batch).await?;
        committed.touched.drain(..usize::from(guards));
        committed.touched.truncate(steps);
        *lock(&call.is_written) = true;
        Ok(committed)
    }
}

fn makes(batch: &Batch, account: &str) -> bool {
    let of_account = |write: &Write| matches!(write, Write::Create { collection, id, .. } if *collection == ACCOUNTS && id == account);
    batch.0.iter().any(of_account)
}

impl Layer for Audited {
    fn inner(&self) -> &dyn Store {
        &*self.store
    }

    fn committing(&self, batch: Batch) -> BoxFuture<'_, Result<Committed>> {
        // A call may commit more than once; it is told with its first change.
        let call = CALL.try_with(Arc::clone).ok().filter(|call| !*lock(&call.is_written));
        let changes = batch.0.iter().any(|write| !matches!(write, Write::Require(_)));
        match call {
            Some(call) if changes => Box::pin(self.commit_with_entry(call, batch)),
            _ => self.store.commit(batch),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
