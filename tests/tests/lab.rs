//! The lab itself, without a daemon: a network that lies would make every other test lie.

#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

use std::{
    fs,
    net::SocketAddr,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    process::Command,
    time::Duration,
};

use weir_lab::{
    Lab, Namespace,
    backend::UDP_PORT,
    xdp::{Attachment, Instruction, Program},
};

const SOON: Duration = Duration::from_secs(10);

#[test]
fn clients_reach_each_backend_at_its_own_address() {
    let lab = Lab::builder().backends(3).build().unwrap();
    for backend in lab.backends() {
        let response = lab.client().get(&format!("http://{}/", backend.address())).unwrap();
        assert_eq!((response.status, response.body.as_str()), (200, backend.name()));
        let response = lab.client().get(&format!("http://[{}]/", backend.address6())).unwrap();
        assert_eq!((response.status, response.body.as_str()), (200, backend.name()));
        let name = lab.client().udp_request_from(5353, backend.socket(UDP_PORT)).unwrap();
        assert_eq!(name, backend.name());
    }
}

#[test]
fn ten_thousand_requests_are_all_answered() {
    let lab = Lab::builder().backends(1).build().unwrap();
    let server = lab.backend("b1").socket(80);
    let tally = lab.client().requests(server, 10_000, 4).unwrap();
    assert_eq!((tally.by("b1"), tally.failed), (10_000, 0), "{tally}");
    assert_eq!(lab.backend("b1").access_log().unwrap().lines().count(), 10_000);

    let tally = lab.client().udp_requests(lab.backend("b1").socket(UDP_PORT), 1000, 2).unwrap();
    assert_eq!((tally.by("b1"), tally.failed), (1000, 0), "{tally}");

    let report = lab.client().wrk(&format!("http://{server}/"), 4, Duration::from_secs(1)).unwrap();
    assert!(report.requests_per_second > 0.0 && report.errors == 0, "{report:?}");
}

#[test]
fn a_chosen_source_port_is_what_the_backend_sees() {
    let lab = Lab::builder().backends(1).build().unwrap();
    let backend = lab.backend("b1");
    // Twice: a port must be usable again at once.
    for _ in 0..2 {
        assert_eq!(lab.client().request_from(40_123, backend.socket(80)).unwrap(), "b1");
    }
    assert_eq!(
        backend.access_log().unwrap(),
        "10.77.0.10:40123 \"GET / HTTP/1.1\" 200\n".repeat(2)
    );
}

#[test]
fn a_killed_backend_refuses_and_a_revived_one_answers() {
    let lab = Lab::builder().backends(1).build().unwrap();
    let (backend, client) = (lab.backend("b1"), lab.client());
    let traffic = client.traffic(backend.socket(80), 2).unwrap();
    traffic.wait_for_more(10, SOON).unwrap();

    backend.kill();
    let refused = client.request_from(40_000, backend.socket(80)).unwrap_err();
    assert!(format!("{refused:#}").contains("refused"), "{refused:#}");
    let refused = client.udp_request_from(40_000, backend.socket(UDP_PORT)).unwrap_err();
    assert!(format!("{refused:#}").contains("refused"), "{refused:#}");
    traffic.wait_for_failures(10, SOON).unwrap();

    backend.revive().unwrap();
    traffic.wait_for_more(10, SOON).unwrap();
    let tally = traffic.stop().unwrap();
    assert!(tally.failed >= 10 && tally.answered() >= 20, "{tally}");
    assert_eq!(client.udp_request_from(40_000, backend.socket(UDP_PORT)).unwrap(), "b1");
}

#[test]
fn a_stopped_backend_is_silent_until_it_goes_on() {
    let lab = Lab::builder().backends(1).build().unwrap();
    let backend = lab.backend("b1");
    backend.stop().unwrap();
    let traffic = lab.client().traffic(backend.socket(80), 1).unwrap();
    assert_eq!(traffic.answered(), 0, "the first request timed out");

    backend.resume().unwrap();
    traffic.wait_for_more(1, SOON).unwrap();
    let tally = traffic.stop().unwrap();
    assert!(tally.longest_gap >= Duration::from_secs(1), "{tally}");
    assert_eq!(tally.failures[0].error, "timed out", "{tally}");
}

#[test]
fn the_health_page_can_fail_alone() {
    let lab = Lab::builder().backends(1).build().unwrap();
    let backend = lab.backend("b1");
    let get = |path| lab.client().get(&format!("http://{}{path}", backend.address())).unwrap();
    assert_eq!(get("/health").to_string(), "200 ok");
    backend.set_healthy(false).unwrap();
    assert_eq!(get("/health").status, 503);
    assert_eq!(get("/").to_string(), "200 b1");
    backend.set_healthy(true).unwrap();
    assert_eq!(get("/health").to_string(), "200 ok");
}

