//! From what is wanted to what runs: services and backends appear, change and go.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use lb_common::{
    layout::{RingSpan, ServiceKey, ServiceMeta, Slot},
    steer::Tables,
};

use super::{
    Action, BackendId, BackendState, Checks, Core, EventKind, Now, Unsaved, Write,
    allocation::Shortage,
    backend::Backend,
    changes::Desired,
    places::Place,
    saved::{Saved, SavedService},
    service::{self, Service},
};
use crate::config::{CheckKind, Config, Name, Service as Spec};

impl Core {
    /// Makes everything as the configuration and the run-time changes want it.
    pub(super) fn apply(&mut self, now: Now) -> Result<(), String> {
        let config: Config = self.config.clone();
        let wanted: BTreeSet<&Name> = config.services.iter().map(|s| &s.name).collect();
        let gone: Vec<Name> =
            self.services.keys().filter(|name| !wanted.contains(name)).cloned().collect();
        for name in gone {
            self.remove_service(&name);
        }
        self.clear_the_way(&config.services);
        for spec in &config.services {
            if self.services.contains_key(&spec.name) {
                self.change_service(spec)?;
            } else {
                self.add_service(spec)?;
            }
            self.apply_backends(spec, now)?;
        }
        self.forget_hops();
        Ok(())
    }

    /// Makes a service's backends as they are wanted.
    pub(super) fn apply_backends(&mut self, spec: &Spec, now: Now) -> Result<(), String> {
        let desired = self.changes.apply(spec);
        let Some(service) = self.services.get(&spec.name) else { return Ok(()) };
        let gone: Vec<Name> = service
            .backends
            .iter()
            .filter(|(name, running)| {
                // Another address is another server, with its own health and its own slots.
                desired.get(*name).is_none_or(|d| d.backend.address != running.spec.address)
            })
            .map(|(name, _)| name.clone())
            .collect();
        for name in gone {
            self.remove_backend(&BackendId { service: spec.name.clone(), backend: name });
        }
        for (name, desired) in desired {
            let id = BackendId { service: spec.name.clone(), backend: name };
            if self.backend(&id).is_some() {
                self.change_backend(&id, desired, now);
            } else {
                self.add_backend(&id, desired, now)?;
            }
        }
        Ok(())
    }

    /// Forgets the ways to addresses that no backend has any more.
    pub(super) fn forget_hops(&mut self) {
        let used = self.addresses();
        self.hops.retain(|address, _| used.contains(address));
    }

    // === Services ===

    fn add_service(&mut self, spec: &Spec) -> Result<(), String> {
        let index = self.take("services", |core| core.service_numbers.take())?;
        let span = self.take("ring_slots", |core| core.spans.take(spec.ring))?;
        let key = service::key(spec.address, spec.port, spec.protocol);
        let meta = service::meta(index, spec);
        let owners = vec![Slot::NONE; spec.ring as usize];
        let service = Service {
            spec: spec.clone(),
            index,
            key,
            place: None,
            meta,
            span,
            owners,
            backends: BTreeMap::new(),
            stale: true,
        };
        // Slots first: whoever finds the service finds its ring.
        self.write(Write::Slots(service.slots()));
        self.services.insert(spec.name.clone(), service);
        self.place_service(&spec.name, key, span, meta)?;
        self.service_event(&spec.name, "added".to_owned());
        Ok(())
    }

    fn change_service(&mut self, spec: &Spec) -> Result<(), String> {
        let Some(running) = self.services.get(&spec.name) else { return Ok(()) };
        let (index, place, old_key) = (running.index, running.place, running.key);
        let (old_span, old_meta) = (running.span, running.meta);
        let key = service::key(spec.address, spec.port, spec.protocol);
        let meta = service::meta(index, spec);
        let same_tables = old_key == key && old_span.length == spec.ring && old_meta == meta;
        if same_tables && without_backends(&running.spec) == without_backends(spec) {
            return Ok(());
        }
        let span = if old_span.length == spec.ring {
            old_span
        } else {
            self.take("ring_slots", |core| core.spans.take(spec.ring))?
        };
        if span != old_span {
            self.rebuild_into(&spec.name, span);
        }
        if key == old_key {
            if let Some(place) = place.filter(|_| span != old_span) {
                self.write(Write::ServiceRing(place, span.to_word()));
            }
            if let Some(place) = place.filter(|_| meta != old_meta) {
                self.write(Write::ServiceMeta(place, meta));
            }
        } else {
            self.place_service(&spec.name, key, span, meta)?;
            if let Some(place) = place {
                self.places.remove(old_key);
                self.write(Write::ServiceGone(place));
            }
        }
        if span != old_span {
            self.spans.give_back(old_span);
        }
        if let Some(running) = self.services.get_mut(&spec.name) {
            running.spec = spec.clone();
            running.meta = meta;
            if spec.health.kind == CheckKind::None {
                // Nothing will ever bring those back that are down.
                running.backends.values_mut().for_each(|b| b.health = Checks::Up);
            }
        }
        self.service_event(&spec.name, "changed".to_owned());
        Ok(())
    }

