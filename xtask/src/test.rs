//! The test suites: on the host, on the kernel's program, in the lab.
//!
//! Cargo builds without privileges; only the test programs that need root run as root.

use std::{
    collections::BTreeSet,
    ffi::{OsStr, OsString},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use clap::ValueEnum;

use crate::{
    packages, process,
    test_report::Tally,
    vm::{self, Release},
    workspace,
};

/// When a test program that still runs is ended, in the words of timeout(1). A suite takes a few
/// minutes at most.
const TIME_LIMIT: &str = "30m";

/// `cargo xtask test`
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Which suites; without one: unit, program, lab
    #[arg(value_enum)]
    suites: Vec<Choice>,
    /// The kernels of the suite `vm`; all of them, unless named
    #[arg(long, value_enum, value_name = "VERSION")]
    kernel: Vec<Release>,
}

/// What can be asked for.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
enum Choice {
    /// Everything that needs no kernel
    Unit,
    /// The kernel program, through `BPF_PROG_TEST_RUN`; needs root
    Program,
    /// Real traffic in network namespaces; needs root
    Lab,
    /// The program and a lab on other kernels, in virtual machines
    Vm,
    /// All of them
    All,
}

/// A suite, in the order in which they run.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) enum Suite {
    Unit,
    Program,
    Lab,
}

/// Runs the suites that were asked for, and closes with their sum.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let suites = suites(&arguments.suites);
    let others = if suites.is_empty() { Ok(()) } else { run_suites(&suites, None) };
    if arguments.suites.iter().any(|choice| matches!(choice, Choice::Vm | Choice::All)) {
        let releases: &[Release] =
            if arguments.kernel.is_empty() { &Release::ALL } else { &arguments.kernel };
        run_on_kernels(releases, None)?;
    }
    others
}

/// Runs what there is for other kernels, on `object` instead of the committed one if given.
pub(crate) fn run_on_kernels(releases: &[Release], object: Option<&Path>) -> Result<()> {
    vm::suite::run(&Programs::build(object)?, releases)
}

/// Runs suites, all of them even if one fails, on `object` instead of the committed one if given.
pub(crate) fn run_suites(suites: &BTreeSet<Suite>, object: Option<&Path>) -> Result<()> {
    let mut total = Tally::default();
    // Once for all suites that use it.
    let needs_kernel = suites.iter().any(|suite| *suite != Suite::Unit);
    let programs = if needs_kernel { Some(Programs::build(object)?) } else { None };
    for suite in suites {
        match (suite, &programs) {
            (Suite::Program, Some(programs)) => total += programs.run_program_tests()?,
            (Suite::Lab, Some(programs)) => total += programs.run_lab()?,
            _ => total += unit()?,
        }
    }
    println!("\n{total}");
    if total.failed > 0 {
        bail!("{} of the tests above failed", total.failed);
    }
    // Success without a test would hide a suite that lost its tests.
    if total.passed == 0 {
        bail!("there was no test to run");
    }
    Ok(())
}

/// The suites behind what was asked for.
fn suites(choices: &[Choice]) -> BTreeSet<Suite> {
    let default = [Suite::Unit, Suite::Program, Suite::Lab];
    if choices.is_empty() || choices.contains(&Choice::All) {
        return default.into();
    }
    choices
        .iter()
        .filter_map(|choice| match choice {
            Choice::Unit => Some(Suite::Unit),
            Choice::Program => Some(Suite::Program),
            Choice::Lab => Some(Suite::Lab),
            Choice::Vm | Choice::All => None,
        })
        .collect()
}

/// The tests that need neither root nor a kernel.
fn unit() -> Result<Tally> {
    process::announce("unit tests");
    let mut cargo = process::cargo();
    cargo.args(["test", "--locked", "--no-fail-fast"]);
    cargo.args(["-p", "lb-common", "-p", "lb-userspace", "-p", "xtask"]);
    follow(&mut cargo)
}

/// The programs that the privileged suites run, and what they are told.
#[derive(Debug)]
pub(crate) struct Programs {
    /// The `weir` binary.
    weir: PathBuf,
    /// The kernel program's object, if not the committed one.
    object: Option<PathBuf>,
    /// The test programs of lb-tests by name.
    tests: Vec<Executable>,
}

impl Programs {
    /// Builds `weir` and the test programs of lb-tests.
    fn build(object: Option<&Path>) -> Result<Self> {
        process::announce("building weir and the tests that need a kernel");
        let object = object.map(std::path::absolute).transpose().context("the object's path")?;
        let weir = weir(object.as_deref())?;
        let tests = build(&["test", "-p", "lb-tests", "--no-run"], object.as_deref())?;
        Ok(Self { weir, object, tests })
    }

    /// The `weir` binary.
    pub(crate) fn weir(&self) -> &Path {
        &self.weir
    }

    /// The kernel program's object, if not the committed one.
    pub(crate) fn object(&self) -> Option<&Path> {
        self.object.as_deref()
    }

    /// The program of the packets in and out.
    pub(crate) fn program_tests(&self) -> Result<&Path> {
        let test = self.tests.iter().find(|test| test.is_program_suite());
        Ok(&test.context("lb-tests has no test target called `program`")?.path)
    }

