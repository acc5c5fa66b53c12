//! `weir backend-setup`: one command in place of those that were typed on each backend.

#![allow(clippy::unwrap_used, reason = "a test says what it expects by unwrapping it")]

use std::fs;

use weir_lab::{Backend, Lab};

const PORT: u16 = 80;
const IGNORE: &str = "/proc/sys/net/ipv4/conf/all/arp_ignore";
const ANNOUNCE: &str = "/proc/sys/net/ipv4/conf/all/arp_announce";

/// A lab whose one backend is as it came from its installer: nothing of the VIP on it.
fn lab() -> Lab {
    weir_lab::require_root().unwrap();
    let lab = Lab::builder().backends(1).build().unwrap();
    let backend = lab.backend("b1").namespace();
    for vip in [lab.vip(PORT).ip(), lab.vip6(PORT).ip()] {
        let length = if vip.is_ipv4() { 32 } else { 128 };
        let address = format!("{vip}/{length}");
        backend.run(&["ip", "address", "del", &address, "dev", "lo"]).unwrap();
    }
    for setting in [IGNORE, ANNOUNCE] {
        backend.enter(|| fs::write(setting, "0")).unwrap().unwrap();
    }
    lab
}

fn setting(backend: &Backend, path: &str) -> String {
    let value = backend.namespace().enter(|| fs::read_to_string(path)).unwrap().unwrap();
    value.trim().to_owned()
}

#[test]
fn a_fresh_machine_serves_after_one_command_and_is_as_before_after_undo() {
    let lab = lab();
    let (backend, vip) = (lab.backend("b1"), lab.vip(PORT));
    let config = lab.balancer().config(&[lab.service("web", PORT)]);
    let weir = lab.balancer().start_weir(&config).unwrap();
    weir.wait_until_up().unwrap();
    let service = format!("{vip}/tcp");
    let setup = ["--service", service.as_str()];

    let planned = backend.set_up(&[setup[0], setup[1], "--dry-run"]).unwrap();
    assert_eq!(planned.lines().filter(|line| line.starts_with("would ")).count(), 3, "{planned}");
    assert!(!backend.namespace().has_address(vip.ip()).unwrap(), "a dry run changes nothing");

    let done = backend.set_up(&setup).unwrap();
    assert_eq!(done, planned.replace("would ", ""));
    let tally = lab.client().requests(vip, 100, 2).unwrap();
    assert_eq!((tally.failed, tally.by("b1")), (0, 100), "{tally}");
    // Who answers ARP for the VIP: asked again, and it is the balancer alone.
    let balancer = lab.balancer().namespace().run(&["ip", "link", "show", "dev", "eth0"]).unwrap();
    for _ in 0..5 {
        lab.client().forget_neighbours().unwrap();
        lab.client().request_from(0, vip).unwrap();
        let neighbours = lab.client().namespace().run(&["ip", "neigh", "show", "dev", "eth0"]);
        let neighbours = neighbours.unwrap();
        let line = neighbours.lines().find(|line| line.starts_with(&format!("{} ", vip.ip())));
        let line = line.unwrap_or_else(|| panic!("no neighbour in {neighbours}"));
        let mac = line.split(' ').nth(2).unwrap();
        assert!(balancer.contains(&format!("link/ether {mac} ")), "{line}, but {balancer}");
    }
    let again = backend.set_up(&setup).unwrap();
    assert!(again.starts_with("nothing to do"), "{again}");

    backend.set_up(&["--undo"]).unwrap();
    assert!(!backend.namespace().has_address(vip.ip()).unwrap());
    assert_eq!([IGNORE, ANNOUNCE].map(|path| setting(backend, path)), ["0", "0"]);
    assert!(backend.set_up(&["--undo"]).unwrap().starts_with("nothing to do"));
}

#[test]
fn ipv6_needs_no_settings_and_a_port_without_a_server_is_said() {
    let lab = lab();
    let backend = lab.backend("b1");
    let service = format!("{}/tcp", lab.vip6(4711));
    let done = backend.set_up(&["--service", &service]).unwrap();
    let lines: Vec<&str> = done.lines().collect();
    assert!(lines[0].starts_with(&format!("add {}/128 to lo", lab.vip6(0).ip())), "{done}");
    assert_eq!(lines[1], format!("note: nothing listens on {service} yet"));
    assert_eq!(lines.len(), 2, "{done}");
    assert!(backend.namespace().has_address(lab.vip6(0).ip()).unwrap());
}

#[test]
fn a_vip_that_would_be_answered_for_is_refused() {
    let lab = lab();
    let backend = lab.backend("b1");
    let own = format!("{}:80/tcp", backend.address());
    let error = format!("{:#}", backend.set_up(&["--service", &own]).unwrap_err());
    assert!(error.contains("take it off first: ip address del"), "{error}");
    assert_eq!(setting(backend, IGNORE), "0", "nothing was changed");
}
