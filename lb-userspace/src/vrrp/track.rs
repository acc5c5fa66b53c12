//! What an instance needs to take part, and what lowers its priority.
//!
//! Facts come in from the kernel, the daemon and the scripts; here they become an [`Assessment`],
//! without I/O.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use crate::{
    config::{Name, Prefix, Track, TrackScript, Tracked, Vrrp},
    vrrp::announce::Mac,
};

/// What is taken off while most backends of most services fail together, which says more of this
/// machine than of them: enough to let a peer with working checks go first. Where the peer's
/// checks fail too, both are lowered, and nothing moves.
const SUSPECTED_PENALTY: u8 = 100;

/// What the daemon knows and VRRP follows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DaemonFacts {
    /// The services, and whether each has a backend that is up.
    pub services: BTreeMap<Name, bool>,
    /// Weir's interfaces, and whether each has the XDP program.
    pub attached: BTreeMap<String, bool>,
    /// Whether so many backends failed together that this machine is the likelier fault.
    pub machine_suspected: bool,
    /// Whether peers know of flows and slots what this node does not know yet.
    pub lacks_tables: bool,
}

/// What the kernel says of an interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkFacts {
    /// Its index.
    pub index: u32,
    /// Its Ethernet address.
    pub mac: Mac,
    /// Whether it can carry traffic.
    pub up: bool,
    /// Its addresses, in the kernel's order.
    pub addresses: Vec<Prefix>,
}

/// All that is known.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Facts {
    /// By the daemon.
    pub daemon: DaemonFacts,
    /// By the kernel: interfaces by name.
    pub links: BTreeMap<String, LinkFacts>,
    /// By the scripts; one that has not run yet is not in it.
    pub scripts: BTreeMap<TrackScript, bool>,
}

/// What follows for an instance.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Assessment {
    /// Why it cannot take part, if it cannot.
    pub fault: Option<String>,
    /// Failed conditions, with what each takes off the priority.
    pub penalties: BTreeMap<String, u8>,
    /// Peers know of flows and slots what this node does not know yet.
    pub lacks_tables: bool,
}

impl Facts {
    /// Looks at everything that an instance depends on.
    pub fn assess(&self, instance: &Vrrp) -> Assessment {
        let lacks_tables = self.daemon.lacks_tables;
        let mut assessment = Assessment { lacks_tables, ..Assessment::default() };
        if let Err(reason) = self.interface(&instance.interface) {
            assessment.fault = Some(reason);
        }
        if self.daemon.machine_suspected {
            let reason = "most backends failed together: this machine may be the fault";
            assessment.penalties.insert(reason.to_owned(), SUSPECTED_PENALTY);
        }
        for Track { what, penalty } in &instance.track {
            let Err(reason) = self.condition(what) else { continue };
            match penalty {
                Some(penalty) => {
                    assessment.penalties.insert(reason, *penalty);
                }
                None => {
                    assessment.fault.get_or_insert(reason);
                }
            }
        }
        assessment
    }

    /// The address that an instance's adverts come from: the first of its interface that is no
    /// virtual one; over IPv6 a link-local one (RFC 9568 section 5.1.2.1). With unicast, one
    /// of the peers' network if there is any.
    pub fn source(&self, instance: &Vrrp, virtual_addresses: &BTreeSet<IpAddr>) -> Option<IpAddr> {
        let link = self.links.get(&instance.interface)?;
        let usable = |prefix: &&Prefix| {
            prefix.address.is_ipv4() == instance.is_ipv4()
                && !virtual_addresses.contains(&prefix.address)
        };
        let mut candidates: Vec<&Prefix> = link.addresses.iter().filter(usable).collect();
        match instance.unicast_peers.first() {
            Some(peer) => candidates.sort_by_key(|prefix| !prefix.contains(*peer)),
            None => candidates.retain(|prefix| prefix.address.is_ipv4() || prefix.is_link_local()),
        }
        let first = candidates.first().map(|prefix| prefix.address);
        // An owner may have no other address than those that it owns.
        let owned = || {
            let mut all = link.addresses.iter().map(|prefix| prefix.address);
            all.find(|address| instance.addresses.iter().any(|own| own.address == *address))
        };
        first.or_else(|| if instance.priority == u8::MAX { owned() } else { None })
    }

