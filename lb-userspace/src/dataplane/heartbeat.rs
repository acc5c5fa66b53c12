//! The daemon's sign of life, which the program tells peers the age of.

use std::sync::Arc;

use lb_common::layout::Heartbeat;

use super::{mapped::Pages, sweep::kernel_time};

/// The word in which the daemon leaves its sign of life.
#[derive(Debug, Clone)]
pub struct Heart(Arc<Pages<Heartbeat>>);

impl Heart {
    pub(super) fn new(pages: Pages<Heartbeat>) -> Self {
        Self(Arc::new(pages))
    }

    /// A word that nobody reads.
    #[cfg(test)]
    pub(crate) fn nowhere() -> Self {
        Self::new(Pages::none())
    }

    /// The daemon lives.
    pub fn beat(&self) {
        self.set(kernel_nanoseconds());
    }

    /// What [`Heart::beat`] does, at a time of the kernel's monotonic clock in nanoseconds.
    pub fn set(&self, time: u64) {
        if let Some(heartbeat) = self.0.get(0) {
            heartbeat.time.store(time);
        }
    }
}

/// The clock that the program reads (`bpf_ktime_get_ns`); 0 in a world without it.
pub fn kernel_nanoseconds() -> u64 {
    let time = kernel_time().map(|time| time.as_nanos()).unwrap_or_default();
    u64::try_from(time).unwrap_or_default()
}
