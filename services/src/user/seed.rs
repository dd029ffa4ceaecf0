//! Start-up of the user service: what must be there is made in one transaction, then the rules are read into memory.
//! On a folder that was used before only what a newer version brings is added.

use std::{
    collections::HashMap,
    fmt,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicI64, Ordering},
    },
};

use arc_swap::ArcSwap;
use openorch_api::{Time, role};
use openorch_chassis::{
    Error, Platform,
    seal::{OpenError, PUBLISHED_DEFAULT_KEY, Seal},
    service::Hooks,
};
use openorch_store::{Batch, Query, Store, Table};

use crate::user::{
    UserSettings, Users,
    authn::{
        otp::Sendings,
        passwords::{check::PasswordCounts, queue::Passwords, rules::PasswordRules, throttle::Throttle},
        sessions::cache::Memory,
        tokens::{
            jwt::{KeyRing, SigningKey, VerifyingKey},
            signing::Signing,
        },
    },
    authz::rules::{Change, Rules, change::RuleTables},
    migrations::{contacts::unfold_contacts, orphaned_roles::remove_orphaned_roles},
    rows::*,
};

pub const ADMIN_SLUG: &str = "openorch";
/// The password that everybody knows (contract decision 12): while it stands, the daemon listens on loopback only.
pub const DEFAULT_ADMIN_PASSWORD: &str = "changeme";

/// How many admins an error names.
const SHOWN: usize = 5;

const BUILT_IN_ROLES: &[(&str, &str, &str)] = &[
    (role::ADMIN, "Admin", "May do whatever the daemon can do."),
    (role::USER, "User", "What every account may do that registers."),
];

/// Why the user service cannot start, with the way out.
#[derive(Debug)]
pub struct StartError(pub String);

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for StartError {}

impl From<Error> for StartError {
    fn from(error: Error) -> StartError {
        StartError(match error.cause {
            Some(cause) => cause.to_string(),
            None => error.message.into_owned(),
        })
    }
}

impl From<openorch_store::StoreError> for StartError {
    fn from(error: openorch_store::StoreError) -> StartError {
        StartError(error.to_string())
    }
}

/// What is stored once the first step of a start is done: an admin, a signing key, the rules that this version needs.
pub struct Seeded {
    keys: KeyRing,
    rules: Rules,
    loopback_only: bool,
    /// Whether the admin's password is the default one: only this machine is served then.
    pub has_default_password: bool,
}

/// Brings the stored rows to what this version needs. `admin_password` is `OPENORCH_ADMIN_PASSWORD`; it counts on the first
/// start and while the default password stands. `loopback_only`: only this machine is served, for which looser rules count.
pub async fn seed(
    platform: &Platform,
    admin_password: Option<String>,
    loopback_only: bool,
) -> Result<Seeded, StartError> {
    let settings: UserSettings = platform.settings()?;
    let (admin_rules, network) = (settings.password_rules(loopback_only), settings.password_rules(false));
    let seeding = Seeding { platform: platform.clone(), now: platform.now(), network };
    let (keys, batch, was_empty) = match seeding.open_keys().await? {
        Some((keys, batch)) => (keys, batch, false),
        None => {
            let (keys, batch) = seeding.make_key()?;
            (keys, seeding.make_admin(admin_password.clone(), admin_rules, batch)?, true)
        }
    };
    let rules = seeding.complete_rules(batch).await?;
    if was_empty {
        platform.store.mark_seeded().await?;
    }
    unfold_contacts(&platform.store, platform.now()).await?;
    remove_orphaned_roles(&platform.store, platform.now()).await?;
    let given = if was_empty { None } else { admin_password };
    let has_default_password = seeding.settle_admin_password(given, admin_rules).await?;
    Ok(Seeded { keys, rules, loopback_only: loopback_only || has_default_password, has_default_password })
}

