//! What the user service stores: one collection for each kind of row.

use std::collections::BTreeMap;

use openorch_api::Time;
use openorch_chassis::Caller;
use openorch_store::{Collection, Index};
use serde::{Deserialize, Serialize};

/// The tenant of everything that does not name one (contract decision 11).
pub const DEFAULT_APP: &str = "unnamed";
/// Where something counts in all tenants.
pub const ALL_APPS: &str = "*";

fn default_app() -> String {
    DEFAULT_APP.to_owned()
}

pub static USERS: Collection = Collection {
    name: openorch_chassis::identity::ACCOUNTS,
    indexes: &[
        Index::unique(&["slug"]),
        Index::each("searchPrefixes", &["createdAt"]),
        Index::on(&["createdAt"]),
        Index::on(&["updatedAt"]),
    ],
};
/// Who has which contact; the id is the contact in its normal form, so that no two accounts have the same.
pub static CONTACTS: Collection = Collection { name: "userSvcContacts", indexes: &[Index::on(&["userId"])] };
/// Roles for contacts whose accounts are not known yet.
pub static CONTACT_ENROLLS: Collection = Collection {
    name: "userSvcContactEnrolls",
    indexes: &[Index::on(&["contact"]), Index::on(&["roleId"]), Index::on(&["createdBy"])],
};
pub static OTPS: Collection = Collection { name: "userSvcOtps", indexes: &[Index::on(&["expiresAt"])] };
/// The slugs of deleted accounts; the id is the slug.
pub static TOMBSTONES: Collection = Collection { name: "userSvcTombstones", indexes: &[Index::on(&["founderId"])] };
pub static ORGANIZATIONS: Collection = Collection {
    name: "userSvcOrganizations",
    indexes: &[Index::unique(&["app", "slug"]), Index::on(&["createdAt"]), Index::on(&["founderId"])],
};
pub static PASSWORDS: Collection =
    Collection { name: "userSvcPasswords", indexes: &[Index::on(&["meetsNetworkRule"])] };
pub static SESSIONS: Collection =
    Collection { name: "userSvcSessions", indexes: &[Index::unique(&["userId", "app", "device"])] };
/// From where accounts have signed in; the id is a digest of what the throttle counts them by.
pub static KNOWN_ADDRESSES: Collection =
    Collection { name: "userSvcKnownAddresses", indexes: &[Index::on(&["userId"])] };
/// What was done once to the rows of older versions; the id is its name.
pub static MIGRATIONS: Collection = Collection { name: "userSvcMigrations", indexes: &[] };
/// How long nothing ends for its age since the clock jumped: one row.
pub static CLOCK_GRACE: Collection = Collection { name: "userSvcClockGrace", indexes: &[] };
pub static ROLES: Collection = Collection { name: "userSvcRoles", indexes: &[] };
pub static ROLE_LINKS: Collection = Collection {
    name: "userSvcRoleLinks",
    indexes: &[
        Index::on(&["userId"]),
        Index::on(&["roleId"]),
        Index::on(&["roleId", "contactEnrollId"]),
        Index::on(&["byContact"]),
        Index::on(&["contactEnrollId"]),
        Index::on(&["createdBy", "byAdmin"]),
    ],
};
pub static PERMISSIONS: Collection = Collection { name: "userSvcPermissions", indexes: &[] };
pub static PERMISSION_LINKS: Collection =
    Collection { name: "userSvcPermissionRoleLinks", indexes: &[Index::on(&["roleId"])] };
pub static GRANTS: Collection = Collection { name: "userSvcGrants", indexes: &[] };
/// What services may do for their callers; the id is the service's slug.
pub static DELEGATIONS: Collection = Collection { name: "userSvcDelegations", indexes: &[] };
pub static INVITATIONS: Collection =
    Collection { name: "userSvcInvitations", indexes: &[Index::unique(&["codeHash"]), Index::on(&["createdById"])] };
/// The tenants but for the default one.
pub static APPS: Collection = Collection { name: "userSvcApps", indexes: &[Index::unique(&["host"])] };
pub static KEY_PAIRS: Collection = Collection { name: "userSvcKeyPairs", indexes: &[] };

