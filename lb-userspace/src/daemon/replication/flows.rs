//! Recorded flows, between the kernel's tables and peers.

use tracing::error;

use super::{Replication, SessionId};
use crate::{core::KernelFlow, daemon::driver::Daemon, dataplane::kernel_seconds, sync::packet};

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
        let late = replication.next_seen(usize::MAX);
        replication.seen = seen.into_iter();
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
        self.seen.len() > 0 && self.links.values().all(|link| link.outbox.has_room())
    }

    pub(super) fn next_seen(&mut self, number: usize) -> Vec<KernelFlow> {
        self.seen.by_ref().take(number).collect()
    }
}
