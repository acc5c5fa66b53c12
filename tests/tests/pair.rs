//! Two balancers with VRRP and `[sync]` together: who waits for whose tables, and what clients do.

#![allow(clippy::unwrap_used, reason = "a test says what it expects by unwrapping it")]

use std::time::Duration;

use weir::{
    core::{Event, EventKind, Status, SyncRole},
    sync::Key,
    vrrp::fsm::State,
};
use weir_lab::{Lab, Weir, WeirPair, backend::LINE_PORT, vrrp::Vrrp};

const PORT: u16 = 80;
const PATIENCE: Duration = Duration::from_secs(30);
/// So short that adverts alone would decide long before tables are here.
const INTERVAL: Duration = Duration::from_millis(20);

fn lab() -> Lab {
    weir_lab::require_root().unwrap();
    Lab::builder().backends(3).balancers(2).unclaimed_vip().build().unwrap()
}

fn start(lab: &Lab) -> WeirPair {
    let vrrp = Vrrp::new(INTERVAL);
    let pair = WeirPair::start(lab, &vrrp, &[lab.service("web", PORT)]).unwrap();
    pair.settle(PATIENCE).unwrap();
    pair
}

/// The first event that is as wanted.
fn find(weir: &Weir, wanted: impl Fn(&EventKind) -> bool) -> Option<Event> {
    weir.events().unwrap().into_iter().find(|event| wanted(&event.kind))
}

fn became_master(kind: &EventKind) -> bool {
    matches!(kind, EventKind::Vrrp { to: State::Master, .. })
}

#[test]
fn a_preferred_master_that_returns_has_the_tables_before_the_addresses() {
    let lab = lab();
    let mut pair = start(&lab);
    let traffic = lab.client().traffic(lab.vip(PORT), 2).unwrap();
    pair.weir_mut(0).kill();
    pair.wait_for_owners([true, true], PATIENCE).unwrap();
    pair.weir(1).cli(&["backend", "drain", "web", "b2"]).unwrap();

    pair.weir_mut(0).start().unwrap();
    pair.settle(PATIENCE).unwrap();
    let first = pair.weir(0);
    let synced = |kind: &EventKind| matches!(kind, EventKind::Sync { what, .. } if what == "its tables are here as a whole");
    let (synced, master) = (find(first, synced).unwrap(), find(first, became_master).unwrap());
    assert!(synced.sequence < master.sequence, "{}", first.log());
    assert_eq!(pair.vrrp(0).unwrap().reason, "preempts 10.77.0.3 (priority 100)");
    assert_eq!(first.backend("web", "b2").unwrap().slots, 0, "the drain came with the tables");
    traffic.wait_for_more(100, PATIENCE).unwrap();
    let tally = traffic.stop().unwrap();
    assert_eq!(tally.failed, 0, "{tally}");
}

#[test]
fn tables_that_do_not_come_are_waited_for_ten_seconds_and_a_silent_peer_not_at_all() {
    let lab = lab();
    let mut pair = start(&lab);
    pair.weir_mut(0).kill();
    pair.wait_for_owners([true, true], PATIENCE).unwrap();
    // With another key there are no tables to be had.
    let file = lab.balancers()[0].namespace().directory().join("sync.key");
    let kept = Key::load(&file).unwrap();
    std::fs::remove_file(&file).unwrap();
    Key::generate().store(&file).unwrap();
    pair.weir_mut(0).start().unwrap();
    pair.wait_for_owners([true, false], PATIENCE).unwrap();
    let reason = pair.vrrp(0).unwrap().reason;
    assert_eq!(reason, "preempts 10.77.0.3 (priority 100), whose tables did not come in 10s");
    let first = pair.weir(0);
    let note = |kind: &EventKind| {
        matches!(kind, EventKind::VrrpNote { what, .. }
            if what == "10.77.0.3 (priority 100) is let be until its tables are here")
    };
    let (began, ended) = (find(first, note).unwrap(), find(first, became_master).unwrap());
    let waited = ended.time.duration_since(began.time).unwrap();
    assert!(waited >= Duration::from_secs(10), "{waited:?}");

    // The other one says why it has no peer.
    let second = pair.weir(1);
    let refused = |kind: &EventKind| {
        matches!(kind, EventKind::Sync { peer: None, what }
            if what.contains("10.77.0.2 was refused as a peer: it has another key"))
    };
    assert!(find(second, refused).is_some(), "{}", second.log());
    let text = second.cli(&["status"]).unwrap();
    assert!(text.contains("not connected: it has another key"), "{text}");

    // Nobody else is there.
    pair.weir_mut(0).kill();
    pair.wait_for_owners([true, true], PATIENCE).unwrap();
    pair.weir_mut(1).kill();
    std::fs::remove_file(&file).unwrap();
    kept.store(&file).unwrap();
    pair.weir_mut(0).start().unwrap();
    let is_master = || Ok(pair.vrrp(0)?.state == State::Master);
    pair.wait_for(PATIENCE, "the first a master", is_master).unwrap();
    let reason = pair.vrrp(0).unwrap().reason;
    assert!(reason.starts_with("no advert of a master"), "{reason}");
}

