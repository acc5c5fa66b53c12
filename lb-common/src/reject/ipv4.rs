//! The answers over IPv4.

use network_types::ip::Ipv4Hdr;

use super::{HOPS, Plan, Reset, TCP_HEADER, UDP_HEADER, ethernet_back, source_of};
use crate::{
    answer::{is_one_machine, may_go_to},
    checksum::Sum,
    flow::{ETHER_TYPE_IPV4, ETHERNET_LENGTH, ICMP, TCP, UDP},
    icmp,
    packet::Packet,
};

const IP_HEADER: usize = Ipv4Hdr::LEN;
/// A reset, with its Ethernet header.
const RESET: usize = ETHERNET_LENGTH + IP_HEADER + TCP_HEADER;
/// A smallest Ethernet frame, without its checksum (IEEE 802.3 section 4A.4.2): one that has been as
/// long is not made shorter.
const SMALLEST: usize = 60;
/// What "port unreachable" has before the quote, beside the Ethernet header.
const BEFORE: usize = IP_HEADER + icmp::HEADER;
const QUOTE: usize = IP_HEADER + UDP_HEADER;
/// Destination unreachable, port unreachable (RFC 792).
const KIND_AND_CODE: [u8; 2] = [3, 3];

/// What to answer to a packet that [`crate::flow`] has read; nothing to a reset, to what has options
/// before UDP, and to what claims to come from no single host.
#[inline(always)]
pub fn plan(packet: &Packet<'_>) -> Option<Plan> {
    let macs = packet.at::<[u8; 12]>(0)?;
    let ip = packet.at::<Ipv4Hdr>(ETHERNET_LENGTH)?;
    if !is_one_machine(source_of(*macs)) || !may_go_to(ip.src_addr, ip.dst_addr) {
        return None;
    }
    let header = usize::from(ip.vihl & 0x0F) * 4;
    if ip.proto == TCP {
        let tcp = packet.at::<[u8; TCP_HEADER]>(ETHERNET_LENGTH + header)?;
        let total = usize::from(u16::from_be_bytes(ip.tot_len));
        let reset = Reset::to(tcp, total.checked_sub(header)?)?;
        let length = if packet.length() < SMALLEST { RESET } else { SMALLEST };
        return Some(Plan { before: 0, length, reset: Some(reset) });
    }
    if ip.proto != UDP || header != IP_HEADER {
        return None;
    }
    packet.at::<[u8; QUOTE]>(ETHERNET_LENGTH)?;
    Some(Plan { before: BEFORE, length: ETHERNET_LENGTH + BEFORE + QUOTE, reset: None })
}

/// Writes the answer into the frame, which has become what the plan says.
#[inline(always)]
pub fn write(packet: &mut Packet<'_>, plan: &Plan) -> Option<()> {
    match plan.reset {
        Some(reset) => write_reset(packet, reset),
        None => write_unreachable(packet),
    }
}

#[inline(always)]
fn write_reset(packet: &mut Packet<'_>, reset: Reset) -> Option<()> {
    let macs = *packet.at::<[u8; 12]>(0)?;
    let Ipv4Hdr { src_addr: client, dst_addr: vip, .. } = *packet.at::<Ipv4Hdr>(ETHERNET_LENGTH)?;
    let pseudo = Sum::default().with(&vip).with(&client);
    *packet.at_mut(0)? = ethernet_back(macs, ETHER_TYPE_IPV4);
    *packet.at_mut(ETHERNET_LENGTH)? = header((IP_HEADER + TCP_HEADER) as u16, TCP, vip, client);
    *packet.at_mut(ETHERNET_LENGTH + IP_HEADER)? = reset.segment(pseudo);
    if let Some(padding) = packet.at_mut::<[u8; SMALLEST - RESET]>(RESET) {
        *padding = [0; SMALLEST - RESET];
    }
    Some(())
}

#[inline(always)]
fn write_unreachable(packet: &mut Packet<'_>) -> Option<()> {
    let macs = *packet.at::<[u8; 12]>(BEFORE)?;
    let quote = packet.at::<[u8; QUOTE]>(ETHERNET_LENGTH + BEFORE)?;
    let [c0, c1] = Sum::default().with(&KIND_AND_CODE).with(quote).checksum();
    let Ipv4Hdr { src_addr: client, dst_addr: vip, .. } =
        *packet.at::<Ipv4Hdr>(ETHERNET_LENGTH + BEFORE)?;
    let [kind, code] = KIND_AND_CODE;
    *packet.at_mut(0)? = ethernet_back(macs, ETHER_TYPE_IPV4);
    *packet.at_mut(ETHERNET_LENGTH)? = header((BEFORE + QUOTE) as u16, ICMP, vip, client);
    *packet.at_mut(ETHERNET_LENGTH + IP_HEADER)? = [kind, code, c0, c1, 0, 0, 0, 0];
    Some(())
}

/// An IPv4 header of an answer, of a datagram of so many bytes that is not to be fragmented.
#[inline(always)]
fn header(total: u16, protocol: u8, source: [u8; 4], destination: [u8; 4]) -> [u8; IP_HEADER] {
    let [t0, t1] = total.to_be_bytes();
    let [s0, s1, s2, s3] = source;
    let [d0, d1, d2, d3] = destination;
    let mut ip =
        [0x45, 0, t0, t1, 0, 0, 0x40, 0, HOPS, protocol, 0, 0, s0, s1, s2, s3, d0, d1, d2, d3];
    [ip[10], ip[11]] = Sum::default().with(&ip).checksum();
    ip
}
