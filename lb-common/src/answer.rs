//! Who is answered by the data plane itself: hosts alone, never a group of them, and never
//! somebody who claims to be us. Each answer goes back to the Ethernet address it came from.

/// Whether an IPv4 packet may be answered: its source is one host (RFC 1122 section 3.2.2), and not
/// its destination.
#[inline(always)]
pub const fn may_go_to(source: [u8; 4], destination: [u8; 4]) -> bool {
    // "This network", loopback; multicast, the reserved classes and broadcast (RFC 6890).
    let [first, ..] = source;
    first != 0
        && first != 127
        && first < 224
        && u32::from_le_bytes(source) != u32::from_le_bytes(destination)
}

/// The same of IPv6 (RFC 4443 section 2.4 (e)).
#[inline(always)]
pub const fn may_go_to_ipv6(source: [u8; 16], destination: [u8; 16]) -> bool {
    let [first, ..] = source;
    let (source, destination) = (u128::from_be_bytes(source), u128::from_be_bytes(destination));
    // Multicast; the unspecified address and loopback.
    first != 0xFF && source > 1 && source != destination
}

/// Whether an Ethernet address is one machine's: the group bit is not set (IEEE 802.3 section 3.2.3).
#[inline(always)]
pub const fn is_one_machine(address: [u8; 6]) -> bool {
    address[0] & 1 == 0
}

#[cfg(test)]
mod tests {
    use core::net::{Ipv4Addr, Ipv6Addr};

    use super::*;

    #[test]
    fn hosts_are_answered_and_groups_are_not() {
        let vip = [192, 0, 2, 10];
        for host in ["198.51.100.7", "10.0.0.1", "223.255.255.254", "192.0.2.11", "1.0.0.0"] {
            let host: Ipv4Addr = host.parse().unwrap();
            assert!(may_go_to(host.octets(), vip), "{host}");
        }
        for other in ["0.0.0.0", "127.0.0.1", "224.0.0.18", "240.0.0.1", "255.255.255.255"] {
            let other: Ipv4Addr = other.parse().unwrap();
            assert!(!may_go_to(other.octets(), vip), "{other}");
        }
        assert!(!may_go_to(vip, vip));
    }

    #[test]
    fn so_it_is_with_ipv6() {
        let vip: Ipv6Addr = "2001:db8::10".parse().unwrap();
        for host in ["2001:db8:c::7", "fe80::1", "::2"] {
            let host: Ipv6Addr = host.parse().unwrap();
            assert!(may_go_to_ipv6(host.octets(), vip.octets()), "{host}");
        }
        for other in ["::", "::1", "ff02::1", "ff0e::1", "2001:db8::10"] {
            let other: Ipv6Addr = other.parse().unwrap();
            assert!(!may_go_to_ipv6(other.octets(), vip.octets()), "{other}");
        }
    }

    #[test]
    fn group_addresses_of_ethernet_are_told_by_their_bit() {
        assert!(is_one_machine([2, 0, 0, 0, 0, 1]) && is_one_machine([0, 0, 0x5E, 0, 1, 51]));
        assert!(!is_one_machine([0xFF; 6]) && !is_one_machine([1, 0, 0x5E, 0, 0, 18]));
    }
}
