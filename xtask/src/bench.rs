//! What Weir costs, measured.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

/// `cargo xtask bench`
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    bench: Bench,
}

#[derive(Debug, clap::Subcommand)]
enum Bench {
    /// Nanoseconds a packet, through `BPF_PROG_TEST_RUN`
    Program {
        /// Write the figures to this file as well
        #[arg(long, value_name = "FILE")]
        json: Option<PathBuf>,
    },
}

/// Runs one benchmark and prints its figures.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    match &arguments.bench {
        Bench::Program { json } => program(json.as_deref()),
    }
}

/// The program's cost a packet, less that of a program that does nothing.
fn program(_json: Option<&Path>) -> Result<()> {
    bail!("`cargo xtask bench program` is not built yet")
}
