//! Fencing: a program of the operator's that makes sure of a silent peer (switches its power off,
//! closes its port), run once when this node takes over from it.
//!
//! The addresses do not wait for it: both nodes send a flow to the same backend, so that nothing
//! breaks meanwhile.

use std::{collections::BTreeMap, ffi::OsString, net::IpAddr, sync::Arc, time::Duration};

use tokio::sync::{Semaphore, mpsc};

use crate::{
    config::{Name, Vrrp},
    health,
    vrrp::echo::Liveness,
};

/// How long the program may take.
pub(super) const LIMIT: Duration = Duration::from_secs(30);

/// The program, and whom it was run for.
#[derive(Debug)]
pub(super) struct Fence {
    command: Vec<String>,
    outcomes: mpsc::Sender<Outcome>,
    /// One at a time: a program that cannot be killed keeps the turn.
    turns: Arc<Semaphore>,
    /// The instances that have taken over from a silent peer, with their group and the peer.
    taken: BTreeMap<Name, (Option<Name>, IpAddr)>,
}

/// What came of a run.
#[derive(Debug)]
pub(super) struct Outcome {
    pub(super) instance: Name,
    pub(super) peer: IpAddr,
    pub(super) result: Result<(), String>,
}

impl Fence {
    /// Without a command it does nothing.
    pub(super) fn new(command: Vec<String>, outcomes: mpsc::Sender<Outcome>) -> Self {
        let turns = Arc::new(Semaphore::new(1));
        Self { command, outcomes, turns, taken: BTreeMap::new() }
    }

    /// An instance has taken over from a silent peer. Runs the program, unless it was run for the
    /// same peer by another instance.
    pub(super) fn run(&mut self, spec: &Vrrp, peer: IpAddr, host: Liveness, reason: &str) {
        if self.command.is_empty() || !self.is_due(spec, peer) {
            return;
        }
        let variables = [
            ("WEIR_INSTANCE", spec.name.as_str().into()),
            ("WEIR_INTERFACE", OsString::from(&spec.interface)),
            ("WEIR_ROUTER_ID", spec.router_id.to_string().into()),
            ("WEIR_PEER", peer.to_string().into()),
            ("WEIR_PEER_HOST", host.name().into()),
            ("WEIR_REASON", reason.into()),
        ];
        let (command, turns) = (self.command.clone(), Arc::clone(&self.turns));
        let (instance, outcomes) = (spec.name.clone(), self.outcomes.clone());
        tokio::spawn(async move {
            // Never closed.
            let Ok(turn) = turns.acquire_owned().await else { return };
            let result = health::run_script(&command, &variables, LIMIT, turn).await;
            // Nobody is told any more when the daemon ends.
            let _ = outcomes.send(Outcome { instance, peer, result }).await;
        });
    }

    /// An instance is no longer the master: the next time counts anew.
    pub(super) fn forget(&mut self, instance: &Name) {
        self.taken.remove(instance);
    }

    /// Whether nobody has had the peer fenced: the same address, or the same group, which may know
    /// it by two.
    fn is_due(&mut self, spec: &Vrrp, peer: IpAddr) -> bool {
        let group = spec.sync_group.clone();
        let same = |(other_group, other): &(Option<Name>, IpAddr)| {
            *other == peer || (group.is_some() && *other_group == group)
        };
        let due = !self.taken.values().any(same);
        self.taken.insert(spec.name.clone(), (group, peer));
        due
    }
}
