//! "It is me, not them": when most backends fail together, this machine is the likelier fault.
//!
//! *More than half* of the servers that served until then have begun to fail within one check
//! interval (and one time-out, by which a check without an answer ends later than one that is
//! refused): then the machine is suspected, and every backend that began to fail since keeps its
//! slots, with its full weight, as before. That is harmless if they are all dead, and saves every
//! flow if the checks alone were cut off. A server is an address: one that backs several services
//! counts once, and fails if all its checks do. Those that had failed long before do not count.
//!
//! The suspicion ends when
//!
//! - at most half of them still fail; or
//! - this machine reaches someone again, and has done so for as long as those that fail need to fail
//!   `fall` times more: then they are believed. What failed before anybody was reached says nothing
//!   of them: after a long cut the first check that gets through is one of many, the others follow.
//!
//! Those that still fail then go down as usual. While nothing answers, the suspicion stays.
//!
//! If it ends because enough answer again, the others are likely to follow, and the news of their
//! recovery is as old as their last check. So each is *doubted*, and keeps its slots, until its next
//! check says which it is.
//!
//! A *dip* is over before anybody is down: most began to fail together, and most of those answered
//! again at their next check. Who goes down by checks that began before the last of them answered is
//! doubted likewise: those checks met the same fault.

use std::{collections::HashMap, net::IpAddr, time::Duration};

use super::{Action, Core, EventKind, HealthReport, Unsaved, backend::Backend, service::Service};
use crate::config::{CheckKind, HealthCheck};

/// Whether and since when a backend that served fails.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Trouble {
    /// It does not.
    #[default]
    None,
    /// Since the first check of its run of failures began.
    Since(Duration),
    /// It failed while the machine was suspected, or in a dip, and enough others answer since this
    /// time: its next check decides.
    Doubted(Duration),
    /// It failed while the machine was suspected, and the suspicion ended against it.
    Believed,
}

/// A time of trouble that is over, and cost the backend nothing but its weight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Recovery {
    /// When the first check that failed began.
    began: Duration,
    /// When the first check that passed again began.
    ended: Duration,
}

/// That this machine may be the one at fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Suspicion {
    /// When it arose.
    since: Duration,
    /// Who began to fail from here on is kept.
    from: Duration,
    /// How long those that fail need to fail `fall` times more.
    patience: Duration,
    /// Since when checks pass again.
    reach: Option<Reach>,
}

/// The time for which this machine has reached someone: when the first check that passed began, and
/// the latest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Reach {
    first: Duration,
    latest: Duration,
}

/// A backend that just went down: when it began to fail, and how far from that others count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Fall {
    began: Duration,
    window: Duration,
}

/// How many servers fail, of those that served until then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Tally {
    failing: usize,
    servers: usize,
}

impl Core {
    /// Whether so many backends failed together that this machine is the likelier fault. A reason
    /// to hand the VIPs to another one.
    pub fn machine_suspected(&self) -> bool {
        self.suspicion.is_some()
    }

    /// Takes note of a check that passed while the machine is suspected.
    pub(super) fn reaches_someone(&mut self, report: &HealthReport) {
        let started = report.started.monotonic;
        if let Some(suspicion) = &mut self.suspicion
            && report.outcome.is_ok()
            && started > suspicion.since
        {
            suspicion.reaches(started);
        }
    }

    /// Begins or ends the suspicion, whichever follows from what is known.
    pub(super) fn weigh_suspicion(&mut self) {
        let fallen = self.fallen.take();
        let changed = self.services.is_empty() || self.is_touched();
        match (self.suspicion, fallen) {
            // Counted only where something may come of it: reports of failures go on meanwhile.
            (Some(suspicion), _) if changed || suspicion.is_over(self.now) => {
                self.end_suspicion(suspicion);
            }
            (None, Some(fall)) => {
                if !self.begin_suspicion(fall) {
                    self.doubt_after_dip(fall);
                }
            }
            (Some(_), _) | (None, None) => {}
        }
    }

    /// Whether something changed from which more may follow.
    fn is_touched(&self) -> bool {
        let changed = self.services.changed();
        changed.iter().any(|name| self.services.get(name).is_some_and(|service| service.touched))
    }

    /// Takes over the suspicion of the run before.
    pub(super) fn adopt_suspicion(&mut self) {
        self.suspect(self.now);
    }

    /// Returns whether it has begun.
    fn begin_suspicion(&mut self, fall: Fall) -> bool {
        let mut from = fall.began;
        let tally = self.tally(|backend, window| {
            backend.verdict(|began| {
                let counts = fall.is_near(began, window);
                if counts {
                    from = from.min(began);
                }
                counts
            })
        });
        if !tally.is_majority() {
            return false;
        }
        self.suspect(from);
        let (failing, servers) = (as_u32(tally.failing), as_u32(tally.servers));
        self.suspicion_changed(EventKind::MachineSuspected { failing, servers });
        true
    }

    /// Doubts those that fell by checks of a dip.
    fn doubt_after_dip(&mut self, fall: Fall) {
        let Some(ended) = self.end_of_dip(fall) else { return };
        for service in self.services.values_mut() {
            let check = &service.spec.health;
            let window = window(check);
            for backend in service.backends.values_mut() {
                let fails = backend.verdict(|began| fall.is_near(began, window)) == Some(true);
                let fell = fails && !backend.state.serves() && backend.written.is_some();
                if fell && check.kind != CheckKind::None && backend.failed_at <= ended {
                    backend.trouble = Trouble::Doubted(ended);
                    service.touched = true;
                }
            }
        }
    }

