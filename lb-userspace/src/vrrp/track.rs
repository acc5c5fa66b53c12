//! What an instance needs to take part, and what lowers its priority.
//!
//! Facts come in from the kernel, the daemon and the scripts; here they become an [`Assessment`],
//! without I/O.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    config::{Name, Prefix, Track, TrackScript, Tracked, Vrrp},
    vrrp::announce::Mac,
};
use std::net::IpAddr;

/// What the daemon knows and VRRP follows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DaemonFacts {
    /// The services, and whether each has a backend that is up.
    pub services: BTreeMap<Name, bool>,
    /// Weir's interfaces, and whether each has the XDP program.
    pub attached: BTreeMap<String, bool>,
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
}

impl Facts {
    /// Looks at everything that an instance depends on.
    pub fn assess(&self, instance: &Vrrp) -> Assessment {
        let mut assessment = Assessment::default();
        if let Err(reason) = self.interface(&instance.interface) {
            assessment.fault = Some(reason);
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
