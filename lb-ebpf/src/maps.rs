//! The kernel tables as the program sees them. The sizes here are placeholders: the controller
//! sets each from `[limits]` when it loads the program.

use aya_ebpf::{
    Global,
    btf_maps::{Array, LruHashMap, PerCpuArray, RingBuf},
    helpers::{bpf_jiffies64, bpf_ktime_get_ns},
    macros::btf_map,
    programs::XdpContext,
};
use lb_common::{
    echo::Outcome,
    flow,
    hash::Seed,
    layout::{
        Answer, BackendCounters, BackendEntry, FlowKey, FlowNews, FlowRecord, Heartbeat, Load,
        Predecessor, RecordCounters, RingLine, Rotation, ServiceBucket, VirtualMacs,
    },
    pace::Bucket,
    reason::Reason,
    slot::Slot,
    steer::{Constants, Flows, Stage, Tables, line_of},
};

use crate::{count, second_chance};

/// `BPF_F_MMAPABLE`: the controller writes these tables through a mapping.
const MAPPED: usize = 1 << 10;

#[btf_map]
static SERVICES: Array<ServiceBucket, 1, MAPPED> = Array::new();
#[btf_map]
static RING: Array<RingLine, 1, MAPPED> = Array::new();
#[btf_map]
static BACKENDS: Array<BackendEntry, 1, MAPPED> = Array::new();
#[btf_map]
static FLOWS: LruHashMap<FlowKey, FlowRecord, 1> = LruHashMap::new();
#[btf_map]
static HALF_OPEN: LruHashMap<FlowKey, FlowRecord, 1> = LruHashMap::new();
/// The controller sets its size, as those of the others.
#[btf_map]
static FLOW_NEWS: RingBuf<FlowNews, 4096> = RingBuf::new();
#[btf_map]
static FLOW_NEWS_LOST: PerCpuArray<u64, 1> = PerCpuArray::new();
#[btf_map]
static ROTATIONS: Array<Rotation, 1, MAPPED> = Array::new();
#[btf_map]
static LOADS: Array<Load, 1, MAPPED> = Array::new();
#[btf_map]
static ANSWER: Array<Answer, 1> = Array::new();
#[btf_map]
static BACKEND_COUNTERS: PerCpuArray<BackendCounters, 1> = PerCpuArray::new();
#[btf_map]
static REASON_COUNTERS: PerCpuArray<u64, { Reason::ALL.len() }> = PerCpuArray::new();
#[btf_map]
static RECORD_COUNTERS: PerCpuArray<RecordCounters, { Stage::ALL.len() }> = PerCpuArray::new();
#[btf_map]
static HEARTBEAT: Array<Heartbeat, 1, MAPPED> = Array::new();
#[btf_map]
static PREDECESSOR: Array<Predecessor, 1, MAPPED> = Array::new();
#[btf_map]
static VIRTUAL_MACS: Array<VirtualMacs, 1, MAPPED> = Array::new();
#[btf_map]
static ECHO_COUNTERS: PerCpuArray<u64, { Outcome::ALL.len() }> = PerCpuArray::new();
#[btf_map]
static REJECT_PACE: PerCpuArray<u64, { Bucket::ALL.len() }> = PerCpuArray::new();

/// The interface's own address, as [`lb_common::flow::mac_word`] makes it.
#[unsafe(no_mangle)]
static OWN_MAC: Global<u64> = Global::new(0);
/// The interface's own index: the program is loaded once for each.
#[unsafe(no_mangle)]
static OWN_INDEX: Global<u32> = Global::new(0);
/// The interface's place among those of the configuration.
#[unsafe(no_mangle)]
static OWN_PLACE: Global<u32> = Global::new(0);
/// The two words of the flow hash's secret.
#[unsafe(no_mangle)]
static SEED_LOW: Global<u64> = Global::new(0);
#[unsafe(no_mangle)]
static SEED_HIGH: Global<u64> = Global::new(0);
/// The number of service buckets less one.
#[unsafe(no_mangle)]
static PLACE_MASK: Global<u32> = Global::new(0);

/// Whether recorded flows are told of. Where not, the verifier leaves the telling out.
#[unsafe(no_mangle)]
static TELLS: Global<u32> = Global::new(0);

/// Whether frames to this address are for us: it is the interface's own, or that of a virtual router
/// that it is the master of.
#[inline(always)]
pub(crate) fn is_ours(mac: u64) -> bool {
    if mac == OWN_MAC.load() {
        return true;
    }
    let (family, router_id) = flow::virtual_router(mac);
    family != 0 && is_master(u32::from(family), u32::from(router_id)) != 0
}

/// A function of its own, so that its words take none of the registers of the packet's path.
#[inline(never)]
fn is_master(family: u32, router_id: u32) -> u32 {
    let entry = VIRTUAL_MACS.get(OWN_PLACE.load() * 2 + family - 1);
    entry.is_some_and(|entry| entry.owns(OWN_INDEX.load(), router_id as u8)).into()
}

/// What the controller fixed at load.
pub(crate) struct Loaded;

impl Constants for Loaded {
    #[inline(always)]
    fn seed(&self) -> Seed {
        Seed([SEED_LOW.load(), SEED_HIGH.load()])
    }

    #[inline(always)]
    fn place_mask(&self) -> u32 {
        PLACE_MASK.load()
    }
}

/// The interface that the program is attached to.
#[inline(always)]
pub(crate) fn own_index() -> u32 {
    OWN_INDEX.load()
}

