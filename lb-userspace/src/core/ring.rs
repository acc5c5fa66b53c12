//! A service's ring as it changes: which slots remember something, and until when.
//!
//! A slot that changes hands is *moving* for one idle time-out: by then every flow that lives has
//! sent a packet and is recorded. Then it has *exceptions*, until a sweep of the records that
//! began later finds none that disagrees with its owner. (A packet that the kernel handled when
//! the slot stopped moving may still record a flow; a later sweep sees it.)
//!
//! That is [`Tracking::Moves`]. Where no flow is recorded, slots are always settled; where every
//! flow is, they never are.

use std::{collections::HashMap, time::Duration};

use lb_common::{
    hash::mix,
    layout::RingSpan,
    slot::{Prior, Slot},
};

use super::{
    KernelFlow, SlotsStatus,
    recorded::{OnSlot, Recorded},
    tally::Tally,
};

/// How much longer than an idle time-out a slot moves, and a record is kept: the kernel stamps
/// records in whole seconds, and its clock and ours are read at different moments.
pub const MARGIN: Duration = Duration::from_secs(2);

/// The slots of one service.
#[derive(Debug, Clone)]
pub struct Ring {
    span: RingSpan,
    tracking: Tracking,
    /// What takes the place of `tracking` with the first sweep that begins at this time or later.
    next: Option<(Tracking, Duration)>,
    slots: Vec<Slot>,
    /// How many slots wait for something to end.
    waiting: u32,
    /// How many slots are moving.
    moving: u32,
    /// Since when a slot that waits is in its state. A flat table, since it is written between a
    /// fault and its repair; empty while no slot waits.
    since: Vec<Moment>,
    /// See [`Ring::digest`]; nothing after a change.
    digest: Option<u64>,
}

/// A time in a quarter of the bytes that a [`Duration`] takes: there is one for each slot of each
/// ring, millions in all. Tenths of a second, rounded up, so that nothing ends too early; enough
/// for thirteen years.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Moment(u32);

/// Which flows of a service are recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tracking {
    /// None: every packet goes to its slot's owner (`affinity = false`).
    Nothing,
    /// Those that a change of the ring would move.
    Moves,
    /// Every one (`round_robin`, `least_conn`).
    EveryFlow,
}

/// What a change of the ring comes to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changed {
    /// The slots that differ, by index in the ring map.
    pub slots: Vec<(u32, Slot)>,
    /// How many slots changed hands, from each backend or to it, by its number.
    pub moved: HashMap<u16, u32>,
}

impl Ring {
    /// A ring that nobody owns.
    pub fn new(span: RingSpan, tracking: Tracking) -> Self {
        let slots = vec![tracking.unowned(); span.length as usize];
        Self {
            span,
            tracking,
            next: None,
            slots,
            waiting: 0,
            moving: 0,
            since: Vec::new(),
            digest: None,
        }
    }

    /// A ring as an earlier run left it. What it remembers is remembered for another full time.
    pub fn adopt(span: RingSpan, tracking: Tracking, slots: Vec<Slot>, now: Duration) -> Self {
        let waiting = slots.iter().map(|slot| u32::from(!tracking.leaves(*slot))).sum();
        let moving = slots.iter().map(|slot| u32::from(is_moving(*slot))).sum();
        let since = if waiting > 0 { vec![Moment::after(now); slots.len()] } else { Vec::new() };
        Self { span, tracking, next: None, slots, waiting, moving, since, digest: None }
    }

    /// Records other flows, from now on or as soon as may be. Returns the slots that differ, by
    /// index in the ring map.
    pub fn track(
        &mut self,
        wanted: Tracking,
        idle_timeout: Duration,
        now: Duration,
    ) -> Vec<(u32, Slot)> {
        if wanted == self.wanted_tracking() {
            return Vec::new();
        }
        self.next = match (self.tracking, wanted) {
            // Until then a record may name the slot that its flow had by another hash or in
            // another ring.
            (Tracking::EveryFlow, Tracking::Moves) => Some((wanted, now + idle_timeout + MARGIN)),
            // Records from before lead astray, until a sweep has found that slots contradict them.
            (Tracking::Nothing, Tracking::Moves | Tracking::EveryFlow) => {
                Some((wanted, now + MARGIN))
            }
            _ => None,
        };
        if self.next.is_some() { Vec::new() } else { self.begin_to(wanted, now) }
    }

