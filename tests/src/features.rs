//! What of Weir the running kernel can do: found by doing it.
//!
//! Each [`Finding`] is a line of the table of kernels. A feature works as meant, or in another way
//! that Weir chooses by itself, or is refused with a message that says what is missing; anything
//! else is a failure.

use std::{path::PathBuf, time::Duration};

use anyhow::{Context, Result, ensure};
use aya::programs::Xdp;
use serde::{Deserialize, Serialize};
use weir::{
    config::AttachMode,
    core::{BackendState, EventKind},
    dataplane::{self, Ingress, Tables, TablesId, batch::HashTable},
};

use crate::{
    Lab, Weir,
    program::{SMALL, object},
};

/// Long enough for a kernel under software emulation.
const PATIENCE: Duration = Duration::from_secs(60);
const PORT: u16 = 80;
/// Checks that a slow machine passes: emulation answers late, but it answers.
const HEALTH: &str = "type = \"http\"\nport = 80\npath = \"/health\"\ninterval = \"2s\"\n\
                      timeout = \"2s\"\nrise = 1\nfall = 2\n";

/// What came of one feature.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// A few words, the same on every kernel.
    pub feature: String,
    /// How it works, if it does.
    pub outcome: Outcome,
}

/// How a feature works.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// As meant.
    Native,
    /// In another way, which is named.
    Fallback(String),
    /// Not at all, and Weir says so in these words.
    Refused(String),
    /// Not as it should; with the error.
    Failed(String),
}

