//! What is stored of accounts and contacts, which all parts look at, and of the service itself.

use std::collections::BTreeMap;

use openorch_api::{
    Time,
    user::{Contact, User},
};
use openorch_store::{Collection, Index};
use serde::{Deserialize, Serialize};

/// The tenant of everything that does not name one (decision "Apps").
pub const DEFAULT_APP: &str = "unnamed";
/// Where something counts in all tenants.
pub const ALL_APPS: &str = "*";

/// For rows of versions that knew no apps.
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
/// Who has which contact; the id is the contact in its normal form, so that no two accounts have the same.
pub static CONTACTS: Collection = Collection { name: "userSvcContacts", indexes: &[Index::on(&["userId"])] };
/// The slugs of deleted accounts; the id is the slug.
pub static TOMBSTONES: Collection = Collection { name: "userSvcTombstones", indexes: &[Index::on(&["founderId"])] };
/// What was done once to the rows of older versions; the id is its name.
pub static MIGRATIONS: Collection = Collection { name: "userSvcMigrations", indexes: &[] };
/// How long nothing ends for its age since the clock jumped: one row.
pub static CLOCK_GRACE: Collection = Collection { name: "userSvcClockGrace", indexes: &[] };

/// An account. Its password hash is a row of its own, so that nothing that reads accounts ever holds one.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct UserRow {
    pub id: String,
    pub slug: String,
    pub name: String,
    /// As they are told, but for the id of the account.
    #[serde(default)]
    pub contacts: Vec<Contact>,
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
