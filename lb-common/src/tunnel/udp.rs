//! The UDP header of GUE, variant 1: an IP packet directly in UDP, told by its first four bits
//! (draft-ietf-intarea-gue-09 section 4). Linux' `fou` takes it as `gue`, or as the bare protocol.

use super::Plan;
use crate::{flow, packet::Packet, reason::Reason};

/// UDP, as the outer header names it.
pub(super) const PROTOCOL: u8 = flow::UDP;

/// A UDP header.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(crate) struct OuterUdp {
    source: [u8; 2],
    destination: [u8; 2],
    length: [u8; 2],
    checksum: [u8; 2],
}

/// Source ports are dynamic ones (RFC 6335 section 6), by the flow's hash, so that routers and
/// receive queues spread flows.
const FIRST_PORT: u32 = 0xC000;
/// How far the hash is shifted to fit behind the first port.
const PORT_SHIFT: u32 = 18;

/// Writes the header at `offset`; `length` counts it too.
#[inline(always)]
pub(super) fn write(
    packet: &mut Packet<'_>,
    offset: usize,
    plan: &Plan<'_>,
    length: u32,
) -> Result<(), Reason> {
    let Some(udp) = packet.at_mut::<OuterUdp>(offset) else {
        return Err(Reason::NoHeadroom);
    };
    udp.source = ((FIRST_PORT | plan.hash >> PORT_SHIFT) as u16).to_be_bytes();
    udp.destination = plan.kind.port().to_be_bytes();
    udp.length = (length as u16).to_be_bytes();
    // None: the inner packet has its own, and tunnels may go without over IPv6 too (RFC 6935).
    udp.checksum = [0; 2];
    Ok(())
}
