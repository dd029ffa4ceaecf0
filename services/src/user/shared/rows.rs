//! The stored rows of accounts and contacts, which all parts read, and of the service itself.

use std::collections::BTreeMap;

use openorch_api::{
    Time,
    user::{Contact, User},
};
use openorch_store::{Collection, Index};
use serde::{Deserialize, Serialize};

/// The app of everything that does not name one (decision "Apps").
pub const DEFAULT_APP: &str = "unnamed";
/// Stands for all apps.
pub const ALL_APPS: &str = "*";

/// For rows of versions without apps.
pub fn default_app() -> String {
    DEFAULT_APP.to_owned()
}

pub static USERS: Collection = Collection {
    name: "userSvcUsers",
    indexes: &[
        Index::unique(&["slug"]),
        Index::each("searchPrefixes", &["createdAt"]),
        Index::on(&["createdAt"]),
        Index::on(&["updatedAt"]),
    ],
};
/// Owners of contacts. The id is the normalized contact, so that no two accounts have the same.
pub static CONTACTS: Collection = Collection { name: "userSvcContacts", indexes: &[Index::on(&["userId"])] };
/// Tombstones of deleted slugs, account ids and organization ids, which form the row id.
pub static TOMBSTONES: Collection = Collection { name: "userSvcTombstones", indexes: &[Index::on(&["founderId"])] };
/// Completed migrations. The id is the name of the migration.
pub static MIGRATIONS: Collection = Collection { name: "userSvcMigrations", indexes: &[] };
/// The grace period after a clock jump, in which nothing expires by age: one row.
pub static CLOCK_GRACE: Collection = Collection { name: "userSvcClockGrace", indexes: &[] };

/// The id of the tombstone of an account id. An account that has one is being deleted. Slugs contain no colon.
pub fn id_tombstone(id: &str) -> String {
    format!("account:{id}")
}

/// An account. Its password hash is a separate row, so that code that reads accounts never holds one.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct UserRow {
    pub id: String,
    pub slug: String,
    pub name: String,
    /// In the format of the API, except the id of the account.
    #[serde(default)]
    pub contacts: Vec<Contact>,
    /// Prefixes of the words in slug and name, for searches: see [`search_prefixes`].
    #[serde(default)]
    pub search_prefixes: Vec<String>,
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    #[serde(default)]
    pub thumbnail_file_id: String,
    /// The id of the app where the account was created. Managing the account always needs the right there, whatever
    /// roles it has now. Empty in rows of older versions, see `Account::new`.
    #[serde(default)]
    pub home_app: String,
    pub created_at: Time,
    pub updated_at: Time,
}

impl From<&UserRow> for User {
    fn from(row: &UserRow) -> User {
        User {
            id: row.id.clone(),
            created_at: row.created_at,
            updated_at: row.updated_at,
            name: row.name.clone(),
            slug: row.slug.clone(),
            contacts: row.contacts.clone(),
            labels: row.labels.clone(),
            thumbnail_file_id: row.thumbnail_file_id.clone(),
        }
    }
}

/// Maximum length of an indexed prefix.
const PREFIX_LENGTH: usize = 3;
/// Maximum number of indexed words of a name.
const MAX_WORDS: usize = 16;

/// The first one, two and three letters of each word of an account's slug and name. The index returns matching accounts
/// in page order, and few enough to filter by the rest of the search.
pub fn search_prefixes(slug: &str, name: &str) -> Vec<String> {
    let mut prefixes: Vec<String> = words(slug)
        .chain(words(name).take(MAX_WORDS))
        .flat_map(|word| (1..=PREFIX_LENGTH).map(move |length| word.chars().take(length).collect()))
        .collect();
    prefixes.sort();
    prefixes.dedup();
    prefixes
}

/// The indexed prefix of a search.
pub fn search_prefix(search: &str) -> String {
    words(search).next().unwrap_or_default().chars().take(PREFIX_LENGTH).collect()
}

fn words(text: &str) -> impl Iterator<Item = String> {
    let words: Vec<String> =
        text.to_lowercase().split(|letter: char| !letter.is_alphanumeric()).map(str::to_owned).collect();
    words.into_iter().filter(|word| !word.is_empty())
}

/// A completed migration of stored rows.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MigrationRow {
    pub at: Time,
}

/// See [`openorch_chassis::expiry::ExpiryGrace::remaining`].
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClockGraceRow {
    pub seconds_left: u64,
}

/// The owner of a contact.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ContactRow {
    pub user_id: String,
    /// Verified by the account. Unverified ownership yields to verified ownership.
    #[serde(default)]
    pub verified: bool,
    pub created_at: Time,
}

/// Marks a name of a deleted account or organization, so that clients using the name do not reach another one
/// unknowingly.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TombstoneRow {
    pub user_id: String,
    /// Of an organization: its founder, whose tombstones count against its quota.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub founder_id: String,
    pub deleted_at: Time,
}
