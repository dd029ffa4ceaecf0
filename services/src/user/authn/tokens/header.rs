//! What an `Authorization` value holds: a token in its usual spelling, one among other things, or nothing of ours.

use base64::{
    Engine, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use http::HeaderValue;

/// How an `Authorization` value gives a token.
pub enum Spelling<'a> {
    /// Nothing in it can be a token of ours, which are all JWTs.
    Foreign,
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
    if basic(value).is_some_and(|decoded| decoded.windows(3).any(|bytes| bytes == b"eyJ")) {
        return Spelling::Odd;
    }
    match (looks_like_jwt(token), value.windows(3).any(|bytes| bytes == b"eyJ")) {
        (true, _) => Spelling::Usual(token),
        (false, true) => Spelling::Odd,
        (false, false) => Spelling::Foreign,
    }
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
    token.starts_with(b"eyJ")
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
            };
            assert_eq!(found, want, "{value:?}");
        }
    }
}
