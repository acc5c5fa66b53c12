//! Runs the fuzz targets of `fuzz/`: whatever bytes come from outside, their readers keep their
//! promises. What a run finds worth keeping goes into `fuzz/corpus`, which the test `corpus` replays.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};

use crate::{packages, process, workspace};

const CARGO_FUZZ: &str = "0.13.2";
/// The readers of `weir_lab::fuzz`.
const TARGETS: [&str; 4] = ["echo", "sync", "vrrp", "xdp"];
/// Longer than a frame, or what a message is cut to anyhow.
const LENGTH_MAX: u32 = 4096;

/// What to run.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The target; every one in turn, unless named
    #[arg(value_parser = TARGETS)]
    target: Option<String>,
    /// How long each target runs
    #[arg(long, default_value_t = 60)]
    seconds: u32,
    /// Keep what was found in the corpus, as few and small inputs as reach the same code
    #[arg(long)]
    keep: bool,
}

/// Runs them.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let fuzz = cargo_fuzz()?;
    // The versions that the tests run with.
    fs::copy(workspace().join("Cargo.lock"), workspace().join("fuzz/Cargo.lock"))
        .context("copying Cargo.lock")?;
    let targets = TARGETS
        .into_iter()
        .filter(|each| arguments.target.as_ref().is_none_or(|target| target == each));
    for target in targets {
        process::announce(&format!("fuzzing {target} for {} s", arguments.seconds));
        // New inputs go into the first folder, those of the second are read alone.
        let found = workspace().join("fuzz/target/found").join(target);
        let corpus = workspace().join("fuzz/corpus").join(target);
        fs::create_dir_all(&found).with_context(|| format!("making {}", found.display()))?;
        process::run(
            command(&fuzz, "run")
                .arg(target)
                .args([&found, &corpus])
                .arg("--")
                .arg(format!("-max_total_time={}", arguments.seconds))
                .arg(format!("-max_len={LENGTH_MAX}"))
                .arg("-print_final_stats=1"),
        )?;
        if arguments.keep {
            process::run(
                command(&fuzz, "run").arg(target).args([&corpus, &found]).args(["--", "-merge=1"]),
            )?;
        }
    }
    Ok(())
}

fn command(fuzz: &Path, what: &str) -> Command {
    let mut command = Command::new(fuzz);
    command.current_dir(workspace()).env("RUSTUP_TOOLCHAIN", "nightly").arg(what);
    command
}

/// cargo-fuzz, installed below `target/tools` if it is not there; it needs rustup's nightly.
fn cargo_fuzz() -> Result<PathBuf> {
    let nightly = Command::new("rustup").args(["run", "nightly", "rustc", "--version"]).output();
    ensure!(
        nightly.is_ok_and(|output| output.status.success()),
        "fuzzing needs a nightly compiler: run `rustup toolchain install nightly`"
    );
    packages::cargo_tool("cargo-fuzz", CARGO_FUZZ)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_target_has_its_file_and_its_corpus() {
        for target in TARGETS {
            let fuzz = workspace().join("fuzz");
            assert!(fuzz.join(format!("fuzz_targets/{target}.rs")).is_file(), "{target}");
            assert!(fuzz.join("corpus").join(target).is_dir(), "{target}");
        }
    }
}
