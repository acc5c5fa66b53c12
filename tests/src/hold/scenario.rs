//! A balancer with held connections, and the hands that make events happen to it.
//!
//! After each step the connections must be answered again, the service must have come to rest, and
//! the connections must be answered once more: what breaks at the end of a move counts too. Some
//! connections are opened anew meanwhile, so that new flows meet a ring in motion.

use std::{
    env, fs,
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use nix::sys::signal::Signal;
use weir::core::{BackendState, EventKind, Status};

use super::{Event, Held, Outcome};
use crate::{Backend, Lab, Service, Weir, backend::LINE_PORT, snmp::tcp_counter};

/// The service whose connections are held.
const SERVICE: &str = "hold";
/// Who gets another weight by command, and who by an edited file.
pub(super) const WEIGHED: &str = "b1";
pub(super) const RELOADED: &str = "b3";
/// Who takes no new flows for a while.
pub(super) const DRAINED: &str = "b2";
/// Whose servers are killed.
pub(super) const KILLED: &str = "b2";
/// The control connection's end, which no event harms.
const CONTROL: &str = "b1";
/// A part of the connections that is renewed in each step.
const RENEWED: usize = 10;
/// For connections to be answered, and for a backend to change its state.
const PATIENCE: Duration = Duration::from_secs(30);
/// Beyond the idle time-out, for a move to be over.
const MOVE_SLACK: Duration = Duration::from_secs(10);
/// Moves that take longer are not waited for.
const MOVE_LIMIT: Duration = Duration::from_secs(60);
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// What is held, and how.
#[derive(Debug, Clone)]
pub struct Setup {
    /// How many connections.
    pub connections: usize,
    /// Between two questions of each.
    pub period: Duration,
    /// The service's `idle_timeout`: how long moves last. At most a minute of it is waited for.
    pub idle: Duration,
    /// How long two balancers are cut off from each other at least.
    pub split: Duration,
}

/// A daemon on the first balancer of a lab of at least three backends, and connections through it.
/// The last backend is left out until [`Event::Add`].
#[derive(Debug)]
pub struct Scenario<'a> {
    // Before the daemon, so that the connections do not outlive what carries them.
    held: Held,
    weir: Weir,
    lab: &'a Lab,
    setup: Setup,
    /// The configured number of backends in `[limits]`.
    limit: u32,
    last_present: bool,
    killed: bool,
    drained: bool,
}

// === impl Setup ===

impl Default for Setup {
    fn default() -> Self {
        Self {
            connections: 300,
            period: Duration::from_millis(300),
            idle: Duration::from_secs(5),
            split: Duration::from_secs(15),
        }
    }
}

// === impl Scenario ===

impl<'a> Scenario<'a> {
    /// Starts the daemon and opens the connections.
    ///
    /// # Errors
    ///
    /// The daemon or the connections do not come up.
    pub fn start(lab: &'a Lab, setup: Setup) -> Result<Self> {
        ensure!(lab.backends().len() >= 3, "connections are held with three backends at least");
        let limit = 256;
        let config = config(lab, &setup, limit, |service| service);
        let weir = lab.balancer().start_weir(&config)?;
        weir.wait_until_up()?;
        let control = lab.backend(CONTROL).socket(LINE_PORT);
        let held =
            lab.client().hold(lab.vip(LINE_PORT), control, setup.connections, setup.period)?;
        let (last_present, killed, drained) = (false, false, false);
        Ok(Self { held, weir, lab, setup, limit, last_present, killed, drained })
    }

    /// Lets an event happen and says what it did. `Err` within tells why this `weir` cannot do it.
    ///
    /// # Errors
    ///
    /// The lab, the daemon or the connections do not do what was asked of them in time.
    pub fn run(&mut self, event: Event) -> Result<Result<Outcome, String>> {
        self.held.begin();
        event.prepare(self).with_context(|| format!("prepare {event}"))?;
        self.held.wait_until_answered(PATIENCE)?;
        let before = self.held.account().broken(|_| true).number;

        let connections = self.held.open();
        let resent = self.resent_segments()?;
        self.held.begin();
        let refused = event.happen(self).with_context(|| format!("{event}"))?;
        if let Some(refusal) = refused {
            return Ok(Err(refusal));
        }
        let mut outcome =
            Outcome::new(event.name(), connections, &self.held.account(), event.leaves(self));
        let resent = self.resent_segments()? - resent;
        outcome.resent_segments = Some(resent);
        if resent > 0 {
            outcome.add(&format!("{resent} segments sent again"));
        }
        if before > 0 {
            outcome.add(&format!("{before} broke before, in the preparation"));
        }
        Ok(Ok(outcome))
    }

