//! What a packet costs: the program's time less that of an empty one, measured in turn with it.
//!
//! The kernel times `BPF_PROG_TEST_RUN` itself, over many runs on one frame. A forwarding program
//! rewrites its frame, so the next hop's address is the interface's own here: the next run sees
//! the frame as addressed to us again.

use std::{
    fmt::Write as _,
    net::{IpAddr, Ipv4Addr},
};

use anyhow::{Result, ensure};
use serde::Serialize;
use weir::{config, core::NextHop};

use crate::program::{INGRESS, OWN_MAC, Program, Verdict};

/// How much is measured.
#[derive(Debug, Clone, Copy)]
pub struct Effort {
    /// Rounds; the medians of all of them count.
    pub rounds: usize,
    /// Runs in a round.
    pub repeat: u32,
}

/// The report, as `--json` prints it.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// An empty program that returns `XDP_TX`, nanoseconds a run.
    pub empty_ns: f64,
    /// One entry a case.
    pub results: Vec<Measured>,
    /// Instructions that the verifier walked through.
    pub verified_instructions: Option<u32>,
    /// Bytes of the program after translation.
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
    /// `syn`, `ack` or `udp`.
    pub packet: &'static str,
    /// `settled`, or `miss` for a packet of no service.
    pub state: &'static str,
    /// Flows.
    pub flows: u32,
    /// Services in the tables.
    pub services: u32,
    /// Backends of the measured service.
    pub backends: u32,
    /// Median nanoseconds a packet, less the empty program's.
    pub net_ns: f64,
    /// The distance between the quartiles of the rounds.
    pub spread_ns: f64,
}

struct Case {
    packet: &'static str,
    state: &'static str,
    services: u32,
    backends: u32,
}

const CASES: [Case; 6] = [
    Case { packet: "ack", state: "settled", services: 1, backends: 1 },
    Case { packet: "ack", state: "settled", services: 1, backends: 100 },
    Case { packet: "ack", state: "settled", services: 64, backends: 100 },
    Case { packet: "syn", state: "settled", services: 64, backends: 100 },
    Case { packet: "udp", state: "settled", services: 64, backends: 100 },
    Case { packet: "ack", state: "miss", services: 64, backends: 100 },
];

/// Measures every case.
///
/// # Errors
///
/// If the kernel refuses the program or a run.
pub fn program(effort: Effort) -> Result<Report> {
    let mut report = Report {
        empty_ns: 0.0,
        results: Vec::new(),
        verified_instructions: None,
        translated_bytes: None,
        jitted_bytes: 0,
    };
    let mut empties = Vec::new();
    for case in &CASES {
        let config = config::parse(&configuration(case), "bench.toml")?;
        let to_us = |_| NextHop { interface: INGRESS, source: OWN_MAC, destination: OWN_MAC };
        let mut program = Program::new(config, to_us)?;
        let frame = frame(case);
        let expected = if case.state == "miss" { Verdict::Pass } else { Verdict::Tx };
        ensure!(program.run(&frame)?.0 == expected, "the {} packet takes another way", case.packet);
        let (net, empty) = rounds(&mut program, &frame, effort)?;
        report.results.push(Measured {
            forward: "l2",
            family: 4,
            packet: case.packet,
            state: case.state,
            flows: 1,
            services: case.services,
            backends: case.backends,
            net_ns: quantile(&net, 50),
            spread_ns: quantile(&net, 75) - quantile(&net, 25),
        });
        empties.extend(empty);
        let (verified, translated, jitted) = program.size()?;
        report.verified_instructions = verified;
        report.translated_bytes = translated;
        report.jitted_bytes = jitted;
    }
    report.empty_ns = quantile(&empties, 50);
    Ok(report)
}

/// Net nanoseconds of each round, and the empty program's.
fn rounds(program: &mut Program, frame: &[u8], effort: Effort) -> Result<(Vec<f64>, Vec<f64>)> {
    let (mut net, mut empty) = (Vec::new(), Vec::new());
    for _ in 0..effort.rounds {
        let idle = program.time("empty_tx", frame, effort.repeat)?;
        net.push(program.time("weir", frame, effort.repeat)? - idle);
        empty.push(idle);
    }
    Ok((net, empty))
}

/// The value below which so many percent of the samples lie.
fn quantile(samples: &[f64], percent: usize) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = sorted.len().saturating_sub(1) * percent / 100;
    sorted.get(rank).copied().unwrap_or(f64::NAN)
}

/// The measured service is the first; the others make the table as full as it would be.
fn configuration(case: &Case) -> String {
    let mut text = String::from("[limits]\nring_slots = 8388608\n[[interface]]\nname = \"lo\"\n");
    for service in 0..case.services {
        let protocol = if case.packet == "udp" { "udp" } else { "tcp" };
        let vip = Ipv4Addr::from_bits(0xC633_6400 + service);
        let _ = write!(
            text,
            "[[service]]\nname = \"s{service}\"\naddress = \"{vip}\"\nport = 80\n\
             protocol = \"{protocol}\"\n"
        );
        let backends = if service == 0 { case.backends } else { 1 };
        for backend in 0..backends {
            let address = IpAddr::V4(Ipv4Addr::from_bits(0x0A00_0001 + backend));
            let _ = write!(
                text,
                "[[service.backend]]\nname = \"b{backend}\"\naddress = \"{address}\"\n"
            );
        }
    }
    text
}

/// A smallest packet of the case's kind for the first service, or for a port that none has.
fn frame(case: &Case) -> Vec<u8> {
    let port: u16 = if case.state == "miss" { 81 } else { 80 };
    let (protocol, transport) = match case.packet {
        "udp" => (
            17,
            [&20_000u16.to_be_bytes(), &port.to_be_bytes(), [0, 8].as_slice(), &[0, 0]].concat(),
        ),
        packet => {
            let flags = if packet == "syn" { 0x02 } else { 0x10 };
            let mut tcp = [20_000u16.to_be_bytes(), port.to_be_bytes()].concat();
            tcp.extend([0; 8]);
            tcp.extend([0x50, flags, 4, 0, 0, 0, 0, 0]);
            (6, tcp)
        }
    };
    let total = u16::try_from(20 + transport.len()).unwrap_or(u16::MAX);
    let mut frame = [OWN_MAC, [0x02, 0, 0, 0, 0, 0xC1]].concat();
    frame.extend([0x08, 0x00, 0x45, 0]);
    frame.extend(total.to_be_bytes());
    frame.extend([0, 0, 0x40, 0, 64, protocol, 0, 0, 203, 0, 113, 9, 198, 51, 100, 0]);
    frame.extend(transport);
    frame.resize(60, 0);
    frame
}

impl Report {
    /// The report as a table for people.
    pub fn table(&self) -> String {
        let mut text = format!(
            "an empty XDP_TX program: {:.1} ns a packet, taken off below\n\n\
             packet  state    services  backends  net ns  ± quartiles\n",
            self.empty_ns
        );
        for row in &self.results {
            let _ = writeln!(
                text,
                "{:6}  {:7}  {:8}  {:8}  {:6.1}  {:6.1}",
                row.packet, row.state, row.services, row.backends, row.net_ns, row.spread_ns
            );
        }
        let verified = self.verified_instructions.map_or("?".to_owned(), |n| n.to_string());
        text + &format!(
            "\n{verified} instructions verified, {} bytes of machine code\n",
            self.jitted_bytes
        )
    }
}
