//! Startup of the user service: seeds required rows in one transaction, then loads the rules. In an existing data
//! directory, only what a newer version needs is added.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use openorch_api::{Time, role};
use openorch_chassis::{Platform, rate_limit::Rate, service::Hooks};
use openorch_store::{Batch, Query, Store, Table};

use crate::user::{
    audit::AuditLog,
    authn::{
        otp::codes::OtpCodes,
        passwords::{
            check::Passwords,
            default_password::{DEFAULT_ADMIN_PASSWORD, DefaultPassword},
            rules::PasswordRules,
        },
        rows::{PASSWORDS, PasswordRow, SESSIONS, SessionRow},
        sessions::live::Sessions,
        state::Authn,
        tokens::{
            jwt::KeyRing,
            keys::Tokens,
            stored_keys::{generate_key, load_keys},
        },
    },
    authz::{
        rows::{PermissionLinkRow, PermissionRow, ROLE_LINKS, RoleLinkRow, RoleRow},
        rules::{AccessRules, Change, tables::RuleTables},
        state::Authz,
    },
    clock_grace::ClockGrace,
    directory::state::Directory,
    migrations::{contacts::restore_contact_tags, orphaned_roles::remove_orphaned_roles},
    shared::{
        accounts::{ADMIN_SLUG, Accounts},
        commits::Commits,
        rows::{DEFAULT_APP, USERS, UserRow, search_prefixes},
        settings::UserSettings,
        start_error::StartError,
    },
    state::Users,
};

/// Maximum number of admins named in an error.
const MAX_ADMINS_SHOWN: usize = 5;

const BUILT_IN_ROLES: &[(&str, &str, &str)] = &[
    (role::ADMIN, "Admin", "Has all permissions of the daemon."),
    (role::USER, "User", "The permissions of every registered account."),
];

/// The result of seeding: an admin, a signing key and the access rules exist.
pub struct Seeded {
    keys: KeyRing,
    rules: AccessRules,
    loopback_only: bool,
    /// The admin has the default password, so only this machine is served.
    pub has_default_password: bool,
}

/// Brings the stored rows up to date with this version. `admin_password` is `OPENORCH_ADMIN_PASSWORD`, which applies on
/// the first start and while the default password is set. `loopback_only`: only this machine is served, so weaker
/// passwords are accepted.
pub async fn seed(
    platform: &Platform,
    admin_password: Option<String>,
    loopback_only: bool,
) -> Result<Seeded, StartError> {
    let settings: UserSettings = platform.settings()?;
    let (admin_rules, network) =
        (PasswordRules::from_settings(&settings, loopback_only), PasswordRules::from_settings(&settings, false));
    let seeding = Seeder { platform: platform.clone(), now: platform.now(), network };
    let (keys, batch, was_empty) = match load_keys(platform).await? {
        Some((keys, batch)) => (keys, batch, false),
        None => {
            let (keys, batch) = generate_key(platform)?;
            (keys, seeding.create_admin(admin_password.clone(), admin_rules, batch)?, true)
        }
    };
    let rules = seeding.complete_rules(batch).await?;
    if was_empty {
        platform.store.mark_seeded().await?;
    }
    restore_contact_tags(&platform.store, platform.now()).await?;
    remove_orphaned_roles(&platform.store, platform.now()).await?;
    let given = if was_empty { None } else { admin_password };
    let has_default_password = seeding.apply_admin_password(given, admin_rules).await?;
    Ok(Seeded { keys, rules, loopback_only: loopback_only || has_default_password, has_default_password })
}

