//! The thread's one task: packets, timers, facts and wishes go into the instances; what they want
//! is done.
//!
//! Whatever woke it, each round first takes in all that has arrived, and looks at the timers only
//! then: a process that was stopped for a second finds the adverts of that second in its sockets,
//! dated by the kernel, and does not take the master for gone. A round that comes later than it was
//! meant to says so to the instances: what did not arrive meanwhile proves little.

mod hosts;
mod knowledge;
mod orders;
mod second_chance;
mod sending;
mod wishes;
mod witnesses;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    future::poll_fn,
    net::{IpAddr, Ipv4Addr},
    task::Poll,
    time::Duration,
};

use self::{hosts::Hosts, witnesses::Witnesses};
use super::{
    Echo, Report, Request, VrrpStatus, Wanted,
    fence::Fence,
    fsm::{Input, Output, State},
    group,
    instance::{Instance, Told},
    io::{AdvertSocket, Buffer, FrameSocket},
    keeper::{Keeper, Orders, Place},
    script::Scripts,
    second_chance::SecondChance,
    track::{DaemonFacts, Facts},
    witness,
};
use crate::{
    clock::Clock,
    config::{self, Name, Vrrp},
    dataplane::{VirtualMacs, VirtualRouter},
};
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::{Instant, sleep_until},
};

/// Packets taken from one socket before the timers have their turn.
const BATCH: usize = 1024;
/// The longest time between two rounds while there are instances: how far apart the beats are by
/// which a stall shows.
const BEAT: Duration = Duration::from_millis(100);

/// The ends of the handle's channels.
#[derive(Debug)]
pub(super) struct Edges {
    pub(super) wanted: watch::Receiver<Wanted>,
    pub(super) facts: watch::Receiver<DaemonFacts>,
    pub(super) arrived: watch::Receiver<BTreeMap<IpAddr, u64>>,
    pub(super) spoke: watch::Receiver<Duration>,
    pub(super) requests: mpsc::Receiver<Request>,
    pub(super) status: watch::Sender<Vec<VrrpStatus>>,
    pub(super) reports: mpsc::Sender<Report>,
}

/// What `[sync]` says of how peers are judged.
#[derive(Debug, Clone, Default)]
pub(super) struct Peers {
    witnesses: Vec<IpAddr>,
    fence: Vec<String>,
}

impl From<&config::Sync> for Peers {
    fn from(sync: &config::Sync) -> Self {
        Self { witnesses: sync.witness.clone(), fence: sync.fence.clone() }
    }
}

/// An instance and its socket.
struct Running {
    instance: Instance,
    socket: Option<AdvertSocket>,
    /// Why there is no socket.
    deaf: Option<String>,
}

struct Driver {
    clock: Clock,
    status: watch::Sender<Vec<VrrpStatus>>,
    reports: mpsc::Sender<Report>,
    running: Vec<Running>,
    facts: Facts,
    /// Whether the kernel has told of its interfaces.
    informed: bool,
    /// The other routers' hosts, if they are probed.
    hosts: Option<Hosts>,
    /// The latest other master, and the time for which it is asked about flows.
    master_before: Option<Ipv4Addr>,
    second_chance: Option<SecondChance>,
    witnesses: Witnesses,
    /// How long masters keep their addresses without a sign, if there are witnesses.
    patience: Option<Duration>,
    /// When the last round began, and when the next one is due.
    last_round: Duration,
    due: Option<Duration>,
    frames: Option<FrameSocket>,
    macs: VirtualMacs,
    /// The virtual routers whose frames are steered here, and until when.
    steered: BTreeMap<VirtualRouter, Duration>,
    orders: watch::Sender<Orders>,
    scripts: Scripts,
    fence: Fence,
    /// Addresses that no instance has any more.
    dropped: BTreeSet<Place>,
    /// Changes that the rest of a group has to follow.
    moves: VecDeque<(Name, State)>,
    reopen_at: Option<Duration>,
    leaving: Option<oneshot::Sender<()>>,
    buffer: Buffer,
}

