//! Which flows are recorded, by slot and backend: what a sweep leaves of the records.
//!
//! There may be a quarter of a million records, and on the core's task slots are compared with all
//! of them. So a record is one word, what is known of a slot is a run of a flat list, and both
//! sides are walked in order, without looking anything up.

use lb_common::layout::{FlowRecord, RingSpan};

/// A record that stays, as far as the core asks: its slot in the upper half of the word, then its
/// backend, then whether the flow is active. In that order they sort.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Staying(u64);

/// The records that a sweep found alive, by slot and backend, in that order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Recorded(Vec<OnSlot>);

/// Flows of one slot that are recorded for one backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OnSlot {
    /// The slot, by index in the ring map. Slots of another ring may be among them for as long as
    /// a flow is silent: a record has the slot that the flow's last packet had.
    pub slot: u32,
    /// The backend's number.
    pub backend: u16,
    /// How many flows.
    pub flows: u32,
    /// How many of them are not closing.
    pub active: u32,
}

/// A walk through the slots, in rising order.
#[derive(Debug)]
pub struct Walk<'r>(&'r [OnSlot]);

// === impl Staying ===

impl Staying {
    /// What is to be known of a record.
    pub fn new(record: &FlowRecord) -> Self {
        let active = !record.is_closing();
        let place = u64::from(record.slot.load()) << 16 | u64::from(record.number());
        Self(place << 1 | u64::from(active))
    }

    #[allow(clippy::cast_possible_truncation, reason = "32 bits are left")]
    fn slot(self) -> u32 {
        (self.0 >> 17) as u32
    }

    #[allow(clippy::cast_possible_truncation, reason = "the low half, without the flag, is it")]
    fn backend(self) -> u16 {
        (self.0 >> 1) as u16
    }

    fn is_active(self) -> bool {
        self.0 & 1 == 1
    }

    /// Slot and backend.
    fn place(self) -> u64 {
        self.0 >> 1
    }
}

// === impl Recorded ===

impl Recorded {
    /// Counts records. They are sorted first: that is several times as fast as looking the place
    /// of each up.
    pub fn new(mut staying: Vec<Staying>) -> Self {
        staying.sort_unstable();
        let runs = staying.chunk_by(|a, b| a.place() == b.place()).map(|run| OnSlot {
            slot: run[0].slot(),
            backend: run[0].backend(),
            flows: count(run.iter()),
            active: count(run.iter().filter(|record| record.is_active())),
        });
        Self(runs.collect())
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &OnSlot> {
        self.0.iter()
    }

    /// Those of a part of the ring map, to be walked through from its first slot on.
    pub fn walk(&self, span: RingSpan) -> Walk<'_> {
        let start = self.0.partition_point(|here| here.slot < span.base);
        let ours = &self.0[start..];
        let end = ours.partition_point(|here| here.slot - span.base < span.length);
        Walk(&ours[..end])
    }
}

// === impl Walk ===

impl<'r> Walk<'r> {
    /// What is recorded on a slot, which no earlier call went beyond.
    pub fn at(&mut self, slot: u32) -> &'r [OnSlot] {
        let before = self.0.iter().take_while(|here| here.slot < slot).count();
        let rest = &self.0[before..];
        let (here, rest) = rest.split_at(rest.iter().take_while(|here| here.slot == slot).count());
        self.0 = rest;
        here
    }

    /// What is left of it.
    pub fn rest(self) -> &'r [OnSlot] {
        self.0
    }
}

fn count<T>(items: impl Iterator<Item = T>) -> u32 {
    u32::try_from(items.count()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use lb_common::layout::Life;

    use super::*;

    fn staying(slot: u32, backend: u16, closing: bool) -> Staying {
        let record = FlowRecord::default();
        record.backend.store(FlowRecord::backend_word(backend, Life::new(3, true, true)));
        record.slot.store(slot);
        record.marks.store(FlowRecord::marks_word(closing, 0));
        Staying::new(&record)
    }

    #[test]
    fn records_are_counted_by_slot_and_backend() {
        let recorded = Recorded::new(vec![
            staying(u32::MAX, u16::MAX, false),
            staying(7, 2, true),
            staying(7, 1, false),
            staying(7, 2, false),
            staying(9, 0, true),
        ]);
        let on = |slot, backend, flows, active| OnSlot { slot, backend, flows, active };
        let all = [on(7, 1, 1, 1), on(7, 2, 2, 1), on(9, 0, 1, 0), on(u32::MAX, u16::MAX, 1, 1)];
        assert!(recorded.iter().eq(&all), "{recorded:?}");
    }

    #[test]
    fn a_walk_meets_the_slots_of_its_part_and_may_leave_some_out() {
        let slots = [3, 4, 5, 8, 9, 12, 13];
        let recorded = Recorded::new(slots.map(|slot| staying(slot, 1, false)).to_vec());
        let mut walk = recorded.walk(RingSpan { base: 4, length: 9 });
        let mut met = |slot| walk.at(slot).iter().map(|here| here.slot).collect::<Vec<_>>();
        assert_eq!([met(4), met(6), met(9)], [vec![4], vec![], vec![9]]);
        assert_eq!(walk.rest().iter().map(|here| here.slot).collect::<Vec<_>>(), [12]);
    }
}
