//! Authorization conditions of user-svc that depend on the caller and the input, besides permissions.

use crate::{Condition, error::access, user::errors};

pub static NAMES_APPS: Condition = Condition {
    allowed_callers: "any account that names the apps by `ids` or `host`; listing all apps needs the permission `user-svc:app:multi-view`",
    error: &access::PERMISSION_MISSING,
};

pub static OWNS_PERMISSIONS: Condition = Condition {
    allowed_callers: "the account of the slug that each permission starts with, and admins",
    error: &errors::PERMISSION_OF_ANOTHER,
};

pub static GIVES_ROLES: Condition = Condition {
    allowed_callers: "the account whose slug is the prefix of each role, an account that has the `admin` role with the same prefix, and admins",
    error: &errors::ROLE_NOT_GIVABLE,
};

/// The condition of `listEnrolls` and `deleteEnroll`.
pub static OWN_OR_GIVES_ROLE: Condition = Condition {
    allowed_callers: "the account that has the roles, any account that may give the role, and admins",
    error: &errors::ROLE_NOT_GIVABLE,
};

pub static ORGANIZATION_ADMIN: Condition =
    Condition { allowed_callers: "an admin of the organization, and admins", error: &errors::NOT_ORGANIZATION_ADMIN };

pub static ORGANIZATION_ADMIN_OR_ITSELF: Condition = Condition {
    allowed_callers: "an admin of the organization, the member itself, and admins",
    error: &errors::NOT_ORGANIZATION_ADMIN,
};

pub static ORGANIZATION_MEMBER: Condition =
    Condition { allowed_callers: "a member of the organization, and admins", error: &errors::NOT_IN_ORGANIZATION };
