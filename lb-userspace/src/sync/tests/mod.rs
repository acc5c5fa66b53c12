//! Nodes that talk: their state machines by hand, and their connections over loopback.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod connections;
mod sessions;
