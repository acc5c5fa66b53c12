//! From configuration to client: the daemon on a balancer, real servers and real clients.

#![allow(clippy::unwrap_used, reason = "a test says what it expects by unwrapping it")]

use std::{fs, net::SocketAddr, os::unix::fs::PermissionsExt as _, time::Duration};

use weir::core::{BackendState, EventKind, Health};
use weir_lab::{Lab, Weir, backend::UDP_PORT};

const PORT: u16 = 80;
const PATIENCE: Duration = Duration::from_secs(20);
/// The lab's default check: every 200 ms, at most 200 ms long, two decide.
const DETECTED_WITHIN: Duration = Duration::from_millis(2 * 200 + 200);
/// What a busy machine may add to a moment measured from outside.
const SLACK: Duration = Duration::from_secs(1);

fn lab() -> Lab {
    weir_lab::require_root().unwrap();
    Lab::builder().backends(3).build().unwrap()
}

fn start(lab: &Lab) -> Weir {
    let config = lab.balancer().config(&[lab.service("web", PORT)]);
    let weir = lab.balancer().start_weir(&config).unwrap();
    weir.wait_until_up().unwrap();
    weir
}

#[test]
fn ten_thousand_requests_spread_over_three_backends() {
    let lab = lab();
    let weir = start(&lab);
    let tally = lab.client().requests(lab.vip(PORT), 10_000, 4).unwrap();
    assert_eq!((tally.failed, tally.answered()), (0, 10_000), "{tally}");
    for backend in ["b1", "b2", "b3"] {
        // A third each: five standard deviations of ten thousand fair draws are 236.
        assert!(tally.by(backend).abs_diff(3_333) < 240, "{tally}");
        let counted = weir.backend("web", backend).unwrap();
        assert_eq!(counted.new_flows, tally.by(backend), "{backend} in the kernel's counters");
        assert!(counted.packets > 3 * counted.new_flows);
    }
    let answer = lab.client().get(&format!("http://{}/", lab.vip(PORT))).unwrap();
    assert_eq!(answer.status, 200);
    let wrk = lab.client().wrk(&format!("http://{}/", lab.vip(PORT)), 32, Duration::from_secs(2));
    let wrk = wrk.unwrap();
    assert!(wrk.errors == 0 && wrk.requests_per_second > 100.0, "{wrk:?}");
}

#[test]
fn a_dead_backend_leaves_and_a_revived_one_returns() {
    let lab = lab();
    let weir = start(&lab);
    let traffic = lab.client().traffic(lab.vip(PORT), 2).unwrap();
    traffic.wait_for_more(50, PATIENCE).unwrap();

    lab.backend("b2").kill();
    weir.wait_until_is("web", "b2", BackendState::Down, DETECTED_WITHIN + SLACK).unwrap();
    let tally = lab.client().requests(lab.vip(PORT), 500, 2).unwrap();
    assert_eq!((tally.failed, tally.by("b2")), (0, 0), "{tally}");
    assert_eq!(weir.status().unwrap().services[0].health, Health::Yellow);
    let reason = weir.backend("web", "b2").unwrap().reason;
    assert_eq!(reason, "connection refused");

    let events = weir.events().unwrap();
    let of_b2 = events.iter().filter_map(|event| match &event.kind {
        EventKind::Backend { backend, to, slots_moved, .. } if backend.as_str() == "b2" => {
            Some((*to, *slots_moved, event.phases?))
        }
        _ => None,
    });
    // It went in two steps: half of its slots when it became suspect, the rest when it was down.
    let steps: Vec<_> =
        of_b2.filter(|(to, ..)| matches!(to, BackendState::Suspect | BackendState::Down)).collect();
    let slots: u32 = steps.iter().map(|(_, slots, _)| slots).sum();
    let phases = steps.iter().find(|(to, ..)| *to == BackendState::Down).unwrap().2;
    assert!((21_000..24_000).contains(&slots), "{slots} of 65537 slots moved");
    assert!(phases.detect <= DETECTED_WITHIN.as_secs_f64() + 0.2, "{phases:?}");
    assert!(phases.decide + phases.apply < 0.05, "{phases:?}");

    lab.backend("b2").revive().unwrap();
    weir.wait_until_is("web", "b2", BackendState::Up, DETECTED_WITHIN + SLACK).unwrap();
    let tally = lab.client().requests(lab.vip(PORT), 500, 2).unwrap();
    assert!(tally.failed == 0 && tally.by("b2") > 100, "{tally}");
    let during = traffic.stop().unwrap();
    assert!(during.longest_gap < DETECTED_WITHIN + SLACK, "{during}");
}

