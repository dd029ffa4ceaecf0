//! Contacts: how an account can be reached. Each is one account's alone, by its normal form, from when that shows by a
//! code that the contact is its own; a registration without the code attaches none, so that its answer tells nobody
//! whether a contact is somebody's. What an admin says of the contact of an account that it makes stays unverified.

use openorch_api::{
    Body, Json, Path,
    error::access,
    input::check_name,
    user::{Contact, ContactId, ContactInput, Empty, VerifyContactRequest, errors},
};
use openorch_chassis::{Cx, Error, Result, service::retry};
use openorch_store::{Batch, Stored};

use crate::user::{
    Users,
    authn::{otp::Expected, sessions::cache::Memory},
    rows::{ContactRow, OtpPurpose, UserRow},
};

pub const EMAIL: &str = "email";
pub const MAX_CONTACT_BYTES: usize = 320;
/// Bytes of an address and of its part before the `@` (RFC 5321, 4.5.3.1).
const MAX_ADDRESS_BYTES: usize = 254;
const MAX_LOCAL_BYTES: usize = 64;
const MAX_PLATFORM_BYTES: usize = 32;
const MAX_CONTACTS: usize = 16;

/// Shows that a contact is the caller's.
pub async fn verify(cx: Cx<Users>, Body(request): Body<VerifyContactRequest>) -> Result<Json<Empty>> {
    let caller = cx.caller()?;
    let user_id = &*caller.user_id;
    let expected = Expected { purpose: OtpPurpose::Verify, user_id, contact: None, app: &caller.app };
    retry(|| async {
        let code = cx.redeem(&request.otp_id, &request.otp_code, &expected).await?;
        let gone = || Error::new(&access::ACCOUNT_GONE, "the account of this token is gone");
        let Stored { version, value: mut user, .. } = cx.users.get(user_id).await?.ok_or_else(gone)?;
        let id = normal(&code.value.contact);
        user.contacts.retain(|contact| normal(&contact.value) != id);
        if user.contacts.len() >= MAX_CONTACTS {
            return Err(Error::new(
                &errors::TOO_MANY_CONTACTS,
                format!("an account has at most {MAX_CONTACTS} contacts; remove one"),
            ));
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
        let gone = || Error::new(&access::ACCOUNT_GONE, "the account of this token is gone");
        let Stored { version, value: mut user, .. } = cx.users.get(user_id).await?.ok_or_else(gone)?;
        let id = normal(&id.0);
        let before = user.contacts.len();
        user.contacts.retain(|contact| normal(&contact.value) != id);
        if user.contacts.len() == before {
            return Err(Error::new(&errors::NO_SUCH_CONTACT, "you have no such contact"));
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
    pub(in crate::user) fn checked_contact(&self, contact: &ContactInput) -> Result<Option<Contact>> {
        if contact.value.is_empty() {
            return Ok(None);
        }
        check_value("contact.value", &contact.value, MAX_CONTACT_BYTES)?;
        if !contact.platform.is_empty() {
            check_name("contact.platform", &contact.platform, MAX_PLATFORM_BYTES).map_err(|e| Error::invalid(e.0))?;
        }
        let mut contact = self.contact(&contact.platform, contact.value.trim());
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

    /// Adds to the batch that makes an account that its contacts are its own. Answers which accounts lose one by it. One
    /// that is another's and not shown is refused where the maker may know that (`tells`), else it stays unowned.
    pub(in crate::user) async fn take_contacts(
        &self,
        mut batch: Batch,
        user: &UserRow,
        tells: bool,
    ) -> Result<(Batch, Vec<String>)> {
        let mut displaced = Vec::new();
        for contact in &user.contacts {
            let id = normal(&contact.value);
            if !contact.verified && !tells && self.contacts.get(&id).await?.is_some() {
                continue;
            }
            let (with, loser) = self.take_contact(batch, user, &id, contact.verified).await?;
            batch = with;
            displaced.extend(loser);
        }
        Ok((batch, displaced))
    }

    /// Adds that a contact is the account's. An account that only has been said to have it gives way to one that showed it.
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
            return Err(Error::new(&errors::CONTACT_TAKEN, "contact already exists: another account has it"));
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
    pub(in crate::user) async fn by_contact(&self, contact: &str) -> Result<Option<Stored<ContactRow>>> {
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

/// Refuses what is no address that mail can be sent to. Of what RFC 5321 allows, quoted local parts and addresses instead
/// of a domain are left out: no mailbox of a person is written so, and mail libraries and servers differ about them.
pub fn check_address(what: &str, address: &str) -> Result<()> {
    check_value(what, address, MAX_ADDRESS_BYTES)?;
    let refused = |why: &str| Err(Error::invalid(format!("{what} is no e-mail address like ann@example.org: {why}")));
    let Some((local, domain)) = address.rsplit_once('@') else { return refused("it has no `@`") };
    if local.is_empty() || local.len() > MAX_LOCAL_BYTES {
        return refused("before the `@` are 1 to 64 bytes");
    }
    let is_odd = |letter: char| letter.is_whitespace() || letter.is_control() || "\"(),:;<>@[\\]".contains(letter);
    if let Some(letter) = local.chars().find(|letter| is_odd(*letter)) {
        return refused(&format!("`{}` cannot be before the `@`", letter.escape_default()));
    }
    if local.starts_with('.') || local.ends_with('.') || local.contains("..") {
        return refused("a dot stands between two other letters before the `@`");
    }
    let is_host = |domain: &str| {
        let is_label = |label: &str| {
            let fits = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
            (1..=63).contains(&label.len())
                && label.bytes().all(fits)
                && !label.starts_with('-')
                && !label.ends_with('-')
        };
        domain.len() <= 253
            && domain.split('.').all(is_label)
            && !domain.rsplit('.').next().is_some_and(|last| last.bytes().all(|byte| byte.is_ascii_digit()))
    };
    match domain_of(domain) {
        Some(domain) if is_host(&domain) => Ok(()),
        _ => refused("after the `@` stands the name of a mail domain"),
    }
}

/// The form in which contacts are compared (contract decision 38): ASCII letters in lower case and, of an e-mail address,
/// the domain in its A-labels. Other letters are not folded: the Kelvin sign is no `k`. A `+tag` counts, since not every
/// mail server delivers `first+last@host` to `first@host`.
pub fn normal(contact: &str) -> String {
    let contact = contact.trim();
    match contact.rsplit_once('@') {
        Some((local, domain)) => {
            let domain = domain_of(domain).unwrap_or_else(|| domain.to_ascii_lowercase());
            format!("{}@{domain}", local.to_ascii_lowercase())
        }
        None => contact.to_ascii_lowercase(),
    }
}

/// What attempts and codes are counted by: the contact without its `+tag`, by which one mailbox has addresses without
/// number.
pub fn box_of(contact: &str) -> String {
    let contact = normal(contact);
    match contact.rsplit_once('@').and_then(|(local, domain)| Some((local.split_once('+')?.0, domain))) {
        Some((local, domain)) if !local.is_empty() => format!("{local}@{domain}"),
        _ => contact,
    }
}

/// What mail for an address is sent to: as it was typed, the domain in its A-labels, which every mail server knows.
pub fn mail_address(address: &str) -> String {
    match address.rsplit_once('@').and_then(|(local, domain)| Some((local, domain_of(domain)?))) {
        Some((local, domain)) => format!("{local}@{domain}"),
        None => address.to_owned(),
    }
}

/// A domain in its A-labels and in lower case.
fn domain_of(domain: &str) -> Option<String> {
    idna::domain_to_ascii(domain).ok().filter(|domain| !domain.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spellings_of_one_contact_are_one_and_those_of_two_are_two() {
        for (contact, want) in [
            (" Ann@Example.org", "ann@example.org"),
            ("ann+list@example.org", "ann+list@example.org"),
            ("first+last@example.org", "first+last@example.org"),
            ("+44 20 7946", "+44 20 7946"),
            ("ma\u{212a}e@example.org", "ma\u{212a}e@example.org"),
            ("ann@e\u{212a}ample.org", "ann@ekample.org"),
            ("\u{c4}nne@B\u{dc}cher.example", "\u{c4}nne@xn--bcher-kva.example"),
            ("ann@XN--BCHER-KVA.example", "ann@xn--bcher-kva.example"),
            ("a@b@C", "a@b@c"),
        ] {
            assert_eq!(normal(contact), want);
            assert_eq!(normal(want), want, "a normal form is its own");
        }
        assert_eq!(box_of("Ann+list@Example.org"), "ann@example.org");
        assert_eq!(box_of("+ann@example.org"), "+ann@example.org");
        assert_eq!(mail_address("Ann+List@B\u{fc}cher.example"), "Ann+List@xn--bcher-kva.example");
    }

    #[test]
    fn an_address_is_one_that_mail_can_be_sent_to() {
        for address in ["ann@example.org", "a.b+c@localhost", "o'neil@b\u{fc}cher.example", "\u{e4}nne@example.org"] {
            assert!(check_address("contactId", address).is_ok(), "{address}");
        }
        let long = format!("{}@example.org", "a".repeat(65));
        let longer = format!("a@{}.org", ["a".repeat(60).as_str(); 5].join("."));
        for address in [
            "",
            "ann",
            "@example.org",
            "ann@",
            "\"a b\"@example.org",
            "a@[127.0.0.1]",
            "a@127.0.0.1",
            "a b@example.org",
            "a@b@example.org",
            "<ann@example.org>",
            "Ann <ann@example.org>",
            "ann@example.org, bob@example.org",
            "ann@example..org",
            "ann@-a.org",
            "ann@a_b.org",
            ".ann@example.org",
            "a..b@example.org",
            "ann@exa mple.org",
            "ann@example.org\r\nBcc: x@y.z",
            "ann(x)@example.org",
            "ann@example.org.",
            &long,
            &longer,
        ] {
            assert!(check_address("contactId", address).is_err(), "{address}");
        }
    }
}
