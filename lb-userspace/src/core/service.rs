//! One running service: its place, its ring, its backends.

use std::{collections::BTreeMap, net::IpAddr, time::Duration};

use lb_common::{
    layout::{ServiceKey, ServiceMeta},
    slot::{Prior, Slot},
};

use super::{
    BackendState, Checks, Health as Light, Write,
    backend::Backend,
    maglev::{self, Candidate},
    places::Place,
    ring::{Changed, Ring, Tracking},
    rotation::Rotation,
    settle::Panic,
    slow_start::STEPS,
    tally::Tally,
};
use crate::config::{Algorithm, HealthCheck, Name, OnEmpty, Protocol, Service as Spec};

/// A service with all that is known of it.
#[derive(Debug, Clone)]
pub(super) struct Service {
    /// What it shall be.
    pub(super) spec: Spec,
    /// Its number.
    pub(super) index: u32,
    /// What it answers to, as in the table.
    pub(super) key: ServiceKey,
    /// Where it is in the table; nowhere while a reload gives its VIP to another.
    pub(super) place: Option<Place>,
    /// Its flags, as in the table.
    pub(super) meta: ServiceMeta,
    /// Its part of the ring map.
    pub(super) ring: Ring,
    /// In which order its backends take turns (`round_robin`).
    pub(super) rotation: Option<Rotation>,
    /// Its backends.
    pub(super) backends: BTreeMap<Name, Backend>,
    /// Backends that are no longer wanted and drain before they go, by their numbers.
    pub(super) leaving: BTreeMap<u16, Backend>,
    /// Whether something changed from which more may follow: see [`super::settle`].
    pub(super) touched: bool,
    /// Whether the ring may no longer be what the backends' states ask for.
    pub(super) stale: bool,
    /// Whether so few backends are healthy that all of them serve.
    pub(super) panic: Option<Panic>,
    /// Until when a new service waits for its backends. Were the first to answer given every
    /// slot, all the slots of the others would be moving for an idle time-out.
    pub(super) warm_until: Option<Duration>,
}

/// The key of a VIP in the service table.
pub(super) fn key(address: IpAddr, port: u16, protocol: Protocol) -> ServiceKey {
    let port = u16::from_le_bytes(port.to_be_bytes());
    match address {
        IpAddr::V4(v4) => {
            ServiceKey::ipv4(u32::from_le_bytes(v4.octets()), port, protocol.number())
        }
        IpAddr::V6(v6) => ServiceKey::ipv6(v6.octets(), port, protocol.number()),
    }
}

/// The flags that a configuration asks for.
pub(super) fn meta(index: u32, spec: &Spec) -> ServiceMeta {
    let algorithm = match spec.algorithm {
        Algorithm::Maglev => 0,
        Algorithm::IpHash => ServiceMeta::HASH_ADDRESS,
        Algorithm::RoundRobin => ServiceMeta::ROUND_ROBIN,
        Algorithm::LeastConn => ServiceMeta::LEAST_CONN,
    };
    let unannounced = match spec.protocol {
        Protocol::Udp if spec.algorithm.is_per_flow() => ServiceMeta::UNANNOUNCED,
        Protocol::Udp | Protocol::Tcp => 0,
    };
    let on_empty = match spec.on_empty {
        OnEmpty::Reject => ServiceMeta::EMPTY_REJECTS,
        OnEmpty::Drop => 0,
        OnEmpty::Pass => ServiceMeta::EMPTY_PASSES,
    };
    ServiceMeta(index | algorithm | unannounced | on_empty)
}

/// Which flows a configuration asks to be recorded.
pub(super) fn tracking(spec: &Spec) -> Tracking {
    if spec.algorithm.is_per_flow() {
        Tracking::EveryFlow
    } else if spec.affinity {
        Tracking::Moves
    } else {
        Tracking::Nothing
    }
}

/// How long a new service waits for its backends: the first check of each begins within a second
/// (or an interval), and ends within a time-out.
pub(super) fn warm_up(check: &HealthCheck) -> Duration {
    check.interval.min(Duration::from_secs(1)) + check.timeout + Duration::from_millis(250)
}

impl Service {
    /// Whether it still waits to know its backends.
    pub(super) fn is_warming(&mut self, now: Duration) -> bool {
        let known = |backend: &Backend| match backend.health {
            Checks::Unchecked => false,
            Checks::Up | Checks::Suspect { .. } => backend.written.is_some(),
            Checks::Down { .. } => true,
        };
        if self.warm_until.is_some_and(|until| now >= until) || self.backends.values().all(known) {
            self.warm_until = None;
        }
        self.warm_until.is_some()
    }

    /// The flags that it is to have now. While it waits for its backends, who is not there yet is no
    /// reason to refuse anybody: the connection may be another balancer's.
    pub(super) fn due_meta(&self) -> ServiceMeta {
        let meta = meta(self.index, &self.spec);
        if self.warm_until.is_some() { meta.without(ServiceMeta::EMPTY_REJECTS) } else { meta }
    }

