//! VRRP between programs that know nothing of each other.

#![allow(clippy::unwrap_used, reason = "a test says what it expects by unwrapping it")]

use std::time::Duration;

use weir_lab::{
    Keepalived, Lab, Pair, tshark,
    vrrp::{ROUTER_ID, Vrrp},
};

const PATIENCE: Duration = Duration::from_secs(30);
const INTERVAL: Duration = Duration::from_millis(100);

fn lab() -> Lab {
    weir_lab::require_root().unwrap();
    Lab::builder().balancers(2).backends(1).unclaimed_vip().build().unwrap()
}

#[test]
fn two_keepalived_agree_so_the_lab_is_sound() {
    let lab = lab();
    let vrrp = Vrrp::new(INTERVAL);
    let sniffer = lab.sniff().unwrap();
    let keepalived = |index, priority| -> Box<dyn weir_lab::Router> {
        Box::new(Keepalived::new(vrrp.member(&lab, index, priority)).unwrap())
    };
    let mut pair = Pair([keepalived(0, 150), keepalived(1, 100)]);
    pair.start().unwrap();
    pair.wait_for_owners([true, false], PATIENCE).unwrap();
    let advert = sniffer.wait_for("an advert", PATIENCE, |_| true).unwrap();
    assert_eq!((advert.from.as_ref(), advert.priority), ("balancer", 150));
    assert_eq!((advert.version, advert.router_id, advert.interval), (3, ROUTER_ID, INTERVAL));

    lab.power_off("balancer").unwrap();
    pair.wait_for_owners([true, true], PATIENCE).unwrap();
    lab.power_on("balancer").unwrap();
    pair.wait_for_owners([true, false], PATIENCE).unwrap();
    pair.0[0].stop().unwrap();
    pair.wait_for_owners([false, true], PATIENCE).unwrap();
    assert!(sniffer.adverts().unwrap().iter().any(|advert| advert.priority == 0));

    let mut frames = sniffer.frames();
    tshark::check_adverts(&frames, lab.directory()).unwrap();
    // A wrong checksum does not escape it.
    *frames.last_mut().unwrap().bytes.last_mut().unwrap() ^= 1;
    let fault = tshark::check_adverts(&frames, lab.directory()).unwrap_err().to_string();
    assert!(fault.contains("finds fault"), "{fault}");
}
