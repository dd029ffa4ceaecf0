//! Opens sessions. A session is unique per account, app and device, so a sign-in resumes the existing one or creates
//! one. Also issues the tokens.

use std::net::IpAddr;

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use jiff::Timestamp;
use openorch_api::{
    Time,
    error::access,
    user::{AuthToken, errors},
};
use openorch_chassis::{Error, Result, audit::CallAudit, service::retry};
use openorch_store::{Batch, Filter, Guard, Query, StoreError, Stored};

use crate::user::{
    authn::{
        rows::{SESSIONS, SessionRow},
        sessions::live::{delete_exchanged, delete_sessions},
        state::Authn,
        tokens::{
            digest::digest,
            jwt::{Claims, ISSUER},
            role_claims::{app_claim, role_claims},
        },
    },
    authz::{accounts::account::Account, guards::is_not_being_deleted},
};

/// Maximum number of sessions exchanged from one session.
const MAX_EXCHANGED: u64 = 100;

/// The app and device for which a session is requested. An account has at most one session for each.
pub struct SessionSlot<'a> {
    pub app: &'a str,
    pub device: &'a str,
    /// For a token exchange: the session from which the new one is exchanged.
    pub exchanged_from: Option<&'a SessionRow>,
    /// Serves changes of sessions round-robin among networks.
    pub client_ip: IpAddr,
}

/// A digest of the account's roles in an app, to detect changes.
fn roles_digest(account: &Account, app: &str) -> String {
    let mut roles: Vec<&[u8]> = account.roles_in(app).iter().map(|role| role.as_bytes()).collect();
    roles.sort_unstable();
    BASE64_URL_SAFE_NO_PAD.encode(digest(&roles))
}

impl Authn {
    /// Signs the account in on a device: resumes the session if it has not ended, with a new token if the roles have
    /// changed. `guard` must hold at commit time, so that a concurrent password change is detected; a caller that lost
    /// a race checks the password again before it retries.
    pub async fn open_session(
        &self,
        call: &CallAudit,
        account: &Account,
        place: &SessionSlot<'_>,
        guard: Batch,
    ) -> Result<AuthToken> {
        if !account.is_in(place.app) {
            return Err(Error::new(
                &errors::NO_ROLE_IN_APP,
                format!(
                    "`{}` is not a member of this app; an admin can assign a role in it with PUT /user-svc/enrolls",
                    account.slug
                ),
            ));
        }
        let _permit = self.sessions.acquire_permit(place.client_ip, &account.id).await;
        let by_device = Query::all().equals("userId", &*account.id).equals("app", place.app);
        let found = self.sessions.rows.find(&by_device.equals("device", place.device)).await?.into_iter().next();
        self.check_device_is_free(place, found.as_ref()).await?;
        self.check_exchange_quota(account, place, found.is_none()).await?;
        let before = found.as_ref().map(|found| (found.id.clone(), found.value.token_id.clone()));
        let mut ended = if found.is_none() { self.least_recently_used(account, place).await? } else { Vec::new() };
        let original_guard = guard.clone();
        let guard = match ended.is_empty() {
            true => guard,
            false => guard
                .with(delete_sessions(&account.id, ended.clone()))
                .with(delete_exchanged(&account.id, ended.clone())),
        };
        let (row, batch) = self.session_for(account, place, found, guard)?;
        let Some(batch) = batch else { return self.auth_token(account, &row).await };
        let is_same = before.as_ref().is_some_and(|(id, token_id)| *id == row.id && *token_id == row.token_id);
        ended.extend(before.map(|(id, _)| id).filter(|id| *id != row.id));
        let written = self.sessions.commits.commit(call, batch, || self.sessions.cache.evict(&ended)).await;
        match written {
            // If only the last use cannot be stored, the sign-in succeeds nevertheless: an operator must be able to
            // sign in to free disk space.
            Err(error @ (StoreError::StorageFull(_) | StoreError::Replaced(_))) if is_same => {
                self.platform.commit(call, original_guard).await?;
                tracing::warn!(user.id = &*account.id, "cannot store the last use of a resumed session: {error}");
            }
            written => drop(written?),
        }
        self.auth_token(account, &row).await
    }

