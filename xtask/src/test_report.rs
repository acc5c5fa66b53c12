//! Counting what test programs report about themselves.

use std::{fmt, ops::AddAssign};

/// Passed and failed tests of one or more suites.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Tally {
    pub(crate) passed: u32,
    pub(crate) failed: u32,
}

impl Tally {
    /// Counts a line of a test program's output, if it is its result.
    pub(crate) fn see(&mut self, line: &str) {
        if let Some(result) = parse(line) {
            *self += result;
        }
    }

    /// Settles the count of a program that ended: one that failed without a failed test crashed,
    /// or was ended for taking too long, and counts as a failure of its own.
    pub(crate) fn ended(&mut self, succeeded: bool) {
        if !succeeded && self.failed == 0 {
            self.failed = 1;
        }
    }
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} passed, {} failed", self.passed, self.failed)
    }
}

/// The counts in `test result: ok. 3 passed; 0 failed; …`.
fn parse(line: &str) -> Option<Tally> {
    let (_verdict, counts) = line.strip_prefix("test result: ")?.split_once(". ")?;
    let mut tally = Tally::default();
    for part in counts.split("; ") {
        match part.split_once(' ') {
            Some((number, "passed")) => tally.passed = number.parse().ok()?,
            Some((number, "failed")) => tally.failed = number.parse().ok()?,
            _ => {}
        }
    }
    Some(tally)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_of_several_programs_add_up() {
        let output = "running 4 tests\ntest a ... ok\n\
            test result: ok. 4 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; \
            finished in 0.00s\n\n\
            test result: FAILED. 2 passed; 1 failed; 3 ignored; 0 measured; 0 filtered out; \
            finished in 0.01s\n";
        let mut tally = Tally::default();
        output.lines().for_each(|line| tally.see(line));
        assert_eq!(tally, Tally { passed: 6, failed: 1 });
        assert_eq!(tally.to_string(), "6 passed, 1 failed");
    }

    #[test]
    fn what_a_test_prints_is_no_result() {
        let mut tally = Tally::default();
        for line in ["test result: ", "the test result: ok. 1 passed; 0 failed", "5 passed"] {
            tally.see(line);
        }
        assert_eq!(tally, Tally::default());
    }

    #[test]
    fn a_crash_counts_once_and_a_failed_test_is_not_counted_twice() {
        let mut crashed = Tally { passed: 0, failed: 0 };
        crashed.ended(false);
        assert_eq!(crashed.failed, 1);
        let mut failed = Tally { passed: 3, failed: 2 };
        failed.ended(false);
        assert_eq!(failed.failed, 2);
        let mut passed = Tally { passed: 3, failed: 0 };
        passed.ended(true);
        assert_eq!(passed.failed, 0);
    }
}
