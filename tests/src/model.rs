//! A service's life as a random history, and the promise it must keep: *a flow that is never
//! silent for longer than the idle time-out, to a backend that stays alive, never has a packet
//! delivered to another backend.*
//!
//! The steering rules are the real ones, over tables in memory; the ring is the controller's. Each
//! packet, each write and each sweep can be repeated on a [`Mirror`]: the kernel.

mod event;
pub(crate) mod memory;
mod mirror;

use std::{cell::Cell, fmt, time::Duration};

use lb_common::{
    flow::{Flow, TcpFlags},
    hash::Seed,
    layout::{FlowRecord, Life, RingSpan, ServiceMeta},
    reason::Reason,
    slot::Slot,
    steer::{self, Flows, Parameters, Stage, Why},
};
use weir::core::{
    Write,
    maglev::{self, Candidate},
    recorded::Staying,
    ring::{Ring, Tracking},
    rotation,
    sweep::{self, Findings},
};

use self::memory::Memory;
pub use self::{
    event::{Balance, Event, Protocol},
    memory::{place, service_key},
    mirror::{Mirror, Nothing},
};

/// How many backends a world has, up or not.
pub const BACKENDS: u16 = 5;
/// How many flows.
pub const FLOWS: u16 = 40;
/// Slots: few, so that flows share them. A prime, as Maglev wants it.
const SLOTS: u32 = 13;
/// The idle time-out: longer than a closed flow is remembered, so that what is wrong with that shows.
const IDLE: Duration = Duration::from_secs(150);

/// The promise was broken, or the mirror disagrees.
#[derive(Debug, Clone)]
pub struct Broken(pub String);

/// A service with its ring, its backends and its clients.
#[derive(Debug)]
pub struct World {
    tables: Memory,
    ring: Ring,
    rotation: rotation::Rotation,
    balance: Balance,
    /// Whether the loads have been corrected since anything happened that packets do not count.
    loads_hold: bool,
    backends: Vec<Server>,
    clients: Vec<Client>,
    protocol: Protocol,
    /// Whether a backend fell and its slots are still its own. The controller does nothing else
    /// before it has given them to others.
    fallen: bool,
}

#[derive(Debug, Clone, Copy)]
struct Server {
    life: Life,
    weight: u8,
}

/// What a client knows of its flow.
#[derive(Debug, Clone, Copy, Default)]
struct Client {
    /// Who got its last packet, in which life, when; and whether the flow is open.
    last: Option<(u16, u16, Duration)>,
    /// Whether more than opening packets were sent.
    confirmed: bool,
}

/// What a client sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sent {
    /// What opens its flow, and says so.
    Opening,
    /// What neither opens nor closes it.
    Later,
    /// Two of those at once.
    Twice,
    /// Its last packet.
    Last,
}

/// The parameters of model and mirror.
pub const PARAMETERS: Parameters = Parameters { seed: Seed([7, 11]), place_mask: 1 };

/// The part of the ring map that the model's ring has.
pub const SPAN: RingSpan = RingSpan { base: 16, length: SLOTS };
/// The part in which turns are taken.
const TURNS: RingSpan = RingSpan { base: 32, length: SLOTS };

impl World {
    /// A world in which the first three backends are up, balanced by the ring.
    pub fn new(protocol: Protocol, mirror: &mut impl Mirror) -> Self {
        let tables = Memory::new(service_key(protocol));
        let server = Server { life: Life::default(), weight: 1 };
        let mut world = Self {
            tables,
            ring: Ring::new(SPAN, Tracking::Moves),
            rotation: rotation::Rotation::new(TURNS),
            balance: Balance::Ring,
            loads_hold: false,
            backends: vec![server; usize::from(BACKENDS)],
            clients: vec![Client::default(); usize::from(FLOWS)],
            protocol,
            fallen: false,
        };
        mirror.write(&Write::Slots(world.ring.indexed()));
        for number in 0..3 {
            world.set_life(number, |life| Life::new(life.number(), true, true), mirror);
        }
        world.give(mirror);
        world
    }

