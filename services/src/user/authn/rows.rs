//! What is stored of passwords, sessions, codes and keys.

use openorch_api::Time;
use openorch_store::{Collection, Index};
use serde::{Deserialize, Serialize};

use crate::user::shared::rows::default_app;

pub static OTPS: Collection = Collection { name: "userSvcOtps", indexes: &[Index::on(&["expiresAt"])] };
pub static PASSWORDS: Collection =
    Collection { name: "userSvcPasswords", indexes: &[Index::on(&["meetsNetworkRule"])] };
pub static SESSIONS: Collection = Collection {
    name: "userSvcSessions",
    indexes: &[Index::unique(&["userId", "app", "device"]), Index::on(&["userId", "exchangedFrom"])],
};
/// From where accounts have signed in; the id is a digest of what the throttle counts them by.
pub static KNOWN_ADDRESSES: Collection =
    Collection { name: "userSvcKnownAddresses", indexes: &[Index::on(&["userId"])] };
pub static KEY_PAIRS: Collection = Collection { name: "userSvcKeyPairs", indexes: &[] };

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
    /// Of the roles in the token's present text, so that a change is seen: the roles themselves may be very long. Rows of
    /// older versions have none.
    #[serde(default)]
    pub roles_digest: String,
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
    /// As it is published.
    pub public: openorch_api::user::Key,
}
