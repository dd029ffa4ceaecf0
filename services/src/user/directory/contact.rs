//! Contacts: addresses of accounts. A contact belongs to at most one account, by its normalized form, once the account
//! has verified it with a code. A registration without a code attaches no contact, so that the response does not reveal
//! whether a contact belongs to an account. Contacts set by admins for new accounts are unverified.

use openorch_api::{
    Body, Json, Path,
    error::access,
    user::{Contact, ContactId, ContactInput, Empty, VerifyContactRequest, errors},
};
use openorch_chassis::{Cx, Error, Result, service::retry};
use openorch_store::{Batch, Stored};

use crate::user::{
    authn::{otp::codes::OtpChallenge, rows::OtpPurpose},
    directory::state::Directory,
    shared::{
        contact_address::{check_value, normalize},
        rows::{ContactRow, UserRow},
    },
};

const MAX_CONTACTS: usize = 16;

/// Verifies a contact of the caller.
pub async fn verify(cx: Cx<Directory>, Body(request): Body<VerifyContactRequest>) -> Result<Json<Empty>> {
    let caller = cx.caller()?;
    let user_id = &*caller.user_id;
    let expected = OtpChallenge { purpose: OtpPurpose::Verify, user_id, contact: None, app: &caller.app };
    retry(|| async {
        let code = cx.authn.codes.verify(&request.otp_id, &request.otp_code, &expected).await?;
        let gone = || Error::new(&access::ACCOUNT_GONE, "the account of this token was deleted");
        let Stored { version, value: mut user, .. } = cx.accounts.users.get(user_id).await?.ok_or_else(gone)?;
        let id = normalize(&code.value.contact);
        user.contacts.retain(|contact| normalize(&contact.value) != id);
        if user.contacts.len() >= MAX_CONTACTS {
            return Err(Error::new(
                &errors::TOO_MANY_CONTACTS,
                format!("an account may have at most {MAX_CONTACTS} contacts; remove one"),
            ));
        }
        let mut contact = cx.contact(&code.value.platform, &code.value.contact);
        (contact.verified, contact.is_primary) = (true, user.contacts.is_empty());
        user.contacts.push(contact);
        user.updated_at = cx.now();
        let batch = Batch::new()
            .with(cx.authn.codes.rows.delete(&code.id, Some(code.version)))
            .with(cx.accounts.users.replace(&user.id, &user, Some(version))?);
        let (batch, displaced) = cx.assign_contact(batch, &user, &id, true).await?;
        let batch = cx.authz.apply_pending(batch, &user.id, &id, &[]).await?;
        let forget = || {
            displaced.iter().for_each(|id| cx.authz.cache.profile_changed(id));
            cx.authz.cache.rights_changed(user_id);
        };
        cx.commits.commit(&cx.request.audit, batch, forget).await?;
        Ok(Json(Empty {}))
    })
    .await
}

pub async fn remove(cx: Cx<Directory>, Path(id): Path<ContactId>) -> Result<Json<Empty>> {
    let user_id = &*cx.caller()?.user_id;
    retry(|| async {
        let gone = || Error::new(&access::ACCOUNT_GONE, "the account of this token was deleted");
        let Stored { version, value: mut user, .. } = cx.accounts.users.get(user_id).await?.ok_or_else(gone)?;
        let id = normalize(&id.0);
        let before = user.contacts.len();
        user.contacts.retain(|contact| normalize(&contact.value) != id);
        if user.contacts.len() == before {
            return Err(Error::new(&errors::NO_SUCH_CONTACT, "you have no such contact"));
        }
        user.updated_at = cx.now();
        let mut batch = Batch::new().with(cx.accounts.users.replace(&user.id, &user, Some(version))?);
        if let Some(row) = cx.accounts.contacts.get(&id).await?.filter(|row| row.value.user_id == user.id) {
            batch.push(cx.accounts.contacts.delete(&id, Some(row.version)));
        }
        cx.commits.commit(&cx.request.audit, batch, || cx.authz.cache.profile_changed(user_id)).await?;
        Ok(Json(Empty {}))
    })
    .await
}

impl Directory {
    /// The contact of a new account. The caller's claim of verification is ignored.
    pub fn parse_contact(&self, contact: &ContactInput) -> Result<Option<Contact>> {
        if contact.value.is_empty() {
            return Ok(None);
        }
        check_value("contact.value", &contact.value)?;
        let mut contact = self.contact(&contact.platform, contact.value.trim());
        contact.is_primary = true;
        Ok(Some(contact))
    }

    fn contact(&self, platform: &str, value: &str) -> Contact {
        let now = self.now();
        Contact {
            id: normalize(value),
            created_at: now,
            updated_at: now,
            platform: platform.to_owned(),
            value: value.to_owned(),
            ..Contact::default()
        }
    }

    /// Adds the contacts of a new account to the batch that creates it; returns the accounts that lose one. An
    /// unverified contact of another account is refused if the creator may know that (`reveals_owner`), otherwise it stays
    /// unowned.
    pub async fn assign_contacts(
        &self,
        mut batch: Batch,
        user: &UserRow,
        reveals_owner: bool,
    ) -> Result<(Batch, Vec<String>)> {
        let mut displaced = Vec::new();
        for contact in &user.contacts {
            let id = normalize(&contact.value);
            if !contact.verified && !reveals_owner && self.accounts.contacts.get(&id).await?.is_some() {
                continue;
            }
            let (with, loser) = self.assign_contact(batch, user, &id, contact.verified).await?;
            batch = with;
            displaced.extend(loser);
        }
        Ok((batch, displaced))
    }

    /// Assigns a contact to the account. Unverified ownership by another account yields to verified ownership.
    async fn assign_contact(
        &self,
        mut batch: Batch,
        user: &UserRow,
        id: &str,
        verified: bool,
    ) -> Result<(Batch, Option<String>)> {
        let row = ContactRow { user_id: user.id.clone(), verified, created_at: self.now() };
        let Some(known) = self.accounts.contacts.get(id).await? else {
            return Ok((batch.with(self.accounts.contacts.create(id, &row)?), None));
        };
        let is_own = known.value.user_id == user.id;
        if !is_own && (known.value.verified || !verified) {
            return Err(Error::new(&errors::CONTACT_TAKEN, "contact already exists: another account has it"));
        }
        batch.push(self.accounts.contacts.replace(id, &row, Some(known.version))?);
        if is_own {
            return Ok((batch, None));
        }
        if let Some(Stored { version, value: mut other, .. }) = self.accounts.users.get(&known.value.user_id).await? {
            other.contacts.retain(|contact| normalize(&contact.value) != id);
            batch.push(self.accounts.users.replace(&other.id, &other, Some(version))?);
        }
        Ok((batch, Some(known.value.user_id)))
    }
}