#[test]
fn a_frozen_backend_is_found_by_its_silence() {
    let lab = lab();
    let weir = start(&lab);
    lab.backend("b1").stop().unwrap();
    weir.wait_until_is("web", "b1", BackendState::Down, DETECTED_WITHIN + SLACK).unwrap();
    assert_eq!(weir.backend("web", "b1").unwrap().reason, "no answer within 200ms");
    lab.backend("b1").resume().unwrap();
    weir.wait_until_is("web", "b1", BackendState::Up, PATIENCE).unwrap();
}

#[test]
fn an_http_check_reads_the_answer() {
    let lab = lab();
    let weir = start(&lab);
    lab.backend("b3").set_healthy(false).unwrap();
    weir.wait_until_is("web", "b3", BackendState::Down, DETECTED_WITHIN + SLACK).unwrap();
    let reason = weir.backend("web", "b3").unwrap().reason;
    assert!(reason.starts_with("status 503"), "{reason}");
    lab.backend("b3").set_healthy(true).unwrap();
    weir.wait_until_is("web", "b3", BackendState::Up, PATIENCE).unwrap();
}

#[test]
fn a_script_decides_and_its_words_are_the_reason() {
    let lab = lab();
    let directory = lab.balancer().namespace().directory();
    let script = directory.join("check");
    let flag = directory.join("b2-is-bad");
    let text = format!(
        "#!/bin/sh\n[ \"$WEIR_BACKEND\" = b2 ] && [ -e {} ] && {{ echo the disk of $WEIR_ADDRESS is \
         full; exit 2; }}\nexit 0\n",
        flag.display()
    );
    fs::write(&script, text).unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    let health = format!(
        "type = \"script\"\ncommand = [\"{}\"]\ninterval = \"200ms\"\ntimeout = \"200ms\"\n\
         rise = 1\nfall = 2",
        script.display()
    );
    let service = lab.service("web", PORT).health(&health);
    let weir = lab.balancer().start_weir(&lab.balancer().config(&[service])).unwrap();
    weir.wait_until_up().unwrap();
    fs::write(&flag, "").unwrap();
    weir.wait_until_is("web", "b2", BackendState::Down, PATIENCE).unwrap();
    let address = lab.backend("b2").address();
    let reason = weir.backend("web", "b2").unwrap().reason;
    assert_eq!(reason, format!("exit status 2: the disk of {address} is full"));
    fs::remove_file(&flag).unwrap();
    weir.wait_until_is("web", "b2", BackendState::Up, PATIENCE).unwrap();
}

