//! How often the data plane answers in others' place: a token bucket in one word, for each CPU.
//!
//! The word is the time at which the bucket would be full again (the generic cell rate algorithm of
//! ITU-T I.371 annex A): each answer moves it on, and the clock catches up with it.

/// Nanoseconds in which one more answer becomes possible: 10 000 a second.
const INTERVAL: u64 = 100_000;
/// So many answers are possible at once after a rest.
const BURST: u64 = 1_000;

/// What answers are counted in. A flood of packets that are answered of one bucket leaves the other full.
#[repr(u32)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bucket {
    /// Answers for services without backends.
    Rejected = 0,
    /// Answers to packets that do not fit their tunnel.
    TooBig = 1,
}

impl Bucket {
    /// Both, in the order of their numbers.
    pub const ALL: [Self; 2] = [Self::Rejected, Self::TooBig];
}

/// The bucket's word after one more answer at `now`, in nanoseconds of a clock that never goes back;
/// none if it is empty.
#[inline(always)]
pub const fn after_answer(full_at: u64, now: u64) -> Option<u64> {
    let full_at = if full_at < now { now } else { full_at };
    if full_at - now > (BURST - 1) * INTERVAL { None } else { Some(full_at + INTERVAL) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many of so many attempts succeed.
    fn answers(full_at: &mut u64, now: u64, attempts: u64) -> u64 {
        let mut answers = 0;
        for _ in 0..attempts {
            if let Some(after) = after_answer(*full_at, now) {
                *full_at = after;
                answers += 1;
            }
        }
        answers
    }

    #[test]
    fn a_burst_and_then_the_rate() {
        const SECOND: u64 = 1_000_000_000;
        let mut full_at = 0;
        let start = 77 * SECOND;
        assert_eq!(answers(&mut full_at, start, 5_000), BURST);
        assert_eq!(answers(&mut full_at, start + INTERVAL, 10), 1);
        assert_eq!(answers(&mut full_at, start + 11 * INTERVAL, 100), 10);
        assert_eq!(
            answers(&mut full_at, start + SECOND, 5_000),
            BURST,
            "no more than that is saved"
        );
        // The clock of another boot: nothing is lost by it.
        assert_eq!(answers(&mut u64::MAX.clone(), 0, 1), 0);
        assert_eq!(after_answer(0, u64::MAX - INTERVAL), Some(u64::MAX));
    }
}
