//! What a command would move.

use super::*;

fn plan(world: &mut World, command: Command) -> Result<Plan, CommandError> {
    let now = world.now();
    world.core.plan(command, now)
}

fn moved(before: &[u16], after: &[u16]) -> u32 {
    before.iter().zip(after).map(|(old, new)| u32::from(old != new)).sum()
}

#[test]
fn a_plan_moves_nothing_and_says_what_the_command_then_moves() {
    let weight = |weight| BackendChange { weight: Some(weight), ..BackendChange::default() };
    let put = |backend: &str, change| Command::Put {
        id: id("web", backend),
        change,
        expect: Expect::Present,
    };
    let mut world = World::up(&["web 192.0.2.1:80 a=10.0.0.1 b=10.0.0.2 c=10.0.0.3"]);
    for command in [
        Command::Drain(id("web", "b")),
        Command::Enable(id("web", "b")),
        put("a", weight(3)),
        Command::Maintenance(id("web", "c")),
        Command::Remove { id: id("web", "b"), now: false },
        put("a", weight(0)),
    ] {
        let (before, status) = (world.owners("web"), world.core.status());
        let planned = plan(&mut world, command.clone()).unwrap();
        assert_eq!((world.owners("web"), world.core.status()), (before.clone(), status));
        assert_eq!(world.carry_out(), 0, "nothing was written");
        let said = world.command(command.clone()).unwrap();
        assert_eq!(planned.message, said);
        assert_eq!(planned.slots_moved, moved(&before, &world.owners("web")), "{command:?}");
        assert!(planned.slots_moved > 0, "{command:?}");
        let sum: u32 = planned.moves.iter().map(|a_move| a_move.slots).sum();
        assert_eq!(sum, planned.slots_moved);
        world.check_invariants();
    }
}

#[test]
fn it_says_who_gets_whose_slots_and_whose_connections_break() {
    let mut world = two();
    let b = id("web", "b");
    let drain = plan(&mut world, Command::Drain(b.clone())).unwrap();
    let [only] = &drain.moves[..] else { panic!("{drain:?}") };
    assert_eq!((only.from.as_ref(), only.to.as_ref()), (Some(&name("b")), Some(&name("a"))));
    assert_eq!((drain.slots, drain.breaks), (1009, vec![]));
    let breaks = |world: &mut World, command| plan(world, command).unwrap().breaks;
    let remove = |now| Command::Remove { id: b.clone(), now };
    assert_eq!(breaks(&mut world, remove(false)), []);
    assert_eq!(breaks(&mut world, remove(true)), [name("b")]);
    assert_eq!(breaks(&mut world, Command::Maintenance(b.clone())), [name("b")]);
    world.command(Command::Maintenance(id("web", "a"))).unwrap();
    let last = plan(&mut world, Command::Drain(b)).unwrap();
    assert_eq!(last.moves[0].to, None);
    assert!(last.message.contains("it was the last one"), "{last:?}");
}

#[test]
fn a_new_backend_is_taken_to_be_healthy() {
    let mut world = two();
    let change =
        BackendChange { address: Some("10.0.0.3".parse().unwrap()), ..BackendChange::default() };
    let add = Command::Put { id: id("web", "c"), change, expect: Expect::Absent };
    let planned = plan(&mut world, add).unwrap();
    let gained: u32 = planned
        .moves
        .iter()
        .filter(|a_move| a_move.to == Some(name("c")))
        .map(|a_move| a_move.slots)
        .sum();
    assert!(gained.abs_diff(1009 / 3) < 5, "{planned:?}");
    assert_eq!(planned.notes, ["taking it that web/c is found and its checks pass"]);
    world.fail(&id("web", "b"));
    let put = Command::Put {
        id: id("web", "b"),
        change: BackendChange { weight: Some(2), ..BackendChange::default() },
        expect: Expect::Any,
    };
    let planned = plan(&mut world, put).unwrap();
    assert_eq!(planned.slots_moved, 0);
    assert_eq!(planned.notes, ["web/b is down (refused): it gets slots when it is up"]);
}

#[test]
fn recorded_flows_on_the_slots_are_counted() {
    let mut world = two();
    world.command(Command::Drain(id("web", "b"))).unwrap();
    // Slots 0 to 99 have a recorded flow each.
    world.sweep(&[(&id("web", "b"), 100)]);
    let before = world.owners("web");
    let enable = Command::Enable(id("web", "b"));
    let planned = plan(&mut world, enable.clone()).unwrap();
    world.command(enable).unwrap();
    let after = world.owners("web");
    assert_eq!(planned.recorded_flows, u64::from(moved(&before[..100], &after[..100])));
    assert!(planned.recorded_flows > 0);
}

#[test]
fn recorded_flows_of_services_that_balance_per_flow_are_counted_too() {
    for algorithm in ["round_robin", "least_conn"] {
        let line = format!("web 192.0.2.1:80 algorithm={algorithm} a=10.0.0.1 b=10.0.0.2");
        let mut world = World::up(&[&line]);
        world.sweep(&[(&id("web", "a"), 100), (&id("web", "b"), 100)]);
        let before = world.owners("web");
        let drain = Command::Drain(id("web", "b"));
        let planned = plan(&mut world, drain.clone()).unwrap();
        world.command(drain).unwrap();
        let moved = moved(&before[..100], &world.owners("web")[..100]);
        assert!(moved > 0);
        assert_eq!(planned.recorded_flows, 2 * u64::from(moved), "two flows a slot");
    }
}

#[test]
fn what_would_be_refused_is_refused() {
    let mut world = two();
    let refused = plan(&mut world, Command::Enable(id("web", "x"))).unwrap_err();
    assert_eq!(refused.code(), "no_backend");
}
