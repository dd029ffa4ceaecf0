//! Wire types of accounts, sessions and signing keys.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Contact, ContactInput, Organization, is_false};
use crate::{Time, form, query};

/// An empty object.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Empty {}

/// Body of `register`.
#[derive(Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RegisterRequest {
    /// Display name of the account; empty by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "form::name::<256>")]
    pub name: Option<String>,
    /// Unique name of the account, with which it signs in; cannot be changed.
    #[schemars(schema_with = "form::slug")]
    pub slug: String,
    /// Password of the account. Too short, too long and common ones are refused.
    #[schemars(schema_with = "form::text::<4096>")]
    pub password: String,
    /// A contact of the account; it is added only with a code that was sent to it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub contact: Option<ContactInput>,
    /// Name of the session's device; sign-ins without a device share the session `unknown`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "form::name::<128>")]
    pub device: Option<String>,
    /// The code of an invitation, while registration is by invitation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "form::text::<256>")]
    pub invitation: Option<String>,
    /// The host of the app to register in; `unnamed` by default.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(schema_with = "form::text::<260>")]
    pub app_host: String,
}

/// Response of `register`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct RegisterResponse {
    /// The first session of the account and its token.
    pub token: AuthToken,
}

/// Body of `login`.
#[derive(Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct LoginRequest {
    /// Slug of the account; alternatively `contact`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "form::text::<256>")]
    pub slug: Option<String>,
    /// Password of the account; not needed if `contact` has a code.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "form::text::<4096>")]
    pub password: Option<String>,
    /// A verified contact of the account, instead of the slug; with a code sent to it, instead of the password.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub contact: Option<ContactInput>,
    /// Name of the session's device, for example `cli@host`; sign-ins without a device share the session `unknown`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "form::name::<128>")]
    pub device: Option<String>,
    /// The host of the app to sign in to; `unnamed` by default.
    #[serde(skip_serializing_if = "String::is_empty")]
    #[schemars(schema_with = "form::text::<260>")]
    pub app_host: String,
}

/// Response of `login`, `refreshToken` and `exchangeToken`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct LoginResponse {
    /// The session and its token.
    pub token: AuthToken,
}

/// A session and its token.
#[derive(Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct AuthToken {
    /// Id of the token, `tok_…`: its claim `jti`.
    pub id: String,
    /// The app of the session, in which its roles apply.
    pub app_id: String,
    /// When a token with this id was first issued.
    pub created_at: Time,
    /// When the token was last issued.
    pub updated_at: Time,
    /// Id of the account.
    pub user_id: String,
    /// The JSON Web Token to send as `Authorization: Bearer …`.
    pub token: String,
    /// Whether the token can be used; always true in responses.
    #[serde(skip_serializing_if = "is_false")]
    pub active: bool,
    /// Name of the session's device; `unknown` if none was given.
    pub device: String,
    /// When the token expires (`exp`); the session may last longer.
    pub expires_at: Time,
}

/// Response of `getPublicKey`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct GetPublicKeyResponse {
    /// PEM, `PUBLIC KEY` (SubjectPublicKeyInfo).
    pub public_key: String,
}

/// A JSON Web Key Set (RFC 7517, section 5) with the public keys of session tokens.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct KeySet {
    /// The keys; more than one after a rotation, until the tokens of earlier keys expire.
    pub keys: Vec<Key>,
}

/// An RSA public key (RFC 7518, section 6.3.1): `n` and `e` in unpadded base64url.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Key {
    /// Id of the key, `keyp_…`, as in the header of the tokens that it signs (RFC 7517, section 4.5).
    pub kid: String,
    /// Key type: `RSA`.
    pub kty: String,
    /// Algorithm of the signatures: `RS256` (RFC 7518, section 3.3).
    pub alg: String,
    /// Use of the key: `sig`, for signatures.
    #[serde(rename = "use")]
    pub use_: String,
    /// Modulus, big-endian.
    pub n: String,
    /// Public exponent, big-endian.
    pub e: String,
}

/// An account of a person or a service. Never contains a password hash.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct User {
    /// Id of the account, `usr_…` unless another was given when it was created.
    pub id: String,
    /// When the account was created.
    pub created_at: Time,
    /// When the account was last changed.
    pub updated_at: Time,
    /// Display name; omitted if empty.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// Unique name, with which the account signs in.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub slug: String,
    /// Contacts of the account, such as e-mail addresses.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub contacts: Vec<Contact>,
    /// Arbitrary key-value labels, such as a team or a location.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// The id of a thumbnail image file.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub thumbnail_file_id: String,
}

/// Response of `readUserByToken`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ReadUserByTokenResponse {
    /// The account of the token.
    pub user: User,
    /// Organizations of the account in the session's app, oldest first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub organizations: Vec<Organization>,
    /// Id of the oldest organization that the account founded, else of its oldest one; omitted if it has none.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub active_organization_id: String,
}

/// Body of `saveSelf` and `saveUser`. Omitted fields stay as they are.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct SaveSelfRequest {
    /// New display name.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "form::name::<256>")]
    pub name: Option<String>,
    /// Key-value labels; replaces all existing labels.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "form::labels")]
    pub labels: Option<BTreeMap<String, String>>,
    /// The id of a thumbnail image file.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "form::name::<256>")]
    pub thumbnail_file_id: Option<String>,
}

/// Body of `changePassword`.
#[derive(Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ChangePasswordRequest {
    /// Your slug; optional.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "form::text::<256>")]
    pub slug: Option<String>,
    /// Current password of the account.
    #[schemars(schema_with = "form::text::<4096>")]
    pub current_password: String,
    /// New password. Too short, too long and common ones are refused.
    #[schemars(schema_with = "form::text::<4096>")]
    pub new_password: String,
}

