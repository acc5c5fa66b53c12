//! The daemon's one clock: the core has none of its own, so every edge stamps what it saw. And the
//! beat by which what is repeated is.

use std::time::{Duration, Instant, SystemTime};

use tokio::time::{Interval, MissedTickBehavior, interval};

use crate::core::Now;

/// Reads the time. Made once, at the daemon's start, and handed to every edge, so that their
/// monotonic times share one origin and can be compared.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    started: Instant,
}

impl Clock {
    /// Makes the clock; its monotonic time starts here.
    pub fn start() -> Self {
        Self { started: Instant::now() }
    }

    /// The present moment.
    pub fn now(&self) -> Now {
        Now { monotonic: self.started.elapsed(), wall: SystemTime::now() }
    }
}

/// Ticks at once, and then each time that a period has gone by: after a late tick, its whole period, so
/// that what was missed is not made up for in a burst.
///
/// # Panics
///
/// The period is zero, or there is no runtime.
pub fn every(period: Duration) -> Interval {
    let mut beat = interval(period);
    beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    beat
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_share_one_origin() {
        let clock = Clock::start();
        let copy = clock;
        let (first, second) = (clock.now(), copy.now());
        assert!(first.monotonic <= second.monotonic);
        assert!(second.monotonic <= clock.now().monotonic);
    }
}
