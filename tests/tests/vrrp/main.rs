//! Two balancers and one address: who has it, and how it moves.

#![allow(clippy::unwrap_used, reason = "a test says what it expects by unwrapping it")]

mod virtual_mac;

use std::{fs, time::Duration};

use nix::sys::signal::Signal;
use weir::{
    core::{Event, EventKind},
    vrrp::{VrrpStatus, fsm::State},
};
use weir_lab::{Balancer, Lab, Weir};

const PORT: u16 = 80;
const PATIENCE: Duration = Duration::from_secs(20);
/// The VIP of the lab, as the balancers put it on.
const ADDRESS: &str = "10.77.0.100";
const ADDRESS6: &str = "fd77::100";

/// The priorities of the two.
const FIRST: u8 = 150;
const SECOND: u8 = 100;

/// One backend: the balancers of a lab draw their own hash secrets, so that with more a switch
/// would move connections.
fn lab() -> Lab {
    weir_lab::require_root().unwrap();
    Lab::builder().backends(1).balancers(2).unclaimed_vip().build().unwrap()
}

/// A configuration with an instance `front`; `settings` are more of its keys.
fn config(lab: &Lab, balancer: &Balancer, priority: u8, settings: &str) -> String {
    let services = balancer.config(&[lab.service("web", PORT)]);
    format!("{services}\n{}", instance("front", 51, ADDRESS, priority, settings))
}

fn instance(name: &str, id: u8, address: &str, priority: u8, settings: &str) -> String {
    let length = if address.contains(':') { 64 } else { 24 };
    format!(
        "[[vrrp]]\nname = \"{name}\"\ninterface = \"eth0\"\nrouter_id = {id}\n\
         priority = {priority}\naddresses = [\"{address}/{length}\"]\n{settings}\n"
    )
}

/// Starts both, and returns when the first is the master and the second follows it.
fn start_pair(lab: &Lab, settings: &str) -> (Weir, Weir) {
    let [one, two] = lab.balancers() else { panic!("two balancers") };
    let first = one.start_weir(&config(lab, one, FIRST, settings)).unwrap();
    let second = two.start_weir(&config(lab, two, SECOND, settings)).unwrap();
    first.wait_until_up().unwrap();
    second.wait_until_up().unwrap();
    settle(lab, &first, &second);
    (first, second)
}

/// Waits until one is the master, the other knows it, and the addresses say the same.
fn settle(lab: &Lab, master: &Weir, backup: &Weir) {
    let all = |weir: &Weir, state: State| {
        weir.wait_until(PATIENCE, &format!("every instance {state}"), |status| {
            status.vrrp.iter().all(|instance| instance.state == state)
        })
        .unwrap();
    };
    all(master, State::Master);
    all(backup, State::Backup);
    let (one, two) = (of(lab, master), of(lab, backup));
    eventually("the master has the address", || has(one, ADDRESS) && !has(two, ADDRESS));
}

fn of<'l>(lab: &'l Lab, weir: &Weir) -> &'l Balancer {
    let node = weir.status().unwrap().node;
    lab.balancers().iter().find(|balancer| balancer.namespace().role() == node).unwrap()
}

fn front(weir: &Weir) -> VrrpStatus {
    weir.status().unwrap().vrrp.into_iter().find(|i| i.name.as_str() == "front").unwrap()
}

fn wait_for_state(weir: &Weir, state: State) {
    let is = |status: &weir::core::Status| status.vrrp[0].state == state;
    weir.wait_until(PATIENCE, &format!("the first instance {state}"), is).unwrap();
}

/// Whether an address is on a balancer's `eth0`.
fn has(balancer: &Balancer, address: &str) -> bool {
    let words = ["ip", "-json", "address", "show", "dev", "eth0"];
    let text = balancer.namespace().run(&words).unwrap();
    text.contains(&format!("\"local\":\"{address}\""))
}

fn eventually(what: &str, condition: impl Fn() -> bool) {
    weir_lab::eventually(PATIENCE, what, condition);
}

