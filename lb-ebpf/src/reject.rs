//! Answers for services without backends, off the path of all other packets.

use core::hint::black_box;

use aya_ebpf::{
    bindings::xdp_md,
    helpers::{
        bpf_ktime_get_ns,
        generated::{bpf_xdp_adjust_head, bpf_xdp_adjust_tail},
    },
    programs::XdpContext,
};
use lb_common::{
    pace,
    packet::Packet,
    reason::Reason,
    reject::{self, Plan},
};

use crate::{forward::refuse, maps};

/// Answers a packet of IPv4 whose service has no backend.
#[inline(never)]
pub(crate) fn ipv4(ctx: *mut xdp_md, start: usize, end: usize) -> u32 {
    // SAFETY: the bounds of the frame, which the caller does not touch any more.
    let packet = unsafe { Packet::from_bounds(start, end) };
    let plan = reject::plan_ipv4(&packet);
    let reason = answer(ctx, &packet, plan, reject::write_ipv4);
    refuse(&XdpContext::new(ctx), reason)
}

/// The same of IPv6.
#[inline(never)]
pub(crate) fn ipv6(ctx: *mut xdp_md, start: usize, end: usize) -> u32 {
    // SAFETY: as above.
    let packet = unsafe { Packet::from_bounds(start, end) };
    let plan = reject::plan_ipv6(&packet);
    let reason = answer(ctx, &packet, plan, reject::write_ipv6);
    refuse(&XdpContext::new(ctx), reason)
}

/// Makes the frame what the plan says, and writes the answer.
#[inline(always)]
fn answer(
    ctx: *mut xdp_md,
    packet: &Packet<'_>,
    plan: Option<Plan>,
    write: impl FnOnce(&mut Packet<'_>, &Plan) -> Option<()>,
) -> Reason {
    let Some(plan) = plan else { return Reason::NoBackend };
    if !is_time() {
        return Reason::RejectLimited;
    }
    // A number of its own: the compiler would add to the frame's end first, which the verifier forbids.
    let length = black_box(packet.length());
    let cut = plan.before + length - plan.length;
    // SAFETY: the program's own context; what lay in the packet is not used any more.
    if plan.before != 0 && unsafe { bpf_xdp_adjust_head(ctx, -(plan.before as i32)) } != 0 {
        return Reason::NoHeadroom;
    }
    // SAFETY: as above.
    if cut != 0 && unsafe { bpf_xdp_adjust_tail(ctx, -(cut as i32)) } != 0 {
        return Reason::NoBackend;
    }
    let ctx = XdpContext::new(ctx);
    // SAFETY: the context's bounds are the frame's as it is now, and nothing else touches it.
    let mut packet = unsafe { Packet::from_bounds(ctx.data(), ctx.data_end()) };
    if write(&mut packet, &plan).is_some() { Reason::Rejected } else { Reason::NoBackend }
}

/// Whether this CPU may answer once more.
#[inline(always)]
fn is_time() -> bool {
    let Some(full_at) = maps::reject_pace() else { return false };
    // SAFETY: a helper without arguments.
    let now = unsafe { bpf_ktime_get_ns() };
    // SAFETY: the kernel returned this CPU's own entry, and a program is not preempted by another
    // instance of itself on the same CPU.
    let full_at = unsafe { &mut *full_at };
    match pace::after_answer(*full_at, now) {
        Some(after) => {
            *full_at = after;
            true
        }
        None => false,
    }
}
