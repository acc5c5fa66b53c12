//! ICMP for VIPs, off the path of all other packets: in functions of their own, for what
//! [`lb_common::flow`] has found to be ICMP.

use aya_ebpf::{
    bindings::{
        xdp_action::{XDP_REDIRECT, XDP_TX},
        xdp_md,
    },
    helpers::bpf_redirect,
    programs::XdpContext,
};
use lb_common::{
    flow::Flow,
    icmp::{self, Message},
    packet::Packet,
    reason::Reason,
    rewrite, steer,
};

use crate::{
    count,
    explain::Unchanged,
    forward::refuse,
    maps::{self, KernelTables},
    second_chance, tunnel,
};

/// A packet of ICMP: an error to its backend, an echo request back, all else to the kernel.
#[inline(never)]
pub(crate) fn ipv4(ctx: *mut xdp_md, start: usize, end: usize) -> u32 {
    // SAFETY: the bounds of the frame, which the caller does not touch any more.
    let mut packet = unsafe { Packet::from_bounds(start, end) };
    let ctx = XdpContext::new(ctx);
    let outcome = match icmp::read_ipv4(&packet) {
        Ok(Message::Error(flow)) => deliver(&ctx, &mut packet, &flow),
        Ok(Message::Echo(key)) => {
            let wanted = steer::answers_ping(&KernelTables(&ctx), &maps::Loaded, key);
            Err(if wanted && icmp::answer_ipv4(&mut packet) { Reason::Ping } else { Reason::Icmp })
        }
        Err(reason) => Err(reason),
    };
    outcome.unwrap_or_else(|reason| refuse(&ctx, reason))
}

/// The same of ICMPv6.
#[inline(never)]
pub(crate) fn ipv6(ctx: *mut xdp_md, start: usize, end: usize) -> u32 {
    // SAFETY: as above.
    let mut packet = unsafe { Packet::from_bounds(start, end) };
    let ctx = XdpContext::new(ctx);
    let outcome = match icmp::read_ipv6(&packet) {
        Ok(Message::Error(flow)) => deliver(&ctx, &mut packet, &flow),
        Ok(Message::Echo(key)) => {
            let wanted = steer::answers_ping(&KernelTables(&ctx), &maps::Loaded, key);
            Err(if wanted && icmp::answer_ipv6(&mut packet) { Reason::Ping } else { Reason::Icmp })
        }
        Err(reason) => Err(reason),
    };
    outcome.unwrap_or_else(|reason| refuse(&ctx, reason))
}

/// Sends an error to the backend of the flow that it is about, and remembers nothing of it.
#[inline(always)]
fn deliver(ctx: &XdpContext, packet: &mut Packet<'_>, flow: &Flow) -> Result<u32, Reason> {
    let tables = Unchanged(KernelTables(ctx));
    let way = match steer::steer(&tables, &maps::Loaded, flow) {
        Ok(way) => way,
        // About a packet of this host's own.
        Err(Reason::NoService) => return Err(Reason::Icmp),
        // An error is answered with none (RFC 1122 section 3.2.2).
        Err(Reason::Rejected) => return Err(Reason::NoBackend),
        Err(Reason::SecondChance) => {
            let (start, end) = packet.bounds();
            return Ok(second_chance::hand_on(start, end));
        }
        Err(reason) => return Err(reason),
    };
    let length = packet.length();
    let interface = match rewrite::l2(packet, way.backend)? {
        Some(interface) => interface,
        // An error that is too big is not answered either (RFC 1122 section 3.2.2).
        None => tunnel::enter(ctx, packet, way.backend, flow)?,
    };
    let redirected = interface != maps::own_index();
    count::forwarded(way.number, length, false, redirected);
    if redirected {
        // SAFETY: a helper without pointers; it records where the frame is to go.
        unsafe { bpf_redirect(interface, 0) };
        return Ok(XDP_REDIRECT);
    }
    Ok(XDP_TX)
}