/// Works until the handle is dropped.
pub(super) async fn run(
    clock: Clock,
    echo: Option<Echo>,
    peers: Peers,
    macs: VirtualMacs,
    edges: Edges,
) {
    let Edges { mut wanted, facts: mut daemon_facts, mut arrived, mut spoke, .. } = edges;
    let Edges { mut requests, status, reports, .. } = edges;
    let (orders, orders_there) = watch::channel(Orders::default());
    let (facts_there, mut link_facts) = watch::channel(None);
    let (mended_there, mut mended) = mpsc::channel(64);
    let (fence_outcomes, mut fenced) = mpsc::channel(16);
    let (script_reports, mut outcomes) = mpsc::channel(64);
    tokio::spawn(Keeper::new(orders_there, facts_there, mended_there).run());
    let mut driver = Driver {
        clock,
        status,
        reports,
        running: Vec::new(),
        facts: Facts::default(),
        informed: false,
        hosts: echo.map(Hosts::new),
        master_before: None,
        second_chance: None,
        witnesses: Witnesses::new(&peers.witnesses, clock.now().monotonic),
        patience: (!peers.witnesses.is_empty()).then_some(witness::PATIENCE),
        last_round: Duration::ZERO,
        due: None,
        frames: None,
        macs,
        steered: BTreeMap::new(),
        orders,
        scripts: Scripts::new(script_reports),
        fence: Fence::new(peers.fence, fence_outcomes),
        dropped: BTreeSet::new(),
        moves: VecDeque::new(),
        reopen_at: None,
        leaving: None,
        buffer: Buffer::default(),
    };
    loop {
        let deadline = driver.deadline();
        driver.due = deadline;
        tokio::select! {
            () = readable(&driver.running, driver.hosts.as_ref(), &driver.witnesses) => {}
            () = driver.sleep_until(deadline) => {}
            changed = wanted.changed() => {
                if changed.is_err() {
                    return;
                }
                let wanted = wanted.borrow_and_update().clone();
                driver.configure(wanted);
            }
            Ok(()) = link_facts.changed() => {
                let links = link_facts.borrow_and_update().clone();
                driver.learn_links(links);
            }
            Ok(()) = daemon_facts.changed() => {
                driver.facts.daemon = daemon_facts.borrow_and_update().clone();
                driver.assess();
            }
            Ok(()) = arrived.changed() => {
                let arrived = arrived.borrow_and_update().clone();
                driver.count_packets(&arrived);
            }
            Ok(()) = spoke.changed() => {
                let (time, now) = (*spoke.borrow_and_update(), driver.now());
                driver.tell_all(&Input::Spoke(time), now);
            }
            Some((script, passes)) = outcomes.recv() => {
                driver.facts.scripts.insert(script, passes);
                driver.assess();
            }
            Some(outcome) = fenced.recv() => driver.tell_of_fence(outcome),
            Some(mended) = mended.recv() => driver.tell_of(&mended),
            Some(request) = requests.recv() => driver.answer(request),
        }
        driver.round();
    }
}

