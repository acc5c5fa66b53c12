//! Where peers, core and tables meet: what comes from peers is given to the sessions' state
//! machine, and what that wants done is done.

mod apart;
mod feed;
mod flows;

use std::{
    collections::{BTreeSet, HashMap},
    io,
    net::SocketAddr,
    time::Duration,
};

use anyhow::Result;
use tokio::{sync::mpsc, time::Interval};
use tracing::warn;

use self::{apart::Apart, feed::Feed, flows::Seen};
use super::driver::Daemon;
use crate::{
    clock::every,
    config::{Config, Name},
    core::{
        EventKind, KernelFlow, PeerStatus, SyncRole, SyncStatus, Write, without_outrun_openings,
    },
    dataplane::RecordedFlows,
    sync::{
        BindError, Connections, Error, Frame, Incoming, Key, Look, Message, Outbox, Output, Peers,
        Report, Role, SessionId, View, compare,
        packet::{CONFIG_BYTES_MAX, NAMES_MAX},
    },
    vrrp::fsm::State,
};

/// How often time is told to the state machine.
const TICK: Duration = Duration::from_millis(50);
/// What is taken from peers, or from the kernel, in one go.
const BATCH: usize = 64;
const FLOWS_BATCH: usize = 4096;
/// Dumps of flows that may wait to be taken.
const DUMPS_MAX: usize = 8;

/// This node's part of a group of balancers.
#[derive(Debug)]
pub(super) struct Replication {
    peers: Peers,
    connections: Connections,
    configured: Vec<SocketAddr>,
    links: HashMap<SessionId, Link>,
    recorded: RecordedFlows,
    seen: Seen,
    ticks: Interval,
    dumps: (mpsc::Sender<Dump>, mpsc::Receiver<Dump>),
    /// The configuration, as peers compare it.
    lines: Vec<String>,
    config_hash: u64,
    /// Records that the kernel could not tell us of, as last counted.
    lost: u64,
    counts: Counts,
    /// Whose changes were taken over last from a peer that came back.
    taken_over: Option<String>,
}

#[derive(Debug, Default)]
struct Counts {
    flows_sent: u64,
    flows_received: u64,
    snapshots: u64,
}

/// One session's queue, and what waits for room in it.
#[derive(Debug)]
struct Link {
    outbox: Outbox,
    remote: SocketAddr,
    dialled: bool,
    behind: bool,
    feed: Option<Feed>,
    /// Once everything is said, everything is asked for.
    asks: bool,
    apart: Apart,
}

type Dump = (SessionId, io::Result<Vec<KernelFlow>>);

/// Something to do.
#[derive(Debug)]
pub(super) enum Wake {
    Incoming(Vec<Incoming>),
    Recorded(Vec<KernelFlow>),
    Seen,
    Dump(Dump),
    Tick,
}

/// Waits for something to do; for ever without peers. Cancel safe.
pub(super) async fn woken(replication: &mut Option<Replication>) -> Wake {
    let Some(replication) = replication else { return std::future::pending().await };
    let (mut incoming, mut recorded) = (Vec::new(), Vec::new());
    let says_seen = replication.has_seen_to_say();
    tokio::select! {
        _ = replication.ticks.tick() => Wake::Tick,
        () = replication.connections.next(&mut incoming, BATCH) => Wake::Incoming(incoming),
        () = replication.recorded.next(&mut recorded, FLOWS_BATCH) => Wake::Recorded(recorded),
        Some(dump) = replication.dumps.1.recv() => Wake::Dump(dump),
        () = replication.seen.turn(), if says_seen => Wake::Seen,
    }
}

impl Replication {
    /// Listens for peers and dials them.
    pub(super) async fn start(
        config: &Config,
        key: Key,
        recorded: RecordedFlows,
        now: Duration,
    ) -> Result<Option<Self>, BindError> {
        let (Some(sync), Ok(node)) = (&config.sync, Name::new(&config.node.name)) else {
            return Ok(None);
        };
        let connections = Connections::start(sync, key).await?;
        let lines = compare::lines(config);
        Ok(Some(Self {
            peers: Peers::new(node, rand::random(), None, now),
            connections,
            configured: sync.peers.clone(),
            links: HashMap::new(),
            recorded,
            seen: Seen::new(),
            ticks: every(TICK),
            dumps: mpsc::channel(DUMPS_MAX),
            config_hash: compare::hash(&lines),
            lines,
            lost: 0,
            counts: Counts::default(),
            taken_over: None,
        }))
    }

