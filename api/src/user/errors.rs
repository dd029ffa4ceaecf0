//! The refusals of the user service: accounts, sessions, apps, roles, permits, organizations and invitations.

crate::errors! {
    REGISTRATION_CLOSED 403 "user.registration_closed" "registration is closed"
        "have an operator open it with OPENORCH_REGISTRATION, or an admin make the account";
    REGISTRATION_LOCAL_ONLY 403 "user.registration_local_only" "registration is open to programs on the daemon's machine only"
        "register there, or have an operator open it with OPENORCH_REGISTRATION";
    INVITATION_REQUIRED 403 "user.invitation_required" "registration is by invitation"
        "ask an admin for one and send its code as `invitation`";
    INVITATION_NOT_VALID 403 "user.invitation_not_valid" "the invitation is not known, has ended, was used up or no longer counts"
        "ask an admin for another";
    INVITATIONS_CLOSED 409 "user.invitations_closed" "registration is closed, and nobody could redeem an invitation"
        "make the account yourself, or have an operator set OPENORCH_REGISTRATION=invite";
    NO_SUCH_INVITATION 404 "user.no_such_invitation" "there is no invitation with this id"
        "GET /user-svc/invitations lists those there are";
    SLUG_TAKEN 409 "user.slug_taken" "the slug is taken, or was a deleted account's"
        "choose another, or sign in to the account that has it";
    ID_TAKEN 409 "user.id_taken" "the id was a deleted account's"
        "leave the id out to be given one";
    ACCOUNT_EXISTS 409 "user.account_exists" "the slug, the id or the contact is another account's"
        "choose others, or sign in";
    CONTACT_TAKEN 409 "user.contact_taken" "an account showed that the contact is its own"
        "sign in to that account, or use another contact";
    TOO_MANY_CONTACTS 400 "user.too_many_contacts" "the account has as many contacts as it may"
        "remove one";
    NO_SUCH_CONTACT 404 "user.no_such_contact" "the caller has no such contact"
        "POST /user-svc/self lists them";
    CONTACT_GONE 401 "user.contact_gone" "no account has this contact any more"
        "sign in another way";
    CODE_NOT_VALID 400 "user.code_not_valid" "the code that was sent to a contact is wrong, was used or has ended"
        "ask for another code";
    TOO_MANY_CODES 429 "user.too_many_codes" "a code was sent there a moment ago, or too many were asked for"
        "wait as long as `Retry-After` says";
    NO_MAIL_SERVER 409 "user.no_mail_server" "no mail server is set up"
        "have an operator set OPENORCH_SMTP_HOST and OPENORCH_SMTP_FROM";
    MAIL_NOT_TAKEN 503 "user.mail_not_taken" "the mail server does not take the message now"
        "try again in a minute";
    MAIL_NOT_POSSIBLE 400 "user.mail_not_possible" "no mail can be sent to this address"
        "use another address";
    SLUG_NOT_FOUND 400 "user.slug_not_found" "no account has the slug that is to sign in"
        "correct the slug, or register";
    WRONG_PASSWORD 401 "user.wrong_password" "the password is wrong, or no account has the contact"
        "correct it, sign in by a code, or have an admin reset it";
    CURRENT_PASSWORD_WRONG 400 "user.current_password_wrong" "the present password is wrong"
        "correct it, or have an admin reset it";
    PASSWORD_REFUSED 400 "user.password_refused" "the new password is too short, too long or too common"
        "choose another";
    PASSWORD_TOO_WEAK 403 "user.password_too_weak" "the password is right, and too weak to sign in with from another machine"
        "set another on the daemon's machine, or have an admin reset it";
    PASSWORD_CHANGED_MEANWHILE 409 "user.password_changed_meanwhile" "the password was just changed by someone else"
        "sign in with the new one, or have an admin reset it";
    PASSWORD_OF_ANOTHER 403 "user.password_of_another" "the password is another account's"
        "have an admin reset it";
    KEYS_ROTATED_TOO_OFTEN 429 "user.keys_rotated_too_often" "the signing key was rotated as often as it may be within a day"
        "wait as long as `Retry-After` says";
    TOO_MANY_SIGN_INS 429 "user.too_many_sign_ins" "too many passwords are being checked or made at once"
        "wait as long as `Retry-After` says";
    TOO_MANY_WRONG_PASSWORDS 429 "user.too_many_wrong_passwords" "too many sign-ins failed lately"
        "wait as long as `Retry-After` says";
    NO_ROLE_IN_APP 403 "user.no_role_in_app" "the account has no role in the app that lets it in"
        "have an admin give it one with PUT /user-svc/enrolls";
    ALREADY_EXCHANGED 403 "user.already_exchanged" "the token was exchanged for another one itself"
        "exchange the token of the sign-in";
    TOO_MANY_EXCHANGED 409 "user.too_many_exchanged" "as many tokens were exchanged from this one as may be"
        "use those, or end some of their sessions";
    DEVICE_IN_USE 409 "user.device_in_use" "the account is signed in on this device already"
        "name another device";
    NOT_AUTHORIZED 401 "user.not_authorized" "the caller does not have the permission that was asked about"
        "refuse the caller, or have an admin give it the permission";
    NO_SUCH_SESSION 404 "user.no_such_session" "there is no such session that the caller may end"
        "GET /user-svc/sessions lists them";
    NO_SUCH_ACCOUNT 404 "user.no_such_account" "there is no account with this id"
        "POST /user-svc/users lists them, for who may see them";
    NO_SUCH_DELETED_SLUG 404 "user.no_such_deleted_slug" "no deleted account had this slug"
        "correct the slug; a free one needs no release";
    ADMINS_ONLY 403 "user.admins_only" "only admins may do this"
        "ask an admin";
    ACCOUNT_MAY_MORE 403 "user.account_may_more" "the account has rights that the caller lacks and would gain by managing it"
        "ask an admin";
    ACCOUNT_BUILT_IN 403 "user.account_built_in" "the account is a built-in service's"
        "leave it as it is";
    LAST_ADMIN 409 "user.last_admin" "nobody would be left who can administer this"
        "make another account admin first";
    NO_SUCH_APP 404 "user.no_such_app" "there is no such app"
        "correct the host or the id; who may make one does so with PUT /user-svc/app";
    APP_BUILT_IN 403 "user.app_built_in" "it is the built-in app"
        "leave it as it is";
    APP_HOST_TAKEN 409 "user.app_host_taken" "another app has this host"
        "choose another";
    APP_NOT_EMPTY 409 "user.app_not_empty" "roles, sessions, organizations, permits or invitations belong to the app"
        "delete those first, or send `cascade=true`";
    TOO_MANY_APPS 400 "user.too_many_apps" "there are as many apps as there may be"
        "delete some";
    NO_SUCH_ROLE 404 "user.no_such_role" "there is no such role"
        "GET /user-svc/roles lists those there are; POST /user-svc/role makes one";
    ROLE_BUILT_IN 403 "user.role_built_in" "the role is built in"
        "leave it as it is; PUT /user-svc/roles/permissions gives it more permissions";
    ROLE_OF_ANOTHER 403 "user.role_of_another" "the role is another account's"
        "ask its owner, or make a role of your own";
    ROLE_BEING_DELETED 409 "user.role_being_deleted" "the role was deleted and is being taken from all who had it"
        "try again in a moment";
    ROLE_NOT_HELD 403 "user.role_not_held" "the caller has not the role that it asks about"
        "ask for roles of your own";
    ROLE_NOT_GIVABLE 403 "user.role_not_givable" "the role is not the caller's to give, to take or to look into"
        "ask an admin, or the account of the slug that the role starts with";
    TOO_MANY_ROLES 400 "user.too_many_roles" "the account has as many roles as it may"
        "take some away";
    NO_SUCH_ENROLL 404 "user.no_such_enroll" "there is no enroll with this id"
        "POST /user-svc/enrolls lists those there are";
    NO_SUCH_PERMISSION 404 "user.no_such_permission" "there is no such permission"
        "its service saves it with PUT /user-svc/permissions";
    PERMISSION_BUILT_IN 403 "user.permission_built_in" "the permission is a built-in service's"
        "leave it as it is";
    PERMISSION_OF_ANOTHER 403 "user.permission_of_another" "the permission is another account's"
        "ask its owner or an admin";
    FOREIGN_PREFIX 403 "user.foreign_prefix" "the id begins with another account's slug"
        "begin it with your own slug and a colon";
    NO_SUCH_GRANT 404 "user.no_such_grant" "there is no grant with this id"
        "POST /user-svc/permits lists those there are";
    GRANT_ID_TAKEN 409 "user.grant_id_taken" "the id is that of another account's grant or permit"
        "choose another";
    QUOTA_REACHED 403 "user.quota_reached" "the account has, or gave, as many of these as it may"
        "take some back, or have an admin do it";
    RULE_MEMORY_FULL 429 "user.rule_memory_full" "the rules of all accounts fill the memory that they may take"
        "have an admin delete some, or an operator raise OPENORCH_USER_MAX_ACCESS_RULE_MEMORY";
    NO_SUCH_DELEGATION 404 "user.no_such_delegation" "nothing was opened to a service of this slug"
        "GET /user-svc/delegations lists what was";
    NO_SUCH_ORGANIZATION 404 "user.no_such_organization" "there is no organization with this id"
        "POST /user-svc/self lists those of the caller";
    NO_SUCH_DELETED_ORGANIZATION 404 "user.no_such_deleted_organization" "no deleted organization had this id"
        "correct the id; a free one needs no release";
    ORGANIZATION_TAKEN 409 "user.organization_taken" "the id or the slug of the organization is taken"
        "choose another";
    NOT_ORGANIZATION_ADMIN 403 "user.not_organization_admin" "the caller is no admin of the organization"
        "ask one of its admins";
    NOT_IN_ORGANIZATION 403 "user.not_in_organization" "the caller is not in the organization"
        "ask one of its admins";
    NO_SUCH_MEMBER 404 "user.no_such_member" "the account is not in the organization"
        "add it first";
}
