//! News of recorded flows: what the program has just written into its tables, through a ring
//! buffer, for the daemon to tell peers.

#![allow(unsafe_code, reason = "a file descriptor that is waited for has to stay the same")]

use std::{fmt, path::Path};

use aya::maps::{Map, MapData, RingBuf};
use lb_common::layout::{FlowKey, FlowNews};
use tokio::io::{Interest, unix::AsyncFd};

use super::{TablesId, error::Error};
use crate::{core::KernelFlow, sync::packet::FlowStage};

/// The reading end of the ring buffer.
pub struct RecordedFlows {
    ring: AsyncFd<RingBuf<MapData>>,
}

impl fmt::Debug for RecordedFlows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RecordedFlows").finish_non_exhaustive()
    }
}

impl RecordedFlows {
    /// Opens the ring buffer of an id's tables. What was written while nobody read is still there,
    /// as far as there was room.
    ///
    /// # Errors
    ///
    /// [`Error`] if it is not there.
    pub fn open(id: &TablesId, bpf_dir: &Path) -> Result<Self, Error> {
        let path = id.directory(bpf_dir).join("FLOW_NEWS");
        let refused = |error: aya::maps::MapError| Error::from_load("the news of flows", &error);
        let map = Map::RingBuf(MapData::from_pin(path).map_err(refused)?);
        let ring = RingBuf::try_from(map).map_err(refused)?;
        // SAFETY: the ring buffer owns its descriptor, and has the same one until it is dropped.
        let ring = unsafe { AsyncFd::register_with_interest(ring, Interest::READABLE) }
            .map_err(|error| Error::io("waiting for news of flows")(error.into()))?;
        Ok(Self { ring })
    }

    /// Waits for news and takes what is there, up to `limit`. Cancel safe: nothing is taken before
    /// it returns at once.
    pub async fn next(&mut self, all: &mut Vec<KernelFlow>, limit: usize) {
        loop {
            // It fails only where the runtime ends.
            let Ok(mut guard) = self.ring.readable_mut().await else {
                return std::future::pending().await;
            };
            let ring = guard.get_inner_mut();
            while all.len() < limit {
                let Some(item) = ring.next() else { break };
                all.extend(parse(&item));
            }
            if all.len() < limit {
                guard.clear_ready();
            }
            if !all.is_empty() {
                return;
            }
        }
    }
}

/// An item as the program wrote it: words in the order of [`FlowNews`].
fn parse(item: &[u8]) -> Option<KernelFlow> {
    let words: [u8; size_of::<FlowNews>()] = item.try_into().ok()?;
    let word = |index: usize| {
        let bytes = words[8 * index..8 * index + 8].try_into();
        u64::from_le_bytes(bytes.expect("eight bytes within the item"))
    };
    let news = FlowNews {
        key: FlowKey { source: [word(0), word(1)], ports_and_service: word(2) },
        backend_and_seen: word(3),
        slot_and_kind: word(4),
    };
    let stage = match news.kind() {
        FlowNews::OPENING => FlowStage::Opening,
        FlowNews::OPEN => FlowStage::Open,
        FlowNews::CLOSING => FlowStage::Closing,
        FlowNews::FORGOTTEN => FlowStage::Forgotten,
        _ => return None,
    };
    let (backend, seen, slot) = (news.backend(), news.seen(), news.slot());
    Some(KernelFlow { key: news.key, backend, seen, slot, stage })
}
