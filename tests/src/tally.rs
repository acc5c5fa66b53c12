//! What clients saw: who answered, what failed, and for how long nobody answered.

use std::{
    collections::BTreeMap,
    fmt,
    time::{Duration, Instant},
};

/// How many failures are kept with their times; the rest are only counted.
const KEPT_FAILURES: usize = 1000;

/// The outcome of many requests.
#[derive(Debug, Clone)]
pub struct Tally {
    /// How many requests each backend answered.
    pub answers: BTreeMap<String, u64>,
    /// How many requests got no good answer.
    pub failed: u64,
    /// The first thousand of them.
    pub failures: Vec<Failure>,
    /// The longest time without a good answer, from the start to the end.
    pub longest_gap: Duration,
    /// From the start to the end.
    pub elapsed: Duration,
    start: Instant,
    last_success: Instant,
}

/// A request that failed.
#[derive(Debug, Clone)]
pub struct Failure {
    /// When it failed, after the start.
    pub at: Duration,
    /// How.
    pub error: String,
}

impl Tally {
    pub(crate) fn start() -> Self {
        let now = Instant::now();
        Self {
            answers: BTreeMap::new(),
            failed: 0,
            failures: Vec::new(),
            longest_gap: Duration::ZERO,
            elapsed: Duration::ZERO,
            start: now,
            last_success: now,
        }
    }

    /// Counts the outcome of a request: who answered, or the error.
    pub(crate) fn count<E: fmt::Display>(&mut self, outcome: Result<String, E>, now: Instant) {
        match outcome {
            Ok(name) => {
                *self.answers.entry(name).or_default() += 1;
                self.note_gap(now);
                self.last_success = self.last_success.max(now);
            }
            Err(error) => {
                self.failed += 1;
                if self.failures.len() < KEPT_FAILURES {
                    let at = now.saturating_duration_since(self.start);
                    self.failures.push(Failure { at, error: error.to_string() });
                }
            }
        }
    }

    /// Ends the count: a silence that lasts until now is a gap too.
    pub(crate) fn finish(mut self, now: Instant) -> Self {
        self.note_gap(now);
        self.elapsed = now.saturating_duration_since(self.start);
        self
    }

    /// How many requests were answered, by all backends.
    pub fn answered(&self) -> u64 {
        self.answers.values().sum()
    }

    /// How many requests a backend answered.
    pub fn by(&self, backend: &str) -> u64 {
        self.answers.get(backend).copied().unwrap_or(0)
    }

    fn note_gap(&mut self, now: Instant) {
        self.longest_gap = self.longest_gap.max(now.saturating_duration_since(self.last_success));
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} answered", self.answered())?;
        for (name, number) in &self.answers {
            write!(f, ", {name} {number}")?;
        }
        write!(f, "; {} failed; longest gap {:.1?}", self.failed, self.longest_gap)?;
        if let Some(Failure { at, error }) = self.failures.first() {
            write!(f, "; first failure after {at:.1?}: {error}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_gap_is_between_successes_or_at_the_end() {
        let mut tally = Tally::start();
        let at = |ms| tally.start + Duration::from_millis(ms);
        let (early, failed, late, end) = (at(10), at(50), at(90), at(300));
        let answer = |name: &str| Ok::<_, String>(name.to_owned());
        tally.count(answer("b1"), early);
        tally.count(Err("refused"), failed);
        tally.count(answer("b2"), late);
        assert_eq!(tally.longest_gap, Duration::from_millis(80));

        let tally = tally.finish(end);
        assert_eq!(tally.longest_gap, Duration::from_millis(210));
        assert_eq!((tally.answered(), tally.by("b1"), tally.failed), (2, 1, 1));
        assert_eq!(tally.failures[0].at, Duration::from_millis(50));
    }
}
