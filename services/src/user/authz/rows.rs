//! The stored rows of roles, permissions, grants, delegations and apps.

use openorch_api::{
    Time,
    user::{App, Delegation, Enroll, Grant, Permission, Permit, Role},
};
use openorch_chassis::Caller;
use openorch_store::{Collection, Index};
use serde::{Deserialize, Serialize};

use crate::user::shared::rows::DEFAULT_APP;

/// Pending roles for contacts that are not verified yet.
pub static CONTACT_ENROLLS: Collection = Collection {
    name: "userSvcContactEnrolls",
    indexes: &[Index::on(&["contact"]), Index::on(&["roleId"]), Index::on(&["createdBy"])],
};
pub static ROLES: Collection = Collection { name: "userSvcRoles", indexes: &[] };
pub static ROLE_LINKS: Collection = Collection {
    name: "userSvcRoleLinks",
    indexes: &[
        Index::on(&["userId"]),
        Index::on(&["roleId"]),
        Index::on(&["roleId", "contactEnrollId"]),
        Index::on(&["byContact"]),
        Index::on(&["contactEnrollId"]),
        Index::on(&["createdBy", "byAdmin"]),
    ],
};
pub static PERMISSIONS: Collection = Collection { name: "userSvcPermissions", indexes: &[] };
pub static PERMISSION_LINKS: Collection =
    Collection { name: "userSvcPermissionRoleLinks", indexes: &[Index::on(&["roleId"])] };
pub static GRANTS: Collection = Collection { name: "userSvcGrants", indexes: &[] };
/// The operations that services may call for their callers. The id is the service's slug.
pub static DELEGATIONS: Collection = Collection { name: "userSvcDelegations", indexes: &[] };
/// The apps, except the default one.
pub static APPS: Collection = Collection { name: "userSvcApps", indexes: &[Index::unique(&["host"])] };

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RoleRow {
    pub id: String,
    pub name: String,
    pub description: String,
    pub owner_id: String,
    pub created_at: Time,
    pub updated_at: Time,
    /// The role is being deleted: it grants nothing and counts as removed from all accounts, whatever links are still
    /// stored.
    #[serde(default)]
    pub going: bool,
}

impl From<&RoleRow> for Role {
    fn from(row: &RoleRow) -> Role {
        Role {
            id: row.id.clone(),
            created_at: row.created_at,
            updated_at: row.updated_at,
            name: row.name.clone(),
            description: row.description.clone(),
            owner_id: row.owner_id.clone(),
        }
    }
}

/// Assigns a role to an account in an app, or in all apps.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RoleLinkRow {
    pub user_id: String,
    pub role_id: String,
    pub app: String,
    #[serde(default)]
    pub created_at: Time,
    /// The assigner; empty for roles that an account was created with.
    #[serde(default)]
    pub created_by: String,
    /// The assigner was an admin.
    #[serde(default)]
    pub by_admin: bool,
    /// The normalized contact by which the role was assigned. The assigner must not learn to which account it belongs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by_contact: Option<String>,
    /// The id of the enroll as the assigner knows it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub contact_enroll_id: Option<String>,
}

impl RoleLinkRow {
    pub fn new(app: &str, user_id: &str, role_id: &str, now: Time) -> RoleLinkRow {
        RoleLinkRow {
            user_id: user_id.to_owned(),
            role_id: role_id.to_owned(),
            app: app_of(role_id, app).to_owned(),
            created_at: now,
            created_by: String::new(),
            by_admin: false,
            by_contact: None,
            contact_enroll_id: None,
        }
    }

    /// Sets the assigner.
    pub fn assigned_by(self, giver: &Caller) -> RoleLinkRow {
        RoleLinkRow { created_by: giver.user_id.to_string(), by_admin: giver.is_admin(), ..self }
    }

    /// Takes assigner and contact from a pending role.
    pub fn of_pending(self, row: &ContactEnrollRow) -> RoleLinkRow {
        RoleLinkRow {
            created_at: row.created_at,
            created_by: row.created_by.clone(),
            by_admin: row.by_admin,
            by_contact: Some(row.contact.clone()),
            contact_enroll_id: Some(row.id()),
            ..self
        }
    }

    /// The pending role from which it was created, if assigned by contact.
    pub fn to_pending(&self) -> Option<ContactEnrollRow> {
        Some(ContactEnrollRow {
            contact: self.by_contact.clone()?,
            role_id: self.role_id.clone(),
            app: self.app.clone(),
            created_at: self.created_at,
            created_by: self.created_by.clone(),
            by_admin: self.by_admin,
        })
    }

    /// Whether it was assigned by the daemon or an admin.
    pub fn is_trusted(&self) -> bool {
        self.by_admin || self.created_by.is_empty()
    }

    /// Whether it was assigned by another account that is not an admin.
    pub fn is_by_other(&self) -> bool {
        !self.is_trusted() && self.created_by != self.user_id
    }