    /// What makes its flags in the table those.
    pub(super) fn refresh_meta(&mut self) -> Option<Write> {
        let meta = self.due_meta();
        if self.meta == meta {
            return None;
        }
        self.meta = meta;
        self.place.map(|place| Write::ServiceMeta(place, meta))
    }

    /// Gives the slots to whom the backends' states ask for, and returns what differs.
    pub(super) fn rebuild(&mut self, now: Duration) -> Changed {
        self.stale = false;
        let candidates = self.candidates();
        let mut owners = maglev::build(&candidates, self.ring.span().length);
        self.hold_back(&mut owners, &candidates);
        self.backends.values_mut().for_each(|b| b.given_weight = b.ring_weight());
        let everyone = || self.backends.values().chain(self.leaving.values());
        let alive: Vec<u16> = everyone().filter(|b| b.life.lives()).map(|b| b.number).collect();
        let changed = self.ring.give(&owners, |number| alive.contains(&number), now);
        self.count_slots();
        changed
    }

    /// What the choice of a backend for each flow needs beside the ring, as far as it differs.
    pub(super) fn balance(&mut self) -> Vec<Write> {
        // In slow start, which slots follow step by step.
        let weigh = |backend: &Backend| {
            let step = backend.slow_start.map_or(STEPS, |start| start.step);
            backend.ring_weight() * u16::try_from(step).unwrap_or(1)
        };
        let mut candidates = self.candidates();
        for (candidate, backend) in candidates.iter_mut().zip(self.backends.values()) {
            candidate.weight = weigh(backend);
        }
        let mut writes = Vec::new();
        if let Some(rotation) = &mut self.rotation {
            let changed = rotation.set(&candidates);
            if !changed.slots.is_empty() {
                writes.push(Write::Slots(changed.slots));
            }
            writes.extend(changed.order.map(|order| Write::Order(self.index, order.to_word())));
        }
        if self.meta.has(ServiceMeta::LEAST_CONN) {
            for backend in self.backends.values_mut() {
                let weight = weigh(backend);
                if backend.load_weight.replace(weight) != Some(weight) {
                    writes.push(Write::Weight(backend.number, weight));
                }
            }
        }
        writes
    }

    /// Whether it has the span for turns that a configuration asks for.
    pub(super) fn rotation_fits(&self, spec: &Spec) -> bool {
        let wanted = (spec.algorithm == Algorithm::RoundRobin).then_some(spec.ring);
        self.rotation.as_ref().map(|rotation| rotation.span().length) == wanted
    }

    /// The backends whose loads count, by their numbers.
    pub(super) fn loads(&self) -> impl Iterator<Item = u16> {
        let counts = self.meta.has(ServiceMeta::LEAST_CONN);
        self.backends.values().filter(move |_| counts).map(|backend| backend.number)
    }

    fn candidates(&self) -> Vec<Candidate> {
        self.backends
            .values()
            .map(|backend| Candidate {
                identity: maglev::identity(backend.spec.address),
                weight: backend.ring_weight(),
                number: backend.number,
            })
            .collect()
    }

    /// The backend of this number, also one that is leaving.
    pub(super) fn known(&self, number: u16) -> Option<&Backend> {
        self.backends.values().chain(self.leaving.values()).find(|b| b.number == number)
    }

    /// Whether a slot names a number that is none of its backends' any more, and may be another
    /// service's tomorrow.
    pub(super) fn names_the_gone(&self) -> bool {
        let mut known = vec![false; usize::from(u16::MAX) + 1];
        known[usize::from(Slot::NONE)] = true;
        for backend in self.backends.values().chain(self.leaving.values()) {
            known[usize::from(backend.number)] = true;
        }
        self.ring.slots().iter().any(|slot| {
            let prior = match slot.prior() {
                Prior::Moving(prior) => known[usize::from(prior)],
                Prior::Settled | Prior::Exceptions => true,
            };
            !prior || !known[usize::from(slot.owner())]
        })
    }

    pub(super) fn count_slots(&mut self) {
        let mut owners = Tally::spanning(self.backends.values().map(|backend| backend.number));
        for slot in self.ring.slots() {
            owners.add(slot.owner());
        }
        for backend in self.backends.values_mut() {
            backend.slots = owners.of(backend.number);
        }
    }

    /// The service at a glance.
    pub(super) fn light(&self) -> Light {
        let up = self.backends.values().filter(|b| b.state == BackendState::Up).count();
        let serving = self.backends.values().any(|b| {
            matches!(b.state, BackendState::Up | BackendState::Suspect | BackendState::Draining)
        });
        match up {
            _ if !serving => Light::Red,
            n if n == self.backends.len() => Light::Green,
            _ => Light::Yellow,
        }
    }
}
