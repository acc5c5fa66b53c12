//! Answers for services without backends, off the path of all other packets.

use aya_ebpf::bindings::xdp_md;
use lb_common::{pace::Bucket, packet::Packet, reason::Reason, reject};

use crate::answer::{Reasons, answer};

const REASONS: Reasons = Reasons {
    answered: Reason::Rejected,
    unanswered: Reason::NoBackend,
    limited: Reason::RejectLimited,
};

/// Answers a packet of IPv4 whose service has no backend.
#[inline(never)]
pub(crate) fn ipv4(ctx: *mut xdp_md, start: usize, end: usize) -> u32 {
    // SAFETY: the bounds of the frame, which the caller does not touch any more.
    let packet = unsafe { Packet::from_bounds(start, end) };
    let plan = reject::plan_ipv4(&packet);
    answer(ctx, &packet, plan, reject::write_ipv4, Bucket::Rejected, REASONS)
}

/// The same of IPv6.
#[inline(never)]
pub(crate) fn ipv6(ctx: *mut xdp_md, start: usize, end: usize) -> u32 {
    // SAFETY: as above.
    let packet = unsafe { Packet::from_bounds(start, end) };
    let plan = reject::plan_ipv6(&packet);
    answer(ctx, &packet, plan, reject::write_ipv6, Bucket::Rejected, REASONS)
}
