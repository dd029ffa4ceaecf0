//! Accounts of people and services alike: who they are, how they sign in, what they may do. Everything that a request
//! needs for that is held in memory; the store is asked on first use.

mod account;
mod authorize;
mod invitation;
mod keys;
mod memory;
mod passwords;
mod revoke;
mod rows;
mod seed;
mod session;

use std::{
    sync::{Arc, OnceLock, atomic::AtomicBool},
    time::Duration,
};

use openorch_api::{Time, user as api};
use openorch_chassis::{Mounted, Service, identity::Liveness, service::Shared};
use openorch_store::{Collection, Store, Table};

use self::{
    keys::SigningKey,
    memory::Memory,
    passwords::Passwords,
    rows::{InvitationRow, PasswordRow, RoleLinkRow, RoleRow, SessionRow, UserRow},
};
pub use self::{
    passwords::PasswordRules,
    seed::{ADMIN_SLUG, StartError, prepare, reset_admin_password},
};

/// Who may register an account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Registration {
    Open,
    /// With the code of an invitation.
    Invite,
    Closed,
}

#[derive(Clone, Debug)]
pub struct UserSettings {
    pub registration: Registration,
    pub password_rules: PasswordRules,
    /// How long a token's text says that it lives (`exp`).
    pub token_lifetime: Duration,
    /// How long a delegated token lives.
    pub delegated_lifetime: Duration,
    /// A session ends when it was not used for so long.
    pub session_idle: Duration,
    /// Password hashes computed side by side.
    pub hashes_at_once: usize,
    /// Accounts and sessions held in memory, each.
    pub cache_entries: u64,
}

impl Default for UserSettings {
    fn default() -> UserSettings {
        UserSettings {
            registration: Registration::Open,
            password_rules: PasswordRules::new(true, None, None),
            token_lifetime: Duration::from_secs(24 * 3600),
            delegated_lifetime: Duration::from_secs(300),
            session_idle: Duration::from_secs(90 * 24 * 3600),
            hashes_at_once: 1,
            cache_entries: 50_000,
        }
    }
}

/// The state of the user service. It is also the daemon's [`openorch_chassis::Identity`].
pub struct Users {
    shared: Shared,
    settings: UserSettings,
    store: Arc<dyn Store>,
    users: Table<UserRow>,
    password_rows: Table<PasswordRow>,
    sessions: Table<SessionRow>,
    roles: Table<RoleRow>,
    role_links: Table<RoleLinkRow>,
    invitations: Table<InvitationRow>,
    key: SigningKey,
    passwords: Passwords,
    memory: Memory,
    /// While the admin's password is the default one (contract decision 13).
    default_password: Arc<AtomicBool>,
    liveness: OnceLock<Arc<dyn Liveness>>,
}

impl Users {
    /// Who knows which accounts have live instances: their sessions are never idle.
    pub fn watch_liveness(&self, liveness: Arc<dyn Liveness>) {
        // A second call would be a mistake in the wiring; the first one stays.
        let _ = self.liveness.set(liveness);
    }

    /// Who may register.
    pub fn registration(&self) -> Registration {
        self.settings.registration
    }

    fn now(&self) -> Time {
        Time(self.shared.clock.now())
    }
}

/// The collections of this service, to be opened before [`prepare`].
pub fn collections() -> &'static [&'static Collection] {
    rows::ALL
}

pub fn service(users: Arc<Users>) -> Mounted {
    Service::new(api::SERVICE.slug, users)
        .on(api::REGISTER, account::register)
        .on(api::LOGIN, account::login)
        .on(api::GET_PUBLIC_KEY, authorize::public_key)
        .on(api::GET_KEY_SET, authorize::key_set)
        .on(api::READ_USER_BY_TOKEN, account::read_by_token)
        .on(api::SAVE_SELF, account::save_self)
        .on(api::CHANGE_PASSWORD, account::change_password)
        .on(api::REVOKE_TOKENS, revoke::revoke_tokens)
        .on(api::IS_AUTHORIZED, authorize::is_authorized)
        .on(api::CREATE_INVITATION, invitation::create)
        .on(api::LIST_INVITATIONS, invitation::list)
        .on(api::REVOKE_INVITATION, invitation::revoke)
        .every(Duration::from_secs(60), "note when sessions were used", session::note_uses)
        .mount()
}