#[test]
fn flows_of_which_a_dead_daemon_could_not_tell_outlive_the_takeover() {
    let lab = lab();
    // Long enough that connections open between the daemon's death and the takeover.
    let vrrp = Vrrp::new(Duration::from_millis(700));
    let mut pair = WeirPair::start(&lab, &vrrp, &[lab.service("lines", LINE_PORT)]).unwrap();
    pair.settle(PATIENCE).unwrap();
    for change in ["drain", "enable"] {
        pair.weir(0).cli(&["backend", change, "lines", "b3"]).unwrap();
    }
    pair.wait_until_same(PATIENCE).unwrap();
    pair.weir_mut(0).kill();
    let control = lab.backend("b1").socket(LINE_PORT);
    let period = Duration::from_millis(50);
    let held = lab.client().hold(lab.vip(LINE_PORT), control, 90, period).unwrap();
    assert_eq!(pair.vrrp(1).unwrap().state, State::Backup, "all opened before the takeover");
    let by_backend = held.by_backend();
    held.begin();
    pair.wait_for_owners([true, true], PATIENCE).unwrap();
    held.wait_until_answered(PATIENCE).unwrap();
    let handed_on = pair.weir(1).status().unwrap().packets.handed_on;
    assert!(handed_on > 0, "the second asks the first about flows of slots that move");

    // The daemon comes back and tells; with the addresses, as the preferred master.
    pair.weir_mut(0).start().unwrap();
    pair.settle(PATIENCE).unwrap();
    held.wait_until_answered(PATIENCE).unwrap();
    // The second one knows them now, and has them again.
    pair.release(0).unwrap();
    let owns = || Ok(pair.vrrp(1)?.state == State::Master);
    pair.wait_for(PATIENCE, "the second a master", owns).unwrap();
    held.wait_until_answered(PATIENCE).unwrap();
    let account = held.account();
    assert!(account.ended.is_empty(), "{account:?}");
    assert_eq!(held.by_backend(), by_backend);
}

#[test]
fn a_split_that_heals_calls_clients_back_to_who_stays() {
    let lab = lab();
    let pair = start(&lab);
    let vip = lab.vip(PORT).ip();
    lab.client().believe_neighbours().unwrap();
    let traffic = lab.client().traffic(lab.vip(PORT), 2).unwrap();
    traffic.wait_for_more(50, PATIENCE).unwrap();
    assert_eq!(lab.balancer_of_client(vip).unwrap(), Some(0));

    lab.part_balancers().unwrap();
    pair.wait_for_owners([true, true], PATIENCE).unwrap();
    let called = |to: usize| {
        pair.wait_for(PATIENCE, "the client's balancer", || {
            Ok(lab.balancer_of_client(vip)? == Some(to))
        })
        .unwrap();
    };
    called(1);
    // So long that the connection is lost too.
    let parted = || Ok(!pair.sync(0)?.peers[0].connected && !pair.sync(1)?.peers[0].connected);
    pair.wait_for(PATIENCE, "lost peers", parted).unwrap();
    pair.weir(1).cli(&["backend", "drain", "web", "b3"]).unwrap();
    lab.join_balancers().unwrap();
    pair.settle(PATIENCE).unwrap();
    called(0);
    assert_eq!(pair.vrrp(0).unwrap().transitions, 2, "it stayed the master");
    // What was decided on one side alone holds on both, and the other says so.
    let first = pair.weir(0);
    let told = |status: &Status| {
        let sync = status.sync.as_ref().unwrap();
        sync.taken_over.as_ref().is_some_and(|changes| changes.ends_with(": web/b3"))
    };
    first.wait_until(PATIENCE, "what was taken over", told).unwrap();
    let event = |kind: &EventKind| {
        matches!(kind, EventKind::Sync { what, .. }
            if what == "changes made while it was away are taken over: web/b3")
    };
    assert!(find(first, event).is_some(), "{}", first.log());
    let text = first.cli(&["status"]).unwrap();
    assert!(text.contains("sync: taken over, made while apart, from "), "{text}");
    assert_eq!(pair.sync(1).unwrap().taken_over, None, "nothing was changed on the first");
    let split = |kind: &EventKind| matches!(kind, EventKind::Vrrp { reason, .. } if reason.contains("goes first"));
    assert!(find(pair.weir(1), split).is_some(), "{}", pair.weir(1).log());
    traffic.wait_for_more(50, PATIENCE).unwrap();
    let tally = traffic.stop().unwrap();
    assert_eq!(tally.failed, 0, "{tally}");
}

#[test]
fn instances_may_be_masters_on_different_balancers() {
    let lab = lab();
    let pair = start(&lab);
    for (index, priority) in [(0, 100), (1, 150)] {
        let config = format!(
            "{}[[vrrp]]\nname = \"rear\"\ninterface = \"eth0\"\nrouter_id = 52\npriority = {priority}\n\
             interval = \"20ms\"\naddresses = [\"10.77.0.101/24\"]\n",
            pair.config(index, &[lab.service("web", PORT)])
        );
        pair.weir(index).reload(&config).unwrap();
    }
    let states = |index: usize| -> Vec<State> {
        pair.weir(index).status().unwrap().vrrp.iter().map(|instance| instance.state).collect()
    };
    let shared = || {
        Ok(states(0) == [State::Master, State::Backup]
            && states(1) == [State::Backup, State::Master])
    };
    pair.wait_for(PATIENCE, "a master on each", shared).unwrap();
    pair.wait_until_same(PATIENCE).unwrap();
    let [first, second] = [0, 1].map(|index| pair.sync(index).unwrap());
    assert_eq!((first.role, second.role), (SyncRole::Leader, SyncRole::Follower));
    assert!(first.split.is_empty() && second.split.is_empty(), "nobody has the other's addresses");
    pair.weir(1).cli(&["backend", "drain", "web", "b2"]).unwrap();
    for index in [0, 1] {
        let drained = |status: &Status| {
            status.services[0].backends.iter().any(|b| b.name.as_str() == "b2" && b.slots == 0)
        };
        pair.weir(index).wait_until(PATIENCE, "the drain", drained).unwrap();
    }
    pair.wait_until_same(PATIENCE).unwrap();
}
