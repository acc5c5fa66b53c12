//! Taking over the tables of an earlier run, or filling new ones from them.

use std::collections::{BTreeMap, HashSet};

use lb_common::{
    layout::{Life, RingSpan},
    slot::Slot,
    steer::Tables,
};

use super::{
    Action, BackendState, Core, Entry, Live, Now, Write,
    backend::Backend,
    changes::{Admin, Desired},
    places::{Place, Places, buckets_for},
    ring::{Ring, Tracking},
    rotation::Rotation,
    saved::{Saved, SavedBackend, SavedService},
    service::{self, Service},
    slow_start::SlowStart,
};
use crate::config::{Limits, Name, Service as Spec};

impl Core {
    /// Takes over what `saved` says and the tables confirm; the rest is cleared away. If the
    /// tables are not ours to go on with, ours are filled from them, with the same numbers and
    /// slots, so that the records of flows can be copied as they are.
    pub(super) fn adopt(
        &mut self,
        saved: &Saved,
        live: &Live<'_>,
        limits: Limits,
        now: Now,
    ) -> Result<(), String> {
        let config = self.config.clone();
        for number in 0..u16::try_from(live.limits.backends).unwrap_or(u16::MAX) {
            let (_, life) = entry(live.tables, number);
            self.lives.insert(number, life.number());
        }
        let same_tables = live.ours;
        for spec in &config.services {
            if let Some(saved) = saved.services.get(&spec.name) {
                self.adopt_service(spec, saved, live, now);
                if !same_tables {
                    self.copy_service(&spec.name)?;
                }
            }
        }
        if same_tables {
            self.adopt_marks(&Places::new(buckets_for(live.limits.services)), live.tables);
            self.clear_strays(live.tables, limits);
        }
        if saved.machine_suspected {
            self.adopt_suspicion();
        }
        Ok(())
    }

    /// Writes an adopted service into tables that know nothing of it.
    fn copy_service(&mut self, name: &Name) -> Result<(), String> {
        let Some(service) = self.services.get_mut(name) else { return Ok(()) };
        service.place = None;
        let (key, span, meta) = (service.key, service.ring.span(), service.meta);
        let mut writes = vec![Write::Slots(service.ring.indexed())];
        for backend in service.backends.values().chain(service.leaving.values()) {
            writes.extend(backend.written.map(|entry| Write::Backend(backend.number, entry)));
            writes.push(Write::Life(backend.number, backend.life));
        }
        self.actions.extend(writes.into_iter().map(Action::Write));
        self.places.remove(key);
        self.place_service(name, key, span, meta)
    }

    /// Erases services that nobody knows from the tables.
    fn clear_strays(&mut self, tables: &dyn Tables, limits: Limits) {
        let services = self.services.values().filter_map(|s| s.place);
        let ours: HashSet<Place> =
            services.chain(self.marks.values().map(|mark| mark.place)).collect();
        let mut strays = false;
        for bucket in 0..buckets_for(limits.services) {
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

    fn adopt_service(&mut self, spec: &Spec, saved: &SavedService, live: &Live<'_>, now: Now) {
        let tables = live.tables;
        let theirs = Places::new(buckets_for(live.limits.services));
        let key = service::key(saved.address, saved.port, saved.protocol);
        let span = RingSpan { base: saved.ring_base, length: saved.ring_length };
        let Some((place, meta)) = theirs.find(key, span, tables) else { return };
        let fits = meta.index() == saved.index
            && self.spans.adopt(span)
            && self.service_numbers.adopt(saved.index);
        if !fits {
            return;
        }
        self.places.adopt(key, place);
        let slots = (span.base..span.base + span.length)
            .map(|index| tables.slot(index).unwrap_or(Slot::settled(Slot::NONE)))
            .collect();
        let desired = self.changes.apply(spec);
        let mut backends = BTreeMap::new();
        let mut leaving = BTreeMap::new();
        for (name, saved, gone) in saved.everyone() {
            if !self.backend_numbers.adopt(u32::from(saved.number)) {
                continue;
            }
            let table = entry(tables, saved.number);
            let same = desired.get(name).filter(|d| !gone && d.backend.address == saved.address);
            if let Some(desired) = same {
                let backend = resumed(desired.clone(), saved, table, spec, now);
                backends.insert(name.clone(), backend);
            } else {
                // Removed by now; it drains like any other.
                let backend = crate::config::Backend {
                    name: name.clone(),
                    address: saved.address,
                    weight: 0,
                    backup: false,
                };
                let desired = Desired { backend, admin: Admin::Drain };
                let mut backend = resumed(desired, saved, table, spec, now);
                backend.state = BackendState::Draining;
                backend.drains_since = Some(now.monotonic);
                leaving.insert(saved.number, backend);
            }
        }
        // Turns are written anew; until then they are taken as they were.
        let rotation_span =
            RingSpan { base: saved.rotation_base.unwrap_or(0), length: span.length };
        let has_turns = saved.rotation_base.is_some() && self.spans.adopt(rotation_span);
        let tracking = if meta.is_per_flow() {
            Tracking::EveryFlow
        } else {
            match service::tracking(spec) {
                Tracking::EveryFlow => Tracking::Moves,
                tracking => tracking,
            }
        };
        let service = Service {
            spec: Spec { ring: span.length, ..spec.clone() },
            index: saved.index,
            key,
            place: Some(place),
            meta,
            ring: Ring::adopt(span, tracking, slots, now.monotonic),
            rotation: has_turns.then(|| Rotation::new(rotation_span)),
            backends,
            leaving,
            touched: true,
            stale: true,
            panic: None,
            warm_until: None,
        };
        self.services.insert(spec.name.clone(), service);
    }
}

/// A backend as it was saved, and as its service's configuration wants it now.
fn resumed(
    desired: Desired,
    saved: &SavedBackend,
    table: (Option<Entry>, Life),
    spec: &Spec,
    now: Now,
) -> Backend {
    let mut backend = Backend::adopt(desired, saved, table, &spec.health, now);
    backend.slow_start = saved
        .slow_start_ends
        .filter(|_| backend.state.serves())
        .and_then(|ends| SlowStart::resume(spec.slow_start, ends, now));
    backend
}

/// A backend's entry, if it is open, and its life.
fn entry(tables: &dyn Tables, number: u16) -> (Option<Entry>, Life) {
    let Some(entry) = tables.backend(number) else { return (None, Life::default()) };
    (Entry::load(entry), Life(entry.life.load()))
}
