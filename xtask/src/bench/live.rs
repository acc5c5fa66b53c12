//! `cargo xtask bench live`: packets a second on this machine's kernel, without any module.

use std::{path::PathBuf, time::Duration};

use anyhow::Result;
use weir_lab::pktgen::{self, Effort, Source};

use crate::{packages, process};

const PROGRAMS: [(&str, &str); 4] =
    [("chrt", "util-linux"), ("ethtool", "ethtool"), ("ip", "iproute2"), ("taskset", "util-linux")];

/// `cargo xtask bench live`
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Write the figures to this file as well
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Rounds, of which the median counts
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u8).range(1..=99))]
    rounds: u8,
    /// Seconds of each measurement
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=60))]
    seconds: u8,
}

/// Measures, prints the table and writes the JSON.
pub(super) fn run(arguments: &Arguments) -> Result<()> {
    packages::ensure_programs(&PROGRAMS, "the benchmark")?;
    process::run(process::cargo().args(["build", "--quiet", "--locked", "--bin", "weir"]))?;
    if process::again_as_root()? {
        return Ok(());
    }
    let effort = Effort {
        rounds: arguments.rounds.into(),
        time: Duration::from_secs(arguments.seconds.into()),
    };
    let report = pktgen::run(effort, Source::LiveFrames, "none", |line| println!("{line}"))?;
    println!("\n{}", report.table());
    super::write_json(arguments.json.as_deref(), &report)
}
