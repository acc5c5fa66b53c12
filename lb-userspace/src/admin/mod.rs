//! The read-only endpoint for machines: `/metrics`, `/healthz`, `/readyz`.
//!
//! [`metrics`] is what the daemon counts as things happen; `scrape` adds what it says of itself at
//! the moment somebody asks.

pub mod metrics;
mod scrape;
mod server;

#[cfg(test)]
mod tests;

pub use metrics::Metrics;
pub use server::{Error, Server};