    /// The configuration was read anew.
    pub(super) fn reconfigured(&mut self, config: &Config) {
        self.lines = compare::lines(config);
        self.config_hash = compare::hash(&self.lines);
    }

    /// Whether a decision of this node is one for others, and there are others.
    pub(super) fn publishes(&self) -> bool {
        !matches!(self.peers.role(), Role::Follower(_)) && !self.peers.established().is_empty()
    }

    /// Whether peers know what this node does not know yet.
    pub(super) fn lacks_tables(&self, now: Duration) -> bool {
        self.peers.lacks_tables(now)
    }

    /// Says this to every peer.
    pub(super) fn broadcast(&mut self, messages: &[Message]) {
        for message in messages {
            self.say_to_all(message, None);
        }
    }

    fn say_to_all(&mut self, message: &Message, but: Option<SessionId>) {
        let sessions = self.peers.established();
        let Some(frame) = (!sessions.is_empty()).then(|| Frame::new(message)).flatten() else {
            return;
        };
        for id in sessions.into_iter().filter(|id| Some(*id) != but) {
            self.push(id, frame.clone());
        }
    }

    fn say(&mut self, id: SessionId, message: &Message) {
        if let Some(frame) = Frame::new(message) {
            self.push(id, frame);
        }
    }

    fn push(&mut self, id: SessionId, frame: Frame) {
        let Some(link) = self.links.get_mut(&id) else { return };
        if !link.outbox.push(frame) && !std::mem::replace(&mut link.behind, true) {
            warn!("the peer at {} falls behind: it is told everything anew", link.remote);
            link.feed = None;
        }
    }

    /// For `status` and the metrics.
    pub(super) fn status(&self, digest: u64, now: Duration) -> SyncStatus {
        let views = self.peers.peers(now);
        let view_of = |address: SocketAddr| {
            views.iter().find(|view| {
                self.links.get(&view.session).is_some_and(|link| link.is_with(address))
            })
        };
        let peers = self.configured.iter().map(|address| {
            let view = view_of(*address);
            let trouble = self.connections.trouble(*address);
            PeerStatus {
                address: *address,
                node: view.map(|view| view.node.to_string()),
                connected: view.is_some(),
                version: view.map(|view| view.version.clone()),
                lag_seconds: view.map(|view| view.lag.as_secs_f64()),
                error: trouble.filter(|_| view.is_none()),
                config_differs: view.map(|view| view.config.clone()).unwrap_or_default(),
            }
        });
        let (role, leader) = match self.peers.role() {
            Role::Joining => (SyncRole::Joining, None),
            Role::Leader => (SyncRole::Leader, None),
            Role::Follower(leader) => (SyncRole::Follower, Some(leader.to_string())),
        };
        let found_by_peers = views.iter().map(|view| view.differ).max().unwrap_or(0);
        let found_here = u32::try_from(self.peers.differ().len()).unwrap_or(u32::MAX);
        SyncStatus {
            role,
            leader,
            synced: self.peers.is_synced(),
            split: self.peers.split().iter().map(ToString::to_string).collect(),
            taken_over: self.taken_over.clone(),
            digest: format!("{digest:016x}"),
            services_differ: found_here.max(found_by_peers),
            flows_sent: self.counts.flows_sent,
            flows_received: self.counts.flows_received,
            snapshots: self.counts.snapshots,
            refused: self
                .connections
                .refusals()
                .into_iter()
                .map(|(reason, count)| (reason.to_owned(), count))
                .collect(),
            peers: peers.collect(),
        }
    }
}

impl Link {
    /// Whether it is the connection with a configured peer: the one we dialled, or one from there.
    fn is_with(&self, peer: SocketAddr) -> bool {
        if self.dialled { self.remote == peer } else { self.remote.ip() == peer.ip() }
    }
}

