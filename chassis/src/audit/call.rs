//! The audit record of a call in progress, and the preconditions of its writes. It is passed from the router to the commit of the
//! call's change ([`Audit::commit`]).

use std::{
    net::IpAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use openorch_api::{
    Parts, Row, Time,
    audit::{AuditEntry, AuditOutcome},
    error::access,
    role,
};
use openorch_store::{Batch, Committed, Guard, Result, StoreError, Write};
use serde::Serialize;

use super::{Audit, lock, target::Target};
use crate::{
    Caller, Error,
    repeat::{self, Keyed},
};

/// The audit of one call. It is empty for a call that is not audited, and for what the daemon does by itself: then nothing is
/// told, and what is written must fulfil nothing more.
#[derive(Clone, Default)]
pub struct CallAudit(Option<Arc<Call>>);

/// A call of an audited operation.
#[derive(Default)]
struct Call {
    entry: Mutex<AuditEntry>,
    is_written: AtomicBool,
    /// A part of its change, or all of it, was committed.
    has_changed: AtomicBool,
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

impl CallAudit {
    /// Of what the daemon does by itself.
    pub const NONE: CallAudit = CallAudit(None);

    /// Of a call whose row is audited. `path`: the values of the path's parameters, which are known before the body is read,
    /// and so also of calls that are refused before that. `parent` is the operation that makes the call in process.
    pub(crate) fn new(
        row: &Row,
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
        let call = Call { entry: Mutex::new(entry), ..Call::default() };
        call.set_target(Target::of_path(path.iter().map(String::as_str)));
        CallAudit(Some(Arc::new(call)))
    }

    /// The error of the call, which says so where it came of what the caller lost while it was served.
    pub(crate) fn blame(&self, error: Error) -> Error {
        let Some(call) = &self.0 else { return error };
        let Some(lost) = *lock(&call.lost) else { return error };
        let left = match call.has_changed.load(Ordering::Relaxed) {
            true => "what it had changed by then stays, and the rest was not done",
            false => "nothing was changed",
        };
        let told = match lost {
            Lost::Session => Error::new(
                &access::LOST_MEANWHILE,
                format!(
                    "the session of this token ended, or its account lost the role `{}`, while the call was in progress: {left}",
                    role::ADMIN
                ),
            ),
            Lost::Right => Error::new(
                &access::RIGHT_LOST_MEANWHILE,
                format!("the right to this call was taken from its account while the call was in progress: {left}"),
            ),
            Lost::Key => repeat::in_flight(),
        };
        told.because(error)
    }

    /// Says who calls; `via_service` is the service that does so with a delegated token.
    pub fn tell_actor(&self, user_id: &str, slug: &str, via_service: Option<&str>) {
        let Some(call) = &self.0 else { return };
        let mut entry = lock(&call.entry);
        entry.actor_id = user_id.to_owned();
        entry.actor_slug = slug.to_owned();
        entry.via_service = via_service.unwrap_or_default().to_owned();
    }

    /// Says who calls, and what must hold of that caller when the call writes.
    pub(crate) fn tell_caller(&self, caller: &Caller, standing: impl FnOnce() -> Vec<Guard>) {
        let Some(call) = &self.0 else { return };
        self.tell_actor(&caller.user_id, &caller.slug, caller.audience.as_deref());
        *lock(&call.standing) = Standing { session: standing(), right: Vec::new() };
    }

    /// Adds what must hold when the call writes, so that its caller may still do what it does.
    pub fn require_right(&self, guards: impl IntoIterator<Item = Guard>) {
        let Some(call) = &self.0 else { return };
        let right = &mut lock(&call.standing).right;
        for guard in guards {
            if !right.contains(&guard) {
                right.push(guard);
            }
        }
    }

    /// Says what the call makes, where the caller named nothing that it could be told by.
    pub fn tell_made(&self, id: &str) {
        let Some(call) = &self.0 else { return };
        let is_named = !lock(&call.entry).target.is_empty();
        if !is_named {
            call.set_target(Target::of_path([id]));
        }
    }

    /// Has the call told also where it changed nothing: a sign-in that found its session is one all the same.
    pub fn tell_anyway(&self) {
        if let Some(call) = &self.0 {
            call.is_told_anyway.store(true, Ordering::Relaxed);
        }
    }

    /// Says what the call is about: the path's parameters, and what the row names of the body.
    pub(crate) fn tell_target(&self, row: &Row, parts: &Parts) {
        if let Some(call) = &self.0 {
            call.set_target(Target::of_call(row, parts));
        }
    }

    /// Has the answer stored with the change.
    pub(crate) fn keep_answer(&self, keyed: Arc<Keyed>) {
        if let Some(call) = &self.0 {
            *lock(&call.keyed) = Some(keyed);
        }
    }

    /// Says what the call will answer, before the commit that makes its change: a repeat is given that. To be called by each
    /// operation whose row says [`Repeat::Keyed`](openorch_api::Repeat::Keyed).
    pub fn tell_answer(&self, answer: &impl Serialize) -> crate::Result<()> {
        match self.0.as_ref().and_then(|call| lock(&call.keyed).clone()) {
            Some(keyed) => keyed.tell_answer(answer),
            None => Ok(()),
        }
    }
}

impl Call {
    fn set_target(&self, target: Target) {
        let mut entry = lock(&self.entry);
        (entry.target, entry.targets) = (target.text, target.names);
    }
}

impl Audit {
    /// Notes that a call came to nothing.
    pub(crate) fn refused(&self, call: &CallAudit, error: &Error) {
        let Some(call) = &call.0 else { return };
        if error.status().is_server_error() {
            // Nothing could be written, and the log of the daemon has it.
            return;
        }
        let entry = self.entry_of(call, AuditOutcome::Refused, error.code.status);
        lock(&self.gathered).add(entry, || self.ids.next("aud"));
    }

    /// Tells of a sign-in that succeeded where no change of it did, since it found its session. Of another call that
    /// changed nothing there is nothing to tell.
    pub(crate) async fn succeeded(&self, call: &CallAudit) {
        let Some(call) = &call.0 else { return };
        if call.is_written.load(Ordering::Relaxed) || !call.is_told_anyway.load(Ordering::Relaxed) {
            return;
        }
        let entry = self.entry_of(call, AuditOutcome::Done, 200);
        let first = lock(&self.gathered).add(entry, || self.ids.next("aud"));
        let Some(first) = first else { return };
        let operation = first.entry.operation.clone();
        // What was asked for is done: while the disk is full, an admin must be able to sign in.
        if let Err(error) = self.write(vec![first]).await {
            tracing::warn!(operation.id = operation, "a call could not be written to the audit log yet: {error}");
        }
    }

    /// Makes the change of a call; its entry and its stored answer are in the same batch. A call may commit more than once:
    /// the entry is with its first change, what must hold of the caller with each. A call whose caller lost what let it in is
    /// refused with [`StoreError::Invalid`], so that nobody tries it again; the router says what was lost.
    pub async fn commit(&self, call: &CallAudit, batch: Batch) -> Result<Committed> {
        let changes = batch.0.iter().any(|write| !matches!(write, Write::Require(_)));
        let Some(call) = call.0.as_ref().filter(|_| changes) else { return self.store.commit(batch).await };
        if !call.is_written.load(Ordering::Relaxed) {
            return self.commit_as(call, batch, true).await;
        }
        let keyed = lock(&call.keyed).as_ref().map(|keyed| keyed.operation());
        match keyed {
            // What comes after the batch with the answer would be missing where the daemon is killed between them.
            Some(operation) => {
                Err(StoreError::Internal(format!("`{operation}` commits twice, and its repeats are keyed")))
            }
            None => self.commit_as(call, batch, false).await,
        }
    }

    /// Makes a part of what a call changes before the change that it is told by: what must hold of the caller is in the batch,
    /// and no entry.
    pub async fn commit_part(&self, call: &CallAudit, batch: Batch) -> Result<Committed> {
        match &call.0 {
            Some(call) => self.commit_as(call, batch, false).await,
            None => self.store.commit(batch).await,
        }
    }

    async fn commit_as(&self, call: &Call, mut batch: Batch, with_entry: bool) -> Result<Committed> {
        let steps = batch.0.len();
        let actor = lock(&call.entry).actor_id.clone();
        // An account that was deleted meanwhile changes nothing more. One that registers is made by this very batch.
        let mut standing = lock(&call.standing).clone();
        if !actor.is_empty() && !self.makes(&batch, &actor) {
            standing.session.push(Guard::Exists { collection: self.accounts, id: actor });
        }
        let keyed = lock(&call.keyed).clone().filter(|_| with_entry);
        // First, so that a call may end what it stands on.
        let guards: Vec<Guard> = (standing.session.iter().chain(&standing.right).cloned())
            .chain(keyed.iter().map(|keyed| keyed.guard()))
            .collect();
        let count = guards.len();
        batch.0.splice(0..0, guards.into_iter().map(Write::Require));
        if with_entry {
            let entry = AuditEntry { id: self.ids.next("aud"), ..self.entry_of(call, AuditOutcome::Done, 200) };
            batch.push(self.entries.create(&entry.id, &entry)?);
        }
        if let Some(keyed) = &keyed {
            batch.push(keyed.write()?);
        }
        let mut committed = match self.store.commit(batch).await {
            Err(error @ StoreError::Conflict(_)) => {
                let lost = self.what_was_lost(&standing, keyed.as_deref()).await?;
                *lock(&call.lost) = lost;
                return Err(match lost {
                    None => error,
                    Some(_) => StoreError::Invalid(format!("the caller lost what let it in: {}", error.sentence())),
                });
            }
            outcome => outcome?,
        };
        self.counted(u64::from(with_entry));
        if let Some(keyed) = &keyed {
            keyed.written();
        }
        committed.touched.drain(..count);
        committed.touched.truncate(steps);
        call.is_written.fetch_or(with_entry, Ordering::Relaxed);
        call.has_changed.store(true, Ordering::Relaxed);
        Ok(committed)
    }

    fn entry_of(&self, call: &Call, outcome: AuditOutcome, status: u16) -> AuditEntry {
        AuditEntry { at: Time(self.clock.now()), outcome, status, ..lock(&call.entry).clone() }
    }

    async fn what_was_lost(&self, standing: &Standing, keyed: Option<&Keyed>) -> Result<Option<Lost>> {
        if !self.hold(&standing.session).await? {
            return Ok(Some(Lost::Session));
        }
        if !self.hold(&standing.right).await? {
            return Ok(Some(Lost::Right));
        }
        Ok(match keyed {
            Some(keyed) if keyed.is_known().await? => Some(Lost::Key),
            _ => None,
        })
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
