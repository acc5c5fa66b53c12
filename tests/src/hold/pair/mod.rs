//! Two balancers with held connections, and the hands that make events happen to them.

mod event;

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use weir::core::{BackendState, Status};

pub use self::event::PairEvent;
use super::{Held, Outcome, Setup};
use crate::{Lab, Service, WeirPair, backend::LINE_PORT, vrrp::Vrrp};

/// The service whose connections are held.
const SERVICE: &str = "hold";
/// Who gets another weight.
const WEIGHED: &str = "b1";
/// Who takes no new flows for a while.
const DRAINED: &str = "b2";
/// Whose servers are killed.
const KILLED: &str = "b2";
/// The control connection's end, which no event harms.
const CONTROL: &str = "b1";
/// Between two adverts.
const INTERVAL: Duration = Duration::from_millis(100);
/// A part of the connections that is renewed in each step.
const RENEWED: usize = 10;
/// For a takeover, for tables, for connections to be answered.
const PATIENCE: Duration = Duration::from_secs(60);
/// Beyond two idle time-outs, for a move to be over.
const MOVE_SLACK: Duration = Duration::from_secs(20);
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// A pair of daemons in a lab of at least four backends, and connections through whichever has the
/// VIP. The last backend is left out until a split.
#[derive(Debug)]
pub struct PairScenario<'a> {
    // Before the daemons, so that the connections do not outlive what carries them.
    held: Held,
    pair: WeirPair,
    lab: &'a Lab,
    setup: Setup,
    killed: Option<&'static str>,
    drained: Option<&'static str>,
}

/// What takes the VIP from the preferred master.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    Kill,
    PowerOff,
    Stop,
    Switch,
}

impl Fault {
    const ALL: [Self; 4] = [Self::Kill, Self::PowerOff, Self::Stop, Self::Switch];

    /// Who has the VIP then. One that was killed or cut off has not let go of it.
    fn owners(self) -> [bool; 2] {
        [matches!(self, Self::Kill | Self::PowerOff), true]
    }
}

// === impl PairScenario ===

impl<'a> PairScenario<'a> {
    /// Starts the daemons and opens the connections. The lab's VIP has to be unclaimed.
    ///
    /// # Errors
    ///
    /// The daemons or the connections do not come up.
    pub fn start(lab: &'a Lab, setup: Setup) -> Result<Self> {
        ensure!(lab.backends().len() >= 4, "a pair is held with four backends at least");
        let pair = WeirPair::start(lab, &Vrrp::new(INTERVAL), &[service(lab, &setup)])?;
        pair.settle(PATIENCE)?;
        lab.client().believe_neighbours()?;
        let control = lab.backend(CONTROL).socket(LINE_PORT);
        let held =
            lab.client().hold(lab.vip(LINE_PORT), control, setup.connections, setup.period)?;
        Ok(Self { held, pair, lab, setup, killed: None, drained: None })
    }

    /// Lets an event happen and says what it did.
    ///
    /// # Errors
    ///
    /// The lab, the daemons or the connections do not do what was asked of them in time.
    pub fn run(&mut self, event: PairEvent) -> Result<Outcome> {
        self.held.begin();
        event.prepare(self).with_context(|| format!("prepare {event}"))?;
        self.held.wait_until_answered(PATIENCE)?;
        let before = self.held.account().broken(|backend| self.killed != Some(backend)).number;

        let connections = self.held.open();
        self.held.begin();
        event.happen(self).with_context(|| format!("{event}"))?;
        let digest = self.pair.wait_until_same(PATIENCE)?;
        let mut outcome = Outcome::new(event.name(), connections, &self.held.account(), None);
        outcome.add(&format!("both have {digest}"));
        if before > 0 {
            outcome.add(&format!("{before} broke before, in the preparation"));
        }
        Ok(outcome)
    }

    /// The connections.
    pub fn held(&self) -> &Held {
        &self.held
    }
}