impl Daemon {
    /// Does what there is to do for peers.
    pub(super) fn replicate(&mut self, wake: Wake) {
        match wake {
            Wake::Tick => {
                let now = self.clock.now().monotonic;
                self.tell_who_has_the_addresses();
                self.with_peers(|peers, view| peers.tick(view, now));
                if let Some(heard) =
                    self.replication.as_ref().and_then(|each| each.peers.last_heard())
                {
                    self.edges.vrrp.peer_spoke(heard);
                }
                self.look_for_lost_flows();
                self.tell_what_was_apart();
            }
            Wake::Incoming(all) => all.into_iter().for_each(|incoming| self.incoming(incoming)),
            Wake::Recorded(mut flows) => {
                without_outrun_openings(&mut flows);
                self.say_flows(&flows, None);
            }
            Wake::Seen => {
                let some = self.replication.as_mut().map(|each| each.seen.next());
                self.say_flows(&some.unwrap_or_default(), None);
            }
            Wake::Dump((id, dump)) => self.dumped(id, dump),
        }
    }

    /// Tells the sessions' state machine whether this node has the addresses, where VRRP decides
    /// that: whoever has them leads. Of several instances, which may be masters on different nodes,
    /// the one whose name comes first decides.
    pub(super) fn tell_who_has_the_addresses(&mut self) {
        if self.replication.is_none() {
            return;
        }
        let decided = !self.config.vrrp.is_empty();
        let leads = decided.then(|| {
            let instances = self.edges.vrrp.status();
            let first = instances.iter().min_by(|a, b| a.name.cmp(&b.name));
            first.is_some_and(|instance| instance.state == State::Master)
        });
        let now = self.clock.now().monotonic;
        self.with_peers(|peers, view| peers.leads(leads, view, now));
    }

    /// Says what was written to peers, if they go by it.
    pub(super) fn publish_writes(&mut self, writes: &[Write]) {
        if let Some(replication) = &mut self.replication {
            replication.broadcast(&self.core.publications(writes));
        }
    }

    fn incoming(&mut self, incoming: Incoming) {
        let now = self.clock.now().monotonic;
        match incoming {
            Incoming::Opened { session, remote, dialled, outbox } => {
                if let Some(replication) = &mut self.replication {
                    let (behind, feed, asks) = (false, None, false);
                    let apart = Apart::new(self.clock.now().wall);
                    let link = Link { outbox, remote, dialled, behind, feed, asks, apart };
                    replication.links.insert(session, link);
                }
                self.with_peers(|peers, _| peers.opened(session, dialled, now));
            }
            Incoming::Message(id, message) => {
                self.with_peers(|peers, view| peers.received(id, message, view, now));
                // What was installed is in the tables before the next message is looked at.
                self.carry_out();
            }
            Incoming::Room(id) => self.has_room(id),
            Incoming::Refused(remote, why) => {
                let what = format!("{remote} was refused as a peer: {why}");
                self.publish(EventKind::Sync { peer: None, what }, None);
            }
            Incoming::Closed(id, why) => {
                self.with_peers(|peers, _| peers.closed(id, &why, now));
                if let Some(replication) = &mut self.replication {
                    replication.links.remove(&id);
                    replication.tell_who_is_there();
                }
            }
        }
    }

