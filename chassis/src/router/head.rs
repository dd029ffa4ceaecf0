//! Parses the head of a request: path segments, query parameters, token.

use http::{HeaderMap, header};
use openorch_api::error as codes;
use percent_encoding::percent_decode_str;

use crate::{Error, Result};

/// Maximum number of path segments; operations have fewer than ten.
const MAX_SEGMENTS: usize = 32;
/// Maximum number of query parameters; a filter may have many values.
const MAX_QUERY_PAIRS: usize = 1000;

/// Splits a path at the slashes, then decodes each segment once.
pub(super) fn decode_segments(path: &str) -> Result<Vec<String>, &'static str> {
    let path = path.strip_prefix('/').ok_or("the path must start with a slash")?;
    if path.split('/').count() > MAX_SEGMENTS {
        return Err("the path has more segments than any operation has");
    }
    path.split('/').map(decode).collect()
}

/// Percent-decodes a part of the path or query.
fn decode(text: &str) -> Result<String, &'static str> {
    if has_bad_escape(text.as_bytes()) {
        return Err("a `%` in the URL is not followed by two hexadecimal digits; write a literal `%` as %25");
    }
    let text = percent_decode_str(text).decode_utf8().map_err(|_| "the decoded URL is not UTF-8")?;
    if text.contains('\0') {
        return Err("the URL contains a NUL character");
    }
    Ok(text.into_owned())
}

fn has_bad_escape(bytes: &[u8]) -> bool {
    bytes.iter().enumerate().any(|(at, byte)| {
        *byte == b'%' && !bytes.get(at + 1..at + 3).is_some_and(|two| two.iter().all(u8::is_ascii_hexdigit))
    })
}

/// Parses `a=1&b=2` with `+` for a space, as in HTML forms.
pub(super) fn query(text: &str) -> Result<Vec<(String, String)>> {
    if text.split('&').count() > MAX_QUERY_PAIRS {
        return Err(Error::new(
            &codes::request::INVALID_URL,
            format!("the query has more than {MAX_QUERY_PAIRS} parameters"),
        ));
    }
    text.split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            let read = |part: &str| {
                decode(&part.replace('+', " ")).map_err(|sentence| Error::new(&codes::request::INVALID_URL, sentence))
            };
            Ok((read(key)?, read(value)?))
        })
        .collect()
}

/// The token of the `Authorization` header, with or without the scheme `Bearer` (decision "Sessions are the
/// authority").
pub(super) fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?.trim();
    let token = match value.split_at_checked(7) {
        Some((scheme, rest)) if scheme.eq_ignore_ascii_case("bearer ") => rest.trim_start(),
        _ => value,
    };
    (!token.is_empty() && !token.eq_ignore_ascii_case("bearer")).then_some(token)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn segments_are_decoded_once_after_splitting() {
        let decoded = |path| decode_segments(path).map(|segments| segments.join("|"));
        assert_eq!(
            decoded("/user-svc/permission/user-svc%3Arole%3Aview/is"),
            Ok("user-svc|permission|user-svc:role:view|is".into())
        );
        assert_eq!(decoded("/a%2Fb/%2525"), Ok("a/b|%25".into()));
        assert!(decoded("/a%zz").is_err());
        assert!(decoded("/a%00").is_err());
        assert!(decoded("/%ff").is_err());
    }

    #[test]
    fn the_scheme_may_be_left_out() {
        for (value, want) in [
            ("Bearer abc", Some("abc")),
            ("bearer  abc", Some("abc")),
            ("abc", Some("abc")),
            ("Bearer", None),
            ("Bearer ", None),
            ("", None),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::AUTHORIZATION, HeaderValue::from_static(value));
            assert_eq!(bearer(&headers), want, "{value:?}");
        }
    }
}
