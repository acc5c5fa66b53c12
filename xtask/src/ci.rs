//! Everything that a change must pass, in the order that fails fastest.

use std::{
    fmt::Write as _,
    path::PathBuf,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};

use crate::{
    build_ebpf, demo, packages, process,
    test::{Suite, run_on_kernels, run_suites},
    vm::{self, Release},
    workspace,
};

const CARGO_DENY: &str = "0.20.2";

/// How long the fetch of the advisory database may take, in the words of timeout(1).
const FETCH_LIMIT: &str = "60s";

/// A step by name; the closing table shows its duration.
type Step = (&'static str, fn() -> Result<()>);

const STEPS: [Step; 13] = [
    ("format", format),
    ("committed object", build_ebpf::check),
    ("clippy", clippy),
    ("documentation", documentation),
    ("dependencies", dependencies),
    ("advisories", advisories),
    ("unit tests", || run_suites(&[Suite::Unit].into(), None)),
    ("program tests, committed object", || run_suites(&[Suite::Program].into(), None)),
    ("rebuild of the object", || build_ebpf::build_to(&rebuilt())),
    ("program tests, rebuilt object", || run_suites(&[Suite::Program].into(), Some(&rebuilt()))),
    ("lab, rebuilt object", || run_suites(&[Suite::Lab].into(), Some(&rebuilt()))),
    ("kernels 6.1 and newest", kernels),
    ("demo", || demo::run(&demo::Arguments { check: true })),
];

/// Runs the steps up to the first that fails, and closes with a table of them.
pub(crate) fn run() -> Result<()> {
    let mut durations = Vec::new();
    let mut outcome = Ok(());
    for (name, step) in STEPS {
        println!("\n[{}/{}] {name}", durations.len() + 1, STEPS.len());
        let started = Instant::now();
        outcome = step().with_context(|| format!("step \"{name}\""));
        let duration = started.elapsed();
        durations.push(duration);
        println!("[{name}: {:.1} s]", duration.as_secs_f64());
        if outcome.is_err() {
            break;
        }
    }
    let names: Vec<&str> = STEPS.iter().map(|(name, _)| *name).collect();
    println!("\n{}", summary(&names, &durations, outcome.is_ok()));
    outcome
}

/// A line a step: how it ended and how long it took.
fn summary(names: &[&str], durations: &[Duration], passed: bool) -> String {
    let width = names.iter().map(|name| name.len()).max().unwrap_or_default();
    let mut table = String::new();
    for (index, name) in names.iter().enumerate() {
        let Some(duration) = durations.get(index) else {
            let _ = writeln!(table, "{name:width$}  not run");
            continue;
        };
        let last = index + 1 == durations.len();
        let verdict = if last && !passed { "FAILED" } else { "passed" };
        let _ = writeln!(table, "{name:width$}  {verdict}  {:>7.1} s", duration.as_secs_f64());
    }
    table
}

fn format() -> Result<()> {
    process::run(process::cargo().args(["fmt", "--all", "--check"]))
}

fn clippy() -> Result<()> {
    process::run(
        process::cargo()
            .args(["clippy", "--quiet", "--locked", "--workspace", "--all-targets"])
            .args(["--", "--deny", "warnings"]),
    )
}

fn documentation() -> Result<()> {
    process::run(
        process::cargo()
            .env("RUSTDOCFLAGS", "--deny warnings")
            .args(["doc", "--quiet", "--locked", "--workspace"])
            .args(["--no-deps", "--document-private-items"]),
    )
}

/// Licences, banned and doubled crates, and where crates come from: needs no network.
fn dependencies() -> Result<()> {
    process::run(
        Command::new(cargo_deny()?)
            .current_dir(workspace())
            .args(["--locked", "--log-level", "error"])
            .args(["check", "bans", "licenses", "sources"]),
    )
}

/// Known vulnerabilities, where their database can be reached.
fn advisories() -> Result<()> {
    let cargo_deny = cargo_deny()?;
    let fetched = process::capture(
        Command::new("timeout").current_dir(workspace()).arg(FETCH_LIMIT).arg(&cargo_deny).args([
            "--log-level",
            "error",
            "fetch",
            "db",
        ]),
    );
    if fetched.is_err() {
        println!("skipped: the database of advisories cannot be fetched from here");
        return Ok(());
    }
    process::run(
        Command::new(cargo_deny)
            .current_dir(workspace())
            .args(["--locked", "--log-level", "error"])
            .args(["check", "advisories"]),
    )
}

/// The rebuilt object on other kernels, where those can be fetched.
fn kernels() -> Result<()> {
    let releases = [Release::V6_1, Release::Newest];
    if let Err(error) = vm::fetch(&releases) {
        println!("skipped: other kernels cannot be had here: {error:#}");
        return Ok(());
    }
    run_on_kernels(&releases, Some(&rebuilt()))
}

/// cargo-deny from PATH or `target/tools`; built there if it is nowhere.
fn cargo_deny() -> Result<PathBuf> {
    packages::cargo_tool("cargo-deny", CARGO_DENY)
}

/// Where the rebuilt object lies.
fn rebuilt() -> PathBuf {
    workspace().join("target/ebpf/rebuilt.bpf.o")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_tells_passed_failed_and_never_run_apart() {
        let seconds = [Duration::from_secs(1), Duration::from_millis(2_500)];
        assert_eq!(
            summary(&["one", "second", "third"], &seconds, false),
            "one     passed      1.0 s\nsecond  FAILED      2.5 s\nthird   not run\n"
        );
        assert!(!summary(&["one", "second"], &seconds, true).contains("FAILED"));
    }
}