    /// The sessions of an account that must end so that one more fits: the least recently used. Never the session from
    /// which the new one is exchanged.
    async fn least_recently_used(&self, account: &Account, place: &SessionSlot<'_>) -> Result<Vec<String>> {
        let most = self.sessions.max_per_account;
        let count = self.sessions.rows.count(&[Filter::equals("userId", &*account.id)]).await?;
        let Some(beyond) = (count + 1).checked_sub(most).filter(|beyond| *beyond > 0) else { return Ok(Vec::new()) };
        let mut found = self.sessions.rows.find(&Query::all().equals("userId", &*account.id)).await?;
        found.retain(|row| place.exchanged_from.is_none_or(|from| from.id != row.id));
        found.sort_by_key(|row| self.sessions.last_use(&row.value).0);
        Ok(found.into_iter().take(beyond as usize).map(|row| row.id).collect())
    }

    /// Limits the number of sessions exchanged from one session.
    async fn check_exchange_quota(&self, account: &Account, place: &SessionSlot<'_>, is_new: bool) -> Result<()> {
        let of_account = Filter::equals("userId", &*account.id);
        let Some(from) = place.exchanged_from.filter(|_| is_new) else { return Ok(()) };
        let of_origin = [of_account, Filter::equals("exchangedFrom", from.id.as_str())];
        if self.sessions.rows.count(&of_origin).await? >= MAX_EXCHANGED {
            return Err(Error::new(
                &errors::TOO_MANY_EXCHANGED,
                format!(
                    "{MAX_EXCHANGED} tokens were exchanged from this one, the maximum; reuse one, or end some of their sessions"
                ),
            ));
        }
        Ok(())
    }

    /// An exchanged session must not replace one that was signed in to or exchanged from another session.
    async fn check_device_is_free(&self, place: &SessionSlot<'_>, found: Option<&Stored<SessionRow>>) -> Result<()> {
        let (Some(from), Some(Stored { value: row, .. })) = (place.exchanged_from, found) else { return Ok(()) };
        if self.sessions.has_ended(row) || row.exchanged_from.as_deref() == Some(&*from.id) {
            return Ok(());
        }
        if let Some(other) = &row.exchanged_from
            && self.sessions.rows.get(other).await?.is_none()
        {
            return Ok(());
        }
        Err(Error::new(
            &errors::DEVICE_IN_USE,
            "the account is already signed in on this device; choose another `newDevice`",
        ))
    }

    /// Issues a new token for an active session.
    pub async fn refresh_token(&self, call: &CallAudit, account: &Account, session_id: &str) -> Result<AuthToken> {
        let ended = || Error::new(&access::SESSION_ENDED, "the session of this token has ended; sign in again");
        retry(|| async {
            let found = self.sessions.rows.get(session_id).await?.filter(|found| account.is_in(&found.value.app));
            let Stored { version, value: mut row, .. } = found.ok_or_else(ended)?;
            row.roles_digest = roles_digest(account, &row.app);
            row.token_id = self.platform.ids.random("tok");
            (row.token_created_at, row.issued_at, row.used_at) = (self.now(), self.now(), self.now());
            let renewed = self.sessions.rows.replace(&row.id, &row, Some(version))?;
            self.platform.commit(call, renewed.into()).await?;
            self.auth_token(account, &row).await
        })
        .await
    }

    /// The first session of a new account, created in the same batch as the account.
    pub async fn open_first_session(
        &self,
        call: &CallAudit,
        account: &Account,
        place: &SessionSlot<'_>,
        with_account: Batch,
        forget: impl FnOnce(),
    ) -> Result<AuthToken> {
        let (row, batch) = self.session_for(account, place, None, with_account)?;
        self.sessions.commits.commit(call, batch.unwrap_or_default(), forget).await?;
        self.auth_token(account, &row).await
    }

