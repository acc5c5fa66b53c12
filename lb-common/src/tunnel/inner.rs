//! What a tunnel needs to know of the packet that it carries.

use network_types::ip::Ipv4Hdr;

use crate::{
    flow::{ETHER_TYPE_IPV4, ETHERNET_LENGTH},
    packet::{Ipv6Head, Packet},
};

/// IANA's numbers of IPv4 and IPv6 as protocols that IP carries.
pub(super) const IPV4_IN_IP: u8 = 4;
pub(super) const IPV6_IN_IP: u8 = 41;

/// The packet inside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Inner {
    /// Its DSCP and ECN, as they stand in IPv4's type of service and IPv6's traffic class.
    pub(super) service: u8,
    /// The number of its IP version as a protocol.
    pub(super) protocol: u8,
    /// Its length in bytes, from its IP header on: what pads a short frame is none of it.
    pub(super) length: u32,
}

/// Reads a packet that steering has read before, of either family, whose frame begins at `start`.
#[inline(always)]
pub(super) fn read(packet: &Packet<'_>, start: usize) -> Option<Inner> {
    // Steering lets no shorter packet through: a last fragment has IPv4's header, and a byte behind it.
    let head = packet.at::<[u8; ETHERNET_LENGTH + Ipv4Hdr::LEN]>(start)?;
    if [head[12], head[13]] == ETHER_TYPE_IPV4 {
        return Some(Inner {
            service: head[15],
            protocol: IPV4_IN_IP,
            length: u32::from(u16::from_be_bytes([head[16], head[17]])),
        });
    }
    Some(Inner {
        service: head[14] << 4 | head[15] >> 4,
        protocol: IPV6_IN_IP,
        length: u32::from(u16::from_be_bytes([head[18], head[19]]))
            + (size_of::<Ipv6Head>() - ETHERNET_LENGTH) as u32,
    })
}
