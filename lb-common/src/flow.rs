//! From a frame to its flow, or to the reason why it has none.

mod ipv6;

use network_types::{
    ip::{IpProto, Ipv4Hdr},
    tcp::TcpHdr,
    udp::UdpHdr,
};

use crate::{
    fragment::Learned,
    layout::ServiceKey,
    packet::{EthernetWords, Packet, PlainHead, TransportWords},
    reason::Reason,
};

pub use self::ipv6::{EXTENSIONS_MAX, parse_ipv6};
pub(crate) use self::ipv6::{
    FRAGMENT, HEADER as IPV6_HEADER, ICMPV6, OFFSET_MASK as IPV6_OFFSET_MASK, skip_extensions,
    to_fragment_header, words,
};

/// The length of an Ethernet header without tags.
pub const ETHERNET_LENGTH: usize = size_of::<EthernetWords>();

pub(crate) const ETHER_TYPE_IPV4: [u8; 2] = 0x0800u16.to_be_bytes();
pub(crate) const ETHER_TYPE_IPV6: [u8; 2] = 0x86DDu16.to_be_bytes();
pub(crate) const TCP: u8 = IpProto::Tcp as u8;
pub(crate) const UDP: u8 = IpProto::Udp as u8;
pub(crate) const ICMP: u8 = IpProto::Icmp as u8;
/// "More fragments" and the fragment offset (RFC 791 section 3.1): either makes a fragment.
const FRAGMENT_MASK: u16 = 0x3FFF;
/// The fragment offset alone (RFC 791 section 3.1).
pub(crate) const OFFSET_MASK: u16 = 0x1FFF;
/// The flags byte of a TCP header (RFC 9293 section 3.1).
const TCP_FLAGS_OFFSET: usize = 13;

/// What steering needs to know of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flow {
    /// The destination: address, port, protocol.
    pub service: ServiceKey,
    /// The source address as it stands in the packet; IPv4 fills the first word.
    pub source: [u32; 4],
    /// Source port (low half) and destination port (high half), as they stand in the packet.
    pub ports: u32,
    /// What the packet does to its flow.
    pub flags: TcpFlags,
}

/// The flags of a TCP header (RFC 9293 section 3.1); none for UDP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TcpFlags(pub u8);

impl TcpFlags {
    /// The sender is done.
    pub const FIN: Self = Self(0x01);
    /// Opens a connection, or, with ACK, answers an opening.
    pub const SYN: Self = Self(0x02);
    /// Ends the connection at once.
    pub const RST: Self = Self(0x04);
    /// Acknowledges.
    pub const ACK: Self = Self(0x10);

    /// Whether the packet opens its flow: SYN without ACK.
    #[inline(always)]
    pub const fn opens(self) -> bool {
        self.0 & (Self::SYN.0 | Self::ACK.0) == Self::SYN.0
    }

    /// Whether the packet ends its flow: FIN or RST.
    #[inline(always)]
    pub const fn closes(self) -> bool {
        self.0 & (Self::FIN.0 | Self::RST.0) != 0
    }
}

/// Reads a frame of either family that is addressed to an Ethernet address which `ours` says yes to,
/// as [`mac_word`] makes it.
#[inline(always)]
pub fn parse(packet: &Packet<'_>, ours: impl Fn(u64) -> bool) -> Result<Flow, Reason> {
    match parse_plain(packet, &ours) {
        Some(flow) => Ok(flow),
        None if is_ipv6(packet, &ours) => parse_ipv6(packet, Learned::NOTHING),
        None => parse_ipv4(packet, &ours),
    }
}

/// An Ethernet address as frames are compared with it: the upper six bytes of a little-endian word.
pub const fn mac_word([a, b, c, d, e, f]: [u8; 6]) -> u64 {
    u64::from_le_bytes([0, 0, a, b, c, d, e, f])
}

/// The family, 1 for IPv4 and 2 for IPv6, and the id of the virtual router that an address belongs
/// to (RFC 9568 section 7.3); the family is 0 if it is no such address.
#[inline(always)]
pub const fn virtual_router(mac: u64) -> (u8, u8) {
    const PREFIX: u32 = u32::from_le_bytes([0x00, 0x00, 0x5E, 0x00]);
    let family = (mac >> 48) as u8;
    let is_one = (mac >> 16) as u32 == PREFIX && family.wrapping_sub(1) < 2;
    (if is_one { family } else { 0 }, (mac >> 56) as u8)
}

