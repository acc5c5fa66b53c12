//! The steering rules: which backend a flow belongs to, and why.
//!
//! A settled service costs three array reads: the service's bucket, the slot's line, the
//! backend's line. Nothing here allocates, loops over input, or knows where the tables live.
//!
//! | the slot is | a flow that is not recorded belongs to |
//! |---|---|
//! | settled | the owner; records are not read |
//! | moving | the prior, and is recorded; the owner if this packet opens it, and is recorded |
//! | exceptions | the owner |
//!
//! A recorded flow belongs to its backend as long as that lives. So what a change of the ring
//! would have moved is recorded packet by packet, within one idle time-out, and nothing else is.
//!
//! Where the virtual address has just come from another balancer, that one may know a flow of which
//! this one was not told yet: a packet that opens none goes there before it goes to the prior, or to
//! the owner ([`Flows::has_second_chance`]; the name is that of GitHub's GLB, where it is a backend's).
//!
//! A service that balances per flow (`round_robin`, `least_conn`) has no settled slot. A flow that
//! opens is recorded for the backend that `choose` picks, in place of the owner.

use core::ops::Deref;

use crate::{
    choose::choose,
    flow::Flow,
    hash::{self, Seed},
    layout::{
        BackendEntry, FlowKey, FlowRecord, Life, Load, RingSpan, Rotation, SLOTS_PER_LINE,
        ServiceBucket, ServiceEntry, ServiceKey, ServiceMeta,
    },
    reason::Reason,
    slot::{Prior, Slot},
    word::Word32,
};

/// The tables that steering reads: the kernel's maps, the controller's mapping of them, or a
/// test's vectors.
pub trait Tables {
    /// The bucket at a place of the service table.
    fn bucket(&self, place: u32) -> Option<&ServiceBucket>;
    /// The slot at an index of the ring map.
    fn slot(&self, index: u32) -> Option<Slot>;
    /// The backend with this number.
    fn backend(&self, number: u16) -> Option<&BackendEntry>;
    /// The turns of the service with this number.
    fn rotation(&self, service: u32) -> Option<&Rotation>;
    /// The load of the backend with this number.
    fn load(&self, number: u16) -> Option<&Load>;
}

/// The records of flows, for slots that are not settled.
pub trait Flows: Tables {
    /// A way to a record as it lies in its table.
    type Record<'t>: Deref<Target = FlowRecord>
    where
        Self: 't;

    /// Seconds of a clock that never goes back.
    fn now(&self) -> u32;
    /// A number that changes several times a second and costs less to ask for than the time.
    fn beat(&self) -> u32;
    /// The record of a flow.
    fn record(&self, stage: Stage, key: &FlowKey) -> Option<Self::Record<'_>>;
    /// Records a flow that is not recorded. A full table gives up an older record.
    fn keep(&self, stage: Stage, key: &FlowKey, record: &FlowRecord);
    /// Drops the record of a flow.
    fn forget(&self, stage: Stage, key: &FlowKey);
    /// Says whose turn is next.
    fn turn_to(&self, rotation: &Rotation, position: u32);
    /// Counts flows that have become active, or none any more.
    fn count(&self, load: &Load, change: i64);
    /// Whether another balancer is to be given the packet if its flow is not known here. Not if the
    /// packet comes from there.
    fn has_second_chance(&self) -> bool;
}

/// Which table a record is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Stage {
    /// Only the opening packet was seen. A table of their own, so that a flood of openings can
    /// push out other openings and nothing else.
    HalfOpen,
    /// A later packet was seen.
    Confirmed,
}

impl Stage {
    /// Both, in the order of their counters.
    pub const ALL: [Self; 2] = [Self::HalfOpen, Self::Confirmed];
}

/// What is fixed when the program is loaded. The kernel program loads each where it is used, which
/// spares the registers that carrying them along would take.
pub trait Constants {
    /// The secret of the flow hash.
    fn seed(&self) -> Seed;
    /// The number of buckets in the service table less one; the number is a power of two.
    fn place_mask(&self) -> u32;
}

/// The constants as plain values.
#[derive(Debug, Clone, Copy)]
pub struct Parameters {
    /// The secret of the flow hash.
    pub seed: Seed,
    /// The number of buckets in the service table less one; the number is a power of two.
    pub place_mask: u32,
}

impl Constants for Parameters {
    fn seed(&self) -> Seed {
        self.seed
    }

