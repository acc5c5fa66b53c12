//! What the control socket and the admin endpoint share: a bounded HTTP/1.1 server.
//!
//! [`serve()`] is the loop around connections, [`body`] reads and makes bodies, [`Failure`] is an
//! answer that says no. Every connection carries one request, so that an idle client holds
//! nothing, and has to be done with it in time.

pub mod body;
pub mod failure;
pub mod serve;

#[cfg(test)]
pub(crate) mod testing;

pub use body::{Body, Response};
pub use failure::Failure;
pub use serve::serve;

use std::time::Duration;

/// Bounds that hold whatever a client does.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Connections at once; more wait in the kernel's queue until one ends.
    pub connections: usize,
    /// Connections of those that may follow events, so that the others stay reachable.
    pub followers: usize,
    /// How long a client may take to send its request's header.
    pub header_timeout: Duration,
    /// How long a client may take to send its request's body.
    pub body_timeout: Duration,
    /// How long the daemon may take to answer.
    pub answer_timeout: Duration,
    /// How long a whole exchange may take, slow readers included. A stream of events is exempt.
    pub exchange_timeout: Duration,
    /// The largest body of a request, in bytes.
    pub body_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 64,
            followers: 32,
            header_timeout: Duration::from_secs(5),
            body_timeout: Duration::from_secs(5),
            answer_timeout: Duration::from_secs(5),
            exchange_timeout: Duration::from_secs(30),
            body_bytes: 1024 * 1024,
        }
    }
}
