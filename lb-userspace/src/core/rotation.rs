//! The order in which the backends of a `round_robin` service take turns.
//!
//! The order lies in the ring map, in a span of its own, as slots that name one backend each. The
//! program walks round it. Every backend comes as often as its weight says, as evenly spread as can
//! be: of weights 3 and 1 not `a a a b` but `a a b a`.

use std::{cmp::Reverse, collections::BinaryHeap};

use lb_common::{layout::RingSpan, slot::Slot};

use super::maglev::Candidate;

/// The turns of one service.
#[derive(Debug, Clone)]
pub struct Rotation {
    /// The slots that it may use.
    span: RingSpan,
    /// The owners of those that it uses, as written.
    owners: Vec<u16>,
    /// Whether the table knows how many those are.
    written: bool,
}

/// What a new order comes to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changed {
    /// The slots that differ, by index in the ring map.
    pub slots: Vec<(u32, Slot)>,
    /// The span that the program is to walk round, if it is another than before.
    pub order: Option<RingSpan>,
}

impl Rotation {
    /// An order that is not written yet.
    pub fn new(span: RingSpan) -> Self {
        Self { span, owners: Vec::new(), written: false }
    }

    /// Its part of the ring map.
    pub fn span(&self) -> RingSpan {
        self.span
    }

    /// Lets these candidates take turns.
    pub fn set(&mut self, candidates: &[Candidate]) -> Changed {
        let owners = order(candidates, self.span.length);
        let differs = |position: usize| self.owners.get(position) != Some(&owners[position]);
        let slots = (self.span.base..)
            .zip(0..owners.len())
            .filter(|(_, position)| differs(*position))
            .map(|(index, position)| (index, Slot::settled(owners[position])))
            .collect();
        let resized = !self.written || owners.len() != self.owners.len();
        // No longer than the span, whose length is a u32.
        let length = u32::try_from(owners.len()).unwrap_or(self.span.length);
        self.owners = owners;
        self.written = true;
        let order = RingSpan { base: self.span.base, length };
        Changed { slots, order: resized.then_some(order) }
    }
}

/// The shortest order in which every candidate comes as often as its weight says, or as much of it
/// as there is room for; candidates without weight have no turn.
pub fn order(candidates: &[Candidate], room: u32) -> Vec<u16> {
    let divisor = candidates.iter().map(|candidate| candidate.weight).fold(0, gcd).max(1);
    let period: u64 = candidates.iter().map(|c| u64::from(c.weight / divisor)).sum();
    let length = usize::try_from(period.min(u64::from(room))).unwrap_or(usize::MAX);
    let mut waiting: BinaryHeap<Reverse<Turn>> = candidates
        .iter()
        .filter(|candidate| candidate.weight > 0)
        .map(|candidate| Reverse(Turn::first(candidate)))
        .collect();
    let mut owners = Vec::with_capacity(length);
    while owners.len() < length
        && let Some(Reverse(turn)) = waiting.pop()
    {
        owners.push(turn.number);
        waiting.push(Reverse(turn.next()));
    }
    owners
}

/// A backend's next turn. It comes at the times 1/2, 3/2, 5/2 … divided by its weight; whose time
/// comes first is first, and the lower identity if two have the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Turn {
    time: u64,
    identity: u64,
    step: u64,
    number: u16,
}

impl Turn {
    fn first(candidate: &Candidate) -> Self {
        // Of a fixed point far below the shortest step, 1/512, and far above the longest order.
        let step = (1 << 40) / u64::from(candidate.weight);
        Self { time: step / 2, identity: candidate.identity, step, number: candidate.number }
    }

    fn next(self) -> Self {
        Self { time: self.time + self.step, ..self }
    }
}

fn gcd(a: u16, b: u16) -> u16 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidates(weights: &[u16]) -> Vec<Candidate> {
        (0..)
            .zip(weights)
            .map(|(number, weight)| Candidate {
                identity: u64::from(number),
                weight: *weight,
                number,
            })
            .collect()
    }

    #[test]
    fn equals_take_one_turn_each() {
        assert_eq!(order(&candidates(&[2, 2, 2]), 1000), [0, 1, 2]);
        assert_eq!(order(&candidates(&[]), 1000), [0; 0]);
        assert_eq!(order(&candidates(&[0, 4, 0]), 1000), [1]);
    }

    #[test]
    fn weights_are_kept_and_spread() {
        assert_eq!(order(&candidates(&[6, 2]), 1000), [0, 0, 1, 0]);
        let weights = [256, 7, 100, 1];
        let order = order(&candidates(&weights), 1000);
        for (number, weight) in (0..).zip(weights) {
            let turns: Vec<usize> =
                (0..order.len()).filter(|position| order[*position] == number).collect();
            assert_eq!(turns.len(), usize::from(weight));
            let longest = turns.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or(0);
            assert!(longest <= order.len().div_ceil(turns.len()) + weights.len(), "{longest}");
        }
    }

    #[test]
    fn without_room_for_all_turns_shares_stay_near() {
        let order = order(&candidates(&[255, 256, 128]), 101);
        let turns = |number| order.iter().filter(|n| **n == number).count();
        assert_eq!(order.len(), 101);
        assert_eq!([turns(0), turns(1), turns(2)].map(|n| n.abs_diff(40) < 2), [true, true, false]);
    }

    #[test]
    fn what_stays_is_not_written_again() {
        let mut rotation = Rotation::new(RingSpan { base: 32, length: 16 });
        let changed = rotation.set(&candidates(&[1, 1]));
        let slots = [(32, Slot::settled(0)), (33, Slot::settled(1))];
        assert_eq!(changed.slots, slots);
        assert_eq!(changed.order, Some(RingSpan { base: 32, length: 2 }));
        assert_eq!(rotation.set(&candidates(&[2, 2])), Changed::default());
        let changed = rotation.set(&candidates(&[1, 0]));
        assert_eq!(changed.slots, []);
        assert_eq!(changed.order, Some(RingSpan { base: 32, length: 1 }));
    }
}