    /// Which flows are recorded.
    pub fn tracking(&self) -> Tracking {
        self.tracking
    }

    /// Which flows are to be recorded, now or soon.
    pub fn wanted_tracking(&self) -> Tracking {
        self.next.map_or(self.tracking, |(tracking, _)| tracking)
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
        // Where every flow is recorded, no slot is ever settled.
        let waiting = match self.tracking {
            Tracking::EveryFlow => self.span.length,
            Tracking::Nothing | Tracking::Moves => self.waiting,
        };
        SlotsStatus {
            settled: self.span.length - waiting,
            moving: self.moving,
            exceptions: waiting - self.moving,
        }
    }

    /// Whether there is nothing to sweep for: no slot remembers anything.
    pub fn is_settled(&self) -> bool {
        self.waiting == 0 && self.next.is_none() && self.tracking != Tracking::EveryFlow
    }

    /// How many slots a backend is still the prior of.
    pub fn moving_from(&self, number: u16) -> usize {
        self.unsettled().filter(|(_, slot)| slot.prior() == Prior::Moving(number)).count()
    }

    /// The slots that wait for something to end, by position.
    fn unsettled(&self) -> impl Iterator<Item = (u32, Slot)> {
        // While none waits, `since` is empty, and so is this.
        (0..)
            .zip(&self.slots)
            .take(self.since.len())
            .filter(|(_, slot)| !self.tracking.leaves(**slot))
            .map(|(position, slot)| (position, *slot))
    }

