//! What keeps flows where they are: doubt about this machine, a panic, a slow start, a plan, and
//! tables of another layout.

#![allow(clippy::unwrap_used, reason = "a test says what it expects by unwrapping it")]

use std::{
    fs,
    net::SocketAddr,
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

use weir::{
    core::{BackendState, EventKind, Explanation, Plan},
    dataplane::OLDEST_READABLE,
};
use weir_lab::{Lab, Weir, backend::LINE_PORT};

const PORT: u16 = 80;
const PATIENCE: Duration = Duration::from_secs(20);
const BACKENDS: [&str; 3] = ["b1", "b2", "b3"];

fn lab() -> Lab {
    weir_lab::require_root().unwrap();
    Lab::builder().backends(3).build().unwrap()
}

fn start(lab: &Lab) -> Weir {
    let weir =
        lab.balancer().start_weir(&lab.balancer().config(&[lab.service("web", PORT)])).unwrap();
    weir.wait_until_up().unwrap();
    weir
}

fn metric(weir: &Weir, line: &str) -> bool {
    weir.admin("/metrics").unwrap().body.lines().any(|found| found == line)
}

fn state_dir(lab: &Lab) -> PathBuf {
    lab.balancer().namespace().directory().join("state")
}

#[test]
fn when_all_checks_fail_together_clients_notice_nothing() {
    let lab = lab();
    let weir = start(&lab);
    let traffic = lab.client().traffic(lab.vip(PORT), 2).unwrap();
    traffic.wait_for_more(50, PATIENCE).unwrap();
    for backend in BACKENDS {
        lab.backend(backend).set_healthy(false).unwrap();
    }
    weir.wait_until(PATIENCE, "doubt", |status| status.machine_suspected).unwrap();
    assert!(metric(&weir, "weir_machine_suspected 1"));
    let events = weir.events().unwrap();
    let suspected = |kind: &EventKind| matches!(kind, EventKind::MachineSuspected { .. });
    assert!(events.iter().any(|event| suspected(&event.kind)), "{events:?}");
    for backend in BACKENDS {
        weir.wait_until_is("web", backend, BackendState::Down, PATIENCE).unwrap();
    }
    traffic.wait_for_more(200, PATIENCE).unwrap();
    assert!(weir.cli(&["status"]).unwrap().contains("note: this machine is suspected"));
    for backend in BACKENDS {
        lab.backend(backend).set_healthy(true).unwrap();
    }
    weir.wait_until_up().unwrap();
    assert!(!weir.status().unwrap().machine_suspected);
    let tally = traffic.stop().unwrap();
    assert_eq!(tally.failed, 0, "{tally}");
}

#[test]
fn too_few_healthy_backends_share_the_load_with_all() {
    let lab = lab();
    let weir = start(&lab);
    for backend in ["b1", "b2"] {
        lab.backend(backend).set_healthy(false).unwrap();
        weir.wait_until_is("web", backend, BackendState::Down, PATIENCE).unwrap();
    }
    // However close together they failed: in the end they are believed.
    weir.wait_until(PATIENCE, "a panic", |status| {
        status.services[0].panic && !status.machine_suspected
    })
    .unwrap();
    assert!(metric(&weir, "weir_service_panic{service=\"web\"} 1"));
    let tally = lab.client().requests(lab.vip(PORT), 300, 2).unwrap();
    assert_eq!((tally.failed, tally.answers.len()), (0, 3), "{tally}");

    lab.backend("b1").set_healthy(true).unwrap();
    weir.wait_until(PATIENCE, "its end", |status| !status.services[0].panic).unwrap();
    let tally = lab.client().requests(lab.vip(PORT), 300, 2).unwrap();
    assert_eq!((tally.failed, tally.by("b2")), (0, 0), "{tally}");
    let events = weir.events().unwrap();
    for name in ["\"panic\"", "\"panic_over\""] {
        let told = |kind: &EventKind| serde_json::to_string(kind).unwrap().contains(name);
        assert!(events.iter().any(|event| told(&event.kind)), "{name} in {events:?}");
    }
}

#[test]
fn a_recovered_backend_gets_its_slots_in_steps() {
    let lab = lab();
    let service = lab.service("web", PORT).set("slow_start", "\"60s\"");
    let weir = lab.balancer().start_weir(&lab.balancer().config(&[service])).unwrap();
    weir.wait_until_up().unwrap();
    lab.backend("b2").kill();
    weir.wait_until_is("web", "b2", BackendState::Down, PATIENCE).unwrap();
    lab.backend("b2").revive().unwrap();
    weir.wait_until_is("web", "b2", BackendState::Up, PATIENCE).unwrap();
    let first = weir.backend("web", "b2").unwrap();
    assert!(first.slots > 0 && first.slots < 65_537 / 3, "{first:?}");
    assert!(first.reason.contains("slow start, step"), "{first:?}");
    weir.wait_until(PATIENCE, "the next step", |status| {
        status.services[0].backends[1].slots > first.slots
    })
    .unwrap();
}

#[test]
fn a_plan_says_what_the_command_then_does() {
    let lab = lab();
    let weir = start(&lab);
    let command = ["backend", "maintenance", "web", "b1"];
    let slots = || weir.backend("web", "b1").unwrap().slots;
    let before = slots();
    let plan: Plan =
        serde_json::from_value(weir.json(&[&["plan"][..], &command].concat()).unwrap()).unwrap();
    assert_eq!(slots(), before, "nothing has moved");
    assert_eq!(plan.breaks.iter().map(ToString::to_string).collect::<Vec<_>>(), ["b1"]);
    let from_b1 = |a_move: &&weir::core::Move| a_move.from.as_ref().unwrap().as_str() == "b1";
    let leaving: u32 = plan.moves.iter().filter(from_b1).map(|a_move| a_move.slots).sum();
    assert_eq!(leaving, before);
    let text = weir.cli(&["plan", "backend", "drain", "web", "b1"]).unwrap();
    assert!(text.contains("no connection would break"), "{text}");
    let refused = weir.cli(&["plan", "backend", "drain", "web", "b9"]).unwrap_err().to_string();
    assert!(refused.contains("there is no backend web/b9"), "{refused}");
    assert!(weir.cli(&command).unwrap().contains(&plan.message));
    assert_eq!(slots(), 0);
}

#[test]
fn explain_tells_an_opening_packet_from_a_later_one() {
    let lab = lab();
    let weir = start(&lab);
    weir.cli(&["backend", "drain", "web", "b1"]).unwrap();
    let ask = |port: u16, more: &[&str]| -> Explanation {
        let source = SocketAddr::new(lab.client().address().into(), port).to_string();
        let vip = lab.vip(PORT).to_string();
        let words = [&["explain", "tcp", &source, &vip][..], more].concat();
        serde_json::from_value(weir.json(&words).unwrap()).unwrap()
    };
    let moving = (20_000..20_200).find(|port| ask(*port, &[]).reason == "moving: prior");
    let port = moving.expect("b1 had a third of the slots");
    let opening = ask(port, &["--opening"]);
    assert_eq!(ask(port, &[]).backend.unwrap().as_str(), "b1");
    assert_eq!(opening.reason, "moving: opening");
    let named = opening.backend.unwrap();
    assert_ne!(named.as_str(), "b1");
    assert_eq!(lab.client().request_from(port, lab.vip(PORT)).unwrap(), named.as_str());
}

#[test]
fn tables_of_another_layout_fill_new_ones_and_unknown_ones_are_said() {
    let lab = lab();
    let config = lab.balancer().config(&[lab.service("line", LINE_PORT)]);
    let mut weir = lab.balancer().start_weir(&config).unwrap();
    weir.wait_until_up().unwrap();
    let control = lab.backend("b3").socket(LINE_PORT);
    let period = Duration::from_millis(200);
    let held = lab.client().hold(lab.vip(LINE_PORT), control, 60, period).unwrap();
    weir.cli(&["backend", "drain", "line", "b1"]).unwrap();
    let tracked = |status: &weir::core::Status| status.services[0].backends[0].tracked_flows;
    weir.wait_until(PATIENCE, "recorded flows", |status| tracked(status) > 5).unwrap();
    let before = tracked(&weir.status().unwrap());

    weir.kill();
    pretend_layout(&lab, OLDEST_READABLE);
    weir.start().unwrap();
    let anew = EventKind::Started { adopted: false };
    assert!(weir.events().unwrap().iter().any(|event| event.kind == anew));
    weir.wait_until(PATIENCE, "the records", |status| tracked(status) >= before).unwrap();
    held.wait_until_answered(PATIENCE).unwrap();
    assert_eq!(held.account().broken(|_| true).number, 0);
    assert_eq!(weir.status().unwrap().notices, Vec::<String>::new());

    weir.kill();
    pretend_layout(&lab, 999);
    weir.start().unwrap();
    let notices = weir.status().unwrap().notices;
    assert!(notices.iter().any(|n| n.contains("their layout is version 999")), "{notices:?}");
    assert_eq!(weir.backend("line", "b1").unwrap().state, BackendState::Draining);
    held.renew(10);
    held.wait_until_answered(PATIENCE).unwrap();
}

/// Has the state say that the tables are of another layout.
fn pretend_layout(lab: &Lab, version: u32) {
    let path = state_dir(lab).join("state.json");
    let mut state: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    state["tables"]["layout"] = version.into();
    fs::write(&path, state.to_string()).unwrap();
}

#[test]
fn a_state_that_cannot_be_written_is_said_until_it_can() {
    let lab = lab();
    let weir = start(&lab);
    let obstacle = state_dir(&lab).join("state.json.new");
    // The daemon may be writing that very file at the moment.
    let end = Instant::now() + PATIENCE;
    while let Err(error) = fs::create_dir(&obstacle) {
        assert!(Instant::now() < end, "{error}");
        thread::sleep(Duration::from_millis(5));
    }
    weir.cli(&["backend", "set", "web", "b1", "--weight", "2"]).unwrap();
    let said = |status: &weir::core::Status| {
        status.notices.iter().any(|notice| notice.contains("the state is not kept"))
    };
    weir.wait_until(PATIENCE, "a note", said).unwrap();
    assert_eq!(lab.client().requests(lab.vip(PORT), 100, 2).unwrap().failed, 0);
    fs::remove_dir(&obstacle).unwrap();
    weir.wait_until(PATIENCE, "the note's end", |status| !said(status)).unwrap();
    let kept = fs::read_to_string(state_dir(&lab).join("state.json")).unwrap();
    assert!(kept.contains("\"weight\": 2"), "what was changed meanwhile is kept: {kept}");
    let events = weir.events().unwrap();
    assert!(events.iter().any(|event| event.kind == EventKind::StateKept), "{events:?}");
}

#[test]
fn a_ruined_state_is_put_aside_and_flows_keep_their_slots() {
    let lab = lab();
    let mut weir = start(&lab);
    let ways = |weir: &Weir| -> Vec<_> {
        let from = |port| SocketAddr::new(lab.client().address().into(), port);
        let ask = |port| weir.explain("tcp", from(port), lab.vip(PORT)).unwrap();
        (20_000..20_020).map(ask).map(|said| (said.slot, said.backend)).collect()
    };
    let before = ways(&weir);
    weir.kill();
    fs::write(state_dir(&lab).join("state.json"), [0xFF, 0xFE]).unwrap();
    weir.start().unwrap();
    weir.wait_until_up().unwrap();
    let notices = weir.status().unwrap().notices;
    assert!(notices.iter().any(|notice| notice.contains("state.json.bad")), "{notices:?}");
    assert_eq!(ways(&weir), before);
    assert_eq!(fs::read(state_dir(&lab).join("state.json.bad")).unwrap(), [0xFF, 0xFE]);
}
