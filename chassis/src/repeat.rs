//! Idempotent calls (decision "Idempotency keys"). A call of an operation with keyed repeats may have the header
//! `Idempotency-Key`: its answer is then stored, encrypted, in the batch of its change (added by [`crate::audit`]),
//! under the account, the audience of its token, the operation and the key. A repeat within 24 hours gets that answer
//! and has no effect. Errors are not stored, nor answers of calls that changed nothing.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use http::HeaderMap;
use openorch_api::{Parts, Row, Time, error::repeat as codes, header::IDEMPOTENCY_KEY};
use openorch_store::{Collection, Filter, Guard, Index, Query, Store, StoreError, Stored, Table, Write};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};

use crate::{Caller, Error, Result, ages::Ages, clock::Clock, seal::Seal};

/// The stored answers; must be opened before the store is used.
pub static ANSWERS: Collection =
    Collection { name: "platformSvcAnswers", indexes: &[Index::on(&["accountId"]), Index::on(&["at"])] };

/// Retention of an answer.
const KEPT: Duration = Duration::from_secs(24 * 3600);
/// Maximum characters of a key.
const MAX_KEY: usize = 255;
/// Maximum bytes of a stored answer.
const MAX_ANSWER: usize = 16 << 10;
/// Upper bound of the setting per account: the answers of an account are deleted in one batch.
const MAX_PER_ACCOUNT: u64 = 10_000;
/// The last quarter of all stored answers is for accounts that have at most this many, with the calls in progress.
const FEW: u64 = 20;
/// Maximum answers removed in one batch.
const AT_ONCE: u64 = 1000;

/// Limits on the number of stored answers.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub per_account: u64,
    pub total: u64,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct StoredAnswer {
    at: Time,
    account_id: String,
    /// An encrypted [`Sealed`], bound to this id.
    sealed: String,
}

/// The encrypted part of an answer. Includes the digest of the request, which may contain a password.
#[derive(Serialize, Deserialize)]
struct Sealed {
    request: String,
    answer: Box<RawValue>,
}

/// The stored answers, and the calls with a key in progress.
pub struct Repeats {
    answers: Table<StoredAnswer>,
    clock: Arc<dyn Clock>,
    ages: Arc<Ages>,
    seal: Seal,
    limits: Limits,
    /// The ids of the answers of calls in progress, by account.
    in_flight: Mutex<HashMap<Arc<str>, HashSet<String>>>,
    /// The approximate number of stored answers, if they were counted; updated by writes.
    count: Mutex<Option<u64>>,
}

/// The result of looking up a key before its call.
pub(crate) enum Begun {
    /// The call was made before, with this answer.
    Known(String),
    New(Arc<Keyed>),
}

/// A call with a key in progress. Concurrent calls with the same key are refused.
pub(crate) struct Keyed {
    repeats: Arc<Repeats>,
    id: String,
    account: Arc<str>,
    operation: &'static str,
    request: String,
    answer: Mutex<Option<Box<RawValue>>>,
}

/// The idempotency key of a request, if any.
pub(crate) fn key_of(headers: &HeaderMap) -> Result<Option<String>> {
    let mut values = headers.get_all(IDEMPOTENCY_KEY.name).iter();
    let Some(value) = values.next() else { return Ok(None) };
    let key = value.to_str().ok().filter(|key| {
        (1..=MAX_KEY).contains(&key.len()) && key.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic())
    });
    match (key, values.next()) {
        (Some(key), None) => Ok(Some(key.to_owned())),
        _ => Err(Error::new(
            &codes::INVALID_KEY,
            format!("the header `Idempotency-Key` must be sent once, with 1 to {MAX_KEY} printable ASCII characters"),
        )),
    }
}

/// The digest of a request, which distinguishes a repeat from another request with the same key; and the request. The digest
/// includes the app of the session. A large request is hashed on a blocking thread.
pub(crate) async fn digest_of(caller: &Caller, parts: Parts, is_large: bool) -> Result<(String, Parts)> {
    let app = caller.app.clone();
    let work = move || {
        let whole = serde_json::to_vec(&(&*app, &parts.path, &parts.query, &parts.body)).map_err(Error::internal)?;
        Ok((hex(&Sha256::digest(whole)), parts))
    };
    match is_large {
        false => work(),
        true => tokio::task::spawn_blocking(work).await.map_err(Error::internal)?,
    }
}

