//! Accounts of people and services alike: who they are, how they sign in, what they may do. Everything that a request
//! needs for that is held in memory; the store is asked on first use.

mod account;
mod app;
mod audit;
mod authorize;
mod change_rules;
mod clock_grace;
mod contact;
mod contact_migration;
mod delegation;
mod enroll;
mod giving;
mod grant;
mod invitation;
mod keys;
mod known_address;
mod manage;
mod memory;
mod open_session;
mod organization;
mod orphan_migration;
mod otp;
mod password_check;
mod passwords;
mod permission;
#[cfg(test)]
mod plan_tests;
mod revoke;
mod role;
mod rows;
mod rule_index;
#[cfg(test)]
mod rule_tests;
mod rules;
mod seed;
mod session;
mod sign_in;
mod signing;
#[cfg(test)]
mod store_tests;
mod throttle;
mod usage;
mod users;
mod versions;

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use openorch_api::{
    Path, Time,
    user::{self as api, AuditEntry},
};
use openorch_chassis::{
    Mounted, Service,
    identity::{Belongings, Liveness},
    seal::Seal,
    service::Shared,
};
use openorch_store::{Batch, Collection, Committed, OPEN_FOR, Store, StoreError, Table};

use self::{
    change_rules::RuleTables,
    keys::KeyRing,
    memory::Memory,
    otp::Sendings,
    passwords::Passwords,
    rows::{
        ContactEnrollRow, ContactRow, InvitationRow, KeyPairRow, KnownAddressesRow, OrganizationRow, OtpRow,
        PasswordRow, RoleLinkRow, SessionRow, TombstoneRow, UserRow,
    },
    signing::Signing,
    throttle::Throttle,
};
pub use self::{
    clock_grace::stored as stored_clock_grace,
    password_check::PasswordCounts,
    passwords::{HashSettings, PasswordRules},
    seed::{ADMIN_SLUG, StartError, prepare, reset_admin_password},
    usage::AccessLimits,
};

/// Who may register an account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Registration {
    Open,
    /// Programs on this machine: what is usual while only loopback is served, which pages in a browser reach as well.
    OnThisMachine,
    /// With the code of an invitation.
    Invite,
    Closed,
}

#[derive(Clone, Debug)]
pub struct UserSettings {
    pub registration: Registration,
    /// What new passwords must be like.
    pub password_rules: PasswordRules,
    /// What a password must be like with which somebody signs in from elsewhere than this machine.
    pub network_password_rules: PasswordRules,
    /// How long a token's text says that it lives (`exp`).
    pub token_lifetime: Duration,
    /// How long a delegated token lives.
    pub delegated_lifetime: Duration,
    /// A session ends when it was not used for so long.
    pub session_idle: Duration,
    /// A session ends after so long, however much it is used.
    pub session_lifetime: Option<Duration>,
    /// Entries of the audit log are removed after so long.
    pub audit_retention: Duration,
    /// Most entries of the audit log; the oldest are removed first.
    pub audit_entries: u64,
    /// How password hashes are computed.
    pub hashes: HashSettings,
    /// Tokens signed side by side.
    pub signing_concurrency: usize,
    /// Sessions of one account; with one more the one idle longest ends.
    pub sessions_per_account: u64,
    /// How long an answer whether somebody has a permission may be kept.
    pub permission_kept: Duration,
    /// Accounts, sessions, tokens and delegated tokens held in memory, each.
    pub cache_entries: u64,
    /// What accounts that are no admins may hold of access rules.
    pub access_limits: AccessLimits,
}

impl Default for UserSettings {
    fn default() -> UserSettings {
        UserSettings {
            registration: Registration::Open,
            password_rules: PasswordRules::new(true, None, None),
            network_password_rules: PasswordRules::new(false, None, None),
            token_lifetime: Duration::from_secs(24 * 3600),
            delegated_lifetime: Duration::from_secs(300),
            session_idle: Duration::from_secs(90 * 24 * 3600),
            session_lifetime: None,
            audit_retention: Duration::from_secs(365 * 24 * 3600),
            audit_entries: 5_000_000,
            hashes: HashSettings::default(),
            signing_concurrency: 1,
            sessions_per_account: 1000,
            permission_kept: Duration::from_secs(10),
            cache_entries: 50_000,
            access_limits: AccessLimits::default(),
        }
    }
}

