//! Request URLs: validation of the server's URL, and path templates with safely encoded parameters.

use openorch_api::{Operation, RequestParts};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use url::{Host, Url};

use crate::Error;

/// All characters except the unreserved ones of RFC 3986, so that a parameter is always one path segment.
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Validates the URL of a server and returns it without a trailing slash.
///
/// ```
/// use openorch_sdk::server_url;
/// assert_eq!(server_url(" http://127.0.0.1:58231/ ")?, "http://127.0.0.1:58231");
/// assert!(server_url("127.0.0.1:58231").is_err());
/// # Ok::<(), openorch_sdk::Error>(())
/// ```
pub fn server_url(text: &str) -> Result<String, Error> {
    Ok(parse_base(text)?.as_str().trim_end_matches('/').to_owned())
}

/// Parses the URL of a server: scheme, host and port only.
pub(crate) fn parse_base(text: &str) -> Result<Url, Error> {
    let invalid = |why: &str| {
        Error::Invalid(format!(
            "`{}` is not a server URL: {why}; use a URL like http://127.0.0.1:58231",
            text.trim().escape_debug()
        ))
    };
    let url = Url::parse(text.trim()).map_err(|error| match error {
        url::ParseError::RelativeUrlWithoutBase => invalid("the scheme http:// or https:// is missing"),
        other => invalid(&other.to_string()),
    })?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(invalid("the scheme is neither http nor https"));
    }
    if !url.username().is_empty() || url.password().is_some() {
        // The URL is not quoted, since it contains a secret.
        return Err(Error::Invalid(
            "the server URL contains a user name or password; remove them and sign in instead".into(),
        ));
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err(invalid("it contains a query or a fragment"));
    }
    if url.path() != "/" {
        return Err(invalid("it contains a path, but OpenOrch is served at the root of a host"));
    }
    Ok(url)
}

/// Whether the host is a loopback address.
pub(crate) fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name.eq_ignore_ascii_case("localhost") || name.ends_with(".localhost"),
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}

/// The encoded path and query of an operation with its parameters.
///
/// ```
/// use openorch_sdk::{api::{RequestParts, registry::REMOVE_INSTANCE}, path_and_query};
/// let parts = RequestParts { path: vec!["a/b".into()], ..RequestParts::default() };
/// assert_eq!(path_and_query(REMOVE_INSTANCE.row, &parts)?, "/registry-svc/instance/a%2Fb");
/// # Ok::<(), openorch_sdk::Error>(())
/// ```
pub fn path_and_query(row: &Operation, parts: &RequestParts) -> Result<String, Error> {
    let mut values = parts.path.iter();
    let mut target = String::with_capacity(row.path.len() + 32);
    for segment in row.path.split('/').skip(1) {
        target.push('/');
        let Some(name) = segment.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')) else {
            target.push_str(segment);
            continue;
        };
        let value = values
            .next()
            .ok_or_else(|| Error::Invalid(format!("{}: the path parameter `{name}` is missing", row.id)))?;
        // URL libraries resolve dot segments, even as `%2E`, so the path would name another operation.
        if matches!(value.as_str(), "" | "." | "..") {
            return Err(Error::Invalid(format!("{}: the path parameter `{name}` cannot be `{value}`", row.id)));
        }
        target.extend(utf8_percent_encode(value, SEGMENT));
    }
    for (index, (key, value)) in parts.query.iter().enumerate() {
        target.push(if index == 0 { '?' } else { '&' });
        target.extend(utf8_percent_encode(key, SEGMENT));
        target.push('=');
        target.extend(utf8_percent_encode(value, SEGMENT));
    }
    Ok(target)
}

