//! The URL of an instance in canonical form, so that different spellings compare equal.

use std::{fmt, sync::Arc};

use crate::{Error, Result};

/// Maximum bytes of a URL.
const MAX_LENGTH: usize = 2048;

/// The URL of an instance in canonical form (decision "Instance addresses"): lower-case scheme and host, no default
/// port, no trailing slash, no user info, query or fragment. Only [`InstanceUrl::parse`] creates one.
#[derive(Clone)]
pub struct InstanceUrl {
    text: Arc<str>,
    https: bool,
    /// End of the authority in `text`; it starts after `://`.
    authority_end: usize,
    /// End of the host in `text`, including the brackets of an IPv6 address.
    host_end: usize,
    port: u16,
}

impl InstanceUrl {
    /// Parses and normalizes an absolute `http` or `https` URL. Fails with a sentence that says what is wrong with it.
    pub fn parse(given: &str) -> Result<InstanceUrl> {
        let refuse = |why: &str| {
            let shown: String = given.chars().take(200).collect();
            Err(Error::invalid(format!(
                "`{shown}` cannot be the address of an instance: {why}; write it like `http://10.0.0.5:8080` or `https://host.example/base`"
            )))
        };
        if given.len() > MAX_LENGTH {
            return refuse("it is longer than 2,048 bytes");
        }
        // The URL parser would silently drop tabs and line ends and turn `\` into `/`.
        if given.chars().any(|c| c.is_control() || c.is_whitespace() || c == '\\') {
            return refuse("it contains a space, a control character or a backslash");
        }
        let lower = given.as_bytes();
        let starts = |prefix: &[u8]| lower.len() >= prefix.len() && lower[..prefix.len()].eq_ignore_ascii_case(prefix);
        if !starts(b"http://") && !starts(b"https://") {
            return refuse("it does not begin with `http://` or `https://`");
        }
        if given.contains('?') {
            return refuse("it has a query");
        }
        if given.contains('#') {
            return refuse("it has a fragment");
        }
        let parsed = match url::Url::parse(given) {
            Ok(parsed) => parsed,
            Err(reason) => return refuse(&reason.to_string()),
        };
        if !parsed.username().is_empty()
            || parsed.password().is_some()
            || given.split('/').nth(2).is_some_and(|authority| authority.contains('@'))
        {
            return refuse("it has a user name or password");
        }
        let Some(host) = parsed.host_str().filter(|host| !host.is_empty()) else {
            return refuse("it names no host");
        };
        if parsed.port() == Some(0) {
            return refuse("port 0 is not a valid port");
        }
        let https = parsed.scheme() == "https";
        let scheme = parsed.scheme();
        // An IPv4-mapped IPv6 address is that IPv4 address (RFC 4291, 2.5.5.2).
        let mapped = match parsed.host() {
            Some(url::Host::Ipv6(address)) => address.to_ipv4_mapped().map(|address| address.to_string()),
            _ => None,
        };
        let host = mapped.as_deref().unwrap_or(host);
        let mut text = format!("{scheme}://{host}");
        let host_end = text.len();
        if let Some(port) = parsed.port() {
            text.push_str(&format!(":{port}"));
        }
        let authority_end = text.len();
        text.push_str(parsed.path().trim_end_matches('/'));
        Ok(InstanceUrl {
            text: text.into(),
            https,
            authority_end,
            host_end,
            port: parsed.port().unwrap_or(if https { 443 } else { 80 }),
        })
    }

    /// Whether the scheme is `https`.
    pub fn is_https(&self) -> bool {
        self.https
    }

    /// The scheme: `http` or `https`.
    pub fn scheme(&self) -> &'static str {
        if self.https { "https" } else { "http" }
    }

    /// Without the brackets of an IPv6 address.
    pub fn host(&self) -> &str {
        let host = &self.text[self.authority_start()..self.host_end];
        host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host)
    }

    /// The port; the scheme's default, 80 or 443, if the URL has none.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Host and, unless it is the scheme's default, port: the value of `Host`.
    pub fn authority(&self) -> &str {
        &self.text[self.authority_start()..self.authority_end]
    }

    /// The prefix of every request path: empty, or with a leading and without a trailing slash.
    pub fn base_path(&self) -> &str {
        &self.text[self.authority_end..]
    }

    /// The normalized URL as text.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    fn authority_start(&self) -> usize {
        self.scheme().len() + 3
    }
}

impl fmt::Display for InstanceUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for InstanceUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}`", self.text)
    }
}

// The text is canonical, so comparing it suffices.
impl PartialEq for InstanceUrl {
    fn eq(&self, other: &InstanceUrl) -> bool {
        self.text == other.text
    }
}

impl Eq for InstanceUrl {}

impl std::hash::Hash for InstanceUrl {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.text.hash(state);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_spellings_of_an_address_become_one() {
        for (given, want, authority, base, port) in [
            ("HTTP://LocalHost:80/", "http://localhost", "localhost", "", 80),
            ("https://Host.Example:443", "https://host.example", "host.example", "", 443),
            ("https://host:80/a/b/", "https://host:80/a/b", "host:80", "/a/b", 80),
            ("http://0x7f.1:8080/", "http://127.0.0.1:8080", "127.0.0.1:8080", "", 8080),
            ("http://2130706433", "http://127.0.0.1", "127.0.0.1", "", 80),
            ("http://[::1]:9/x//", "http://[::1]:9/x", "[::1]:9", "/x", 9),
            ("http://[::ffff:127.0.0.1]:8", "http://127.0.0.1:8", "127.0.0.1:8", "", 8),
            ("http://a/b/../c", "http://a/c", "a", "/c", 80),
            ("http://a:00080", "http://a", "a", "", 80),
        ] {
            let url = InstanceUrl::parse(given).expect(given);
            assert_eq!(url.to_string(), want);
            assert_eq!((url.authority(), url.base_path(), url.port()), (authority, base, port), "{given}");
            assert_eq!(InstanceUrl::parse(want).expect(want), url);
        }
        assert_eq!(InstanceUrl::parse("http://[::1]:9").unwrap().host(), "::1");
    }

    #[test]
    fn what_is_no_address_is_refused_with_the_reason() {
        for (given, reason) in [
            ("", "begin with"),
            ("localhost:8080", "begin with"),
            ("ftp://a", "begin with"),
            ("http:/a", "begin with"),
            ("http://", "host"),
            ("http://a?x", "query"),
            ("http://a/#x", "fragment"),
            ("http://user@a", "user name"),
            ("http://@a", "user name"),
            ("http://u:p@a", "user name"),
            ("http://a\\b", "backslash"),
            ("http://a b", "space"),
            ("http://a\n", "control"),
            ("http://a:0", "port 0"),
            ("http://a:70000", "port"),
            ("http://[::1", "IPv6"),
            ("http://1.2.3.4.5.6", "IPv4"),
        ] {
            let error = InstanceUrl::parse(given).expect_err(given);
            assert_eq!(error.code.status, 400);
            assert!(error.message.contains(reason), "{given}: {}", error.message);
        }
        assert!(InstanceUrl::parse(&format!("http://a/{}", "b".repeat(2048))).is_err());
    }
}
