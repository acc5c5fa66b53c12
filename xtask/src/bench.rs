//! What Weir costs, measured.

mod pktgen;

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use weir_lab::bench::{self, Effort};

use crate::process;

/// `cargo xtask bench`
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    bench: Bench,
}

#[derive(Debug, clap::Subcommand)]
enum Bench {
    /// Nanoseconds a packet, through `BPF_PROG_TEST_RUN`, less those of an empty program
    Program {
        /// Write the figures to this file as well
        #[arg(long, value_name = "FILE")]
        json: Option<PathBuf>,
        /// Rounds, of which the median counts
        #[arg(long, default_value_t = 31)]
        rounds: usize,
        /// Packets in a round
        #[arg(long, default_value_t = 1_000_000)]
        packets: u32,
    },
    /// Packets a second beside IPVS, plain forwarding and an empty XDP program, made by the
    /// kernel's generator: here if it has the module, else in a virtual machine
    Pktgen(pktgen::Arguments),
}

/// Runs one benchmark and prints its figures.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    match &arguments.bench {
        Bench::Program { json, rounds, packets } => {
            program(json.as_deref(), Effort { rounds: *rounds, repeat: *packets })
        }
        Bench::Pktgen(arguments) => pktgen::run(arguments),
    }
}

/// The program's cost a packet, less that of a program that does nothing.
fn program(json: Option<&Path>, effort: Effort) -> Result<()> {
    if process::again_as_root()? {
        return Ok(());
    }
    process::announce(&format!(
        "{} rounds of {} packets for each case, in turn with an empty program",
        effort.rounds, effort.repeat
    ));
    let report = bench::program(effort)?;
    print!("{}", report.table());
    if let Some(path) = json {
        let text = serde_json::to_string_pretty(&report)?;
        fs::write(path, text).with_context(|| format!("writing {}", path.display()))?;
    }
    Ok(())
}
