//! An outer header of IPv4 (RFC 791, RFC 2003).

use super::{HOPS, IPV4_LENGTH, Inner, Plan};
use crate::{
    flow::ETHER_TYPE_IPV4,
    packet::{EthernetWords, Packet},
    reason::Reason,
};

/// Ethernet and an IPv4 header without options, in the words in which they are written.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(crate) struct OuterIpv4 {
    ethernet: EthernetWords,
    pub(super) version_and_service: [u8; 2],
    total_length: [u8; 2],
    pub(super) identification_and_fragment: [[u8; 2]; 2],
    pub(super) hops_and_protocol: [u8; 2],
    checksum: [u8; 2],
    pub(super) source: [u8; 4],
    destination: [u8; 4],
}

/// Version 4, a header of five words.
const VERSION: u8 = 0x45;
/// "Don't fragment", so the identification says nothing (RFC 6864 section 4.1): a packet that does
/// not fit is to be told of, not to be cut (RFC 2003 section 5.1).
const IDENTIFICATION_AND_FRAGMENT: [[u8; 2]; 2] = [[0; 2], [0x40, 0]];

/// Writes the header before what is `carried`, a UDP header included.
#[inline(always)]
pub(super) fn write(
    packet: &mut Packet<'_>,
    plan: &Plan<'_>,
    carried: Inner,
) -> Result<(), Reason> {
    let Some(outer) = packet.at_mut::<OuterIpv4>(0) else {
        return Err(Reason::NoHeadroom);
    };
    outer.ethernet = plan.ethernet(ETHER_TYPE_IPV4);
    // DSCP and ECN are the inner packet's (RFC 2983 section 3.1; RFC 6040 section 4.1).
    let version_and_service = [VERSION, carried.service];
    outer.version_and_service = version_and_service;
    let hops_and_protocol = [HOPS, carried.protocol];
    outer.hops_and_protocol = hops_and_protocol;
    // It fits: the MTU was compared before, which is no more than 65 535.
    let total_length = ((carried.length + IPV4_LENGTH as u32) as u16).to_be_bytes();
    outer.total_length = total_length;
    let [identification, fragment] = IDENTIFICATION_AND_FRAGMENT;
    outer.identification_and_fragment = IDENTIFICATION_AND_FRAGMENT;
    // Word by word, so that few of them are in registers at a time.
    let mut sum = 0;
    for half in [version_and_service, total_length, identification, fragment, hops_and_protocol] {
        sum += u32::from(u16::from_le_bytes(half));
    }
    let tunnel = &plan.backend.tunnel;
    let source = tunnel.source[0].load() | plan.spread();
    outer.source = source.to_le_bytes();
    sum += halves(source);
    let destination = tunnel.destination[0].load();
    outer.destination = destination.to_le_bytes();
    sum += halves(destination);
    outer.checksum = checksum(sum).to_le_bytes();
    Ok(())
}

/// The sum of a word's halves.
#[inline(always)]
const fn halves(word: u32) -> u32 {
    (word & 0xFFFF) + (word >> 16)
}

/// The Internet checksum of a sum of 16-bit words (RFC 1071), in the byte order of the words.
#[inline(always)]
const fn checksum(sum: u32) -> u16 {
    let folded = halves(halves(sum));
    !(folded as u16)
}
