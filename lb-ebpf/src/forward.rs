//! From a packet to an XDP action: sent to its backend, turned round, passed, or dropped.

use aya_ebpf::{
    EbpfContext as _,
    bindings::{
        xdp_action::{XDP_DROP, XDP_PASS, XDP_REDIRECT, XDP_TX},
        xdp_md,
    },
    helpers::bpf_redirect,
    programs::XdpContext,
};
use lb_common::{
    flow::{self, Flow},
    fragment::Learned,
    packet::Packet,
    reason::{Reason, Refusal},
    rewrite,
    steer::{self, Way},
};

use crate::{
    count, echo, fragment, icmp, log,
    maps::{self, KernelTables},
    reject, second_chance, too_big,
    tunnel::{self, Barred},
};

/// In place of an action, from [`forward_ipv6`]: see to it further. What is rare is done after the
/// return, not within, where the stacks of all three functions would add up to too much.
const ICMPV6: u32 = 1 << 8;
const REJECTED_IPV6: u32 = 1 << 9;
const HANDED_ON_IPV6: u32 = 1 << 10;
const FRAGMENT_IPV6: u32 = 1 << 11;
/// With the size of what would have fit.
const TOO_BIG_IPV6: u32 = 1 << 16;

/// What becomes of a packet.
#[inline(always)]
pub(crate) fn forward(ctx: &XdpContext) -> u32 {
    // SAFETY: the context's bounds are the frame's, and the program is its only user.
    let mut packet = unsafe { Packet::from_bounds(ctx.data(), ctx.data_end()) };
    let parsed = match flow::parse_plain(&packet, maps::is_ours) {
        Some(flow) => Ok(flow),
        None if flow::is_ipv6(&packet, maps::is_ours) => {
            let (start, end) = packet.bounds();
            let ctx = ctx.as_ptr().cast();
            let outcome = forward_ipv6(ctx, start, end, Learned::NOTHING.to_word());
            if outcome < ICMPV6 {
                return outcome;
            }
            return see_to_ipv6(ctx, start, end, outcome);
        }
        None => match flow::parse_ipv4(&packet, maps::is_ours) {
            Err(Reason::Fragment) => {
                let (start, end) = packet.bounds();
                let word = fragment::ipv4(ctx.as_ptr().cast(), start, end);
                let learned = Learned::from_word(word);
                if !learned.is_something() {
                    return word as u32;
                }
                learned.flow_ipv4(&packet)
            }
            parsed => parsed,
        },
    };
    let outcome = match parsed {
        Ok(flow) => send(ctx, &mut packet, &flow, log::forwarded, |fits| {
            too_big::ipv4(ctx.as_ptr().cast(), fits)
        }),
        Err(reason) => Err(reason),
    };
    match outcome {
        Ok(action) => action,
        Err(Reason::NoService) if echo::turns_round(&packet) => XDP_TX,
        Err(Reason::Icmp) => {
            let (start, end) = packet.bounds();
            icmp::ipv4(ctx.as_ptr().cast(), start, end)
        }
        Err(Reason::Rejected) => {
            let (start, end) = packet.bounds();
            reject::ipv4(ctx.as_ptr().cast(), start, end)
        }
        Err(Reason::SecondChance) => {
            let (start, end) = packet.bounds();
            second_chance::hand_on(start, end)
        }
        Err(reason) => refuse(ctx, reason),
    }
}

/// Sees to what [`forward_ipv6`] has left.
#[inline(always)]
fn see_to_ipv6(ctx: *mut xdp_md, start: usize, end: usize, mut outcome: u32) -> u32 {
    if outcome == FRAGMENT_IPV6 {
        let word = fragment::ipv6(ctx, start, end);
        if !Learned::from_word(word).is_something() {
            return word as u32;
        }
        outcome = forward_ipv6(ctx, start, end, word);
    }
    match outcome {
        ICMPV6 => icmp::ipv6(ctx, start, end),
        REJECTED_IPV6 => reject::ipv6(ctx, start, end),
        HANDED_ON_IPV6 => second_chance::hand_on(start, end),
        TOO_BIG_IPV6.. => too_big::ipv6(ctx, outcome - TOO_BIG_IPV6),
        action => action,
    }
}

/// The same for IPv6. A function of its own, with registers of its own: the words of longer
/// addresses would take those of IPv4's packets. (Its bounds are given as they are: left to read them
/// from the context, the compiler would do so before the call, and cut them to half a register.)
///
/// Of a fragment, `learned` is what is known of it by now, as a word.
#[inline(never)]
fn forward_ipv6(ctx: *mut xdp_md, start: usize, end: usize, learned: u64) -> u32 {
    let ctx = XdpContext::new(ctx);
    // SAFETY: the bounds of the frame, which the caller does not touch any more.
    let mut packet = unsafe { Packet::from_bounds(start, end) };
    let outcome = match flow::parse_ipv6(&packet, Learned::from_word(learned)) {
        Ok(flow) => send(&ctx, &mut packet, &flow, log::forwarded_ipv6, |fits| TOO_BIG_IPV6 + fits),
        Err(reason) => Err(reason),
    };
    match outcome {
        Ok(action) => action,
        Err(Reason::Icmp) => ICMPV6,
        Err(Reason::Rejected) => REJECTED_IPV6,
        Err(Reason::SecondChance) => HANDED_ON_IPV6,
        Err(Reason::Fragment) => FRAGMENT_IPV6,
        Err(reason) => refuse(&ctx, reason),
    }
}

/// Turns the packet towards its backend: back through the interface it came from, where the driver
/// sends it at once, or redirected to another. `tell` is what the log says of it, `answer` what becomes
/// of a packet that is larger than what fits its tunnel.
#[inline(always)]
fn send(
    ctx: &XdpContext,
    packet: &mut Packet<'_>,
    flow: &Flow,
    tell: impl FnOnce(&XdpContext, &Flow, &Way<'_>),
    answer: impl FnOnce(u32) -> u32,
) -> Result<u32, Reason> {
    let tables = KernelTables(ctx);
    let way = steer::steer(&tables, &maps::Loaded, flow)?;
    let length = packet.length();
    let interface = match rewrite::l2(packet, way.backend)? {
        Some(interface) => interface,
        None => match tunnel::enter(ctx, packet, way.backend, flow) {
            Ok(interface) => interface,
            Err(Barred::TooBig { fits }) => return Ok(answer(fits)),
            Err(Barred::Refused(reason)) => return Err(reason),
        },
    };
    let redirected = interface != maps::own_index();
    count::forwarded(way.number, length, flow.flags.opens(), redirected);
    tell(ctx, flow, &way);
    if redirected {
        // SAFETY: a helper without pointers; it records where the frame is to go.
        unsafe { bpf_redirect(interface, 0) };
        return Ok(XDP_REDIRECT);
    }
    Ok(XDP_TX)
}

/// Passes, drops or sends back a packet that was not forwarded, and counts it.
#[inline(always)]
pub(crate) fn refuse(ctx: &XdpContext, reason: Reason) -> u32 {
    count::refused(reason);
    log::refused(ctx, reason);
    match reason.refusal() {
        Refusal::Pass => XDP_PASS,
        Refusal::Drop => XDP_DROP,
        Refusal::Answer | Refusal::HandOn => XDP_TX,
    }
}
