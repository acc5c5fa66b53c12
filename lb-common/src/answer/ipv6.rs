//! The frame of an answer over IPv6.

use super::{Asked, HOPS, Version, ethernet_back, is_one_machine, may_go_to_ipv6, source_of};
use crate::{
    checksum::Sum,
    flow::{ETHER_TYPE_IPV6, ETHERNET_LENGTH, ICMPV6, IPV6_HEADER},
    packet::{Ipv6Head, Packet},
};

/// Where both addresses lie in a frame.
const ADDRESSES: usize = ETHERNET_LENGTH + 8;

/// IPv6.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Ipv6 {}

impl Version for Ipv6 {
    const HEADER: usize = IPV6_HEADER;
    const ICMP: u8 = ICMPV6;

    #[inline(always)]
    fn read(packet: &Packet<'_>) -> Option<Asked> {
        let macs = packet.at::<[u8; 12]>(0)?;
        let head = packet.at::<Ipv6Head>(0)?;
        if !is_one_machine(source_of(*macs)) || !may_go_to_ipv6(head.source, head.destination) {
            return None;
        }
        let bytes = usize::from(u16::from_be_bytes(head.payload_length));
        Some(Asked { protocol: head.next_header, header: IPV6_HEADER, bytes })
    }

    #[inline(always)]
    fn turn(packet: &mut Packet<'_>, at: usize, protocol: u8, length: usize) -> Option<Sum> {
        let macs = *packet.at::<[u8; 12]>(at)?;
        let [client, vip] = *packet.at::<[[u8; 16]; 2]>(at + ADDRESSES)?;
        let length = length as u16;
        let [l0, l1] = length.to_be_bytes();
        *packet.at_mut(0)? = ethernet_back(macs, ETHER_TYPE_IPV6);
        *packet.at_mut(ETHERNET_LENGTH)? = [0x60, 0, 0, 0, l0, l1, protocol, HOPS];
        *packet.at_mut(ADDRESSES)? = [vip, client];
        let addresses = Sum::default().with(&vip).with(&client);
        Some(addresses.with_number(length).with_number(protocol.into()))
    }
}
