//! What the program counts, summed over the CPUs.

use std::fmt;

use aya::maps::{Map, MapData, PerCpuArray, PerCpuValues};
use lb_common::{layout::BackendCounters, reason::Reason};

use super::error::Error;

/// The counters' maps. Entries are read as plain words, in the order of [`BackendCounters`].
pub struct Counters {
    backends: PerCpuArray<MapData, [u64; 4]>,
    reasons: PerCpuArray<MapData, u64>,
    lost_news: PerCpuArray<MapData, u64>,
}

/// How many packets were not forwarded for one reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReasonCount {
    /// The reason.
    pub reason: Reason,
    /// Packets.
    pub packets: u64,
}

impl fmt::Debug for Counters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Counters").finish_non_exhaustive()
    }
}

impl Counters {
    pub(super) fn new(
        backends: MapData,
        reasons: MapData,
        lost_news: MapData,
    ) -> Result<Self, Error> {
        let refused = |error: aya::maps::MapError| Error::from_load("the counters", &error);
        Ok(Self {
            backends: Map::PerCpuArray(backends).try_into().map_err(refused)?,
            reasons: Map::PerCpuArray(reasons).try_into().map_err(refused)?,
            lost_news: Map::PerCpuArray(lost_news).try_into().map_err(refused)?,
        })
    }

    /// A backend's traffic.
    pub fn backend(&self, number: u16) -> BackendCounters {
        let Ok(values) = self.backends.get(&u32::from(number), 0) else {
            return BackendCounters::default();
        };
        let sum = |field: usize| values.iter().map(|cpu| cpu[field]).sum();
        BackendCounters { sent: sum(0), redirected: sum(1), bytes: sum(2), new_flows: sum(3) }
    }

    /// Packets not forwarded, for every reason.
    pub fn reasons(&self) -> Vec<ReasonCount> {
        Reason::ALL
            .into_iter()
            .map(|reason| {
                let values = self.reasons.get(&(reason as u32), 0);
                let packets = values.map_or(0, |values| values.iter().sum());
                ReasonCount { reason, packets }
            })
            .collect()
    }

    /// How many recorded flows the program could not tell of, since the ring buffer was full.
    pub fn lost_flow_news(&self) -> u64 {
        self.lost_news.get(&0, 0).map_or(0, |values| values.iter().sum())
    }

    /// Sets a backend's counters to zero.
    pub fn clear(&mut self, number: u16) {
        let Ok(cpus) = aya::util::nr_cpus() else { return };
        if let Ok(zeros) = PerCpuValues::try_from(vec![[0; 4]; cpus]) {
            // A failure leaves the figures of an earlier backend in place: no harm to traffic.
            let _ = self.backends.set(u32::from(number), zeros, 0);
        }
    }
}
