//! From an IPv6 frame to its flow: the fixed header (RFC 8200 section 3), and few extension headers.

use super::{ETHERNET_LENGTH, Flow, TCP, Transport, UDP, parse_transport};
use crate::{
    fragment::Learned,
    layout::ServiceKey,
    packet::{ExtensionHead, Ipv6Head, Packet},
    reason::Reason,
};

/// How many extension headers may stand before the transport header: one of each kind that can.
pub const EXTENSIONS_MAX: usize = 4;

/// Next headers (IANA's protocol numbers).
const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
pub(crate) const FRAGMENT: u8 = 44;
pub(crate) const ICMPV6: u8 = 58;
const DESTINATION: u8 = 60;

/// The fixed header's length in bytes.
pub(crate) const HEADER: usize = size_of::<Ipv6Head>() - ETHERNET_LENGTH;
/// The offset and "more fragments" of a fragment header (RFC 8200 section 4.5).
const FRAGMENT_MASK: u16 = 0xFFF9;
/// The offset alone.
pub(crate) const OFFSET_MASK: u16 = 0xFFF8;

/// Reads a frame of IPv6, whose Ethernet header has been read. If it is a fragment, `learned` is what
/// [`crate::fragment`] has found out about it, if that was asked.
#[inline(always)]
pub fn parse_ipv6(packet: &Packet<'_>, learned: Learned) -> Result<Flow, Reason> {
    let Some(head) = packet.at::<Ipv6Head>(0) else {
        return Err(Reason::Malformed);
    };
    if head.version_and_class >> 4 != 6 {
        return Err(Reason::Malformed);
    }
    let first = ETHERNET_LENGTH + HEADER;
    // Nearly every packet: all offsets are constants.
    if head.next_header == TCP {
        return flow(packet, head, TCP, first);
    }
    if head.next_header == UDP {
        return flow(packet, head, UDP, first);
    }
    if learned.is_something() {
        return Ok(learned.flow_ipv6(head));
    }
    let (protocol, offset) = skip_extensions(packet, head.next_header, first, false)?;
    flow(packet, head, protocol, offset)
}

/// The flow of a packet whose transport header lies at `offset`.
#[inline(always)]
fn flow(packet: &Packet<'_>, head: &Ipv6Head, protocol: u8, offset: usize) -> Result<Flow, Reason> {
    let Transport { ports, flags, length } = parse_transport(packet, protocol, offset)?;
    let end = ETHERNET_LENGTH + HEADER + usize::from(u16::from_be_bytes(head.payload_length));
    if end < offset + length || end > packet.length() {
        return Err(Reason::Malformed);
    }
    Ok(Flow {
        service: ServiceKey::ipv6(head.destination, (ports >> 16) as u16, protocol),
        source: words(head.source),
        ports,
        flags,
    })
}

/// Finds the transport header behind extension headers, of which one of the kind `next` lies at
/// `offset`: its protocol, and where it lies. A packet that is quoted may be the first of several
/// fragments, and may have been on its way through other addresses.
#[inline(always)]
pub(crate) fn skip_extensions(
    packet: &Packet<'_>,
    mut next: u8,
    mut offset: usize,
    quoted: bool,
) -> Result<(u8, usize), Reason> {
    let fragment_mask = if quoted { OFFSET_MASK } else { FRAGMENT_MASK };
    for _ in 0..EXTENSIONS_MAX {
        if !is_extension(next) {
            break;
        }
        let Some(header) = packet.at::<ExtensionHead>(offset) else {
            return Err(Reason::Malformed);
        };
        if next == FRAGMENT {
            if u16::from_be_bytes(header.fragment) & fragment_mask != 0 {
                return Err(Reason::Fragment);
            }
        } else if next == ROUTING && header.segments_left() != 0 && !quoted {
            // It goes on from here to another address (RFC 8200 section 4.4).
            return Err(Reason::Extensions);
        }
        offset += length(next, header);
        next = header.next;
    }
    match next {
        TCP | UDP => Ok((next, offset)),
        ICMPV6 => Err(Reason::Icmp),
        _ if is_extension(next) => Err(Reason::Extensions),
        _ => Err(Reason::Protocol),
    }
}

/// Where the fragment header lies of a packet of which [`skip_extensions`] has said that it is a
/// fragment.
#[inline(always)]
pub(crate) fn to_fragment_header(
    packet: &Packet<'_>,
    mut next: u8,
    mut offset: usize,
) -> Result<usize, Reason> {
    for _ in 0..EXTENSIONS_MAX {
        let Some(header) = packet.at::<ExtensionHead>(offset) else {
            return Err(Reason::Malformed);
        };
        if next == FRAGMENT && u16::from_be_bytes(header.fragment) & FRAGMENT_MASK != 0 {
            return Ok(offset);
        }
        offset += length(next, header);
        next = header.next;
    }
    Err(Reason::Extensions)
}

/// The length of an extension header of the kind `next`. A fragment header has a reserved byte where
/// others have their length; one that is read over is that of an "atomic" fragment, which is whole (RFC
/// 6946).
#[inline(always)]
const fn length(next: u8, header: &ExtensionHead) -> usize {
    if next == FRAGMENT { size_of::<ExtensionHead>() } else { (header.length as usize + 1) * 8 }
}

#[inline(always)]
const fn is_extension(next: u8) -> bool {
    matches!(next, HOP_BY_HOP | ROUTING | FRAGMENT | DESTINATION)
}

/// An address as it stands in the packet, in words.
#[inline(always)]
pub(crate) fn words(address: [u8; 16]) -> [u32; 4] {
    let bits = u128::from_le_bytes(address);
    [bits as u32, (bits >> 32) as u32, (bits >> 64) as u32, (bits >> 96) as u32]
}
