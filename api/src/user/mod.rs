//! The contract of user-svc: accounts, sessions, roles and permissions.

mod account;
mod app;
mod audit;
mod conditions;
mod contact;
mod debug;
pub mod errors;
mod invitation;
mod organization;
mod rules;

use serde_json::Value;

pub use self::{account::*, app::*, audit::*, contact::*, invitation::*, organization::*, rules::*};
use self::{conditions::*, errors::*};
use crate::{
    Access, Body, Json, Path, Query,
    error::access,
    input,
    op::{Effect, Idempotency},
    ops, path_values, permissions,
    query::{self, PageRequest},
};

/// user-svc with its operations, permissions and errors.
pub static SERVICE: crate::Service = crate::Service {
    slug: "user-svc",
    name: "User Svc",
    operations: OPERATIONS,
    permissions: PERMISSIONS,
    errors: errors::ERRORS,
};

permissions! {
    USER_CREATE "user-svc:user:create" "Create accounts, and invitations to register." [ADMIN];
    USER_VIEW "user-svc:user:view" "See all accounts." [ADMIN], PLATFORM_SCOPED;
    USER_EDIT "user-svc:user:edit" "Edit all accounts." [ADMIN];
    USER_DELETE "user-svc:user:delete" "Delete accounts." [ADMIN];
    USER_PASSWORD_CHANGE "user-svc:user:passwordChange" "Change your password." [ADMIN, USER];
    USER_PASSWORD_RESET "user-svc:user:passwordReset" "Set the password of another account." [ADMIN];
    ROLE_CREATE "user-svc:role:create" "Create roles under your own slug." [ADMIN, USER];
    ROLE_EDIT "user-svc:role:edit" "Edit roles." [ADMIN], PLATFORM_SCOPED;
    ROLE_VIEW "user-svc:role:view" "See roles." [ADMIN], PLATFORM_SCOPED;
    ROLE_DELETE "user-svc:role:delete" "Delete roles." [ADMIN], PLATFORM_SCOPED;
    PERMISSION_CREATE "user-svc:permission:create" "Create permissions under your own slug." [ADMIN, USER];
    PERMISSION_EDIT "user-svc:permission:edit" "Edit your own permissions." [ADMIN, USER];
    PERMISSION_ASSIGN "user-svc:permission:assign" "Assign your own permissions to roles." [ADMIN, USER];
    PERMISSION_DELETE "user-svc:permission:delete" "Delete permissions." [ADMIN], PLATFORM_SCOPED;
    ORGANIZATION_CREATE "user-svc:organization:create" "Create organizations." [ADMIN, USER];
    ORGANIZATION_ADD_USER "user-svc:organization:add-user" "Add accounts to your own organizations." [ADMIN, USER];
    ORGANIZATION_REMOVE_USER "user-svc:organization:remove-user" "Remove accounts from your own organizations." [ADMIN, USER];
    ORGANIZATION_VIEW "user-svc:organization:view" "See all organizations." [ADMIN];
    GRANT_VIEW "user-svc:grant:view" "See grants." [ADMIN], PLATFORM_SCOPED;
    GRANT_CREATE "user-svc:grant:create" "Save grants." [ADMIN];
    SLUG_RELEASE "user-svc:slug:release" "Release the slug of a deleted account, or the id of a deleted organization, for reuse." [ADMIN], PLATFORM_SCOPED;
    KEY_ROTATE "user-svc:key:rotate" "Rotate the key that signs tokens." [ADMIN], PLATFORM_SCOPED;
    DELEGATION_VIEW "user-svc:delegation:view" "See which operations and services are delegated to services." [ADMIN], PLATFORM_SCOPED;
    DELEGATION_EDIT "user-svc:delegation:edit" "Configure what services may do on behalf of their callers." [ADMIN], PLATFORM_SCOPED;
    AUDIT_VIEW "user-svc:audit:view" "Read the audit log." [ADMIN], PLATFORM_SCOPED;
    APP_MULTI_VIEW "user-svc:app:multi-view" "See all apps." [ADMIN], PLATFORM_SCOPED;
    APP_EDIT "user-svc:app:edit" "Create and delete apps, and change their hosts." [ADMIN], PLATFORM_SCOPED;
    TOKEN_REVOKE "user-svc:token:revoke" "End the sessions of other accounts." [ADMIN];
}

