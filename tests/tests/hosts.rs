//! Two balancers that probe each other's hosts: a host that is gone is told from a daemon that is.

#![allow(clippy::unwrap_used, reason = "a test says what it expects by unwrapping it")]

use std::time::Duration;

use nix::sys::signal::Signal;
use weir::{
    core::Status,
    sync::Key,
    vrrp::{echo::Liveness, fsm::State},
};
use weir_lab::{Balancer, Lab, Weir};

const PORT: u16 = 80;
const PATIENCE: Duration = Duration::from_secs(30);
/// So far apart that no takeover in these tests waits for the next one.
const ADVERTS: &str = "40s";

fn lab() -> Lab {
    weir_lab::require_root().unwrap();
    Lab::builder().backends(1).balancers(2).unclaimed_vip().build().unwrap()
}

fn config(lab: &Lab, balancer: &Balancer, key: &Key, priority: u8, interval: &str) -> String {
    let service = balancer.config(&[lab.service("web", PORT)]);
    let sync = balancer.sync_section(key, lab.balancers()).unwrap();
    format!(
        "{service}{sync}[[vrrp]]\nname = \"front\"\ninterface = \"eth0\"\nrouter_id = 51\n\
         priority = {priority}\ninterval = \"{interval}\"\naddresses = [\"{}/24\"]\n",
        lab.vip(PORT).ip(),
    )
}

/// Starts both, and returns when the first is the master and the second sees its host live.
fn start_pair(lab: &Lab, interval: &str) -> (Weir, Weir) {
    let [one, two] = lab.balancers() else { panic!("two balancers") };
    let key = Key::generate();
    let first = one.start_weir(&config(lab, one, &key, 150, interval)).unwrap();
    first.wait_until_up().unwrap();
    let preempts = |status: &Status| status.vrrp[0].state != State::Fault;
    first.wait_until(PATIENCE, "taking part", preempts).unwrap();
    // Nobody else has the addresses: it need not wait for three of its intervals.
    first.cli(&["vrrp", "preempt", "front"]).unwrap();
    let second = two.start_weir(&config(lab, two, &key, 100, interval)).unwrap();
    second.wait_until_up().unwrap();
    // A reload with another priority is advertised at once.
    first.reload(&config_again(lab, one, 151, interval)).unwrap();
    wait_for_liveness(&second, Liveness::Alive);
    assert_eq!(second.status().unwrap().vrrp[0].state, State::Backup);
    (first, second)
}

fn config_again(lab: &Lab, balancer: &Balancer, priority: u8, interval: &str) -> String {
    let path = balancer.namespace().directory().join("sync.key");
    let key = Key::load(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    config(lab, balancer, &key, priority, interval)
}

fn liveness(status: &Status) -> Option<Liveness> {
    status.vrrp[0].hosts.first().map(|host| host.liveness)
}

fn wait_for_liveness(weir: &Weir, wanted: Liveness) {
    let what = format!("the other host {}", wanted.name());
    weir.wait_until(PATIENCE, &what, |status| liveness(status) == Some(wanted)).unwrap();
}

fn wait_for_state(weir: &Weir, state: State) {
    let is = |status: &Status| status.vrrp[0].state == state;
    weir.wait_until(PATIENCE, &format!("the instance {state}"), is).unwrap();
}

#[test]
fn a_host_without_power_is_replaced_long_before_its_adverts_are_missed() {
    let lab = lab();
    let (_first, second) = start_pair(&lab, ADVERTS);
    lab.power_off(lab.balancers()[0].namespace().role()).unwrap();
    // Its adverts would be missed after two minutes: no patience here lasts that long.
    wait_for_state(&second, State::Master);
    let status = second.status().unwrap().vrrp.remove(0);
    let reason = &status.reason;
    let expected = format!("the host of {} has answered no probe", lab.balancers()[0].address());
    assert!(reason.starts_with(&expected), "{reason}");
    println!("{reason}");
    wait_for_liveness(&second, Liveness::Silent);
    let text = second.cli(&["status"]).unwrap();
    assert!(text.contains("no longer answers"), "{text}");

    lab.power_on(lab.balancers()[0].namespace().role()).unwrap();
    wait_for_liveness(&second, Liveness::Alive);
}

#[test]
fn a_dead_daemon_is_told_from_a_dead_host_and_its_addresses_wait_for_the_adverts() {
    let lab = lab();
    let (mut first, second) = start_pair(&lab, ADVERTS);
    first.kill();
    wait_for_liveness(&second, Liveness::DaemonGone);
    assert_eq!(second.status().unwrap().vrrp[0].state, State::Backup, "the host forwards on");
    let told = second.events().unwrap().into_iter().any(|event| {
        serde_json::to_string(&event).unwrap().contains("its daemon gives no sign of life")
    });
    assert!(told);
    let metrics = second.admin("/metrics").unwrap().body;
    let address = lab.balancers()[0].address();
    let sample = "liveness=\"daemon_gone\"} 1";
    let is = |line: &str| {
        line.starts_with("weir_vrrp_host{")
            && line.contains(&address.to_string())
            && line.ends_with(&sample)
    };
    assert!(metrics.lines().any(is), "{metrics}");
    first.start().unwrap();
    wait_for_liveness(&second, Liveness::Alive);
}

#[test]
fn a_stall_of_our_own_proves_nothing_of_others() {
    let lab = lab();
    let (first, second) = start_pair(&lab, ADVERTS);
    second.signal(Signal::SIGSTOP).unwrap();
    // The stall itself, not a wait for something.
    std::thread::sleep(Duration::from_secs(1));
    second.signal(Signal::SIGCONT).unwrap();
    // It probes again: it sees the first's daemon stop, and the host live.
    first.signal(Signal::SIGSTOP).unwrap();
    wait_for_liveness(&second, Liveness::DaemonGone);
    first.signal(Signal::SIGCONT).unwrap();
    wait_for_liveness(&second, Liveness::Alive);
    let status = second.status().unwrap().vrrp.remove(0);
    assert_eq!((status.state, status.transitions), (State::Backup, 1), "{}", second.log());
}
