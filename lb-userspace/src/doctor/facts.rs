//! What is known of this machine and its segments.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use crate::{
    config::Prefix,
    core::Status,
    netlink::{Hop, LinkReport, Route},
    vrrp::{VrrpStatus, announce::Mac},
};

/// Everything that is judged, beside the daemon's status.
#[derive(Debug, Clone, Default)]
pub(super) struct Facts {
    /// All interfaces.
    pub(super) links: Vec<LinkReport>,
    /// Their addresses, each with its interface's index.
    pub(super) addresses: Vec<(u32, Prefix)>,
    /// The kernel's routes to the backends, or why there is none.
    pub(super) routes: BTreeMap<IpAddr, Result<Route, String>>,
    /// What is known of neighbours, the routes' next hops among them.
    pub(super) neighbours: BTreeMap<Hop, Found>,
    /// Who answers for VIPs, and for the routers that have them.
    pub(super) answers: BTreeSet<Answer>,
    /// The adapters behind the interfaces, by the interfaces' names.
    pub(super) adapters: BTreeMap<String, Adapter>,
    /// How many processors run.
    pub(super) processors: u32,
    /// How many may run at most, which is what drivers count.
    pub(super) processors_possible: u32,
}

/// What came of looking for a neighbour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Found {
    /// It is there.
    At(Mac),
    /// It was asked, and does not answer.
    Silent,
    /// It could not be asked.
    Unknown,
}

/// An answer to "who has this address".
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Answer {
    /// The index of the interface where it came in.
    pub(super) interface: u32,
    /// The address in question.
    pub(super) address: IpAddr,
    /// Where it is said to be.
    pub(super) mac: Mac,
}

/// A network adapter, as its driver tells of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Adapter {
    /// The driver's name.
    pub(super) driver: String,
    /// Whether there is a device behind it, hardware or a virtual machine's; not so for bridges,
    /// VLANs and the like.
    pub(super) device: bool,
    /// Its queues, if the driver tells of them.
    pub(super) queues: Option<Queues>,
    /// Its rings for receiving and for sending, likewise.
    pub(super) rings: Option<[Ring; 2]>,
    /// Features that merge received packets and are on, by the names of ethtool(8).
    pub(super) merging: Vec<String>,
}

/// The queues of an adapter that receive.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Queues {
    /// How many there are.
    pub(super) now: u32,
    /// How many there may be.
    pub(super) max: u32,
    /// Whether they are for both directions, `combined` in the words of ethtool(8); else `rx`.
    pub(super) combined: bool,
}

/// How many packets a ring holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Ring {
    /// Now.
    pub(super) now: u32,
    /// At most.
    pub(super) max: u32,
}

impl Facts {
    /// An interface by its name.
    pub(super) fn link(&self, name: &str) -> Option<&LinkReport> {
        self.links.iter().find(|link| link.name == name)
    }

    /// An interface by its index.
    pub(super) fn link_at(&self, index: u32) -> Option<&LinkReport> {
        self.links.iter().find(|link| link.index == index)
    }

    /// Where clients' packets for a VIP come in: of the interfaces with the program, those of a network
    /// that the VIP is in; all of them if it is in none, and is routed to.
    pub(super) fn segments(&self, status: &Status, vip: IpAddr) -> Vec<&LinkReport> {
        let attached: Vec<_> =
            status.interfaces.iter().filter_map(|interface| self.link(&interface.name)).collect();
        let near = |link: &&LinkReport| {
            let mut own = self.addresses.iter().filter(|(index, _)| *index == link.index);
            let mut instances = status.vrrp.iter().filter(|instance| has(instance, vip));
            own.any(|(_, prefix)| prefix.contains(vip))
                || instances.any(|instance| instance.interface == link.name)
        };
        let near: Vec<_> = attached.iter().copied().filter(near).collect();
        if near.is_empty() { attached } else { near }
    }
}

/// Whether an address is one of a virtual router's.
pub(super) fn has(instance: &VrrpStatus, address: IpAddr) -> bool {
    let bare = |text: &String| text.split('/').next().and_then(|text| text.parse().ok());
    instance.addresses.iter().any(|text| bare(text) == Some(address))
}
