//! Creating accounts: checks that slug and id are free, and the writes for a new account.

use openorch_api::{Slug, user::errors};
use openorch_chassis::{Error, Result};
use openorch_store::{Batch, Filter, Guard, Write};

use crate::user::{
    authn::rows::{KNOWN_ADDRESSES, PASSWORDS, SESSIONS},
    authz::rows::{CONTACT_ENROLLS, ROLE_LINKS, ROLES, RoleLinkRow},
    directory::{
        rows::{INVITATIONS, ORGANIZATIONS},
        state::Directory,
    },
    shared::{
        quote::quote,
        rows::{CONTACTS, TOMBSTONES, UserRow, id_tombstone},
    },
};

/// Rows of an account or created by it, and the field with the account's id.
const ACCOUNT_COLLECTIONS: &[(&str, &str)] = &[
    (ROLE_LINKS.name, "userId"),
    (SESSIONS.name, "userId"),
    (CONTACTS.name, "userId"),
    (KNOWN_ADDRESSES.name, "userId"),
    (PASSWORDS.name, "id"),
    (ORGANIZATIONS.name, "founderId"),
    (CONTACT_ENROLLS.name, "createdBy"),
    (INVITATIONS.name, "createdById"),
    (ROLE_LINKS.name, "createdBy"),
];

impl Directory {
    pub async fn check_slug_is_free(&self, slug: &Slug) -> Result<()> {
        if slug.is_reserved() {
            return Err(Error::new(
                &errors::SLUG_TAKEN,
                format!("slug already exists: `{slug}` is reserved for the daemon; choose another"),
            ));
        }
        if self.tombstones.get(slug.as_str()).await?.is_some() {
            return Err(Error::new(
                &errors::SLUG_TAKEN,
                format!(
                    "slug already exists: `{slug}` belonged to a deleted account; choose another, or have an admin release it"
                ),
            ));
        }
        if self.accounts.by_slug(slug.as_str()).await?.is_some() {
            return Err(Error::new(
                &errors::SLUG_TAKEN,
                format!("slug already exists: `{slug}` is taken; sign in or choose another"),
            ));
        }
        Ok(())
    }

    /// Refuses the id of a deleted account, since other services may still have data of it, and roles or sessions may
    /// remain. Older versions left no tombstone, so remaining rows are searched for.
    pub async fn check_id_is_unused(&self, id: &str) -> Result<()> {
        let mut is_used = self.tombstones.get(&id_tombstone(id)).await?.is_some();
        for (collection, field) in ACCOUNT_COLLECTIONS {
            is_used = is_used || self.platform.store.count(collection, &[Filter::equals(*field, id)]).await? > 0;
        }
        if is_used && self.accounts.users.get(id).await?.is_none() {
            return Err(Error::new(
                &errors::ID_TAKEN,
                format!(
                    "an account with the id `{id}` was deleted, and ids are not reused; omit the id to have one generated"
                ),
            ));
        }
        Ok(())
    }

    /// The batch that creates an account with these roles, and the accounts that lose a contact. `reveals_owner`: the creator
    /// may learn that a contact belongs to another account.
    pub async fn create_account(
        &self,
        slug: &Slug,
        user: &UserRow,
        links: &[RoleLinkRow],
        batch: Batch,
        reveals_owner: bool,
    ) -> Result<(Batch, Vec<String>)> {
        self.check_slug_is_free(slug).await?;
        let mut batch = batch;
        for id in [user.slug.clone(), id_tombstone(&user.id)] {
            batch = batch.require(Guard::Absent { collection: TOMBSTONES.name, id });
        }
        batch.push(self.accounts.users.create(&user.id, user)?);
        for link in links {
            // The role may have been deleted since it was checked.
            if !self.authz.rules().roles.contains_key(link.role_id.as_str()) {
                return Err(no_such_role(&link.role_id));
            }
            batch.0.extend(self.authz.require_app(&link.app)?);
            batch.push(Write::Require(Guard::Exists { collection: ROLES.name, id: link.role_id.clone() }));
            batch.push(self.authz.role_links.upsert(link.id(), link)?);
        }
        self.assign_contacts(batch, user, reveals_owner).await
    }
}

pub fn no_such_role(id: &str) -> Error {
    Error::invalid(format!("some roles are not found: there is no role `{}`", quote(id)))
}
