//! The admin endpoint as a scraper and a supervisor see it.

use std::time::{Duration, SystemTime};

use tokio::{net::TcpStream, sync::watch};

use super::{Metrics, Server};
use crate::{
    control::Handle,
    core::{HealthReport, Now, Phases},
    http::{
        Limits,
        testing::{self, Answer, daemon, id, silent_daemon},
    },
};

struct Fixture {
    address: std::net::SocketAddr,
    ready: watch::Sender<bool>,
    metrics: Metrics,
    // Dropping it would stop the server.
    _stop: watch::Sender<bool>,
}

impl Fixture {
    async fn new(handle: Handle) -> Self {
        let loopback = ([127, 0, 0, 1], 0).into();
        let server = Server::bind(loopback).await.expect("binds");
        let address = server.local_addr().expect("an address");
        let limits = Limits { answer_timeout: Duration::from_millis(50), ..Limits::default() };
        let (ready, is_ready) = watch::channel(false);
        let (stop, stopped) = watch::channel(false);
        let metrics = Metrics::default();
        let run = server.with_limits(limits).run(handle, metrics.clone(), is_ready, stopped);
        tokio::spawn(run);
        Self { address, ready, metrics, _stop: stop }
    }

    async fn ask(&self, line: &str) -> Answer {
        let stream = TcpStream::connect(self.address).await.expect("connects");
        testing::request(stream, line, "", "").await
    }
}

fn report(backend: &str, outcome: Result<(), String>) -> HealthReport {
    let at =
        |millis| Now { monotonic: Duration::from_millis(millis), wall: SystemTime::UNIX_EPOCH };
    HealthReport { id: id(backend), outcome, started: at(1000), finished: at(1003) }
}

#[tokio::test]
async fn metrics_have_the_promised_names_and_labels() {
    let server = Fixture::new(daemon()).await;
    server.metrics.health_check(&report("a", Ok(())));
    server.metrics.health_check(&report("a", Err("refused".to_owned())));
    server.metrics.health_check(&report("removed", Ok(())));
    server.metrics.failover(&Phases { detect: 0.3, decide: 0.000_02, apply: 0.002 });

    let answer = server.ask("GET /metrics").await;
    assert_eq!(answer.status, 200);
    assert!(answer.header.contains("application/openmetrics-text; version=1.0.0"));
    for line in r#"
weir_build_info{version="0.1.0"} 1
weir_backend_packets_total{service="web",backend="a"} 30
weir_backend_bytes_total{service="web",backend="a"} 3000
weir_backend_new_flows_total{service="web",backend="b"} 2
weir_backend_up{service="web",backend="a"} 1
weir_backend_up{service="web",backend="b"} 0
weir_backend_state{service="web",backend="b",state="down"} 1
weir_backend_state{service="web",backend="b",state="up"} 0
weir_backend_slots{service="web",backend="a"} 65537
weir_service_packets_total{service="web"} 70
weir_service_bytes_total{service="web"} 7000
weir_slots{service="web",state="settled"} 60000
weir_slots{service="web",state="moving"} 5000
weir_slots{service="web",state="exceptions"} 537
weir_flows_recorded 42
weir_flows_half_open 3
weir_flows_limit 65536
weir_flows_lost_total{stage="confirmed"} 1
weir_flows_lost_total{stage="half_open"} 2
weir_packets_total{verdict="tx"} 73
weir_packets_total{verdict="redirect"} 10
weir_packets_total{verdict="pass"} 7
weir_packets_total{verdict="drop"} 5
weir_drops_total{reason="no_backend"} 5
weir_passes_total{reason="icmp"} 4
weir_answers_total{reason="ping"} 6
weir_second_chances_total 7
weir_health_checks_total{service="web",backend="a",result="pass"} 1
weir_health_checks_total{service="web",backend="a",result="fail"} 1
weir_health_check_seconds_count 3
weir_health_check_seconds_bucket{le="0.005"} 3
weir_health_check_seconds_bucket{le="0.002"} 0
weir_failover_seconds_count{phase="detect"} 1
weir_failover_seconds_bucket{le="0.25",phase="detect"} 0
weir_failover_seconds_bucket{le="0.5",phase="detect"} 1
weir_failover_seconds_count{phase="apply"} 1
"#
    .trim()
    .lines()
    {
        assert!(answer.body.lines().any(|l| l == line), "{line} is not in:\n{}", answer.body);
    }
    assert!(answer.body.ends_with("# EOF\n"));
    assert!(!answer.body.contains("removed"), "a backend that does not exist is shown");

    server.metrics.forget(&id("a"));
    let answer = server.ask("GET /metrics").await;
    assert!(!answer.body.contains("weir_health_checks"), "a forgotten backend is shown");
}

#[tokio::test]
async fn readiness_follows_the_program() {
    let server = Fixture::new(daemon()).await;
    let before = server.ask("GET /readyz").await;
    assert_eq!(before.status, 503);
    assert!(before.body.contains("not attached"), "{}", before.body);
    server.ready.send_replace(true);
    assert_eq!(server.ask("GET /readyz").await.status, 200);
}

#[tokio::test]
async fn health_is_that_of_the_daemons_task() {
    let server = Fixture::new(daemon()).await;
    let healthy = server.ask("GET /healthz").await;
    assert_eq!((healthy.status, healthy.body.as_str()), (200, "ok\n"));

    let (handle, _requests) = silent_daemon();
    let server = Fixture::new(handle).await;
    assert_eq!(server.ask("GET /healthz").await.status, 503);
    assert_eq!(server.ask("GET /metrics").await.status, 503);
}

#[tokio::test]
async fn nothing_else_is_served() {
    let server = Fixture::new(daemon()).await;
    assert_eq!(server.ask("GET /v1/status").await.status, 404);
    let post = server.ask("POST /metrics").await;
    assert_eq!(post.status, 405);
    assert!(post.header.contains("allow: get, head"), "{}", post.header);
    let head = server.ask("HEAD /healthz").await;
    assert_eq!((head.status, head.body.as_str()), (200, ""));
}