#[test]
fn an_unplugged_machine_is_out_of_reach_until_it_is_plugged_in() {
    let lab = Lab::builder().backends(1).build().unwrap();
    let server = lab.backend("b1").socket(80);
    lab.unplug("b1").unwrap();
    let traffic = lab.client().traffic(server, 1).unwrap();
    assert_eq!(traffic.answered(), 0);
    lab.plug("b1").unwrap();
    traffic.wait_for_more(1, SOON).unwrap();
}

#[test]
fn a_machine_without_power_is_silent_and_keeps_its_carrier() {
    let lab = Lab::builder().backends(1).build().unwrap();
    let server = lab.backend("b1").socket(80);
    lab.power_off("b1").unwrap();
    let traffic = lab.client().traffic(server, 1).unwrap();
    assert_eq!(traffic.answered(), 0);
    let link = lab.namespace("b1").run(&["ip", "link", "show", "eth0"]).unwrap();
    assert!(link.contains("LOWER_UP"), "{link}");
    lab.power_on("b1").unwrap();
    traffic.wait_for_more(1, SOON).unwrap();
}

#[test]
fn only_the_balancer_owns_the_vip() {
    let lab = Lab::builder().backends(2).build().unwrap();
    // Nothing listens on the balancer: who is asked refuses. A backend would answer.
    let refused = lab.client().request_from(40_000, lab.vip(80)).unwrap_err();
    assert!(format!("{refused:#}").contains("refused"), "{refused:#}");
    let refused = lab.client().request_from(40_000, lab.vip6(80)).unwrap_err();
    assert!(format!("{refused:#}").contains("refused"), "{refused:#}");
    let neighbours = lab.client().namespace().run(&["ip", "neighbour", "show"]).unwrap();
    let vip = neighbours.lines().find(|line| line.starts_with("10.77.0.100 ")).unwrap();
    assert!(vip.contains(&mac(lab.namespace("balancer"), "eth0")), "{vip}");
}

#[test]
fn frames_that_xdp_sends_back_reach_a_backend() {
    let lab = Lab::builder().backends(2).build().unwrap();
    let _program = forward_all(&lab, "eth0", "b2");
    assert_all_answered_by(&lab, "b2");
}

#[test]
fn frames_that_xdp_redirects_reach_a_backend_on_the_other_network() {
    let lab = Lab::builder().backends(2).two_networks().build().unwrap();
    let _program = forward_all(&lab, "eth1", "b2");
    assert_all_answered_by(&lab, "b2");
}

#[test]
fn the_second_balancer_carries_xdp_frames_too() {
    let lab = Lab::builder().backends(1).balancers(2).unclaimed_vip().build().unwrap();
    let second = lab.balancers()[1].namespace();
    second.run(&["ip", "address", "add", "10.77.0.100/32", "dev", "eth0"]).unwrap();
    let _program = forward(&lab, second, "eth0", "b1");
    let tally = lab.client().requests(lab.vip(80), 100, 2).unwrap();
    assert_eq!((tally.by("b1"), tally.failed), (100, 0), "{tally}");
}

#[test]
fn two_labs_do_not_disturb_each_other() {
    let first = Lab::builder().backends(1).build().unwrap();
    let second = Lab::builder().backends(2).build().unwrap();
    first.backend("b1").kill();
    assert_eq!(
        second.client().request_from(40_000, second.backend("b1").socket(80)).unwrap(),
        "b1"
    );
    drop(first);
    assert_eq!(
        second.client().request_from(40_000, second.backend("b2").socket(80)).unwrap(),
        "b2"
    );
}

#[test]
fn a_panic_leaves_nothing_behind() {
    let mut seen = None;
    let panic = catch_unwind(AssertUnwindSafe(|| {
        let lab = Lab::builder().backends(1).build().unwrap();
        let _sleeper = lab.client().namespace().spawn("sleep", &["sleep", "600"]).unwrap();
        seen = Some((lab.prefix(), lab.directory().to_owned()));
        assert!(namespaces().contains(&lab.prefix()));
        panic!("as a failed test does");
    }));
    assert!(panic.is_err());
    let (prefix, directory) = seen.unwrap();
    assert!(!namespaces().contains(&prefix));
    assert!(!directory.exists());
}

#[test]
fn a_lab_whose_process_died_is_removed_by_the_next() {
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "--nocapture", "abandon_a_lab"])
        .output()
        .unwrap();
    let output = String::from_utf8_lossy(&output.stdout);
    let left: Vec<_> = output.lines().filter_map(|line| line.strip_prefix("left: ")).collect();
    let [prefix, directory, server] = left[..] else { panic!("{output}") };

    // A lab that another test builds at this moment may have removed it already.
    let _lab = Lab::builder().backends(0).build().unwrap();
    assert!(!namespaces().contains(prefix));
    assert!(!Path::new(directory).exists());
    let command = fs::read_to_string(format!("/proc/{server}/cmdline")).unwrap_or_default();
    assert!(!command.contains("nginx"), "its servers are dead: {command}");
}

