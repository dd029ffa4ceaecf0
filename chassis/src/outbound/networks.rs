//! Which IP addresses may be dialled: ranges as sets, and those that never may, whatever a setting says.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::{Error, Result};

/// A range of addresses, `10.0.0.0/8` or a single address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cidr {
    address: IpAddr,
    bits: u8,
}

impl Cidr {
    pub fn parse(text: &str) -> Option<Cidr> {
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits.parse::<u8>().ok()?)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().ok()?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let bits = bits.unwrap_or(most);
        (bits <= most).then_some(Cidr { address, bits })
    }

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

/// The networks that addresses given by users may point into: `OPENORCH_INSTANCE_NETWORKS`.
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

impl Networks {
    /// A comma-separated list of `loopback`, `private`, `public` and ranges such as `10.0.0.0/8`.
    pub fn parse(text: &str) -> Result<Networks> {
        let mut networks = Networks { loopback: false, private: false, public: false, ranges: Vec::new() };
        for word in text.split(',').map(str::trim).filter(|w| !w.is_empty()) {
            match word {
                "loopback" => networks.loopback = true,
                "private" => networks.private = true,
                "public" => networks.public = true,
                range => networks.ranges.push(Cidr::parse(range).ok_or_else(|| {
                    Error::invalid(format!(
                        "`{range}` is no network: name `loopback`, `private`, `public`, or a range such as `10.0.0.0/8`"
                    ))
                })?),
            }
        }
        Ok(networks)
    }

    /// Why `address` may not be dialled; `None` where it may.
    pub fn refusal(&self, address: IpAddr) -> Option<&'static str> {
        let address = unwrapped(address);
        if let Some(reason) = never(address) {
            return Some(reason);
        }
        if self.ranges.iter().any(|range| range.contains(address)) {
            return None;
        }
        let (allowed, refusal) = if address.is_loopback() {
            (self.loopback, "loopback addresses are not allowed here (OPENORCH_INSTANCE_NETWORKS says which are)")
        } else if is_private(address) {
            (self.private, "private addresses are not allowed here (OPENORCH_INSTANCE_NETWORKS says which are)")
        } else {
            (self.public, "public addresses are not allowed here (OPENORCH_INSTANCE_NETWORKS says which are)")
        };
        (!allowed).then_some(refusal)
    }
}

/// The IPv4 address inside an IPv6 one that only carries it: whoever checks one must not be led past the check by
/// the other.
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

/// Expects an unwrapped address.
fn never(address: IpAddr) -> Option<&'static str> {
    const METADATA_V4: [Ipv4Addr; 3] =
        [Ipv4Addr::new(169, 254, 169, 254), Ipv4Addr::new(100, 100, 100, 200), Ipv4Addr::new(168, 63, 129, 16)];
    const METADATA_V6: [Ipv6Addr; 2] =
        [Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254), Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254)];
    let metadata = "it is a cloud's metadata address";
    let link_local = "link-local addresses are never allowed";
    let multicast = "multicast addresses are never allowed";
    match address {
        IpAddr::V4(a) if METADATA_V4.contains(&a) => Some(metadata),
        IpAddr::V6(a) if METADATA_V6.contains(&a) => Some(metadata),
        IpAddr::V4(a) if a.is_link_local() => Some(link_local),
        IpAddr::V6(a) if a.is_unicast_link_local() => Some(link_local),
        _ if address.is_multicast() => Some(multicast),
        _ if address.is_unspecified() => Some("the unspecified address leads nowhere"),
        IpAddr::V4(a) if a.octets()[0] == 0 => Some("addresses in 0.0.0.0/8 lead nowhere"),
        IpAddr::V4(a) if a.octets()[0] >= 240 => Some("broadcast and reserved addresses lead nowhere"),
        _ => None,
    }
}

/// Not reachable from the internet, but from machines nearby. Expects an unwrapped address.
fn is_private(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(a) => {
            let [first, second, third, _] = a.octets();
            // Beside the private ranges: carrier-grade NAT, protocol assignments, benchmarks.
            a.is_private()
                || (first == 100 && second & 0xc0 == 64)
                || (first == 192 && second == 0 && third == 0)
                || (first == 198 && second & 0xfe == 18)
        }
        // Unique local, and the old site-local.
        IpAddr::V6(a) => a.is_unique_local() || a.segments()[0] & 0xffc0 == 0xfec0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn some_addresses_are_never_dialled() {
        let all = Networks::parse("loopback,private,public,0.0.0.0/0,::/0").unwrap();
        for address in [
            "169.254.169.254",
            "169.254.0.1",
            "::ffff:169.254.169.254",
            "::169.254.169.254",
            "64:ff9b::a9fe:a9fe",
            "2002:a9fe:a9fe::1",
            "fe80::1",
            "fd00:ec2::254",
            "100.100.100.200",
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
            let networks = Networks::parse(setting).unwrap();
            assert_eq!(networks.refusal(address.parse().unwrap()).is_none(), allowed, "{setting} {address}");
        }
        for bad in ["10.0.0.0/33", "lan", "10.0.0/8", "::/129", "1.2.3.4/-1"] {
            assert!(Networks::parse(bad).is_err(), "{bad}");
        }
    }
}