    /// Packets in, packets out. One at a time: the tests share the kernel's tables.
    fn run_program_tests(&self) -> Result<Tally> {
        let Some(test) = self.tests.iter().find(|test| test.is_program_suite()) else {
            bail!("lb-tests has no test target called `program`");
        };
        self.run(test, &["--test-threads=1"])
    }

    /// Everything else that lb-tests holds.
    fn run_lab(&self) -> Result<Tally> {
        packages::ensure_programs(&packages::LAB_PROGRAMS, "the lab")?;
        let interop = [packages::KEEPALIVED, packages::PING, packages::TSHARK];
        packages::ensure_programs(&interop, "the lab's VRRP")?;
        let mut total = Tally::default();
        for test in self.tests.iter().filter(|test| !test.is_program_suite()) {
            // VRRP is mostly waiting: more of its tests than CPUs can wait at a time.
            let waits = if test.name == "interop" { &["--test-threads=8"][..] } else { &[] };
            total += self.run(test, waits)?;
        }
        Ok(total)
    }

    /// Runs one test program as root, where cargo would run it.
    fn run(&self, test: &Executable, arguments: &[&str]) -> Result<Tally> {
        process::announce(&format!("{} tests of lb-tests, as root", test.name));
        let folder = workspace().join("tests");
        let mut variables: Vec<(&str, &OsStr)> =
            vec![("WEIR_BIN", self.weir.as_os_str()), ("CARGO_MANIFEST_DIR", folder.as_os_str())];
        if let Some(object) = &self.object {
            variables.push(("WEIR_EBPF_OBJECT", object.as_os_str()));
        }
        let mut command = process::as_root("timeout", &variables);
        command.current_dir(&folder).args(["--kill-after=10s", TIME_LIMIT]);
        command.arg(&test.path).args(arguments);
        follow(&mut command)
    }
}

/// Builds `weir` for a machine.
pub(crate) fn build_weir() -> Result<PathBuf> {
    process::announce("building weir");
    weir(None)
}

fn weir(object: Option<&Path>) -> Result<PathBuf> {
    let built = build(&["build", "-p", "lb-userspace", "--bin", "weir"], object)?;
    let weir = built.into_iter().find(|executable| executable.name == "weir");
    Ok(weir.context("cargo built no binary called `weir`")?.path)
}

/// Runs a command that runs tests, shows its output and counts its results.
fn follow(command: &mut std::process::Command) -> Result<Tally> {
    let mut tally = Tally::default();
    let succeeded = process::follow(command, |line| {
        println!("{line}");
        tally.see(line);
    })?;
    tally.ended(succeeded);
    Ok(tally)
}

/// Something that cargo built and one can run.
#[derive(Clone, Debug, Eq, PartialEq)]
struct Executable {
    name: String,
    path: PathBuf,
}

impl Executable {
    fn is_program_suite(&self) -> bool {
        self.name == "program"
    }
}

/// Runs a cargo command that builds, and returns what it built.
fn build(words: &[&str], object: Option<&Path>) -> Result<Vec<Executable>> {
    let mut cargo = process::cargo();
    cargo.args(words).args(["--locked", "--quiet", "--message-format=json-render-diagnostics"]);
    cargo.stderr(std::process::Stdio::inherit());
    // For builds that embed the object rather than read it at run time.
    cargo.envs(object.map(|object| ("WEIR_EBPF_OBJECT", OsString::from(object))));
    let mut executables = Vec::new();
    let succeeded = process::follow(&mut cargo, |line| executables.extend(executable(line)))?;
    if !succeeded {
        bail!("`cargo {}` failed", words.join(" "));
    }
    Ok(executables)
}

/// The executable in one of cargo's messages, if it tells of one.
fn executable(message: &str) -> Option<Executable> {
    let message: serde_json::Value = serde_json::from_str(message).ok()?;
    let path = message.get("executable")?.as_str()?;
    let name = message.get("target")?.get("name")?.as_str()?;
    Some(Executable { name: name.to_owned(), path: path.into() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn by_default_every_suite_of_this_machine_runs_in_order() {
        let every = [Suite::Unit, Suite::Program, Suite::Lab];
        assert!(suites(&[]).into_iter().eq(every));
        assert!(suites(&[Choice::All, Choice::Lab]).into_iter().eq(every));
        let some = suites(&[Choice::Lab, Choice::Unit, Choice::Lab]);
        assert!(some.into_iter().eq([Suite::Unit, Suite::Lab]));
    }

    #[test]
    fn other_kernels_alone_leave_this_one_in_peace() {
        assert!(suites(&[Choice::Vm]).is_empty());
        assert!(suites(&[Choice::Vm, Choice::Unit]).into_iter().eq([Suite::Unit]));
    }

    #[test]
    fn only_messages_with_an_executable_name_one() {
        let built = r#"{"reason":"compiler-artifact","target":{"kind":["test"],"name":"lab"},
            "profile":{"test":true},"executable":"/t/debug/deps/lab-1"}"#;
        let expected = Executable { name: "lab".into(), path: "/t/debug/deps/lab-1".into() };
        assert_eq!(executable(built), Some(expected));
        let library =
            r#"{"reason":"compiler-artifact","target":{"name":"libc"},"executable":null}"#;
        assert_eq!(executable(library), None);
        assert_eq!(executable(r#"{"reason":"build-finished","success":true}"#), None);
        assert_eq!(executable("warning: not JSON"), None);
    }
}