path_values! {
    /// The id of a permission, for example `user-svc:role:view`.
    PermissionId at most 256;
    /// The id of a role, for example `user-svc:user`.
    RoleId at most 256;
    /// The id of a grant or a permit.
    GrantId at most 256;
    /// The id of an account.
    UserId at most 128;
    /// The id of an enroll.
    EnrollId at most 512;
    /// The id of a contact: its normalized form, as in `contacts[].id`.
    ContactId at most 400;
    /// The id of a session.
    SessionId at most 128;
    /// The slug of a service.
    ServiceSlug at most 63;
    /// The slug of a deleted account.
    DeletedSlug at most 63;
    /// The id of an organization.
    OrganizationId at most 128;
    /// The id of a deleted organization.
    DeletedOrganizationId at most 128;
    /// The id of an invitation.
    InvitationId at most 128;
    /// The id of an app.
    AppId at most 128;
}

ops! {
    /// Register an account for a person or a service, and sign it in.
    REGISTER "register" = POST "/user-svc/register"
        (Body<RegisterRequest>) -> Json<RegisterResponse>,
        access: Access::Public, repeat: Some(Idempotency::Never),
        audited: true, audit_targets: &["/slug"], normalize_body: Some(accept_alternative_contacts),
        errors: &[
            &REGISTRATION_CLOSED, &REGISTRATION_LOCAL_ONLY, &INVITATION_REQUIRED, &INVITATION_NOT_VALID,
            &SLUG_TAKEN, &ACCOUNT_EXISTS, &CONTACT_TAKEN, &CODE_NOT_VALID, &PASSWORD_REFUSED, &NO_SUCH_APP,
            &TOO_MANY_SIGN_INS, &TOO_MANY_WRONG_PASSWORDS, &TOO_MANY_REGISTRATIONS,
        ];

    /// Sign in with the slug or a verified contact and the password, or with a contact and the code that was sent to it.
    ///
    /// Signing in again from the same device returns the same session.
    LOGIN "login" = POST "/user-svc/login"
        (Body<LoginRequest>) -> Json<LoginResponse>,
        access: Access::Public, repeat: Some(Idempotency::Never),
        audited: true, audit_targets: &["/slug", "/contact/value"], normalize_body: Some(accept_alternative_contacts),
        errors: &[
            &SLUG_NOT_FOUND, &CODE_NOT_VALID, &WRONG_PASSWORD, &CONTACT_GONE, &access::SESSION_ENDED,
            &access::ACCOUNT_GONE, &NO_ROLE_IN_APP, &PASSWORD_TOO_WEAK, &NO_SUCH_APP, &TOO_MANY_SIGN_INS,
            &TOO_MANY_WRONG_PASSWORDS,
        ];

    /// The public key of session tokens, as PEM.
    GET_PUBLIC_KEY "getPublicKey" = GET "/user-svc/public-key"
        () -> Json<GetPublicKeyResponse>,
        access: Access::Public;

    /// The public keys of session tokens, as a JSON Web Key Set (RFC 7517).
    GET_KEY_SET "getKeySet" = GET "/user-svc/jwks.json"
        () -> Json<KeySet>,
        access: Access::Public, aliases: &["/.well-known/jwks.json"];

    /// Rotate the signing key of tokens.
    ///
    /// Tokens signed with the previous key stay valid; both keys are published until they expire.
    ROTATE_KEY "rotateKey" = POST "/user-svc/key/rotate"
        () -> Json<KeySet>,
        access: Access::needs(&KEY_ROTATE), repeat: Some(Idempotency::Never),
        audited: true, errors: &[&KEYS_ROTATED_TOO_OFTEN];

    /// Issue a new token for the caller's session, with the current roles.
    REFRESH_TOKEN "refreshToken" = POST "/user-svc/refresh-token"
        () -> Json<LoginResponse>,
        access: Access::SignedIn, repeat: Some(Idempotency::Never);

    /// Exchange the token for one of another app in which the account has roles, or of another device. The new session ends
    /// with the one that it was exchanged from.
    EXCHANGE_TOKEN "exchangeToken" = PUT "/user-svc/token/exchange"
        (Body<ExchangeTokenRequest>) -> Json<LoginResponse>,
        access: Access::SignedIn, repeat: Some(Idempotency::Never),
        audited: true, audit_targets: &["/newAppHost", "/newAppId", "/newDevice"],
        errors: &[&NO_ROLE_IN_APP, &ALREADY_EXCHANGED, &NO_SUCH_APP, &DEVICE_IN_USE, &TOO_MANY_EXCHANGED];

    /// List the apps with the given ids and hosts, or all apps, which needs a permission.
    LIST_APPS "listApps" = POST "/user-svc/apps"
        (Body<ListAppsRequest>) -> Json<ListAppsResponse>,
        long_response: true, access: Access::SignedIn, condition: Some(&NAMES_APPS), effect: Some(Effect::Read);

    /// Find the app of a host.
    READ_APP "readApp" = POST "/user-svc/app"
        (Body<ReadAppRequest>) -> Json<ReadAppResponse>,
        access: Access::Public, effect: Some(Effect::Read),
        errors: &[&NO_SUCH_APP];

    /// Create an app, or change the host of one.
    UPDATE_APP "updateApp" = PUT "/user-svc/app"
        (Body<UpdateAppRequest>) -> Json<UpdateAppResponse>,
        access: Access::needs(&APP_EDIT), repeat: Some(Idempotency::Keyed),
        audited: true, audit_targets: &["/id", "/newHost"], normalize_body: Some(accept_host_key),
        errors: &[&TOO_MANY_APPS, &APP_BUILT_IN, &NO_SUCH_APP, &APP_HOST_TAKEN];

    /// Delete an app. Its id is never reused; its host can be.
    ///
    /// Fails without `cascade` if the app has members, sessions, organizations, invitations, or permits created by admins.
    /// Permits and role assignments that accounts created there without being members or admins are deleted with the app.
    DELETE_APP "deleteApp" = DELETE "/user-svc/app/{appId}"
        ((Path<AppId>, Query<DeleteAppRequest>)) -> Json<Empty>,
        access: Access::needs(&APP_EDIT), repeat: Some(Idempotency::Natural), audited: true,
        errors: &[&APP_BUILT_IN, &NO_SUCH_APP, &APP_NOT_EMPTY];

    /// The account of the token.
    READ_USER_BY_TOKEN "readUserByToken" = POST "/user-svc/user/by-token"
        () -> Json<ReadUserByTokenResponse>,
        access: Access::SignedIn, effect: Some(Effect::Read), delegated: true;

    /// Your account with its roles and organizations.
    READ_SELF "readSelf" = POST "/user-svc/self"
        (Body<ReadSelfRequest>) -> Json<ReadSelfResponse>,
        access: Access::SignedIn, effect: Some(Effect::Read);

    /// Change your profile.
    SAVE_SELF "saveSelf" = PUT "/user-svc/self"
        (Body<SaveSelfRequest>) -> Json<Empty>,
        access: Access::SignedIn, repeat: Some(Idempotency::Natural), audited: true;

    /// Send a code to a contact. The code can be used to register with the contact, which verifies it, or to sign in to the
    /// account that has it. The response does not reveal which of the two applies; the message that arrives does.
    SEND_OTP "sendOtp" = POST "/user-svc/otp/send"
        (Body<SendOtpRequest>) -> Json<SendOtpResponse>,
        access: Access::Public, repeat: Some(Idempotency::Never), audited: true, audit_targets: &["/contactId"],
        errors: &[&MAIL_NOT_POSSIBLE, &NO_MAIL_SERVER, &TOO_MANY_CODES, &MAIL_NOT_TAKEN, &NO_SUCH_APP];

    /// Send a code to a new contact of the caller.
    SEND_OWN_OTP "sendOwnOtp" = POST "/user-svc/self/contact"
        (Body<SendOtpRequest>) -> Json<SendOtpResponse>,
        access: Access::SignedIn, repeat: Some(Idempotency::Never), audited: true, audit_targets: &["/contactId"],
        errors: &[&MAIL_NOT_POSSIBLE, &NO_MAIL_SERVER, &TOO_MANY_CODES, &MAIL_NOT_TAKEN];

    /// Verify a contact with the code sent to it. Unverified claims of other accounts are dropped.
    VERIFY_CONTACT "verifyContact" = PUT "/user-svc/self/contact"
        (Body<VerifyContactRequest>) -> Json<Empty>,
        access: Access::SignedIn, repeat: Some(Idempotency::Never), audited: true, audit_targets: &["/otpId"],
        errors: &[&CODE_NOT_VALID, &TOO_MANY_CONTACTS, &CONTACT_TAKEN];

    /// Remove a contact of the caller.
    REMOVE_CONTACT "removeContact" = DELETE "/user-svc/self/contact/{contactId}"
        (Path<ContactId>) -> Json<Empty>,
        access: Access::SignedIn, repeat: Some(Idempotency::Natural), audited: true,
        errors: &[&NO_SUCH_CONTACT];

    /// Change your password. Ends all other sessions of the account, and the current session too if it was created without
    /// a device name.
    CHANGE_PASSWORD "changePassword" = POST "/user-svc/change-password"
        (Body<ChangePasswordRequest>) -> Json<Empty>,
        access: Access::needs(&USER_PASSWORD_CHANGE), repeat: Some(Idempotency::Never), audited: true,
        errors: &[
            &CURRENT_PASSWORD_WRONG, &PASSWORD_REFUSED, &PASSWORD_OF_ANOTHER, &PASSWORD_CHANGED_MEANWHILE,
            &TOO_MANY_SIGN_INS, &TOO_MANY_WRONG_PASSWORDS,
        ];

    /// Sign out: end the current session, the session on another device, or all sessions of the account. Their tokens are
    /// rejected from then on.
    ///
    /// The shared session `unknown` of programs without a device name is only ended if it is the current session or is
    /// named. With `userId`, an admin ends the sessions of another account, including `unknown`.
    REVOKE_TOKENS "revokeTokens" = DELETE "/user-svc/tokens"
        (Body<RevokeTokensRequest>) -> Json<Empty>,
        access: Access::itself_or(&TOKEN_REVOKE), repeat: Some(Idempotency::Never),
        audited: true, ends_sessions: true, audit_targets: &["/userId", "/device"],
        errors: &[&NO_SUCH_ACCOUNT, &NO_SUCH_SESSION];

    /// List the sessions of an account: your own, or those of any account with the permission to end them.
    LIST_SESSIONS "listSessions" = GET "/user-svc/sessions"
        (Query<ListSessionsRequest>) -> Json<ListSessionsResponse>,
        long_response: true, access: Access::itself_or(&TOKEN_REVOKE);

    /// End one session: your own, or any with the permission to do so. Its tokens are rejected from then on.
    REVOKE_SESSION "revokeSession" = DELETE "/user-svc/session/{sessionId}"
        (Path<SessionId>) -> Json<Empty>,
        access: Access::itself_or(&TOKEN_REVOKE), repeat: Some(Idempotency::Natural), audited: true, ends_sessions: true,
        errors: &[&NO_SUCH_SESSION];

    /// List and search accounts.
    GET_USERS "getUsers" = POST "/user-svc/users"
        (Body<GetUsersRequest>) -> Json<GetUsersResponse>,
        long_response: true, access: Access::needs(&USER_VIEW), effect: Some(Effect::Read),
        normalize_body: Some(accept_alternative_query);

    /// Create an account with the given roles.
    CREATE_USER "createUser" = POST "/user-svc/user"
        (Body<CreateUserRequest>) -> Json<CreateUserResponse>,
        access: Access::needs(&USER_CREATE), repeat: Some(Idempotency::Keyed),
        audited: true, audit_targets: &["/user/id", "/user/slug", "/roleIds/*", "/appHost"],
        normalize_body: Some(accept_alternative_contacts),
        errors: &[
            &PASSWORD_REFUSED, &ROLE_NOT_GIVABLE, &NO_SUCH_APP, &SLUG_TAKEN, &ID_TAKEN, &ACCOUNT_EXISTS,
            &TOO_MANY_SIGN_INS, &CONTACT_TAKEN,
        ];

    /// Change the profile of an account.
    SAVE_USER "saveUser" = PUT "/user-svc/user/{userId}"
        ((Path<UserId>, Body<SaveSelfRequest>)) -> Json<Empty>,
        access: Access::needs(&USER_EDIT), repeat: Some(Idempotency::Natural), audited: true,
        errors: &[&NO_SUCH_ACCOUNT];

    /// Delete an account with its sessions, memberships, roles, permissions, grants and instances. Its slug stays reserved
    /// until an admin releases it, its id permanently. If it was the only admin of an organization, the longest-standing
    /// member becomes admin.
    DELETE_USER "deleteUser" = DELETE "/user-svc/user/{userId}"
        (Path<UserId>) -> Json<Empty>,
        access: Access::needs(&USER_DELETE), repeat: Some(Idempotency::Natural), audited: true, heavy: true,
        errors: &[&ACCOUNT_BUILT_IN, &ADMINS_ONLY, &ACCOUNT_MAY_MORE, &NO_SUCH_ACCOUNT, &LAST_ADMIN];

    /// Release the slug of a deleted account, so that it can be registered again.
    RELEASE_SLUG "releaseSlug" = DELETE "/user-svc/slug/{deletedSlug}"
        (Path<DeletedSlug>) -> Json<Empty>,
        access: Access::needs(&SLUG_RELEASE), repeat: Some(Idempotency::Natural), audited: true,
        errors: &[&NO_SUCH_DELETED_SLUG];

    /// Set the password of an account. Ends all its sessions.
    RESET_PASSWORD "resetPassword" = POST "/user-svc/{userId}/reset-password"
        ((Path<UserId>, Body<ResetPasswordRequest>)) -> Json<Empty>,
        access: Access::needs(&USER_PASSWORD_RESET), repeat: Some(Idempotency::Never), audited: true,
        errors: &[
            &PASSWORD_REFUSED, &ACCOUNT_BUILT_IN, &ADMINS_ONLY, &ACCOUNT_MAY_MORE, &NO_SUCH_ACCOUNT,
            &TOO_MANY_SIGN_INS,
        ];

    /// Check a permission of the caller: 200 if the caller has it, otherwise 401.
    IS_AUTHORIZED "isAuthorized" = POST "/user-svc/permission/{permissionId}/is-authorized"
        ((Path<PermissionId>, Body<IsAuthorizedRequest>)) -> Json<IsAuthorizedResponse>,
        access: Access::SignedIn, effect: Some(Effect::Read), delegated: true,
        errors: &[&NOT_AUTHORIZED];

    /// List the roles.
    GET_ROLES "getRoles" = GET "/user-svc/roles"
        (Query<PageRequest>) -> Json<GetRolesResponse>,
        long_response: true, access: Access::needs(&ROLE_VIEW);

    /// Create a role under your own slug, or change your role with this id.
    CREATE_ROLE "createRole" = POST "/user-svc/role"
        (Body<CreateRoleRequest>) -> Json<CreateRoleResponse>,
        access: Access::needs(&ROLE_CREATE), repeat: Some(Idempotency::Natural),
        audited: true, audit_targets: &["/id", "/permissionIds/*"],
        errors: &[
            &FOREIGN_PREFIX, &ROLE_OF_ANOTHER, &PERMISSION_OF_ANOTHER, &QUOTA_REACHED, &NO_SUCH_PERMISSION,
            &ROLE_BEING_DELETED, &RULE_MEMORY_FULL,
        ];

    /// Delete a role. Accounts that had it lose it immediately.
    DELETE_ROLE "deleteRole" = DELETE "/user-svc/role/{roleId}"
        (Path<RoleId>) -> Json<Empty>,
        access: Access::needs(&ROLE_DELETE).or_owner(), repeat: Some(Idempotency::Natural), audited: true,
        errors: &[&ROLE_BUILT_IN, &NO_SUCH_ROLE];

    /// The permissions of a role.
    GET_PERMISSIONS_BY_ROLE "getPermissionsByRole" = GET "/user-svc/role/{roleId}/permissions"
        ((Path<RoleId>, Query<PageRequest>)) -> Json<GetPermissionsByRoleResponse>,
        long_response: true, access: Access::needs(&ROLE_VIEW).or_owner(),
        errors: &[&NO_SUCH_ROLE];

    /// Replace the permissions of a role. Only for the owner of the role; built-in roles belong to the admins.
    SET_ROLE_PERMISSIONS "setRolePermission" = PUT "/user-svc/role/{roleId}/permissions"
        ((Path<RoleId>, Body<SetRolePermissionsRequest>)) -> Json<Empty>,
        access: Access::needs(&ROLE_EDIT).or_owner(), repeat: Some(Idempotency::Natural),
        audited: true, audit_targets: &["/permissionIds/*"],
        errors: &[
            &ROLE_BUILT_IN, &ROLE_OF_ANOTHER, &PERMISSION_OF_ANOTHER, &QUOTA_REACHED, &NO_SUCH_ROLE,
            &NO_SUCH_PERMISSION, &RULE_MEMORY_FULL,
        ];

    /// Save permissions under your own slug.
    SAVE_PERMISSIONS "savePermissions" = PUT "/user-svc/permissions"
        (Body<SavePermissionsRequest>) -> Json<SavePermissionsResponse>,
        access: Access::needs(&PERMISSION_CREATE), repeat: Some(Idempotency::Natural),
        audited: true, audit_targets: &["/permissions/*/id"],
        errors: &[&FOREIGN_PREFIX, &PERMISSION_OF_ANOTHER, &QUOTA_REACHED, &RULE_MEMORY_FULL];

    /// The permissions of the caller's roles, or of some of them.
    LIST_PERMISSIONS "listPermissions" = POST "/user-svc/permissions"
        (Body<ListPermissionsRequest>) -> Json<ListPermissionsResponse>,
        long_response: true, access: Access::SignedIn, effect: Some(Effect::Read),
        errors: &[&ROLE_NOT_HELD];

    /// Delete a permission, and remove it from all roles and grants.
    DELETE_PERMISSION "deletePermission" = DELETE "/user-svc/permission/{permissionId}"
        (Path<PermissionId>) -> Json<Empty>,
        access: Access::needs(&PERMISSION_DELETE).or_owner(), repeat: Some(Idempotency::Natural), audited: true,
        errors: &[&PERMISSION_BUILT_IN, &NO_SUCH_PERMISSION];

    /// Add the caller's permissions to roles, including built-in ones.
    ASSIGN_PERMISSIONS "assignPermissions" = PUT "/user-svc/roles/permissions"
        (Body<AssignPermissionsRequest>) -> Json<Empty>,
        access: Access::needs(&PERMISSION_ASSIGN), repeat: Some(Idempotency::Natural),
        audited: true, audit_targets: &["/permissionLinks/*/permissionId", "/permissionLinks/*/roleId"],
        errors: &[&PERMISSION_OF_ANOTHER, &QUOTA_REACHED, &NO_SUCH_ROLE, &NO_SUCH_PERMISSION, &RULE_MEMORY_FULL];

    /// Save grants: permissions for accounts by slug, including slugs that are not registered yet.
    SAVE_GRANTS "saveGrants" = PUT "/user-svc/grants"
        (Body<SaveGrantsRequest>) -> Json<Empty>,
        access: Access::needs(&GRANT_CREATE), repeat: Some(Idempotency::Natural),
        audited: true, audit_targets: &["/grants/*/permissionId", "/grants/*/slugs/*", "/grants/*/id"],
        errors: &[&QUOTA_REACHED, &GRANT_ID_TAKEN, &RULE_MEMORY_FULL];

    /// List grants, including permits given to slugs.
    LIST_GRANTS "listGrants" = POST "/user-svc/grants"
        (Body<ListGrantsRequest>) -> Json<ListGrantsResponse>,
        long_response: true, access: Access::needs(&GRANT_VIEW), effect: Some(Effect::Read);

    /// Delete a grant or a permit.
    DELETE_GRANT "deleteGrant" = DELETE "/user-svc/grant/{grantId}"
        (Path<GrantId>) -> Json<Empty>,
        access: Access::needs(&GRANT_CREATE).or_owner(), repeat: Some(Idempotency::Natural), audited: true,
        errors: &[&NO_SUCH_GRANT];

    /// Save permits: permissions for accounts by slug and by role. Permissions under another account's slug need an admin.
    SAVE_PERMITS "savePermits" = PUT "/user-svc/permits"
        (Body<SavePermitsRequest>) -> Json<Empty>,
        access: Access::SignedIn, condition: Some(&OWNS_PERMISSIONS), repeat: Some(Idempotency::Natural), audited: true,
        audit_targets: &["/permits/*/permission", "/permits/*/slugs/*", "/permits/*/roles/*", "/permits/*/appHost", "/permits/*/id"],
        errors: &[
            &ADMINS_ONLY, &QUOTA_REACHED, &NO_SUCH_APP, &GRANT_ID_TAKEN, &RULE_MEMORY_FULL,
        ];

    /// List permits, including grants.
    LIST_PERMITS "listPermits" = POST "/user-svc/permits"
        (Body<ListPermitsRequest>) -> Json<ListPermitsResponse>,
        long_response: true, access: Access::needs(&GRANT_VIEW), effect: Some(Effect::Read);

    /// Assign roles to accounts, or to the account that later verifies a contact. Allowed for admins, for the owner of the
    /// slug that the role starts with, and for accounts that have the `admin` role with the same prefix.
    SAVE_ENROLLS "saveEnrolls" = PUT "/user-svc/enrolls"
        (Body<SaveEnrollsRequest>) -> Json<SaveEnrollsResponse>,
        access: Access::SignedIn, condition: Some(&GIVES_ROLES), repeat: Some(Idempotency::Natural), audited: true, heavy: true,
        audit_targets: &["/enrolls/*/userId", "/enrolls/*/contactId", "/enrolls/*/role", "/enrolls/*/appHost"],
        errors: &[
            &TOO_MANY_ROLES, &ACCOUNT_BUILT_IN, &QUOTA_REACHED, &NO_SUCH_ROLE, &NO_SUCH_ACCOUNT, &NO_SUCH_APP,
        ];

    /// List the accounts that have a role, or the roles of an account. Accounts may list their own roles; anything else
    /// needs the right to give the role.
    LIST_ENROLLS "listEnrolls" = POST "/user-svc/enrolls"
        (Body<ListEnrollsRequest>) -> Json<ListEnrollsResponse>,
        long_response: true, access: Access::SignedIn, condition: Some(&OWN_OR_GIVES_ROLE), effect: Some(Effect::Read);

    /// Revoke a role of an account.
    DELETE_ENROLL "deleteEnroll" = DELETE "/user-svc/enroll/{enrollId}"
        (Path<EnrollId>) -> Json<Empty>,
        access: Access::SignedIn, condition: Some(&OWN_OR_GIVES_ROLE), repeat: Some(Idempotency::Natural), audited: true,
        errors: &[&NO_SUCH_ENROLL, &LAST_ADMIN];

    /// Configure which operations a service may call on behalf of its callers, with the delegated tokens that it receives,
    /// and to which services it may forward these tokens. By default it may only query the caller's identity and
    /// permissions.
    SAVE_DELEGATION "saveDelegation" = PUT "/user-svc/delegation"
        (Body<Delegation>) -> Json<Empty>,
        access: Access::needs(&DELEGATION_EDIT), repeat: Some(Idempotency::Natural),
        audited: true, audit_targets: &["/slug", "/operations/*", "/services/*"];

    /// List the delegations of services.
    LIST_DELEGATIONS "listDelegations" = GET "/user-svc/delegations"
        () -> Json<ListDelegationsResponse>,
        long_response: true, access: Access::needs(&DELEGATION_VIEW);

    /// Delete the delegation of a service.
    DELETE_DELEGATION "deleteDelegation" = DELETE "/user-svc/delegation/{serviceSlug}"
        (Path<ServiceSlug>) -> Json<Empty>,
        access: Access::needs(&DELEGATION_EDIT), repeat: Some(Idempotency::Natural), audited: true,
        errors: &[&NO_SUCH_DELEGATION];

    /// Check a permission of the caller; always 200, with the result in the body.
    HAS_PERMISSION "hasPermission" = POST "/user-svc/self/has/{permissionId}"
        (Path<PermissionId>) -> Json<HasPermissionResponse>,
        access: Access::SignedIn, effect: Some(Effect::Read), delegated: true;

    /// Create an organization; the caller becomes its admin.
    CREATE_ORGANIZATION "createOrganization" = POST "/user-svc/organization"
        (Body<CreateOrganizationRequest>) -> Json<CreateOrganizationResponse>,
        access: Access::needs(&ORGANIZATION_CREATE), repeat: Some(Idempotency::Keyed),
        audited: true, audit_targets: &["/id", "/slug"],
        errors: &[
            &FOREIGN_PREFIX, &QUOTA_REACHED, &ORGANIZATION_TAKEN, &TOO_MANY_ROLES, &ACCOUNT_BUILT_IN,
            &NO_SUCH_ACCOUNT,
        ];

    /// Create an organization, or change the one with this slug or id as its admin. Returns a token with the caller's
    /// current roles.
    SAVE_ORGANIZATION "saveOrganization" = PUT "/user-svc/organization"
        (Body<SaveOrganizationRequest>) -> Json<SaveOrganizationResponse>,
        access: Access::needs(&ORGANIZATION_CREATE), repeat: Some(Idempotency::Never),
        audited: true, audit_targets: &["/id", "/slug"],
        errors: &[
            &FOREIGN_PREFIX, &NOT_ORGANIZATION_ADMIN, &QUOTA_REACHED, &ORGANIZATION_TAKEN, &TOO_MANY_ROLES,
            &ACCOUNT_BUILT_IN, &NO_SUCH_ACCOUNT, &NO_SUCH_ORGANIZATION,
        ];

    /// List all organizations, newest first. `readSelf` returns the caller's own organizations.
    LIST_ORGANIZATIONS "listOrganizations" = POST "/user-svc/organizations"
        (Body<ListOrganizationsRequest>) -> Json<ListOrganizationsResponse>,
        long_response: true, access: Access::needs(&ORGANIZATION_VIEW), effect: Some(Effect::Read);

    /// Delete an organization. Its members lose their roles in it immediately.
    DELETE_ORGANIZATION "deleteOrganization" = DELETE "/user-svc/organization/{organizationId}"
        (Path<OrganizationId>) -> Json<Empty>,
        access: Access::SignedIn, condition: Some(&ORGANIZATION_ADMIN), repeat: Some(Idempotency::Natural), audited: true,
        errors: &[&NO_SUCH_ORGANIZATION];

    /// Release the id of a deleted organization, so that it can be used again.
    ///
    /// A new organization with this id gets access to whatever services still store for the deleted one.
    RELEASE_ORGANIZATION_ID "releaseOrganizationId" = DELETE "/user-svc/organization-id/{deletedOrganizationId}"
        (Path<DeletedOrganizationId>) -> Json<Empty>,
        access: Access::needs(&SLUG_RELEASE), repeat: Some(Idempotency::Natural), audited: true,
        errors: &[&NO_SUCH_DELETED_ORGANIZATION];

    /// List the members of an organization. Allowed for its members and for admins.
    LIST_MEMBERS "listMembers" = GET "/user-svc/organization/{organizationId}/users"
        ((Path<OrganizationId>, Query<PageRequest>)) -> Json<ListMembersResponse>,
        long_response: true, access: Access::SignedIn, condition: Some(&ORGANIZATION_MEMBER),
        errors: &[&NO_SUCH_ORGANIZATION];

    /// Add an account to an organization, as an admin of the organization.
    ADD_USER_TO_ORGANIZATION "addUserToOrganization" = POST "/user-svc/organization/{organizationId}/user"
        ((Path<OrganizationId>, Body<AddUserToOrganizationRequest>)) -> Json<Empty>,
        access: Access::needs(&ORGANIZATION_ADD_USER), condition: Some(&ORGANIZATION_ADMIN), repeat: Some(Idempotency::Natural), audited: true,
        audit_targets: &["/userId"],
        errors: &[&TOO_MANY_ROLES, &ACCOUNT_BUILT_IN, &QUOTA_REACHED, &NO_SUCH_ORGANIZATION, &NO_SUCH_ACCOUNT];

    /// Set a member's role, `user` or `admin`, as an admin of the organization.
    SAVE_MEMBERSHIP "saveMembership" = PUT "/user-svc/organization/{organizationId}/user/{userId}"
        ((Path<OrganizationId>, Path<UserId>, Body<SaveMembershipRequest>)) -> Json<Empty>,
        access: Access::needs(&ORGANIZATION_ADD_USER), condition: Some(&ORGANIZATION_ADMIN), repeat: Some(Idempotency::Natural), audited: true,
        audit_targets: &["/role"],
        errors: &[
            &TOO_MANY_ROLES, &ACCOUNT_BUILT_IN, &QUOTA_REACHED, &NO_SUCH_ORGANIZATION, &NO_SUCH_ACCOUNT, &LAST_ADMIN,
        ];

    /// Remove an account from an organization, as its admin, or leave it. If the only admin leaves and is not its founder,
    /// the longest-standing member becomes admin; without other members the organization is deleted.
    REMOVE_USER_FROM_ORGANIZATION "removeUserFromOrganization"
        = DELETE "/user-svc/organization/{organizationId}/user/{userId}"
        ((Path<OrganizationId>, Path<UserId>)) -> Json<Empty>,
        access: Access::needs(&ORGANIZATION_REMOVE_USER), condition: Some(&ORGANIZATION_ADMIN_OR_ITSELF), repeat: Some(Idempotency::Natural), audited: true,
        errors: &[&NO_SUCH_ORGANIZATION, &NO_SUCH_MEMBER, &LAST_ADMIN];

    /// Read the audit log, changes and refused calls, newest first.
    LIST_AUDIT "listAudit" = POST "/user-svc/audit"
        (Body<ListAuditRequest>) -> Json<ListAuditResponse>,
        long_response: true, access: Access::needs(&AUDIT_VIEW), effect: Some(Effect::Read);

    /// Create an invitation: a code to register accounts with while registration is by invitation.
    ///
    /// It is valid as long as its creator may give the roles that it gives.
    CREATE_INVITATION "createInvitation" = POST "/user-svc/invitation"
        (Body<CreateInvitationRequest>) -> Json<CreateInvitationResponse>,
        access: Access::needs(&USER_CREATE), repeat: Some(Idempotency::Never), audited: true, audit_targets: &["/roleIds/*"],
        errors: &[&ROLE_NOT_GIVABLE, &QUOTA_REACHED, &INVITATIONS_CLOSED];

    /// List the invitations to the caller's app, or to all apps as an admin, without their codes.
    LIST_INVITATIONS "listInvitations" = GET "/user-svc/invitations"
        (Query<PageRequest>) -> Json<ListInvitationsResponse>,
        long_response: true, access: Access::needs(&USER_CREATE);

    /// Revoke an invitation to the caller's app, or any invitation as an admin.
    REVOKE_INVITATION "revokeInvitation" = DELETE "/user-svc/invitation/{invitationId}"
        (Path<InvitationId>) -> Json<Empty>,
        access: Access::needs(&USER_CREATE), repeat: Some(Idempotency::Natural), audited: true,
        errors: &[&NO_SUCH_INVITATION];
}

