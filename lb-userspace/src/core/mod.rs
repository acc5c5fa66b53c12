//! The controller's mind: all state, no I/O, no clock.
//!
//! Inputs come as method calls with the time at which they happened; what is to be done comes out
//! of [`Core::commit`] as [`Action`]s. So the whole controller runs in tests as a history, in
//! microseconds. The core's parts: [`changes`] (run-time changes against the configuration),
//! [`health`] (rise and fall), [`maglev`] (rings), [`places`] and [`allocation`] (who has which
//! place in the kernel's tables), `apply` (from what is wanted to what runs).

pub mod action;
mod adopt;
pub mod allocation;
mod apply;
mod backend;
pub mod changes;
pub mod command;
mod commands;
mod entry;
pub mod event;
pub mod explain;
mod flow_table;
pub mod health;
pub mod input;
pub mod maglev;
mod marks;
pub mod places;
mod plan;
pub mod recorded;
mod replica;
mod report;
pub mod ring;
pub mod rotation;
pub mod saved;
mod service;
mod services;
mod settle;
mod slow_start;
pub mod status;
mod suspicion;
pub mod sweep;
mod tally;
#[cfg(test)]
mod tests;

use std::{collections::HashMap, fmt, net::IpAddr, sync::Arc, time::Duration};

use lb_common::steer::Tables;

pub use self::{
    action::*,
    command::*,
    entry::Entry,
    event::*,
    explain::*,
    flow_table::Fullness,
    input::*,
    plan::*,
    replica::{KernelFlow, Stamps, refresh_period, without_outrun_openings},
    report::CheckTarget,
    status::*,
};
use self::{
    allocation::{Numbers, Spans},
    backend::Backend,
    changes::Changes,
    flow_table::FlowTable,
    health::Health as Checks,
    marks::Marks,
    places::Places,
    recorded::Recorded,
    replica::Replica,
    saved::Saved,
    service::Service,
    services::Services,
    slow_start::SlowStart,
    suspicion::{Fall, Suspicion},
};
use crate::config::{Config, Limits, Name, Service as Spec};

/// All state of the controller.
#[derive(Debug, Clone)]
pub struct Core {
    config: Config,
    changes: Changes,
    services: Services,
    hops: HashMap<IpAddr, Result<NextHop, String>>,
    /// Whose backends an address is, found out when first asked for after a backend came.
    at_address: Option<HashMap<IpAddr, Vec<BackendId>>>,
    places: Places,
    marks: Marks,
    service_numbers: Numbers,
    backend_numbers: Numbers,
    spans: Spans,
    /// The number of the last life of each backend number.
    lives: HashMap<u16, u16>,
    /// What is kept for peers, if there are any.
    replica: Option<Replica>,
    /// What the last sweep left of the records.
    flow_table: FlowTable,
    /// The same by slot and backend.
    recorded: Arc<Recorded>,
    /// Whether this machine may be the one at fault.
    suspicion: Option<Suspicion>,
    /// The last backend that went down since the suspicion was weighed.
    fallen: Option<Fall>,
    /// The latest time that an input brought.
    now: Duration,
    /// What operators should know, until the next reload.
    notices: Vec<String>,
    /// What has been decided since the last commit, rings excepted.
    actions: Vec<Action>,
    /// Events whose rings are not rebuilt yet.
    pending: Vec<Pending>,
    /// Whether what [`Core::saved`] returns has changed, and how.
    unsaved: Unsaved,
}

/// The tables of an earlier run.
#[derive(Clone, Copy)]
pub struct Live<'t> {
    /// Their content.
    pub tables: &'t dyn Tables,
    /// Their sizes.
    pub limits: Limits,
    /// Whether they are the ones to go on with; else others are filled from them.
    pub ours: bool,
}

impl fmt::Debug for Live<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { limits, ours, tables: _ } = self;
        let mut shown = f.debug_struct("Live");
        shown.field("limits", limits).field("ours", ours).finish_non_exhaustive()
    }
}

/// A backend's change of state, waiting for its ring.
#[derive(Debug, Clone)]
struct Pending {
    id: BackendId,
    from: BackendState,
    to: BackendState,
    reason: String,
    cause: Option<Cause>,
}

/// What a crash would lose.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Unsaved {
    /// Nothing.
    Nothing,
    /// States: written after the tables, which are in a hurry.
    States,
    /// Places in the tables or an operator's will: written before anything acts on them.
    Places,
}

