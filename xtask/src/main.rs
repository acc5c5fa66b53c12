//! Every command a developer of Weir types: `cargo xtask --help`.
//!
//! Each command installs what it lacks, says so first, and is quick when nothing is missing.
//! [`build_ebpf`] makes the kernel program's object, [`mod@test`] runs the suites, [`ci`] strings all
//! of it together; [`demo`], [`mod@hold`], [`mod@failover`] and [`mod@bench`] show Weir at work;
//! [`vm`] brings other kernels.

mod bench;
mod build_ebpf;
mod ci;
mod demo;
mod failover;
mod fuzz;
mod hold;
mod mutate;
mod packages;
mod process;
mod record;
mod sources;
mod test;
mod test_report;
mod toolchain;
mod vm;

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::{Parser, Subcommand};

/// What a developer of Weir types.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", version, about)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Build the kernel program and install it as the committed object
    BuildEbpf(build_ebpf::Arguments),
    /// Run test suites: unit, program and lab, unless named
    Test(test::Arguments),
    /// Show Weir at work in network namespaces on this machine
    Demo(demo::Arguments),
    /// Set up the demo's network and leave it to you until Ctrl-C
    Lab,
    /// Hold thousands of connections while backends come and go and the daemon is killed
    Hold(hold::Arguments),
    /// Measure how long a client goes without answers at each kind of failover, keepalived beside
    Failover(failover::Arguments),
    /// Measure what Weir costs
    Bench(bench::Arguments),
    /// Run something on another kernel, in a virtual machine
    Vm(vm::Arguments),
    /// Feed the readers of bytes from outside with made-up bytes (needs rustup's nightly)
    Fuzz(fuzz::Arguments),
    /// Leave out each rule of steering in turn, and show that the model notices
    Mutate,
    /// Run everything that a change must pass
    Ci,
    /// What a virtual machine runs to find out what its kernel can do
    #[command(hide = true)]
    KernelFeatures(vm::guest::Arguments),
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let outcome = match arguments.command {
        Command::BuildEbpf(arguments) => build_ebpf::run(&arguments),
        Command::Test(arguments) => test::run(&arguments),
        Command::Demo(arguments) => demo::run(&arguments),
        Command::Lab => demo::lab(),
        Command::Hold(arguments) => hold::run(&arguments),
        Command::Failover(arguments) => failover::run(&arguments),
        Command::Bench(arguments) => bench::run(&arguments),
        Command::Vm(arguments) => vm::run(&arguments),
        Command::Fuzz(arguments) => fuzz::run(&arguments),
        Command::Mutate => mutate::run(),
        Command::Ci => ci::run(),
        Command::KernelFeatures(arguments) => vm::guest::features(&arguments),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The workspace's root folder.
fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("xtask/ is a folder of the workspace, so its path has a parent")
}

/// Where tools that a command had to build are kept.
fn tools() -> PathBuf {
    workspace().join("target/tools")
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn the_documented_forms_are_accepted() {
        for line in [
            "build-ebpf",
            "build-ebpf --check",
            "build-ebpf --output /tmp/weir.bpf.o",
            "test",
            "test unit program",
            "test all",
            "demo --check",
            "lab",
            "hold",
            "hold --connections 300 --events kill,restart --json held.json",
            "failover",
            "failover --interval 100ms --runs 3 --events stop,kill --systems keepalived",
            "failover --json gaps.json",
            "bench pktgen --json figures.json --kernel newest",
            "vm",
            "vm --kernel newest -- uname -r",
            "test vm --kernel 6.1 --kernel 5.10",
            "bench program --json figures.json --plot figures",
            "bench program --compare main --object /tmp/weir.bpf.o",
            "bench control",
            "mutate",
            "ci",
        ] {
            let words = std::iter::once("xtask").chain(line.split(' '));
            assert!(Arguments::try_parse_from(words).is_ok(), "{line}");
        }
    }

    #[test]
    fn a_check_builds_nothing() {
        let words = ["xtask", "build-ebpf", "--check", "--output", "x.o"];
        assert!(Arguments::try_parse_from(words).is_err());
    }
}
