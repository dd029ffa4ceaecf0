//! The seam between who checks identity (the user service) and who needs it checked (router, gateway):
//! verify a token, decide a permission, mint a delegated token.

use std::sync::Arc;

use http::HeaderValue;
use openorch_store::Guard;

use crate::{BoxFuture, Result};

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
    /// The tenant (decision "Apps").
    pub app: Arc<str>,
    /// For a delegated token (decision "Delegated tokens") the slug of the service it was minted for.
    pub audience: Option<Arc<str>>,
}

impl Caller {
    pub fn is_admin(&self) -> bool {
        self.roles.iter().any(|role| **role == *openorch_api::role::ADMIN)
    }
}

/// What the gateway does with the `Authorization` header of a proxied request (decision "Delegated tokens"). `caller` is
/// the slug of the account whose token it is.
#[derive(Clone, Debug)]
pub enum Passage {
    /// Not a token of ours: sent on as it came.
    Untouched,
    /// A delegated token that the service may have: sent on as it came.
    Delegated { credential: Credential, caller: Arc<str> },
    /// A session's token: replaced by a delegated one for this service.
    Replace { authorization: HeaderValue, session_id: Arc<str>, caller: Arc<str> },
}

/// What a request rests on while it is in progress; it ends when that does.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Credential {
    /// The token of this session.
    Session(Arc<str>),
    /// The same, of a call of a built-in operation that needs this permission.
    Permission { session_id: Arc<str>, permission: &'static str },
    /// A delegated token, which a service hands on.
    Delegated {
        session_id: Arc<str>,
        /// The slug of the service that the token was made for.
        made_for: Arc<str>,
        /// The slug of the service that the request goes to.
        to: Arc<str>,
        /// In seconds since 1970.
        expires_at: i64,
    },
}

impl Credential {
    pub fn session_id(&self) -> &Arc<str> {
        match self {
            Credential::Session(session_id)
            | Credential::Permission { session_id, .. }
            | Credential::Delegated { session_id, .. } => session_id,
        }
    }
}

pub trait Identity: Send + Sync + 'static {
    /// The account behind `token` (without `Bearer `), for a built-in operation. Refuses with `Unauthenticated`
    /// what is garbage, foreign, ended or past its `exp` where that counts, and with `Unavailable` when it cannot know.
    fn authenticate<'a>(&'a self, token: &'a str) -> BoxFuture<'a, Result<Caller>>;

    /// Whether the caller has `permission` by role or grant. A look-up in memory.
    fn allows(&self, caller: &Caller, permission: &str) -> bool;

    /// What must hold, beside that its account is there, when a call of this caller writes: what let it in may be taken
    /// back while the call is in progress. Nothing where sessions are not stored.
    fn standing(&self, _caller: &Caller) -> Vec<Guard> {
        Vec::new()
    }

    /// What must hold in the store so that the caller has `permission`: the rows that give it. Empty where it has it not, and
    /// where rights are not stored.
    fn basis(&self, _caller: &Caller, _permission: &str) -> Vec<Guard> {
        Vec::new()
    }

    /// Whether an admin let the service `audience` call this operation for its callers.
    fn opens(&self, audience: &str, operation: &str) -> bool;

    /// What to send on to the service `audience` in place of an `Authorization` value, answered from memory where
    /// possible: `None` means ask [`Identity::passage`]. Called for every proxied request that has the header.
    fn passage_cached(&self, authorization: &HeaderValue, audience: &str) -> Option<Result<Passage>>;

    /// The same with everything that may take time: reading the session, signing.
    /// `Unauthenticated` (401) for a token of ours that is revoked or ended, `Forbidden` (403) for a delegated one
    /// made for another service.
    fn passage<'a>(&'a self, authorization: &'a HeaderValue, audience: &'a str) -> BoxFuture<'a, Result<Passage>>;

    /// Whether an `Authorization` value, or any part of it, says that a key of ours signed it. Does not verify that, so that
    /// values that are not in the usual spelling, which anybody may send in any number, are cheap to refuse.
    fn claims_to_be_ours(&self, authorization: &[u8]) -> bool;

    /// Which of these credentials count no more. Asked again and again for requests that are in progress for long: those
    /// are a use of their session. One whose session cannot be read at the moment is not among them.
    fn ended_credentials<'a>(&'a self, credentials: &'a [Credential]) -> BoxFuture<'a, Vec<Credential>>;
}

/// Says whether an instance of an account is up. The sessions of such an account are never idle (decision "Sessions are
/// the authority").
pub trait InstancePresence: Send + Sync + 'static {
    fn has_live_instance(&self, user_id: &str) -> bool;
}

/// What a service does when an account is deleted.
pub trait AccountDeletionHook: Send + Sync + 'static {
    /// The writes that delete the account's documents; they are in one batch with its deletion.
    fn cascade<'a>(&'a self, user_id: &'a str) -> BoxFuture<'a, Result<Vec<openorch_store::Write>>>;

    /// That batch was committed: the account and its documents are gone.
    fn deleted(&self, user_id: &str);
}

/// What a service keeps for an app, which goes with it.
pub trait AppDeletionHook: Send + Sync + 'static {
    /// Collections whose documents have the id of an app in the indexed field `app`, each with the plural noun by which a
    /// sentence calls what is in it.
    fn belongings(&self) -> &'static [(&'static str, &'static str)];

    /// An app and its documents were deleted, or the outcome of the deletion is unknown.
    fn app_deleted(&self);
}
