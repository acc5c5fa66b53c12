//! Who has the address when the two balancers do not hear each other: both, which breaks nothing
//! and shows at once; with a witness, the one that is not cut off.

#![allow(clippy::unwrap_used, reason = "a test says what it expects by unwrapping it")]

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path, time::Duration};

use weir::{
    core::{EventKind, Status},
    sync::Key,
    vrrp::{VrrpStatus, fsm::State},
};
use weir_lab::{Balancer, Lab, Weir};

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

/// The same with peers, and with more lines of their section.
fn config_with_sync(lab: &Lab, balancer: &Balancer, priority: u8, key: &Key, more: &str) -> String {
    let sync = balancer.sync_section(key, lab.balancers()).unwrap();
    format!("{}{sync}{more}\n", config(lab, balancer, priority))
}

/// Starts both, and returns when the first is the master and the second follows it.
fn start_pair(lab: &Lab) -> (Weir, Weir) {
    let [one, two] = lab.balancers() else { panic!("two balancers") };
    start(lab, &config(lab, one, 150), &config(lab, two, 100))
}

/// The same with the client's host as the witness: without it no backend's check fails.
fn start_witnessed_pair(lab: &Lab) -> (Weir, Weir) {
    let [one, two] = lab.balancers() else { panic!("two balancers") };
    let (key, witness) = (Key::generate(), witness(lab));
    let [one, two] = [(one, 150), (two, 100)]
        .map(|(balancer, priority)| config_with_sync(lab, balancer, priority, &key, &witness));
    start(lab, &one, &two)
}

fn witness(lab: &Lab) -> String {
    format!("witness = [\"{}\"]", lab.client().address())
}

fn start(lab: &Lab, one: &str, two: &str) -> (Weir, Weir) {
    let [first, second] = lab.balancers() else { panic!("two balancers") };
    let first = first.start_weir(one).unwrap();
    let second = second.start_weir(two).unwrap();
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
    wait_for(weir, &format!("the instance {state}"), |front| front.state == state);
}

fn wait_for(weir: &Weir, what: &str, is: impl Fn(&VrrpStatus) -> bool) {
    weir.wait_until(PATIENCE, what, |status: &Status| is(&status.vrrp[0])).unwrap();
}

fn front(weir: &Weir) -> VrrpStatus {
    weir.status().unwrap().vrrp.remove(0)
}

fn has_vip(lab: &Lab, balancer: &Balancer) -> bool {
    balancer.namespace().has_address(lab.vip(PORT).ip()).unwrap()
}

fn eventually(what: &str, condition: impl Fn() -> bool) {
    weir_lab::eventually(PATIENCE, what, condition);
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
    let traffic = lab.client().steady_traffic(lab.vip(PORT)).unwrap();
    deafen(two, one);
    wait_for_state(&second, State::Master);
    wait_for_split(&first, "adverts", two, true);
    assert_eq!(front(&first).state, State::Master, "it goes first");

    undeafen(two, one);
    settle(&first, &second);
    wait_for_split(&first, "adverts", two, false);
    traffic.stop_unharmed().unwrap();
}

#[test]
fn packets_that_arrive_at_a_backup_are_seen() {
    let lab = lab();
    let (first, second) = start_pair(&lab);
    let [one, two] = lab.balancers() else { panic!("two balancers") };
    assert!(front(&second).split.is_empty());
    // A client that somebody has told so: as one that took in no announcement.
    let mac = mac_of(two);
    let vip = lab.vip(PORT).ip().to_string();
    let neighbour = |verb: &str, state: &str| {
        let words = ["ip", "neigh", verb, &vip, "lladdr", &mac, "dev", "eth0", "nud", state];
        lab.client().namespace().run(&words).unwrap();
    };
    neighbour("replace", "permanent");
    let traffic = lab.client().steady_traffic(lab.vip(PORT)).unwrap();
    wait_for_split(&second, "packets", one, true);
    traffic.stop_unharmed().unwrap();
    neighbour("del", "permanent");
    wait_for_split(&second, "packets", one, false);
    assert_eq!((front(&first).transitions, front(&second).transitions), (2, 1));
}

fn mac_of(balancer: &Balancer) -> String {
    let text = balancer.namespace().run(&["ip", "-brief", "link", "show", "eth0"]).unwrap();
    let mac = text.split_whitespace().find(|word| word.matches(':').count() == 5);
    mac.unwrap().to_owned()
}

