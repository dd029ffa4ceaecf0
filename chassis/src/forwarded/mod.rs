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

/// `X-Forwarded-For`: the addresses of the client and of the proxies in between.
pub const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
/// `X-Forwarded-Host`: the host that the client requested.
pub const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
/// `X-Forwarded-Proto`: the scheme that the client used, `http` or `https`.
pub const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
/// `X-Real-IP`: the address of the client.
pub const X_REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");
/// `X-Request-Id`: the id of the request in logs.
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
    /// The id as text.
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

    /// A generated id of 20 letters and digits.
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
    /// The context of a connection from `peer`, whose forwarding headers are used if it is one of `proxies`.
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

/// The parts of a list, the last one first, and whether each is the first of the list. With `has_quotes`, separators in
/// quoted strings do not count (RFC 9110, 5.6.4): a proxy may quote what the client chose. Parses from the end, where
/// proxies append, so that an unclosed quote of a client does not hide what they appended.
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
mod tests;
