//! The hosts of the other routers: which they are, their probes, and what instances are told.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr},
    task::{Context, Poll},
    time::Duration,
};

use tracing::{debug, warn};

use super::{Driver, Running};
use crate::{
    dataplane::Predecessor,
    vrrp::{
        Echo,
        echo::{Liveness, News, Prober, Turn},
        fsm::{Input, State, Why},
        instance::Told,
        probe::{ProbeSocket, Received},
        status::HostStatus,
        track::Facts,
    },
};

/// Hosts probed by one interface: more than routers that share addresses.
const HOSTS_MAX: usize = 16;
/// Datagrams taken from one socket before the probes have their turn.
const BATCH: usize = 256;
/// Until a socket that could not be opened is tried again.
const REOPEN: Duration = Duration::from_secs(1);

/// Where probes go out: an interface, and the address that an instance's adverts come from.
type Way = (String, Ipv4Addr);

/// All hosts that are probed.
#[derive(Debug)]
pub(super) struct Hosts {
    echo: Echo,
    ways: BTreeMap<Way, Segment>,
    /// What was last asked for.
    wanted: Vec<Wanted>,
    /// The daemon's next sign of life.
    beat: Duration,
}

/// The hosts of one segment.
#[derive(Debug, Default)]
struct Segment {
    socket: Option<ProbeSocket>,
    reopen_at: Duration,
    probers: BTreeMap<Ipv4Addr, Prober>,
}

/// What one instance wants to be probed.
#[derive(Debug)]
struct Wanted {
    way: Way,
    /// The interface's index.
    index: u32,
    master: Option<IpAddr>,
    peers: Vec<IpAddr>,
}

/// The same as it stands in instance and facts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Wish<'i> {
    interface: &'i str,
    own: Ipv4Addr,
    index: u32,
    master: Option<IpAddr>,
    peers: &'i [IpAddr],
}

/// What a host's probes have led to.
struct Finding {
    way: Way,
    host: Ipv4Addr,
    news: News,
}

impl Hosts {
    pub(super) fn new(echo: Echo) -> Self {
        Self { echo, ways: BTreeMap::new(), wanted: Vec::new(), beat: Duration::ZERO }
    }

    /// When the next probe, or the next sign of life, is due.
    pub(super) fn deadline(&self) -> Duration {
        let probers = self.ways.values().filter(|segment| segment.socket.is_some());
        let probers = probers.flat_map(|segment| segment.probers.values());
        probers.map(Prober::deadline).chain([self.beat]).min().unwrap_or(self.beat)
    }

    /// Whether one of the sockets has something.
    pub(super) fn poll_ready(&self, context: &mut Context<'_>) -> Poll<()> {
        let sockets = self.ways.values().filter_map(|segment| segment.socket.as_ref());
        // Each is asked, so that each wakes us.
        let ready = sockets.filter(|socket| socket.poll_ready(context).is_ready()).count();
        if ready > 0 { Poll::Ready(()) } else { Poll::Pending }
    }

    /// Where it stands which host may know flows that are not known here.
    pub(super) fn predecessor(&self) -> &Predecessor {
        &self.echo.predecessor
    }

    /// What is known of a host.
    pub(super) fn liveness(&self, host: Ipv4Addr) -> Liveness {
        let probers = self.ways.values().filter_map(|segment| segment.probers.get(&host));
        probers.map(Prober::liveness).max_by_key(|each| each.forwards()).unwrap_or_default()
    }

    /// What is known of the hosts on an instance's way.
    pub(super) fn status(&self, way: Option<&Way>) -> Vec<HostStatus> {
        let Some(segment) = way.and_then(|way| self.ways.get(way)) else { return Vec::new() };
        let status = |(address, prober): (&Ipv4Addr, &Prober)| HostStatus {
            address: (*address).into(),
            liveness: prober.liveness(),
        };
        segment.probers.iter().map(status).collect()
    }

    /// Gives the daemon's sign of life, when it is due.
    fn beat(&mut self, now: Duration) {
        if now >= self.beat {
            self.echo.heart.beat();
            self.beat = now + self.echo.interval;
        }
    }

