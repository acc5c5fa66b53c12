//! One instance: its configuration, its state machine, what it counts, and what it wants done.
//! No I/O, no clock.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::Duration,
};

use super::{
    announce::Schedule,
    fsm::{Fsm, Input, Output, Settings, Split, State},
    packet::{Advert, Datagram, Discard, Filter, Format, same_addresses},
    status::{SplitStatus, VrrpStatus},
    track::Assessment,
};
use crate::{config::Vrrp, core::Now};

/// Differences that are told before the configuration is read anew: whoever makes them up shall
/// not fill the log.
const DIFFERENCES_MAX: usize = 16;
/// Between two tellings of one reason for which packets are discarded.
const TELL_AGAIN: Duration = Duration::from_secs(3600);

/// An instance as it runs.
#[derive(Debug, Clone)]
pub struct Instance {
    pub(super) spec: Vrrp,
    pub(super) fsm: Fsm,
    pub(super) announcements: Schedule,
    /// Whether the addresses are to be on; nothing while it is not known whose they are.
    pub(super) holds: Option<bool>,
    /// It is no longer configured, and goes when it has left in order.
    pub(super) retiring: bool,
    filter: Filter,
    assessment: Assessment,
    reason: String,
    since: Now,
    transitions: u64,
    sent: u64,
    received: u64,
    discarded: BTreeMap<Discard, u64>,
    /// When it was last told that packets are discarded for a reason.
    told: BTreeMap<Discard, Duration>,
    /// What differs in others' adverts, so that it is told once.
    differences: BTreeSet<String>,
    /// Packets for the addresses, as they were last counted.
    packets: Option<u64>,
}

/// What an instance wants to be told to people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Told {
    /// Its state changed.
    Changed {
        /// The state before.
        from: State,
        /// The state now.
        to: State,
        /// Why.
        reason: String,
    },
    /// Something else happened.
    Note(String),
    /// The program of `sync.fence` was run.
    Fenced {
        /// The silent peer.
        peer: IpAddr,
        /// Why it failed, if it did.
        failure: Option<String>,
    },
    /// Two routers have the addresses, or no longer do so.
    Split {
        /// What shows it.
        split: Split,
        /// Whether it is over.
        over: bool,
    },
}

impl Instance {
    /// An instance that takes no part yet. With witnesses, `patience` is theirs.
    pub fn new(spec: Vrrp, patience: Option<Duration>, now: Now) -> Self {
        // Until its interface is known it sends nothing, so that this address meets nobody.
        let settings = settings(&spec, &Assessment::default(), [0; 4].into());
        let fsm = Fsm::new(Settings { patience, ..settings });
        let filter = Filter {
            version: spec.version,
            authentication: spec.authentication,
            router_id: spec.router_id,
            interval: spec.interval,
            addresses: spec.addresses.iter().map(|prefix| prefix.address).collect(),
            peers: spec.unicast_peers.clone(),
            own: Vec::new(),
        };
        Self {
            spec,
            fsm,
            announcements: Schedule::default(),
            holds: None,
            retiring: false,
            filter,
            assessment: Assessment::default(),
            reason: "starting".to_owned(),
            since: now,
            transitions: 0,
            sent: 0,
            received: 0,
            discarded: BTreeMap::new(),
            told: BTreeMap::new(),
            differences: BTreeSet::new(),
            packets: None,
        }
    }

    /// Whether another configuration can be taken over without starting anew.
    pub fn is_same_router(&self, spec: &Vrrp) -> bool {
        let identity = |spec: &Vrrp| {
            let Vrrp { interface, router_id, version, authentication, unicast_peers, .. } = spec;
            let (interface, peers) = (interface.clone(), unicast_peers.clone());
            (interface, *router_id, *version, *authentication, peers, spec.is_ipv4())
        };
        identity(&self.spec) == identity(spec)
    }

    /// Takes another configuration of the same router over, of which [`Instance::assess`] then
    /// draws the consequences.
    pub fn reconfigure(&mut self, spec: Vrrp) {
        self.filter.interval = spec.interval;
        self.filter.addresses = spec.addresses.iter().map(|prefix| prefix.address).collect();
        self.spec = spec;
        self.differences.clear();
        self.told.clear();
    }

    /// Has addresses announced that another configuration brought to a master.
    pub fn announce_new(&mut self, old: &Vrrp, now: Duration) {
        if self.holds == Some(true)
            && (&self.spec.addresses, self.spec.virtual_mac) != (&old.addresses, old.virtual_mac)
        {
            self.announcements.start(self.spec.garp, now);
        }
    }

    /// Takes note of what it depends on. `own` is where its adverts come from, `local` are all of
    /// the interface's addresses.
    pub fn assess(
        &mut self,
        assessment: Assessment,
        own: Option<IpAddr>,
        local: Vec<IpAddr>,
        now: Duration,
    ) -> Vec<Output> {
        self.filter.own = local;
        let own = own.unwrap_or(self.fsm.settings().own);
        let patience = self.fsm.settings().patience;
        let settings = Settings { patience, ..settings(&self.spec, &assessment, own) };
        let mut outputs = self.fsm.configure(settings, now);
        let fault = assessment.fault.clone();
        self.assessment = assessment;
        match fault {
            Some(reason) if self.fsm.fault() != Some(&reason) => {
                self.reason.clone_from(&reason);
                outputs.extend(self.fsm.handle(Input::Stop(reason), now));
            }
            None if self.fsm.state() == State::Fault && !self.retiring => {
                outputs.extend(self.fsm.handle(Input::Start, now));
            }
            _ => {}
        }
        outputs
    }

