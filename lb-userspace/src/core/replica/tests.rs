//! Two cores: what one decides, the other installs.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod flows;

use std::{
    net::IpAddr,
    time::{Duration, UNIX_EPOCH},
};

use proptest::prelude::*;

use crate::{
    config::{self, Config, Limits, Name},
    core::{
        Action, BackendChange, BackendId, Command, Core, Expect, HealthReport, NextHop,
        NextHopReport, Now, Write, changes::Stamp, saved::Saved,
    },
    sync::packet::{Message, SlotChange, Slots},
};

const LIMITS: Limits = Limits { services: 4, backends: 12, ring_slots: 4096, flows: 1 };

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

fn id(backend: &str) -> BackendId {
    BackendId { service: name("web"), backend: name(backend) }
}

/// A node with one service; `numbers` backends of another service come first, so that the same
/// backend has other numbers on other nodes.
fn config(node: &str, backends: &[&str], others: usize) -> Config {
    let mut text = format!(
        "[node]\nname = \"{node}\"\n[limits]\nservices = 4\nbackends = 12\nring_slots = 4096\n\
         [sync]\nlisten = \"10.0.0.1:1\"\npeers = [\"10.0.0.2:1\"]\nkey_file = \"/k\"\n\
         [[interface]]\nname = \"x\"\n"
    );
    let mut service = |name: &str, vip: &str, backends: &[String]| {
        text += &format!(
            "[[service]]\nname = \"{name}\"\naddress = \"{vip}\"\nport = 80\nring = 1009\n\
             [service.health]\nfall = 1\nrise = 1\n"
        );
        for backend in backends {
            let (name, address) = backend.split_once('=').unwrap();
            text += &format!("[[service.backend]]\nname = \"{name}\"\naddress = \"{address}\"\n");
        }
    };
    let other: Vec<String> = (0..others).map(|i| format!("o{i}=10.9.0.{}", i + 1)).collect();
    if !other.is_empty() {
        service("aaa", "192.0.2.9", &other);
    }
    service("web", "192.0.2.1", &backends.iter().map(ToString::to_string).collect::<Vec<_>>());
    config::parse(&text, "test").unwrap()
}

struct Node {
    core: Core,
    seconds: u64,
    /// What it says of its own accord.
    said: Vec<Message>,
    slots_written: usize,
}

impl Node {
    fn new(config: Config) -> Self {
        let now = Now { monotonic: Duration::ZERO, wall: UNIX_EPOCH };
        let core = Core::new(config, LIMITS, &Saved::default(), None, now).unwrap();
        let mut node = Self { core, seconds: 0, said: Vec::new(), slots_written: 0 };
        node.settle();
        for address in node.core.addresses() {
            node.find(address);
        }
        for target in node.core.targets() {
            node.check(&target.id, true);
        }
        node.said.clear();
        node
    }

    fn now(&mut self) -> Now {
        self.seconds += 1;
        let monotonic = Duration::from_secs(self.seconds);
        Now { monotonic, wall: UNIX_EPOCH + monotonic }
    }

    fn settle(&mut self) {
        let mut writes = Vec::new();
        for action in self.core.commit() {
            match action {
                Action::Write(write) => writes.push(write),
                Action::Publish(message) => self.said.push(message),
                _ => {}
            }
        }
        self.slots_written += writes
            .iter()
            .map(|write| if let Write::Slots(slots) = write { slots.len() } else { 0 })
            .sum::<usize>();
        if !self.core.is_following() {
            self.said.extend(self.core.publications(&writes));
        }
    }

    fn find(&mut self, address: IpAddr) {
        let hop =
            NextHop { interface: 3, source: [2; 6], destination: [4; 6], local: None, mtu: 1500 };
        let now = self.now();
        self.core.next_hop(NextHopReport { address, outcome: Ok(hop) }, now);
        self.settle();
    }

    fn check(&mut self, id: &BackendId, passed: bool) {
        let now = self.now();
        let outcome = if passed { Ok(()) } else { Err("refused".to_owned()) };
        let report = HealthReport { id: id.clone(), outcome, started: now, finished: now };
        self.core.health(&report, now);
        self.settle();
    }

    fn command(&mut self, command: Command) {
        let now = self.now();
        self.core.command(command, now).unwrap();
        self.settle();
        for address in self.core.addresses() {
            self.find(address);
        }
    }

    fn add(&mut self, backend: &str, address: &str) {
        let change =
            BackendChange { address: Some(address.parse().unwrap()), ..BackendChange::default() };
        self.command(Command::Put { id: id(backend), change, expect: Expect::Absent });
        self.check(&id(backend), true);
    }

    fn follow(&mut self, following: bool) {
        let now = self.now();
        self.core.follow(following, now);
        self.settle();
    }

