//! The other end of a tunnel, on a backend.

use aya_ebpf::{
    EbpfContext as _, Global,
    bindings::xdp_action::{XDP_DROP, XDP_PASS},
    btf_maps::Array,
    helpers::generated::bpf_xdp_adjust_head,
    macros::btf_map,
    programs::XdpContext,
};
use lb_common::{
    layout::{Network, SOURCES_MAX, VIPS_MAX},
    packet::Packet,
    tunnel::decapsulate::{self, Refused, Rules},
};

/// Where balancers send from.
#[btf_map]
static TUNNEL_SOURCES: Array<Network, { SOURCES_MAX as usize }> = Array::new();
/// What they forward.
#[btf_map]
static TUNNEL_VIPS: Array<Network, { VIPS_MAX as usize }> = Array::new();

/// The UDP port of GUE.
#[unsafe(no_mangle)]
static TUNNEL_PORT: Global<u32> = Global::new(0);

struct Loaded;

impl Rules for Loaded {
    #[inline(always)]
    fn source(&self, index: u32) -> Option<&Network> {
        TUNNEL_SOURCES.get(index)
    }

    #[inline(always)]
    fn vip(&self, index: u32) -> Option<&Network> {
        TUNNEL_VIPS.get(index)
    }

    #[inline(always)]
    fn port(&self) -> u16 {
        TUNNEL_PORT.load() as u16
    }
}

/// Takes the outer header off what a balancer sent; the host's stack gets what is inside.
#[inline(always)]
pub(crate) fn decapsulate(ctx: &XdpContext) -> u32 {
    // SAFETY: the context's bounds are the frame's, and the program is its only user.
    let packet = unsafe { Packet::from_bounds(ctx.data(), ctx.data_end()) };
    let inside = match decapsulate::inspect(&packet, &Loaded) {
        Ok(inside) => inside,
        Err(Refused::Pass) => return XDP_PASS,
        Err(Refused::Congestion) => return XDP_DROP,
    };
    let taken = (inside.outer_length() as u32).cast_signed();
    // SAFETY: the program's own context; what lay in the packet is not used any more.
    if unsafe { bpf_xdp_adjust_head(ctx.as_ptr().cast(), taken) } != 0 {
        return XDP_PASS;
    }
    // SAFETY: the context's bounds, which are now the shorter frame's.
    let mut packet = unsafe { Packet::from_bounds(ctx.data(), ctx.data_end()) };
    if inside.write(&mut packet) { XDP_PASS } else { XDP_DROP }
}