    fn remove_service(&mut self, name: &Name) {
        let Some(service) = self.services.get(name) else { return };
        let (place, key, span, index) = (service.place, service.key, service.span, service.index);
        let backends: Vec<Name> = service.backends.keys().cloned().collect();
        if let Some(place) = place {
            self.places.remove(key);
            self.write(Write::ServiceGone(place));
        }
        for backend in backends {
            self.remove_backend(&BackendId { service: name.clone(), backend });
        }
        self.services.remove(name);
        self.spans.give_back(span);
        self.service_numbers.give_back(index);
        self.service_event(name, "removed".to_owned());
    }

    /// Takes services whose VIP another service is to have out of the table, until their own turn
    /// comes: a key in it twice would be found in the wrong one of its places.
    fn clear_the_way(&mut self, specs: &[Spec]) {
        let wanted: HashMap<ServiceKey, &Name> = specs
            .iter()
            .map(|spec| (service::key(spec.address, spec.port, spec.protocol), &spec.name))
            .collect();
        for (name, service) in &mut self.services {
            let anothers = wanted.get(&service.key).is_some_and(|owner| *owner != name);
            if let Some(place) = service.place.filter(|_| anothers) {
                service.place = None;
                self.places.remove(service.key);
                self.actions.push(Action::Write(Write::ServiceGone(place)));
            }
        }
    }

    /// Finds a place for a key, moving others if need be, and writes the service there.
    fn place_service(
        &mut self,
        name: &Name,
        key: ServiceKey,
        span: RingSpan,
        meta: ServiceMeta,
    ) -> Result<(), String> {
        let placement = self.places.insert(key).ok_or_else(|| full("services"))?;
        for (moved, from, to) in placement.moves {
            let Some(other) = self.services.values_mut().find(|s| s.place == Some(from)) else {
                continue;
            };
            other.place = Some(to);
            let ring = other.span.to_word();
            let copy = Write::Service { place: to, key: moved, ring, meta: other.meta };
            // A packet may have looked at the new place already: it must still find the old one.
            self.write(copy);
            self.grace();
            self.write(Write::ServiceGone(from));
        }
        if placement.vacated {
            // It was another service's a moment ago, and may still be in a packet's hands.
            self.grace();
        }
        self.write(Write::Service { place: placement.place, key, ring: span.to_word(), meta });
        if let Some(service) = self.services.get_mut(name) {
            service.place = Some(placement.place);
            service.key = key;
        }
        Ok(())
    }

    /// Moves a service's ring to another span, filled before anything points to it.
    fn rebuild_into(&mut self, name: &Name, span: RingSpan) {
        let Some(service) = self.services.get_mut(name) else { return };
        service.span = span;
        service.owners = vec![Slot::NONE; span.length as usize];
        service.rebuild();
        let slots = service.slots();
        self.write(Write::Slots(slots));
    }

    // === Backends ===

    fn add_backend(&mut self, id: &BackendId, desired: Desired, now: Now) -> Result<(), String> {
        let number = self.take("backends", |core| core.backend_numbers.take())?;
        let number = u16::try_from(number).map_err(|_| "limits.backends is above 65533")?;
        let Some(service) = self.services.get_mut(&id.service) else { return Ok(()) };
        let mut backend = Backend::new(desired, number, now.wall);
        if service.spec.health.kind == CheckKind::None {
            backend.health = Checks::Up;
        }
        (backend.state, backend.reason) = backend.assess(&service.spec.health);
        let what = format!("added: {}, weight {}", backend.spec.address, backend.spec.weight);
        service.backends.insert(id.backend.clone(), backend);
        // The number may have been another's: no way to it, and no traffic counted, until written.
        self.write(Write::BackendClosed(number));
        self.write(Write::Counters(number));
        self.actions.push(Action::Targets);
        self.unsaved = Unsaved::Places;
        self.changed_event(id, what);
        self.follow_hop(id, now);
        Ok(())
    }

    fn change_backend(&mut self, id: &BackendId, desired: Desired, now: Now) {
        let Some(service) = self.services.get_mut(&id.service) else { return };
        let Some(backend) = service.backends.get_mut(&id.backend) else { return };
        let (old, new) = (backend.spec.weight, desired.backend.weight);
        backend.spec = desired.backend;
        backend.maintenance = desired.maintenance;
        let serves = matches!(backend.state, BackendState::Up | BackendState::Suspect);
        service.stale |= serves && old != new;
        if old != new {
            self.changed_event(id, format!("weight {old} to {new}"));
        }
        self.reassess(id, None, now);
    }

