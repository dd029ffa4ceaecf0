//! The `Identity` implementation: the account behind a token, the delegated token for a service, and the end of
//! sessions.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use http::HeaderValue;
use openorch_api::error::access;
use openorch_chassis::{BoxFuture, Caller, Credential, Error, ForwardedAuth, Identity, Result};
use openorch_store::Guard;

use crate::user::{
    authn::{
        rows::SESSIONS,
        sessions::cache::{Delegated, LiveSession},
        state::Authn,
        tokens::{
            digest::{Digest, digest},
            header::{API_KEY_PREFIX, AuthHeader, classify, contains, decode_basic, is_jwt_byte},
            jwt::{Claims, ISSUER},
            keys::Verified,
            role_claims::{app_claim, role_claims},
        },
    },
    authz::{accounts::account::Account, guards::admin_guard},
    shared::rows::DEFAULT_APP,
};

/// A delegated token is renewed when less than this fraction (one fifth) of its lifetime is left.
const DELEGATED_RENEWAL_FRACTION: i64 = 5;
/// Maximum number of positions in an `Authorization` value at which a JWT may start; a value with more is treated as
/// ours, and so refused.
const MAX_JWT_STARTS: usize = 32;
/// Maximum length of a JWT header that is decoded; ours have about 60 bytes.
const MAX_JWT_HEADER: usize = 512;

impl Authn {
    /// A session in an app is void once its account is no longer a member of the app.
    fn require_app_member(&self, account: &Account, session: &LiveSession) -> Result<()> {
        if account.is_in(&session.app) {
            return Ok(());
        }
        Err(Error::new(&access::NOT_IN_APP, format!("`{}` is no longer in the app of this token", account.slug)))
    }

    async fn mint(&self, verified: &Verified, digest: Digest, audience: &str) -> Result<ForwardedAuth> {
        let rights = self.authz.cache.rights_epoch();
        let session = self.sessions.live_session(verified).await?;
        if let Some(made_for) = verified.audience.as_deref() {
            if self.may_forward_to(made_for, audience) {
                let credential = Credential::Delegated {
                    session_id: session.id.clone(),
                    audience: made_for.into(),
                    service: audience.into(),
                    expires_at: verified.claims.exp,
                };
                return Ok(ForwardedAuth::Delegated { credential, caller: verified.claims.olu.as_str().into() });
            }
            return Err(Error::new(
                &access::OTHER_SERVICE,
                format!("a token issued for the service `{made_for}` is not valid for `{audience}`"),
            ));
        }
        let gone = || Error::new(&access::ACCOUNT_GONE, "the account of this token was deleted");
        let account = self.authz.account(&session.user_id).await?.ok_or_else(gone)?;
        self.require_app_member(&account, &session)?;
        let now = self.now().0.as_second();
        let lifetime = self.delegated_token_lifetime.as_secs() as i64;
        // Services do not know the session, so their tokens must not outlive its maximum lifetime.
        let remaining = |most: Duration| (session.created_at.saturating_add(most.as_secs() as i64) - now).max(1);
        let lifetime = self.sessions.max_lifetime.map_or(lifetime, |most| lifetime.min(remaining(most)));
        let claims = Claims {
            oui: account.id.to_string(),
            olu: account.slug.to_string(),
            ori: role_claims(
                account.roles_in(&session.app).iter().map(AsRef::as_ref),
                &account.trusted,
                Some(audience),
            ),
            iss: ISSUER.into(),
            iat: now,
            exp: now + lifetime,
            jti: self.platform.ids.random("tok"),
            sid: session.id.to_string(),
            aud: Some(audience.to_owned()),
            app: app_claim(&session.app),
        };
        let token = self.tokens.sign(claims).await?;
        let mut header = HeaderValue::try_from(format!("Bearer {token}")).map_err(Error::internal)?;
        header.set_sensitive(true);
        let fresh_until = now + lifetime - lifetime / DELEGATED_RENEWAL_FRACTION;
        let passage = ForwardedAuth::Replace {
            authorization: header.clone(),
            session_id: session.id.clone(),
            caller: account.slug.clone(),
        };
        self.sessions.cache.insert_delegated(digest, Delegated { header, session, account, rights, fresh_until });
        Ok(passage)
    }
}

impl Authn {
    /// Whether a delegated token issued for one service may be sent to another.
    fn may_forward_to(&self, made_for: &str, to: &str) -> bool {
        made_for == to || self.authz.load_rules().may_forward_to(made_for, to)
    }

    async fn has_ended(&self, credential: &Credential) -> bool {
        // What started while the token was valid may run for another lifetime, so that an upload is not cut off moments
        // after it started.
        let lifetime = self.delegated_token_lifetime.as_secs() as i64;
        if let Credential::Delegated { audience: made_for, service: to, expires_at, .. } = credential
            && (*expires_at + lifetime <= self.now().0.as_second() || !self.may_forward_to(made_for, to))
        {
            return true;
        }
        match (self.caller_in(credential.session_id(), None).await, credential) {
            (Ok(caller), Credential::Permission { permission, .. }) => !self.authz.allows(&caller, permission),
            (Ok(_), _) => false,
            (Err(error), _) => error.code.status == 401,
        }
    }

    /// The account behind a session. Counts as a use of the session.
    async fn caller_in(&self, session_id: &str, audience: Option<Arc<str>>) -> Result<Caller> {
        self.caller_of(&*self.sessions.use_session(session_id).await?, audience).await
    }

