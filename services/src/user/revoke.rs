//! Signing out: sessions end, and their tokens with them (contract decision 8).

use openorch_api::{
    Body, Json,
    user::{Empty, RevokeTokensRequest, TOKEN_REVOKE},
};
use openorch_chassis::{Cx, Error, Identity, Result};
use openorch_store::Query;

use super::{Users, session::UNKNOWN_DEVICE};

pub async fn revoke_tokens(cx: Cx<Users>, Body(request): Body<RevokeTokensRequest>) -> Result<Json<Empty>> {
    let caller = cx.caller()?;
    let all = request.all_tokens.unwrap_or_default();
    let device = request.device.filter(|device| !device.is_empty());
    let others = request.user_id.filter(|id| !id.is_empty() && **id != *caller.user_id);
    if others.is_some() && !cx.allows(caller, TOKEN_REVOKE.id) {
        return Err(Error::forbidden(format!(
            "`{}` may end its own sessions only; those of another account need the permission `{}`",
            caller.slug, TOKEN_REVOKE.id
        )));
    }
    if others.is_some() && device.is_none() && !all {
        return Err(Error::invalid("which sessions of the account? name a `device`, or send `allTokens`"));
    }
    let user_id = others.as_deref().unwrap_or(&caller.user_id);
    if cx.users.get(user_id).await?.is_none() {
        return Err(Error::not_found(format!("there is no account `{user_id}`")));
    }
    // Programs that name no device share one session: someone who signs out everywhere does not mean to stop them. An
    // admin who ends the sessions of an account means all of them.
    let spares_programs = |of: &str, id: &str| of == UNKNOWN_DEVICE && others.is_none() && *id != *caller.session_id;
    let ended: Vec<String> = cx
        .sessions
        .find(&Query::all().equals("userId", user_id))
        .await?
        .into_iter()
        .map(|found| found.value)
        .filter(|row| match &device {
            _ if all => !spares_programs(&row.device, &row.id),
            Some(device) => row.device == *device,
            None => *row.id == *caller.session_id,
        })
        .map(|row| row.id)
        .collect();
    if let (Some(device), true, false) = (&device, ended.is_empty(), all) {
        return Err(Error::not_found(format!("the account has no session on the device `{device}`")));
    }
    cx.end_these(&ended).await?;
    Ok(Json(Empty {}))
}
