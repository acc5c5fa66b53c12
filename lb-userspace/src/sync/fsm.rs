//! The sessions with peers, and who leads: no I/O, no clock.
//!
//! A session goes hello, everything, live. Each side says hello, then wants everything that the
//! other has to say; what happens meanwhile and later follows as it happens. Beats keep the session
//! alive, carry what decides who leads, and measure the lag, since they travel behind all that was
//! said before. With a digest in its leader's beat a follower sees whether it has the same tables.
//!
//! **Who leads.** A node that has the addresses (`leads`, from VRRP). Where no node says so, the one
//! with the smallest name among those that are *ready*: that have joined, or found nobody to join.
//! So a node that comes back takes over the tables of those that went on before it leads them.

mod lead;
mod model;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

pub use self::model::{Look, Output, PeerView, Report, Role, SessionId, View};
use super::{
    error::Error,
    packet::{Beat, Hello, Message, Standing},
};
use crate::config::Name;

/// How often a beat goes out.
pub const BEAT: Duration = Duration::from_millis(100);
/// Every so many beats one carries a digest.
const DIGEST_EVERY: u64 = 10;
/// A peer that says nothing for this long is gone.
pub const SILENCE_MAX: Duration = Duration::from_secs(3);
/// A node that did not look at the time for this long was standing still.
const STALL: Duration = Duration::from_millis(500);
/// How long a node that starts looks for others before it leads.
pub const JOIN_WAIT: Duration = Duration::from_millis(1500);
/// Names in lists that a peer may make us keep.
const LIST_MAX: usize = 65_536;
/// Bytes of a peer's configuration that are kept to compare.
const CONFIG_MAX: usize = 8 << 20;

/// All sessions of this node.
#[derive(Debug)]
pub struct Peers {
    hello: Hello,
    sessions: BTreeMap<SessionId, Session>,
    role: Role,
    /// Whether the leader's tables are here as a whole.
    synced: bool,
    started: Duration,
    last_tick: Duration,
    last_beat: Option<Duration>,
    beats: u64,
    /// Services whose slots differ from the leader's.
    differing: Vec<Name>,
    /// The two digests that repair was last tried for: it is not tried twice for the same.
    repaired: Option<(u64, u64)>,
    split: BTreeSet<Name>,
    /// The nodes that have the addresses while we have them, and since when.
    both_lead: BTreeMap<Name, Duration>,
}

#[derive(Debug)]
struct Session {
    /// Whether we opened it.
    dialled: bool,
    peer: Option<Peer>,
    /// Whether we asked for everything and are not through with it.
    wanting: bool,
    heard: Duration,
    /// Beats without an answer, with their time.
    unanswered: VecDeque<(u64, Duration)>,
    lag: Duration,
    digests: Vec<(Name, u64)>,
    config: Vec<String>,
}

#[derive(Debug)]
struct Peer {
    hello: Hello,
    differ: u32,
    /// The hashes of both configurations when they were last compared.
    compared: Option<(u64, u64)>,
    config: Vec<String>,
}

// === impl Peers ===

impl Peers {
    /// A node without sessions. `leads` is nothing where nobody decides who has the addresses.
    pub fn new(node: Name, instance: u64, leads: Option<bool>, now: Duration) -> Self {
        let standing = Standing { leads, ready: false };
        let version = env!("CARGO_PKG_VERSION").to_owned();
        Self {
            hello: Hello { node, instance, version, standing },
            sessions: BTreeMap::new(),
            role: Role::Joining,
            synced: false,
            started: now,
            last_tick: now,
            last_beat: None,
            beats: 0,
            differing: Vec::new(),
            repaired: None,
            split: BTreeSet::new(),
            both_lead: BTreeMap::new(),
        }
    }

    /// What this node is to the others.
    pub fn role(&self) -> &Role {
        &self.role
    }

    /// Whether the leader's tables are here as a whole, or this node leads itself.
    pub fn is_synced(&self) -> bool {
        match self.role {
            Role::Joining => false,
            Role::Leader => true,
            Role::Follower(_) => self.synced,
        }
    }

    /// Services whose slots differ from the leader's.
    pub fn differ(&self) -> &[Name] {
        &self.differing
    }

    /// When a peer last said something.
    pub fn last_heard(&self) -> Option<Duration> {
        let peers = self.sessions.values().filter(|session| session.peer.is_some());
        peers.map(|session| session.heard).max()
    }