    fn place_mask(&self) -> u32 {
        self.place_mask
    }
}

/// Why a flow belongs to its backend.
#[repr(u32)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// The slot is settled: its owner has every flow of it.
    Settled,
    /// The flow is recorded.
    Recorded,
    /// The slot is moving, and this packet opens its flow: the owner's.
    MovingOpening,
    /// The slot is moving, and the flow is older than the move: the prior's.
    MovingPrior,
    /// The slot has moved, and the flow is no exception: the owner's.
    ExceptionsOwner,
    /// The flow opens, and it was this backend's turn.
    RoundRobin,
    /// The flow opens, and this backend was the less loaded of two.
    LeastConn,
    /// The service records every flow, but not this one: the owner's.
    NotRecorded,
}

impl Why {
    /// Every rule, in the order of their numbers.
    pub const ALL: [Self; 8] = [
        Self::Settled,
        Self::Recorded,
        Self::MovingOpening,
        Self::MovingPrior,
        Self::ExceptionsOwner,
        Self::RoundRobin,
        Self::LeastConn,
        Self::NotRecorded,
    ];

    /// The rule as `weir explain` names it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Settled => "settled",
            Self::Recorded => "recorded flow",
            Self::MovingOpening => "moving: opening",
            Self::MovingPrior => "moving: prior",
            Self::ExceptionsOwner => "exceptions: owner",
            Self::RoundRobin => "round robin",
            Self::LeastConn => "least connections",
            Self::NotRecorded => "not recorded: owner",
        }
    }
}

/// A packet's way, found.
#[derive(Debug)]
pub struct Way<'t> {
    /// The service's number and flags.
    pub service: ServiceMeta,
    /// The slot within the service's ring.
    pub slot: u32,
    /// The backend's number.
    pub number: u16,
    /// The backend.
    pub backend: &'t BackendEntry,
    /// The rule that chose it.
    pub why: Why,
}

/// A service as found in its table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Service {
    /// Its part of the ring.
    pub ring: RingSpan,
    /// Its number and flags.
    pub meta: ServiceMeta,
}

/// Finds the backend that a flow belongs to, and records the flow if its slot asks for it.
#[inline(always)]
pub fn steer<'t, T: Flows>(
    tables: &'t T,
    constants: &impl Constants,
    flow: &Flow,
) -> Result<Way<'t>, Reason> {
    let Some(service) = find_service(tables, constants, flow.service) else {
        return Err(Reason::NoService);
    };
    let slot_index = slot_of(constants.seed(), flow, service);
    let Some(slot) = tables.slot(service.ring.base + slot_index) else {
        return Err(Reason::BadTable);
    };
    let (number, why) = if slot.is_settled() {
        (slot.owner(), Why::Settled)
    } else {
        unsettled(tables, service, slot_index, slot, flow)?
    };
    if number == Slot::NONE {
        return Err(empty(service.meta));
    }
    let Some(backend) = tables.backend(number) else {
        return Err(Reason::BadTable);
    };
    Ok(Way { service: service.meta, slot: slot_index, number, backend, why })
}

/// What becomes of a packet of a service without a backend.
#[inline(always)]
const fn empty(meta: ServiceMeta) -> Reason {
    if meta.has(ServiceMeta::EMPTY_PASSES) {
        Reason::NoBackendPass
    } else if meta.has(ServiceMeta::EMPTY_REJECTS) {
        Reason::Rejected
    } else {
        Reason::NoBackend
    }
}

