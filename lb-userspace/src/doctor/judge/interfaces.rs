//! Interfaces: those that cannot send, and those where the program runs worse than it could.

use std::collections::{BTreeMap, BTreeSet};

use super::{Facts, Finding, Scope, VIRTIO, backends, list};
use crate::{
    config::AttachMode,
    doctor::{
        facts::{Adapter, Queues},
        finding::Kind,
    },
};

/// The largest MTU at which a packet fits into one page of memory, with what drivers keep before and
/// behind it. Most refuse a native program above it (about: some bear a little more).
const ONE_PAGE_MTU: u32 = 3498;

pub(super) fn findings(scope: Scope<'_>, facts: &Facts) -> Vec<Finding> {
    let mut found = down(scope, facts);
    for interface in &scope.status.interfaces {
        let nothing = Adapter::default();
        let adapter = facts.adapters.get(&interface.name).unwrap_or(&nothing);
        let mtu = facts.link(&interface.name).map_or(0, |link| link.mtu);
        found.extend(match interface.mode {
            AttachMode::Generic => Some(generic(&interface.name, adapter, mtu)),
            AttachMode::Native | AttachMode::Auto => merged(&interface.name, adapter),
        });
    }
    found
}

/// Interfaces with the program, and those by which frames leave.
fn down(scope: Scope<'_>, facts: &Facts) -> Vec<Finding> {
    let mut needed: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    for interface in &scope.status.interfaces {
        needed.entry(&interface.name).or_default();
    }
    for (address, names) in backends(scope) {
        let route = facts.routes.get(&address).and_then(|route| route.as_ref().ok());
        if let Some(link) = route.and_then(|route| facts.link_at(route.hop.interface)) {
            needed.entry(&link.name).or_default().extend(names);
        }
    }
    let finding = |(name, backends): (&str, BTreeSet<String>)| {
        let state = match facts.link(name) {
            None => "gone",
            Some(link) if !link.up => "down",
            Some(_) => return None,
        };
        let backends: Vec<String> = backends.into_iter().collect();
        let way = match backends.as_slice() {
            [] => String::new(),
            backends => format!(", and the way to {} leads there", list(backends)),
        };
        Some(Finding {
            finding: Kind::InterfaceDown,
            subject: name.to_owned(),
            what: format!("{name} is {state}{way}"),
            remedy: format!(
                "`ip link set dev {name} up`; if it is up and has no carrier, see to its cable or the \
                 switch's port"
            ),
        })
    };
    needed.into_iter().filter_map(finding).collect()
}

fn generic(name: &str, adapter: &Adapter, mtu: u32) -> Finding {
    let mut reasons = Vec::new();
    if mtu > ONE_PAGE_MTU {
        reasons.push(format!(
            "its MTU is {mtu}: `ip link set dev {name} mtu {ONE_PAGE_MTU}` or less if the network allows"
        ));
    }
    if adapter.driver == VIRTIO && !adapter.merging.is_empty() {
        reasons.push(
            "its host merges packets for it: switch that off there (QEMU: \
             `guest_tso4=off,guest_tso6=off,guest_ecn=off,guest_ufo=off`)"
                .to_owned(),
        );
    } else if !adapter.merging.is_empty() {
        reasons.push(format!("it merges packets: `{}`", unmerge(name, &adapter.merging)));
    }
    // ena, gve and others want as many rings again for what the program sends.
    if let Some(Queues { now, max, combined: true }) = adapter.queues
        && max > 1
        && now > max / 2
    {
        reasons.push(format!(
            "no rings are left for what the program sends: `ethtool -L {name} combined {}`",
            max / 2
        ));
    }
    let driver = if adapter.driver.is_empty() { "its driver" } else { adapter.driver.as_str() };
    let why = match reasons.as_slice() {
        [] => format!("`weir run` logs at its start why {driver} refused native mode"),
        reasons => format!("what {driver} may mind: {}", reasons.join("; ")),
    };
    Finding {
        finding: Kind::GenericMode,
        subject: name.to_owned(),
        what: format!(
            "the program runs in generic mode on {name}, in the network stack: each packet costs several \
             times what it would in the driver"
        ),
        remedy: format!(
            "{why}; then `systemctl restart weir`, with `mode = \"auto\"` or `\"native\"` in \
             [[interface]]"
        ),
    }
}

