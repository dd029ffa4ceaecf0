//! Contacts: how an account can be reached. Each is one account's alone, by its normal form.

use openorch_api::{
    input::check_name,
    user::{Contact, ContactInput},
};
use openorch_chassis::{Error, Result};
use openorch_store::{Batch, Stored};

use super::{
    Users,
    rows::{ContactRow, UserRow},
};

const MAX_CONTACT_BYTES: usize = 320;
const MAX_PLATFORM_BYTES: usize = 32;

impl Users {
    /// The contact of a new account. What the caller says of verification is not taken.
    pub(super) fn checked_contact(&self, contact: ContactInput) -> Result<Option<Contact>> {
        if contact.value.is_empty() {
            return Ok(None);
        }
        check_name("contact.value", &contact.value, MAX_CONTACT_BYTES).map_err(|e| Error::invalid(e.0))?;
        if !contact.platform.is_empty() {
            check_name("contact.platform", &contact.platform, MAX_PLATFORM_BYTES).map_err(|e| Error::invalid(e.0))?;
        }
        let now = self.now();
        Ok(Some(Contact {
            created_at: now,
            updated_at: now,
            platform: contact.platform,
            value: contact.value,
            ..Contact::default()
        }))
    }

    /// Adds to the batch that makes an account that its contacts are its own.
    pub(super) async fn take_contacts(&self, mut batch: Batch, user: &UserRow) -> Result<Batch> {
        for contact in &user.contacts {
            let id = normal(&contact.value);
            if self.contacts.get(&id).await?.is_some() {
                return Err(Error::conflict("contact already exists: another account has it"));
            }
            let row = ContactRow { user_id: user.id.clone(), created_at: contact.created_at };
            batch.push(self.contacts.create(id, &row)?);
        }
        Ok(batch)
    }

    /// Whose a contact is.
    pub(super) async fn by_contact(&self, contact: &str) -> Result<Option<Stored<ContactRow>>> {
        let id = normal(contact);
        if id.is_empty() || id.len() > MAX_CONTACT_BYTES {
            return Ok(None);
        }
        Ok(self.contacts.get(&id).await?)
    }
}

/// What two spellings of one contact have in common: lower case and, of an e-mail address, no `+tag` before the `@`,
/// since both reach the same box.
fn normal(contact: &str) -> String {
    let contact = contact.trim().to_lowercase();
    match contact.rsplit_once('@') {
        Some((name, host)) => match name.split_once('+') {
            Some((name, _)) if !name.is_empty() => format!("{name}@{host}"),
            _ => contact,
        },
        None => contact,
    }
}

#[cfg(test)]
mod tests {
    use super::normal;

    #[test]
    fn spellings_of_one_contact_are_one() {
        for (contact, want) in [
            (" Ann@Example.org", "ann@example.org"),
            ("ann+list@example.org", "ann@example.org"),
            ("+ann@example.org", "+ann@example.org"),
            ("+44 20 7946", "+44 20 7946"),
        ] {
            assert_eq!(normal(contact), want);
        }
    }
}
