//! What has to change on a backend, and why: from what is found, without looking or acting.
//!
//! A packet that a balancer forwards by `l2` arrives with the VIP as its destination. The backend
//! takes it if the VIP is one of its own addresses, on the loopback interface since only the
//! balancer may answer for it on the wire:
//!
//! - IPv4 answers ARP for any address of the host on any interface, unless `arp_ignore` is 1 or more
//!   (`Documentation/networking/ip-sysctl.rst`), and may ask with the VIP as its own address unless
//!   `arp_announce` is 2. Of `conf/all` and the interface's own value the larger one holds.
//! - IPv6 answers neighbour solicitations for addresses of the interface that was asked alone
//!   (`ndisc_recv_ns`), so the loopback interface is enough.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::IpAddr,
};

use serde::Serialize;

use super::{Endpoint, error::Error, record::Record};

/// The interface that holds VIPs.
pub(super) const LOOPBACK: &str = "lo";

/// Settings of the kernel that IPv4 needs: name, least value, why.
const SETTINGS: [(&str, u32, &str); 2] = [
    (
        "net.ipv4.conf.all.arp_ignore",
        1,
        "ARP for the VIP is the balancer's to answer, not this machine's",
    ),
    (
        "net.ipv4.conf.all.arp_announce",
        2,
        "this machine's own ARP must not name the VIP as its source",
    ),
];

/// A change to this machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "change", rename_all = "snake_case")]
pub enum Change {
    /// A setting of the kernel gets another value.
    Set {
        /// Its name, as sysctl(8) knows it.
        name: String,
        /// Its value until now.
        from: String,
        /// Its new value.
        to: String,
        /// What for.
        why: &'static str,
    },
    /// An address is put on the loopback interface.
    AddAddress {
        /// Which.
        address: IpAddr,
        /// What for.
        why: &'static str,
    },
    /// An address is taken off the loopback interface.
    RemoveAddress {
        /// Which.
        address: IpAddr,
        /// What for.
        why: &'static str,
    },
}

/// What there is.
#[derive(Debug, Clone, Default)]
pub(super) struct Found {
    /// The values of the settings above.
    pub(super) settings: BTreeMap<String, String>,
    /// Addresses, each with its interface and prefix length.
    pub(super) addresses: Vec<(String, IpAddr, u8)>,
}

/// The names of the settings that have to be looked at.
pub(super) fn setting_names() -> impl Iterator<Item = &'static str> {
    SETTINGS.iter().map(|(name, ..)| *name)
}

/// What has to change for these services, and what is to be remembered for the way back. Settings
/// come first: an address must not be answered for in between.
pub(super) fn setup(
    services: &[Endpoint],
    before: &Record,
    found: &Found,
) -> Result<(Vec<Change>, Record), Error> {
    if services.is_empty() {
        return Err(Error::NoService);
    }
    let vips: BTreeSet<IpAddr> = services.iter().map(|service| service.address.ip()).collect();
    for (interface, address, length) in &found.addresses {
        if vips.contains(address) && interface != LOOPBACK {
            let (address, interface) = (*address, interface.clone());
            return Err(Error::Elsewhere { address, interface, length: *length });
        }
    }
    let mut after = before.clone();
    after.services.extend(services);
    let mut changes = Vec::new();
    for (name, least, why) in SETTINGS {
        let needed = vips.iter().any(IpAddr::is_ipv4);
        let value = found.settings.get(name).cloned().unwrap_or_default();
        if needed && value.parse::<u32>().unwrap_or(0) < least {
            after.settings.entry(name.to_owned()).or_insert_with(|| value.clone());
            let (name, to) = (name.to_owned(), least.to_string());
            changes.push(Change::Set { name, from: value, to, why });
        }
    }
    for address in vips {
        if !found.has(address) {
            after.addresses.insert(address);
            let why = "packets for the VIP are this machine's to take";
            changes.push(Change::AddAddress { address, why });
        }
    }
    Ok((changes, after))
}

/// What has to change to take that back, for these services or for all. What other services need
/// stays; so does what was there before the first run, and what somebody has changed since.
pub(super) fn undo(services: &[Endpoint], before: &Record, found: &Found) -> (Vec<Change>, Record) {
    let mut after = before.clone();
    if services.is_empty() {
        after.services.clear();
    } else {
        after.services.retain(|service| !services.contains(service));
    }
    let needed: BTreeSet<IpAddr> = after.services.iter().map(|s| s.address.ip()).collect();
    let mut changes = Vec::new();
    after.addresses.retain(|address| needed.contains(address));
    for address in before.addresses.difference(&after.addresses) {
        if found.has(*address) {
            let why = "no service of this machine has it any more";
            changes.push(Change::RemoveAddress { address: *address, why });
        }
    }
    if !needed.iter().any(IpAddr::is_ipv4) {
        for (name, to) in std::mem::take(&mut after.settings) {
            let from = found.settings.get(&name).cloned().unwrap_or_default();
            let ours = SETTINGS.iter().any(|(n, least, _)| *n == name && from == least.to_string());
            if ours {
                let why = "as it was before";
                changes.push(Change::Set { name, from, to, why });
            }
        }
    }
    (changes, after)
}

impl Found {
    fn has(&self, address: IpAddr) -> bool {
        self.addresses.iter().any(|(name, found, _)| name == LOOPBACK && *found == address)
    }
}

