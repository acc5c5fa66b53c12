//! What the core says of itself: the answer to `status`, and the source of the metrics.
//!
//! The field names are the JSON that users hold on to. Traffic figures come from the kernel's
//! counters; the core leaves them zero and the daemon fills them in.

use std::{
    net::{IpAddr, SocketAddr},
    time::SystemTime,
};

use serde::{Deserialize, Serialize};

use crate::{
    config::{Algorithm, AttachMode, Forward, Name, Protocol},
    vrrp::VrrpStatus,
};

/// The whole state.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// The node's name.
    pub node: String,
    /// Weir's version.
    pub version: String,
    /// Where the program is attached.
    pub interfaces: Vec<InterfaceStatus>,
    /// The other balancers, if there are any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sync: Option<SyncStatus>,
    /// All services, in the order of their names.
    pub services: Vec<ServiceStatus>,
    /// Whether so many backends failed together that this machine is the likelier fault.
    #[serde(default)]
    pub machine_suspected: bool,
    /// The VRRP instances, in the order of the configuration.
    #[serde(default)]
    pub vrrp: Vec<VrrpStatus>,
    /// Runtime changes that an edited configuration has overruled or that wait for something.
    pub notices: Vec<String>,
    /// What the data plane did with packets.
    pub packets: PacketStatus,
    /// The records of flows, as the last sweep left them.
    #[serde(default)]
    pub flows: FlowsStatus,
}

/// The records of flows. There are none while every slot is settled.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowsStatus {
    /// Flows that are recorded.
    pub recorded: u64,
    /// Flows whose opening packet alone was seen, in a table of their own.
    pub half_open: u64,
    /// `limits.flows`: how many can be recorded.
    pub limit: u64,
    /// Records that the full table gave up or did not take, since the daemon's start.
    pub lost: u64,
    /// The same of half-open flows.
    pub half_open_lost: u64,
}

/// An interface and how the program is attached to it: `mode` is what came of `auto`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InterfaceStatus {
    /// Its name.
    pub name: String,
    /// `native` or `generic`.
    pub mode: AttachMode,
}

/// This node among the balancers with the same tables.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SyncStatus {
    /// What it is to the others.
    pub role: SyncRole,
    /// Whom it follows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leader: Option<String>,
    /// Whether it leads, or has the leader's tables as a whole.
    pub synced: bool,
    /// Nodes that say they have the addresses, while this one has them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub split: Vec<String>,
    /// The peer that last came back with changes made meanwhile, and the backends (`SERVICE/BACKEND`)
    /// whose changes hold here since.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub taken_over: Option<String>,
    /// The digest of all slots: the same on nodes with the same tables.
    pub digest: String,
    /// Services whose slots differ between leader and follower.
    pub services_differ: u32,
    /// Recorded flows that peers were told of.
    pub flows_sent: u64,
    /// Recorded flows that peers told of.
    pub flows_received: u64,
    /// How often a peer was told everything.
    pub snapshots: u64,
    /// Connections that were turned away, by reason.
    pub refused: Vec<(String, u64)>,
    /// The peers of the configuration, in its order.
    pub peers: Vec<PeerStatus>,
}

/// What a node is to the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SyncRole {
    /// It has just started and looks for others.
    Joining,
    /// The others go by its tables.
    Leader,
    /// It goes by the leader's tables.
    Follower,
}

/// One of the other balancers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PeerStatus {
    /// Its address, as configured.
    pub address: SocketAddr,
    /// Its name, while it is there.
    pub node: Option<String>,
    /// Whether it is there.
    pub connected: bool,
    /// Its version of Weir.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// How far it is behind this node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lag_seconds: Option<f64>,
    /// Why it is not there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// What is configured differently there.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub config_differs: Vec<String>,
}

/// Verdicts and reasons, counted since the tables were made.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PacketStatus {
    /// Forwarded through the interface they came from.
    pub tx: u64,
    /// Forwarded through another interface.
    pub redirect: u64,
    /// Passed to the kernel, by reason.
    pub pass: Vec<(String, u64)>,
    /// Dropped, by reason.
    pub drop: Vec<(String, u64)>,
    /// Answered in a backend's place, by reason.
    #[serde(default)]
    pub answer: Vec<(String, u64)>,
    /// Handed on to the balancer that had the virtual addresses before.
    #[serde(default)]
    pub handed_on: u64,
    /// Datagrams to the port of the liveness echo, by outcome.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub echo: Vec<(String, u64)>,
}

/// A service at a glance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Health {
    /// Every backend is up.
    Green,
    /// Some are not.
    Yellow,
    /// None is.
    Red,
}

