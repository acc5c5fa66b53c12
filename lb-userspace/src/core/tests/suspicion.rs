//! Most fail together: is it them, or this machine?

use super::*;

const THREE: &str = "web 192.0.2.1:80 a=10.0.0.1 b=10.0.0.2 c=10.0.0.3";
/// The same, without a panic.
const CALM: &str = "web 192.0.2.1:80 panic=0 a=10.0.0.1 b=10.0.0.2 c=10.0.0.3";
/// `fall` intervals and a time-out by default, 3 * 3 s + 1 s, and a second more.
const PATIENCE: u64 = 11;

/// These fail at the same time, one check after the other.
fn fail_together(world: &mut World, backends: &[&str]) {
    for _ in 0..3 {
        for backend in backends {
            world.check(&id("web", backend), false);
        }
    }
}

fn ways(world: &World) -> Vec<Result<Ipv4Addr, Reason>> {
    (0..1000).map(|port| world.way(WEB, port)).collect()
}

fn lives(world: &World) -> Vec<u16> {
    world.core.services[&name("web")].backends.values().map(|b| b.life.number()).collect()
}

#[test]
fn when_most_fail_together_the_tables_stay_as_they_were() {
    let mut world = World::up(&[THREE]);
    let before = (ways(&world), lives(&world));
    fail_together(&mut world, &["a", "b", "c"]);
    assert!(world.core.machine_suspected());
    let suspected = EventKind::MachineSuspected { failing: 3, servers: 3 };
    assert_eq!(world.events.iter().filter(|event| **event == suspected).count(), 1);
    assert_eq!((ways(&world), lives(&world)), before, "no flow moved, none was given up");
    assert_eq!(world.state(&id("web", "a")).0, BackendState::Down, "what checks say is said");
    let status = world.core.status();
    assert!(status.machine_suspected && !status.services[0].panic);
    let reason = &status.services[0].backends[0].reason;
    assert_eq!(reason, "refused; serves all the same: this machine is suspected");
    // For as long as nobody answers.
    world.pass(100 * PATIENCE);
    assert_eq!((ways(&world), lives(&world)), before);
    world.check_invariants();
}

#[test]
fn it_ends_when_enough_recover_and_who_fails_on_goes_down() {
    let mut world = World::up(&[THREE]);
    fail_together(&mut world, &["a", "b", "c"]);
    let earlier = world.now();
    for backend in ["a", "a", "b", "b"] {
        assert!(world.core.machine_suspected());
        world.check(&id("web", backend), true);
    }
    assert!(!world.core.machine_suspected());
    let why = "1 of 3 servers fail".to_owned();
    assert!(world.events.contains(&EventKind::MachineTrusted { why }), "{:?}", world.events);
    assert_eq!(world.ways(WEB), [Ok(A), Ok(B), Ok(C)].into(), "it has not been checked since");
    let reason = &world.core.status().services[0].backends[2].reason;
    assert!(reason.ends_with("so its next check decides"), "{reason}");
    // A check that was under way says nothing of now.
    let outcome = Err("refused".to_owned());
    let now = world.now();
    let report = HealthReport { id: id("web", "c"), outcome, started: earlier, finished: now };
    world.core.health(&report, now);
    world.carry_out();
    assert_eq!(world.ways(WEB), [Ok(A), Ok(B), Ok(C)].into());
    world.check(&id("web", "c"), false);
    assert_eq!(world.ways(WEB), [Ok(A), Ok(B)].into());
    world.check_invariants();
}

#[test]
fn who_recovers_with_the_others_loses_no_slot() {
    let mut world = World::up(&[THREE]);
    let before = (ways(&world), lives(&world));
    fail_together(&mut world, &["a", "b", "c"]);
    for backend in ["a", "b", "c", "a", "b"] {
        world.check(&id("web", backend), true);
    }
    assert!(!world.core.machine_suspected());
    assert_eq!((ways(&world), lives(&world)), before);
    world.check(&id("web", "c"), true);
    assert_eq!(world.state(&id("web", "c")).0, BackendState::Up);
    assert_eq!((ways(&world), lives(&world)), before);
    world.check_invariants();
}

