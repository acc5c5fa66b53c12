//! ICMP for VIPs: errors go to the backend of the packet they quote, and echo requests are answered
//! in place.
//!
//! A router that cannot pass a backend's answer on tells the answer's source, which is the VIP.
//! What it quotes is that answer, from the VIP to the client; with its ends exchanged it is a packet
//! of the client's flow, and is steered as such, but leaves nothing behind: anybody can make one up.
//!
//! ```text
//! IPv4 | type 3, 11, 12 | IPv4 from the VIP, to the client | ports
//! IPv6 | type 1 to 4    | IPv6 from the VIP, to the client | extension headers | ports
//! ```

mod echo;

use network_types::ip::Ipv4Hdr;

pub use self::echo::{PingFrame, PingFrame6, answer_ipv4, answer_ipv6};
use crate::{
    flow::{
        ETHERNET_LENGTH, Flow, ICMP, ICMPV6, IPV6_HEADER, OFFSET_MASK, TCP, TcpFlags, UDP,
        skip_extensions, words,
    },
    layout::ServiceKey,
    packet::{Ipv6Head, Packet},
    reason::Reason,
};

/// The length of the header of every message (RFC 792, RFC 4443 section 2.1), with the four bytes
/// whose meaning depends on the type.
pub const HEADER: usize = 8;
/// Where the message lies behind an IPv6 header.
const MESSAGE_OF_IPV6: usize = ETHERNET_LENGTH + IPV6_HEADER;

/// A message that may be for a VIP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Message {
    /// An error about a packet to the client of this flow, if it is one of a service.
    Error(Flow),
    /// An echo request to the address of this key, of which the port is zero and the protocol ICMP.
    Echo(ServiceKey),
}

/// The key under which an address stands in the service table that answers echo requests.
#[inline(always)]
pub const fn echo_key(address: [u8; 4]) -> ServiceKey {
    ServiceKey::ipv4(u32::from_le_bytes(address), 0, ICMP)
}

/// The same of IPv6.
#[inline(always)]
pub const fn echo_key_ipv6(address: [u8; 16]) -> ServiceKey {
    ServiceKey::ipv6(address, 0, ICMPV6)
}

/// Reads a packet of which [`crate::flow`] has said that it is ICMP.
#[inline(always)]
pub fn read_ipv4(packet: &Packet<'_>) -> Result<Message, Reason> {
    let Some(ip) = packet.at::<Ipv4Hdr>(ETHERNET_LENGTH) else {
        return Err(Reason::Malformed);
    };
    let header = usize::from(ip.vihl & 0x0F) * 4;
    let Some([kind, code, ..]) = packet.at::<[u8; HEADER]>(ETHERNET_LENGTH + header) else {
        return Err(Reason::Malformed);
    };
    let end = ETHERNET_LENGTH + usize::from(u16::from_be_bytes(ip.tot_len));
    let message = match (*kind, *code) {
        // Destination unreachable, time exceeded, parameter problem (RFC 792).
        (3 | 11 | 12, _) => {
            let quote = ETHERNET_LENGTH + header + HEADER;
            Message::Error(quoted_ipv4(packet, ip.dst_addr, quote, end)?)
        }
        (8, 0) if header == Ipv4Hdr::LEN => Message::Echo(echo_key(ip.dst_addr)),
        _ => return Err(Reason::Icmp),
    };
    within(packet, message, ETHERNET_LENGTH + header + HEADER, end)
}

/// The message, if the length that its IP header claims holds its own header, and lies within the
/// frame. Asked last: see `parse_transport` of [`crate::flow`].
#[inline(always)]
fn within(
    packet: &Packet<'_>,
    message: Message,
    least: usize,
    end: usize,
) -> Result<Message, Reason> {
    if end < least || end > packet.length() { Err(Reason::Malformed) } else { Ok(message) }
}

