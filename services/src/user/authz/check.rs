//! Permission checks requested by services for their callers.

use openorch_api::{
    Body, Json, Path,
    user::{HasPermissionResponse, IsAuthorizedRequest, IsAuthorizedResponse, PermissionId, errors},
};
use openorch_chassis::{Cx, Error, Result};

use crate::user::authz::state::Authz;

/// Every denial is a 401, as published clients expect (decision "Refusals").
pub async fn is_authorized(
    cx: Cx<Authz>,
    (Path(permission), Body(request)): (Path<PermissionId>, Body<IsAuthorizedRequest>),
) -> Result<Json<IsAuthorizedResponse>> {
    let caller = cx.caller()?;
    let granted = request.granted_slugs.iter().any(|slug| **slug == *caller.slug);
    if !granted && !cx.allows(caller, &permission.0) {
        return Err(Error::new(&errors::NOT_AUTHORIZED, "Unauthorized"));
    }
    let account = cx.require_account(&caller.user_id).await?;
    Ok(Json(IsAuthorizedResponse { authorized: true, user: account.profile.clone() }))
}

pub async fn has(cx: Cx<Authz>, Path(id): Path<PermissionId>) -> Result<Json<HasPermissionResponse>> {
    let caller = cx.caller()?;
    let account = cx.require_account(&caller.user_id).await?;
    let ttl = jiff::SignedDuration::try_from(cx.permission_cache_ttl).map_err(Error::internal)?;
    let until = cx.now().0.checked_add(ttl).map_err(Error::internal)?;
    Ok(Json(HasPermissionResponse {
        authorized: cx.allows(caller, &id.0),
        app_id: caller.app.to_string(),
        app: cx.app(&caller.app),
        until: openorch_api::Time(until),
        user: account.profile.clone(),
    }))
}
