//! Slow start: a backend that begins to serve beside others gets its slots in steps.
//!
//! In each step it gets a further tenth of the slots that the ring gives it; until its turn comes,
//! a slot stays with whoever has it. So every slot moves once at most, straight to its new owner,
//! and when the last step is done the ring is what it would have been without slow start.

use std::time::{Duration, SystemTime};

use lb_common::{hash::mix, slot::Slot};

use super::{
    Now,
    maglev::{self, Candidate},
    service::Service,
};

/// In how many steps.
pub(super) const STEPS: u32 = 10;

/// How far a backend has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SlowStart {
    /// How long it takes.
    duration: Duration,
    /// When it is over, by both clocks.
    ends: Duration,
    pub(super) ends_at: SystemTime,
    /// The step that it is in, from 1.
    pub(super) step: u32,
}

impl SlowStart {
    /// Begins; not at all if it takes no time.
    pub(super) fn begin(duration: Duration, now: Now) -> Option<Self> {
        Self::ending_in(duration, duration, now)
    }

    /// One that was begun by the run before.
    pub(super) fn resume(duration: Duration, ends_at: SystemTime, now: Now) -> Option<Self> {
        let left = ends_at.duration_since(now.wall).unwrap_or_default();
        Self::ending_in(left.min(duration), duration, now)
    }

    fn ending_in(left: Duration, duration: Duration, now: Now) -> Option<Self> {
        let mut start =
            Self { duration, ends: now.monotonic + left, ends_at: now.wall + left, step: 0 };
        start.proceed(now.monotonic).then_some(start)
    }

    /// Lets time go by; false once it is over.
    fn proceed(&mut self, now: Duration) -> bool {
        let left = self.ends.saturating_sub(now);
        let passed = self.duration.saturating_sub(left).as_millis();
        let step = passed * u128::from(STEPS) / self.duration.as_millis().max(1);
        self.step = u32::try_from(step).unwrap_or(STEPS).saturating_add(1);
        self.step < STEPS && !left.is_zero()
    }

    /// Whether the slot at a position of the ring has had its turn. The same on every balancer,
    /// and the slots of each step are spread over the whole ring.
    fn has_had_turn(self, position: u32) -> bool {
        mix(u64::from(position)) % u64::from(STEPS) < u64::from(self.step)
    }
}

impl Service {
    /// Whether a backend is in slow start.
    pub(super) fn has_slow_starts(&self) -> bool {
        self.backends.values().any(|backend| backend.slow_start.is_some())
    }

    /// Lets time go by for backends in slow start.
    pub(super) fn proceed_slow_starts(&mut self, now: Duration) {
        for backend in self.backends.values_mut() {
            let Some(start) = &mut backend.slow_start else { continue };
            let before = start.step;
            let goes_on = start.proceed(now);
            self.stale |= start.step != before;
            if !goes_on {
                backend.slow_start = None;
            }
            backend.reason = backend.assess(&self.spec.health).1;
        }
    }

    /// Leaves slots with whoever has them, until the turn of their new owners comes.
    pub(super) fn hold_back(&self, owners: &mut [u16], candidates: &[Candidate]) {
        if !self.has_slow_starts() {
            return;
        }
        // By number: this is asked for every slot.
        let highest = self.backends.values().map(|backend| backend.number).max().unwrap_or(0);
        let mut starts = vec![None; usize::from(highest) + 1];
        let mut willing = vec![false; usize::from(highest) + 1];
        for backend in self.backends.values() {
            starts[usize::from(backend.number)] = backend.slow_start;
            willing[usize::from(backend.number)] = backend.ring_weight() > 0;
        }
        let start_of = |number: u16| starts.get(usize::from(number)).copied().flatten();
        let others: Vec<Candidate> =
            candidates.iter().filter(|c| start_of(c.number).is_none()).copied().collect();
        // Where whoever has a slot cannot keep it, it goes where it would without those that start.
        let substitutes = maglev::build(&others, self.ring.span().length);
        let slots = (0..).zip(self.ring.slots()).zip(owners).zip(substitutes);
        for (((position, slot), owner), substitute) in slots {
            let waits = start_of(*owner).is_some_and(|start| !start.has_had_turn(position));
            if !waits || slot.owner() == *owner {
                continue;
            }
            if willing.get(usize::from(slot.owner())) == Some(&true) {
                *owner = slot.owner();
            } else if substitute != Slot::NONE {
                *owner = substitute;
            }
        }
    }
}
