//! Which IP addresses may be dialled: the configured ranges, minus addresses that are never allowed.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

use crate::{Error, Result, setting_values};

/// A range of addresses, `10.0.0.0/8` or a single address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cidr {
    address: IpAddr,
    bits: u8,
}

impl Cidr {
    /// An IPv4-mapped network (`::ffff:192.0.2.0/120`) is parsed as the IPv4 network, since addresses are compared unwrapped.
    pub fn parse(text: &str) -> Option<Cidr> {
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits.parse::<u8>().ok()?)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().ok()?;
        let max_bits = if address.is_ipv4() { 32 } else { 128 };
        let bits = bits.unwrap_or(max_bits);
        match address {
            IpAddr::V6(v6) if (96..=128).contains(&bits) && v6.to_ipv4_mapped().is_some() => {
                v6.to_ipv4_mapped().map(|v4| Cidr { address: v4.into(), bits: bits - 96 })
            }
            _ => (bits <= max_bits).then_some(Cidr { address, bits }),
        }
    }

    /// Whether the address is in the range.
    pub fn contains(&self, address: IpAddr) -> bool {
        fn same(a: u128, b: u128, bits: u8, width: u8) -> bool {
            bits == 0 || (a ^ b) >> (width - bits) == 0
        }
        match (self.address, address) {
            (IpAddr::V4(a), IpAddr::V4(b)) => same(a.to_bits().into(), b.to_bits().into(), self.bits, 32),
            (IpAddr::V6(a), IpAddr::V6(b)) => same(a.to_bits(), b.to_bits(), self.bits, 128),
            _ => false,
        }
    }
}

/// The networks that instances may be in: `OPENORCH_INSTANCE_NETWORKS`.
#[derive(Clone, Debug)]
pub struct Networks {
    loopback: bool,
    private: bool,
    public: bool,
    ranges: Vec<Cidr>,
}

impl Default for Networks {
    fn default() -> Networks {
        Networks { loopback: true, private: true, public: true, ranges: Vec::new() }
    }
}

impl FromStr for Networks {
    type Err = Error;

    /// A comma-separated list of `loopback`, `private`, `public` and ranges such as `10.0.0.0/8`.
    fn from_str(text: &str) -> Result<Networks> {
        let mut networks = Networks { loopback: false, private: false, public: false, ranges: Vec::new() };
        for word in text.split(',').map(str::trim).filter(|w| !w.is_empty()) {
            match word {
                "loopback" => networks.loopback = true,
                "private" => networks.private = true,
                "public" => networks.public = true,
                range => networks.ranges.push(Cidr::parse(range).ok_or_else(|| {
                    Error::invalid(format!(
                        "`{range}` is not a network: use `loopback`, `private`, `public` or a range such as `10.0.0.0/8`"
                    ))
                })?),
            }
        }
        Ok(networks)
    }
}

setting_values!(Networks);

impl Networks {
    /// The reason why `address` must not be dialled; `None` if it is allowed.
    pub fn refusal(&self, address: IpAddr) -> Option<&'static str> {
        if let Some(reason) =
            embedded_addresses(address).into_iter().flatten().find_map(|inner| never_allowed_reason(IpAddr::V4(inner)))
        {
            return Some(reason);
        }
        let address = unwrapped(address);
        if let Some(reason) = never_allowed_reason(address) {
            return Some(reason);
        }
        if self.ranges.iter().any(|range| range.contains(address)) {
            return None;
        }
        let (allowed, refusal) = if address.is_loopback() {
            (self.loopback, "loopback addresses are not allowed (see OPENORCH_INSTANCE_NETWORKS)")
        } else if is_private(address) {
            (self.private, "private addresses are not allowed (see OPENORCH_INSTANCE_NETWORKS)")
        } else {
            (self.public, "public addresses are not allowed (see OPENORCH_INSTANCE_NETWORKS)")
        };
        (!allowed).then_some(refusal)
    }
}

