//! The answers over IPv6.

use super::{HOPS, Plan, Reset, TCP_HEADER, UDP_HEADER, ethernet_back, source_of};
use crate::{
    answer::{is_one_machine, may_go_to_ipv6},
    checksum::Sum,
    flow::{ETHER_TYPE_IPV6, ETHERNET_LENGTH, ICMPV6, IPV6_HEADER, TCP, UDP},
    icmp,
    packet::{Ipv6Head, Packet},
};

/// A reset, with its Ethernet header.
const RESET: usize = ETHERNET_LENGTH + IPV6_HEADER + TCP_HEADER;
/// What "port unreachable" has before the quote, beside the Ethernet header.
const BEFORE: usize = IPV6_HEADER + icmp::HEADER;
const QUOTE: usize = IPV6_HEADER + UDP_HEADER;
/// Destination unreachable, port unreachable (RFC 4443 section 3.1).
const KIND_AND_CODE: [u8; 2] = [1, 4];
/// Where both addresses lie in a frame.
const ADDRESSES: usize = ETHERNET_LENGTH + 8;

/// What to answer to a packet that [`crate::flow`] has read; nothing to a reset, to what has
/// extension headers, and to what claims to come from no single host.
#[inline(always)]
pub fn plan(packet: &Packet<'_>) -> Option<Plan> {
    let macs = packet.at::<[u8; 12]>(0)?;
    let head = packet.at::<Ipv6Head>(0)?;
    if !is_one_machine(source_of(*macs)) || !may_go_to_ipv6(head.source, head.destination) {
        return None;
    }
    if head.next_header == TCP {
        let tcp = packet.at::<[u8; TCP_HEADER]>(ETHERNET_LENGTH + IPV6_HEADER)?;
        let bytes = usize::from(u16::from_be_bytes(head.payload_length));
        let reset = Reset::to(tcp, bytes)?;
        return Some(Plan { before: 0, length: RESET, reset: Some(reset) });
    }
    if head.next_header != UDP {
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
    let [client, vip] = *packet.at::<[[u8; 16]; 2]>(ADDRESSES)?;
    let pseudo = Sum::default().with(&vip).with(&client);
    *packet.at_mut(0)? = ethernet_back(macs, ETHER_TYPE_IPV6);
    *packet.at_mut(ETHERNET_LENGTH)? = first_half(TCP_HEADER as u8, TCP);
    *packet.at_mut(ADDRESSES)? = [vip, client];
    *packet.at_mut(ETHERNET_LENGTH + IPV6_HEADER)? = reset.segment(pseudo);
    Some(())
}

#[inline(always)]
fn write_unreachable(packet: &mut Packet<'_>) -> Option<()> {
    let macs = *packet.at::<[u8; 12]>(BEFORE)?;
    let [client, vip] = *packet.at::<[[u8; 16]; 2]>(ADDRESSES + BEFORE)?;
    let quote = packet.at::<[u8; QUOTE]>(ETHERNET_LENGTH + BEFORE)?;
    let length = (icmp::HEADER + QUOTE) as u8;
    let pseudo = Sum::default().with(&vip).with(&client).with_number(length.into());
    let pseudo = pseudo.with_number(ICMPV6.into());
    let [c0, c1] = pseudo.with(&KIND_AND_CODE).with(quote).checksum();
    let [kind, code] = KIND_AND_CODE;
    *packet.at_mut(0)? = ethernet_back(macs, ETHER_TYPE_IPV6);
    *packet.at_mut(ETHERNET_LENGTH)? = first_half(length, ICMPV6);
    *packet.at_mut(ADDRESSES)? = [vip, client];
    *packet.at_mut(ETHERNET_LENGTH + IPV6_HEADER)? = [kind, code, c0, c1, 0, 0, 0, 0];
    Some(())
}

/// An IPv6 header of an answer up to its addresses, before so many bytes.
#[inline(always)]
const fn first_half(length: u8, next: u8) -> [u8; 8] {
    [0x60, 0, 0, 0, 0, length, next, HOPS]
}