/// The state of the user service. It is also the daemon's [`openorch_chassis::Identity`].
pub struct Users {
    shared: Shared,
    settings: UserSettings,
    store: Arc<dyn Store>,
    users: Table<UserRow>,
    contacts: Table<ContactRow>,
    tombstones: Table<TombstoneRow>,
    organizations: Table<OrganizationRow>,
    password_rows: Table<PasswordRow>,
    sessions: Table<SessionRow>,
    rule_tables: RuleTables,
    /// Held while the rules change; true when nobody knows whether the last change was made.
    rule_changes: tokio::sync::Mutex<bool>,
    role_links: Table<RoleLinkRow>,
    invitations: Table<InvitationRow>,
    key_pairs: Table<KeyPairRow>,
    keys: ArcSwap<KeyRing>,
    /// The keys as they are if the one with this id is stored, while nobody knows that.
    unsettled_keys: Mutex<Option<(String, Arc<KeyRing>)>>,
    signing: Signing,
    seal: Seal,
    passwords: Passwords,
    /// Whether some stored hash may be of a password that was not normalized.
    has_old_hashes: bool,
    memory: Memory,
    /// Until then, in seconds since 1970, commits may be made of which nobody knew what came.
    doubtful_until: AtomicI64,
    /// Accounts that are to be looked at again, since nobody knows what came of a change.
    unsettled_accounts: Mutex<BTreeSet<String>>,
    /// How long nothing ends for its age, in seconds, as it is stored.
    stored_grace: AtomicU64,
    /// While the admin's password is the default one (contract decision 13).
    default_password: Arc<AtomicBool>,
    liveness: OnceLock<Arc<dyn Liveness>>,
    throttle: Throttle,
    known_addresses: Table<KnownAddressesRow>,
    otps: Table<OtpRow>,
    contact_enrolls: Table<ContactEnrollRow>,
    sendings: Sendings,
    audit_entries: Table<AuditEntry>,
    belongings: OnceLock<Vec<Arc<dyn Belongings>>>,
}

impl Users {
    /// Who knows which accounts have live instances: their sessions are never idle.
    pub fn watch_liveness(&self, liveness: Arc<dyn Liveness>) {
        // A second call would be a mistake in the wiring; the first one stays.
        let _ = self.liveness.set(liveness);
    }

    /// Who keeps things of accounts that go with them.
    pub fn watch_belongings(&self, belongings: Vec<Arc<dyn Belongings>>) {
        // As above.
        let _ = self.belongings.set(belongings);
    }

    /// What the access rules take in memory, for Prometheus.
    pub fn metrics(&self) -> String {
        [
            ("openorch_access_rule_bytes", self.memory.check_rules().bytes()),
            ("openorch_access_rule_bytes_limit", self.settings.access_limits.total_bytes),
        ]
        .map(|(name, value)| format!("# TYPE {name} gauge\n{name} {value}\n"))
        .concat()
    }

    /// Who may register.
    pub fn registration(&self) -> Registration {
        self.settings.registration
    }

    /// Writes, and has memory forget what that changes. Also where nobody knows what came of it: what is stored is read
    /// again then.
    async fn commit(&self, batch: Batch, forget: impl FnOnce(&Memory)) -> Result<Committed, StoreError> {
        let outcome = self.store.commit(batch).await;
        forget(&self.memory);
        outcome.inspect_err(|error| self.doubt(error))
    }

    /// Where nobody knows what came of a commit, it may even be made later: for a while memory is not trusted.
    fn doubt(&self, error: &StoreError) {
        if error.is_open() {
            self.doubtful_until.fetch_max(self.now().0.as_second() + OPEN_FOR.as_secs() as i64, Ordering::SeqCst);
        }
    }