/// The IPv4 address embedded in an IPv6 address, else the address itself: an embedded address must not bypass checks.
pub fn unwrapped(address: IpAddr) -> IpAddr {
    let IpAddr::V6(v6) = address else {
        return address;
    };
    let s = v6.segments();
    let low = || Ipv4Addr::from_bits((u32::from(s[6]) << 16) | u32::from(s[7]));
    let inner = match s {
        // ::1 and :: are themselves.
        [0, 0, 0, 0, 0, 0, 0, 0 | 1] => return address,
        // Mapped ::ffff:a.b.c.d, compatible ::a.b.c.d, translated ::ffff:0:a.b.c.d.
        [0, 0, 0, 0, 0, 0xffff, ..] | [0, 0, 0, 0, 0, 0, ..] | [0, 0, 0, 0, 0xffff, 0, ..] => low(),
        // NAT64, the well-known prefix and the local-use one.
        [0x64, 0xff9b, 0, 0, 0, 0, ..] | [0x64, 0xff9b, 1, ..] => low(),
        // 6to4.
        [0x2002, high, mid, ..] => Ipv4Addr::from_bits((u32::from(high) << 16) | u32::from(mid)),
        _ => return address,
    };
    IpAddr::V4(inner)
}

/// IPv4 addresses embedded in an IPv6 address at places that [`unwrapped`] does not handle. Whether the network translates
/// them is unknown, so they are only checked against the addresses that are never allowed.
fn embedded_addresses(address: IpAddr) -> [Option<Ipv4Addr>; 5] {
    let IpAddr::V6(v6) = address else { return [None; 5] };
    let (s, o) = (v6.segments(), v6.octets());
    let at = |bytes: [usize; 4]| Some(Ipv4Addr::from(bytes.map(|byte| o[byte])));
    match s {
        // NAT64 with a local prefix (RFC 8215) of 48, 56 or 64 bits: byte 8 is skipped (RFC 6052, 2.2).
        [0x64, 0xff9b, 1, ..] => {
            [at([6, 7, 9, 10]), at([7, 9, 10, 11]), at([9, 10, 11, 12]), at([12, 13, 14, 15]), None]
        }
        // Teredo (RFC 4380): the server, and the client with its bits inverted.
        [0x2001, 0, ..] => {
            [at([4, 5, 6, 7]), Some(Ipv4Addr::from([12, 13, 14, 15].map(|byte| !o[byte]))), None, None, None]
        }
        // ISATAP (RFC 5214) below any prefix.
        [_, _, _, _, 0 | 0x200, 0x5efe, ..] => [at([12, 13, 14, 15]), None, None, None, None],
        _ => [None; 5],
    }
}

/// Metadata services of cloud providers, from their documentation, that are not link-local. Link-local addresses are never
/// allowed anyway: 169.254.169.254 of most clouds, 169.254.170.2 and .23 of AWS ECS and EKS, 169.254.42.42 of Scaleway,
/// 169.254.0.23 of Tencent.
const METADATA: [(&str, IpAddr, u8); 14] = [
    ("Alibaba", v4(100, 100, 100, 200), 32),
    ("Azure, also its wire server", v4(168, 63, 129, 16), 32),
    ("Equinix Metal", v4(192, 80, 8, 124), 32),
    ("Oracle, the older one", v4(192, 0, 0, 192), 32),
    ("UCloud", v4(100, 80, 80, 80), 32),
    ("Volcengine", v4(100, 96, 0, 96), 32),
    // Metadata ::254, EKS ::23, names ::253, time ::123.
    ("AWS", v6([0xfd00, 0xec2, 0, 0, 0, 0, 0, 0]), 32),
    ("Akamai", v6([0xfd00, 0xa9fe, 0xa9fe, 0, 0, 0, 0, 1]), 128),
    ("Google", v6([0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254]), 128),
    ("Oracle", v6([0xfd00, 0xc1, 0, 0, 0, 0, 0xa9fe, 0xa9fe]), 128),
    ("Scaleway", v6([0xfd00, 0x42, 0, 0, 0, 0, 0, 0x42]), 128),
    ("the IPv4 one in the low bits of a unique local address", v6([0xfd00, 0, 0, 0, 0, 0, 0xa9fe, 0xa9fe]), 128),
    ("OpenStack", v6([0xfe80, 0, 0, 0, 0, 0, 0xa9fe, 0xa9fe]), 128),
    ("most clouds", v4(169, 254, 169, 254), 32),
];

const fn v4(a: u8, b: u8, c: u8, d: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(a, b, c, d))
}

const fn v6(segments: [u16; 8]) -> IpAddr {
    let [a, b, c, d, e, f, g, h] = segments;
    IpAddr::V6(Ipv6Addr::new(a, b, c, d, e, f, g, h))
}

