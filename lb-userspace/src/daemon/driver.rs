//! The one task: inputs go into the core, its actions are carried out, in order.

use std::{collections::BTreeSet, io, path::PathBuf, sync::Arc, time::Duration};

use anyhow::Result;
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
    time::{Instant, timeout_at},
};
use tracing::{error, info, warn};

use super::{
    replication::{Replication, woken},
    setup,
    signals::{Ask, Signals, tell_systemd},
    state::{Lock, Saver, State},
    traffic::Past,
};
use crate::{
    admin::Metrics,
    clock::{Clock, every},
    config::Config,
    control::{EventLog, Request},
    core::{
        Action, Cause, Core, Event, EventKind, HealthReport, InterfaceStatus, Now, Phases, Write,
        sweep::Findings,
    },
    dataplane::{self, Attached, Attachment, Explainer, PacketLog, Tables, TablesId, Undo},
    health::Checker,
    netlink::{LinkReport, NetlinkReport, Resolver},
    resources,
    vrrp::{Vrrp, held_addresses},
};

/// Reports taken in one go: rings are rebuilt once for all of them.
const BATCH: usize = 256;
/// How often the records of flows are looked through, while there is anything to look for.
const SWEEP: Duration = Duration::from_secs(1);
/// How many times as long as a sweep took it rests afterwards: a full table costs a twentieth of
/// one CPU at most.
const SWEEP_REST: u32 = 19;
/// How often systemd's watchdog hears from us; the unit gives several times as long.
const WATCHDOG: Duration = Duration::from_secs(5);

/// The sweeps of the records.
#[derive(Debug, Default)]
pub(super) struct Sweeps {
    /// The one under way.
    running: Option<JoinHandle<io::Result<Findings>>>,
    /// When the next one may begin, by the monotonic clock.
    after: Duration,
}

/// The daemon's one task.
#[derive(Debug)]
pub(super) struct Daemon {
    pub(super) core: Core,
    pub(super) clock: Clock,
    pub(super) config_path: PathBuf,
    /// The configuration in force.
    pub(super) config: Config,
    pub(super) object: Vec<u8>,
    pub(super) tables: Tables,
    /// Answers `weir explain`.
    pub(super) explainer: Explainer,
    pub(super) sweeps: Sweeps,
    pub(super) id: TablesId,
    /// The interfaces as they were when the program was attached to them.
    pub(super) attachments: Vec<Attachment>,
    /// What came of it.
    pub(super) interfaces: Vec<InterfaceStatus>,
    /// What the programs tell of packets, in the order of the interfaces.
    pub(super) packet_logs: Vec<Option<PacketLog>>,
    /// Those of them that are without the program at the moment.
    pub(super) unattached: BTreeSet<String>,
    pub(super) past: Past,
    /// The count of packets that arrive at backups of VRRP, if one is under way.
    pub(super) arrivals: Option<JoinHandle<()>>,
    /// Why the state is not kept at the moment, if so.
    pub(super) unsaved: Option<String>,
    /// Whether the state has changed since it was last handed over to be kept.
    pub(super) outdated: bool,
    /// Whether a configuration was read since memory was last given back.
    pub(super) bloated: bool,
    /// Whether VRRP was last told that peers know what this node does not know yet; nothing if it
    /// was told nothing.
    pub(super) lacked_tables: Option<bool>,
    /// The peers, if there are any.
    pub(super) replication: Option<Replication>,
    pub(super) sequence: u64,
    pub(super) stopping: bool,
    pub(super) edges: Edges,
    pub(super) ready: watch::Sender<bool>,
    pub(super) shutdown: watch::Sender<bool>,
    pub(super) servers: Vec<JoinHandle<()>>,
    pub(super) _locks: [Lock; 2],
}

/// Everything around the core.
#[derive(Debug)]
pub(super) struct Edges {
    pub(super) checker: Checker,
    pub(super) resolver: Resolver,
    pub(super) saver: Saver,
    pub(super) metrics: Metrics,
    pub(super) events: EventLog,
    pub(super) requests: mpsc::Receiver<Request>,
    pub(super) health: mpsc::Receiver<HealthReport>,
    pub(super) netlink: mpsc::Receiver<NetlinkReport>,
    pub(super) signals: Signals,
    pub(super) vrrp: Vrrp,
}

