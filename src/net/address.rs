//! Which addresses are public.
//!
//! The ranges are those of the IANA special-purpose registries for IPv4 and IPv6 (RFC 6890 and its updates), each by
//! name, since the name goes into the message that a refused user reads. An IPv6 address that only wraps an IPv4 one
//! (mapped, or by the well-known NAT64 prefix) is judged as the IPv4 address that is dialled in the end. The other
//! wrappings (6to4, Teredo, IPv4-compatible and -translated) are obsolete and refused whole.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::LazyLock;

use ipnet::IpNet;

/// The IPv4 ranges that are not public; the first that holds an address names it.
const RANGES_V4: &[(&str, &str)] = &[
    ("169.254.169.254/32", "the metadata service of cloud machines"),
    ("168.63.129.16/32", "the platform service of Azure machines"),
    ("255.255.255.255/32", "broadcast (RFC 919)"),
    ("0.0.0.0/32", "unspecified (RFC 1122)"),
    ("0.0.0.0/8", "this network (RFC 791)"),
    ("10.0.0.0/8", "private (RFC 1918)"),
    ("100.64.0.0/10", "shared by carriers' customers (RFC 6598)"),
    ("127.0.0.0/8", "loopback (RFC 1122)"),
    ("169.254.0.0/16", "link-local (RFC 3927)"),
    ("172.16.0.0/12", "private (RFC 1918)"),
    ("192.0.0.0/24", "for protocols (RFC 6890)"),
    ("192.0.2.0/24", "for documentation (RFC 5737)"),
    ("192.88.99.0/24", "6to4 relays (RFC 7526)"),
    ("192.168.0.0/16", "private (RFC 1918)"),
    ("198.18.0.0/15", "for benchmarks (RFC 2544)"),
    ("198.51.100.0/24", "for documentation (RFC 5737)"),
    ("203.0.113.0/24", "for documentation (RFC 5737)"),
    ("224.0.0.0/4", "multicast (RFC 5771)"),
    ("240.0.0.0/4", "reserved (RFC 1112)"),
];

/// The IPv6 ranges that are not public; the first that holds an address names it.
const RANGES_V6: &[(&str, &str)] = &[
    ("::/128", "unspecified (RFC 4291)"),
    ("::1/128", "loopback (RFC 4291)"),
    ("::/96", "IPv4-compatible (RFC 4291)"),
    ("::ffff:0:0:0/96", "IPv4-translated (RFC 2765)"),
    ("64:ff9b:1::/48", "a local NAT64 (RFC 8215)"),
    ("100::/64", "discarded (RFC 6666)"),
    ("2001::/32", "Teredo (RFC 4380)"),
    ("2001:2::/48", "for benchmarks (RFC 5180)"),
    ("2001::/23", "for protocols (RFC 2928)"),
    ("2001:db8::/32", "for documentation (RFC 3849)"),
    ("2002::/16", "6to4 (RFC 3056)"),
    ("3fff::/20", "for documentation (RFC 9637)"),
    ("5f00::/16", "segment routing (RFC 9602)"),
    ("fc00::/7", "unique local (RFC 4193)"),
    ("fe80::/10", "link-local (RFC 4291)"),
    ("fec0::/10", "site-local (RFC 3879)"),
    ("ff00::/8", "multicast (RFC 4291)"),
    // What is left of everything but 2000::/3, the one part that addresses are given out from.
    ("::/3", "reserved (RFC 4291)"),
    ("4000::/2", "reserved (RFC 4291)"),
    ("8000::/1", "reserved (RFC 4291)"),
];

/// The well-known prefix under which a NAT64 reaches IPv4 addresses (RFC 6052).
const NAT64: [u16; 6] = [0x64, 0xff9b, 0, 0, 0, 0];

