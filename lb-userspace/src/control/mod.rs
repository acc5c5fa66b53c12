//! The control socket: HTTP/1.1 with JSON on a Unix socket.
//!
//! `server` owns the socket, `routes` says what each path does, `events` streams, `error` says what
//! a refusal looks like on the wire. All of them only carry [`request`]s to the daemon's one task
//! and its answers back (`ask`).

mod ask;
mod error;
mod events;
pub mod request;
mod routes;
mod server;

#[cfg(test)]
mod tests;

pub use ask::Unanswered;
pub use request::*;
pub use routes::Done;
pub use server::{Error, Server};
