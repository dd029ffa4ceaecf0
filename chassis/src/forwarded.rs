//! Client addresses and forwarding headers (decision "Client address"): the only code that reads, removes and writes
//! `Forwarded`,
//! `X-Forwarded-*` and request ids, for built-in and proxied requests alike.

use std::{
    cell::Cell,
    fmt::Write,
    hash::{BuildHasher, RandomState},
    net::{IpAddr, Ipv6Addr},
    str::FromStr,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, header};

use crate::{Error, Peer, Result, outbound::Cidr, setting_values};

pub const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
pub const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
pub const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
pub const X_REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");
pub const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Stands for clients behind a trusted proxy that sends no valid client address: they are neither the proxy nor on this
/// machine, and share the limits of one address. From the discard-only prefix (RFC 6666), which no host uses.
pub const UNKNOWN_CLIENT: IpAddr = IpAddr::V6(Ipv6Addr::new(0x100, 0, 0, 0, 0, 0, 0, 0));

/// Maximum elements of a forwarding header that are read, from the end, where proxies append. Earlier elements are not
/// forwarded upstream. In a longer chain of proxies, the last one read counts as the client.
const MAX_CHAIN: usize = 64;
/// Maximum bytes of a forwarding header that are read, from the end. An element that is not read completely is invalid.
const MAX_CHAIN_BYTES: usize = 4096;

/// The client of a request, according to trusted sources. A request extension.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientAddress {
    /// [`UNKNOWN_CLIENT`] if a trusted proxy did not send it.
    pub ip: IpAddr,
    /// Whether the client used TLS.
    pub https: bool,
    /// The host that the client requested.
    pub host: Option<HeaderValue>,
}

/// The id of a request in the logs of the daemon and of services. A request extension.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestId(pub HeaderValue);

impl RequestId {
    pub fn as_str(&self) -> &str {
        // Accepted and generated ids are ASCII, so the fallback is never used.
        self.0.to_str().unwrap_or_default()
    }

    /// The client's id if it is safe to log, else a generated one.
    pub fn of(headers: &HeaderMap) -> RequestId {
        let mut given = headers.get_all(X_REQUEST_ID).iter();
        match (given.next(), given.next()) {
            (Some(id), None) if is_request_id(id.as_bytes()) => RequestId(id.clone()),
            _ => RequestId::fresh(),
        }
    }

    pub fn fresh() -> RequestId {
        let mut text = [0; 20];
        let mut bits = (u128::from(random()) << 64) | u128::from(random());
        for character in &mut text {
            *character = b"0123456789abcdefghjkmnpqrstvwxyz"[(bits & 31) as usize];
            bits >>= 5;
        }
        let value = HeaderValue::from_maybe_shared(Bytes::copy_from_slice(&text));
        RequestId(value.unwrap_or(HeaderValue::from_static("unknown")))
    }
}

fn is_request_id(id: &[u8]) -> bool {
    (1..=64).contains(&id.len()) && id.iter().all(|b| b.is_ascii_alphanumeric() || *b == b'-')
}

/// A pseudo-random number, seeded per thread and process; not cryptographically secure.
pub fn random() -> u64 {
    thread_local! {
        static STATE: Cell<u64> = Cell::new(RandomState::new().hash_one(0));
    }
    // SplitMix64.
    let state = STATE.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
    STATE.set(state);
    let mut z = state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Addresses and networks, such as the trusted proxies (`OPENORCH_TRUSTED_PROXIES`). These must set or remove
/// `X-Forwarded-For`, which takes precedence over `Forwarded`.
#[derive(Clone, Debug, Default)]
pub struct NetworkList(Arc<[Cidr]>);

impl FromStr for NetworkList {
    type Err = Error;

    /// A comma-separated list of addresses and ranges, or `none`.
    fn from_str(text: &str) -> Result<NetworkList> {
        let words = text.split(',').map(str::trim).filter(|word| !matches!(*word, "" | "none"));
        let ranges = words.map(|word| {
            Cidr::parse(word).ok_or_else(|| {
                Error::invalid(format!(
                    "`{word}` is not an address: write an address or a network such as `10.0.0.0/8`"
                ))
            })
        });
        Ok(NetworkList(ranges.collect::<Result<Vec<_>>>()?.into()))
    }
}

setting_values!(NetworkList);

impl NetworkList {
    /// IPv4-mapped addresses count as IPv4 addresses. Other IPv6 addresses that embed an IPv4 address (6to4, NAT64) are
    /// compared as IPv6 addresses: the sender need not be the host with that IPv4 address. [`UNKNOWN_CLIENT`] is in no list.
    pub fn contains(&self, address: IpAddr) -> bool {
        address != UNKNOWN_CLIENT && self.0.iter().any(|range| range.contains(address.to_canonical()))
    }
}

/// The key of limits per client address: the /64 of an IPv6 address, the smallest prefix assigned to a site (RFC 6177), or
/// the IPv4 address. IPv4-mapped addresses count as IPv4 addresses.
pub fn client_network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from(u128::from(address) >> 64 << 64)),
        address => address,
    }
}

