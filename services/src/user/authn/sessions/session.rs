//! Sessions and tokens (contract decisions 8 and 9): a session is the authority, its token stands for it, a delegated
//! token stands for it before one service. This is the daemon's identity.

use std::{
    collections::HashMap,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use aws_lc_rs::digest::{Context, SHA256};
use http::HeaderValue;
use jiff::Timestamp;
use openorch_api::{Time, error::access};
use openorch_chassis::{BoxFuture, Caller, Credential, Error, Identity, Passage, Result};
use openorch_store::{Batch, Filter, Guard, Query, Stored, Write};

use crate::user::{
    Users,
    authn::{
        sessions::cache::{Account, Delegated, Digest, LiveSession, Verified},
        tokens::{
            header::{Spelling, basic, is_of_jwt, spelling},
            jwt::{Claims, ISSUER},
        },
    },
    authz::roles::assignments::still_admin,
    directory::organization::organization_of,
    rows::{DEFAULT_APP, RoleLinkRow, SESSIONS, SessionRow},
};

/// Sessions that name no device share this one. Signing out elsewhere does not end it, changing the password does.
pub const UNKNOWN_DEVICE: &str = "unknown";
pub const MAX_DEVICE_BYTES: usize = 128;
/// Room for roles in a token, so that it stays under 4 KiB.
const MAX_ROLES_BYTES: usize = 2200;
/// How far the stored last use may lag behind, in seconds, and as a part of the time after which a session ends unused:
/// after a restart the stored one counts.
const USE_NOTED_AFTER: i64 = 3600;
const USE_NOTED_PART: i64 = 4;
/// A delegated token is made anew when it has less than this part of its life left.
const DELEGATED_REST: i64 = 5;

impl Users {
    /// The claims of a token that we signed; `None` for any other text.
    fn verified(&self, token: &str) -> Option<(Digest, Arc<Verified>)> {
        let digest = digest(&[token.as_bytes()]);
        if let Some(known) = self.memory.token(&digest) {
            return Some((digest, known));
        }
        let claims = self.keys.load().verify(token)?;
        let audience = claims.aud.as_deref().map(Arc::from);
        let verified = Arc::new(Verified { claims, audience });
        self.memory.keep_token(digest, verified.clone());
        Some((digest, verified))
    }

    /// The session behind a verified token, if the token still counts.
    async fn live_session(&self, verified: &Verified) -> Result<Arc<LiveSession>> {
        let now = self.now().0.as_second();
        if verified.audience.is_some() && verified.claims.exp <= now {
            return Err(Error::new(&access::DELEGATION_ENDED, "the delegated token has ended; make the call again"));
        }
        let session = self.use_session(&verified.claims.sid).await?;
        match *session.user_id == *verified.claims.oui {
            true => Ok(session),
            false => Err(ended()),
        }
    }

    /// The session if it has not ended; this counts as a use of it.
    async fn use_session(&self, id: &str) -> Result<Arc<LiveSession>> {
        let now = self.now().0.as_second();
        let session = self.memory.session(id, || self.read_session(id)).await?.ok_or_else(ended)?;
        if self.is_idle(&session, now) && !self.has_live_instance(&session.user_id) {
            return Err(ended());
        }
        if self.is_too_old(session.created_at, now) {
            return Err(ended());
        }
        if let Some(from) = &session.exchanged_from {
            let from = self.memory.session(from, || self.read_session(from)).await?.ok_or_else(ended)?;
            // The two are used together, so that neither falls asleep alone.
            from.used_at.store(now, Ordering::Relaxed);
        }
        session.used_at.store(now, Ordering::Relaxed);
        Ok(session)
    }

    fn is_idle(&self, session: &LiveSession, now: i64) -> bool {
        self.is_unused(session.used_at.load(Ordering::Relaxed), now)
    }

    /// Whether a session that was used last at this time has ended by that.
    fn is_unused(&self, used_at: i64, now: i64) -> bool {
        let most = self.settings.session_idle_timeout;
        now - used_at > most.as_secs() as i64 && self.platform.ages.may_end(most)
    }

    /// A session in an app is worth nothing once its account is no longer in there.
    fn refuse_outsider(&self, account: &Account, session: &LiveSession) -> Result<()> {
        if account.is_in(&session.app) {
            return Ok(());
        }
        Err(Error::new(&access::NOT_IN_APP, format!("`{}` is not in the app of this token any more", account.slug)))
    }

    async fn read_session(&self, id: &str) -> Result<Option<LiveSession>> {
        let Some(Stored { value: row, .. }) = self.sessions.get(id).await? else { return Ok(None) };
        let used_at = row.used_at.0.as_second();
        Ok(Some(LiveSession {
            seen: self.memory.see_sessions(&row.user_id),
            id: row.id.into(),
            user_id: row.user_id.into(),
            app: row.app.into(),
            exchanged_from: row.exchanged_from.map(Into::into),
            created_at: row.created_at.0.as_second(),
            used_at: used_at.into(),
            noted_at: used_at.into(),
        }))
    }

    /// Whether a stored session was not used for so long that it ended, or lived as long as it may.
    pub(in crate::user) fn is_over(&self, row: &SessionRow) -> bool {
        let now = self.now().0.as_second();
        if self.is_too_old(row.created_at.0.as_second(), now) {
            return true;
        }
        self.is_unused(self.last_use(row).0.as_second(), now) && !self.has_live_instance(&row.user_id)
    }

    /// Whether a session lived as long as it may, however much it is used.
    pub(in crate::user) fn is_too_old(&self, created_at: i64, now: i64) -> bool {
        self.settings.session_max_lifetime.is_some_and(|most| now - created_at > most.as_secs() as i64)
    }

    /// When a stored session was used last, as far as it is known.
    pub(in crate::user) fn last_use(&self, row: &SessionRow) -> Time {
        let live = self.memory.known_session(&row.id).map(|live| live.used_at.load(Ordering::Relaxed));
        let live = live.and_then(|second| Timestamp::from_second(second).ok());
        Time(live.map_or(row.used_at.0, |live| live.max(row.used_at.0)))
    }

    fn has_live_instance(&self, user_id: &str) -> bool {
        self.hooks.presence.iter().any(|services| services.has_live_instance(user_id))
    }

    /// The account with its roles, from memory or the store.
    pub(in crate::user) async fn account(&self, user_id: &str) -> Result<Option<Arc<Account>>> {
        self.memory.account(user_id, || self.read_account(user_id)).await
    }

    async fn read_account(&self, user_id: &str) -> Result<Option<Account>> {
        // Looked at first: a role that was cleared away since is in neither.
        let rules = self.memory.rules();
        let Some(Stored { value: user, .. }) = self.users.get(user_id).await? else { return Ok(None) };
        let links = self.role_links.find(&Query::all().equals("userId", user_id)).await?;
        let counts = |link: &RoleLinkRow| !rules.going.contains(link.role_id.as_str());
        let links: Vec<RoleLinkRow> = links.into_iter().map(|link| link.value).filter(counts).collect();
        Ok(Some(Account::new(&user, &links)))
    }

    /// Ends all sessions of an account but `keep`, in one batch with `and`: also those that begin while this is asked.
    pub(in crate::user) async fn end_sessions(
        &self,
        user_id: &str,
        keep: Option<Stored<SessionRow>>,
        and: Batch,
    ) -> Result<()> {
        let kept_id = keep.as_ref().map(|keep| keep.value.id.clone());
        let mut batch = and;
        if let Some(Stored { id, version, .. }) = &keep {
            batch = batch.require(Guard::Version { collection: SESSIONS.name, id: id.clone(), version: *version });
        }
        let of_account = vec![Filter::equals("userId", user_id)];
        batch = batch.with(Write::DeleteWhere { collection: SESSIONS.name, filters: of_account });
        if let Some(keep) = &keep {
            batch = batch.with(self.sessions.create(&keep.id, &keep.value)?);
        }
        self.commit(batch, |memory| memory.sessions_of_account_ended(user_id, kept_id.as_deref())).await?;
        Ok(())
    }

    /// Ends these sessions of an account in one batch, and those that were exchanged from them.
    pub(in crate::user) async fn end_these(&self, user_id: &str, ended: &[String]) -> Result<()> {
        // By filter: some may end meanwhile.
        let batch = Batch::new().with(these(user_id, ended.to_vec())).with(exchanged_from_any(user_id, ended.to_vec()));
        self.commit(batch, |memory| memory.sessions_ended(ended)).await?;
        Ok(())
    }

    async fn mint(&self, verified: &Verified, digest: Digest, audience: &str) -> Result<Passage> {
        let rights = self.memory.rights();
        let session = self.live_session(verified).await?;
        if let Some(made_for) = verified.audience.as_deref() {
            if self.may_be_handed_to(made_for, audience) {
                let credential = Credential::Delegated {
                    session_id: session.id.clone(),
                    made_for: made_for.into(),
                    to: audience.into(),
                    expires_at: verified.claims.exp,
                };
                return Ok(Passage::Delegated { credential, caller: verified.claims.olu.as_str().into() });
            }
            return Err(Error::new(
                &access::OTHER_SERVICE,
                format!("a token that was made for the service `{made_for}` does not open `{audience}`"),
            ));
        }
        let gone = || Error::new(&access::ACCOUNT_GONE, "the account of this token is gone");
        let account = self.account(&session.user_id).await?.ok_or_else(gone)?;
        self.refuse_outsider(&account, &session)?;
        let now = self.now().0.as_second();
        let lifetime = self.settings.delegated_token_lifetime.as_secs() as i64;
        // Services know nothing of the session: what they are given ends with it, where its end is known.
        let left = |most: Duration| (session.created_at.saturating_add(most.as_secs() as i64) - now).max(1);
        let lifetime = self.settings.session_max_lifetime.map_or(lifetime, |most| lifetime.min(left(most)));
        let claims = Claims {
            oui: account.id.to_string(),
            olu: account.slug.to_string(),
            ori: told(account.roles_in(&session.app).iter().map(AsRef::as_ref), &account.trusted, Some(audience)),
            iss: ISSUER.into(),
            iat: now,
            exp: now + lifetime,
            jti: self.platform.ids.random("tok"),
            sid: session.id.to_string(),
            aud: Some(audience.to_owned()),
            app: told_app(&session.app),
        };
        let token = self.signing.sign(self.keys.load().current.clone(), claims).await?;
        let mut header = HeaderValue::try_from(format!("Bearer {token}")).map_err(Error::internal)?;
        header.set_sensitive(true);
        let fresh_until = now + lifetime - lifetime / DELEGATED_REST;
        let passage = Passage::Replace {
            authorization: header.clone(),
            session_id: session.id.clone(),
            caller: account.slug.clone(),
        };
        self.memory.keep_delegated(digest, Delegated { header, session, account, rights, fresh_until });
        Ok(passage)
    }
}

impl Users {
    /// Whether a delegated token that was made for one service may be sent to another.
    fn may_be_handed_to(&self, made_for: &str, to: &str) -> bool {
        made_for == to || self.memory.check_rules().hands_on(made_for, to)
    }

    async fn has_ended(&self, credential: &Credential) -> bool {
        // What began while the token was good has as long again: an upload is not cut a moment after it began.
        let lifetime = self.settings.delegated_token_lifetime.as_secs() as i64;
        if let Credential::Delegated { made_for, to, expires_at, .. } = credential
            && (*expires_at + lifetime <= self.now().0.as_second() || !self.may_be_handed_to(made_for, to))
        {
            return true;
        }
        match (self.caller_in(credential.session_id(), None).await, credential) {
            (Ok(caller), Credential::Permission { permission, .. }) => !self.allows(&caller, permission),
            (Ok(_), _) => false,
            (Err(error), _) => error.code.status == 401,
        }
    }

    /// The account behind a session, which this is a use of.
    async fn caller_in(&self, session_id: &str, audience: Option<Arc<str>>) -> Result<Caller> {
        self.caller_of(&*self.use_session(session_id).await?, audience).await
    }

    async fn caller_of(&self, session: &LiveSession, audience: Option<Arc<str>>) -> Result<Caller> {
        let gone = || Error::new(&access::ACCOUNT_GONE, "the account of this token is gone");
        let account = self.account(&session.user_id).await?.ok_or_else(gone)?;
        self.refuse_outsider(&account, session)?;
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

impl Identity for Users {
    fn authenticate<'a>(&'a self, token: &'a str) -> BoxFuture<'a, Result<Caller>> {
        Box::pin(async move {
            let unknown = || {
                Error::new(&access::INVALID_TOKEN, "Unauthorized: this is not a token of this daemon; sign in for one")
            };
            let (_, verified) = self.verified(token).ok_or_else(unknown)?;
            let session = self.live_session(&verified).await?;
            self.caller_of(&session, verified.audience.clone()).await
        })
    }

    fn allows(&self, caller: &Caller, permission: &str) -> bool {
        self.memory.check_rules().allow(caller, permission)
    }

    fn standing(&self, caller: &Caller) -> Vec<Guard> {
        let session = Guard::Exists { collection: SESSIONS.name, id: caller.session_id.to_string() };
        let is_of_session = !caller.session_id.is_empty();
        is_of_session.then_some(session).into_iter().chain(still_admin(caller)).collect()
    }

    fn basis(&self, caller: &Caller, permission: &str) -> Vec<Guard> {
        self.memory.check_rules().basis(caller, permission)
    }

    fn opens(&self, audience: &str, operation: &str) -> bool {
        self.memory.check_rules().opens(audience, operation)
    }

    fn passage_cached(&self, authorization: &HeaderValue, audience: &str) -> Option<Result<Passage>> {
        let token = match spelling(authorization) {
            Spelling::Foreign => return Some(Ok(Passage::Untouched)),
            Spelling::Odd => return None,
            Spelling::Usual(token) => token,
        };
        let now = self.platform.clock.now().as_second();
        let known = self.memory.delegated(&digest(&[token, audience.as_bytes()]), now)?;
        if self.is_idle(&known.session, now) {
            return None;
        }
        known.session.used_at.store(now, Ordering::Relaxed);
        let Delegated { header, session, account, .. } = known;
        Some(Ok(Passage::Replace {
            authorization: header,
            session_id: session.id.clone(),
            caller: account.slug.clone(),
        }))
    }

    fn passage<'a>(&'a self, authorization: &'a HeaderValue, audience: &'a str) -> BoxFuture<'a, Result<Passage>> {
        Box::pin(async move {
            match spelling(authorization) {
                Spelling::Foreign => Ok(Passage::Untouched),
                // A service must not find a token of ours in whatever else the value says.
                Spelling::Odd => match self.claims_to_be_ours(authorization.as_bytes()) {
                    true => Err(Error::new(
                        &access::MALFORMED_TOKEN,
                        "send the token as `Authorization: Bearer …`, in no other scheme and with nothing beside it",
                    )),
                    false => Ok(Passage::Untouched),
                },
                Spelling::Usual(token) => match std::str::from_utf8(token).ok().and_then(|text| self.verified(text)) {
                    // A token of ours with something behind it, which a service might cut off.
                    None if self.claims_to_be_ours(token) => Err(Error::new(
                        &access::INVALID_TOKEN,
                        "Unauthorized: this token names a key of this daemon, which did not sign it; sign in for one",
                    )),
                    None => Ok(Passage::Untouched),
                    Some((_, verified)) => {
                        let key = digest(&[token, audience.as_bytes()]);
                        if verified.audience.is_some() {
                            // It is passed on or refused: nothing is signed.
                            return self.mint(&verified, key, audience).await;
                        }
                        let session = verified.claims.sid.as_bytes();
                        let _alone = self.signing.alone(digest(&[session, audience.as_bytes()])).await;
                        match self.passage_cached(authorization, audience) {
                            Some(made) => made,
                            None => self.mint(&verified, key, audience).await,
                        }
                    }
                },
            }
        })
    }

    fn claims_to_be_ours(&self, authorization: &[u8]) -> bool {
        if let Some(decoded) = basic(authorization) {
            return self.claims_to_be_ours(&decoded);
        }
        let keys = self.keys.load();
        let mut starts = 0;
        authorization.split(|byte| !is_of_jwt(*byte)).any(|word| {
            // A JWT may follow on other letters of its alphabet, as in `token.eyJ…`.
            word.windows(3).enumerate().filter(|(_, bytes)| bytes == b"eyJ").any(|(at, _)| {
                starts += 1;
                let header = word[at..].split(|byte| *byte == b'.').next().unwrap_or_default();
                starts > MAX_JWT_STARTS || (header.len() <= MAX_JWT_HEADER && keys.is_named_by(header))
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

/// Places in an `Authorization` value at which a JWT may begin; one with more is taken for ours, and so refused.
const MAX_JWT_STARTS: usize = 32;
/// Bytes of a JWT's header that are looked at; ours have about 60.
const MAX_JWT_HEADER: usize = 512;

fn ended() -> Error {
    Error::new(&access::SESSION_ENDED, "the session of this token has ended; sign in again")
}

/// The roles that a token names: a token is sent with each request, so one with very many roles names those that fit. The
/// built-in ones first, those of the service that it is for, and those that an admin gave; of the rest, which anybody may
/// have given, one of each slug and of each organization in turn, the short ones first: nobody crowds out what others gave.
/// The daemon looks roles up by session; a service can ask it.
pub(in crate::user) fn told<'a>(
    roles: impl Iterator<Item = &'a str>,
    trusted: &[Box<str>],
    audience: Option<&str>,
) -> Vec<String> {
    let mut roles: Vec<&str> = roles.collect();
    roles.sort_by_key(|role| (role.len(), *role));
    let is_trusted = |role: &str| trusted.binary_search_by(|known| (**known).cmp(role)).is_ok();
    let mut turns: HashMap<&str, usize> = HashMap::new();
    let mut ranked: Vec<((usize, usize), &str)> = Vec::new();
    for role in roles {
        let giver = organization_of(role).or(role.split_once(':').map(|(slug, _)| slug)).unwrap_or(role);
        let rank = match role {
            _ if [openorch_api::role::ADMIN, openorch_api::role::USER].contains(&role) => (0, 0),
            _ if audience == Some(giver) => (1, 0),
            _ if is_trusted(role) => (2, 0),
            _ => {
                let turn = turns.entry(giver).or_default();
                *turn += 1;
                (3, *turn)
            }
        };
        ranked.push((rank, role));
    }
    ranked.sort_by_key(|(rank, _)| *rank);
    let mut room = MAX_ROLES_BYTES;
    let fits = |role: &&str| {
        let fits = role.len() + 3 <= room;
        room -= if fits { role.len() + 3 } else { 0 };
        fits
    };
    let mut told: Vec<String> = ranked.into_iter().map(|(_, role)| role).filter(fits).map(str::to_owned).collect();
    told.sort();
    told
}

/// Ends these sessions of an account, as far as they are there still.
pub(in crate::user) fn these(user_id: &str, ids: Vec<String>) -> Write {
    let filters = vec![Filter::equals("userId", user_id), Filter::is_in("id", ids)];
    Write::DeleteWhere { collection: SESSIONS.name, filters }
}

/// Ends the sessions that were exchanged from these.
pub(in crate::user) fn exchanged_from_any(user_id: &str, ids: Vec<String>) -> Write {
    let filters = vec![Filter::equals("userId", user_id), Filter::is_in("exchangedFrom", ids)];
    Write::DeleteWhere { collection: SESSIONS.name, filters }
}

/// The app as a token tells it: programs that know no apps never see one.
pub(in crate::user) fn told_app(app: &str) -> Option<String> {
    (app != DEFAULT_APP).then(|| app.to_owned())
}

/// The name of a device, if it is one; sessions that name none share [`UNKNOWN_DEVICE`].
pub(in crate::user) fn checked_device(device: Option<&str>) -> Result<&str> {
    let device = device.filter(|device| !device.is_empty()).unwrap_or(UNKNOWN_DEVICE);
    openorch_api::input::check_name("device", device, MAX_DEVICE_BYTES).map_err(|e| Error::invalid(e.0))?;
    Ok(device)
}

/// Writes down when sessions were used, for those whose stored time lags an hour, or a good part of what is left to them.
pub async fn note_uses(users: Arc<Users>) {
    let part = users.settings.session_idle_timeout.as_secs() as i64 / USE_NOTED_PART;
    // All sessions in memory are looked at.
    let walking = users.clone();
    let unnoted = tokio::task::spawn_blocking(move || walking.memory.unnoted_uses(part.clamp(1, USE_NOTED_AFTER)));
    for session in unnoted.await.unwrap_or_default() {
        let used = session.used_at.load(Ordering::Relaxed);
        let noted = async {
            let Some(Stored { version, value: mut row, .. }) = users.sessions.get(&session.id).await? else {
                // It has ended: there is nothing to be noted, now or in a minute.
                session.noted_at.store(used, Ordering::Relaxed);
                return Ok(());
            };
            row.used_at = Time(Timestamp::from_second(used).unwrap_or(row.used_at.0));
            users
                .platform
                .store
                .commit(Batch::new().with(users.sessions.replace(&row.id, &row, Some(version))?))
                .await?;
            session.noted_at.store(used, Ordering::Relaxed);
            Ok::<(), Error>(())
        };
        if let Err(error) = noted.await {
            tracing::warn!("the last use of a session could not be stored: {error:?}");
        }
    }
}

fn digest(parts: &[&[u8]]) -> Digest {
    let mut context = Context::new(&SHA256);
    for part in parts {
        context.update(part);
        context.update(&[0]);
    }
    let mut digest = [0; 32];
    digest.copy_from_slice(context.finish().as_ref());
    digest
}
