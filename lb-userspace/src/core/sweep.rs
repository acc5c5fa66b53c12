//! The records of flows: which have done their work, and what follows from those that stay.

use std::{collections::HashMap, sync::Arc, time::Duration};

use lb_common::{
    layout::{FlowRecord, Life},
    slot::Slot,
};

use super::{
    Action, BackendId, Core, EventKind, Now, Write,
    backend::Backend,
    recorded::{Recorded, Staying},
    replica::{KernelFlow, refresh_period},
    ring::{MARGIN, Tracking},
    service::Service,
};
use crate::config::Name;

/// How long a flow that was closed is remembered, in seconds: its last packets still find their
/// backend, as RFC 9293 section 3.6.1 has both ends wait.
pub const CLOSING_SECONDS: u32 = 120;

/// Whether a record may be dropped. `now` is the kernel's clock in seconds, `idle_seconds` the
/// service's idle time-out; `life` is the life that the record's backend lives now, and `slot` the
/// flow's slot, if that can say where the flow belongs: not in a service that records every flow.
pub fn is_done(
    record: &FlowRecord,
    slot: Option<Slot>,
    life: Life,
    now: u32,
    idle_seconds: u32,
) -> bool {
    let dead = !life.lives() || record.life() != life.number();
    // The slot's owner has every flow of it: the record says nothing that the slot does not.
    let said_by_slot = slot.is_some_and(Slot::is_settled);
    let silent = is_silent(record.seen.load(), record.is_closing(), now, idle_seconds);
    dead || said_by_slot || silent
}

/// Whether a flow has been silent for too long to be remembered, by its last packet and whether
/// that closed it.
pub(super) fn is_silent(seen: u32, closing: bool, now: u32, idle_seconds: u32) -> bool {
    let patience = if closing { CLOSING_SECONDS.min(idle_seconds) } else { idle_seconds };
    let margin = u32::try_from(MARGIN.as_secs()).unwrap_or(u32::MAX);
    // The kernel may have stamped it after we read the clock.
    now.saturating_sub(seen) > patience.saturating_add(margin)
}

/// What a sweep is told.
#[derive(Debug, Clone, Default)]
pub struct Order {
    /// When it is ordered.
    pub now: Duration,
    /// The services that there are, by their numbers.
    pub services: HashMap<u32, Swept>,
    /// The numbers of the backends whose loads are to be corrected.
    pub loads: Vec<u16>,
}

/// What a sweep is told of a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Swept {
    /// The idle time-out.
    pub idle_seconds: u32,
    /// Whether its slots say nothing of its flows: see [`super::ring::Tracking::EveryFlow`].
    pub every_flow: bool,
    /// How often a flow that is seen is told of, where there are peers to tell.
    pub refresh_seconds: Option<u32>,
}

/// What a sweep found.
#[derive(Debug, Clone, Default)]
pub struct Findings {
    /// When it was ordered: it saw every record that was made before.
    pub began: Duration,
    /// Flows that peers are to be told were seen since they last were.
    pub seen: Vec<KernelFlow>,
    /// The records that stay, by slot and backend.
    pub recorded: Recorded,
    /// The records that stay, by backend.
    pub by_backend: HashMap<u16, Count>,
    /// How many stay of those whose opening packet alone was seen.
    pub half_open: u64,
    /// How many stay of the others.
    pub confirmed: u64,
    /// How many were lost since the daemon's start.
    pub lost: Lost,
}

/// Records that a full table gave up for newer ones, or did not take.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Lost {
    /// Of those whose opening packet alone was seen.
    pub half_open: u64,
    /// Of the others.
    pub confirmed: u64,
}

/// Records of one backend.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Count {
    /// All of them.
    pub flows: u32,
    /// Those that are not closing.
    pub active: u32,
}

impl Findings {
    /// Counts the records that stay.
    pub fn take(&mut self, staying: Vec<Staying>) {
        self.recorded = Recorded::new(staying);
        // By number in a flat table: there may be as many runs as slots.
        let mut totals: Vec<Count> = Vec::new();
        for run in self.recorded.iter() {
            let number = usize::from(run.backend);
            if totals.len() <= number {
                totals.resize(number + 1, Count::default());
            }
            totals[number].flows += run.flows;
            totals[number].active += run.active;
        }
        self.by_backend = (0..).zip(totals).filter(|(_, total)| total.flows > 0).collect();
    }
}

