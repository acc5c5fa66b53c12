//! One next hop: what we know of it, and when to have the kernel ask for it.
//!
//! XDP sends past the kernel's stack, so the kernel never sees that a neighbour is in use: it would
//! neither look for a missing one nor notice that a silent one has moved. We ask in its place.

use std::{
    net::IpAddr,
    time::{Duration, Instant},
};

/// How long an entry may be stale before the kernel is told to check it.
const NUDGE: Duration = Duration::from_secs(30);
/// The first and the longest pause between two questions for a neighbour that is silent.
const ASK_FIRST: Duration = Duration::from_secs(1);
const ASK_LONGEST: Duration = Duration::from_secs(30);
/// So many questions without an answer, and a vanished entry's address is no longer trusted. The
/// kernel's own verdict comes earlier (three seconds) unless it refuses to keep an entry at all.
const PATIENCE: u32 = 4;

/// An Ethernet neighbour: a backend on the link, or the gateway to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Hop {
    pub(crate) interface: u32,
    pub(crate) address: IpAddr,
}

/// The kernel's route to an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Route {
    /// Where frames go first.
    pub(crate) hop: Hop,
    /// The address that this host's own packets on this way come from.
    pub(crate) source: Option<IpAddr>,
    /// The largest packet that may go there, where the route says so; else it is the interface's.
    pub(crate) mtu: Option<u32>,
}

/// The state of the kernel's entry for a neighbour, as far as it matters here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Neighbour {
    /// Usable; the kernel checks it by itself, or it needs no check (permanent entries).
    Kept([u8; 6]),
    /// Usable, but unchecked until somebody uses it.
    Stale([u8; 6]),
    /// Being resolved.
    Incomplete,
    /// Did not answer.
    Failed,
}

/// What frames to a hop can be addressed to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Known {
    /// Asked, no answer yet.
    Nothing,
    /// This address.
    Mac([u8; 6]),
    /// It did not answer.
    Failed,
    /// The kernel would not ask; why.
    Refused(String),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Need {
    /// The kernel keeps the entry, or nobody could answer.
    Nothing,
    /// Check it now and then.
    Nudge,
    /// Find it.
    Ask,
}

/// The pursuit of one hop's address.
#[derive(Debug)]
pub(super) struct Pursuit {
    known: Known,
    need: Need,
    /// Questions since the need arose.
    asked: u32,
    due: Option<Instant>,
}

impl Pursuit {
    pub(super) fn new() -> Self {
        Self { known: Known::Nothing, need: Need::Nothing, asked: 0, due: None }
    }

    pub(super) fn known(&self) -> &Known {
        &self.known
    }

    /// When to ask next.
    pub(super) fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Takes in the kernel's entry. `usable` says whether the interface can send at all; while it
    /// cannot, what was known is void and there is nobody to ask.
    pub(super) fn observe(&mut self, usable: bool, entry: Option<Neighbour>, now: Instant) {
        let need = match entry {
            _ if !usable => {
                self.known = Known::Nothing;
                Need::Nothing
            }
            Some(Neighbour::Kept(mac)) => {
                self.known = Known::Mac(mac);
                Need::Nothing
            }
            Some(Neighbour::Stale(mac)) => {
                self.known = Known::Mac(mac);
                Need::Nudge
            }
            Some(Neighbour::Failed) => {
                self.known = Known::Failed;
                Need::Ask
            }
            // What we know stands until the kernel has tried in vain: it drops entries merely for
            // want of room, and no packet should be lost to that.
            Some(Neighbour::Incomplete) | None => Need::Ask,
        };
        if need != self.need {
            self.need = need;
            self.asked = 0;
            self.due = match need {
                Need::Nothing => None,
                Need::Nudge => Some(now + NUDGE),
                Need::Ask => Some(now),
            };
        }
    }

    /// Takes in that the kernel was told to ask, or why it would not.
    pub(super) fn asked(&mut self, outcome: Result<(), String>, now: Instant) {
        match self.need {
            Need::Nothing => {}
            Need::Nudge => self.due = Some(now + NUDGE),
            Need::Ask => {
                self.due = Some(now + backoff(self.asked));
                self.asked = self.asked.saturating_add(1);
                let trusted = matches!(self.known, Known::Mac(_)) && self.asked < PATIENCE;
                match outcome {
                    Err(reason) if !trusted => self.known = Known::Refused(reason),
                    Ok(()) if matches!(self.known, Known::Mac(_)) && !trusted => {
                        self.known = Known::Failed;
                    }
                    _ => {}
                }
            }
        }
    }
}

