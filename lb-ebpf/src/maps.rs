//! The kernel tables as the program sees them. The sizes here are placeholders: the controller
//! sets each from `[limits]` when it loads the program.

use aya_ebpf::{
    Global,
    btf_maps::{Array, PerCpuArray},
    macros::btf_map,
};
use lb_common::{
    hash::Seed,
    layout::{BackendCounters, BackendEntry, RingLine, ServiceBucket, Slot},
    reason::Reason,
    steer::{Parameters, Tables, line_of},
};

/// `BPF_F_MMAPABLE`: the controller writes these tables through a mapping.
const MAPPED: usize = 1 << 10;

#[btf_map]
static SERVICES: Array<ServiceBucket, 1, MAPPED> = Array::new();
#[btf_map]
static RING: Array<RingLine, 1, MAPPED> = Array::new();
#[btf_map]
static BACKENDS: Array<BackendEntry, 1, MAPPED> = Array::new();
#[btf_map]
static BACKEND_COUNTERS: PerCpuArray<BackendCounters, 1> = PerCpuArray::new();
#[btf_map]
static REASON_COUNTERS: PerCpuArray<u64, { Reason::ALL.len() }> = PerCpuArray::new();

/// The interface's own address, in the low six bytes.
#[unsafe(no_mangle)]
static OWN_MAC: Global<u64> = Global::new(0);
/// The two words of the flow hash's secret.
#[unsafe(no_mangle)]
static SEED_LOW: Global<u64> = Global::new(0);
#[unsafe(no_mangle)]
static SEED_HIGH: Global<u64> = Global::new(0);
/// The number of service buckets less one.
#[unsafe(no_mangle)]
static PLACE_MASK: Global<u32> = Global::new(0);

/// The address that frames for us carry.
#[inline(always)]
pub(crate) fn own_mac() -> u64 {
    OWN_MAC.load()
}

/// What the controller fixed at load.
#[inline(always)]
pub(crate) fn parameters() -> Parameters {
    Parameters { seed: Seed([SEED_LOW.load(), SEED_HIGH.load()]), place_mask: PLACE_MASK.load() }
}

/// The kernel's maps as steering reads them.
pub(crate) struct KernelTables;

impl Tables for KernelTables {
    #[inline(always)]
    fn bucket(&self, place: u32) -> Option<&ServiceBucket> {
        SERVICES.get(place)
    }

    #[inline(always)]
    fn slot(&self, index: u32) -> Option<Slot> {
        let (line, position) = line_of(index);
        RING.get(line).map(|line| Slot(line.0[position].load()))
    }

    #[inline(always)]
    fn backend(&self, number: u16) -> Option<&BackendEntry> {
        BACKENDS.get(u32::from(number))
    }
}

/// This CPU's counters of a backend.
#[inline(always)]
pub(crate) fn backend_counters(number: u16) -> Option<*mut BackendCounters> {
    BACKEND_COUNTERS.get_ptr_mut(u32::from(number))
}

/// This CPU's counter of a reason.
#[inline(always)]
pub(crate) fn reason_counter(reason: Reason) -> Option<*mut u64> {
    REASON_COUNTERS.get_ptr_mut(reason as u32)
}
