//! What can go wrong between us and the kernel.

use std::io;

/// Why a question to the kernel has no answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The socket could not be opened or read.
    #[error(
        "cannot follow routes over netlink: {0}; a unit that restricts address families must \
         allow AF_NETLINK"
    )]
    Socket(io::Error),
    /// Asking for a neighbour changes the kernel's table, which is a privilege.
    #[error(
        "asking the kernel to resolve a neighbour needs CAP_NET_ADMIN; run as root or give the \
         unit that capability"
    )]
    Permission,
    /// The kernel said no.
    #[error("the kernel refused to {what}: {cause}")]
    Refused {
        /// What was asked of it.
        what: &'static str,
        /// Its answer.
        cause: io::Error,
    },
    /// No answer in time.
    #[error("the kernel did not {what} within {seconds} s")]
    Timeout {
        /// What was asked of it.
        what: &'static str,
        /// How long we waited.
        seconds: u64,
    },
    /// The request socket ended.
    #[error("the netlink socket closed")]
    Closed,
    /// No interface has that name.
    #[error("there is no interface {name:?}; this machine has {}", existing.join(", "))]
    NoInterface {
        /// The name asked for.
        name: String,
        /// The names there are.
        existing: Vec<String>,
    },
}