impl Daemon {
    /// Works until a signal says stop.
    pub(super) async fn run(&mut self) {
        tell_systemd(&[sd_notify::NotifyState::Ready]);
        let (mut watchdog, mut sweep) = (every(WATCHDOG), every(SWEEP));
        while !self.stopping {
            tokio::select! {
                _ = sweep.tick() => self.sweep(),
                _ = watchdog.tick() => tell_systemd(&[sd_notify::NotifyState::Watchdog]),
                () = self.take_inputs() => {}
            }
        }
    }

    /// Leaves in order: packets go on by the tables as they are.
    pub(super) async fn stop(mut self) {
        tell_systemd(&[sd_notify::NotifyState::Stopping]);
        self.leave_vrrp().await;
        self.publish(EventKind::Stopped, None);
        self.edges.saver.save_now(self.state());
        let _ = self.shutdown.send(true);
        for server in self.servers {
            // The servers end by themselves; one that does not has its connections cut.
            let _ = tokio::time::timeout(Duration::from_secs(2), server).await;
        }
        info!("weir stops; packets go on until `weir detach`");
    }

    /// Gathers first checks and next hops until every backend is known, or patience ends.
    pub(super) async fn wait_for_backends(&mut self, patience: Duration) {
        let deadline = Instant::now() + patience;
        while !self.core.is_settled() && !self.stopping {
            if timeout_at(deadline, self.take_inputs()).await.is_err() {
                warn!("some backends are still unknown; the new tables start without them");
                return;
            }
        }
    }

    /// Waits for inputs, takes what is there, and carries out what follows. Cancel safe: nothing
    /// is awaited once an input is taken.
    async fn take_inputs(&mut self) {
        let mut checks = Vec::new();
        let mut ways = Vec::new();
        tokio::select! {
            // Health first: a failover must not wait for questions.
            biased;
            _ = self.edges.health.recv_many(&mut checks, BATCH) => {}
            _ = self.edges.netlink.recv_many(&mut ways, BATCH) => {}
            findings = swept(&mut self.sweeps.running) => self.take_findings(findings),
            report = self.edges.vrrp.report() => self.vrrp(report),
            ask = self.edges.signals.next() => self.asked(ask),
            Some(request) = self.edges.requests.recv() => self.answer(request),
            wake = woken(&mut self.replication) => self.replicate(wake),
            () = self.edges.saver.freed(), if self.outdated => self.save_soon(),
        }
        let now = self.clock.now();
        for report in checks {
            self.edges.metrics.health_check(&report);
            self.core.health(&report, now);
        }
        for report in ways {
            self.netlink(report, now);
        }
        self.carry_out();
    }

    /// Lets time go by, and starts a sweep of the records, if there is anything to sweep for and
    /// none is under way.
    fn sweep(&mut self) {
        self.core.tick(self.clock.now());
        self.carry_out();
        self.watch_saver();
        self.count_arrivals();
        if self.bloated && self.core.is_settled() {
            self.bloated = false;
            // Nobody waits for it.
            drop(tokio::task::spawn_blocking(resources::give_back_memory));
        }
        let now = self.clock.now();
        if self.sweeps.running.is_some() || now.monotonic < self.sweeps.after {
            return;
        }
        let Some(order) = self.core.sweep_order(now) else { return };
        let (mapped, records) = (Arc::clone(&self.tables.mapped), Arc::clone(&self.tables.records));
        self.sweeps.running =
            Some(tokio::task::spawn_blocking(move || records.sweep(&mapped, &order)));
    }

    /// Tells everyone when keeping the state fails, and when it works again.
    fn watch_saver(&mut self) {
        let unsaved = self.edges.saver.failure();
        if unsaved.is_some() != self.unsaved.is_some() {
            let kind = match &unsaved {
                Some(reason) => EventKind::StateNotKept { reason: reason.clone() },
                None => EventKind::StateKept,
            };
            self.publish(kind, None);
        }
        if self.unsaved.is_some() {
            // What changed meanwhile is still to be kept.
            self.save_soon();
        }
        self.unsaved = unsaved;
    }

