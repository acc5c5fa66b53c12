//! A service's life as a random history, and the promise it must keep: *a flow that is never
//! silent for longer than the idle time-out, to a backend that stays alive, never has a packet
//! delivered to another backend.*
//!
//! The steering rules are the real ones, over tables in memory; the ring is the controller's. Each
//! packet, each write and each sweep can be repeated on a [`Mirror`]: the kernel.

mod controller;
mod event;
pub(crate) mod memory;
mod mirror;

use std::{fmt, time::Duration};

use lb_common::{
    flow::{Flow, TcpFlags},
    hash::Seed,
    layout::{Life, RingSpan},
    reason::Reason,
    steer::{self, Parameters, Why},
};
use weir::core::{
    Write,
    ring::{Ring, Tracking},
    rotation,
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
        self.tables.meanwhile.set(None);
        if self.tables.overlapped.take() {
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
