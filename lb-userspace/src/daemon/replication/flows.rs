//! Recorded flows, between the kernel's tables and peers.

use std::time::Duration;

use tokio::time::{Instant, Interval};
use tracing::error;

use super::{Replication, SessionId};
use crate::{
    clock::every, core::KernelFlow, daemon::driver::Daemon, dataplane::kernel_seconds, sync::packet,
};

/// How often some of the flows that a sweep found are said.
const TURN: Duration = Duration::from_millis(10);
/// For all of them, however long ago the sweep before was.
const TIME_MAX: Duration = Duration::from_secs(10);

/// Flows that a sweep found to be told of, over most of the time until the next one: a peer takes
/// one after the other, and those that begin now would wait behind all of them.
#[derive(Debug)]
pub(super) struct Seen {
    flows: std::vec::IntoIter<KernelFlow>,
    /// How many in a turn.
    each: usize,
    turns: Interval,
    /// When they were found.
    swept: Instant,
}

impl Daemon {
    /// Says to peers which flows were recorded or seen: to all, or to one.
    pub(super) fn say_flows(&mut self, flows: &[KernelFlow], to: Option<SessionId>) {
        let Some(replication) = &mut self.replication else { return };
        if flows.is_empty() || replication.peers.established().is_empty() {
            return;
        }
        let Ok(now) = kernel_seconds() else { return };
        let messages = self.core.say_flows(flows, now);
        match to {
            Some(id) => {
                for message in &messages {
                    replication.say(id, message);
                }
            }
            None => replication.broadcast(&messages),
        }
        replication.counts.flows_sent += flows.len() as u64;
    }

    /// Has flows that a sweep found told to peers, some at a time.
    pub(in crate::daemon) fn say_seen(&mut self, seen: Vec<KernelFlow>) {
        let Some(replication) = &mut self.replication else { return };
        let late = replication.seen.replace(seen);
        self.say_flows(&late, None);
    }

    pub(super) fn install_flows(&mut self, flows: &packet::Flows) {
        let Ok(now) = kernel_seconds() else { return };
        // Flows may belong to backends whose state came just before them.
        self.carry_out();
        let mut understood = self.core.understand_flows(flows, now);
        if let Err(error) = self.tables.records.install(&mut understood, now) {
            error!("recording flows of a peer failed: {error}");
        }
        self.core.remember_flows(&understood, self.clock.now());
        if let Some(replication) = &mut self.replication {
            replication.counts.flows_received += understood.len() as u64;
        }
    }
}

impl Replication {
    /// Whether there are flows to tell of, and every peer has room for them.
    pub(super) fn has_seen_to_say(&self) -> bool {
        self.seen.flows.len() > 0 && self.links.values().all(|link| link.outbox.has_room())
    }
}

impl Seen {
    pub(super) fn new() -> Self {
        let (flows, turns) = (Vec::new().into_iter(), every(TURN));
        Self { flows, each: 0, turns, swept: Instant::now() }
    }

    /// Takes what a sweep found; returns what is left of the one before.
    fn replace(&mut self, flows: Vec<KernelFlow>) -> Vec<KernelFlow> {
        // The next sweep comes when as much time has gone by again.
        let time = self.swept.elapsed().min(TIME_MAX) / 4 * 3;
        let turns = time.as_millis() / TURN.as_millis();
        self.swept = Instant::now();
        self.each = flows.len().div_ceil(usize::try_from(turns).unwrap_or(1).max(1));
        std::mem::replace(&mut self.flows, flows.into_iter()).collect()
    }

    /// Waits until more may be said. Cancel safe.
    pub(super) async fn turn(&mut self) {
        self.turns.tick().await;
    }

    pub(super) fn next(&mut self) -> Vec<KernelFlow> {
        self.flows.by_ref().take(self.each).collect()
    }
}