    fn with_peers(&mut self, ask: impl FnOnce(&mut Peers, Look<'_>) -> Vec<Output>) {
        let Some(replication) = &mut self.replication else { return };
        let (core, config) = (&mut self.core, replication.config_hash);
        let mut view = || View { digest: core.digest(), config };
        let outputs = ask(&mut replication.peers, &mut view);
        for output in outputs {
            self.put_out(output);
        }
    }

    fn put_out(&mut self, output: Output) {
        let now = self.clock.now();
        let Some(replication) = &mut self.replication else { return };
        match output {
            Output::Send(id, message) => replication.say(id, &message),
            Output::Everything(id, names) => {
                replication.begin(id, names, self.core.service_names());
                self.feed(id);
            }
            Output::Exchange(id) => {
                replication.exchange(id);
                self.feed(id);
            }
            Output::Digests(id) => {
                let digests = self.core.digests();
                replication.say_in_parts(id, &digests, NAMES_MAX, |list, last| Message::Digests {
                    list,
                    last,
                });
            }
            Output::Config(id) => {
                // A line has a name, an address and a number or two.
                let lines = replication.lines.clone();
                let longest = lines.iter().map(|line| line.len() + 4).max().unwrap_or(1);
                let fit = (CONFIG_BYTES_MAX / longest).max(1);
                replication
                    .say_in_parts(id, &lines, fit, |lines, last| Message::Config { lines, last });
            }
            Output::Close(id, why) => replication.close(id, why),
            Output::Role(role) => self.core.follow(matches!(role, Role::Follower(_)), now),
            Output::Slots(slots) => self.core.install_slots(&slots, now),
            Output::Backends(backends) => self.core.install_backends(&backends, now),
            Output::Flows(flows) => self.install_flows(&flows),
            Output::Change(id, stamped) => match self.core.take_change(&stamped, now) {
                Ok(true) => {
                    if let Some(link) = replication.links.get_mut(&id) {
                        link.apart.took(&stamped);
                    }
                    replication.say_to_all(&Message::Change(stamped), Some(id));
                }
                Ok(false) => {}
                Err(why) => {
                    warn!("a change of {}/{} by a peer: {why}", stamped.service, stamped.backend);
                }
            },
            Output::Compare(id, theirs) => {
                let differing = self.core.differing(theirs);
                self.with_peers(|peers, _| peers.differing(id, differing));
            }
            Output::CompareConfig(id, theirs) => {
                let peer = replication.name_of(id, now.monotonic);
                let differences = compare::differences(&replication.lines, &theirs, &peer);
                self.with_peers(|peers, _| peers.config_differs(id, differences));
            }
            Output::Report(peer, report) => {
                replication.heed(peer.as_ref(), &report, now.monotonic);
                let peer = peer.map(|peer| peer.to_string());
                self.publish(EventKind::Sync { peer, what: report.to_string() }, None);
            }
        }
    }

    /// Tells what operators changed on peers while they were away, and holds here now.
    fn tell_what_was_apart(&mut self) {
        let Some(replication) = &mut self.replication else { return };
        let links = replication.links.iter_mut();
        let told: Vec<_> =
            links.filter_map(|(id, link)| Some((*id, link.apart.settle()?))).collect();
        for (id, changes) in told {
            let Some(replication) = &mut self.replication else { return };
            let peer = replication.name_of(id, self.clock.now().monotonic);
            replication.taken_over = Some(format!("{peer}: {changes}"));
            let what = format!("changes made while it was away are taken over: {changes}");
            self.publish(EventKind::Sync { peer: Some(peer), what }, None);
        }
    }
}

impl Replication {
    fn say_in_parts<T: Clone>(
        &mut self,
        id: SessionId,
        all: &[T],
        part: usize,
        message: impl Fn(Vec<T>, bool) -> Message,
    ) {
        let parts = all.len().div_ceil(part).max(1);
        for number in 0..parts {
            let some = all.iter().skip(number * part).take(part).cloned().collect();
            self.say(id, &message(some, number + 1 == parts));
        }
    }

    fn close(&mut self, id: SessionId, why: Error) {
        let Some(link) = self.links.get(&id) else { return };
        if why.is_refusal() {
            self.connections.refuse(link.remote, &why);
        }
        link.outbox.close(Some(why));
    }

    /// Takes note of what is reported: who is there need not be dialled.
    fn heed(&mut self, peer: Option<&Name>, report: &Report, now: Duration) {
        if let (Some(peer), Report::Connected) = (peer, report) {
            let session = self.peers.peers(now).into_iter().find(|view| view.node == *peer);
            let link = session.and_then(|view| self.links.get(&view.session));
            if let Some(link) = link {
                self.connections.welcome(link.remote);
            }
        }
        self.tell_who_is_there();
    }

    fn tell_who_is_there(&self) {
        let present = self.peers.peers(Duration::ZERO).into_iter().map(|view| view.node);
        self.connections.set_present(present.collect::<BTreeSet<Name>>());
    }

    fn name_of(&self, id: SessionId, now: Duration) -> String {
        let view = self.peers.peers(now).into_iter().find(|view| view.session == id);
        view.map_or_else(|| "the peer".to_owned(), |view| view.node.to_string())
    }
}
