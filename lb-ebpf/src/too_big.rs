//! Answers to packets that do not fit their tunnel, off the path of all other packets.

use aya_ebpf::{bindings::xdp_md, programs::XdpContext};
use lb_common::{pace::Bucket, packet::Packet, reason::Reason, too_big};

use crate::answer::{Reasons, answer};

const REASONS: Reasons = Reasons {
    answered: Reason::TooBigAnswered,
    unanswered: Reason::TooBig,
    limited: Reason::TooBig,
};

/// Answers a packet of IPv4 of which no more than `fits` bytes would fit.
#[inline(never)]
pub(crate) fn ipv4(ctx: *mut xdp_md, fits: u32) -> u32 {
    let context = XdpContext::new(ctx);
    // SAFETY: the context's bounds are the frame's, and nothing else touches it.
    let packet = unsafe { Packet::from_bounds(context.data(), context.data_end()) };
    let plan = too_big::plan_ipv4(&packet, fits);
    answer(ctx, &packet, plan, too_big::write_ipv4, Bucket::TooBig, REASONS)
}

/// The same of IPv6.
#[inline(never)]
pub(crate) fn ipv6(ctx: *mut xdp_md, fits: u32) -> u32 {
    let context = XdpContext::new(ctx);
    // SAFETY: as above.
    let packet = unsafe { Packet::from_bounds(context.data(), context.data_end()) };
    let plan = too_big::plan_ipv6(&packet, fits);
    answer(ctx, &packet, plan, too_big::write_ipv6, Bucket::TooBig, REASONS)
}
