//! What a change costs the controller, with the real core over the kernel's tables: rings built
//! anew and written, and sweeps of the records.

use std::{
    fmt::Write as _,
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context as _, Result, ensure};
use serde::Serialize;
use weir::{
    config::{self, Name},
    core::{
        BackendChange, BackendId, Command, Core, Expect, HealthReport, Now,
        sweep::{Order, Swept},
    },
};

use super::{
    case::{Case, Packet, State},
    cpu_time,
    generator::{Family, Generator, Target},
    program::{from_the_next, set_slots},
    quantile,
};
use crate::program::{Program, Verdict, object, to_us};

/// Flows in the swept table.
const RECORDS: u32 = 262_144;
/// What a sweep is told of a service whose flows may be silent for an hour.
const HOUR: Swept = Swept { idle_seconds: 3_600, every_flow: false, refresh_seconds: None };

/// What was measured, as `--json` prints it.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// One entry a task.
    pub results: Vec<Measured>,
}

/// One task.
#[derive(Debug, Clone, Serialize)]
pub struct Measured {
    /// What was done.
    pub task: &'static str,
    /// Median milliseconds.
    pub ms: f64,
    /// The longest.
    pub worst_ms: f64,
    /// What it should stay below.
    pub limit_ms: f64,
}

/// Measures every task so many times.
///
/// # Errors
///
/// If the kernel or the core refuses something.
pub fn measure(rounds: usize) -> Result<Report> {
    let mut results = rings(rounds)?;
    results.extend(sweeps(rounds)?);
    Ok(Report { results })
}

/// A service of 1 000 backends and 65 537 slots: one fails and returns, another changes its weight.
fn rings(rounds: usize) -> Result<Vec<Measured>> {
    let mut program = program(&case(1_000))?;
    let failing = backend(7)?;
    let (mut down, mut up, mut weight) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..rounds {
        down.push(timed(&mut program, |core| checks(core, &failing, 3, false))?);
        up.push(timed(&mut program, |core| checks(core, &failing, 2, true))?);
        let change = BackendChange {
            weight: Some(if round % 2 == 0 { 2 } else { 3 }),
            ..BackendChange::default()
        };
        let command = Command::Put { id: backend(8)?, change, expect: Expect::Present };
        let command = |core: &mut Core| core.command(command, now()).map(drop);
        weight.push(timed(&mut program, |core| command(core).map_err(anyhow::Error::msg))?);
    }
    Ok(vec![
        Measured::new("a backend of 1 000 fails: ring built and written", &down, 10.0),
        Measured::new("it recovers: ring built and written", &up, 10.0),
        Measured::new("another's weight changes by command: the same", &weight, 10.0),
    ])
}

/// A full table of records over a ring whose slots are all moving.
fn sweeps(rounds: usize) -> Result<Vec<Measured>> {
    let case = Case { state: State::Recorded, flows: RECORDS, ..case(100) };
    let mut program = program(&case)?;
    // All slots go to the lower half of the backends, and then from it to the upper half.
    for upper in [false, true] {
        for number in 0..100 {
            let weight = Some(u16::from((number >= 50) == upper));
            let change = BackendChange { weight, ..BackendChange::default() };
            let command = Command::Put { id: backend(number)?, change, expect: Expect::Present };
            program.with_core(|core| core.command(command, now())).map_err(anyhow::Error::msg)?;
        }
    }
    // The core takes some of them for exceptions; where all are moving, each flow is recorded.
    set_slots(&program, &case, from_the_next(&case));
    let instance = program.instance(&object()?)?;
    let generator =
        Generator::new(Family::V4, instance.program("empty_tx")?, instance.program("weir")?)?;
    let frame = case.confirming_frame();
    let (verdict, _) = generator.run(Target::Measured, case.rehearsal(), &frame, case.flows)?;
    ensure!(Verdict::from_action(verdict)? == Verdict::Tx, "the flows are forwarded");

    let (mut walk, mut conclusions) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        let order = Order { services: [(0, HOUR)].into(), ..Order::default() };
        let start = cpu_time()?;
        let findings = program.tables.records.sweep(&program.tables.mapped, &order)?;
        let walked = cpu_time()?;
        let confirmed = findings.confirmed;
        program.with_core(|core| core.swept(findings, now()));
        walk.push(milliseconds(walked.saturating_sub(start)));
        conclusions.push(milliseconds(cpu_time()?.saturating_sub(walked)));
        ensure!(
            confirmed >= u64::from(RECORDS) * 99 / 100,
            "{confirmed} of {RECORDS} flows are recorded"
        );
    }
    Ok(vec![
        Measured::new("a sweep of 262 144 records, off the core's task (CPU)", &walk, 100.0),
        Measured::new("what the core makes of it (CPU)", &conclusions, 100.0),
    ])
}

fn case(backends: u32) -> Case {
    Case {
        family: Family::V4,
        packet: Packet::Ack,
        state: State::Settled,
        flows: 1,
        services: 1,
        backends,
    }
}

fn program(case: &Case) -> Result<Program> {
    let config = config::parse(&case.configuration(), "bench.toml")?;
    Program::new(config, to_us)
}

/// Milliseconds from inputs to written tables.
fn timed(program: &mut Program, inputs: impl FnOnce(&mut Core) -> Result<()>) -> Result<f64> {
    let start = Instant::now();
    program.with_core(inputs)?;
    Ok(milliseconds(start.elapsed()))
}

#[allow(clippy::unnecessary_wraps, reason = "as other inputs, which can fail")]
fn checks(core: &mut Core, id: &BackendId, number: u32, pass: bool) -> Result<()> {
    for _ in 0..number {
        let outcome = if pass { Ok(()) } else { Err("refused".to_owned()) };
        let report = HealthReport { id: id.clone(), outcome, started: now(), finished: now() };
        core.health(&report, now());
    }
    Ok(())
}

fn backend(number: u32) -> Result<BackendId> {
    let name = |text: &str| Name::new(text).context("a name");
    Ok(BackendId { service: name("s0")?, backend: name(&format!("b{number}"))? })
}

fn now() -> Now {
    Now { monotonic: Duration::ZERO, wall: SystemTime::UNIX_EPOCH }
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1_000.0
}

// === impl Measured ===

impl Measured {
    fn new(task: &'static str, samples: &[f64], limit_ms: f64) -> Self {
        Self { task, ms: quantile(samples, 50), worst_ms: quantile(samples, 100), limit_ms }
    }
}

// === impl Report ===

impl Report {
    /// The report as a table for people.
    pub fn table(&self) -> String {
        let mut text = format!("{:56}  median ms   worst  limit\n", "");
        for Measured { task, ms, worst_ms, limit_ms } in &self.results {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "{task:56}  {ms:>9.1}  {worst_ms:>6.1}  {limit_ms:>5.0}");
        }
        text
    }
}
