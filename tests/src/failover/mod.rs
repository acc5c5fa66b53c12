//! How long a client goes without answers when the VIP changes hands, or does not: keepalived and
//! weir in the same network, with the same settings, measured by the same client.
//!
//! ```text
//!   client, a datagram every millisecond         keepalived: the balancers answer themselves
//!      └──── first balancer (150) ──── second (100)    weir: they steer it to a backend
//! ```
//!
//! [`Trial`] is a pair of one [`System`]; it lets an [`Event`] happen over and over and returns the
//! [`Gaps`] of each time, of which [`Outcome`] is the sum.

mod event;
mod outcome;
mod prober;

use std::{fmt, str::FromStr, time::Duration};

use anyhow::{Context as _, Result, anyhow};

pub use self::{
    event::Event,
    outcome::Outcome,
    prober::{ANSWER_LIMIT, Gaps, Prober},
};
use weir::sync::Key;

use crate::{
    Keepalived, Lab, Pair, Router, WeirRouter, backend::UDP_PORT, udp::EchoServer, vrrp::Vrrp,
};

/// The priorities, of the preferred master and the other.
const PRIORITIES: [u8; 2] = [150, 100];
/// In intervals, how long the client must be answered before an event, and after it.
const CALM: u32 = 4;
/// The same at short intervals.
const CALM_MIN: Duration = Duration::from_millis(200);
/// For a takeover, beyond ten intervals.
const PATIENCE: Duration = Duration::from_secs(20);

/// What shares the VIP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum System {
    /// The master answers the client itself.
    Keepalived,
    /// Backends answer, to which the balancer steers the client's datagrams.
    Weir,
    /// The same, and the balancers probe each other's hosts.
    WeirProbing,
}

/// A pair in a lab of its own, ready for events.
#[derive(Debug)]
pub struct Trial {
    system: System,
    interval: Duration,
    pair: Pair,
    _responders: Vec<EchoServer>,
    // After those who live in it.
    lab: Lab,
}

// === impl System ===

impl System {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Keepalived, Self::Weir, Self::WeirProbing];

    /// Its name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Keepalived => "keepalived",
            Self::Weir => "weir",
            Self::WeirProbing => "weir-probe",
        }
    }
}

impl fmt::Display for System {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for System {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        Self::ALL.into_iter().find(|system| system.name() == text).ok_or_else(|| {
            anyhow!("no such system; there are {}", Self::ALL.map(Self::name).join(", "))
        })
    }
}

// === impl Trial ===

impl Trial {
    /// Builds a lab and starts a pair with VRRP version 3, multicast, and preemption.
    ///
    /// # Errors
    ///
    /// The lab cannot be built, or the pair does not start.
    pub fn start(system: System, interval: Duration) -> Result<Self> {
        let lab = Lab::builder().balancers(2).backends(2).unclaimed_vip().build()?;
        let vrrp = Vrrp::new(interval);
        let key = Key::generate();
        let router = |index: usize| -> Result<Box<dyn Router>> {
            let member = vrrp.member(&lab, index, PRIORITIES[index]);
            let balancer = &lab.balancers()[index];
            Ok(match system {
                System::Keepalived => Box::new(Keepalived::new(member)?),
                System::Weir | System::WeirProbing => {
                    let mut config = balancer.config(&[lab.service("echo", UDP_PORT).udp()]);
                    if system == System::WeirProbing {
                        // Its default is to probe.
                        config += &balancer.sync_section(&key, lab.balancers())?;
                    }
                    Box::new(WeirRouter::new(balancer, member, &config))
                }
            })
        };
        let mut pair = Pair([router(0)?, router(1)?]);
        let answering = if system == System::Keepalived { lab.balancers() } else { &[] };
        let responders = answering.iter().map(|balancer| {
            let machine = balancer.namespace();
            // They answer at the VIP whenever the machine has it.
            machine.sysctl(&[("ipv4/ip_nonlocal_bind", "1")])?;
            EchoServer::start(machine, machine.role(), [lab.vip(UDP_PORT)].into_iter())
        });
        let responders = responders.collect::<Result<_>>()?;
        pair.start()?;
        Ok(Self { system, interval, pair, _responders: responders, lab })
    }

    /// Lets an event happen so many times.
    ///
    /// # Errors
    ///
    /// The pair does not come to rest before or after the event; with its logs.
    pub fn run(&mut self, event: Event, runs: usize) -> Result<Outcome> {
        let gaps = (0..runs).map(|_| self.run_once(event)).collect::<Result<Vec<_>>>()?;
        Ok(Outcome::new(self.system, event, self.interval, &gaps))
    }

    /// Lets an event happen, and makes good what it broke.
    ///
    /// # Errors
    ///
    /// As for [`Trial::run`].
    pub fn run_once(&mut self, event: Event) -> Result<Gaps> {
        let limit = PATIENCE + 10 * self.interval;
        let calm = CALM_MIN.max(CALM * self.interval);
        self.pair.wait_for_owners([true, false], limit)?;
        event.prepare(&self.lab, &mut self.pair)?;
        self.pair.wait_for_owners(event.before(), limit)?;

        // A former owner may still steer what reaches it: the client is to ask the present one.
        self.lab.client().forget_neighbours()?;
        let prober = self.lab.client().probe(self.lab.vip(UDP_PORT))?;
        prober.wait_until_answered(calm, limit).context("before the event")?;
        // What was lost before it is not the event's.
        drop(prober);
        let prober = self.lab.client().probe(self.lab.vip(UDP_PORT))?;
        prober.wait_until_answered(CALM_MIN, limit).context("before the event")?;
        event.happen(&self.lab, &mut self.pair)?;
        loop {
            let what = format!("the end of {event}");
            self.pair.wait_for(limit, &what, || Ok(event.is_over(self.pair.owners()?)))?;
            prober.wait_until_answered(calm, limit).with_context(|| format!("after {event}"))?;
            if event.is_over(self.pair.owners()?) {
                break;
            }
        }
        let gaps = prober.stop()?;
        event.undo(&self.lab, &mut self.pair)?;
        Ok(gaps)
    }
}
