//! The audit record of a call in progress and the preconditions of its writes, passed from the router to the commit of the
//! call's change ([`Audit::commit`]).

use std::{
    net::IpAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use openorch_api::{
    Operation, RequestParts, Time,
    audit::{AuditEntry, AuditOutcome},
    error::access,
    role,
};
use openorch_store::{Batch, Committed, Guard, Result, StoreError, Write};
use serde::Serialize;

use super::{Audit, StoredEntry, lock, target::Target};
use crate::{
    Caller, Error,
    idempotency::{self, IdempotentCall},
};

/// The audit record of a call. Empty for calls that are not audited and for background tasks: their writes have no entry and
/// no additional preconditions.
#[derive(Clone, Default)]
pub struct CallAudit(Option<Arc<Call>>);

/// A call of an audited operation.
#[derive(Default)]
struct Call {
    entry: Mutex<AuditEntry>,
    /// Targets that its entry is found by, beyond those that it shows.
    further_targets: Mutex<Vec<String>>,
    /// The caller is an admin, or the call needs a permission that not every account has, or gives rights over the platform.
    is_removed_last: AtomicBool,
    has_entry: AtomicBool,
    /// At least a part of its change was committed.
    has_changed: AtomicBool,
    /// It is recorded even if it changed nothing.
    records_unchanged: AtomicBool,
    /// The preconditions of its writes, besides the existence of its account.
    caller_guards: Mutex<CallerGuards>,
    /// The precondition that failed when a write was rejected.
    failed_guard: Mutex<Option<FailedGuard>>,
    /// Set if its answer is stored with its change.
    keyed: Mutex<Option<Arc<IdempotentCall>>>,
}

/// The caller's authorization as guards of the call's writes: it may be revoked while the call is in progress.
#[derive(Clone, Default)]
struct CallerGuards {
    /// See [`Identity::session_guards`](crate::Identity::session_guards).
    session: Vec<Guard>,
    /// See [`Identity::permission_guards`](crate::Identity::permission_guards); handlers may add more.
    permission: Vec<Guard>,
}

#[derive(Clone, Copy)]
enum FailedGuard {
    Session,
    Permission,
    /// Another call with the same idempotency key was committed.
    Key,
}

impl CallAudit {
    /// The record of background tasks.
    pub const NONE: CallAudit = CallAudit(None);

    /// The record of a call, empty unless the operation is audited. `path`: the values of the path parameters, which are
    /// known even if the call is refused before its body is read. `parent`: the operation that makes the call in process.
    pub(crate) fn new(
        row: &Operation,
        path: &[String],
        client: IpAddr,
        request_id: &str,
        parent: Option<&'static str>,
    ) -> CallAudit {
        if !row.audited {
            return CallAudit::NONE;
        }
        let entry = AuditEntry {
            operation: row.id.to_owned(),
            parent_operation: parent.unwrap_or_default().to_owned(),
            client_ip: client.to_string(),
            request_id: request_id.to_owned(),
            count: 1,
            ..AuditEntry::default()
        };
        let is_removed_last = AtomicBool::new(row.access.is_privileged());
        let call = Call { entry: Mutex::new(entry), is_removed_last, ..Call::default() };
        call.set_target(Target::of_path(path.iter().map(String::as_str)));
        CallAudit(Some(Arc::new(call)))
    }

    /// Replaces an error whose cause is a failed precondition by one that explains it.
    pub(crate) fn explain(&self, error: Error) -> Error {
        let Some(call) = &self.0 else { return error };
        let Some(lost) = *lock(&call.failed_guard) else { return error };
        let left = match call.has_changed.load(Ordering::Relaxed) {
            true => "changes committed before that remain, the rest was not done",
            false => "nothing was changed",
        };
        let explained = match lost {
            FailedGuard::Session => Error::new(
                &access::LOST_MEANWHILE,
                format!(
                    "the session of this token ended, or its account lost the role `{}`, while the call was in progress: {left}",
                    role::ADMIN
                ),
            ),
            FailedGuard::Permission => Error::new(
                &access::RIGHT_LOST_MEANWHILE,
                format!("the account lost the permission for this call while it was in progress: {left}"),
            ),
            FailedGuard::Key => idempotency::in_flight_error(),
        };
        explained.with_cause(error)
    }

    /// Sets the calling account; `via_service` is the service that calls with a delegated token.
    pub fn set_actor(&self, user_id: &str, slug: &str, via_service: Option<&str>) {
        let Some(call) = &self.0 else { return };
        let mut entry = lock(&call.entry);
        entry.actor_id = user_id.to_owned();
        entry.actor_slug = slug.to_owned();
        entry.via_service = via_service.unwrap_or_default().to_owned();
    }

    /// Sets the caller and the guards on its session.
    pub(crate) fn set_caller(&self, caller: &Caller, standing: impl FnOnce() -> Vec<Guard>) {
        let Some(call) = &self.0 else { return };
        self.set_actor(&caller.user_id, &caller.slug, caller.audience.as_deref());
        call.is_removed_last.fetch_or(caller.is_admin(), Ordering::Relaxed);
        *lock(&call.caller_guards) = CallerGuards { session: standing(), permission: Vec::new() };
    }

    /// Adds guards to the call's writes, on which the caller's permission depends.
    pub fn require_permission_guards(&self, guards: impl IntoIterator<Item = Guard>) {
        let Some(call) = &self.0 else { return };
        let right = &mut lock(&call.caller_guards).permission;
        for guard in guards {
            if !right.contains(&guard) {
                right.push(guard);
            }
        }
    }

    /// Sets the id of what the call creates as the target, if the input named none.
    pub fn set_created(&self, id: &str) {
        let Some(call) = &self.0 else { return };
        let is_named = !lock(&call.entry).target.is_empty();
        if !is_named {
            call.set_target(Target::of_path([id]));
        }
    }

    /// Records the call even if it changes nothing, such as a sign-in that reuses its session.
    pub fn record_unchanged(&self) {
        if let Some(call) = &self.0 {
            call.records_unchanged.store(true, Ordering::Relaxed);
        }
    }

    /// Sets the target: the path parameters, and the fields of the body that the operation declares.
    pub(crate) fn set_target(&self, row: &Operation, parts: &RequestParts) {
        if let Some(call) = &self.0 {
            call.set_target(Target::of_call(row, parts));
        }
    }

    /// Stores the answer with the change.
    pub(crate) fn keep_answer(&self, keyed: Arc<IdempotentCall>) {
        if let Some(call) = &self.0 {
            *lock(&call.keyed) = Some(keyed);
        }
    }

    /// Sets the answer that a repeat of the call receives. Operations with [`Idempotency::Keyed`](openorch_api::Idempotency::Keyed)
    /// must call it before they commit their change.
    pub fn set_answer(&self, answer: &impl Serialize) -> crate::Result<()> {
        match self.0.as_ref().and_then(|call| lock(&call.keyed).clone()) {
            Some(keyed) => keyed.set_answer(answer),
            None => Ok(()),
        }
    }
}

impl Call {
    fn set_target(&self, target: Target) {
        self.is_removed_last.fetch_or(target.gives_rights, Ordering::Relaxed);
        *lock(&self.further_targets) = target.further;
        let mut entry = lock(&self.entry);
        (entry.target, entry.targets) = (target.text, target.names);
    }
}

impl Audit {
    /// Records that a call failed.
    pub(crate) fn refused(&self, call: &CallAudit, error: &Error) {
        let Some(call) = &call.0 else { return };
        if error.status().is_server_error() {
            // The store may be unavailable, and the error is in the daemon's log.
            return;
        }
        let entry = self.entry_of(call, AuditOutcome::Refused, error.code.status);
        lock(&self.aggregated).add(entry, || self.ids.next("aud"));
    }

    /// Records a successful sign-in that changed nothing because it reused its session. Other calls that changed nothing are
    /// not recorded.
    pub(crate) async fn succeeded(&self, call: &CallAudit) {
        let Some(call) = &call.0 else { return };
        if call.has_entry.load(Ordering::Relaxed) || !call.records_unchanged.load(Ordering::Relaxed) {
            return;
        }
        let entry = self.entry_of(call, AuditOutcome::Done, 200);
        let first = lock(&self.aggregated).add(entry, || self.ids.next("aud"));
        let Some(first) = first else { return };
        let operation = first.entry.operation.clone();
        // The call has succeeded, and an admin must be able to sign in while the disk is full.
        if let Err(error) = self.write(vec![first]).await {
            tracing::warn!(operation.id = operation, "writing a call to the audit log failed and is retried: {error}");
        }
    }

    /// Commits the change of a call, with its entry and its stored answer in the same batch. A call may commit more than
    /// once: the entry is in the first batch, the caller's guards are in each. If the caller lost its authorization, fails
    /// with [`StoreError::Invalid`], which is not retried; the router then reports which precondition failed.
    pub async fn commit(&self, call: &CallAudit, batch: Batch) -> Result<Committed> {
        let changes = batch.0.iter().any(|write| !matches!(write, Write::Require(_)));
        let Some(call) = call.0.as_ref().filter(|_| changes) else { return self.store.commit(batch).await };
        if !call.has_entry.load(Ordering::Relaxed) {
            return self.commit_guarded(call, batch, true).await;
        }
        let keyed = lock(&call.keyed).as_ref().map(|keyed| keyed.operation());
        match keyed {
            // A crash between the batch with the answer and a later one would lose the later one.
            Some(operation) => {
                Err(StoreError::Internal(format!("`{operation}` commits twice, and its repeats are keyed")))
            }
            None => self.commit_guarded(call, batch, false).await,
        }
    }

    /// Commits a part of a call's change before the batch that has the audit entry. The batch has the caller's guards.
    pub async fn commit_part(&self, call: &CallAudit, batch: Batch) -> Result<Committed> {
        match &call.0 {
            Some(call) => self.commit_guarded(call, batch, false).await,
            None => self.store.commit(batch).await,
        }
    }

    async fn commit_guarded(&self, call: &Call, mut batch: Batch, with_entry: bool) -> Result<Committed> {
        let steps = batch.0.len();
        let actor = lock(&call.entry).actor_id.clone();
        // The account must not have been deleted meanwhile, unless this batch creates it (a registration).
        let mut standing = lock(&call.caller_guards).clone();
        if !actor.is_empty() && !self.creates_account(&batch, &actor) {
            standing.session.push(Guard::Exists { collection: self.accounts, id: actor });
        }
        let keyed = lock(&call.keyed).clone().filter(|_| with_entry);
        // The guards come first, so that a call may delete its own session or permission.
        let guards: Vec<Guard> = (standing.session.iter().chain(&standing.permission).cloned())
            .chain(keyed.iter().map(|keyed| keyed.guard()))
            .collect();
        let count = guards.len();
        batch.0.splice(0..0, guards.into_iter().map(Write::Require));
        if with_entry {
            let mut entry = AuditEntry { id: self.ids.next("aud"), ..self.entry_of(call, AuditOutcome::Done, 200) };
            entry.targets.extend_from_slice(&lock(&call.further_targets));
            let is_removed_last = call.is_removed_last.load(Ordering::Relaxed);
            batch.push(self.stored.create(entry.id.clone(), &StoredEntry { entry, is_removed_last })?);
        }
        if let Some(keyed) = &keyed {
            batch.push(keyed.write()?);
        }
        let mut committed = match self.store.commit(batch).await {
            Err(error @ StoreError::Conflict(_)) => {
                let lost = self.find_failed_guard(&standing, keyed.as_deref()).await?;
                *lock(&call.failed_guard) = lost;
                return Err(match lost {
                    None => error,
                    Some(_) => StoreError::Invalid(format!("the caller lost what let it in: {}", error.sentence())),
                });
            }
            outcome => outcome?,
        };
        self.add_to_count(u64::from(with_entry));
        if let Some(keyed) = &keyed {
            keyed.on_committed();
        }
        committed.rows_affected.drain(..count);
        committed.rows_affected.truncate(steps);
        call.has_entry.fetch_or(with_entry, Ordering::Relaxed);
        call.has_changed.store(true, Ordering::Relaxed);
        Ok(committed)
    }

    fn entry_of(&self, call: &Call, outcome: AuditOutcome, status: u16) -> AuditEntry {
        AuditEntry { at: Time(self.clock.now()), outcome, status, ..lock(&call.entry).clone() }
    }

    async fn find_failed_guard(
        &self,
        standing: &CallerGuards,
        keyed: Option<&IdempotentCall>,
    ) -> Result<Option<FailedGuard>> {
        if !self.all_hold(&standing.session).await? {
            return Ok(Some(FailedGuard::Session));
        }
        if !self.all_hold(&standing.permission).await? {
            return Ok(Some(FailedGuard::Permission));
        }
        Ok(match keyed {
            Some(keyed) if keyed.is_stored().await? => Some(FailedGuard::Key),
            _ => None,
        })
    }

    /// Whether the batch creates this account.
    fn creates_account(&self, batch: &Batch, account: &str) -> bool {
        let is_of = |write: &Write| matches!(write, Write::Create { collection, id, .. } if *collection == self.accounts && id == account);
        batch.0.iter().any(is_of)
    }

    async fn all_hold(&self, guards: &[Guard]) -> Result<bool> {
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