    /// Lets something happen.
    ///
    /// # Errors
    ///
    /// [`Broken`]: what was promised and what happened.
    pub fn happen(&mut self, event: Event, mirror: &mut impl Mirror) -> Result<(), Broken> {
        let by_controller = !matches!(
            event,
            Event::Open(_)
                | Event::Data(_)
                | Event::Twice(_)
                | Event::Close(_)
                | Event::Pass(_)
                | Event::Fall(_)
        );
        if self.fallen && by_controller {
            self.fallen = false;
            self.give(mirror);
        }
        match event {
            Event::Open(flow) => self.open(flow, mirror)?,
            Event::Data(flow) => self.data(flow, Sent::Later, mirror)?,
            Event::Twice(flow) => self.data(flow, Sent::Twice, mirror)?,
            Event::Close(flow) => self.data(flow, Sent::Last, mirror)?,
            Event::Pass(seconds) => {
                let now = self.tables.now.get() + Duration::from_secs(seconds.into());
                self.tables.now.set(now);
            }
            Event::Up(number) => {
                self.set_life(number, |life| Life::new(life.number(), true, true), mirror);
                self.give(mirror);
            }
            Event::Drain(number) => {
                self.set_life(number, |life| Life::new(life.number(), life.lives(), false), mirror);
                self.give(mirror);
            }
            Event::Die(number) => {
                self.fall(number, mirror);
                self.give(mirror);
            }
            Event::Fall(number) => {
                self.fall(number, mirror);
                self.fallen = true;
            }
            Event::Weight(number, weight) => {
                self.backends[usize::from(number)].weight = weight;
                self.give(mirror);
            }
            Event::Balance(balance) => self.balance(balance, mirror),
            Event::Sweep => self.sweep(mirror),
            Event::Restart => self.restart(mirror),
        }
        self.check_loads(mirror)
    }

    // === Clients ===

    fn open(&mut self, flow: u16, mirror: &mut impl Mirror) -> Result<(), Broken> {
        let before = self.clients[usize::from(flow)];
        let tells = self.protocol.tells_openings();
        let retransmitted = before.last.is_some() && !before.confirmed;
        let Ok(number) =
            self.send(flow, if tells { Sent::Opening } else { Sent::Later }, mirror)?
        else {
            // Nobody is there; an earlier flow between the same ports is over for the client.
            if !tells {
                self.expect_nobody(flow)?;
            }
            self.clients[usize::from(flow)] = Client::default();
            return Ok(());
        };
        if tells && !retransmitted && !self.fallen && !self.life(number).takes_new() {
            return Err(Broken(format!("flow {flow} opens to {number}, which takes no new flows")));
        }
        // An opening packet sent again opens the flow again, maybe elsewhere: nothing was
        // agreed with the first backend yet.
        if !tells {
            self.expect(flow, number)?;
        }
        self.clients[usize::from(flow)].confirmed = !tells;
        self.remember(flow, number);
        Ok(())
    }

    fn data(&mut self, flow: u16, sent: Sent, mirror: &mut impl Mirror) -> Result<(), Broken> {
        if self.clients[usize::from(flow)].last.is_none() {
            return Ok(());
        }
        let Ok(number) = self.send(flow, sent, mirror)? else {
            // Nobody is there: the client gives up.
            self.expect_nobody(flow)?;
            self.clients[usize::from(flow)] = Client::default();
            return Ok(());
        };
        self.expect(flow, number)?;
        self.clients[usize::from(flow)].confirmed = true;
        self.remember(flow, number);
        if sent == Sent::Last {
            self.clients[usize::from(flow)] = Client::default();
        }
        Ok(())
    }

    /// Sends a packet, here and in the mirror, which takes two at once for one after the other.
    fn send(
        &mut self,
        flow: u16,
        sent: Sent,
        mirror: &mut impl Mirror,
    ) -> Result<Result<u16, Reason>, Broken> {
        let packet = Flow {
            service: service_key(self.protocol),
            source: [u32::from_le_bytes([198, 51, 100, 7]), 0, 0, 0],
            ports: u32::from((flow + 1000).swap_bytes()) | u32::from(80u16.swap_bytes()) << 16,
            flags: sent.flags(self.protocol),
        };
        self.tables.meanwhile.set((sent == Sent::Twice).then_some(packet));
        let way = steer::steer(&self.tables, &PARAMETERS, &packet).map(|way| (way.number, way.why));
        if let Ok((number, why @ (Why::Recorded | Why::MovingPrior))) = way
            && !self.life(number).lives()
        {
            return Err(Broken(format!("flow {flow}: {why:?} leads to {number}, which is dead")));
        }
        let way = way.map(|(number, _)| number);
        if sent == Sent::Twice && self.tables.meanwhile.take().is_none() {
            mirror.packet(&packet);
        }
        match mirror.packet(&packet) {
            Some(mirrored) if mirrored != way => {
                Err(Broken(format!("flow {flow}: the model says {way:?}, the mirror {mirrored:?}")))
            }
            _ => Ok(way),
        }
    }

    /// The backend that a flow has a right to, if any.
    fn claim(&self, flow: u16) -> Option<u16> {
        if self.ring.tracking() == Tracking::Nothing {
            return None;
        }
        let (number, life, when) = self.clients[usize::from(flow)].last?;
        let alive = self.life(number).lives() && self.life(number).number() == life;
        (alive && self.tables.now.get() <= when + IDLE).then_some(number)
    }