pub static ALL: &[&Collection] = &[
    &USERS,
    &CONTACTS,
    &OTPS,
    &CONTACT_ENROLLS,
    &TOMBSTONES,
    &ORGANIZATIONS,
    &PASSWORDS,
    &SESSIONS,
    &KNOWN_ADDRESSES,
    &MIGRATIONS,
    &CLOCK_GRACE,
    &ROLES,
    &ROLE_LINKS,
    &PERMISSIONS,
    &PERMISSION_LINKS,
    &GRANTS,
    &DELEGATIONS,
    &INVITATIONS,
    &APPS,
    &KEY_PAIRS,
    &openorch_chassis::audit::ENTRIES,
];

/// An account. Its password hash is a row of its own, so that nothing that reads accounts ever holds one.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct UserRow {
    pub id: String,
    pub slug: String,
    pub name: String,
    #[serde(default)]
    pub contacts: Vec<openorch_api::user::Contact>,
    /// What a search begins with, of any word of slug and name: see [`search_prefixes`].
    #[serde(default)]
    pub search_prefixes: Vec<String>,
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    #[serde(default)]
    pub thumbnail_file_id: String,
    /// The id of the app where it was made, whatever roles it has there now: managing it always needs the right there.
    /// Empty in rows of older versions, see `Account::new`.
    #[serde(default)]
    pub home_app: String,
    pub created_at: Time,
    pub updated_at: Time,
}

impl UserRow {
    pub fn to_wire(&self) -> openorch_api::user::User {
        openorch_api::user::User {
            id: self.id.clone(),
            created_at: self.created_at,
            updated_at: self.updated_at,
            name: self.name.clone(),
            slug: self.slug.clone(),
            contacts: self.contacts.clone(),
            labels: self.labels.clone(),
            thumbnail_file_id: self.thumbnail_file_id.clone(),
        }
    }
}

/// How much of a word the index of searches knows.
const PREFIX_LENGTH: usize = 3;
/// How many words of a name are found.
const MAX_WORDS: usize = 16;

/// The first one, two and three letters of each word of an account's slug and name: among a million accounts those whose
/// words begin like the search are found in the order of a page, and few enough to look at for the rest of it.
pub fn search_prefixes(slug: &str, name: &str) -> Vec<String> {
    let mut prefixes: Vec<String> = words(slug)
        .chain(words(name).take(MAX_WORDS))
        .flat_map(|word| (1..=PREFIX_LENGTH).map(move |length| word.chars().take(length).collect()))
        .collect();
    prefixes.sort();
    prefixes.dedup();
    prefixes
}

/// The prefix under which accounts are found that this search can mean.
pub fn search_prefix(search: &str) -> String {
    words(search).next().unwrap_or_default().chars().take(PREFIX_LENGTH).collect()
}

fn words(text: &str) -> impl Iterator<Item = String> {
    let words: Vec<String> =
        text.to_lowercase().split(|letter: char| !letter.is_alphanumeric()).map(str::to_owned).collect();
    words.into_iter().filter(|word| !word.is_empty())
}

/// The password of the account with the same id. Accounts of built-in services have none and cannot sign in.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PasswordRow {
    pub hash: String,
    /// The admin's password is still the one that everybody knows.
    #[serde(default)]
    pub is_default: bool,
    /// Whether it met the rule for passwords beyond loopback when it was set or matched last. `None`: the hash is from a
    /// version that did not normalize passwords and has not been matched since.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub meets_network_rule: Option<bool>,
    pub updated_at: Time,
}

/// A session of an account on a device. The token's text is not stored: it is made again from these fields.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SessionRow {
    pub id: String,
    pub user_id: String,
    pub app: String,
    pub device: String,
    /// The session that it was exchanged from, and ends with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exchanged_from: Option<String>,
    /// When the account signed in.
    pub created_at: Time,
    /// To the hour: written when it is that much older than the last use.
    pub used_at: Time,
    pub token_id: String,
    pub token_created_at: Time,
    /// `iat` of the token's present text.
    pub issued_at: Time,
    /// The roles in the token's present text.
    pub roles: Vec<String>,
}

/// Addresses from which an account has signed in, the latest last.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct KnownAddressesRow {
    pub user_id: String,
    pub addresses: Vec<KnownAddress>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct KnownAddress {
    /// The address, of IPv6 its /64.
    pub network: String,
    pub at: Time,
}

