//! An outer header of IPv6 (RFC 8200, RFC 2473).

use super::{HOPS, Inner, Plan};
use crate::{
    flow::ETHER_TYPE_IPV6,
    packet::{EthernetWords, Packet},
    reason::Reason,
};

/// Ethernet and an IPv6 header, in the words in which they are written.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(crate) struct OuterIpv6 {
    ethernet: EthernetWords,
    pub(super) version_class_and_label: [u8; 4],
    payload_length: [u8; 2],
    pub(super) protocol_and_hops: [u8; 2],
    pub(super) source: [[u8; 4]; 4],
    destination: [[u8; 4]; 4],
}

/// The bits of the flow label.
const LABEL_MASK: u32 = 0x000F_FFFF;

/// Writes the header before what is `carried`, a UDP header included.
#[inline(always)]
pub(super) fn write(
    packet: &mut Packet<'_>,
    plan: &Plan<'_>,
    carried: Inner,
) -> Result<(), Reason> {
    let Some(outer) = packet.at_mut::<OuterIpv6>(0) else {
        return Err(Reason::NoHeadroom);
    };
    outer.ethernet = plan.ethernet(ETHER_TYPE_IPV6);
    // DSCP and ECN are the inner packet's (RFC 2983 section 3.1; RFC 6040 section 4.1). The flow
    // label spreads flows over equal paths (RFC 6438).
    let first = 6 << 28 | u32::from(carried.service) << 20 | plan.hash & LABEL_MASK;
    outer.version_class_and_label = first.to_be_bytes();
    // It fits: the MTU was compared before, which is no more than 65 535.
    outer.payload_length = (carried.length as u16).to_be_bytes();
    outer.protocol_and_hops = [carried.protocol, HOPS];
    // Word by word, so that few of them are in registers at a time.
    let tunnel = &plan.backend.tunnel;
    outer.source[0] = tunnel.source[0].load().to_le_bytes();
    outer.source[1] = tunnel.source[1].load().to_le_bytes();
    outer.source[2] = tunnel.source[2].load().to_le_bytes();
    outer.source[3] = (tunnel.source[3].load() | plan.spread()).to_le_bytes();
    for (place, word) in outer.destination.iter_mut().zip(&tunnel.destination) {
        *place = word.load().to_le_bytes();
    }
    Ok(())
}