#[test]
fn a_killed_masters_address_goes_to_the_other_and_comes_back_with_it() {
    let lab = lab();
    let (mut first, second) = start_pair(&lab, "interval = \"50ms\"");
    let traffic = lab.client().steady_traffic(lab.vip(PORT)).unwrap();

    first.kill();
    wait_for_state(&second, State::Master);
    let [one, two] = lab.balancers() else { panic!("two balancers") };
    eventually("the second has the address", || has(two, ADDRESS));
    // Nobody was there to take it off.
    assert!(has(one, ADDRESS));
    let reason = front(&second).reason;
    assert!(reason.starts_with("no advert of a master for"), "{reason}");

    first.start().unwrap();
    settle(&lab, &first, &second);
    traffic.stop_unharmed().unwrap();
}

#[test]
fn a_master_that_stops_hands_over_first() {
    let lab = lab();
    let (mut first, second) = start_pair(&lab, "interval = \"50ms\"");
    let traffic = lab.client().steady_traffic(lab.vip(PORT)).unwrap();
    first.stop().unwrap();
    // Both before the process ended.
    let [one, two] = lab.balancers() else { panic!("two balancers") };
    assert!(!has(one, ADDRESS) && front(&second).state == State::Master);
    eventually("the second has the address", || has(two, ADDRESS));
    assert_eq!(front(&second).reason, "10.77.0.2 leaves");
    assert!(first.log().contains("took over"), "{}", first.log());

    first.start().unwrap();
    settle(&lab, &first, &second);
    traffic.stop_unharmed().unwrap();
    let preempted = second.events().unwrap().into_iter().any(|event| match event.kind {
        EventKind::Vrrp { to, reason, .. } => {
            to == State::Backup && reason == "10.77.0.2 (priority 150) goes first"
        }
        _ => false,
    });
    assert!(preempted);
}

#[test]
fn what_a_killed_daemon_left_is_taken_off_when_another_is_the_master() {
    let lab = lab();
    let (mut first, second) = start_pair(&lab, "interval = \"50ms\"\npreempt = false");
    first.kill();
    wait_for_state(&second, State::Master);
    let one = &lab.balancers()[0];
    assert!(has(one, ADDRESS));
    first.start().unwrap();
    settle(&lab, &second, &first);

    // Also if it is no longer configured.
    let mut second = second;
    let two = &lab.balancers()[1];
    second.kill();
    assert!(has(two, ADDRESS));
    second.configure(&two.config(&[lab.service("web", PORT)])).unwrap();
    second.start().unwrap();
    eventually("the address is off", || !has(two, ADDRESS));
}

#[test]
fn an_address_is_put_back_and_one_that_is_not_ours_is_taken_off() {
    let lab = lab();
    let (first, second) = start_pair(&lab, "");
    let [one, two] = lab.balancers() else { panic!("two balancers") };
    let prefix = format!("{ADDRESS}/24");
    one.namespace().run(&["ip", "address", "del", &prefix, "dev", "eth0"]).unwrap();
    eventually("it is put back", || has(one, ADDRESS));
    two.namespace().run(&["ip", "address", "add", &prefix, "dev", "eth0"]).unwrap();
    eventually("it is taken off", || !has(two, ADDRESS));
    for (weir, what) in [(&first, "put back on eth0"), (&second, "taken off eth0")] {
        let told = || {
            weir.events().unwrap().into_iter().any(|event| {
                matches!(event.kind, EventKind::VrrpNote { what: note, .. } if note.contains(what))
            })
        };
        eventually(what, told);
    }
    assert_eq!((front(&first).transitions, front(&second).state), (2, State::Backup));
}

#[test]
fn planned_switches() {
    let lab = lab();
    let (first, second) = start_pair(&lab, "interval = \"50ms\"");
    let traffic = lab.client().steady_traffic(lab.vip(PORT)).unwrap();
    let refusal = second.cli(&["vrrp", "preempt", "front"]).unwrap_err().to_string();
    assert!(refusal.contains("run `weir vrrp release` there instead"), "{refusal}");
    let refusal = second.cli(&["vrrp", "release", "front"]).unwrap_err().to_string();
    assert!(refusal.contains("it is not the master"), "{refusal}");
    let refusal = second.cli(&["vrrp", "release", "back"]).unwrap_err().to_string();
    assert!(refusal.contains("there is no VRRP instance"), "{refusal}");

    first.cli(&["vrrp", "release", "front"]).unwrap();
    settle(&lab, &second, &first);
    assert!(front(&first).released);
    // It would preempt after four intervals at most; ten adverts are ten intervals.
    let heard = front(&first).received;
    let more = |status: &weir::core::Status| status.vrrp[0].received > heard + 10;
    first.wait_until(PATIENCE, "ten adverts", more).unwrap();
    assert_eq!(front(&first).state, State::Backup);

    first.cli(&["vrrp", "preempt", "front"]).unwrap();
    settle(&lab, &first, &second);
    traffic.stop_unharmed().unwrap();
}