    /// The nodes that say they have the addresses while we do.
    pub fn split(&self) -> &BTreeSet<Name> {
        &self.split
    }

    /// The peers that are there.
    pub fn peers(&self, now: Duration) -> Vec<PeerView> {
        let established =
            self.sessions.iter().filter_map(|(id, s)| Some((id, s, s.peer.as_ref()?)));
        established
            .map(|(id, session, peer)| PeerView {
                node: peer.hello.node.clone(),
                version: peer.hello.version.clone(),
                session: *id,
                lag: session.lag(now),
                leads: peer.hello.standing.leads,
                differ: peer.differ,
                config: peer.config.clone(),
            })
            .collect()
    }

    /// The sessions that have said hello.
    pub fn established(&self) -> Vec<SessionId> {
        self.sessions.iter().filter(|(_, s)| s.peer.is_some()).map(|(id, _)| *id).collect()
    }

    /// A connection with somebody who has the key.
    pub fn opened(&mut self, id: SessionId, dialled: bool, now: Duration) -> Vec<Output> {
        let session = Session {
            dialled,
            peer: None,
            wanting: false,
            heard: now,
            unanswered: VecDeque::new(),
            lag: Duration::ZERO,
            digests: Vec::new(),
            config: Vec::new(),
        };
        self.sessions.insert(id, session);
        vec![Output::Send(id, Message::Hello(self.hello.clone()))]
    }

    /// A connection has ended.
    pub fn closed(&mut self, id: SessionId, why: &Error, now: Duration) -> Vec<Output> {
        let mut outputs = Vec::new();
        self.remove(id, why, &mut outputs);
        self.decide(now, &mut outputs);
        outputs
    }

    /// A node has got the addresses, or lost them.
    pub fn leads(&mut self, leads: Option<bool>, view: Look<'_>, now: Duration) -> Vec<Output> {
        let mut outputs = Vec::new();
        if self.hello.standing.leads != leads {
            self.hello.standing.leads = leads;
            self.decide(now, &mut outputs);
            self.beat(view, now, &mut outputs);
        }
        outputs
    }

    /// Time has gone by.
    pub fn tick(&mut self, view: Look<'_>, now: Duration) -> Vec<Output> {
        let mut outputs = Vec::new();
        // Whoever stood still itself has heard nothing either; what was said meanwhile waits.
        if now >= self.last_tick + STALL {
            self.sessions.values_mut().for_each(|session| session.heard = now);
        }
        self.last_tick = now;
        let silent: Vec<SessionId> = self
            .sessions
            .iter()
            .filter(|(_, session)| now >= session.heard + SILENCE_MAX)
            .map(|(id, _)| *id)
            .collect();
        for id in silent {
            self.end(id, Error::Silent(SILENCE_MAX), &mut outputs);
        }
        self.decide(now, &mut outputs);
        if self.last_beat.is_none_or(|last| now >= last + BEAT) {
            self.beat(view, now, &mut outputs);
        }
        outputs
    }