    fn take_findings(&mut self, findings: io::Result<Findings>) {
        match findings {
            Ok(mut findings) => {
                let seen = std::mem::take(&mut findings.seen);
                let now = self.clock.now();
                let took = now.monotonic.saturating_sub(findings.began);
                self.sweeps.after = now.monotonic + took * SWEEP_REST;
                self.core.swept(findings, now);
                self.say_seen(seen);
            }
            Err(error) => error!("a sweep of the recorded flows failed: {error}"),
        }
    }

    fn asked(&mut self, ask: Ask) {
        match ask {
            Ask::Stop => self.stopping = true,
            Ask::Reload => match self.reload() {
                Ok(what) => info!("reloaded: {what}"),
                Err(faults) => {
                    for fault in &faults {
                        error!("{fault}");
                    }
                    error!("the configuration was refused; nothing changed");
                }
            },
        }
    }

    fn netlink(&mut self, report: NetlinkReport, now: Now) {
        match report {
            NetlinkReport::NextHop(report) => self.core.next_hop(report, now),
            NetlinkReport::Link(link) => {
                let changed = self.attachments.iter().position(|attachment| {
                    attachment.name == link.name
                        && (attachment.index, attachment.mac) != (link.index, link.mac)
                });
                if let Some(position) = changed
                    && let Err(error) = self.attach_again(position, &link)
                {
                    // Tried again with the interface's next change.
                    error!("{error:#}");
                    self.unattached.insert(self.attachments[position].name.clone());
                }
                if changed.is_some() {
                    self.inform_vrrp();
                }
            }
            NetlinkReport::LinkGone { name, .. } => {
                if self.attachments.iter().any(|attachment| attachment.name == name) {
                    warn!("{name} is gone: no packet arrives by it until it is back");
                    self.unattached.insert(name);
                    self.inform_vrrp();
                }
            }
        }
    }

    /// Carries out what the core has decided.
    pub(super) fn carry_out(&mut self) {
        let actions = self.core.commit();
        let decided = self.clock.now();
        let something = !actions.is_empty();
        let mut events = Vec::new();
        let (mut writes, mut messages) = (Vec::new(), Vec::new());
        let publishes = self.replication.as_ref().is_some_and(Replication::publishes);
        let mut wanted = false;
        let mut persist = false;
        for (position, action) in actions.into_iter().enumerate() {
            match action {
                Action::Write(Write::Counters(number)) => self.tables.counters.clear(number),
                Action::Write(write @ Write::Grace) => {
                    tokio::task::block_in_place(|| self.tables.mapped.write(&write));
                }
                Action::Write(write) => {
                    self.tables.mapped.write(&write);
                    if publishes {
                        writes.push(write);
                    }
                }
                Action::Publish(message) => messages.push(message),
                // Places are kept before they are used, states after the tables are right.
                Action::Persist if position == 0 => {
                    let state = self.state();
                    tokio::task::block_in_place(|| self.edges.saver.save_now(state));
                    self.outdated = false;
                }
                Action::Persist => persist = true,
                Action::Targets => wanted = true,
                Action::Forget(id, number) => {
                    self.past.add(&id, self.tables.counters.backend(number));
                    self.edges.metrics.forget(&id);
                }
                Action::Event(kind, cause) => events.push((kind, cause)),
            }
        }
        let applied = self.clock.now();
        // A backend is said to be there before it is said to have slots.
        if let Some(replication) = &mut self.replication {
            replication.broadcast(&messages);
            self.publish_writes(&writes);
        }
        for (kind, cause) in events {
            let phases = cause.map(|cause| phases(cause, decided, applied));
            self.publish(kind, phases);
        }
        if wanted {
            self.edges.checker.set(self.core.targets());
            self.edges.resolver.watch(self.core.addresses());
        }
        if persist {
            self.save_soon();
        }
        if something || Some(self.lacks_tables()) != self.lacked_tables {
            self.inform_vrrp();
        }
    }