/// Whether the request has forwarding headers. Names with `_` count: some servers treat `_` as `-`.
pub fn has_forwarding_headers(headers: &HeaderMap) -> bool {
    headers.keys().any(|name| !matches!(header_class(name), HeaderClass::Other | HeaderClass::Internal))
}

enum HeaderClass {
    Other,
    /// `Forwarded`, `X-Forwarded-*`, `X-Real-IP`.
    Forwarding,
    /// A name that equals a forwarding or internal one if `_` is read as `-`.
    Disguised,
    /// `X-OpenOrch-*`.
    Internal,
}

/// Matches on the first letter first: this runs for every header of every request.
fn header_class(name: &HeaderName) -> HeaderClass {
    let text = name.as_str().as_bytes();
    match text.first() {
        Some(b'f') if *name == header::FORWARDED => HeaderClass::Forwarding,
        Some(b'x') if text.len() > 1 && matches!(text[1], b'-' | b'_') => {
            let is = |what: &[u8]| {
                text.len() >= what.len() && text.iter().zip(what).all(|(a, b)| a == b || (*a == b'_' && *b == b'-'))
            };
            let ours = is(b"x-openorch-");
            let forwarding = is(b"x-forwarded") || (is(b"x-real-ip") && text.len() == 9);
            match (ours || forwarding, text.contains(&b'_')) {
                (false, _) => HeaderClass::Other,
                // `x-forwarded-my_field` is no disguise, but is removed like one.
                (true, true) => HeaderClass::Disguised,
                (true, false) if ours => HeaderClass::Internal,
                (true, false) => HeaderClass::Forwarding,
            }
        }
        _ => HeaderClass::Other,
    }
}

/// Whether clients may not send a field of this name; used for trailers.
pub fn is_reserved(name: &HeaderName) -> bool {
    !matches!(header_class(name), HeaderClass::Other)
}

/// A client connection, for the forwarding headers of its requests. Created once per connection.
pub struct ForwardedContext {
    ip: IpAddr,
    https: bool,
    proxies: Option<NetworkList>,
    ip_value: HeaderValue,
    /// The last requested host and the `Forwarded` value made of it: the host of a connection rarely changes.
    last_forwarded: Mutex<Option<(HeaderValue, HeaderValue)>>,
}

impl ForwardedContext {
    pub fn new(peer: &Peer, proxies: &NetworkList) -> ForwardedContext {
        let ip = peer.address.ip().to_canonical();
        ForwardedContext {
            ip,
            https: peer.tls,
            proxies: proxies.contains(ip).then(|| proxies.clone()),
            ip_value: header_value(ip.to_string()),
            last_forwarded: Mutex::default(),
        }
    }

    /// Determines the client. Must be called before [`ForwardedContext::strip_untrusted`]. `host` is the authority of the
    /// request target if it has one, else `Host`.
    pub fn client(&self, headers: &HeaderMap, host: Option<&HeaderValue>) -> ClientAddress {
        let mut client = ClientAddress { ip: self.ip, https: self.https, host: host.cloned() };
        let Some(proxies) = &self.proxies else {
            return client;
        };
        for node in chain(headers) {
            // An invalid element was written by the last trusted proxy and does not mean that proxy.
            client.ip = node.and_then(node_address).unwrap_or(UNKNOWN_CLIENT);
            if !proxies.contains(client.ip) {
                break;
            }
        }
        // The nearest proxy wrote the last value; earlier ones may come from the client.
        if let Some(proto) = forwarded_value(headers, &X_FORWARDED_PROTO, "proto", proxies) {
            client.https = proto.is_some_and(|proto| proto.eq_ignore_ascii_case("https"));
        }
        if let Some(Some(host)) = forwarded_value(headers, &X_FORWARDED_HOST, "host", proxies) {
            client.host = HeaderValue::from_str(host).ok().or(client.host);
        }
        client
    }

