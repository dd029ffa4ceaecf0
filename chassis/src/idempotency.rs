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
use openorch_api::{Operation, RequestParts, Time, error::repeat as codes, header::IDEMPOTENCY_KEY};
use openorch_store::{Collection, Filter, Guard, Index, Query, Store, StoreError, Stored, Table, Write};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};

use crate::{Caller, Error, Result, clock::Clock, encryption::Encryptor, expiry::ExpiryGrace};

/// The stored answers; must be opened before the store is used.
pub static ANSWERS: Collection =
    Collection { name: "platformSvcAnswers", indexes: &[Index::on(&["accountId"]), Index::on(&["at"])] };

/// Retention of an answer.
const RETENTION: Duration = Duration::from_secs(24 * 3600);
/// Maximum characters of a key.
const MAX_KEY_LENGTH: usize = 255;
/// Maximum bytes of a stored answer.
const MAX_ANSWER_BYTES: usize = 16 << 10;
/// Upper bound of the setting per account: the answers of an account are deleted in one batch.
const MAX_PER_ACCOUNT: u64 = 10_000;
/// The last quarter of all stored answers is for accounts that have at most this many, including calls in progress.
const FEW: u64 = 20;
/// Maximum answers removed in one batch.
const BATCH_SIZE: u64 = 1000;

/// Limits on the number of stored answers.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Maximum number of an account.
    pub per_account: u64,
    /// Maximum number of all accounts together.
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
pub struct IdempotencyStore {
    answers: Table<StoredAnswer>,
    clock: Arc<dyn Clock>,
    expiry: Arc<ExpiryGrace>,
    encryptor: Encryptor,
    limits: Limits,
    /// The ids of the answers of calls in progress, by account.
    in_flight: Mutex<HashMap<Arc<str>, HashSet<String>>>,
    /// The approximate number of stored answers, if they were counted; updated by writes.
    count: Mutex<Option<u64>>,
}

/// The result of looking up a key before its call.
pub(crate) enum KeyLookup {
    /// The call was made before, with this answer.
    Replay(String),
    New(Arc<IdempotentCall>),
}

/// A call with a key in progress. Concurrent calls with the same key are refused.
pub(crate) struct IdempotentCall {
    store: Arc<IdempotencyStore>,
    id: String,
    account: Arc<str>,
    operation: &'static str,
    request: String,
    answer: Mutex<Option<Box<RawValue>>>,
}

/// The idempotency key of a request, if any.
pub(crate) fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>> {
    let mut values = headers.get_all(IDEMPOTENCY_KEY.name).iter();
    let Some(value) = values.next() else { return Ok(None) };
    let key = value.to_str().ok().filter(|key| {
        (1..=MAX_KEY_LENGTH).contains(&key.len()) && key.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic())
    });
    match (key, values.next()) {
        (Some(key), None) => Ok(Some(key.to_owned())),
        _ => Err(Error::new(
            &codes::INVALID_KEY,
            format!(
                "the header `Idempotency-Key` must be sent once, with 1 to {MAX_KEY_LENGTH} printable ASCII characters"
            ),
        )),
    }
}