/// 1, 2, 4, … 30 s.
fn backoff(asked: u32) -> Duration {
    ASK_FIRST.saturating_mul(1 << asked.min(5)).min(ASK_LONGEST)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];

    fn pursuit(entry: Option<Neighbour>, now: Instant) -> Pursuit {
        let mut pursuit = Pursuit::new();
        pursuit.observe(true, entry, now);
        pursuit
    }

    #[test]
    fn a_missing_neighbour_is_asked_for_at_once_and_then_ever_more_rarely() {
        let mut now = Instant::now();
        let mut pursuit = pursuit(None, now);
        let mut pauses = Vec::new();
        assert_eq!(pursuit.due(), Some(now));
        for _ in 0..8 {
            pursuit.asked(Ok(()), now);
            // The kernel tries and gives up each time; that is no news.
            pursuit.observe(true, Some(Neighbour::Incomplete), now);
            pursuit.observe(true, Some(Neighbour::Failed), now);
            let due = pursuit.due().expect("never gives up");
            pauses.push((due - now).as_secs());
            now = due;
        }
        assert_eq!(pauses, [1, 2, 4, 8, 16, 30, 30, 30]);
        assert_eq!(*pursuit.known(), Known::Failed);
    }

    #[test]
    fn a_stale_neighbour_is_usable_and_nudged_every_half_minute() {
        let start = Instant::now();
        let mut pursuit = pursuit(Some(Neighbour::Stale(MAC)), start);
        assert_eq!(*pursuit.known(), Known::Mac(MAC));
        assert_eq!(pursuit.due(), Some(start + NUDGE));
        // News of the same state does not put the check off.
        pursuit.observe(true, Some(Neighbour::Stale(MAC)), start + NUDGE / 2);
        assert_eq!(pursuit.due(), Some(start + NUDGE));
        pursuit.asked(Ok(()), start + NUDGE);
        assert_eq!(pursuit.due(), Some(start + 2 * NUDGE));
        pursuit.observe(true, Some(Neighbour::Kept(MAC)), start + NUDGE);
        assert_eq!(pursuit.due(), None, "the kernel checks it by itself now");
    }

    #[test]
    fn a_neighbour_that_failed_is_lost_and_asked_for_at_once() {
        let now = Instant::now();
        let mut pursuit = pursuit(Some(Neighbour::Kept(MAC)), now);
        pursuit.observe(true, Some(Neighbour::Failed), now);
        assert_eq!(*pursuit.known(), Known::Failed);
        assert_eq!(pursuit.due(), Some(now));
    }

    #[test]
    fn an_entry_dropped_for_want_of_room_keeps_its_address_while_it_is_asked_for() {
        let now = Instant::now();
        let mut pursuit = pursuit(Some(Neighbour::Stale(MAC)), now);
        pursuit.observe(true, None, now);
        assert_eq!(*pursuit.known(), Known::Mac(MAC));
        assert_eq!(pursuit.due(), Some(now));
        for _ in 1..PATIENCE {
            pursuit.asked(Err("table full".to_owned()), now);
            assert_eq!(*pursuit.known(), Known::Mac(MAC));
        }
        pursuit.asked(Err("table full".to_owned()), now);
        assert_eq!(*pursuit.known(), Known::Refused("table full".to_owned()));
    }

    #[test]
    fn over_an_interface_that_is_down_nothing_is_known_and_nobody_asked() {
        let now = Instant::now();
        let mut pursuit = pursuit(Some(Neighbour::Kept(MAC)), now);
        pursuit.observe(false, Some(Neighbour::Kept(MAC)), now);
        assert_eq!((pursuit.known(), pursuit.due()), (&Known::Nothing, None));
    }

    #[test]
    fn a_refusal_is_the_reason_until_an_answer_comes() {
        let now = Instant::now();
        let mut pursuit = pursuit(None, now);
        pursuit.asked(Err("needs CAP_NET_ADMIN".to_owned()), now);
        assert_eq!(*pursuit.known(), Known::Refused("needs CAP_NET_ADMIN".to_owned()));
        pursuit.observe(true, Some(Neighbour::Kept(MAC)), now);
        assert_eq!(*pursuit.known(), Known::Mac(MAC));
    }
}
