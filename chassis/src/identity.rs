//! The seam between who checks identity (the user service) and who needs it checked (router, gateway):
//! verify a token, decide a permission, mint a delegated token.

use std::sync::Arc;

use http::HeaderValue;

use crate::{BoxFuture, Result};

/// The collection of accounts, by id.
pub const ACCOUNTS: &str = "userSvcUsers";

/// An account that was authenticated, as a request carries it.
#[derive(Clone, Debug)]
pub struct Caller {
    pub user_id: Arc<str>,
    pub slug: Arc<str>,
    /// The session behind the token; empty for a call that the daemon makes to itself.
    pub session_id: Arc<str>,
    /// The role ids the account has now (never those of an older token text).
    pub roles: Arc<[Box<str>]>,
    /// Those it has in the default app, which decide about what belongs to no app.
    pub default_app_roles: Arc<[Box<str>]>,
    /// The tenant (contract decision 11).
    pub app: Arc<str>,
    /// For a delegated token (contract decision 9) the slug of the service it was minted for.
    pub audience: Option<Arc<str>>,
}

impl Caller {
    pub fn is_admin(&self) -> bool {
        self.roles.iter().any(|role| &**role == "user-svc:admin")
    }
}

/// What the gateway does with the `Authorization` header of a proxied request (contract decision 9).
#[derive(Clone, Debug)]
pub enum Passage {
    /// Not a token of ours: sent on as it came.
    Untouched,
    /// A delegated token that the service may have: sent on as it came.
    Delegated { session_id: Arc<str> },
    /// A session's token: replaced by a delegated one for this service.
    Replace { authorization: HeaderValue, session_id: Arc<str> },
}

pub trait Identity: Send + Sync + 'static {
    /// The account behind `token` (without `Bearer `), for a built-in operation. Refuses with `Unauthenticated`
    /// what is garbage, foreign, ended or past its `exp` where that counts, and with `Unavailable` when it cannot know.
    fn authenticate<'a>(&'a self, token: &'a str) -> BoxFuture<'a, Result<Caller>>;

    /// Whether the caller has `permission` by role or grant. A look-up in memory.
    fn allows(&self, caller: &Caller, permission: &str) -> bool;

    /// Whether an admin let the service `audience` call this operation for its callers.
    fn opens(&self, audience: &str, operation: &str) -> bool;

    /// What to send on to the service `audience` in place of an `Authorization` value, answered from memory where
    /// possible: `None` means ask [`Identity::passage`]. Called for every proxied request that has the header.
    fn passage_cached(&self, authorization: &HeaderValue, audience: &str) -> Option<Result<Passage>>;

    /// The same with everything that may take time: reading the session, signing.
    /// `Unauthenticated` (401) for a token of ours that is revoked or ended, `Forbidden` (403) for a delegated one
    /// made for another service.
    fn passage<'a>(&'a self, authorization: &'a HeaderValue, audience: &'a str) -> BoxFuture<'a, Result<Passage>>;

    /// Which of these sessions have ended. Asked again and again for requests that are in progress for long: those are a
    /// use of their session. A session that cannot be read at the moment is not among them.
    fn ended_sessions<'a>(&'a self, session_ids: &'a [Arc<str>]) -> BoxFuture<'a, Vec<Arc<str>>>;
}

/// Who knows whether something of an account runs right now. The sessions of such an account are never idle
/// (contract decision 8).
pub trait Liveness: Send + Sync + 'static {
    fn has_live_instance(&self, user_id: &str) -> bool;
}

/// Who keeps things that belong to accounts and go with them.
pub trait Belongings: Send + Sync + 'static {
    /// What to write so that nothing of the account is left; in one batch with its deletion.
    fn removal<'a>(&'a self, user_id: &'a str) -> BoxFuture<'a, Result<Vec<openorch_store::Write>>>;

    /// That was committed: the account and its things are gone.
    fn removed(&self, user_id: &str);
}
