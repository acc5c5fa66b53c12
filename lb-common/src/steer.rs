//! The steering rules: which backend a flow belongs to, and why.
//!
//! A settled service costs three array reads: the service's bucket, the slot's line, the
//! backend's line. Nothing here allocates, loops over input, or knows where the tables live.

use crate::{
    flow::Flow,
    hash::{self, Seed},
    layout::{
        BackendEntry, RingSpan, SLOTS_PER_LINE, ServiceBucket, ServiceEntry, ServiceKey,
        ServiceMeta, Slot,
    },
    reason::Reason,
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
}

/// What is fixed when the program is loaded.
#[derive(Debug, Clone, Copy)]
pub struct Parameters {
    /// The secret of the flow hash.
    pub seed: Seed,
    /// The number of buckets in the service table less one; the number is a power of two.
    pub place_mask: u32,
}

/// Why a flow belongs to its backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// The slot is settled: its owner has every flow of it.
    Settled,
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

/// Finds the backend that a flow belongs to.
#[inline(always)]
pub fn steer<'t, T: Tables>(
    tables: &'t T,
    parameters: &Parameters,
    flow: &Flow,
) -> Result<Way<'t>, Reason> {
    let Some(service) = find_service(tables, parameters.place_mask, flow.service) else {
        return Err(Reason::NoService);
    };
    let slot_index = slot_of(parameters.seed, flow, service);
    let Some(slot) = tables.slot(service.ring.base + slot_index) else {
        return Err(Reason::BadTable);
    };
    let number = slot.owner();
    if number == Slot::NONE {
        return Err(if service.meta.has(ServiceMeta::EMPTY_PASSES) {
            Reason::NoBackendPass
        } else {
            Reason::NoBackend
        });
    }
    let Some(backend) = tables.backend(number) else {
        return Err(Reason::BadTable);
    };
    Ok(Way { service: service.meta, slot: slot_index, number, backend, why: Why::Settled })
}

/// The slot of a flow within its service's ring.
#[inline(always)]
pub fn slot_of(seed: Seed, flow: &Flow, service: Service) -> u32 {
    let source = flow.source;
    let ports = if service.meta.has(ServiceMeta::HASH_ADDRESS) { 0 } else { flow.ports };
    let a = u64::from(source[0]) | u64::from(ports) << 32;
    let b = (u64::from(source[1]) | u64::from(source[2]) << 32) ^ u64::from(source[3]) << 16;
    hash::scale(hash::hash(seed, a, b), service.ring.length)
}

/// Finds a service by its exact port, else a service for every port of the address.
#[inline(always)]
fn find_service<T: Tables>(tables: &T, mask: u32, key: ServiceKey) -> Option<Service> {
    if let Some(service) = find_key(tables, mask, key) {
        return Some(service);
    }
    find_key(tables, mask, key.any_port())
}

#[inline(always)]
fn find_key<T: Tables>(tables: &T, mask: u32, key: ServiceKey) -> Option<Service> {
    let [first, second] = key.places(mask);
    if let Some(service) = find_in_bucket(tables.bucket(first)?, key) {
        return Some(service);
    }
    find_in_bucket(tables.bucket(second)?, key)
}

#[inline(always)]
fn find_in_bucket(bucket: &ServiceBucket, key: ServiceKey) -> Option<Service> {
    let [first, second] = &bucket.0;
    if matches(first, key) {
        return Some(read(first));
    }
    if matches(second, key) {
        return Some(read(second));
    }
    None
}

/// IPv4 keys differ in their head alone (see [`ServiceKey`]), so their tails need no look.
#[inline(always)]
fn matches(entry: &ServiceEntry, key: ServiceKey) -> bool {
    entry.head.load() == key.head
}

#[inline(always)]
fn read(entry: &ServiceEntry) -> Service {
    Service { ring: RingSpan::from_word(entry.ring.load()), meta: ServiceMeta(entry.meta.load()) }
}

/// The line and the position in it of a slot of the ring map.
#[inline(always)]
pub const fn line_of(slot: u32) -> (u32, usize) {
    (slot / SLOTS_PER_LINE, (slot % SLOTS_PER_LINE) as usize)
}