/// The rules for a slot that remembers something.
#[inline(always)]
fn unsettled<T: Flows>(
    tables: &T,
    service: Service,
    slot_index: u32,
    slot: Slot,
    flow: &Flow,
) -> Result<(u16, Why), Reason> {
    let key = FlowKey::new(flow.source, flow.ports, service.meta.index());
    let slot_in_map = service.ring.base + slot_index;
    if let Some(number) = recorded(tables, service.meta, &key, flow, slot_in_map) {
        return Ok((number, Why::Recorded));
    }
    if !flow.flags.opens() && tables.has_second_chance() {
        return Err(Reason::SecondChance);
    }
    let opens = flow.flags.opens() || service.meta.has(ServiceMeta::UNANNOUNCED);
    let (number, why, stage) = match slot.prior() {
        Prior::Moving(prior) if !flow.flags.opens() => (prior, Why::MovingPrior, Stage::Confirmed),
        _ if opens && service.meta.is_per_flow() => {
            let (number, why) = choose(tables, service, slot_index, slot);
            (number, why, Stage::HalfOpen)
        }
        Prior::Moving(_) => (slot.owner(), Why::MovingOpening, Stage::HalfOpen),
        _ if service.meta.is_per_flow() => return Ok((slot.owner(), Why::NotRecorded)),
        _ => return Ok((slot.owner(), Why::ExceptionsOwner)),
    };
    let life = life_of(tables, number);
    if !life.lives() {
        // A dead prior has no flows to protect; the controller is about to say so in the slot.
        return Ok((slot.owner(), Why::ExceptionsOwner));
    }
    let record = new_record(tables, number, life, slot_in_map, flow);
    tables.keep(stage, &key, &record);
    count(tables, service.meta, number, i64::from(!flow.flags.closes()));
    Ok((number, why))
}

/// The backend that a flow is recorded for, if that lives.
///
/// A half-open record becomes a confirmed one while other CPUs look: one that had looked for the
/// confirmed one before, and does not find the half-open one any more, looks once more.
#[inline(always)]
fn recorded<T: Flows>(
    tables: &T,
    meta: ServiceMeta,
    key: &FlowKey,
    flow: &Flow,
    slot: u32,
) -> Option<u16> {
    if let Some(number) = confirmed(tables, meta, key, flow, slot) {
        return Some(number);
    }
    if let Some(number) = half_open(tables, meta, key, flow, slot) {
        return Some(number);
    }
    if flow.flags.opens() {
        return None;
    }
    let record = tables.record(Stage::Confirmed, key)?;
    let (number, life) = living(tables, &record);
    life.lives().then_some(number)
}

#[inline(always)]
fn confirmed<T: Flows>(
    tables: &T,
    meta: ServiceMeta,
    key: &FlowKey,
    flow: &Flow,
    slot: u32,
) -> Option<u16> {
    let Found { record, number, active, .. } = find(tables, Stage::Confirmed, meta, key, flow)?;
    let opens_or_closes = flow.flags.opens() || flow.flags.closes();
    let closing = if opens_or_closes { flow.flags.closes() } else { record.is_closing() };
    let marks = FlowRecord::marks_word(closing, tables.beat());
    // Another CPU that says the same of the flow in this instant may undo a FIN's mark: then the
    // record is kept for as long as that of a flow that is open.
    if record.marks.load() != marks {
        record.seen.store(tables.now());
        // Another one if the service has another ring or hash since.
        record.slot.store(slot);
        record.marks.store(marks);
    }
    if opens_or_closes {
        count(tables, meta, number, i64::from(!flow.flags.closes()) - i64::from(active));
    }
    Some(number)
}

#[inline(always)]
fn half_open<T: Flows>(
    tables: &T,
    meta: ServiceMeta,
    key: &FlowKey,
    flow: &Flow,
    slot: u32,
) -> Option<u16> {
    let Found { record, number, life, active } = find(tables, Stage::HalfOpen, meta, key, flow)?;
    if flow.flags.opens() {
        record.seen.store(tables.now());
    } else {
        let confirmed = new_record(tables, number, life, slot, flow);
        tables.keep(Stage::Confirmed, key, &confirmed);
        tables.forget(Stage::HalfOpen, key);
        count(tables, meta, number, i64::from(!flow.flags.closes()) - i64::from(active));
    }
    Some(number)
}

/// A record that leads to a backend that lives.
struct Found<R> {
    record: R,
    number: u16,
    life: Life,
    /// Whether it counts as one of the backend's flows.
    active: bool,
}

/// The record of a flow. One that leads nowhere is dropped.
///
/// Between the same two ports a new flow may open; if the old one's backend takes no new flows, it
/// goes elsewhere, and the old record must not catch its later packets.
#[inline(always)]
fn find<'t, T: Flows>(
    tables: &'t T,
    stage: Stage,
    meta: ServiceMeta,
    key: &FlowKey,
    flow: &Flow,
) -> Option<Found<T::Record<'t>>> {
    let record = tables.record(stage, key)?;
    let (number, life) = living(tables, &record);
    let active = life.lives() && !record.is_closing();
    if !life.lives() || (flow.flags.opens() && !life.takes_new()) {
        tables.forget(stage, key);
        count(tables, meta, number, -i64::from(active));
        return None;
    }
    Some(Found { record, number, life, active })
}