    /// If most failed together with this one: when the last of them answered again.
    fn end_of_dip(&self, fall: Fall) -> Option<Duration> {
        let mut ended = None;
        let tally = self.tally(|backend, window| match backend.recovery {
            Some(recovery) if backend.state.serves() && fall.is_near(recovery.began, window) => {
                ended = ended.max(Some(recovery.ended));
                Some(true)
            }
            _ => backend.verdict(|began| fall.is_near(began, window)),
        });
        ended.filter(|_| tally.is_majority())
    }

    fn end_suspicion(&mut self, suspicion: Suspicion) {
        let tally = self.tally(|backend, _| backend.verdict(|began| began >= suspicion.from));
        let enough_answer = !tally.is_majority();
        let why = if enough_answer {
            format!("{} of {} servers fail", tally.failing, tally.servers)
        } else if suspicion.is_over(self.now) {
            let Tally { failing, servers } = tally;
            format!("others answer, so {failing} of {servers} servers are believed to have failed")
        } else {
            return;
        };
        self.suspicion = None;
        let now = self.now;
        for service in self.services.values_mut() {
            let is_checked = service.spec.health.kind != CheckKind::None;
            let doubt = enough_answer && is_checked;
            for backend in service.backends.values_mut() {
                if matches!(backend.trouble, Trouble::Since(_)) && !backend.state.serves() {
                    let keeps = doubt && suspicion.keeps(backend);
                    backend.trouble = if keeps { Trouble::Doubted(now) } else { Trouble::Believed };
                }
            }
        }
        self.suspicion_changed(EventKind::MachineTrusted { why });
    }

    /// Suspects this machine from now on, and keeps who began to fail since `from`, and whoever is still
    /// doubted from the suspicion before.
    fn suspect(&mut self, from: Duration) {
        for backend in self.services.values_mut().flat_map(|s| s.backends.values_mut()) {
            if matches!(backend.trouble, Trouble::Doubted(_)) {
                backend.trouble = Trouble::Since(from);
            }
        }
        let patience = self.patience();
        self.suspicion = Some(Suspicion { since: self.now, from, patience, reach: None });
    }

    fn suspicion_changed(&mut self, kind: EventKind) {
        self.services.values_mut().for_each(|service| service.touched = true);
        self.unsaved = self.unsaved.max(Unsaved::States);
        self.actions.push(Action::Event(kind, None));
    }

    /// How long the slowest of those that fail now needs to fail `fall` times more.
    fn patience(&self) -> Duration {
        let failing = |service: &&Service| {
            service.backends.values().any(|backend| backend.trouble != Trouble::None)
        };
        let again = |check: &HealthCheck| check.interval * check.fall + check.timeout;
        let failing = self.services.values().filter(failing);
        failing.map(|service| again(&service.spec.health)).max().unwrap_or_default()
    }

    /// Counts servers; `verdict` says whether a backend fails, given the window of its own checks, or
    /// that it does not count.
    fn tally(&self, mut verdict: impl FnMut(&Backend, Duration) -> Option<bool>) -> Tally {
        let mut servers: HashMap<IpAddr, Evidence> = HashMap::new();
        for service in self.services.values() {
            let check = &service.spec.health;
            for backend in service.backends.values().filter(|backend| backend.is_wanted()) {
                let Some(fails) = verdict(backend, window(check)) else { continue };
                let server = servers.entry(backend.spec.address).or_default();
                server.fails |= fails;
                server.answers |= !fails && check.kind != CheckKind::None;
            }
        }
        let failing = servers.values().filter(|server| server.fails && !server.answers).count();
        Tally { failing, servers: servers.len() }
    }
}

/// What the checks of a server say together.
#[derive(Debug, Clone, Copy, Default)]
struct Evidence {
    fails: bool,
    answers: bool,
}

// === impl Tally ===

impl Tally {
    fn is_majority(self) -> bool {
        self.failing * 2 > self.servers
    }
}

// === impl Suspicion ===

impl Suspicion {
    /// A check that began at `started` has passed. If none had for long, it is the first anew.
    fn reaches(&mut self, started: Duration) {
        match &mut self.reach {
            Some(reach) if started <= reach.latest + self.patience => {
                reach.latest = reach.latest.max(started);
            }
            reach => *reach = Some(Reach { first: started, latest: started }),
        }
    }

    /// Whether this machine reaches someone, and who fails has had the time to recover since.
    fn is_over(&self, now: Duration) -> bool {
        self.reach.is_some_and(|reach| {
            now >= reach.first + self.patience && now <= reach.latest + self.patience
        })
    }

    /// Whether a backend keeps its place in spite of its failures.
    pub(super) fn keeps(&self, backend: &Backend) -> bool {
        let recent = matches!(backend.trouble, Trouble::Since(began) if began >= self.from);
        recent && backend.written.is_some()
    }
}

// === impl Fall ===

impl Fall {
    /// The fall of a backend, if it served before.
    pub(super) fn of(backend: &Backend, check: &HealthCheck) -> Option<Self> {
        match backend.trouble {
            Trouble::Since(began) => Some(Self { began, window: window(check) }),
            Trouble::None | Trouble::Doubted(_) | Trouble::Believed => None,
        }
    }

    /// Whether a backend whose checks have this window began to fail together with it.
    fn is_near(&self, began: Duration, window: Duration) -> bool {
        began.abs_diff(self.began) <= window.max(self.window)
    }
}

// === impl Trouble ===

impl Trouble {
    /// How it is over when a check passes that began at `ended`.
    pub(super) fn recovery(self, ended: Duration) -> Option<Recovery> {
        match self {
            Self::Since(began) => Some(Recovery { began, ended }),
            Self::None | Self::Doubted(_) | Self::Believed => None,
        }
    }
}

fn window(check: &HealthCheck) -> Duration {
    check.interval + check.timeout
}

fn as_u32(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}
