//! For how long flows that are not known here are sent to the balancer that had the addresses before:
//! without I/O and without a clock.
//!
//! That one recorded flows of which we were not told yet: the latest ones, and, if its daemon is gone
//! while its program forwards on, all of the time since. It is asked until it has told everything,
//! and as long as its host answers probes.

use std::time::Duration;

use super::echo::Liveness;

/// How far ahead the program is told to hand packets on: if this daemon dies, it goes on for so long.
pub const AHEAD: Duration = Duration::from_millis(250);
/// For how long after a peer has told all it had it may still tell of what was on its way: packets
/// that clients or switches sent there meanwhile.
const STRAGGLERS: Duration = Duration::from_secs(1);
/// After this time at the latest an unknown flow is an old one, also where no daemon came back to
/// tell of it.
const LONGEST: Duration = Duration::from_secs(10);

/// The time after a takeover.
#[derive(Debug, Clone, Copy)]
pub struct SecondChance {
    since: Duration,
    /// Since when the peer's daemon lives and has told what it knew.
    told: Option<Duration>,
}

impl SecondChance {
    /// The addresses were taken over at `now`.
    pub fn new(now: Duration) -> Self {
        Self { since: now, told: None }
    }

    /// Whether there may still be flows that the peer knows alone; it is in this state. Packets are sent
    /// to it as long as there may, and it answers.
    pub fn lasts(&mut self, peer: Liveness, lacks_tables: bool, now: Duration) -> bool {
        if peer == Liveness::Alive && !lacks_tables {
            self.told.get_or_insert(now);
        } else {
            self.told = None;
        }
        let tells = self.told.is_none_or(|told| now < told + STRAGGLERS);
        tells && now < self.since + LONGEST
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALIVE: (Liveness, bool) = (Liveness::Alive, false);
    const BEHIND: (Liveness, bool) = (Liveness::Alive, true);
    const DAEMON_GONE: (Liveness, bool) = (Liveness::DaemonGone, false);

    /// When it ends if the peer is in these states from these milliseconds on.
    fn end(states: &[(u64, (Liveness, bool))]) -> u64 {
        let at = |milliseconds| Duration::from_secs(1000) + Duration::from_millis(milliseconds);
        let mut chance = SecondChance::new(at(0));
        let state = |time| states.iter().rfind(|(from, _)| *from <= time).unwrap().1;
        let mut lasts = |time: &u64| {
            let (peer, lacks_tables) = state(*time);
            chance.lasts(peer, lacks_tables, at(*time))
        };
        (0..).step_by(10).find(|time| !lasts(time)).unwrap()
    }

    #[test]
    fn a_peer_that_lives_is_asked_until_its_last_records_are_here() {
        assert_eq!(end(&[(0, ALIVE)]), 1000);
        assert_eq!(end(&[(0, BEHIND), (700, ALIVE)]), 1700);
    }

    #[test]
    fn a_peer_without_daemon_is_asked_until_that_is_back_and_has_told_all() {
        assert_eq!(end(&[(0, ALIVE), (200, DAEMON_GONE), (3000, BEHIND), (3400, ALIVE)]), 4400);
        assert_eq!(end(&[(0, DAEMON_GONE)]), 10_000);
        assert_eq!(end(&[(0, DAEMON_GONE), (9800, ALIVE)]), 10_000);
    }

    #[test]
    fn a_peer_that_comes_back_from_behind_a_cut_is_asked_then() {
        assert_eq!(end(&[(0, (Liveness::Silent, false)), (300, ALIVE)]), 1300);
    }
}
