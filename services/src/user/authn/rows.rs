//! The stored rows of passwords, sessions, one-time codes and keys.

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
/// Addresses from which accounts have signed in. The id is a digest of the throttle key.
pub static KNOWN_ADDRESSES: Collection =
    Collection { name: "userSvcKnownAddresses", indexes: &[Index::on(&["userId"])] };
pub static KEY_PAIRS: Collection = Collection { name: "userSvcKeyPairs", indexes: &[] };

/// The password of the account with the same id. Accounts of built-in services have none and cannot sign in.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PasswordRow {
    pub hash: String,
    /// The admin still has the well-known default password.
    #[serde(default)]
    pub is_default: bool,
    /// Whether it met the network rule when last set or matched. `None`: the hash is from a version that did not
    /// normalize passwords, and the password has not been matched since.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub meets_network_rule: Option<bool>,
    pub updated_at: Time,
}

/// A session of an account on a device. The token is not stored; it is rebuilt from these fields.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SessionRow {
    pub id: String,
    pub user_id: String,
    pub app: String,
    pub device: String,
    /// The session from which it was exchanged, and with which it ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exchanged_from: Option<String>,
    /// When the account signed in.
    pub created_at: Time,
    /// Updated when it is an hour older than the last use.
    pub used_at: Time,
    pub token_id: String,
    pub token_created_at: Time,
    /// The `iat` claim of the current token.
    pub issued_at: Time,
    /// A digest of the roles in the current token, to detect changes; the roles themselves may be very long. Empty in
    /// rows of older versions.
    #[serde(default)]
    pub roles_digest: String,
}

/// Addresses from which an account has signed in, oldest first.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct KnownAddressesRow {
    pub user_id: String,
    pub addresses: Vec<KnownAddress>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct KnownAddress {
    /// The address; for IPv6 its /64.
    pub network: String,
    pub at: Time,
}

/// The purpose of a code; it is valid for no other.
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
    /// The app for which it is valid.
    #[serde(default = "default_app")]
    pub app: String,
    /// The account that requested it; empty if requested without signing in.
    pub user_id: String,
    pub platform: String,
    /// As entered by the user.
    pub contact: String,
    /// The code, encrypted with the daemon's encryption key.
    pub code: String,
    /// Number of wrong attempts.
    pub attempts: u32,
    pub expires_at: Time,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct KeyPairRow {
    pub id: String,
    /// PKCS#8, encrypted with the daemon's encryption key. Removed when another key takes over.
    pub private: String,
    pub created_at: Time,
    /// For a key that no longer signs: its public key and when it was retired.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retired: Option<RetiredKey>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RetiredKey {
    pub at: Time,
    /// In published form.
    pub public: openorch_api::user::Key,
}
