//! What comes into the core from outside, already parsed.

use std::{
    net::IpAddr,
    time::{Duration, SystemTime},
};

use serde::{Deserialize, Serialize};

use crate::config::Name;

/// A moment, as the outside world read its clocks. The core has none of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// Since the daemon's start, never going back: for intervals.
    pub monotonic: Duration,
    /// For people: `since` in `status`, times of events.
    pub wall: SystemTime,
}

/// One backend of one service.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct BackendId {
    /// The service's name.
    pub service: Name,
    /// The backend's name in that service.
    pub backend: Name,
}

/// The outcome of one health check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HealthReport {
    /// Who was checked.
    pub id: BackendId,
    /// Passed, or why not: one short sentence for people, such as
    /// `connection refused` or `status 503, expected 2xx`.
    pub outcome: Result<(), String>,
    /// When the check began.
    pub started: Now,
    /// When its outcome was known.
    pub finished: Now,
}

/// The way to a backend's address: the interface and the Ethernet addresses of the next hop, and
/// what a tunnel needs to know of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct NextHop {
    /// Index of the interface through which frames leave.
    pub interface: u32,
    /// That interface's address.
    pub source: [u8; 6],
    /// The address of the backend, or of the gateway to it.
    pub destination: [u8; 6],
    /// This host's address on that way, as the route says: where tunnels begin.
    pub local: Option<IpAddr>,
    /// The largest packet that the way carries, in bytes from its IP header on.
    pub mtu: u32,
}

/// What the kernel knows of the way to an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NextHopReport {
    /// A backend's address.
    pub address: IpAddr,
    /// The way, or why there is none: one short sentence, such as `no route` or
    /// `192.168.1.10 does not answer ARP on eth0`.
    pub outcome: Result<NextHop, String>,
}
