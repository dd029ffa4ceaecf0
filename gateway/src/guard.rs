//! While the default password or key stands, only a program on this machine may speak to the daemon (contract
//! decision 13): a page from elsewhere, or one that made its own name point here, is refused.

use std::net::IpAddr;

use http::{HeaderMap, StatusCode, header};
use openorch_chassis::forwarded;

use crate::refusal::Refusal;

/// `host` is the target's authority where the request has one, else its `Host`; `way_out` says how this ends.
pub fn refuse_strangers(headers: &HeaderMap, host: Option<&[u8]>, builtin: bool, way_out: &str) -> Result<(), Refusal> {
    let refuse = |what: &str| Err(Refusal::new(StatusCode::FORBIDDEN, format!("{what}: {way_out}")));
    if host.is_some_and(|host| !is_loopback(host)) {
        return refuse("this request asks for a host other than localhost");
    }
    for origin in headers.get_all(header::ORIGIN) {
        let origin = origin.as_bytes();
        let host = origin.strip_prefix(b"http://").or(origin.strip_prefix(b"https://"));
        if !host.is_some_and(is_loopback) {
            return refuse("this request comes from a page that is not on localhost");
        }
    }
    if builtin && forwarded::claims_forwarding(headers) {
        return refuse("this request was forwarded by another proxy");
    }
    Ok(())
}

fn is_loopback(authority: &[u8]) -> bool {
    let Ok(authority) = std::str::from_utf8(authority) else {
        return false;
    };
    let host = match authority.strip_prefix('[') {
        Some(rest) => rest.split_once(']').map_or(rest, |(host, _)| host),
        None => authority.split_once(':').map_or(authority, |(host, _)| host),
    };
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