/// A change to stored rows that was made.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MigrationRow {
    pub at: Time,
}

/// See [`openorch_chassis::ages::Ages::grace_left`].
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClockGraceRow {
    pub seconds_left: u64,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RoleRow {
    pub id: String,
    pub name: String,
    pub description: String,
    pub owner_id: String,
    pub created_at: Time,
    pub updated_at: Time,
    /// It is being deleted: it gives nothing and nobody has it any more, whatever links are still there.
    #[serde(default)]
    pub going: bool,
}

impl RoleRow {
    pub fn to_wire(&self) -> openorch_api::user::Role {
        openorch_api::user::Role {
            id: self.id.clone(),
            created_at: self.created_at,
            updated_at: self.updated_at,
            name: self.name.clone(),
            description: self.description.clone(),
            owner_id: self.owner_id.clone(),
        }
    }
}

/// An account has a role in a tenant, or in all.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RoleLinkRow {
    pub user_id: String,
    pub role_id: String,
    pub app: String,
    #[serde(default)]
    pub created_at: Time,
    /// The account that gave it; empty for roles that an account began with.
    #[serde(default)]
    pub created_by: String,
    /// That account was an admin.
    #[serde(default)]
    pub by_admin: bool,
    /// The contact, in its normal form, that was named instead of the account. Whose it is, is not told to who gave it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by_contact: Option<String>,
    /// The id under which who gave it knows it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub contact_enroll_id: Option<String>,
}

impl RoleLinkRow {
    pub fn new(app: &str, user_id: &str, role_id: &str, now: Time) -> RoleLinkRow {
        RoleLinkRow {
            user_id: user_id.to_owned(),
            role_id: role_id.to_owned(),
            app: app_of(role_id, app).to_owned(),
            created_at: now,
            created_by: String::new(),
            by_admin: false,
            by_contact: None,
            contact_enroll_id: None,
        }
    }

    /// Given by this account.
    pub fn by(self, giver: &Caller) -> RoleLinkRow {
        RoleLinkRow { created_by: giver.user_id.to_string(), by_admin: giver.is_admin(), ..self }
    }

    /// Given to whose this contact is.
    pub fn by_contact_of(self, row: &ContactEnrollRow) -> RoleLinkRow {
        RoleLinkRow {
            created_at: row.created_at,
            created_by: row.created_by.clone(),
            by_admin: row.by_admin,
            by_contact: Some(row.contact.clone()),
            contact_enroll_id: Some(row.id()),
            ..self
        }
    }

    /// Whether it is of the daemon's own making, and not an account's that is no admin.
    pub fn is_trusted(&self) -> bool {
        self.by_admin || self.created_by.is_empty()
    }

    /// Whether another account than its own gave it, which is no admin.
    pub fn is_by_other(&self) -> bool {
        !self.is_trusted() && self.created_by != self.user_id
    }

    pub fn id(&self) -> String {
        RoleLinkRow::id_of(&self.app, &self.user_id, &self.role_id)
    }

    /// The id of the row that says that an account has a role in an app.
    pub fn id_of(app: &str, user_id: &str, role_id: &str) -> String {
        format!("{app}:{user_id}:{role_id}")
    }
}

/// The tenant under which it is written that someone has a role. Who is admin of the platform is so everywhere, and that
/// is written once.
pub fn app_of<'a>(role_id: &str, app: &'a str) -> &'a str {
    if role_id == openorch_api::role::ADMIN { DEFAULT_APP } else { app }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PermissionRow {
    pub id: String,
    pub name: String,
    pub description: String,
    pub owner_id: String,
    pub created_at: Time,
    pub updated_at: Time,
}

impl PermissionRow {
    pub fn to_wire(&self) -> openorch_api::user::Permission {
        openorch_api::user::Permission {
            id: self.id.clone(),
            created_at: self.created_at,
            updated_at: self.updated_at,
            name: self.name.clone(),
            description: self.description.clone(),
            owner_id: self.owner_id.clone(),
        }
    }
}

/// A role has a permission.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PermissionLinkRow {
    pub permission_id: String,
    pub role_id: String,
}

impl PermissionLinkRow {
    pub fn id(&self) -> String {
        // Ids have colons in them, and never this.
        format!("{}|{}", self.permission_id, self.role_id)
    }
}

