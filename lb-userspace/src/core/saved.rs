//! What the core keeps across restarts: run-time changes, and who has which place in the tables,
//! so that the next run takes the tables over as they are.

use std::{collections::BTreeMap, net::IpAddr, time::SystemTime};

use serde::{Deserialize, Serialize};

use super::{changes::Changes, replica::Stamps, status::unix_millis};
use crate::config::{Name, Protocol};

/// Everything kept.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Saved {
    /// Run-time changes.
    pub changes: Changes,
    /// When each of them was made, for peers.
    #[serde(default)]
    pub stamps: Stamps,
    /// Services and their places.
    pub services: BTreeMap<Name, SavedService>,
    /// Whether the machine was suspected.
    #[serde(default)]
    pub machine_suspected: bool,
}

/// A service's places.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedService {
    /// Its VIP, as in the service table.
    pub address: IpAddr,
    /// Its port, as in the service table.
    pub port: u16,
    /// Its protocol, as in the service table.
    pub protocol: Protocol,
    /// Its number.
    pub index: u32,
    /// The first slot of its ring.
    pub ring_base: u32,
    /// Slots of its ring.
    pub ring_length: u32,
    /// The first slot of the span in which its backends take turns, as long as the ring.
    #[serde(default)]
    pub rotation_base: Option<u32>,
    /// Its backends.
    pub backends: BTreeMap<Name, SavedBackend>,
    /// Backends that are removed and drain before they go.
    #[serde(default)]
    pub leaving: Vec<(Name, SavedBackend)>,
}

impl SavedService {
    /// Every backend with its name, and whether it is leaving.
    pub fn everyone(&self) -> impl Iterator<Item = (&Name, &SavedBackend, bool)> {
        let staying = self.backends.iter().map(|(name, backend)| (name, backend, false));
        staying.chain(self.leaving.iter().map(|(name, backend)| (name, backend, true)))
    }
}

/// A backend's place, and what was known of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedBackend {
    /// Its address.
    pub address: IpAddr,
    /// Its number.
    pub number: u16,
    /// What its checks said.
    pub health: SavedHealth,
    /// Since when it is in its state, in milliseconds since 1970.
    #[serde(with = "unix_millis")]
    pub since: SystemTime,
    /// Why it is in its state.
    pub reason: String,
    /// Whether it has ever served.
    #[serde(default)]
    pub proven: bool,
    /// Whether it keeps its place although it fails, since the machine is suspected.
    #[serde(default)]
    pub kept: bool,
    /// When its slow start ends, in milliseconds since 1970.
    #[serde(default, with = "unix_millis::optional")]
    pub slow_start_ends: Option<SystemTime>,
}

/// What a backend's checks said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SavedHealth {
    /// Nothing yet.
    Unchecked,
    /// It serves.
    Up,
    /// It failed.
    Down,
}
