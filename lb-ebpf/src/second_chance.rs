//! Packets of flows that this balancer does not know, on their way to the one that had the virtual
//! address before.

use aya_ebpf::{
    EbpfContext as _,
    bindings::{
        xdp_action::{XDP_DROP, XDP_REDIRECT, XDP_TX},
        xdp_md,
    },
    helpers::{bpf_ktime_get_ns, bpf_redirect},
    programs::XdpContext,
};
use lb_common::{echo, packet::Packet, reason::Reason, second_chance};

use crate::{count, maps};

/// Whether a packet of an unknown flow is to be handed on. Nearly always it is not, which one word
/// tells.
#[inline(always)]
pub(crate) fn is_given(ctx: &XdpContext) -> bool {
    let Some(predecessor) = maps::predecessor() else { return false };
    predecessor.until.load() != 0 && is_open(ctx.as_ptr().cast()) != 0
}

/// A function of its own, so that its words take none of the registers of the packet's path.
#[inline(never)]
fn is_open(ctx: *mut xdp_md) -> u32 {
    let Some(predecessor) = maps::predecessor() else { return 0 };
    let ctx = XdpContext::new(ctx);
    // SAFETY: the context's bounds are the frame's, which is only read here.
    let packet = unsafe { Packet::from_bounds(ctx.data(), ctx.data_end()) };
    let mac = predecessor.mac.load();
    // SAFETY: a helper without arguments.
    let now = unsafe { bpf_ktime_get_ns() };
    u32::from(mac != 0 && second_chance::source(&packet) != mac && now < predecessor.until.load())
}

/// Hands a packet on.
#[inline(never)]
pub(crate) fn hand_on(start: usize, end: usize) -> u32 {
    // SAFETY: the bounds of the frame, which the caller does not touch any more.
    let mut packet = unsafe { Packet::from_bounds(start, end) };
    let Some(predecessor) = maps::predecessor() else { return XDP_DROP };
    let (mac, own) = (predecessor.mac.load(), predecessor.own_mac.load());
    if second_chance::address(&mut packet, mac, own).is_none() {
        return XDP_DROP;
    }
    count::refused(Reason::SecondChance);
    let interface = predecessor.interface.load() as u32;
    if interface == maps::own_index() {
        return XDP_TX;
    }
    // SAFETY: a helper without pointers; it records where the frame is to go.
    unsafe { bpf_redirect(interface, 0) };
    XDP_REDIRECT
}

/// Learns from a peer's answer to a probe where that peer is, if it is the one that had the address
/// before: its seal says that the answer is no stranger's.
#[inline(always)]
pub(crate) fn learn(packet: &Packet<'_>) {
    let Some(predecessor) = maps::predecessor() else { return };
    if predecessor.address.load() == u64::from(echo::source(packet)) {
        predecessor.interface.store(maps::own_index().into());
        predecessor.own_mac.store(maps::own_mac());
        predecessor.mac.store(second_chance::source(packet));
    }
}
