//! The walk through the records of flows: what is done is dropped, what lives is counted.
//!
//! It runs beside the core, on a thread of its own, over the same tables; the core draws the
//! conclusions. Dropping a record is safe at any moment: see [`crate::core::sweep`].

use std::{
    io,
    path::Path,
    sync::atomic::{AtomicU32, Ordering},
};

use lb_common::{
    hash::mix,
    layout::{FlowKey, FlowRecord, Life},
    slot::Slot,
    steer::{Stage, Tables as _},
};
use nix::time::{ClockId, clock_gettime};

use super::{TablesId, batch::HashTable, error::Error, mapped::Mapped};
use crate::{
    core::{
        KernelFlow,
        sweep::{Findings, Order, correction, is_done},
    },
    sync::packet::FlowStage,
};

/// A [`FlowKey`] as words.
pub(super) type Key = [u32; size_of::<FlowKey>() / size_of::<u32>()];
/// A [`FlowRecord`] as words.
pub(super) type Value = [u32; size_of::<FlowRecord>() / size_of::<u32>()];

/// The two tables of records.
#[derive(Debug)]
pub struct Records {
    half_open: HashTable<Key, Value>,
    confirmed: HashTable<Key, Value>,
    /// When the last sweep began, by the kernel's clock; 0 before the first.
    swept: AtomicU32,
}

impl Records {
    /// Opens the tables of an id.
    ///
    /// # Errors
    ///
    /// [`Error`] if they are not there, or have other sizes.
    pub fn open(id: &TablesId, bpf_dir: &Path) -> Result<Self, Error> {
        let directory = id.directory(bpf_dir);
        Ok(Self {
            half_open: HashTable::from_pin(directory.join("HALF_OPEN"))?,
            confirmed: HashTable::from_pin(directory.join("FLOWS"))?,
            swept: AtomicU32::new(0),
        })
    }

    /// Walks through all records once.
    ///
    /// # Errors
    ///
    /// The kernel's word; the findings are void then.
    pub fn sweep(&self, mapped: &Mapped, order: &Order) -> io::Result<Findings> {
        let active = |number: &u16| mapped.load(*number).map_or(0, |load| load.active.load());
        let before: Vec<u64> = order.loads.iter().map(active).collect();
        let mut findings = Findings { began: order.now, ..Findings::default() };
        let now = kernel_seconds()?;
        let times = Times { before: self.swept.swap(now, Ordering::Relaxed), now };
        findings.half_open = sweep_table(&self.half_open, mapped, order, times, &mut findings)?;
        let seen = std::mem::take(&mut findings.seen);
        findings.confirmed = sweep_table(&self.confirmed, mapped, order, times, &mut findings)?;
        findings.seen.extend(seen.into_iter().map(|flow| {
            let stage = FlowStage::Opening;
            KernelFlow { stage, ..flow }
        }));
        for (number, before) in order.loads.iter().zip(before) {
            if let Some(load) = mapped.load(*number) {
                let counted = findings.by_backend.get(number).map_or(0, |count| count.active);
                load.active.add(correction(counted, before, load.active.load()));
            }
        }
        Ok(findings)
    }

    /// All records.
    ///
    /// # Errors
    ///
    /// The kernel's word.
    pub fn dump(&self) -> io::Result<Vec<KernelFlow>> {
        let mut all = Vec::new();
        self.half_open.for_each(|key, value| {
            all.push(KernelFlow { stage: FlowStage::Opening, ..kernel_flow(key, &record(value)) });
        })?;
        self.confirmed.for_each(|key, value| all.push(kernel_flow(key, &record(value))))?;
        Ok(all)
    }

    /// Records flows as a peer has them, or drops them.
    ///
    /// # Errors
    ///
    /// The kernel's word.
    pub fn install(&self, flows: &[KernelFlow]) -> io::Result<()> {
        let (mut opening, mut open, mut forgotten) = (Vec::new(), Vec::new(), Vec::new());
        for flow in flows {
            let key = flow.key.words();
            let closing = u32::from(flow.stage == FlowStage::Closing);
            let entry = (key, [flow.backend, flow.seen, flow.slot, closing]);
            match flow.stage {
                FlowStage::Opening => opening.push(entry),
                FlowStage::Open | FlowStage::Closing => open.push(entry),
                FlowStage::Forgotten => forgotten.push(key),
            }
        }
        self.confirmed.remove(&forgotten)?;
        if !opening.is_empty() {
            // A flow that opens where there is a record has none there that leads anywhere.
            let keys: Vec<_> = opening.iter().map(|(key, _)| *key).collect();
            self.confirmed.remove(&keys)?;
            self.half_open.insert(&opening)?;
        }
        if !open.is_empty() {
            let keys: Vec<_> = open.iter().map(|(key, _)| *key).collect();
            self.confirmed.insert(&open)?;
            self.half_open.remove(&keys)?;
        }
        Ok(())
    }

