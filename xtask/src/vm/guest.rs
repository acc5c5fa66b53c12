//! What `xtask` does inside a machine, on the host's behalf.

use std::{fs::File, io::Write as _, path::PathBuf, process::Command};

use anyhow::{Context as _, Result};
use weir_lab::features::{self, Finding, Outcome};

use crate::{process, test_report::Tally};

/// The line of the table that sums up the program tests.
const PROGRAM_TESTS: &str = "program tests";

/// `xtask kernel-features`
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Where findings go, one JSON object a line
    #[arg(long, value_name = "FILE")]
    report: PathBuf,
    /// The program tests
    #[arg(long, value_name = "FILE")]
    program_tests: Option<PathBuf>,
}

/// Tries what this kernel can do, and reports each finding as it is made: a crash of the kernel
/// then leaves those before it.
pub(crate) fn features(arguments: &Arguments) -> Result<()> {
    let mut report = File::options()
        .append(true)
        .create(true)
        .open(&arguments.report)
        .with_context(|| format!("opening {}", arguments.report.display()))?;
    let mut outcome = Ok(());
    let mut write = |finding: &Finding| {
        println!("{}: {:?}", finding.feature, finding.outcome);
        let line = serde_json::to_string(finding).map(|line| line + "\n");
        let written = line.map_err(anyhow::Error::from).and_then(|line| {
            report.write_all(line.as_bytes()).and_then(|()| report.flush()).map_err(Into::into)
        });
        if let Err(error) = written {
            outcome = Err(error);
        }
    };
    if let Some(tests) = &arguments.program_tests {
        write(&program_tests(tests)?);
    }
    features::probe(|finding| write(&finding));
    outcome.context("writing the report")
}

fn program_tests(path: &PathBuf) -> Result<Finding> {
    let mut tally = Tally::default();
    // One at a time: what several would share is the kernel's dispatcher of XDP programs, which is
    // rewritten whenever a program is loaded or goes.
    let succeeded = process::follow(Command::new(path).arg("--test-threads=1"), |line| {
        println!("{line}");
        tally.see(line);
    })?;
    tally.ended(succeeded);
    let outcome = match tally {
        Tally { failed: 0, passed: 1.. } => Outcome::Native,
        _ => Outcome::Failed(tally.to_string()),
    };
    Ok(Finding { feature: PROGRAM_TESTS.to_owned(), outcome })
}