    fn condition(&self, what: &Tracked) -> Result<(), String> {
        match what {
            Tracked::Interface(name) => self.interface(name),
            Tracked::Service(name) => match self.daemon.services.get(name) {
                Some(true) => Ok(()),
                _ => Err(format!("service {name} has no backend that is up")),
            },
            Tracked::Script(script) => match self.scripts.get(script) {
                Some(true) => Ok(()),
                Some(false) => Err(format!("script {} fails", script.command[0])),
                None => Err(format!("script {} has not run yet", script.command[0])),
            },
        }
    }

    fn interface(&self, name: &str) -> Result<(), String> {
        match self.links.get(name) {
            None => Err(format!("there is no interface {name}")),
            Some(link) if !link.up => Err(format!("{name} is down")),
            Some(_) if self.daemon.attached.get(name) == Some(&false) => {
                Err(format!("{name} has no XDP program"))
            }
            Some(_) => Ok(()),
        }
    }
}

impl Assessment {
    /// Joins those of a sync group: what one needs, all need; what lowers one, lowers all.
    pub fn join(&mut self, other: Self) {
        self.fault = self.fault.take().or(other.fault);
        self.penalties.extend(other.penalties);
        self.lacks_tables |= other.lacks_tables;
    }

    /// What is left of a priority: at least 1. An owner's 255 says whose the addresses are, and
    /// nothing else; with a penalty it counts down from there like any other.
    pub fn priority(&self, configured: u8) -> u8 {
        let penalty = self.penalties.values().fold(0_u8, |sum, each| sum.saturating_add(*each));
        configured.saturating_sub(penalty).max(1)
    }
}

impl Prefix {
    /// Whether an address is of this network.
    pub fn contains(&self, address: IpAddr) -> bool {
        let bits = |address: IpAddr| match address {
            IpAddr::V4(v4) => (u128::from(v4.to_bits()) << 96, 32),
            IpAddr::V6(v6) => (v6.to_bits(), 128),
        };
        let ((own, width), (other, other_width)) = (bits(self.address), bits(address));
        // A shift by all 128 bits leaves nothing to compare.
        let differing = (own ^ other).checked_shr(128 - u32::from(self.length));
        width == other_width && differing.unwrap_or(0) == 0
    }