    /// A peer has spoken.
    pub fn received(
        &mut self,
        id: SessionId,
        message: Message,
        view: Look<'_>,
        now: Duration,
    ) -> Vec<Output> {
        let mut outputs = Vec::new();
        let Some(session) = self.sessions.get_mut(&id) else { return outputs };
        session.heard = now;
        match message {
            Message::Hello(hello) if session.peer.is_none() => {
                let greeted = self.greet(id, hello, &mut outputs);
                self.decide(now, &mut outputs);
                match greeted {
                    Ok(()) => self.want_everything(id, &mut outputs),
                    Err(error) => self.end(id, error, &mut outputs),
                }
            }
            Message::Hello(_) => self.end(id, Error::Anonymous, &mut outputs),
            _ if session.peer.is_none() => self.end(id, Error::Anonymous, &mut outputs),
            Message::Beat(beat) => {
                self.take_beat(id, beat, view, &mut outputs);
                self.decide(now, &mut outputs);
            }
            Message::Ack { sequence } => session.acknowledged(sequence, now),
            Message::Wanted(names) => outputs.push(Output::Everything(id, names)),
            Message::Done { leads } => {
                session.wanting = false;
                if leads && self.leader_session() == Some(id) && !self.synced {
                    self.synced = true;
                    self.hello.standing.ready = true;
                    let leader = self.name_of(id);
                    outputs.push(Output::Report(leader, Report::Synced));
                    self.decide(now, &mut outputs);
                    self.beat(view, now, &mut outputs);
                }
            }
            Message::Slots(slots) => {
                if self.leader_session() == Some(id) {
                    outputs.push(Output::Slots(slots));
                }
            }
            Message::Backends(backends) => {
                if self.leader_session() == Some(id) {
                    outputs.push(Output::Backends(backends));
                }
            }
            Message::Flows(flows) => outputs.push(Output::Flows(flows)),
            Message::Change(change) => outputs.push(Output::Change(id, change)),
            Message::Compare => outputs.push(Output::Digests(id)),
            Message::Configured => outputs.push(Output::Config(id)),
            Message::Digests { list, last } => {
                session.digests.extend(list);
                session.digests.truncate(LIST_MAX);
                if last {
                    let digests = std::mem::take(&mut session.digests);
                    if self.leader_session() == Some(id) {
                        outputs.push(Output::Compare(id, digests));
                    }
                }
            }
            Message::Config { lines, last } => {
                let kept: usize = session.config.iter().map(String::len).sum();
                if kept < CONFIG_MAX {
                    session.config.extend(lines);
                }
                if last {
                    let lines = std::mem::take(&mut session.config);
                    outputs.push(Output::CompareConfig(id, lines));
                }
            }
        }
        outputs
    }

    /// The outcome of [`Output::Compare`].
    pub fn differing(&mut self, id: SessionId, services: Vec<Name>) -> Vec<Output> {
        let mut outputs = Vec::new();
        if self.leader_session() != Some(id) || services.is_empty() {
            return outputs;
        }
        outputs.push(Output::Report(self.name_of(id), Report::Differ(services.clone())));
        for some in services.chunks(super::packet::NAMES_MAX) {
            outputs.push(Output::Send(id, Message::Wanted(some.to_vec())));
        }
        self.differing = services;
        outputs
    }

    /// The outcome of [`Output::CompareConfig`].
    pub fn config_differs(&mut self, id: SessionId, differences: Vec<String>) -> Vec<Output> {
        let Some(peer) = self.sessions.get_mut(&id).and_then(|s| s.peer.as_mut()) else {
            return Vec::new();
        };
        if peer.config == differences {
            return Vec::new();
        }
        let report = if differences.is_empty() {
            Report::ConfigAgrees
        } else {
            Report::ConfigDiffers(differences.clone())
        };
        peer.config = differences;
        vec![Output::Report(Some(peer.hello.node.clone()), report)]
    }

    // === Sessions ===

    /// Takes a peer in, unless it is us, has our name, or is here already by a connection that
    /// both keep: the later one of the same side, else that which the smaller name opened.
    fn greet(
        &mut self,
        id: SessionId,
        hello: Hello,
        outputs: &mut Vec<Output>,
    ) -> Result<(), Error> {
        if hello.instance == self.hello.instance {
            return Err(Error::Ourselves);
        }
        if hello.node == self.hello.node {
            return Err(Error::SameName(hello.node));
        }
        let dialled = self.sessions.get(&id).is_some_and(|session| session.dialled);
        let other = self.sessions.iter().find_map(|(other, session)| {
            let peer = session.peer.as_ref().filter(|peer| peer.hello.node == hello.node)?;
            Some((*other, session.dialled, peer.hello.instance))
        });
        if let Some((other, other_dialled, instance)) = other {
            let ours_is_kept = self.hello.node < hello.node;
            let replaces =
                instance != hello.instance || dialled == other_dialled || dialled == ours_is_kept;
            if !replaces {
                return Err(Error::Duplicate(hello.node));
            }
            self.sessions.remove(&other);
            outputs.push(Output::Close(other, Error::Duplicate(hello.node.clone())));
        } else {
            outputs.push(Output::Report(Some(hello.node.clone()), Report::Connected));
        }
        let follows_it = self.role == Role::Follower(hello.node.clone());
        if let Some(session) = self.sessions.get_mut(&id) {
            let peer = Peer { hello, differ: 0, compared: None, config: Vec::new() };
            session.peer = Some(peer);
        }
        if follows_it {
            self.synced = false;
        }
        Ok(())
    }

