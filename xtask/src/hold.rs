//! Long-lived connections, held through events.

use std::{
    fmt, fs,
    io::{self, Write as _},
    path::PathBuf,
    str::FromStr,
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow, bail};
use serde::Serialize;
use weir::config::parse_duration;
use weir_lab::{
    Lab,
    hold::{Event, Outcome, PairEvent, PairScenario, Scenario, Setup},
};

use crate::{packages, process};

/// `cargo xtask hold`
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// How many connections
    #[arg(long, value_name = "N", default_value_t = 5_000)]
    #[arg(value_parser = clap::value_parser!(u16).range(1..=20_000))]
    connections: u16,
    /// What happens, to one balancer first and then to two, in this order; all of it, unless named
    #[arg(long, value_name = "EVENTS", value_delimiter = ',', default_values_t = Named::all())]
    events: Vec<Named>,
    /// The service's `idle_timeout`: how long a move of slots lasts
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = parse_duration)]
    idle: Duration,
    /// How often each connection asks for an answer
    #[arg(long, value_name = "TIME", default_value = "500ms", value_parser = parse_duration)]
    period: Duration,
    /// How long two balancers are cut off from each other
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = parse_duration)]
    split: Duration,
    /// How many backends
    #[arg(long, value_name = "N", default_value_t = 4)]
    #[arg(value_parser = clap::value_parser!(u8).range(4..=64))]
    backends: u8,
    /// Write the figures to this file as well
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Exit non-zero if a connection broke, or if an event is not supported
    #[arg(long)]
    check: bool,
}

const HEAD: &str =
    "event               connections  broken  longest stall ms  (past the balancer)  note";

/// An event of one balancer, or of two.
#[derive(Debug, Clone, Copy)]
enum Named {
    One(Event),
    Pair(PairEvent),
}

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
    let connections = arguments.connections;
    let mut report = Report { connections, events: Vec::new(), unsupported: Vec::new() };
    let (mut one, mut pair) = (Vec::new(), Vec::new());
    for event in &arguments.events {
        match event {
            Named::One(event) => one.push(*event),
            Named::Pair(event) => pair.push(*event),
        }
    }
    if !one.is_empty() {
        hold_one(arguments, &one, &mut report)?;
    }
    if !pair.is_empty() {
        hold_pair(arguments, &pair, &mut report)?;
    }
    report.conclude(arguments)
}

/// Through one balancer.
fn hold_one(arguments: &Arguments, events: &[Event], report: &mut Report) -> Result<()> {
    arguments.announce("a balancer");
    let lab = Lab::builder().backends(arguments.backends).build()?;
    let mut scenario = Scenario::start(&lab, arguments.setup())?;
    println!("{HEAD}");
    for event in events {
        match scenario.run(*event)? {
            Ok(outcome) => report.add(outcome)?,
            Err(refusal) => {
                println!("{event:18}  not supported: {}", first_line(&refusal));
                report.unsupported.push(event.name());
            }
        }
    }
    Ok(())
}

/// Through whichever of two balancers has the VIP.
fn hold_pair(arguments: &Arguments, events: &[PairEvent], report: &mut Report) -> Result<()> {
    arguments.announce("two balancers");
    let lab = Lab::builder().backends(arguments.backends).balancers(2).unclaimed_vip().build()?;
    let mut scenario = PairScenario::start(&lab, arguments.setup())?;
    println!("{HEAD}");
    events.iter().try_for_each(|event| report.add(scenario.run(*event)?))
}

// === impl Arguments ===

impl Arguments {
    fn setup(&self) -> Setup {
        let Self { connections, idle, period, split, .. } = *self;
        Setup { connections: connections.into(), period, idle, split }
    }

    fn announce(&self, through: &str) {
        let Self { connections, period, backends, .. } = self;
        process::announce(&format!(
            "{connections} connections through {through} to {} backends, each asking every \
             {period:?}",
            backends - 1
        ));
    }
}

// === impl Named ===

impl Named {
    fn all() -> impl Iterator<Item = Self> {
        Event::ALL.into_iter().map(Self::One).chain(PairEvent::ALL.into_iter().map(Self::Pair))
    }
}

impl fmt::Display for Named {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::One(event) => event.fmt(f),
            Self::Pair(event) => event.fmt(f),
        }
    }
}

impl FromStr for Named {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        Self::all().find(|event| event.to_string() == text).ok_or_else(|| {
            let names: Vec<String> = Self::all().map(|event| event.to_string()).collect();
            anyhow!("no such event; there are {}", names.join(", "))
        })
    }
}

// === impl Report ===

impl Report {
    fn add(&mut self, outcome: Outcome) -> Result<()> {
        println!("{}", row(&outcome));
        self.events.push(outcome);
        Ok(io::stdout().flush()?)
    }

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
        "{event:18}  {connections:>11}  {broken:>6}  {longest_stall_ms:>16.0}  \
         {control_stall_ms:>19.0}  {note}"
    );
    row.trim_end().to_owned()
}

/// What a failed command said, without how it was called.
fn first_line(refusal: &str) -> &str {
    let mut lines = refusal.lines().skip(1).chain(refusal.lines());
    lines.find(|line| !line.trim().is_empty()).unwrap_or_default()
}
