//! What Weir costs, measured.

mod live;
mod pktgen;
mod plot;

use std::{
    fs,
    io::{self, IsTerminal as _, Write as _},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use serde::Serialize;
use weir::config::parse_duration;
use weir_lab::{
    bench::{self, Effort, Family, control, daemon, sync},
    program::object,
};

use crate::{packages, process, workspace};

/// `cargo xtask bench`
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    bench: Bench,
}

#[derive(Debug, clap::Subcommand)]
enum Bench {
    /// Nanoseconds a packet, through `BPF_PROG_TEST_RUN`, less those of an empty program
    Program(Program),
    /// Milliseconds a change, from the controller's input to the kernel's tables
    Control {
        /// Write the figures to this file as well
        #[arg(long, value_name = "FILE")]
        json: Option<PathBuf>,
        /// Rounds, of which the median counts
        #[arg(long, default_value_t = 31)]
        rounds: usize,
    },
    /// What 1 000 services of 20 backends each cost the daemon: start, memory, health checks; with a
    /// release build
    Daemon {
        /// Write the figures to this file as well
        #[arg(long, value_name = "FILE")]
        json: Option<PathBuf>,
    },
    /// How far a follower is behind while 50 000 flows a second are recorded, also beside strangers,
    /// and how soon one that was away is back; with a release build
    Sync {
        /// Write the figures to this file as well
        #[arg(long, value_name = "FILE")]
        json: Option<PathBuf>,
        /// How long flows are recorded
        #[arg(long, value_name = "TIME", default_value = "60s", value_parser = parse_duration)]
        time: Duration,
    },
    /// Packets a second of one processor between two namespaces, beside an empty XDP program and
    /// the kernel's forwarding; needs no kernel module
    Live(live::Arguments),
    /// Packets a second beside IPVS, plain forwarding and an empty XDP program, made by the
    /// kernel's generator: here if it has the module, else in a virtual machine
    Pktgen(pktgen::Arguments),
}

#[derive(Debug, clap::Args)]
struct Program {
    /// Write the figures to this file as well
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Draw the cost over the number of flows into FILE.svg and FILE.png
    #[arg(long, value_name = "FILE")]
    plot: Option<PathBuf>,
    /// Measure this object instead of the committed one
    #[arg(long, value_name = "FILE")]
    object: Option<PathBuf>,
    /// Measure another object in turn with it: a file, or the one that was committed with a git
    /// revision
    #[arg(long, value_name = "BASELINE")]
    compare: Option<String>,
    /// Copies of the program, which differ in where they lie in memory
    #[arg(long, default_value_t = 5)]
    instances: usize,
    /// Rounds of each copy, of which the median counts
    #[arg(long, default_value_t = 11)]
    rounds: usize,
    /// Packets in a round
    #[arg(long, default_value_t = 200_000)]
    packets: u32,
    /// Measure the cases of IPv4 or IPv6 alone
    #[arg(long, value_parser = family, value_name = "4|6")]
    family: Option<Family>,
}

/// Runs one benchmark and prints its figures.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    match &arguments.bench {
        Bench::Program(arguments) => program(arguments),
        Bench::Control { json, rounds } => {
            let report = control::measure(*rounds)?;
            print!("{}", report.table());
            if cfg!(debug_assertions) {
                println!(
                    "(a development build; for the figures of a release: cargo run --release \
                     -p xtask -- bench control)"
                );
            }
            write_json(json.as_deref(), &report)
        }
        Bench::Daemon { json } => large_configuration(json.as_deref()),
        Bench::Sync { json, time } => flows_told(json.as_deref(), *time),
        Bench::Live(arguments) => live::run(arguments),
        Bench::Pktgen(arguments) => pktgen::run(arguments),
    }
}

/// The program's cost a packet, less that of a program that does nothing.
fn program(arguments: &Program) -> Result<()> {
    if process::again_as_root()? {
        return Ok(());
    }
    let Program { instances, rounds, packets, family, .. } = *arguments;
    let object = match &arguments.object {
        Some(path) => read(path)?,
        None => object()?,
    };
    let baseline = arguments.compare.as_deref().map(baseline).transpose()?;
    process::announce(&format!(
        "{rounds} rounds of {packets} packets with each of {instances} copies of the program, in \
         turn with an empty one"
    ));
    let effort = Effort { instances, rounds, packets, family };
    let report = bench::measure(&object, baseline.as_deref(), effort, progress)?;
    print!("{}", report.table());
    write_json(arguments.json.as_deref(), &report)?;
    match &arguments.plot {
        Some(path) => plot::draw(&report, path),
        None => Ok(()),
    }
}

fn family(text: &str) -> Result<Family, String> {
    match text {
        "4" => Ok(Family::V4),
        "6" => Ok(Family::V6),
        _ => Err("a family is 4 or 6".to_owned()),
    }
}

/// What a large configuration costs the daemon.
fn large_configuration(json: Option<&Path>) -> Result<()> {
    let Some(weir) = release_build()? else { return Ok(()) };
    let report = daemon::measure(&weir, |line| println!("{line}"))?;
    println!("\n{}", report.table());
    write_json(json, &report)
}

/// How far a follower is behind.
fn flows_told(json: Option<&Path>, time: Duration) -> Result<()> {
    let Some(weir) = release_build()? else { return Ok(()) };
    let report = sync::measure(&weir, time, |line| println!("{line}"))?;
    println!("\n{}", report.table());
    write_json(json, &report)
}

/// The daemon as people run it; nothing if this went on as root, in another process.
fn release_build() -> Result<Option<PathBuf>> {
    packages::ensure_programs(&packages::LAB_PROGRAMS, "the lab")?;
    let mut build = process::cargo();
    build.args(["build", "--quiet", "--release", "--locked", "--bin", "weir"]);
    process::run(&mut build)?;
    Ok(if process::again_as_root()? { None } else { Some(workspace().join("target/release/weir")) })
}

fn write_json(path: Option<&Path>, report: &impl Serialize) -> Result<()> {
    let Some(path) = path else { return Ok(()) };
    let text = serde_json::to_string_pretty(report)?;
    fs::write(path, text).with_context(|| format!("writing {}", path.display()))
}

/// An object to compare with.
fn baseline(name: &str) -> Result<Vec<u8>> {
    let path = Path::new(name);
    if path.is_file() {
        return read(path);
    }
    let mut git = Command::new("git");
    git.current_dir(workspace()).args(["show", &format!("{name}:lb-ebpf/object/weir.bpf.o")]);
    let output = git.output().context("asking git for the object")?;
    if !output.status.success() {
        let reason = String::from_utf8_lossy(&output.stderr);
        bail!("{name} is neither a file nor a git revision with an object: {}", reason.trim());
    }
    Ok(output.stdout)
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("reading {}", path.display()))
}

/// Overwrites itself on a terminal; elsewhere it would be noise.
fn progress(number: usize, of: usize) {
    if io::stderr().is_terminal() {
        eprint!("\rcase {number} of {of} ");
        if number == of {
            eprintln!();
        }
        // A terminal that is gone shows nothing.
        let _ = io::stderr().flush();
    }
}
