//! Accounts of people and services alike: who they are, how they sign in, what they may do. Everything that a request
//! needs for that is held in memory; the store is asked on first use.

mod audit;
mod authn;
mod authz;
mod clock_grace;
mod directory;
mod migrations;
#[cfg(test)]
mod plan_tests;
mod rows;
mod seed;
mod settings;
#[cfg(test)]
mod store_tests;
mod versions;

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use openorch_api::{
    Path, Time,
    user::{self as api, AuditEntry},
};
use openorch_chassis::{Mounted, Platform, Service, service::Hooks};
use openorch_store::{Batch, Collection, Committed, OPEN_FOR, StoreError, Table};

pub use self::{
    authn::passwords::{check::PasswordCounts, rules::PasswordRules},
    clock_grace::stored as stored_clock_grace,
    seed::{ADMIN_SLUG, Seeded, StartError, open, reset_admin_password, seed},
    settings::{AuditSettings, Registration, UserSettings},
};
use self::{
    authn::{
        otp::{self, Sendings},
        passwords::{queue::Passwords, throttle::Throttle},
        sessions::{cache::Memory, revoke, session},
        sign_in,
        tokens::{jwt::KeyRing, signing::Signing},
    },
    authz::{
        check, delegation, grant, permission,
        roles::{enroll, role},
        rules::{change::RuleTables, usage::AccessLimits},
    },
    directory::{app, contact, invitation, organization, registration, users},
    rows::{
        ContactEnrollRow, ContactRow, InvitationRow, KeyPairRow, KnownAddressesRow, OrganizationRow, OtpRow,
        PasswordRow, RoleLinkRow, SessionRow, TombstoneRow, UserRow,
    },
};

/// The state of the user service. It is also the daemon's [`openorch_chassis::Identity`].
pub struct Users {
    platform: Platform,
    settings: UserSettings,
    audit_settings: AuditSettings,
    registration: Registration,
    /// What new passwords must be like.
    password_rules: PasswordRules,
    /// What a password must be like with which somebody signs in from elsewhere than this machine.
    network_password_rules: PasswordRules,
    access_limits: AccessLimits,
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
    /// What other services do when an account is deleted, and who of them knows whether its instances are up.
    hooks: Hooks,
    throttle: Throttle,
    known_addresses: Table<KnownAddressesRow>,
    otps: Table<OtpRow>,
    contact_enrolls: Table<ContactEnrollRow>,
    sendings: Sendings,
    audit_entries: Table<AuditEntry>,
}

impl Users {
    /// Adds what the access rules take in memory.
    fn register_metrics(self: &Arc<Users>) {
        let (users, limit) = (Arc::downgrade(self), self.access_limits.total_bytes as u64);
        let metrics = &self.platform.metrics;
        metrics.gauge("access_rule_bytes", "Bytes of memory that the access rules take, about", move || {
            users.upgrade().map(|users| users.memory.check_rules().bytes() as u64)
        });
        metrics.gauge("access_rule_bytes_limit", "Bytes of memory that the access rules may take", move || Some(limit));
    }

    /// Who may register.
    pub fn registration(&self) -> Registration {
        self.registration
    }

    /// Writes, and has memory forget what that changes. Also where nobody knows what came of it: what is stored is read
    /// again then.
    async fn commit(&self, batch: Batch, forget: impl FnOnce(&Memory)) -> Result<Committed, StoreError> {
        let outcome = self.platform.store.commit(batch).await;
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
        self.platform.now()
    }
}

/// The collections of this service, to be opened before [`seed`].
pub fn collections() -> &'static [&'static Collection] {
    rows::ALL
}

pub fn service(users: Arc<Users>) -> Mounted {
    Service::new(api::SERVICE.slug, users)
        .on(api::REGISTER, registration::register)
        .on(api::LOGIN, sign_in::login)
        .on(api::EXCHANGE_TOKEN, sign_in::exchange)
        .on(api::LIST_APPS, app::list)
        .on(api::READ_APP, app::read)
        .on(api::UPDATE_APP, app::update)
        .on(api::DELETE_APP, app::delete)
        .on(api::GET_PUBLIC_KEY, check::public_key)
        .on(api::GET_KEY_SET, check::key_set)
        .on(api::ROTATE_KEY, check::rotate_key)
        .on(api::REFRESH_TOKEN, sign_in::refresh)
        .on(api::READ_USER_BY_TOKEN, registration::read_by_token)
        .on(api::READ_SELF, registration::read_self)
        .on(api::SAVE_SELF, registration::save_self)
        .on(api::SEND_OTP, otp::send)
        .on(api::SEND_OWN_OTP, otp::send_own)
        .on(api::VERIFY_CONTACT, contact::verify)
        .on(api::REMOVE_CONTACT, contact::remove)
        .on(api::CHANGE_PASSWORD, registration::change_password)
        .on(api::REVOKE_TOKENS, revoke::revoke_tokens)
        .on(api::LIST_SESSIONS, revoke::list)
        .on(api::REVOKE_SESSION, revoke::revoke)
        .on(api::GET_USERS, users::list)
        .on(api::CREATE_USER, users::create)
        .on(api::SAVE_USER, users::save)
        .on(api::DELETE_USER, users::delete)
        .on(api::RELEASE_SLUG, users::release_slug)
        .on(api::RESET_PASSWORD, users::reset_password)
        .on(api::IS_AUTHORIZED, check::is_authorized)
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