    fn expect(&self, flow: u16, number: u16) -> Result<(), Broken> {
        let loose = self.ring.tracking() == Tracking::Nothing;
        if loose && !self.fallen && !self.life(number).takes_new() {
            return Err(Broken(format!("flow {flow} goes to {number}, which owns no slot")));
        }
        match self.claim(flow) {
            Some(claim) if claim != number => Err(Broken(format!(
                "flow {flow} was with {claim}, which lives, and goes to {number}"
            ))),
            _ => Ok(()),
        }
    }

    fn expect_nobody(&self, flow: u16) -> Result<(), Broken> {
        match self.claim(flow) {
            Some(claim) => {
                Err(Broken(format!("flow {flow} was with {claim}, which lives, and goes nowhere")))
            }
            None => Ok(()),
        }
    }

    fn remember(&mut self, flow: u16, number: u16) {
        if self.fallen {
            // Where the dead had been, a packet may reach anyone: nothing follows from it.
            if self.claim(flow) != Some(number) {
                self.clients[usize::from(flow)] = Client::default();
            }
            return;
        }
        let life = self.life(number).number();
        self.clients[usize::from(flow)].last = Some((number, life, self.tables.now.get()));
    }

    // === The controller ===

    fn life(&self, number: u16) -> Life {
        // A model without one of its rules may well ask for one that is none.
        self.backends.get(usize::from(number)).map_or(Life(0), |backend| backend.life)
    }

    fn set_life(&mut self, number: u16, new: impl Fn(Life) -> Life, mirror: &mut impl Mirror) {
        let life = new(self.life(number));
        self.backends[usize::from(number)].life = life;
        self.tables.backends[usize::from(number)].life.store(life.0);
        mirror.write(&Write::Life(number, life));
    }

    fn fall(&mut self, number: u16, mirror: &mut impl Mirror) {
        // Its records lead nowhere, and are still counted until the next sweep.
        self.loads_hold = false;
        self.set_life(
            number,
            |life| Life::new(life.number().wrapping_add(1), false, false),
            mirror,
        );
    }

    fn give(&mut self, mirror: &mut impl Mirror) {
        let candidates: Vec<Candidate> = (0..)
            .zip(&self.backends)
            .map(|(number, backend)| Candidate {
                identity: u64::from(number),
                weight: if backend.life.lives() && backend.life.takes_new() {
                    backend.weight.into()
                } else {
                    0
                },
                number,
            })
            .collect();
        match self.balance {
            Balance::Ring | Balance::Loose => {}
            Balance::Turns => self.take_turns(&candidates, mirror),
            Balance::Load => {
                for candidate in &candidates {
                    let weight = candidate.weight;
                    self.tables.loads[usize::from(candidate.number)].weight.store(weight.into());
                    mirror.write(&Write::Weight(candidate.number, weight));
                }
            }
        }
        let owners = maglev::build(&candidates, SLOTS);
        let lives = |number: u16| self.backends[usize::from(number)].life.lives();
        let changed = self.ring.give(&owners, lives, self.tables.now.get());
        self.write(&changed.slots, mirror);
    }

    fn take_turns(&mut self, candidates: &[Candidate], mirror: &mut impl Mirror) {
        let changed = self.rotation.set(candidates);
        self.write(&changed.slots, mirror);
        if let Some(order) = changed.order {
            self.tables.rotation.order.store(order.to_word());
            mirror.write(&Write::Order(0, order.to_word()));
        }
    }

    /// As `core/apply.rs` does it: slots before the flags on the way to records of every flow,
    /// after them on the way back.
    fn balance(&mut self, balance: Balance, mirror: &mut impl Mirror) {
        if balance == Balance::Loose && !self.protocol.is_udp() {
            return;
        }
        self.balance = balance;
        self.loads_hold = false;
        let tracking = self.tracking();
        if tracking == Tracking::EveryFlow {
            self.track(tracking, mirror);
        }
        let meta = self.meta();
        self.tables.entry(self.protocol).meta.store(meta.0);
        mirror.write(&Write::ServiceMeta(place(self.protocol), meta));
        if tracking != Tracking::EveryFlow {
            self.track(tracking, mirror);
        }
        self.give(mirror);
    }

    fn track(&mut self, tracking: Tracking, mirror: &mut impl Mirror) {
        if self.ring.wanted_tracking() != tracking {
            let changed = self.ring.track(tracking, IDLE, self.tables.now.get());
            self.write(&changed, mirror);
        }
    }

