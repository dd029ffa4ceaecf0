//! Listing and revoking sessions. A revoked session invalidates its tokens (decision "Sessions are the authority").

use openorch_api::{
    Body, Json, Path, Query,
    user::{
        Empty, ListSessionsRequest, ListSessionsResponse, RevokeTokensRequest, Session, SessionId, TOKEN_REVOKE, errors,
    },
};
use openorch_chassis::{Cx, Error, Result, audit::CallAudit};
use openorch_store::Query as Asked;

use crate::user::{
    authn::{rows::SessionRow, sessions::live::UNKNOWN_DEVICE, state::Authn},
    authz::accounts::account::Account,
};

pub async fn list(cx: Cx<Authn>, Query(request): Query<ListSessionsRequest>) -> Result<Json<ListSessionsResponse>> {
    let caller = cx.caller()?;
    let user_id = request.user_id.filter(|id| !id.is_empty()).unwrap_or_else(|| caller.user_id.to_string());
    let own = cx.authz.require_account(&caller.user_id).await?;
    let found = cx.sessions.rows.find(&Asked::all().equals("userId", user_id)).await?;
    let is_shown = |row: &SessionRow| !cx.sessions.has_ended(row) && cx.may_end(&own, row);
    let sessions = found.into_iter().map(|row| row.value).filter(is_shown).map(|row| Session {
        current: *row.id == *caller.session_id,
        used_at: cx.sessions.last_use(&row),
        id: row.id,
        user_id: row.user_id,
        app_id: row.app,
        device: row.device,
        created_at: row.created_at,
    });
    Ok(Json(ListSessionsResponse { sessions: sessions.collect() }))
}

/// Callers without the right to end a session get the same error as for a session that does not exist.
pub async fn owner(cx: &Cx<Authn>, id: &SessionId) -> Result<String> {
    let found = cx.sessions.rows.get(&id.0).await?.map(|found| found.value.user_id);
    found
        .filter(|user_id| cx.caller().is_ok_and(|caller| **user_id == *caller.user_id))
        .ok_or_else(|| no_such_session(id))
}

fn no_such_session(id: &SessionId) -> Error {
    let sentence = format!("there is no session `{}`; GET /user-svc/sessions lists yours", id.0);
    Error::new(&errors::NO_SUCH_SESSION, sentence)
}

pub async fn revoke(cx: Cx<Authn>, Path(id): Path<SessionId>) -> Result<Json<Empty>> {
    let caller = cx.caller()?;
    let found = cx.sessions.rows.get(&id.0).await?;
    let own = cx.authz.require_account(&caller.user_id).await?;
    let found = found.filter(|found| cx.may_end(&own, &found.value)).ok_or_else(|| no_such_session(&id))?;
    cx.require_right_to_end(&cx.request.audit, &own, &found.value);
    cx.sessions.revoke_sessions(&cx.request.audit, &found.value.user_id, &[id.0]).await?;
    Ok(Json(Empty {}))
}

pub async fn revoke_tokens(cx: Cx<Authn>, Body(request): Body<RevokeTokensRequest>) -> Result<Json<Empty>> {
    let caller = cx.caller()?;
    let all = request.all_tokens.unwrap_or_default();
    let device = request.device.filter(|device| !device.is_empty());
    let others = request.user_id.filter(|id| !id.is_empty() && **id != *caller.user_id);
    if others.is_some() && device.is_none() && !all {
        return Err(Error::invalid("sessions of another account need a `device` or `allTokens`"));
    }
    let user_id = others.as_deref().unwrap_or(&caller.user_id);
    if cx.accounts.users.get(user_id).await?.is_none() {
        return Err(Error::new(&errors::NO_SUCH_ACCOUNT, format!("there is no account `{user_id}`")));
    }
    // Programs without a device share one session: a user who signs out everywhere does not mean to stop them. An admin
    // who revokes the sessions of another account means all of them.
    let is_shared_by_programs =
        |of: &str, id: &str| of == UNKNOWN_DEVICE && others.is_none() && *id != *caller.session_id;
    let own = cx.authz.require_account(&caller.user_id).await?;
    let of_account = Asked::all().equals("userId", user_id);
    let asked = match &device {
        _ if all => of_account,
        Some(device) => of_account.equals("device", device.as_str()),
        None => of_account.equals("id", &*caller.session_id),
    };
    let _permit = cx.sessions.acquire_permit(cx.request.client_ip, &caller.user_id).await;
    let ended: Vec<String> = cx
        .sessions
        .rows
        .find(&asked)
        .await?
        .into_iter()
        .map(|found| found.value)
        .filter(|row| cx.may_end(&own, row))
        .filter(|row| !all || !is_shared_by_programs(&row.device, &row.id))
        .inspect(|row| cx.require_right_to_end(&cx.request.audit, &own, row))
        .map(|row| row.id)
        .collect();
    if let (Some(device), true, false) = (&device, ended.is_empty(), all) {
        return Err(Error::new(
            &errors::NO_SUCH_SESSION,
            format!("the account has no session on the device `{device}`"),
        ));
    }
    // A call without effect leaves no entry in the audit log, since this operation has no rate limit.
    if !ended.is_empty() {
        cx.sessions.revoke_sessions(&cx.request.audit, user_id, &ended).await?;
    }
    Ok(Json(Empty {}))
}

impl Authn {
    /// The commit requires that `own` still has the right.
    fn require_right_to_end(&self, call: &CallAudit, own: &Account, row: &SessionRow) {
        if *row.user_id != *own.id {
            call.require_permission_guards(
                self.authz.rules().permission_guards(&own.caller_in(&row.app), TOKEN_REVOKE.id),
            );
        }
    }

    /// Whether `own` may end this session: its own ones, and those of others in apps where it has the right.
    fn may_end(&self, own: &Account, row: &SessionRow) -> bool {
        *row.user_id == *own.id || self.authz.allows(&own.caller_in(&row.app), TOKEN_REVOKE.id)
    }
}
