//! Sessions and roles: messages carried from node to node by hand, time moved by hand.

use std::{collections::VecDeque, time::Duration};

use crate::{
    config::Name,
    sync::{
        Error, Message, Output, Peers, Report, Role, SessionId, View,
        fsm::{BEAT, JOIN_WAIT, SILENCE_MAX},
        packet::{Hello, Past, SlotChange, Slots, Standing},
    },
};

/// One node, and what it did.
struct Node {
    peers: Peers,
    view: View,
    role: Role,
    events: Vec<Report>,
    installed: usize,
    asked_for: Vec<Vec<Name>>,
    closed: Vec<(SessionId, String)>,
    /// Whether it answers to being asked for everything.
    answers: bool,
}

/// Nodes with a connection between any two, and a clock.
struct World {
    nodes: Vec<Node>,
    /// From whom to whom, by which connection.
    wire: VecDeque<(usize, usize, SessionId, Message)>,
    links: Vec<(usize, usize, SessionId)>,
    now: Duration,
}

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

fn slots() -> Slots {
    let changes = vec![SlotChange { position: 0, owner: None, past: Past::Settled }];
    Slots { service: name("web"), length: 1009, backends: Vec::new(), changes }
}

impl World {
    fn new(names: &[&str]) -> Self {
        let node = |(instance, text): (u64, &&str)| Node {
            peers: Peers::new(name(text), instance, None, Duration::ZERO),
            view: View { digest: 1, config: 1 },
            role: Role::Joining,
            events: Vec::new(),
            installed: 0,
            asked_for: Vec::new(),
            closed: Vec::new(),
            answers: true,
        };
        let nodes = (100..).zip(names).map(node).collect();
        Self { nodes, wire: VecDeque::new(), links: Vec::new(), now: Duration::ZERO }
    }

    /// Two nodes that found each other and settled who leads.
    fn pair() -> Self {
        let mut world = Self::new(&["a", "b"]);
        world.connect(0, 1, 1);
        world.pass(2 * JOIN_WAIT);
        world
    }

    fn connect(&mut self, from: usize, to: usize, id: u64) {
        let id = SessionId(id);
        self.links.push((from, to, id));
        for (node, dialled) in [(from, true), (to, false)] {
            let outputs = self.nodes[node].peers.opened(id, dialled, self.now);
            self.put_out(node, outputs);
        }
        self.deliver();
    }

    fn disconnect(&mut self, id: u64) {
        let id = SessionId(id);
        let (from, to, _) = *self.links.iter().find(|(.., link)| *link == id).unwrap();
        self.links.retain(|(.., link)| *link != id);
        self.wire.retain(|(.., link, _)| *link != id);
        for node in [from, to] {
            let outputs = self.nodes[node].peers.closed(id, &Error::Garbage, self.now);
            self.put_out(node, outputs);
        }
        self.deliver();
    }

    fn leads(&mut self, node: usize, leads: bool) {
        let view = self.nodes[node].view;
        let outputs = self.nodes[node].peers.leads(Some(leads), &mut || view, self.now);
        self.put_out(node, outputs);
        self.deliver();
    }

    /// Lets time go by in steps, and messages arrive.
    fn pass(&mut self, duration: Duration) {
        let end = self.now + duration;
        while self.now < end {
            self.now += BEAT / 2;
            for node in 0..self.nodes.len() {
                let view = self.nodes[node].view;
                let outputs = self.nodes[node].peers.tick(&mut || view, self.now);
                self.put_out(node, outputs);
            }
            self.deliver();
        }
    }

    fn deliver(&mut self) {
        while let Some((_, to, id, message)) = self.wire.pop_front() {
            let node = &mut self.nodes[to];
            let view = node.view;
            let outputs = node.peers.received(id, message, &mut || view, self.now);
            self.put_out(to, outputs);
        }
    }

