//! Backends that frames cannot be addressed to.

use super::{Facts, Finding, Scope, backends, list, protocol};
use crate::{doctor::facts::Found, doctor::finding::Kind};

pub(super) fn findings(scope: Scope<'_>, facts: &Facts) -> Vec<Finding> {
    let mut found = Vec::new();
    for (address, names) in backends(scope) {
        let names = list(&names);
        let reason = match facts.routes.get(&address) {
            None => continue,
            Some(Err(reason)) => (
                reason.clone(),
                format!(
                    "`ip route get {address}` must name an Ethernet interface of this machine: add the \
                     network's address or route, or correct the backend's address"
                ),
            ),
            Some(Ok(route)) => match silence(facts, route.hop, address) {
                Some(reason) => reason,
                None => continue,
            },
        };
        let (reason, remedy) = reason;
        found.push(Finding {
            finding: Kind::NoNextHop,
            what: format!("there is no way to {names}, {address}: {reason}"),
            subject: names,
            remedy,
        });
    }
    found
}

/// Why a route's next hop is none, with the remedy. An interface that is down is another finding.
fn silence(
    facts: &Facts,
    hop: crate::netlink::Hop,
    address: std::net::IpAddr,
) -> Option<(String, String)> {
    let link = facts.link_at(hop.interface)?;
    if !link.ethernet {
        let reason = format!("it lies behind {}, which is not Ethernet", link.name);
        let remedy = "frames leave by Ethernet alone: route to it by an Ethernet interface, and for \
                      a tunnel use `forward = \"ipip\"` or `\"gue\"`";
        return Some((reason, remedy.to_owned()));
    }
    if !link.up || facts.neighbours.get(&hop) != Some(&Found::Silent) {
        return None;
    }
    let gateway = if hop.address == address { "" } else { "the gateway " };
    let reason = format!(
        "{gateway}{} does not answer {} on {}",
        hop.address,
        protocol(hop.address),
        link.name
    );
    let remedy = "see that it is switched on, has that address, and is in that segment and VLAN";
    Some((reason, remedy.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::judge::testing::{BACKEND, HOP, facts, kinds, scope, status};

    fn only(facts: &Facts) -> Finding {
        let status = status();
        let found = findings(scope(&status), facts);
        assert_eq!(kinds(&found), [Kind::NoNextHop]);
        found.into_iter().next().expect("one")
    }

    #[test]
    fn a_backend_that_was_found_is_no_finding_nor_is_one_that_could_not_be_asked() {
        let status = status();
        let mut facts = facts();
        assert_eq!(findings(scope(&status), &facts), []);
        facts.neighbours.insert(HOP, Found::Unknown);
        assert_eq!(findings(scope(&status), &facts), []);
    }

    #[test]
    fn a_silent_backend_and_a_silent_gateway_are_told_apart() {
        let mut facts = facts();
        facts.neighbours.insert(HOP, Found::Silent);
        let what = only(&facts).what;
        assert!(what.ends_with("192.0.2.21: 192.0.2.21 does not answer ARP on eth0"), "{what}");
        let route = facts.routes.get_mut(&BACKEND).unwrap().as_mut().unwrap();
        route.hop.address = [192, 0, 2, 1].into();
        facts.neighbours.insert(route.hop, Found::Silent);
        let what = only(&facts).what;
        assert!(what.ends_with("the gateway 192.0.2.1 does not answer ARP on eth0"), "{what}");
    }

    #[test]
    fn a_missing_route_is_said_in_the_kernels_words() {
        let mut facts = facts();
        facts.routes.insert(BACKEND, Err("no route".to_owned()));
        let finding = only(&facts);
        assert_eq!(finding.what, "there is no way to web/b1, 192.0.2.21: no route");
        assert!(finding.remedy.starts_with("`ip route get 192.0.2.21`"));
    }

    #[test]
    fn behind_an_interface_that_is_not_ethernet_nobody_is_reached() {
        let mut facts = facts();
        facts.links[0].ethernet = false;
        assert!(only(&facts).what.ends_with("behind eth0, which is not Ethernet"));
    }
}
