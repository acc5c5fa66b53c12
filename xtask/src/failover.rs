//! The client's gap for each kind of failover, keepalived beside weir.

use std::{fmt::Write as _, fs, path::PathBuf, time::Duration};

use anyhow::{Context as _, Result};
use serde::Serialize;
use weir::config::parse_duration;
use weir_lab::failover::{Event, Outcome, System, Trial};

use crate::{packages, process};

/// The intervals that are measured unless one is named.
const INTERVALS: [Duration; 3] =
    [Duration::from_secs(1), Duration::from_millis(100), Duration::from_millis(10)];

/// `cargo xtask failover`
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Between two adverts; 1s, 100ms and 10ms one after the other, unless named
    #[arg(long, value_name = "TIME", value_parser = parse_interval)]
    interval: Option<Duration>,
    /// How often each event happens
    #[arg(long, value_name = "N", default_value_t = 9)]
    #[arg(value_parser = clap::value_parser!(u16).range(1..=1_000))]
    runs: u16,
    /// What happens, in this order; all of it, unless named
    #[arg(long, value_name = "EVENTS", value_delimiter = ',', default_values_t = Event::ALL)]
    events: Vec<Event>,
    /// Who shares the VIP; both, unless named
    #[arg(long, value_name = "SYSTEMS", value_delimiter = ',', default_values_t = System::ALL)]
    systems: Vec<System>,
    /// Write the figures to this file as well
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// What `--json` writes.
#[derive(Debug, Serialize)]
struct Report {
    runs: u16,
    results: Vec<Outcome>,
}

/// Lets every event happen to a pair of each system, prints each figure when it is known, and all
/// of them in the end.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    packages::ensure_programs(&packages::LAB_PROGRAMS, "the lab")?;
    packages::ensure_programs(&[packages::KEEPALIVED], "the comparison")?;
    process::run(process::cargo().args(["build", "--quiet", "--locked", "--bin", "weir"]))?;
    if process::again_as_root()? {
        return Ok(());
    }
    let Arguments { runs, events, systems, .. } = arguments;
    let intervals = arguments.interval.map_or(INTERVALS.to_vec(), |interval| vec![interval]);
    process::announce(
        "a client asks the VIP every millisecond; a gap is the time from the first question that \
         nobody answered to the next that somebody did",
    );
    let mut report = Report { runs: *runs, results: Vec::new() };
    for interval in intervals {
        for system in systems {
            let mut trial = Trial::start(*system, interval)
                .with_context(|| format!("{system} with adverts of {interval:?}"))?;
            for event in events {
                let outcome = trial
                    .run(*event, usize::from(*runs))
                    .with_context(|| format!("{system} with adverts of {interval:?}: {event}"))?;
                println!("{outcome}");
                report.results.push(outcome);
            }
        }
    }
    if let Some(path) = &arguments.json {
        let text = serde_json::to_string_pretty(&report)?;
        fs::write(path, text).with_context(|| format!("writing {}", path.display()))?;
    }
    println!("\n{}", table(&report.results));
    Ok(())
}

/// A line for each event, a column for each system and interval: median and worst in milliseconds.
fn table(results: &[Outcome]) -> String {
    let (mut rows, mut columns) = (Vec::new(), Vec::new());
    for Outcome { event, system, interval_ms, .. } in results {
        let column = (*system, *interval_ms);
        if !rows.contains(event) {
            rows.push(*event);
        }
        if !columns.contains(&column) {
            columns.push(column);
        }
    }
    let mut text = "median/worst gap, ms".to_owned();
    // Writing to a string cannot fail.
    for (system, interval_ms) in &columns {
        let _ = write!(text, "  {:>17}", format!("{system} {interval_ms} ms"));
    }
    for row in rows {
        let _ = write!(text, "\n{row:20}");
        for column in &columns {
            let cell =
                results.iter().find(|r| r.event == row && (r.system, r.interval_ms) == *column);
            let cell = cell.map_or_else(String::new, |outcome| {
                format!("{:.0}/{:.0}", outcome.gap_ms_median, outcome.gap_ms_worst)
            });
            let _ = write!(text, "  {cell:>17}");
        }
    }
    text
}

/// What a version 3 advert can say (RFC 9568, section 5.2.7), in hundredths of a second.
fn parse_interval(text: &str) -> Result<Duration, String> {
    let interval = parse_duration(text).map_err(|error| error.to_string())?;
    let allowed = Duration::from_millis(10)..=Duration::from_millis(40_950);
    let whole = interval.as_micros().is_multiple_of(10_000);
    if allowed.contains(&interval) && whole {
        Ok(interval)
    } else {
        Err("adverts can be 10ms to 40.95s apart, in steps of 10ms".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(system: &'static str, event: &'static str, interval_ms: f64, gap: f64) -> Outcome {
        Outcome {
            system,
            event,
            interval_ms,
            gap_ms_median: gap,
            gap_ms_worst: gap + 1.0,
            gaps_ms: vec![gap, gap + 1.0],
            pause_ms_worst: 1.0,
        }
    }

    #[test]
    fn the_table_puts_systems_side_by_side() {
        let results = [
            outcome("keepalived", "stop", 100.0, 68.0),
            outcome("keepalived", "kill", 100.0, 0.0),
            outcome("weir", "stop", 100.0, 2.0),
        ];
        assert_eq!(
            table(&results),
            "median/worst gap, ms  keepalived 100 ms        weir 100 ms\n\
             stop                              68/69                2/3\n\
             kill                                0/1                   "
        );
    }

    #[test]
    fn intervals_are_those_that_an_advert_can_say() {
        assert_eq!(parse_interval("10ms"), Ok(Duration::from_millis(10)));
        assert!(parse_interval("40.95s").is_ok());
        for wrong in ["0s", "9ms", "15ms", "41s", "fast"] {
            assert!(parse_interval(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_file_is_as_promised() {
        let results = vec![outcome("weir", "kill", 100.0, 0.0)];
        let json = serde_json::to_value(Report { runs: 9, results }).expect("plain data");
        assert_eq!(json["runs"], 9);
        let result = &json["results"][0];
        assert_eq!(result["system"], "weir");
        assert_eq!(result["event"], "kill");
        for key in ["interval_ms", "gap_ms_median", "gap_ms_worst"] {
            assert!(result[key].is_number(), "{key}");
        }
    }
}
