//! The VRRP instances of `weir status`.

use std::{fmt::Write as _, time::SystemTime};

use super::{style::Style, time::age};
use crate::vrrp::{
    VrrpStatus,
    fsm::State,
    packet::Discard,
    status::{HostStatus, SplitStatus, WitnessStatus},
};

/// Not worth a line: some networks send our own packets back, and other virtual routers are nobody's
/// mistake.
const USUAL: [&str; 2] = [Discard::OwnEcho.name(), Discard::RouterId.name()];

/// One line for each instance, and one for what lowers its priority; nothing without instances.
pub(super) fn text(instances: &[VrrpStatus], now: SystemTime, style: Style) -> String {
    let mut out = String::new();
    for instance in instances {
        let VrrpStatus { name, interface, router_id, priority, addresses, reason, .. } = instance;
        let since = age(now.duration_since(instance.since).unwrap_or_default());
        let state = style.vrrp(instance.state, instance.state.name());
        let released = if instance.released { ", released" } else { "" };
        let master = match (instance.state, instance.master) {
            (State::Backup, Some(master)) => format!("  master {master}"),
            _ => String::new(),
        };
        // Writing to a String cannot fail.
        let _ = writeln!(
            out,
            "vrrp {name}  {state} for {since}{released}  {interface} id {router_id}  priority \
             {priority}  {}{master}  ({reason})",
            addresses.join(" "),
        );
        if instance.cut_off {
            let _ = writeln!(out, "  cut off: neither a peer nor a witness is to be seen");
        }
        for WitnessStatus { address, answers } in &instance.witnesses {
            let answers = if *answers { "answers" } else { "does not answer" };
            let _ = writeln!(out, "  witness {address} {answers}");
        }
        for SplitStatus { what, .. } in &instance.split {
            let _ = writeln!(out, "  split brain: {what}");
        }
        let unusual = |reason: &String| !USUAL.contains(&reason.as_str());
        let discarded = instance.discarded.iter().filter(|(reason, _)| unusual(reason));
        let discarded: Vec<String> =
            discarded.map(|(reason, count)| format!("{count} {reason}")).collect();
        if !discarded.is_empty() {
            let _ = writeln!(out, "  discarded: {}", discarded.join(", "));
        }
        for (condition, penalty) in &instance.penalties {
            let _ = writeln!(out, "  -{penalty}: {condition}");
        }
        for HostStatus { address, liveness } in &instance.hosts {
            let _ = writeln!(out, "  host {address} {}", liveness.sentence());
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, time::Duration};

    use super::*;
    use crate::{
        config::Name,
        vrrp::{echo::Liveness, fsm::Split},
    };

    #[test]
    fn an_instance_is_a_line() {
        let instance = VrrpStatus {
            name: Name::new("front").unwrap(),
            interface: "eth0".to_owned(),
            router_id: 51,
            version: 3,
            state: State::Backup,
            reason: "ready".to_owned(),
            since: SystemTime::UNIX_EPOCH,
            priority: 50,
            penalties: BTreeMap::from([("service web has no backend that is up".to_owned(), 50)]),
            addresses: vec!["192.0.2.10/24".to_owned(), "192.0.2.11/24".to_owned()],
            master: Some([10, 0, 0, 2].into()),
            released: false,
            transitions: 1,
            sent: 0,
            received: 7,
            discarded: [("own_echo", 3), ("password", 12), ("ttl", 1)]
                .map(|(reason, count)| (reason.to_owned(), count))
                .into(),
            hosts: vec![HostStatus {
                address: [10, 0, 0, 2].into(),
                liveness: Liveness::DaemonGone,
            }],
            cut_off: true,
            witnesses: vec![WitnessStatus { address: [10, 0, 0, 1].into(), answers: false }],
            split: vec![Split::Packets(Some([10, 0, 0, 2].into())).into()],
        };
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(3_725);
        assert_eq!(text(&[], now, Style::Plain), "");
        assert_eq!(
            text(&[instance], now, Style::Plain),
            "vrrp front  backup for 1h 2m  eth0 id 51  priority 50  192.0.2.10/24 192.0.2.11/24  \
             master 10.0.0.2  (ready)\n  cut off: neither a peer nor a witness is to be seen\n  \
             witness 10.0.0.1 does not answer\n  split brain: packets for the addresses arrive here, though \
             10.0.0.2 is the master\n  discarded: 12 password, 1 ttl\n  -50: service web has no backend that is up\n  host \
             10.0.0.2 answers, but its daemon gives no sign of life: the host forwards on\n"
        );
    }
}