#[test]
fn explain_names_the_backend_that_answers() {
    let lab = lab();
    let udp = lab.service("echo", UDP_PORT).udp().set("algorithm", "\"ip_hash\"");
    let config = lab.balancer().config(&[lab.service("web", PORT), udp.health("type = \"none\"")]);
    let weir = lab.balancer().start_weir(&config).unwrap();
    weir.wait_until_up().unwrap();
    let from = |port| SocketAddr::new(lab.client().address().into(), port);
    for port in 20_000..20_030 {
        let said = weir.explain("tcp", from(port), lab.vip(PORT)).unwrap();
        let answered = lab.client().request_from(port, lab.vip(PORT)).unwrap();
        assert_eq!(said.backend.unwrap().as_str(), answered, "source port {port}");
        assert_eq!((said.reason.as_str(), said.verdict.as_str()), ("settled", "tx"));
    }
    for port in 20_000..20_005 {
        let said = weir.explain("udp", from(port), lab.vip(UDP_PORT)).unwrap();
        let answered = lab.client().udp_request_from(port, lab.vip(UDP_PORT)).unwrap();
        assert_eq!(said.backend.unwrap().as_str(), answered, "source port {port}");
    }
    let nowhere = weir.explain("tcp", from(1), lab.vip(81)).unwrap();
    assert_eq!((nowhere.reason.as_str(), nowhere.verdict.as_str()), ("no service", "pass"));
}

#[test]
fn backends_behind_another_interface_are_reached_by_redirection() {
    weir_lab::require_root().unwrap();
    let lab = Lab::builder().backends(2).two_networks().build().unwrap();
    let weir = start(&lab);
    let tally = lab.client().requests(lab.vip(PORT), 1_000, 4).unwrap();
    assert_eq!(tally.failed, 0, "{tally}");
    assert_eq!(tally.answers.len(), 2, "{tally}");
    let packets = weir.status().unwrap().packets;
    assert!(packets.redirect > 3_000 && packets.tx == 0, "{packets:?}");
}

#[test]
fn a_killed_daemon_loses_no_request_and_its_successor_takes_over() {
    let lab = lab();
    let mut weir = start(&lab);
    weir.cli(&["backend", "maintenance", "web", "b3"]).unwrap();
    let traffic = lab.client().traffic(lab.vip(PORT), 4).unwrap();
    traffic.wait_for_more(200, PATIENCE).unwrap();
    let before: Vec<_> = (0..20).map(|n| weir_explain(&lab, &weir, n)).collect();
    for _ in 0..3 {
        weir.kill();
        traffic.wait_for_more(200, PATIENCE).unwrap();
        weir.start().unwrap();
        traffic.wait_for_more(200, PATIENCE).unwrap();
    }
    weir.restart().unwrap();
    traffic.wait_for_more(200, PATIENCE).unwrap();
    let tally = traffic.stop().unwrap();
    assert_eq!((tally.failed, tally.by("b3")), (0, 0), "{tally}");
    assert_eq!((0..20).map(|n| weir_explain(&lab, &weir, n)).collect::<Vec<_>>(), before);
    let adopted = EventKind::Started { adopted: true };
    assert!(weir.events().unwrap().iter().any(|event| event.kind == adopted));
    assert_eq!(weir.backend("web", "b3").unwrap().state, BackendState::Maintenance);
}

fn weir_explain(lab: &Lab, weir: &Weir, n: u16) -> (Option<String>, Option<u32>) {
    let source = SocketAddr::new(lab.client().address().into(), 20_000 + n);
    let said = weir.explain("tcp", source, lab.vip(PORT)).unwrap();
    (said.backend.map(|name| name.to_string()), said.slot)
}

#[test]
fn a_reload_with_a_broken_file_changes_nothing() {
    let lab = lab();
    let weir = start(&lab);
    let good = lab.balancer().config(&[lab.service("web", PORT)]);
    let before = weir.status().unwrap().services[0].backends.len();
    let broken = good.replace("protocol = \"tcp\"", "protocol = \"tpc\"\nwieght = 3");
    let refused = weir.reload(&broken).unwrap_err().to_string();
    assert!(refused.contains("tpc") && refused.contains("wieght"), "every fault: {refused}");
    assert_eq!(weir.status().unwrap().services[0].backends.len(), before);
    assert_eq!(lab.client().requests(lab.vip(PORT), 100, 1).unwrap().failed, 0);

    let fewer = lab.balancer().config(&[lab.service("web", PORT).without("b1")]);
    weir.reload(&fewer).unwrap();
    let tally = lab.client().requests(lab.vip(PORT), 300, 2).unwrap();
    assert_eq!((tally.failed, tally.by("b1")), (0, 0), "{tally}");
}