/// In generic mode the kernel has switched this off itself (`dev_disable_lro`). virtio's driver has done
/// so in native mode, and goes on showing the feature.
fn merged(name: &str, adapter: &Adapter) -> Option<Finding> {
    if adapter.merging.is_empty() || adapter.driver == VIRTIO {
        return None;
    }
    Some(Finding {
        finding: Kind::FramesMerged,
        subject: name.to_owned(),
        what: format!(
            "{name} merges received packets ({}) before the program sees them: what comes of it is larger \
             than the way to a backend carries, and is lost",
            adapter.merging.join(", ")
        ),
        remedy: format!("`{}`", unmerge(name, &adapter.merging)),
    })
}

fn unmerge(name: &str, merging: &[String]) -> String {
    let off: Vec<String> = merging.iter().map(|feature| format!("{feature} off")).collect();
    format!("ethtool -K {name} {}", off.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::judge::testing::{facts, kinds, scope, status};

    fn with(adapter: Adapter) -> Facts {
        Facts { adapters: [("eth0".to_owned(), adapter)].into(), ..facts() }
    }

    #[test]
    fn a_healthy_interface_is_no_finding() {
        let status = status();
        assert_eq!(findings(scope(&status), &facts()), []);
    }

    #[test]
    fn an_interface_that_is_down_or_gone_is_said_with_the_backends_behind_it() {
        let status = status();
        let mut facts = facts();
        facts.links[0].up = false;
        let found = findings(scope(&status), &facts);
        assert_eq!(kinds(&found), [Kind::InterfaceDown]);
        assert_eq!(found[0].what, "eth0 is down, and the way to web/b1 leads there");
        facts.links.clear();
        assert_eq!(findings(scope(&status), &facts)[0].what, "eth0 is gone");
    }

    #[test]
    fn merging_matters_in_native_mode_alone() {
        let mut status = status();
        let facts = with(Adapter { merging: vec!["rx-lro".to_owned()], ..Adapter::default() });
        let found = findings(scope(&status), &facts);
        assert_eq!(kinds(&found), [Kind::FramesMerged]);
        assert_eq!(found[0].remedy, "`ethtool -K eth0 rx-lro off`");
        status.interfaces[0].mode = AttachMode::Generic;
        assert_eq!(kinds(&findings(scope(&status), &facts)), [Kind::GenericMode]);
    }

    #[test]
    fn virtio_merges_nothing_in_native_mode_and_its_host_may_be_why_it_is_generic() {
        let mut status = status();
        let merging = vec!["rx-gro-hw".to_owned()];
        let facts = with(Adapter { driver: VIRTIO.to_owned(), merging, ..Adapter::default() });
        assert_eq!(findings(scope(&status), &facts), []);
        status.interfaces[0].mode = AttachMode::Generic;
        let remedy = findings(scope(&status), &facts)[0].remedy.clone();
        assert!(remedy.contains("guest_tso4=off") && !remedy.contains("ethtool"), "{remedy}");
    }

    #[test]
    fn generic_mode_comes_with_what_the_driver_may_mind() {
        let mut status = status();
        status.interfaces[0].mode = AttachMode::Generic;
        let remedy = |facts: &Facts| findings(scope(&status), facts)[0].remedy.clone();
        assert!(remedy(&facts()).starts_with("`weir run` logs at its start why its driver"));
        let queues = Some(Queues { now: 8, max: 8, combined: true });
        let mut facts = with(Adapter { driver: "ena".to_owned(), queues, ..Adapter::default() });
        facts.links[0].mtu = 9001;
        let remedy = remedy(&facts);
        for part in ["what ena may mind", "its MTU is 9001", "`ethtool -L eth0 combined 4`"] {
            assert!(remedy.contains(part), "{part}: {remedy}");
        }
    }
}
