//! Histories: inputs go in, the tables that come out are asked where packets would go.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::{Duration, UNIX_EPOCH},
};

use lb_common::{
    flow::{Flow, TcpFlags},
    hash::Seed,
    layout::{RingSpan, ServiceKey},
    reason::Reason,
    slot::{Prior, Slot},
    steer::{self, Parameters, Tables as _},
};
use proptest::prelude::*;

use super::{saved::Saved, *};
use crate::{
    config::{self, Protocol},
    dataplane::Mapped,
};

const LIMITS: Limits = Limits { services: 4, backends: 6, ring_slots: 4096, flows: 1 };

/// The core with tables to write to, and a clock moved by hand.
struct World {
    core: Core,
    tables: Mapped,
    seconds: u64,
    events: Vec<EventKind>,
}

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

fn id(service: &str, backend: &str) -> BackendId {
    BackendId { service: name(service), backend: name(backend) }
}

/// A configuration from lines such as `web 192.0.2.1:80 a=10.0.0.1 b=10.0.0.2*3` (weight 3).
fn config(services: &[&str]) -> Config {
    let mut text = String::from(
        "[limits]\nservices = 4\nbackends = 6\nring_slots = 4096\n[[interface]]\nname = \"x\"\n",
    );
    for line in services {
        let mut words = line.split(' ');
        let (service, vip) = (words.next().unwrap(), words.next().unwrap());
        let vip: SocketAddr = vip.parse().unwrap();
        let mut ring = 1009;
        let mut backends = String::new();
        for word in words {
            match word.split_once('=').unwrap() {
                ("ring", value) => ring = value.parse().unwrap(),
                (backend, value) => {
                    let (address, weight) = value.split_once('*').unwrap_or((value, "1"));
                    backends += &format!(
                        "[[service.backend]]\nname = \"{backend}\"\naddress = \"{address}\"\n\
                         weight = {weight}\n"
                    );
                }
            }
        }
        text += &format!(
            "[[service]]\nname = \"{service}\"\naddress = \"{}\"\nport = {}\nring = {ring}\n\
             protocol = \"tcp\"\n[service.health]\nport = 1\n{backends}",
            vip.ip(),
            vip.port()
        );
    }
    config::parse(&text, "test").unwrap()
}

fn hop(address: IpAddr) -> NextHop {
    let IpAddr::V4(v4) = address else { unreachable!("tests use IPv4") };
    let [a, b, c, d] = v4.octets();
    NextHop { interface: 3, source: [2, 0, 0, 0, 0, 1], destination: [2, 1, a, b, c, d] }
}

impl World {
    fn new(config: Config) -> Self {
        let now = Now { monotonic: Duration::ZERO, wall: UNIX_EPOCH };
        let core = Core::new(config, LIMITS, &Saved::default(), None, now).unwrap();
        let mut world =
            Self { core, tables: Mapped::anonymous(LIMITS), seconds: 0, events: Vec::new() };
        world.carry_out();
        world
    }

    /// A world whose backends have all been found and checked.
    fn up(services: &[&str]) -> Self {
        let mut world = Self::new(config(services));
        world.find_all();
        world.check_all();
        world
    }

    fn now(&mut self) -> Now {
        self.seconds += 1;
        let monotonic = Duration::from_secs(self.seconds);
        Now { monotonic, wall: UNIX_EPOCH + monotonic }
    }

    fn find_all(&mut self) {
        for address in self.core.addresses() {
            let now = self.now();
            self.core.next_hop(NextHopReport { address, outcome: Ok(hop(address)) }, now);
        }
        self.carry_out();
    }

    fn check_all(&mut self) {
        for target in self.core.targets() {
            self.check(&target.id, true);
        }
    }

    fn check(&mut self, id: &BackendId, passed: bool) {
        let now = self.now();
        let outcome = if passed { Ok(()) } else { Err("refused".to_owned()) };
        let report = HealthReport { id: id.clone(), outcome, started: now, finished: now };
        self.core.health(&report, now);
        self.carry_out();
    }