    /// Takes in a packet. Discarded, it is counted, and nothing else.
    pub fn receive(
        &mut self,
        datagram: Result<Datagram<'_>, Discard>,
        now: Duration,
    ) -> (Vec<Output>, Option<Told>) {
        let from = datagram.as_ref().ok().map(|datagram| datagram.source);
        let heard = datagram.and_then(|datagram| {
            let advert = datagram.advert(&self.filter)?;
            Ok((datagram.source, advert))
        });
        match heard {
            Ok((source, advert)) => {
                self.received += 1;
                let told = self.compare(source, &advert);
                (self.fsm.handle(Input::Advert(source, &advert), now), told)
            }
            Err(discard) => {
                *self.discarded.entry(discard).or_default() += 1;
                (Vec::new(), from.and_then(|from| self.tell_of_discarded(from, discard, now)))
            }
        }
    }

    /// What another router's packet says of the two configurations, once an hour for each reason.
    fn tell_of_discarded(&mut self, from: IpAddr, why: Discard, now: Duration) -> Option<Told> {
        if !why.is_of_configuration()
            || self.told.get(&why).is_some_and(|last| now < *last + TELL_AGAIN)
        {
            return None;
        }
        self.told.insert(why, now);
        Some(Told::Note(format!("adverts of {from} are discarded: {why}")))
    }

    /// Takes note of how many packets have arrived for each address of a service, in all.
    pub fn count_packets(&mut self, arrived: &BTreeMap<IpAddr, u64>, now: Duration) -> Vec<Output> {
        let addresses = self.filter.addresses.iter();
        let total = addresses.filter_map(|address| arrived.get(address)).sum::<u64>();
        match self.packets.replace(total) {
            // Removed backends take their counts with them.
            Some(before) => self.fsm.handle(Input::Arrived(total.saturating_sub(before)), now),
            None => Vec::new(),
        }
    }

    /// The message that announces a priority, counted as sent.
    pub fn advert(&mut self, priority: u8, to: IpAddr) -> Vec<u8> {
        self.sent += 1;
        let Vrrp { router_id, interval, version, coverage, authentication, .. } = self.spec;
        let addresses = self.filter.addresses.clone();
        let format = Format { version, coverage, authentication };
        let advert = Advert { router_id, priority, interval, addresses };
        advert.message(&format, self.fsm.settings().own, to)
    }

    /// Takes note of a change of state and says it for people.
    pub fn changed(&mut self, from: State, to: State, reason: String, now: Now) -> Told {
        self.transitions += 1;
        self.since = now;
        self.reason.clone_from(&reason);
        Told::Changed { from, to, reason }
    }

    /// When [`Input::Timer`] or an announcement is due.
    pub fn deadline(&self) -> Option<Duration> {
        [self.fsm.deadline(), self.announcements.deadline()].into_iter().flatten().min()
    }

    /// The failed conditions.
    pub fn assessment(&self) -> &Assessment {
        &self.assessment
    }

    /// The instance at a glance.
    pub fn status(&self) -> VrrpStatus {
        VrrpStatus {
            name: self.spec.name.clone(),
            interface: self.spec.interface.clone(),
            router_id: self.spec.router_id,
            version: self.spec.version.number(),
            state: self.fsm.state(),
            reason: self.reason.clone(),
            since: self.since.wall,
            priority: self.fsm.settings().priority,
            penalties: self.assessment.penalties.clone(),
            addresses: self.spec.addresses.iter().map(ToString::to_string).collect(),
            master: self.fsm.other_master().map(|peer| peer.address),
            released: self.fsm.is_released(),
            transitions: self.transitions,
            sent: self.sent,
            received: self.received,
            discarded: self
                .discarded
                .iter()
                .map(|(discard, count)| (discard.name().to_owned(), *count))
                .collect(),
            hosts: Vec::new(),
            cut_off: self.fsm.is_cut_off(),
            witnesses: Vec::new(),
            split: self.fsm.splits().map(SplitStatus::from).collect(),
        }
    }

    /// What a valid advert says otherwise than our configuration, told once.
    fn compare(&mut self, source: IpAddr, advert: &Advert) -> Option<Told> {
        let mut differences = Vec::new();
        if advert.interval != self.spec.interval {
            let (theirs, ours) = (advert.interval, self.spec.interval);
            differences.push(format!("an interval of {theirs:?}, ours is {ours:?}"));
        }
        if !same_addresses(&advert.addresses, &self.filter.addresses) {
            let theirs: Vec<String> = advert.addresses.iter().map(ToString::to_string).collect();
            differences.push(format!("other addresses than ours: {}", theirs.join(", ")));
        }
        if differences.is_empty() || self.differences.len() == DIFFERENCES_MAX {
            return None;
        }
        let difference = format!("{source} advertises {}", differences.join(" and "));
        self.differences.insert(difference.clone()).then_some(Told::Note(difference))
    }
}

fn settings(spec: &Vrrp, assessment: &Assessment, own: IpAddr) -> Settings {
    Settings {
        version: spec.version,
        priority: assessment.priority(spec.priority),
        interval: spec.interval,
        preempt: spec.preempt,
        preempt_delay: spec.preempt_delay,
        own,
        patience: None,
        grouped: spec.sync_group.is_some(),
        lacks_tables: assessment.lacks_tables,
    }
}

#[cfg(test)]
mod tests;
