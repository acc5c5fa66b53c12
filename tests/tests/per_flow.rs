//! Balancing per flow, backups and services without affinity, with real clients and servers.

#![allow(clippy::unwrap_used, reason = "a test says what it expects by unwrapping it")]

use std::{thread::available_parallelism, time::Duration};

use weir::core::{BackendState, Status};
use weir_lab::{
    Lab, Service, Weir,
    backend::{LINE_PORT, UDP_PORT},
    hold::Held,
};

const PORT: u16 = 80;
const PATIENCE: Duration = Duration::from_secs(30);
/// Between two questions of a held connection.
const PERIOD: Duration = Duration::from_millis(200);

fn lab() -> Lab {
    weir_lab::require_root().unwrap();
    Lab::builder().backends(3).build().unwrap()
}

fn start(lab: &Lab, service: Service) -> Weir {
    let weir = lab.balancer().start_weir(&lab.balancer().config(&[service])).unwrap();
    weir.wait_until_up().unwrap();
    weir
}

/// The service whose connections are held, balanced so.
fn lines(lab: &Lab, algorithm: &str) -> Service {
    lab.service("web", LINE_PORT)
        .set("algorithm", &format!("\"{algorithm}\""))
        .set("idle_timeout", "\"5s\"")
        .health("type = \"tcp\"\ninterval = \"500ms\"\ntimeout = \"500ms\"")
}

fn hold(lab: &Lab, connections: usize) -> Held {
    let control = lab.backend("b1").socket(LINE_PORT);
    lab.client().hold(lab.vip(LINE_PORT), control, connections, PERIOD).unwrap()
}

#[track_caller]
fn assert_unbroken(held: &Held) {
    held.wait_until_answered(PATIENCE).unwrap();
    let broken = held.account().broken(|_| true).number;
    assert_eq!(broken, 0, "{:?}", held.account());
}

#[test]
fn round_robin_gives_each_backend_its_turn() {
    let lab = lab();
    let weir = start(&lab, lab.service("web", PORT).set("algorithm", "\"round_robin\""));
    let tally = lab.client().requests(lab.vip(PORT), 300, 1).unwrap();
    assert_eq!((tally.failed, tally.answered()), (0, 300), "{tally}");
    let cpus = available_parallelism().unwrap().get() as u64;
    for backend in ["b1", "b2", "b3"] {
        assert!(tally.by(backend).abs_diff(100) <= cpus, "{tally}");
        assert_eq!(weir.backend("web", backend).unwrap().new_flows, tally.by(backend));
    }
}

#[test]
fn least_conn_prefers_who_is_idle() {
    const HELD: usize = 60;
    let lab = lab();
    let weir = start(&lab, lines(&lab, "least_conn").without("b3"));
    let held = hold(&lab, HELD);
    let shares = held.by_backend();
    assert!(shares["b1"].abs_diff(shares["b2"]) <= HELD / 10, "{shares:?}");

    let address = lab.backend("b3").address().to_string();
    weir.cli(&["backend", "add", "web", "b3", "--address", &address]).unwrap();
    weir.wait_until_is("web", "b3", BackendState::Up, PATIENCE).unwrap();
    held.renew(HELD / 2);
    held.wait_until_answered(PATIENCE).unwrap();
    let shares = held.by_backend();
    // By turns or by hash it would be ten.
    assert!(shares["b3"] > HELD / 4, "{shares:?}");
    assert_unbroken(&held);
    // Counted by the next sweep.
    let tracked = |status: &Status| -> u64 {
        status.services[0].backends.iter().map(|backend| backend.tracked_flows).sum()
    };
    weir.wait_until(PATIENCE, "every held flow is recorded", |status| {
        tracked(status) >= HELD as u64
    })
    .unwrap();
}

#[test]
fn a_backup_serves_while_no_other_can_and_gives_back_without_breaking() {
    let lab = lab();
    let weir = start(&lab, lines(&lab, "maglev"));
    weir.cli(&["backend", "set", "web", "b3", "--backup"]).unwrap();
    let held = hold(&lab, 30);
    assert!(!held.by_backend().contains_key("b3"), "{:?}", held.by_backend());
    for backend in ["b1", "b2"] {
        weir.cli(&["backend", "drain", "web", backend]).unwrap();
    }
    held.renew(30);
    held.wait_until_answered(PATIENCE).unwrap();
    assert_eq!(held.by_backend(), [("b3".to_owned(), 30)].into());
    let reason = weir.backend("web", "b3").unwrap().reason;
    assert!(reason.contains("no other can"), "{reason}");

    held.begin();
    weir.cli(&["backend", "enable", "web", "b1"]).unwrap();
    held.renew(10);
    assert_unbroken(&held);
    assert_eq!(held.by_backend(), [("b1".to_owned(), 10), ("b3".to_owned(), 20)].into());
}

#[test]
fn a_reload_with_another_algorithm_breaks_no_connection() {
    let lab = lab();
    let weir = start(&lab, lines(&lab, "maglev"));
    let held = hold(&lab, 60);
    for algorithm in ["round_robin", "least_conn", "maglev", "round_robin", "ip_hash"] {
        weir.reload(&lab.balancer().config(&[lines(&lab, algorithm)])).unwrap();
        held.renew(20);
        assert_unbroken(&held);
    }
    // Until the slots have come to rest again.
    let settled = |weir: &Weir| {
        let metrics = weir.admin("/metrics").unwrap().body;
        let moving = "weir_slots{service=\"web\",state=\"moving\"} 0";
        metrics.contains(moving) || !metrics.contains("weir_slots{")
    };
    weir.wait_until(PATIENCE, "slots at rest", |_| settled(&weir)).unwrap();
    assert_unbroken(&held);
}

#[test]
fn without_affinity_datagrams_go_by_the_ring_and_nothing_is_recorded() {
    let lab = lab();
    let service = lab.service("web", UDP_PORT).udp().set("affinity", "false");
    let weir = start(&lab, service.health("type = \"none\""));
    weir.cli(&["backend", "drain", "web", "b1"]).unwrap();
    let tally = lab.client().udp_requests(lab.vip(UDP_PORT), 200, 2).unwrap();
    assert_eq!((tally.failed, tally.by("b1")), (0, 0), "{tally}");
    let status = weir.status().unwrap();
    assert!(status.services[0].backends.iter().all(|b| b.tracked_flows == 0), "{status:?}");
}
