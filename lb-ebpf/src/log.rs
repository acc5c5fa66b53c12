//! What becomes of each packet, told to whoever debugs. The level is a constant of the load: at the
//! usual one, 0, the verifier leaves all of this out.
//!
//! A reason and a rule travel as their numbers, which the controller turns into names.

use aya_ebpf::programs::XdpContext;
use aya_log_ebpf::{debug, trace};
use lb_common::{flow::Flow, reason::Reason, steer::Way};

/// One line of a forwarded packet, which begins with its client.
macro_rules! told {
    ($ctx:ident, $text:literal, $client:ident, $flow:ident, $way:ident) => {
        trace!(
            $ctx,
            $text,
            $client,
            u16::from_be($flow.ports as u16),
            $way.service.index(),
            $way.slot,
            $way.number,
            $way.why as u32,
        )
    };
}

/// Tells of a packet that was not forwarded.
#[inline(always)]
pub(crate) fn refused(ctx: &XdpContext, reason: Reason) {
    debug!(ctx, "refused {}", reason as u32);
}

/// Tells of a forwarded packet of IPv4.
///
/// What tells of a packet is used in one place each: the compiler would make a function of it
/// otherwise, and give it the flow's address, which would keep the flow out of registers.
#[inline(always)]
pub(crate) fn forwarded(ctx: &XdpContext, flow: &Flow, way: &Way<'_>) {
    let client = u32::from_be(flow.source[0]);
    told!(ctx, "{:i}:{} service {} slot {} backend {} forwarded {}", client, flow, way);
}

/// Tells of a forwarded packet of IPv6.
#[inline(always)]
pub(crate) fn forwarded_ipv6(ctx: &XdpContext, flow: &Flow, way: &Way<'_>) {
    let [a, b, c, d] = flow.source;
    let low = u64::from(a) | u64::from(b) << 32;
    let high = u64::from(c) | u64::from(d) << 32;
    let client = (u128::from(low) | u128::from(high) << 64).to_le_bytes();
    told!(ctx, "[{:i}]:{} service {} slot {} backend {} forwarded {}", client, flow, way);
}
