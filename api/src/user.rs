//! The contract of user-svc: accounts, sessions, roles and permissions.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{Access, Body, Json, Path, Time, op::Effect, ops, path_values, permissions};

pub static SERVICE: crate::Service =
    crate::Service { slug: "user-svc", name: "User Svc", operations: OPERATIONS, permissions: PERMISSIONS };

permissions! {
    USER_CREATE "user-svc:user:create" "Create accounts, and invitations to register." [ADMIN];
    USER_VIEW "user-svc:user:view" "See all accounts." [ADMIN];
    USER_EDIT "user-svc:user:edit" "Edit all accounts." [ADMIN];
    USER_DELETE "user-svc:user:delete" "Delete accounts." [ADMIN];
    USER_PASSWORD_CHANGE "user-svc:user:passwordChange" "Change the own password." [ADMIN, USER];
    USER_PASSWORD_RESET "user-svc:user:passwordReset" "Set the password of another account." [ADMIN];
    ROLE_CREATE "user-svc:role:create" "Create roles under the own slug." [ADMIN, USER];
    ROLE_EDIT "user-svc:role:edit" "Edit roles." [ADMIN];
    ROLE_VIEW "user-svc:role:view" "See roles." [ADMIN];
    ROLE_DELETE "user-svc:role:delete" "Delete roles." [ADMIN];
    PERMISSION_CREATE "user-svc:permission:create" "Create permissions under the own slug." [ADMIN, USER];
    PERMISSION_EDIT "user-svc:permission:edit" "Edit the own permissions." [ADMIN, USER];
    PERMISSION_ASSIGN "user-svc:permission:assign" "Give the own permissions to roles." [ADMIN, USER];
    ORGANIZATION_CREATE "user-svc:organization:create" "Create organizations." [ADMIN, USER];
    ORGANIZATION_ADD_USER "user-svc:organization:add-user" "Add accounts to the own organizations." [ADMIN, USER];
    ORGANIZATION_REMOVE_USER "user-svc:organization:remove-user" "Remove accounts from the own organizations." [ADMIN, USER];
    GRANT_VIEW "user-svc:grant:view" "See grants." [ADMIN];
    GRANT_CREATE "user-svc:grant:create" "Save grants." [ADMIN];
    TOKEN_REVOKE "user-svc:token:revoke" "End the sessions of other accounts." [ADMIN];
}

path_values! {
    /// The id of a permission, for example `user-svc:role:view`.
    PermissionId at most 256;
    /// The id of an invitation.
    InvitationId at most 128;
}

ops! {
    /// Register an account, for a person or a service, and sign it in.
    REGISTER "register" = POST "/user-svc/register"
        (Body<RegisterRequest>) -> Json<RegisterResponse>,
        access: Access::Public, audited: true, normalise: Some(accept_other_contacts),
        errors: &[(403, "registration is closed or needs an invitation"), (409, "the slug is taken"),
            (429, "too many at once; try again in a moment")];

    /// Sign in with slug and password.
    ///
    /// From the same device the same session is answered again.
    LOGIN "login" = POST "/user-svc/login"
        (Body<LoginRequest>) -> Json<LoginResponse>,
        access: Access::Public, normalise: Some(accept_other_contacts),
        errors: &[(401, "the password is wrong"), (429, "too many at once; try again in a moment")];

    /// The key that session tokens are signed with, as PEM.
    GET_PUBLIC_KEY "getPublicKey" = GET "/user-svc/public-key"
        () -> Json<GetPublicKeyResponse>,
        access: Access::Public;

    /// The keys that session tokens are signed with, as a JSON Web Key Set (RFC 7517).
    GET_KEY_SET "getKeySet" = GET "/user-svc/jwks.json"
        () -> Json<KeySet>,
        access: Access::Public, aliases: &["/.well-known/jwks.json"];

    /// The account behind the token.
    READ_USER_BY_TOKEN "readUserByToken" = POST "/user-svc/user/by-token"
        () -> Json<ReadUserByTokenResponse>,
        access: Access::SignedIn, effect: Some(Effect::Read), delegated: true;

    /// Change the own profile.
    SAVE_SELF "saveSelf" = PUT "/user-svc/self"
        (Body<SaveSelfRequest>) -> Json<Empty>,
        access: Access::SignedIn, audited: true;

    /// Change the own password. Ends all other sessions of the account, and also the caller's own when it was made
    /// without naming a device.
    CHANGE_PASSWORD "changePassword" = POST "/user-svc/change-password"
        (Body<ChangePasswordRequest>) -> Json<Empty>,
        access: Access::needs(&USER_PASSWORD_CHANGE), audited: true,
        errors: &[(409, "the password was changed by someone else meanwhile"),
            (429, "too many at once; try again in a moment")];

    /// Sign out: end the caller's session, that of another device of the account, or all of them. Their tokens are
    /// refused from then on.
    ///
    /// The session that programs without a device of their own share (`unknown`) ends only when it is the caller's own or
    /// named. With `userId` an admin ends sessions of another account, that one included.
    REVOKE_TOKENS "revokeTokens" = DELETE "/user-svc/tokens"
        (Body<RevokeTokensRequest>) -> Json<Empty>,
        access: Access::SignedIn, audited: true,
        errors: &[(403, "the account is another's and the caller lacks `user-svc:token:revoke`"),
            (404, "there is no such account, or no session on this device")];

    /// Whether the caller has a permission: 200 if so, 401 for every no.
    IS_AUTHORIZED "isAuthorized" = POST "/user-svc/permission/{permissionId}/is-authorized"
        ((Path<PermissionId>, Body<IsAuthorizedRequest>)) -> Json<IsAuthorizedResponse>,
        access: Access::SignedIn, effect: Some(Effect::Read), delegated: true;

    /// Make an invitation: a code with which accounts can be registered while registration is by invitation.
    CREATE_INVITATION "createInvitation" = POST "/user-svc/invitation"
        (Body<CreateInvitationRequest>) -> Json<CreateInvitationResponse>,
        access: Access::needs(&USER_CREATE), audited: true;

    /// List invitations, without their codes.
    LIST_INVITATIONS "listInvitations" = GET "/user-svc/invitations"
        () -> Json<ListInvitationsResponse>,
        access: Access::needs(&USER_CREATE);

    /// Revoke an invitation.
    REVOKE_INVITATION "revokeInvitation" = DELETE "/user-svc/invitation/{invitationId}"
        (Path<InvitationId>) -> Json<Empty>,
        access: Access::needs(&USER_CREATE), audited: true,
        errors: &[(404, "there is no invitation with this id")];
}

