//! The kernel's packet generator: `Documentation/networking/pktgen.rst` of the kernel.

use std::{fmt, fs, net::Ipv4Addr, thread, time::Duration};

use anyhow::{Context, Result};
use nix::sys::signal::Signal;
use serde::{Deserialize, Serialize};

use super::network::{self, Network};
use crate::Process;

const CONTROL: &str = "/proc/net/pktgen/pgctrl";
/// The generator's thread on the first processor.
const THREAD: &str = "/proc/net/pktgen/kpktgend_0";
const DEVICE: &str = "/proc/net/pktgen/wfeed";
/// How long it may take to stop after a round.
const STOP_LIMIT: Duration = Duration::from_secs(10);

/// What is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Scenario {
    /// One UDP flow, frames of 64 bytes (with the four of the checksum that a wire adds).
    #[serde(rename = "one-flow-64")]
    OneFlow64,
    /// One UDP flow, frames of 1 400 bytes.
    #[serde(rename = "one-flow-1400")]
    OneFlow1400,
    /// 65 536 UDP flows, frames of 64 bytes.
    #[serde(rename = "64k-flows-64")]
    Flows64,
    /// 65 536 UDP flows, frames of 1 400 bytes.
    #[serde(rename = "64k-flows-1400")]
    Flows1400,
    /// TCP SYNs of 64 bytes from random addresses and ports.
    #[serde(rename = "syn-flood-64")]
    SynFlood64,
}

/// A generator at work. Dropping it stops it.
pub(super) struct Generator<'n> {
    network: &'n Network,
    starter: Process,
}

// === impl Scenario ===

impl Scenario {
    /// All of them.
    pub const ALL: [Self; 5] =
        [Self::OneFlow64, Self::OneFlow1400, Self::Flows64, Self::Flows1400, Self::SynFlood64];

    /// Those whose flows come again.
    pub(super) const STEADY: [Self; 4] =
        [Self::OneFlow64, Self::OneFlow1400, Self::Flows64, Self::Flows1400];

    /// As in the report.
    pub fn name(self) -> &'static str {
        match self {
            Self::OneFlow64 => "one-flow-64",
            Self::OneFlow1400 => "one-flow-1400",
            Self::Flows64 => "64k-flows-64",
            Self::Flows1400 => "64k-flows-1400",
            Self::SynFlood64 => "syn-flood-64",
        }
    }

    /// How many flows there are, if they come again.
    pub(super) fn flows(self) -> Option<u32> {
        match self {
            Self::OneFlow64 | Self::OneFlow1400 => Some(1),
            Self::Flows64 | Self::Flows1400 => Some(1 << 16),
            Self::SynFlood64 => None,
        }
    }

    /// Bytes of a frame without its checksum, as pktgen counts them.
    pub(super) fn size(self) -> u16 {
        match self {
            Self::OneFlow64 | Self::Flows64 | Self::SynFlood64 => 60,
            Self::OneFlow1400 | Self::Flows1400 => 1396,
        }
    }

    /// Its settings for pktgen. Flows come one after the other, so each is seen after so many
    /// packets.
    fn settings(self, destination: Ipv4Addr) -> Vec<String> {
        let (first, last, flags) = match self {
            Self::OneFlow64 | Self::OneFlow1400 => ("10.1.0.0", "10.1.0.0", ""),
            Self::Flows64 | Self::Flows1400 => ("10.1.0.0", "10.1.255.255", ""),
            Self::SynFlood64 => ("10.0.0.0", "10.255.255.255", "IPSRC_RND UDPSRC_RND"),
        };
        let ports = if flags.is_empty() { (20_000, 20_000) } else { (1_024, 65_535) };
        let mut settings = vec![
            "count 0".to_owned(),
            // veth does not take the same buffer twice.
            "clone_skb 0".to_owned(),
            "delay 0".to_owned(),
            format!("pkt_size {}", self.size()),
            format!("dst_mac {}", network::BALANCER_MAC),
            format!("dst_min {destination}"),
            format!("dst_max {destination}"),
            format!("src_min {first}"),
            format!("src_max {last}"),
            format!("udp_src_min {}", ports.0),
            format!("udp_src_max {}", ports.1),
            format!("udp_dst_min {}", network::PORT),
            format!("udp_dst_max {}", network::PORT),
        ];
        settings.extend(flags.split_whitespace().map(|flag| format!("flag {flag}")));
        settings
    }
}

impl fmt::Display for Scenario {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

// === impl Generator ===

impl<'n> Generator<'n> {
    /// Starts sending, until it is dropped.
    pub(super) fn start(
        network: &'n Network,
        scenario: Scenario,
        destination: Ipv4Addr,
    ) -> Result<Self> {
        let generator = network.generator();
        generator.enter(|| -> Result<()> {
            tell(THREAD, "rem_device_all")?;
            tell(THREAD, "add_device wfeed")?;
            scenario.settings(destination).iter().try_for_each(|line| tell(DEVICE, line))
        })??;
        // The write returns when the generator stops.
        let start = format!("echo start > {CONTROL}");
        let starter = generator.spawn("pktgen", &["sh", "-c", &start])?;
        Ok(Self { network, starter })
    }

    /// What the generator says of itself.
    pub(super) fn state(&self) -> String {
        let read = self.network.generator().enter(|| fs::read_to_string(own(DEVICE)));
        read.ok().and_then(Result::ok).unwrap_or_default()
    }

    pub(super) fn stop(mut self) -> Result<()> {
        self.end();
        let end = std::time::Instant::now() + STOP_LIMIT;
        while self.starter.is_running()? && std::time::Instant::now() < end {
            thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    fn end(&mut self) {
        let _ = self.starter.signal(Signal::SIGINT);
        let _ = self.network.generator().enter(|| fs::write(own(CONTROL), "stop\n"));
    }
}

impl Drop for Generator<'_> {
    fn drop(&mut self) {
        self.end();
    }
}

fn tell(file: &str, line: &str) -> Result<()> {
    let file = own(file);
    fs::write(&file, format!("{line}\n")).with_context(|| format!("writing {line:?} to {file}"))
}

/// `/proc/net` is that of the process's first thread; this is that of the calling one.
fn own(file: &str) -> String {
    file.replacen("/proc/net", "/proc/thread-self/net", 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_flood_alone_is_random() {
        let destination = Ipv4Addr::new(198, 18, 0, 100);
        for scenario in Scenario::ALL {
            let settings = scenario.settings(destination);
            assert!(settings.iter().any(|line| line == "dst_min 198.18.0.100"), "{settings:?}");
            let random = settings.iter().any(|line| line.starts_with("flag IPSRC_RND"));
            assert_eq!(random, scenario.flows().is_none(), "{scenario}");
        }
    }
}