    fn put_out(&mut self, node: usize, outputs: Vec<Output>) {
        for output in outputs {
            match output {
                Output::Send(id, message) => self.say(node, id, message),
                Output::Everything(id, names) => {
                    self.nodes[node].asked_for.push(names);
                    if self.nodes[node].answers {
                        let leads = self.nodes[node].role == Role::Leader;
                        if leads {
                            self.say(node, id, Message::Slots(slots()));
                        }
                        self.say(node, id, Message::Done { leads });
                    }
                }
                Output::Exchange(id) => self.say(node, id, Message::Wanted(Vec::new())),
                Output::Digests(id) => {
                    let list = vec![(name("web"), self.nodes[node].view.digest)];
                    self.say(node, id, Message::Digests { list, last: true });
                }
                Output::Config(id) => {
                    let lines = vec![format!("config {}", self.nodes[node].view.config)];
                    self.say(node, id, Message::Config { lines, last: true });
                }
                Output::Close(id, why) => {
                    self.nodes[node].closed.push((id, why.to_string()));
                    self.hang_up(node, id);
                }
                Output::Role(role) => self.nodes[node].role = role,
                Output::Slots(_) => self.nodes[node].installed += 1,
                Output::Compare(id, theirs) => {
                    let same = theirs == [(name("web"), self.nodes[node].view.digest)];
                    let differ = if same { Vec::new() } else { vec![name("web")] };
                    let outputs = self.nodes[node].peers.differing(id, differ);
                    self.put_out(node, outputs);
                }
                Output::CompareConfig(id, theirs) => {
                    let outputs = self.nodes[node].peers.config_differs(id, theirs);
                    self.put_out(node, outputs);
                }
                Output::Report(_, report) => self.nodes[node].events.push(report),
                Output::Backends(_) | Output::Flows(_) | Output::Change(..) => {}
            }
        }
    }

    fn hang_up(&mut self, node: usize, id: SessionId) {
        let Some((from, to, _)) = self.links.iter().copied().find(|(.., link)| *link == id) else {
            return;
        };
        self.links.retain(|(.., link)| *link != id);
        self.wire.retain(|(.., link, _)| *link != id);
        let other = if node == from { to } else { from };
        let outputs = self.nodes[other].peers.closed(id, &Error::Garbage, self.now);
        self.put_out(other, outputs);
    }

    fn say(&mut self, from: usize, id: SessionId, message: Message) {
        if let Some((a, b, _)) = self.links.iter().find(|(.., link)| *link == id) {
            let to = if *a == from { *b } else { *a };
            self.wire.push_back((from, to, id, message));
        }
    }

    fn roles(&self) -> Vec<Role> {
        self.nodes.iter().map(|node| node.role.clone()).collect()
    }

    fn saw(&mut self, node: usize, report: &Report) -> bool {
        let saw = self.nodes[node].events.contains(report);
        self.nodes[node].events.clear();
        saw
    }
}

fn a_leads() -> Vec<Role> {
    vec![Role::Leader, Role::Follower(name("a"))]
}

fn b_leads() -> Vec<Role> {
    vec![Role::Follower(name("b")), Role::Leader]
}

#[test]
fn of_two_that_start_the_smaller_name_leads() {
    let world = World::pair();
    assert_eq!(world.roles(), a_leads());
    assert!(world.nodes[1].installed > 0, "its slots were sent");
    assert!(world.nodes.iter().all(|node| node.peers.is_synced()));
}

#[test]
fn who_is_alone_leads_after_a_while() {
    let mut world = World::new(&["b"]);
    world.pass(JOIN_WAIT / 2);
    assert_eq!(world.roles(), [Role::Joining]);
    world.pass(JOIN_WAIT);
    assert_eq!(world.roles(), [Role::Leader]);
}

#[test]
fn who_comes_back_takes_over_the_tables_before_it_leads_them() {
    let mut world = World::new(&["a", "b"]);
    world.nodes[1].view.digest = 7;
    world.pass(2 * JOIN_WAIT);
    // Both led alone; now the first one is a new process that knows nothing.
    world.nodes[0].peers = Peers::new(name("a"), 200, None, world.now);
    world.nodes[0].role = Role::Joining;
    world.nodes[0].answers = true;
    world.nodes[1].answers = false;
    world.connect(0, 1, 1);
    world.pass(BEAT);
    assert_eq!(world.roles(), b_leads(), "it is not ready before it has everything");
    assert!(!world.nodes[0].peers.is_synced());

    // Everything has arrived.
    world.nodes[1].answers = true;
    world.say(1, SessionId(1), Message::Slots(slots()));
    world.say(1, SessionId(1), Message::Done { leads: true });
    world.deliver();
    assert_eq!(world.nodes[0].installed, 1);
    world.pass(2 * BEAT);
    assert_eq!(world.roles(), a_leads());
}