/// The published API has a string as `contact` of a sign-in; the successor API has an object whose `id` is the address.
/// Both are converted to an object with `value`.
fn accept_alternative_contacts(body: &mut Value) {
    if let Some(contact) = body.get_mut("contact") {
        if let Value::String(text) = contact {
            *contact = serde_json::json!({ "value": text.as_str() });
        }
        accept_contact_id(contact);
    }
    for holder in ["/contacts", "/user/contacts"] {
        if let Some(Value::Array(contacts)) = body.pointer_mut(holder) {
            contacts.iter_mut().for_each(accept_contact_id);
        }
    }
}

fn accept_alternative_query(body: &mut Value) {
    if let Some(query) = body.get_mut("query") {
        query::accept_alternative_keys(query);
    }
}

/// Accepts `host`, so that an app can be saved as it was listed.
fn accept_host_key(body: &mut Value) {
    input::rename_key(body, "host", "newHost");
}

fn accept_contact_id(contact: &mut Value) {
    let Value::Object(fields) = contact else { return };
    if !fields.contains_key("value")
        && let Some(id) = fields.remove("id")
    {
        fields.insert("value".into(), id);
    }
}

pub(crate) fn is_false(value: &bool) -> bool {
    !value
}

pub(crate) fn is_zero<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}
