//! What operators can ask of a running balancer, and why it may say no.

use std::{fmt, net::IpAddr};

use serde::{Deserialize, Serialize};

use super::BackendId;
use crate::config::Name;

/// A change to one backend, kept across restarts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Adds or changes a backend.
    Put {
        /// Which.
        id: BackendId,
        /// What it shall be.
        change: BackendChange,
        /// Whether it must or must not exist already.
        expect: Expect,
    },
    /// Takes a backend out for good, after its flows have ended.
    Remove {
        /// Which.
        id: BackendId,
        /// Whether its flows end now.
        now: bool,
    },
    /// Gives a backend no new flows until it is enabled again; its old ones stay.
    Drain(BackendId),
    /// Takes a backend out until it is enabled again.
    Maintenance(BackendId),
    /// Ends maintenance or drain.
    Enable(BackendId),
}

impl Command {
    /// The backend that it is about.
    pub fn id(&self) -> &BackendId {
        match self {
            Self::Put { id, .. }
            | Self::Remove { id, .. }
            | Self::Drain(id)
            | Self::Maintenance(id)
            | Self::Enable(id) => id,
        }
    }
}

/// Whether the backend of a [`Command::Put`] must exist.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expect {
    /// Either way.
    Any,
    /// It must not (`weir backend add`, `If-None-Match: *`).
    Absent,
    /// It must (`weir backend set`, `If-Match: *`).
    Present,
}

/// The body of `PUT /v1/services/{service}/backends/{name}`. What is left out stays as it is; a
/// new backend needs an address and has weight 1 unless told otherwise.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BackendChange {
    /// Its address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<IpAddr>,
    /// Its port (`forward = "nat"` only).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// Its weight.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<u16>,
    /// Whether it serves only when no other can.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backup: Option<bool>,
}

/// Why a command was refused; nothing has changed then.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CommandError {
    /// There is no such service.
    #[error("there is no service {0}; `weir status` lists them")]
    NoService(Name),
    /// There is no such backend.
    #[error("there is no backend {0}; `weir status` lists them")]
    NoBackend(BackendId),
    /// `add` of a backend that exists.
    #[error("{0} exists; change it with `weir backend set`")]
    Exists(BackendId),
    /// A value that cannot be: the message names it and what is allowed.
    #[error("{0}")]
    Invalid(String),
    /// There is no such VRRP instance.
    #[error("there is no VRRP instance {0}; `weir status` lists them")]
    NoInstance(Name),
    /// It cannot be done as things are: the message says why and what would help.
    #[error("{0}")]
    Refused(String),
    /// A kernel table is full.
    #[error("{0}")]
    Full(String),
}

impl CommandError {
    /// The machine-readable code in an error's JSON.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::NoService(_) => "no_service",
            Self::NoBackend(_) => "no_backend",
            Self::Exists(_) => "exists",
            Self::NoInstance(_) => "no_instance",
            Self::Refused(_) => "refused",
            Self::Invalid(_) => "invalid",
            Self::Full(_) => "full",
        }
    }
}

impl fmt::Display for BackendId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.service, self.backend)
    }
}
