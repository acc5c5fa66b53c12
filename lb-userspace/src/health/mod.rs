//! Health checks: asks backends whether they serve, and reports every answer.
//!
//! One task a backend runs one check at a time and sends a [`HealthReport`] for each. What the
//! answers mean (`rise`, `fall`, states, "it is me, not them") is the core's to decide.
//!
//! - `schedule`: when a check runs;
//! - `tcp`, `http` (with `tls`), `script`: what it does;
//! - `reason`: what people read when it fails.
//!
//! A check costs at most one socket or one process, for at most its timeout. Both kinds are
//! limited for the whole program; a check that gets no turn says so, and that it is this machine
//! that is at its limit.

mod http;
mod reason;
mod schedule;
mod script;
mod tcp;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod tls;

use std::{collections::HashMap, ffi::OsString, fmt, net::SocketAddr, sync::Arc, time::Duration};

use nix::sys::resource::{Resource, getrlimit};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    task::AbortHandle,
    time::{Instant, sleep_until, timeout},
};

use self::{reason::Failure, schedule::Schedule};
use crate::{
    clock::Clock,
    config::{CheckKind, HealthCheck},
    core::{BackendId, CheckTarget as Target, HealthReport, Now},
};

/// Scripts that run at the same time. A script is a process or several; more than this beside
/// two or four cores would only make each other late.
const MAX_SCRIPTS: usize = 64;

/// Sockets that checks may hold at the same time, if the limit of open files allows. Enough for
/// every backend of a full table (`limits.backends`, 16 384 by default) to be silent at once.
const MAX_SOCKETS: usize = 16_384;

/// Runs a program that is no check of a backend: exit status 0 is well. `turn` is given back when
/// no process is left.
///
/// # Errors
///
/// One short sentence for people.
pub(crate) async fn run_script(
    argv: &[String],
    variables: &[(&'static str, OsString)],
    limit: Duration,
    turn: OwnedSemaphorePermit,
) -> Result<(), String> {
    let variables = [&[script::search_path()], variables].concat();
    let outcome = script::run(argv, &variables, limit, turn).await;
    outcome.map_err(|failure| failure.to_string())
}

/// Runs the checks; dropping it stops them all.
pub struct Checker {
    running: HashMap<BackendId, Running>,
    context: Context,
}

/// What all check tasks share.
#[derive(Clone)]
struct Context {
    reports: mpsc::Sender<HealthReport>,
    clock: Clock,
    sockets: Turns,
    scripts: Turns,
    /// How much of the longest delay a first check is put off by: random, unless a test says.
    delay: fn() -> f64,
}

/// A limit on what runs at the same time.
#[derive(Clone)]
struct Turns {
    semaphore: Arc<Semaphore>,
    total: usize,
}

/// A target whose checks run until this is dropped.
struct Running {
    target: Arc<Target>,
    task: AbortHandle,
}

// === impl Checker ===

impl Checker {
    /// A checker without targets; outcomes will go to `reports`. When that channel is full, checks
    /// wait for it and start later; when it is closed, they end.
    pub fn new(reports: mpsc::Sender<HealthReport>, clock: Clock) -> Self {
        let context = Context {
            reports,
            clock,
            sockets: Turns::new(socket_limit()),
            scripts: Turns::new(MAX_SCRIPTS),
            delay: rand::random,
        };
        Self { running: HashMap::new(), context }
    }

    /// Makes the running checks those of `targets`: starts new ones, stops removed ones, restarts
    /// changed ones, leaves unchanged ones undisturbed. Must be called on a tokio runtime.
    ///
    /// A report of a stopped or changed target may still wait in the channel.
    pub fn set(&mut self, targets: Vec<Target>) {
        let mut before = std::mem::take(&mut self.running);
        for target in targets {
            let running = match before.remove(&target.id) {
                Some(running) if *running.target == target => running,
                _ => Running::start(target.into(), self.context.clone()),
            };
            self.running.insert(running.target.id.clone(), running);
        }
    }
}

impl fmt::Debug for Checker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Checker").field("targets", &self.running.len()).finish_non_exhaustive()
    }
}

// === impl Running ===

impl Running {
    fn start(target: Arc<Target>, context: Context) -> Self {
        let task = tokio::spawn(context.run(Arc::clone(&target))).abort_handle();
        Self { target, task }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

// === impl Context ===

impl Context {
    /// Checks one target for as long as somebody reads the reports.
    async fn run(self, target: Arc<Target>) {
        if target.check.kind == CheckKind::None {
            let now = self.clock.now();
            // Nobody to tell is no fault: the program is ending.
            let _ = self.report(&target, now, Ok(())).await;
            return;
        }
        let start = Instant::now();
        let mut schedule = Schedule::new(target.check.interval, (self.delay)());
        loop {
            sleep_until(start + schedule.next(start.elapsed(), rand::random())).await;
            // Boxed: what a check needs is there while it runs, and most of the time none does.
            let (started, outcome) = Box::pin(self.check(&target)).await;
            if self.report(&target, started, outcome).await.is_err() {
                return;
            }
        }
    }

    /// One check, from its turn to its outcome, and when it began.
    async fn check(&self, target: &Target) -> (Now, Result<(), Failure>) {
        let HealthCheck { kind, port, timeout: limit, .. } = &target.check;
        let turns = if let CheckKind::Script(_) = kind { &self.scripts } else { &self.sockets };
        let asked = self.clock.now();
        let Ok(turn) = timeout(*limit, turns.semaphore.clone().acquire_owned()).await else {
            return (asked, Err(Failure::NoTurn(turns.total)));
        };
        let turn = turn.expect("the semaphore is never closed");

        let started = self.clock.now();
        let peer = SocketAddr::new(target.address, *port);
        let outcome = match kind {
            CheckKind::None => Ok(()),
            CheckKind::Tcp => within(*limit, tcp::check(peer)).await,
            // Boxed: the others need far less.
            CheckKind::Http(check) => Box::pin(within(*limit, http::check(peer, check))).await,
            CheckKind::Https(check) => Box::pin(within(*limit, tls::check(peer, check))).await,
            // Keeps its own time and turn: its processes must be gone before the turn is.
            CheckKind::Script(argv) => {
                return (started, Box::pin(script::check(argv, target, turn)).await);
            }
        };
        (started, outcome)
    }

    async fn report(
        &self,
        target: &Target,
        started: Now,
        outcome: Result<(), Failure>,
    ) -> Result<(), mpsc::error::SendError<HealthReport>> {
        let outcome = outcome.map_err(|failure| failure.to_string());
        let finished = self.clock.now();
        self.reports.send(HealthReport { id: target.id.clone(), outcome, started, finished }).await
    }
}

// === impl Turns ===

impl Turns {
    fn new(total: usize) -> Self {
        Self { semaphore: Arc::new(Semaphore::new(total)), total }
    }
}

async fn within(
    limit: Duration,
    check: impl Future<Output = Result<(), Failure>>,
) -> Result<(), Failure> {
    timeout(limit, check).await.unwrap_or(Err(Failure::Timeout(limit)))
}

/// Half of the files that this process may open: the rest is for its tables, its control socket
/// and its scripts.
fn socket_limit() -> usize {
    // A process that cannot even ask for its limit is given the least that Linux grants.
    let (files, _) = getrlimit(Resource::RLIMIT_NOFILE).unwrap_or((1024, 1024));
    usize::try_from(files / 2).unwrap_or(MAX_SOCKETS).clamp(1, MAX_SOCKETS)
}