/// A permission for accounts by slug and by role: a grant (slugs alone) and a permit are two views of it.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GrantRow {
    pub id: String,
    pub permission_id: String,
    pub slugs: Vec<String>,
    pub role_ids: Vec<String>,
    /// The tenant, or `*` for all.
    pub app: String,
    /// The account that saved it first.
    pub owner_id: String,
    pub created_at: Time,
    pub updated_at: Time,
}

/// Whose a contact is.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ContactRow {
    pub user_id: String,
    /// The account showed that it is its own; one that did not gives way to one that does.
    #[serde(default)]
    pub verified: bool,
    pub created_at: Time,
}

/// What a code was sent for; it is good for nothing else.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum OtpPurpose {
    Register,
    SignIn,
    /// For the account with this id.
    Verify,
}

/// A one-time code that was sent to a contact.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OtpRow {
    pub id: String,
    pub purpose: OtpPurpose,
    /// The tenant for which it is good.
    #[serde(default = "default_app")]
    pub app: String,
    /// The account that asked; empty where nobody was signed in.
    pub user_id: String,
    pub platform: String,
    /// As it was written.
    pub contact: String,
    /// The code, sealed with the daemon's encryption key.
    pub code: String,
    /// Wrong codes that were tried.
    pub attempts: u32,
    pub expires_at: Time,
}

/// A role for whoever shows that a contact is its own.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ContactEnrollRow {
    /// In its normal form.
    pub contact: String,
    pub role_id: String,
    pub app: String,
    pub created_at: Time,
    /// The account that gave it.
    pub created_by: String,
    /// That account was an admin.
    #[serde(default)]
    pub by_admin: bool,
}

impl ContactEnrollRow {
    /// A digest, since a contact may be long and the id of a document may not.
    pub fn id(&self) -> String {
        use sha2::{Digest, Sha256};
        let digest = Sha256::digest(format!("{}\n{}\n{}", self.app, self.role_id, self.contact));
        format!("contact:{}", digest.iter().map(|byte| format!("{byte:02x}")).collect::<String>())
    }
}

/// A slug that a deleted account had: whoever reached it by this name must not reach another unknowingly.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TombstoneRow {
    pub user_id: String,
    /// Of an organization: the account that founded it, which may not leave ever more of these behind.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub founder_id: String,
    pub deleted_at: Time,
}

/// Its members are the accounts with its two roles.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OrganizationRow {
    pub id: String,
    #[serde(default = "default_app")]
    pub app: String,
    pub name: String,
    /// None where it has none, so that several may have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slug: Option<String>,
    #[serde(default)]
    pub founder_id: String,
    pub created_at: Time,
    pub updated_at: Time,
}

impl OrganizationRow {
    pub fn to_wire(&self) -> openorch_api::user::Organization {
        openorch_api::user::Organization {
            id: self.id.clone(),
            created_at: self.created_at,
            updated_at: self.updated_at,
            name: self.name.clone(),
            slug: self.slug.clone().unwrap_or_default(),
        }
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct InvitationRow {
    pub id: String,
    /// SHA-256 of the code, in hexadecimal: the code itself is shown once and kept nowhere.
    pub code_hash: String,
    /// The tenant for which it is good.
    #[serde(default = "default_app")]
    pub app: String,
    pub created_at: Time,
    pub expires_at: Time,
    pub uses_left: u32,
    pub role_ids: Vec<String>,
    /// The slug of the account that made it.
    pub created_by: String,
    /// Its id, whose rights count when the invitation is redeemed. Empty in rows of older versions.
    #[serde(default)]
    pub created_by_id: String,
}

/// A tenant, known by a host.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AppRow {
    pub id: String,
    pub host: String,
    pub created_at: Time,
    pub updated_at: Time,
}

impl AppRow {
    pub fn to_wire(&self) -> openorch_api::user::App {
        openorch_api::user::App { id: self.id.clone(), host: self.host.clone() }
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct KeyPairRow {
    pub id: String,
    /// PKCS#8, sealed with the daemon's encryption key. Empty once another key signs.
    pub private: String,
    pub created_at: Time,
    /// Of a key that signs no more: since when, and its public half.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retired: Option<RetiredKey>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RetiredKey {
    pub at: Time,
    pub public: openorch_api::user::Key,
}
