//! Counts by backend number, in a flat table: this is asked for every slot of a ring, between a
//! fault and its repair.
//!
//! The table spans the numbers in use. Those of one service were given out together for the most
//! part, so it is short, however many backends there are.

use lb_common::slot::Slot;

/// How often each number was counted.
#[derive(Debug)]
pub(super) struct Tally {
    first: u16,
    counts: Vec<u32>,
}

impl Tally {
    /// A tally for numbers from the lowest of these to the highest, none counted yet.
    /// [`Slot::NONE`] is nobody's.
    pub(super) fn spanning(numbers: impl Iterator<Item = u16>) -> Self {
        let some = numbers.filter(|number| *number != Slot::NONE);
        let (first, last) =
            some.fold((u16::MAX, 0), |(low, high), number| (low.min(number), high.max(number)));
        let length = usize::from(last.saturating_sub(first)) + usize::from(first <= last);
        Self { first, counts: vec![0; length] }
    }

    /// Counts a number, if it is in the span.
    pub(super) fn add(&mut self, number: u16) {
        if let Some(count) = self.position(number).and_then(|at| self.counts.get_mut(at)) {
            *count += 1;
        }
    }

    /// How often a number was counted.
    pub(super) fn of(&self, number: u16) -> u32 {
        self.position(number).and_then(|at| self.counts.get(at)).copied().unwrap_or(0)
    }

    /// The numbers that were counted, and how often.
    pub(super) fn counted(&self) -> impl Iterator<Item = (u16, u32)> {
        let all = (self.first..=u16::MAX).zip(self.counts.iter().copied());
        all.filter(|(_, count)| *count > 0)
    }

    fn position(&self, number: u16) -> Option<usize> {
        number.checked_sub(self.first).map(usize::from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_within_the_span_are_counted() {
        let mut tally = Tally::spanning([20_005, Slot::NONE, 20_000].into_iter());
        for number in [20_005, 20_003, 20_005, Slot::NONE, 19_999, 20_006, 0] {
            tally.add(number);
        }
        assert_eq!([20_000, 20_003, 20_005, 7].map(|number| tally.of(number)), [0, 1, 2, 0]);
        assert_eq!(tally.counted().collect::<Vec<_>>(), [(20_003, 1), (20_005, 2)]);
    }

    #[test]
    fn a_span_of_nothing_counts_nothing() {
        let mut tally = Tally::spanning([Slot::NONE].into_iter());
        tally.add(Slot::NONE);
        tally.add(0);
        assert_eq!(tally.counted().count(), 0);
        let mut single = Tally::spanning([7].into_iter());
        single.add(7);
        assert_eq!(single.of(7), 1);
    }
}