#[test]
fn a_lost_link_is_a_fault_and_the_address_moves() {
    let lab = lab();
    let (first, second) = start_pair(&lab, "interval = \"50ms\"");
    lab.unplug("balancer").unwrap();
    wait_for_state(&first, State::Fault);
    assert_eq!(front(&first).reason, "eth0 is down");
    settle_alone(&lab, &second);
    lab.plug("balancer").unwrap();
    settle(&lab, &first, &second);
}

fn settle_alone(lab: &Lab, master: &Weir) {
    wait_for_state(master, State::Master);
    let balancer = of(lab, master);
    eventually("the address is on", || has(balancer, ADDRESS));
}

#[test]
fn a_stalled_backup_does_not_take_the_master_for_gone() {
    let lab = lab();
    let (first, second) = start_pair(&lab, "interval = \"20ms\"");
    let before = front(&second).received;
    second.signal(Signal::SIGSTOP).unwrap();
    let sent = front(&first).sent;
    let more = |status: &weir::core::Status| status.vrrp[0].sent > sent + 50;
    first.wait_until(PATIENCE, "fifty adverts", more).unwrap();
    second.signal(Signal::SIGCONT).unwrap();
    eventually("it hears again", || front(&second).received > before + 50);
    assert_eq!(front(&second).transitions, 1, "{}", second.log());
    assert_eq!(front(&first).transitions, 2, "{}", first.log());
}

#[test]
fn a_stalled_masters_address_moves_and_comes_back() {
    let lab = lab();
    let (first, second) = start_pair(&lab, "interval = \"20ms\"");
    let traffic = lab.client().steady_traffic(lab.vip(PORT)).unwrap();
    first.signal(Signal::SIGSTOP).unwrap();
    wait_for_state(&second, State::Master);
    first.signal(Signal::SIGCONT).unwrap();
    settle(&lab, &first, &second);
    assert_eq!(front(&first).transitions, 2, "it was the master all the time");
    traffic.stop_unharmed().unwrap();
}

#[test]
fn a_reload_disturbs_nothing_that_stays() {
    let lab = lab();
    let (first, second) = start_pair(&lab, "interval = \"50ms\"");
    let [one, two] = lab.balancers() else { panic!("two balancers") };
    let before = front(&first);
    let same = config(&lab, one, FIRST, "interval = \"50ms\"");
    first.reload(&same).unwrap();
    let after = front(&first);
    assert_eq!((after.since, after.transitions), (before.since, before.transitions));

    // Another priority is advertised at once, without a new start.
    second.reload(&config(&lab, two, 200, "interval = \"50ms\"")).unwrap();
    settle(&lab, &second, &first);
    assert_eq!(front(&second).transitions, 2);

    // An instance that is gone leaves in order.
    second.reload(&two.config(&[lab.service("web", PORT)])).unwrap();
    wait_for_state(&first, State::Master);
    eventually("its address is off", || !has(two, ADDRESS));
    assert!(second.status().unwrap().vrrp.is_empty());
    assert!(first.reload(&same.replace("router_id = 51", "router_id = 0")).is_err());
    assert_eq!(front(&first).state, State::Master);
}

