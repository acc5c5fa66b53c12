//! The walk through the records of flows: what is done is dropped, what lives is counted.
//!
//! It runs beside the core, on a thread of its own, over the same tables; the core draws the
//! conclusions. Dropping a record is safe at any moment: see [`crate::core::sweep`].

mod install;

use std::{
    io,
    path::Path,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use lb_common::{
    hash::mix,
    layout::{FlowKey, FlowRecord, Life, RecordCounters},
    slot::Slot,
    steer::{Stage, Tables as _},
};
use nix::time::{ClockId, clock_gettime};

use super::{TablesId, batch::HashTable, counters::Counters, error::Error, mapped::Mapped};
use crate::{
    core::{
        KernelFlow,
        recorded::Staying,
        sweep::{Findings, Order, Swept, correction, is_done},
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
    half_open: Table,
    confirmed: Table,
    counters: Arc<Counters>,
    /// When the last sweep began, by the kernel's clock; 0 before the first.
    swept: AtomicU32,
}

/// One of them, and an account of what it lost.
#[derive(Debug)]
struct Table {
    stage: Stage,
    entries: HashTable<Key, Value>,
    account: Mutex<Account>,
}

/// What is missing from a table, of all that was put into it.
#[derive(Debug, Default)]
struct Account {
    /// Records that the controller dropped.
    dropped: u64,
    /// What had been missing when the account was begun; none while it is not.
    before: Option<u64>,
    /// What is missing since.
    lost: u64,
}

// === impl Records ===

impl Records {
    /// Opens the tables of an id.
    ///
    /// # Errors
    ///
    /// [`Error`] if they are not there, or have other sizes.
    pub fn open(id: &TablesId, bpf_dir: &Path, counters: Arc<Counters>) -> Result<Self, Error> {
        let directory = id.directory(bpf_dir);
        let open = |stage, name: &str| -> Result<Table, Error> {
            let entries = HashTable::from_pin(directory.join(name))?;
            let counted = counters.records(stage);
            let counted = counted.map_err(Error::io(format!("reading the counters of {name}")))?;
            // Nothing can be missing from a table that nothing was put into.
            let before = (counted == RecordCounters::default()).then_some(0);
            let account = Account { before, ..Account::default() };
            Ok(Table { stage, entries, account: Mutex::new(account) })
        };
        Ok(Self {
            half_open: open(Stage::HalfOpen, "HALF_OPEN")?,
            confirmed: open(Stage::Confirmed, "FLOWS")?,
            counters,
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
        let services = by_number(order);
        let walk = Walk { counters: &self.counters, mapped, services: &services, times };
        let mut stay = Vec::new();
        (findings.half_open, findings.lost.half_open) =
            self.half_open.sweep(walk, &mut stay, &mut findings.seen)?;
        for flow in &mut findings.seen {
            flow.stage = FlowStage::Opening;
        }
        (findings.confirmed, findings.lost.confirmed) =
            self.confirmed.sweep(walk, &mut stay, &mut findings.seen)?;
        findings.take(stay);
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
        self.half_open.entries.for_each(|key, value| {
            all.push(KernelFlow { stage: FlowStage::Opening, ..kernel_flow(key, &record(value)) });
        })?;
        self.confirmed.entries.for_each(|key, value| all.push(kernel_flow(key, &record(value))))?;
        Ok(all)
    }

    /// Drops records; returns how many were there.
    ///
    /// # Errors
    ///
    /// The kernel's word.
    pub fn forget(&self, stage: Stage, keys: &[FlowKey]) -> io::Result<u64> {
        let words: Vec<[u32; 6]> = keys.iter().map(|key| key.words()).collect();
        match stage {
            Stage::HalfOpen => self.half_open.drop(&words),
            Stage::Confirmed => self.confirmed.drop(&words),
        }
    }

    /// How many flows are recorded: half-open, confirmed.
    ///
    /// # Errors
    ///
    /// The kernel's word.
    pub fn count(&self) -> io::Result<(u64, u64)> {
        let count = |table: &Table| table.entries.for_each(|_, _| {});
        Ok((count(&self.half_open)?, count(&self.confirmed)?))
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

// === impl Table ===

impl Table {
    /// Drops the records that are done and adds the others to `stay`, and those of them that
    /// peers are to be told of to `seen`. Returns how many stay, and how many were lost since the
    /// account was begun.
    fn sweep(
        &self,
        walk: Walk<'_>,
        stay: &mut Vec<Staying>,
        seen: &mut Vec<KernelFlow>,
    ) -> io::Result<(u64, u64)> {
        let Walk { counters, mapped, services, times } = walk;
        let mut done = Done { table: &self.entries, waiting: Vec::new(), dropped: Ok(0) };
        let already = stay.len();
        let before = counters.records(self.stage)?;
        let met = self.entries.for_each(|key, value| {
            let record = record(value);
            let life = mapped.backend(record.number()).map_or(Life(0), |b| Life(b.life.load()));
            let service = services.get(flow_key(key).service() as usize).copied().flatten();
            let stays = service.filter(|service| {
                let slot = || mapped.slot(record.slot.load()).unwrap_or(Slot::settled(Slot::NONE));
                let slot = (!service.every_flow).then(slot);
                !is_done(&record, slot, life, times.now, service.idle_seconds)
            });
            let Some(service) = stays else {
                // A service that is gone has no flows.
                done.drop_soon(*key, *value);
                return;
            };
            if service.refresh_seconds.is_some_and(|period| times.is_due(key, &record, period)) {
                seen.push(kernel_flow(key, &record));
            }
            stay.push(Staying::new(&record));
        })?;
        let after = counters.records(self.stage)?;
        let dropped = done.finish()?;
        let mut account = self.account();
        account.dropped += dropped;
        // What came before the walk less what went until its end: never more than was lost.
        let lost = account.balance(before, after, met - dropped);
        Ok(((stay.len() - already) as u64, lost))
    }

    fn insert(&self, entries: &[(Key, Value)]) -> io::Result<u64> {
        if entries.is_empty() {
            return Ok(0);
        }
        // What is there then, the program did not put there.
        self.account().before = None;
        self.entries.insert(entries)
    }

    /// Drops records that are still what they were.
    fn drop_unchanged(&self, records: &[(Key, Value)]) -> io::Result<u64> {
        let dropped = self.entries.remove_unchanged(records)?;
        self.account().dropped += dropped;
        Ok(dropped)
    }

    fn drop(&self, keys: &[Key]) -> io::Result<u64> {
        let dropped = self.entries.remove(keys)?;
        self.account().dropped += dropped;
        Ok(dropped)
    }

    fn account(&self) -> MutexGuard<'_, Account> {
        self.account.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Records that are dropped while a walk goes on.
struct Done<'t> {
    table: &'t HashTable<Key, Value>,
    waiting: Vec<(Key, Value)>,
    /// How many were dropped, or what the kernel said.
    dropped: io::Result<u64>,
}

// === impl Done ===

impl Done<'_> {
    /// So many are dropped in one go. Between the same two ports a new flow may open in the meantime.
    const AT_ONCE: usize = 1024;

    fn drop_soon(&mut self, key: Key, value: Value) {
        self.waiting.push((key, value));
        if self.waiting.len() == Self::AT_ONCE {
            self.drop_now();
        }
    }

    fn drop_now(&mut self) {
        if let Ok(before) = self.dropped {
            self.dropped = self.table.remove_unchanged(&self.waiting).map(|now| before + now);
        }
        self.waiting.clear();
    }

    fn finish(mut self) -> io::Result<u64> {
        self.drop_now();
        self.dropped
    }
}

// === impl Account ===

impl Account {
    /// What is lost, from counts before and after a walk that met so many records.
    fn balance(&mut self, before: RecordCounters, after: RecordCounters, met: u64) -> u64 {
        let gone = after.forgotten + self.dropped + met;
        let missing = (before.kept + before.refused).saturating_sub(gone);
        let since = missing.saturating_sub(*self.before.get_or_insert(missing));
        self.lost = self.lost.max(since);
        self.lost
    }
}

/// What a walk through a table needs to know.
#[derive(Clone, Copy)]
struct Walk<'w> {
    counters: &'w Counters,
    mapped: &'w Mapped,
    services: &'w [Option<Swept>],
    times: Times,
}

/// The services by their numbers, which are small and few: each record asks for its own.
fn by_number(order: &Order) -> Vec<Option<Swept>> {
    let length = order.services.keys().max().map_or(0, |highest| *highest as usize + 1);
    let mut services = vec![None; length];
    for (number, service) in &order.services {
        services[*number as usize] = Some(*service);
    }
    services
}

/// When this sweep began, and the one before.
#[derive(Debug, Clone, Copy)]
struct Times {
    before: u32,
    now: u32,
}

impl Times {
    /// Whether it is a record's turn to be told of: once in a period, at a moment that its key
    /// picks, if a packet of its flow came this way since the last turn. What a peer told of is not
    /// told back.
    fn is_due(self, key: &[u32; 6], record: &FlowRecord, period: u32) -> bool {
        let period = period.max(1);
        let spread = key.iter().fold(0u64, |h, word| mix(h ^ u64::from(*word)));
        let offset = spread % u64::from(period);
        let turn = |at: u32| (u64::from(at) + offset) / u64::from(period);
        let last = turn(self.before);
        last != turn(self.now) && turn(record.seen.load()) >= last && !record.is_told()
    }
}

fn kernel_flow(key: &[u32; 6], record: &FlowRecord) -> KernelFlow {
    KernelFlow {
        key: flow_key(key),
        backend: record.backend.load(),
        seen: record.seen.load(),
        slot: record.slot.load(),
        stage: if record.is_closing() { FlowStage::Closing } else { FlowStage::Open },
    }
}

/// The clock by which the program stamps records (`bpf_ktime_get_ns`), in seconds.
///
/// # Errors
///
/// None in practice: every kernel has the clock.
pub fn kernel_seconds() -> io::Result<u32> {
    Ok(u32::try_from(kernel_time()?.as_secs()).unwrap_or(u32::MAX))
}

/// The clock that `bpf_ktime_get_ns` reads.
pub(super) fn kernel_time() -> io::Result<Duration> {
    Ok(clock_gettime(ClockId::CLOCK_MONOTONIC)?.into())
}

fn record([backend, seen, slot, marks]: &[u32; 4]) -> FlowRecord {
    let record = FlowRecord::default();
    record.backend.store(*backend);
    record.seen.store(*seen);
    record.slot.store(*slot);
    record.marks.store(*marks);
    record
}

fn flow_key([a, b, c, d, ports, service]: &[u32; 6]) -> FlowKey {
    FlowKey::new([*a, *b, *c, *d], *ports, *service)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counted(kept: u64, forgotten: u64) -> RecordCounters {
        RecordCounters { kept, forgotten, refused: 0 }
    }

    #[test]
    fn what_was_kept_and_is_neither_there_nor_dropped_is_lost() {
        let mut account = Account { before: Some(0), ..Account::default() };
        assert_eq!(account.balance(counted(100, 10), counted(120, 10), 90), 0);
        account.dropped += 30;
        assert_eq!(account.balance(counted(200, 10), counted(200, 20), 130), 20);
        // Seen by the walk although made after the count: nothing is lost back.
        assert_eq!(account.balance(counted(200, 20), counted(300, 20), 200), 20);
        let refused = RecordCounters { kept: 300, forgotten: 20, refused: 5 };
        assert_eq!(account.balance(refused, refused, 230), 25);
    }

    #[test]
    fn an_account_begun_late_starts_from_nothing() {
        let mut account = Account::default();
        assert_eq!(account.balance(counted(100, 0), counted(100, 0), 70), 0);
        assert_eq!(account.balance(counted(110, 0), counted(110, 0), 70), 10);
    }

    /// At which of these sweeps, one a second, a flow with one packet in second 100 is told of.
    fn told(beat: u32, period: u32) -> Vec<u32> {
        let record = FlowRecord::default();
        record.seen.store(100);
        record.marks.store(FlowRecord::marks_word(false, beat));
        let sweeps = (101..200).map(|now| Times { before: now - 1, now });
        sweeps.filter(|times| times.is_due(&[7; 6], &record, period)).map(|t| t.now).collect()
    }

    #[test]
    fn a_flow_is_told_of_within_a_period_of_its_packet_and_then_no_more() {
        for period in [1, 3, 20] {
            let told = told(5, period);
            assert_eq!(told.len(), 1, "{told:?}");
            assert!(told[0] <= 100 + period, "{told:?}");
        }
    }

    #[test]
    fn what_a_peer_told_is_not_told_back() {
        assert_eq!(told(FlowRecord::TOLD, 3), [] as [u32; 0]);
    }
}