#[test]
fn who_has_the_addresses_leads_whatever_its_name() {
    let mut world = World::pair();
    world.leads(0, false);
    world.leads(1, true);
    world.pass(BEAT);
    assert_eq!(world.roles(), b_leads());
    world.leads(0, true);
    world.leads(1, false);
    world.pass(BEAT);
    assert_eq!(world.roles(), a_leads());
}

#[test]
fn two_that_both_have_the_addresses_are_a_split_brain_and_neither_follows() {
    let mut world = World::pair();
    world.leads(0, true);
    world.leads(1, true);
    world.pass(BEAT);
    assert_eq!(world.roles(), [Role::Leader, Role::Leader]);
    // So far they may be handing them over.
    assert!(!world.saw(0, &Report::Split) && !world.saw(1, &Report::Split));
    world.pass(4 * BEAT);
    assert!(world.saw(0, &Report::Split) && world.saw(1, &Report::Split));
    world.leads(1, false);
    world.pass(BEAT);
    assert_eq!(world.roles(), a_leads());
    assert!(world.saw(0, &Report::SplitOver) && world.saw(1, &Report::SplitOver));
}

#[test]
fn a_follower_that_loses_its_leader_leads() {
    let mut world = World::pair();
    world.disconnect(1);
    assert_eq!(world.roles(), [Role::Leader, Role::Leader]);
    world.connect(1, 0, 2);
    world.pass(BEAT);
    assert_eq!(world.roles(), a_leads(), "both are ready: the smaller name");
}

#[test]
fn a_peer_that_falls_silent_is_given_up() {
    let mut world = World::pair();
    // Its connection stays, and nothing comes by it any more.
    world.links.clear();
    world.pass(SILENCE_MAX + BEAT);
    assert_eq!(world.roles(), [Role::Leader, Role::Leader]);
    assert!(world.nodes[1].closed[0].1.contains("silent"), "{:?}", world.nodes[1].closed);
}

#[test]
fn a_node_that_stood_still_itself_gives_nobody_up() {
    let mut world = World::pair();
    // The first one stands still while the second goes on: what that says waits.
    let waiting: Vec<_> = (0..100)
        .flat_map(|_| {
            world.now += BEAT;
            let view = world.nodes[1].view;
            world.nodes[1].peers.tick(&mut || view, world.now)
        })
        .collect();
    world.pass(BEAT);
    assert!(world.nodes[0].closed.is_empty(), "{:?}", world.nodes[0].closed);
    assert!(waiting.iter().any(|output| matches!(output, Output::Send(..))));
}

#[test]
fn of_two_connections_both_keep_the_same_one() {
    for order in [[(0, 1), (1, 0)], [(1, 0), (0, 1)]] {
        let mut world = World::new(&["a", "b"]);
        for (id, (from, to)) in (1..).zip(order) {
            world.connect(from, to, id);
        }
        world.pass(JOIN_WAIT);
        let kept: Vec<_> = world.nodes.iter().map(|node| node.peers.established()).collect();
        assert_eq!(kept[0], kept[1]);
        let (from, ..) = world.links[0];
        assert_eq!((world.links.len(), from), (1, 0), "the one that the smaller name opened");
    }
}

#[test]
fn a_restarted_peer_replaces_what_is_left_of_it() {
    let mut world = World::pair();
    // The old connection is dead, and nobody has noticed.
    world.links.clear();
    world.nodes[1].peers = Peers::new(name("b"), 201, None, world.now);
    world.nodes[1].role = Role::Joining;
    world.connect(1, 0, 2);
    world.pass(2 * BEAT);
    assert_eq!(world.roles(), a_leads());
    assert_eq!(world.nodes[0].peers.established(), [SessionId(2)]);
}

#[test]
fn a_node_of_our_name_and_ourselves_are_refused() {
    let mut world = World::new(&["a", "a"]);
    world.connect(0, 1, 1);
    let mut why = world.nodes.iter().flat_map(|node| &node.closed);
    assert!(why.any(|(_, why)| why.contains("its own node.name")));

    let mut world = World::new(&["a"]);
    let outputs = world.nodes[0].peers.opened(SessionId(1), false, world.now);
    let Some(Output::Send(_, hello)) = outputs.into_iter().next() else { panic!("no hello") };
    let outputs = world.nodes[0].peers.received(SessionId(1), hello, &mut no_look, Duration::ZERO);
    world.put_out(0, outputs);
    assert!(world.nodes[0].closed[0].1.contains("this node itself"));
}

