//! What we know of links, neighbours and routes, and what follows from it for each watched address.
//! No I/O: facts go in, reports come out.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    mem,
    net::IpAddr,
    time::Instant,
};

use super::{
    LinkReport, NetlinkReport,
    hop::{Hop, Known, Neighbour, Pursuit, Route},
    message::NO_ROUTE,
};
use crate::core::{NextHop, NextHopReport};

/// All facts, and the reports that wait to be sent.
#[derive(Debug, Default)]
pub(super) struct Table {
    links: BTreeMap<u32, LinkReport>,
    /// Everything the kernel has, so that a route that moves finds its neighbour known. As large
    /// as the kernel lets its own tables grow (`gc_thresh3`).
    neighbours: HashMap<Hop, Neighbour>,
    watched: BTreeMap<IpAddr, Watched>,
    hops: BTreeMap<Hop, Shared>,
    reports: Vec<NetlinkReport>,
}

#[derive(Debug)]
struct Watched {
    /// Tells an address that was taken off and put back from one that stayed.
    since: u64,
    route: Option<Result<Route, String>>,
    /// The interface of its latest route.
    interface: Option<u32>,
    reported: Option<Result<NextHop, String>>,
}

/// A hop, pursued once for all addresses behind it.
#[derive(Debug)]
struct Shared {
    pursuit: Pursuit,
    addresses: BTreeSet<IpAddr>,
}

impl Table {
    /// Sets the watched addresses, each with the number of the call that put it in. Returns those
    /// that are new and need a route.
    pub(super) fn watch(&mut self, wanted: &BTreeMap<IpAddr, u64>) -> Vec<IpAddr> {
        let is_wanted = |address: &IpAddr, w: &Watched| wanted.get(address) == Some(&w.since);
        let gone: Vec<IpAddr> =
            self.watched.iter().filter(|(a, w)| !is_wanted(a, w)).map(|(a, _)| *a).collect();
        for address in gone {
            self.leave_hop(address);
            self.watched.remove(&address);
        }
        let mut new = Vec::new();
        for (&address, &since) in wanted {
            self.watched.entry(address).or_insert_with(|| {
                new.push(address);
                Watched { since, route: None, interface: None, reported: None }
            });
        }
        new
    }

    /// All watched addresses.
    pub(super) fn addresses(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.watched.keys().copied()
    }

    /// Takes in the route to an address, or why there is none.
    pub(super) fn route(&mut self, address: IpAddr, route: Result<Route, String>, now: Instant) {
        if !self.watched.contains_key(&address) {
            return;
        }
        self.leave_hop(address);
        if let Ok(Route { hop, .. }) = &route {
            let usable = self.can_send(hop.interface);
            let entry = self.neighbours.get(hop).copied();
            let shared = self.hops.entry(*hop).or_insert_with(|| {
                let mut pursuit = Pursuit::new();
                pursuit.observe(usable, entry, now);
                Shared { pursuit, addresses: BTreeSet::new() }
            });
            shared.addresses.insert(address);
        }
        if let Some(watched) = self.watched.get_mut(&address) {
            watched.interface =
                route.as_ref().ok().map(|route| route.hop.interface).or(watched.interface);
            watched.route = Some(route);
        }
        self.report(address);
    }

    /// Takes in an interface, new or changed.
    pub(super) fn link(&mut self, link: LinkReport, now: Instant) {
        let index = link.index;
        if self.links.get(&index) == Some(&link) {
            return;
        }
        self.reports.push(NetlinkReport::Link(link.clone()));
        self.links.insert(index, link);
        self.link_changed(index, now);
    }

    /// Takes in that an interface is gone.
    pub(super) fn unlink(&mut self, index: u32, now: Instant) {
        if let Some(LinkReport { index, name, .. }) = self.links.remove(&index) {
            self.neighbours.retain(|hop, _| hop.interface != index);
            self.reports.push(NetlinkReport::LinkGone { index, name });
            self.link_changed(index, now);
        }
    }

    /// Takes in all interfaces there are.
    pub(super) fn set_links(&mut self, links: Vec<LinkReport>, now: Instant) {
        let present: BTreeSet<u32> = links.iter().map(|link| link.index).collect();
        let gone: Vec<u32> =
            self.links.keys().filter(|index| !present.contains(index)).copied().collect();
        for index in gone {
            self.unlink(index, now);
        }
        for link in links {
            self.link(link, now);
        }
    }

    /// Takes in the kernel's entry for a neighbour; none if it was removed.
    pub(super) fn neighbour(&mut self, hop: Hop, entry: Option<Neighbour>, now: Instant) {
        match entry {
            Some(state) => self.neighbours.insert(hop, state),
            None => self.neighbours.remove(&hop),
        };
        self.observe(hop, now);
    }

    /// Takes in all neighbours there are.
    pub(super) fn set_neighbours(&mut self, neighbours: Vec<(Hop, Neighbour)>, now: Instant) {
        self.neighbours = neighbours.into_iter().collect();
        let hops: Vec<Hop> = self.hops.keys().copied().collect();
        for hop in hops {
            self.observe(hop, now);
        }
    }

