//! The stored rows of organizations and invitations.

use openorch_api::{
    Time,
    user::{Invitation, Organization},
};
use openorch_store::{Collection, Index};
use serde::{Deserialize, Serialize};

use crate::user::shared::rows::default_app;

pub static ORGANIZATIONS: Collection = Collection {
    name: "userSvcOrganizations",
    indexes: &[Index::unique(&["app", "slug"]), Index::on(&["createdAt"]), Index::on(&["founderId"])],
};
pub static INVITATIONS: Collection =
    Collection { name: "userSvcInvitations", indexes: &[Index::unique(&["codeHash"]), Index::on(&["createdById"])] };

/// An organization. Its members are the accounts with its two roles.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OrganizationRow {
    pub id: String,
    #[serde(default = "default_app")]
    pub app: String,
    pub name: String,
    /// `None` instead of empty, since slugs are unique.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slug: Option<String>,
    #[serde(default)]
    pub founder_id: String,
    pub created_at: Time,
    pub updated_at: Time,
}

impl From<&OrganizationRow> for Organization {
    fn from(row: &OrganizationRow) -> Organization {
        Organization {
            id: row.id.clone(),
            created_at: row.created_at,
            updated_at: row.updated_at,
            name: row.name.clone(),
            slug: row.slug.clone().unwrap_or_default(),
        }
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct InvitationRow {
    pub id: String,
    /// SHA-256 of the code in hexadecimal. The code itself is shown once and not stored.
    pub code_hash: String,
    /// The app for which it is valid.
    #[serde(default = "default_app")]
    pub app: String,
    pub created_at: Time,
    pub expires_at: Time,
    pub uses_left: u32,
    pub role_ids: Vec<String>,
    /// The slug of its creator.
    pub created_by: String,
    /// The id of its creator, whose rights count when the invitation is redeemed. Empty in rows of older versions.
    #[serde(default)]
    pub created_by_id: String,
}

impl From<InvitationRow> for Invitation {
    fn from(row: InvitationRow) -> Invitation {
        Invitation {
            id: row.id,
            // Shown once and not stored.
            code: String::new(),
            created_at: row.created_at,
            expires_at: row.expires_at,
            uses_left: row.uses_left,
            role_ids: row.role_ids,
            created_by: row.created_by,
        }
    }
}
