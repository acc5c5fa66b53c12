//! Debian packages and programs of cargo's: what is missing, and installing it.

use std::{
    collections::BTreeSet,
    ffi::OsStr,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Result, bail};

use crate::{process, tools};

/// What to do when a package is missing and we are not root.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Unprivileged {
    /// Print the command to type, and fail.
    Explain,
    /// Ask for it through `sudo`: for commands that need sudo anyway.
    Sudo,
}

/// What the lab runs, and the Debian package of each.
pub(crate) const LAB_PROGRAMS: [(&str, &str); 5] = [
    ("curl", "curl"),
    ("ethtool", "ethtool"),
    ("ip", "iproute2"),
    ("nginx", "nginx"),
    ("wrk", "wrk"),
];

/// Who speaks VRRP with weir, or beside it. Debian's package starts nothing: it comes without a
/// configuration.
pub(crate) const KEEPALIVED: (&str, &str) = ("keepalived", "keepalived");

/// Who decodes what weir sends.
pub(crate) const TSHARK: (&str, &str) = ("tshark", "tshark");

/// With which the lab asks who has an address.
pub(crate) const PING: (&str, &str) = ("ping", "iputils-ping");

/// A program that cargo installs, from `target/tools` or PATH; built there if it is nowhere.
pub(crate) fn cargo_tool(name: &str, version: &str) -> Result<PathBuf> {
    let own = tools().join("bin").join(name);
    if process::is_executable(&own) {
        return Ok(own);
    }
    if let Some(found) = process::find_program(name) {
        return Ok(found);
    }
    process::announce(&format!("building {name} {version} (some minutes, once)"));
    process::run(
        process::cargo()
            .args(["install", name, "--version", version, "--locked", "--quiet"])
            .arg("--root")
            .arg(tools()),
    )?;
    Ok(own)
}

/// Installs those of the packages that are missing; `purpose` says what needs them.
pub(crate) fn ensure(packages: &[&str], purpose: &str, unprivileged: Unprivileged) -> Result<()> {
    let missing = missing(packages);
    if missing.is_empty() {
        return Ok(());
    }
    let names = missing.join(" ");
    if !has_apt() {
        bail!("{purpose} needs what Debian packages as {names}: install it and run this again");
    }
    if !process::is_root() && matches!(unprivileged, Unprivileged::Explain) {
        bail!(
            "{purpose} needs packages: run\n  sudo apt-get update && sudo apt-get install --yes \
             --no-install-recommends {names}\nand then this again"
        );
    }
    process::announce(&format!("installing {names}: {purpose} needs them"));
    let quiet = [("DEBIAN_FRONTEND", OsStr::new("noninteractive"))];
    process::run(process::as_root("apt-get", &quiet).args(["update", "--quiet", "--quiet"]))?;
    process::run(
        process::as_root("apt-get", &quiet)
            .args(["install", "--yes", "--quiet", "--quiet", "--no-install-recommends"])
            .args(&missing),
    )
}

/// Installs the packages of those programs that are not there, as pairs of program and package.
pub(crate) fn ensure_programs(programs: &[(&str, &str)], purpose: &str) -> Result<()> {
    let packages: BTreeSet<&str> = programs
        .iter()
        .filter(|(program, _)| process::find_program(program).is_none())
        .map(|(_, package)| *package)
        .collect();
    let packages: Vec<&str> = packages.into_iter().collect();
    ensure(&packages, purpose, Unprivileged::Sudo)
}

/// Whether packages come through `apt-get` here.
fn has_apt() -> bool {
    Path::new("/usr/bin/apt-get").exists()
}

/// The packages that dpkg does not call installed; without dpkg, all of them.
fn missing<'a>(packages: &[&'a str]) -> Vec<&'a str> {
    if packages.is_empty() {
        return Vec::new();
    }
    // dpkg-query exits with 1 when it does not know one of them, and still lists the others.
    let known = Command::new("dpkg-query")
        .args(["--show", "--showformat", "${Package} ${db:Status-Status}\n"])
        .args(packages)
        .output()
        .map(|output| String::from_utf8_lossy(&output.stdout).into_owned())
        .unwrap_or_default();
    not_installed(packages, &known)
}

fn not_installed<'a>(packages: &[&'a str], known: &str) -> Vec<&'a str> {
    let installed: BTreeSet<&str> =
        known.lines().filter_map(|line| line.strip_suffix(" installed")).collect();
    packages.iter().copied().filter(|package| !installed.contains(package)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_dpkg_calls_installed_counts() {
        let known = "curl installed\nnginx config-files\nwrk not-installed\n";
        assert_eq!(
            not_installed(&["curl", "nginx", "wrk", "ethtool"], known),
            ["nginx", "wrk", "ethtool"]
        );
    }

    #[test]
    fn nothing_is_asked_for_when_nothing_is_wanted() {
        assert!(ensure(&[], "a test", Unprivileged::Explain).is_ok());
        assert!(ensure_programs(&[("sh", "no-such-package")], "a test").is_ok());
    }
}