/// The URL of a raw call: `path_and_query` unchanged, on the same server.
pub(crate) fn raw_url(base: &Url, path_and_query: &str) -> Result<Url, Error> {
    let shown = path_and_query.escape_debug();
    if !path_and_query.starts_with('/') {
        return Err(Error::Invalid(format!("the path `{shown}` does not begin with `/`")));
    }
    if path_and_query.contains('#') {
        return Err(Error::Invalid(format!("the path `{shown}` contains a `#`, which starts a fragment; use %23")));
    }
    let origin = base.as_str().trim_end_matches('/');
    let url = Url::parse(&format!("{origin}{path_and_query}"))
        .map_err(|error| Error::Invalid(format!("the path `{shown}` is invalid: {error}")))?;
    let path = path_and_query.split('?').next().unwrap_or_default();
    let resolved = |segment: &str| matches!(segment.to_ascii_lowercase().replace("%2e", ".").as_str(), "." | "..");
    // URL libraries resolve these, so the request would go to another path.
    if url.origin() != base.origin() || path.contains('\\') || path.split('/').any(resolved) {
        return Err(Error::Invalid(format!(
            "the path `{shown}` contains `.` or `..` segments or backslashes; use the resolved path"
        )));
    }
    Ok(url)
}

#[cfg(test)]
mod tests {
    use openorch_api::{Input, Path, Query, registry, user};

    use super::*;

    #[test]
    fn addresses_of_servers() {
        for (text, want) in [
            ("http://127.0.0.1:58231", Some("http://127.0.0.1:58231/")),
            (" https://example.com/ ", Some("https://example.com/")),
            ("http://[::1]:80", Some("http://[::1]/")),
            ("127.0.0.1:58231", None),
            ("localhost:58231", None),
            ("", None),
            ("ftp://example.com", None),
            ("http://", None),
            ("http://u:p@example.com", None),
            ("http://example.com/base", None),
            ("http://example.com/?a=1", None),
            ("http://example.com/#a", None),
            ("http://exa mple.com", None),
        ] {
            assert_eq!(parse_base(text).ok().as_ref().map(Url::as_str), want, "{text}");
        }
        let refusal = parse_base("http://me:hunter2@example.com").unwrap_err().to_string();
        assert!(!refusal.contains("hunter2"), "{refusal}");
    }

    #[test]
    fn a_path_parameter_is_one_segment_whatever_stands_in_it() {
        for (value, want) in [
            ("inst_1", Ok("/registry-svc/instance/inst_1")),
            ("a/b?c#d e", Ok("/registry-svc/instance/a%2Fb%3Fc%23d%20e")),
            ("%2e", Ok("/registry-svc/instance/%252e")),
            ("ä", Ok("/registry-svc/instance/%C3%A4")),
            ("..", Err(())),
            (".", Err(())),
            ("", Err(())),
        ] {
            let mut parts = RequestParts::default();
            Path(registry::InstanceId(value.into())).encode(&mut parts);
            let target = path_and_query(registry::REMOVE_INSTANCE.row, &parts);
            assert_eq!(target.map_err(|_| ()), want.map(str::to_owned), "{value}");
        }
        assert!(path_and_query(user::IS_AUTHORIZED.row, &RequestParts::default()).is_err());
    }

    #[test]
    fn a_query_carries_the_given_fields_alone() {
        let mut parts = RequestParts::default();
        let input = registry::ListInstancesRequest {
            slug: Some("a&b=c".into()),
            host: Some("x y".into()),
            ..Default::default()
        };
        Query(input).encode(&mut parts);
        let target = path_and_query(registry::LIST_INSTANCES.row, &parts).unwrap();
        let (path, query) = target.split_once('?').unwrap();
        let mut pairs: Vec<_> = query.split('&').collect();
        pairs.sort_unstable();
        assert_eq!((path, pairs), ("/registry-svc/instances", vec!["host=x%20y", "slug=a%26b%3Dc"]));
    }

    #[test]
    fn raw_paths_stay_on_the_server_and_go_where_they_say() {
        let base = parse_base("http://127.0.0.1:58231").unwrap();
        for (path, want) in [
            ("/skeleton-svc/hello?x=1", Some("http://127.0.0.1:58231/skeleton-svc/hello?x=1")),
            ("//other.example/x", Some("http://127.0.0.1:58231//other.example/x")),
            ("/a b", Some("http://127.0.0.1:58231/a%20b")),
            ("hello", None),
            ("@other.example/", None),
            ("/a/../b", None),
            ("/a/%2e%2E/b", None),
            ("/a/.", None),
            ("/a\\b", None),
            ("/a#b", None),
        ] {
            assert_eq!(raw_url(&base, path).ok().as_ref().map(Url::as_str), want, "{path}");
        }
    }
}