#[test]
fn the_priority_follows_a_script_and_a_service() {
    let lab = lab();
    let flag = lab.directory().join("well");
    fs::write(&flag, "").unwrap();
    let track = format!(
        "interval = \"50ms\"\ntrack = [{{ service = \"web\", penalty = 20 }}, {{ script = \
         [\"/usr/bin/test\", \"-e\", \"{}\"], interval = \"100ms\", rise = 1, fall = 1, penalty = \
         60 }}]",
        flag.display()
    );
    let [one, two] = lab.balancers() else { panic!("two balancers") };
    let first = one.start_weir(&config(&lab, one, FIRST, &track)).unwrap();
    let plain = config(&lab, two, SECOND, "interval = \"50ms\"");
    let second = two.start_weir(&plain).unwrap();
    first.wait_until_up().unwrap();
    settle(&lab, &first, &second);
    assert_eq!(front(&first).priority, FIRST);

    fs::remove_file(&flag).unwrap();
    settle(&lab, &second, &first);
    let status = front(&first);
    assert_eq!(status.priority, FIRST - 60);
    assert_eq!(status.penalties.keys().next().unwrap(), "script /usr/bin/test fails");
    let text = first.cli(&["status"]).unwrap();
    assert!(text.contains("-60: script /usr/bin/test fails"), "{text}");

    fs::write(&flag, "").unwrap();
    settle(&lab, &first, &second);
    lab.backend("b1").kill();
    // Of all backends of the lab one has failed, which makes this machine suspect, too.
    let lowered = |status: &weir::core::Status| {
        let penalties = &status.vrrp[0].penalties;
        penalties.get("service web has no backend that is up") == Some(&20)
            && status.vrrp[0].priority == FIRST - penalties.values().sum::<u8>()
    };
    first.wait_until(PATIENCE, "a lower priority", lowered).unwrap();
}

#[test]
fn instances_of_a_group_move_together() {
    let lab = lab();
    let [one, two] = lab.balancers() else { panic!("two balancers") };
    let settings = "interval = \"50ms\"\nsync_group = \"all\"";
    let both = |balancer: &Balancer, priority: u8| {
        let six = instance("six", 51, ADDRESS6, priority, settings);
        format!("{}\n{six}", config(&lab, balancer, priority, settings))
    };
    let first = one.start_weir(&both(one, FIRST)).unwrap();
    let second = two.start_weir(&both(two, SECOND)).unwrap();
    settle(&lab, &first, &second);
    eventually("the IPv6 address is on", || has(one, ADDRESS6) && !has(two, ADDRESS6));

    first.cli(&["vrrp", "release", "six"]).unwrap();
    settle(&lab, &second, &first);
    eventually("the IPv6 address moved", || has(two, ADDRESS6) && !has(one, ADDRESS6));
    first.cli(&["vrrp", "preempt", "front"]).unwrap();
    settle(&lab, &first, &second);
    eventually("and came back", || has(one, ADDRESS6) && !has(two, ADDRESS6));
}

#[test]
fn every_dialect_is_spoken() {
    let unicast = |peer: u8| format!("unicast_peers = [\"10.77.0.{peer}\"]\ninterval = \"50ms\"");
    let dialects = [
        (
            "version = 2\npassword = \"secret\"".to_owned(),
            "version = 2\npassword = \"secret\"".to_owned(),
        ),
        ("checksum = \"message\"".to_owned(), "checksum = \"pseudo-header\"".to_owned()),
        (unicast(3), unicast(2)),
    ];
    for (ours, theirs) in dialects {
        let lab = lab();
        let [one, two] = lab.balancers() else { panic!("two balancers") };
        let first = one.start_weir(&config(&lab, one, FIRST, &ours)).unwrap();
        let second = two.start_weir(&config(&lab, two, SECOND, &theirs)).unwrap();
        settle(&lab, &first, &second);
        let (mut first, heard) = (first, front(&second));
        assert_eq!(heard.discarded.values().sum::<u64>(), 0, "{ours}: {heard:?}");
        first.stop().unwrap();
        assert_eq!(front(&second).reason, "10.77.0.2 leaves", "{ours}");
    }
}