/// Opens the service on seeded data. `hooks` are those of all other services; `default_password` is kept true while the
/// admin has the default password.
pub async fn open(
    platform: &Platform,
    seeded: Seeded,
    hooks: Hooks,
    default_password: Arc<AtomicBool>,
) -> Result<Arc<Users>, StartError> {
    let settings: UserSettings = platform.settings()?;
    let Seeded { keys, rules, loopback_only, has_default_password } = seeded;
    default_password.store(has_default_password, Ordering::SeqCst);
    let default_password = DefaultPassword::new(default_password);
    let (accounts, commits) = (Accounts::new(platform), Arc::new(Commits::new(platform.clone())));
    let authz = Arc::new(Authz::new(platform, commits.clone(), accounts.clone(), rules, &settings));
    authz.register_metrics();
    let authn = Arc::new(Authn {
        passwords: Passwords::open(platform, default_password, loopback_only, &settings).await?,
        codes: Arc::new(OtpCodes::new(platform, accounts.clone())),
        sessions: Arc::new(Sessions::new(platform, commits.clone(), hooks.presence.clone(), &settings)),
        tokens: Arc::new(Tokens::new(platform, keys, &settings)),
        delegated_token_lifetime: settings.delegated_token_lifetime,
        accounts: accounts.clone(),
        authz: authz.clone(),
        platform: platform.clone(),
    });
    let registration = settings.registration(loopback_only);
    let most = settings.max_registrations_per_network;
    let registrations = Rate { per_second: most, burst: most };
    let directory = Directory::new(commits.clone(), authn.clone(), registration, registrations, hooks);
    Ok(Arc::new(Users {
        audit: Arc::new(AuditLog::new(platform, accounts)?),
        clock_grace: Arc::new(ClockGrace::open(platform).await?),
        directory: Arc::new(directory),
        commits,
        authz,
        authn,
    }))
}

/// Sets the password of an admin and ends all its sessions. No daemon may be running on the store.
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
    let names: Vec<String> =
        admins.iter().take(MAX_ADMINS_SHOWN).map(|admin| format!("`{}`", admin.value.slug)).collect();
    Err(StartError(match names.as_slice() {
        [] => "there is no admin in this data directory: no daemon was started with it, or it is not the right one"
            .to_owned(),
        names => format!("there is no admin `{slug}`; name one with --slug: {}", names.join(", ")),
    }))
}

/// Stores the password and ends all sessions of the admin, in one batch.
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

struct Seeder {
    platform: Platform,
    now: Time,
    network: PasswordRules,
}

impl Seeder {
    fn create_admin(&self, password: Option<String>, rules: PasswordRules, batch: Batch) -> Result<Batch, StartError> {
        let password = match password {
            Some(password) => check_admin_password(rules, password)?,
            None => DEFAULT_ADMIN_PASSWORD.to_owned(),
        };
        let (id, batch) = self.create_account(ADMIN_SLUG, "Admin", role::ADMIN, batch)?;
        let is_default = password == DEFAULT_ADMIN_PASSWORD;
        let row = PasswordRow::hashed_now(&password, is_default, &self.network, self.now)?;
        let passwords: Table<PasswordRow> = self.platform.table(&PASSWORDS);
        Ok(batch.with(passwords.create(&id, &row)?))
    }

    fn create_account(&self, slug: &str, name: &str, role: &str, batch: Batch) -> Result<(String, Batch), StartError> {
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

    /// Adds missing accounts of built-in services, roles and permissions, commits, and returns the rules. Existing
    /// permissions keep the roles that an operator linked or unlinked.
    async fn complete_rules(&self, mut batch: Batch) -> Result<AccessRules, StartError> {
        let mut rules = AccessRules::read(&self.platform.store).await?;
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

    /// Whether the admin has the default password, after replacing it if another is given.
    async fn apply_admin_password(&self, given: Option<String>, rules: PasswordRules) -> Result<bool, StartError> {
        let users: Table<UserRow> = self.platform.table(&USERS);
        let passwords: Table<PasswordRow> = self.platform.table(&PASSWORDS);
        let Some(admin) = users.first(&Query::all().equals("slug", ADMIN_SLUG)).await? else { return Ok(false) };
        let Some(stored) = passwords.get(&admin.id).await? else { return Ok(false) };
        match given {
            Some(password) if stored.value.is_default && password != DEFAULT_ADMIN_PASSWORD => {
                let password = check_admin_password(rules, password)?;
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

    /// The account of a built-in service, which has no password and cannot sign in.
    async fn service_account(
        &self,
        service: &openorch_api::Service,
        batch: Batch,
    ) -> Result<(String, Batch), StartError> {
        let users: Table<UserRow> = self.platform.table(&USERS);
        match users.find(&Query::all().equals("slug", service.slug)).await?.into_iter().next() {
            Some(found) => Ok((found.value.id, batch)),
            None => self.create_account(service.slug, service.name, role::USER, batch),
        }
    }
}

/// The default password is exempt from the rules, since the daemon then serves only this machine.
fn check_admin_password(rules: PasswordRules, password: String) -> Result<String, StartError> {
    if password != DEFAULT_ADMIN_PASSWORD {
        rules.check(&password).map_err(|error| StartError(format!("OPENORCH_ADMIN_PASSWORD: {error}")))?;
    }
    Ok(password)
}
