//! Packets a second, beside what else could forward them, made by the kernel: by its generator, or
//! as live frames of `BPF_PROG_TEST_RUN`, which need no module.
//!
//! One machine, two namespaces, and a veth pair between the generator and the balancer:
//!
//! ```text
//!   generator                                       balancer
//!   pktgen > feed ═══ relay (XDP_REDIRECT) > gen ═══ bal  forwards
//!                                     counts < gen ═══ bal  back by the same link
//! ```
//!
//! A real driver hands XDP a bare buffer, where pktgen makes socket buffers, which veth would have
//! to copy for an XDP program and not for IPVS. Hence the relay: what it sends arrives at the
//! balancer as bare frames, from which the kernel builds a socket buffer if nothing in XDP takes
//! the frame, as a driver would. Live frames are bare from the beginning and need no relay.
//!
//! The balancer's end is polled by a kernel thread of its own on a processor of its own, which
//! does all that forwarding costs. A figure is what the far end counted by the seconds of
//! processor time that this thread used: what one processor could forward if the generator kept
//! it busy, whether it does or not.

mod generator;
mod live;
mod network;
mod system;

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use self::{generator::Generator, live::LiveFrames, network::Network};
pub use self::{generator::Scenario, system::System};

/// How long a new scenario may take until each of its flows has been seen.
const WARM_UP_LIMIT: Duration = Duration::from_secs(120);
const WARM_UP: Duration = Duration::from_millis(500);

/// What makes the packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Source {
    /// The module `pktgen`.
    Pktgen,
    /// `BPF_PROG_TEST_RUN` with frames that are sent, since Linux 5.18.
    LiveFrames,
}

/// A source at work. Dropping it stops it.
enum Sender<'n> {
    Pktgen(Generator<'n>),
    LiveFrames(LiveFrames),
}

/// How much is measured.
#[derive(Debug, Clone, Copy)]
pub struct Effort {
    /// Rounds; the medians of all of them count.
    pub rounds: usize,
    /// How long each measurement takes.
    pub time: Duration,
}

/// The report, as `--json` prints it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// `uname -r`
    pub kernel: String,
    /// What made the packets.
    pub source: Source,
    /// `kvm`, `tcg`, or `none` without a virtual machine.
    pub accelerator: String,
    /// One entry for each system and scenario.
    pub results: Vec<Measured>,
}

/// What came of one system in one scenario.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    /// What forwarded.
    pub system: System,
    /// What it had to forward.
    pub scenario: Scenario,
    /// Millions of packets that the far end counted by a second of the balancer's processor time:
    /// the median of the rounds.
    pub mpps: f64,
    /// The lowest and the highest round.
    pub range: (f64, f64),
    /// Millions of packets a second that the far end counted by the clock.
    pub clock_mpps: f64,
    /// The share of its processor that the balancer's thread used.
    pub busy: f64,
}

/// One measurement.
#[derive(Debug, Clone, Copy)]
struct Sample {
    packets: u64,
    processor: Duration,
    clock: Duration,
}

/// Measures every system in every scenario, in turn, as often as there are rounds.
///
/// # Errors
///
/// The kernel lacks the source, IPVS or threaded NAPI, or a system forwards nothing.
pub fn run(
    effort: Effort,
    source: Source,
    accelerator: &str,
    mut progress: impl FnMut(&str),
) -> Result<Report> {
    crate::require_root()?;
    let network = Network::build(source)?;
    let mut samples: BTreeMap<(System, Scenario), Vec<Sample>> = BTreeMap::new();
    for round in 1..=effort.rounds {
        for &system in source.systems() {
            let running = system.start(&network).with_context(|| format!("starting {system}"))?;
            for &scenario in source.scenarios() {
                let sample = measure(&network, source, system, scenario, effort.time)
                    .with_context(|| format!("{system}, {scenario}"))?;
                progress(&format!(
                    "round {round}: {system}, {scenario}: {:.3} Mpps a processor, {:.0} % busy",
                    sample.mpps(),
                    100.0 * sample.busy(),
                ));
                samples.entry((system, scenario)).or_default().push(sample);
            }
            running.stop().with_context(|| format!("stopping {system}"))?;
        }
    }
    let results = samples
        .into_iter()
        .map(|((system, scenario), samples)| Measured::of(system, scenario, &samples));
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease")?.trim().to_owned();
    Ok(Report { kernel, source, accelerator: accelerator.to_owned(), results: results.collect() })
}

