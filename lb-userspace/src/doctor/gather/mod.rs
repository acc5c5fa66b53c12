//! Looking: at the kernel's interfaces, routes and neighbours, at the adapters, and at who answers on
//! the segments.

mod ask;
mod ethtool;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::ErrorKind,
    net::IpAddr,
};

use futures_util::future::join_all;

use self::{ask::Questions, ethtool::Ethtool};
use super::{
    Scope,
    facts::{Answer, Facts, Found, has},
};
use crate::{
    netlink::{Error, Hop, Kernel, LinkReport, Neighbour},
    vrrp::fsm::State,
};

/// Routes that are looked up at once.
const BATCH: usize = 64;

/// Gathers everything; what could not be looked at is said beside it.
pub(super) async fn all(scope: Scope<'_>) -> Result<(Facts, Vec<String>), Error> {
    let kernel = Kernel::open()?;
    let mut facts = Facts {
        links: kernel.links().await?,
        addresses: kernel.addresses().await?,
        processors: processors("online"),
        processors_possible: processors("possible"),
        ..Facts::default()
    };
    // Of all services: whoever answers wrongly shall be called by its name.
    let backends = scope.status.services.iter().flat_map(|service| &service.backends);
    let backends: BTreeSet<IpAddr> = backends.map(|backend| backend.address).collect();
    for batch in backends.into_iter().collect::<Vec<_>>().chunks(BATCH) {
        let routes = join_all(batch.iter().map(|address| kernel.route(*address))).await;
        for (address, route) in batch.iter().zip(routes) {
            facts.routes.insert(*address, route?);
        }
    }
    let mut skipped = Vec::new();
    match Ethtool::open() {
        Ok(ethtool) => {
            for interface in &scope.status.interfaces {
                facts.adapters.insert(interface.name.clone(), ethtool.adapter(&interface.name));
            }
        }
        Err(error) => skipped.push(format!("network adapters: {error}")),
    }
    skipped.extend(ask_around(scope, &mut facts, kernel.neighbours().await?).await);
    Ok((facts, skipped))
}

/// Asks the segments who has the VIPs, who the routers are that should, and where the backends are that
/// the kernel is not sure of.
async fn ask_around(
    scope: Scope<'_>,
    facts: &mut Facts,
    neighbours: Vec<(Hop, Neighbour)>,
) -> Vec<String> {
    let mut known = BTreeMap::new();
    for (hop, neighbour) in neighbours {
        if let Neighbour::Kept(mac) | Neighbour::Stale(mac) = neighbour {
            facts.neighbours.insert(hop, Found::At(mac));
        }
        known.insert(hop, neighbour);
    }
    // What is stale may be gone.
    let sure = |hop: &Hop| matches!(known.get(hop), Some(Neighbour::Kept(_)));
    let hops = facts.routes.values().flatten().map(|route| route.hop);
    let unsure: BTreeSet<Hop> = hops.filter(|hop| !sure(hop)).collect();
    let questions = questions(scope, facts, &unsure);
    let (answers, failures) = ask::all(&questions).await;
    let asked = |hop: &Hop| {
        let mut segments = questions.iter().filter(|one| one.link.index == hop.interface);
        segments.any(|one| !failures.iter().any(|(name, _)| *name == one.link.name))
    };
    for hop in unsure {
        let here =
            |answer: &&Answer| (answer.interface, answer.address) == (hop.interface, hop.address);
        let found = match answers.iter().find(here) {
            Some(answer) => Found::At(answer.mac),
            None if asked(&hop) => Found::Silent,
            None if known.get(&hop) == Some(&Neighbour::Failed) => Found::Silent,
            None => Found::Unknown,
        };
        facts.neighbours.insert(hop, found);
    }
    facts.answers = answers;
    let sentence = |(name, error): (String, std::io::Error)| {
        let remedy = match error.kind() {
            ErrorKind::PermissionDenied => "; run it as root (CAP_NET_RAW)",
            _ => "",
        };
        format!("who answers on {name}: {error}{remedy}")
    };
    failures.into_iter().map(sentence).collect()
}

/// What each segment is asked. Nobody is asked by an interface that is down or not Ethernet.
fn questions(scope: Scope<'_>, facts: &Facts, hops: &BTreeSet<Hop>) -> Vec<Questions> {
    let status = scope.status;
    let mut wanted: BTreeMap<u32, BTreeSet<IpAddr>> = BTreeMap::new();
    let mut want = |index: u32, address| {
        wanted.entry(index).or_default().insert(address);
    };
    for service in scope.services() {
        for segment in facts.segments(status, service.address) {
            want(segment.index, service.address);
        }
        for instance in status.vrrp.iter().filter(|instance| has(instance, service.address)) {
            let master = instance.master.filter(|_| instance.state != State::Master);
            if let (Some(link), Some(master)) = (facts.link(&instance.interface), master) {
                want(link.index, master);
            }
        }
    }
    for hop in hops {
        want(hop.interface, hop.address);
    }
    let shared = |address: IpAddr| {
        let mut services = status.services.iter();
        services.any(|service| service.address == address)
            || status.vrrp.iter().any(|instance| has(instance, address))
    };
    let own = |link: &LinkReport| {
        let own = facts.addresses.iter().filter(|(index, _)| *index == link.index);
        own.map(|(_, prefix)| *prefix).filter(|prefix| !shared(prefix.address)).collect()
    };
    let question = |(index, addresses)| {
        let link = facts.link_at(index).filter(|link| link.up && link.ethernet)?.clone();
        Some(Questions { own: own(&link), link, addresses })
    };
    wanted.into_iter().filter_map(question).collect()
}

/// How many processors are in a state, by `/sys/devices/system/cpu`; 0 if that cannot be read.
fn processors(state: &str) -> u32 {
    let list = fs::read_to_string(format!("/sys/devices/system/cpu/{state}")).unwrap_or_default();
    members(list.trim())
}

/// How many numbers are in a list such as `0-3,8`.
fn members(list: &str) -> u32 {
    let range = |range: &str| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last): (u32, u32) = (first.parse().ok()?, last.parse().ok()?);
        last.checked_sub(first)?.checked_add(1)
    };
    list.split(',').filter_map(range).fold(0, u32::saturating_add)
}

#[cfg(test)]
mod tests {
    use super::members;

    #[test]
    fn lists_of_processors_are_counted() {
        let cases = [("0", 1), ("0-3", 4), ("0-3,8,10-11", 7), ("", 0), ("3-1", 0)];
        for (list, count) in cases {
            assert_eq!(members(list), count, "{list}");
        }
    }
}
