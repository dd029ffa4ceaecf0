//! What an `Authorization` value holds: a token in its usual spelling, one among other things, or nothing of ours.

use base64::{
    Engine, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use http::HeaderValue;

/// Begins each API key that an account will be able to make, and nothing else that the daemon gives out. There are no
/// such keys yet; none is passed on to a service from now on, so that one in use is never taken for a service's own token.
pub const API_KEY_PREFIX: &[u8] = b"oo_key_";
/// Begins each JWT: `{"` in base64url.
const JWT_START: &[u8] = b"eyJ";

/// How an `Authorization` value gives a token.
pub enum Spelling<'a> {
    /// Nothing in it can be a token of ours, which are all JWTs, or an API key.
    Foreign,
    /// An API key is in it.
    ApiKey,
    /// The token, with or without `Bearer ` before it.
    Usual(&'a [u8]),
    /// A JWT among other things. A service may well find it there.
    Odd,
}

pub fn spelling(authorization: &HeaderValue) -> Spelling<'_> {
    let value = authorization.as_bytes().trim_ascii();
    let token = match value.split_at_checked(7) {
        Some((scheme, rest)) if scheme.eq_ignore_ascii_case(b"bearer ") => rest.trim_ascii_start(),
        _ => value,
    };
    if looks_like_jwt(token) {
        return Spelling::Usual(token);
    }
    let decoded = basic(value);
    let holds = |mark| contains(value, mark) || decoded.as_deref().is_some_and(|decoded| contains(decoded, mark));
    match (holds(API_KEY_PREFIX), holds(JWT_START)) {
        (true, _) => Spelling::ApiKey,
        (false, true) => Spelling::Odd,
        (false, false) => Spelling::Foreign,
    }
}

pub fn contains(bytes: &[u8], mark: &[u8]) -> bool {
    bytes.windows(mark.len()).any(|window| window == mark)
}

/// What `Basic` credentials say (RFC 7617): programs such as Git, Docker and pip send tokens so, as the password. Read as the
/// most lenient service would: any white space, either alphabet of base64, and whatever belongs to neither left out.
pub fn basic(value: &[u8]) -> Option<Vec<u8>> {
    let (scheme, encoded) = value.trim_ascii().split_at_checked(5)?;
    if !scheme.eq_ignore_ascii_case(b"basic") || !encoded.first().is_some_and(u8::is_ascii_whitespace) {
        return None;
    }
    let letters = encoded.iter().filter_map(|byte| match byte {
        b'-' => Some(b'+'),
        b'_' => Some(b'/'),
        byte if byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/') => Some(*byte),
        _ => None,
    });
    BASE64.decode(letters.collect::<Vec<u8>>()).ok()
}

/// With or without the padding.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

fn looks_like_jwt(token: &[u8]) -> bool {
    token.starts_with(JWT_START)
        && token.iter().all(|byte| is_of_jwt(*byte))
        && token.iter().filter(|byte| **byte == b'.').count() == 2
}

/// Base64url and the dots between (RFC 7515, section 3.1).
pub fn is_of_jwt(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_found_in_every_spelling() {
        for (value, want) in [
            ("Bearer eyJa.b.c", "usual"),
            ("bearer   eyJa.b.c ", "usual"),
            ("eyJa.b.c", "usual"),
            ("Bearer abc", "foreign"),
            ("Basic dXNlcjpwYXNz", "foreign"),
            ("Basic dG9rZW46ZXlKYS5iLmM=", "odd"),
            ("basic dG9rZW46ZXlKYS5iLmM", "odd"),
            ("Basic\tdG9rZW46 ZXlKYS5iLmM=", "odd"),
            ("", "foreign"),
            ("Bearer oo_key_abc", "key"),
            ("Basic dG9rZW46b29fa2V5X2FiYw==", "key"),
            ("Token token=oo_key_abc", "key"),
            ("Bearer oo_keyabc", "foreign"),
            ("Bearer\teyJa.b.c", "odd"),
            ("Bearer Bearer eyJa.b.c", "odd"),
            ("Token eyJa.b.c", "odd"),
            ("Bearer \"eyJa.b.c\"", "odd"),
            ("Bearer eyJa.b.c;", "odd"),
            ("Bearer eyJa.b", "odd"),
        ] {
            let found = match spelling(&HeaderValue::from_str(value).unwrap()) {
                Spelling::Foreign => "foreign",
                Spelling::Usual(token) => {
                    assert_eq!(token, b"eyJa.b.c");
                    "usual"
                }
                Spelling::Odd => "odd",
                Spelling::ApiKey => "key",
            };
            assert_eq!(found, want, "{value:?}");
        }
    }
}
