//! What others check tokens with: the public key, and whether a caller may.

use openorch_api::{
    Body, Json, Path,
    user::{GetPublicKeyResponse, IsAuthorizedRequest, IsAuthorizedResponse, KeySet, PermissionId},
};
use openorch_chassis::{Cx, Error, Identity, Result};

use super::Users;

pub async fn public_key(cx: Cx<Users>, (): ()) -> Result<Json<GetPublicKeyResponse>> {
    Ok(Json(GetPublicKeyResponse { public_key: cx.key.public_pem.clone() }))
}

pub async fn key_set(cx: Cx<Users>, (): ()) -> Result<Json<KeySet>> {
    Ok(Json(KeySet { keys: vec![cx.key.public_jwk.clone()] }))
}

/// 401 for every no, as published clients know it (contract decision 5).
pub async fn is_authorized(
    cx: Cx<Users>,
    (Path(permission), Body(request)): (Path<PermissionId>, Body<IsAuthorizedRequest>),
) -> Result<Json<IsAuthorizedResponse>> {
    let caller = cx.caller()?;
    let granted = request.granted_slugs.iter().any(|slug| **slug == *caller.slug);
    if !granted && !cx.allows(caller, &permission.0) {
        return Err(Error::unauthenticated("Unauthorized"));
    }
    let account = cx.known_account(&caller.user_id).await?;
    Ok(Json(IsAuthorizedResponse { authorized: true, user: account.profile.clone() }))
}
