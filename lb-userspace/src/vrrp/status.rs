//! What VRRP says of itself: the `vrrp` of `status`.

use std::{collections::BTreeMap, net::IpAddr, time::SystemTime};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

use super::{
    echo::Liveness,
    fsm::{Split, State},
};
use crate::{config::Name, core::status::unix_millis};

/// One instance.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct VrrpStatus {
    /// Its name.
    pub name: Name,
    /// Where it is.
    pub interface: String,
    /// The virtual router id.
    pub router_id: u8,
    /// The protocol's version, 2 or 3.
    pub version: u8,
    /// `master`, `backup` or `fault`.
    pub state: State,
    /// Why it is in this state.
    pub reason: String,
    /// Since when, in milliseconds since 1970.
    #[serde(with = "unix_millis")]
    pub since: SystemTime,
    /// Its priority, penalties taken off.
    pub priority: u8,
    /// Failed conditions, and what each takes off the priority.
    pub penalties: BTreeMap<String, u8>,
    /// The addresses with their prefix lengths.
    pub addresses: Vec<String>,
    /// The other router that has the addresses, as far as is known.
    pub master: Option<IpAddr>,
    /// The addresses were released by command: no master is preempted until
    /// `weir vrrp preempt`, or until it is gone.
    pub released: bool,
    /// Changes of state.
    pub transitions: u64,
    /// Adverts sent.
    pub sent: u64,
    /// Valid adverts received.
    pub received: u64,
    /// Discarded packets by reason.
    pub discarded: BTreeMap<String, u64>,
    /// The hosts of the other routers that are known, if they are probed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hosts: Vec<HostStatus>,
    /// It has asked for a sign of a peer or a witness in vain, and does not take the addresses.
    #[serde(default)]
    pub cut_off: bool,
    /// The witnesses, if there are any.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub witnesses: Vec<WitnessStatus>,
    /// What shows that two routers have the addresses, while it does.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub split: Vec<SplitStatus>,
}

/// Another router's host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostStatus {
    /// The address that its adverts come from.
    pub address: IpAddr,
    /// What its answers to probes say.
    pub liveness: Liveness,
}

/// A host that tells "the peer is gone" from "this node is cut off".
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WitnessStatus {
    /// Its address.
    pub address: IpAddr,
    /// Whether it answers.
    pub answers: bool,
}

/// A sign of a split brain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SplitStatus {
    /// `adverts` of a second master, or `packets` for the addresses at a backup.
    pub sign: String,
    /// The other router that has the addresses, if it is known.
    pub other: Option<IpAddr>,
    /// One short sentence for people.
    pub what: String,
}

impl From<Split> for SplitStatus {
    fn from(split: Split) -> Self {
        Self { sign: split.sign().to_owned(), other: split.other(), what: split.to_string() }
    }
}

impl Serialize for State {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

impl<'de> Deserialize<'de> for State {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = String::deserialize(deserializer)?;
        let state = Self::ALL.into_iter().find(|state| state.name() == name);
        state.ok_or_else(|| D::Error::custom(format!("unknown VRRP state {name:?}")))
    }
}
