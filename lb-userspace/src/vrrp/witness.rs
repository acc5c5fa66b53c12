//! Witnesses: hosts that tell "the peer is gone" from "I am cut off". Without I/O and without a
//! clock.
//!
//! Each is pinged on a steady beat, and faster while an instance waits for an answer. What an
//! answer proves, it proves of the time when its ping was sent.

use std::{collections::VecDeque, time::Duration};

/// Between two pings of a witness.
const CALM: Duration = Duration::from_millis(250);
/// The same while an instance waits for an answer.
const URGENT: Duration = Duration::from_millis(20);
/// How long a master keeps the addresses without a sign of a peer or a witness: four pings.
pub const PATIENCE: Duration = Duration::from_secs(1);
/// Pings that may wait for their answers.
const WAITING_MAX: usize = 64;

/// What a ping carries, so that its answer is known for one: an echo's identifier and sequence
/// number (RFC 792), and what nobody can guess.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ping {
    /// The identifier.
    pub id: u16,
    /// The sequence number.
    pub sequence: u16,
    /// The data.
    pub cookie: u64,
}

/// The pings of one witness.
#[derive(Debug, Clone)]
pub struct Witness {
    /// The last ping, or what it will be counted on from.
    last: Ping,
    sent: Option<Duration>,
    next: Duration,
    /// Pings without an answer, with the times when they were sent.
    waiting: VecDeque<(Ping, Duration)>,
    /// When the latest ping was sent that was answered.
    seen: Option<Duration>,
}

impl Witness {
    /// A witness that is to be pinged now, counted on from a ping made at random.
    pub fn new(random: Ping, now: Duration) -> Self {
        Self { last: random, sent: None, next: now, waiting: VecDeque::new(), seen: None }
    }

    /// When [`Witness::tick`] is due; sooner if an instance waits for an answer.
    pub fn deadline(&self, urgent: bool) -> Duration {
        match self.sent {
            Some(sent) if urgent => self.next.min(sent + URGENT),
            _ => self.next,
        }
    }

    /// An instance waits for an answer: one that was sent before does not count.
    pub fn ask(&mut self, now: Duration) {
        self.next = self.next.min(now);
    }

    /// Time has passed: returns the ping that is to be sent now, if one is due.
    pub fn tick(&mut self, urgent: bool, now: Duration) -> Option<Ping> {
        if now < self.deadline(urgent) {
            return None;
        }
        (self.sent, self.next) = (Some(now), now + CALM);
        self.last.sequence = self.last.sequence.wrapping_add(1);
        self.last.cookie = self.last.cookie.wrapping_add(1);
        if self.waiting.len() == WAITING_MAX {
            self.waiting.pop_front();
        }
        self.waiting.push_back((self.last, now));
        Some(self.last)
    }

    /// An answer has come: returns when its ping was sent, if it is one of ours.
    pub fn answered(&mut self, ping: Ping) -> Option<Duration> {
        let position = self.waiting.iter().position(|(each, _)| *each == ping)?;
        let (_, sent) = self.waiting[position];
        self.waiting.drain(..=position);
        self.seen = self.seen.max(Some(sent));
        Some(sent)
    }

    /// Whether it answers at the moment.
    pub fn answers(&self, now: Duration) -> bool {
        self.seen.is_some_and(|seen| now < seen + PATIENCE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RANDOM: Ping = Ping { id: 7, sequence: u16::MAX, cookie: u64::MAX };

    fn at(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    /// The times at which pings go out.
    fn beat(witness: &mut Witness, urgent: bool, until: Duration) -> Vec<u128> {
        let mut times = Vec::new();
        while witness.deadline(urgent) < until {
            let now = witness.deadline(urgent);
            assert_eq!(witness.tick(urgent, now.saturating_sub(at(1))), None);
            assert!(witness.tick(urgent, now).is_some());
            times.push(now.as_millis());
        }
        times
    }

    #[test]
    fn pings_go_out_on_a_beat_and_faster_when_somebody_waits() {
        let mut witness = Witness::new(RANDOM, at(1000));
        assert_eq!(beat(&mut witness, false, at(1600)), [1000, 1250, 1500]);
        assert_eq!(beat(&mut witness, true, at(1580)), [1520, 1540, 1560]);
        witness.ask(at(1565));
        assert!(witness.tick(true, at(1565)).is_some());
        assert_eq!(witness.deadline(false), at(1815));
    }

    #[test]
    fn an_answer_proves_the_time_of_its_ping_and_nothing_else_is_an_answer() {
        let mut witness = Witness::new(RANDOM, at(1000));
        let first = witness.tick(false, at(1000)).unwrap();
        let second = witness.tick(false, at(1250)).unwrap();
        assert_eq!((first.sequence, first.cookie), (0, 0));
        assert_eq!(witness.answered(Ping { id: 8, ..second }), None);
        assert_eq!(witness.answered(Ping { cookie: 5, ..second }), None);
        assert!(!witness.answers(at(1260)));
        assert_eq!(witness.answered(second), Some(at(1250)));
        // Answered, or older than one that was.
        assert_eq!((witness.answered(second), witness.answered(first)), (None, None));
        assert!(witness.answers(at(2249)) && !witness.answers(at(2250)));
    }

    #[test]
    fn a_witness_that_never_answers_costs_little() {
        let mut witness = Witness::new(RANDOM, at(0));
        for step in 0..10_000 {
            let _ = witness.tick(true, at(20 * step));
        }
        assert_eq!(witness.waiting.len(), WAITING_MAX);
    }
}