    /// The client on whose behalf a trusted proxy sends; `None` if the peer is no trusted proxy.
    pub fn client_behind_proxy(&self, headers: &HeaderMap) -> Option<IpAddr> {
        self.proxies.as_ref()?;
        let client = self.client(headers, None).ip;
        (client != self.ip).then_some(client)
    }

    /// Removes headers that the peer is not trusted to send.
    pub fn strip_untrusted(&self, headers: &mut HeaderMap) {
        let trusted = self.proxies.is_some();
        let unwanted = |name: &HeaderName| match header_class(name) {
            HeaderClass::Other => false,
            HeaderClass::Forwarding => !trusted,
            HeaderClass::Disguised | HeaderClass::Internal => true,
        };
        if !headers.keys().any(unwanted) {
            return;
        }
        let names: Vec<HeaderName> = headers.keys().filter(|n| unwanted(n)).cloned().collect();
        for name in names {
            headers.remove(name);
        }
    }

    /// Sets the forwarding headers for the upstream. Must be called after [`ForwardedContext::strip_untrusted`].
    pub fn set_headers(&self, headers: &mut HeaderMap, host: Option<&HeaderValue>) {
        if self.proxies.is_some() {
            return self.extend_chain(headers, host);
        }
        let proto = if self.https { "https" } else { "http" };
        headers.insert(X_FORWARDED_FOR, self.ip_value.clone());
        headers.insert(X_FORWARDED_PROTO, HeaderValue::from_static(proto));
        let forwarded = match host {
            Some(host) => {
                headers.insert(X_FORWARDED_HOST, host.clone());
                let mut last = self.last_forwarded.lock().unwrap_or_else(|b| b.into_inner());
                match &*last {
                    Some((same, made)) if same == host => made.clone(),
                    _ => {
                        let made = forwarded_header(&[self.ip.to_string()], Some(host), proto);
                        *last = Some((host.clone(), made.clone()));
                        made
                    }
                }
            }
            None => forwarded_header(&[self.ip.to_string()], None, proto),
        };
        headers.insert(header::FORWARDED, forwarded);
    }

    /// Keeps the chain that a trusted proxy sent, and appends the proxy.
    fn extend_chain(&self, headers: &mut HeaderMap, host: Option<&HeaderValue>) {
        let client = self.client(headers, host);
        let mut chain: Vec<String> = chain(headers).map(node_text).collect();
        chain.reverse();
        chain.push(self.ip.to_string());
        let proto = if client.https { "https" } else { "http" };
        headers.insert(X_FORWARDED_FOR, header_value(chain.join(", ")));
        headers.insert(X_FORWARDED_PROTO, HeaderValue::from_static(proto));
        let made = forwarded_header(&chain, client.host.as_ref(), proto);
        headers.insert(header::FORWARDED, made);
        if let Some(host) = client.host {
            headers.insert(X_FORWARDED_HOST, host);
        }
    }
}

/// The chain of nodes in the headers of a trusted proxy, the last one (the peer of that proxy) first; `None` for an invalid
/// element.
fn chain(headers: &HeaderMap) -> impl Iterator<Item = Option<&str>> {
    let is_there = |name: &HeaderName| headers.contains_key(name);
    let (name, max) = if is_there(&X_FORWARDED_FOR) {
        (X_FORWARDED_FOR, MAX_CHAIN)
    } else if is_there(&header::FORWARDED) {
        (header::FORWARDED, MAX_CHAIN)
    } else {
        (X_REAL_IP, 1)
    };
    let is_forwarded = name == header::FORWARDED;
    let nodes = elements(headers, &name).take(max);
    nodes.map(move |element| if is_forwarded { parameter(element?, "for") } else { element })
}