/// Nearly every packet, with as few comparisons as can be: TCP or UDP over IPv4, for us, whole and
/// without options. `None` says nothing but that it is not such a packet.
#[inline(always)]
pub fn parse_plain(packet: &Packet<'_>, ours: impl Fn(u64) -> bool) -> Option<Flow> {
    let head = packet.at::<PlainHead>(0)?;
    if !ours(u64::from_le_bytes(head.first) << 16) {
        return None;
    }
    let kind = u32::from_le_bytes(head.kind) & PlainHead::KIND_MASK;
    let protocol = u32::from_le_bytes(head.protocol) & PlainHead::PROTOCOL_MASK;
    if kind != PlainHead::IPV4 {
        return None;
    }
    let (protocol, flags, least) = match protocol {
        PlainHead::TCP => (TCP, head.tcp_flags, Ipv4Hdr::LEN + TcpHdr::LEN),
        PlainHead::UDP => (UDP, 0, Ipv4Hdr::LEN + UdpHdr::LEN),
        _ => return None,
    };
    let total = usize::from(u16::from_be_bytes(head.total_length));
    if total < least || total > packet.length() - ETHERNET_LENGTH {
        return None;
    }
    let destination_and_ports = u64::from_le_bytes(head.destination_and_ports);
    Some(Flow {
        service: ServiceKey::from_packet(destination_and_ports, protocol),
        source: [u32::from_le_bytes(head.source), 0, 0, 0],
        ports: (destination_and_ports >> 32) as u32,
        flags: TcpFlags(flags),
    })
}

/// Whether it is a frame of IPv6 that is addressed to us.
#[inline(always)]
pub fn is_ipv6(packet: &Packet<'_>, ours: impl Fn(u64) -> bool) -> bool {
    packet.at::<EthernetWords>(0).is_some_and(|ethernet| {
        ethernet.ether_type == ETHER_TYPE_IPV6 && ours(u64::from_le_bytes(ethernet.first) << 16)
    })
}

/// Any packet of IPv4, step by step.
#[inline(always)]
pub fn parse_ipv4(packet: &Packet<'_>, ours: impl Fn(u64) -> bool) -> Result<Flow, Reason> {
    let Some(ethernet) = packet.at::<EthernetWords>(0) else {
        return Err(Reason::Malformed);
    };
    if !ours(u64::from_le_bytes(ethernet.first) << 16) {
        return Err(Reason::NotForUs);
    }
    if ethernet.ether_type != ETHER_TYPE_IPV4 {
        return Err(Reason::NotIp);
    }
    parse_header(packet)
}

#[inline(always)]
fn parse_header(packet: &Packet<'_>) -> Result<Flow, Reason> {
    let Some(ip) = packet.at::<Ipv4Hdr>(ETHERNET_LENGTH) else {
        return Err(Reason::Malformed);
    };
    if u16::from_be_bytes(ip.frags) & FRAGMENT_MASK != 0 {
        return Err(Reason::Fragment);
    }
    let header = usize::from(ip.vihl & 0x0F) * 4;
    if ip.vihl >> 4 != 4 || header < Ipv4Hdr::LEN {
        return Err(Reason::Malformed);
    }
    if ip.proto == ICMP {
        return Err(Reason::Icmp);
    }
    let Transport { ports, flags, length } =
        parse_transport(packet, ip.proto, ETHERNET_LENGTH + header)?;
    let total = usize::from(u16::from_be_bytes(ip.tot_len));
    if total < header + length || total > packet.length() - ETHERNET_LENGTH {
        return Err(Reason::Malformed);
    }
    let destination = u32::from_le_bytes(ip.dst_addr);
    Ok(Flow {
        service: ServiceKey::ipv4(destination, (ports >> 16) as u16, ip.proto),
        source: [u32::from_le_bytes(ip.src_addr), 0, 0, 0],
        ports,
        flags,
    })
}

/// What steering needs of a TCP or UDP header.
#[derive(Clone, Copy)]
pub(crate) struct Transport {
    /// As [`Flow::ports`].
    pub(crate) ports: u32,
    pub(crate) flags: TcpFlags,
    /// How long it is at least.
    pub(crate) length: usize,
}

/// Reads the transport header at `offset`, behind whatever IP header there is.
///
/// The verifier learns the frame's bounds from comparisons with its end alone, so those come
/// first: were the claimed length checked before them, the compiler would see that they follow
/// from it, and leave them out.
#[inline(always)]
pub(crate) fn parse_transport(
    packet: &Packet<'_>,
    protocol: u8,
    offset: usize,
) -> Result<Transport, Reason> {
    let (ports, flags, length) = if protocol == TCP {
        let Some(tcp) = packet.at::<TransportWords<{ TcpHdr::LEN - 4 }>>(offset) else {
            return Err(Reason::Malformed);
        };
        (tcp.ports, TcpFlags(tcp.rest[TCP_FLAGS_OFFSET - 4]), TcpHdr::LEN)
    } else if protocol == UDP {
        let Some(udp) = packet.at::<TransportWords<{ UdpHdr::LEN - 4 }>>(offset) else {
            return Err(Reason::Malformed);
        };
        (udp.ports, TcpFlags::default(), UdpHdr::LEN)
    } else {
        return Err(Reason::Protocol);
    };
    Ok(Transport { ports: u32::from_le_bytes(ports), flags, length })
}