    fn fail(&mut self, id: &BackendId) {
        for _ in 0..3 {
            self.check(id, false);
        }
    }

    fn command(&mut self, command: Command) -> Result<String, CommandError> {
        let now = self.now();
        let outcome = self.core.command(command, now);
        self.carry_out();
        outcome
    }

    fn reload(&mut self, config: Config) -> Result<(), String> {
        let now = self.now();
        let outcome = self.core.reload(config, now);
        self.carry_out();
        outcome
    }

    /// The daemon dies and another takes over from what was saved and the tables as they are.
    /// Returns how many slots the new one changed.
    fn restart(&mut self, config: Config) -> usize {
        let now = self.now();
        let saved = serde_json::to_string(&self.core.saved()).unwrap();
        let saved: Saved = serde_json::from_str(&saved).unwrap();
        self.core = Core::new(
            config,
            LIMITS,
            &saved,
            Some(Live { tables: &self.tables, limits: LIMITS }),
            now,
        )
        .unwrap();
        self.carry_out()
    }

    fn carry_out(&mut self) -> usize {
        let mut slots = 0;
        for action in self.core.commit() {
            match action {
                Action::Write(Write::Grace) => {}
                Action::Write(write) => {
                    if let Write::Slots(changed) = &write {
                        slots += changed.len();
                    }
                    self.tables.write(&write);
                }
                Action::Event(kind, _) => self.events.push(kind),
                _ => {}
            }
        }
        slots
    }

    /// Where the first packet of a flow goes: the backend's address as its next hop spells it.
    fn way(&self, vip: &str, source_port: u16) -> Result<Ipv4Addr, Reason> {
        let vip: SocketAddr = vip.parse().unwrap();
        let IpAddr::V4(address) = vip.ip() else { unreachable!("tests use IPv4") };
        let port = u16::from_le_bytes(vip.port().to_be_bytes());
        let flow = Flow {
            service: ServiceKey::ipv4(u32::from_le_bytes(address.octets()), port, 6),
            source: [0x0102_0304, 0, 0, 0],
            ports: u32::from(source_port) | u32::from(port) << 16,
            flags: TcpFlags::SYN,
        };
        let parameters =
            Parameters { seed: Seed([1, 2]), place_mask: places::buckets_for(LIMITS.services) - 1 };
        let way = steer::steer(&self.tables, &parameters, &flow)?;
        let [_, _, a, b, c, d, _, _] = way.backend.first.load().to_le_bytes();
        assert_ne!(way.backend.link.load() >> 32, 0, "an open entry");
        Ok(Ipv4Addr::new(a, b, c, d))
    }

    /// Every way that a thousand flows take.
    fn ways(&self, vip: &str) -> BTreeSet<Result<Ipv4Addr, &'static str>> {
        (0..1000).map(|port| self.way(vip, port).map_err(Reason::name)).collect()
    }

    fn state(&self, wanted: &BackendId) -> (BackendState, String) {
        let backend = self.core.backend(wanted).unwrap();
        (backend.state, backend.reason.clone())
    }

    /// What must hold after every input.
    fn check_invariants(&self) {
        let mut numbers = BTreeSet::new();
        let mut places = BTreeSet::new();
        for service in self.core.services.values() {
            assert!(places.insert(service.place));
            let everyone = service.backends.values().chain(service.leaving.values());
            let known: BTreeMap<u16, &Backend> = everyone.map(|b| (b.number, b)).collect();
            for (number, backend) in &known {
                assert!(numbers.insert(*number), "number {number} has two backends");
                let life = self.tables.backend(*number).unwrap().life.load();
                assert_eq!(life, backend.life.0, "{:?}", backend.state);
            }
            for (index, slot) in service.ring.indexed() {
                assert_eq!(self.tables.slot(index).unwrap(), slot);
                if slot.owner() != Slot::NONE {
                    let backend = known.get(&slot.owner()).expect("an owner is a known backend");
                    assert!(backend.ring_weight() > 0, "{:?}", backend.state);
                    let entry = self.tables.backend(slot.owner()).unwrap();
                    let written = [entry.first.load(), entry.link.load()];
                    assert_eq!(Some(written), backend.written);
                }
                if let Prior::Moving(prior) = slot.prior() {
                    assert!(known[&prior].life.lives(), "a prior that died protects nothing");
                }
            }
            let willing = service.backends.values().any(|backend| backend.ring_weight() > 0);
            let slots = service.ring.slots();
            let unowned = slots.iter().any(|slot| slot.owner() == Slot::NONE);
            assert!(unowned != willing || service.warm_until.is_some(), "no more than warming");
        }
        for bucket in 0..places::buckets_for(LIMITS.services) {
            for (half, entry) in (0..).zip(&self.tables.bucket(bucket).unwrap().0) {
                let place = places::Place { bucket, half };
                let owner = self.core.services.values().find(|s| s.place == Some(place));
                assert_eq!(entry.head.load(), owner.map_or(0, |s| s.key.head));
                if let Some(service) = owner {
                    assert_eq!(RingSpan::from_word(entry.ring.load()), service.ring.span());
                    assert_eq!(entry.meta.load(), service.meta.0);
                }
            }
        }
    }
}

