//! IPv6 from configuration to client: the daemon, real servers and real clients.

#![allow(clippy::unwrap_used, reason = "a test says what it expects by unwrapping it")]

use std::{net::SocketAddr, time::Duration};

use weir::core::BackendState;
use weir_lab::{Lab, Weir, backend::UDP_PORT};

const PORT: u16 = 80;
const PATIENCE: Duration = Duration::from_secs(20);

fn lab() -> Lab {
    weir_lab::require_root().unwrap();
    Lab::builder().backends(3).build().unwrap()
}

/// Both families beside each other.
fn start(lab: &Lab) -> Weir {
    let echo = lab.service6("echo", UDP_PORT).udp().set("algorithm", "\"ip_hash\"");
    let services =
        [lab.service6("web", PORT), lab.service("web4", PORT), echo.health("type = \"none\"")];
    let weir = lab.balancer().start_weir(&lab.balancer().config(&services)).unwrap();
    weir.wait_until_up().unwrap();
    weir
}

#[test]
fn requests_spread_over_backends_that_answer_directly() {
    let lab = lab();
    let weir = start(&lab);
    let answer = lab.client().get(&format!("http://{}/", lab.vip6(PORT))).unwrap();
    assert_eq!(answer.status, 200);
    let tally = lab.client().requests(lab.vip6(PORT), 3_000, 4).unwrap();
    assert_eq!((tally.failed, tally.answered()), (0, 3_000), "{tally}");
    for backend in ["b1", "b2", "b3"] {
        // A third each: five standard deviations are 129.
        assert!(tally.by(backend).abs_diff(1_000) < 130, "{tally}");
        let counted = weir.backend("web", backend).unwrap();
        assert!(counted.new_flows >= tally.by(backend), "{backend} in the kernel's counters");
    }
    let wrk = lab.client().wrk(&format!("http://{}/", lab.vip6(PORT)), 8, Duration::from_secs(1));
    let wrk = wrk.unwrap();
    assert!(wrk.errors == 0 && wrk.requests_per_second > 50.0, "{wrk:?}");
    assert_eq!(lab.client().requests(lab.vip(PORT), 100, 2).unwrap().failed, 0, "over IPv4");
}

#[test]
fn explain_names_the_backend_that_answers() {
    let lab = lab();
    let weir = start(&lab);
    let from = |port| SocketAddr::new(lab.client().address6().into(), port);
    for port in 20_000..20_020 {
        let said = weir.explain("tcp", from(port), lab.vip6(PORT)).unwrap();
        let answered = lab.client().request_from(port, lab.vip6(PORT)).unwrap();
        assert_eq!(said.backend.unwrap().as_str(), answered, "source port {port}");
        assert_eq!((said.reason.as_str(), said.verdict.as_str()), ("settled", "tx"));
    }
    for port in 20_000..20_005 {
        let said = weir.explain("udp", from(port), lab.vip6(UDP_PORT)).unwrap();
        let answered = lab.client().udp_request_from(port, lab.vip6(UDP_PORT)).unwrap();
        assert_eq!(said.backend.unwrap().as_str(), answered, "source port {port}");
    }
    let nowhere = weir.explain("tcp", from(1), lab.vip6(81)).unwrap();
    assert_eq!((nowhere.reason.as_str(), nowhere.verdict.as_str()), ("no service", "pass"));
    let mixed = weir.explain("tcp", from(1), lab.vip(PORT)).unwrap();
    assert!(mixed.reason.contains("two addresses of one family"), "{mixed:?}");
}

#[test]
fn a_dead_backend_leaves_and_a_revived_one_returns_without_a_lost_request() {
    let lab = lab();
    let weir = start(&lab);
    lab.backend("b2").kill();
    weir.wait_until_is("web", "b2", BackendState::Down, PATIENCE).unwrap();
    let traffic = lab.client().traffic(lab.vip6(PORT), 2).unwrap();
    traffic.wait_for_more(200, PATIENCE).unwrap();
    lab.backend("b2").revive().unwrap();
    weir.wait_until_is("web", "b2", BackendState::Up, PATIENCE).unwrap();
    traffic.wait_for_more(200, PATIENCE).unwrap();
    let tally = traffic.stop().unwrap();
    assert!(tally.failed == 0 && tally.by("b2") > 0, "{tally}");
}

#[test]
fn neighbour_discovery_for_the_vip_is_answered() {
    let lab = lab();
    let weir = start(&lab);
    let vip = lab.vip6(PORT).ip().to_string();
    for _ in 0..3 {
        lab.client().namespace().run(&["ip", "-6", "neighbour", "flush", "dev", "eth0"]).unwrap();
        lab.client().request_from(0, lab.vip6(PORT)).unwrap();
    }
    lab.client().namespace().run(&["ping", "-6", "-c", "2", "-W", "1", &vip]).unwrap();
    let passed = weir.status().unwrap().packets.pass;
    assert!(passed.iter().any(|(reason, n)| reason == "icmp" && *n >= 2), "{passed:?}");
}

#[test]
fn backends_behind_another_interface_are_reached_by_redirection() {
    weir_lab::require_root().unwrap();
    let lab = Lab::builder().backends(2).two_networks().build().unwrap();
    let config = lab.balancer().config(&[lab.service6("web", PORT)]);
    let weir = lab.balancer().start_weir(&config).unwrap();
    weir.wait_until_up().unwrap();
    let tally = lab.client().requests(lab.vip6(PORT), 500, 4).unwrap();
    assert_eq!(tally.failed, 0, "{tally}");
    assert_eq!(tally.answers.len(), 2, "{tally}");
    let packets = weir.status().unwrap().packets;
    assert!(packets.redirect > 1_500 && packets.tx == 0, "{packets:?}");
}

#[test]
fn a_backend_is_added_at_run_time_and_wrong_addresses_are_refused() {
    let lab = lab();
    let config = lab.balancer().config(&[lab.service6("web", PORT).without("b3")]);
    let mut weir = lab.balancer().start_weir(&config).unwrap();
    weir.wait_until_up().unwrap();
    let add = |address: &str| weir.cli(&["backend", "add", "web", "b3", "--address", address]);
    for (address, why) in [
        (lab.backend("b3").address().to_string(), "family"),
        ("fe80::3".to_owned(), "link-local"),
        ("::ffff:192.0.2.1".to_owned(), "in the form of IPv6"),
    ] {
        let refused = add(&address).unwrap_err().to_string();
        assert!(refused.contains(why), "{refused}");
    }
    add(&lab.backend("b3").address6().to_string()).unwrap();
    weir.wait_until_is("web", "b3", BackendState::Up, PATIENCE).unwrap();
    weir.cli(&["backend", "drain", "web", "b1"]).unwrap();
    weir.cli(&["backend", "drain", "web", "b2"]).unwrap();
    weir.restart().unwrap();
    let tally = lab.client().requests(lab.vip6(PORT), 200, 2).unwrap();
    assert_eq!((tally.failed, tally.by("b3")), (0, 200), "{tally}\n{}", weir.log());
}