impl Repeats {
    /// `store` is the store without the audit layer, since the audit log adds the answers to the batches.
    pub fn new(
        store: Arc<dyn Store>,
        clock: Arc<dyn Clock>,
        ages: Arc<Ages>,
        seal: Seal,
        limits: Limits,
    ) -> Arc<Repeats> {
        let limits = Limits { per_account: limits.per_account.min(MAX_PER_ACCOUNT), ..limits };
        let (answers, count) = (Table::new(store, &ANSWERS), Mutex::default());
        Arc::new(Repeats { answers, clock, ages, seal, limits, in_flight: Mutex::default(), count })
    }

    /// Begins an authorized call with a key; `request` is its digest.
    pub(crate) async fn begin(
        self: &Arc<Repeats>,
        caller: &Caller,
        row: &'static Row,
        key: &str,
        request: String,
    ) -> Result<Begun> {
        // None of these contains a NUL.
        let name = [&*caller.user_id, caller.audience.as_deref().unwrap_or_default(), row.id, key].join("\0");
        let keyed = self.enter(caller, row, hex(&Sha256::digest(name)), request)?;
        if let Some(stored) = self.answers.get(&keyed.id).await? {
            if !self.has_ended(&stored.value) {
                let sealed = self.open(&stored)?;
                if sealed.request != keyed.request {
                    return Err(Error::new(
                        &codes::OTHER_REQUEST,
                        format!(
                            "this `Idempotency-Key` was used for another call of `{}` within the last 24 hours; send a new \
                             key with a new call",
                            row.id
                        ),
                    ));
                }
                return Ok(Begun::Known(sealed.answer.get().to_owned()));
            }
            self.remove(vec![stored.id]).await?;
        }
        self.refuse_full(caller).await?;
        Ok(Begun::New(keyed))
    }

    fn enter(
        self: &Arc<Repeats>,
        caller: &Caller,
        row: &'static Row,
        id: String,
        request: String,
    ) -> Result<Arc<Keyed>> {
        if !lock(&self.in_flight).entry(caller.user_id.clone()).or_default().insert(id.clone()) {
            return Err(in_flight());
        }
        let account = caller.user_id.clone();
        Ok(Arc::new(Keyed { repeats: self.clone(), id, account, operation: row.id, request, answer: Mutex::default() }))
    }

    fn has_ended(&self, stored: &StoredAnswer) -> bool {
        let age = self.clock.now().duration_since(stored.at.0);
        Duration::try_from(age).is_ok_and(|age| age >= KEPT) && self.ages.may_end(KEPT)
    }

    fn open(&self, stored: &Stored<StoredAnswer>) -> Result<Sealed> {
        let opened = self.seal.open(&place(&stored.id), &stored.value.sealed);
        let opened = opened.map_err(|error| Error::internal(format!("the answer `{}`: {error:?}", stored.id)))?;
        serde_json::from_slice(&opened).map_err(Error::internal)
    }

    /// Fails if the limits are reached. Stored answers are never evicted early, since a repeat must find them.
    async fn refuse_full(&self, caller: &Caller) -> Result<()> {
        let stored = self.answers.count(&[Filter::equals("accountId", &*caller.user_id)]).await?;
        let in_flight = lock(&self.in_flight).get(&caller.user_id).map_or(0, HashSet::len) as u64;
        let Limits { per_account, total } = self.limits;
        if stored + in_flight > per_account {
            return Err(Error::new(
                &codes::TOO_MANY_KEYS,
                format!(
                    "the account `{}` has reached the limit of {per_account} stored answers to calls with \
                     `Idempotency-Key`, each kept 24 hours; try again later, or omit the key (an operator can raise \
                     OPENORCH_API_MAX_STORED_ANSWERS_PER_ACCOUNT)",
                    caller.slug
                ),
            )
            .after(3600));
        }
        let known = *lock(&self.count);
        let count = match known {
            Some(count) => count,
            None => {
                let count = self.answers.count(&[]).await?;
                *lock(&self.count).insert(count)
            }
        };
        let total = if stored + in_flight <= FEW { total } else { total / 4 * 3 };
        if count >= total {
            return Err(Error::new(
                &codes::ANSWERS_FULL,
                format!(
                    "the limit of {total} stored answers to calls with `Idempotency-Key`, for accounts that have as many as \
                     this one, is reached; try again later, or omit the key (an operator can raise \
                     OPENORCH_API_MAX_STORED_ANSWERS)"
                ),
            )
            .after(3600));
        }
        Ok(())
    }