/// Makes the service from what is stored. `hooks` are those of all other services; `default_password` is true while the
/// admin's password is the default one.
pub async fn open(
    platform: &Platform,
    seeded: Seeded,
    hooks: Hooks,
    default_password: Arc<AtomicBool>,
) -> Result<Arc<Users>, StartError> {
    let settings: UserSettings = platform.settings()?;
    let Seeded { keys, rules, loopback_only, has_default_password } = seeded;
    default_password.store(has_default_password, Ordering::SeqCst);
    let password_rows = platform.table(&PASSWORDS);
    let has_old_hashes = PasswordCounts::read(&password_rows).await?.unknown > 0;
    let users = Arc::new(Users {
        users: platform.table(&USERS),
        contacts: platform.table(&CONTACTS),
        tombstones: platform.table(&TOMBSTONES),
        organizations: platform.table(&ORGANIZATIONS),
        audit_entries: platform.table(&openorch_chassis::audit::ENTRIES),
        throttle: Throttle::new(),
        known_addresses: platform.table(&KNOWN_ADDRESSES),
        otps: platform.table(&OTPS),
        contact_enrolls: platform.table(&CONTACT_ENROLLS),
        sendings: Sendings::new(),
        password_rows,
        has_old_hashes,
        sessions: platform.table(&SESSIONS),
        rule_tables: RuleTables::new(&platform.store),
        rule_changes: tokio::sync::Mutex::new(false),
        role_links: platform.table(&ROLE_LINKS),
        invitations: platform.table(&INVITATIONS),
        passwords: Passwords::new(settings.hashes()),
        memory: Memory::new(rules, settings.max_cache_entries),
        key_pairs: platform.table(&KEY_PAIRS),
        keys: ArcSwap::from_pointee(keys),
        unsettled_keys: Mutex::default(),
        signing: Signing::new(settings.signing_concurrency()),
        stored_grace: crate::user::clock_grace::stored(&platform.store).await?.as_secs().into(),
        doubtful_until: AtomicI64::new(i64::MIN),
        unsettled_accounts: Mutex::default(),
        registration: settings.registration(loopback_only),
        password_rules: settings.password_rules(loopback_only),
        network_password_rules: settings.password_rules(false),
        access_limits: settings.access_limits(),
        audit_settings: platform.settings()?,
        settings,
        platform: platform.clone(),
        hooks,
        default_password,
    });
    users.register_metrics();
    Ok(users)
}

/// Sets the password of an admin and ends all its sessions, while no daemon runs on the store.
pub async fn reset_admin_password(
    store: Arc<dyn Store>,
    clock: &dyn openorch_chassis::clock::Clock,
    (rules, network): (PasswordRules, PasswordRules),
    slug: &str,
    password: &str,
) -> Result<(), StartError> {
    rules.check(password).map_err(|error| StartError(format!("the new password is refused: {error}")))?;
    let users: Table<UserRow> = Table::new(store.clone(), &USERS);
    let links: Table<RoleLinkRow> = Table::new(store.clone(), &ROLE_LINKS);
    let links = links.find(&Query::all().equals("roleId", role::ADMIN)).await?;
    let ids: Vec<String> = links.into_iter().map(|link| link.value.user_id).collect();
    let admins = users.find(&Query::all().is_in("id", ids)).await?;
    if let Some(admin) = admins.iter().find(|admin| admin.value.slug == slug) {
        return set_admin_password(&store, &admin.id, password, &network, Time(clock.now())).await;
    }
    let names: Vec<String> = admins.iter().take(SHOWN).map(|admin| format!("`{}`", admin.value.slug)).collect();
    Err(StartError(match names.as_slice() {
        [] => "there is no admin in this data folder: it was never started, or is another's".to_owned(),
        names => format!("there is no admin `{slug}`; name one with --slug: {}", names.join(", ")),
    }))
}

/// Writes the password and ends all sessions of the admin, in one batch.
async fn set_admin_password(
    store: &Arc<dyn Store>,
    id: &str,
    password: &str,
    network: &PasswordRules,
    now: Time,
) -> Result<(), StartError> {
    let row = PasswordRow::hashed_now(password, password == DEFAULT_ADMIN_PASSWORD, network, now)?;
    let sessions: Table<SessionRow> = Table::new(store.clone(), &SESSIONS);
    let passwords: Table<PasswordRow> = Table::new(store.clone(), &PASSWORDS);
    let mut batch = Batch::new().with(passwords.upsert(id, &row)?);
    for session in sessions.find(&Query::all().equals("userId", id)).await? {
        batch = batch.with(sessions.delete(&session.id, None));
    }
    store.commit(batch).await?;
    Ok(())
}

