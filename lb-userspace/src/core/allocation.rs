//! Numbers of backends and services, and spans of the ring map: who has which.
//!
//! What is given back may still be in the hands of a packet that the kernel is handling. It rests
//! until a grace period has passed: the caller makes one happen ([`super::Write::Grace`]) when
//! only resting ones are left.

use std::collections::BTreeSet;

use lb_common::layout::{RingSpan, SLOTS_PER_LINE};

/// Something was to be had only after a grace period, or not at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shortage {
    /// Call [`Numbers::release`] or [`Spans::release`] after a grace period, then ask again.
    Resting,
    /// All are in use.
    Full,
}

/// Small numbers, the lowest free one first.
#[derive(Debug, Clone)]
pub struct Numbers {
    limit: u32,
    /// Every number from here on is free.
    next: u32,
    free: BTreeSet<u32>,
    resting: BTreeSet<u32>,
}

/// Spans of ring slots, first fit, each a whole number of lines.
#[derive(Debug, Clone)]
pub struct Spans {
    limit: u32,
    used: BTreeSet<(u32, u32)>,
    resting: BTreeSet<(u32, u32)>,
}

// === impl Numbers ===

impl Numbers {
    /// The numbers below `limit`, all free.
    pub fn new(limit: u32) -> Self {
        Self { limit, next: 0, free: BTreeSet::new(), resting: BTreeSet::new() }
    }

    /// Marks a number as in use, as an earlier run left it; false if it is in use already or out
    /// of range.
    pub fn adopt(&mut self, number: u32) -> bool {
        if number >= self.limit {
            return false;
        }
        while self.next <= number {
            self.free.insert(self.next);
            self.next += 1;
        }
        self.free.remove(&number)
    }

    /// Takes a number.
    ///
    /// # Errors
    ///
    /// [`Shortage`] if none is free.
    pub fn take(&mut self) -> Result<u32, Shortage> {
        if let Some(number) = self.free.pop_first() {
            return Ok(number);
        }
        if self.next < self.limit {
            self.next += 1;
            return Ok(self.next - 1);
        }
        Err(if self.resting.is_empty() { Shortage::Full } else { Shortage::Resting })
    }

    /// Gives a number back, to rest.
    pub fn give_back(&mut self, number: u32) {
        self.resting.insert(number);
    }

    /// A grace period has passed: what rested is free.
    pub fn release(&mut self) {
        self.free.append(&mut self.resting);
    }
}

// === impl Spans ===

impl Spans {
    /// A ring map of `limit` slots, all free.
    pub fn new(limit: u32) -> Self {
        Self { limit, used: BTreeSet::new(), resting: BTreeSet::new() }
    }

    /// Marks a span as in use, as an earlier run left it; false if it overlaps another or is out
    /// of range.
    pub fn adopt(&mut self, span: RingSpan) -> bool {
        let (start, end) = bounds(span);
        let overlaps = self.used.iter().any(|(s, e)| start < *e && *s < end);
        if overlaps || end > self.limit || !span.base.is_multiple_of(SLOTS_PER_LINE) {
            return false;
        }
        self.used.insert((start, end))
    }

    /// Takes a span of `length` slots.
    ///
    /// # Errors
    ///
    /// [`Shortage`] if no gap is wide enough.
    pub fn take(&mut self, length: u32) -> Result<RingSpan, Shortage> {
        if let Some(base) = first_gap(self.used.union(&self.resting), length, self.limit) {
            let span = RingSpan { base, length };
            self.used.insert(bounds(span));
            return Ok(span);
        }
        let after_rest = first_gap(self.used.iter(), length, self.limit);
        Err(if after_rest.is_some() { Shortage::Resting } else { Shortage::Full })
    }

    /// Gives a span back, to rest.
    pub fn give_back(&mut self, span: RingSpan) {
        if self.used.remove(&bounds(span)) {
            self.resting.insert(bounds(span));
        }
    }

    /// A grace period has passed: what rested is free.
    pub fn release(&mut self) {
        self.resting.clear();
    }
}

/// First and one past the last slot of a span, in whole lines.
fn bounds(span: RingSpan) -> (u32, u32) {
    (span.base, span.base + span.length.next_multiple_of(SLOTS_PER_LINE))
}

fn first_gap<'a>(
    taken: impl Iterator<Item = &'a (u32, u32)>,
    length: u32,
    limit: u32,
) -> Option<u32> {
    let needed = length.next_multiple_of(SLOTS_PER_LINE);
    let mut base = 0;
    for (start, end) in taken {
        if start - base >= needed {
            return Some(base);
        }
        base = *end;
    }
    (limit.saturating_sub(base) >= needed).then_some(base)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_given_back_rests_until_released() {
        let mut numbers = Numbers::new(2);
        assert_eq!((numbers.take(), numbers.take()), (Ok(0), Ok(1)));
        assert_eq!(numbers.take(), Err(Shortage::Full));
        numbers.give_back(0);
        assert_eq!(numbers.take(), Err(Shortage::Resting));
        numbers.release();
        assert_eq!(numbers.take(), Ok(0));
    }

    #[test]
    fn adopted_numbers_are_not_given_out() {
        let mut numbers = Numbers::new(4);
        assert!(numbers.adopt(2));
        assert!(!numbers.adopt(2) && !numbers.adopt(4));
        assert_eq!([numbers.take(), numbers.take(), numbers.take()], [Ok(0), Ok(1), Ok(3)]);
    }

    #[test]
    fn spans_start_on_lines_and_fill_gaps() {
        let mut spans = Spans::new(64);
        let first = spans.take(17).unwrap();
        let second = spans.take(16).unwrap();
        assert_eq!((first.base, second.base), (0, 32));
        assert_eq!(spans.take(17), Err(Shortage::Full));
        spans.give_back(first);
        assert_eq!(spans.take(32), Err(Shortage::Resting));
        assert_eq!(spans.take(16).unwrap().base, 48, "what is free already comes first");
        spans.release();
        assert_eq!(spans.take(32).unwrap().base, 0);
    }

    #[test]
    fn an_adopted_span_must_fit() {
        let mut spans = Spans::new(64);
        assert!(spans.adopt(RingSpan { base: 16, length: 17 }));
        assert!(!spans.adopt(RingSpan { base: 32, length: 1 }), "overlap");
        assert!(!spans.adopt(RingSpan { base: 1, length: 1 }), "within a line");
        assert!(!spans.adopt(RingSpan { base: 48, length: 17 }), "beyond the end");
    }
}