/// What events are made of.
impl PairScenario<'_> {
    /// Takes the VIP from the first and gives it back.
    fn fail_over(&mut self, fault: Fault) -> Result<()> {
        self.fail(fault)?;
        self.mend(fault)
    }

    /// Takes the VIP from the first, and waits until the second carries the connections.
    fn fail(&mut self, fault: Fault) -> Result<()> {
        match fault {
            Fault::Kill => self.pair.weir_mut(0).kill(),
            Fault::PowerOff => self.lab.power_off(self.first())?,
            Fault::Stop => self.pair.weir_mut(0).stop()?,
            Fault::Switch => self.pair.release(0)?,
        }
        self.pair.wait_for_owners(fault.owners(), PATIENCE)?;
        self.wait_for_client(1)?;
        self.traffic()
    }

    /// Makes the fault good, and waits until the first has the VIP and the same tables again.
    fn mend(&mut self, fault: Fault) -> Result<()> {
        match fault {
            Fault::Kill | Fault::Stop => self.pair.weir_mut(0).start()?,
            Fault::PowerOff => self.lab.power_on(self.first())?,
            Fault::Switch => self.pair.preempt(0)?,
        }
        self.pair.settle(PATIENCE)?;
        self.wait_for_client(0)?;
        self.rest_of_backends(0)?;
        self.traffic()
    }

    /// Gives a command that moves slots to the first, and waits until the second has them moving.
    fn begin(&mut self, command: &[&str]) -> Result<()> {
        if command.contains(&"drain") {
            self.drained = Some(DRAINED);
        }
        self.pair.weir(0).cli(command)?;
        self.wait_until_moving()
    }

    fn begin_recovery(&mut self, backend: &'static str) -> Result<()> {
        self.lab.backend(backend).revive()?;
        self.killed = None;
        self.wait_until_moving()
    }

    fn wait_until_moving(&self) -> Result<()> {
        let moves = |status: &Status| status.services[0].slots.moving > 0;
        self.pair.weir(1).wait_until(PATIENCE, "slots that move", moves).map(drop)
    }

    fn enable(&mut self, backend: &str) -> Result<()> {
        self.pair.weir(0).cli(&["backend", "enable", SERVICE, backend])?;
        self.drained = None;
        self.rest(0)
    }

    fn kill_backend(&mut self, backend: &'static str) -> Result<()> {
        self.lab.backend(backend).kill();
        self.killed = Some(backend);
        self.rest(0)?;
        // Its slots serve others meanwhile, who stand to lose them when it returns.
        self.held.renew(self.setup.connections / 2);
        self.held.wait_until_answered(PATIENCE)
    }

    /// Cuts the balancers off from each other, changes the same on both sides, and joins them again
    /// when the time of a split is over.
    fn split(&mut self) -> Result<()> {
        let end = Instant::now() + self.setup.split;
        self.lab.part_balancers()?;
        self.pair.wait_for_owners([true, true], PATIENCE)?;
        self.wait_for_client(1)?;
        self.traffic()?;
        // Both answer; whichever the client hears, it is right.
        for _ in 0..3 {
            self.lab.client().forget_neighbours()?;
            self.traffic()?;
        }
        let last = self.lab.backends().last().context("a backend")?;
        let address = last.address().to_string();
        for side in [0, 1] {
            let weir = self.pair.weir(side);
            weir.cli(&["backend", "add", SERVICE, last.name(), "--address", &address])?;
            weir.cli(&["backend", "drain", SERVICE, DRAINED])?;
        }
        self.drained = Some(DRAINED);
        for side in [0, 1] {
            self.rest_of_backends(side)?;
        }
        while Instant::now() < end {
            self.traffic()?;
        }
        self.lab.join_balancers()?;
        self.pair.settle(PATIENCE)?;
        self.wait_for_client(0)?;
        self.rest(0)?;
        self.pair.weir(0).cli(&["backend", "remove", SERVICE, last.name()])?;
        self.enable(DRAINED)
    }

    /// Waits until the backends are what was made of them, connections are answered, no slot moves
    /// any more on one of the two, and connections are answered once more.
    fn rest(&self, side: usize) -> Result<()> {
        self.rest_of_backends(side)?;
        self.traffic()?;
        let limit = 2 * self.setup.idle + MOVE_SLACK;
        let rests = |status: &Status| status.services[0].slots.moving == 0;
        self.pair.weir(side).wait_until(limit, "no slot moves", rests)?;
        self.held.wait_until_answered(PATIENCE)
    }

    fn rest_of_backends(&self, side: usize) -> Result<()> {
        let (killed, drained) = (self.killed, self.drained);
        let done = |status: &Status| {
            let mut backends = status.services.iter().flat_map(|service| &service.backends);
            backends.all(|backend| match Some(backend.name.as_str()) {
                name if name == killed => backend.state == BackendState::Down,
                name if name == drained => backend.state == BackendState::Draining,
                _ => backend.state == BackendState::Up,
            })
        };
        self.pair.weir(side).wait_until(PATIENCE, "the backends' states", done).map(drop)
    }

    /// Waits until every connection is answered, some of them new ones.
    fn traffic(&self) -> Result<()> {
        self.held.renew(self.setup.connections.div_ceil(RENEWED));
        self.held.wait_until_answered(PATIENCE)
    }

    /// Waits until the client sends to the first balancer, or the second.
    fn wait_for_client(&self, wanted: usize) -> Result<()> {
        let vip = self.lab.vip(LINE_PORT).ip();
        let start = Instant::now();
        while self.lab.balancer_of_client(vip)? != Some(wanted) {
            ensure!(start.elapsed() < PATIENCE, "the client was not called to balancer {wanted}");
            thread::sleep(LOOK_AGAIN);
        }
        Ok(())
    }

    fn first(&self) -> &str {
        self.lab.balancers()[0].namespace().role()
    }
}

fn service(lab: &Lab, setup: &Setup) -> Service {
    let last = lab.backends().last().expect("`start` ensures that there are four");
    let health = "type = \"tcp\"\ninterval = \"500ms\"\ntimeout = \"500ms\"\nrise = 2\nfall = 2";
    lab.service(SERVICE, LINE_PORT)
        .without(last.name())
        .set("idle_timeout", &format!("\"{}ms\"", setup.idle.as_millis()))
        .health(health)
}
