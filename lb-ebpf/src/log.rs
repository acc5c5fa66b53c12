//! What becomes of each packet, told to whoever debugs. The level is a constant of the load: at the
//! usual one, 0, the verifier leaves all of this out.
//!
//! A reason and a rule travel as their numbers, which the controller turns into names.

use aya_ebpf::programs::XdpContext;
use aya_log_ebpf::{debug, trace};
use lb_common::{flow::Flow, reason::Reason, steer::Way};

/// Tells of a packet that was not forwarded.
#[inline(always)]
pub(crate) fn refused(ctx: &XdpContext, reason: Reason) {
    debug!(ctx, "refused {}", reason as u32);
}

/// Tells of a forwarded packet.
#[inline(always)]
pub(crate) fn forwarded(ctx: &XdpContext, flow: &Flow, way: &Way<'_>) {
    let client = u32::from_be(flow.source[0]);
    let port = u16::from_be(flow.ports as u16);
    trace!(
        ctx,
        "{:i}:{} service {} slot {} backend {} forwarded {}",
        client,
        port,
        way.service.index(),
        way.slot,
        way.number,
        way.why as u32,
    );
}