    /// Whether commits may still be made of which nobody knew what came.
    fn is_doubtful(&self) -> bool {
        self.doubtful_until.load(Ordering::SeqCst) >= self.now().0.as_second()
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
        .on(api::LOGIN, sign_in::login)
        .on(api::EXCHANGE_TOKEN, sign_in::exchange)
        .on(api::LIST_APPS, app::list)
        .on(api::READ_APP, app::read)
        .on(api::UPDATE_APP, app::update)
        .on(api::DELETE_APP, app::delete)
        .on(api::GET_PUBLIC_KEY, authorize::public_key)
        .on(api::GET_KEY_SET, authorize::key_set)
        .on(api::ROTATE_KEY, authorize::rotate_key)
        .on(api::REFRESH_TOKEN, sign_in::refresh)
        .on(api::READ_USER_BY_TOKEN, account::read_by_token)
        .on(api::READ_SELF, account::read_self)
        .on(api::SAVE_SELF, account::save_self)
        .on(api::SEND_OTP, otp::send)
        .on(api::SEND_OWN_OTP, otp::send_own)
        .on(api::VERIFY_CONTACT, contact::verify)
        .on(api::REMOVE_CONTACT, contact::remove)
        .on(api::CHANGE_PASSWORD, account::change_password)
        .on(api::REVOKE_TOKENS, revoke::revoke_tokens)
        .on(api::LIST_SESSIONS, revoke::list)
        .on(api::REVOKE_SESSION, revoke::revoke)
        .on(api::GET_USERS, users::list)
        .on(api::CREATE_USER, users::create)
        .on(api::SAVE_USER, users::save)
        .on(api::DELETE_USER, users::delete)
        .on(api::RELEASE_SLUG, users::release_slug)
        .on(api::RESET_PASSWORD, users::reset_password)
        .on(api::IS_AUTHORIZED, authorize::is_authorized)
        .on(api::GET_ROLES, role::list)
        .on(api::CREATE_ROLE, role::create)
        .on_owned(api::DELETE_ROLE, |users, Path(id)| role::owner(users, id), role::delete)
        .on_owned(api::GET_PERMISSIONS_BY_ROLE, |users, (Path(id), _)| role::owner(users, id), role::permissions)
        .on_owned(api::SET_ROLE_PERMISSIONS, |users, (Path(id), _)| role::owner(users, id), role::set_permissions)
        .on(api::SAVE_PERMISSIONS, permission::save)
        .on(api::LIST_PERMISSIONS, role::list_permissions)
        .on_owned(api::DELETE_PERMISSION, |users, Path(id)| permission::owner(users, id), permission::delete)
        .on(api::ASSIGN_PERMISSIONS, permission::assign)
        .on(api::SAVE_GRANTS, grant::save)
        .on(api::LIST_GRANTS, grant::list)
        .on_owned(api::DELETE_GRANT, |cx, Path(id)| grant::owner(cx, id), grant::delete)
        .on(api::SAVE_PERMITS, grant::save_permits)
        .on(api::LIST_PERMITS, grant::list_permits)
        .on(api::SAVE_ENROLLS, enroll::save)
        .on(api::LIST_ENROLLS, enroll::list)
        .on(api::DELETE_ENROLL, enroll::delete)
        .on(api::SAVE_DELEGATION, delegation::save)
        .on(api::LIST_DELEGATIONS, delegation::list)
        .on(api::DELETE_DELEGATION, delegation::delete)
        .on(api::HAS_PERMISSION, permission::has)
        .on(api::CREATE_ORGANIZATION, organization::create)
        .on(api::SAVE_ORGANIZATION, organization::save)
        .on(api::LIST_ORGANIZATIONS, organization::list)
        .on(api::DELETE_ORGANIZATION, organization::delete)
        .on(api::RELEASE_ORGANIZATION_ID, organization::release_id)
        .on(api::LIST_MEMBERS, organization::members)
        .on(api::ADD_USER_TO_ORGANIZATION, organization::add_user)
        .on(api::SAVE_MEMBERSHIP, organization::save_membership)
        .on(api::REMOVE_USER_FROM_ORGANIZATION, organization::remove_user)
        .on(api::LIST_AUDIT, audit::list)
        .on(api::CREATE_INVITATION, invitation::create)
        .on(api::LIST_INVITATIONS, invitation::list)
        .on(api::REVOKE_INVITATION, invitation::revoke)
        .every(Duration::from_secs(60), "note when sessions were used", session::note_uses)
        .every(Duration::from_secs(1), "watch the clock", clock_grace::watch)
        .every(Duration::from_secs(1), "write refused attempts to the audit log", audit::write_gathered)
        .every(Duration::from_secs(600), "forget codes whose time is over", Users::forget_codes)
        .every(Duration::from_secs(3600), "remove old entries of the audit log", audit::remove_old)
        .every(Duration::from_secs(1), "settle rules, keys and accounts", Users::settle)
        .mount()
}
