//! `cargo xtask test vm`: every kernel, and what of Weir works on it.

use std::{
    fmt::Write as _,
    sync::Mutex,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use weir_lab::features::{Finding, Outcome};

use super::{Accelerator, Image, Kernel, Machine, Release, Settings};
use crate::{packages, process, test::Programs};

/// When a machine that still runs is ended. Under emulation all of it takes two minutes.
const LIMIT: &str = "12m";

/// What was found on one kernel.
#[derive(Debug)]
struct Row {
    release: Release,
    version: String,
    findings: Vec<Finding>,
    /// Why the findings are not all there.
    broken: Option<String>,
    duration: Duration,
}

/// Runs the program tests and tries every feature on these kernels, and prints the table.
pub(crate) fn run(programs: &Programs, releases: &[Release]) -> Result<()> {
    packages::ensure_programs(&packages::LAB_PROGRAMS, "the lab")?;
    let kernels = super::prepare(releases)?;
    let accelerator = match kernels.first() {
        Some(kernel) => Accelerator::find(kernel)?,
        None => bail!("no kernel was named"),
    };
    let names: Vec<&str> = kernels.iter().map(|kernel| kernel.version.as_str()).collect();
    process::announce(&format!("Linux {} under {}", names.join(", "), accelerator.name()));
    let rows = in_pairs(&kernels, |kernel| examine(kernel, programs, accelerator))?;
    for row in &rows {
        println!("Linux {}: {:.0} s", row.version, row.duration.as_secs_f64());
    }
    println!("\n{}", table(&rows));
    let failures = failures(&rows);
    if !failures.is_empty() {
        bail!("not as it should be:\n{}", failures.join("\n"));
    }
    Ok(())
}

/// Boots one kernel and lets it find out.
fn examine(kernel: &Kernel, programs: &Programs, accelerator: Accelerator) -> Result<Row> {
    let image = Image::new()?;
    image.add_build(programs.weir(), "usr/bin/weir")?;
    image.add_build(programs.program_tests()?, "usr/bin/program-tests")?;
    let own = std::env::current_exe().context("finding this program")?;
    image.add_build(&own, "usr/bin/xtask")?;
    if let Some(object) = programs.object() {
        image.add_file(object, "weir.bpf.o")?;
    }
    let object = programs.object().map_or("", |_| "export WEIR_EBPF_OBJECT=/weir.bpf.o\n");
    let script = format!(
        "export WEIR_BIN=/usr/bin/weir RUST_BACKTRACE=0\n{object}\
         exec xtask kernel-features --report \"$WEIR_REPORT\" --program-tests \
         /usr/bin/program-tests\n"
    );
    let cpus = accelerator.safe_cpus();
    let settings = Settings { accelerator, cpus, memory_mib: 2048, limit: LIMIT };
    let machine = Machine::new(kernel, &image, &script, settings)?;
    let started = Instant::now();
    let mut output = String::new();
    let end = machine.follow(|line| {
        let _ = writeln!(output, "{line}");
    });
    let mut row = Row {
        release: kernel.release,
        version: kernel.version.clone(),
        findings: Vec::new(),
        broken: None,
        duration: started.elapsed(),
    };
    match end {
        Ok(end) => {
            row.findings = findings(&end.report);
            row.broken = (end.status != 0).then(|| format!("it ended with {}", end.status));
        }
        Err(error) => row.broken = Some(format!("{error:#}")),
    }
    if !row.is_as_it_should_be() {
        println!("--- Linux {}\n{output}", row.version);
    }
    Ok(row)
}

/// Two kernels at a time: a machine waits as often as it computes.
fn in_pairs(kernels: &[Kernel], work: impl Fn(&Kernel) -> Result<Row> + Sync) -> Result<Vec<Row>> {
    let waiting = Mutex::new(kernels.iter());
    let next = || waiting.lock().ok().and_then(|mut waiting| waiting.next());
    let rows = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while let Some(kernel) = next() {
                    let row = work(kernel);
                    if let Ok(mut rows) = rows.lock() {
                        rows.push(row);
                    }
                }
            });
        }
    });
    let rows = rows.into_inner().ok().context("a machine's thread panicked")?;
    let mut rows = rows.into_iter().collect::<Result<Vec<_>>>()?;
    rows.sort_by_key(|row| row.release);
    Ok(rows)
}

