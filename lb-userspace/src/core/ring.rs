//! A service's ring as it changes: which slots remember something, and until when.
//!
//! A slot that changes hands is *moving* for one idle time-out: by then every flow that lives has
//! sent a packet and is recorded. Then it has *exceptions*, until a sweep of the records that
//! began later finds none that disagrees with its owner. (A packet that the kernel handled when
//! the slot stopped moving may still record a flow; a later sweep sees it.)

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use lb_common::{
    hash::mix,
    layout::RingSpan,
    slot::{Prior, Slot},
};

use super::SlotsStatus;

/// How much longer than an idle time-out a slot moves, and a record is kept: the kernel stamps
/// records in whole seconds, and its clock and ours are read at different moments.
pub const MARGIN: Duration = Duration::from_secs(2);

/// The slots of one service.
#[derive(Debug, Clone)]
pub struct Ring {
    span: RingSpan,
    slots: Vec<Slot>,
    /// How many slots are not settled.
    unsettled: u32,
    /// How many of those are moving.
    moving: u32,
    /// Since when a slot that is not settled is in its state. A flat table, since it is written
    /// between a fault and its repair; empty while every slot is settled.
    since: Vec<Duration>,
    /// See [`Ring::digest`]; nothing after a change.
    digest: Option<u64>,
}

/// What a change of the ring comes to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changed {
    /// The slots that differ, by index in the ring map.
    pub slots: Vec<(u32, Slot)>,
    /// How many slots changed hands, from each backend or to it, by its number.
    pub moved: HashMap<u16, u32>,
}

/// The records that a sweep found alive: how many flows of a slot (by index in the ring map) are
/// recorded for a backend (by number).
pub type Recorded = BTreeMap<u32, BTreeMap<u16, u32>>;

impl Ring {
    /// A ring that nobody owns.
    pub fn new(span: RingSpan) -> Self {
        let slots = vec![Slot::settled(Slot::NONE); span.length as usize];
        Self { span, slots, unsettled: 0, moving: 0, since: Vec::new(), digest: None }
    }

    /// A ring as an earlier run left it. What it remembers is remembered for another full time.
    pub fn adopt(span: RingSpan, slots: Vec<Slot>, now: Duration) -> Self {
        let count = |is: fn(Slot) -> bool| slots.iter().map(|slot| u32::from(is(*slot))).sum();
        let unsettled = count(|slot| !slot.is_settled());
        let moving = count(is_moving);
        let since = if unsettled > 0 { vec![now; slots.len()] } else { Vec::new() };
        Self { span, slots, unsettled, moving, since, digest: None }
    }

    /// Its part of the ring map.
    pub fn span(&self) -> RingSpan {
        self.span
    }

    /// Its slots.
    pub fn slots(&self) -> &[Slot] {
        &self.slots
    }

    /// All slots, by index in the ring map.
    pub fn indexed(&self) -> Vec<(u32, Slot)> {
        (self.span.base..).zip(self.slots.iter().copied()).collect()
    }

    /// How many slots are in which state.
    pub fn counts(&self) -> SlotsStatus {
        SlotsStatus {
            settled: self.span.length - self.unsettled,
            moving: self.moving,
            exceptions: self.unsettled - self.moving,
        }
    }

    /// Whether any slot remembers anything.
    pub fn is_settled(&self) -> bool {
        self.unsettled == 0
    }

    /// How many slots a backend is still the prior of.
    pub fn moving_from(&self, number: u16) -> usize {
        self.unsettled().filter(|(_, slot)| slot.prior() == Prior::Moving(number)).count()
    }

    /// The slots that are not settled, by position.
    fn unsettled(&self) -> impl Iterator<Item = (u32, Slot)> {
        // While all are settled, `since` is empty, and so is this.
        (0..)
            .zip(&self.slots)
            .take(self.since.len())
            .filter(|(_, slot)| !slot.is_settled())
            .map(|(position, slot)| (position, *slot))
    }