    /// When the next question to a neighbour is due.
    pub(super) fn next_question(&self) -> Option<Instant> {
        self.hops.values().filter_map(|shared| shared.pursuit.due()).min()
    }

    /// The neighbours to ask now, at most `limit`.
    pub(super) fn questions(&self, now: Instant, limit: usize) -> Vec<Hop> {
        let due = |shared: &Shared| shared.pursuit.due().is_some_and(|due| due <= now);
        self.hops.iter().filter(|(_, s)| due(s)).map(|(hop, _)| *hop).take(limit).collect()
    }

    /// Takes in that the kernel was told to ask a neighbour, or why it would not.
    pub(super) fn asked(&mut self, hop: Hop, outcome: Result<(), String>, now: Instant) {
        if let Some(shared) = self.hops.get_mut(&hop) {
            shared.pursuit.asked(outcome, now);
            self.report_all_behind(hop);
        }
    }

    /// Takes out what is to be reported.
    pub(super) fn take_reports(&mut self) -> Vec<NetlinkReport> {
        mem::take(&mut self.reports)
    }

    fn can_send(&self, interface: u32) -> bool {
        self.links.get(&interface).is_some_and(|link| link.up && link.ethernet)
    }

    fn link_changed(&mut self, index: u32, now: Instant) {
        let hops: Vec<Hop> =
            self.hops.keys().filter(|hop| hop.interface == index).copied().collect();
        for hop in hops {
            self.observe(hop, now);
        }
    }

    fn observe(&mut self, hop: Hop, now: Instant) {
        let usable = self.can_send(hop.interface);
        let entry = self.neighbours.get(&hop).copied();
        if let Some(shared) = self.hops.get_mut(&hop) {
            shared.pursuit.observe(usable, entry, now);
            self.report_all_behind(hop);
        }
    }

    fn leave_hop(&mut self, address: IpAddr) {
        let Some(Watched { route: Some(Ok(route)), .. }) = self.watched.get(&address) else {
            return;
        };
        let hop = route.hop;
        if let Some(shared) = self.hops.get_mut(&hop) {
            shared.addresses.remove(&address);
            if shared.addresses.is_empty() {
                self.hops.remove(&hop);
            }
        }
    }

    fn report_all_behind(&mut self, hop: Hop) {
        let addresses = self.hops.get(&hop).map(|shared| shared.addresses.clone());
        for address in addresses.unwrap_or_default() {
            self.report(address);
        }
    }

    fn report(&mut self, address: IpAddr) {
        let Some(outcome) = self.outcome(address) else { return };
        let Some(watched) = self.watched.get_mut(&address) else { return };
        if watched.reported.as_ref() != Some(&outcome) {
            watched.reported = Some(outcome.clone());
            self.reports.push(NetlinkReport::NextHop(NextHopReport { address, outcome }));
        }
    }

    /// The way to an address, as far as it is known; none before its route was looked up.
    fn outcome(&self, address: IpAddr) -> Option<Result<NextHop, String>> {
        let watched = self.watched.get(&address)?;
        let Route { hop, source, mtu } = match watched.route.as_ref()? {
            Ok(route) => route,
            Err(reason) => return Some(Err(self.blame_link(watched.interface, reason))),
        };
        let Some(link) = self.links.get(&hop.interface) else {
            return Some(Err(format!("the interface to {address} is gone")));
        };
        let name = &link.name;
        if !link.ethernet {
            return Some(Err(format!("{address} lies behind {name}, which is not Ethernet")));
        }
        if !link.up {
            return Some(Err(format!("{name} is down")));
        }
        let whom = if hop.address == address {
            address.to_string()
        } else {
            format!("gateway {}", hop.address)
        };
        let protocol = if hop.address.is_ipv4() { "ARP" } else { "neighbour discovery" };
        Some(match self.hops.get(hop)?.pursuit.known() {
            Known::Mac(mac) => Ok(NextHop {
                interface: hop.interface,
                source: link.mac,
                destination: *mac,
                local: *source,
                mtu: mtu.map_or(link.mtu, |mtu| mtu.min(link.mtu)),
            }),
            Known::Nothing => Err(format!("waiting for {whom} to answer {protocol} on {name}")),
            Known::Failed => Err(format!("{whom} does not answer {protocol} on {name}")),
            Known::Refused(reason) => Err(format!("cannot find {whom} on {name}: {reason}")),
        })
    }

    /// The kernel takes an interface's routes away with it. Whoever reads "no route" wants to know
    /// that the interface is the cause.
    fn blame_link(&self, interface: Option<u32>, reason: &str) -> String {
        match interface.and_then(|index| self.links.get(&index)) {
            Some(link) if !link.up && reason == NO_ROUTE => {
                format!("{NO_ROUTE}: {} is down", link.name)
            }
            _ => reason.to_owned(),
        }
    }
}

#[cfg(test)]
#[path = "table_tests.rs"]
mod tests;
