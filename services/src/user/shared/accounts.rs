//! The stored accounts, and lookup by slug or contact.

use openorch_api::user::errors;
use openorch_chassis::{Error, Platform, Result};
use openorch_store::{Query, Stored, Table};

use crate::user::shared::{
    contact_address::{MAX_CONTACT_BYTES, normalize},
    rows::{CONTACTS, ContactRow, USERS, UserRow},
};

/// The slug of the admin created at the first start.
pub const ADMIN_SLUG: &str = "openorch";

#[derive(Clone)]
pub struct Accounts {
    pub users: Table<UserRow>,
    pub contacts: Table<ContactRow>,
}

impl Accounts {
    pub fn new(platform: &Platform) -> Accounts {
        Accounts { users: platform.table(&USERS), contacts: platform.table(&CONTACTS) }
    }

    pub async fn by_slug(&self, slug: &str) -> Result<Option<UserRow>> {
        let found = self.users.find(&Query::all().equals("slug", slug)).await?;
        Ok(found.into_iter().next().map(|found| found.value))
    }

    /// The owner of a contact.
    pub async fn by_contact(&self, contact: &str) -> Result<Option<Stored<ContactRow>>> {
        let id = normalize(contact);
        if id.is_empty() || id.len() > MAX_CONTACT_BYTES {
            return Ok(None);
        }
        Ok(self.contacts.get(&id).await?)
    }
}

/// Refuses the accounts of built-in services, which represent the daemon itself.
pub fn require_not_built_in(user: &UserRow) -> Result<()> {
    if openorch_api::SERVICES.iter().any(|service| service.slug == user.slug) {
        return Err(Error::new(
            &errors::ACCOUNT_BUILT_IN,
            format!("`{}` is a built-in service: it has no password and cannot be deleted", user.slug),
        ));
    }
    Ok(())
}