#[test]
fn who_is_doubted_when_all_fail_again_is_kept_with_them() {
    let mut world = World::up(&[THREE]);
    let before = ways(&world);
    fail_together(&mut world, &["a", "b", "c"]);
    for backend in ["a", "a", "b", "b"] {
        world.check(&id("web", backend), true);
    }
    assert!(!world.core.machine_suspected());
    fail_together(&mut world, &["a", "b"]);
    assert!(world.core.machine_suspected());
    world.check(&id("web", "c"), false);
    assert_eq!(ways(&world), before);
    world.check_invariants();
}

#[test]
fn those_that_fail_on_while_others_answer_are_believed() {
    let mut world = World::up(&[CALM]);
    fail_together(&mut world, &["a", "b"]);
    assert!(world.core.machine_suspected(), "two of three");
    world.check(&id("web", "c"), true);
    assert_eq!(world.ways(WEB), [Ok(A), Ok(B), Ok(C)].into(), "they may still come back");
    for _ in 0..PATIENCE {
        world.pass(1);
        world.check(&id("web", "c"), true);
    }
    assert!(!world.core.machine_suspected());
    assert_eq!(world.ways(WEB), [Ok(C)].into());
    // Known failures are no news, however often they are confirmed.
    fail_together(&mut world, &["a", "b"]);
    assert!(!world.core.machine_suspected());
    world.check_invariants();
}

#[test]
fn who_answers_first_after_a_long_cut_does_not_condemn_the_others() {
    let mut world = World::up(&[CALM]);
    let before = (ways(&world), lives(&world));
    fail_together(&mut world, &["a", "b", "c"]);
    world.pass(10 * PATIENCE);
    for backend in ["a", "b", "c", "c", "b", "a"] {
        world.check(&id("web", backend), true);
        assert_eq!((ways(&world), lives(&world)), before, "after {backend}");
    }
    assert!(!world.core.machine_suspected());
    world.check_invariants();
}

#[test]
fn an_answer_long_ago_condemns_nobody() {
    let mut world = World::up(&[CALM]);
    let before = ways(&world);
    fail_together(&mut world, &["a", "b", "c"]);
    world.pass(1);
    world.check(&id("web", "c"), true);
    // Nobody is reached any more when the time would be up.
    world.pass(10 * PATIENCE);
    fail_together(&mut world, &["a", "b", "c"]);
    assert!(world.core.machine_suspected());
    assert_eq!(ways(&world), before);
    world.check_invariants();
}

#[test]
fn a_half_or_fewer_go_down_as_usual() {
    let mut world = World::up(&["web 192.0.2.1:80 a=10.0.0.1 b=10.0.0.2 c=10.0.0.3 d=10.0.0.4"]);
    fail_together(&mut world, &["a", "b"]);
    assert!(!world.core.machine_suspected());
    assert_eq!(world.ways(WEB).len(), 2);
}

#[test]
fn failures_far_apart_do_not_add_up() {
    let mut world = World::up(&[CALM]);
    for backend in ["a", "b"] {
        fail_together(&mut world, &[backend]);
        world.pass(60);
        assert!(!world.core.machine_suspected());
    }
    assert_eq!(world.ways(WEB), [Ok(C)].into());
    // The last one that served is all that served.
    fail_together(&mut world, &["c"]);
    assert!(world.core.machine_suspected());
    assert_eq!(world.ways(WEB), [Ok(C)].into());
}

#[test]
fn a_server_of_several_services_counts_once() {
    let services = ["web 192.0.2.1:80 a=10.0.0.1 b=10.0.0.2", "api 192.0.2.2:80 a=10.0.0.1"];
    let mut world = World::up(&services);
    for _ in 0..3 {
        world.check(&id("web", "a"), false);
        world.check(&id("api", "a"), false);
    }
    assert!(!world.core.machine_suspected(), "one server of two");
    assert_eq!(world.ways(WEB), [Ok(B)].into());
}