#[test]
fn a_node_that_is_cut_off_gives_the_address_up_and_the_other_takes_it() {
    let lab = lab();
    let (first, second) = start_witnessed_pair(&lab);
    let [one, two] = lab.balancers() else { panic!("two balancers") };
    wait_for(&second, "an answer of the witness", |front| front.witnesses[0].answers);

    // The master is cut off.
    lab.power_off(one.namespace().role()).unwrap();
    wait_for_state(&second, State::Master);
    wait_for(&first, "giving up", |front| front.state == State::Backup && front.cut_off);
    assert_eq!(front(&first).reason, "cut off: neither a peer nor a witness is to be seen");
    eventually("the address is with the second alone", || {
        has_vip(&lab, two) && !has_vip(&lab, one)
    });
    let text = first.cli(&["status"]).unwrap();
    assert!(text.contains("cut off") && text.contains("does not answer"), "{text}");

    // Healed: the preferred master takes the address back, without a gap.
    let traffic = lab.client().steady_traffic(lab.vip(PORT)).unwrap();
    lab.power_on(one.namespace().role()).unwrap();
    settle(&first, &second);
    assert!(!front(&first).cut_off);
    traffic.stop_unharmed().unwrap();

    // The backup is cut off: it does not take the address, however long it hears nothing.
    let before = front(&first);
    lab.power_off(two.namespace().role()).unwrap();
    wait_for(&second, "seeing that it is cut off", |front| front.cut_off);
    assert_eq!(front(&second).state, State::Backup);
    let told = second.events().unwrap().into_iter().any(
        |event| matches!(event.kind, EventKind::VrrpNote { what, .. } if what.contains("cut off")),
    );
    assert!(told);
    lab.power_on(two.namespace().role()).unwrap();
    wait_for(&second, "taking part again", |front| !front.cut_off);
    assert_eq!(
        (front(&second).state, front(&first).transitions),
        (State::Backup, before.transitions)
    );
}

#[test]
fn without_its_witness_a_node_goes_by_its_peer_and_without_both_it_has_no_address() {
    let lab = lab();
    let (first, second) = start_witnessed_pair(&lab);
    let [one, two] = lab.balancers() else { panic!("two balancers") };
    let connected = |status: &Status| status.sync.as_ref().unwrap().peers[0].connected;
    first.wait_until(PATIENCE, "a connected peer", connected).unwrap();
    let before = front(&first).transitions;
    let address = format!("{}/24", lab.client().address());
    let at_witness = |verb: &str| {
        let words = ["ip", "address", verb, &address, "dev", "eth0"];
        lab.client().namespace().run(&words).unwrap();
    };
    at_witness("del");
    wait_for(&first, "a witness that does not answer", |front| !front.witnesses[0].answers);
    // Twice as long as a master waits for a sign: forty adverts of 50 ms.
    let sent = front(&first).sent;
    wait_for(&first, "forty adverts", |front| front.sent > sent + 40);
    assert_eq!((front(&first).state, front(&first).transitions), (State::Master, before));

    lab.power_off(two.namespace().role()).unwrap();
    wait_for(&first, "giving up", |front| front.state == State::Backup && front.cut_off);
    eventually("the address is off", || !has_vip(&lab, one));
    assert_eq!(front(&second).state, State::Backup);

    at_witness("add");
    wait_for_state(&first, State::Master);
    eventually("the address is on", || has_vip(&lab, one));
}

/// A program that writes down what it is told, and how often it was run.
fn fence(directory: &Path, end: &str) -> String {
    let script = directory.join("fence.sh");
    let told = directory.join("fenced");
    let text = format!(
        "#!/bin/sh\necho \"$WEIR_INSTANCE $WEIR_INTERFACE $WEIR_ROUTER_ID $WEIR_PEER \
         $WEIR_PEER_HOST: $WEIR_REASON\" >> {}\n{end}\n",
        told.display()
    );
    fs::write(&script, text).unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    format!("fence = [\"{}\"]", script.display())
}

#[test]
fn a_silent_peer_is_fenced_once_and_one_that_leaves_is_not() {
    let lab = lab();
    let [one, two] = lab.balancers() else { panic!("two balancers") };
    let key = Key::generate();
    let fence = fence(lab.directory(), "echo no such outlet >&2; exit 3");
    let [one_text, two_text] = [(one, 150), (two, 100)]
        .map(|(balancer, priority)| config_with_sync(&lab, balancer, priority, &key, &fence));
    let (mut first, second) = start(&lab, &one_text, &two_text);
    let told = lab.directory().join("fenced");

    first.stop().unwrap();
    wait_for_state(&second, State::Master);
    first.start().unwrap();
    settle(&first, &second);
    assert!(!told.exists(), "nobody was silent: {}", fs::read_to_string(&told).unwrap());

    first.kill();
    wait_for_state(&second, State::Master);
    let fenced = || {
        second.events().unwrap().into_iter().find_map(|event| match event.kind {
            EventKind::VrrpFence { peer, failure, .. } => Some((peer, failure)),
            _ => None,
        })
    };
    eventually("the fence's outcome is told", || fenced().is_some());
    let (peer, failure) = fenced().unwrap();
    assert_eq!(peer, one.address());
    let failure = failure.unwrap();
    assert!(failure.contains('3') && failure.contains("no such outlet"), "{failure}");
    let text = fs::read_to_string(&told).unwrap();
    let expected = format!("front eth0 51 {} ", one.address());
    assert!(text.starts_with(&expected) && text.contains("no advert of a master"), "{text}");

    first.start().unwrap();
    settle(&first, &second);
    assert_eq!(fs::read_to_string(&told).unwrap().lines().count(), 1);
}
