//! One running service: its place, its ring, its backends.

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
};

use lb_common::layout::{RingSpan, ServiceKey, ServiceMeta, Slot};

use super::{
    BackendState, Health as Light,
    backend::Backend,
    maglev::{self, Candidate},
    places::Place,
};
use crate::config::{Algorithm, Name, OnEmpty, Protocol, Service as Spec};

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
    pub(super) span: RingSpan,
    /// The owner of each slot, as in the ring map.
    pub(super) owners: Vec<u16>,
    /// Its backends.
    pub(super) backends: BTreeMap<Name, Backend>,
    /// Whether the ring may no longer be what the backends' states ask for.
    pub(super) stale: bool,
}

/// What a rebuilt ring changed.
#[derive(Debug, Default)]
pub(super) struct Rebuilt {
    /// The slots that differ, by index in the ring map.
    pub(super) slots: Vec<(u32, Slot)>,
    /// How many slots each backend gained or lost, by its number.
    pub(super) moved: HashMap<u16, u32>,
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
    };
    let on_empty = match spec.on_empty {
        OnEmpty::Drop => 0,
        OnEmpty::Pass => ServiceMeta::EMPTY_PASSES,
    };
    ServiceMeta(index | algorithm | on_empty)
}

impl Service {
    /// Builds the ring anew and returns what differs.
    pub(super) fn rebuild(&mut self) -> Rebuilt {
        self.stale = false;
        let candidates: Vec<Candidate> = self
            .backends
            .values()
            .map(|backend| Candidate {
                identity: maglev::identity(backend.spec.address),
                weight: backend.ring_weight(),
                number: backend.number,
            })
            .collect();
        let owners = maglev::build(&candidates, self.span.length);
        // Counted by number in a flat table: this stands between a fault and its repair.
        let mut moved = vec![0; usize::from(u16::MAX) + 1];
        let mut slots = Vec::new();
        for (index, (old, new)) in (self.span.base..).zip(self.owners.iter().zip(&owners)) {
            if old != new {
                slots.push((index, Slot::settled(*new)));
                moved[usize::from(*old)] += 1;
                moved[usize::from(*new)] += 1;
            }
        }
        self.owners = owners;
        self.count_slots();
        let moved = self.backends.values().map(|b| (b.number, moved[usize::from(b.number)]));
        Rebuilt { slots, moved: moved.collect() }
    }

    /// All slots as they are, for a new place in the ring map.
    pub(super) fn slots(&self) -> Vec<(u32, Slot)> {
        (self.span.base..).zip(self.owners.iter().map(|owner| Slot::settled(*owner))).collect()
    }

    fn count_slots(&mut self) {
        let mut counts = vec![0u32; usize::from(u16::MAX) + 1];
        for owner in &self.owners {
            counts[usize::from(*owner)] += 1;
        }
        for backend in self.backends.values_mut() {
            backend.slots = counts[usize::from(backend.number)];
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
