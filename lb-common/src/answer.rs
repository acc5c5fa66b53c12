//! Packets that the data plane answers itself, in place: who is answered, and the frame that all
//! answers have alike. Hosts alone are answered, never a group of them, and never somebody who
//! claims to be us. Each answer goes back to the Ethernet address it came from.
//!
//! Three steps, since the frame is made larger or smaller in between, by other means in the kernel
//! than on the host: the kind of answer looks at the packet and makes a [`Plan`], the frame becomes
//! what that says, and the answer is written into it. Of a packet that is quoted, all but the Ethernet
//! header stays where it is:
//!
//! ```text
//! | Ethernet | IP | ICMP | IP, and what follows     28 bytes further on over IPv4, 48 over IPv6
//! ```
//!
//! A quote's length is one of few that are fixed, since its checksum covers all of it.

mod ipv4;
mod ipv6;

pub(crate) use self::{ipv4::Ipv4, ipv6::Ipv6};
use crate::{checksum::Sum, flow::ETHERNET_LENGTH, icmp, packet::Packet};

/// The time to live, or hop limit, of answers.
const HOPS: u8 = 64;

/// An answer, and what the frame has to become for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plan<A> {
    /// Bytes to add before the frame.
    pub before: usize,
    /// The frame's length then; what is behind it is cut off.
    pub length: usize,
    /// What is then to be written.
    pub answer: A,
}

impl<A> Plan<A> {
    /// An ICMP error that quotes so many bytes, if the frame has them.
    #[inline(always)]
    pub(crate) fn error<V: Version>(packet: &Packet<'_>, quote: usize, answer: A) -> Option<Self> {
        let before = V::HEADER + icmp::HEADER;
        let length = ETHERNET_LENGTH + before + quote;
        (packet.length() + before >= length).then_some(Self { before, length, answer })
    }
}

/// A version of IP, as far as answers differ by it.
pub(crate) trait Version {
    /// The length of its header, without options.
    const HEADER: usize;
    /// The protocol number of its ICMP.
    const ICMP: u8;

    /// Reads a packet that [`crate::flow`] has read before; nothing if it claims to come from no
    /// single host, and of IPv4 if it is a fragment without the ports (RFC 1122 section 3.2.2).
    fn read(packet: &Packet<'_>) -> Option<Asked>;

    /// Writes the Ethernet and the IP header of an answer to the packet whose Ethernet header lies at
    /// `at`; `length` bytes of a protocol follow. Returns the sum of what that protocol's checksum
    /// covers of them.
    fn turn(packet: &mut Packet<'_>, at: usize, protocol: u8, length: usize) -> Option<Sum>;
}

/// A packet that may be answered.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Asked {
    /// What follows its IP header.
    pub(crate) protocol: u8,
    /// The length of its IP header, with options.
    pub(crate) header: usize,
    /// How many bytes follow, by what the IP header says.
    pub(crate) bytes: usize,
}

impl Asked {
    /// The whole packet's length.
    #[inline(always)]
    pub(crate) const fn total(&self) -> usize {
        self.header + self.bytes
    }
}

/// Writes an ICMP error into a frame that has become what its plan says: its type and code, the four
/// bytes whose meaning depends on them, and the quote.
#[inline(always)]
pub(crate) fn write_error<V: Version, const QUOTE: usize>(
    packet: &mut Packet<'_>,
    [kind, code]: [u8; 2],
    [r0, r1, r2, r3]: [u8; 4],
) -> Option<()> {
    let before = V::HEADER + icmp::HEADER;
    let sum = V::turn(packet, before, V::ICMP, icmp::HEADER + QUOTE)?;
    let quote = packet.at::<[u8; QUOTE]>(ETHERNET_LENGTH + before)?;
    let [c0, c1] = sum.with(&[kind, code, r0, r1, r2, r3]).with(quote).checksum();
    *packet.at_mut(ETHERNET_LENGTH + V::HEADER)? = [kind, code, c0, c1, r0, r1, r2, r3];
    Some(())
}

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

/// An Ethernet header back to where the one with these addresses came from.
#[inline(always)]
const fn ethernet_back(
    [d0, d1, d2, d3, d4, d5, s0, s1, s2, s3, s4, s5]: [u8; 12],
    [t0, t1]: [u8; 2],
) -> [u8; 14] {
    [s0, s1, s2, s3, s4, s5, d0, d1, d2, d3, d4, d5, t0, t1]
}

/// The source among the two addresses of an Ethernet header.
#[inline(always)]
const fn source_of([.., s0, s1, s2, s3, s4, s5]: [u8; 12]) -> [u8; 6] {
    [s0, s1, s2, s3, s4, s5]
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