    /// Segments that the connections' ends have sent again so far.
    fn resent_segments(&self) -> Result<u64> {
        let backends = self.lab.backends().iter().map(Backend::namespace);
        let ends = backends.chain([self.lab.client().namespace()]);
        ends.map(|end| tcp_counter(end, "RetransSegs")).sum()
    }

    /// The connections.
    pub fn held(&self) -> &Held {
        &self.held
    }

    /// The daemon.
    pub fn weir(&self) -> &Weir {
        &self.weir
    }

    /// The name of the backend that joins and leaves.
    pub(super) fn last(&self) -> &'a str {
        let last = self.lab.backends().last().expect("`start` ensures that there are three");
        last.name()
    }
}

/// What events are made of. Each returns when things have settled.
impl Scenario<'_> {
    pub(super) fn add_last(&mut self) -> Result<()> {
        if self.last_present {
            return Ok(());
        }
        let address = self.lab.backend(self.last()).address().to_string();
        self.weir.cli(&["backend", "add", SERVICE, self.last(), "--address", &address])?;
        self.last_present = true;
        self.settle()
    }

    pub(super) fn remove_last(&mut self) -> Result<()> {
        if !self.last_present {
            return Ok(());
        }
        self.weir.cli(&["backend", "remove", SERVICE, self.last()])?;
        self.last_present = false;
        self.settle()
    }

    pub(super) fn weigh(&mut self, backend: &str, weight: u16) -> Result<()> {
        let weight = weight.to_string();
        self.weir.cli(&["backend", "set", SERVICE, backend, "--weight", &weight])?;
        self.settle()
    }

    pub(super) fn drain(&mut self, backend: &str) -> Result<()> {
        self.weir.cli(&["backend", "drain", SERVICE, backend])?;
        self.drained = true;
        self.settle()
    }

    pub(super) fn enable(&mut self, backend: &str) -> Result<()> {
        self.weir.cli(&["backend", "enable", SERVICE, backend])?;
        self.drained = false;
        self.settle()
    }

    pub(super) fn kill_backend(&mut self, backend: &str) -> Result<()> {
        if self.killed {
            return Ok(());
        }
        self.lab.backend(backend).kill();
        self.killed = true;
        self.settle()?;
        // Its slots serve others meanwhile, who stand to lose them when it returns.
        self.held.renew(self.setup.connections / 2);
        self.held.wait_until_answered(PATIENCE)
    }

    pub(super) fn revive_backend(&mut self, backend: &str) -> Result<()> {
        if !self.killed {
            return Ok(());
        }
        self.lab.backend(backend).revive()?;
        self.killed = false;
        self.settle()
    }

    /// Changes the service in the file and sends SIGHUP.
    pub(super) fn reload(&mut self, change: impl Fn(Service) -> Service) -> Result<()> {
        let before = self.last_reload()?;
        self.weir.configure(&config(self.lab, &self.setup, self.limit, change))?;
        self.weir.signal(Signal::SIGHUP)?;
        let start = Instant::now();
        while self.last_reload()? == before {
            ensure!(start.elapsed() < PATIENCE, "SIGHUP did nothing\n{}", self.weir.log());
            thread::sleep(LOOK_AGAIN);
        }
        self.settle()
    }

    pub(super) fn kill(&mut self) -> Result<()> {
        self.weir.kill();
        self.traffic()?;
        self.weir.start()?;
        self.settle()
    }

    pub(super) fn restart(&mut self) -> Result<()> {
        self.weir.stop()?;
        self.traffic()?;
        self.weir.start()?;
        self.settle()
    }

    /// To a copy of the object, and back to the one built in.
    pub(super) fn upgrade(&mut self) -> Result<()> {
        let copy = copy_of_object(self.lab)?;
        self.weir.stop()?;
        self.weir.start_with_object(&copy)?;
        self.settle()?;
        self.weir.restart()?;
        self.settle()
    }

    /// To a layout that differs from the one that the state says the tables have.
    pub(super) fn change_layout(&mut self) -> Result<()> {
        self.weir.stop()?;
        let path = self.lab.balancer().namespace().directory().join("state").join("state.json");
        let mut state: serde_json::Value = serde_json::from_slice(&fs::read(&path)?)?;
        state["tables"]["layout"] = weir::dataplane::OLDEST_READABLE.into();
        fs::write(&path, state.to_string())?;
        self.weir.start()?;
        self.settle()
    }

    /// To twice as many backends, or back.
    pub(super) fn resize(&mut self) -> Result<()> {
        self.limit = if self.limit == 256 { 512 } else { 256 };
        self.weir.configure(&config(self.lab, &self.setup, self.limit, |service| service))?;
        self.weir.restart()?;
        self.settle()
    }

    /// Waits until every connection is answered, some of them new ones.
    fn traffic(&self) -> Result<()> {
        self.held.renew(self.setup.connections.div_ceil(RENEWED));
        self.held.wait_until_answered(PATIENCE)
    }

    fn settle(&self) -> Result<()> {
        // First the daemon's view: until it knows of a death, new flows meet it.
        self.weir.wait_until(PATIENCE, "the backends' states", |status| self.as_done(status))?;
        self.traffic()?;
        let limit = MOVE_LIMIT.min(2 * self.setup.idle + MOVE_SLACK);
        let start = Instant::now();
        while self.moving_slots()? > 0 && start.elapsed() < limit {
            thread::sleep(LOOK_AGAIN);
        }
        self.held.wait_until_answered(PATIENCE)
    }

    /// Whether every backend is what was made of it.
    fn as_done(&self, status: &Status) -> bool {
        let mut backends = status.services.iter().flat_map(|service| &service.backends);
        backends.all(|backend| match backend.name.as_str() {
            KILLED if self.killed => backend.state == BackendState::Down,
            DRAINED if self.drained => backend.state == BackendState::Draining,
            _ => backend.state == BackendState::Up,
        })
    }

    /// Slots that changed hands less than an idle time-out ago; none where there is no such metric.
    fn moving_slots(&self) -> Result<u64> {
        let metrics = self.weir.admin("/metrics")?.body;
        let lines = metrics
            .lines()
            .filter(|line| line.starts_with("weir_slots{") && line.contains("state=\"moving\""));
        let numbers = lines.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok());
        Ok(numbers.sum())
    }

    /// The number of the last event that tells of a reload.
    fn last_reload(&self) -> Result<Option<u64>> {
        let events = self.weir.events()?;
        for event in events.iter().rev() {
            match &event.kind {
                EventKind::Reloaded { .. } => return Ok(Some(event.sequence)),
                EventKind::ReloadRefused { reason } => bail!("the reload was refused: {reason}"),
                _ => {}
            }
        }
        Ok(None)
    }
}

// === helpers ===

fn config(lab: &Lab, setup: &Setup, limit: u32, change: impl Fn(Service) -> Service) -> String {
    let last = lab.backends().last().expect("`start` ensures that there are three");
    let health = "type = \"tcp\"\ninterval = \"500ms\"\ntimeout = \"500ms\"\nrise = 2\nfall = 2";
    let service = lab
        .service(SERVICE, LINE_PORT)
        .without(last.name())
        .set("idle_timeout", &format!("\"{}ms\"", setup.idle.as_millis()))
        .health(health);
    let config = lab.balancer().config(&[change(service)]);
    config.replace("backends = 256", &format!("backends = {limit}"))
}

/// A file with the object that is tested: the one that `WEIR_EBPF_OBJECT` names, else the one built
/// into the daemon.
fn copy_of_object(lab: &Lab) -> Result<PathBuf> {
    let object = match env::var_os("WEIR_EBPF_OBJECT") {
        Some(path) => fs::read(&path).with_context(|| format!("read {}", path.display()))?,
        None => weir::dataplane::OBJECT.to_vec(),
    };
    let copy = lab.directory().join("weir.bpf.o");
    fs::write(&copy, object).with_context(|| format!("write {}", copy.display()))?;
    Ok(copy)
}
