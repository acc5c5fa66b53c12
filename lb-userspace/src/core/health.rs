//! From single checks to a verdict: `rise` and `fall`.

use super::{HealthReport, Now};

/// What the checks say of a backend.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Health {
    /// Not checked yet: the first check decides, whatever `rise` and `fall` say.
    Unchecked,
    /// The last check passed.
    Up,
    /// It was up, and the last checks failed, fewer than `fall`.
    Suspect {
        /// Failed checks in a row.
        failures: u32,
        /// When the first of them began.
        began: Now,
    },
    /// It failed.
    Down {
        /// Passed checks in a row since, fewer than `rise`.
        passes: u32,
        /// When the first of them began, if there is one.
        began: Option<Now>,
    },
}

impl Health {
    /// Whether the backend may get traffic.
    pub fn serves(&self) -> bool {
        matches!(self, Self::Up | Self::Suspect { .. })
    }

    /// The verdict after one more check, and when the run of checks that led to it began.
    pub fn after(&self, report: &HealthReport, rise: u32, fall: u32) -> (Self, Now) {
        if report.outcome.is_ok() {
            self.after_pass(report.started, rise)
        } else {
            self.after_failure(report.started, fall)
        }
    }

    fn after_pass(&self, started: Now, rise: u32) -> (Self, Now) {
        match self {
            Self::Down { passes, began } => {
                let (passes, began) = (passes + 1, began.unwrap_or(started));
                if passes >= rise {
                    return (Self::Up, began);
                }
                (Self::Down { passes, began: Some(began) }, began)
            }
            Self::Unchecked | Self::Up | Self::Suspect { .. } => (Self::Up, started),
        }
    }

    fn after_failure(&self, started: Now, fall: u32) -> (Self, Now) {
        let down = Self::Down { passes: 0, began: None };
        let (failures, began) = match self {
            Self::Unchecked | Self::Down { .. } => return (down, started),
            Self::Up => (1, started),
            Self::Suspect { failures, began } => (failures + 1, *began),
        };
        if failures >= fall {
            return (down, began);
        }
        (Self::Suspect { failures, began }, began)
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;
    use crate::{config::Name, core::BackendId};

    fn at(seconds: u64) -> Now {
        let monotonic = Duration::from_secs(seconds);
        Now { monotonic, wall: UNIX_EPOCH + monotonic }
    }

    /// Feeds checks, one a second, and returns the verdicts: u, s, d.
    fn verdicts(start: Health, checks: &str, rise: u32, fall: u32) -> String {
        let name = Name::new("x").unwrap();
        let mut health = start;
        let mut verdicts = String::new();
        for (second, check) in (0..).zip(checks.chars()) {
            let outcome = if check == '+' { Ok(()) } else { Err("refused".to_owned()) };
            let id = BackendId { service: name.clone(), backend: name.clone() };
            let report = HealthReport { id, outcome, started: at(second), finished: at(second) };
            health = health.after(&report, rise, fall).0;
            verdicts.push(match health {
                Health::Unchecked => '?',
                Health::Up => 'u',
                Health::Suspect { .. } => 's',
                Health::Down { .. } => 'd',
            });
        }
        verdicts
    }

    #[test]
    fn fall_failures_in_a_row_take_it_out_and_rise_passes_bring_it_back() {
        assert_eq!(verdicts(Health::Up, "--+---+-++", 2, 3), "ssussddddu");
    }

    #[test]
    fn the_first_check_decides_at_once() {
        assert_eq!(verdicts(Health::Unchecked, "+", 5, 5), "u");
        assert_eq!(verdicts(Health::Unchecked, "-+", 2, 5), "dd");
    }

    #[test]
    fn detection_counts_from_the_first_failed_check() {
        let name = Name::new("x").unwrap();
        let failure = |second| HealthReport {
            id: BackendId { service: name.clone(), backend: name.clone() },
            outcome: Err("refused".into()),
            started: at(second),
            finished: at(second + 1),
        };
        let (suspect, _) = Health::Up.after(&failure(10), 2, 2);
        let (down, began) = suspect.after(&failure(13), 2, 2);
        assert_eq!((down, began), (Health::Down { passes: 0, began: None }, at(10)));
    }
}
