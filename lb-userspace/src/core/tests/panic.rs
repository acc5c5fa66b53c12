//! Too few are healthy: flows are spread over all.

use super::*;

/// Three of which `fail` went down, far enough apart to be believed.
fn three_less(setting: &str, fail: &[&str]) -> World {
    let web = format!("web 192.0.2.1:80 {setting} a=10.0.0.1 b=10.0.0.2 c=10.0.0.3");
    let mut world = World::up(&[&web]);
    for backend in fail {
        world.pass(60);
        world.fail(&id("web", backend));
    }
    assert!(!world.core.machine_suspected());
    world
}

#[test]
fn below_the_threshold_flows_go_to_all_of_them_again() {
    let mut world = three_less("panic=0.5", &["a"]);
    assert_eq!(world.ways(WEB), [Ok(B), Ok(C)].into(), "two of three are enough");
    let life = world.core.backend(&id("web", "b")).unwrap().life;
    world.pass(60);
    world.fail(&id("web", "b"));
    let panic = EventKind::Panic { service: name("web"), healthy: 1, of: 3 };
    assert_eq!(world.events.iter().filter(|event| **event == panic).count(), 1);
    assert_eq!(world.ways(WEB), [Ok(A), Ok(B), Ok(C)].into());
    assert_eq!(world.core.backend(&id("web", "b")).unwrap().life, life, "its flows are kept");
    assert!(world.core.status().services[0].panic);
    let reason = world.core.status().services[0].backends[1].reason.clone();
    assert_eq!(reason, "refused; serves all the same: the service panics");
    world.check_invariants();

    for _ in 0..2 {
        world.check(&id("web", "a"), true);
    }
    assert!(world.events.contains(&EventKind::PanicOver { service: name("web") }));
    assert_eq!(world.ways(WEB), [Ok(A), Ok(C)].into());
    world.check_invariants();
}

#[test]
fn the_threshold_is_the_services_own_and_zero_turns_it_off() {
    assert_eq!(three_less("panic=0", &["a", "b"]).ways(WEB), [Ok(C)].into());
    assert_eq!(three_less("panic=0.3", &["a", "b"]).ways(WEB), [Ok(C)].into(), "a third is more");
    assert_eq!(three_less("panic=0.34", &["a", "b"]).ways(WEB).len(), 3);
    assert_eq!(three_less("panic=1", &["a"]).ways(WEB).len(), 3);
}

#[test]
fn a_changed_threshold_holds_at_once() {
    let mut world = three_less("panic=0.5", &["a", "b"]);
    assert_eq!(world.ways(WEB).len(), 3);
    let off = "web 192.0.2.1:80 panic=0 a=10.0.0.1 b=10.0.0.2 c=10.0.0.3";
    world.reload(config(&[off])).unwrap();
    assert_eq!(world.ways(WEB), [Ok(C)].into());
    world.check_invariants();
}

#[test]
fn half_of_two_is_no_panic() {
    let mut world = two();
    world.fail(&id("web", "a"));
    assert_eq!(world.ways(WEB), [Ok(B)].into());
}

#[test]
fn who_never_served_does_not_count() {
    let mut world = World::new(config(&["web 192.0.2.1:80 a=10.0.0.1 b=10.0.0.2 c=10.0.0.3"]));
    world.find_all();
    for (backend, passes) in [("a", false), ("b", false), ("c", true)] {
        world.check(&id("web", backend), passes);
    }
    assert_eq!(world.ways(WEB), [Ok(C)].into(), "the others may not be there yet");
    assert!(!world.core.status().services[0].panic);
}

#[test]
fn whom_an_operator_took_out_neither_counts_nor_serves() {
    let mut world = three_less("panic=0.5", &[]);
    for command in [Command::Maintenance(id("web", "a")), Command::Drain(id("web", "b"))] {
        world.command(command).unwrap();
    }
    assert_eq!(world.ways(WEB), [Ok(C)].into(), "one of one");
    let said = world.command(Command::Maintenance(id("web", "c"))).unwrap();
    assert!(said.ends_with("it was the last one: web has no backend for new flows now"), "{said}");
    assert_eq!(world.ways(WEB), [Err("no_backend")].into());
    world.check_invariants();
}

#[test]
fn a_restart_changes_nothing_about_it() {
    let mut world = three_less("panic=0.5", &["a", "b"]);
    let web = "web 192.0.2.1:80 panic=0.5 a=10.0.0.1 b=10.0.0.2 c=10.0.0.3";
    assert_eq!(world.restart(config(&[web])), 0);
    assert_eq!(world.ways(WEB).len(), 3);
    world.check_invariants();
}