/// The interface's own address.
#[inline(always)]
pub(crate) fn own_mac() -> u64 {
    OWN_MAC.load()
}

/// The kernel's maps as steering reads them, for one packet.
pub(crate) struct KernelTables<'c>(pub(crate) &'c XdpContext);

impl Tables for KernelTables<'_> {
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

    #[inline(always)]
    fn rotation(&self, service: u32) -> Option<&Rotation> {
        ROTATIONS.get(service)
    }

    #[inline(always)]
    fn load(&self, number: u16) -> Option<&Load> {
        LOADS.get(u32::from(number))
    }
}

impl Flows for KernelTables<'_> {
    type Record<'t>
        = &'t FlowRecord
    where
        Self: 't;

    #[inline(always)]
    fn now(&self) -> u32 {
        // SAFETY: a helper without arguments.
        let nanoseconds = unsafe { bpf_ktime_get_ns() };
        // Seconds fit for 136 years after the boot.
        (nanoseconds / 1_000_000_000) as u32
    }

    /// 64 of the kernel's ticks, of which there are a hundred to a thousand a second. The verifier
    /// makes a load from memory of this helper's call; the time is a call, and a division.
    #[inline(always)]
    fn beat(&self) -> u32 {
        // SAFETY: a helper without arguments.
        (unsafe { bpf_jiffies64() } >> 6) as u32
    }

    #[inline(always)]
    fn record(&self, stage: Stage, key: &FlowKey) -> Option<&FlowRecord> {
        // A record consists of words that are read and written whole: the kernel may reuse its
        // place for another flow meanwhile, which can be mistaken for ours for one packet, but
        // never half.
        match stage {
            // SAFETY: as said above.
            Stage::HalfOpen => unsafe { HALF_OPEN.get(key) },
            // SAFETY: as said above.
            Stage::Confirmed => unsafe { FLOWS.get(key) },
        }
    }

    #[inline(always)]
    fn keep(&self, stage: Stage, key: &FlowKey, record: &FlowRecord) {
        // An error means that even the oldest record is in use by another CPU at this moment: the
        // flow's next packet tries again.
        let outcome = match stage {
            Stage::HalfOpen => HALF_OPEN.insert(key, record, 0),
            Stage::Confirmed => FLOWS.insert(key, record, 0),
        };
        count::kept(stage, outcome.is_ok());
        if TELLS.load() != 0 {
            let kind = match stage {
                Stage::HalfOpen => FlowNews::OPENING,
                Stage::Confirmed if record.is_closing() => FlowNews::CLOSING,
                Stage::Confirmed => FlowNews::OPEN,
            };
            let (backend, slot) = (record.backend.load(), record.slot.load());
            tell_of_flow(&FlowNews::new(*key, backend, record.seen.load(), slot, kind));
        }
    }

    #[inline(always)]
    fn forget(&self, stage: Stage, key: &FlowKey) {
        let outcome = match stage {
            Stage::HalfOpen => HALF_OPEN.remove(key),
            Stage::Confirmed => FLOWS.remove(key),
        };
        // An error means that it is gone already.
        if outcome.is_ok() {
            count::forgotten(stage);
        }
        // A half-open record goes when a confirmed one takes its place, which is told.
        if TELLS.load() != 0 && matches!(stage, Stage::Confirmed) {
            tell_of_flow(&FlowNews::new(*key, 0, 0, 0, FlowNews::FORGOTTEN));
        }
    }

    #[inline(always)]
    fn turn_to(&self, rotation: &Rotation, position: u32) {
        rotation.turn.store(position);
    }

    #[inline(always)]
    fn count(&self, load: &Load, change: i64) {
        load.active.add(change);
    }

    #[inline(always)]
    fn has_second_chance(&self) -> bool {
        second_chance::is_given(self.0)
    }
}

/// Tells the controller of a record; counts it if there is no room.
#[inline(always)]
fn tell_of_flow(news: &FlowNews) {
    if FLOW_NEWS.output(news, 0).is_err()
        && let Some(lost) = FLOW_NEWS_LOST.get_ptr_mut(0)
    {
        // SAFETY: the kernel returned this CPU's own entry.
        unsafe { *lost += 1 };
    }
}

/// Leaves an answer for the controller.
#[inline(always)]
pub(crate) fn tell(answer: Answer) {
    if let Some(place) = ANSWER.get_ptr_mut(0) {
        // SAFETY: the kernel returned a valid entry; one question is asked at a time.
        unsafe { *place = answer };
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

/// This CPU's counters of a table of records.
#[inline(always)]
pub(crate) fn record_counters(stage: Stage) -> Option<*mut RecordCounters> {
    RECORD_COUNTERS.get_ptr_mut(stage as u32)
}

/// When the daemon last gave a sign of life.
#[inline(always)]
pub(crate) fn heartbeat() -> Option<&'static Heartbeat> {
    HEARTBEAT.get(0)
}

/// The balancer that had the virtual addresses before.
#[inline(always)]
pub(crate) fn predecessor() -> Option<&'static Predecessor> {
    PREDECESSOR.get(0)
}

/// This CPU's counter of an outcome of the echo.
#[inline(always)]
pub(crate) fn echo_counter(outcome: Outcome) -> Option<*mut u64> {
    ECHO_COUNTERS.get_ptr_mut(outcome as u32)
}

/// This CPU's bucket of answers: see [`lb_common::pace`].
#[inline(always)]
pub(crate) fn reject_pace(bucket: Bucket) -> Option<*mut u64> {
    REJECT_PACE.get_ptr_mut(bucket as u32)
}