    fn hear(&mut self, messages: &[Message]) {
        let now = self.now();
        for message in messages {
            match message {
                Message::Slots(slots) => self.core.install_slots(slots, now),
                Message::Backends(backends) => self.core.install_backends(backends, now),
                Message::Change(change) => drop(self.core.take_change(change, now)),
                other => panic!("{other:?} is nothing for the core"),
            }
            self.settle();
        }
        for address in self.core.addresses() {
            self.find(address);
        }
    }

    /// Everything that a new follower is told.
    fn everything(&self) -> Vec<Message> {
        let mut all = self.core.say_changes();
        for name in self.core.service_names() {
            all.extend(self.core.say_backends(&name));
            let mut from = 0;
            while let Some(message) = self.core.say_slots(&name, from) {
                let Message::Slots(slots) = &message else { unreachable!() };
                from += u32::try_from(slots.changes.len()).unwrap();
                all.push(message);
            }
        }
        all
    }

    fn digest(&mut self) -> u64 {
        let digests = self.core.digests();
        digests.into_iter().find(|(service, _)| *service == name("web")).unwrap().1
    }
}

const BACKENDS: [&str; 3] = ["a=10.0.0.1", "b=10.0.0.2", "c=10.0.0.3"];

/// A leader and a follower that number their backends differently.
fn pair() -> (Node, Node) {
    let leader = Node::new(config("lb-1", &BACKENDS, 0));
    let mut follower = Node::new(config("lb-2", &BACKENDS, 3));
    follower.follow(true);
    follower.hear(&leader.everything());
    (leader, follower)
}

fn tell(leader: &mut Node, follower: &mut Node) {
    let said = std::mem::take(&mut leader.said);
    follower.hear(&said);
    follower.said.clear();
}

#[test]
fn nodes_of_one_configuration_have_one_ring_from_the_start() {
    let mut leader = Node::new(config("lb-1", &BACKENDS, 0));
    let mut follower = Node::new(config("lb-2", &BACKENDS, 3));
    assert_eq!(leader.digest(), follower.digest());
    let before = follower.slots_written;
    follower.follow(true);
    follower.hear(&leader.everything());
    assert_eq!(follower.slots_written, before, "nothing differed, nothing is written");
}

#[test]
fn a_follower_has_what_the_leader_decides_moves_included() {
    let (mut leader, mut follower) = pair();
    leader.add("d", "10.0.0.4");
    tell(&mut leader, &mut follower);
    assert_eq!(leader.digest(), follower.digest(), "moving slots with their priors");
    leader.command(Command::Drain(id("b")));
    tell(&mut leader, &mut follower);
    assert_eq!(leader.digest(), follower.digest());
    leader.check(&id("c"), false);
    tell(&mut leader, &mut follower);
    assert_eq!(leader.digest(), follower.digest());
}

#[test]
fn a_followers_own_view_waits_until_it_leads() {
    let (mut leader, mut follower) = pair();
    let before = follower.digest();
    follower.check(&id("a"), false);
    assert_eq!(follower.digest(), before, "it is shown, and changes nothing");
    let status = follower.core.status();
    let a = &status.services.iter().find(|s| s.name == name("web")).unwrap().backends[0];
    assert_eq!(a.state, crate::core::BackendState::Down);
    follower.follow(false);
    assert_ne!(follower.digest(), before);
    assert!(follower.said.iter().any(|message| matches!(message, Message::Slots(_))));
    leader.follow(true);
    let said = std::mem::take(&mut follower.said);
    leader.hear(&said);
    assert_eq!(leader.digest(), follower.digest());
}

#[test]
fn a_follower_that_was_cut_off_keeps_who_it_doubts_when_it_leads() {
    let leader = Node::new(config("lb-1", &BACKENDS, 0));
    let mut follower = Node::new(config("lb-2", &BACKENDS, 0));
    follower.follow(true);
    follower.hear(&leader.everything());
    for backend in ["a", "b", "c"] {
        follower.check(&id(backend), false);
    }
    assert!(follower.core.machine_suspected());
    for backend in ["a", "b"] {
        follower.check(&id(backend), true);
    }
    assert!(!follower.core.machine_suspected());
    let before = follower.digest();
    follower.follow(false);
    assert_eq!(follower.digest(), before, "its last check of c says nothing of now");
    follower.check(&id("c"), false);
    assert_ne!(follower.digest(), before);
}

#[test]
fn a_node_that_leads_with_the_same_view_changes_nothing() {
    let (mut leader, mut follower) = pair();
    leader.add("d", "10.0.0.4");
    tell(&mut leader, &mut follower);
    follower.check(&id("d"), true);
    let before = follower.slots_written;
    follower.follow(false);
    assert_eq!(follower.slots_written, before);
}

#[test]
fn commands_to_a_follower_reach_the_leader_and_come_back_as_slots() {
    let (mut leader, mut follower) = pair();
    let before = follower.digest();
    follower.command(Command::Drain(id("b")));
    assert_eq!(follower.digest(), before, "the leader decides on slots");
    let said = std::mem::take(&mut follower.said);
    assert_eq!(said.len(), 1);
    leader.hear(&said);
    tell(&mut leader, &mut follower);
    assert_ne!(leader.digest(), before);
    assert_eq!(leader.digest(), follower.digest());
}