impl Core {
    /// The controller of a configuration. `limits` are the sizes of the tables as they are, which
    /// may differ from those that the configuration wants at the next start. `live` are the
    /// tables of an earlier run, if `saved` describes such: these very tables, or others of other
    /// sizes or another layout, from which these are filled.
    ///
    /// # Errors
    ///
    /// A sentence if the services do not fit into the tables.
    pub fn new(
        config: Config,
        limits: Limits,
        saved: &Saved,
        live: Option<Live<'_>>,
        now: Now,
    ) -> Result<Self, String> {
        let mut core = Self {
            changes: saved.changes.clone(),
            services: Services::default(),
            hops: HashMap::new(),
            at_address: None,
            places: Places::new(places::buckets_for(limits.services)),
            marks: Marks::new(),
            service_numbers: Numbers::new(limits.services),
            backend_numbers: Numbers::new(limits.backends),
            spans: Spans::new(limits.ring_slots),
            lives: HashMap::new(),
            replica: config.sync.as_ref().and_then(|_| {
                let node = Name::new(&config.node.name).ok()?;
                Some(Replica::new(node, saved.stamps.clone()))
            }),
            flow_table: FlowTable::new(limits.flows),
            recorded: Arc::default(),
            suspicion: None,
            fallen: None,
            now: now.monotonic,
            notices: Vec::new(),
            actions: vec![Action::Targets],
            pending: Vec::new(),
            unsaved: Unsaved::Places,
            config,
        };
        core.notices = core.changes.settle(&core.config.services);
        if let Some(tables) = live {
            core.adopt(saved, &tables, limits, now)?;
        }
        core.apply(now)?;
        Ok(core)
    }

    /// Time has gone by: new services that have waited long enough begin, slow starts go on.
    pub fn tick(&mut self, now: Now) {
        self.now = now.monotonic;
        let waits = |service: &Service| service.warm_until.is_some() || service.has_slow_starts();
        for name in self.services.names(|_, service| waits(service)) {
            if let Some(service) = self.services.get_mut(&name) {
                service.proceed_slow_starts(now.monotonic);
            }
        }
    }

    /// A health check has ended.
    pub fn health(&mut self, report: &HealthReport, now: Now) {
        self.now = now.monotonic;
        self.reaches_someone(report);
        let Some(service) = self.services.get_mut(&report.id.service) else { return };
        let check = &service.spec.health;
        let Some(backend) = service.backends.get_mut(&report.id.backend) else { return };
        let (health, began) = backend.health.after(report, check.rise, check.fall);
        if let Err(failure) = &report.outcome {
            backend.failure.clone_from(failure);
            backend.failed_at = report.started.monotonic;
            service.touched |= backend.dispel_doubt(report.started.monotonic);
        }
        backend.health = health;
        let cause = Cause { began, decided: report.finished };
        self.reassess(&report.id, Some(cause), now);
    }

    /// The way to an address has changed.
    pub fn next_hop(&mut self, report: NextHopReport, now: Now) {
        let NextHopReport { address, outcome } = report;
        self.hops.insert(address, outcome);
        // Each of thousands of addresses comes by here.
        let services = &self.services;
        let known = self.at_address.get_or_insert_with(|| by_address(services));
        for id in known.get(&address).cloned().unwrap_or_default() {
            self.follow_hop(&id, now);
        }
    }

    /// Reads a new configuration. If it does not fit, nothing changes.
    ///
    /// # Errors
    ///
    /// A sentence on what does not fit.
    pub fn reload(&mut self, config: Config, now: Now) -> Result<(), String> {
        let before = self.clone();
        self.config = config;
        self.notices = self.changes.settle(&self.config.services);
        self.forget_stamps();
        self.unsaved = Unsaved::Places;
        if let Err(error) = self.apply(now) {
            *self = before;
            return Err(error);
        }
        Ok(())
    }

    /// Ends a run of inputs: rebuilds the rings that they touched, once, and returns all that is
    /// to be done, in order.
    pub fn commit(&mut self) -> Vec<Action> {
        let mut actions = Vec::new();
        if self.unsaved == Unsaved::Places {
            actions.push(Action::Persist);
        }
        self.rebuild_rings();
        actions.append(&mut self.actions);
        if self.unsaved == Unsaved::States {
            actions.push(Action::Persist);
        }
        self.unsaved = Unsaved::Nothing;
        actions
    }

    // === What inputs have in common ===

    /// Rebuilds every stale ring and tells of the changes of state that made it so.
    fn rebuild_rings(&mut self) {
        self.settle();
        let mut moved = HashMap::new();
        let now = self.now;
        let following = self.is_following();
        for name in self.services.take_changed() {
            let Some(service) = self.services.concluded_mut(&name) else { continue };
            // One that waits for its backends is looked at again with each report and tick.
            if !service.stale || service.is_warming(now) {
                continue;
            }
            let meta = service.refresh_meta().map(Action::Write);
            // The leader's slots hold, unless they name what is no longer here.
            if following && !service.names_the_gone() {
                service.stale = false;
                self.actions.extend(meta);
                continue;
            }
            let changed = service.rebuild(self.now);
            self.actions.extend(service.balance().into_iter().map(Action::Write));
            moved.extend(changed.moved);
            if !changed.slots.is_empty() {
                self.actions.push(Action::Write(Write::Slots(changed.slots)));
            }
            // Once its slots are written.
            self.actions.extend(meta);
        }
        for Pending { id, from, to, reason, cause } in self.pending.drain(..) {
            let changed = self.services.get(&id.service).and_then(|s| s.backends.get(&id.backend));
            let slots_moved = changed.and_then(|b| moved.get(&b.number)).copied().unwrap_or(0);
            let BackendId { service, backend } = id;
            let kind = EventKind::Backend { service, backend, from, to, reason, slots_moved };
            self.actions.push(Action::Event(kind, cause));
        }
    }