/// The digest of a request, which distinguishes a repeat from another request with the same key; and the request. The digest
/// includes the app of the session. A large request is hashed on a blocking thread.
pub(crate) async fn request_digest(
    caller: &Caller,
    parts: RequestParts,
    is_large: bool,
) -> Result<(String, RequestParts)> {
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

impl IdempotencyStore {
    /// `store` is the store without the audit layer, since the audit log adds the answers to the batches.
    pub fn new(
        store: Arc<dyn Store>,
        clock: Arc<dyn Clock>,
        expiry: Arc<ExpiryGrace>,
        encryptor: Encryptor,
        limits: Limits,
    ) -> Arc<IdempotencyStore> {
        let limits = Limits { per_account: limits.per_account.min(MAX_PER_ACCOUNT), ..limits };
        let (answers, count) = (Table::new(store, &ANSWERS), Mutex::default());
        Arc::new(IdempotencyStore { answers, clock, expiry, encryptor, limits, in_flight: Mutex::default(), count })
    }

    /// Begins an authorized call with a key; `request` is its digest.
    pub(crate) async fn begin(
        self: &Arc<IdempotencyStore>,
        caller: &Caller,
        row: &'static Operation,
        key: &str,
        request: String,
    ) -> Result<KeyLookup> {
        // None of these contains a NUL.
        let name = [&*caller.user_id, caller.audience.as_deref().unwrap_or_default(), row.id, key].join("\0");
        let keyed = self.lock_key(caller, row, hex(&Sha256::digest(name)), request)?;
        if let Some(stored) = self.answers.get(&keyed.id).await? {
            if !self.is_expired(&stored.value) {
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
                return Ok(KeyLookup::Replay(sealed.answer.get().to_owned()));
            }
            self.remove(vec![stored.id]).await?;
        }
        self.check_limits(caller).await?;
        Ok(KeyLookup::New(keyed))
    }

    fn lock_key(
        self: &Arc<IdempotencyStore>,
        caller: &Caller,
        row: &'static Operation,
        id: String,
        request: String,
    ) -> Result<Arc<IdempotentCall>> {
        if !lock(&self.in_flight).entry(caller.user_id.clone()).or_default().insert(id.clone()) {
            return Err(in_flight_error());
        }
        let account = caller.user_id.clone();
        Ok(Arc::new(IdempotentCall {
            store: self.clone(),
            id,
            account,
            operation: row.id,
            request,
            answer: Mutex::default(),
        }))
    }

    fn is_expired(&self, stored: &StoredAnswer) -> bool {
        let age = self.clock.now().duration_since(stored.at.0);
        Duration::try_from(age).is_ok_and(|age| age >= RETENTION) && self.expiry.may_expire(RETENTION)
    }

    fn open(&self, stored: &Stored<StoredAnswer>) -> Result<Sealed> {
        let opened = self.encryptor.decrypt(&storage_location(&stored.id), &stored.value.sealed);
        let opened = opened.map_err(|error| Error::internal(format!("the answer `{}`: {error:?}", stored.id)))?;
        serde_json::from_slice(&opened).map_err(Error::internal)
    }

    /// Fails if the limits are reached. Stored answers are never evicted early, since a repeat must find them.
    async fn check_limits(&self, caller: &Caller) -> Result<()> {
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
            .with_retry_after(3600));
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
            .with_retry_after(3600));
        }
        Ok(())
    }

    /// Removes expired answers.
    pub async fn remove_expired(&self) -> Result<()> {
        if !self.expiry.may_expire(RETENTION) {
            return Ok(());
        }
        let kept = jiff::SignedDuration::try_from(RETENTION).unwrap_or(jiff::SignedDuration::MAX);
        let Ok(before) = self.clock.now().checked_sub(kept) else { return Ok(()) };
        let old = Filter::range("at", None, Some(Time(before).to_string().into()));
        loop {
            let page = self.answers.find(&Query::all().filter(old.clone()).ascending("at").limit(BATCH_SIZE)).await?;
            let is_last = (page.len() as u64) < BATCH_SIZE;
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
        let delete = Write::DeleteWhere { collection: ANSWERS.name, filters: vec![Filter::is_in("id", ids)] };
        self.answers.store().commit(delete.into()).await?;
        *lock(&self.count) = None;
        Ok(())
    }

    /// The write that deletes the answers of an account; call [`IdempotencyStore::invalidate_count`] after its commit.
    pub fn delete_for_account(&self, user_id: &str) -> Write {
        Write::DeleteWhere { collection: ANSWERS.name, filters: vec![Filter::equals("accountId", user_id)] }
    }

    /// Discards the cached number of answers, so that it is counted again.
    pub fn invalidate_count(&self) {
        *lock(&self.count) = None;
    }
}

impl IdempotentCall {
    /// Sets the answer: see [`CallAudit::set_answer`](crate::audit::CallAudit::set_answer).
    pub(crate) fn set_answer(&self, answer: &impl Serialize) -> Result<()> {
        let text = serde_json::value::to_raw_value(answer).map_err(Error::internal)?;
        if text.get().len() > MAX_ANSWER_BYTES {
            return Err(Error::new(
                &codes::ANSWER_TOO_LARGE,
                format!(
                    "the answer has more than {MAX_ANSWER_BYTES} bytes and cannot be stored for repeats: nothing was done; omit \
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
            at: Time(self.store.clock.now()),
            account_id: self.account.to_string(),
            sealed: self.store.encryptor.encrypt(&storage_location(&self.id), &sealed),
        };
        self.store.answers.create(&self.id, &stored)
    }

    pub(crate) fn operation(&self) -> &'static str {
        self.operation
    }

    /// Called after the write was committed.
    pub(crate) fn on_committed(&self) {
        if let Some(count) = lock(&self.store.count).as_mut() {
            *count += 1;
        }
    }

    /// Whether another call with the key was committed.
    pub(crate) async fn is_stored(&self) -> Result<bool, StoreError> {
        Ok(self.store.answers.get(&self.id).await?.is_some())
    }
}

impl Drop for IdempotentCall {
    fn drop(&mut self) {
        let mut in_flight = lock(&self.store.in_flight);
        if let Some(ids) = in_flight.get_mut(&self.account) {
            ids.remove(&self.id);
            if ids.is_empty() {
                in_flight.remove(&self.account);
            }
        }
    }
}

/// The error of a call with the key of another one that is in progress or has just been committed.
pub(crate) fn in_flight_error() -> Error {
    Error::new(
        &codes::IN_FLIGHT,
        "a call with this `Idempotency-Key` is in progress; send it again in a moment, for the answer of that call",
    )
}

/// The storage location to which an encrypted answer is bound.
fn storage_location(id: &str) -> String {
    format!("{}/{id}/sealed", ANSWERS.name)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
