//! Both balancers have the address: it breaks nothing, and shows at once.

#![allow(clippy::unwrap_used, reason = "a test says what it expects by unwrapping it")]

use std::time::Duration;

use weir::{
    core::{EventKind, Status},
    vrrp::fsm::State,
};
use weir_lab::{Balancer, Lab, Traffic, Weir};

const PORT: u16 = 80;
const PATIENCE: Duration = Duration::from_secs(30);

fn lab() -> Lab {
    weir_lab::require_root().unwrap();
    Lab::builder().backends(1).balancers(2).unclaimed_vip().build().unwrap()
}

fn config(lab: &Lab, balancer: &Balancer, priority: u8) -> String {
    let services = balancer.config(&[lab.service("web", PORT)]);
    format!(
        "{services}\n[[vrrp]]\nname = \"front\"\ninterface = \"eth0\"\nrouter_id = 51\n\
         priority = {priority}\ninterval = \"50ms\"\naddresses = [\"{}/24\"]\n",
        lab.vip(PORT).ip()
    )
}

/// Starts both, and returns when the first is the master and the second follows it.
fn start_pair(lab: &Lab) -> (Weir, Weir) {
    let [one, two] = lab.balancers() else { panic!("two balancers") };
    let first = one.start_weir(&config(lab, one, 150)).unwrap();
    let second = two.start_weir(&config(lab, two, 100)).unwrap();
    first.wait_until_up().unwrap();
    second.wait_until_up().unwrap();
    settle(&first, &second);
    (first, second)
}

fn settle(master: &Weir, backup: &Weir) {
    wait_for_state(master, State::Master);
    wait_for_state(backup, State::Backup);
}

fn wait_for_state(weir: &Weir, state: State) {
    let is = |status: &Status| status.vrrp[0].state == state;
    weir.wait_until(PATIENCE, &format!("the instance {state}"), is).unwrap();
}

/// Waits for a sign of the split brain, and sees that it is told everywhere; or that it is over.
fn wait_for_split(weir: &Weir, sign: &str, other: &Balancer, seen: bool) {
    let shows = |status: &Status| {
        let mut signs = status.vrrp[0].split.iter();
        signs.any(|split| split.sign == sign && split.other == Some(other.address().into()))
    };
    let what = if seen { format!("a sign of {sign}") } else { format!("no sign of {sign}") };
    weir.wait_until(PATIENCE, &what, |status| shows(status) == seen).unwrap();
    let metrics = weir.admin("/metrics").unwrap().body;
    let line = format!("weir_vrrp_split{{instance=\"front\",sign=\"{sign}\"}} {}", u8::from(seen));
    assert!(metrics.lines().any(|each| each == line), "{line} is not in\n{metrics}");
    let text = weir.cli(&["status"]).unwrap();
    assert_eq!(text.contains("split brain: "), seen, "{text}");
    let told = weir.events().unwrap().into_iter().any(|event| match event.kind {
        EventKind::VrrpSplit { sign: kind, other: with, over, .. } => {
            kind == sign && with == Some(other.address().into()) && over != seen
        }
        _ => false,
    });
    assert!(told, "no event of {sign}, over: {}", !seen);
}

/// Requests under way, which must all be answered whatever happens meanwhile.
fn traffic(lab: &Lab) -> Traffic {
    let traffic = lab.client().traffic(lab.vip(PORT), 2).unwrap();
    traffic.wait_for_more(50, PATIENCE).unwrap();
    traffic
}

fn nothing_failed(traffic: Traffic) {
    traffic.wait_for_more(100, PATIENCE).unwrap();
    let tally = traffic.stop().unwrap();
    assert_eq!(tally.failed, 0, "{tally}");
}

/// Has a balancer hear nothing of another: packets whose way back is a black hole are dropped.
fn deafen(deaf: &Balancer, to: &Balancer) {
    let namespace = deaf.namespace();
    namespace.sysctl(&[("ipv4/conf/eth0/rp_filter", "1")]).unwrap();
    let to = format!("{}/32", to.address());
    namespace.run(&["ip", "route", "add", "blackhole", &to]).unwrap();
}

fn undeafen(deaf: &Balancer, to: &Balancer) {
    let to = format!("{}/32", to.address());
    deaf.namespace().run(&["ip", "route", "del", "blackhole", &to]).unwrap();
}

#[test]
fn a_second_master_is_seen_by_its_adverts() {
    let lab = lab();
    let (first, second) = start_pair(&lab);
    let [one, two] = lab.balancers() else { panic!("two balancers") };
    let traffic = traffic(&lab);
    deafen(two, one);
    wait_for_state(&second, State::Master);
    wait_for_split(&first, "adverts", two, true);
    assert_eq!(first.status().unwrap().vrrp[0].state, State::Master, "it goes first");

    undeafen(two, one);
    settle(&first, &second);
    wait_for_split(&first, "adverts", two, false);
    nothing_failed(traffic);
}

#[test]
fn packets_that_arrive_at_a_backup_are_seen() {
    let lab = lab();
    let (first, second) = start_pair(&lab);
    let [one, two] = lab.balancers() else { panic!("two balancers") };
    assert!(second.status().unwrap().vrrp[0].split.is_empty());
    // A client that somebody has told so: as one that took in no announcement.
    let mac = mac_of(two);
    let vip = lab.vip(PORT).ip().to_string();
    let neighbour = |verb: &str, state: &str| {
        let words = ["ip", "neigh", verb, &vip, "lladdr", &mac, "dev", "eth0", "nud", state];
        lab.client().namespace().run(&words).unwrap();
    };
    neighbour("replace", "permanent");
    let traffic = traffic(&lab);
    wait_for_split(&second, "packets", one, true);
    nothing_failed(traffic);
    neighbour("del", "permanent");
    wait_for_split(&second, "packets", one, false);
    assert_eq!((front_transitions(&first), front_transitions(&second)), (2, 1));
}

fn front_transitions(weir: &Weir) -> u64 {
    weir.status().unwrap().vrrp[0].transitions
}

fn mac_of(balancer: &Balancer) -> String {
    let text = balancer.namespace().run(&["ip", "-brief", "link", "show", "eth0"]).unwrap();
    let mac = text.split_whitespace().find(|word| word.matches(':').count() == 5);
    mac.unwrap().to_owned()
}
