//! Services that balance per flow, and backups.

use lb_common::steer::Flows as _;

use super::*;
use crate::core::{ring::Tracking, sweep::Findings};

impl World {
    /// Where flows that open go, one after another.
    fn in_turn(&self, flows: u16) -> Vec<Ipv4Addr> {
        (0..flows).map(|port| self.way(WEB, port).unwrap()).collect()
    }

    fn shares(&self, flows: u16) -> BTreeMap<Ipv4Addr, usize> {
        let mut shares = BTreeMap::new();
        for address in self.in_turn(flows) {
            *shares.entry(address).or_default() += 1;
        }
        shares
    }

    fn tracking(&self) -> Tracking {
        self.core.services[&name("web")].ring.tracking()
    }

    /// A sweep that finds nothing, so many seconds later.
    fn sweep_after(&mut self, seconds: u64) {
        self.seconds += seconds;
        let now = self.now();
        let findings = Findings { began: now.monotonic, ..Findings::default() };
        self.core.swept(findings, now);
        self.carry_out();
    }

    fn weigh(&mut self, backend: &str, weight: u16) {
        let change = BackendChange { weight: Some(weight), ..BackendChange::default() };
        let id = id("web", backend);
        self.command(Command::Put { id, change, expect: Expect::Present }).unwrap();
    }
}

#[test]
fn round_robin_takes_turns_by_weight() {
    let mut world =
        World::up(&["web 192.0.2.1:80 algorithm=round_robin a=10.0.0.1 b=10.0.0.2 c=10.0.0.3"]);
    let turns = world.in_turn(9);
    assert_eq!(turns[..3].iter().collect::<BTreeSet<_>>().len(), 3, "{turns:?}");
    assert_eq!((&turns[..3], &turns[..3]), (&turns[3..6], &turns[6..]), "one after another");
    world.weigh("b", 3);
    assert_eq!(world.shares(500), [(A, 100), (B, 300), (C, 100)].into());
    world.fail(&id("web", "a"));
    assert_eq!(world.shares(400), [(B, 300), (C, 100)].into(), "without who is down");
    world.check(&id("web", "b"), false);
    assert_eq!(world.shares(500), [(B, 300), (C, 200)].into(), "a suspect has half its weight");
    world.check_invariants();
}

#[test]
fn least_conn_gives_flows_to_who_has_fewer_for_its_weight() {
    let world = World::up(&["web 192.0.2.1:80 algorithm=least_conn a=10.0.0.1 b=10.0.0.2*3"]);
    let set = |world: &World, backend, flows: i64| {
        let load = world.tables.load(world.number(&id("web", backend))).unwrap();
        world.tables.count(load, flows - load.active.load().cast_signed());
    };
    set(&world, "a", 100);
    set(&world, "b", 0);
    assert_eq!(world.shares(100), [(B, 100)].into());
    set(&world, "b", 150);
    assert_eq!(world.shares(100), [(B, 100)].into(), "150 of weight 3 are less than 100 of 1");
    set(&world, "b", 600);
    // A tenth of flows, at three to one, is not offered the other backend.
    let shares = world.shares(80);
    assert!(shares[&A] > 60, "{shares:?}");
    world.check_invariants();
}

#[test]
fn who_is_not_wanted_gets_no_turn() {
    for algorithm in ["round_robin", "least_conn"] {
        let line = format!("web 192.0.2.1:80 algorithm={algorithm} a=10.0.0.1 b=10.0.0.2");
        let mut world = World::up(&[&line]);
        world.command(Command::Drain(id("web", "a"))).unwrap();
        assert_eq!(world.ways(WEB), [Ok(B)].into());
        world.command(Command::Maintenance(id("web", "b"))).unwrap();
        assert_eq!(world.ways(WEB), [Err("no_backend")].into());
        world.command(Command::Enable(id("web", "a"))).unwrap();
        assert_eq!(world.ways(WEB), [Ok(A)].into());
        world.check_invariants();
    }
}

#[test]
fn a_restart_goes_on_as_it_was() {
    for algorithm in ["round_robin", "least_conn"] {
        let line = format!("web 192.0.2.1:80 algorithm={algorithm} a=10.0.0.1*2 b=10.0.0.2");
        let mut world = World::up(&[&line]);
        world.restart(config(&[&line]));
        world.check_invariants();
        assert_eq!(world.tracking(), Tracking::EveryFlow);
        assert_eq!(world.ways(WEB).len(), 2);
    }
}

