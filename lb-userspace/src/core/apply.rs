//! From what is wanted to what runs: services and backends appear, change and go.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use lb_common::layout::{Life, RingSpan, ServiceKey, ServiceMeta};

use super::{
    Action, BackendId, BackendState, Checks, Core, EventKind, Now, Unsaved, Write,
    allocation::Shortage,
    backend::Backend,
    changes::Desired,
    places::Place,
    ring::{Ring, Tracking},
    rotation::Rotation,
    service::{self, Service},
};
use crate::config::{Algorithm, CheckKind, Config, Name, Service as Spec};

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
                self.change_service(spec, now)?;
            } else {
                self.add_service(spec, now)?;
            }
            self.apply_backends(spec, now)?;
        }
        self.apply_marks()?;
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
            self.retire(&BackendId { service: spec.name.clone(), backend: name }, now);
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

    fn add_service(&mut self, spec: &Spec, now: Now) -> Result<(), String> {
        let index = self.take("services", |core| core.service_numbers.take())?;
        let span = self.take("ring_slots", |core| core.spans.take(spec.ring))?;
        let key = service::key(spec.address, spec.port, spec.protocol);
        // Until it knows its backends: see `Service::due_meta`.
        let meta = service::meta(index, spec).without(ServiceMeta::EMPTY_REJECTS);
        let rotation = self.take_rotation(index, spec)?;
        let service = Service {
            spec: spec.clone(),
            index,
            key,
            place: None,
            meta,
            ring: Ring::new(span, service::tracking(spec)),
            rotation,
            backends: BTreeMap::new(),
            leaving: BTreeMap::new(),
            touched: true,
            stale: true,
            panic: None,
            warm_until: Some(now.monotonic + service::warm_up(&spec.health)),
        };
        // Slots first: whoever finds the service finds its ring.
        self.write(Write::Fill(span, service::tracking(spec).unowned()));
        self.services.insert(spec.name.clone(), service);
        self.place_service(&spec.name, key, span, meta)?;
        self.service_event(&spec.name, "added".to_owned());
        Ok(())
    }

    fn change_service(&mut self, spec: &Spec, now: Now) -> Result<(), String> {
        let Some(running) = self.services.get(&spec.name) else { return Ok(()) };
        let (index, place, old_key) = (running.index, running.place, running.key);
        let (old_span, old_meta) = (running.ring.span(), running.meta);
        let key = service::key(spec.address, spec.port, spec.protocol);
        let meta = if running.warm_until.is_some() {
            service::meta(index, spec).without(ServiceMeta::EMPTY_REJECTS)
        } else {
            service::meta(index, spec)
        };
        let tracking = service::tracking(spec);
        let same_tables = old_key == key
            && old_span.length == spec.ring
            && old_meta == meta
            && running.ring.wanted_tracking() == tracking
            && running.rotation_fits(spec);
        if same_tables && without_backends(&running.spec) == without_backends(spec) {
            return Ok(());
        }
        let span = if old_span.length == spec.ring {
            old_span
        } else {
            self.take("ring_slots", |core| core.spans.take(spec.ring))?
        };
        // Slots and turns first: whoever finds the service balanced per flow finds what it takes.
        let old_rotation = self.change_rotation(spec)?;
        if tracking == Tracking::EveryFlow {
            self.track(spec, now);
        }
        if span != old_span {
            self.rebuild_into(&spec.name, span, now);
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
        if tracking != Tracking::EveryFlow {
            // After the flags: no flow is given away from its slot's owner any more.
            self.track(spec, now);
        }
        let vacated = [old_rotation, (span != old_span).then_some(old_span)];
        vacated.into_iter().flatten().for_each(|span| self.spans.give_back(span));
        if let Some(running) = self.services.get_mut(&spec.name) {
            running.spec = spec.clone();
            running.meta = meta;
            running.touched = true;
            running.stale = true;
            if spec.health.kind == CheckKind::None {
                // Nothing will ever bring those back that are down.
                running.backends.values_mut().for_each(|b| b.health = Checks::Up);
            }
        }
        self.service_event(&spec.name, "changed".to_owned());
        // Packets may be forwarded in another way.
        for id in self.ids().filter(|id| id.service == spec.name).collect::<Vec<_>>() {
            self.follow_hop(&id, now);
        }
        Ok(())
    }

    fn remove_service(&mut self, name: &Name) {
        let Some(service) = self.services.get(name) else { return };
        let everyone = service.backends.values().chain(service.leaving.values());
        let numbers: Vec<(BackendId, u16)> = everyone
            .map(|backend| {
                let backend_name = backend.spec.name.clone();
                (BackendId { service: name.clone(), backend: backend_name }, backend.number)
            })
            .collect();
        let (place, key, index) = (service.place, service.key, service.index);
        let span = service.ring.span();
        let rotation = service.rotation.as_ref().map(Rotation::span);
        if let Some(place) = place {
            self.places.remove(key);
            self.write(Write::ServiceGone(place));
        }
        for (id, number) in numbers {
            self.bury(&id, number);
        }
        self.services.remove(name);
        self.spans.give_back(span);
        if let Some(span) = rotation {
            self.spans.give_back(span);
        }
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
        let anothers = self
            .services
            .names(|name, service| wanted.get(&service.key).is_some_and(|owner| *owner != name));
        for name in anothers {
            let Some(service) = self.services.get_mut(&name) else { continue };
            if let Some(place) = service.place.take() {
                self.places.remove(service.key);
                self.actions.push(Action::Write(Write::ServiceGone(place)));
            }
        }
    }

    /// Finds a place for a key, and writes the service there.
    pub(super) fn place_service(
        &mut self,
        name: &Name,
        key: ServiceKey,
        span: RingSpan,
        meta: ServiceMeta,
    ) -> Result<(), String> {
        let place = self.make_place(key).ok_or_else(|| full("services"))?;
        self.write(Write::Service { place, key, ring: span.to_word(), meta });
        if let Some(service) = self.services.get_mut(name) {
            service.place = Some(place);
            service.key = key;
        }
        Ok(())
    }

    /// Finds a place for a key, moving others if need be; `None` if there is none within reach.
    pub(super) fn make_place(&mut self, key: ServiceKey) -> Option<Place> {
        let placement = self.places.insert(key)?;
        for (_, from, to) in placement.moves {
            let Some(copy) = self.move_service(from, to).or_else(|| self.move_mark(from, to))
            else {
                continue;
            };
            // A packet may have looked at the new place already: it must still find the old one.
            self.write(copy);
            self.grace();
            self.write(Write::ServiceGone(from));
        }
        if placement.vacated {
            // It was another service's a moment ago, and may still be in a packet's hands.
            self.grace();
        }
        Some(placement.place)
    }

    fn move_service(&mut self, from: Place, to: Place) -> Option<Write> {
        let name = self.services.values().find(|s| s.place == Some(from))?.spec.name.clone();
        let service = self.services.get_mut(&name)?;
        service.place = Some(to);
        let ring = service.ring.span().to_word();
        Some(Write::Service { place: to, key: service.key, ring, meta: service.meta })
    }

    /// Records other flows of a service from now on.
    fn track(&mut self, spec: &Spec, now: Now) {
        let Some(service) = self.services.get_mut(&spec.name) else { return };
        let tracking = service::tracking(spec);
        if service.ring.wanted_tracking() != tracking {
            let slots = service.ring.track(tracking, spec.idle_timeout, now.monotonic);
            self.write(Write::Slots(slots));
        }
    }

    /// Gives a service the span that its backends take turns in, or takes it away. Returns the one
    /// that it had before, to be given back when nothing leads there any more.
    fn change_rotation(&mut self, spec: &Spec) -> Result<Option<RingSpan>, String> {
        let Some(service) = self.services.get(&spec.name) else { return Ok(None) };
        if service.rotation_fits(spec) {
            return Ok(None);
        }
        let rotation = self.take_rotation(service.index, spec)?;
        let Some(service) = self.services.get_mut(&spec.name) else { return Ok(None) };
        let old = std::mem::replace(&mut service.rotation, rotation);
        Ok(old.map(|rotation| rotation.span()))
    }

    /// A span for turns, if they are taken. Until they are written, flows go to their slots'
    /// owners.
    fn take_rotation(&mut self, index: u32, spec: &Spec) -> Result<Option<Rotation>, String> {
        if spec.algorithm != Algorithm::RoundRobin {
            return Ok(None);
        }
        let span = self.take("ring_slots", |core| core.spans.take(spec.ring))?;
        self.write(Write::Order(index, 0));
        Ok(Some(Rotation::new(span)))
    }

    /// Moves a service's ring to another span, filled before anything points to it. Every flow
    /// has another slot there, so nothing but records can be remembered.
    fn rebuild_into(&mut self, name: &Name, span: RingSpan, now: Now) {
        let Some(service) = self.services.get_mut(name) else { return };
        service.ring = Ring::new(span, service.ring.wanted_tracking());
        service.rebuild(now.monotonic);
        let slots = service.ring.indexed();
        self.write(Write::Slots(slots));
    }

    // === Backends ===

    fn add_backend(&mut self, id: &BackendId, desired: Desired, now: Now) -> Result<(), String> {
        let number = loop {
            match self.take("backends", |core| core.backend_numbers.take()) {
                Ok(number) => break number,
                // Who leaves has had its time; who comes is wanted.
                Err(full) => self.bury_oldest().ok_or(full)?,
            }
        };
        let number = u16::try_from(number).map_err(|_| "limits.backends is above 65533")?;
        let Some(service) = self.services.get_mut(&id.service) else { return Ok(()) };
        let life = self.lives.get(&number).map_or(0, |life| life.wrapping_add(1));
        self.lives.insert(number, life);
        let mut backend = Backend::new(desired, number, life, now.wall);
        if service.spec.health.kind == CheckKind::None {
            backend.health = Checks::Up;
        }
        (backend.state, backend.reason) = backend.assess(&service.spec.health);
        let what = format!("added: {}, weight {}", backend.spec.address, backend.spec.weight);
        service.backends.insert(id.backend.clone(), backend);
        self.at_address = None;
        // The number may have been another's: no way to it, and no traffic counted, until written.
        self.write(Write::BackendClosed(number));
        self.write(Write::Life(number, Life::new(life, false, false)));
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
        backend.admin = desired.admin;
        service.touched = true;
        if old != new {
            self.changed_event(id, format!("weight {old} to {new}"));
        }
        self.reassess(id, None, now);
    }

    /// Takes a backend out of what is wanted. If it lives, it drains before it goes.
    fn retire(&mut self, id: &BackendId, now: Now) {
        let Some(service) = self.services.get_mut(&id.service) else { return };
        let Some(mut backend) = service.backends.remove(&id.backend) else { return };
        (service.stale, service.touched) = (true, true);
        self.actions.push(Action::Targets);
        self.unsaved = Unsaved::Places;
        if !backend.life.lives() {
            self.bury(id, backend.number);
            return;
        }
        backend.state = BackendState::Draining;
        backend.drains_since = Some(now.monotonic);
        backend.drain_told = None;
        backend.kept = None;
        backend.life = backend.next_life();
        let (number, life) = (backend.number, backend.life);
        service.leaving.insert(number, backend);
        self.write(Write::Life(number, life));
        self.changed_event(id, "removed: takes no new flows, goes when its old ones end".into());
    }

    /// Ends a backend that nobody wants and that has nothing left to do: its number is free.
    pub(super) fn bury(&mut self, id: &BackendId, number: u16) {
        if let Some(service) = self.services.get_mut(&id.service) {
            service.leaving.remove(&number);
            service.stale = true;
        }
        let life = self.ended(number);
        self.write(Write::Life(number, life));
        self.backend_numbers.give_back(u32::from(number));
        self.actions.push(Action::Forget(id.clone(), number));
        self.actions.push(Action::Targets);
        self.unsaved = Unsaved::Places;
        self.changed_event(id, "removed".to_owned());
    }

    /// Ends the backends of this name that drain before they go.
    pub(super) fn remove_leaving(&mut self, id: &BackendId) {
        let Some(service) = self.services.get(&id.service) else { return };
        let numbers: Vec<u16> = service
            .leaving
            .values()
            .filter(|backend| backend.spec.name == id.backend)
            .map(|backend| backend.number)
            .collect();
        for number in numbers {
            self.bury(id, number);
        }
    }

    /// Ends the backend that has been leaving for longest.
    fn bury_oldest(&mut self) -> Option<()> {
        let leaving = self.services.iter().flat_map(|(name, service)| {
            service.leaving.values().map(move |backend| (name, backend))
        });
        let (service, backend) = leaving.min_by_key(|(_, backend)| backend.drains_since)?;
        let id = BackendId { service: service.clone(), backend: backend.spec.name.clone() };
        let number = backend.number;
        self.bury(&id, number);
        Some(())
    }

    /// The life after the present one of a number, which nobody lives.
    fn ended(&mut self, number: u16) -> Life {
        let life = self.lives.entry(number).or_default();
        *life = life.wrapping_add(1);
        Life::new(*life, false, false)
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

    pub(super) fn write(&mut self, write: Write) {
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

pub(super) fn full(limit: &str) -> String {
    format!("the tables are full: raise limits.{limit} and restart")
}

/// A service's own part of the configuration, to compare.
fn without_backends(spec: &Spec) -> Spec {
    Spec { backends: Vec::new(), ..spec.clone() }
}