#[test]
fn who_was_taken_out_too_early_is_given_its_slots_back() {
    let mut world = World::up(&["web 192.0.2.1:80 fall=1 a=10.0.0.1 b=10.0.0.2 c=10.0.0.3"]);
    let before = ways(&world);
    world.check(&id("web", "a"), false);
    assert_eq!(world.ways(WEB), [Ok(B), Ok(C)].into());
    world.check(&id("web", "b"), false);
    assert!(world.core.machine_suspected());
    assert_eq!(ways(&world), before);
    world.check_invariants();
}

/// All fail once, and all but one pass again; that one's second check fails as well. Whether it began
/// before they passed is the caller's choice.
fn dip(world: &mut World, begins_before: bool) {
    for backend in ["a", "b", "c"] {
        world.check(&id("web", backend), false);
    }
    let earlier = world.now();
    for backend in ["b", "c"] {
        world.check(&id("web", backend), true);
    }
    let finished = world.now();
    let started = if begins_before { earlier } else { finished };
    let outcome = Err("timed out".to_owned());
    world.core.health(&HealthReport { id: id("web", "a"), outcome, started, finished }, finished);
    world.carry_out();
    assert!(!world.core.machine_suspected());
    assert_eq!(world.state(&id("web", "a")).0, BackendState::Down, "what checks say is said");
}

const DIPPING: &str = "web 192.0.2.1:80 fall=2 a=10.0.0.1 b=10.0.0.2 c=10.0.0.3";

#[test]
fn who_falls_by_a_check_that_began_in_a_dip_keeps_its_slots_until_its_next() {
    for passes in [true, false] {
        let mut world = World::up(&[DIPPING]);
        let before = (ways(&world), lives(&world));
        dip(&mut world, true);
        assert_eq!((ways(&world), lives(&world)), before, "no flow moved, none was given up");
        world.check(&id("web", "a"), passes);
        let serves = world.ways(WEB).contains(&Ok(A));
        assert_eq!(serves, passes);
        world.check_invariants();
    }
}

#[test]
fn who_fails_on_after_a_dip_goes_down_as_usual() {
    let mut world = World::up(&[DIPPING]);
    dip(&mut world, false);
    assert_eq!(world.ways(WEB), [Ok(B), Ok(C)].into());
    world.check_invariants();
}

#[test]
fn a_dip_of_a_half_says_nothing_of_this_machine() {
    let mut world = World::up(&[&format!("{DIPPING} d=10.0.0.4 e=10.0.0.5 f=10.0.0.6")]);
    dip(&mut world, true);
    assert!(!world.ways(WEB).contains(&Ok(A)));
}

#[test]
fn an_operator_has_the_last_word() {
    let mut world = World::up(&[THREE]);
    fail_together(&mut world, &["a", "b", "c"]);
    world.command(Command::Maintenance(id("web", "a"))).unwrap();
    assert_eq!(world.ways(WEB), [Ok(B), Ok(C)].into());
    world.check_invariants();
}

#[test]
fn a_restart_goes_on_suspecting() {
    let mut world = World::up(&[THREE]);
    let before = ways(&world);
    fail_together(&mut world, &["a", "b", "c"]);
    assert_eq!(world.restart(config(&[THREE])), 0);
    assert!(world.core.machine_suspected());
    assert_eq!(ways(&world), before);
    for backend in ["a", "b"] {
        world.check(&id("web", backend), true);
        world.check(&id("web", backend), true);
    }
    assert!(!world.core.machine_suspected());
    world.check(&id("web", "c"), false);
    assert_eq!(world.ways(WEB), [Ok(A), Ok(B)].into());
    world.check_invariants();
}