#[test]
#[ignore = "run by a_lab_whose_process_died_is_removed_by_the_next, in a process of its own"]
fn abandon_a_lab() {
    let lab = Lab::builder().backends(1).build().unwrap();
    let directory = lab.directory().display().to_string();
    let server = fs::read_to_string(format!("{directory}/b1/nginx.pid")).unwrap();
    println!("\nleft: {}\nleft: {directory}\nleft: {}", lab.prefix(), server.trim());
    std::process::abort();
}

// === helpers ===

fn namespaces() -> String {
    let output = Command::new("ip").args(["netns", "list"]).output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

fn assert_all_answered_by(lab: &Lab, backend: &str) {
    // One first: a thousand that time out would take their time.
    assert_eq!(lab.client().request_from(40_000, lab.vip(80)).unwrap(), backend);
    let tally = lab.client().requests(lab.vip(80), 1000, 4).unwrap();
    assert_eq!((tally.by(backend), tally.failed), (1000, 0), "{tally}");
    let server = SocketAddr::new(lab.vip(0).ip(), UDP_PORT);
    let tally = lab.client().udp_requests(server, 1000, 4).unwrap();
    assert_eq!((tally.by(backend), tally.failed), (1000, 0), "{tally}");
}

fn forward_all(lab: &Lab, out: &str, backend: &str) -> Attachment {
    forward(lab, lab.balancer().namespace(), out, backend)
}

/// The smallest balancer there is: everything for the VIP goes to one backend.
fn forward(lab: &Lab, balancer: &Namespace, out: &str, backend: &str) -> Attachment {
    let SocketAddr::V4(vip) = lab.vip(80) else { panic!("the VIP is IPv4") };
    let vip = i32::from_ne_bytes(vip.ip().octets());
    let number = |name| interface_number(balancer, name);
    let own = words(&mac(balancer, out));
    let backend = words(&mac(lab.backend(backend).namespace(), "eth0"));

    let i = Instruction::new;
    let last: &[Instruction] = if out == "eth0" {
        &[i(0xb7, 0, 0, 0, 3)] // r0 = XDP_TX
    } else {
        &[
            i(0xb7, 1, 0, 0, number(out)),
            i(0xb7, 2, 0, 0, 0),
            i(0x85, 0, 0, 0, 23), // r0 = bpf_redirect(r1, r2)
        ]
    };
    let program = [
        &[
            i(0x61, 2, 1, 0, 0), // r2 = data
            i(0x61, 3, 1, 4, 0), // r3 = data_end
            i(0xbf, 4, 2, 0, 0),
            i(0x07, 4, 0, 0, 34), // r4 = the end of Ethernet and IPv4 headers
            i(0x3d, 3, 4, 2, 0),  // a whole one: go on
            i(0xb7, 0, 0, 0, 2),  // else pass
            i(0x95, 0, 0, 0, 0),
            i(0x61, 4, 2, 30, 0),  // r4 = the destination address
            i(0x16, 4, 0, 2, vip), // the VIP: go on
            i(0xb7, 0, 0, 0, 2),   // else pass
            i(0x95, 0, 0, 0, 0),
        ][..],
        &[
            i(0x6a, 2, 0, 0, backend[0]), // destination MAC address
            i(0x6a, 2, 0, 2, backend[1]),
            i(0x6a, 2, 0, 4, backend[2]),
            i(0x6a, 2, 0, 6, own[0]), // source MAC address
            i(0x6a, 2, 0, 8, own[1]),
            i(0x6a, 2, 0, 10, own[2]),
        ],
        last,
        &[i(0x95, 0, 0, 0, 0)],
    ]
    .concat();
    Program::load(&program).unwrap().attach(balancer, "eth0").unwrap()
}

fn interface(namespace: &Namespace, name: &str) -> serde_json::Value {
    let text = namespace.run(&["ip", "-json", "link", "show", "dev", name]).unwrap();
    serde_json::from_str::<serde_json::Value>(&text).unwrap()[0].take()
}

fn interface_number(namespace: &Namespace, name: &str) -> i32 {
    interface(namespace, name)["ifindex"].as_i64().unwrap().try_into().unwrap()
}

fn mac(namespace: &Namespace, name: &str) -> String {
    interface(namespace, name)["address"].as_str().unwrap().to_owned()
}

/// A MAC address as three words in the order of the wire.
fn words(mac: &str) -> [i32; 3] {
    let bytes: Vec<_> = mac.split(':').map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect();
    [0, 2, 4].map(|n| i32::from(u16::from_ne_bytes([bytes[n], bytes[n + 1]])))
}