/// The findings in a report; lines that are none are no findings.
fn findings(report: &str) -> Vec<Finding> {
    report.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

impl Row {
    fn is_as_it_should_be(&self) -> bool {
        let failed = |finding: &Finding| matches!(finding.outcome, Outcome::Failed(_));
        self.broken.is_none() && !self.findings.is_empty() && !self.findings.iter().any(failed)
    }
}

/// What is wrong, a line each.
fn failures(rows: &[Row]) -> Vec<String> {
    rows.iter()
        .flat_map(|row| {
            let failed = row.findings.iter().filter_map(|finding| match &finding.outcome {
                Outcome::Failed(error) => Some(format!("{}: {error}", finding.feature)),
                _ => None,
            });
            let nothing = row.findings.is_empty().then(|| "nothing was found out".to_owned());
            let all: Vec<String> = failed.chain(row.broken.clone()).chain(nothing).collect();
            all.into_iter().map(|text| format!("{}: {text}", row.release))
        })
        .collect()
}

/// Kernels across, features down, as Markdown; below it the words of what is not native.
fn table(rows: &[Row]) -> String {
    let mut features: Vec<&str> = Vec::new();
    for finding in rows.iter().flat_map(|row| &row.findings) {
        if !features.contains(&finding.feature.as_str()) {
            features.push(&finding.feature);
        }
    }
    let width = features.iter().map(|feature| feature.len()).max().unwrap_or_default();
    let mut text = format!("| {:width$} |", "");
    for row in rows {
        let _ = write!(text, " {} |", row.version);
    }
    let _ = write!(text, "\n|-{}-|", "-".repeat(width));
    for row in rows {
        let _ = write!(text, "{}|", "-".repeat(row.version.len() + 2));
    }
    text.push('\n');
    let mut notes = String::new();
    for feature in features {
        let _ = write!(text, "| {feature:width$} |");
        for row in rows {
            let found = row.findings.iter().find(|finding| finding.feature == feature);
            let (word, note) = match found.map(|finding| &finding.outcome) {
                Some(Outcome::Native) => ("native", None),
                Some(Outcome::Fallback(which)) => ("fallback", Some(which)),
                Some(Outcome::Refused(message)) => ("refused", Some(message)),
                Some(Outcome::Failed(_)) => ("FAILED", None),
                None => ("not tried", None),
            };
            let _ = write!(text, " {word:width$} |", width = row.version.len());
            if let Some(note) = note {
                let _ = writeln!(notes, "{}, {feature}: {word}: {note}", row.release);
            }
        }
        text.push('\n');
    }
    if notes.is_empty() { text } else { text + "\n" + &notes }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(release: Release, version: &str, outcomes: &[(&str, Outcome)]) -> Row {
        let finding = |(feature, outcome): &(&str, Outcome)| Finding {
            feature: (*feature).to_owned(),
            outcome: outcome.clone(),
        };
        Row {
            release,
            version: version.to_owned(),
            findings: outcomes.iter().map(finding).collect(),
            broken: None,
            duration: Duration::ZERO,
        }
    }

    #[test]
    fn the_table_says_how_and_the_notes_say_what_instead() {
        let slow = Outcome::Fallback("one by one".to_owned());
        let rows = [
            row(Release::V5_10, "5.10.0-32", &[("load", Outcome::Native), ("batches", slow)]),
            row(Release::V6_1, "6.1.0-50", &[("load", Outcome::Native)]),
        ];
        let expected = "\
            |         | 5.10.0-32 | 6.1.0-50 |\n\
            |---------|-----------|----------|\n\
            | load    | native    | native   |\n\
            | batches | fallback  | not tried |\n\n\
            5.10, batches: fallback: one by one\n";
        assert_eq!(table(&rows), expected);
        assert_eq!(failures(&rows), Vec::<String>::new());
    }

    #[test]
    fn a_failure_a_crash_and_silence_are_all_told() {
        let failed = Outcome::Failed("requests failed".to_owned());
        let mut crashed = row(Release::V6_1, "6.1", &[("load", Outcome::Native)]);
        crashed.broken = Some("it panicked".to_owned());
        let rows = [
            row(Release::V5_10, "5.10", &[("forward", failed)]),
            crashed,
            row(Release::Newest, "7.2", &[]),
        ];
        let expected =
            ["5.10: forward: requests failed", "6.1: it panicked", "newest: nothing was found out"];
        assert_eq!(failures(&rows), expected);
        assert!(rows.iter().all(|row| !row.is_as_it_should_be()));
    }

    #[test]
    fn what_the_kernel_mixes_into_a_report_is_skipped() {
        let finding = row(Release::V6_1, "6.1", &[("load", Outcome::Native)]).findings;
        let line = serde_json::to_string(&finding[0]).expect("it is JSON");
        assert_eq!(findings(&format!("noise\n{line}\n{{\n")), finding);
    }
}
