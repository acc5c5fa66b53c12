//! The frame of an answer over IPv4.

use network_types::ip::Ipv4Hdr;

use super::{Asked, HOPS, Version, ethernet_back, is_one_machine, may_go_to, source_of};
use crate::{
    checksum::Sum,
    flow::{ETHER_TYPE_IPV4, ETHERNET_LENGTH, ICMP, OFFSET_MASK},
    packet::Packet,
};

const HEADER: usize = Ipv4Hdr::LEN;

/// IPv4.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Ipv4 {}

impl Version for Ipv4 {
    const HEADER: usize = HEADER;
    const ICMP: u8 = ICMP;

    #[inline(always)]
    fn read(packet: &Packet<'_>) -> Option<Asked> {
        let macs = packet.at::<[u8; 12]>(0)?;
        let ip = packet.at::<Ipv4Hdr>(ETHERNET_LENGTH)?;
        if !is_one_machine(source_of(*macs)) || !may_go_to(ip.src_addr, ip.dst_addr) {
            return None;
        }
        if u16::from_be_bytes(ip.frags) & OFFSET_MASK != 0 {
            return None;
        }
        let header = usize::from(ip.vihl & 0x0F) * 4;
        let total = usize::from(u16::from_be_bytes(ip.tot_len));
        Some(Asked { protocol: ip.proto, header, bytes: total.checked_sub(header)? })
    }

    #[inline(always)]
    fn turn(packet: &mut Packet<'_>, at: usize, protocol: u8, length: usize) -> Option<Sum> {
        let macs = *packet.at::<[u8; 12]>(at)?;
        let Ipv4Hdr { src_addr: client, dst_addr: vip, .. } =
            *packet.at::<Ipv4Hdr>(at + ETHERNET_LENGTH)?;
        *packet.at_mut(0)? = ethernet_back(macs, ETHER_TYPE_IPV4);
        *packet.at_mut(ETHERNET_LENGTH)? = header((HEADER + length) as u16, protocol, vip, client);
        if protocol == ICMP {
            // Its checksum covers the message alone (RFC 792).
            return Some(Sum::default());
        }
        let addresses = Sum::default().with(&vip).with(&client);
        Some(addresses.with_number(length as u16).with_number(protocol.into()))
    }
}

/// The header of a datagram of so many bytes that is not to be fragmented.
#[inline(always)]
fn header(total: u16, protocol: u8, source: [u8; 4], destination: [u8; 4]) -> [u8; HEADER] {
    let [t0, t1] = total.to_be_bytes();
    let [s0, s1, s2, s3] = source;
    let [d0, d1, d2, d3] = destination;
    let mut ip =
        [0x45, 0, t0, t1, 0, 0, 0x40, 0, HOPS, protocol, 0, 0, s0, s1, s2, s3, d0, d1, d2, d3];
    [ip[10], ip[11]] = Sum::default().with(&ip).checksum();
    ip
}
