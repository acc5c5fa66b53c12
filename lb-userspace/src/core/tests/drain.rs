//! Backends that give up their place, and keep their flows.

use super::*;

fn settled() -> World {
    let mut world = two();
    world.settle();
    world
}

fn drains(world: &World) -> Vec<String> {
    let of = |event: &EventKind| match event {
        EventKind::Draining { tracked_flows, .. } => Some(tracked_flows.to_string()),
        EventKind::Drained { .. } => Some("done".to_owned()),
        _ => None,
    };
    world.events.iter().filter_map(of).collect()
}

#[test]
fn a_drain_tells_how_many_flows_are_left_and_when_it_is_done() {
    let mut world = settled();
    let b = id("web", "b");
    world.command(Command::Drain(b.clone())).unwrap();
    assert_eq!(world.ways(WEB), [Ok(A)].into(), "no new flows");
    assert_eq!(world.state(&b), (BackendState::Draining, "takes no new flows".to_owned()));
    world.pass(10);
    world.sweep(&[(&b, 3)]);
    assert_eq!(world.state(&b).1, "takes no new flows; 3 old ones are left");
    assert_eq!(world.core.status().services[0].backends[1].tracked_flows, 3);
    assert_eq!(drains(&world), [""; 0], "silent flows may be there until the time-out");
    world.pass(IDLE);
    for flows in [9, 8, 5, 4, 4, 1, 0, 0] {
        world.pass(10);
        if world.has_to_sweep() {
            world.sweep(&[(&b, flows)]);
        }
    }
    assert_eq!(drains(&world), ["9", "4", "1", "done"]);
    assert_eq!(world.state(&b).1, "drained: no old flow is left");
    world.check_invariants();
}

#[test]
fn a_drain_goes_on_over_a_restart() {
    let mut world = settled();
    let b = id("web", "b");
    world.command(Command::Drain(b.clone())).unwrap();
    assert_eq!(world.restart(config(&["web 192.0.2.1:80 a=10.0.0.1 b=10.0.0.2"])), 0);
    assert_eq!(world.state(&b), (BackendState::Draining, "takes no new flows".to_owned()));
    world.pass(10);
    world.sweep(&[]);
    assert_eq!(drains(&world), [""; 0]);
    world.pass(IDLE);
    world.settle();
    assert_eq!(drains(&world), ["done"]);
}

#[test]
fn a_removed_backend_drains_first_and_is_shown_until_it_goes() {
    let mut world = settled();
    let b = id("web", "b");
    let number = world.number(&b);
    world.command(Command::Remove { id: b.clone(), now: false }).unwrap();
    assert_eq!(world.ways(WEB), [Ok(A)].into());
    world.pass(IDLE);
    world.sweep(&[(&b, 2)]);
    let service = world.core.status().services.remove(0);
    assert_eq!(service.backends.len(), 1);
    assert_eq!((service.leaving[0].name.as_str(), service.leaving[0].tracked_flows), ("b", 2));
    assert!(world.tables.backend(number).unwrap().life.load() != 0, "its flows are kept");
    world.settle();
    assert!(world.core.status().services[0].leaving.is_empty());
    assert_eq!(drains(&world).last().map(String::as_str), Some("done"));
    world.check_invariants();
}

#[test]
fn the_last_backend_may_be_drained_and_that_is_said() {
    let mut world = World::up(&["web 192.0.2.1:80 a=10.0.0.1"]);
    world.settle();
    let said = world.command(Command::Drain(id("web", "a"))).unwrap();
    assert!(said.ends_with("it was the last one: web has no backend for new flows now"), "{said}");
    assert_eq!(world.ways(WEB), [Err("no_backend")].into(), "new flows");
    let slots = world.core.services[&name("web")].ring.slots();
    let number = world.number(&id("web", "a"));
    assert!(slots.iter().all(|slot| slot.prior() == Prior::Moving(number)), "old flows");
    world.check_invariants();
}

#[test]
fn a_suspect_backend_gets_half_the_new_flows_and_loses_no_old_one() {
    let mut world = World::up(&["web 192.0.2.1:80 a=10.0.0.1 b=10.0.0.2 c=10.0.0.3"]);
    world.settle();
    let b = id("web", "b");
    let number = world.number(&b);
    let before = world.core.services[&name("web")].ring.slots().to_vec();
    world.check(&b, false);
    let after = world.core.services[&name("web")].ring.slots();
    let had = before.iter().filter(|slot| slot.owner() == number).count();
    let has = after.iter().filter(|slot| slot.owner() == number).count();
    // 2 : 1 : 2 of 1009 in place of 1 : 1 : 1, as Maglev divides them.
    assert!(has.abs_diff(1009 / 5) < 5 && had.abs_diff(1009 / 3) < 5, "{had} to {has}");
    for (old, new) in before.iter().zip(after).filter(|(old, new)| old.owner() != new.owner()) {
        assert_eq!(new.prior(), Prior::Moving(old.owner()));
    }
}