/// A range that does not parse would be left out; a test sees to it that all do.
static NETS: LazyLock<Vec<(IpNet, &str)>> = LazyLock::new(|| {
    let parse = |(net, name): &(&str, &'static str)| Some((net.parse().ok()?, *name));
    RANGES_V4.iter().chain(RANGES_V6).filter_map(parse).collect()
});

/// The address that is reached in the end: the IPv4 address within a mapped or NAT64 one, else the address itself.
pub fn reached(address: IpAddr) -> IpAddr {
    let IpAddr::V6(v6) = address else { return address };
    v6.to_ipv4_mapped()
        .or_else(|| behind_nat64(v6))
        .map_or(address, IpAddr::V4)
}

fn behind_nat64(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let [a, b, c, d] = <[u8; 4]>::try_from(&address.octets()[12..]).ok()?;
    (address.segments()[..6] == NAT64).then(|| Ipv4Addr::new(a, b, c, d))
}

/// The name of the range that keeps an address from being public; [`None`]: it is public.
pub fn not_public(address: IpAddr) -> Option<&'static str> {
    let address = reached(address);
    NETS.iter()
        .find_map(|(net, name)| net.contains(&address).then_some(*name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn every_range_parses() {
        assert_eq!(NETS.len(), RANGES_V4.len() + RANGES_V6.len());
    }

    #[test]
    fn addresses_by_name() {
        for (address, range) in [
            ("127.0.0.1", "loopback"),
            ("127.255.255.255", "loopback"),
            ("10.0.0.1", "private"),
            ("172.16.0.0", "private"),
            ("172.31.255.255", "private"),
            ("192.168.1.1", "private"),
            ("169.254.169.254", "metadata"),
            ("169.254.0.1", "link-local"),
            ("168.63.129.16", "Azure"),
            ("100.64.0.1", "carriers"),
            ("100.100.100.200", "carriers"),
            ("100.127.255.255", "carriers"),
            ("0.0.0.0", "unspecified"),
            ("0.1.2.3", "this network"),
            ("192.0.0.8", "protocols"),
            ("192.0.2.1", "documentation"),
            ("198.51.100.1", "documentation"),
            ("203.0.113.1", "documentation"),
            ("192.88.99.1", "6to4"),
            ("198.18.0.1", "benchmarks"),
            ("198.19.255.255", "benchmarks"),
            ("224.0.0.1", "multicast"),
            ("239.255.255.255", "multicast"),
            ("240.0.0.1", "reserved"),
            ("255.255.255.255", "broadcast"),
            ("::", "unspecified"),
            ("::1", "loopback"),
            ("::127.0.0.1", "IPv4-compatible"),
            ("::8.8.8.8", "IPv4-compatible"),
            ("::ffff:10.0.0.1", "private"),
            ("::ffff:169.254.169.254", "metadata"),
            ("::ffff:0:8.8.8.8", "IPv4-translated"),
            ("64:ff9b::10.0.0.1", "private"),
            ("64:ff9b:1::8.8.8.8", "local NAT64"),
            ("100::1", "discarded"),
            ("2001::1", "Teredo"),
            ("2001:2::1", "benchmarks"),
            ("2001:10::1", "protocols"),
            ("2001:db8::1", "documentation"),
            ("3fff::1", "documentation"),
            ("2002:7f00:1::", "6to4"),
            ("5f00::1", "segment routing"),
            ("fc00::1", "unique local"),
            ("fd00:ec2::254", "unique local"),
            ("fe80::1", "link-local"),
            ("fec0::1", "site-local"),
            ("ff02::1", "multicast"),
            ("200::1", "reserved"),
            ("4000::1", "reserved"),
            ("fe00::1", "reserved"),
        ] {
            let found = not_public(address.parse().unwrap());
            assert!(
                found.is_some_and(|name| name.contains(range)),
                "{address}: {found:?}, not {range}"
            );
        }
    }

    #[test]
    fn public_addresses_are_public() {
        for address in [
            "1.1.1.1",
            "8.8.8.8",
            "9.255.255.255",
            "11.0.0.0",
            "100.63.255.255",
            "100.128.0.0",
            "126.255.255.255",
            "128.0.0.0",
            "172.15.255.255",
            "172.32.0.0",
            "192.0.1.0",
            "198.17.255.255",
            "198.20.0.0",
            "223.255.255.255",
            "::ffff:8.8.8.8",
            "64:ff9b::8.8.8.8",
            "2001:4860:4860::8888",
            "2606:4700:4700::1111",
            "2a00:1450:4001:81b::200e",
        ] {
            assert_eq!(not_public(address.parse().unwrap()), None, "{address}");
        }
    }

    proptest! {
        #[test]
        fn a_refused_address_is_refused_mapped_too(range in 0..RANGES_V4.len(), offset: u32) {
            let net: ipnet::Ipv4Net = RANGES_V4[range].0.parse().unwrap();
            let address = Ipv4Addr::from(u32::from(net.network()) | (offset & u32::from(net.hostmask())));
            prop_assert!(not_public(address.into()).is_some());
            prop_assert_eq!(not_public(address.into()), not_public(address.to_ipv6_mapped().into()));
        }

        #[test]
        fn a_wrapping_never_opens_a_way(bits: u32) {
            let address = Ipv4Addr::from(bits);
            let [a, b] = [(bits >> 16) as u16, (bits & 0xffff) as u16];
            let nat64 = Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, a, b);
            prop_assert_eq!(not_public(address.into()), not_public(nat64.into()));
            for obsolete in [
                Ipv6Addr::new(0, 0, 0, 0, 0, 0, a, b),
                Ipv6Addr::new(0, 0, 0, 0, 0xffff, 0, a, b),
                Ipv6Addr::new(0x2002, a, b, 0, 0, 0, 0, 1),
                Ipv6Addr::new(0x2001, 0, 0, 0, 0, 0, !a, !b),
            ] {
                prop_assert!(not_public(obsolete.into()).is_some(), "{}", obsolete);
            }
        }
    }
}
