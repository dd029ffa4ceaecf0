//! Repeats of calls (decision "Idempotency keys"). A call of an operation whose row says so may come with the header
//! `Idempotency-Key`: its answer is then stored, sealed, in the very batch that makes its change ([`crate::audit`] puts it
//! there), under the account, the audience of its token, the operation and the key. A repeat within 24 hours is given that
//! answer and does nothing. Refusals are not stored, nor the answer of a call that changed nothing.

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

/// The stored answers, to be opened before the store is used.
pub static ANSWERS: Collection =
    Collection { name: "platformSvcAnswers", indexes: &[Index::on(&["accountId"]), Index::on(&["at"])] };

/// How long an answer is kept.
const KEPT: Duration = Duration::from_secs(24 * 3600);
/// Characters of a key.
const MAX_KEY: usize = 255;
/// Bytes of an answer that is stored.
const MAX_ANSWER: usize = 16 << 10;
/// Answers of one account, whatever the setting says: they are deleted with it in one batch.
const MAX_PER_ACCOUNT: u64 = 10_000;
/// Answers that are removed in one batch.
const AT_ONCE: u64 = 1000;

/// Bounds on the stored answers.
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
    /// A [`Sealed`], for this id alone.
    sealed: String,
}

/// What nobody is to read in the store. The digest of the request is among it, since a request may hold a password.
#[derive(Serialize, Deserialize)]
struct Sealed {
    request: String,
    answer: Box<RawValue>,
}

/// The stored answers, and the calls with a key that are in progress.
pub struct Repeats {
    answers: Table<StoredAnswer>,
    clock: Arc<dyn Clock>,
    ages: Arc<Ages>,
    seal: Seal,
    limits: Limits,
    /// By account, the ids of the answers that their calls will store.
    in_flight: Mutex<HashMap<Arc<str>, HashSet<String>>>,
    /// About how many are stored, where they were counted: kept by what is written.
    count: Mutex<Option<u64>>,
}

/// What is known of a call with a key before it is made.
pub(crate) enum Begun {
    /// It was made, and this was its answer.
    Known(String),
    New(Arc<Keyed>),
}

/// A call with a key that is in progress. While there is one, another with the same key is refused.
pub(crate) struct Keyed {
    repeats: Arc<Repeats>,
    id: String,
    account: Arc<str>,
    operation: &'static str,
    request: String,
    answer: Mutex<Option<Box<RawValue>>>,
}

/// The key that a request names, if it names one.
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
            format!("the header `Idempotency-Key` is 1 to {MAX_KEY} printable ASCII characters, and there once"),
        )),
    }
}

/// The digest of a request, by which another one with the same key is told from a repeat; and the request. The app of the
/// session is a part of it. A large one is not hashed on an async worker.
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
    /// `store` is the one below that of the audit log, which adds the answers to what is written.
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

    /// Begins a call with a key, once it was admitted; `request` is its digest.
    pub(crate) async fn begin(
        self: &Arc<Repeats>,
        caller: &Caller,
        row: &'static Row,
        key: &str,
        request: String,
    ) -> Result<Begun> {
        // None of these has a NUL in it.
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

    /// Nothing that is stored makes way: a repeat of it must find it.
    async fn refuse_full(&self, caller: &Caller) -> Result<()> {
        let stored = self.answers.count(&[Filter::equals("accountId", &*caller.user_id)]).await?;
        let in_flight = lock(&self.in_flight).get(&caller.user_id).map_or(0, HashSet::len) as u64;
        let Limits { per_account, total } = self.limits;
        if stored + in_flight > per_account {
            return Err(Error::new(
                &codes::TOO_MANY_KEYS,
                format!(
                    "{per_account} answers are stored for the account `{}`, each for 24 hours after a call with \
                     `Idempotency-Key`; try again later, or leave the key out (an operator can raise \
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
        if count >= total {
            return Err(Error::new(
                &codes::ANSWERS_FULL,
                format!(
                    "{total} answers are stored for repeats, as many as may be; try again later, or leave \
                     `Idempotency-Key` out (an operator can raise OPENORCH_API_MAX_STORED_ANSWERS)"
                ),
            )
            .after(3600));
        }
        Ok(())
    }

    /// Removes the answers whose time is over.
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
        // By filter: one of them may be gone.
        let gone = Write::DeleteWhere { collection: ANSWERS.name, filters: vec![Filter::is_in("id", ids)] };
        self.answers.store().commit(gone.into()).await?;
        *lock(&self.count) = None;
        Ok(())
    }

    /// The write that deletes the answers of an account; to be told by [`Repeats::forget_count`] once it was made.
    pub fn without_account(&self, user_id: &str) -> Write {
        Write::DeleteWhere { collection: ANSWERS.name, filters: vec![Filter::equals("accountId", user_id)] }
    }

    pub fn forget_count(&self) {
        *lock(&self.count) = None;
    }
}

impl Keyed {
    /// What the call will answer: see [`CallAudit::tell_answer`](crate::audit::CallAudit::tell_answer).
    pub(crate) fn tell_answer(&self, answer: &impl Serialize) -> Result<()> {
        let text = serde_json::value::to_raw_value(answer).map_err(Error::internal)?;
        if text.get().len() > MAX_ANSWER {
            return Err(Error::new(
                &codes::ANSWER_TOO_LARGE,
                format!(
                    "the answer has more than {MAX_ANSWER} bytes, and is not stored for repeats: nothing was done; leave \
                     `Idempotency-Key` out"
                ),
            ));
        }
        *lock(&self.answer) = Some(text);
        Ok(())
    }

    /// What must hold when the call makes its change: that no other one with the key did.
    pub(crate) fn guard(&self) -> Guard {
        Guard::Absent { collection: ANSWERS.name, id: self.id.clone() }
    }

    /// The write that stores the answer.
    pub(crate) fn write(&self) -> Result<Write, StoreError> {
        let answer = lock(&self.answer).clone().ok_or_else(|| {
            StoreError::Internal(format!("`{}` did not say what it answers before its commit", self.operation))
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

    /// The write was made.
    pub(crate) fn written(&self) {
        if let Some(count) = lock(&self.repeats.count).as_mut() {
            *count += 1;
        }
    }

    /// Whether another call with the key made its change.
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

/// The refusal of a call with the key of one that is in progress, or was until a moment ago.
pub(crate) fn in_flight() -> Error {
    Error::new(
        &codes::IN_FLIGHT,
        "a call with this `Idempotency-Key` is in progress; send it again in a moment, for the answer of that call",
    )
}

/// Where an answer is sealed for.
fn place(id: &str) -> String {
    format!("{}/{id}/sealed", ANSWERS.name)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
