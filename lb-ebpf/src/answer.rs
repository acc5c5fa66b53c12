//! Answering a packet in place, as often as this CPU may.

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
    answer::Plan,
    pace::{self, Bucket},
    packet::Packet,
    reason::Reason,
};

use crate::{forward::refuse, maps};

/// What a packet is counted as.
#[derive(Clone, Copy)]
pub(crate) struct Reasons {
    /// It was answered.
    pub(crate) answered: Reason,
    /// It is not one to answer.
    pub(crate) unanswered: Reason,
    /// Too many were answered lately.
    pub(crate) limited: Reason,
}

/// Makes the frame what the plan says, has the answer written, and counts what became of it.
#[inline(always)]
pub(crate) fn answer<A>(
    ctx: *mut xdp_md,
    packet: &Packet<'_>,
    plan: Option<Plan<A>>,
    write: impl FnOnce(&mut Packet<'_>, &A) -> Option<()>,
    bucket: Bucket,
    reasons: Reasons,
) -> u32 {
    let reason = outcome(ctx, packet, plan, write, bucket, reasons);
    refuse(&XdpContext::new(ctx), reason)
}

#[inline(always)]
fn outcome<A>(
    ctx: *mut xdp_md,
    packet: &Packet<'_>,
    plan: Option<Plan<A>>,
    write: impl FnOnce(&mut Packet<'_>, &A) -> Option<()>,
    bucket: Bucket,
    reasons: Reasons,
) -> Reason {
    let Some(plan) = plan else { return reasons.unanswered };
    if !is_time(bucket) {
        return reasons.limited;
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
        return reasons.unanswered;
    }
    let ctx = XdpContext::new(ctx);
    // SAFETY: the context's bounds are the frame's as it is now, and nothing else touches it.
    let mut packet = unsafe { Packet::from_bounds(ctx.data(), ctx.data_end()) };
    match write(&mut packet, &plan.answer) {
        Some(()) => reasons.answered,
        None => reasons.unanswered,
    }
}

/// Whether this CPU may answer once more.
#[inline(always)]
fn is_time(bucket: Bucket) -> bool {
    let Some(full_at) = maps::reject_pace(bucket) else { return false };
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