/// Why an address is never allowed, whatever the setting. Expects an unwrapped address.
fn never_allowed_reason(address: IpAddr) -> Option<&'static str> {
    let is_metadata =
        || METADATA.iter().any(|(_, known, bits)| Cidr { address: *known, bits: *bits }.contains(address));
    let metadata = "cloud metadata addresses are never allowed";
    let link_local = "link-local addresses are never allowed";
    let multicast = "multicast addresses are never allowed";
    match address {
        _ if is_metadata() => Some(metadata),
        IpAddr::V4(a) if a.is_link_local() => Some(link_local),
        IpAddr::V6(a) if a.is_unicast_link_local() => Some(link_local),
        _ if address.is_multicast() => Some(multicast),
        _ if address.is_unspecified() => Some("the unspecified address is never allowed"),
        IpAddr::V4(a) if a.octets()[0] == 0 => Some("addresses in 0.0.0.0/8 are never allowed"),
        IpAddr::V4(a) if a.octets()[0] >= 240 => Some("broadcast and reserved addresses are never allowed"),
        _ => None,
    }
}

/// Whether an address is only reachable within a private network. Expects an unwrapped address.
fn is_private(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(a) => {
            let [first, second, third, _] = a.octets();
            // Also carrier-grade NAT, protocol assignments and benchmarks.
            a.is_private()
                || (first == 100 && second & 0xc0 == 64)
                || (first == 192 && second == 0 && third == 0)
                || (first == 198 && second & 0xfe == 18)
        }
        // Unique local, and the deprecated site-local.
        IpAddr::V6(a) => a.is_unique_local() || a.segments()[0] & 0xffc0 == 0xfec0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn some_addresses_are_never_dialled() {
        let all = Networks::from_str("loopback,private,public,0.0.0.0/0,::/0").unwrap();
        for address in [
            "169.254.169.254",
            "169.254.0.1",
            "::ffff:169.254.169.254",
            "::169.254.169.254",
            "64:ff9b::a9fe:a9fe",
            "2002:a9fe:a9fe::1",
            "fe80::1",
            "fd00:ec2::254",
            "fd00:ec2::23",
            "fd00:c1::a9fe:a9fe",
            "fd00:42::42",
            "fd00:a9fe:a9fe::1",
            "fd20:ce::254",
            "100.100.100.200",
            "100.96.0.96",
            "168.63.129.16",
            "192.0.0.192",
            "169.254.170.2",
            "::ffff:192.0.0.192",
            "::ffff:0:192.0.0.192",
            "64:ff9b::c000:c0",
            "64:ff9b:1::c000:c0",
            "64:ff9b:1:c000:0:c000::",
            "64:ff9b:1:0:c0:0:c000:0",
            "2002:c000:c0::1",
            "2001:0:c000:c0::1",
            "2001::3fff:ff3f",
            "2001:db8::5efe:192.0.0.192",
            "224.0.0.1",
            "ff02::1",
            "0.0.0.0",
            "::",
            "0.1.2.3",
            "255.255.255.255",
            "::ffff:0.0.0.0",
        ] {
            assert!(all.refusal(address.parse().unwrap()).is_some(), "{address}");
        }
    }

    #[test]
    fn words_and_ranges_open_networks() {
        for (setting, address, allowed) in [
            ("loopback", "127.0.0.1", true),
            ("loopback", "127.9.9.9", true),
            ("loopback", "::1", true),
            ("loopback", "::ffff:127.0.0.1", true),
            ("loopback", "10.0.0.1", false),
            ("private", "10.0.0.1", true),
            ("private", "172.31.0.1", true),
            ("private", "172.32.0.1", false),
            ("private", "fd12::1", true),
            ("private", "100.64.0.1", true),
            ("private", "127.0.0.1", false),
            ("public", "8.8.8.8", true),
            ("public", "192.168.1.1", false),
            ("public", "::ffff:192.168.1.1", false),
            ("public", "2606:4700::1", true),
            ("10.1.0.0/16", "10.1.2.3", true),
            ("10.1.0.0/16", "10.2.2.3", false),
            ("fd00::/8", "fd12::1", true),
            ("10.0.0.7, public", "10.0.0.7", true),
            ("", "127.0.0.1", false),
        ] {
            let networks = Networks::from_str(setting).unwrap();
            assert_eq!(networks.refusal(address.parse().unwrap()).is_none(), allowed, "{setting} {address}");
        }
        for bad in ["10.0.0.0/33", "lan", "10.0.0/8", "::/129", "1.2.3.4/-1"] {
            assert!(Networks::from_str(bad).is_err(), "{bad}");
        }
    }
}
