//! The sum of several runs of one event.

use std::{fmt, time::Duration};

use serde::Serialize;

use super::{Event, Gaps, System};

/// The client's gaps, in the form of `cargo xtask failover --json`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Outcome {
    /// Who shared the VIP.
    pub system: &'static str,
    /// What happened.
    pub event: &'static str,
    /// Between two adverts.
    pub interval_ms: f64,
    /// The middle one of the runs' gaps.
    pub gap_ms_median: f64,
    /// The longest.
    pub gap_ms_worst: f64,
    /// All of them, in the order of the runs.
    pub gaps_ms: Vec<f64>,
    /// The longest time for which the client itself sent nothing: gaps below it can be overlooked,
    /// and a long one tells that the machine was busy with something else.
    pub pause_ms_worst: f64,
}

impl Outcome {
    pub(super) fn new(system: System, event: Event, interval: Duration, runs: &[Gaps]) -> Self {
        let gaps_ms: Vec<_> = runs.iter().map(|run| milliseconds(run.longest)).collect();
        let mut sorted = gaps_ms.clone();
        sorted.sort_by(f64::total_cmp);
        let pauses = runs.iter().map(|run| run.pause);
        Self {
            system: system.name(),
            event: event.name(),
            interval_ms: milliseconds(interval),
            gap_ms_median: sorted.get(sorted.len() / 2).copied().unwrap_or_default(),
            gap_ms_worst: sorted.last().copied().unwrap_or_default(),
            gaps_ms,
            pause_ms_worst: milliseconds(pauses.max().unwrap_or_default()),
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { system, event, interval_ms, gap_ms_median, gap_ms_worst, .. } = self;
        write!(
            f,
            "{system:10}  adverts of {interval_ms:4.0} ms  {event:13}  gap {gap_ms_median:7.1} ms, \
             at worst {gap_ms_worst:7.1} ms  (client's longest pause {:.1} ms)",
            self.pause_ms_worst
        )
    }
}

/// To a tenth: more is noise.
fn milliseconds(time: Duration) -> f64 {
    (time.as_secs_f64() * 10_000.0).round() / 10.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_of_an_odd_number_of_runs() {
        let run = |ms| Gaps { longest: Duration::from_millis(ms), lost: 1, pause: Duration::ZERO };
        let runs = [40, 1, 300, 2, 3].map(run);
        let outcome = Outcome::new(System::Weir, Event::Stop, Duration::from_millis(100), &runs);
        assert_eq!((outcome.gap_ms_median, outcome.gap_ms_worst), (3.0, 300.0));
        assert_eq!(outcome.gaps_ms, [40.0, 1.0, 300.0, 2.0, 3.0]);
    }
}
