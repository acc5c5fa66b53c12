//! Why a backend could not be prepared.

use std::{io, net::IpAddr, path::PathBuf};

/// A failure, with what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Neither of the two.
    #[error("name at least one --service, as in --service 192.0.2.10:3000/tcp")]
    NoService,
    /// The VIP is where everybody hears of it.
    #[error(
        "{address} is on {interface}, where this machine answers ARP for it in the balancer's \
         place; take it off first: ip address del {address}/{length} dev {interface}"
    )]
    Elsewhere {
        /// The VIP.
        address: IpAddr,
        /// The interface.
        interface: String,
        /// Its prefix length there.
        length: u8,
    },
    /// What an earlier run left cannot be read.
    #[error(
        "{path} cannot be read ({cause}); without it --undo does not know what was there before"
    )]
    Record {
        /// The file.
        path: PathBuf,
        /// Why.
        cause: String,
    },
    /// Not root.
    #[error("{0} needs root (CAP_NET_ADMIN)")]
    NotPermitted(String),
    /// The system said no.
    #[error("{what}: {cause}")]
    Io {
        /// What was tried.
        what: String,
        /// Why it failed.
        cause: io::Error,
    },
    /// The kernel's netlink interface said no.
    #[error(transparent)]
    Netlink(#[from] crate::netlink::Error),
}

impl Error {
    /// The system's word on what was tried.
    pub(super) fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |cause| match cause.kind() {
            io::ErrorKind::PermissionDenied => Self::NotPermitted(what),
            _ => Self::Io { what, cause },
        }
    }
}
