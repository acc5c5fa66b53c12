//! Long-lived connections, held through events.

use std::{
    fs,
    io::{self, Write as _},
    path::PathBuf,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use serde::Serialize;
use weir::config::parse_duration;
use weir_lab::{
    Lab,
    hold::{Event, Outcome, Scenario, Setup},
};

use crate::{packages, process};

/// `cargo xtask hold`
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// How many connections
    #[arg(long, value_name = "N", default_value_t = 5_000)]
    #[arg(value_parser = clap::value_parser!(u16).range(1..=20_000))]
    connections: u16,
    /// What happens, in this order; all of it, unless named
    #[arg(long, value_name = "EVENTS", value_delimiter = ',', default_values_t = Event::ALL)]
    events: Vec<Event>,
    /// The service's `idle_timeout`: how long a move of slots lasts
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = parse_duration)]
    idle: Duration,
    /// How often each connection asks for an answer
    #[arg(long, value_name = "TIME", default_value = "500ms", value_parser = parse_duration)]
    period: Duration,
    /// How many backends
    #[arg(long, value_name = "N", default_value_t = 4)]
    #[arg(value_parser = clap::value_parser!(u8).range(3..=64))]
    backends: u8,
    /// Write the figures to this file as well
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Exit non-zero if a connection broke, or if an event is not supported
    #[arg(long)]
    check: bool,
}

const HEAD: &str = "event         connections  broken  longest stall ms  (past the balancer)  note";

/// What `--json` writes.
#[derive(Debug, Serialize)]
struct Report {
    connections: u16,
    events: Vec<Outcome>,
    /// Events that this `weir` has no command for.
    unsupported: Vec<&'static str>,
}

/// Holds the connections, lets the events happen, and prints a line for each.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    packages::ensure_programs(&packages::LAB_PROGRAMS, "the lab")?;
    process::run(process::cargo().args(["build", "--quiet", "--locked", "--bin", "weir"]))?;
    if process::again_as_root()? {
        return Ok(());
    }
    let Arguments { connections, idle, period, backends, .. } = *arguments;
    process::announce(&format!(
        "{connections} connections through a balancer to {} backends, each asking every {period:?}",
        backends - 1
    ));
    let lab = Lab::builder().backends(backends).build()?;
    let setup = Setup { connections: connections.into(), period, idle };
    let mut scenario = Scenario::start(&lab, setup)?;
    let mut report = Report { connections, events: Vec::new(), unsupported: Vec::new() };
    println!("{HEAD}");
    for event in &arguments.events {
        match scenario.run(*event)? {
            Ok(outcome) => {
                println!("{}", row(&outcome));
                report.events.push(outcome);
            }
            Err(refusal) => {
                println!("{event:12}  not supported: {}", first_line(&refusal));
                report.unsupported.push(event.name());
            }
        }
        io::stdout().flush()?;
    }
    drop(scenario);
    report.conclude(arguments)
}

// === impl Report ===

impl Report {
    fn conclude(&self, arguments: &Arguments) -> Result<()> {
        if let Some(path) = &arguments.json {
            let text = serde_json::to_string_pretty(self)?;
            fs::write(path, text).with_context(|| format!("writing {}", path.display()))?;
        }
        let flawed: Vec<_> = self
            .events
            .iter()
            .filter(|outcome| !outcome.is_flawless())
            .map(|outcome| outcome.event)
            .chain(self.unsupported.iter().copied())
            .collect();
        if arguments.check && !flawed.is_empty() {
            bail!("not as it should be: {}", flawed.join(", "));
        }
        Ok(())
    }
}

fn row(outcome: &Outcome) -> String {
    let Outcome { event, connections, broken, longest_stall_ms, control_stall_ms, note, .. } =
        outcome;
    let row = format!(
        "{event:12}  {connections:>11}  {broken:>6}  {longest_stall_ms:>16.0}  \
         {control_stall_ms:>19.0}  {note}"
    );
    row.trim_end().to_owned()
}

/// What a failed command said, without how it was called.
fn first_line(refusal: &str) -> &str {
    let mut lines = refusal.lines().skip(1).chain(refusal.lines());
    lines.find(|line| !line.trim().is_empty()).unwrap_or_default()
}