    /// Attaches the program to every interface, or swaps it in; to all of them or to none.
    pub(super) fn attach_all(&mut self) -> Result<()> {
        let bpf_dir = &self.config.node.bpf_dir;
        let mut interfaces = Vec::with_capacity(self.attachments.len());
        let mut packet_logs = Vec::with_capacity(self.attachments.len());
        let mut done = Vec::with_capacity(self.attachments.len());
        for attachment in &self.attachments {
            self.tables.virtual_macs.claim(attachment.place, attachment.index);
            match attachment.attach(&self.object, &self.id, bpf_dir) {
                Ok(mut attached) => {
                    packet_logs.push(attached.packet_log.take());
                    interfaces.push(interface_status(attachment, &attached));
                    done.push(attached.undo);
                }
                Err(error) => {
                    done.into_iter().for_each(Undo::undo);
                    return Err(error.into());
                }
            }
        }
        let indices: Vec<u32> = self.attachments.iter().map(|a| a.index).collect();
        dataplane::keep_only(&indices, bpf_dir)?;
        setup::sweep(bpf_dir, &self.id);
        self.interfaces = interfaces;
        self.packet_logs = packet_logs;
        self.ready.send_replace(true);
        Ok(())
    }

    /// Attaches the program to an interface that came back or has another address, which the
    /// program must know. The others are left alone: one of them may be gone at the moment.
    fn attach_again(&mut self, position: usize, link: &LinkReport) -> Result<()> {
        let mut attachment = self.attachments[position].clone();
        (attachment.index, attachment.mac) = (link.index, link.mac);
        if *self.ready.borrow() {
            let bpf_dir = &self.config.node.bpf_dir;
            self.tables.virtual_macs.claim(attachment.place, attachment.index);
            let attached = attachment.attach(&self.object, &self.id, bpf_dir)?;
            self.interfaces[position] = interface_status(&attachment, &attached);
            self.packet_logs[position] = attached.packet_log;
            info!("attached to {} anew", attachment.name);
            self.unattached.remove(&attachment.name);
        }
        self.attachments[position] = attachment;
        let indices: Vec<u32> = self.attachments.iter().map(|a| a.index).collect();
        dataplane::keep_only(&indices, &self.config.node.bpf_dir)?;
        Ok(())
    }

    /// Tells everyone what happened.
    pub(super) fn publish(&mut self, kind: EventKind, phases: Option<Phases>) {
        if let Some(phases) = &phases {
            self.edges.metrics.failover(phases);
        }
        self.sequence += 1;
        let event = Event { sequence: self.sequence, time: self.clock.now().wall, kind, phases };
        info!(target: "weir::events", "{}", serde_json::to_string(&event).unwrap_or_default());
        self.edges.events.publish(event);
    }

    /// Hands the state over to be kept, or leaves that for when there is time.
    fn save_soon(&mut self) {
        self.outdated = !self.edges.saver.is_free();
        if !self.outdated {
            self.edges.saver.save_soon(self.state());
        }
    }

    pub(super) fn state(&self) -> State {
        State {
            tables: Some(self.id.clone()),
            core: self.core.saved(),
            vrrp: held_addresses(&self.config.vrrp),
        }
    }
}

fn interface_status(attachment: &Attachment, attached: &Attached) -> InterfaceStatus {
    if let Some(warning) = &attached.warning {
        warn!("{warning}");
    }
    InterfaceStatus { name: attachment.name.clone(), mode: attached.mode }
}

/// Waits for the sweep under way; for ever, if there is none. Cancel safe.
async fn swept(sweeping: &mut Option<JoinHandle<io::Result<Findings>>>) -> io::Result<Findings> {
    let Some(sweep) = sweeping else { return std::future::pending().await };
    let findings = sweep.await;
    *sweeping = None;
    findings.unwrap_or_else(|error| Err(io::Error::other(error)))
}

fn phases(cause: Cause, decided: Now, applied: Now) -> Phases {
    let seconds = |from: Now, to: Now| to.monotonic.saturating_sub(from.monotonic).as_secs_f64();
    Phases {
        detect: seconds(cause.began, cause.decided),
        decide: seconds(cause.decided, decided),
        apply: seconds(decided, applied),
    }
}
