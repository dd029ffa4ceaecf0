//! The traits by which the router and the gateway use the user service: verify a token, check a permission, mint a delegated
//! token.

use std::sync::Arc;

use http::HeaderValue;
use openorch_store::Guard;

use crate::{BoxFuture, Result};

/// The authenticated account of a request.
#[derive(Clone, Debug)]
pub struct Caller {
    /// The id of the account.
    pub user_id: Arc<str>,
    /// The slug of the account.
    pub slug: Arc<str>,
    /// The session of the token; empty for a call that the daemon makes itself.
    pub session_id: Arc<str>,
    /// The ids of the account's current roles, not those in the token's claims.
    pub roles: Arc<[Box<str>]>,
    /// Its roles in the default app, which decide about platform-scoped permissions.
    pub default_app_roles: Arc<[Box<str>]>,
    /// The tenant (decision "Apps").
    pub app: Arc<str>,
    /// For a delegated token (decision "Delegated tokens"): the slug of the service it was minted for.
    pub audience: Option<Arc<str>>,
}

impl Caller {
    /// Whether the account is an admin.
    pub fn is_admin(&self) -> bool {
        self.roles.iter().any(|role| **role == *openorch_api::role::ADMIN)
    }
}

/// What the gateway does with the `Authorization` header of a proxied request (decision "Delegated tokens"). `caller`
/// is the slug of the token's account.
#[derive(Clone, Debug)]
pub enum ForwardedAuth {
    /// Not issued by this daemon: forwarded unchanged.
    Untouched,
    /// A delegated token that may be sent to this service: forwarded unchanged.
    Delegated {
        /// The delegated token.
        credential: Credential,
        /// The slug of the token's account.
        caller: Arc<str>,
    },
    /// A session token: replaced by a delegated token for this service.
    Replace {
        /// The value of `Authorization` with the delegated token.
        authorization: HeaderValue,
        /// The session of the replaced token.
        session_id: Arc<str>,
        /// The slug of the token's account.
        caller: Arc<str>,
    },
}

/// The credential of a request in progress. The request ends when its credential does.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Credential {
    /// The token of this session.
    Session(Arc<str>),
    /// A session token used for a built-in operation that needs this permission.
    Permission {
        /// The session of the token.
        session_id: Arc<str>,
        /// The id of the permission.
        permission: &'static str,
    },
    /// A delegated token that a service forwards.
    Delegated {
        /// The session that the token was derived from.
        session_id: Arc<str>,
        /// The slug of the service that the token was minted for.
        audience: Arc<str>,
        /// The slug of the service that the request goes to.
        service: Arc<str>,
        /// In seconds since 1970.
        expires_at: i64,
    },
}

impl Credential {
    /// The session that the credential belongs to.
    pub fn session_id(&self) -> &Arc<str> {
        match self {
            Credential::Session(session_id)
            | Credential::Permission { session_id, .. }
            | Credential::Delegated { session_id, .. } => session_id,
        }
    }
}

/// Authenticates and authorizes callers. Implemented by the user service.
pub trait Identity: Send + Sync + 'static {
    /// The account of `token` (without `Bearer `), for a built-in operation. Fails with `Unauthenticated` for a token that
    /// is malformed, from another issuer, revoked, or past its `exp` where that is enforced; with `Unavailable` where the
    /// session cannot be read.
    fn authenticate<'a>(&'a self, token: &'a str) -> BoxFuture<'a, Result<Caller>>;

    /// Whether the caller has `permission` by role or grant. An in-memory lookup.
    fn allows(&self, caller: &Caller, permission: &str) -> bool;

    /// Preconditions of every write of this caller's call, besides the existence of its account: its session may be revoked
    /// while the call is in progress. Empty where sessions are not stored.
    fn session_guards(&self, _caller: &Caller) -> Vec<Guard> {
        Vec::new()
    }

    /// Guards on the stored rows that give the caller `permission`. Empty if it does not have the permission, and where
    /// permissions are not stored.
    fn permission_guards(&self, _caller: &Caller, _permission: &str) -> Vec<Guard> {
        Vec::new()
    }

    /// Whether a delegation allows the service `audience` to call this operation on behalf of its callers.
    fn delegation_allows(&self, audience: &str, operation: &str) -> bool;

    /// What to send to the service `audience` in place of an `Authorization` value, from memory. `None` means that
    /// [`Identity::delegate`] must be called. Called for every proxied request that has the header.
    fn delegate_cached(&self, authorization: &HeaderValue, audience: &str) -> Option<Result<ForwardedAuth>>;

    /// Like [`Identity::delegate_cached`], but reads the session and signs where needed. Fails with `Unauthenticated` (401)
    /// for a revoked or expired token of this daemon, and with `Forbidden` (403) for a delegated token of another service.
    fn delegate<'a>(
        &'a self,
        authorization: &'a HeaderValue,
        audience: &'a str,
    ) -> BoxFuture<'a, Result<ForwardedAuth>>;

    /// Whether an `Authorization` value, or any part of it, names one of our signing keys. Does not verify the signature, so
    /// that a flood of unusually spelled values is cheap to reject.
    fn names_our_key(&self, authorization: &[u8]) -> bool;

    /// Which of these credentials are no longer valid. Polled for long-running requests, which count as a use of their
    /// session. A credential whose session cannot be read at the moment is not included.
    fn ended_credentials<'a>(&'a self, credentials: &'a [Credential]) -> BoxFuture<'a, Vec<Credential>>;
}

/// Whether an account has a running instance. The sessions of such an account never become idle (decision "Sessions are
/// the authority").
pub trait InstancePresence: Send + Sync + 'static {
    /// Whether the account has an instance that is running.
    fn has_live_instance(&self, user_id: &str) -> bool;
}

/// Deletes a service's documents of an account together with the account.
pub trait AccountDeletionHook: Send + Sync + 'static {
    /// The writes that delete the account's documents, committed in the batch that deletes the account.
    fn cascade<'a>(&'a self, user_id: &'a str) -> BoxFuture<'a, Result<Vec<openorch_store::Write>>>;

    /// Called after that batch was committed.
    fn deleted(&self, user_id: &str);
}

/// Deletes a service's documents of an app together with the app.
pub trait AppDeletionHook: Send + Sync + 'static {
    /// Collections whose documents have an app's id in the indexed field `app`, each with the plural noun for its documents
    /// in error messages.
    fn collections(&self) -> &'static [(&'static str, &'static str)];

    /// Called when an app and its documents were deleted, or the outcome of the deletion is unknown.
    fn app_deleted(&self);
}
