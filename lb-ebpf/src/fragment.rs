//! Fragments of services' packets, off the path of all other packets: what the first ones teach, and
//! what the later ones follow.

use aya_ebpf::{bindings::xdp_md, btf_maps::LruHashMap, macros::btf_map, programs::XdpContext};
use lb_common::{
    fragment::{self, Fragments, Learned},
    layout::{FragmentKey, FragmentRecord},
    packet::Packet,
    reason::Reason,
};

use crate::{
    forward::refuse,
    maps::{KernelTables, Loaded},
};

/// The controller sets its size.
#[btf_map]
static FRAGMENTS: LruHashMap<FragmentKey, FragmentRecord, 1> = LruHashMap::new();

/// Finds out about a fragment of IPv4. Returns [`Learned`] as a word; or, where that is nothing, what
/// becomes of the packet, which has been counted.
#[inline(never)]
pub(crate) fn ipv4(ctx: *mut xdp_md, start: usize, end: usize) -> u64 {
    // SAFETY: the bounds of the frame, which the caller does not touch meanwhile.
    let packet = unsafe { Packet::from_bounds(start, end) };
    let ctx = XdpContext::new(ctx);
    word(&ctx, fragment::learn_ipv4(&KernelTables(&ctx), &Loaded, &packet))
}

/// The same of IPv6.
#[inline(never)]
pub(crate) fn ipv6(ctx: *mut xdp_md, start: usize, end: usize) -> u64 {
    // SAFETY: as above.
    let packet = unsafe { Packet::from_bounds(start, end) };
    let ctx = XdpContext::new(ctx);
    word(&ctx, fragment::learn_ipv6(&KernelTables(&ctx), &Loaded, &packet))
}

#[inline(always)]
fn word(ctx: &XdpContext, outcome: Result<Learned, Reason>) -> u64 {
    match outcome {
        Ok(learned) => learned.to_word(),
        Err(reason) => u64::from(refuse(ctx, reason)),
    }
}

impl Fragments for KernelTables<'_> {
    type Datagram<'t>
        = &'t FragmentRecord
    where
        Self: 't;

    #[inline(always)]
    fn datagram(&self, key: &FragmentKey) -> Option<&FragmentRecord> {
        // SAFETY: words that are read and written whole, as those of flows' records.
        unsafe { FRAGMENTS.get(key) }
    }

    #[inline(always)]
    fn learn(&self, key: &FragmentKey, record: &FragmentRecord) {
        // An error means that even the oldest record is in use by another CPU at this moment: then the
        // later fragments are unknown.
        let _ = FRAGMENTS.insert(key, record, 0);
    }

    #[inline(always)]
    fn forget_datagram(&self, key: &FragmentKey) {
        // An error means that it is gone already.
        let _ = FRAGMENTS.remove(key);
    }
}
