//! Classifies `Authorization` values: a token in its usual form, embedded in another form, or nothing of ours.

use base64::{
    Engine, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use http::HeaderValue;

/// The prefix reserved for API keys, which do not exist yet. Values with it are not forwarded to services, so that a
/// future key is never taken for a service's own token.
pub const API_KEY_PREFIX: &[u8] = b"oo_key_";
/// The start of every JWT: `{"` in base64url.
const JWT_START: &[u8] = b"eyJ";

/// The form in which an `Authorization` value holds a token.
pub enum AuthHeader<'a> {
    /// Contains nothing that could be a token of ours: neither a JWT nor an API key.
    Foreign,
    /// Contains an API key.
    ApiKey,
    /// Only the token, with or without `Bearer `.
    Token(&'a [u8]),
    /// A JWT in another form, in which a service might find it.
    Embedded,
}

pub fn classify(authorization: &HeaderValue) -> AuthHeader<'_> {
    let value = authorization.as_bytes().trim_ascii();
    let token = match value.split_at_checked(7) {
        Some((scheme, rest)) if scheme.eq_ignore_ascii_case(b"bearer ") => rest.trim_ascii_start(),
        _ => value,
    };
    if looks_like_jwt(token) {
        return AuthHeader::Token(token);
    }
    let decoded = decode_basic(value);
    let contains_mark =
        |mark| contains(value, mark) || decoded.as_deref().is_some_and(|decoded| contains(decoded, mark));
    match (contains_mark(API_KEY_PREFIX), contains_mark(JWT_START)) {
        (true, _) => AuthHeader::ApiKey,
        (false, true) => AuthHeader::Embedded,
        (false, false) => AuthHeader::Foreign,
    }
}

pub fn contains(bytes: &[u8], mark: &[u8]) -> bool {
    bytes.windows(mark.len()).any(|window| window == mark)
}

/// Decodes `Basic` credentials (RFC 7617): programs such as Git, Docker and pip send tokens as the password. Decodes
/// like the most lenient service: accepts any white space and both base64 alphabets, and skips all other characters.
pub fn decode_basic(value: &[u8]) -> Option<Vec<u8>> {
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

/// Accepts both padded and unpadded input.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

fn looks_like_jwt(token: &[u8]) -> bool {
    token.starts_with(JWT_START)
        && token.iter().all(|byte| is_jwt_byte(*byte))
        && token.iter().filter(|byte| **byte == b'.').count() == 2
}

/// Base64url characters and dots (RFC 7515, section 3.1).
pub fn is_jwt_byte(byte: u8) -> bool {
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
            let found = match classify(&HeaderValue::from_str(value).unwrap()) {
                AuthHeader::Foreign => "foreign",
                AuthHeader::Token(token) => {
                    assert_eq!(token, b"eyJa.b.c");
                    "usual"
                }
                AuthHeader::Embedded => "odd",
                AuthHeader::ApiKey => "key",
            };
            assert_eq!(found, want, "{value:?}");
        }
    }
}
