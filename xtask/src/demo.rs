//! A client, two balancers and three web backends in namespaces: the demo, and the same network
//! left open to play with.

use anyhow::{Result, bail};

/// `cargo xtask demo`
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Exit non-zero unless everything went as it should
    #[arg(long)]
    pub(crate) check: bool,
}

/// Sends real traffic, kills a backend, and prints what the client saw.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let name = if arguments.check { "demo --check" } else { "demo" };
    bail!("`cargo xtask {name}` is not built yet")
}

/// Sets up the demo's network and leaves it to its user.
pub(crate) fn lab() -> Result<()> {
    bail!("`cargo xtask lab` is not built yet")
}
