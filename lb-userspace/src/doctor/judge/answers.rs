//! Who answers for a VIP. Only the balancer that has it may: the packets of clients who believe another
//! machine go past the balancer.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use super::{Facts, Finding, Scope, backends, list, protocol, text};
use crate::{
    config::Protocol,
    core::status::ServiceStatus,
    doctor::{
        facts::{Answer, Found, has},
        finding::Kind,
    },
    vrrp::{
        announce::{Mac, virtual_mac},
        fsm::State,
    },
};

pub(super) fn findings(scope: Scope<'_>, facts: &Facts) -> Vec<Finding> {
    let servers = servers(scope, facts);
    let mut vips: BTreeMap<IpAddr, Vec<&ServiceStatus>> = BTreeMap::new();
    for service in scope.services() {
        vips.entry(service.address).or_default().push(service);
    }
    let of = |(vip, services): (IpAddr, Vec<_>)| of_vip(scope, facts, &servers, vip, &services);
    vips.into_iter().flat_map(of).collect()
}

fn of_vip(
    scope: Scope<'_>,
    facts: &Facts,
    servers: &BTreeMap<Mac, Vec<String>>,
    vip: IpAddr,
    services: &[&ServiceStatus],
) -> Vec<Finding> {
    let holders = holders(scope, facts, vip);
    let answers = facts.answers.iter().filter(|answer| answer.address == vip);
    let wrong = answers.filter(|answer| !holders.contains(&answer.mac));
    let (known, mut strangers): (Vec<&Answer>, Vec<&Answer>) =
        wrong.partition(|answer| servers.contains_key(&answer.mac));
    // A balancer of which nobody told us is the holder, if it is alone.
    let here = facts.addresses.iter().any(|(_, prefix)| prefix.address == vip);
    let others: BTreeSet<Mac> = strangers.iter().map(|answer| answer.mac).collect();
    if !here && holders.is_empty() && others.len() == 1 {
        strangers.clear();
    }
    let known = known.into_iter().map(|answer| backend(facts, answer, servers, services));
    known.chain(strangers.into_iter().map(|answer| stranger(facts, answer, here))).collect()
}

fn backend(
    facts: &Facts,
    answer: &Answer,
    servers: &BTreeMap<Mac, Vec<String>>,
    services: &[&ServiceStatus],
) -> Finding {
    let names = servers.get(&answer.mac).map_or(&[][..], Vec::as_slice);
    // A machine may be a backend of several services: by what it is to those of this VIP, if it is
    // one of theirs.
    let of_these = |name: &&String| {
        let service = name.split('/').next();
        services.iter().any(|one| Some(one.name.as_str()) == service)
    };
    let these: Vec<String> = names.iter().filter(of_these).cloned().collect();
    let names = list(if these.is_empty() { names } else { &these });
    let setup: Vec<String> = services.iter().copied().map(endpoint).collect();
    let vip = answer.address;
    Finding {
        finding: Kind::BackendAnswers,
        what: format!(
            "{names} answers {} for the VIP {vip} on {} ({}): clients that believe it go past the \
             balancer",
            protocol(vip),
            interface(facts, answer),
            text(answer.mac),
        ),
        subject: names,
        remedy: format!(
            "run `weir backend-setup {}` on that machine; it says so if the VIP has to come off an \
             interface first",
            setup.join(" ")
        ),
    }
}

fn stranger(facts: &Facts, answer: &Answer, here: bool) -> Finding {
    let Answer { address: vip, mac, .. } = *answer;
    let known = facts.neighbours.iter().find(|(hop, found)| {
        **found == Found::At(mac) && hop.interface == answer.interface && hop.address != vip
    });
    let who =
        known.map_or_else(|| text(mac), |(hop, _)| format!("{} ({})", hop.address, text(mac)));
    let holder = if here { "this machine has it" } else { "it is not the one that should" };
    Finding {
        finding: Kind::StrangerAnswers,
        subject: vip.to_string(),
        what: format!(
            "{who} answers {} for the VIP {vip} on {}, and {holder}",
            protocol(vip),
            interface(facts, answer)
        ),
        remedy:
            "find that machine by its Ethernet address and take the VIP off it; if it is another \
                 balancer, see `weir status` on both: two have the VIP"
                .to_owned(),
    }
}

/// Ethernet addresses that may answer: this machine's, the virtual router's, the master's.
fn holders(scope: Scope<'_>, facts: &Facts, vip: IpAddr) -> BTreeSet<Mac> {
    let here = facts.addresses.iter().any(|(_, prefix)| prefix.address == vip);
    let mut holders = BTreeSet::new();
    if here {
        holders.extend(facts.links.iter().map(|link| link.mac));
    }
    for instance in scope.status.vrrp.iter().filter(|instance| has(instance, vip)) {
        let master = instance.master.filter(|_| instance.state != State::Master);
        if master.is_some() || instance.state == State::Master {
            holders.insert(virtual_mac(instance.router_id, vip.is_ipv4()));
        }
        let Some(master) = master else { continue };
        let answers = facts.answers.iter().filter(|answer| answer.address == master);
        holders.extend(answers.map(|answer| answer.mac));
        let neighbours = facts.neighbours.iter().filter(|(hop, _)| hop.address == master);
        holders.extend(neighbours.filter_map(|(_, found)| match found {
            Found::At(mac) => Some(*mac),
            Found::Silent | Found::Unknown => None,
        }));
    }
    holders
}