#[test]
fn of_two_changes_the_later_one_holds_in_whatever_order_they_arrive() {
    let (mut leader, mut follower) = pair();
    leader.command(Command::Maintenance(id("a")));
    follower.seconds += 100;
    follower.command(Command::Drain(id("a")));
    let (first, second) = (leader.core.say_changes(), follower.core.say_changes());
    leader.hear(&second);
    follower.hear(&first);
    assert_eq!(leader.core.say_changes(), follower.core.say_changes());
    assert_eq!(leader.core.say_changes(), second);
}

#[test]
fn a_change_that_was_taken_back_does_not_come_back() {
    let (mut leader, mut follower) = pair();
    leader.command(Command::Drain(id("a")));
    tell(&mut leader, &mut follower);
    leader.command(Command::Enable(id("a")));
    // The follower was away, and says what it knows.
    let old = follower.core.say_changes();
    leader.said.clear();
    leader.hear(&old);
    follower.hear(&leader.everything());
    assert_eq!(leader.digest(), follower.digest());
    assert_eq!(leader.core.say_changes(), follower.core.say_changes());
    leader.said.clear();
}

#[test]
fn a_clock_that_goes_back_makes_no_change_older() {
    let (mut leader, _) = pair();
    leader.seconds = 1_000_000;
    leader.command(Command::Drain(id("a")));
    leader.seconds = 5;
    leader.command(Command::Enable(id("a")));
    let Message::Change(last) = &leader.core.say_changes()[0] else { panic!("a change") };
    assert_eq!(last.change, crate::core::changes::Change::default());
    assert!(last.stamp.millis > 1_000_000_000);
}

#[test]
fn a_change_that_no_command_here_could_make_is_refused() {
    let (leader, mut follower) = pair();
    let mut other = Node::new(config("lb-3", &BACKENDS, 0));
    other.command(Command::Drain(id("a")));
    let Message::Change(good) = other.core.say_changes()[0].clone() else { panic!("a change") };
    let now = follower.now();
    let mut evil = good.clone();
    evil.service = name("nowhere");
    assert!(follower.core.take_change(&evil, now).unwrap_err().contains("no service"));
    let mut evil = good;
    let wanted = config::Backend {
        name: name("a"),
        address: "2001:db8::1".parse().unwrap(),
        weight: 1,
        backup: false,
    };
    evil.stamp = Stamp { millis: u64::MAX, node: name("z") };
    evil.change.edit = Some(crate::core::changes::Edit { base: None, wanted: Some(wanted) });
    assert!(follower.core.take_change(&evil, now).unwrap_err().contains("cannot be a backend"));
    drop(leader);
}

#[test]
fn slots_for_another_ring_or_of_unknown_backends_are_left_alone() {
    let (mut leader, mut follower) = pair();
    let before = follower.digest();
    let address: IpAddr = "10.7.7.7".parse().unwrap();
    let change =
        SlotChange { position: 3, owner: Some(0), past: crate::sync::packet::Past::Settled };
    for (service, length) in [("web", 1009), ("web", 2003), ("nowhere", 1009)] {
        let slots = Slots {
            service: name(service),
            length,
            backends: vec![address],
            changes: vec![change],
        };
        follower.hear(&[Message::Slots(slots)]);
    }
    assert_eq!(follower.digest(), before);
    leader.add("d", "10.0.0.4");
    // The follower has not heard of the backend: its digest tells.
    leader.said.retain(|message| !matches!(message, Message::Change(_)));
    tell(&mut leader, &mut follower);
    assert_ne!(leader.digest(), follower.digest());
    let theirs = leader.core.digests();
    assert!(follower.core.differing(theirs).contains(&name("web")));
    follower.hear(&leader.everything());
    assert_eq!(leader.digest(), follower.digest());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    /// Whatever happens to the leader, the follower has its slots, and leading with the same view
    /// moves none.
    #[test]
    fn random_histories_end_in_the_same_tables(
        steps in proptest::collection::vec((0usize..6, 0usize..4), 1..40),
    ) {
        let (mut leader, mut follower) = pair();
        let all = ["a", "b", "c", "d"];
        let mut there = [true, true, true, false];
        for (what, who) in steps {
            let backend = all[who];
            match (what, there[who]) {
                (0, false) => {
                    leader.add(backend, "10.0.0.4");
                    there[who] = true;
                }
                (1, true) => leader.command(Command::Drain(id(backend))),
                (2, true) => leader.command(Command::Enable(id(backend))),
                (3, true) => leader.check(&id(backend), false),
                (4, true) => leader.check(&id(backend), true),
                (5, true) if who == 3 => {
                    leader.command(Command::Remove { id: id(backend), now: true });
                    there[who] = false;
                }
                _ => {}
            }
            tell(&mut leader, &mut follower);
            prop_assert_eq!(leader.digest(), follower.digest(), "after {} {}", what, backend);
        }
    }
}