    /// Probes the hosts that are wished for, and no others. Called in each round: as long as the
    /// wishes are what they were, they are compared and nothing else.
    fn set<'i>(&mut self, wishes: impl Iterator<Item = Wish<'i>> + Clone, now: Duration) {
        let reopens = |segment: &Segment| segment.socket.is_none() && now >= segment.reopen_at;
        let mut known = self.wanted.iter();
        let same = wishes.clone().all(|wish| known.next().is_some_and(|known| known.is(&wish)));
        if same && known.next().is_none() && !self.ways.values().any(reopens) {
            return;
        }
        self.wanted = wishes.map(Wanted::from).collect();
        self.ways.retain(|way, _| self.wanted.iter().any(|each| each.way == *way));
        for Wanted { way, index, master, peers } in &self.wanted {
            let segment = self.ways.entry(way.clone()).or_default();
            if segment.socket.as_ref().is_some_and(|socket| socket.index() != *index) {
                segment.socket = None;
            }
            if segment.socket.is_none() && now >= segment.reopen_at {
                match ProbeSocket::open(&way.0, *index, way.1, &self.echo) {
                    Ok(socket) => segment.socket = Some(socket),
                    Err(error) => {
                        warn!("the hosts of other routers are not probed: {error}");
                        segment.reopen_at = now + REOPEN;
                    }
                }
            }
            for host in master.iter().chain(peers).copied().filter_map(v4) {
                if !segment.probers.contains_key(&host) && segment.has_room() {
                    let prober = Prober::new(self.echo.interval, rand::random(), now);
                    segment.probers.insert(host, prober);
                }
            }
        }
    }

    /// Takes all answers in, then sends what is due.
    fn probe(&mut self, now: Duration) -> Vec<Finding> {
        let mut findings = Vec::new();
        for (way, segment) in &mut self.ways {
            let Segment { socket: Some(socket), probers, .. } = segment else { continue };
            let mut find = |host: Ipv4Addr, news: News| {
                if news != News::default() {
                    findings.push(Finding { way: way.clone(), host, news });
                }
            };
            for _ in 0..BATCH {
                let Some(received) = socket.receive() else { break };
                if let Received::Answer(from, message) = received
                    && let Some(prober) = probers.get_mut(&from)
                {
                    find(from, prober.answered(&message, now));
                }
            }
            for (host, prober) in probers {
                let (nonce, news) = prober.tick(now);
                if let Some(nonce) = nonce
                    && let Err(error) = socket.send(nonce, *host)
                {
                    debug!(%host, %error, "a probe was not sent");
                }
                find(*host, news);
            }
        }
        findings
    }
}

impl Wanted {
    fn is(&self, wish: &Wish<'_>) -> bool {
        let Self { way: (interface, own), index, master, peers } = self;
        *wish == Wish { interface, own: *own, index: *index, master: *master, peers }
    }
}

impl From<Wish<'_>> for Wanted {
    fn from(Wish { interface, own, index, master, peers }: Wish<'_>) -> Self {
        Self { way: (interface.to_owned(), own), index, master, peers: peers.to_vec() }
    }
}

impl Segment {
    /// Makes room for another host, in the place of one that never answered: adverts can be made up,
    /// answers cannot.
    fn has_room(&mut self) -> bool {
        if self.probers.len() == HOSTS_MAX {
            let strange = |prober: &Prober| prober.liveness() == Liveness::Unknown;
            let stranger = self.probers.iter().find(|(_, prober)| strange(prober));
            let Some(stranger) = stranger.map(|(host, _)| *host) else { return false };
            self.probers.remove(&stranger);
        }
        true
    }
}

impl Driver {
    /// Has a silent peer fenced that an instance takes over from.
    pub(super) fn fence(&mut self, position: usize, to: State, why: &Why) {
        let instance = &self.running[position].instance;
        if to != State::Master {
            return self.fence.forget(&instance.spec.name);
        }
        let Some(peer) = why.silent_peer() else { return };
        let hosts = self.hosts.as_ref().map(|hosts| hosts.status(way(instance).as_ref()));
        let mut hosts = hosts.into_iter().flatten();
        let host = hosts.find(|host| host.address == peer).map(|host| host.liveness);
        let host = host.unwrap_or(Liveness::Unknown);
        self.fence.run(&instance.spec, peer, host, &why.to_string());
    }

    /// Gives a sign of life, takes in what hosts have answered, and probes them.
    pub(super) fn probe(&mut self, now: Duration) {
        let Some(mut hosts) = self.hosts.take() else { return };
        hosts.beat(now);
        hosts.set(wishes(&self.running, &self.facts), now);
        let findings = hosts.probe(now);
        self.hosts = Some(hosts);
        let changed = findings.iter().any(|finding| finding.news.changed.is_some());
        for Finding { way, host, news } in findings {
            if let Some(sent) = news.answered.filter(|_| self.patience.is_some()) {
                self.tell_all(&Input::Answered(sent), now);
            }
            if let Some(turn) = news.silence {
                self.tell_instances(&way, host, turn, now);
            }
            if let Some(liveness) = news.changed {
                self.tell_people(&way, host, liveness);
            }
        }
        if changed {
            self.assess();
        }
    }