/// Counts a backend's flows that have become active, or none any more, if anybody asks for it.
#[inline(always)]
fn count<T: Flows>(tables: &T, meta: ServiceMeta, number: u16, change: i64) {
    if change != 0
        && meta.has(ServiceMeta::LEAST_CONN)
        && let Some(load) = tables.load(number)
    {
        tables.count(load, change);
    }
}

#[inline(always)]
fn new_record<T: Flows>(tables: &T, number: u16, life: Life, slot: u32, flow: &Flow) -> FlowRecord {
    FlowRecord {
        backend: Word32::new(FlowRecord::backend_word(number, life)),
        seen: Word32::new(tables.now()),
        slot: Word32::new(slot),
        marks: Word32::new(FlowRecord::marks_word(flow.flags.closes(), tables.beat())),
    }
}

/// The backend of a record, with its life if that is still the one in which the record was made.
#[inline(always)]
fn living<T: Tables>(tables: &T, record: &FlowRecord) -> (u16, Life) {
    let number = record.number();
    let life = life_of(tables, number);
    if life.number() == record.life() { (number, life) } else { (number, Life(0)) }
}

#[inline(always)]
pub(crate) fn life_of<T: Tables + ?Sized>(tables: &T, number: u16) -> Life {
    match tables.backend(number) {
        Some(backend) => Life(backend.life.load()),
        None => Life(0),
    }
}

/// The slot of a flow within its service's ring.
#[inline(always)]
pub fn slot_of(seed: Seed, flow: &Flow, service: Service) -> u32 {
    let source = flow.source;
    let ports = if service.meta.has(ServiceMeta::HASH_ADDRESS) { 0 } else { flow.ports };
    let a = u64::from(source[0]) | u64::from(ports) << 32;
    let b = hash::fold(seed, u64::from(source[1]) | u64::from(source[2]) << 32, source[3]);
    hash::scale(hash::hash(seed, a, b), service.ring.length)
}

/// Whether echo requests with this key ([`crate::icmp::echo_key`]) are answered.
#[inline(always)]
pub fn answers_ping<T: Tables>(tables: &T, constants: &impl Constants, key: ServiceKey) -> bool {
    find_key(tables, constants, key).is_some()
}

/// A flow's hash of addresses and ports, whatever its service's slots are chosen by: what spreads
/// flows over the paths behind this host.
#[inline(always)]
pub fn flow_hash(seed: Seed, flow: &Flow) -> u32 {
    let source = flow.source;
    let a = u64::from(source[0]) | u64::from(flow.ports) << 32;
    let b = hash::fold(seed, u64::from(source[1]) | u64::from(source[2]) << 32, source[3]);
    hash::hash(seed, a, b)
}

/// Finds a service by its exact port, else a service for every port of the address.
#[inline(always)]
fn find_service<T: Tables>(
    tables: &T,
    constants: &impl Constants,
    key: ServiceKey,
) -> Option<Service> {
    let entry = match find_key(tables, constants, key) {
        Some(entry) => entry,
        None => find_key(tables, constants, key.any_port())?,
    };
    Some(Service {
        ring: RingSpan::from_word(entry.ring.load()),
        meta: ServiceMeta(entry.meta.load()),
    })
}

#[inline(always)]
pub(crate) fn find_key<'t, T: Tables>(
    tables: &'t T,
    constants: &impl Constants,
    key: ServiceKey,
) -> Option<&'t ServiceEntry> {
    let places = key.places();
    let first = tables.bucket(places.first(constants.place_mask()))?;
    if let Some(entry) = find_in_bucket(first, key) {
        return Some(entry);
    }
    find_in_bucket(tables.bucket(places.second(constants.place_mask()))?, key)
}

#[inline(always)]
fn find_in_bucket(bucket: &ServiceBucket, key: ServiceKey) -> Option<&ServiceEntry> {
    let [first, second] = &bucket.0;
    if first.is(key) {
        return Some(first);
    }
    second.is(key).then_some(second)
}

/// The line and the position in it of a slot of the ring map.
#[inline(always)]
pub const fn line_of(slot: u32) -> (u32, usize) {
    (slot / SLOTS_PER_LINE, (slot % SLOTS_PER_LINE) as usize)
}