fn measure(
    network: &Network,
    source: Source,
    system: System,
    scenario: Scenario,
    time: Duration,
) -> Result<Sample> {
    let sender = source.send(network, scenario, system)?;
    let begun = Instant::now();
    let first = network.count()?;
    // What a flow costs at its beginning is the flood's matter, not that of flows that exist.
    loop {
        thread::sleep(WARM_UP);
        let seen = network.count()? - first;
        // A quarter more, for those that are lost on the way.
        if seen > u64::from(scenario.flows().unwrap_or(0)) * 5 / 4 {
            break;
        }
        ensure!(
            begun.elapsed() < WARM_UP_LIMIT,
            "{seen} packets came through in {WARM_UP_LIMIT:?}\n{}",
            sender.state()
        );
    }
    let (count, processor, clock) = (network.count()?, network::processor_time()?, Instant::now());
    thread::sleep(time);
    let sample = Sample {
        packets: network.count()? - count,
        processor: network::processor_time()?.saturating_sub(processor),
        clock: clock.elapsed(),
    };
    let state = sender.state();
    sender.stop()?;
    ensure!(sample.packets > 0 && !sample.processor.is_zero(), "nothing came through\n{state}");
    Ok(sample)
}

// === impl Source ===

impl Source {
    /// What is measured with it: the host that has no pktgen has no IPVS either.
    fn systems(self) -> &'static [System] {
        match self {
            Self::Pktgen => &System::ALL,
            Self::LiveFrames => &[System::Weir, System::XdpTx, System::Forward],
        }
    }

    fn scenarios(self) -> &'static [Scenario] {
        match self {
            Self::Pktgen => &Scenario::ALL,
            // Random addresses would need the IP header's checksum anew in each frame.
            Self::LiveFrames => &Scenario::STEADY,
        }
    }

    /// Starts sending to a system.
    fn send(self, network: &Network, scenario: Scenario, system: System) -> Result<Sender<'_>> {
        let destination = system.destination();
        match self {
            Self::Pktgen => {
                network.relay_as(scenario)?;
                Generator::start(network, scenario, destination).map(Sender::Pktgen)
            }
            Self::LiveFrames => {
                LiveFrames::start(network, scenario, destination).map(Sender::LiveFrames)
            }
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Pktgen => "pktgen",
            Self::LiveFrames => "live frames",
        }
    }
}

// === impl Sender ===

impl Sender<'_> {
    /// What it says of itself.
    fn state(&self) -> String {
        match self {
            Self::Pktgen(generator) => generator.state(),
            Self::LiveFrames(_) => String::new(),
        }
    }

    fn stop(self) -> Result<()> {
        match self {
            Self::Pktgen(generator) => generator.stop(),
            Self::LiveFrames(frames) => frames.stop(),
        }
    }
}

// === impl Sample ===

impl Sample {
    fn mpps(self) -> f64 {
        self.packets as f64 / self.processor.as_secs_f64() / 1e6
    }

    fn clock_mpps(self) -> f64 {
        self.packets as f64 / self.clock.as_secs_f64() / 1e6
    }

    fn busy(self) -> f64 {
        self.processor.as_secs_f64() / self.clock.as_secs_f64()
    }
}

// === impl Measured ===

