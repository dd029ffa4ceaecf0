//! Contact strings: validation, e-mail addresses and normalization.

use openorch_chassis::{Error, Result};

pub const EMAIL: &str = "email";
pub const MAX_CONTACT_BYTES: usize = 320;
/// Maximum length in bytes of an address and of its local part (RFC 5321, 4.5.3.1).
const MAX_ADDRESS_BYTES: usize = 254;
const MAX_LOCAL_BYTES: usize = 64;

/// Refuses a blank contact.
pub fn check_value(what: &str, contact: &str) -> Result<()> {
    if normalize(contact).is_empty() {
        return Err(Error::invalid(format!("{what} is blank")));
    }
    Ok(())
}

/// Validates an e-mail address. Of what RFC 5321 permits, quoted local parts and address literals are refused: personal
/// mailboxes do not use them, and mail libraries and servers treat them differently.
pub fn check_address(what: &str, address: &str) -> Result<()> {
    check_value(what, address)?;
    let refused =
        |why: &str| Err(Error::invalid(format!("{what} is not an e-mail address like ann@example.org: {why}")));
    if address.len() > MAX_ADDRESS_BYTES {
        return refused("it is longer than 254 bytes");
    }
    let Some((local, domain)) = address.rsplit_once('@') else { return refused("it has no `@`") };
    if local.is_empty() || local.len() > MAX_LOCAL_BYTES {
        return refused("the part before the `@` must have 1 to 64 bytes");
    }
    let is_forbidden =
        |letter: char| letter.is_whitespace() || letter.is_control() || "\"(),:;<>@[\\]".contains(letter);
    if let Some(letter) = local.chars().find(|letter| is_forbidden(*letter)) {
        return refused(&format!("`{}` is not allowed before the `@`", letter.escape_default()));
    }
    if local.starts_with('.') || local.ends_with('.') || local.contains("..") {
        return refused("before the `@`, each dot must be between two other characters");
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
    match ascii_domain(domain) {
        Some(domain) if is_host(&domain) => Ok(()),
        _ => refused("the part after the `@` must be the name of a mail domain"),
    }
}

/// The normalized form by which contacts are compared (decision "Contact comparison"): ASCII letters in lower case and,
/// for an e-mail address, the domain in A-labels. Other letters are not folded: the Kelvin sign is not `k`. A `+tag` is
/// significant, since not every mail server delivers `first+last@host` to `first@host`.
pub fn normalize(contact: &str) -> String {
    let contact = contact.trim();
    match contact.rsplit_once('@') {
        Some((local, domain)) => {
            let domain = ascii_domain(domain).unwrap_or_else(|| domain.to_ascii_lowercase());
            format!("{}@{domain}", local.to_ascii_lowercase())
        }
        None => contact.to_ascii_lowercase(),
    }
}

/// The key for rate limits: the contact without its `+tag`, since tags give one mailbox unlimited addresses.
pub fn without_tag(contact: &str) -> String {
    let contact = normalize(contact);
    match contact.rsplit_once('@').and_then(|(local, domain)| Some((local.split_once('+')?.0, domain))) {
        Some((local, domain)) if !local.is_empty() => format!("{local}@{domain}"),
        _ => contact,
    }
}

/// The address for sending mail: as entered, but with the domain in A-labels, which every mail server supports.
pub fn mail_address(address: &str) -> String {
    match address.rsplit_once('@').and_then(|(local, domain)| Some((local, ascii_domain(domain)?))) {
        Some((local, domain)) => format!("{local}@{domain}"),
        None => address.to_owned(),
    }
}

/// A domain in A-labels and lower case.
fn ascii_domain(domain: &str) -> Option<String> {
    idna::domain_to_ascii(domain).ok().filter(|domain| !domain.is_empty())
}

/// The throttle key of sign-ins with a contact.
pub fn throttle_key(contact: &str) -> String {
    format!("contact:{}", without_tag(contact))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equivalent_contacts_normalize_to_one_form_and_different_ones_do_not() {
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
            assert_eq!(normalize(contact), want);
            assert_eq!(normalize(want), want, "normalization is idempotent");
        }
        assert_eq!(without_tag("Ann+list@Example.org"), "ann@example.org");
        assert_eq!(without_tag("+ann@example.org"), "+ann@example.org");
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