/// The backends that are on a segment of ours, of all services.
fn servers(scope: Scope<'_>, facts: &Facts) -> BTreeMap<Mac, Vec<String>> {
    let all = backends(Scope { service: None, ..scope });
    let mut servers: BTreeMap<Mac, Vec<String>> = BTreeMap::new();
    for (hop, found) in &facts.neighbours {
        if let (Found::At(mac), Some(names)) = (found, all.get(&hop.address)) {
            servers.entry(*mac).or_default().extend(names.iter().cloned());
        }
    }
    servers
}

fn interface<'f>(facts: &'f Facts, answer: &Answer) -> &'f str {
    facts.link_at(answer.interface).map_or("an interface", |link| &link.name)
}

/// A service as `weir backend-setup` is told of it.
fn endpoint(service: &ServiceStatus) -> String {
    let protocol = if service.protocol == Protocol::Tcp { "tcp" } else { "udp" };
    let address = std::net::SocketAddr::new(service.address, service.port);
    format!("--service {address}/{protocol}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        config::Prefix,
        doctor::judge::testing::{
            BACKEND_MAC, ETH0, OWN_MAC, VIP, facts, instance, kinds, scope, status,
        },
        netlink::Hop,
    };

    const OTHER: Mac = [2, 0, 0, 0, 0, 0x99];
    const MASTER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 3));

    fn answered(answers: &[(IpAddr, Mac)]) -> Facts {
        let answer = |(address, mac): &(IpAddr, Mac)| Answer {
            interface: ETH0,
            address: *address,
            mac: *mac,
        };
        Facts { answers: answers.iter().map(answer).collect(), ..facts() }
    }

    #[test]
    fn a_backend_that_answers_is_named_with_the_command_that_ends_it() {
        let status = status();
        let found = findings(scope(&status), &answered(&[(VIP, BACKEND_MAC)]));
        assert_eq!(kinds(&found), [Kind::BackendAnswers]);
        assert_eq!(found[0].subject, "web/b1");
        assert!(found[0].what.starts_with("web/b1 answers ARP for the VIP 192.0.2.10 on eth0"));
        let command = "`weir backend-setup --service 192.0.2.10:80/tcp`";
        assert!(found[0].remedy.contains(command), "{}", found[0].remedy);
    }

    #[test]
    fn whoever_else_answers_while_this_machine_has_it_is_a_stranger() {
        let status = status();
        let mut facts = answered(&[(VIP, OTHER), (VIP, OWN_MAC)]);
        let found = findings(scope(&status), &facts);
        assert_eq!(kinds(&found), [Kind::StrangerAnswers]);
        assert!(found[0].what.starts_with("02:00:00:00:00:99 answers"), "{}", found[0].what);
        let hop = Hop { interface: ETH0, address: [192, 0, 2, 77].into() };
        facts.neighbours.insert(hop, Found::At(OTHER));
        let found = findings(scope(&status), &facts);
        assert!(found[0].what.starts_with("192.0.2.77 (02:00:00:00:00:99)"), "{}", found[0].what);
    }

    #[test]
    fn the_master_and_its_virtual_router_may_answer_a_backup() {
        let mut status = status();
        status.vrrp = vec![instance(State::Backup, Some(MASTER))];
        let (router, other) = (virtual_mac(51, true), [2, 0, 0, 0, 0, 0x98]);
        let mut facts = answered(&[(VIP, OTHER), (VIP, router), (MASTER, OTHER), (VIP, other)]);
        facts.addresses.retain(|(_, Prefix { address, .. })| *address != VIP);
        let found = findings(scope(&status), &facts);
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].what.starts_with("02:00:00:00:00:98"), "{}", found[0].what);
    }

    #[test]
    fn one_holder_of_whom_nobody_told_is_right_and_two_are_not() {
        let status = status();
        let away = |answers: &[(IpAddr, Mac)]| {
            let mut facts = answered(answers);
            facts.addresses.retain(|(_, Prefix { address, .. })| *address != VIP);
            kinds(&findings(scope(&status), &facts))
        };
        assert_eq!(away(&[(VIP, OTHER)]), []);
        assert_eq!(away(&[(VIP, OTHER), (VIP, BACKEND_MAC)]), [Kind::BackendAnswers]);
        let two = [(VIP, OTHER), (VIP, [2, 0, 0, 0, 0, 0x98])];
        assert_eq!(away(&two), [Kind::StrangerAnswers; 2]);
    }
}