/// A feature, and how to find out about it.
type Probe = (&'static str, fn() -> Result<Outcome>);

/// Tries every feature, in the order in which they build on each other.
pub fn probe(mut found: impl FnMut(Finding)) {
    let probes: [Probe; 9] = [
        ("memory-mapped tables", mapped_tables),
        ("the XDP programs load", programs),
        ("tables read in batches", batches),
        ("grace periods told by the kernel", || Ok(grace_periods())),
        ("native XDP, answered by XDP_TX", || forwards(AttachMode::Native, false)),
        ("generic XDP", || forwards(AttachMode::Generic, false)),
        ("redirection to another interface", || forwards(AttachMode::Native, true)),
        ("a failed backend leaves", failure),
        ("traffic outlives the daemon", adoption),
    ];
    for (feature, probe) in probes {
        let outcome = probe().unwrap_or_else(|error| judge(&error));
        found(Finding { feature: feature.to_owned(), outcome });
    }
}

/// A refusal is an error of Weir's own that says what is to be done about it.
fn judge(error: &anyhow::Error) -> Outcome {
    match error.downcast_ref::<dataplane::Error>() {
        Some(refusal @ (dataplane::Error::KernelTooOld(_) | dataplane::Error::NoLink(_))) => {
            Outcome::Refused(refusal.to_string())
        }
        _ => Outcome::Failed(format!("{error:#}")),
    }
}

// === in the kernel alone ===

/// Tables of a probe, removed when dropped.
struct Pinned {
    id: TablesId,
    bpf_dir: PathBuf,
}

impl Pinned {
    fn new() -> Self {
        let bpf_dir = format!("/sys/fs/bpf/weir-features-{}", std::process::id()).into();
        Self { id: TablesId::new(SMALL, [1, 2]), bpf_dir }
    }

    fn tables(&self) -> Result<Tables> {
        Ok(Tables::open(&object()?, &self.id, &self.bpf_dir)?)
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        let _ = dataplane::detach(&self.bpf_dir);
    }
}

fn mapped_tables() -> Result<Outcome> {
    Pinned::new().tables().map(|_| Outcome::Native)
}

fn programs() -> Result<Outcome> {
    let probe = Pinned::new();
    let _tables = probe.tables()?;
    let mut ebpf = dataplane::load(&object()?, &probe.id, &probe.bpf_dir, Ingress::NONE)?;
    for (name, program) in ebpf.programs_mut() {
        let program: &mut Xdp = program.try_into()?;
        program.load().with_context(|| format!("loading {name}"))?;
    }
    Ok(Outcome::Native)
}

fn batches() -> Result<Outcome> {
    let probe = Pinned::new();
    let _tables = probe.tables()?;
    let flows = probe.id.directory(&probe.bpf_dir).join("FLOWS");
    let table = HashTable::<[u32; 6], [u32; 4]>::from_pin(flows)?;
    table.for_each(|_, _| ())?;
    Ok(if table.is_batched() {
        Outcome::Native
    } else {
        Outcome::Fallback("entry by entry".to_owned())
    })
}

fn grace_periods() -> Outcome {
    if dataplane::kernel_tells_grace_periods() {
        Outcome::Native
    } else {
        Outcome::Fallback("a pause of 100 ms".to_owned())
    }
}

// === with traffic ===

/// Requests through a balancer, attached in a mode.
fn forwards(mode: AttachMode, two_networks: bool) -> Result<Outcome> {
    let builder = Lab::builder().backends(2);
    let lab = if two_networks { builder.two_networks() } else { builder }.build()?;
    let weir = start(&lab, mode)?;
    let interfaces = weir.status()?.interfaces;
    for interface in interfaces {
        ensure!(interface.mode == mode, "{} is attached as {:?}", interface.name, interface.mode);
    }
    let tally = lab.client().requests(lab.vip(PORT), 200, 2)?;
    ensure!(tally.failed == 0, "requests failed: {tally}");
    ensure!(tally.by("b1") > 0 && tally.by("b2") > 0, "one backend got all: {tally}");
    Ok(Outcome::Native)
}

fn failure() -> Result<Outcome> {
    let lab = Lab::builder().backends(2).build()?;
    let weir = start(&lab, AttachMode::Native)?;
    lab.backend("b2").kill();
    weir.wait_until_is("web", "b2", BackendState::Down, PATIENCE)?;
    let tally = lab.client().requests(lab.vip(PORT), 100, 2)?;
    ensure!((tally.failed, tally.by("b2")) == (0, 0), "not all went to b1: {tally}");
    lab.backend("b2").revive()?;
    weir.wait_until_is("web", "b2", BackendState::Up, PATIENCE)?;
    let tally = lab.client().requests(lab.vip(PORT), 100, 2)?;
    ensure!(tally.failed == 0 && tally.by("b2") > 0, "b2 did not come back: {tally}");
    Ok(Outcome::Native)
}

fn adoption() -> Result<Outcome> {
    let lab = Lab::builder().backends(2).build()?;
    let mut weir = start(&lab, AttachMode::Native)?;
    weir.kill();
    let tally = lab.client().requests(lab.vip(PORT), 100, 2)?;
    ensure!(tally.failed == 0, "without the daemon: {tally}");
    weir.start()?;
    let adopted = EventKind::Started { adopted: true };
    let events = weir.events()?;
    ensure!(events.iter().any(|event| event.kind == adopted), "the tables were not adopted");
    let tally = lab.client().requests(lab.vip(PORT), 100, 2)?;
    ensure!(tally.failed == 0, "after the restart: {tally}");
    Ok(Outcome::Native)
}

fn start(lab: &Lab, mode: AttachMode) -> Result<Weir> {
    let service = lab.service("web", PORT).health(HEALTH);
    let config = lab.balancer().config(&[service]);
    let config = match mode {
        AttachMode::Generic => config.replace("mode = \"native\"", "mode = \"generic\""),
        AttachMode::Native | AttachMode::Auto => config,
    };
    let weir = lab.balancer().start_weir(&config)?;
    weir.wait_until_up()?;
    Ok(weir)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_told_from_a_failure() {
        let refusal = dataplane::Error::NoLink("eth0".to_owned());
        assert!(matches!(judge(&refusal.into()), Outcome::Refused(text) if text.contains("5.9")));
        let failure = anyhow::anyhow!("requests failed");
        assert_eq!(judge(&failure), Outcome::Failed("requests failed".to_owned()));
    }
}