/// Waits until one of the sockets has something.
async fn readable(running: &[Running], hosts: Option<&Hosts>, witnesses: &Witnesses) {
    let sockets = || running.iter().filter_map(|each| each.socket.as_ref());
    poll_fn(|context| {
        // Each is asked, so that each wakes us.
        let ready = sockets().filter(|socket| socket.poll_ready(context).is_ready()).count();
        let probed = hosts.is_some_and(|hosts| hosts.poll_ready(context).is_ready());
        let answered = witnesses.poll_ready(context).is_ready();
        if ready > 0 || probed || answered { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
}

impl Driver {
    fn now(&self) -> Duration {
        self.clock.now().monotonic
    }

    fn deadline(&self) -> Option<Duration> {
        let instances = self.running.iter().filter_map(|each| each.instance.deadline());
        let intervals = self.running.iter().map(|each| each.instance.spec.interval);
        let beat = intervals.min().map(|interval| self.last_round + interval.min(BEAT));
        let probes = beat.and(self.hosts.as_ref()).map(Hosts::deadline);
        let pings = beat.and_then(|_| self.witnesses.deadline(self.is_in_doubt()));
        instances.chain(self.reopen_at).chain(beat).chain(probes).chain(pings).min()
    }

    fn sleep_until(&self, deadline: Option<Duration>) -> impl Future<Output = ()> + use<> {
        let wait = deadline.map(|deadline| deadline.saturating_sub(self.now()));
        let until = wait.map(|wait| Instant::now() + wait);
        async move {
            match until {
                Some(until) => sleep_until(until).await,
                None => std::future::pending().await,
            }
        }
    }

    /// All that has arrived, then all that is due, then what follows from both.
    ///
    /// The time is that of its beginning: nothing that comes in later is missed by it.
    fn round(&mut self) {
        let now = self.now();
        self.receive(now);
        self.last_round = now;
        self.probe(now);
        self.hear_witnesses(now);
        let late = self.due.map_or(Duration::ZERO, |due| now.saturating_sub(due));
        if self.reopen_at.is_some_and(|when| now >= when) {
            self.assess();
        }
        for position in 0..self.running.len() {
            let fsm = &mut self.running[position].instance.fsm;
            let mut outputs = fsm.handle(Input::Stalled(late), now);
            outputs.extend(fsm.handle(Input::Timer, now));
            self.carry_out(position, outputs);
        }
        self.ping_witnesses(now);
        self.move_groups();
        self.hand_on();
        self.announce();
        self.retire();
        self.give_orders();
        self.tell_status();
        self.finish_leaving();
    }

    /// Takes in what has arrived, dated by the kernel: not before the round in which the sockets
    /// were last emptied, whatever the kernel's other clock was set to meanwhile.
    fn receive(&mut self, now: Duration) {
        for position in 0..self.running.len() {
            for _ in 0..BATCH {
                let Running { instance, socket: Some(socket), .. } = &mut self.running[position]
                else {
                    break;
                };
                let Some((datagram, age)) = socket.receive(&mut self.buffer) else { break };
                let arrived = arrival(now, age, self.last_round);
                let (outputs, told) = instance.receive(datagram, arrived);
                if let Some(told) = told {
                    self.tell(position, told);
                }
                self.carry_out(position, outputs);
            }
        }
    }

    /// Does what an instance wants, in its order.
    fn carry_out(&mut self, position: usize, outputs: Vec<Output>) {
        if outputs.iter().any(|output| matches!(output, Output::Take)) {
            self.prepare(position);
        }
        for output in outputs {
            match output {
                Output::Send(priority) => self.send(position, priority),
                Output::Take => {
                    let now = self.now();
                    let instance = &mut self.running[position].instance;
                    instance.announcements.start(instance.spec.garp, now);
                    // Now: what a client sends meanwhile goes to the master that was.
                    self.announce();
                }
                Output::Withdraw => {
                    let instance = &mut self.running[position].instance;
                    instance.holds = Some(false);
                    instance.announcements.stop();
                }
                Output::Changed { from, to, why } => {
                    self.fence(position, to, &why);
                    let now = self.clock.now();
                    let instance = &mut self.running[position].instance;
                    let told = instance.changed(from, to, why.to_string(), now);
                    if let (Some(group), Some(state)) =
                        (instance.spec.sync_group.clone(), group::follows(from, to))
                    {
                        self.moves.push_back((group, state));
                    }
                    self.tell(position, told);
                }
                Output::Kept => {
                    let note = "nobody took the released addresses over: they are kept";
                    self.tell(position, Told::Note(note.to_owned()));
                }
                Output::Awaits(peer) => {
                    let note = format!("{peer} is let be until its tables are here");
                    self.tell(position, Told::Note(note));
                }
                Output::Announce => {
                    let now = self.now();
                    let instance = &mut self.running[position].instance;
                    instance.announcements.again(instance.spec.garp, now);
                    self.give_second_chance();
                    self.announce();
                }
                Output::Ask => self.witnesses.ask(self.now()),
                Output::CutOff => {
                    let note = "neither a peer nor a witness is to be seen: this node takes itself \
                                for cut off, and does not take the addresses";
                    self.tell(position, Told::Note(note.to_owned()));
                }
                Output::Split(split) => self.tell(position, Told::Split { split, over: false }),
                Output::SplitOver(split) => self.tell(position, Told::Split { split, over: true }),
            }
        }
    }

    /// Has the program do what a master's does: before an advert, which may come from the virtual
    /// router's own address, leads the switch here.
    fn prepare(&mut self, position: usize) {
        self.running[position].instance.holds = Some(true);
        self.tell_program();
        self.give_second_chance();
    }

    /// Has the members of a group follow each other.
    fn move_groups(&mut self) {
        let instances = || self.running.iter().map(|each| &each.instance);
        for group in group::agreed(instances().filter(|instance| !instance.retiring)) {
            self.moves.push_back((group, State::Master));
        }
        // Each member changes its state once for each move; a few moves are a lot.
        for _ in 0..16 {
            let Some((group, state)) = self.moves.pop_front() else { return };
            let now = self.now();
            for position in 0..self.running.len() {
                let instance = &mut self.running[position].instance;
                if instance.spec.sync_group.as_ref() == Some(&group) && !instance.retiring {
                    let outputs = instance.fsm.follow(state, now);
                    self.carry_out(position, outputs);
                }
            }
        }
        self.moves.clear();
    }
}

/// When a packet arrived that is `age` old by the kernel's other clock, which may have been set
/// meanwhile: not before the sockets were last emptied, and not later than now.
fn arrival(now: Duration, age: Duration, emptied: Duration) -> Duration {
    now.saturating_sub(age).max(emptied)
}

fn places(spec: &Vrrp) -> Vec<Place> {
    spec.placed().map(|prefix| (spec.home(), prefix)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_jumps_dates_no_packet_outside_its_round() {
        let at = Duration::from_millis;
        assert_eq!(arrival(at(1000), at(7), at(900)), at(993));
        // Set forward: packets seem to be older than they can be.
        assert_eq!(arrival(at(1000), Duration::from_secs(3600), at(900)), at(900));
        // Set back: `AdvertSocket::receive` takes them for new.
        assert_eq!(arrival(at(1000), Duration::ZERO, at(900)), at(1000));
    }
}
