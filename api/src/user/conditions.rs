//! Conditions of user-svc about caller and input, beside permissions.

use crate::{Condition, error::access, user::errors};

pub static NAMES_APPS: Condition = Condition {
    who: "any account that names the apps by `ids` or `host`; for all of them, who has the permission `user-svc:app:multi-view`",
    refusal: &access::PERMISSION_MISSING,
};

pub static OWNS_PERMISSIONS: Condition = Condition {
    who: "the account of the slug that each permission starts with, and admins",
    refusal: &errors::PERMISSION_OF_ANOTHER,
};

pub static GIVES_ROLES: Condition = Condition {
    who: "the account of the slug that each role starts with, who has the `admin` role beside it, and admins",
    refusal: &errors::ROLE_NOT_GIVABLE,
};

/// Which lists and takes them.
pub static OWN_OR_GIVES_ROLE: Condition = Condition {
    who: "an account for its own roles; those of others, who may give the role; and admins",
    refusal: &errors::ROLE_NOT_GIVABLE,
};

pub static ORGANIZATION_ADMIN: Condition =
    Condition { who: "an admin of the organization, and admins", refusal: &errors::NOT_ORGANIZATION_ADMIN };

pub static ORGANIZATION_ADMIN_OR_ITSELF: Condition = Condition {
    who: "an admin of the organization, a member for itself, and admins",
    refusal: &errors::NOT_ORGANIZATION_ADMIN,
};

pub static ORGANIZATION_MEMBER: Condition =
    Condition { who: "a member of the organization, and admins", refusal: &errors::NOT_IN_ORGANIZATION };
