//! The walk through the records of flows: what is done is dropped, what lives is counted.
//!
//! It runs beside the core, on a thread of its own, over the same tables; the core draws the
//! conclusions. Dropping a record is safe at any moment: see [`crate::core::sweep`].

use std::{collections::BTreeMap, io, path::Path};

use lb_common::{
    layout::{FlowKey, FlowRecord, Life},
    slot::Slot,
    steer::{Stage, Tables as _},
};
use nix::time::{ClockId, clock_gettime};

use super::{TablesId, batch::HashTable, error::Error, mapped::Mapped};
use crate::core::sweep::{Findings, Order, is_done};

/// A [`FlowKey`] as words.
pub(super) type Key = [u32; size_of::<FlowKey>() / size_of::<u32>()];
/// A [`FlowRecord`] as words.
pub(super) type Value = [u32; size_of::<FlowRecord>() / size_of::<u32>()];

/// The two tables of records.
#[derive(Debug)]
pub struct Records {
    half_open: HashTable<Key, Value>,
    confirmed: HashTable<Key, Value>,
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
        })
    }

    /// Walks through all records once.
    ///
    /// # Errors
    ///
    /// The kernel's word; the findings are void then.
    pub fn sweep(&self, mapped: &Mapped, order: &Order) -> io::Result<Findings> {
        let mut findings = Findings { began: order.now, ..Findings::default() };
        findings.half_open = sweep_table(&self.half_open, mapped, order, &mut findings)?;
        findings.confirmed = sweep_table(&self.confirmed, mapped, order, &mut findings)?;
        Ok(findings)
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
    findings: &mut Findings,
) -> io::Result<u64> {
    let now = kernel_seconds()?;
    let mut done = Vec::new();
    let mut stay = 0;
    let recorded: &mut BTreeMap<_, BTreeMap<_, _>> = &mut findings.recorded;
    table.for_each(|key, value| {
        let record = record(value);
        let index = record.slot.load();
        let slot = mapped.slot(index).unwrap_or(Slot::settled(Slot::NONE));
        let life = mapped.backend(record.number()).map_or(Life(0), |b| Life(b.life.load()));
        match order.idle_seconds.get(&flow_key(key).service()) {
            Some(idle) if !is_done(&record, slot, life, now, *idle) => {
                stay += 1;
                *recorded.entry(index).or_default().entry(record.number()).or_default() += 1;
            }
            // A service that is gone has no flows.
            _ => done.push(*key),
        }
    })?;
    table.remove(&done)?;
    Ok(stay)
}

/// The clock by which the program stamps records (`bpf_ktime_get_ns`), in seconds.
fn kernel_seconds() -> io::Result<u32> {
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
