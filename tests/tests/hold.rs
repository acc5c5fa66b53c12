//! Long-lived connections through what happens to the daemon, and to two of them.

#![allow(clippy::unwrap_used, reason = "a test says what it expects by unwrapping it")]

use weir_lab::{
    Lab,
    hold::{Event, PairEvent, PairScenario, Scenario, Setup},
};

#[test]
fn connections_outlive_the_daemon() {
    weir_lab::require_root().unwrap();
    let lab = Lab::builder().backends(4).build().unwrap();
    let mut scenario = Scenario::start(&lab, Setup::default()).unwrap();
    let backends = scenario.held().by_backend();
    assert_eq!((backends.len(), backends.values().sum::<usize>()), (3, 300), "{backends:?}");
    for event in [Event::Kill, Event::Restart, Event::ReloadSame, Event::Layout, Event::Resize] {
        let outcome = scenario.run(event).unwrap().expect("weir can do that");
        assert!(outcome.is_flawless(), "{outcome}");
        assert_eq!(outcome.connections, 300, "{outcome}");
    }
}

#[test]
fn connections_end_with_their_backend() {
    weir_lab::require_root().unwrap();
    let lab = Lab::builder().backends(4).build().unwrap();
    let mut scenario = Scenario::start(&lab, Setup::default()).unwrap();
    let of_b2 = scenario.held().by_backend()["b2"];
    let outcome = scenario.run(Event::KillBackend).unwrap().unwrap();
    assert_eq!(outcome.ended_with_backend, of_b2, "{outcome}");
    assert!(outcome.longest_end_ms < 1000.0, "{outcome}");
    assert!(!scenario.held().by_backend().contains_key("b2"), "{outcome}");
}

#[test]
fn connections_outlive_the_balancer() {
    weir_lab::require_root().unwrap();
    let lab = Lab::builder().backends(4).balancers(2).unclaimed_vip().build().unwrap();
    let mut scenario = PairScenario::start(&lab, Setup::default()).unwrap();
    for event in [PairEvent::PowerOff, PairEvent::Drain, PairEvent::Split] {
        let outcome = scenario.run(event).unwrap();
        assert!(outcome.is_flawless(), "{outcome}");
        assert_eq!(outcome.connections, 300, "{outcome}");
    }
}
