//! The tables as memory: the same pages that the kernel program reads.
//!
//! Writing a ring of 65 537 slots through the mapping takes some ten microseconds; through system
//! calls it would take fifty milliseconds.

#![allow(unsafe_code, reason = "mapping kernel memory, and references into it")]

use std::{
    num::NonZeroUsize,
    os::fd::AsFd,
    ptr::NonNull,
    sync::atomic::{Ordering, fence},
};

use lb_common::{
    layout::{BackendEntry, Load, RingLine, Rotation, ServiceBucket, ServiceEntry},
    slot::Slot,
    steer::{Tables, line_of},
};
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};

use super::{error::Error, grace};
use crate::core::{Entry, Write, places::Place};

/// One array map, mapped. `T` is made of [`lb_common::word`] words, so shared references may be
/// read and written while the kernel reads.
#[derive(Debug)]
pub(super) struct Pages<T> {
    start: NonNull<T>,
    entries: usize,
}

/// The tables that steering reads.
#[derive(Debug)]
pub struct Mapped {
    services: Pages<ServiceBucket>,
    ring: Pages<RingLine>,
    backends: Pages<BackendEntry>,
    rotations: Pages<Rotation>,
    loads: Pages<Load>,
}

// SAFETY: the mapping belongs to the process, not to a thread, and its content is atomics.
unsafe impl<T: Sync> Send for Pages<T> {}
// SAFETY: as above.
unsafe impl<T: Sync> Sync for Pages<T> {}

// === impl Pages ===

impl<T> Pages<T> {
    /// Maps the first `entries` entries of an array map made with `BPF_F_MMAPABLE`, whose entries
    /// are as large as `T`.
    pub(super) fn new(map: impl AsFd, entries: u32, name: &str) -> Result<Self, Error> {
        const { assert!(size_of::<T>() == 64) };
        let entries = entries as usize;
        let length = NonZeroUsize::new(entries * size_of::<T>()).ok_or(Error::Refused {
            what: format!("mapping {name}"),
            cause: "it has no entries".to_owned(),
        })?;
        let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a fresh mapping chosen by the kernel; nothing of ours lies there.
        let start = unsafe { mmap(None, length, protection, MapFlags::MAP_SHARED, map, 0) }
            .map_err(|errno| Error::io(format!("mapping {name}"))(errno.into()))?;
        Ok(Self { start: start.cast(), entries })
    }

    /// No entries.
    pub(super) fn none() -> Self {
        Self { start: NonNull::dangling(), entries: 0 }
    }

    pub(super) fn get(&self, index: usize) -> Option<&T> {
        if index >= self.entries {
            return None;
        }
        // SAFETY: within the mapping by the check.
        let entry = unsafe { self.start.add(index) };
        // SAFETY: page alignment is more than T's; the content is atomics, valid whatever their
        // value.
        Some(unsafe { entry.as_ref() })
    }
}

impl<T> Drop for Pages<T> {
    fn drop(&mut self) {
        if self.entries == 0 {
            return;
        }
        // SAFETY: mapped by `new` with this length; references into it borrow self.
        let _ = unsafe { munmap(self.start.cast(), self.entries * size_of::<T>()) };
    }
}

// === impl Mapped ===

impl Mapped {
    pub(super) fn new(
        services: Pages<ServiceBucket>,
        ring: Pages<RingLine>,
        backends: Pages<BackendEntry>,
        rotations: Pages<Rotation>,
        loads: Pages<Load>,
    ) -> Self {
        Self { services, ring, backends, rotations, loads }
    }

