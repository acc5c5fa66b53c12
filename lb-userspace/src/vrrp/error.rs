//! What can keep VRRP from working.

use std::{io, net::IpAddr};

/// Why adverts cannot be sent or received.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Raw sockets are a privilege.
    #[error("VRRP needs raw sockets: run as root, or give the unit CAP_NET_RAW")]
    Permission,
    /// The socket could not be opened.
    #[error("cannot open a VRRP socket on {interface}: {cause}")]
    Socket {
        /// Where.
        interface: String,
        /// What the system says.
        cause: io::Error,
    },
    /// A witness cannot be asked.
    #[error("cannot ping the witness {witness}: {cause}")]
    Witness {
        /// Which.
        witness: IpAddr,
        /// What the system says.
        cause: io::Error,
    },
    /// Its thread could not be started, or has ended.
    #[error("the thread of VRRP does not run: {0}")]
    Thread(String),
}

impl Error {
    pub(super) fn socket(interface: &str, cause: io::Error) -> Self {
        match cause.kind() {
            io::ErrorKind::PermissionDenied => Self::Permission,
            _ => Self::Socket { interface: interface.to_owned(), cause },
        }
    }
}