#[test]
fn a_reload_with_another_algorithm_moves_no_flow() {
    let ring = config(&["web 192.0.2.1:80 a=10.0.0.1 b=10.0.0.2"]);
    let turns = config(&["web 192.0.2.1:80 algorithm=round_robin a=10.0.0.1 b=10.0.0.2"]);
    let mut world = World::new(ring.clone());
    world.find_all();
    world.check_all();
    world.sweep_after(3_600 + 10);
    world.sweep_after(10);
    world.reload(turns).unwrap();
    let slots = |world: &World| world.core.services[&name("web")].ring.slots().to_vec();
    let own = |slot: &Slot| slot.prior() == Prior::Moving(slot.owner());
    assert!(slots(&world).iter().all(own), "flows that are not recorded yet stay and are");
    assert_eq!(world.shares(100), [(A, 50), (B, 50)].into());
    world.check_invariants();

    let exceptions = |slot: &Slot| slot.prior() == Prior::Exceptions;
    world.sweep_after(3_600 + 10);
    assert!(slots(&world).iter().all(exceptions));
    world.sweep_after(3_600 + 10);
    assert!(slots(&world).iter().all(exceptions), "never settled, whatever sweeps find");

    world.reload(ring).unwrap();
    assert_eq!(world.tracking(), Tracking::EveryFlow, "for one idle time-out");
    world.sweep_after(60);
    assert!(slots(&world).iter().all(exceptions));
    world.sweep_after(3_600 + 10);
    assert_eq!(world.tracking(), Tracking::Moves);
    world.sweep_after(10);
    assert!(slots(&world).iter().all(|slot| slot.is_settled()));
    world.check_invariants();
}

#[test]
fn without_affinity_slots_change_hands_and_remember_nothing() {
    let mut config = config(&["web 192.0.2.1:80 a=10.0.0.1 b=10.0.0.2"]);
    config.services[0].affinity = false;
    let mut world = World::new(config);
    world.find_all();
    world.check_all();
    world.command(Command::Drain(id("web", "a"))).unwrap();
    world.weigh("b", 2);
    assert!(world.core.services[&name("web")].ring.is_settled());
    assert_eq!(world.ways(WEB), [Ok(B)].into());
}

#[test]
fn a_backup_serves_only_while_no_other_can() {
    const LINE: &str = "web 192.0.2.1:80 a=10.0.0.1 b=10.0.0.2 c=10.0.0.3~";
    let mut world = World::up(&[LINE]);
    assert_eq!(world.ways(WEB), [Ok(A), Ok(B)].into());
    let reason = |world: &World| world.state(&id("web", "c")).1;
    assert_eq!(reason(&world), "checks pass; a backup: it stands by while others serve");
    world.fail(&id("web", "a"));
    assert_eq!(world.ways(WEB), [Ok(B)].into());
    world.check(&id("web", "b"), false);
    assert_eq!(world.ways(WEB), [Ok(B)].into(), "who is suspect still serves");
    world.command(Command::Drain(id("web", "b"))).unwrap();
    assert_eq!(world.ways(WEB), [Ok(C)].into());
    assert_eq!(reason(&world), "checks pass; a backup: it serves while no other can");
    world.check_invariants();

    world.restart(config(&[LINE]));
    assert_eq!(world.ways(WEB), [Ok(C)].into());
    world.check(&id("web", "a"), true);
    world.check(&id("web", "a"), true);
    assert_eq!(world.ways(WEB), [Ok(A)].into());
    // It gives its slots back; its flows stay, and are recorded meanwhile.
    assert!(!world.core.services[&name("web")].ring.is_settled());
    assert!(world.core.backend(&id("web", "c")).unwrap().life.lives());
    world.check_invariants();
}

#[test]
fn a_backup_that_rises_after_all_others_fell_serves() {
    // The others keep this machine from being suspected.
    let others = "api 192.0.2.2:80 x=10.0.0.5 y=10.0.0.6";
    let mut world = World::up(&["web 192.0.2.1:80 panic=0 a=10.0.0.1 c=10.0.0.3~", others]);
    world.fail(&id("web", "c"));
    world.fail(&id("web", "a"));
    assert_eq!(world.ways(WEB), [Err("no_backend")].into());
    world.check(&id("web", "c"), true);
    world.check(&id("web", "c"), true);
    assert_eq!(world.ways(WEB), [Ok(C)].into());
    world.weigh("a", 0);
    world.check(&id("web", "a"), true);
    world.check(&id("web", "a"), true);
    assert_eq!(world.ways(WEB), [Ok(C)].into(), "one without weight takes no flows");
    let change = BackendChange { backup: Some(false), ..BackendChange::default() };
    world.weigh("a", 1);
    assert_eq!(world.ways(WEB), [Ok(A)].into());
    world.command(Command::Put { id: id("web", "c"), change, expect: Expect::Present }).unwrap();
    assert_eq!(world.ways(WEB), [Ok(A), Ok(C)].into(), "no backup any more");
    world.check_invariants();
}
