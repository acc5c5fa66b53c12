//! When a check runs: a fixed beat, entered at a random moment, each check a little off it.
//!
//! Times are offsets from the moment the target's task began, and random numbers come in as
//! arguments, so that all of this is plain arithmetic.

use std::time::Duration;

/// The longest wait for a first check: a new backend should not wait long to be known, and a
/// thousand of them within a second are one a millisecond.
const MAX_FIRST_DELAY: Duration = Duration::from_secs(1);

/// How far a check may be off its beat, as a part of the interval, to either side. Keeps balancers
/// and targets that once fell into step from staying in step.
const JITTER: f64 = 0.05;

/// The starts of one target's checks.
#[derive(Debug)]
pub(super) struct Schedule {
    interval: Duration,
    /// The beat that comes next, without its jitter, so that no jitter adds up.
    beat: Duration,
    /// Whether the next check is the first one.
    first: bool,
}

impl Schedule {
    /// A schedule whose first check is put off by the part `delay` (0 to 1) of the interval, or of
    /// a second if that is shorter.
    pub(super) fn new(interval: Duration, delay: f64) -> Self {
        // An interval of nothing would be a busy loop.
        let interval = interval.max(Duration::from_millis(1));
        Self { interval, beat: interval.min(MAX_FIRST_DELAY).mul_f64(delay), first: true }
    }

    /// When the next check starts, asked at `now`, when the one before is over. `jitter` is from 0
    /// to 1, its middle being on the beat.
    ///
    /// A moment in the past means at once. Who comes up to half an interval late still gets that
    /// beat; beats missed by more are left out, so that checks never pile up.
    pub(super) fn next(&mut self, now: Duration, jitter: f64) -> Duration {
        let late = now.saturating_sub(self.beat);
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "saturates")]
        let missed = late.div_duration_f64(self.interval).round() as u32;
        let beat = self.beat.saturating_add(self.interval.saturating_mul(missed));
        self.beat = beat.saturating_add(self.interval);

        if std::mem::take(&mut self.first) {
            return beat; // is random already
        }
        let earliest = beat.saturating_sub(self.interval.mul_f64(JITTER));
        earliest.saturating_add(self.interval.mul_f64(2.0 * JITTER * jitter))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTERVAL: Duration = Duration::from_secs(3);
    const MIDDLE: f64 = 0.5;

    fn close(a: Duration, b: Duration) -> bool {
        a.abs_diff(b) < Duration::from_micros(1)
    }

    #[test]
    fn a_thousand_first_checks_are_spread_over_a_second() {
        let mut starts: Vec<Duration> = (0..1000)
            .map(|_| Schedule::new(INTERVAL, rand::random()).next(Duration::ZERO, MIDDLE))
            .collect();
        starts.sort();
        assert!(starts[999] < MAX_FIRST_DELAY);
        // 50 are expected in 50 ms; 120 would be ten standard deviations above that.
        let crowded = |w: &[Duration]| w[119].abs_diff(w[0]) < Duration::from_millis(50);
        assert!(!starts.windows(120).any(crowded));
    }

    #[test]
    fn the_first_check_of_a_short_interval_comes_within_it() {
        let interval = Duration::from_millis(100);
        assert!(Schedule::new(interval, 0.999).next(Duration::ZERO, MIDDLE) < interval);
    }

    #[test]
    fn jitter_is_five_percent_and_does_not_drift() {
        for (jitter, off) in [(0.0, 0.95), (1.0, 1.05), (MIDDLE, 1.0)] {
            let mut schedule = Schedule::new(INTERVAL, 0.0);
            let mut now = schedule.next(Duration::ZERO, jitter);
            for beat in 1..10_000_u32 {
                let due = schedule.next(now, jitter);
                let expected = INTERVAL * (beat - 1) + INTERVAL.mul_f64(off);
                assert!(close(due, expected), "beat {beat}: {due:?}, not {expected:?}");
                now = due + Duration::from_millis(1);
            }
        }
    }

    #[test]
    fn a_check_that_takes_its_whole_interval_is_followed_at_once() {
        let mut schedule = Schedule::new(INTERVAL, 0.0);
        let start = schedule.next(Duration::ZERO, MIDDLE);
        // It ends late by jitter and scheduling; the next one is due a little earlier.
        let end = start + INTERVAL + Duration::from_millis(200);
        let next = schedule.next(end, 0.0);
        assert!(next < end);
        assert!(close(next, INTERVAL.mul_f64(0.95)));
    }

    #[test]
    fn missed_beats_are_left_out_and_the_beat_is_kept() {
        let mut schedule = Schedule::new(INTERVAL, 0.5);
        let start = schedule.next(Duration::ZERO, MIDDLE);
        let next = schedule.next(start + INTERVAL.mul_f64(7.7), MIDDLE);
        assert!(close(next, start + INTERVAL * 8));
        assert!(close(schedule.next(next, MIDDLE), start + INTERVAL * 9));
    }

    #[test]
    fn extremes_do_not_panic() {
        let mut never = Schedule::new(Duration::MAX, 1.0);
        never.next(Duration::MAX, 1.0);
        let mut always = Schedule::new(Duration::ZERO, 1.0);
        always.next(Duration::MAX, 1.0);
        assert!(always.next(Duration::MAX, 1.0) > Duration::ZERO);
    }
}
