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
    op::{Effect, Repeat},
    ops, path_values, permissions,
    query::{self, PageRequest},
};

pub static SERVICE: crate::Service = crate::Service {
    slug: "user-svc",
    name: "User Svc",
    operations: OPERATIONS,
    permissions: PERMISSIONS,
    errors: errors::ERRORS,
};

permissions! {
    USER_CREATE "user-svc:user:create" "Create accounts, and invitations to register." [ADMIN];
    USER_VIEW "user-svc:user:view" "See all accounts." [ADMIN], OF_ALL_APPS;
    USER_EDIT "user-svc:user:edit" "Edit all accounts." [ADMIN];
    USER_DELETE "user-svc:user:delete" "Delete accounts." [ADMIN];
    USER_PASSWORD_CHANGE "user-svc:user:passwordChange" "Change the own password." [ADMIN, USER];
    USER_PASSWORD_RESET "user-svc:user:passwordReset" "Set the password of another account." [ADMIN];
    ROLE_CREATE "user-svc:role:create" "Create roles under the own slug." [ADMIN, USER];
    ROLE_EDIT "user-svc:role:edit" "Edit roles." [ADMIN], OF_ALL_APPS;
    ROLE_VIEW "user-svc:role:view" "See roles." [ADMIN], OF_ALL_APPS;
    ROLE_DELETE "user-svc:role:delete" "Delete roles." [ADMIN], OF_ALL_APPS;
    PERMISSION_CREATE "user-svc:permission:create" "Create permissions under the own slug." [ADMIN, USER];
    PERMISSION_EDIT "user-svc:permission:edit" "Edit the own permissions." [ADMIN, USER];
    PERMISSION_ASSIGN "user-svc:permission:assign" "Give the own permissions to roles." [ADMIN, USER];
    PERMISSION_DELETE "user-svc:permission:delete" "Delete permissions." [ADMIN], OF_ALL_APPS;
    ORGANIZATION_CREATE "user-svc:organization:create" "Create organizations." [ADMIN, USER];
    ORGANIZATION_ADD_USER "user-svc:organization:add-user" "Add accounts to the own organizations." [ADMIN, USER];
    ORGANIZATION_REMOVE_USER "user-svc:organization:remove-user" "Remove accounts from the own organizations." [ADMIN, USER];
    ORGANIZATION_VIEW "user-svc:organization:view" "See all organizations." [ADMIN];
    GRANT_VIEW "user-svc:grant:view" "See grants." [ADMIN], OF_ALL_APPS;
    GRANT_CREATE "user-svc:grant:create" "Save grants." [ADMIN];
    SLUG_RELEASE "user-svc:slug:release" "Let the slug of a deleted account, or the id of a deleted organization, be taken again." [ADMIN], OF_ALL_APPS;
    KEY_ROTATE "user-svc:key:rotate" "Replace the key that tokens are signed with." [ADMIN], OF_ALL_APPS;
    DELEGATION_VIEW "user-svc:delegation:view" "See what services may do for their callers." [ADMIN], OF_ALL_APPS;
    DELEGATION_EDIT "user-svc:delegation:edit" "Say what services may do for their callers." [ADMIN], OF_ALL_APPS;
    AUDIT_VIEW "user-svc:audit:view" "Read the audit log." [ADMIN], OF_ALL_APPS;
    APP_MULTI_VIEW "user-svc:app:multi-view" "See all apps." [ADMIN], OF_ALL_APPS;
    APP_EDIT "user-svc:app:edit" "Make apps, change their hosts and delete them." [ADMIN], OF_ALL_APPS;
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
    /// A contact in its normal form, as `contacts[].id` tells it.
    ContactId at most 400;
    /// The id of a session.
    SessionId at most 128;
    /// The slug of a service.
    ServiceSlug at most 63;
    /// The slug of an account that was deleted.
    DeletedSlug at most 63;
    /// The id of an organization.
    OrganizationId at most 128;
    /// The id of an organization that was deleted.
    DeletedOrganizationId at most 128;
    /// The id of an invitation.
    InvitationId at most 128;
    /// The id of an app.
    AppId at most 128;
}

