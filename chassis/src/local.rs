//! Whether a request comes from a program on this machine (decision "Restricted mode", decision "Sign-in from
//! elsewhere"). A loopback address alone does not prove it: a reverse proxy on this machine and a web page in a browser
//! have one too.

use std::net::IpAddr;

use http::{HeaderMap, header};

use crate::forwarded;

/// Why a request does not count as coming from a program on this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NonLocalReason {
    /// Its host is not loopback.
    Host,
    /// It comes from a web page whose origin is not loopback.
    Origin,
    /// It has forwarding headers.
    Forwarded,
}

/// A request extension: the request comes from loopback, and [`non_local_reason`] found no reason against it.
#[derive(Clone, Copy, Debug)]
pub struct LocalRequest;

/// Replaces the address of requests from loopback that do not come from a program on this machine, for counting. No client
/// has an address of this prefix (100:0:0:1::/64, RFC 9780).
pub const FOREIGN_ON_LOOPBACK: IpAddr = IpAddr::V6(std::net::Ipv6Addr::new(0x100, 0, 0, 1, 0, 0, 0, 0));

/// The first reason not to treat a request as local. `host` is the authority of the request target if it has one, else
/// `Host`; a request without either passes this check.
pub fn non_local_reason(headers: &HeaderMap, host: Option<&[u8]>) -> Option<NonLocalReason> {
    if host.is_some_and(|host| !is_loopback(host)) {
        return Some(NonLocalReason::Host);
    }
    for origin in headers.get_all(header::ORIGIN) {
        let origin = origin.as_bytes();
        let host = origin.strip_prefix(b"http://").or(origin.strip_prefix(b"https://"));
        if !host.is_some_and(is_loopback) {
            return Some(NonLocalReason::Origin);
        }
    }
    let has_passed_proxy =
        forwarded::has_forwarding_headers(headers) || PROXY_HEADERS.iter().any(|name| headers.contains_key(*name));
    has_passed_proxy.then_some(NonLocalReason::Forwarded)
}

/// Other headers that proxies add.
const PROXY_HEADERS: [&str; 6] =
    ["via", "x-client-ip", "x-cluster-client-ip", "cf-connecting-ip", "true-client-ip", "fastly-client-ip"];

fn is_loopback(authority: &[u8]) -> bool {
    let Ok(authority) = std::str::from_utf8(authority) else {
        return false;
    };
    let (host, port) = match authority.strip_prefix('[') {
        Some(rest) => rest.split_once(']').unwrap_or((rest, "")),
        None => authority.split_at(authority.find(':').unwrap_or(authority.len())),
    };
    if !port.is_empty() && !port.strip_prefix(':').is_some_and(|port| port.bytes().all(|byte| byte.is_ascii_digit())) {
        return false;
    }
    if let Ok(ip) = host.parse::<IpAddr>() {
        return ip.is_loopback();
    }
    let host = host.strip_suffix('.').unwrap_or(host);
    let local = b"localhost";
    let bytes = host.as_bytes();
    let Some(start) = bytes.len().checked_sub(local.len()) else {
        return false;
    };
    bytes[start..].eq_ignore_ascii_case(local) && (start == 0 || bytes[start - 1] == b'.')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn localhost_has_many_names() {
        for (host, loopback) in [
            ("localhost", true),
            ("LOCALHOST:8080", true),
            ("app.localhost", true),
            ("localhost.", true),
            ("127.0.0.1:1", true),
            ("127.8.8.8", true),
            ("[::1]:58231", true),
            ("[::1]", true),
            ("", false),
            ("localhost:evil.example", false),
            ("[::1]evil.example", false),
            ("localhost:80@evil.example", false),
            ("evil.example", false),
            ("notlocalhost", false),
            ("localhost.evil.example", false),
            ("127.0.0.1.evil.example", false),
            ("10.0.0.1", false),
            ("0.0.0.0", false),
        ] {
            assert_eq!(is_loopback(host.as_bytes()), loopback, "{host}");
        }
    }
}