    /// Makes one change. Counters are not in these tables and are left to the caller.
    pub fn write(&self, write: &Write) {
        match write {
            Write::Slots(slots) => {
                for (index, slot) in slots {
                    self.write_slot(*index, *slot);
                }
            }
            Write::Fill(span, slot) => {
                for index in span.base..span.base.saturating_add(span.length) {
                    self.write_slot(index, *slot);
                }
            }
            Write::Service { place, key, ring, meta } => {
                if let Some(entry) = self.entry(*place) {
                    entry.head.store(0);
                    for (word, part) in entry.tail.iter().zip(key.tail.unwrap_or_default()) {
                        word.store(part);
                    }
                    entry.meta.store(meta.0);
                    entry.ring.store(*ring);
                    // Last: with its head the entry exists.
                    entry.head.store(key.head);
                }
            }
            Write::ServiceRing(place, ring) => {
                if let Some(entry) = self.entry(*place) {
                    entry.ring.store(*ring);
                }
            }
            Write::ServiceMeta(place, meta) => {
                if let Some(entry) = self.entry(*place) {
                    entry.meta.store(meta.0);
                }
            }
            Write::ServiceGone(place) => {
                if let Some(entry) = self.entry(*place) {
                    entry.head.store(0);
                }
            }
            Write::Backend(number, Entry { words: [first, link], tunnel }) => {
                if let Some(entry) = self.backends.get(usize::from(*number)) {
                    if let Some(tunnel) = tunnel {
                        entry.tunnel.store(tunnel);
                    }
                    entry.first.store(*first);
                    // Last: with its interface the entry is open.
                    entry.link.store(*link);
                }
            }
            Write::BackendFirst(number, first) => {
                if let Some(entry) = self.backends.get(usize::from(*number)) {
                    entry.first.store(*first);
                }
            }
            Write::BackendMtu(number, mtu) => {
                if let Some(entry) = self.backends.get(usize::from(*number)) {
                    entry.tunnel.mtu.store(*mtu);
                }
            }
            Write::BackendClosed(number) => {
                if let Some(entry) = self.backends.get(usize::from(*number)) {
                    entry.link.store(0);
                }
            }
            Write::Life(number, life) => {
                if let Some(entry) = self.backends.get(usize::from(*number)) {
                    entry.life.store(life.0);
                }
            }
            Write::Order(service, order) => {
                if let Some(rotation) = self.rotation(*service) {
                    rotation.order.store(*order);
                }
            }
            Write::Weight(number, weight) => {
                if let Some(load) = self.load(*number) {
                    load.weight.store(u32::from(*weight));
                }
            }
            Write::Counters(_) => {}
            Write::Grace => {
                fence(Ordering::SeqCst);
                grace::wait();
            }
        }
    }

    fn write_slot(&self, index: u32, slot: Slot) {
        let (line, position) = line_of(index);
        if let Some(line) = self.ring.get(line as usize) {
            line.0[position].store(slot.0);
        }
    }

    fn entry(&self, place: Place) -> Option<&ServiceEntry> {
        self.services.get(place.bucket as usize)?.0.get(usize::from(place.half))
    }
}

impl Tables for Mapped {
    fn bucket(&self, place: u32) -> Option<&ServiceBucket> {
        self.services.get(place as usize)
    }

    fn slot(&self, index: u32) -> Option<Slot> {
        let (line, position) = line_of(index);
        self.ring.get(line as usize).map(|line| Slot(line.0[position].load()))
    }

    fn backend(&self, number: u16) -> Option<&BackendEntry> {
        self.backends.get(usize::from(number))
    }

    fn rotation(&self, service: u32) -> Option<&Rotation> {
        self.rotations.get(service as usize)
    }

    fn load(&self, number: u16) -> Option<&Load> {
        self.loads.get(usize::from(number))
    }
}

/// Without records: tests of the core ask where flows that open now go.
#[cfg(test)]
impl lb_common::steer::Flows for Mapped {
    type Record<'t> = &'t lb_common::layout::FlowRecord;

    fn now(&self) -> u32 {
        0
    }

    fn beat(&self) -> u32 {
        0
    }

    fn record(
        &self,
        _stage: lb_common::steer::Stage,
        _key: &lb_common::layout::FlowKey,
    ) -> Option<&lb_common::layout::FlowRecord> {
        None
    }

    fn keep(
        &self,
        _stage: lb_common::steer::Stage,
        _key: &lb_common::layout::FlowKey,
        _record: &lb_common::layout::FlowRecord,
    ) {
    }

    fn forget(&self, _stage: lb_common::steer::Stage, _key: &lb_common::layout::FlowKey) {}

    fn turn_to(&self, rotation: &Rotation, position: u32) {
        rotation.turn.store(position);
    }

    fn count(&self, load: &Load, change: i64) {
        load.active.add(change);
    }

    fn has_second_chance(&self) -> bool {
        false
    }
}

#[cfg(test)]
impl Mapped {
    /// Tables of these sizes without a kernel behind them.
    pub(crate) fn anonymous(limits: crate::config::Limits) -> Self {
        use crate::core::places::buckets_for;
        use lb_common::layout::SLOTS_PER_LINE;

        Self::new(
            Pages::anonymous(buckets_for(limits.services)),
            Pages::anonymous(limits.ring_slots.div_ceil(SLOTS_PER_LINE)),
            Pages::anonymous(limits.backends),
            Pages::anonymous(limits.services),
            Pages::anonymous(limits.backends),
        )
    }
}

#[cfg(test)]
impl<T> Pages<T> {
    fn anonymous(entries: u32) -> Self {
        let length = NonZeroUsize::new(entries as usize * size_of::<T>()).unwrap();
        let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a fresh mapping chosen by the kernel; nothing of ours lies there.
        let start = unsafe {
            nix::sys::mman::mmap_anonymous(None, length, protection, MapFlags::MAP_PRIVATE)
        };
        Self { start: start.unwrap().cast(), entries: entries as usize }
    }
}