ops! {
    /// Register an account, for a person or a service, and sign it in.
    REGISTER "register" = POST "/user-svc/register"
        (Body<RegisterRequest>) -> Json<RegisterResponse>,
        access: Access::Public, repeat: Some(Repeat::Never),
        audited: true, target: &["/slug"], normalise: Some(accept_other_contacts),
        errors: &[
            &REGISTRATION_CLOSED, &REGISTRATION_LOCAL_ONLY, &INVITATION_REQUIRED, &INVITATION_NOT_VALID,
            &SLUG_TAKEN, &ACCOUNT_EXISTS, &CONTACT_TAKEN, &CODE_NOT_VALID, &PASSWORD_REFUSED, &NO_SUCH_APP,
            &TOO_MANY_SIGN_INS, &TOO_MANY_WRONG_PASSWORDS,
        ];

    /// Sign in with the slug, or a verified contact, and the password; or with a contact and the code that was sent there.
    ///
    /// From the same device the same session is answered again.
    LOGIN "login" = POST "/user-svc/login"
        (Body<LoginRequest>) -> Json<LoginResponse>,
        access: Access::Public, repeat: Some(Repeat::Never),
        audited: true, target: &["/slug", "/contact/value"], normalise: Some(accept_other_contacts),
        errors: &[
            &SLUG_NOT_FOUND, &CODE_NOT_VALID, &WRONG_PASSWORD, &CONTACT_GONE, &access::SESSION_ENDED,
            &access::ACCOUNT_GONE, &NO_ROLE_IN_APP, &PASSWORD_TOO_WEAK, &NO_SUCH_APP, &TOO_MANY_SIGN_INS,
            &TOO_MANY_WRONG_PASSWORDS,
        ];

    /// The key that session tokens are signed with, as PEM.
    GET_PUBLIC_KEY "getPublicKey" = GET "/user-svc/public-key"
        () -> Json<GetPublicKeyResponse>,
        access: Access::Public;

    /// The keys that session tokens are signed with, as a JSON Web Key Set (RFC 7517).
    GET_KEY_SET "getKeySet" = GET "/user-svc/jwks.json"
        () -> Json<KeySet>,
        access: Access::Public, aliases: &["/.well-known/jwks.json"];

    /// Sign with a new key from now on.
    ///
    /// Tokens that were signed with the one before stay good, and the key set shows both until their texts have ended.
    ROTATE_KEY "rotateKey" = POST "/user-svc/key/rotate"
        () -> Json<KeySet>,
        access: Access::needs(&KEY_ROTATE), repeat: Some(Repeat::Never),
        audited: true, errors: &[&KEYS_ROTATED_TOO_OFTEN];

    /// A new text for the caller's token, with its present roles. The session stays the same.
    REFRESH_TOKEN "refreshToken" = POST "/user-svc/refresh-token"
        () -> Json<LoginResponse>,
        access: Access::SignedIn, repeat: Some(Repeat::Never);

    /// A token for another app in which the account has roles, or for another device. Its session ends with the one it was
    /// exchanged from.
    EXCHANGE_TOKEN "exchangeToken" = PUT "/user-svc/token/exchange"
        (Body<ExchangeTokenRequest>) -> Json<LoginResponse>,
        access: Access::SignedIn, repeat: Some(Repeat::Never),
        audited: true, target: &["/newAppHost", "/newAppId", "/newDevice"],
        errors: &[&NO_ROLE_IN_APP, &ALREADY_EXCHANGED, &NO_SUCH_APP, &DEVICE_IN_USE, &TOO_MANY_EXCHANGED];

    /// The apps with these ids and hosts; all of them for who may see those.
    LIST_APPS "listApps" = POST "/user-svc/apps"
        (Body<ListAppsRequest>) -> Json<ListAppsResponse>,
        long_answer: true, access: Access::SignedIn, condition: Some(&NAMES_APPS), effect: Some(Effect::Read);

    /// The app of a host.
    READ_APP "readApp" = POST "/user-svc/app"
        (Body<ReadAppRequest>) -> Json<ReadAppResponse>,
        access: Access::Public, effect: Some(Effect::Read),
        errors: &[&NO_SUCH_APP];

    /// Make an app, or change the host of one.
    UPDATE_APP "updateApp" = PUT "/user-svc/app"
        (Body<UpdateAppRequest>) -> Json<UpdateAppResponse>,
        access: Access::needs(&APP_EDIT), repeat: Some(Repeat::Keyed),
        audited: true, target: &["/id", "/newHost"], normalise: Some(accept_host),
        errors: &[&TOO_MANY_APPS, &APP_BUILT_IN, &NO_SUCH_APP, &APP_HOST_TAKEN];

    /// Delete an app. Its id is never given again; its host is free.
    ///
    /// What accounts that are no admins gave there without being let in goes with it. Where it has members, sessions,
    /// organizations, invitations, or permits of admins, it is refused without `cascade`.
    DELETE_APP "deleteApp" = DELETE "/user-svc/app/{appId}"
        ((Path<AppId>, Query<DeleteAppRequest>)) -> Json<Empty>,
        access: Access::needs(&APP_EDIT), repeat: Some(Repeat::Natural), audited: true,
        errors: &[&APP_BUILT_IN, &NO_SUCH_APP, &APP_NOT_EMPTY];

    /// The account behind the token.
    READ_USER_BY_TOKEN "readUserByToken" = POST "/user-svc/user/by-token"
        () -> Json<ReadUserByTokenResponse>,
        access: Access::SignedIn, effect: Some(Effect::Read), delegated: true;

    /// The own account with its roles and organizations.
    READ_SELF "readSelf" = POST "/user-svc/self"
        (Body<ReadSelfRequest>) -> Json<ReadSelfResponse>,
        access: Access::SignedIn, effect: Some(Effect::Read);

    /// Change the own profile.
    SAVE_SELF "saveSelf" = PUT "/user-svc/self"
        (Body<SaveSelfRequest>) -> Json<Empty>,
        access: Access::SignedIn, repeat: Some(Repeat::Natural), audited: true;

    /// Send a code to a contact. It is good to register with that contact, which is verified then, or to sign in to the
    /// account that has it; the answer does not tell which, what arrives does.
    SEND_OTP "sendOtp" = POST "/user-svc/otp/send"
        (Body<SendOtpRequest>) -> Json<SendOtpResponse>,
        access: Access::Public, repeat: Some(Repeat::Never), audited: true, target: &["/contactId"],
        errors: &[&MAIL_NOT_POSSIBLE, &NO_MAIL_SERVER, &TOO_MANY_CODES, &MAIL_NOT_TAKEN, &NO_SUCH_APP];

    /// Send a code to a contact that is to become the caller's.
    SEND_OWN_OTP "sendOwnOtp" = POST "/user-svc/self/contact"
        (Body<SendOtpRequest>) -> Json<SendOtpResponse>,
        access: Access::SignedIn, repeat: Some(Repeat::Never), audited: true, target: &["/contactId"],
        errors: &[&MAIL_NOT_POSSIBLE, &NO_MAIL_SERVER, &TOO_MANY_CODES, &MAIL_NOT_TAKEN];

    /// Show by its code that a contact is the caller's. Another account that had named it without showing so loses it.
    VERIFY_CONTACT "verifyContact" = PUT "/user-svc/self/contact"
        (Body<VerifyContactRequest>) -> Json<Empty>,
        access: Access::SignedIn, repeat: Some(Repeat::Never), audited: true, target: &["/otpId"],
        errors: &[&CODE_NOT_VALID, &TOO_MANY_CONTACTS, &CONTACT_TAKEN];

    /// Remove a contact of the caller's.
    REMOVE_CONTACT "removeContact" = DELETE "/user-svc/self/contact/{contactId}"
        (Path<ContactId>) -> Json<Empty>,
        access: Access::SignedIn, repeat: Some(Repeat::Natural), audited: true,
        errors: &[&NO_SUCH_CONTACT];

    /// Change the own password. Ends all other sessions of the account, and also the caller's own when it was made
    /// without naming a device.
    CHANGE_PASSWORD "changePassword" = POST "/user-svc/change-password"
        (Body<ChangePasswordRequest>) -> Json<Empty>,
        access: Access::needs(&USER_PASSWORD_CHANGE), repeat: Some(Repeat::Never), audited: true,
        errors: &[
            &CURRENT_PASSWORD_WRONG, &PASSWORD_REFUSED, &PASSWORD_OF_ANOTHER, &PASSWORD_CHANGED_MEANWHILE,
            &TOO_MANY_SIGN_INS, &TOO_MANY_WRONG_PASSWORDS,
        ];

    /// Sign out: end the caller's session, that of another device of the account, or all of them. Their tokens are
    /// refused from then on.
    ///
    /// The session that programs without a device of their own share (`unknown`) ends only when it is the caller's own or
    /// named. With `userId` an admin ends sessions of another account, that one included.
    REVOKE_TOKENS "revokeTokens" = DELETE "/user-svc/tokens"
        (Body<RevokeTokensRequest>) -> Json<Empty>,
        access: Access::itself_or(&TOKEN_REVOKE), repeat: Some(Repeat::Never),
        audited: true, ends_sessions: true, target: &["/userId", "/device"],
        errors: &[&NO_SUCH_ACCOUNT, &NO_SUCH_SESSION];

    /// List the sessions of an account: the caller's own, or of any for who may end them.
    LIST_SESSIONS "listSessions" = GET "/user-svc/sessions"
        (Query<ListSessionsRequest>) -> Json<ListSessionsResponse>,
        long_answer: true, access: Access::itself_or(&TOKEN_REVOKE);

    /// End one session, of the caller's or of any for who may end them. Its tokens are refused from then on.
    REVOKE_SESSION "revokeSession" = DELETE "/user-svc/session/{sessionId}"
        (Path<SessionId>) -> Json<Empty>,
        access: Access::itself_or(&TOKEN_REVOKE), repeat: Some(Repeat::Natural), audited: true, ends_sessions: true,
        errors: &[&NO_SUCH_SESSION];

    /// List and search accounts.
    GET_USERS "getUsers" = POST "/user-svc/users"
        (Body<GetUsersRequest>) -> Json<GetUsersResponse>,
        long_answer: true, access: Access::needs(&USER_VIEW), effect: Some(Effect::Read),
        normalise: Some(accept_other_query);

    /// Create an account with any roles.
    CREATE_USER "createUser" = POST "/user-svc/user"
        (Body<CreateUserRequest>) -> Json<CreateUserResponse>,
        access: Access::needs(&USER_CREATE), repeat: Some(Repeat::Keyed),
        audited: true, target: &["/user/id", "/user/slug", "/roleIds/*", "/appHost"],
        normalise: Some(accept_other_contacts),
        errors: &[
            &PASSWORD_REFUSED, &ROLE_NOT_GIVABLE, &NO_SUCH_APP, &SLUG_TAKEN, &ID_TAKEN, &ACCOUNT_EXISTS,
            &TOO_MANY_SIGN_INS, &CONTACT_TAKEN,
        ];

    /// Change the profile of an account.
    SAVE_USER "saveUser" = PUT "/user-svc/user/{userId}"
        ((Path<UserId>, Body<SaveSelfRequest>)) -> Json<Empty>,
        access: Access::needs(&USER_EDIT), repeat: Some(Repeat::Natural), audited: true,
        errors: &[&NO_SUCH_ACCOUNT];

    /// Delete an account with its sessions, memberships, roles, permissions, grants and instances. Its slug stays
    /// taken until an admin releases it, its id for ever. An organization whose only admin it was goes over to the member
    /// who has been in it longest.
    DELETE_USER "deleteUser" = DELETE "/user-svc/user/{userId}"
        (Path<UserId>) -> Json<Empty>,
        access: Access::needs(&USER_DELETE), repeat: Some(Repeat::Natural), audited: true, heavy: true,
        errors: &[&ACCOUNT_BUILT_IN, &ADMINS_ONLY, &ACCOUNT_MAY_MORE, &NO_SUCH_ACCOUNT, &LAST_ADMIN];

    /// Let the slug of a deleted account be registered again.
    RELEASE_SLUG "releaseSlug" = DELETE "/user-svc/slug/{deletedSlug}"
        (Path<DeletedSlug>) -> Json<Empty>,
        access: Access::needs(&SLUG_RELEASE), repeat: Some(Repeat::Natural), audited: true,
        errors: &[&NO_SUCH_DELETED_SLUG];

    /// Set the password of an account. Ends all its sessions.
    RESET_PASSWORD "resetPassword" = POST "/user-svc/{userId}/reset-password"
        ((Path<UserId>, Body<ResetPasswordRequest>)) -> Json<Empty>,
        access: Access::needs(&USER_PASSWORD_RESET), repeat: Some(Repeat::Never), audited: true,
        errors: &[
            &PASSWORD_REFUSED, &ACCOUNT_BUILT_IN, &ADMINS_ONLY, &ACCOUNT_MAY_MORE, &NO_SUCH_ACCOUNT,
            &TOO_MANY_SIGN_INS,
        ];

    /// Whether the caller has a permission: 200 if so, 401 for every no.
    IS_AUTHORIZED "isAuthorized" = POST "/user-svc/permission/{permissionId}/is-authorized"
        ((Path<PermissionId>, Body<IsAuthorizedRequest>)) -> Json<IsAuthorizedResponse>,
        access: Access::SignedIn, effect: Some(Effect::Read), delegated: true,
        errors: &[&NOT_AUTHORIZED];

    /// List the roles.
    GET_ROLES "getRoles" = GET "/user-svc/roles"
        (Query<PageRequest>) -> Json<GetRolesResponse>,
        long_answer: true, access: Access::needs(&ROLE_VIEW);

    /// Create a role under the own slug, or change the own one with this id.
    CREATE_ROLE "createRole" = POST "/user-svc/role"
        (Body<CreateRoleRequest>) -> Json<CreateRoleResponse>,
        access: Access::needs(&ROLE_CREATE), repeat: Some(Repeat::Natural),
        audited: true, target: &["/id", "/permissionIds/*"],
        errors: &[
            &FOREIGN_PREFIX, &ROLE_OF_ANOTHER, &PERMISSION_OF_ANOTHER, &QUOTA_REACHED, &NO_SUCH_PERMISSION,
            &ROLE_BEING_DELETED, &RULE_MEMORY_FULL,
        ];

    /// Delete a role: those who had it lose it at once.
    DELETE_ROLE "deleteRole" = DELETE "/user-svc/role/{roleId}"
        (Path<RoleId>) -> Json<Empty>,
        access: Access::needs(&ROLE_DELETE).or_owner(), repeat: Some(Repeat::Natural), audited: true,
        errors: &[&ROLE_BUILT_IN, &NO_SUCH_ROLE];

    /// The permissions that a role has.
    GET_PERMISSIONS_BY_ROLE "getPermissionsByRole" = GET "/user-svc/role/{roleId}/permissions"
        ((Path<RoleId>, Query<PageRequest>)) -> Json<GetPermissionsByRoleResponse>,
        long_answer: true, access: Access::needs(&ROLE_VIEW).or_owner(),
        errors: &[&NO_SUCH_ROLE];

    /// Say which permissions a role has from now on. For the role's owner alone; the built-in ones are the admins'.
    SET_ROLE_PERMISSIONS "setRolePermission" = PUT "/user-svc/role/{roleId}/permissions"
        ((Path<RoleId>, Body<SetRolePermissionsRequest>)) -> Json<Empty>,
        access: Access::needs(&ROLE_EDIT).or_owner(), repeat: Some(Repeat::Natural),
        audited: true, target: &["/permissionIds/*"],
        errors: &[
            &ROLE_BUILT_IN, &ROLE_OF_ANOTHER, &PERMISSION_OF_ANOTHER, &QUOTA_REACHED, &NO_SUCH_ROLE,
            &NO_SUCH_PERMISSION, &RULE_MEMORY_FULL,
        ];

    /// Save permissions under the own slug.
    SAVE_PERMISSIONS "savePermissions" = PUT "/user-svc/permissions"
        (Body<SavePermissionsRequest>) -> Json<SavePermissionsResponse>,
        access: Access::needs(&PERMISSION_CREATE), repeat: Some(Repeat::Natural),
        audited: true, target: &["/permissions/*/id"],
        errors: &[&FOREIGN_PREFIX, &PERMISSION_OF_ANOTHER, &QUOTA_REACHED, &RULE_MEMORY_FULL];

    /// The permissions that the caller's roles have, or some of them.
    LIST_PERMISSIONS "listPermissions" = POST "/user-svc/permissions"
        (Body<ListPermissionsRequest>) -> Json<ListPermissionsResponse>,
        long_answer: true, access: Access::SignedIn, effect: Some(Effect::Read),
        errors: &[&ROLE_NOT_HELD];

    /// Delete a permission: no role and no grant gives it from then on.
    DELETE_PERMISSION "deletePermission" = DELETE "/user-svc/permission/{permissionId}"
        (Path<PermissionId>) -> Json<Empty>,
        access: Access::needs(&PERMISSION_DELETE).or_owner(), repeat: Some(Repeat::Natural), audited: true,
        errors: &[&PERMISSION_BUILT_IN, &NO_SUCH_PERMISSION];

    /// Add the caller's permissions to roles, the built-in ones included.
    ASSIGN_PERMISSIONS "assignPermissions" = PUT "/user-svc/roles/permissions"
        (Body<AssignPermissionsRequest>) -> Json<Empty>,
        access: Access::needs(&PERMISSION_ASSIGN), repeat: Some(Repeat::Natural),
        audited: true, target: &["/permissionLinks/*/permissionId", "/permissionLinks/*/roleId"],
        errors: &[&PERMISSION_OF_ANOTHER, &QUOTA_REACHED, &NO_SUCH_ROLE, &NO_SUCH_PERMISSION, &RULE_MEMORY_FULL];

    /// Save grants: permissions for accounts by slug, also for slugs that are not registered yet.
    SAVE_GRANTS "saveGrants" = PUT "/user-svc/grants"
        (Body<SaveGrantsRequest>) -> Json<Empty>,
        access: Access::needs(&GRANT_CREATE), repeat: Some(Repeat::Natural),
        audited: true, target: &["/grants/*/permissionId", "/grants/*/slugs/*", "/grants/*/id"],
        errors: &[&QUOTA_REACHED, &GRANT_ID_TAKEN, &RULE_MEMORY_FULL];

    /// List grants, those of permits with slugs included.
    LIST_GRANTS "listGrants" = POST "/user-svc/grants"
        (Body<ListGrantsRequest>) -> Json<ListGrantsResponse>,
        long_answer: true, access: Access::needs(&GRANT_VIEW), effect: Some(Effect::Read);

    /// Delete a grant or a permit.
    DELETE_GRANT "deleteGrant" = DELETE "/user-svc/grant/{grantId}"
        (Path<GrantId>) -> Json<Empty>,
        access: Access::needs(&GRANT_CREATE).or_owner(), repeat: Some(Repeat::Natural), audited: true,
        errors: &[&NO_SUCH_GRANT];

    /// Save permits: permissions for accounts by slug and by role. Those of permissions under another's slug are for
    /// admins.
    SAVE_PERMITS "savePermits" = PUT "/user-svc/permits"
        (Body<SavePermitsRequest>) -> Json<Empty>,
        access: Access::SignedIn, condition: Some(&OWNS_PERMISSIONS), repeat: Some(Repeat::Natural), audited: true,
        target: &["/permits/*/permission", "/permits/*/slugs/*", "/permits/*/roles/*", "/permits/*/appHost", "/permits/*/id"],
        errors: &[
            &ADMINS_ONLY, &QUOTA_REACHED, &NO_SUCH_APP, &GRANT_ID_TAKEN, &RULE_MEMORY_FULL,
        ];

    /// List permits, grants included.
    LIST_PERMITS "listPermits" = POST "/user-svc/permits"
        (Body<ListPermitsRequest>) -> Json<ListPermitsResponse>,
        long_answer: true, access: Access::needs(&GRANT_VIEW), effect: Some(Effect::Read);

    /// Give roles to accounts, and to whoever will show that a contact is its own. Who may: admins; the owner of the slug that the role starts with; who has the `admin`
    /// role beside it.
    SAVE_ENROLLS "saveEnrolls" = PUT "/user-svc/enrolls"
        (Body<SaveEnrollsRequest>) -> Json<SaveEnrollsResponse>,
        access: Access::SignedIn, condition: Some(&GIVES_ROLES), repeat: Some(Repeat::Natural), audited: true, heavy: true,
        target: &["/enrolls/*/userId", "/enrolls/*/contactId", "/enrolls/*/role", "/enrolls/*/appHost"],
        errors: &[
            &TOO_MANY_ROLES, &ACCOUNT_BUILT_IN, &QUOTA_REACHED, &NO_SUCH_ROLE, &NO_SUCH_ACCOUNT, &NO_SUCH_APP,
        ];

    /// List who has a role, or which roles an account has. Accounts see their own; the rest is for those who may give
    /// the role.
    LIST_ENROLLS "listEnrolls" = POST "/user-svc/enrolls"
        (Body<ListEnrollsRequest>) -> Json<ListEnrollsResponse>,
        long_answer: true, access: Access::SignedIn, condition: Some(&OWN_OR_GIVES_ROLE), effect: Some(Effect::Read);

    /// Take a role from an account.
    DELETE_ENROLL "deleteEnroll" = DELETE "/user-svc/enroll/{enrollId}"
        (Path<EnrollId>) -> Json<Empty>,
        access: Access::SignedIn, condition: Some(&OWN_OR_GIVES_ROLE), repeat: Some(Repeat::Natural), audited: true,
        errors: &[&NO_SUCH_ENROLL, &LAST_ADMIN];

    /// Say which operations a service may call for its callers, with the tokens that it receives from them, and to which
    /// other services it may hand those on. Without this it may ask who calls and what they may, and nothing else.
    SAVE_DELEGATION "saveDelegation" = PUT "/user-svc/delegation"
        (Body<Delegation>) -> Json<Empty>,
        access: Access::needs(&DELEGATION_EDIT), repeat: Some(Repeat::Natural),
        audited: true, target: &["/slug", "/operations/*", "/services/*"];

    /// List which services may do what for their callers.
    LIST_DELEGATIONS "listDelegations" = GET "/user-svc/delegations"
        () -> Json<ListDelegationsResponse>,
        long_answer: true, access: Access::needs(&DELEGATION_VIEW);

    /// Take back what a service may do for its callers.
    DELETE_DELEGATION "deleteDelegation" = DELETE "/user-svc/delegation/{serviceSlug}"
        (Path<ServiceSlug>) -> Json<Empty>,
        access: Access::needs(&DELEGATION_EDIT), repeat: Some(Repeat::Natural), audited: true,
        errors: &[&NO_SUCH_DELEGATION];

    /// Whether the caller has a permission; 200 for yes and no alike.
    HAS_PERMISSION "hasPermission" = POST "/user-svc/self/has/{permissionId}"
        (Path<PermissionId>) -> Json<HasPermissionResponse>,
        access: Access::SignedIn, effect: Some(Effect::Read), delegated: true;

    /// Create an organization; the caller becomes its admin.
    CREATE_ORGANIZATION "createOrganization" = POST "/user-svc/organization"
        (Body<CreateOrganizationRequest>) -> Json<CreateOrganizationResponse>,
        access: Access::needs(&ORGANIZATION_CREATE), repeat: Some(Repeat::Keyed),
        audited: true, target: &["/id", "/slug"],
        errors: &[
            &FOREIGN_PREFIX, &QUOTA_REACHED, &ORGANIZATION_TAKEN, &TOO_MANY_ROLES, &ACCOUNT_BUILT_IN,
            &NO_SUCH_ACCOUNT,
        ];

    /// Create an organization, or change the one with this slug or id as its admin. Answers with a token that has the
    /// caller's present roles.
    SAVE_ORGANIZATION "saveOrganization" = PUT "/user-svc/organization"
        (Body<SaveOrganizationRequest>) -> Json<SaveOrganizationResponse>,
        access: Access::needs(&ORGANIZATION_CREATE), repeat: Some(Repeat::Never),
        audited: true, target: &["/id", "/slug"],
        errors: &[
            &FOREIGN_PREFIX, &NOT_ORGANIZATION_ADMIN, &QUOTA_REACHED, &ORGANIZATION_TAKEN, &TOO_MANY_ROLES,
            &ACCOUNT_BUILT_IN, &NO_SUCH_ACCOUNT, &NO_SUCH_ORGANIZATION,
        ];

    /// List all organizations, the newest first. Accounts find their own with `readSelf`.
    LIST_ORGANIZATIONS "listOrganizations" = POST "/user-svc/organizations"
        (Body<ListOrganizationsRequest>) -> Json<ListOrganizationsResponse>,
        long_answer: true, access: Access::needs(&ORGANIZATION_VIEW), effect: Some(Effect::Read);

    /// Delete an organization; its members lose their roles in it at once.
    DELETE_ORGANIZATION "deleteOrganization" = DELETE "/user-svc/organization/{organizationId}"
        (Path<OrganizationId>) -> Json<Empty>,
        access: Access::SignedIn, condition: Some(&ORGANIZATION_ADMIN), repeat: Some(Repeat::Natural), audited: true,
        errors: &[&NO_SUCH_ORGANIZATION];

    /// Let the id of a deleted organization be taken again.
    ///
    /// Whoever takes it has what others still keep for the organization that was.
    RELEASE_ORGANIZATION_ID "releaseOrganizationId" = DELETE "/user-svc/organization-id/{deletedOrganizationId}"
        (Path<DeletedOrganizationId>) -> Json<Empty>,
        access: Access::needs(&SLUG_RELEASE), repeat: Some(Repeat::Natural), audited: true,
        errors: &[&NO_SUCH_DELETED_ORGANIZATION];

    /// Who is in an organization; for its members and for admins.
    LIST_MEMBERS "listMembers" = GET "/user-svc/organization/{organizationId}/users"
        ((Path<OrganizationId>, Query<PageRequest>)) -> Json<ListMembersResponse>,
        long_answer: true, access: Access::SignedIn, condition: Some(&ORGANIZATION_MEMBER),
        errors: &[&NO_SUCH_ORGANIZATION];

    /// Add an account to an organization, as its admin.
    ADD_USER_TO_ORGANIZATION "addUserToOrganization" = POST "/user-svc/organization/{organizationId}/user"
        ((Path<OrganizationId>, Body<AddUserToOrganizationRequest>)) -> Json<Empty>,
        access: Access::needs(&ORGANIZATION_ADD_USER), condition: Some(&ORGANIZATION_ADMIN), repeat: Some(Repeat::Natural), audited: true,
        target: &["/userId"],
        errors: &[&TOO_MANY_ROLES, &ACCOUNT_BUILT_IN, &QUOTA_REACHED, &NO_SUCH_ORGANIZATION, &NO_SUCH_ACCOUNT];

    /// Say what an account is in an organization: `user` or `admin`. As an admin of the organization.
    SAVE_MEMBERSHIP "saveMembership" = PUT "/user-svc/organization/{organizationId}/user/{userId}"
        ((Path<OrganizationId>, Path<UserId>, Body<SaveMembershipRequest>)) -> Json<Empty>,
        access: Access::needs(&ORGANIZATION_ADD_USER), condition: Some(&ORGANIZATION_ADMIN), repeat: Some(Repeat::Natural), audited: true,
        target: &["/role"],
        errors: &[
            &TOO_MANY_ROLES, &ACCOUNT_BUILT_IN, &QUOTA_REACHED, &NO_SUCH_ORGANIZATION, &NO_SUCH_ACCOUNT, &LAST_ADMIN,
        ];

    /// Remove an account from an organization, as its admin, or leave it. Where its only admin leaves and did not found it,
    /// the member who has been in it longest becomes admin, and without others it goes.
    REMOVE_USER_FROM_ORGANIZATION "removeUserFromOrganization"
        = DELETE "/user-svc/organization/{organizationId}/user/{userId}"
        ((Path<OrganizationId>, Path<UserId>)) -> Json<Empty>,
        access: Access::needs(&ORGANIZATION_REMOVE_USER), condition: Some(&ORGANIZATION_ADMIN_OR_ITSELF), repeat: Some(Repeat::Natural), audited: true,
        errors: &[&NO_SUCH_ORGANIZATION, &NO_SUCH_MEMBER, &LAST_ADMIN];

    /// Read the audit log: who changed what and who was refused, the newest first.
    LIST_AUDIT "listAudit" = POST "/user-svc/audit"
        (Body<ListAuditRequest>) -> Json<ListAuditResponse>,
        long_answer: true, access: Access::needs(&AUDIT_VIEW), effect: Some(Effect::Read);

    /// Make an invitation: a code with which accounts can be registered while registration is by invitation.
    ///
    /// It holds as long as its maker may give what it gives.
    CREATE_INVITATION "createInvitation" = POST "/user-svc/invitation"
        (Body<CreateInvitationRequest>) -> Json<CreateInvitationResponse>,
        access: Access::needs(&USER_CREATE), repeat: Some(Repeat::Never), audited: true, target: &["/roleIds/*"],
        errors: &[&ROLE_NOT_GIVABLE, &QUOTA_REACHED, &INVITATIONS_CLOSED];

    /// List the invitations to the caller's app, or to all apps for an admin, without their codes.
    LIST_INVITATIONS "listInvitations" = GET "/user-svc/invitations"
        (Query<PageRequest>) -> Json<ListInvitationsResponse>,
        long_answer: true, access: Access::needs(&USER_CREATE);

    /// Revoke an invitation to the caller's app, or any as an admin.
    REVOKE_INVITATION "revokeInvitation" = DELETE "/user-svc/invitation/{invitationId}"
        (Path<InvitationId>) -> Json<Empty>,
        access: Access::needs(&USER_CREATE), repeat: Some(Repeat::Natural), audited: true,
        errors: &[&NO_SUCH_INVITATION];
}

/// The published form of `contact` in sign-in is a text; the successor's is an object whose `id` is the address. Both
/// become an object with `value`.
fn accept_other_contacts(body: &mut Value) {
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

fn accept_other_query(body: &mut Value) {
    if let Some(query) = body.get_mut("query") {
        query::accept_other_keys(query);
    }
}

/// An app as it is listed can be saved.
fn accept_host(body: &mut Value) {
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
