//! What is wrong, from what is known: no I/O, one file a story.

mod answers;
mod interfaces;
mod mtu;
mod queues;
#[cfg(test)]
mod testing;
mod ways;

use std::{collections::BTreeMap, net::IpAddr};

use super::{Scope, facts::Facts, finding::Finding};
use crate::vrrp::announce::Mac;

/// The driver of virtual machines' adapters. For a native program it takes rings to send from the queue
/// pairs, one for each possible processor if so many are left, and has the host merge no packets, or
/// refuses if the host cannot be told (`virtnet_xdp_set`).
const VIRTIO: &str = "virtio_net";

/// All that is wrong, what breaks the way before what slows it.
pub(super) fn all(scope: Scope<'_>, facts: &Facts) -> Vec<Finding> {
    let stories =
        [answers::findings, ways::findings, interfaces::findings, mtu::findings, queues::findings];
    stories.into_iter().flat_map(|findings| findings(scope, facts)).collect()
}

/// The backends at each address, as `SERVICE/BACKEND`.
fn backends(scope: Scope<'_>) -> BTreeMap<IpAddr, Vec<String>> {
    let mut found: BTreeMap<IpAddr, Vec<String>> = BTreeMap::new();
    for service in scope.services() {
        for backend in &service.backends {
            let name = format!("{}/{}", service.name, backend.name);
            found.entry(backend.address).or_default().push(name);
        }
    }
    found
}

/// So many names are written out.
const NAMES_SHOWN: usize = 5;

/// Names for people: `a, b and 3 more`.
fn list(names: &[String]) -> String {
    let (shown, rest) = names.split_at(names.len().min(NAMES_SHOWN));
    match rest.len() {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}

fn text(mac: Mac) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

fn protocol(address: IpAddr) -> &'static str {
    if address.is_ipv4() { "ARP" } else { "neighbour discovery" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_lists_are_cut() {
        let names: Vec<String> = (1..=7).map(|number| format!("web/b{number}")).collect();
        assert_eq!(list(&names[..2]), "web/b1, web/b2");
        assert_eq!(list(&names), "web/b1, web/b2, web/b3, web/b4, web/b5 and 2 more");
    }
}
