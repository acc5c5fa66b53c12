//! The XDP program: a packet's way from the driver to its backend.
//!
//! All rules live in `lb-common`; here are the way from an outcome to an XDP action ([`forward`]),
//! the kernel's maps ([`maps`]), the counters ([`count`]), the look without a touch
//! ([`mod@explain`]), ICMP for VIPs ([`mod@icmp`]), fragments ([`mod@fragment`]), answers for services without backends
//! ([`mod@reject`]) and for packets that are too big ([`mod@too_big`]), both in place
//! ([`mod@answer`]), the way to the balancer that may know a flow ([`second_chance`]), a tunnel's two ends ([`tunnel`], [`mod@decapsulate`]), the peers' probes
//! ([`mod@echo`]) and the log ([`mod@log`]).

#![cfg_attr(target_arch = "bpf", no_std, no_main)]
#![allow(unsafe_code, reason = "the edge to the kernel: contexts, maps, helpers")]
#![allow(
    unreachable_pub,
    missing_docs,
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::needless_pass_by_value,
    reason = "what the xdp macro makes of a documented program; words are cut on purpose"
)]

mod answer;
mod count;
mod decapsulate;
mod echo;
mod explain;
mod forward;
mod fragment;
mod icmp;
mod log;
mod maps;
mod reject;
mod second_chance;
mod too_big;
mod tunnel;

use aya_ebpf::{
    bindings::xdp_action::{XDP_PASS, XDP_TX},
    macros::xdp,
    programs::XdpContext,
};
use lb_common::{flow, packet::Packet, steer};

use crate::{explain::Unchanged, maps::KernelTables};

/// Steers a packet: forwarded to its backend, passed to the kernel, or dropped.
#[xdp]
pub fn weir(ctx: XdpContext) -> u32 {
    forward::forward(&ctx)
}

/// Says where a packet would go, and why, and changes nothing.
#[xdp]
pub fn explain(ctx: XdpContext) -> u32 {
    // SAFETY: the context's bounds are the frame's, and the program is its only user.
    let packet = unsafe { Packet::from_bounds(ctx.data(), ctx.data_end()) };
    let tables = Unchanged(KernelTables(&ctx));
    let outcome = match flow::parse(&packet, maps::is_ours) {
        Ok(flow) => steer::steer(&tables, &maps::Loaded, &flow),
        Err(reason) => Err(reason),
    };
    maps::tell(explain::answer(outcome));
    XDP_PASS
}

/// On a backend: takes the outer header off what a balancer sent through a tunnel.
#[xdp]
pub fn decapsulate(ctx: XdpContext) -> u32 {
    decapsulate::decapsulate(&ctx)
}

/// Does nothing but send every packet back: what any forwarding program costs at least. The
/// benchmarks take it off.
#[xdp]
pub fn empty_tx(_ctx: XdpContext) -> u32 {
    XDP_TX
}

/// Passes every packet. A veth peer needs some XDP program before it accepts `XDP_TX` frames.
#[xdp]
pub fn pass(_ctx: XdpContext) -> u32 {
    XDP_PASS
}

/// On the host there is nothing to run: this is for clippy and editors.
#[cfg(not(target_arch = "bpf"))]
fn main() {}

/// The verifier refuses what could still get here.
#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// The kernel lets only GPL-compatible programs call some helpers.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