/// The published form of `contact` in sign-in is a text; the successor's is an object whose `id` is the address. Both
/// become an object with `value`.
fn accept_other_contacts(body: &mut Value) {
    let Some(contact) = body.get_mut("contact") else { return };
    match contact {
        Value::String(text) => *contact = serde_json::json!({ "value": text.as_str() }),
        Value::Object(fields) if !fields.contains_key("value") => {
            if let Some(id) = fields.remove("id") {
                fields.insert("value".into(), id);
            }
        }
        _ => {}
    }
}

pub(crate) fn is_false(value: &bool) -> bool {
    !value
}

pub(crate) fn is_zero<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// `{}`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Empty {}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct RegisterRequest {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub slug: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub password: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub contact: Option<ContactInput>,
    /// What the session is called; sessions that name none share `unknown`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
    /// The code of an invitation, while registration is by invitation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub invitation: Option<String>,
}

/// How an account can be reached. What a caller says of verification is ignored.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ContactInput {
    #[serde(skip_serializing_if = "String::is_empty")]
    pub platform: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub value: String,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct RegisterResponse {
    pub token: AuthToken,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct LoginRequest {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub slug: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub password: Option<String>,
    /// Accepted and not used: accounts sign in by slug.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub contact: Option<Value>,
    /// What the session is called, for example `cli@host`; sessions that name none share `unknown`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct LoginResponse {
    pub token: AuthToken,
}

/// A session and the token that stands for it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct AuthToken {
    pub id: String,
    pub created_at: Time,
    pub updated_at: Time,
    pub user_id: String,
    /// The JSON Web Token to send as `Authorization: Bearer …`.
    pub token: String,
    #[serde(skip_serializing_if = "is_false")]
    pub active: bool,
    pub device: String,
    /// When the token's text ends (`exp`); the session may live on.
    pub expires_at: Time,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct GetPublicKeyResponse {
    /// PEM, `PUBLIC KEY` (SubjectPublicKeyInfo).
    pub public_key: String,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct KeySet {
    pub keys: Vec<Key>,
}

/// An RSA public key (RFC 7518, section 6.3.1): `n` and `e` in unpadded base64url.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Key {
    pub kid: String,
    pub kty: String,
    pub alg: String,
    #[serde(rename = "use")]
    pub use_: String,
    pub n: String,
    pub e: String,
}

/// An account, of a person or a service. Never carries a password hash.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct User {
    pub id: String,
    pub created_at: Time,
    pub updated_at: Time,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub slug: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub contacts: Vec<Contact>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Contact {
    #[serde(skip_serializing_if = "String::is_empty")]
    pub id: String,
    pub created_at: Time,
    pub updated_at: Time,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub user_id: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub platform: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub value: String,
    #[serde(skip_serializing_if = "is_false")]
    pub verified: bool,
    #[serde(skip_serializing_if = "is_false")]
    pub is_primary: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ReadUserByTokenResponse {
    pub user: User,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub organizations: Vec<Organization>,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub active_organization_id: String,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Organization {
    pub id: String,
    pub created_at: Time,
    pub updated_at: Time,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub slug: String,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct SaveSelfRequest {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ChangePasswordRequest {
    /// The own slug; may be left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub slug: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub current_password: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub new_password: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct RevokeTokensRequest {
    /// End the session on this device instead of the caller's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
    /// The account whose sessions end; the caller's when left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user_id: Option<String>,
    /// End all sessions of the account.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub all_tokens: Option<bool>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct IsAuthorizedRequest {
    /// Accounts that pass whatever permissions they have.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub granted_slugs: Vec<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct IsAuthorizedResponse {
    pub authorized: bool,
    pub user: User,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct CreateInvitationRequest {
    /// Seconds until it ends; seven days when left out, a year at most.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires_in: Option<u64>,
    /// How many accounts it may make; one when left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uses: Option<u32>,
    /// The roles of those accounts; `user-svc:user` when left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub role_ids: Option<Vec<String>>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct CreateInvitationResponse {
    pub invitation: Invitation,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct ListInvitationsResponse {
    pub invitations: Vec<Invitation>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Invitation {
    pub id: String,
    /// Shown once, in the answer that makes it.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub code: String,
    pub created_at: Time,
    pub expires_at: Time,
    pub uses_left: u32,
    pub role_ids: Vec<String>,
    pub created_by: String,
}
