//! `cargo xtask bench pktgen`: on this machine's kernel if it has the modules, else on another's.

use std::{fs, path::PathBuf, process::Command, time::Duration};

use anyhow::{Context as _, Result, bail};
use weir_lab::pktgen::{self, Effort, Report, Source};

use crate::{
    packages, process,
    vm::{self, Accelerator, Image, Kernel, Machine, Release, Settings},
};

/// When a machine that still measures is ended.
const LIMIT: &str = "40m";
/// What the balancer's thread is measured with, and what is measured beside it.
const MODULES: [&str; 5] = ["pktgen", "veth", "ip_vs", "ip_vs_mh", "ip_vs_rr"];
/// As IPVS wants to be set up for so many connections: by default it has 4 096 chains for them.
const IPVS_OPTIONS: &str = "conn_tab_bits=17";
const PROGRAMS: [(&str, &str); 5] = [
    ("chrt", "util-linux"),
    ("ethtool", "ethtool"),
    ("ip", "iproute2"),
    ("ipvsadm", "ipvsadm"),
    ("taskset", "util-linux"),
];

/// `cargo xtask bench pktgen`
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Write the figures to this file as well
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Rounds, of which the median counts
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=99))]
    rounds: u8,
    /// Seconds of each measurement
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=60))]
    seconds: u8,
    /// Measure on this kernel in a virtual machine, whatever this machine's has
    #[arg(long, value_enum)]
    kernel: Option<Release>,
    /// Measure on the kernel that runs, or fail; in a virtual machine, tell what executes it
    #[arg(long, hide = true, value_name = "ACCELERATOR", conflicts_with = "kernel")]
    here: Option<String>,
}

/// Measures where it can be done, prints the table and writes the JSON.
pub(super) fn run(arguments: &Arguments) -> Result<()> {
    if let Some(accelerator) = &arguments.here {
        return measure(arguments, accelerator);
    }
    match arguments.kernel {
        None if kernel_has_modules() => {
            packages::ensure_programs(&PROGRAMS, "the benchmark")?;
            process::run(process::cargo().args(["build", "--quiet", "--locked", "--bin", "weir"]))?;
            if process::again_as_root()? {
                return Ok(());
            }
            measure(arguments, "none")
        }
        kernel => in_machine(arguments, kernel.unwrap_or(Release::V6_1)),
    }
}

/// Whether everything is there to be loaded.
fn kernel_has_modules() -> bool {
    let has = |module: &&str| {
        let mut modprobe = Command::new("modprobe");
        modprobe.args(["--dry-run", "--quiet", module]);
        modprobe.status().is_ok_and(|status| status.success())
    };
    let found = process::find_program("modprobe").is_some() && MODULES.iter().all(has);
    if !found {
        println!("this kernel has no pktgen or no IPVS: measuring in a virtual machine");
    }
    found
}

/// Measures here, as root.
fn measure(arguments: &Arguments, accelerator: &str) -> Result<()> {
    for module in MODULES {
        let options = (module == "ip_vs").then_some(IPVS_OPTIONS);
        process::capture(Command::new("modprobe").arg(module).args(options))
            .with_context(|| format!("the benchmark needs the kernel's module {module}"))?;
    }
    let effort = Effort {
        rounds: arguments.rounds.into(),
        time: Duration::from_secs(arguments.seconds.into()),
    };
    let report = pktgen::run(effort, Source::Pktgen, accelerator, |line| println!("{line}"))?;
    conclude(&report, arguments)
}

/// Lets a virtual machine measure, and takes its report.
fn in_machine(arguments: &Arguments, release: Release) -> Result<()> {
    vm::require()?;
    packages::ensure_programs(&PROGRAMS, "the benchmark")?;
    let weir = crate::test::build_weir()?;
    let kernel = Kernel::prepare(release)?;
    let accelerator = Accelerator::find(&kernel)?;
    let image = Image::new()?;
    image.add_build(&weir, "usr/bin/weir")?;
    image.add_build(&std::env::current_exe().context("finding this program")?, "usr/bin/xtask")?;
    let script = format!(
        "export WEIR_BIN=/usr/bin/weir\nexec xtask bench pktgen --here {} --rounds {} --seconds \
         {} --json \"$WEIR_REPORT\"\n",
        accelerator.name(),
        arguments.rounds,
        arguments.seconds
    );
    process::announce(&format!("Linux {} under {}", kernel.version, accelerator.name()));
    let settings = Settings { accelerator, cpus: 2, memory_mib: 3072, limit: LIMIT };
    let machine = Machine::new(&kernel, &image, &script, settings)?;
    let end = machine.follow(|line| println!("{line}"))?;
    if end.status != 0 {
        bail!("the benchmark in the machine ended with status {}", end.status);
    }
    let report: Report =
        serde_json::from_str(&end.report).context("reading the machine's report")?;
    write(&report, arguments)
}

fn conclude(report: &Report, arguments: &Arguments) -> Result<()> {
    println!("\n{}", report.table());
    write(report, arguments)
}

fn write(report: &Report, arguments: &Arguments) -> Result<()> {
    if let Some(path) = &arguments.json {
        let text = serde_json::to_string_pretty(report)? + "\n";
        fs::write(path, text).with_context(|| format!("writing {}", path.display()))?;
    }
    Ok(())
}