/// Body of `revokeTokens`; ends the current session if empty.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct RevokeTokensRequest {
    /// End the session on this device instead of the current one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "form::name::<128>")]
    pub device: Option<String>,
    /// The account whose sessions end; the caller by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "form::text::<128>")]
    pub user_id: Option<String>,
    /// End all sessions of the account.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub all_tokens: Option<bool>,
}

/// Body of `isAuthorized`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct IsAuthorizedRequest {
    /// Slugs of accounts that are authorized regardless of their permissions.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "form::texts::<256, 1000>")]
    pub granted_slugs: Vec<String>,
}

/// Response of `isAuthorized`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct IsAuthorizedResponse {
    /// Always true: a denial has the status 401.
    pub authorized: bool,
    /// The account of the caller.
    pub user: User,
}

/// Body of `readSelf`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ReadSelfRequest {
    /// Whether to count the account's sessions.
    #[serde(skip_serializing_if = "is_false")]
    pub count_tokens: bool,
}

/// Response of `readSelf`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ReadSelfResponse {
    /// The account of the caller.
    pub user: User,
    /// The ids of the account's roles.
    pub roles: Vec<String>,
    /// Organizations of the account in the session's app, oldest first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub organizations: Vec<Organization>,
    /// Contacts of the account, as in `user`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub contacts: Vec<Contact>,
    /// Id of the oldest organization that the account founded, else of its oldest one; omitted if it has none.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub active_organization_id: String,
    /// Number of sessions of the account, if requested.
    pub token_count: u64,
}

/// Selects accounts by a query object, or by the simpler fields.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct GetUsersRequest {
    /// Filters, order and limit. Combined with the simpler fields; its own limit and order take precedence.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub query: Option<query::Query>,
    /// Accounts with these ids; any if empty.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "form::texts::<128, 1000>")]
    pub ids: Vec<String>,
    /// Accounts with this contact, or with a word in the slug or name that starts with this text.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "form::text::<256>")]
    pub search: Option<String>,
    /// Accounts with this contact.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "form::text::<400>")]
    pub contact_id: Option<String>,
    /// Maximum number of results: 20 by default, at most 1,000.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub limit: Option<i64>,
    /// Results after this time, in the chosen order.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after_time: Option<Time>,
    /// `asc` or `desc` (default).
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("enum" = ["asc", "desc", ""]))]
    pub order: Option<String>,
    /// `createdAt` (default) or `updatedAt`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("enum" = ["createdAt", "updatedAt", ""]))]
    pub order_by: Option<String>,
    /// Whether to return the total number of matches.
    #[serde(skip_serializing_if = "is_false")]
    pub count: bool,
}

/// Response of `getUsers`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct GetUsersResponse {
    /// The accounts of this page, in the chosen order.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub users: Vec<User>,
    /// Not used: always the zero time. `next` continues the list.
    pub after: Time,
    /// Total number of matches, if requested.
    pub count: u64,
    /// Cursor of the next page, to be sent as `jsonAfter` with the same query; empty on the last page.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub next: String,
}

/// The data of a new account.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct UserInput {
    /// Generated if omitted.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(schema_with = "form::account_id_if_any")]
    pub id: String,
    /// Display name; must not be empty.
    #[schemars(schema_with = "form::given_name::<256>")]
    pub name: String,
    /// Unique name of the account, with which it signs in; cannot be changed.
    #[schemars(schema_with = "form::slug")]
    pub slug: String,
    /// At most one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 1))]
    pub contacts: Vec<ContactInput>,
    /// Arbitrary key-value labels, such as a team or a location.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "form::labels")]
    pub labels: BTreeMap<String, String>,
    /// The id of a thumbnail image file.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(schema_with = "form::name::<256>")]
    pub thumbnail_file_id: String,
}

/// Body of `createUser`.
#[derive(Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CreateUserRequest {
    /// The data of the new account.
    pub user: UserInput,
    /// If omitted, the account cannot sign in until it has a password.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "form::text::<4096>")]
    pub password: Option<String>,
    /// `user-svc:user` by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "form::names::<256, 32>")]
    pub role_ids: Option<Vec<String>>,
    /// The host of the app in which the roles apply; the caller's app by default.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(schema_with = "form::text::<260>")]
    pub app_host: String,
    /// At most one; can be given here or in `user`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 1))]
    pub contacts: Vec<ContactInput>,
}

/// Response of `createUser`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct CreateUserResponse {
    /// The new account.
    pub user: User,
}

/// Body of `resetPassword`.
#[derive(Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ResetPasswordRequest {
    /// New password of the account. Too short, too long and common ones are refused.
    #[schemars(schema_with = "form::text::<4096>")]
    pub new_password: String,
}

/// A session: an account signed in on a device. Does not contain the token.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Session {
    /// Id of the session, `ses_…`.
    pub id: String,
    /// Id of the account.
    pub user_id: String,
    /// Id of the app of the session.
    pub app_id: String,
    /// Name of the device given at sign-in; sign-ins without a device share the session `unknown`.
    pub device: String,
    /// When the account signed in; for an exchanged session, when the original one was created.
    pub created_at: Time,
    /// The last use; accurate to the hour if the daemon was restarted since.
    pub used_at: Time,
    /// Whether it is the session of this request.
    #[serde(skip_serializing_if = "is_false")]
    pub current: bool,
}

/// Query parameters of `listSessions`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ListSessionsRequest {
    /// The account; the caller by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "form::text::<128>")]
    pub user_id: Option<String>,
}

/// Response of `listSessions`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ListSessionsResponse {
    /// The sessions that have not ended and that the caller may end.
    pub sessions: Vec<Session>,
}