/// What to add to a load so that it is what the sweep counted. The sweep saw records at moments
/// between `before` and `after`, the loads as they were when it began and ended: half of what
/// changed meanwhile is taken to be in its count.
pub fn correction(counted: u32, before: u64, after: u64) -> i64 {
    let meanwhile = after.wrapping_sub(before).cast_signed();
    let seen = before.wrapping_add_signed(meanwhile / 2);
    u64::from(counted).wrapping_sub(seen).cast_signed()
}

impl Core {
    /// What a sweep should know, if there is anything to sweep for.
    pub fn sweep_order(&self, now: Now) -> Option<Order> {
        self.is_restless().then(|| Order {
            now: now.monotonic,
            services: self.services.values().map(|s| (s.index, self.swept_as(s))).collect(),
            loads: self.services.values().flat_map(Service::loads).collect(),
        })
    }

    /// What a sweep is told of a service. Where peers tell each other of flows, a flow's last
    /// packet may be known only after a while.
    pub(super) fn swept_as(&self, service: &Service) -> Swept {
        let idle = service.spec.idle_timeout;
        let refresh = self.replica.as_ref().map(|_| refresh_period(idle));
        Swept {
            idle_seconds: seconds(idle + refresh.unwrap_or_default()),
            every_flow: service.ring.tracking() == Tracking::EveryFlow,
            refresh_seconds: refresh.map(seconds),
        }
    }

    /// Whether any slot remembers anything, any backend drains, or records are left.
    fn is_restless(&self) -> bool {
        !self.flow_table.is_empty()
            || self.services.values().any(|service| {
                !service.ring.is_settled()
                    || !service.leaving.is_empty()
                    || service.backends.values().any(Backend::drains)
            })
    }

    /// A sweep has ended: slots settle, drains end.
    pub fn swept(&mut self, findings: Findings, now: Now) {
        self.actions.extend(self.flow_table.swept(&findings));
        let names: Vec<Name> = self.services.keys().cloned().collect();
        for name in names {
            self.sweep_service(&name, &findings, now);
        }
        self.recorded = Arc::new(findings.recorded);
    }

    fn sweep_service(&mut self, name: &Name, findings: &Findings, now: Now) {
        let following = self.is_following();
        let Some(service) = self.services.get_mut(name) else { return };
        let idle = service.spec.idle_timeout;
        let slots = if following {
            // Moves end when the leader says so.
            Vec::new()
        } else {
            service.ring.sweep(&findings.recorded, idle, findings.began, now.monotonic)
        };
        if !slots.is_empty() {
            self.actions.push(Action::Write(Write::Slots(slots)));
        }
        let mut drained = Vec::new();
        let mut told = Vec::new();
        let ring = &service.ring;
        for backend in service.backends.values_mut().chain(service.leaving.values_mut()) {
            let tracked = findings.by_backend.get(&backend.number).map(|count| count.flows);
            backend.tracked = tracked.unwrap_or(0);
            backend.reason = backend.assess(&service.spec.health).1;
            let ends = backend.drains_since.is_some_and(|since| findings.began > since + MARGIN);
            if !ends || ring.moving_from(backend.number) > 0 {
                continue;
            }
            if backend.tracked > 0 {
                if backend.drain_told.is_none_or(|told| backend.tracked <= told / 2) {
                    backend.drain_told = Some(backend.tracked);
                    told.push((backend.spec.name.clone(), backend.tracked));
                }
            } else {
                backend.drains_since = None;
                backend.reason = backend.assess(&service.spec.health).1;
                let backend_name = backend.spec.name.clone();
                let id = BackendId { service: name.clone(), backend: backend_name };
                drained.push((id, backend.number));
            }
        }
        for (backend, tracked_flows) in told {
            let kind = EventKind::Draining { service: name.clone(), backend, tracked_flows };
            self.actions.push(Action::Event(kind, None));
        }
        for (id, number) in drained {
            let (service, backend) = (id.service.clone(), id.backend.clone());
            self.actions.push(Action::Event(EventKind::Drained { service, backend }, None));
            if self.services.get(name).is_some_and(|s| s.leaving.contains_key(&number)) {
                self.bury(&id, number);
            }
        }
    }
}

fn seconds(time: Duration) -> u32 {
    u32::try_from(time.as_secs()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_correction_brings_a_load_to_what_was_counted() {
        for (counted, before, after) in [(7, 7, 7), (7, 3, 3), (0, 5, 5), (3, u64::MAX, u64::MAX)] {
            let corrected = after.wrapping_add_signed(correction(counted, before, after));
            assert_eq!(corrected, u64::from(counted), "from {before} to {after}");
        }
        // Ten opened while it counted: five were seen, five came later.
        assert_eq!(correction(105, 100, 110), 0);
        assert_eq!(correction(95, 100, 90), 0);
    }
}
