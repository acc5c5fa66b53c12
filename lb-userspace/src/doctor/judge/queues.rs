//! Queues and rings of the adapters that clients' packets come in by.
//!
//! Each queue has its packets looked at by one processor, so fewer queues than processors leave some
//! idle. What the program sends back needs a ring of its own for each processor: else the driver takes
//! turns on one, with a lock for every packet.

use super::{Facts, Finding, Scope, VIRTIO};
use crate::{
    config::AttachMode,
    doctor::{
        facts::{Adapter, Queues, Ring},
        finding::Kind,
    },
};

/// Less than a burst of a tenth of a millisecond at ten million packets a second, halved.
const RING_LEAST: u32 = 512;
/// What is advised: more helps little, and does not stay in the processor's cache.
const RING_ADVISED: u32 = 1024;

/// Drivers that want as many rings again, and no more than half of all in use (`ena_xdp_allowed`,
/// `gve_xdp_supported` and the like).
const HALVING: [&str; 2] = ["ena", "gve"];

pub(super) fn findings(scope: Scope<'_>, facts: &Facts) -> Vec<Finding> {
    let mut found = Vec::new();
    for interface in &scope.status.interfaces {
        let Some(adapter) = facts.adapters.get(&interface.name) else { continue };
        // Behind bridges, VLANs and cables between namespaces there is nothing to set.
        if !adapter.device {
            continue;
        }
        let native = interface.mode != AttachMode::Generic;
        found.extend(queues(&interface.name, adapter, native, facts));
        found.extend(rings(&interface.name, adapter));
    }
    found
}

fn queues(name: &str, adapter: &Adapter, native: bool, facts: &Facts) -> Vec<Finding> {
    let Some(Queues { now, max, combined }) = adapter.queues else { return Vec::new() };
    let (online, possible) = (facts.processors, facts.processors_possible);
    let virtio = native && adapter.driver == VIRTIO;
    // Queues that receive, and how many of those there may be beside the program's rings.
    let (receiving, most) = match adapter.driver.as_str() {
        VIRTIO if native && now > possible => (now - possible, max.saturating_sub(possible)),
        VIRTIO if native => (now, max.saturating_sub(possible).max(1)),
        driver if native && HALVING.contains(&driver) => (now, max / 2),
        _ => (now, max),
    };
    let mut found = Vec::new();
    if virtio && now <= possible && max < now + possible {
        found.push(Finding {
            finding: Kind::NoXdpRings,
            subject: name.to_owned(),
            what: format!(
                "{name} has {max} queue pairs, {now} in use, and no {possible} more for what the \
                 program sends: processors wait for each other at every packet"
            ),
            remedy: match max.saturating_sub(possible) {
                0 => format!(
                    "give the virtual machine's adapter {} queues, one a processor to receive and \
                     one to send, then restart weir",
                    2 * possible
                ),
                left => format!("`ethtool -L {name} combined {left}`, then restart weir"),
            },
        });
    }
    let wanted = online.min(most);
    if receiving < wanted {
        let what = if combined { "combined" } else { "rx" };
        found.push(Finding {
            finding: Kind::FewQueues,
            subject: name.to_owned(),
            what: format!(
                "{name} receives by {receiving} of {most} queues, with {online} processors: the others \
                 forward nothing"
            ),
            remedy: format!("`ethtool -L {name} {what} {wanted}`"),
        });
    }
    found
}

fn rings(name: &str, adapter: &Adapter) -> Option<Finding> {
    let [rx, tx] = adapter.rings?;
    let small = |ring: Ring| ring.now > 0 && ring.now < RING_LEAST && ring.now < ring.max;
    let advised = |ring: Ring| ring.max.min(RING_ADVISED);
    let named = [("rx", rx), ("tx", tx)];
    let small: Vec<(&str, Ring)> = named.into_iter().filter(|(_, ring)| small(*ring)).collect();
    if small.is_empty() {
        return None;
    }
    let now: Vec<String> =
        small.iter().map(|(which, ring)| format!("{which} {}", ring.now)).collect();
    let then: Vec<String> =
        small.iter().map(|(which, ring)| format!("{which} {}", advised(*ring))).collect();
    Some(Finding {
        finding: Kind::SmallRing,
        subject: name.to_owned(),
        what: format!(
            "{name}'s rings are small ({}): a short burst overflows them",
            now.join(", ")
        ),
        remedy: format!("`ethtool -G {name} {}`", then.join(" ")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::judge::testing::{facts, scope, status};

    /// What is found of an adapter on a machine with four processors.
    fn found(adapter: Adapter, mode: AttachMode) -> Vec<(Kind, String)> {
        let mut status = status();
        status.interfaces[0].mode = mode;
        let adapters = [("eth0".to_owned(), adapter)].into();
        let facts = Facts { adapters, processors: 4, processors_possible: 4, ..facts() };
        let found = findings(scope(&status), &facts);
        found.into_iter().map(|finding| (finding.finding, finding.remedy)).collect()
    }

    fn adapter(driver: &str, now: u32, max: u32) -> Adapter {
        let queues = Some(Queues { now, max, combined: true });
        Adapter { driver: driver.to_owned(), device: true, queues, ..Adapter::default() }
    }

    #[test]
    fn a_queue_for_each_processor_is_enough_and_fewer_are_not() {
        use AttachMode::Native;
        assert_eq!(found(adapter("mlx5_core", 4, 63), Native), []);
        assert_eq!(found(adapter("e1000e", 1, 1), Native), [], "it has no more");
        let few = found(adapter("mlx5_core", 2, 63), Native);
        assert_eq!(few, [(Kind::FewQueues, "`ethtool -L eth0 combined 4`".to_owned())]);
        let few = found(adapter("ena", 1, 4), Native);
        assert_eq!(few, [(Kind::FewQueues, "`ethtool -L eth0 combined 2`".to_owned())]);
        let unreal = Adapter { device: false, ..adapter("veth", 1, 4) };
        assert_eq!(found(unreal, Native), []);
    }

    #[test]
    fn a_virtual_machine_needs_pairs_for_what_the_program_sends() {
        let kinds = |now, max, mode| {
            let found = found(adapter("virtio_net", now, max), mode);
            found.into_iter().map(|(kind, _)| kind).collect::<Vec<_>>()
        };
        assert_eq!(kinds(8, 8, AttachMode::Native), [], "four receive, four are the program's");
        assert_eq!(kinds(4, 4, AttachMode::Native), [Kind::NoXdpRings]);
        assert_eq!(kinds(4, 4, AttachMode::Generic), []);
        assert_eq!(kinds(5, 8, AttachMode::Native), [Kind::FewQueues], "one receives");
        let (_, remedy) = &found(adapter("virtio_net", 1, 1), AttachMode::Native)[0];
        assert!(remedy.contains("8 queues"), "{remedy}");
        let (_, remedy) = &found(adapter("virtio_net", 4, 6), AttachMode::Native)[0];
        assert!(remedy.contains("`ethtool -L eth0 combined 2`"), "{remedy}");
    }

    #[test]
    fn small_rings_are_said_if_they_can_be_larger() {
        let rings = |rx, tx, max| {
            let rings = Some([Ring { now: rx, max }, Ring { now: tx, max }]);
            found(Adapter { rings, ..adapter("igb", 4, 4) }, AttachMode::Native)
        };
        assert_eq!(rings(512, 1024, 4096), []);
        assert_eq!(rings(256, 256, 256), [], "as large as can be");
        let small = rings(256, 512, 4096);
        assert_eq!(small, [(Kind::SmallRing, "`ethtool -G eth0 rx 1024`".to_owned())]);
    }
}
