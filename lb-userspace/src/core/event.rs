//! What happened, when: detected, decided, applied.

use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use super::status::{BackendState, unix_millis};
use crate::config::Name;

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
    /// The daemon stops; packets go on.
    Stopped,
}