    /// Drops records; returns how many were there.
    ///
    /// # Errors
    ///
    /// The kernel's word.
    pub fn forget(&self, stage: Stage, keys: &[FlowKey]) -> io::Result<u64> {
        let words: Vec<[u32; 6]> = keys.iter().map(|key| key.words()).collect();
        match stage {
            Stage::HalfOpen => self.half_open.remove(&words),
            Stage::Confirmed => self.confirmed.remove(&words),
        }
    }

    /// How many flows are recorded: half-open, confirmed.
    ///
    /// # Errors
    ///
    /// The kernel's word.
    pub fn count(&self) -> io::Result<(u64, u64)> {
        Ok((self.half_open.for_each(|_, _| {})?, self.confirmed.for_each(|_, _| {})?))
    }

    /// Adds records of another pair of tables, and returns how many.
    ///
    /// # Errors
    ///
    /// The kernel's word.
    pub(super) fn insert(
        &self,
        half_open: &[(Key, Value)],
        confirmed: &[(Key, Value)],
    ) -> io::Result<u64> {
        Ok(self.half_open.insert(half_open)? + self.confirmed.insert(confirmed)?)
    }
}

/// Drops the records of one table that are done, counts the others; returns how many stay.
fn sweep_table(
    table: &HashTable<Key, Value>,
    mapped: &Mapped,
    order: &Order,
    times: Times,
    findings: &mut Findings,
) -> io::Result<u64> {
    let now = times.now;
    let mut done = Vec::new();
    let mut stay = 0;
    table.for_each(|key, value| {
        let record = record(value);
        let life = mapped.backend(record.number()).map_or(Life(0), |b| Life(b.life.load()));
        let stays = order.services.get(&flow_key(key).service()).filter(|service| {
            let slot = || mapped.slot(record.slot.load()).unwrap_or(Slot::settled(Slot::NONE));
            let slot = (!service.every_flow).then(slot);
            !is_done(&record, slot, life, now, service.idle_seconds)
        });
        if let Some(service) = stays {
            stay += 1;
            let period = order.refresh_seconds.get(&flow_key(key).service());
            if period.is_some_and(|period| times.is_due(key, &record, *period)) {
                findings.seen.push(kernel_flow(key, &record));
            }
            findings.keep(&record, service);
        } else {
            // A service that is gone has no flows.
            done.push(*key);
        }
    })?;
    table.remove(&done)?;
    Ok(stay)
}

/// When this sweep began, and the one before.
#[derive(Debug, Clone, Copy)]
struct Times {
    before: u32,
    now: u32,
}

impl Times {
    /// Whether it is a record's turn to be told of: once in a period, at a moment that its key
    /// picks, if its flow was seen since the last turn.
    fn is_due(self, key: &[u32; 6], record: &FlowRecord, period: u32) -> bool {
        let period = period.max(1);
        let spread = key.iter().fold(0u64, |h, word| mix(h ^ u64::from(*word)));
        let offset = spread % u64::from(period);
        let turn = |at: u32| (u64::from(at) + offset) / u64::from(period);
        let since = period + self.now.saturating_sub(self.before) + 1;
        turn(self.before) != turn(self.now) && self.now.saturating_sub(record.seen.load()) <= since
    }
}

fn kernel_flow(key: &[u32; 6], record: &FlowRecord) -> KernelFlow {
    let closing = record.closing.load() != 0;
    KernelFlow {
        key: flow_key(key),
        backend: record.backend.load(),
        seen: record.seen.load(),
        slot: record.slot.load(),
        stage: if closing { FlowStage::Closing } else { FlowStage::Open },
    }
}

/// The clock by which the program stamps records (`bpf_ktime_get_ns`), in seconds.
///
/// # Errors
///
/// None in practice: every kernel has the clock.
pub fn kernel_seconds() -> io::Result<u32> {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC)?;
    Ok(u32::try_from(now.tv_sec()).unwrap_or(u32::MAX))
}

fn record([backend, seen, slot, closing]: &[u32; 4]) -> FlowRecord {
    let record = FlowRecord::default();
    record.backend.store(*backend);
    record.seen.store(*seen);
    record.slot.store(*slot);
    record.closing.store(*closing);
    record
}

fn flow_key([a, b, c, d, ports, service]: &[u32; 6]) -> FlowKey {
    FlowKey::new([*a, *b, *c, *d], *ports, *service)
}
