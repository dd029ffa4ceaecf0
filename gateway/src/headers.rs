//! Hop-by-hop and end-to-end header fields (RFC 9110, 7.6), edited in place.

use http::{HeaderMap, HeaderName, HeaderValue, Version, header};
use openorch_chassis::forwarded;

pub const VIA: HeaderValue = HeaderValue::from_static("1.1 openorch");

/// Response fields with effects on the whole origin, which services share (decision "Shared origin", decision
/// "Forwarding").
pub const ORIGIN_WIDE: [HeaderName; 26] = [
    HeaderName::from_static("service-worker-allowed"),
    HeaderName::from_static("clear-site-data"),
    HeaderName::from_static("alt-svc"),
    HeaderName::from_static("strict-transport-security"),
    HeaderName::from_static("nel"),
    HeaderName::from_static("report-to"),
    HeaderName::from_static("reporting-endpoints"),
    HeaderName::from_static("origin-agent-cluster"),
    HeaderName::from_static("accept-ch"),
    HeaderName::from_static("critical-ch"),
    HeaderName::from_static("public-key-pins"),
    HeaderName::from_static("expect-ct"),
    HeaderName::from_static("set-login"),
    HeaderName::from_static("login-status"),
    HeaderName::from_static("idp-signin-status"),
    HeaderName::from_static("shared-storage-write"),
    HeaderName::from_static("secure-session-registration"),
    HeaderName::from_static("sec-session-registration"),
    HeaderName::from_static("use-as-dictionary"),
    HeaderName::from_static("observe-browsing-topics"),
    HeaderName::from_static("origin-isolation"),
    HeaderName::from_static("attribution-reporting-register-source"),
    HeaderName::from_static("attribution-reporting-register-trigger"),
    HeaderName::from_static("supports-loading-mode"),
    HeaderName::from_static("activate-storage-access"),
    HeaderName::from_static("speculation-rules"),
];

/// Approximate memory of the fields.
pub fn size(headers: &HeaderMap) -> usize {
    headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 32).sum()
}

/// The number of OpenOrch gateways that this request has passed, from `Via`.
pub fn via_hops(headers: &HeaderMap) -> usize {
    tokens(headers, header::VIA).filter(|entry| entry.split_whitespace().nth(1) == Some("openorch")).count()
}

/// The elements of a list header, over all its lines.
pub fn tokens(headers: &HeaderMap, name: HeaderName) -> impl Iterator<Item = &str> {
    headers
        .get_all(name)
        .iter()
        .filter_map(|line| line.to_str().ok())
        .flat_map(|line| line.split(','))
        .map(str::trim)
        .filter(|token| !token.is_empty())
}

/// The requested upgrade protocol. Never HTTP/2, of which the gateway would only see the first request.
pub fn requested_upgrade(headers: &HeaderMap, version: Version) -> Option<HeaderValue> {
    let wanted = headers.get(header::UPGRADE)?;
    let asked = tokens(headers, header::CONNECTION).any(|t| t.eq_ignore_ascii_case("upgrade"));
    let tunnelled = version == Version::HTTP_11 && asked && !names_http2(headers);
    tunnelled.then(|| wanted.clone())
}

pub fn names_http2(headers: &HeaderMap) -> bool {
    tokens(headers, header::UPGRADE).any(|token| {
        let protocol = token.split('/').next().unwrap_or(token);
        ["h2c", "h2", "http"].iter().any(|name| protocol.eq_ignore_ascii_case(name))
    })
}

/// Removes hop-by-hop fields, except `Transfer-Encoding`, which the caller handles.
pub fn strip_hop_by_hop(headers: &mut HeaderMap) {
    if !headers.keys().any(is_hop_by_hop) {
        return;
    }
    if headers.contains_key(header::CONNECTION) {
        let named: Vec<HeaderName> = tokens(headers, header::CONNECTION)
            .filter_map(|token| HeaderName::try_from(token).ok())
            .filter(|name| !is_protected(name))
            .collect();
        for name in named {
            headers.remove(name);
        }
    }
    let trailers_wanted = tokens(headers, header::TE).any(|token| {
        let coding = token.split(';').next().unwrap_or(token);
        coding.trim().eq_ignore_ascii_case("trailers")
    });
    let hop_by_hop: Vec<HeaderName> = headers.keys().filter(|n| is_hop_by_hop(n)).cloned().collect();
    for name in hop_by_hop {
        headers.remove(name);
    }
    if trailers_wanted {
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
        headers.insert(header::CONNECTION, HeaderValue::from_static("te"));
    }
}

fn is_hop_by_hop(name: &HeaderName) -> bool {
    matches!(
        name.as_str(),
        "connection"
            | "te"
            | "upgrade"
            | "keep-alive"
            | "proxy-connection"
            | "proxy-authenticate"
            | "proxy-authorization"
            | "http2-settings"
    )
}

