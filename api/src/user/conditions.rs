//! Authorization conditions of user-svc that depend on the caller and the input, besides permissions.

use crate::{Condition, error::access, user::errors};

pub static NAMES_APPS: Condition = Condition {
    who: "any account that names the apps by `ids` or `host`; listing all apps needs the permission `user-svc:app:multi-view`",
    refusal: &access::PERMISSION_MISSING,
};

pub static OWNS_PERMISSIONS: Condition = Condition {
    who: "the account of the slug that each permission starts with, and admins",
    refusal: &errors::PERMISSION_OF_ANOTHER,
};

pub static GIVES_ROLES: Condition = Condition {
    who: "the account whose slug is the prefix of each role, an account that has the `admin` role with the same prefix, and admins",
    refusal: &errors::ROLE_NOT_GIVABLE,
};

/// The condition of `listEnrolls` and `deleteEnroll`.
pub static OWN_OR_GIVES_ROLE: Condition = Condition {
    who: "the account that has the roles, any account that may give the role, and admins",
    refusal: &errors::ROLE_NOT_GIVABLE,
};

pub static ORGANIZATION_ADMIN: Condition =
    Condition { who: "an admin of the organization, and admins", refusal: &errors::NOT_ORGANIZATION_ADMIN };

pub static ORGANIZATION_ADMIN_OR_ITSELF: Condition = Condition {
    who: "an admin of the organization, the member itself, and admins",
    refusal: &errors::NOT_ORGANIZATION_ADMIN,
};

pub static ORGANIZATION_MEMBER: Condition =
    Condition { who: "a member of the organization, and admins", refusal: &errors::NOT_IN_ORGANIZATION };
