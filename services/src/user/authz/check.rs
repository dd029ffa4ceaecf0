//! What others check tokens with: the public key, and whether a caller may.

use std::sync::{Arc, PoisonError};

use openorch_api::{
    Body, Json, Path,
    user::{GetPublicKeyResponse, IsAuthorizedRequest, IsAuthorizedResponse, Key, KeySet, PermissionId, errors},
};
use openorch_chassis::{Cx, Error, Identity, Result};
use openorch_store::Batch;

use crate::user::{
    Users,
    authn::tokens::jwt::{KeyRing, SigningKey, VerifyingKey},
    rows::{KeyPairRow, RetiredKey},
    seed::private_place,
};

pub async fn public_key(cx: Cx<Users>, (): ()) -> Result<Json<GetPublicKeyResponse>> {
    Ok(Json(GetPublicKeyResponse { public_key: cx.keys.load().current.public_pem.clone() }))
}

pub async fn key_set(cx: Cx<Users>, (): ()) -> Result<Json<KeySet>> {
    Ok(Json(KeySet { keys: cx.public_keys() }))
}

/// Signs with a new key from now on.
pub async fn rotate_key(cx: Cx<Users>, (): ()) -> Result<Json<KeySet>> {
    let private = tokio::task::spawn_blocking(SigningKey::generate).await.map_err(Error::internal)??;
    let id = cx.platform.ids.random("keyp");
    let key = Arc::new(SigningKey::from_pkcs8(&id, &private)?);
    let row = KeyPairRow {
        private: cx.platform.seal.seal(&private_place(&id), &private),
        id,
        created_at: cx.now(),
        retired: None,
    };
    // One after the other: two at once would each retire the same key.
    let _order = cx.rule_changes.lock().await;
    cx.settle_keys().await?;
    let ring = cx.keys.load_full();
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
    match cx.platform.store.commit(batch).await {
        Ok(_) => cx.keys.store(next),
        Err(error) if error.is_open() => {
            // Perhaps it was written all the same, and then the key that signs now is retired.
            *cx.unsettled_keys.lock().unwrap_or_else(PoisonError::into_inner) = Some((row.id.clone(), next));
            cx.settle_keys().await?;
            if cx.keys.load().current.verifying.public.kid != row.id {
                return Err(error.into());
            }
        }
        Err(error) => return Err(error.into()),
    }
    Ok(Json(KeySet { keys: cx.public_keys() }))
}

impl Users {
    /// Signs with the key that is stored, after a change of which nobody knew whether it was made. Whoever changes keys
    /// holds `rule_changes` meanwhile.
    pub(in crate::user) async fn settle_keys(&self) -> Result<()> {
        let unsettled = || self.unsettled_keys.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((id, ring)) = unsettled().clone() else { return Ok(()) };
        if self.key_pairs.get(&id).await?.is_some() {
            self.keys.store(ring);
        }
        *unsettled() = None;
        Ok(())
    }

    fn public_keys(&self) -> Vec<Key> {
        let lifetime = self.settings.token_lifetime.as_secs() as i64;
        self.keys.load().public(self.now().0.as_second(), lifetime)
    }
}

/// 401 for every no, as published clients know it (contract decision 5).
pub async fn is_authorized(
    cx: Cx<Users>,
    (Path(permission), Body(request)): (Path<PermissionId>, Body<IsAuthorizedRequest>),
) -> Result<Json<IsAuthorizedResponse>> {
    let caller = cx.caller()?;
    let granted = request.granted_slugs.iter().any(|slug| **slug == *caller.slug);
    if !granted && !cx.allows(caller, &permission.0) {
        return Err(Error::new(&errors::NOT_AUTHORIZED, "Unauthorized"));
    }
    let account = cx.known_account(&caller.user_id).await?;
    Ok(Json(IsAuthorizedResponse { authorized: true, user: account.profile.clone() }))
}
