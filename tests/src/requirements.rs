//! What the machine must have before a lab can be built.

use std::{env, path::Path};

use anyhow::{Context, Result, bail, ensure};
use nix::{
    sys::resource::{Resource, getrlimit, setrlimit},
    unistd::geteuid,
};

/// Each program, and the Debian package that has it.
const PROGRAMS: [(&str, &str); 5] = [
    ("ip", "iproute2"),
    ("ethtool", "ethtool"),
    ("nginx", "nginx-light"),
    ("curl", "curl"),
    ("wrk", "wrk"),
];

/// Checks that the process is root, which namespaces and XDP need.
///
/// # Errors
///
/// It is not; with the remedy.
pub fn require_root() -> Result<()> {
    ensure!(
        geteuid().is_root(),
        "the lab makes network namespaces and loads XDP programs, which only root may do: \
         run `cargo xtask test lab`, which asks for sudo"
    );
    Ok(())
}

/// Makes room for so many open files in this process, where the limit is lower.
///
/// # Errors
///
/// Only root may raise it further than the administrator's limit.
pub(crate) fn allow_open_files(number: u64) -> Result<()> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if soft >= number {
        return Ok(());
    }
    setrlimit(Resource::RLIMIT_NOFILE, number, hard.max(number))
        .with_context(|| format!("raise the limit of open files from {soft} to {number}"))
}

/// Checks that the programs of the lab are installed.
pub(crate) fn require_programs() -> Result<()> {
    require(&PROGRAMS)
}

/// Checks that programs are installed, named with the Debian package of each.
pub(crate) fn require(programs: &[(&str, &str)]) -> Result<()> {
    let missing: Vec<_> = programs.iter().filter(|(program, _)| !installed(program)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let (programs, packages): (Vec<_>, Vec<_>) = missing.into_iter().copied().unzip();
    bail!("the lab needs {}: apt-get install {}", programs.join(", "), packages.join(" "))
}

fn installed(program: &str) -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path).any(|directory| Path::new(&directory).join(program).is_file())
}
