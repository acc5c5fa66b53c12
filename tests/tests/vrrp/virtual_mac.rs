//! The Ethernet address of a virtual router, and who answers for it.

use weir::vrrp::fsm::State;
use weir_lab::{Balancer, Lab, Weir};

use crate::{
    ADDRESS, ADDRESS6, FIRST, PORT, SECOND, config, eventually, instance, lab, of, wait_for_state,
};

/// The Ethernet address that the client knows an address by.
fn known_mac(lab: &Lab, address: &str) -> Option<String> {
    let text = lab.client().namespace().run(&["ip", "neigh", "show", address]).unwrap();
    text.split_whitespace().find(|word| word.matches(':').count() == 5).map(str::to_owned)
}

#[test]
fn a_virtual_mac_moves_with_its_addresses_and_clients_notice_nothing() {
    let lab = lab();
    let [one, two] = lab.balancers() else { panic!("two balancers") };
    let settings = "interval = \"50ms\"\nvirtual_mac = true";
    let both = |balancer: &Balancer, priority: u8| {
        let six = instance("six", 51, ADDRESS6, priority, settings);
        format!("{}\n{six}", config(&lab, balancer, priority, settings))
    };
    let first = one.start_weir(&both(one, FIRST)).unwrap();
    let mut second = two.start_weir(&both(two, SECOND)).unwrap();
    first.wait_until_up().unwrap();
    second.wait_until_up().unwrap();
    let has = |balancer: &Balancer, address: &str| {
        balancer.namespace().has_address(address.parse().unwrap()).unwrap()
    };
    let at = |master: &Balancer, backup: &Balancer| {
        eventually("the addresses are there, and nowhere else", || {
            [ADDRESS, ADDRESS6].iter().all(|each| has(master, each) && !has(backup, each))
        });
    };
    at(one, two);
    let ping = |address: &str| {
        lab.client().namespace().run(&["ping", "-c", "1", "-W", "5", address]).unwrap();
    };
    let packets = |weir: &Weir| weir.status().unwrap().services[0].packets;
    let traffic = lab.client().steady_traffic(lab.vip(PORT)).unwrap();
    // The kernel's own packets too.
    ping(ADDRESS);
    ping(ADDRESS6);
    assert_eq!(known_mac(&lab, ADDRESS).as_deref(), Some("00:00:5e:00:01:33"));
    assert_eq!(known_mac(&lab, ADDRESS6).as_deref(), Some("00:00:5e:00:02:33"));
    assert!(packets(&first) > 0 && packets(&second) == 0);

    first.cli(&["vrrp", "release", "front"]).unwrap();
    first.cli(&["vrrp", "release", "six"]).unwrap();
    at(two, one);
    let before = packets(&second);
    eventually("packets reach the second", || packets(&second) > before);
    ping(ADDRESS);
    ping(ADDRESS6);
    assert_eq!(known_mac(&lab, ADDRESS).as_deref(), Some("00:00:5e:00:01:33"));

    // What a killed daemon leaves goes when another is the master.
    second.kill();
    at_least(&lab, &first);
    assert!(has(two, ADDRESS));
    second.start().unwrap();
    at(one, two);
    traffic.stop_unharmed().unwrap();
    let links = two.namespace().run(&["ip", "-brief", "link"]).unwrap();
    assert!(!links.contains("vrrp"), "{links}");
}

fn at_least(lab: &Lab, master: &Weir) {
    wait_for_state(master, State::Master);
    let namespace = of(lab, master).namespace();
    eventually("it has the address", || namespace.has_address(ADDRESS.parse().unwrap()).unwrap());
}
