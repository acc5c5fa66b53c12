//! Histories: inputs go in, the tables that come out are asked where packets would go.

mod per_flow;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::{Duration, UNIX_EPOCH},
};

use lb_common::{
    flow::{Flow, TcpFlags},
    hash::Seed,
    layout::{FlowRecord, RingSpan, ServiceKey},
    reason::Reason,
    slot::{Prior, Slot},
    steer::{self, Parameters, Tables as _},
};

use super::{recorded::Staying, saved::Saved, *};
use crate::{
    config::{self, Protocol},
    dataplane::Mapped,
};

mod changes;
mod drain;
mod history;
mod panic;
mod plan;
mod slow_start;
mod states;
mod suspicion;

const LIMITS: Limits = Limits { services: 4, backends: 6, ring_slots: 4096, flows: 1 };

/// The core with tables to write to, and a clock moved by hand.
struct World {
    core: Core,
    tables: Mapped,
    seconds: u64,
    events: Vec<EventKind>,
}

/// The record of a flow that a sweep leaves.
fn recorded_flow(slot: u32, backend: u16) -> Staying {
    let record = FlowRecord::default();
    record.backend.store(backend.into());
    record.slot.store(slot);
    Staying::new(&record)
}

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

fn id(service: &str, backend: &str) -> BackendId {
    BackendId { service: name(service), backend: name(backend) }
}

/// A configuration from lines such as `web 192.0.2.1:80 a=10.0.0.1 b=10.0.0.2*3 c=10.0.0.3~`
/// (weight 3; a backup), with settings of the service between them: `ring=`, `algorithm=`,
/// `slow_start=`, `panic=`, `fall=`.
fn config(services: &[&str]) -> Config {
    let mut text = String::from(
        "[limits]\nservices = 4\nbackends = 6\nring_slots = 4096\n[[interface]]\nname = \"x\"\n",
    );
    for line in services {
        let mut words = line.split(' ');
        let (service, vip) = (words.next().unwrap(), words.next().unwrap());
        let vip: SocketAddr = vip.parse().unwrap();
        let mut ring = 1009;
        let (mut settings, mut health) = (String::new(), String::new());
        let mut backends = String::new();
        for word in words {
            match word.split_once('=').unwrap() {
                ("ring", value) => ring = value.parse().unwrap(),
                ("algorithm", value) => settings += &format!("algorithm = \"{value}\"\n"),
                ("slow_start", value) => settings += &format!("slow_start = \"{value}\"\n"),
                ("panic", value) => settings += &format!("panic_threshold = {value}\n"),
                ("fall", value) => health += &format!("fall = {value}\n"),
                (backend, value) => {
                    let backup = value.ends_with('~');
                    let value = value.trim_end_matches('~');
                    let (address, weight) = value.split_once('*').unwrap_or((value, "1"));
                    backends += &format!(
                        "[[service.backend]]\nname = \"{backend}\"\naddress = \"{address}\"\n\
                         weight = {weight}\nbackup = {backup}\n"
                    );
                }
            }
        }
        text += &format!(
            "[[service]]\nname = \"{service}\"\naddress = \"{}\"\nport = {}\nring = {ring}\n\
             on_empty = \"drop\"\nprotocol = \"tcp\"\n{settings}[service.health]\nport = 1\n{health}{backends}",
            vip.ip(),
            vip.port()
        );
    }
    config::parse(&text, "test").unwrap()
}