#[test]
fn strangers_are_counted_and_not_followed() {
    let lab = lab();
    let [one, two] = lab.balancers() else { panic!("two balancers") };
    let settings = "version = 2\npassword = \"secret\"";
    let first = one.start_weir(&config(&lab, one, FIRST, settings)).unwrap();
    let other = "version = 2\npassword = \"Secret\"";
    let second = two.start_weir(&config(&lab, two, SECOND, other)).unwrap();
    wait_for_state(&first, State::Master);
    wait_for_state(&second, State::Master);
    let counted = |status: &weir::core::Status| {
        status.vrrp[0].discarded.get("password").is_some_and(|count| *count > 1)
    };
    second.wait_until(PATIENCE, "two discarded adverts", counted).unwrap();
    assert_eq!(front(&second).received, 0);
    let metrics = second.admin("/metrics").unwrap().body;
    for line in [
        "weir_vrrp_state{instance=\"front\",state=\"master\"} 1",
        "weir_vrrp_state{instance=\"front\",state=\"backup\"} 0",
        "weir_vrrp_transitions_total{instance=\"front\"} 2",
        "weir_vrrp_priority{instance=\"front\"} 100",
    ] {
        assert!(metrics.lines().any(|each| each == line), "{line} is not in\n{metrics}");
    }
    assert!(metrics.contains("weir_vrrp_discarded_total{instance=\"front\",reason=\"password\"}"));
}

#[test]
fn an_address_that_was_there_before_stays_with_the_master_alone() {
    let lab = lab();
    // As an operator may have put it there, and with another network.
    for balancer in lab.balancers() {
        let prefix = format!("{ADDRESS}/32");
        balancer.namespace().run(&["ip", "address", "add", &prefix, "dev", "eth0"]).unwrap();
    }
    let (mut first, second) = start_pair(&lab, "interval = \"50ms\"");
    assert_eq!((front(&first).transitions, front(&second).transitions), (2, 1));
    first.stop().unwrap();
    settle_alone(&lab, &second);
    assert!(!has(&lab.balancers()[0], ADDRESS));
}

#[test]
fn an_interface_that_goes_away_and_comes_back_is_used_again() {
    let lab = lab();
    let one = &lab.balancers()[0];
    let namespace = one.namespace();
    let add = || {
        for words in [
            "ip link add spare type veth peer name spare-peer",
            "ip link set spare-peer up",
            "ip address add 10.88.0.2/24 dev spare",
            "ip link set spare up",
        ] {
            namespace.run(&words.split(' ').collect::<Vec<_>>()).unwrap();
        }
    };
    add();
    let services = one.config(&[lab.service("web", PORT)]);
    let spare = instance("front", 51, "10.88.0.100", FIRST, "interval = \"50ms\"");
    let weir = one.start_weir(&format!("{services}\n{}", spare.replace("eth0", "spare"))).unwrap();
    let has = || namespace.has_address("10.88.0.100".parse().unwrap()).unwrap();
    wait_for_state(&weir, State::Master);
    eventually("the address is on", has);

    namespace.run(&["ip", "link", "del", "spare"]).unwrap();
    wait_for_state(&weir, State::Fault);
    assert_eq!(front(&weir).reason, "there is no interface spare");
    add();
    wait_for_state(&weir, State::Master);
    eventually("the address is on again", has);
    // It also sends by the new interface, which has another index.
    let sent = front(&weir).sent;
    eventually("adverts go out", || front(&weir).sent > sent + 5);
}

#[test]
fn routers_with_different_passwords_say_so() {
    let lab = lab();
    let [one, two] = lab.balancers() else { panic!("two balancers") };
    let with = |balancer: &Balancer, password: &str| {
        let settings = format!("version = 2\npassword = \"{password}\"");
        balancer.start_weir(&config(&lab, balancer, FIRST, &settings)).unwrap()
    };
    for weir in [&with(one, "one"), &with(two, "two")] {
        let counts = |status: &weir::core::Status| {
            status.vrrp[0].discarded.get("password").is_some_and(|count| *count > 1)
        };
        weir.wait_until(PATIENCE, "discarded adverts", counts).unwrap();
        let text = weir.cli(&["status"]).unwrap();
        assert!(text.lines().any(|line| line.starts_with("  discarded: ")), "{text}");
        let of_it = |event: &Event| {
            matches!(&event.kind, EventKind::VrrpNote { what, .. }
                if what.ends_with("are discarded: its password is another"))
        };
        assert_eq!(weir.events().unwrap().iter().filter(|each| of_it(each)).count(), 1);
    }
}