/// The prefix length of one address.
pub(super) fn host_length(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Set { name, from, to, why } => write!(f, "set {name} = {to} (was {from}): {why}"),
            Self::AddAddress { address, why } => {
                write!(f, "add {address}/{} to {LOOPBACK}: {why}", host_length(*address))
            }
            Self::RemoveAddress { address, why } => {
                write!(f, "remove {address}/{} from {LOOPBACK}: {why}", host_length(*address))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(text: &str) -> Endpoint {
        text.parse().unwrap()
    }

    fn found(ignore: &str, announce: &str, addresses: &[(&str, &str)]) -> Found {
        let values = [ignore, announce].map(ToOwned::to_owned);
        let address =
            |(name, text): &(&str, &str)| ((*name).to_owned(), text.parse::<IpAddr>().unwrap(), 24);
        Found {
            settings: setting_names().map(ToOwned::to_owned).zip(values).collect(),
            addresses: addresses.iter().map(address).collect(),
        }
    }

    fn lines(changes: &[Change]) -> Vec<String> {
        let line = |change: &Change| change.to_string().split(':').next().unwrap().to_owned();
        changes.iter().map(line).collect()
    }

    /// What is there after the changes.
    fn done(mut found: Found, changes: &[Change]) -> Found {
        for change in changes {
            match change {
                Change::Set { name, to, .. } => {
                    found.settings.insert(name.clone(), to.clone());
                }
                Change::AddAddress { address, .. } => {
                    found.addresses.push((LOOPBACK.to_owned(), *address, host_length(*address)));
                }
                Change::RemoveAddress { address, .. } => {
                    found.addresses.retain(|(_, found, _)| found != address);
                }
            }
        }
        found
    }

    #[test]
    fn settings_come_before_addresses_and_a_second_run_finds_nothing_to_do() {
        let services = [endpoint("192.0.2.10:80/tcp"), endpoint("192.0.2.10:443/tcp")];
        let fresh = found("0", "0", &[("eth0", "10.0.0.1")]);
        let (changes, record) = setup(&services, &Record::default(), &fresh).unwrap();
        assert_eq!(
            lines(&changes),
            [
                "set net.ipv4.conf.all.arp_ignore = 1 (was 0)",
                "set net.ipv4.conf.all.arp_announce = 2 (was 0)",
                "add 192.0.2.10/32 to lo",
            ]
        );
        let prepared = done(fresh, &changes);
        assert_eq!(setup(&services, &record, &prepared).unwrap(), (Vec::new(), record));
    }

    #[test]
    fn undo_takes_back_what_was_done_and_no_more() {
        let (web, dns) = (endpoint("192.0.2.10:80/tcp"), endpoint("192.0.2.11:53/udp"));
        // Stricter than needed, and one VIP there already: both somebody else's.
        let fresh = found("2", "0", &[("lo", "192.0.2.11")]);
        let (changes, record) = setup(&[web, dns], &Record::default(), &fresh).unwrap();
        assert_eq!(
            lines(&changes),
            ["set net.ipv4.conf.all.arp_announce = 2 (was 0)", "add 192.0.2.10/32 to lo"]
        );
        let prepared = done(fresh.clone(), &changes);
        let (changes, left) = undo(&[web], &record, &prepared);
        assert_eq!(lines(&changes), ["remove 192.0.2.10/32 from lo"], "dns needs the setting");
        let (changes, left) = undo(&[], &left, &done(prepared, &changes));
        assert_eq!(lines(&changes), ["set net.ipv4.conf.all.arp_announce = 0 (was 2)"]);
        assert_eq!(left, Record::default());
    }

    #[test]
    fn what_somebody_changed_since_stays() {
        let web = endpoint("192.0.2.10:80/tcp");
        let fresh = found("0", "0", &[]);
        let (changes, record) = setup(&[web], &Record::default(), &fresh).unwrap();
        let mut prepared = done(fresh, &changes);
        prepared.settings.insert("net.ipv4.conf.all.arp_ignore".to_owned(), "2".to_owned());
        let (changes, _) = undo(&[], &record, &prepared);
        let announce = "set net.ipv4.conf.all.arp_announce = 0 (was 2)";
        assert_eq!(lines(&changes), ["remove 192.0.2.10/32 from lo", announce]);
    }

    #[test]
    fn ipv6_needs_the_address_alone() {
        let dns = endpoint("[2001:db8::10]:53/udp");
        let (changes, _) = setup(&[dns], &Record::default(), &found("0", "0", &[])).unwrap();
        assert_eq!(changes.len(), 1);
        assert!(changes[0].to_string().starts_with("add 2001:db8::10/128 to lo"));
    }

    #[test]
    fn a_vip_on_the_wire_is_refused_with_the_way_out() {
        let web = endpoint("192.0.2.10:80/tcp");
        let on_the_wire = found("0", "0", &[("eth0", "192.0.2.10")]);
        let error = setup(&[web], &Record::default(), &on_the_wire).unwrap_err().to_string();
        assert!(error.contains("ip address del 192.0.2.10/24 dev eth0"), "{error}");
        assert!(matches!(setup(&[], &Record::default(), &on_the_wire), Err(Error::NoService)));
    }
}