    /// Gives every slot to its owner, such that no flow to a backend that lives goes elsewhere.
    pub fn give(&mut self, owners: &[u16], lives: impl Fn(u16) -> bool, now: Duration) -> Changed {
        let old_owners = self.slots.iter().map(|slot| slot.owner());
        let mut moved = Tally::spanning(owners.iter().copied().chain(old_owners));
        let mut changed = Changed::default();
        for (position, owner) in (0..).zip(owners) {
            let old = self.slots[position as usize];
            if old.owner() == *owner && old.is_settled() {
                continue;
            }
            let new = match self.tracking {
                Tracking::Nothing => Slot::settled(*owner),
                Tracking::Moves => old.given_to(*owner, &lives),
                Tracking::EveryFlow => old.given_beside_records(*owner, &lives),
            };
            if old.owner() != *owner {
                moved.add(old.owner());
                moved.add(*owner);
            }
            if new != old {
                self.set(position, new, now);
                changed.slots.push((self.span.base + position, new));
            }
        }
        changed.moved = moved.counted().collect();
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
        if let Some((next, _)) = self.next.filter(|(_, time)| began >= *time) {
            self.next = None;
            changed = self.begin_to(next, now);
        }
        let mut walk = recorded.walk(self.span);
        let unsettled: Vec<(u32, Slot)> = self.unsettled().collect();
        for (position, slot) in unsettled {
            let since = self.since[position as usize].time();
            let index = self.span.base + position;
            let here = walk.at(index);
            let prior = match slot.prior() {
                Prior::Moving(_) if now >= since + idle_timeout + MARGIN => Prior::Exceptions,
                Prior::Exceptions if began > since + MARGIN && agree(here, slot) => Prior::Settled,
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

    /// Has settled slots that would lead recorded flows elsewhere look at the records. Returns the
    /// slots that changed, by index in the ring map.
    pub fn remember(&mut self, flows: &[&KernelFlow], now: Duration) -> Vec<(u32, Slot)> {
        if self.tracking != Tracking::Moves {
            return Vec::new();
        }
        let base = self.span.base;
        let forgets = |flow: &&KernelFlow| {
            let position = flow.slot.checked_sub(base)?;
            let slot = self.slots.get(position as usize)?;
            let elsewhere = flow.number() != slot.owner();
            (slot.is_settled() && elsewhere)
                .then(|| (position, Slot::new(slot.owner(), Prior::Exceptions)))
        };
        let wanted: Vec<(u32, Slot)> = flows.iter().filter_map(forgets).collect();
        self.install(&wanted, now)
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

    /// Records other flows from now on. A slot that waited already goes on to wait as before.
    fn begin_to(&mut self, tracking: Tracking, now: Duration) -> Vec<(u32, Slot)> {
        self.digest = None;
        let before = std::mem::replace(&mut self.tracking, tracking);
        let now = Moment::after(now);
        let waited = std::mem::replace(&mut self.since, vec![now; self.slots.len()]);
        (self.waiting, self.moving) = (0, 0);
        let mut changed = Vec::new();
        for (position, slot) in (0..).zip(&mut self.slots) {
            let old = std::mem::replace(slot, tracking.takes_over(*slot));
            self.moving += u32::from(is_moving(*slot));
            self.waiting += u32::from(!tracking.leaves(*slot));
            if *slot != old {
                changed.push((self.span.base + position, *slot));
            } else if !before.leaves(old) {
                self.since[position as usize] = waited[position as usize];
            }
        }
        if self.waiting == 0 {
            self.since = Vec::new();
        }
        changed
    }

    fn set(&mut self, position: u32, slot: Slot, now: Duration) {
        self.digest = None;
        let old = std::mem::replace(&mut self.slots[position as usize], slot);
        self.moving += u32::from(is_moving(slot));
        self.moving -= u32::from(is_moving(old));
        match (self.tracking.leaves(old), self.tracking.leaves(slot)) {
            (true, false) => self.waiting += 1,
            (false, true) => self.waiting -= 1,
            _ => {}
        }
        if self.waiting == 0 {
            self.since = Vec::new();
        } else if old.prior() != slot.prior() {
            let now = Moment::after(now);
            self.since.resize(self.slots.len(), now);
            self.since[position as usize] = now;
        }
    }
}

// === impl Moment ===

impl Moment {
    /// The first moment that is not before this time.
    fn after(time: Duration) -> Self {
        let tenths = time.as_secs() * 10 + u64::from(time.subsec_nanos().div_ceil(100_000_000));
        Self(u32::try_from(tenths).unwrap_or(u32::MAX))
    }

    fn time(self) -> Duration {
        Duration::from_millis(100) * self.0
    }
}

fn is_moving(slot: Slot) -> bool {
    matches!(slot.prior(), Prior::Moving(_))
}

// === impl Tracking ===

impl Tracking {
    /// A slot that nobody has owned yet.
    pub(super) fn unowned(self) -> Slot {
        let prior = match self {
            Self::Nothing | Self::Moves => Prior::Settled,
            Self::EveryFlow => Prior::Exceptions,
        };
        Slot::new(Slot::NONE, prior)
    }

    /// Whether a slot stays as it is until it changes hands.
    fn leaves(self, slot: Slot) -> bool {
        slot.is_settled() || (self == Self::EveryFlow && slot.prior() == Prior::Exceptions)
    }

    /// What becomes of a slot when this begins.
    fn takes_over(self, slot: Slot) -> Slot {
        let owner = slot.owner();
        match (self, slot.prior()) {
            (Self::Moves, _) | (Self::EveryFlow, Prior::Moving(_)) => slot,
            (Self::Nothing, _) => Slot::settled(owner),
            (Self::EveryFlow, _) if owner == Slot::NONE => Slot::new(owner, Prior::Exceptions),
            // The flows that there are must be told from new ones, so they are recorded first.
            (Self::EveryFlow, _) => Slot::new(owner, Prior::Moving(owner)),
        }
    }
}

/// Whether no flow of a slot is recorded for another backend than its owner.
fn agree(recorded: &[OnSlot], slot: Slot) -> bool {
    recorded.iter().all(|here| here.backend == slot.owner())
}
