//! Datagrams that are larger than the network carries, with real kernels that cut them and put them
//! together.

#![allow(clippy::unwrap_used, reason = "a test says what it expects by unwrapping it")]

use std::collections::BTreeSet;

use weir_lab::{Lab, Service, Weir, backend::UDP_PORT};

fn services(lab: &Lab) -> [Service; 2] {
    let services = [lab.service("four", UDP_PORT), lab.service6("six", UDP_PORT)];
    services.map(|service| service.udp().health("type = \"none\"").set("ping", "true"))
}

fn start(lab: &Lab, services: &[Service]) -> Weir {
    let weir = lab.balancer().start_weir(&lab.balancer().config(services)).unwrap();
    weir.wait_until_up().unwrap();
    weir
}

/// Datagrams of so many bytes reach every backend, and are answered.
fn assert_answered(lab: &Lab, bytes: usize) {
    for vip in [lab.vip(UDP_PORT), lab.vip6(UDP_PORT)] {
        let answers = (0..60).map(|_| lab.client().long_udp_request(vip, bytes).unwrap());
        assert_eq!(answers.collect::<BTreeSet<_>>().len(), lab.backends().len());
    }
}

#[test]
fn long_datagrams_reach_backends_and_are_answered() {
    weir_lab::require_root().unwrap();
    let lab = Lab::builder().backends(2).build().unwrap();
    let weir = start(&lab, &services(&lab));
    for bytes in [4_000, 40_000] {
        assert_answered(&lab, bytes);
    }
    let dropped = weir.status().unwrap().packets.drop;
    let fragments = dropped.iter().filter(|(reason, _)| reason.contains("fragment"));
    assert_eq!(fragments.map(|(_, packets)| *packets).sum::<u64>(), 0, "{dropped:?}");
}

#[test]
fn pings_that_are_too_large_for_one_packet_are_answered_by_who_has_the_address() {
    weir_lab::require_root().unwrap();
    let lab = Lab::builder().build().unwrap();
    let _weir = start(&lab, &services(&lab));
    for vip in [lab.vip(UDP_PORT).ip(), lab.vip6(UDP_PORT).ip()] {
        let ping = ["ping", "-c", "2", "-i", "0.1", "-W", "2", "-s", "4000", &vip.to_string()];
        lab.client().namespace().run(&ping).unwrap();
    }
}