    pub fn id(&self) -> String {
        RoleLinkRow::id_of(&self.app, &self.user_id, &self.role_id)
    }

    /// The id of the row for an account, role and app.
    pub fn id_of(app: &str, user_id: &str, role_id: &str) -> String {
        format!("{app}:{user_id}:{role_id}")
    }
}

impl From<RoleLinkRow> for Enroll {
    fn from(row: RoleLinkRow) -> Enroll {
        Enroll {
            id: row.id(),
            app_id: row.app,
            created_at: row.created_at,
            updated_at: row.created_at,
            user_id: row.user_id,
            contact_id: String::new(),
            role: row.role_id,
            created_by: row.created_by,
        }
    }
}

/// The app under which a role assignment is stored. The platform admin role is valid in all apps and stored only once.
pub fn app_of<'a>(role_id: &str, app: &'a str) -> &'a str {
    if role_id == openorch_api::role::ADMIN { DEFAULT_APP } else { app }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PermissionRow {
    pub id: String,
    pub name: String,
    pub description: String,
    pub owner_id: String,
    pub created_at: Time,
    pub updated_at: Time,
}

impl From<&PermissionRow> for Permission {
    fn from(row: &PermissionRow) -> Permission {
        Permission {
            id: row.id.clone(),
            created_at: row.created_at,
            updated_at: row.updated_at,
            name: row.name.clone(),
            description: row.description.clone(),
            owner_id: row.owner_id.clone(),
        }
    }
}

/// Links a permission to a role.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PermissionLinkRow {
    pub permission_id: String,
    pub role_id: String,
}

impl PermissionLinkRow {
    pub fn id(&self) -> String {
        // Ids contain colons but never `|`.
        format!("{}|{}", self.permission_id, self.role_id)
    }
}

/// Gives a permission to accounts by slug and by role. A grant (only slugs) and a permit are two views of it.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GrantRow {
    pub id: String,
    pub permission_id: String,
    pub slugs: Vec<String>,
    pub role_ids: Vec<String>,
    /// The app, or `*` for all.
    pub app: String,
    /// The account that created it.
    pub owner_id: String,
    pub created_at: Time,
    pub updated_at: Time,
}

impl From<&GrantRow> for Grant {
    fn from(row: &GrantRow) -> Grant {
        Grant { id: row.id.clone(), permission_id: row.permission_id.clone(), slugs: row.slugs.clone() }
    }
}

impl From<&GrantRow> for Permit {
    fn from(row: &GrantRow) -> Permit {
        Permit {
            app_id: row.app.clone(),
            id: row.id.clone(),
            created_at: row.created_at,
            updated_at: row.updated_at,
            permission: row.permission_id.clone(),
            slugs: row.slugs.clone(),
            roles: row.role_ids.clone(),
        }
    }
}

/// The operations that a service may call for its callers.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DelegationRow {
    pub slug: String,
    #[serde(default)]
    pub operations: Vec<String>,
    #[serde(default)]
    pub services: Vec<String>,
}

impl From<&DelegationRow> for Delegation {
    fn from(row: &DelegationRow) -> Delegation {
        Delegation { slug: row.slug.clone(), operations: row.operations.clone(), services: row.services.clone() }
    }
}

impl From<Delegation> for DelegationRow {
    fn from(wanted: Delegation) -> DelegationRow {
        DelegationRow { slug: wanted.slug, operations: wanted.operations, services: wanted.services }
    }
}

/// A pending role for the account that verifies the contact.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ContactEnrollRow {
    /// Normalized.
    pub contact: String,
    pub role_id: String,
    pub app: String,
    pub created_at: Time,
    /// The assigner.
    pub created_by: String,
    /// The assigner was an admin.
    #[serde(default)]
    pub by_admin: bool,
}

impl ContactEnrollRow {
    /// A digest, since contacts may be longer than document ids.
    pub fn id(&self) -> String {
        use sha2::{Digest, Sha256};
        let digest = Sha256::digest(format!("{}\n{}\n{}", self.app, self.role_id, self.contact));
        format!("contact:{}", digest.iter().map(|byte| format!("{byte:02x}")).collect::<String>())
    }
}

impl From<ContactEnrollRow> for Enroll {
    fn from(row: ContactEnrollRow) -> Enroll {
        Enroll {
            id: row.id(),
            app_id: row.app,
            created_at: row.created_at,
            updated_at: row.created_at,
            user_id: String::new(),
            contact_id: row.contact,
            role: row.role_id,
            created_by: row.created_by,
        }
    }
}

/// An app (tenant), identified by host.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AppRow {
    pub id: String,
    pub host: String,
    pub created_at: Time,
    pub updated_at: Time,
}

impl From<&AppRow> for App {
    fn from(row: &AppRow) -> App {
        App { id: row.id.clone(), host: row.host.clone() }
    }
}