    /// Tells the instances whose master the host is, and those that move with them: a host that is
    /// gone is gone for all of a group.
    fn tell_instances(&mut self, way: &Way, host: Ipv4Addr, turn: Turn, now: Duration) {
        let follows = |Running { instance, .. }: &Running| {
            let master = instance.fsm.other_master().map(|peer| peer.address);
            self::way(instance).as_ref() == Some(way) && master == Some(host.into())
        };
        let concerned = self.running.iter().filter(|each| follows(each));
        let groups: Vec<_> =
            concerned.filter_map(|each| each.instance.spec.sync_group.clone()).collect();
        for position in 0..self.running.len() {
            let running = &self.running[position];
            let group = running.instance.spec.sync_group.as_ref();
            if follows(running) || group.is_some_and(|group| groups.contains(group)) {
                let input = match turn {
                    Turn::Silent(silence) => Input::Silent(silence),
                    Turn::Answers => Input::Answers,
                };
                let outputs = self.running[position].instance.fsm.handle(input, now);
                self.carry_out(position, outputs);
            }
        }
    }

    fn tell_people(&self, way: &Way, host: Ipv4Addr, liveness: Liveness) {
        let mut instances = self.running.iter().map(|each| &each.instance);
        if let Some(instance) = instances.find(|each| self::way(each).as_ref() == Some(way)) {
            let note = format!("{host} {}", liveness.sentence());
            self.report(instance.spec.name.clone(), Told::Note(note));
        }
    }
}

/// A host's address, if it can be probed there.
pub(super) fn v4(address: IpAddr) -> Option<Ipv4Addr> {
    match address {
        IpAddr::V4(address) => Some(address),
        IpAddr::V6(_) => None,
    }
}

/// The routers that each instance knows.
fn wishes<'d>(running: &'d [Running], facts: &'d Facts) -> impl Iterator<Item = Wish<'d>> + Clone {
    running.iter().filter_map(|Running { instance, .. }| {
        let IpAddr::V4(own) = instance.fsm.settings().own else { return None };
        let interface = instance.spec.interface.as_str();
        let index = facts.links.get(interface)?.index;
        let master = instance.fsm.other_master().map(|peer| peer.address);
        let peers = instance.spec.unicast_peers.as_slice();
        (!own.is_unspecified()).then_some(Wish { interface, own, index, master, peers })
    })
}

/// Where the other routers of an instance are probed; over IPv6 they are not.
pub(super) fn way(instance: &super::Instance) -> Option<Way> {
    match instance.fsm.settings().own {
        IpAddr::V4(own) if !own.is_unspecified() => Some((instance.spec.interface.clone(), own)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use lb_common::echo::EchoKey;

    use super::*;
    use crate::dataplane::Heart;

    #[test]
    fn hosts_are_looked_at_anew_only_when_others_are_wanted() {
        let at = Duration::from_millis;
        let (port, node, key) = (9751, 1, EchoKey([1, 2]));
        let heart = Heart::nowhere();
        let predecessor = Predecessor::nowhere();
        let echo = Echo { interval: at(10), port, node, key, heart, predecessor };
        let mut hosts = Hosts::new(echo);
        let (own, host): (Ipv4Addr, Ipv4Addr) = ([10, 0, 0, 1].into(), [10, 0, 0, 2].into());
        let alone = Wish { interface: "nowhere", own, index: 7, master: None, peers: &[] };
        let heard = Wish { master: Some(host.into()), ..alone };
        let probed = |hosts: &Hosts| -> Vec<Ipv4Addr> {
            hosts.ways.values().flat_map(|segment| segment.probers.keys().copied()).collect()
        };
        hosts.set([alone].into_iter(), at(0));
        assert!(probed(&hosts).is_empty());
        hosts.set([heard].into_iter(), at(10));
        assert_eq!(probed(&hosts), [host]);
        // Whatever becomes of what was made: as long as the same is wanted, nothing is looked at.
        hosts.ways.values_mut().for_each(|segment| segment.probers.clear());
        hosts.set([heard].into_iter(), at(20));
        assert!(probed(&hosts).is_empty());
        // But a socket that could not be opened is tried again.
        hosts.set([heard].into_iter(), REOPEN);
        assert_eq!(probed(&hosts), [host]);
        hosts.set(std::iter::empty(), REOPEN + at(10));
        assert!(hosts.ways.is_empty());
    }
}