    /// The session to return, and the batch to commit, if any.
    fn session_for(
        &self,
        account: &Account,
        place: &SessionSlot<'_>,
        found: Option<Stored<SessionRow>>,
        guard: Batch,
    ) -> Result<(SessionRow, Option<Batch>)> {
        let now = self.now();
        let roles_digest = roles_digest(account, place.app);
        let exchanged_from = place.exchanged_from.map(|from| from.id.clone());
        let (expired, active) = match found {
            // A session that came about differently must be replaced: holders of its tokens must not get access to this
            // one.
            Some(found) if self.sessions.has_ended(&found.value) || found.value.exchanged_from != exchanged_from => {
                (Some(found), None)
            }
            found => (None, found),
        };
        let Some(Stored { version, value: mut row, .. }) = active else {
            // An expired session is not resumed but replaced.
            let guard = match expired {
                Some(asleep) => guard
                    .with(self.sessions.rows.delete(&asleep.value.id, Some(asleep.version)))
                    .with(delete_exchanged(&account.id, vec![asleep.value.id])),
                None => guard,
            };
            let fresh = SessionRow {
                id: self.platform.ids.random("ses"),
                user_id: account.id.to_string(),
                app: place.app.to_owned(),
                device: place.device.to_owned(),
                exchanged_from,
                created_at: place.exchanged_from.map_or(now, |from| from.created_at),
                used_at: now,
                token_id: self.platform.ids.random("tok"),
                token_created_at: now,
                issued_at: now,
                roles_digest,
            };
            let of_account = Filter::equals("userId", &*account.id);
            let mut guard = guard;
            guard.0.extend(self.authz.require_app(place.app)?);
            let mut batch = guard.with(self.sessions.rows.create(&fresh.id, &fresh)?);
            if let Some(from) = &fresh.exchanged_from {
                let of_origin = vec![of_account.clone(), Filter::equals("exchangedFrom", from.as_str())];
                batch = batch.require(Guard::at_most(SESSIONS.name, of_origin, MAX_EXCHANGED));
            }
            let most = self.sessions.max_per_account;
            batch = batch.require(Guard::at_most(SESSIONS.name, vec![of_account], most));
            let batch = batch.require(is_not_being_deleted(&account.id));
            return Ok((fresh, Some(batch)));
        };
        let renew_after = self.tokens.lifetime.as_secs() as i64 * 2 / 3;
        let is_renewal_due = now.0.as_second() - row.issued_at.0.as_second() >= renew_after;
        if row.roles_digest == roles_digest && !is_renewal_due {
            // Nothing to store, but the guard must still hold.
            return Ok((row, Some(guard).filter(|guard| !guard.is_empty())));
        }
        if row.roles_digest != roles_digest {
            row.token_id = self.platform.ids.random("tok");
            row.token_created_at = now;
            row.roles_digest = roles_digest;
        }
        row.issued_at = now;
        row.used_at = now;
        let batch = guard.with(self.sessions.rows.replace(&row.id, &row, Some(version))?);
        Ok((row, Some(batch)))
    }

    async fn auth_token(&self, account: &Account, row: &SessionRow) -> Result<AuthToken> {
        let issued = row.issued_at.0.as_second();
        let expires = issued + self.tokens.lifetime.as_secs() as i64;
        let claims = Claims {
            oui: account.id.to_string(),
            olu: account.slug.to_string(),
            ori: role_claims(account.roles_in(&row.app).iter().map(AsRef::as_ref), &account.trusted, None),
            iss: ISSUER.into(),
            iat: issued,
            exp: expires,
            jti: row.token_id.clone(),
            sid: row.id.clone(),
            aud: None,
            app: app_claim(&row.app),
        };
        let token = self.tokens.sign(claims).await?;
        Ok(AuthToken {
            id: row.token_id.clone(),
            app_id: row.app.clone(),
            created_at: row.token_created_at,
            updated_at: row.issued_at,
            user_id: account.id.to_string(),
            token,
            active: true,
            device: row.device.clone(),
            expires_at: Time(Timestamp::from_second(expires).unwrap_or(Timestamp::MAX)),
        })
    }
}
