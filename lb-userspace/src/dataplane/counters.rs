//! What the program counts, summed over the CPUs.

use std::io;

use aya::maps::MapData;
use lb_common::{
    echo::Outcome,
    layout::{BackendCounters, RecordCounters},
    reason::Reason,
    steer::Stage,
};
use tracing::warn;

use super::{error::Error, percpu::PerCpuTable};

/// The counters' maps. Entries are read as plain words, in the order of [`BackendCounters`] and
/// [`RecordCounters`].
#[derive(Debug)]
pub struct Counters {
    backends: PerCpuTable<4>,
    reasons: PerCpuTable<1>,
    records: PerCpuTable<3>,
    lost_news: PerCpuTable<1>,
    echo: PerCpuTable<1>,
}

/// How many packets were not forwarded for one reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReasonCount {
    /// The reason.
    pub reason: Reason,
    /// Packets.
    pub packets: u64,
}

/// How many datagrams to the echo's port came to one outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EchoCount {
    /// The outcome.
    pub outcome: Outcome,
    /// Datagrams.
    pub packets: u64,
}

impl Counters {
    pub(super) fn new(
        backends: MapData,
        reasons: MapData,
        records: MapData,
        lost_news: MapData,
        echo: MapData,
    ) -> Result<Self, Error> {
        Ok(Self {
            backends: PerCpuTable::new(backends)?,
            reasons: PerCpuTable::new(reasons)?,
            records: PerCpuTable::new(records)?,
            lost_news: PerCpuTable::new(lost_news)?,
            echo: PerCpuTable::new(echo)?,
        })
    }

    /// The traffic of the backends with the numbers below `end`. What cannot be read is zero.
    pub fn backends(&self, end: usize) -> Vec<BackendCounters> {
        let sums = told(self.backends.sums(end));
        let traffic = sums.into_iter().map(|[sent, redirected, bytes, new_flows]| {
            BackendCounters { sent, redirected, bytes, new_flows }
        });
        traffic.collect()
    }

    /// A backend's traffic.
    pub fn backend(&self, number: u16) -> BackendCounters {
        let Ok([sent, redirected, bytes, new_flows]) = self.backends.one(u32::from(number)) else {
            return BackendCounters::default();
        };
        BackendCounters { sent, redirected, bytes, new_flows }
    }

    /// Packets not forwarded, for every reason.
    pub fn reasons(&self) -> Vec<ReasonCount> {
        let counts = each(&self.reasons, Reason::ALL);
        counts.map(|(reason, packets)| ReasonCount { reason, packets }).collect()
    }

    /// Datagrams to the echo's port, for every outcome.
    pub fn echo(&self) -> Vec<EchoCount> {
        let counts = each(&self.echo, Outcome::ALL);
        counts.map(|(outcome, packets)| EchoCount { outcome, packets }).collect()
    }

    /// What became of the records of a stage.
    ///
    /// # Errors
    ///
    /// The kernel's word.
    pub fn records(&self, stage: Stage) -> io::Result<RecordCounters> {
        let [kept, forgotten, refused] = self.records.one(stage as u32)?;
        Ok(RecordCounters { kept, forgotten, refused })
    }

    /// How many recorded flows the program could not tell of, since the ring buffer was full.
    pub fn lost_flow_news(&self) -> u64 {
        self.lost_news.one(0).map_or(0, |[lost]| lost)
    }

    /// Sets a backend's counters to zero.
    pub fn clear(&self, number: u16) {
        // A failure leaves the figures of an earlier backend in place: no harm to traffic.
        let _ = self.backends.clear(u32::from(number));
    }
}

/// Each kind of a table that has one counter for each, with its packets. What cannot be read is
/// zero.
fn each<K, const N: usize>(
    table: &PerCpuTable<1>,
    kinds: [K; N],
) -> impl Iterator<Item = (K, u64)> + use<K, N> {
    let packets = told(table.sums(N)).into_iter().map(|[packets]| packets);
    kinds.into_iter().zip(packets.chain(std::iter::repeat(0)))
}

fn told<T>(sums: io::Result<Vec<T>>) -> Vec<T> {
    sums.unwrap_or_else(|error| {
        warn!("the program's counters cannot be read: {error}");
        Vec::new()
    })
}
