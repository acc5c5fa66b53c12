//! From a frame to its flow, or to the reason why it has none.

use network_types::{
    ip::{IpProto, Ipv4Hdr},
    tcp::TcpHdr,
    udp::UdpHdr,
};

use crate::{
    layout::ServiceKey,
    packet::{EthernetWords, Packet, TransportWords},
    reason::Reason,
};

/// The length of an Ethernet header without tags.
pub const ETHERNET_LENGTH: usize = size_of::<EthernetWords>();

const ETHER_TYPE_IPV4: [u8; 2] = 0x0800u16.to_be_bytes();
const ETHER_TYPE_IPV6: [u8; 2] = 0x86DDu16.to_be_bytes();
const TCP: u8 = IpProto::Tcp as u8;
const UDP: u8 = IpProto::Udp as u8;
const ICMP: u8 = IpProto::Icmp as u8;
/// "More fragments" and the fragment offset (RFC 791 section 3.1): either makes a fragment.
const FRAGMENT_MASK: u16 = 0x3FFF;
/// The flags byte of a TCP header and its bits (RFC 9293 section 3.1).
const TCP_FLAGS_OFFSET: usize = 13;
const FIN: u8 = 0x01;
const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const ACK: u8 = 0x10;

/// What steering needs to know of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flow {
    /// The destination: address, port, protocol.
    pub service: ServiceKey,
    /// The source address as it stands in the packet; IPv4 fills the first word.
    pub source: [u32; 4],
    /// Source port (low half) and destination port (high half), as they stand in the packet.
    pub ports: u32,
    /// Whether this packet opens its flow: a TCP SYN without ACK.
    pub opens: bool,
    /// Whether this packet ends its flow: a TCP FIN or RST.
    pub closes: bool,
}

/// Reads a frame that is addressed to `own_mac` (six bytes in the low end of a little-endian word).
#[inline(always)]
pub fn parse(packet: &Packet<'_>, own_mac: u64) -> Result<Flow, Reason> {
    let Some(ethernet) = packet.at::<EthernetWords>(0) else {
        return Err(Reason::Malformed);
    };
    if u64::from_le_bytes(ethernet.first) << 16 != own_mac << 16 {
        return Err(Reason::NotForUs);
    }
    if ethernet.ether_type != ETHER_TYPE_IPV4 {
        return Err(other_ether_type(ethernet.ether_type));
    }
    parse_ipv4(packet)
}

fn other_ether_type(ether_type: [u8; 2]) -> Reason {
    if ether_type == ETHER_TYPE_IPV6 { Reason::Ipv6 } else { Reason::NotIp }
}

#[inline(always)]
fn parse_ipv4(packet: &Packet<'_>) -> Result<Flow, Reason> {
    let Some(ip) = packet.at::<Ipv4Hdr>(ETHERNET_LENGTH) else {
        return Err(Reason::Malformed);
    };
    if u16::from_be_bytes(ip.frags) & FRAGMENT_MASK != 0 {
        return Err(Reason::Fragment);
    }
    // Nearly every header is 20 bytes long: a constant offset spares the verifier and the CPU.
    if ip.vihl == 0x45 {
        return parse_transport(packet, ip, Ipv4Hdr::LEN);
    }
    let header = usize::from(ip.vihl & 0x0F) * 4;
    if ip.vihl >> 4 != 4 || header < Ipv4Hdr::LEN {
        return Err(Reason::Malformed);
    }
    parse_transport(packet, ip, header)
}

/// Reads the transport header behind an IP header of `header` bytes.
///
/// The verifier learns the frame's bounds from comparisons with its end alone, so those come
/// first: were the claimed length checked before them, the compiler would see that they follow
/// from it, and leave them out.
#[inline(always)]
fn parse_transport(packet: &Packet<'_>, ip: &Ipv4Hdr, header: usize) -> Result<Flow, Reason> {
    let offset = ETHERNET_LENGTH + header;
    let (ports, flags, length) = if ip.proto == TCP {
        let Some(tcp) = packet.at::<TransportWords<{ TcpHdr::LEN - 4 }>>(offset) else {
            return Err(Reason::Malformed);
        };
        (tcp.ports, tcp.rest[TCP_FLAGS_OFFSET - 4], TcpHdr::LEN)
    } else if ip.proto == UDP {
        let Some(udp) = packet.at::<TransportWords<{ UdpHdr::LEN - 4 }>>(offset) else {
            return Err(Reason::Malformed);
        };
        (udp.ports, 0, UdpHdr::LEN)
    } else if ip.proto == ICMP {
        return Err(Reason::Icmp);
    } else {
        return Err(Reason::Protocol);
    };
    let total = usize::from(u16::from_be_bytes(ip.tot_len));
    if total < header + length || total > packet.length() - ETHERNET_LENGTH {
        return Err(Reason::Malformed);
    }
    let ports = u32::from_le_bytes(ports);
    let destination = u32::from_le_bytes(ip.dst_addr);
    Ok(Flow {
        service: ServiceKey::ipv4(destination, (ports >> 16) as u16, ip.proto),
        source: [u32::from_le_bytes(ip.src_addr), 0, 0, 0],
        ports,
        opens: flags & (SYN | ACK) == SYN,
        closes: flags & (FIN | RST) != 0,
    })
}