fn no_look() -> View {
    View { digest: 0, config: 0 }
}

#[test]
fn who_does_not_say_hello_is_not_listened_to() {
    for message in [Message::Slots(slots()), Message::Compare, Message::Done { leads: true }] {
        let mut world = World::new(&["a"]);
        world.nodes[0].peers.opened(SessionId(1), false, world.now);
        let outputs = world.nodes[0].peers.received(SessionId(1), message, &mut no_look, world.now);
        world.put_out(0, outputs);
        assert!(world.nodes[0].closed[0].1.contains("did not say who it is"));
        assert_eq!(world.nodes[0].installed, 0);
    }
}

#[test]
fn a_second_hello_ends_the_session() {
    let mut world = World::pair();
    let standing = Standing { leads: Some(true), ready: true };
    let hello = Hello { node: name("c"), instance: 9, version: String::new(), standing };
    world.say(1, SessionId(1), Message::Hello(hello));
    world.deliver();
    assert!(world.nodes[0].peers.established().is_empty());
}

#[test]
fn slots_are_taken_from_the_leader_alone() {
    let mut world = World::pair();
    let before = world.nodes[0].installed;
    world.say(1, SessionId(1), Message::Slots(slots()));
    world.deliver();
    assert_eq!(world.nodes[0].installed, before, "a leader installs nothing");
}

#[test]
fn tables_that_differ_are_reported_asked_for_and_reported_again() {
    let mut world = World::pair();
    world.nodes[1].view.digest = 2;
    world.nodes[0].asked_for.clear();
    world.pass(15 * BEAT);
    assert_eq!(world.nodes[1].peers.differ(), [name("web")]);
    assert_eq!(world.nodes[0].asked_for, [vec![name("web")]], "once for the same difference");
    assert_eq!(world.nodes[0].peers.peers(world.now)[0].differ, 1, "the leader knows as well");
    assert!(world.saw(1, &Report::Differ(vec![name("web")])));

    world.nodes[1].view.digest = 1;
    world.pass(15 * BEAT);
    assert!(world.nodes[1].peers.differ().is_empty());
    assert!(world.saw(1, &Report::Agree));
}

#[test]
fn configurations_that_differ_are_reported_once_and_when_they_agree_again() {
    let mut world = World::pair();
    world.nodes[1].view.config = 2;
    world.pass(10 * BEAT);
    assert_eq!(
        world.nodes[0].events.iter().filter(|e| matches!(e, Report::ConfigDiffers(_))).count(),
        1
    );
    assert_eq!(world.nodes[1].peers.peers(world.now)[0].config, ["config 1"]);
    world.nodes[1].view.config = 1;
    world.pass(10 * BEAT);
    assert!(world.saw(0, &Report::ConfigAgrees) && world.saw(1, &Report::ConfigAgrees));
}

#[test]
fn the_lag_is_the_age_of_what_is_not_acknowledged() {
    let mut world = World::pair();
    world.pass(2 * BEAT);
    assert_eq!(world.nodes[0].peers.peers(world.now)[0].lag, Duration::ZERO);
    // What is on the wire stays there.
    for _ in 0..10 {
        world.now += BEAT;
        let view = world.nodes[0].view;
        let outputs = world.nodes[0].peers.tick(&mut || view, world.now);
        world.put_out(0, outputs);
    }
    assert!(world.nodes[0].peers.peers(world.now)[0].lag >= 9 * BEAT);
    world.deliver();
    world.pass(2 * BEAT);
    assert!(world.nodes[0].peers.peers(world.now)[0].lag < BEAT);
}

#[test]
fn of_three_all_follow_one() {
    let mut world = World::new(&["c", "a", "b"]);
    for (id, (from, to)) in (1..).zip([(0, 1), (1, 2), (2, 0)]) {
        world.connect(from, to, id);
    }
    world.pass(2 * JOIN_WAIT);
    let follower = Role::Follower(name("a"));
    assert_eq!(world.roles(), [follower.clone(), Role::Leader, follower]);
}