fn hop(address: IpAddr) -> NextHop {
    let IpAddr::V4(v4) = address else { unreachable!("tests use IPv4") };
    let [a, b, c, d] = v4.octets();
    NextHop {
        interface: 3,
        source: [2, 0, 0, 0, 0, 1],
        destination: [2, 1, a, b, c, d],
        local: Some(Ipv4Addr::new(10, 255, 0, 1).into()),
        mtu: 1500,
    }
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

    /// Lets seconds go by.
    fn pass(&mut self, seconds: u64) {
        self.seconds += seconds;
        let now = self.now();
        self.core.tick(now);
        self.carry_out();
    }

    /// Lets every slot settle, and whatever else takes time come to its end.
    fn settle(&mut self) {
        for _ in 0..3 {
            self.pass(IDLE);
            if self.has_to_sweep() {
                self.sweep(&[]);
            }
        }
        assert!(!self.has_to_sweep());
    }

    fn has_to_sweep(&self) -> bool {
        let now = Now { monotonic: Duration::ZERO, wall: UNIX_EPOCH };
        self.core.sweep_order(now).is_some()
    }

    /// A sweep that finds flows recorded: so many for a backend, each on a slot of its own.
    fn sweep(&mut self, recorded: &[(&BackendId, u32)]) {
        let now = self.now();
        let began = self.core.sweep_order(now).expect("something to sweep for").now;
        let mut findings = sweep::Findings { began, ..Default::default() };
        let mut staying = Vec::new();
        for (id, flows) in recorded {
            let number = self.number(id);
            staying.extend((0..*flows).map(|slot| recorded_flow(slot, number)));
            findings.confirmed += u64::from(*flows);
        }
        findings.take(staying);
        self.core.swept(findings, now);
        self.carry_out();
    }

    /// The number of a backend, also of one that is leaving.
    fn number(&self, id: &BackendId) -> u16 {
        let service = &self.core.services[&id.service];
        let everyone = service.backends.values().chain(service.leaving.values());
        everyone.into_iter().find(|b| b.spec.name == id.backend).unwrap().number
    }

    fn owners(&self, service: &str) -> Vec<u16> {
        self.core.services[&name(service)].ring.slots().iter().map(|slot| slot.owner()).collect()
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
            Some(Live { tables: &self.tables, limits: LIMITS, ours: true }),
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

    /// Turns and weights in the tables are the core's, and only who may get flows has a turn.
    fn check_turns(&self, service: &Service, known: &BTreeMap<u16, &Backend>) {
        if service.warm_until.is_some() {
            return;
        }
        if let Some(rotation) = &service.rotation {
            let order = self.tables.rotation(service.index).unwrap().order.load();
            let order = RingSpan::from_word(order);
            assert!(order.length == 0 || order.base == rotation.span().base);
            for index in order.base..order.base + order.length {
                let number = self.tables.slot(index).unwrap().owner();
                assert!(known[&number].ring_weight() > 0, "a turn for {:?}", known[&number].state);
            }
        }
        for backend in service.backends.values().filter(|b| b.load_weight.is_some()) {
            let weight = self.tables.load(backend.number).unwrap().weight.load();
            assert_eq!(Some(weight), backend.load_weight.map(u32::from));
        }
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
                    assert_eq!(Entry::load(entry), backend.written);
                }
                if let Prior::Moving(prior) = slot.prior() {
                    assert!(known[&prior].life.lives(), "a prior that died protects nothing");
                }
            }
            self.check_turns(service, &known);
            let willing = service.backends.values().any(|backend| backend.ring_weight() > 0);
            let slots = service.ring.slots();
            let unowned = slots.iter().any(|slot| slot.owner() == Slot::NONE);
            assert!(unowned != willing || service.warm_until.is_some(), "no more than warming");
        }
        for bucket in 0..places::buckets_for(LIMITS.services) {
            for (half, entry) in (0..).zip(&self.tables.bucket(bucket).unwrap().0) {
                let place = places::Place { bucket, half };
                let owner = self.core.services.values().find(|s| s.place == Some(place));
                let mut marks = self.core.marks.iter().filter(|(_, at)| at.place == place);
                let mark = marks.next().map(|(mark, _)| mark.key());
                assert!(owner.is_none() || mark.is_none(), "both at {place:?}");
                let key = owner.map(|s| s.key).or(mark);
                assert_eq!(entry.head.load(), key.map_or(0, |key| key.head));
                if let Some(service) = owner {
                    assert_eq!(RingSpan::from_word(entry.ring.load()), service.ring.span());
                    assert_eq!(entry.meta.load(), service.meta.0);
                }
            }
        }
    }
}

/// The default of `idle_timeout`, in seconds, and what a sweep adds.
const IDLE: u64 = 3600 + 3;

const WEB: &str = "192.0.2.1:80";
const A: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
const B: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);

const C: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 3);

fn two() -> World {
    World::up(&["web 192.0.2.1:80 a=10.0.0.1 b=10.0.0.2"])
}
