//! Error codes of user-svc: accounts, sessions, apps, roles, permits, organizations and invitations.

crate::errors! {
    REGISTRATION_CLOSED 403 "user.registration_closed" "registration is closed"
        "have an operator open it with OPENORCH_REGISTRATION, or an admin create the account";
    REGISTRATION_LOCAL_ONLY 403 "user.registration_local_only" "registration is open to loopback clients only"
        "register on the daemon's machine, or have an operator open it with OPENORCH_REGISTRATION";
    INVITATION_REQUIRED 403 "user.invitation_required" "registration is by invitation"
        "ask an admin for one and send its code as `invitation`";
    INVITATION_NOT_VALID 403 "user.invitation_not_valid" "the invitation is unknown, expired, used up or no longer valid"
        "ask an admin for another invitation";
    INVITATIONS_CLOSED 409 "user.invitations_closed" "registration is closed, so an invitation could not be redeemed"
        "create the account yourself, or have an operator set OPENORCH_REGISTRATION=invite";
    NO_SUCH_INVITATION 404 "user.no_such_invitation" "there is no invitation with this id"
        "GET /user-svc/invitations lists the existing invitations";
    SLUG_TAKEN 409 "user.slug_taken" "the slug is taken, or reserved because it belonged to a deleted account"
        "choose another slug, or sign in to the account that has it";
    ID_TAKEN 409 "user.id_taken" "the id belonged to a deleted account"
        "omit the id to have one generated";
    ACCOUNT_EXISTS 409 "user.account_exists" "the slug, the id or the contact belongs to another account"
        "choose other values, or sign in";
    CONTACT_TAKEN 409 "user.contact_taken" "another account has verified the contact"
        "sign in to that account, or use another contact";
    TOO_MANY_CONTACTS 400 "user.too_many_contacts" "the account has the maximum number of contacts"
        "remove one";
    NO_SUCH_CONTACT 404 "user.no_such_contact" "the caller has no such contact"
        "POST /user-svc/self lists them";
    CONTACT_GONE 401 "user.contact_gone" "no account has this contact anymore"
        "sign in another way";
    CODE_NOT_VALID 400 "user.code_not_valid" "the code is wrong, already used or expired"
        "request another code";
    TOO_MANY_CODES 429 "user.too_many_codes" "a code was just sent to the contact, or too many codes were requested"
        "wait as long as `Retry-After` says";
    NO_MAIL_SERVER 409 "user.no_mail_server" "no mail server is configured"
        "have an operator set OPENORCH_SMTP_HOST and OPENORCH_SMTP_FROM";
    MAIL_NOT_TAKEN 503 "user.mail_not_taken" "the mail server does not accept the message at the moment"
        "try again in a minute";
    MAIL_NOT_POSSIBLE 400 "user.mail_not_possible" "no mail can be sent to this address"
        "use another address";
    SLUG_NOT_FOUND 400 "user.slug_not_found" "no account has the given slug"
        "correct the slug, or register";
    WRONG_PASSWORD 401 "user.wrong_password" "the password is wrong, or no account has the contact"
        "correct it, sign in with a code, or have an admin reset it";
    CURRENT_PASSWORD_WRONG 400 "user.current_password_wrong" "the current password is wrong"
        "correct it, or have an admin reset it";
    PASSWORD_REFUSED 400 "user.password_refused" "the new password is too short, too long or too common"
        "choose another";
    PASSWORD_TOO_WEAK 403 "user.password_too_weak" "the password is correct but too weak to sign in from another machine"
        "change it on the daemon's machine, or have an admin reset it";
    PASSWORD_CHANGED_MEANWHILE 409 "user.password_changed_meanwhile" "the password was changed concurrently"
        "sign in with the new password, or have an admin reset it";
    PASSWORD_OF_ANOTHER 403 "user.password_of_another" "the password belongs to another account"
        "have an admin reset it";
    KEYS_ROTATED_TOO_OFTEN 429 "user.keys_rotated_too_often" "the signing key was rotated the maximum number of times per day"
        "wait as long as `Retry-After` says";
    TOO_MANY_SIGN_INS 429 "user.too_many_sign_ins" "too many passwords are being hashed at the same time"
        "wait as long as `Retry-After` says";
    TOO_MANY_REGISTRATIONS 429 "user.too_many_registrations" "too many accounts were registered from the network within an hour"
        "wait as long as `Retry-After` says, or have an operator raise OPENORCH_USER_MAX_REGISTRATIONS_PER_NETWORK";
    TOO_MANY_WRONG_PASSWORDS 429 "user.too_many_wrong_passwords" "too many recent sign-ins failed"
        "wait as long as `Retry-After` says";
    NO_ROLE_IN_APP 403 "user.no_role_in_app" "the account has no role that gives it access to the app"
        "have an admin give it a role with PUT /user-svc/enrolls";
    ALREADY_EXCHANGED 403 "user.already_exchanged" "the token is itself the result of an exchange"
        "exchange the original token of the sign-in";
    TOO_MANY_EXCHANGED 409 "user.too_many_exchanged" "the maximum number of tokens was exchanged from this one"
        "use one of them, or end some of their sessions";
    DEVICE_IN_USE 409 "user.device_in_use" "the account is signed in on this device already"
        "name another device";
    NOT_AUTHORIZED 401 "user.not_authorized" "the caller does not have the requested permission"
        "reject the caller, or have an admin grant it the permission";
    NO_SUCH_SESSION 404 "user.no_such_session" "there is no such session, or the caller may not end it"
        "GET /user-svc/sessions lists them";
    NO_SUCH_ACCOUNT 404 "user.no_such_account" "there is no account with this id"
        "POST /user-svc/users lists the accounts (needs a permission)";
    NO_SUCH_DELETED_SLUG 404 "user.no_such_deleted_slug" "no deleted account had this slug"
        "correct the slug; an unused slug needs no release";
    ADMINS_ONLY 403 "user.admins_only" "only admins may do this"
        "ask an admin";
    ACCOUNT_MAY_MORE 403 "user.account_may_more" "the account has permissions that the caller lacks and would gain by managing it"
        "ask an admin";
    ACCOUNT_BUILT_IN 403 "user.account_built_in" "the account belongs to a built-in service"
        "leave it as it is";
    LAST_ADMIN 409 "user.last_admin" "this would remove the last admin"
        "make another account admin first";
    NO_SUCH_APP 404 "user.no_such_app" "there is no such app"
        "correct the host or the id, or create the app with PUT /user-svc/app";
    APP_BUILT_IN 403 "user.app_built_in" "the app is built in"
        "leave it as it is";
    APP_HOST_TAKEN 409 "user.app_host_taken" "another app has this host"
        "choose another";
    APP_NOT_EMPTY 409 "user.app_not_empty" "roles, sessions, organizations, permits or invitations belong to the app"
        "delete those first, or send `cascade=true`";
    TOO_MANY_APPS 400 "user.too_many_apps" "the maximum number of apps exists"
        "delete some of them";
    NO_SUCH_ROLE 404 "user.no_such_role" "there is no such role"
        "GET /user-svc/roles lists the existing roles; POST /user-svc/role creates one";
    ROLE_BUILT_IN 403 "user.role_built_in" "the role is built in"
        "leave it as it is; PUT /user-svc/roles/permissions adds permissions to it";
    ROLE_OF_ANOTHER 403 "user.role_of_another" "the role belongs to another account"
        "ask its owner, or create your own role";
    ROLE_BEING_DELETED 409 "user.role_being_deleted" "the role is being deleted"
        "try again in a moment";
    ROLE_NOT_HELD 403 "user.role_not_held" "the caller does not have the requested role"
        "list only your own roles";
    ROLE_NOT_GIVABLE 403 "user.role_not_givable" "the caller may not give, revoke or inspect the role"
        "ask an admin, or the account of the slug that the role starts with";
    TOO_MANY_ROLES 400 "user.too_many_roles" "the account has the maximum number of roles"
        "revoke some of them";
    NO_SUCH_ENROLL 404 "user.no_such_enroll" "there is no enroll with this id"
        "POST /user-svc/enrolls lists the existing enrolls";
    NO_SUCH_PERMISSION 404 "user.no_such_permission" "there is no such permission"
        "the service that owns it must save it with PUT /user-svc/permissions";
    PERMISSION_BUILT_IN 403 "user.permission_built_in" "the permission belongs to a built-in service"
        "leave it as it is";
    PERMISSION_OF_ANOTHER 403 "user.permission_of_another" "the permission belongs to another account"
        "ask its owner or an admin";
    FOREIGN_PREFIX 403 "user.foreign_prefix" "the id starts with the slug of another account"
        "start it with your own slug and a colon";
    NO_SUCH_GRANT 404 "user.no_such_grant" "there is no grant with this id"
        "POST /user-svc/permits lists the existing grants and permits";
    GRANT_ID_TAKEN 409 "user.grant_id_taken" "the id belongs to a grant or permit of another account"
        "choose another";
    QUOTA_REACHED 403 "user.quota_reached" "the account has reached its quota"
        "delete or revoke some, or have an admin do it";
    RULE_MEMORY_FULL 429 "user.rule_memory_full" "the access rules of all accounts have reached their memory limit"
        "have an admin delete some, or an operator raise OPENORCH_USER_MAX_ACCESS_RULE_MEMORY";
    NO_SUCH_DELEGATION 404 "user.no_such_delegation" "there is no delegation for a service with this slug"
        "GET /user-svc/delegations lists the existing delegations";
    NO_SUCH_ORGANIZATION 404 "user.no_such_organization" "there is no organization with this id"
        "POST /user-svc/self lists the organizations of the caller";
    NO_SUCH_DELETED_ORGANIZATION 404 "user.no_such_deleted_organization" "no deleted organization had this id"
        "correct the id; an unused id needs no release";
    ORGANIZATION_TAKEN 409 "user.organization_taken" "the id or the slug of the organization is taken"
        "choose another";
    NOT_ORGANIZATION_ADMIN 403 "user.not_organization_admin" "the caller is not an admin of the organization"
        "ask one of its admins";
    NOT_IN_ORGANIZATION 403 "user.not_in_organization" "the caller is not a member of the organization"
        "ask one of its admins";
    NO_SUCH_MEMBER 404 "user.no_such_member" "the account is not a member of the organization"
        "add it first";
}
