//! The question and the answer of `weir explain`.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::config::{Name, Protocol};

/// The body of `POST /v1/explain`: a 5-tuple.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExplainRequest {
    /// TCP or UDP.
    pub protocol: Protocol,
    /// The client.
    pub source: SocketAddr,
    /// The VIP and port.
    pub destination: SocketAddr,
    /// Whether the packet opens the flow (a SYN) or is a later one. UDP knows no difference.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub opening: bool,
}

/// Where a packet of that flow goes, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explanation {
    /// The service, if one answers to the destination.
    pub service: Option<Name>,
    /// The backend, if the packet reaches one.
    pub backend: Option<Name>,
    /// The slot of the service's ring.
    pub slot: Option<u32>,
    /// `settled`, `moving` or `exceptions`.
    pub slot_state: Option<String>,
    /// The rule that decided: `settled`, `no service`, `no backend`, …
    pub reason: String,
    /// `tx`, `redirect`, `pass` or `drop`.
    pub verdict: String,
}