    fn is_link_local(&self) -> bool {
        matches!(self.address, IpAddr::V6(v6) if v6.is_unicast_link_local())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefix(text: &str) -> Prefix {
        let (address, length) = text.split_once('/').unwrap();
        Prefix { address: address.parse().unwrap(), length: length.parse().unwrap() }
    }

    fn spec() -> Vrrp {
        let text = "[[interface]]\nname = \"eth0\"\n[[service]]\nname = \"web\"\naddress = \
                    \"192.0.2.1\"\nport = 80\n[[vrrp]]\nname = \"front\"\ninterface = \"eth0\"\n\
                    router_id = 1\naddresses = [\"192.0.2.10/24\"]\ntrack = [{ service = \"web\" }, \
                    { interface = \"eth1\", penalty = 7 }, { interface = \"eth2\" }]";
        crate::config::parse(text, "weir.toml").unwrap().vrrp.remove(0)
    }

    fn link(addresses: &[&str]) -> LinkFacts {
        let addresses = addresses.iter().map(|text| prefix(text)).collect();
        LinkFacts { index: 1, mac: [2; 6], up: true, addresses }
    }

    fn facts() -> Facts {
        let mut facts = Facts::default();
        facts.daemon.services.insert(Name::new("web").unwrap(), true);
        facts.daemon.attached.insert("eth0".to_owned(), true);
        for name in ["eth0", "eth1", "eth2"] {
            facts.links.insert(name.to_owned(), link(&["192.0.2.2/24"]));
        }
        facts
    }

    #[test]
    fn each_condition_costs_what_it_says() {
        let spec = spec();
        assert_eq!(facts().assess(&spec), Assessment::default());
        let assess = |change: fn(&mut Facts)| {
            let mut facts = facts();
            change(&mut facts);
            let assessment = facts.assess(&spec);
            (assessment.priority(150), assessment.fault)
        };
        let fault = |text: &str| Some(text.to_owned());
        assert_eq!(assess(|facts| facts.daemon.services.clear()), (100, None));
        assert_eq!(assess(|facts| facts.links.get_mut("eth1").unwrap().up = false), (143, None));
        assert_eq!(assess(|facts| facts.daemon.machine_suspected = true), (50, None));
        assert_eq!(
            assess(|facts| facts.links.get_mut("eth2").unwrap().up = false),
            (150, fault("eth2 is down"))
        );
        assert_eq!(
            assess(|facts| drop(facts.links.remove("eth0"))),
            (150, fault("there is no interface eth0"))
        );
        assert_eq!(
            assess(|facts| *facts.daemon.attached.get_mut("eth0").unwrap() = false),
            (150, fault("eth0 has no XDP program"))
        );
    }

    #[test]
    fn adverts_come_from_an_address_that_is_not_virtual() {
        let mut spec = spec();
        let virtual_addresses = BTreeSet::from([[192, 0, 2, 10].into()]);
        let source = |spec: &Vrrp, addresses: &[&str]| {
            let mut facts = facts();
            facts.links.insert("eth0".to_owned(), link(addresses));
            facts.source(spec, &virtual_addresses).map(|address| address.to_string())
        };
        let some = |text: &str| Some(text.to_owned());
        let here = ["fe80::2/64", "192.0.2.10/24", "192.0.2.2/24", "10.0.0.2/24"];
        assert_eq!(source(&spec, &here), some("192.0.2.2"));
        assert_eq!(source(&spec, &["192.0.2.10/24", "fe80::2/64"]), None);
        // A peer's network goes first.
        spec.unicast_peers = vec![[10, 0, 0, 3].into()];
        assert_eq!(source(&spec, &here), some("10.0.0.2"));
        // An owner may have no other.
        (spec.unicast_peers, spec.priority) = (Vec::new(), 255);
        assert_eq!(source(&spec, &["192.0.2.10/24"]), some("192.0.2.10"));
        // Over IPv6 only a link-local one will do.
        spec.addresses = vec![prefix("2001:db8::10/64")];
        assert_eq!(source(&spec, &["2001:db8::2/64", "fe80::2/64"]), some("fe80::2"));
        assert_eq!(source(&spec, &["2001:db8::2/64"]), None);
    }

    #[test]
    fn networks_contain_their_addresses() {
        for (network, address, expected) in [
            ("10.0.0.1/24", "10.0.0.200", true),
            ("10.0.0.1/24", "10.0.1.1", false),
            ("10.0.0.1/32", "10.0.0.1", true),
            ("10.0.0.1/32", "10.0.0.2", false),
            ("10.0.0.1/1", "127.0.0.1", true),
            ("10.0.0.1/1", "128.0.0.1", false),
            ("2001:db8::1/64", "2001:db8::ffff:1", true),
            ("2001:db8::1/64", "2001:db8:0:1::1", false),
            ("2001:db8::1/128", "2001:db8::1", true),
            ("2001:db8::1/128", "2001:db8::2", false),
            ("10.0.0.1/8", "a00::1", false),
        ] {
            assert_eq!(prefix(network).contains(address.parse().unwrap()), expected, "{network}");
        }
    }
}