/// Whether `Connection` cannot remove the field, because it authenticates, routes or frames the message. Otherwise a client
/// could remove fields that a proxy in front of the gateway has added.
fn is_protected(name: &HeaderName) -> bool {
    matches!(
        name.as_str(),
        "authorization"
            | "cache-control"
            | "content-encoding"
            | "content-length"
            | "content-type"
            | "cookie"
            | "expect"
            | "forwarded"
            | "host"
            | "set-cookie"
            | "te"
            | "trailer"
            | "transfer-encoding"
            | "via"
            | "x-real-ip"
            | "x-request-id"
    ) || name.as_str().starts_with("x-forwarded-")
}

/// Removes fields that are forbidden in trailers, in either direction (RFC 9110, 6.5.1): those that frame, route, authenticate
/// or describe the message, hop-by-hop fields, and those that are stripped from heads.
pub fn strip_trailers(trailers: &mut HeaderMap) {
    let removed: Vec<_> = trailers.keys().filter(|name| is_forbidden_in_trailers(name)).cloned().collect();
    for name in removed {
        trailers.remove(name);
    }
}

fn is_forbidden_in_trailers(name: &HeaderName) -> bool {
    is_hop_by_hop(name)
        || is_protected(name)
        || ORIGIN_WIDE.contains(name)
        || forwarded::is_reserved(name)
        || matches!(
            name.as_str(),
            "accept"
                | "age"
                | "content-range"
                | "date"
                | "expires"
                | "location"
                | "max-forwards"
                | "pragma"
                | "range"
                | "retry-after"
                | "vary"
                | "www-authenticate"
        )
        || name.as_str().starts_with("if-")
        || name.as_str().starts_with("access-control-")
        || name.as_str().starts_with("openorch-")
}

/// HTTP/2 may split cookies over several lines, HTTP/1 must not.
pub fn join_cookies(headers: &mut HeaderMap) {
    let mut lines = headers.get_all(header::COOKIE).iter();
    if lines.next().is_none() || lines.next().is_none() {
        return;
    }
    let lines: Vec<&[u8]> = headers.get_all(header::COOKIE).iter().map(|line| line.as_bytes()).collect();
    if let Ok(joined) = HeaderValue::from_bytes(&lines.join(&b"; "[..])) {
        headers.insert(header::COOKIE, joined);
    }
}

/// Whether the only transfer coding is `chunked`, which is the only one supported.
pub fn only_chunked(headers: &HeaderMap) -> bool {
    let mut lines = headers.get_all(header::TRANSFER_ENCODING).iter();
    match (lines.next(), lines.next()) {
        (None, _) => true,
        (Some(coding), None) => coding.as_bytes().trim_ascii().eq_ignore_ascii_case(b"chunked"),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(lines: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, HeaderValue::from_static(value));
        }
        headers
    }

    #[test]
    fn what_is_meant_for_one_hop_ends_there() {
        let mut given = headers(&[
            ("connection", "close, X-Mine, authorization, x-forwarded-for"),
            ("connection", "content-length"),
            ("x-mine", "1"),
            ("authorization", "kept"),
            ("x-forwarded-for", "kept"),
            ("content-length", "5"),
            ("keep-alive", "timeout=5"),
            ("proxy-authorization", "secret"),
            ("te", "gzip, trailers;q=0.5"),
            ("upgrade", "websocket"),
            ("x-other", "kept"),
        ]);
        strip_hop_by_hop(&mut given);
        let mut names: Vec<&str> = given.keys().map(|name| name.as_str()).collect();
        names.sort();
        assert_eq!(names, ["authorization", "connection", "content-length", "te", "x-forwarded-for", "x-other"]);
        assert_eq!((&given["te"], &given["connection"]), (&"trailers".parse().unwrap(), &"te".parse().unwrap()));
    }

    #[test]
    fn our_own_passages_are_counted() {
        for (via, want) in [
            ("", 0),
            ("1.1 openorch", 1),
            ("1.1 openorch, 1.0 other, 2 openorch (x)", 2),
            ("1.1 openorch-not", 0),
            ("1.1 other (1.1 openorch", 0),
        ] {
            let mut given = HeaderMap::new();
            given.append(header::VIA, HeaderValue::from_static(via));
            assert_eq!(via_hops(&given), want, "{via}");
        }
    }

    #[test]
    fn http2_is_never_tunnelled() {
        for (upgrade, connection, tunnelled) in [
            ("websocket", "Upgrade", true),
            ("websocket", "keep-alive, upgrade", true),
            ("websocket", "keep-alive", false),
            ("h2c", "Upgrade, HTTP2-Settings", false),
            ("websocket, h2c", "Upgrade", false),
            ("HTTP/2.0", "Upgrade", false),
        ] {
            let given = headers(&[("upgrade", upgrade), ("connection", connection)]);
            assert_eq!(requested_upgrade(&given, Version::HTTP_11).is_some(), tunnelled, "{upgrade}");
            assert!(requested_upgrade(&given, Version::HTTP_10).is_none());
        }
    }
}
