//! Why a peer is not listened to, or not any more.

use std::{io, time::Duration};

use super::packet::{PacketError, VERSION};
use crate::config::Name;

/// What ends a connection with a peer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The connection cannot be made, or broke.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// Nothing came for too long: the other host, or the way to it, is gone.
    #[error("silent for {} ms", .0.as_millis())]
    Silent(Duration),
    /// It takes nothing: its host is stopped, or the way to it is gone.
    #[error("it has taken nothing for {} ms", .0.as_millis())]
    Stuck(Duration),
    /// It asks for much and takes nothing of it.
    #[error("it asks for more than it takes")]
    Greedy,
    /// Not a balancer of ours.
    #[error("what it sends is not Weir's protocol; is another program at that address?")]
    Garbage,
    /// A Weir that we do not understand.
    #[error(
        "it speaks version {theirs} of the protocol and this node version {VERSION}: run the same \
         Weir on both"
    )]
    Version {
        /// Theirs.
        theirs: u16,
    },
    /// It does not have our key.
    #[error("it has another key; copy this node's sync.key_file to it, or the other way round")]
    Key,
    /// It has the key, and sends what makes no sense.
    #[error("{0}")]
    Packet(#[from] PacketError),
    /// Two nodes have one name.
    #[error("it calls itself {0}, as this node does: give each its own node.name")]
    SameName(Name),
    /// An address in `peers` is this node's own.
    #[error("it is this node itself: take its own address out of sync.peers")]
    Ourselves,
    /// There is another connection with the same node, which both keep.
    #[error("there is another connection with {0}")]
    Duplicate(Name),
    /// Somebody who is not there yet talks of what only peers may.
    #[error("it did not say who it is first")]
    Anonymous,
    /// Too many connections that have not shown that they have the key.
    #[error("too many connections that have not shown the key wait already")]
    Crowded,
}

impl Error {
    /// The word for it in metrics.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Io(_) => "connection",
            Self::Silent(_) | Self::Stuck(_) | Self::Greedy => "silent",
            Self::Garbage | Self::Packet(_) | Self::Anonymous => "garbage",
            Self::Version { .. } => "version",
            Self::Key => "key",
            Self::SameName(_) | Self::Ourselves => "name",
            Self::Duplicate(_) => "duplicate",
            Self::Crowded => "crowded",
        }
    }

    /// Whether it says that somebody was turned away, rather than that a connection ended.
    pub fn is_refusal(&self) -> bool {
        !matches!(
            self,
            Self::Io(_) | Self::Silent(_) | Self::Stuck(_) | Self::Greedy | Self::Duplicate(_)
        )
    }
}