#[test]
fn backends_change_at_run_time_and_stay_changed() {
    let lab = lab();
    let config = lab.balancer().config(&[lab.service("web", PORT).without("b3")]);
    let mut weir = lab.balancer().start_weir(&config).unwrap();
    weir.wait_until_up().unwrap();
    let address = lab.backend("b3").address().to_string();
    weir.cli(&["backend", "add", "web", "b3", "--address", &address]).unwrap();
    weir.wait_until_is("web", "b3", BackendState::Up, PATIENCE).unwrap();
    weir.cli(&["backend", "set", "web", "b1", "--weight", "0"]).unwrap();
    weir.cli(&["backend", "remove", "web", "b2"]).unwrap();
    let only_b3 = |weir: &Weir| {
        let tally = lab.client().requests(lab.vip(PORT), 200, 2).unwrap();
        assert_eq!((tally.failed, tally.by("b3")), (0, 200), "{tally}\n{}", weir.log());
    };
    only_b3(&weir);
    weir.restart().unwrap();
    only_b3(&weir);
    let refused = weir.cli(&["backend", "add", "web", "b3", "--address", &address]).unwrap_err();
    assert!(refused.to_string().contains("exists"), "{refused}");
}

#[test]
fn what_is_not_for_a_service_reaches_the_balancer_itself() {
    let lab = lab();
    let weir = start(&lab);
    let vip = lab.vip(PORT).ip().to_string();
    lab.client().namespace().run(&["ping", "-c", "2", "-W", "1", &vip]).unwrap();
    let passed = weir.status().unwrap().packets.pass;
    assert!(passed.iter().any(|(reason, n)| reason == "icmp" && *n >= 2), "{passed:?}");
}

#[test]
fn metrics_and_health_are_served() {
    let lab = lab();
    let weir = start(&lab);
    lab.client().requests(lab.vip(PORT), 50, 1).unwrap();
    // A failure that checks find: its phases are measured.
    lab.backend("b3").set_healthy(false).unwrap();
    weir.wait_until_is("web", "b3", BackendState::Down, PATIENCE).unwrap();
    assert_eq!(weir.admin("/healthz").unwrap().status, 200);
    let metrics = weir.admin("/metrics").unwrap().body;
    for line in [
        "weir_backend_up{service=\"web\",backend=\"b1\"} 1",
        "weir_backend_state{service=\"web\",backend=\"b1\",state=\"up\"} 1",
        "weir_packets_total{verdict=\"tx\"}",
        "weir_failover_seconds_count{phase=\"detect\"}",
        "weir_health_checks_total{service=\"web\",backend=\"b1\",result=\"pass\"}",
    ] {
        assert!(metrics.contains(line), "{line} is missing from:\n{metrics}");
    }
    assert!(metrics.ends_with("# EOF\n"));
}

#[test]
fn a_changed_limit_makes_new_tables_without_losing_a_request() {
    let lab = lab();
    let mut weir = start(&lab);
    let traffic = lab.client().traffic(lab.vip(PORT), 2).unwrap();
    traffic.wait_for_more(100, PATIENCE).unwrap();
    let larger = lab
        .balancer()
        .config(&[lab.service("web", PORT)])
        .replace("backends = 256", "backends = 512");
    weir.reload(&larger).unwrap();
    assert!(weir.status().unwrap().notices.iter().any(|n| n.contains("[limits]")));
    weir.restart().unwrap();
    traffic.wait_for_more(100, PATIENCE).unwrap();
    let tally = traffic.stop().unwrap();
    assert_eq!(tally.failed, 0, "{tally}");
    let events = weir.events().unwrap();
    assert!(events.iter().any(|e| e.kind == EventKind::Started { adopted: false }));
}
