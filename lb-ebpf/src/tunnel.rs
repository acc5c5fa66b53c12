//! Sending a packet through its backend's tunnel: making room, and having it filled.

use aya_ebpf::{
    EbpfContext as _, bindings::xdp_md, helpers::generated::bpf_xdp_adjust_head,
    programs::XdpContext,
};
use lb_common::{
    flow::Flow,
    layout::BackendEntry,
    packet::Packet,
    reason::Reason,
    steer::{self, Constants as _},
    tunnel,
};

use crate::maps::Loaded;

/// Why a packet does not enter its tunnel.
pub(crate) enum Barred {
    /// It is larger than what fits, in bytes from its IP header on.
    TooBig {
        /// What fits.
        fits: u32,
    },
    /// Anything else.
    Refused(Reason),
}

/// Puts the tunnel's header before a packet. Returns the interface through which the frame leaves.
/// The bounds of `packet` are void afterwards.
#[inline(always)]
pub(crate) fn enter(
    ctx: &XdpContext,
    packet: &Packet<'_>,
    backend: &BackendEntry,
    flow: &Flow,
) -> Result<u32, Barred> {
    let hash = steer::flow_hash(Loaded.seed(), flow);
    let (start, end) = packet.bounds();
    let outcome = encapsulate(ctx.as_ptr().cast(), start, end, backend, hash);
    if outcome > 0 {
        return Ok(outcome.cast_unsigned() as u32);
    }
    Err(match outcome {
        ..=TOO_BIG => Barred::TooBig { fits: (TOO_BIG - outcome).cast_unsigned() as u32 },
        NO_HEADROOM => Barred::Refused(Reason::NoHeadroom),
        _ => Barred::Refused(Reason::BadTable),
    })
}

/// Refusals, as numbers that are no interface's index: a result in one register. The first one, less
/// what would fit.
const TOO_BIG: i64 = -(1 << 16);
const NO_HEADROOM: i64 = -(Reason::NoHeadroom as i64);
const BAD_TABLE: i64 = -(Reason::BadTable as i64);

/// A function of its own, so that its words take none of the registers of the packet's path.
#[inline(never)]
fn encapsulate(
    ctx: *mut xdp_md,
    start: usize,
    end: usize,
    backend: &BackendEntry,
    hash: u32,
) -> i64 {
    // SAFETY: the bounds of the frame, which the caller does not touch any more.
    let packet = unsafe { Packet::from_bounds(start, end) };
    let plan = match tunnel::plan(&packet, backend, hash) {
        Ok(plan) => plan,
        Err(Reason::TooBig) => return TOO_BIG - i64::from(tunnel::fits(backend)),
        // The packet was read before it came here.
        Err(_) => return BAD_TABLE,
    };
    // SAFETY: the program's own context; what lay in the packet is not used any more.
    if unsafe { bpf_xdp_adjust_head(ctx, -(plan.overhead() as u32).cast_signed()) } != 0 {
        return NO_HEADROOM;
    }
    let ctx = XdpContext::new(ctx);
    // SAFETY: the context's bounds, which are now the longer frame's.
    let mut packet = unsafe { Packet::from_bounds(ctx.data(), ctx.data_end()) };
    match plan.write(&mut packet) {
        Ok(interface) => i64::from(interface),
        Err(_) => NO_HEADROOM,
    }
}

/// Where nobody is told what would fit.
impl From<Barred> for Reason {
    #[inline(always)]
    fn from(barred: Barred) -> Self {
        match barred {
            Barred::TooBig { .. } => Self::TooBig,
            Barred::Refused(reason) => reason,
        }
    }
}
