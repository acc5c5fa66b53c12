//! Connections that stay: thousands of them, held open while things happen to what is between
//! their ends, and an account of which broke.
//!
//! Each sends a numbered line every so often and checks that the same backend as at first answers
//! with the same number. It is broken when it is reset, closed, answered by another, or silent for
//! five seconds ([`End`]). Another takes its place then, so their number stays.
//!
//! [`Held`] holds them, [`Account`] says what became of them; [`Scenario`] lets each [`Event`]
//! happen to one balancer, [`PairScenario`] each [`PairEvent`] to two, and judges it.

mod account;
mod event;
mod line;
mod outcome;
mod pair;
mod scenario;

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::Arc,
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use tokio::{runtime, sync::oneshot};

use self::{account::Ledger, line::Line};
pub use self::{
    account::{Account, End, Ended},
    event::Event,
    outcome::Outcome,
    pair::{PairEvent, PairScenario},
    scenario::{Scenario, Setup},
};
use crate::{Client, requirements};

/// Connections that are opened in a second at most, in the beginning.
const OPENED_A_SECOND: u64 = 2_000;
/// The control connection asks this often, however slow the others are.
const CONTROL_PERIOD: Duration = Duration::from_millis(10);
const OPENING_LIMIT: Duration = Duration::from_secs(60);
/// Between two looks at the ledger.
const LOOK_AGAIN: Duration = Duration::from_millis(10);
/// For all that is not a held connection. Both ends may be of this process.
const OTHER_FILES: u64 = 1_000;

/// Connections, held by a thread in the client's namespace until this is dropped.
#[derive(Debug)]
pub struct Held {
    ledger: Arc<Ledger>,
    /// Closing it ends the thread.
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Client {
    /// Opens connections to a server of lines ([`LINE_PORT`](crate::backend::LINE_PORT)) and
    /// returns when all are open. Each asks every `period`, spread over that time.
    ///
    /// `control` is where one more connection goes that nothing between the ends should touch, such
    /// as a backend's own address: its [stall](Account::longest_control_stall) is the machine's.
    ///
    /// # Errors
    ///
    /// There are not enough descriptors, or not all are open within a minute.
    pub fn hold(
        &self,
        server: SocketAddr,
        control: SocketAddr,
        connections: usize,
        period: Duration,
    ) -> Result<Held> {
        requirements::allow_open_files(2 * connections as u64 + OTHER_FILES)?;
        let ledger = Arc::new(Ledger::new(connections));
        let start = Instant::now();
        let lines = (0_u64..).zip(0..connections).map(|(order, index)| Line {
            index,
            server,
            period,
            // This also spreads what they send later over the period.
            start: start + Duration::from_micros(order * 1_000_000 / OPENED_A_SECOND),
            ledger: Arc::clone(&ledger),
        });
        let control = Line {
            index: ledger.control(),
            server: control,
            period: CONTROL_PERIOD,
            start,
            ledger: Arc::clone(&ledger),
        };
        let lines: Vec<_> = lines.chain([control]).collect();

        let namespace = self.namespace().clone();
        let (stop, stopped) = oneshot::channel();
        let (sender, entered) = std::sync::mpsc::sync_channel(1);
        let thread =
            thread::Builder::new().name("held connections".to_owned()).spawn(move || {
                let runtime = namespace.move_this_thread().and_then(|()| {
                    Ok(runtime::Builder::new_current_thread().enable_all().build()?)
                });
                match runtime {
                    Ok(runtime) => {
                        // The receiver waits for exactly this.
                        let _ = sender.send(Ok(()));
                        runtime.block_on(async {
                            for line in lines {
                                tokio::spawn(line.keep());
                            }
                            let _ = stopped.await;
                        });
                    }
                    Err(error) => {
                        let _ = sender.send(Err(error));
                    }
                }
            })?;
        let held = Held { ledger, stop: Some(stop), thread: Some(thread) };
        entered.recv().context("the thread that holds connections ended")??;
        held.wait_until_answered(OPENING_LIMIT)?;
        Ok(held)
    }
}

impl Held {
    /// How many are open, without the control connection.
    pub fn open(&self) -> usize {
        self.by_backend().values().sum()
    }

    /// How many are open to each backend.
    pub fn by_backend(&self) -> BTreeMap<String, usize> {
        self.ledger.by_backend()
    }

    /// Begins a new account.
    pub fn begin(&self) {
        self.ledger.begin(Instant::now());
    }

    /// What happened since the account was begun.
    pub fn account(&self) -> Account {
        self.ledger.account(Instant::now())
    }

    /// Has the `number` connections that were renewed longest ago closed in order, each when it
    /// is its turn to ask, and opened anew.
    pub fn renew(&self, number: usize) {
        self.ledger.renew(number);
    }

    /// Waits until all are open and have been answered to something that they asked after the
    /// call.
    ///
    /// # Errors
    ///
    /// They are not within the limit.
    pub fn wait_until_answered(&self, limit: Duration) -> Result<()> {
        let start = Instant::now();
        loop {
            let waiting = self.ledger.not_answered_since(start);
            if waiting == 0 {
                return Ok(());
            }
            ensure!(
                start.elapsed() < limit,
                "{waiting} of the held connections have no answer within {limit:?}: {:?}",
                self.account()
            );
            thread::sleep(LOOK_AGAIN);
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // Only a panic of the thread is lost here, which has printed itself.
            let _ = thread.join();
        }
    }
}
