//! The balancer that had the virtual addresses before, to which the program hands packets on of flows
//! that it does not know.

use std::{net::Ipv4Addr, sync::Arc, time::Duration};

use lb_common::layout::Predecessor as Entry;

use super::{heartbeat::kernel_nanoseconds, mapped::Pages};

/// The entry that says which balancer that is, written while packets are read.
#[derive(Debug, Clone)]
pub struct Predecessor(Arc<Pages<Entry>>);

// === impl Predecessor ===

impl Predecessor {
    pub(super) fn new(pages: Pages<Entry>) -> Self {
        Self(Arc::new(pages))
    }

    /// An entry that nobody reads.
    #[cfg(test)]
    pub(crate) fn nowhere() -> Self {
        Self::new(Pages::none())
    }

    /// Says which balancer it is. The program learns from its answers to probes where it is.
    pub fn is(&self, address: Ipv4Addr) {
        let Some(entry) = self.0.get(0) else { return };
        let word = u64::from(u32::from_le_bytes(address.octets()));
        if entry.address.load() != word {
            entry.until.store(0);
            entry.address.store(word);
            entry.mac.store(0);
        }
    }

    /// Has packets of unknown flows handed on to it from now on, for so long.
    pub fn hand_on_for(&self, time: Duration) {
        let Some(entry) = self.0.get(0) else { return };
        let time = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        entry.until.store(kernel_nanoseconds().saturating_add(time));
    }

    /// Ends that.
    pub fn keep(&self) {
        if let Some(entry) = self.0.get(0) {
            entry.until.store(0);
        }
    }
}
