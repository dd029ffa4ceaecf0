//! Rules for passwords (decision "Password rules") and their normalized form (decision "Password normalization").

use openorch_api::user::errors;
use openorch_chassis::{Error, Result};
use unicode_normalization::{UnicodeNormalization, is_nfc};
use zeroize::Zeroizing;

use crate::user::shared::settings::UserSettings;

const MIN_CHARACTERS: usize = 8;

/// The most common passwords of eight characters or more. Deliberately short: it only stops careless choices.
const COMMON: &[&str] = &[
    "12345678",
    "123456789",
    "1234567890",
    "password",
    "password1",
    "password123",
    "passw0rd",
    "qwertyui",
    "qwerty123",
    "qwertyuiop",
    "11111111",
    "00000000",
    "88888888",
    "iloveyou",
    "sunshine",
    "princess",
    "football",
    "baseball",
    "superman",
    "trustno1",
    "welcome1",
    "changeme",
    "changeme1",
    "changeme123",
    "letmein1",
    "admin123",
    "administrator",
    "abcd1234",
    "abc12345",
    "1q2w3e4r",
    "1qaz2wsx",
    "87654321",
    "openorch",
    "openorch1",
    "openorch123",
    "starwars",
    "computer",
    "whatever",
    "dragon123",
    "monkey123",
    "master123",
    "internet",
    "michelle",
    "jennifer",
    "samantha",
];

/// Rules for passwords.
#[derive(Clone, Copy, Debug)]
pub struct PasswordRules {
    /// Minimum length in characters.
    pub min: usize,
    /// Maximum length in bytes.
    pub max_bytes: usize,
    /// Refuse common passwords.
    pub refuse_common: bool,
}

impl PasswordRules {
    /// The rules according to the settings.
    pub fn from_settings(settings: &UserSettings, loopback_only: bool) -> PasswordRules {
        PasswordRules::new(loopback_only, settings.password_min, *settings.password_max_bytes)
    }

    /// On loopback, any non-empty password is accepted, so that existing programs can register with short ones;
    /// otherwise at least eight characters and no common passwords. `min` overrides the length in both cases.
    pub fn new(loopback_only: bool, min: Option<usize>, max_bytes: usize) -> PasswordRules {
        let default_min = if loopback_only { 1 } else { MIN_CHARACTERS };
        PasswordRules { min: min.unwrap_or(default_min).max(1), max_bytes, refuse_common: !loopback_only }
    }

    /// Whether a password can exist at all; if not, no hash is computed.
    pub fn is_possible(&self, password: &str) -> bool {
        password.len() <= self.max_bytes
    }

    /// Checks a new password. Characters are counted after normalization, bytes before.
    pub fn check(&self, password: &str) -> Result<()> {
        if password.is_empty() {
            return Err(Error::new(&errors::PASSWORD_REFUSED, "password is required"));
        }
        if !self.is_possible(password) {
            return Err(Error::new(
                &errors::PASSWORD_REFUSED,
                format!("the password is longer than {} bytes", self.max_bytes),
            ));
        }
        if normalize(password).chars().count() < self.min {
            return Err(Error::new(
                &errors::PASSWORD_REFUSED,
                format!("the password needs at least {} characters", self.min),
            ));
        }
        if self.refuse_common && COMMON.contains(&password.to_lowercase().as_str()) {
            return Err(Error::new(&errors::PASSWORD_REFUSED, "the password is too common; choose another"));
        }
        Ok(())
    }
}

/// Unicode NFC, the form that is hashed. Keyboards and operating systems compose characters differently, which users
/// cannot see.
pub fn normalize(password: &str) -> Zeroizing<String> {
    Zeroizing::new(if is_nfc(password) { password.to_owned() } else { password.nfc().collect() })
}

/// The distinct forms that a hash from before normalization may have been computed from: NFC first, then as sent, then
/// NFD.
pub fn unicode_forms(password: &str) -> Vec<Zeroizing<String>> {
    let mut spellings = vec![normalize(password)];
    for spelling in [Zeroizing::new(password.to_owned()), Zeroizing::new(password.nfd().collect::<String>())] {
        if !spellings.contains(&spelling) {
            spellings.push(spelling);
        }
    }
    spellings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_looser_on_loopback() {
        let (loopback, network, long) = (
            PasswordRules::new(true, None, 1024),
            PasswordRules::new(false, None, 1024),
            PasswordRules::new(true, Some(12), 1024),
        );
        for (password, on_loopback, beyond, with_min) in [
            ("", false, false, false),
            ("a", true, false, false),
            ("Password", true, false, false),
            // Eight code points, four characters.
            ("e\u{301}e\u{301}e\u{301}e\u{301}", true, false, false),
            ("correct horse", true, true, true),
            (&"x".repeat(1025), false, false, false),
            // The limit applies to the bytes as sent, though the normalized form is shorter.
            (&"e\u{301}".repeat(342), false, false, false),
        ] {
            assert_eq!(loopback.check(password).is_ok(), on_loopback, "{password}");
            assert_eq!(network.check(password).is_ok(), beyond, "{password}");
            assert_eq!(long.check(password).is_ok(), with_min, "{password}");
        }
    }

    #[test]
    fn a_password_has_one_normalized_form_and_up_to_three_spellings() {
        let forms = |password: &str| unicode_forms(password).iter().map(|one| one.to_string()).collect::<Vec<_>>();
        assert_eq!(forms("pass"), ["pass"]);
        assert_eq!(forms("\u{e9}"), ["\u{e9}", "e\u{301}"]);
        assert_eq!(forms("e\u{301}"), ["\u{e9}", "e\u{301}"]);
        assert_eq!(forms("\u{e9}e\u{301}"), ["\u{e9}\u{e9}", "\u{e9}e\u{301}", "e\u{301}e\u{301}"]);
        // Only NFC: compatibility characters and case are kept (no other rule of RFC 8265 applies).
        assert_eq!(normalize("\u{fb01}A").as_str(), "\u{fb01}A");
    }
}
