//! Probing another router's host, apart from its adverts: without I/O and without a clock.
//!
//! The host's XDP program answers by itself (see [`lb_common::echo`]), so an answer says that the
//! host forwards, and how long ago its daemon gave a sign of life. Three probes in a row without an
//! answer say that the host is gone: [`Silence`], which ends a backup's wait for its adverts.
//!
//! What must not be taken for silence:
//!
//! - *A host that never answered*: it runs another program, or none.
//! - *A stall of our own*: whoever comes late to send a probe counts none of those before it. What
//!   has arrived meanwhile was taken in first.

use std::{collections::VecDeque, time::Duration};

use lb_common::echo::{EchoKey, Message, NEVER, Responder};
use serde::{Deserialize, Serialize};

use crate::dataplane::{Heart, Predecessor};

/// Lost probes that make a silence, and answers in a row that make an end of it.
const PROOF: usize = 3;
/// How many times less often a host is probed that does not answer.
const SLOWER: u32 = 10;
/// Probes that may wait for their answers.
const WAITING_MAX: usize = 128;
/// A heartbeat that is older says that the daemon is gone: so many probes' time, at least this.
const STALE_PROBES: u32 = 10;
const STALE_LEAST: Duration = Duration::from_millis(200);

/// How this node probes, and answers.
#[derive(Debug, Clone)]
pub struct Echo {
    /// Time between two probes of a host.
    pub interval: Duration,
    /// The UDP port, the same on every node.
    pub port: u16,
    /// This node's number.
    pub node: u64,
    /// The peers' key.
    pub key: EchoKey,
    /// Where this daemon's own sign of life goes.
    pub heart: Heart,
    /// Where it stands which peer may know flows that are not known here.
    pub predecessor: Predecessor,
}

/// What is known of a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Liveness {
    /// It has not answered yet: its adverts alone say whether it lives.
    #[default]
    Unknown,
    /// Host and daemon live.
    Alive,
    /// The host forwards, its daemon is gone.
    DaemonGone,
    /// The host answered, and does so no longer.
    Silent,
}

/// Three probes in a row had no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Silence {
    /// When the first of them was sent.
    pub since: Duration,
    /// When the last of them was sent.
    pub last: Duration,
    /// The time between two.
    pub interval: Duration,
}

/// How a host's silence goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// The host is silent.
    Silent(Silence),
    /// It is not silent any more.
    Answers,
}

/// What follows from a probe's time, or from an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct News {
    /// The host is another than before.
    pub changed: Option<Liveness>,
    /// A silence begins or ends.
    pub silence: Option<Turn>,
    /// When the probe was sent that was answered now.
    pub answered: Option<Duration>,
}

/// The probes of one host.
#[derive(Debug, Clone)]
pub struct Prober {
    interval: Duration,
    /// When the next probe is due.
    next: Duration,
    /// The probes since the one that was last answered, with the times when they were sent.
    waiting: VecDeque<(u64, Duration)>,
    nonce: u64,
    /// Answers since the last silence, up to [`PROOF`].
    answers: usize,
    liveness: Liveness,
    /// Whether a silence was told that no answer has ended.
    told: bool,
}

impl Echo {
    /// How the program answers.
    pub fn responder(&self) -> Responder {
        Responder { port: self.port, node: self.node, key: self.key }
    }
}

impl Prober {
    /// Probes from now on. `nonce` is the first one, which nobody can guess.
    pub fn new(interval: Duration, nonce: u64, now: Duration) -> Self {
        Self {
            interval,
            next: now,
            waiting: VecDeque::new(),
            nonce,
            answers: 0,
            liveness: Liveness::Unknown,
            told: false,
        }
    }

    /// When [`Prober::tick`] is due.
    pub fn deadline(&self) -> Duration {
        self.next
    }

    /// What is known of the host.
    pub fn liveness(&self) -> Liveness {
        self.liveness
    }

    /// Time has passed: returns the nonce of a probe that is to be sent now, if one is due, and
    /// what follows. Answers that have arrived are to be taken in before.
    pub fn tick(&mut self, now: Duration) -> (Option<u64>, News) {
        let mut news = News::default();
        if now < self.next {
            return (None, news);
        }
        let pace = if self.answers == 0 { self.interval * SLOWER } else { self.interval };
        let late = now.saturating_sub(self.next);
        if late >= self.interval {
            // We stalled: what was sent before proves nothing.
            self.waiting.clear();
        }
        if self.waiting.len() >= PROOF {
            self.answers = 0;
            news.changed = self.becomes(Liveness::Silent);
        }
        self.next = if late >= pace { now + pace } else { self.next + pace };
        self.nonce = self.nonce.wrapping_add(1);
        self.waiting.push_back((self.nonce, now));
        if self.waiting.len() > WAITING_MAX {
            self.waiting.pop_front();
        }
        news.silence = self.silence(now);
        (Some(self.nonce), news)
    }

    /// An answer has come.
    pub fn answered(&mut self, message: &Message, now: Duration) -> News {
        let mut news = News::default();
        let Some(position) = self.waiting.iter().position(|(nonce, _)| *nonce == message.nonce)
        else {
            return news;
        };
        news.answered = self.waiting.drain(..=position).next_back().map(|(_, sent)| sent);
        if std::mem::take(&mut self.told) {
            news.silence = Some(Turn::Answers);
        }
        if self.answers == 0 {
            // At its proper pace again.
            self.next = self.next.min(now + self.interval);
        }
        self.answers = (self.answers + 1).min(PROOF);
        if self.answers == PROOF {
            let stale = STALE_LEAST.max(self.interval * STALE_PROBES);
            let gone = message.age == NEVER || Duration::from_nanos(message.age) > stale;
            let found = if gone { Liveness::DaemonGone } else { Liveness::Alive };
            news.changed = self.becomes(found);
        }
        news
    }

    /// A silence that begins with the probe sent at `now`.
    fn silence(&mut self, now: Duration) -> Option<Turn> {
        if self.told || self.answers < PROOF || self.waiting.len() < PROOF {
            return None;
        }
        self.told = true;
        let since = self.waiting.front().map_or(now, |(_, sent)| *sent);
        Some(Turn::Silent(Silence { since, last: now, interval: self.interval }))
    }

    fn becomes(&mut self, liveness: Liveness) -> Option<Liveness> {
        let before = std::mem::replace(&mut self.liveness, liveness);
        // A host that never answered has not fallen silent.
        if before == Liveness::Unknown && liveness == Liveness::Silent {
            self.liveness = before;
            return None;
        }
        (before != liveness).then_some(liveness)
    }
}

impl Liveness {
    /// Every one of them.
    pub const ALL: [Self; 4] = [Self::Unknown, Self::Alive, Self::DaemonGone, Self::Silent];

    /// Its name in `status` and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Alive => "alive",
            Self::DaemonGone => "daemon_gone",
            Self::Silent => "silent",
        }
    }

    /// Whether the host's program answers.
    pub const fn forwards(self) -> bool {
        matches!(self, Self::Alive | Self::DaemonGone)
    }

    /// One short sentence on the host for people, if there is something to say.
    pub const fn sentence(self) -> &'static str {
        match self {
            Self::Unknown => "has not answered a probe yet",
            Self::Alive => "answers: host and daemon are alive",
            Self::DaemonGone => {
                "answers, but its daemon gives no sign of life: the host forwards on"
            }
            Self::Silent => "no longer answers: its host is gone, or cut off",
        }
    }
}

#[cfg(test)]
mod tests;