    async fn caller_of(&self, session: &LiveSession, audience: Option<Arc<str>>) -> Result<Caller> {
        let gone = || Error::new(&access::ACCOUNT_GONE, "the account of this token was deleted");
        let account = self.authz.account(&session.user_id).await?.ok_or_else(gone)?;
        self.require_app_member(&account, session)?;
        Ok(Caller {
            user_id: account.id.clone(),
            slug: account.slug.clone(),
            session_id: session.id.clone(),
            roles: account.roles_in(&session.app).clone(),
            default_app_roles: account.roles_in(DEFAULT_APP).clone(),
            app: session.app.clone(),
            audience,
        })
    }
}

impl Identity for Authn {
    fn authenticate<'a>(&'a self, token: &'a str) -> BoxFuture<'a, Result<Caller>> {
        Box::pin(async move {
            let unknown = || {
                Error::new(&access::INVALID_TOKEN, "Unauthorized: this is not a token of this daemon; sign in for one")
            };
            let verified = self.tokens.verify(token).ok_or_else(unknown)?;
            let session = self.sessions.live_session(&verified).await?;
            self.caller_of(&session, verified.audience.clone()).await
        })
    }

    fn allows(&self, caller: &Caller, permission: &str) -> bool {
        self.authz.allows(caller, permission)
    }

    fn session_guards(&self, caller: &Caller) -> Vec<Guard> {
        let session = Guard::Exists { collection: SESSIONS.name, id: caller.session_id.to_string() };
        let is_of_session = !caller.session_id.is_empty();
        is_of_session.then_some(session).into_iter().chain(admin_guard(caller)).collect()
    }

    fn permission_guards(&self, caller: &Caller, permission: &str) -> Vec<Guard> {
        self.authz.load_rules().permission_guards(caller, permission)
    }

    fn delegation_allows(&self, audience: &str, operation: &str) -> bool {
        self.authz.load_rules().delegation_allows(audience, operation)
    }

    fn delegate_cached(&self, authorization: &HeaderValue, audience: &str) -> Option<Result<ForwardedAuth>> {
        let token = match classify(authorization) {
            AuthHeader::Foreign => return Some(Ok(ForwardedAuth::Untouched)),
            AuthHeader::Embedded | AuthHeader::ApiKey => return None,
            AuthHeader::Token(token) => token,
        };
        let now = self.platform.clock.now().as_second();
        let known = self.sessions.cache.delegated(
            &digest(&[token, audience.as_bytes()]),
            now,
            self.authz.cache.rights_epoch(),
        )?;
        if self.sessions.is_idle(&known.session, now) {
            return None;
        }
        known.session.used_at.store(now, Ordering::Relaxed);
        let Delegated { header, session, account, .. } = known;
        Some(Ok(ForwardedAuth::Replace {
            authorization: header,
            session_id: session.id.clone(),
            caller: account.slug.clone(),
        }))
    }

    fn delegate<'a>(
        &'a self,
        authorization: &'a HeaderValue,
        audience: &'a str,
    ) -> BoxFuture<'a, Result<ForwardedAuth>> {
        Box::pin(async move {
            match classify(authorization) {
                AuthHeader::Foreign => Ok(ForwardedAuth::Untouched),
                AuthHeader::ApiKey => Err(Error::new(
                    &access::INVALID_TOKEN,
                    "Unauthorized: the prefix `oo_key_` is reserved for API keys, which this version does not support; sign in and send \
                     the token",
                )),
                // A service must not find a token of ours elsewhere in the value.
                AuthHeader::Embedded => match self.names_our_key(authorization.as_bytes()) {
                    true => Err(Error::new(
                        &access::MALFORMED_TOKEN,
                        "send the token as `Authorization: Bearer …`, with no other scheme and nothing after the token",
                    )),
                    false => Ok(ForwardedAuth::Untouched),
                },
                AuthHeader::Token(token) => {
                    match std::str::from_utf8(token).ok().and_then(|text| self.tokens.verify(text)) {
                        // A token of ours with a suffix, which a service might strip.
                        None if self.names_our_key(token) => Err(Error::new(
                            &access::INVALID_TOKEN,
                            "Unauthorized: this token names a key of this daemon, which did not sign it; sign in for one",
                        )),
                        None => Ok(ForwardedAuth::Untouched),
                        Some(verified) => {
                            let key = digest(&[token, audience.as_bytes()]);
                            if verified.audience.is_some() {
                                // It is forwarded or refused; no token is signed.
                                return self.mint(&verified, key, audience).await;
                            }
                            let session = verified.claims.sid.as_bytes();
                            let _alone = self.tokens.signing.lock(digest(&[session, audience.as_bytes()])).await;
                            match self.delegate_cached(authorization, audience) {
                                Some(made) => made,
                                None => self.mint(&verified, key, audience).await,
                            }
                        }
                    }
                }
            }
        })
    }

    fn names_our_key(&self, authorization: &[u8]) -> bool {
        if let Some(decoded) = decode_basic(authorization) {
            return self.names_our_key(&decoded);
        }
        if contains(authorization, API_KEY_PREFIX) {
            return true;
        }
        let keys = self.tokens.key_ring.load();
        let mut starts = 0;
        authorization.split(|byte| !is_jwt_byte(*byte)).any(|word| {
            // A JWT may follow other characters of its alphabet, as in `token.eyJ…`.
            word.windows(3).enumerate().filter(|(_, bytes)| bytes == b"eyJ").any(|(at, _)| {
                starts += 1;
                let header = word[at..].split(|byte| *byte == b'.').next().unwrap_or_default();
                starts > MAX_JWT_STARTS || (header.len() <= MAX_JWT_HEADER && keys.has_key_of(header))
            })
        })
    }

    fn ended_credentials<'a>(&'a self, credentials: &'a [Credential]) -> BoxFuture<'a, Vec<Credential>> {
        Box::pin(async move {
            let mut ended = Vec::new();
            for credential in credentials {
                if self.has_ended(credential).await {
                    ended.push(credential.clone());
                }
            }
            ended
        })
    }
}
