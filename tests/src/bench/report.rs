//! What was measured, for people and machines.

use std::fmt::Write as _;

use serde::Serialize;

pub use super::case::{Packet, State};

/// The report, as `--json` prints it.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// An empty program that returns `XDP_TX`, nanoseconds a run, with the generator before it.
    pub empty_ns: f64,
    /// One entry a case.
    pub results: Vec<Measured>,
    /// What does not depend on the machine.
    #[serde(flatten)]
    pub counts: Counts,
    /// The same of the object that it is compared with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub baseline: Option<Counts>,
}

/// The size of a program.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Instructions that the verifier walked through, if the kernel tells.
    pub verified_instructions: Option<u32>,
    /// Bytes of the program after translation, if the kernel tells.
    pub translated_bytes: Option<u32>,
    /// Bytes of machine code.
    pub jitted_bytes: u32,
}

/// One case.
#[derive(Debug, Clone, Serialize)]
pub struct Measured {
    /// The forwarding mode.
    pub forward: &'static str,
    /// 4 or 6.
    pub family: u8,
    /// What packets they are.
    pub packet: Packet,
    /// What their slots remember.
    pub state: State,
    /// How many flows they belong to; 0 if each belongs to one of its own.
    pub flows: u32,
    /// Services in the tables, over which the flows are spread.
    pub services: u32,
    /// Backends of each service.
    pub backends: u32,
    /// Nanoseconds a packet, less the empty program's: the median of the instances' medians.
    pub net_ns: f64,
    /// The distance between the quartiles of all rounds of all instances.
    pub spread_ns: f64,
    /// The medians of the instances, which differ in where they lie in memory.
    pub instances_ns: Vec<f64>,
    /// `net_ns` of the object that it is compared with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub baseline_net_ns: Option<f64>,
}

impl Report {
    /// The report as a table for people.
    pub fn table(&self) -> String {
        let mut text = format!(
            "an empty XDP_TX program with a generator of packets before it: {:.1} ns a packet, \
             taken off below\n\n{HEAD}",
            self.empty_ns
        );
        if self.baseline.is_some() {
            text.push_str("  baseline  change");
        }
        text.push('\n');
        for row in &self.results {
            text.push_str(&line(row));
            text.push('\n');
        }
        text.push('\n');
        text.push_str(&self.counts.to_string());
        if let Some(baseline) = &self.baseline {
            // Writing to a string cannot fail.
            let _ = write!(text, "\nbaseline: {baseline}");
        }
        text.push('\n');
        text
    }
}

const HEAD: &str = "IP  packet  state       services  backends    flows  net ns  quartiles  fastest and slowest instance";

fn line(row: &Measured) -> String {
    let Measured { family, packet, state, services, backends, net_ns, spread_ns, .. } = row;
    let flows = if row.flows == 0 { "new".to_owned() } else { row.flows.to_string() };
    let fastest = row.instances_ns.iter().copied().fold(f64::INFINITY, f64::min);
    let slowest = row.instances_ns.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let packet = format!("{packet:?}").to_uppercase();
    let state = format!("{state:?}").to_lowercase();
    let mut text = format!(
        "{family:>2}  {packet:6}  {state:10}  {services:>8}  {backends:>8}  {flows:>7}  {net_ns:>6.1}  \
         {spread_ns:>9.1}  {fastest:>7.1} to {slowest:<18.1}"
    );
    if let Some(baseline) = row.baseline_net_ns {
        // Writing to a string cannot fail.
        let _ = write!(text, "  {baseline:>8.1}  {:>+6.1}", net_ns - baseline);
    }
    text.trim_end().to_owned()
}

impl std::fmt::Display for Counts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let told = |number: Option<u32>| number.map_or("?".to_owned(), |n| n.to_string());
        write!(
            f,
            "{} instructions verified, {} bytes translated, {} bytes of machine code",
            told(self.verified_instructions),
            told(self.translated_bytes),
            self.jitted_bytes
        )
    }
}
