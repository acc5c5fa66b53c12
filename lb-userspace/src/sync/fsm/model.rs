//! What the sessions' state machine is told, says and wants done.

use std::{fmt, time::Duration};

use super::super::{
    error::Error,
    packet::{Backends, Flows, Message, Slots, Stamped},
};
use crate::config::Name;

/// A connection, numbered by who opened it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId(pub u64);

/// What this node is to the others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Role {
    /// It has just started and looks for others; until then its own view holds.
    Joining,
    /// Its own view holds, and others follow.
    Leader,
    /// The tables of this node hold.
    Follower(Name),
}

/// This node's tables and configuration at a moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct View {
    /// The digest of all tables.
    pub digest: u64,
    /// The hash of the configuration.
    pub config: u64,
}

/// A way to look at this node's tables and configuration, for when it matters.
pub type Look<'v> = &'v mut dyn FnMut() -> View;

/// What is to be done, in order.
#[derive(Debug)]
pub enum Output {
    /// Say this.
    Send(SessionId, Message),
    /// Say these services' slots, or everything, and then that this is all.
    Everything(SessionId, Vec<Name>),
    /// Say all recorded flows, and then ask for everything: so the leader's slots make room for our
    /// flows before we install them.
    Exchange(SessionId),
    /// Say the digest of every service.
    Digests(SessionId),
    /// Say what is configured.
    Config(SessionId),
    /// End the connection.
    Close(SessionId, Error),
    /// Another role from now on.
    Role(Role),
    /// Install what the leader says.
    Slots(Slots),
    /// Install what the leader says.
    Backends(Backends),
    /// Install flows that a peer has recorded.
    Flows(Flows),
    /// Take over an operator's change, and pass it on if it is news.
    Change(SessionId, Stamped),
    /// Compare the leader's digests of all services with ours, then call [`super::Peers::differing`].
    Compare(SessionId, Vec<(Name, u64)>),
    /// Compare a peer's configuration with ours, then call [`super::Peers::config_differs`].
    CompareConfig(SessionId, Vec<String>),
    /// Tell everyone.
    Report(Option<Name>, Report),
}

/// What is worth an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Report {
    /// A session is up.
    Connected,
    /// A session has ended.
    Lost(String),
    /// This node leads.
    Leads,
    /// This node follows.
    Follows(Name),
    /// The leader's tables are here as a whole.
    Synced,
    /// Both nodes say that they have the addresses.
    Split,
    /// No more.
    SplitOver,
    /// These services' slots are not the leader's; they are asked for anew.
    Differ(Vec<Name>),
    /// They are the same again.
    Agree,
    /// The configurations differ.
    ConfigDiffers(Vec<String>),
    /// They are the same again.
    ConfigAgrees,
}

/// One peer, for `status`.
#[derive(Debug, Clone, PartialEq)]
pub struct PeerView {
    /// Its name.
    pub node: Name,
    /// Its version of Weir.
    pub version: String,
    /// The connection with it.
    pub session: SessionId,
    /// How far it is behind us.
    pub lag: Duration,
    /// Whether it says that it has the addresses.
    pub leads: Option<bool>,
    /// How many services' slots it found to differ.
    pub differ: u32,
    /// What is configured differently there.
    pub config: Vec<String>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connected => f.write_str("connected"),
            Self::Lost(why) => write!(f, "lost: {why}"),
            Self::Leads => f.write_str("this node leads"),
            Self::Follows(leader) => write!(f, "this node follows {leader}"),
            Self::Synced => f.write_str("its tables are here as a whole"),
            Self::Split => f.write_str("split brain: it has the addresses, and this node as well"),
            Self::SplitOver => f.write_str("the split brain is over"),
            Self::Differ(services) => {
                let names: Vec<&str> = services.iter().take(8).map(Name::as_str).collect();
                let more = services.len() - names.len();
                let rest = if more == 0 { String::new() } else { format!(" and {more} more") };
                write!(f, "slots differ and are asked for anew: {}{rest}", names.join(", "))
            }
            Self::Agree => f.write_str("slots are the same again"),
            Self::ConfigDiffers(lines) => {
                write!(f, "configurations differ: {}", lines.join("; "))
            }
            Self::ConfigAgrees => f.write_str("configurations are the same again"),
        }
    }
}