/// The last value of a header. Else, if the chain comes from `Forwarded`, the parameter of the last of its elements that has
/// it and was written by a trusted proxy: all elements after that one name trusted proxies. `Some(None)` if it is invalid.
fn forwarded_value<'a>(
    headers: &'a HeaderMap,
    name: &HeaderName,
    key: &str,
    proxies: &NetworkList,
) -> Option<Option<&'a str>> {
    let last = elements(headers, name).next();
    if last.is_some() || headers.contains_key(X_FORWARDED_FOR) {
        return last;
    }
    for element in elements(headers, &header::FORWARDED).take(MAX_CHAIN) {
        let element = element?;
        if let Some(given) = parameter(element, key) {
            return Some(Some(given));
        }
        if !parameter(element, "for").and_then(node_address).is_some_and(|node| proxies.contains(node)) {
            return None;
        }
    }
    None
}

/// A parameter of a `Forwarded` element (RFC 7239, 4), unquoted.
fn parameter<'a>(element: &'a str, key: &str) -> Option<&'a str> {
    let pairs = rsplit(element.as_bytes(), b';', true);
    let pairs = pairs.filter_map(|(pair, _)| str::from_utf8(pair).ok()?.split_once('='));
    let mut given = pairs.filter(|(name, _)| name.trim().eq_ignore_ascii_case(key));
    given.next().map(|(_, given)| given.trim().trim_matches('"'))
}

/// The elements of a list header, the last one first; `None` for an element that is not ASCII. Splits bytes, so that an
/// invalid element of a client does not hide those that proxies appended.
fn elements<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = Option<&'a str>> + use<'a> {
    let (lines, has_quotes) = (headers.get_all(name).iter().rev(), *name == header::FORWARDED);
    let mut left = Some(MAX_CHAIN_BYTES);
    let ends = lines.map_while(move |line| {
        let (line, max) = (line.as_bytes(), left?);
        left = max.checked_sub(line.len());
        Some((&line[line.len().saturating_sub(max)..], left.is_none()))
    });
    let elements = ends.flat_map(move |(end, is_cut)| {
        rsplit(end, b',', has_quotes).map(move |(element, is_first)| (element.trim_ascii(), is_cut && is_first))
    });
    elements
        .filter(|(element, is_cut)| *is_cut || !element.is_empty())
        .map(|(element, is_cut)| str::from_utf8(element).ok().filter(|text| !is_cut && text.is_ascii()))
}

/// The parts of a list, the last one first, and whether each is the first of the list. With `has_quotes`, separators in quoted strings do not count (RFC 9110, 5.6.4):
/// a proxy may quote what the client chose. Parses from the end, where proxies append, so that an unclosed quote of a client
/// does not hide what they appended.
fn rsplit(list: &[u8], separator: u8, has_quotes: bool) -> impl Iterator<Item = (&[u8], bool)> {
    let mut rest = Some(list);
    std::iter::from_fn(move || {
        let list = rest?;
        let mut is_quoted = false;
        let is_separator = |at: &usize| {
            let before = &list[..*at];
            match list[*at] {
                b'"' if has_quotes => {
                    let backslashes = before.iter().rev().take_while(|byte| **byte == b'\\').count();
                    // An escaped quote does not end the quoted string.
                    is_quoted = !is_quoted || backslashes % 2 == 1;
                    false
                }
                byte => byte == separator && !is_quoted,
            }
        };
        let at = (0..list.len()).rev().find(is_separator);
        rest = at.map(|at| &list[..at]);
        Some((&list[at.map_or(0, |at| at + 1)..], at.is_none()))
    })
}

/// An address without quotes and port. An identifier that is no address (`unknown`, `_hidden`) is kept if its characters are
/// safe.
fn node_text(text: Option<&str>) -> String {
    let text = text.unwrap_or_default().trim_matches('"');
    let is_harmless = |text: &str| text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b));
    match node_address(text) {
        Some(ip) => ip.to_string(),
        None if !text.is_empty() && is_harmless(text) => text.to_owned(),
        None => "unknown".to_owned(),
    }
}

fn node_address(text: &str) -> Option<IpAddr> {
    let text = text.trim_matches('"');
    let address = match (text.parse::<IpAddr>(), text.strip_prefix('[')) {
        (Ok(address), _) => address,
        (_, Some(rest)) => rest.split_once(']')?.0.parse().ok()?,
        _ => text.split_once(':')?.0.parse().ok()?,
    };
    Some(address.to_canonical())
}