struct Seeding {
    platform: Platform,
    now: Time,
    network: PasswordRules,
}

impl Seeding {
    /// The stored keys, and what is to be written for them. That the one that signs opens is also the check that the
    /// encryption key is the right one.
    async fn open_keys(&self) -> Result<Option<(KeyRing, Batch)>, StartError> {
        let pairs: Table<KeyPairRow> = self.platform.table(&KEY_PAIRS);
        let (mut retired, mut current) = (Vec::new(), None);
        for pair in pairs.find(&Query::all()).await? {
            match pair.value.retired {
                Some(key) => retired.push((key.at.0.as_second(), Arc::new(VerifyingKey::new(key.public)?))),
                None => current = Some(pair.value),
            }
        }
        retired.sort_by_key(|(since, _)| std::cmp::Reverse(*since));
        let Some(mut pair) = current else { return Ok(None) };
        let (place, mut batch) = (private_place(&pair.id), Batch::new());
        let opened = match self.platform.seal.open(&place, &pair.private) {
            // Whoever leaves the published key behind need not leave the data behind.
            Err(OpenError::OtherKey(id)) => match Seal::new(PUBLISHED_DEFAULT_KEY).open(&place, &pair.private) {
                Ok(private) => {
                    pair.private = self.platform.seal.seal(&place, &private);
                    batch = batch.with(pairs.replace(&pair.id, &pair, None)?);
                    Ok(private)
                }
                Err(_) => Err(OpenError::OtherKey(id)),
            },
            opened => opened,
        };
        let private = opened.map_err(|error| match error {
            OpenError::OtherKey(id) => StartError(format!(
                "this data was encrypted with another key (id {id}) than the one given now: set OPENORCH_ENCRYPTION_KEY \
                 to the key it was first started with, or put the file `encryption.key` of its data folder back"
            )),
            OpenError::Damaged => StartError("the stored signing key is damaged: restore the data from a backup".into()),
        })?;
        let current = Arc::new(SigningKey::from_pkcs8(&pair.id, &private)?);
        Ok(Some((KeyRing { current, retired }, batch)))
    }

    fn make_key(&self) -> Result<(KeyRing, Batch), StartError> {
        let id = self.platform.ids.random("keyp");
        let private = SigningKey::generate()?;
        let row = KeyPairRow {
            private: self.platform.seal.seal(&private_place(&id), &private),
            id: id.clone(),
            created_at: self.now,
            retired: None,
        };
        let pairs: Table<KeyPairRow> = self.platform.table(&KEY_PAIRS);
        let current = Arc::new(SigningKey::from_pkcs8(&id, &private)?);
        Ok((KeyRing { current, retired: Vec::new() }, Batch::new().with(pairs.create(&id, &row)?)))
    }

    fn make_admin(&self, password: Option<String>, rules: PasswordRules, batch: Batch) -> Result<Batch, StartError> {
        let password = match password {
            Some(password) => refuse_weak(rules, password)?,
            None => DEFAULT_ADMIN_PASSWORD.to_owned(),
        };
        let (id, batch) = self.make_account(ADMIN_SLUG, "Admin", role::ADMIN, batch)?;
        let is_default = password == DEFAULT_ADMIN_PASSWORD;
        let row = PasswordRow::hashed_now(&password, is_default, &self.network, self.now)?;
        let passwords: Table<PasswordRow> = self.platform.table(&PASSWORDS);
        Ok(batch.with(passwords.create(&id, &row)?))
    }

    fn make_account(&self, slug: &str, name: &str, role: &str, batch: Batch) -> Result<(String, Batch), StartError> {
        let user = UserRow {
            id: self.platform.ids.next("usr"),
            slug: slug.to_owned(),
            name: name.to_owned(),
            contacts: Vec::new(),
            search_prefixes: search_prefixes(slug, name),
            labels: Default::default(),
            thumbnail_file_id: String::new(),
            home_app: DEFAULT_APP.to_owned(),
            created_at: self.now,
            updated_at: self.now,
        };
        let link = RoleLinkRow::new(DEFAULT_APP, &user.id, role, self.now);
        let users: Table<UserRow> = self.platform.table(&USERS);
        let links: Table<RoleLinkRow> = self.platform.table(&ROLE_LINKS);
        let batch = batch.with(users.create(&user.id, &user)?).with(links.create(link.id(), &link)?);
        Ok((user.id, batch))
    }

