//! Random histories: whatever happens, the tables say what the core believes.

use super::*;
use proptest::prelude::*;

/// One step of a random history.
#[derive(Debug, Clone)]
enum Step {
    Check(usize, bool),
    Hop(u8, Option<u8>),
    Put(usize, u8, u16),
    Remove(usize),
    Administer(usize, usize),
    Pass(u64),
    Sweep,
    Reload(usize),
    Restart(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (0..8usize, any::<bool>()).prop_map(|(b, ok)| Step::Check(b, ok)),
        4 => (1..6u8, proptest::option::of(1..9u8)).prop_map(|(a, to)| Step::Hop(a, to)),
        2 => (0..8usize, 1..6u8, 0..4u16).prop_map(|(b, a, w)| Step::Put(b, a, w)),
        1 => (0..8usize).prop_map(Step::Remove),
        3 => (0..8usize, 0..4usize).prop_map(|(b, what)| Step::Administer(b, what)),
        2 => (0..40u64).prop_map(Step::Pass),
        1 => Just(Step::Sweep),
        1 => (0..6usize).prop_map(Step::Reload),
        1 => (0..6usize).prop_map(Step::Restart),
    ]
}

fn variant(n: usize) -> Config {
    let variants: [&[&str]; 6] = [
        &["web 192.0.2.1:80 a=10.0.0.1 b=10.0.0.2", "api 192.0.2.2:80 a=10.0.0.1"],
        &["web 192.0.2.1:80 slow_start=20s fall=1 a=10.0.0.1*2 b=10.0.0.3"],
        &[
            "web 192.0.2.7:80 ring=1013 panic=0 b=10.0.0.2",
            "api 192.0.2.1:80 a=10.0.0.1 c=10.0.0.4",
        ],
        &["api 192.0.2.2:80 ring=1021 a=10.0.0.5 b=10.0.0.1 c=10.0.0.2*0"],
        &["web 192.0.2.1:80 algorithm=round_robin a=10.0.0.1*2 b=10.0.0.2 c=10.0.0.3~"],
        &[
            "web 192.0.2.1:80 algorithm=least_conn a=10.0.0.1~ b=10.0.0.2",
            "api 192.0.2.2:80 a=10.0.0.1~",
        ],
    ];
    config(variants[n])
}

fn target(n: usize) -> BackendId {
    id(["web", "api"][n % 2], ["a", "b", "c", "d"][n / 2])
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    /// Whatever happens, the tables say exactly what the core believes, and every slot leads to
    /// a backend that serves.
    #[test]
    fn the_tables_follow_every_history(steps in proptest::collection::vec(step(), 1..60)) {
        let mut world = World::new(variant(0));
        for step in steps {
            match step {
                Step::Check(n, passed) => world.check(&target(n), passed),
                Step::Hop(last, to) => {
                    let address = IpAddr::V4(Ipv4Addr::new(10, 0, 0, last));
                    let outcome = to
                        .map(|n| NextHop { interface: u32::from(n % 3) + 1, ..hop(address) })
                        .ok_or_else(|| "no route".to_owned());
                    let now = world.now();
                    world.core.next_hop(NextHopReport { address, outcome }, now);
                    world.carry_out();
                }
                Step::Put(n, last, weight) => {
                    let change = BackendChange {
                        address: Some(Ipv4Addr::new(10, 0, 0, last).into()),
                        weight: Some(weight),
                        ..BackendChange::default()
                    };
                    let _ = world.command(Command::Put {
                        id: target(n),
                        change,
                        expect: Expect::Any,
                    });
                }
                Step::Remove(n) => drop(world.command(Command::Remove { id: target(n), now: n % 2 == 0 })),
                Step::Administer(n, what) => {
                    let commands = [Command::Maintenance, Command::Drain, Command::Enable];
                    // Enabled twice as often as anything else.
                    let _ = world.command(commands[what.min(2)](target(n)));
                }
                Step::Pass(seconds) => world.pass(seconds),
                Step::Sweep if world.has_to_sweep() => {
                    world.pass(IDLE);
                    world.sweep(&[]);
                }
                Step::Sweep => {}
                Step::Reload(n) => drop(world.reload(variant(n))),
                Step::Restart(n) => drop(world.restart(variant(n))),
            }
            world.check_invariants();
        }
    }
}
