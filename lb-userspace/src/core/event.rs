//! What happened, when: detected, decided, applied.

use std::{net::IpAddr, time::SystemTime};

use serde::{Deserialize, Serialize};

use super::{
    flow_table::Fullness,
    status::{BackendState, unix_millis},
};
use crate::{config::Name, vrrp::fsm::State as VrrpState};

/// Something that happened, as `weir events` shows it: one JSON object a line.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// Counts up from 1 at the daemon's start.
    pub sequence: u64,
    /// When it was decided, in milliseconds since 1970.
    #[serde(with = "unix_millis")]
    pub time: SystemTime,
    /// What happened.
    #[serde(flatten)]
    pub kind: EventKind,
    /// How long each phase took; only for changes that a health check caused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phases: Option<Phases>,
}

/// The way from a fault to its repair, in seconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Phases {
    /// From the start of the first failed (or passed) check to the end of the deciding one.
    pub detect: f64,
    /// From the end of the deciding check to the decision.
    pub decide: f64,
    /// From the decision until the last table was written.
    pub apply: f64,
}

/// The kinds of events.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum EventKind {
    /// The daemon runs; `adopted` says that it took over the tables of the one before.
    Started {
        /// Whether tables of an earlier run were taken over.
        adopted: bool,
    },
    /// A backend changed its state.
    Backend {
        /// Its service.
        service: Name,
        /// Its name.
        backend: Name,
        /// Its state before.
        from: BackendState,
        /// Its state now.
        to: BackendState,
        /// Why.
        reason: String,
        /// Slots of the ring that it gained or lost.
        slots_moved: u32,
    },
    /// So many servers began to fail within one check interval that this machine is the likelier
    /// fault: the tables stay as they were.
    MachineSuspected {
        /// Servers that fail.
        failing: u32,
        /// Servers that served until then.
        servers: u32,
    },
    /// This machine is no longer suspected; backends that fail are taken out as usual.
    MachineTrusted {
        /// Why.
        why: String,
    },
    /// So few of a service's backends are healthy that flows are spread over all of them.
    Panic {
        /// The service.
        service: Name,
        /// Backends that are healthy.
        healthy: u32,
        /// Backends that served before and are wanted.
        of: u32,
    },
    /// Enough of a service's backends are healthy again: the others are taken out.
    PanicOver {
        /// The service.
        service: Name,
    },
    /// A draining backend's slots have moved on, and so many of its old flows are left: told then,
    /// and again whenever half of them have gone.
    Draining {
        /// Its service.
        service: Name,
        /// Its name.
        backend: Name,
        /// Old flows that are left.
        tracked_flows: u32,
    },
    /// A draining backend has no flow left.
    Drained {
        /// Its service.
        service: Name,
        /// Its name.
        backend: Name,
    },
    /// A backend was added, changed or removed, by command or reload.
    Changed {
        /// Its service.
        service: Name,
        /// Its name.
        backend: Name,
        /// What changed, for people.
        what: String,
    },
    /// A service was added, changed or removed by a reload.
    Service {
        /// Its name.
        service: Name,
        /// What changed, for people.
        what: String,
    },
    /// The way to a backend changed, appeared or was lost.
    NextHop {
        /// Its service.
        service: Name,
        /// Its name.
        backend: Name,
        /// The new way, or why there is none.
        what: String,
    },
    /// A VRRP instance changed its state.
    Vrrp {
        /// Its name.
        instance: Name,
        /// Its state before.
        from: VrrpState,
        /// Its state now.
        to: VrrpState,
        /// Why.
        reason: String,
    },
    /// Something else that operators of a VRRP instance should know.
    VrrpNote {
        /// Its name.
        instance: Name,
        /// What, for people.
        what: String,
    },
    /// The program of `sync.fence` was run, since a VRRP instance took over from a silent peer.
    VrrpFence {
        /// Its name.
        instance: Name,
        /// The peer.
        peer: IpAddr,
        /// Why it failed, if it did.
        failure: Option<String>,
    },
    /// Two routers have the addresses of a VRRP instance (split brain), or no longer do so.
    VrrpSplit {
        /// Its name.
        instance: Name,
        /// What shows it: `adverts` of a second master, or `packets` at a backup.
        sign: String,
        /// The other router that has the addresses, if it is known.
        other: Option<IpAddr>,
        /// Whether it is over.
        over: bool,
        /// What shows it, for people.
        what: String,
    },
    /// The table of recorded flows fills, loses records, or has room again.
    Flows {
        /// How full it is.
        fullness: Fullness,
        /// How many flows are recorded.
        recorded: u64,
        /// How many it can hold.
        limit: u64,
        /// Records lost since the daemon's start.
        lost: u64,
    },
    /// The configuration was read anew.
    Reloaded {
        /// What changed, for people.
        what: String,
    },
    /// The configuration was read anew and refused; nothing changed.
    ReloadRefused {
        /// The first fault, and how many there are.
        reason: String,
    },
    /// What a restart needs cannot be written; all else goes on, and it is tried again.
    StateNotKept {
        /// Why.
        reason: String,
    },
    /// It is written again.
    StateKept,
    /// Something happened between this node and its peers.
    Sync {
        /// The peer, if it is about one.
        peer: Option<String>,
        /// What, for people.
        what: String,
    },
    /// The daemon stops; packets go on.
    Stopped,
}
