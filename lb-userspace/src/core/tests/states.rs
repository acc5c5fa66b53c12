//! What checks and neighbours say of backends, and where flows go by it.

use lb_common::layout::BackendEntry;

use super::*;
use crate::config::Forward;

#[test]
fn a_backend_serves_once_it_is_found_and_checked() {
    let mut world = World::new(config(&["web 192.0.2.1:80 a=10.0.0.1"]));
    assert_eq!(world.ways(WEB), [Err("no_backend")].into());
    world.check_all();
    assert_eq!(world.ways(WEB), [Err("no_backend")].into());
    assert_eq!(world.state(&id("web", "a")).1, "looking for the way to it");
    world.find_all();
    assert_eq!(world.ways(WEB), [Ok(A)].into());
}

#[test]
fn a_backend_that_falls_leaves_and_one_that_rises_returns() {
    let mut world = two();
    let before: Vec<_> = (0..1000).map(|port| world.way(WEB, port)).collect();
    world.check(&id("web", "a"), false);
    assert_eq!(
        world.state(&id("web", "a")),
        (BackendState::Suspect, "1 of 3 checks failed: refused".to_owned())
    );
    assert_eq!(world.ways(WEB), [Ok(A), Ok(B)].into(), "a suspect keeps its flows");
    world.check(&id("web", "a"), false);
    world.check(&id("web", "a"), false);
    assert_eq!(world.state(&id("web", "a")), (BackendState::Down, "refused".to_owned()));
    assert_eq!(world.ways(WEB), [Ok(B)].into());
    world.check(&id("web", "a"), true);
    assert_eq!(world.ways(WEB), [Ok(B)].into(), "one pass of two");
    world.check(&id("web", "a"), true);
    assert_eq!((0..1000).map(|port| world.way(WEB, port)).collect::<Vec<_>>(), before);
}

#[test]
fn an_event_says_what_happened_and_how_many_slots_moved() {
    let mut world = two();
    world.events.clear();
    world.fail(&id("web", "b"));
    let moved: u32 = world
        .events
        .iter()
        .map(|event| match event {
            EventKind::Backend { slots_moved, .. } => *slots_moved,
            _ => 0,
        })
        .sum();
    // Half of 1009 slots, as Maglev divides them.
    assert!((495..515).contains(&moved), "{moved}");
}

#[test]
fn a_reload_that_puts_a_tunnel_on_the_way_closes_the_entry_first() {
    let mut world = two();
    let number =
        world.core.services.values().next().unwrap().backends.values().next().unwrap().number;
    let now = world.now();
    for forward in [Forward::Gue, Forward::Ipip, Forward::L2] {
        let mut config = world.core.config.clone();
        config.services[0].forward = forward;
        world.core.reload(config, now).unwrap();
        let of_it = |action: &Action| match action {
            Action::Write(Write::BackendClosed(n)) if *n == number => Some("closed"),
            Action::Write(Write::Backend(n, _)) if *n == number => Some("written"),
            _ => None,
        };
        let actions: Vec<_> = world.core.actions.iter().filter_map(of_it).collect();
        assert_eq!(actions, ["closed", "written"], "{forward:?}");
        world.carry_out();
        let entry = world.tables.backend(number).unwrap();
        assert_eq!(entry.link.load() & BackendEntry::TUNNEL != 0, forward.is_tunnel());
        assert_eq!(world.ways(WEB), [Ok(A), Ok(B)].into());
    }
}

#[test]
fn a_lost_neighbour_counts_only_where_nothing_else_checks() {
    let mut world = two();
    let now = world.now();
    let lost = Err("10.0.0.1 does not answer ARP on x".to_owned());
    world.core.next_hop(NextHopReport { address: A.into(), outcome: lost.clone() }, now);
    world.carry_out();
    assert_eq!(world.ways(WEB), [Ok(A), Ok(B)].into());

    let mut unchecked = config(&["web 192.0.2.1:80 a=10.0.0.1 b=10.0.0.2"]);
    unchecked.services[0].health.kind = config::CheckKind::None;
    let mut world = World::new(unchecked);
    world.find_all();
    assert_eq!(world.ways(WEB), [Ok(A), Ok(B)].into());
    let now = world.now();
    world.core.next_hop(NextHopReport { address: A.into(), outcome: lost }, now);
    world.carry_out();
    assert_eq!(world.ways(WEB), [Ok(B)].into());
    assert_eq!(world.state(&id("web", "a")).1, "10.0.0.1 does not answer ARP on x");
}

#[test]
fn the_last_backend_without_weight_keeps_its_old_flows() {
    let mut world = two();
    for backend in ["a", "b"] {
        let change = BackendChange { weight: Some(0), ..BackendChange::default() };
        let id = id("web", backend);
        world.command(Command::Put { id, change, expect: Expect::Present }).unwrap();
    }
    let service = &world.core.services[&name("web")];
    assert!(service.ring.slots().iter().all(|slot| matches!(slot.prior(), Prior::Moving(_))));
}

#[test]
fn explain_names_the_service_for_every_port() {
    let world = World::up(&["all 192.0.2.3:0 a=10.0.0.1", "web 192.0.2.3:80 b=10.0.0.2"]);
    let at = |text: &str| world.core.service_at(text.parse().unwrap(), Protocol::Tcp);
    assert_eq!(at("192.0.2.3:80"), Some(name("web")));
    assert_eq!(at("192.0.2.3:81"), Some(name("all")));
    assert_eq!(at("192.0.2.4:80"), None);
}
