//! Commands, reloads and restarts.

use super::*;

#[test]
fn maintenance_lasts_over_checks_restarts_and_reloads() {
    let mut world = two();
    world.command(Command::Maintenance(id("web", "a"))).unwrap();
    world.check(&id("web", "a"), true);
    let config = config(&["web 192.0.2.1:80 a=10.0.0.1 b=10.0.0.2"]);
    assert_eq!(world.restart(config.clone()), 0);
    world.reload(config).unwrap();
    assert_eq!(world.state(&id("web", "a")).0, BackendState::Maintenance);
    assert_eq!(world.ways(WEB), [Ok(B)].into());
    world.command(Command::Enable(id("web", "a"))).unwrap();
    assert_eq!(world.ways(WEB), [Ok(A), Ok(B)].into());
}

#[test]
fn a_restart_changes_no_slot_and_keeps_what_is_down_down() {
    let mut world = World::up(&[
        "web 192.0.2.1:80 a=10.0.0.1 b=10.0.0.2",
        "api 192.0.2.2:80 a=10.0.0.1 c=10.0.0.3*3",
    ]);
    world.fail(&id("api", "a"));
    let ways = |world: &World| {
        (0..1000).map(|p| (world.way(WEB, p), world.way("192.0.2.2:80", p))).collect::<Vec<_>>()
    };
    let before = ways(&world);
    let moved = world.restart(config(&[
        "web 192.0.2.1:80 a=10.0.0.1 b=10.0.0.2",
        "api 192.0.2.2:80 a=10.0.0.1 c=10.0.0.3*3",
    ]));
    assert_eq!((moved, ways(&world)), (0, before));
    assert_eq!(world.state(&id("api", "a")), (BackendState::Down, "refused".to_owned()));
    world.check_invariants();
}

#[test]
fn a_restart_with_another_configuration_makes_it_so() {
    let mut world = World::up(&["web 192.0.2.1:80 a=10.0.0.1", "old 192.0.2.9:80 b=10.0.0.2"]);
    world.restart(config(&["web 192.0.2.5:81 ring=2003 a=10.0.0.1 c=10.0.0.3"]));
    assert_eq!(world.ways("192.0.2.5:81"), [Ok(A)].into(), "c is not checked yet");
    assert_eq!(world.ways(WEB), [Err("no_service")].into());
    assert_eq!(world.ways("192.0.2.9:80"), [Err("no_service")].into());
    world.check_invariants();
}

#[test]
fn commands_add_change_and_remove_and_refuse_what_cannot_be() {
    let mut world = two();
    let put = |backend: &str, change: BackendChange, expect| Command::Put {
        id: id("web", backend),
        change,
        expect,
    };
    let at = |address: &str| BackendChange {
        address: Some(address.parse().unwrap()),
        ..BackendChange::default()
    };
    let weight = |weight| BackendChange { weight: Some(weight), ..BackendChange::default() };
    world.command(put("c", at("10.0.0.3"), Expect::Absent)).unwrap();
    world.find_all();
    world.check(&id("web", "c"), true);
    assert_eq!(world.ways(WEB).len(), 3);
    world.command(put("c", weight(0), Expect::Present)).unwrap();
    assert_eq!(world.ways(WEB).len(), 2);
    world.command(Command::Remove { id: id("web", "a"), now: true }).unwrap();
    assert_eq!(world.ways(WEB), [Ok(B)].into());

    let before = format!("{:?}", world.core.status());
    for (command, code) in [
        (put("c", at("10.0.0.4"), Expect::Absent), "exists"),
        (put("x", at("10.0.0.4"), Expect::Present), "no_backend"),
        (put("x", weight(1), Expect::Any), "invalid"),
        (put("x", at("10.0.0.3"), Expect::Any), "invalid"),
        (put("x", at("192.0.2.1"), Expect::Any), "invalid"),
        (put("x", at("::1"), Expect::Any), "invalid"),
        (put("x", at("224.0.0.1"), Expect::Any), "invalid"),
        (put("c", weight(257), Expect::Any), "invalid"),
        (Command::Remove { id: id("web", "a"), now: true }, "no_backend"),
        (Command::Enable(id("nowhere", "a")), "no_service"),
    ] {
        assert_eq!(world.command(command.clone()).unwrap_err().code(), code, "{command:?}");
    }
    assert_eq!(format!("{:?}", world.core.status()), before);
    world.check_invariants();
}

#[test]
fn full_tables_refuse_and_leave_all_as_it_was() {
    let mut world = two();
    let put = |n: u8| Command::Put {
        id: id("web", &format!("x{n}")),
        change: BackendChange {
            address: Some(Ipv4Addr::new(10, 0, 1, n).into()),
            ..BackendChange::default()
        },
        expect: Expect::Any,
    };
    for n in 1..=4 {
        world.command(put(n)).unwrap();
    }
    let error = world.command(put(5)).unwrap_err();
    assert!(error.to_string().contains("limits.backends"), "{error}");
    world.check_invariants();
    // What one gives back another may have.
    world.command(Command::Remove { id: id("web", "x1"), now: true }).unwrap();
    world.command(put(5)).unwrap();
    world.check_invariants();
}

#[test]
fn the_later_edit_wins_backend_by_backend() {
    let mut world = two();
    let weight = |weight| BackendChange { weight: Some(weight), ..BackendChange::default() };
    for backend in ["a", "b"] {
        let (id, change) = (id("web", backend), weight(5));
        world.command(Command::Put { id, change, expect: Expect::Present }).unwrap();
    }
    world.reload(config(&["web 192.0.2.1:80 a=10.0.0.1*7 b=10.0.0.2"])).unwrap();
    let weights: Vec<u16> =
        world.core.status().services[0].backends.iter().map(|b| b.weight).collect();
    assert_eq!(weights, [7, 5]);
    assert!(world.core.status().notices[0].contains("web/a"), "{:?}", world.core.status().notices);
}

#[test]
fn a_reload_that_does_not_fit_changes_nothing() {
    let mut world = World::up(&["web 192.0.2.1:80 a=10.0.0.1"]);
    // The new ring must stand beside the old one for a moment, and does not fit there.
    let error = world.reload(config(&["web 192.0.2.1:80 ring=4079 a=10.0.0.1"])).unwrap_err();
    assert!(error.contains("limits.ring_slots"), "{error}");
    assert_eq!(world.ways(WEB), [Ok(A)].into());
    world.check_invariants();
}

#[test]
fn services_may_swap_their_vips_and_take_one_that_another_leaves() {
    const OTHER: &str = "192.0.2.9:80";
    let mut world = World::up(&["a 192.0.2.1:80 x=10.0.0.1", "b 192.0.2.2:80 y=10.0.0.2"]);
    let only = |last| BTreeSet::from([Ok(Ipv4Addr::new(10, 0, 0, last))]);
    // Again and again, so that a place that is wrongly thought free is given away.
    for _ in 0..8 {
        let swapped = config(&["a 192.0.2.2:80 x=10.0.0.1", "b 192.0.2.1:80 y=10.0.0.2"]);
        world.reload(swapped).unwrap();
        assert_eq!((world.ways("192.0.2.2:80"), world.ways("192.0.2.1:80")), (only(1), only(2)));
        world.check_invariants();
        let shifted = config(&["b 192.0.2.2:80 y=10.0.0.2", "a 192.0.2.9:80 x=10.0.0.1"]);
        world.reload(shifted).unwrap();
        assert_eq!((world.ways(OTHER), world.ways("192.0.2.2:80")), (only(1), only(2)));
        world.check_invariants();
    }
}