    /// Removes expired answers.
    pub async fn remove_old(&self) -> Result<()> {
        if !self.ages.may_end(KEPT) {
            return Ok(());
        }
        let kept = jiff::SignedDuration::try_from(KEPT).unwrap_or(jiff::SignedDuration::MAX);
        let Ok(before) = self.clock.now().checked_sub(kept) else { return Ok(()) };
        let old = Filter::range("at", None, Some(Time(before).to_string().into()));
        loop {
            let page = self.answers.find(&Query::all().filter(old.clone()).ascending("at").limit(AT_ONCE)).await?;
            let is_last = (page.len() as u64) < AT_ONCE;
            self.remove(page.into_iter().map(|stored| stored.id).collect()).await?;
            if is_last {
                return Ok(());
            }
        }
    }

    async fn remove(&self, ids: Vec<String>) -> Result<(), StoreError> {
        if ids.is_empty() {
            return Ok(());
        }
        // By filter, since some may have been removed already.
        let gone = Write::DeleteWhere { collection: ANSWERS.name, filters: vec![Filter::is_in("id", ids)] };
        self.answers.store().commit(gone.into()).await?;
        *lock(&self.count) = None;
        Ok(())
    }

    /// The write that deletes the answers of an account; call [`IdempotencyStore::invalidate_count`] after its commit.
    pub fn without_account(&self, user_id: &str) -> Write {
        Write::DeleteWhere { collection: ANSWERS.name, filters: vec![Filter::equals("accountId", user_id)] }
    }

    pub fn forget_count(&self) {
        *lock(&self.count) = None;
    }
}

impl Keyed {
    /// Sets the answer: see [`CallAudit::set_answer`](crate::audit::CallAudit::set_answer).
    pub(crate) fn tell_answer(&self, answer: &impl Serialize) -> Result<()> {
        let text = serde_json::value::to_raw_value(answer).map_err(Error::internal)?;
        if text.get().len() > MAX_ANSWER {
            return Err(Error::new(
                &codes::ANSWER_TOO_LARGE,
                format!(
                    "the answer has more than {MAX_ANSWER} bytes and cannot be stored for repeats: nothing was done; omit \
                     `Idempotency-Key`"
                ),
            ));
        }
        *lock(&self.answer) = Some(text);
        Ok(())
    }

    /// The precondition of the call's change: no other call with the key was committed.
    pub(crate) fn guard(&self) -> Guard {
        Guard::Absent { collection: ANSWERS.name, id: self.id.clone() }
    }

    /// The write that stores the answer.
    pub(crate) fn write(&self) -> Result<Write, StoreError> {
        let answer = lock(&self.answer).clone().ok_or_else(|| {
            StoreError::Internal(format!("`{}` did not set its answer before its commit", self.operation))
        })?;
        let sealed = serde_json::to_vec(&Sealed { request: self.request.clone(), answer });
        let sealed = sealed.map_err(|error| StoreError::Internal(error.to_string()))?;
        let stored = StoredAnswer {
            at: Time(self.repeats.clock.now()),
            account_id: self.account.to_string(),
            sealed: self.repeats.seal.seal(&place(&self.id), &sealed),
        };
        self.repeats.answers.create(&self.id, &stored)
    }

    pub(crate) fn operation(&self) -> &'static str {
        self.operation
    }

    /// Called after the write was committed.
    pub(crate) fn written(&self) {
        if let Some(count) = lock(&self.repeats.count).as_mut() {
            *count += 1;
        }
    }

    /// Whether another call with the key was committed.
    pub(crate) async fn is_known(&self) -> Result<bool, StoreError> {
        Ok(self.repeats.answers.get(&self.id).await?.is_some())
    }
}

impl Drop for Keyed {
    fn drop(&mut self) {
        let mut in_flight = lock(&self.repeats.in_flight);
        if let Some(ids) = in_flight.get_mut(&self.account) {
            ids.remove(&self.id);
            if ids.is_empty() {
                in_flight.remove(&self.account);
            }
        }
    }
}

/// The error of a call with the key of another one that is in progress or has just been committed.
pub(crate) fn in_flight() -> Error {
    Error::new(
        &codes::IN_FLIGHT,
        "a call with this `Idempotency-Key` is in progress; send it again in a moment, for the answer of that call",
    )
}

/// The storage location to which an encrypted answer is bound.
fn place(id: &str) -> String {
    format!("{}/{id}/sealed", ANSWERS.name)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