fn forwarded_header(chain: &[String], host: Option<&HeaderValue>, proto: &str) -> HeaderValue {
    let mut text = String::with_capacity(64);
    for (at, node) in chain.iter().enumerate() {
        let gap = if at == 0 { "" } else { ", " };
        let quoted = node.contains(':');
        // Writing to a `String` cannot fail.
        let _ = match quoted {
            true => write!(text, "{gap}for=\"[{node}]\""),
            false => write!(text, "{gap}for={node}"),
        };
        if at > 0 {
            continue;
        }
        if let Some(host) = host.and_then(|host| host.to_str().ok())
            && !host.contains(['"', '\\'])
        {
            let _ = write!(text, ";host=\"{host}\"");
        }
        let _ = write!(text, ";proto={proto}");
    }
    header_value(text)
}

fn header_value(text: String) -> HeaderValue {
    HeaderValue::from_maybe_shared(Bytes::from(text)).unwrap_or(HeaderValue::from_static("unknown"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hop(peer: &str, trusted: &str) -> ForwardedContext {
        let peer = Peer { address: peer.parse().unwrap(), tls: false };
        ForwardedContext::new(&peer, &trusted.parse().unwrap())
    }

    fn headers(lines: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        headers
    }

    #[test]
    fn only_a_trusted_proxy_is_believed() {
        type Lines = &'static [(&'static str, &'static str)];
        let cases: &[(&str, Lines, &str, bool)] = &[
            // Headers of an untrusted peer are ignored.
            ("1.2.3.4:5", &[("x-forwarded-for", "9.9.9.9")], "1.2.3.4", false),
            ("1.2.3.4:5", &[("forwarded", "for=9.9.9.9;proto=https")], "1.2.3.4", false),
            ("10.0.0.1:5", &[], "10.0.0.1", false),
            ("10.0.0.1:5", &[("x-forwarded-for", "9.9.9.9")], "9.9.9.9", false),
            ("[::ffff:10.0.0.1]:5", &[("x-forwarded-for", "9.9.9.9")], "9.9.9.9", false),
            // The client's forged value is left of the address that the proxy appended.
            ("10.0.0.1:5", &[("x-forwarded-for", "6.6.6.6, 9.9.9.9")], "9.9.9.9", false),
            ("10.0.0.1:5", &[("x-forwarded-for", "6.6.6.6"), ("x-forwarded-for", "9.9.9.9")], "9.9.9.9", false),
            ("10.0.0.1:5", &[("x-forwarded-for", "9.9.9.9, 10.0.0.7")], "9.9.9.9", false),
            ("10.0.0.1:5", &[("x-forwarded-for", "10.0.0.8, 10.0.0.7")], "10.0.0.8", false),
            // A client whose address is missing or invalid does not count as the proxy.
            ("10.0.0.1:5", &[("x-forwarded-for", "9.9.9.9, unknown")], "100::", false),
            ("10.0.0.1:5", &[("x-forwarded-for", "9.9.9.9, \u{e9}")], "100::", false),
            ("10.0.0.1:5", &[("x-forwarded-for", "\u{e9}, 10.0.0.7")], "100::", false),
            ("10.0.0.1:5", &[("forwarded", "for=_hidden;proto=https")], "100::", true),
            ("10.0.0.1:5", &[("forwarded", "proto=https")], "100::", true),
            // Invalid input of the client does not hide what the proxy appended.
            ("10.0.0.1:5", &[("x-forwarded-for", "\u{e9}, 9.9.9.9")], "9.9.9.9", false),
            ("10.0.0.1:5", &[("x-forwarded-for", "\", 9.9.9.9")], "9.9.9.9", false),
            ("10.0.0.1:5", &[("x-forwarded-for", "9.9.9.9,, ,")], "9.9.9.9", false),
            ("10.0.0.1:5", &[("forwarded", "for=\u{e9}, for=9.9.9.9;proto=https")], "9.9.9.9", true),
            ("10.0.0.1:5", &[("forwarded", "for=\", for=9.9.9.9")], "9.9.9.9", false),
            ("10.0.0.1:5", &[("x-real-ip", "10.0.0.9, 9.9.9.9")], "9.9.9.9", false),
            // A proxy may quote a value that the client chose.
            ("10.0.0.1:5", &[("forwarded", "for=9.9.9.9;host=\"a, for=6.6.6.6\"")], "9.9.9.9", false),
            ("10.0.0.1:5", &[("forwarded", "for=9.9.9.9;host=\"a;for=6.6.6.6;proto=https\"")], "9.9.9.9", false),
            ("10.0.0.1:5", &[("forwarded", "for=9.9.9.9;host=\"a\\\", for=6.6.6.6\"")], "9.9.9.9", false),
            ("10.0.0.1:5", &[("forwarded", "for=6.6.6.6, x=\", for=9.9.9.9;host=\"b\"")], "9.9.9.9", false),
            // Parameters that the client wrote are not trusted.
            ("10.0.0.1:5", &[("forwarded", "for=6.6.6.6;proto=https, for=9.9.9.9")], "9.9.9.9", false),
            ("10.0.0.1:5", &[("forwarded", "for=9.9.9.9;proto=https, for=10.0.0.7")], "9.9.9.9", true),
            // IPv6 addresses that embed an IPv4 address do not equal it, except for mapped ones.
            ("[::10.0.0.1]:5", &[("x-forwarded-for", "9.9.9.9")], "::10.0.0.1", false),
            ("[2002:a00:1::66]:5", &[("x-forwarded-for", "9.9.9.9")], "2002:a00:1::66", false),
            ("[64:ff9b::a00:1]:5", &[("x-forwarded-for", "9.9.9.9")], "64:ff9b::a00:1", false),
            ("10.0.0.1:5", &[("x-forwarded-for", "6.6.6.6, 64:ff9b::a00:7")], "64:ff9b::a00:7", false),
            ("10.0.0.1:5", &[("x-forwarded-for", "6.6.6.6, ::ffff:10.0.0.7")], "6.6.6.6", false),
            ("10.0.0.1:5", &[("x-forwarded-for", "9.9.9.9:4711")], "9.9.9.9", false),
            ("10.0.0.1:5", &[("x-forwarded-for", "[2001:db8::1]:4711")], "2001:db8::1", false),
            ("10.0.0.1:5", &[("forwarded", "for=\"[2001:db8::1]:99\";proto=https")], "2001:db8::1", true),
            ("10.0.0.1:5", &[("x-forwarded-for", "9.9.9.9"), ("forwarded", "for=6.6.6.6")], "9.9.9.9", false),
            ("10.0.0.1:5", &[("x-real-ip", "9.9.9.9")], "9.9.9.9", false),
            ("10.0.0.1:5", &[("x-forwarded-proto", "http, https")], "10.0.0.1", true),
        ];
        for (peer, lines, ip, https) in cases {
            let client = hop(peer, "10.0.0.0/8").client(&headers(lines), None);
            assert_eq!(client.ip, ip.parse::<IpAddr>().unwrap(), "{peer} {lines:?}");
            assert_eq!(client.https, *https, "{peer} {lines:?}");
        }
    }

    #[test]
    fn a_client_that_is_not_known_is_in_no_list() {
        let all: NetworkList = "::/0,0.0.0.0/0".parse().unwrap();
        assert!(all.contains("2001:db8::1".parse().unwrap()) && !all.contains(UNKNOWN_CLIENT));
    }

    #[test]
    fn of_a_long_chain_the_end_is_read() {
        let mut long = HeaderMap::new();
        let chain = "6.6.6.6, ".repeat(31_000) + "9.9.9.9, 10.0.0.7";
        long.append(X_FORWARDED_FOR, HeaderValue::from_str(&chain).unwrap());
        let hop = hop("10.0.0.1:5", "10.0.0.0/8");
        assert_eq!(hop.client(&long, None).ip, "9.9.9.9".parse::<IpAddr>().unwrap());
        hop.set_headers(&mut long, None);
        let told = long[X_FORWARDED_FOR].to_str().unwrap();
        assert!(told.starts_with("6.6.6.6, ") && told.ends_with(", 9.9.9.9, 10.0.0.7, 10.0.0.1"), "{told}");
        assert_eq!(told.split(',').count(), MAX_CHAIN + 1);
    }

    #[test]
    fn w187_of_a_long_header_the_end_is_read_and_a_cut_element_is_no_address() {
        let hop = hop("10.0.0.1:5", "10.0.0.0/8");
        let long = "a=b;".repeat(12_000);
        for (name, value, ip) in [
            ("forwarded", format!("{long}, for=9.9.9.9"), "9.9.9.9"),
            ("forwarded", format!("{long}for=9.9.9.9, for=10.0.0.7"), "100::"),
            // The proxy quoted a long value of the client.
            ("forwarded", format!("for=9.9.9.9;host=\"{long}\""), "100::"),
            ("forwarded", format!("for=6.6.6.6;x={long}for=9.9.9.9"), "100::"),
            ("x-forwarded-for", format!("6.6.6.6{}9.9.9.9", " ".repeat(5000)), "100::"),
            ("x-forwarded-for", format!("6.6.6.6,{}9.9.9.9", " ".repeat(5000)), "100::"),
            ("x-forwarded-for", format!("{}, 9.9.9.9", "6".repeat(5000)), "9.9.9.9"),
        ] {
            let mut given = HeaderMap::new();
            given.append(name, HeaderValue::from_str(&value).unwrap());
            assert_eq!(hop.client(&given, None).ip, ip.parse::<IpAddr>().unwrap(), "{name}: {}", &value[..20]);
            given.append(name, HeaderValue::from_static("for=9.9.9.9"));
            hop.set_headers(&mut given, None);
            assert!(given[header::FORWARDED].len() < 2 * MAX_CHAIN_BYTES);
        }
    }

    #[test]
    fn what_a_client_may_not_say_is_removed() {
        let all = [
            ("forwarded", "for=1.1.1.1"),
            ("x-forwarded-for", "1.1.1.1"),
            ("x-forwarded-anything", "x"),
            ("x-real-ip", "1.1.1.1"),
            ("x-openorch-user", "admin"),
            ("x_forwarded_for", "1.1.1.1"),
            ("x-real_ip", "1.1.1.1"),
            ("x_openorch_user", "admin"),
            ("x-openorch-a_b", "x"),
            ("x-other", "stays"),
            ("x_other", "stays"),
            ("openorch-extended", "1"),
        ];
        let left = |peer: &str| {
            let mut headers = headers(&all);
            hop(peer, "10.0.0.0/8").strip_untrusted(&mut headers);
            let mut names: Vec<String> = headers.keys().map(|n| n.to_string()).collect();
            names.sort();
            names.join(" ")
        };
        assert_eq!(left("1.2.3.4:5"), "openorch-extended x-other x_other");
        assert_eq!(
            left("10.0.0.1:5"),
            "forwarded openorch-extended x-forwarded-anything x-forwarded-for x-other x-real-ip x_other"
        );
    }

    #[test]
    fn the_next_server_is_told_who_asked() {
        let host = HeaderValue::from_static("shop.example:8080");
        let mut sent = HeaderMap::new();
        hop("[2001:db8::7]:5", "").set_headers(&mut sent, Some(&host));
        assert_eq!(sent[X_FORWARDED_FOR], "2001:db8::7");
        assert_eq!(sent[X_FORWARDED_PROTO], "http");
        assert_eq!(sent[X_FORWARDED_HOST], "shop.example:8080");
        assert_eq!(sent[header::FORWARDED], "for=\"[2001:db8::7]\";host=\"shop.example:8080\";proto=http");

        let mut sent = headers(&[
            ("x-forwarded-for", "9.9.9.9"),
            ("x-forwarded-proto", "https"),
            ("x-forwarded-host", "shop.example"),
        ]);
        hop("10.0.0.1:5", "10.0.0.1").set_headers(&mut sent, Some(&HeaderValue::from_static("inner")));
        assert_eq!(sent[X_FORWARDED_FOR], "9.9.9.9, 10.0.0.1");
        assert_eq!(sent[X_FORWARDED_PROTO], "https");
        assert_eq!(sent[X_FORWARDED_HOST], "shop.example");
        assert_eq!(sent[header::FORWARDED], "for=9.9.9.9;host=\"shop.example\";proto=https, for=10.0.0.1");
    }

    #[test]
    fn a_request_id_is_kept_only_if_it_is_harmless() {
        for (given, kept) in [
            (&["abc-123"][..], true),
            (&["a b"], false),
            (&["a\u{9}b"], false),
            (&[""], false),
            (&["a", "b"], false),
            (&["0123456789012345678901234567890123456789012345678901234567890123"], true),
            (&["01234567890123456789012345678901234567890123456789012345678901234"], false),
        ] {
            let mut headers = HeaderMap::new();
            for id in given {
                headers.append(X_REQUEST_ID, HeaderValue::from_static(id));
            }
            let id = RequestId::of(&headers);
            assert_eq!(id.0 == given[0], kept, "{given:?}");
            assert!(is_request_id(id.0.as_bytes()));
        }
        assert_ne!(RequestId::fresh(), RequestId::fresh());
    }
}
