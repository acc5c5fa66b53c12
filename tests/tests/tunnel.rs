//! Tunnels with real clients and servers: the backends are in a network of their own, behind a
//! router that knows nothing of the VIP's services, and take the outer header off in XDP.

#![allow(clippy::unwrap_used, reason = "a test says what it expects by unwrapping it")]

use std::net::IpAddr;

use weir::{
    config::Prefix,
    dataplane::{Entrance, decapsulator, load_decapsulator},
};
use weir_lab::{Lab, Weir, program::object};

const PORT: u16 = 80;
const GUE: u16 = 6080;
/// The outer source is one of these, in services that say so.
const SPREAD: &str = "10.255.0.0";

/// A decapsulating program on each backend; it goes when this is dropped.
fn decapsulate(lab: &Lab, sources: &[Prefix]) -> Vec<aya::Ebpf> {
    let vips = vec![lab.vip(PORT).ip(), lab.vip6(PORT).ip()];
    let entrance = Entrance { sources: sources.to_vec(), vips, port: GUE };
    let attach = || {
        let mut ebpf = load_decapsulator(&object().unwrap(), &entrance).unwrap();
        let program = decapsulator(&mut ebpf).unwrap();
        program.attach("eth0", aya::programs::XdpMode::Driver).unwrap();
        ebpf
    };
    lab.backends().iter().map(|backend| backend.namespace().enter(attach).unwrap()).collect()
}

fn one(address: impl Into<IpAddr>) -> Prefix {
    let address = address.into();
    Prefix { address, length: if address.is_ipv4() { 32 } else { 128 } }
}

fn lab() -> Lab {
    weir_lab::require_root().unwrap();
    Lab::builder().backends(2).routed().build().unwrap()
}

/// Both VIPs, their backends reached over their own family or over the other.
fn config(lab: &Lab, forward: &str, across: bool, tunnel: &str) -> String {
    let services = [lab.service("four", PORT), lab.service6("six", PORT)].map(|service| {
        let service = if across { service.across(lab.backends()) } else { service };
        let service = service.set("forward", &format!("{forward:?}"));
        if tunnel.is_empty() { service } else { service.set("tunnel", tunnel) }
    });
    lab.balancer().config(&services)
}

fn assert_served(lab: &Lab, weir: &Weir, what: &str) {
    weir.wait_until_up().unwrap();
    for vip in [lab.vip(PORT), lab.vip6(PORT)] {
        let tally = lab.client().requests(vip, 200, 4).unwrap();
        assert_eq!((tally.failed, tally.answered()), (0, 200), "{what}, {vip}: {tally}");
        assert!(tally.by("b1") > 50 && tally.by("b2") > 50, "{what}, {vip}: {tally}");
    }
}

#[test]
fn clients_are_served_by_another_network_through_each_kind_of_tunnel() {
    let lab = lab();
    let balancer = lab.balancer();
    let _programs = decapsulate(&lab, &[one(balancer.address()), one(balancer.address6())]);
    let weir = balancer.start_weir(&config(&lab, "ipip", false, "")).unwrap();
    assert_served(&lab, &weir, "ipip");
    for (forward, across) in [("ipip", true), ("gue", false), ("gue", true)] {
        weir.reload(&config(&lab, forward, across, "")).unwrap();
        assert_served(&lab, &weir, &format!("{forward}, across families: {across}"));
    }
}

#[test]
fn a_backend_lets_in_what_comes_from_its_balancers_alone() {
    let lab = lab();
    let network: IpAddr = SPREAD.parse().unwrap();
    let _programs = decapsulate(&lab, &[Prefix { address: network, length: 16 }]);
    let services = |tunnel: &str| {
        let service = lab.service("four", PORT).set("forward", "\"gue\"");
        let service = if tunnel.is_empty() { service } else { service.set("tunnel", tunnel) };
        lab.balancer().config(&[service])
    };
    let spread = format!("{{ source = [\"{SPREAD}/16\"] }}");
    let weir = lab.balancer().start_weir(&services(&spread)).unwrap();
    weir.wait_until_up().unwrap();
    let tally = lab.client().requests(lab.vip(PORT), 200, 4).unwrap();
    assert_eq!((tally.failed, tally.answered()), (0, 200), "{tally}");
    // The balancer's own address is not among those that are let in.
    weir.reload(&services("")).unwrap();
    weir.wait_until_up().unwrap();
    assert!(lab.client().request_from(0, lab.vip(PORT)).is_err(), "a stranger's packet was let in");
}