/// One service.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ServiceStatus {
    /// Its name.
    pub name: Name,
    /// Its VIP.
    pub address: IpAddr,
    /// Its port.
    pub port: u16,
    /// Its protocol.
    pub protocol: Protocol,
    /// How flows find backends.
    pub algorithm: Algorithm,
    /// Whether flows stay with their backends while the ring changes.
    #[serde(default = "yes")]
    pub affinity: bool,
    /// How packets reach backends.
    pub forward: Forward,
    /// Its state at a glance.
    pub health: Health,
    /// Forwarded packets, also of backends since removed.
    pub packets: u64,
    /// Forwarded bytes.
    pub bytes: u64,
    /// Whether so few backends are healthy that flows go to all of them.
    #[serde(default)]
    pub panic: bool,
    /// The slots of its ring.
    #[serde(default)]
    pub slots: SlotsStatus,
    /// Its backends, in the order of their names.
    pub backends: Vec<BackendStatus>,
    /// Backends that were removed and go when their old flows have ended.
    #[serde(default)]
    pub leaving: Vec<LeavingStatus>,
}

/// A backend that was removed and drains before it goes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LeavingStatus {
    /// Its name, which another may have by now.
    pub name: Name,
    /// Its address.
    pub address: IpAddr,
    /// Its recorded flows.
    pub tracked_flows: u64,
}

/// How many slots of a ring are in which state.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotsStatus {
    /// Their owner has every flow, and nothing is recorded.
    pub settled: u32,
    /// They changed hands less than an idle time-out ago.
    pub moving: u32,
    /// They have moved, and some of their flows live on elsewhere.
    pub exceptions: u32,
}

/// What a backend is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BackendState {
    /// Healthy.
    Up,
    /// Failing, not yet `fall` times.
    Suspect,
    /// Failed, or not yet checked.
    Down,
    /// No new flows, old ones stay.
    Draining,
    /// Taken out by an operator.
    Maintenance,
}

impl BackendState {
    /// Whether its checks let it serve.
    pub fn serves(self) -> bool {
        matches!(self, Self::Up | Self::Suspect)
    }
}

/// One backend.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BackendStatus {
    /// Its name.
    pub name: Name,
    /// Its address.
    pub address: IpAddr,
    /// The port it is checked on.
    pub port: u16,
    /// Its weight.
    pub weight: u16,
    /// Whether it serves only when no other can.
    #[serde(default)]
    pub backup: bool,
    /// Its state.
    pub state: BackendState,
    /// Since when, in milliseconds since 1970.
    #[serde(with = "unix_millis")]
    pub since: SystemTime,
    /// Why it is in this state.
    pub reason: String,
    /// Slots of the ring it owns.
    pub slots: u32,
    /// Forwarded packets.
    pub packets: u64,
    /// Forwarded bytes.
    pub bytes: u64,
    /// Packets that opened a flow.
    pub new_flows: u64,
    /// Recorded flows; none while every slot is settled, all if the service balances per flow.
    pub tracked_flows: u64,
}

const fn yes() -> bool {
    true
}

/// Times in JSON: milliseconds since 1970.
pub mod unix_millis {
    use std::time::{Duration, SystemTime, UNIX_EPOCH};

    use serde::{Deserialize, Deserializer, Serializer};

    /// Writes a time; one before 1970 becomes 0.
    ///
    /// # Errors
    ///
    /// Those of the serializer.
    pub fn serialize<S: Serializer>(time: &SystemTime, serializer: S) -> Result<S::Ok, S::Error> {
        let millis = time.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
        serializer.serialize_u64(u64::try_from(millis).unwrap_or(u64::MAX))
    }

    /// Reads a time.
    ///
    /// # Errors
    ///
    /// Those of the deserializer.
    pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<SystemTime, D::Error> {
        Ok(UNIX_EPOCH + Duration::from_millis(u64::deserialize(d)?))
    }

    /// Times that may be missing.
    pub mod optional {
        use super::{Deserialize, Deserializer, Duration, Serializer, SystemTime, UNIX_EPOCH};

        /// Writes a time, or nothing.
        ///
        /// # Errors
        ///
        /// Those of the serializer.
        pub fn serialize<S: Serializer>(
            time: &Option<SystemTime>,
            serializer: S,
        ) -> Result<S::Ok, S::Error> {
            match time {
                Some(time) => super::serialize(time, serializer),
                None => serializer.serialize_none(),
            }
        }

        /// Reads a time, or nothing.
        ///
        /// # Errors
        ///
        /// Those of the deserializer.
        pub fn deserialize<'de, D: Deserializer<'de>>(
            d: D,
        ) -> Result<Option<SystemTime>, D::Error> {
            let millis = Option::<u64>::deserialize(d)?;
            Ok(millis.map(|millis| UNIX_EPOCH + Duration::from_millis(millis)))
        }
    }
}