    /// Asks for everything, unless that is on its way already.
    fn want_everything(&mut self, id: SessionId, outputs: &mut Vec<Output>) {
        let Some(session) = self.sessions.get_mut(&id) else { return };
        if !std::mem::replace(&mut session.wanting, true) {
            outputs.push(Output::Send(id, Message::Wanted(Vec::new())));
        }
    }

    fn end(&mut self, id: SessionId, why: Error, outputs: &mut Vec<Output>) {
        self.remove(id, &why, outputs);
        outputs.push(Output::Close(id, why));
    }

    fn remove(&mut self, id: SessionId, why: &Error, outputs: &mut Vec<Output>) {
        let Some(session) = self.sessions.remove(&id) else { return };
        if let Some(peer) = session.peer {
            outputs.push(Output::Report(Some(peer.hello.node), Report::Lost(why.to_string())));
        }
    }

    fn name_of(&self, id: SessionId) -> Option<Name> {
        Some(self.sessions.get(&id)?.peer.as_ref()?.hello.node.clone())
    }

    /// The session with the node that we follow.
    fn leader_session(&self) -> Option<SessionId> {
        let Role::Follower(leader) = &self.role else { return None };
        let session = self.sessions.iter().find(|(_, session)| {
            session.peer.as_ref().is_some_and(|peer| peer.hello.node == *leader)
        });
        session.map(|(id, _)| *id)
    }

    // === Beats ===

    fn beat(&mut self, view: Look<'_>, now: Duration, outputs: &mut Vec<Output>) {
        self.last_beat = Some(now);
        self.beats += 1;
        let view = view();
        let beat = Beat {
            sequence: self.beats,
            standing: self.hello.standing,
            digest: self.beats.is_multiple_of(DIGEST_EVERY).then_some(view.digest),
            differ: u32::try_from(self.differing.len()).unwrap_or(u32::MAX),
            config: view.config,
        };
        for (id, session) in self.sessions.iter_mut().filter(|(_, s)| s.peer.is_some()) {
            session.unanswered.push_back((self.beats, now));
            outputs.push(Output::Send(*id, Message::Beat(beat)));
        }
    }

    fn take_beat(&mut self, id: SessionId, beat: Beat, view: Look<'_>, outputs: &mut Vec<Output>) {
        outputs.push(Output::Send(id, Message::Ack { sequence: beat.sequence }));
        let is_leader = self.leader_session() == Some(id);
        let Some(peer) = self.sessions.get_mut(&id).and_then(|s| s.peer.as_mut()) else { return };
        peer.hello.standing = beat.standing;
        peer.differ = beat.differ;
        let view = view();
        let hashes = (view.config, beat.config);
        if peer.compared != Some(hashes) {
            peer.compared = Some(hashes);
            if hashes.0 != hashes.1 {
                outputs.push(Output::Send(id, Message::Configured));
            } else if !peer.config.is_empty() {
                peer.config.clear();
                let node = Some(peer.hello.node.clone());
                outputs.push(Output::Report(node, Report::ConfigAgrees));
            }
        }
        match beat.digest.filter(|_| is_leader) {
            Some(theirs) if self.synced => self.take_digest(id, theirs, view.digest, outputs),
            // It did not lead yet when it answered.
            Some(_) => self.want_everything(id, outputs),
            None => {}
        }
    }

    fn take_digest(&mut self, id: SessionId, theirs: u64, ours: u64, outputs: &mut Vec<Output>) {
        if theirs == ours {
            if !self.differing.is_empty() {
                self.differing.clear();
                outputs.push(Output::Report(self.name_of(id), Report::Agree));
            }
            self.repaired = None;
        } else if self.repaired != Some((ours, theirs)) {
            self.repaired = Some((ours, theirs));
            outputs.push(Output::Send(id, Message::Compare));
        }
    }

    // === Who leads ===
}

// === impl Session ===

impl Session {
    fn acknowledged(&mut self, sequence: u64, now: Duration) {
        while let Some((first, at)) = self.unanswered.front().copied() {
            if first > sequence {
                break;
            }
            self.lag = now.saturating_sub(at);
            self.unanswered.pop_front();
        }
    }

    /// The age of the oldest beat that has no answer, if that is more than the last answer took.
    fn lag(&self, now: Duration) -> Duration {
        let waiting = self.unanswered.front().map(|(_, at)| now.saturating_sub(*at));
        waiting.unwrap_or_default().max(self.lag)
    }
}