    fn remove_backend(&mut self, id: &BackendId) {
        let Some(service) = self.services.get_mut(&id.service) else { return };
        let Some(backend) = service.backends.remove(&id.backend) else { return };
        service.stale = true;
        self.backend_numbers.give_back(u32::from(backend.number));
        self.actions.push(Action::Forget(id.clone(), backend.number));
        self.actions.push(Action::Targets);
        self.unsaved = Unsaved::Places;
        self.changed_event(id, "removed".to_owned());
    }

    // === Taking over the tables of an earlier run ===

    /// Takes over what `saved` says and the tables confirm; the rest is cleared away.
    pub(super) fn adopt(&mut self, saved: &Saved, tables: &dyn Tables, buckets: u32) {
        let config = self.config.clone();
        for spec in &config.services {
            if let Some(saved) = saved.services.get(&spec.name) {
                self.adopt_service(spec, saved, tables);
            }
        }
        let ours: HashSet<Place> = self.services.values().filter_map(|s| s.place).collect();
        let mut strays = false;
        for bucket in 0..buckets {
            let Some(entries) = tables.bucket(bucket) else { break };
            for (half, entry) in (0..).zip(&entries.0) {
                let place = Place { bucket, half };
                if entry.head.load() != 0 && !ours.contains(&place) {
                    self.write(Write::ServiceGone(place));
                    strays = true;
                }
            }
        }
        if strays {
            self.write(Write::Grace);
        }
    }

    fn adopt_service(&mut self, spec: &Spec, saved: &SavedService, tables: &dyn Tables) {
        let key = service::key(saved.address, saved.port, saved.protocol);
        let span = RingSpan { base: saved.ring_base, length: saved.ring_length };
        let Some((place, meta)) = self.places.find(key, span, tables) else { return };
        let fits = meta.index() == saved.index
            && self.spans.adopt(span)
            && self.service_numbers.adopt(saved.index);
        if !fits {
            return;
        }
        self.places.adopt(key, place);
        let owners = (span.base..span.base + span.length)
            .map(|index| tables.slot(index).map_or(Slot::NONE, Slot::owner))
            .collect();
        let desired = self.changes.apply(spec);
        let mut backends = BTreeMap::new();
        for (name, saved) in &saved.backends {
            let same = desired.get(name).filter(|d| d.backend.address == saved.address);
            if let Some(desired) = same
                && self.backend_numbers.adopt(u32::from(saved.number))
            {
                let written = tables.backend(saved.number).and_then(|entry| {
                    let words = [entry.first.load(), entry.link.load()];
                    (words[1] >> 32 != 0).then_some(words)
                });
                let backend = Backend::adopt(desired.clone(), saved, written, &spec.health);
                backends.insert(name.clone(), backend);
            }
        }
        let service = Service {
            spec: Spec { ring: span.length, ..spec.clone() },
            index: saved.index,
            key,
            place: Some(place),
            meta,
            span,
            owners,
            backends,
            stale: true,
        };
        self.services.insert(spec.name.clone(), service);
    }

    // === Small things ===

    /// Takes something from a table, after a grace period if only resting things are left.
    fn take<T>(
        &mut self,
        limit: &str,
        take: impl Fn(&mut Self) -> Result<T, Shortage>,
    ) -> Result<T, String> {
        self.unsaved = Unsaved::Places;
        let mut taken = take(self);
        if taken.as_ref().is_err_and(|shortage| *shortage == Shortage::Resting) {
            self.grace();
            taken = take(self);
        }
        taken.map_err(|_| full(limit))
    }

    /// Lets a grace period pass, after which nothing that rests is in any packet's hands. Stale
    /// rings may still name it, so they are rebuilt first.
    fn grace(&mut self) {
        self.rebuild_rings();
        self.write(Write::Grace);
        self.service_numbers.release();
        self.backend_numbers.release();
        self.spans.release();
        self.places.release();
    }

    fn write(&mut self, write: Write) {
        self.actions.push(Action::Write(write));
    }

    fn service_event(&mut self, name: &Name, what: String) {
        self.actions.push(Action::Targets);
        self.unsaved = Unsaved::Places;
        let kind = EventKind::Service { service: name.clone(), what };
        self.actions.push(Action::Event(kind, None));
    }

    fn changed_event(&mut self, id: &BackendId, what: String) {
        let (service, backend) = (id.service.clone(), id.backend.clone());
        self.actions.push(Action::Event(EventKind::Changed { service, backend, what }, None));
    }
}

fn full(limit: &str) -> String {
    format!("the tables are full: raise limits.{limit} and restart")
}

/// A service's own part of the configuration, to compare.
fn without_backends(spec: &Spec) -> Spec {
    Spec { backends: Vec::new(), ..spec.clone() }
}
