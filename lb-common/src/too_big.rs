//! What the sender of a packet is told that does not fit its tunnel: how large a packet may be that
//! does, from the VIP. "Fragmentation needed and DF set" over IPv4 (RFC 792, RFC 1191 section 4, for
//! tunnels RFC 2003 section 5.1), "packet too big" over IPv6 (RFC 4443 section 3.2, for tunnels RFC
//! 2473 section 7.1).
//!
//! Over IPv4 nobody is told who has not forbidden fragments: that is what the message says (RFC 1812
//! section 5.2.7.1). Nor is anybody about a later fragment (RFC 1122 section 3.2.2).

use network_types::ip::Ipv4Hdr;

use crate::{
    answer::{Ipv4, Ipv6, Plan, Version, write_error},
    flow::ETHERNET_LENGTH,
    icmp,
    packet::Packet,
};

/// As much as 576 bytes hold (RFC 1812 section 4.3.2.3).
const QUOTE_IPV4: usize = 576 - Ipv4::HEADER - icmp::HEADER;
/// Of a packet that is not as long: the longest header, and the 64 bits that must follow (RFC 792).
const QUOTE_IPV4_SHORT: usize = 60 + 8;
/// As much as every link carries (RFC 4443 section 3.2).
const QUOTE_IPV6: usize = LEAST_IPV6 as usize - Ipv6::HEADER - icmp::HEADER;
/// What every link carries whole (RFC 791 section 3.2): nobody can be asked for less.
const LEAST_IPV4: u32 = QUOTE_IPV4_SHORT as u32;
/// The same of IPv6 (RFC 8200 section 5).
const LEAST_IPV6: u32 = 1280;
/// "Don't fragment" (RFC 791 section 3.1).
const DONT_FRAGMENT: u16 = 0x4000;
/// Destination unreachable, fragmentation needed (RFC 792).
const FRAGMENTATION_NEEDED: [u8; 2] = [3, 4];
/// RFC 4443 section 3.2
const PACKET_TOO_BIG: [u8; 2] = [2, 0];

/// What is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answer {
    /// The largest packet that fits, in bytes from its IP header on.
    mtu: u32,
    /// The quote's length, one of the above.
    quote: usize,
}

/// What to answer to a packet that has been steered, where `fits` is the largest that the tunnel
/// carries ([`crate::tunnel::fits`]); nothing to what may be fragmented or has been, but for the first
/// fragment, and to what claims to come from no single host.
#[inline(always)]
pub fn plan_ipv4(packet: &Packet<'_>, fits: u32) -> Option<Plan<Answer>> {
    let asked = Ipv4::read(packet)?;
    let ip = packet.at::<Ipv4Hdr>(ETHERNET_LENGTH)?;
    if fits < LEAST_IPV4 || u16::from_be_bytes(ip.frags) & DONT_FRAGMENT == 0 {
        return None;
    }
    // It is longer than what fits, so it has the shorter quote at least.
    let quote = if asked.total() < QUOTE_IPV4 { QUOTE_IPV4_SHORT } else { QUOTE_IPV4 };
    Plan::error::<Ipv4>(packet, quote, Answer { mtu: fits, quote })
}

/// The same of IPv6; nothing to what is no longer than what every link carries: its sender need not
/// make it shorter, and here it cannot be cut.
#[inline(always)]
pub fn plan_ipv6(packet: &Packet<'_>, fits: u32) -> Option<Plan<Answer>> {
    let asked = Ipv6::read(packet)?;
    if asked.total() <= LEAST_IPV6 as usize {
        return None;
    }
    let mtu = if fits < LEAST_IPV6 { LEAST_IPV6 } else { fits };
    Plan::error::<Ipv6>(packet, QUOTE_IPV6, Answer { mtu, quote: QUOTE_IPV6 })
}

/// Writes the answer into the frame, which has become what the plan says.
#[inline(always)]
pub fn write_ipv4(packet: &mut Packet<'_>, answer: &Answer) -> Option<()> {
    // The lower half of what RFC 792 left unused (RFC 1191 section 4). No MTU of IPv4 is larger.
    let [_, _, m0, m1] = answer.mtu.to_be_bytes();
    let mtu = [0, 0, m0, m1];
    if answer.quote == QUOTE_IPV4 {
        write_error::<Ipv4, QUOTE_IPV4>(packet, FRAGMENTATION_NEEDED, mtu)
    } else {
        write_error::<Ipv4, QUOTE_IPV4_SHORT>(packet, FRAGMENTATION_NEEDED, mtu)
    }
}

/// The same of IPv6.
#[inline(always)]
pub fn write_ipv6(packet: &mut Packet<'_>, answer: &Answer) -> Option<()> {
    write_error::<Ipv6, QUOTE_IPV6>(packet, PACKET_TOO_BIG, answer.mtu.to_be_bytes())
}
