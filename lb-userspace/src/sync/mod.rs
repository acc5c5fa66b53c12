//! Two balancers with the same tables: a channel between them, and who follows whom.
//!
//! [`key`] is what peers share; [`packet`] is what they say; [`fsm`] keeps the sessions and decides
//! who leads, without I/O or clock; [`io`] holds the connections, each a `channel` that is
//! encrypted and an [`outbox`] that is bounded; [`compare`] says what is configured differently.
//! What the messages do to the tables is the core's: `core/replica.rs`.

mod channel;
pub mod compare;
pub mod error;
pub mod fsm;
pub mod io;
pub mod key;
pub mod outbox;
pub mod packet;
#[cfg(test)]
mod tests;

pub use self::{
    error::Error,
    fsm::{Look, Output, Peers, Report, Role, SessionId, View},
    io::{BindError, Connections, Incoming},
    key::{Key, KeyError},
    outbox::{Frame, Outbox},
    packet::Message,
};