    /// Gives every slot to its owner, such that no flow to a backend that lives goes elsewhere.
    pub fn give(&mut self, owners: &[u16], lives: impl Fn(u16) -> bool, now: Duration) -> Changed {
        // Counted by number in a flat table: this stands between a fault and its repair.
        let numbers = owners.iter().copied().chain(self.slots.iter().map(|slot| slot.owner()));
        let highest = numbers.filter(|number| *number != Slot::NONE).max().unwrap_or(0);
        let mut moved = vec![0; usize::from(highest) + 1];
        let mut changed = Changed::default();
        for (position, owner) in (0..).zip(owners) {
            let old = self.slots[position as usize];
            if old.owner() == *owner && old.is_settled() {
                continue;
            }
            let new = old.given_to(*owner, &lives);
            if old.owner() != *owner {
                for number in [old.owner(), *owner] {
                    if let Some(count) = moved.get_mut(usize::from(number)) {
                        *count += 1;
                    }
                }
            }
            if new != old {
                self.set(position, new, now);
                changed.slots.push((self.span.base + position, new));
            }
        }
        changed.moved = (0..=u16::MAX).zip(moved).filter(|(_, count)| *count > 0).collect();
        changed
    }

    /// Ends what has lasted long enough, given the records of a sweep that began at `began`.
    /// Returns the slots that changed, by index in the ring map.
    pub fn sweep(
        &mut self,
        recorded: &Recorded,
        idle_timeout: Duration,
        began: Duration,
        now: Duration,
    ) -> Vec<(u32, Slot)> {
        let mut changed = Vec::new();
        let unsettled: Vec<(u32, Slot)> = self.unsettled().collect();
        for (position, slot) in unsettled {
            let since = self.since[position as usize];
            let index = self.span.base + position;
            let prior = match slot.prior() {
                Prior::Moving(_) if now >= since + idle_timeout + MARGIN => Prior::Exceptions,
                Prior::Exceptions if began > since + MARGIN && agrees(recorded, index, slot) => {
                    Prior::Settled
                }
                _ => continue,
            };
            let slot = Slot::new(slot.owner(), prior);
            self.set(position, slot, now);
            changed.push((index, slot));
        }
        changed
    }

    /// Makes slots, by position, what they are elsewhere. What they remember is remembered for a
    /// full time from now on. Returns the slots that changed, by index in the ring map.
    pub fn install(&mut self, slots: &[(u32, Slot)], now: Duration) -> Vec<(u32, Slot)> {
        let mut changed = Vec::new();
        for (position, slot) in slots {
            if self.slots.get(*position as usize).is_some_and(|old| old != slot) {
                self.set(*position, *slot, now);
                changed.push((self.span.base + position, *slot));
            }
        }
        changed
    }

    /// What [`Ring::digest`] said, if no slot has changed since.
    pub fn known_digest(&self) -> Option<u64> {
        self.digest
    }

    /// A digest of all slots, in which backends stand by what `identity` makes of their numbers.
    pub fn digest(&mut self, identity: impl Fn(u16) -> u64) -> u64 {
        let each = (0u64..).zip(&self.slots).map(|(position, slot)| {
            let past = match slot.prior() {
                Prior::Settled => 1,
                Prior::Exceptions => 2,
                Prior::Moving(prior) => identity(prior),
            };
            mix(mix(position ^ identity(slot.owner())) ^ past)
        });
        let digest = each.fold(u64::from(self.span.length), u64::wrapping_add);
        self.digest = Some(digest);
        digest
    }

    fn set(&mut self, position: u32, slot: Slot, now: Duration) {
        self.digest = None;
        let old = std::mem::replace(&mut self.slots[position as usize], slot);
        self.moving += u32::from(is_moving(slot));
        self.moving -= u32::from(is_moving(old));
        match (old.is_settled(), slot.is_settled()) {
            (true, false) => self.unsettled += 1,
            (false, true) => self.unsettled -= 1,
            _ => {}
        }
        if self.unsettled == 0 {
            self.since = Vec::new();
        } else if old.prior() != slot.prior() {
            self.since.resize(self.slots.len(), now);
            self.since[position as usize] = now;
        }
    }
}

fn is_moving(slot: Slot) -> bool {
    matches!(slot.prior(), Prior::Moving(_))
}

/// Whether no flow of a slot is recorded for another backend than its owner.
fn agrees(recorded: &Recorded, index: u32, slot: Slot) -> bool {
    recorded
        .get(&index)
        .is_none_or(|backends| backends.keys().all(|backend| *backend == slot.owner()))
}
