//! Making accounts: that slug and id are free, and what is written for one.

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
        rows::{CONTACTS, TOMBSTONES, UserRow},
        shown::shown,
    },
};

/// What is kept for an account or was made by it, and the field that names the account.
const OF_ACCOUNT: &[(&str, &str)] = &[
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
    pub async fn refuse_taken(&self, slug: &Slug) -> Result<()> {
        if slug.is_reserved() {
            return Err(Error::new(
                &errors::SLUG_TAKEN,
                format!("slug already exists: `{slug}` belongs to the daemon itself; choose another"),
            ));
        }
        if self.tombstones.get(slug.as_str()).await?.is_some() {
            return Err(Error::new(
                &errors::SLUG_TAKEN,
                format!(
                    "slug already exists: `{slug}` was a deleted account's; choose another, or an admin releases it"
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

    /// Refuses the id of an account that was deleted: what others keep under it, roles and sessions included, is not the
    /// next one's. Deletions of older versions left no mark, so what they may have left behind is looked for.
    pub async fn refuse_used_id(&self, id: &str) -> Result<()> {
        let mut is_used = self.tombstones.get(&id_tombstone(id)).await?.is_some();
        for (collection, field) in OF_ACCOUNT {
            is_used = is_used || self.platform.store.count(collection, &[Filter::equals(*field, id)]).await? > 0;
        }
        if is_used && self.accounts.users.get(id).await?.is_none() {
            return Err(Error::new(
                &errors::ID_TAKEN,
                format!(
                    "an account with the id `{id}` was deleted, and ids are not given twice; leave the id out to be given one"
                ),
            ));
        }
        Ok(())
    }

    /// The batch that makes an account with these roles, and which accounts lose a contact by it. `tells`: whether the
    /// maker may know that a contact is another's.
    pub async fn make_account(
        &self,
        slug: &Slug,
        user: &UserRow,
        links: &[RoleLinkRow],
        batch: Batch,
        tells: bool,
    ) -> Result<(Batch, Vec<String>)> {
        self.refuse_taken(slug).await?;
        let mut batch = batch;
        for id in [user.slug.clone(), id_tombstone(&user.id)] {
            batch = batch.require(Guard::Absent { collection: TOMBSTONES.name, id });
        }
        batch.push(self.accounts.users.create(&user.id, user)?);
        for link in links {
            // One may have been deleted since it was named.
            if !self.authz.rules().roles.contains_key(link.role_id.as_str()) {
                return Err(no_such_role(&link.role_id));
            }
            batch.0.extend(self.authz.in_app(&link.app)?);
            batch.push(Write::Require(Guard::Exists { collection: ROLES.name, id: link.role_id.clone() }));
            batch.push(self.authz.role_links.upsert(link.id(), link)?);
        }
        self.take_contacts(batch, user, tells).await
    }
}

pub fn no_such_role(id: &str) -> Error {
    Error::invalid(format!("some roles are not found: there is no role `{}`", shown(id)))
}

/// The tombstone of an account's id. No slug has a colon.
pub fn id_tombstone(id: &str) -> String {
    format!("account:{id}")
}
