//! What follows for a service from the states of its backends together: who keeps a place in the
//! ring in spite of failures, and who lives.
//!
//! A backend that fails keeps its place
//!
//! - while the machine is suspected, and then, as after a dip, until its next check
//!   ([`super::suspicion`]); or
//! - in a *panic*: fewer than `panic_threshold` of the service's backends are healthy, so that
//!   those few would have to carry the load of all. Then flows are spread over all of them again,
//!   with their configured weights, whatever the checks say.
//!
//! Who counts in a panic: backends that have served since they were added, that an operator wants
//! (not drained, not in maintenance, weight above 0), and whose way was found. A backend that was
//! never healthy is not counted and gets no flows: it may not be there yet.
//!
//! Backups serve while no other backend can, and they can; they stand by else. In a panic only
//! those count whose turn it is.

use lb_common::layout::Life;

use super::{
    Action, Core, EventKind, Unsaved, Write,
    backend::Backend,
    service::Service,
    suspicion::{Suspicion, Trouble},
};
use crate::config::Name;

/// Why a backend that fails serves all the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kept {
    /// This machine is suspected.
    Machine,
    /// It was until now, or most failed in a dip, and the backend has not been checked since.
    Doubt,
    /// Too few of the service's backends are healthy.
    Panic,
}

/// A service's panic: how many of how many backends are healthy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Panic {
    pub(super) healthy: u32,
    pub(super) of: u32,
}

impl Core {
    /// Draws the conclusions for every service whose backends have changed.
    pub(super) fn settle(&mut self) {
        self.weigh_suspicion();
        let suspicion = self.suspicion;
        let following = self.is_following();
        let mut touched = Vec::new();
        for name in self.services.changed() {
            let Some(service) = self.services.get_mut(&name) else { continue };
            if std::mem::take(&mut service.touched) {
                let before = service.panic;
                let backups = service.called_or_dismissed(suspicion.as_ref());
                touched.push((name, before, backups, service.settle(following)));
            }
        }
        for (name, before, backups, lives) in touched {
            for (number, life) in lives {
                self.lives.insert(number, life.number());
                // Before its slots change hands: a dead backend has no flows to remember.
                self.actions.push(Action::Write(Write::Life(number, life)));
            }
            for (backend, what) in backups {
                let (service, what) = (name.clone(), what.to_owned());
                let kind = EventKind::Changed { service, backend, what };
                self.actions.push(Action::Event(kind, None));
            }
            let panic = self.services.get(&name).and_then(|service| service.panic);
            if panic.is_some() != before.is_some() {
                self.unsaved = self.unsaved.max(Unsaved::States);
                let kind = match panic {
                    Some(Panic { healthy, of }) => EventKind::Panic { service: name, healthy, of },
                    None => EventKind::PanicOver { service: name },
                };
                self.actions.push(Action::Event(kind, None));
            }
        }
    }
}

impl Service {
    /// Whose turn it is: that of the backups, or of the others. Returns the backups that can serve
    /// for whom that has changed, and how.
    fn called_or_dismissed(&mut self, suspicion: Option<&Suspicion>) -> Vec<(Name, &'static str)> {
        for backend in self.backends.values_mut() {
            backend.kept = match backend.trouble {
                _ if suspicion.is_some_and(|suspicion| suspicion.keeps(backend)) => {
                    Some(Kept::Machine)
                }
                Trouble::Doubted(_) => Some(Kept::Doubt),
                _ => None,
            };
        }
        let of_kind = |backup| self.backends.values().filter(move |b| b.spec.backup == backup);
        let can_serve = |backup| of_kind(backup).any(|backend| backend.own_weight() > 0);
        let backups_turn =
            !can_serve(false) && (can_serve(true) || of_kind(false).next().is_none());
        let mut changed = Vec::new();
        for (name, backend) in &mut self.backends {
            let stands_by = backend.spec.backup && !backups_turn;
            if std::mem::replace(&mut backend.stands_by, stands_by) == stands_by {
                continue;
            }
            backend.reason = backend.assess(&self.spec.health).1;
            if backend.own_weight() > 0 {
                let what = if stands_by {
                    "stands by: others serve again"
                } else {
                    "is called: no other backend can serve"
                };
                changed.push((name.clone(), what));
            }
        }
        changed
    }

    /// Who keeps a place, who lives; returns the lives that have changed. While another node leads
    /// (`following`), backends live as long as it says so.
    fn settle(&mut self, following: bool) -> Vec<(u16, Life)> {
        self.panic = self.assess_panic();
        if self.panic.is_some() {
            for backend in self.backends.values_mut().filter(|b| counts_in_panic(b)) {
                if backend.is_failing() {
                    backend.kept.get_or_insert(Kept::Panic);
                }
            }
        }
        let mut lives = Vec::new();
        for backend in self.backends.values_mut() {
            let life = if following { backend.life } else { backend.next_life() };
            if life != backend.life {
                // Slots that move from a backend that died have nothing to remember any more.
                self.stale |= backend.life.lives() && !life.lives();
                backend.life = life;
                lives.push((backend.number, life));
            }
            self.stale |= backend.ring_weight() != backend.given_weight;
        }
        lives
    }

    fn assess_panic(&self) -> Option<Panic> {
        let (mut healthy, mut of) = (0, 0);
        for backend in self.backends.values().filter(|backend| counts_in_panic(backend)) {
            of += 1;
            healthy += usize::from(backend.state.serves() || backend.kept.is_some());
        }
        let as_u32 = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        let panics = self.spec.panic_threshold.exceeds(healthy, of);
        panics.then(|| Panic { healthy: as_u32(healthy), of: as_u32(of) })
    }
}

fn counts_in_panic(backend: &Backend) -> bool {
    !backend.stands_by && backend.proven && backend.is_wanted() && backend.written.is_some()
}
