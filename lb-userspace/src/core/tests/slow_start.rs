//! A backend that returns gets its slots in steps.

use super::*;

const SLOW: &str = "web 192.0.2.1:80 slow_start=30s a=10.0.0.1 b=10.0.0.2 c=10.0.0.3";

/// All are up, and have been for long.
fn settled() -> World {
    let mut world = World::up(&[SLOW]);
    world.settle();
    world
}

/// `b` has failed, and passes its checks again.
fn returning() -> (World, Vec<u16>) {
    let mut world = settled();
    let full = world.owners("web");
    world.fail(&id("web", "b"));
    for _ in 0..2 {
        world.check(&id("web", "b"), true);
    }
    (world, full)
}

fn slots_of_b(world: &World) -> u32 {
    world.core.backend(&id("web", "b")).unwrap().slots
}

#[test]
fn slots_come_back_in_steps_and_each_moves_once_at_most() {
    let (mut world, full) = returning();
    let number = world.number(&id("web", "b"));
    let share = full.iter().filter(|owner| **owner == number).count();
    let mut history = vec![world.owners("web")];
    let mut steps = vec![slots_of_b(&world)];
    let reason = world.state(&id("web", "b")).1;
    assert_eq!(reason, "checks pass; slow start, step 1 of 10");
    for _ in 0..40 {
        world.pass(0);
        history.push(world.owners("web"));
        steps.push(slots_of_b(&world));
        world.check_invariants();
    }
    assert!(world.owners("web") == full, "in the end the ring is the one of the set");
    assert!(steps.is_sorted(), "{steps:?}");
    steps.dedup();
    assert_eq!(steps.len(), 10, "{steps:?}");
    // Each step is a tenth, give or take what chance does to some thirty slots.
    let tenth = u32::try_from(share).unwrap() / 10;
    assert!(steps[0] > tenth / 3 && steps[0] < tenth * 2, "{steps:?} of {share}");
    for position in 0..full.len() {
        let mut owners: Vec<u16> = history.iter().map(|owners| owners[position]).collect();
        owners.dedup();
        assert!(owners.len() <= 2, "slot {position} went {owners:?}");
    }
    assert_eq!(world.state(&id("web", "b")).1, "checks pass");
}

#[test]
fn it_goes_on_over_a_restart_and_ends_with_a_failure() {
    let (mut world, full) = returning();
    world.pass(8);
    let before = world.owners("web");
    assert!(before != full);
    let moved = world.restart(config(&[SLOW]));
    assert!(moved < 1009 / 3 / 4, "one step at most, not the rest: {moved}");
    world.pass(8);
    assert!(world.owners("web") != before && world.owners("web") != full, "half of the way");
    world.pass(15);
    assert_eq!(world.owners("web"), full);

    let (mut world, _) = returning();
    world.fail(&id("web", "b"));
    assert_eq!(slots_of_b(&world), 0);
    world.pass(60);
    assert_eq!(slots_of_b(&world), 0);
    world.check_invariants();
}

#[test]
fn it_does_not_hold_back_what_nobody_else_can_have() {
    let mut world = settled();
    for backend in ["a", "c"] {
        world.command(Command::Maintenance(id("web", backend))).unwrap();
    }
    world.command(Command::Maintenance(id("web", "b"))).unwrap();
    world.command(Command::Enable(id("web", "b"))).unwrap();
    assert_eq!(slots_of_b(&world), 1009);
    world.check_invariants();
}

#[test]
fn those_that_are_found_together_at_the_start_begin_at_once() {
    let mut world = World::new(config(&[SLOW]));
    // Within the time that a new service waits for its backends.
    let now = world.now();
    for address in world.core.addresses() {
        world.core.next_hop(NextHopReport { address, outcome: Ok(hop(address)) }, now);
    }
    for target in world.core.targets() {
        let report = HealthReport { id: target.id, outcome: Ok(()), started: now, finished: now };
        world.core.health(&report, now);
    }
    world.carry_out();
    assert!(slots_of_b(&world) > 300);
    assert_eq!(world.state(&id("web", "b")).1, "checks pass");
}

#[test]
fn without_it_all_slots_come_at_once() {
    let mut world = two();
    let full = world.owners("web");
    world.fail(&id("web", "b"));
    for _ in 0..2 {
        world.check(&id("web", "b"), true);
    }
    assert_eq!(world.owners("web"), full);
}
