//! Sessions (decision "Sessions are the authority", decision "Delegated tokens"). The session is authoritative; its
//! token only refers to it. Each request counts as a use, all sessions of an account can be ended together, and an
//! exchanged session ends with its origin.

use std::{
    net::IpAddr,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use jiff::Timestamp;
use openorch_api::{Time, error::access};
use openorch_chassis::{
    Error, Platform, Result,
    audit::CallAudit,
    fair_semaphore::{FairPermit, FairSemaphore, Requester},
    identity::InstancePresence,
};
use openorch_store::{Batch, Filter, Guard, Stored, Table, Write};

use crate::user::{
    authn::{
        rows::{SESSIONS, SessionRow},
        sessions::cache::{LiveSession, SessionCache},
        tokens::keys::Verified,
    },
    shared::{commits::Commits, settings::UserSettings},
};

/// Sessions without a device share this one. Signing out everywhere does not end it, but a password change does.
pub const UNKNOWN_DEVICE: &str = "unknown";
/// Tolerated clock skew of delegated tokens, in seconds.
const CLOCK_LEEWAY: i64 = 60;
pub const MAX_DEVICE_BYTES: usize = 128;
/// The maximum lag of the stored last use, in seconds and as a fraction of the idle timeout: after a restart the stored
/// time counts.
const MAX_LAST_USE_LAG: i64 = 3600;
const LAST_USE_LAG_FRACTION: i64 = 4;

pub struct Sessions {
    pub platform: Platform,
    pub commits: Arc<Commits>,
    pub rows: Table<SessionRow>,
    pub cache: SessionCache,
    /// Services that know whether an account has a live instance, in which case its sessions do not expire when idle.
    presence: Vec<Arc<dyn InstancePresence>>,
    idle_timeout: Duration,
    pub max_lifetime: Option<Duration>,
    pub max_per_account: u64,
    /// Fair scheduling of session changes by network, then by account, so that accounts that constantly change their
    /// sessions cannot block the sign-ins of others.
    turns: FairSemaphore<Requester>,
}

/// Maximum number of concurrent changes of sessions.
const CHANGE_CONCURRENCY: usize = 4;

impl Sessions {
    pub fn new(
        platform: &Platform,
        commits: Arc<Commits>,
        presence: Vec<Arc<dyn InstancePresence>>,
        settings: &UserSettings,
    ) -> Sessions {
        Sessions {
            commits,
            rows: platform.table(&SESSIONS),
            cache: SessionCache::new(settings.max_cache_entries),
            presence,
            idle_timeout: settings.session_idle_timeout,
            max_lifetime: settings.session_max_lifetime,
            max_per_account: settings.max_sessions_per_account,
            turns: FairSemaphore::new(CHANGE_CONCURRENCY),
            platform: platform.clone(),
        }
    }

    /// Waits for a permit to change the sessions of an account.
    pub async fn acquire_permit(&self, client: IpAddr, account: &Arc<str>) -> FairPermit<Requester> {
        self.turns.acquire_nested(|| Requester::path(client, Some(account))).await
    }

    pub fn now(&self) -> Time {
        self.platform.now()
    }

    /// The session of a verified token, if the token is still valid.
    pub async fn live_session(&self, verified: &Verified) -> Result<Arc<LiveSession>> {
        let now = self.now().0.as_second();
        // A token issued while the clock was ahead would stay valid until the clock catches up.
        let is_in_validity_period = verified.claims.iat <= now + CLOCK_LEEWAY && now < verified.claims.exp;
        if verified.audience.is_some() && !is_in_validity_period {
            return Err(Error::new(&access::DELEGATION_ENDED, "the delegated token has expired; repeat the call"));
        }
        let session = self.use_session(&verified.claims.sid).await?;
        match *session.user_id == *verified.claims.oui {
            true => Ok(session),
            false => Err(ended()),
        }
    }

    /// The session if it has not ended. Counts as a use.
    pub async fn use_session(&self, id: &str) -> Result<Arc<LiveSession>> {
        let now = self.now().0.as_second();
        let session = self.cache.session(id, || self.read_session(id)).await?.ok_or_else(ended)?;
        if self.is_idle(&session, now) && !self.has_live_instance(&session.user_id) {
            return Err(ended());
        }
        if self.exceeds_max_lifetime(session.created_at, now) {
            return Err(ended());
        }
        if let Some(from) = &session.exchanged_from {
            let from = self.cache.session(from, || self.read_session(from)).await?.ok_or_else(ended)?;
            // A use of an exchanged session counts as a use of its origin, so that neither expires before the other.
            from.used_at.store(now, Ordering::Relaxed);
        }
        session.used_at.store(now, Ordering::Relaxed);
        Ok(session)
    }

    pub fn is_idle(&self, session: &LiveSession, now: i64) -> bool {
        self.exceeds_idle_timeout(session.used_at.load(Ordering::Relaxed), now)
    }

    /// Whether a session with this last use has exceeded the idle timeout.
    fn exceeds_idle_timeout(&self, used_at: i64, now: i64) -> bool {
        let timeout = self.idle_timeout;
        now - used_at > timeout.as_secs() as i64 && self.platform.expiry.may_expire(timeout)
    }

    async fn read_session(&self, id: &str) -> Result<Option<LiveSession>> {
        let Some(Stored { value: row, .. }) = self.rows.get(id).await? else { return Ok(None) };
        let used_at = row.used_at.0.as_second();
        Ok(Some(LiveSession {
            seen: self.cache.session_version(&row.user_id),
            id: row.id.into(),
            user_id: row.user_id.into(),
            app: row.app.into(),
            exchanged_from: row.exchanged_from.map(Into::into),
            created_at: row.created_at.0.as_second(),
            used_at: used_at.into(),
            stored_used_at: used_at.into(),
        }))
    }

    /// Whether a stored session has ended, by idle timeout or maximum lifetime.
    pub fn has_ended(&self, row: &SessionRow) -> bool {
        let now = self.now().0.as_second();
        if self.exceeds_max_lifetime(row.created_at.0.as_second(), now) {
            return true;
        }
        self.exceeds_idle_timeout(self.last_use(row).0.as_second(), now) && !self.has_live_instance(&row.user_id)
    }

    /// Whether a session has exceeded its maximum lifetime.
    pub fn exceeds_max_lifetime(&self, created_at: i64, now: i64) -> bool {
        self.max_lifetime.is_some_and(|most| now - created_at > most.as_secs() as i64)
    }

    /// The last known use of a stored session.
    pub fn last_use(&self, row: &SessionRow) -> Time {
        let live = self.cache.cached_session(&row.id).map(|live| live.used_at.load(Ordering::Relaxed));
        let live = live.and_then(|second| Timestamp::from_second(second).ok());
        Time(live.map_or(row.used_at.0, |live| live.max(row.used_at.0)))
    }

    fn has_live_instance(&self, user_id: &str) -> bool {
        self.presence.iter().any(|services| services.has_live_instance(user_id))
    }

    /// Ends all sessions of an account but `keep`, in one batch with `and`, including sessions created concurrently.
    pub async fn revoke_all_sessions(
        &self,
        call: &CallAudit,
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
            batch = batch.with(self.rows.create(&keep.id, &keep.value)?);
        }
        self.commits.commit(call, batch, || self.cache.evict_account(user_id, kept_id.as_deref())).await?;
        Ok(())
    }

    /// Ends these sessions of an account and those exchanged from them, in one batch.
    pub async fn revoke_sessions(&self, call: &CallAudit, user_id: &str, ended: &[String]) -> Result<()> {
        // By filter, since some may end concurrently.
        let batch =
            Batch::new().with(delete_sessions(user_id, ended.to_vec())).with(delete_exchanged(user_id, ended.to_vec()));
        self.commits.commit(call, batch, || self.cache.evict(ended)).await?;
        Ok(())
    }
}