const WEB: &str = "192.0.2.1:80";
const A: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
const B: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);

fn two() -> World {
    World::up(&["web 192.0.2.1:80 a=10.0.0.1 b=10.0.0.2"])
}

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

/// One step of a random history.
#[derive(Debug, Clone)]
enum Step {
    Check(usize, bool),
    Hop(u8, Option<u8>),
    Put(usize, u8, u16),
    Remove(usize),
    Maintain(usize, bool),
    Reload(usize),
    Restart(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (0..8usize, any::<bool>()).prop_map(|(b, ok)| Step::Check(b, ok)),
        4 => (1..6u8, proptest::option::of(1..9u8)).prop_map(|(a, to)| Step::Hop(a, to)),
        2 => (0..8usize, 1..6u8, 0..4u16).prop_map(|(b, a, w)| Step::Put(b, a, w)),
        1 => (0..8usize).prop_map(Step::Remove),
        2 => (0..8usize, any::<bool>()).prop_map(|(b, on)| Step::Maintain(b, on)),
        1 => (0..4usize).prop_map(Step::Reload),
        1 => (0..4usize).prop_map(Step::Restart),
    ]
}

fn variant(n: usize) -> Config {
    let variants: [&[&str]; 4] = [
        &["web 192.0.2.1:80 a=10.0.0.1 b=10.0.0.2", "api 192.0.2.2:80 a=10.0.0.1"],
        &["web 192.0.2.1:80 a=10.0.0.1*2 b=10.0.0.3"],
        &["web 192.0.2.7:80 ring=1013 b=10.0.0.2", "api 192.0.2.1:80 a=10.0.0.1 c=10.0.0.4"],
        &["api 192.0.2.2:80 ring=1021 a=10.0.0.5 b=10.0.0.1 c=10.0.0.2*0"],
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
                Step::Maintain(n, true) => drop(world.command(Command::Maintenance(target(n)))),
                Step::Maintain(n, false) => drop(world.command(Command::Enable(target(n)))),
                Step::Reload(n) => drop(world.reload(variant(n))),
                Step::Restart(n) => drop(world.restart(variant(n))),
            }
            world.check_invariants();
        }
    }
}

#[test]
fn explain_names_the_service_for_every_port() {
    let world = World::up(&["all 192.0.2.3:0 a=10.0.0.1", "web 192.0.2.3:80 b=10.0.0.2"]);
    let at = |text: &str| world.core.service_at(text.parse().unwrap(), Protocol::Tcp);
    assert_eq!(at("192.0.2.3:80"), Some(name("web")));
    assert_eq!(at("192.0.2.3:81"), Some(name("all")));
    assert_eq!(at("192.0.2.4:80"), None);
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
