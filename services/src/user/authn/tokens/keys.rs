//! Token keys: publication, rotation, signing and verification.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use arc_swap::ArcSwap;
use moka::sync::Cache;
use openorch_api::{
    Json, Time,
    user::{GetPublicKeyResponse, Key, KeySet, errors},
};
use openorch_chassis::{Cx, Error, Platform, Result};
use openorch_store::{Batch, Table};

use crate::user::{
    authn::{
        rows::{KEY_PAIRS, KeyPairRow, RetiredKey},
        tokens::{
            digest::{Digest, digest},
            jwt::{Claims, KeyRing, SigningKey, VerifyingKey},
            signing::Signing,
            stored_keys::encryption_context,
        },
    },
    shared::settings::{UserSettings, half_of_cores},
};

/// A token with a valid signature. This never changes, so cached values are never invalidated.
pub struct Verified {
    pub claims: Claims,
    pub audience: Option<Arc<str>>,
}

pub struct Tokens {
    platform: Platform,
    pub key_ring: ArcSwap<KeyRing>,
    key_pairs: Table<KeyPairRow>,
    /// Serializes key changes.
    change_lock: tokio::sync::Mutex<()>,
    /// After a rotation of unknown outcome: the id of the new key, and the key ring to use if that key is stored.
    pending: Mutex<Option<(String, Arc<KeyRing>)>>,
    pub signing: Signing,
    /// Cache of verified tokens.
    verified: Cache<Digest, Arc<Verified>>,
    pub lifetime: Duration,
}

pub async fn public_key(cx: Cx<Tokens>, (): ()) -> Result<Json<GetPublicKeyResponse>> {
    Ok(Json(GetPublicKeyResponse { public_key: cx.key_ring.load().current.public_pem.clone() }))
}

pub async fn key_set(cx: Cx<Tokens>, (): ()) -> Result<Json<KeySet>> {
    Ok(Json(KeySet { keys: cx.public() }))
}

/// Rotates the signing key.
pub async fn rotate_key(cx: Cx<Tokens>, (): ()) -> Result<Json<KeySet>> {
    // Serialized: concurrent rotations would retire the same key twice, and many would use all cores.
    let _order = cx.change_lock.lock().await;
    cx.reconcile_locked().await?;
    let ring = cx.key_ring.load_full();
    check_rotation_rate(&ring, cx.caller()?.is_admin(), cx.now().0.as_second())?;
    let private = tokio::task::spawn_blocking(SigningKey::generate).await.map_err(Error::internal)??;
    let id = cx.platform.ids.random("keyp");
    let key = Arc::new(SigningKey::from_pkcs8(&id, &private)?);
    let row = KeyPairRow {
        private: cx.platform.encryptor.encrypt(&encryption_context(&id), &private),
        id,
        created_at: cx.now(),
        retired: None,
    };
    let before = &ring.current.verifying.public;
    let stored =
        cx.key_pairs.get(&before.kid).await?.ok_or_else(|| Error::internal("the signing key is not stored"))?;
    let retired = KeyPairRow {
        private: String::new(),
        retired: Some(RetiredKey { at: cx.now(), public: before.clone() }),
        ..stored.value
    };
    let batch = Batch::new().with(cx.key_pairs.create(&row.id, &row)?).with(cx.key_pairs.replace(
        &retired.id,
        &retired,
        Some(stored.version),
    )?);
    let since = (cx.now().0.as_second(), Arc::new(VerifyingKey::new(before.clone())?));
    let retired = std::iter::once(since).chain(ring.retired.iter().cloned()).collect();
    let next = Arc::new(KeyRing { current: key, retired });
    match cx.platform.commit(&cx.request.audit, batch).await {
        Ok(_) => cx.key_ring.store(next),
        Err(error) if error.outcome_unknown() => {
            // It may have been stored, in which case the key in use is retired.
            *cx.pending.lock().unwrap_or_else(PoisonError::into_inner) = Some((row.id.clone(), next));
            cx.reconcile_locked().await?;
            if cx.key_ring.load().current.verifying.public.kid != row.id {
                return Err(error.into());
            }
        }
        Err(error) => return Err(error.into()),
    }
    Ok(Json(KeySet { keys: cx.public() }))
}

/// Maximum number of rotations within a day; admins have twice as many. Each retired key is kept as long as a session
/// may have a token signed with it.
const MAX_ROTATIONS: usize = 10;
const DAY: i64 = 24 * 3600;

fn check_rotation_rate(ring: &KeyRing, is_admin: bool, now: i64) -> Result<()> {
    let is_within_a_day = |since: &i64| (0..DAY).contains(&(now - since));
    let recent: Vec<i64> = ring.retired.iter().map(|(since, _)| *since).filter(is_within_a_day).collect();
    let max = if is_admin { 2 * MAX_ROTATIONS } else { MAX_ROTATIONS };
    match recent.iter().min() {
        Some(first) if recent.len() >= max => {
            let wait = (first + DAY - now).clamp(1, DAY);
            Err(Error::new(
                &errors::KEYS_ROTATED_TOO_OFTEN,
                format!("the signing key was rotated {max} times within a day; try again in {wait} seconds"),
            )
            .with_retry_after(wait))
        }
        _ => Ok(()),
    }
}

impl Tokens {
    pub fn new(platform: &Platform, keys: KeyRing, settings: &UserSettings) -> Tokens {
        Tokens {
            key_ring: ArcSwap::from_pointee(keys),
            key_pairs: platform.table(&KEY_PAIRS),
            change_lock: tokio::sync::Mutex::default(),
            pending: Mutex::default(),
            signing: Signing::new(settings.token_signing_concurrency.unwrap_or_else(half_of_cores)),
            verified: Cache::new(settings.max_cache_entries),
            lifetime: settings.token_lifetime,
            platform: platform.clone(),
        }
    }

    fn now(&self) -> Time {
        self.platform.now()
    }

    /// The claims of a token signed by us; `None` for anything else.
    pub fn verify(&self, token: &str) -> Option<Arc<Verified>> {
        let digest = digest(&[token.as_bytes()]);
        if let Some(known) = self.verified.get(&digest) {
            return Some(known);
        }
        let claims = self.key_ring.load().verify(token)?;
        let audience = claims.aud.as_deref().map(Arc::from);
        let verified = Arc::new(Verified { claims, audience });
        self.verified.insert(digest, verified.clone());
        Some(verified)
    }

    /// Signs a token with these claims.
    pub async fn sign(&self, claims: Claims) -> Result<String> {
        self.signing.sign(self.key_ring.load().current.clone(), claims).await
    }

    /// Takes `change_lock` and calls [`Tokens::reconcile_locked`].
    pub async fn reconcile(&self) -> Result<()> {
        let _order = self.change_lock.lock().await;
        self.reconcile_locked().await
    }

    /// Resolves a rotation of unknown outcome: switches to the new key if it was stored. The caller holds `change_lock`.
    async fn reconcile_locked(&self) -> Result<()> {
        let pending = || self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((id, ring)) = pending().clone() else { return Ok(()) };
        if self.key_pairs.get(&id).await?.is_some() {
            self.key_ring.store(ring);
        }
        *pending() = None;
        Ok(())
    }

    fn public(&self) -> Vec<Key> {
        let lifetime = self.lifetime.as_secs() as i64;
        self.key_ring.load().public(self.now().0.as_second(), lifetime)
    }
}
