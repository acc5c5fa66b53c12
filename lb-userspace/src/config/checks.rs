//! What no single value can tell: things given twice, and tables too small for what they hold.

use std::{
    collections::{HashMap, hash_map::Entry},
    hash::Hash,
};

use lb_common::layout::SLOTS_PER_LINE;

use super::{
    model::{Algorithm, Limits, Service},
    reader::Table,
};

/// Values that may be given only once, and the lines where they were.
#[derive(Debug)]
pub(super) struct Once<K>(HashMap<K, usize>);

impl<K> Default for Once<K> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<K: Hash + Eq> Once<K> {
    /// Reports at `key` that `what` was given before, if it was.
    pub(super) fn check(&mut self, table: &Table<'_>, key: &str, value: K, what: &str) {
        match self.0.entry(value) {
            Entry::Vacant(entry) => {
                entry.insert(table.line(key));
            }
            Entry::Occupied(entry) => {
                table.fault(key, format!("{what} is given already on line {}", entry.get()));
            }
        }
    }
}

/// What the services need of the kernel's tables, against the limits of those.
#[derive(Debug)]
pub(super) struct Demand {
    services: Need,
    backends: Need,
    ring_slots: Need,
}

#[derive(Debug)]
struct Need {
    sum: u64,
    limit: u64,
}

impl Demand {
    /// Nothing needed yet; without limits (they were refused) nothing is too much.
    pub(super) fn new(limits: Option<&Limits>) -> Self {
        let need = |limit: fn(&Limits) -> u32| Need {
            sum: 0,
            limit: limits.map_or(u64::MAX, |limits| limit(limits).into()),
        };
        Self {
            services: need(|limits| limits.services),
            backends: need(|limits| limits.backends),
            ring_slots: need(|limits| limits.ring_slots),
        }
    }

    /// Adds a service; the one that goes over a limit is reported.
    pub(super) fn add(&mut self, table: &Table<'_>, service: &Service) {
        let spans = if service.algorithm == Algorithm::RoundRobin { 2 } else { 1 };
        let slots = spans * u64::from(service.ring).next_multiple_of(SLOTS_PER_LINE.into());
        let Self { services, backends, ring_slots } = self;
        if let Some(sum) = services.add(1) {
            let limit = services.limit;
            let message = format!("{sum} services are more than limits.services = {limit} allows");
            table.fault("", message);
        }
        if let Some(sum) = backends.add(service.backends.len() as u64) {
            let limit = backends.limit;
            let message = format!("{sum} backends are more than limits.backends = {limit} allows");
            table.fault("", message);
        }
        if let Some(sum) = ring_slots.add(slots) {
            let limit = ring_slots.limit;
            let message = format!(
                "with this ring of {}, the rings need {sum} slots, each ring rounded up to a \
                 multiple of {SLOTS_PER_LINE}{}; limits.ring_slots = {limit} allows fewer",
                service.ring,
                if spans == 2 { " and twice that for round_robin" } else { "" },
            );
            table.fault("ring", message);
        }
    }
}

impl Need {
    /// The new sum, if this addition took it over the limit.
    fn add(&mut self, amount: u64) -> Option<u64> {
        let before = self.sum;
        self.sum += amount;
        (before <= self.limit && self.sum > self.limit).then_some(self.sum)
    }
}