    fn tracking(&self) -> Tracking {
        match self.balance {
            Balance::Ring => Tracking::Moves,
            Balance::Loose => Tracking::Nothing,
            Balance::Turns | Balance::Load => Tracking::EveryFlow,
        }
    }

    fn meta(&self) -> ServiceMeta {
        let balance = match self.balance {
            Balance::Ring | Balance::Loose => return ServiceMeta::default(),
            Balance::Turns => ServiceMeta::ROUND_ROBIN,
            Balance::Load => ServiceMeta::LEAST_CONN,
        };
        ServiceMeta(balance | if self.protocol.is_udp() { ServiceMeta::UNANNOUNCED } else { 0 })
    }

    fn restart(&mut self, mirror: &mut impl Mirror) {
        let leaves_nothing = self.ring.tracking() == Tracking::Nothing;
        if leaves_nothing && self.ring.wanted_tracking() != Tracking::Nothing {
            // A successor does not know what was about to change and takes it for changed. That is
            // right but for the seconds after `affinity = false` was taken back.
            return;
        }
        let range = SPAN.base as usize..(SPAN.base + SPAN.length) as usize;
        let slots = self.tables.slots[range].iter().map(Cell::get).collect();
        self.ring = Ring::adopt(SPAN, self.tracking(), slots, self.tables.now.get());
        self.rotation = rotation::Rotation::new(TURNS);
        self.give(mirror);
    }

    /// What packets have counted is what the records say, here and in the mirror.
    fn check_loads(&self, mirror: &impl Mirror) -> Result<(), Broken> {
        if !self.loads_hold || self.balance != Balance::Load {
            return Ok(());
        }
        for number in 0..BACKENDS {
            let load = self.tables.loads[usize::from(number)].active.load();
            let active = [Stage::HalfOpen, Stage::Confirmed].map(|stage| {
                let table = self.tables.table(stage).borrow();
                table.values().filter(|record| self.is_active(record, number)).count()
            });
            let mirrored = mirror.load(number).unwrap_or(load);
            let recorded = active.into_iter().sum::<usize>();
            if load != recorded as u64 || mirrored != load {
                return Err(Broken(format!(
                    "backend {number} has {recorded} active records, a load of {load}, and one of \
                     {mirrored} in the mirror"
                )));
            }
        }
        Ok(())
    }

    fn is_active(&self, record: &FlowRecord, number: u16) -> bool {
        let same_life = record.life() == self.life(number).number();
        record.number() == number && same_life && !record.is_closing()
    }

    fn sweep(&mut self, mirror: &mut impl Mirror) {
        let now = self.tables.now.get();
        let mut findings = Findings::default();
        let mut staying = Vec::new();
        let idle_seconds = u32::try_from(IDLE.as_secs()).unwrap_or(u32::MAX);
        let every_flow = self.ring.tracking() == Tracking::EveryFlow;
        for stage in [Stage::HalfOpen, Stage::Confirmed] {
            let mut done = Vec::new();
            for (key, record) in self.tables.table(stage).borrow().iter() {
                let slot = || self.tables.slots[record.slot.load() as usize].get();
                let slot = (!every_flow).then(slot);
                let life = self.life(record.number());
                if sweep::is_done(record, slot, life, self.tables.now(), idle_seconds) {
                    done.push(*key);
                } else {
                    staying.push(Staying::new(record));
                }
            }
            for key in &done {
                self.tables.forget(stage, key);
            }
            mirror.forget(stage, &done);
        }
        findings.take(staying);
        if self.balance == Balance::Load {
            for (number, load) in (0..).zip(&self.tables.loads) {
                let counted = findings.by_backend.get(&number).map_or(0, |count| count.active);
                let before = load.active.load();
                let change = sweep::correction(counted, before, before);
                load.active.add(change);
                mirror.correct(number, change);
            }
            self.loads_hold = true;
        }
        let loose = self.ring.tracking() == Tracking::Nothing;
        let changed = self.ring.sweep(&findings.recorded, IDLE, now, now);
        if loose && self.ring.tracking() != Tracking::Nothing {
            // Who was promised nothing has no claim now.
            self.clients.fill(Client::default());
        }
        self.write(&changed, mirror);
    }

    fn write(&self, slots: &[(u32, Slot)], mirror: &mut impl Mirror) {
        for (index, slot) in slots {
            self.tables.slots[*index as usize].set(*slot);
        }
        mirror.write(&Write::Slots(slots.to_vec()));
    }
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Sent {
    fn flags(self, protocol: Protocol) -> TcpFlags {
        match self {
            Self::Opening => TcpFlags::SYN,
            Self::Last if protocol.tells_ends() => TcpFlags::FIN,
            Self::Later | Self::Twice | Self::Last => TcpFlags::ACK,
        }
    }
}
