//! Contacts: how an account can be reached. Each is one account's alone, by its normal form; who shows by a code that a
//! contact is its own has it, and whoever only named it gives way.

use openorch_api::{
    Body, Json, Path,
    input::check_name,
    user::{Contact, ContactId, ContactInput, Empty, VerifyContactRequest},
};
use openorch_chassis::{Cx, Error, Result, service::retry};
use openorch_store::{Batch, Stored};

use super::{
    Users,
    memory::Memory,
    otp::Expected,
    rows::{ContactRow, OtpPurpose, UserRow},
};

pub const EMAIL: &str = "email";
pub const MAX_CONTACT_BYTES: usize = 320;
const MAX_PLATFORM_BYTES: usize = 32;
const MAX_CONTACTS: usize = 16;

/// Shows that a contact is the caller's.
pub async fn verify(cx: Cx<Users>, Body(request): Body<VerifyContactRequest>) -> Result<Json<Empty>> {
    let caller = cx.caller()?;
    let user_id = &*caller.user_id;
    let expected = Expected { purpose: OtpPurpose::Verify, user_id, contact: None, app: &caller.app };
    retry(|| async {
        let code = cx.redeem(&request.otp_id, &request.otp_code, &expected).await?;
        let gone = || Error::unauthenticated("the account of this token is gone");
        let Stored { version, value: mut user, .. } = cx.users.get(user_id).await?.ok_or_else(gone)?;
        let id = normal(&code.value.contact);
        user.contacts.retain(|contact| normal(&contact.value) != id);
        if user.contacts.len() >= MAX_CONTACTS {
            return Err(Error::invalid(format!("an account has at most {MAX_CONTACTS} contacts; remove one")));
        }
        let mut contact = cx.contact(&code.value.platform, &code.value.contact);
        (contact.verified, contact.is_primary) = (true, user.contacts.is_empty());
        user.contacts.push(contact);
        user.updated_at = cx.now();
        let batch = Batch::new().with(cx.otps.delete(&code.id, Some(code.version))).with(cx.users.replace(
            &user.id,
            &user,
            Some(version),
        )?);
        let (batch, displaced) = cx.take_contact(batch, &user, &id, true).await?;
        let batch = cx.give_waiting(batch, &user.id, &id, &[]).await?;
        let forget = |memory: &Memory| {
            displaced.iter().for_each(|id| memory.profile_changed(id));
            memory.rights_changed(user_id);
        };
        cx.commit(batch, forget).await?;
        Ok(Json(Empty {}))
    })
    .await
}

pub async fn remove(cx: Cx<Users>, Path(id): Path<ContactId>) -> Result<Json<Empty>> {
    let user_id = &*cx.caller()?.user_id;
    retry(|| async {
        let gone = || Error::unauthenticated("the account of this token is gone");
        let Stored { version, value: mut user, .. } = cx.users.get(user_id).await?.ok_or_else(gone)?;
        let id = normal(&id.0);
        let before = user.contacts.len();
        user.contacts.retain(|contact| normal(&contact.value) != id);
        if user.contacts.len() == before {
            return Err(Error::not_found("you have no such contact"));
        }
        user.updated_at = cx.now();
        let mut batch = Batch::new().with(cx.users.replace(&user.id, &user, Some(version))?);
        if let Some(row) = cx.contacts.get(&id).await?.filter(|row| row.value.user_id == user.id) {
            batch.push(cx.contacts.delete(&id, Some(row.version)));
        }
        cx.commit(batch, |memory| memory.profile_changed(user_id)).await?;
        Ok(Json(Empty {}))
    })
    .await
}

impl Users {
    /// The contact of a new account. What the caller says of verification is not taken.
    pub(super) fn checked_contact(&self, contact: &ContactInput) -> Result<Option<Contact>> {
        if contact.value.is_empty() {
            return Ok(None);
        }
        check_value("contact.value", &contact.value, MAX_CONTACT_BYTES)?;
        if !contact.platform.is_empty() {
            check_name("contact.platform", &contact.platform, MAX_PLATFORM_BYTES).map_err(|e| Error::invalid(e.0))?;
        }
        let mut contact = self.contact(&contact.platform, &contact.value);
        contact.is_primary = true;
        Ok(Some(contact))
    }

    fn contact(&self, platform: &str, value: &str) -> Contact {
        let now = self.now();
        Contact {
            id: normal(value),
            created_at: now,
            updated_at: now,
            platform: platform.to_owned(),
            value: value.to_owned(),
            ..Contact::default()
        }
    }

    /// Adds to the batch that makes an account that its contacts are its own. Answers which accounts lose one by it.
    pub(super) async fn take_contacts(&self, mut batch: Batch, user: &UserRow) -> Result<(Batch, Vec<String>)> {
        let mut displaced = Vec::new();
        for contact in &user.contacts {
            let id = normal(&contact.value);
            let (with, loser) = self.take_contact(batch, user, &id, contact.verified).await?;
            batch = with;
            displaced.extend(loser);
        }
        Ok((batch, displaced))
    }

    async fn take_contact(
        &self,
        mut batch: Batch,
        user: &UserRow,
        id: &str,
        verified: bool,
    ) -> Result<(Batch, Option<String>)> {
        let row = ContactRow { user_id: user.id.clone(), verified, created_at: self.now() };
        let Some(known) = self.contacts.get(id).await? else {
            return Ok((batch.with(self.contacts.create(id, &row)?), None));
        };
        let is_own = known.value.user_id == user.id;
        if !is_own && (known.value.verified || !verified) {
            return Err(Error::conflict("contact already exists: another account has it"));
        }
        batch.push(self.contacts.replace(id, &row, Some(known.version))?);
        if is_own {
            return Ok((batch, None));
        }
        if let Some(Stored { version, value: mut other, .. }) = self.users.get(&known.value.user_id).await? {
            other.contacts.retain(|contact| normal(&contact.value) != id);
            batch.push(self.users.replace(&other.id, &other, Some(version))?);
        }
        Ok((batch, Some(known.value.user_id)))
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

/// Refuses what can be nobody's contact.
pub fn check_value(what: &str, contact: &str, limit: usize) -> Result<()> {
    check_name(what, contact, limit).map_err(|error| Error::invalid(error.0))?;
    if normal(contact).is_empty() {
        return Err(Error::invalid(format!("{what} is blank")));
    }
    Ok(())
}

/// What two spellings of one contact have in common: lower case and, of an e-mail address, no `+tag` before the `@`,
/// since both reach the same box.
pub fn normal(contact: &str) -> String {
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