    /// Adds the accounts of built-in services, roles and permissions that are missing, commits, and answers the rules.
    /// Permissions that exist keep the roles an operator gave or took.
    async fn complete_rules(&self, mut batch: Batch) -> Result<Rules, StartError> {
        let mut rules = Rules::read(&self.platform.store).await?;
        let mut owners = HashMap::new();
        for service in openorch_api::SERVICES {
            let (id, with_account) = self.service_account(service, batch).await?;
            batch = with_account;
            owners.insert(service.slug, id);
        }
        let mut changes = Vec::new();
        for (id, name, description) in BUILT_IN_ROLES.iter().filter(|(id, ..)| !rules.roles.contains_key(*id)) {
            changes.push(Change::SaveRole(RoleRow {
                id: (*id).to_owned(),
                name: (*name).to_owned(),
                description: (*description).to_owned(),
                owner_id: owners["user-svc"].clone(),
                created_at: self.now,
                updated_at: self.now,
                going: false,
            }));
        }
        for service in openorch_api::SERVICES {
            let missing = service.permissions.iter().filter(|row| !rules.permissions.contains_key(row.id));
            for permission in missing {
                changes.push(Change::SavePermission(PermissionRow {
                    id: permission.id.to_owned(),
                    name: permission.id.to_owned(),
                    description: permission.description.to_owned(),
                    owner_id: owners[service.slug].clone(),
                    created_at: self.now,
                    updated_at: self.now,
                }));
                changes.extend(permission.granted_to.iter().map(|role| {
                    Change::Link(PermissionLinkRow {
                        permission_id: permission.id.to_owned(),
                        role_id: (*role).to_owned(),
                    })
                }));
            }
        }
        let tables = RuleTables::new(&self.platform.store);
        for change in &changes {
            tables.write(&mut batch, change)?;
        }
        if !batch.is_empty() {
            self.platform.store.commit(batch).await?;
        }
        rules.apply(changes);
        Ok(rules)
    }

    /// Whether the admin's password is the default one, after replacing that if another is given.
    async fn settle_admin_password(&self, given: Option<String>, rules: PasswordRules) -> Result<bool, StartError> {
        let users: Table<UserRow> = self.platform.table(&USERS);
        let passwords: Table<PasswordRow> = self.platform.table(&PASSWORDS);
        let Some(admin) = users.first(&Query::all().equals("slug", ADMIN_SLUG)).await? else { return Ok(false) };
        let Some(stored) = passwords.get(&admin.id).await? else { return Ok(false) };
        match given {
            Some(password) if stored.value.is_default && password != DEFAULT_ADMIN_PASSWORD => {
                let password = refuse_weak(rules, password)?;
                set_admin_password(&self.platform.store, &admin.id, &password, &self.network, self.now).await?;
                return Ok(false);
            }
            Some(_) if !stored.value.is_default => tracing::info!(
                "OPENORCH_ADMIN_PASSWORD is ignored: the password of `{ADMIN_SLUG}` was set before; \
                 `openorch admin reset-password` sets another"
            ),
            _ => {}
        }
        Ok(stored.value.is_default)
    }

    /// The account of a built-in service: it has no password and cannot sign in.
    async fn service_account(
        &self,
        service: &openorch_api::Service,
        batch: Batch,
    ) -> Result<(String, Batch), StartError> {
        let users: Table<UserRow> = self.platform.table(&USERS);
        match users.find(&Query::all().equals("slug", service.slug)).await?.into_iter().next() {
            Some(found) => Ok((found.value.id, batch)),
            None => self.make_account(service.slug, service.name, role::USER, batch),
        }
    }
}

/// The default password is no weak one but none: whoever starts with it is served on this machine alone.
fn refuse_weak(rules: PasswordRules, password: String) -> Result<String, StartError> {
    if password != DEFAULT_ADMIN_PASSWORD {
        rules.check(&password).map_err(|error| StartError(format!("OPENORCH_ADMIN_PASSWORD: {error}")))?;
    }
    Ok(password)
}

/// Names where the private half of a key is kept, for the seal on it.
pub(in crate::user) fn private_place(id: &str) -> String {
    format!("{}/{id}/private", KEY_PAIRS.name)
}