fn ended() -> Error {
    Error::new(&access::SESSION_ENDED, "the session of this token has ended; sign in again")
}

/// Deletes these sessions of an account, if they still exist.
pub fn delete_sessions(user_id: &str, ids: Vec<String>) -> Write {
    let filters = vec![Filter::equals("userId", user_id), Filter::is_in("id", ids)];
    Write::DeleteWhere { collection: SESSIONS.name, filters }
}

/// Deletes the sessions exchanged from these.
pub fn delete_exchanged(user_id: &str, ids: Vec<String>) -> Write {
    let filters = vec![Filter::equals("userId", user_id), Filter::is_in("exchangedFrom", ids)];
    Write::DeleteWhere { collection: SESSIONS.name, filters }
}

/// The device; sessions without one share [`UNKNOWN_DEVICE`].
pub fn device_of(named: Option<&str>) -> &str {
    named.filter(|device| !device.is_empty()).unwrap_or(UNKNOWN_DEVICE)
}

/// Stores the last use of sessions whose stored time lags by an hour, or by a fraction of the idle timeout.
pub async fn flush_last_used(sessions: Arc<Sessions>) {
    let part = sessions.idle_timeout.as_secs() as i64 / LAST_USE_LAG_FRACTION;
    // Scans the whole cache, so it runs off the async workers.
    let scanned = sessions.clone();
    let unflushed = tokio::task::spawn_blocking(move || scanned.cache.unflushed_uses(part.clamp(1, MAX_LAST_USE_LAG)));
    for session in unflushed.await.unwrap_or_default() {
        let used = session.used_at.load(Ordering::Relaxed);
        let stored = async {
            let Some(Stored { version, value: mut row, .. }) = sessions.rows.get(&session.id).await? else {
                // The session has ended, so there is nothing to store.
                session.stored_used_at.store(used, Ordering::Relaxed);
                return Ok(());
            };
            row.used_at = Time(Timestamp::from_second(used).unwrap_or(row.used_at.0));
            sessions
                .platform
                .store
                .commit(Batch::new().with(sessions.rows.replace(&row.id, &row, Some(version))?))
                .await?;
            session.stored_used_at.store(used, Ordering::Relaxed);
            Ok::<(), Error>(())
        };
        if let Err(error) = stored.await {
            tracing::warn!("cannot store the last use of a session: {error:?}");
        }
    }
}