impl Measured {
    fn of(system: System, scenario: Scenario, samples: &[Sample]) -> Self {
        let all = |figure: fn(Sample) -> f64| {
            let mut all: Vec<f64> = samples.iter().map(|sample| figure(*sample)).collect();
            all.sort_by(f64::total_cmp);
            all
        };
        let rates = all(Sample::mpps);
        let range =
            (rates.first().copied().unwrap_or(f64::NAN), rates.last().copied().unwrap_or(f64::NAN));
        Self {
            system,
            scenario,
            mpps: median(&rates),
            range,
            clock_mpps: median(&all(Sample::clock_mpps)),
            busy: median(&all(Sample::busy)),
        }
    }
}

/// The middle of sorted figures.
fn median(sorted: &[f64]) -> f64 {
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}

// === impl Report ===

impl Report {
    /// How many times another system's rate Weir's is.
    pub fn ratio(&self, other: System, scenario: Scenario) -> Option<f64> {
        let rate = |system| {
            let mut all = self.results.iter();
            all.find(|row| row.system == system && row.scenario == scenario).map(|row| row.mpps)
        };
        Some(rate(System::Weir)? / rate(other)?)
    }

    /// The report as a table for people.
    pub fn table(&self) -> String {
        let mut text = format!(
            "Linux {}, accelerator {}, {}: millions of packets a second of the balancer's processor\n\n\
             scenario      system      Mpps    lowest  highest  busy   weir is\n",
            self.kernel,
            self.accelerator,
            self.source.name()
        );
        for scenario in Scenario::ALL {
            for row in self.results.iter().filter(|row| row.scenario == scenario) {
                let ratio = self.ratio(row.system, scenario).unwrap_or(f64::NAN);
                let (lowest, highest) = row.range;
                let _ = writeln!(
                    text,
                    "{:12}  {:8}  {:7.4}  {lowest:7.4}  {highest:7.4}  {:3.0} %  {ratio:5.2} ×",
                    scenario.name(),
                    row.system.name(),
                    row.mpps,
                    100.0 * row.busy,
                );
            }
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(packets: u64, processor_ms: u64) -> Sample {
        let processor = Duration::from_millis(processor_ms);
        Sample { packets, processor, clock: Duration::from_secs(1) }
    }

    #[test]
    fn a_figure_is_the_median_by_processor_time() {
        let samples = [sample(100_000, 500), sample(100_000, 250), sample(100_000, 1000)];
        let row = Measured::of(System::Weir, Scenario::OneFlow64, &samples);
        assert!((row.mpps - 0.2).abs() < 1e-9, "{row:?}");
        assert!((row.clock_mpps - 0.1).abs() < 1e-9, "{row:?}");
        assert!((row.busy - 0.5).abs() < 1e-9, "{row:?}");
        assert!((row.range.0 - 0.1).abs() < 1e-9 && (row.range.1 - 0.4).abs() < 1e-9, "{row:?}");
    }

    #[test]
    fn ratios_compare_within_a_scenario() {
        let row = |system, scenario, mpps| Measured {
            system,
            scenario,
            mpps,
            range: (mpps, mpps),
            clock_mpps: mpps,
            busy: 1.0,
        };
        let report = Report {
            kernel: "6.1".to_owned(),
            source: Source::Pktgen,
            accelerator: "tcg".to_owned(),
            results: vec![
                row(System::Weir, Scenario::OneFlow64, 3.0),
                row(System::IpvsMh, Scenario::OneFlow64, 1.0),
                row(System::IpvsMh, Scenario::Flows64, 0.5),
            ],
        };
        assert_eq!(report.ratio(System::IpvsMh, Scenario::OneFlow64), Some(3.0));
        assert_eq!(report.ratio(System::IpvsMh, Scenario::Flows64), None);
        let text = serde_json::to_string(&report).expect("it is JSON");
        assert!(text.contains(r#""system":"ipvs-mh","scenario":"one-flow-64""#), "{text}");
        assert_eq!(serde_json::from_str::<Report>(&text).expect("it is a report"), report);
    }
}