    /// Takes over what is known of the way to a backend: its table entry, then its state.
    fn follow_hop(&mut self, id: &BackendId, now: Now) {
        let Some(service) = self.services.get_mut(&id.service) else { return };
        let Some(backend) = service.backends.get_mut(&id.backend) else { return };
        let address = backend.spec.address;
        let way = match self.hops.get(&address) {
            None => return,
            Some(Ok(hop)) => Entry::new(&service.spec, address, hop).map(|entry| (hop, entry)),
            Some(Err(reason)) => Err(reason.clone()),
        };
        let what = match way {
            Ok((hop, entry)) => {
                backend.no_way = None;
                let writes = entry.writes(backend.number, backend.written);
                if writes.is_empty() {
                    None
                } else {
                    service.touched = true;
                    backend.written = Some(entry);
                    self.actions.extend(writes.into_iter().map(Action::Write));
                    Some(describe(hop, &service.spec))
                }
            }
            Err(reason) => {
                // A way that is not known yet is no event; one that is lost is, once.
                let lost = backend.no_way.is_none() && backend.written.is_some();
                backend.no_way = Some(reason.clone());
                lost.then(|| reason.clone())
            }
        };
        if let Some(what) = what {
            let (service, backend) = (id.service.clone(), id.backend.clone());
            let kind = EventKind::NextHop { service, backend, what };
            self.actions.push(Action::Event(kind, None));
        }
        self.reassess(id, None, now);
    }

    /// Draws the conclusion from what is known of a backend.
    fn reassess(&mut self, id: &BackendId, cause: Option<Cause>, now: Now) {
        let Some(service) = self.services.get_mut(&id.service) else { return };
        let Some(backend) = service.backends.get_mut(&id.backend) else { return };
        self.now = now.monotonic;
        let check = &service.spec.health;
        let (state, _) = backend.assess(check);
        let from = std::mem::replace(&mut backend.state, state);
        let trouble = backend.trouble;
        backend.note_trouble(check, cause.map_or(now, |cause| cause.began).monotonic);
        service.touched |= state != from || backend.trouble != trouble;
        if state != from {
            backend.since = now.wall;
            backend.drains_since = (state == BackendState::Draining).then_some(now.monotonic);
            backend.drain_told = None;
            if from.serves() && state == BackendState::Down && backend.is_wanted() {
                self.fallen = Fall::of(backend, check).or(self.fallen);
            }
            let begins = state.serves() && !from.serves() && backend.kept.is_none();
            backend.slow_start = match backend.slow_start {
                _ if begins && service.warm_until.is_none() => {
                    SlowStart::begin(service.spec.slow_start, now)
                }
                start => start.filter(|_| state.serves()),
            };
        }
        let reason = backend.assess(check).1;
        backend.reason.clone_from(&reason);
        if state == from {
            return;
        }
        self.unsaved = self.unsaved.max(Unsaved::States);
        self.pending.push(Pending { id: id.clone(), from, to: state, reason, cause });
    }

    fn backend(&self, id: &BackendId) -> Option<&Backend> {
        self.services.get(&id.service)?.backends.get(&id.backend)
    }

    fn ids(&self) -> impl Iterator<Item = BackendId> {
        self.services.iter().flat_map(|(service, running)| {
            running
                .backends
                .keys()
                .map(|backend| BackendId { service: service.clone(), backend: backend.clone() })
        })
    }
}

/// The backends at each address. Who has left since is no harm: nobody finds it any more.
fn by_address(services: &Services) -> HashMap<IpAddr, Vec<BackendId>> {
    let mut found: HashMap<IpAddr, Vec<BackendId>> = HashMap::new();
    for (service, running) in services.iter() {
        for (name, backend) in &running.backends {
            let id = BackendId { service: service.clone(), backend: name.clone() };
            found.entry(backend.spec.address).or_default().push(id);
        }
    }
    found
}

fn describe(hop: &NextHop, spec: &Spec) -> String {
    let [a, b, c, d, e, f] = hop.destination;
    let way =
        format!("{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x} on interface {}", hop.interface);
    if spec.forward.is_tunnel() {
        return format!("{way}, by {} with an MTU of {}", spec.forward.name(), hop.mtu);
    }
    way
}