/// The flow of the packet that is quoted at `offset` of a datagram that ends at `end`.
#[inline(always)]
fn quoted_ipv4(
    packet: &Packet<'_>,
    vip: [u8; 4],
    offset: usize,
    end: usize,
) -> Result<Flow, Reason> {
    let Some(quoted) = packet.at::<Ipv4Hdr>(offset) else {
        return Err(Reason::TruncatedQuote);
    };
    let header = usize::from(quoted.vihl & 0x0F) * 4;
    let is_first = u16::from_be_bytes(quoted.frags) & OFFSET_MASK == 0;
    let is_answer = quoted.vihl >> 4 == 4 && header >= Ipv4Hdr::LEN && quoted.src_addr == vip;
    if !is_answer || !is_first || !matches!(quoted.proto, TCP | UDP) {
        return Err(Reason::Icmp);
    }
    let ports = ports_at(packet, offset + header, end)?;
    Ok(Flow {
        service: ServiceKey::ipv4(u32::from_le_bytes(vip), ports as u16, quoted.proto),
        source: [u32::from_le_bytes(quoted.dst_addr), 0, 0, 0],
        ports: ports.rotate_left(16),
        flags: TcpFlags::default(),
    })
}

/// Reads a packet of which [`crate::flow`] has said that it is ICMPv6.
#[inline(always)]
pub fn read_ipv6(packet: &Packet<'_>) -> Result<Message, Reason> {
    let Some(head) = packet.at::<Ipv6Head>(0) else {
        return Err(Reason::Malformed);
    };
    if head.next_header != ICMPV6 {
        // Behind extension headers: multicast listener reports (RFC 3810 section 5), if anything.
        return Err(Reason::Icmp);
    }
    let Some([kind, code, ..]) = packet.at::<[u8; HEADER]>(MESSAGE_OF_IPV6) else {
        return Err(Reason::Malformed);
    };
    let end = MESSAGE_OF_IPV6 + usize::from(u16::from_be_bytes(head.payload_length));
    let message = match (*kind, *code) {
        // Destination unreachable, packet too big, time exceeded, parameter problem (RFC 4443
        // section 3).
        (1..=4, _) => Message::Error(quoted_ipv6(packet, head.destination, end)?),
        (128, 0) => Message::Echo(echo_key_ipv6(head.destination)),
        _ => return Err(Reason::Icmp),
    };
    within(packet, message, MESSAGE_OF_IPV6 + HEADER, end)
}

#[inline(always)]
fn quoted_ipv6(packet: &Packet<'_>, vip: [u8; 16], end: usize) -> Result<Flow, Reason> {
    const QUOTE: usize = MESSAGE_OF_IPV6 + HEADER;
    // The quote has no Ethernet header: what stands in its place is the end of what is before.
    let Some(quoted) = packet.at::<Ipv6Head>(QUOTE - ETHERNET_LENGTH) else {
        return Err(Reason::TruncatedQuote);
    };
    let is_answer = quoted.version_and_class >> 4 == 6
        && u128::from_le_bytes(quoted.source) == u128::from_le_bytes(vip);
    if !is_answer {
        return Err(Reason::Icmp);
    }
    let (protocol, offset) =
        match skip_extensions(packet, quoted.next_header, QUOTE + IPV6_HEADER, true) {
            Ok(found) => found,
            // It ends in the middle of a header.
            Err(Reason::Malformed) => return Err(Reason::TruncatedQuote),
            Err(_) => return Err(Reason::Icmp),
        };
    let ports = ports_at(packet, offset, end)?;
    Ok(Flow {
        service: ServiceKey::ipv6(vip, ports as u16, protocol),
        source: words(quoted.destination),
        ports: ports.rotate_left(16),
        flags: TcpFlags::default(),
    })
}

/// The quoted ports, the VIP's in the lower half.
#[inline(always)]
fn ports_at(packet: &Packet<'_>, offset: usize, end: usize) -> Result<u32, Reason> {
    let Some(ports) = packet.at::<[u8; 4]>(offset) else {
        return Err(Reason::TruncatedQuote);
    };
    if offset + 4 > end {
        return Err(Reason::TruncatedQuote);
    }
    Ok(u32::from_le_bytes(*ports))
}
