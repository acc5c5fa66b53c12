//! What a peer tells of flows, beside what is recorded of them here.
//!
//! Of a flow that both nodes have a record of, the one that saw it later is right. A peer that was
//! away, or has lost the addresses, tells of flows as it last saw them; a record made older by that
//! would look done to the next sweep while its flow lives. And what it tells of the end of a flow is
//! not said of one that has opened here meanwhile, between the same two ports.

use std::io;

use lb_common::layout::FlowRecord;

use super::{Key, Records, Value, record};
use crate::{core::KernelFlow, sync::packet::FlowStage};

/// Seconds within which two nodes' sightings of a flow count as one.
const FRESH: u32 = 2;

/// Where there may be a record of a flow that a peer tells of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Here {
    /// What is confirmed, if it was looked for.
    confirmed: Option<Value>,
    half_open: bool,
}

/// Flows of a peer as they go into the tables, in this order.
#[derive(Debug, Default)]
struct Installed {
    no_longer_confirmed: Vec<(Key, Value)>,
    opening: Vec<(Key, Value)>,
    open: Vec<(Key, Value)>,
    no_longer_half_open: Vec<Key>,
}

// === impl Records ===

impl Records {
    /// Records flows as a peer has them, or drops them. `now` is the kernel's clock in seconds.
    /// What is no news is taken out of the list.
    ///
    /// # Errors
    ///
    /// The kernel's word.
    pub fn install(&self, flows: &mut Vec<KernelFlow>, now: u32) -> io::Result<()> {
        let mut installed = Installed::default();
        let mut trouble = None;
        flows.retain(|flow| {
            let here = self.find_earlier(flow, now).unwrap_or_else(|error| {
                trouble = Some(error);
                Some(Here::UNKNOWN)
            });
            here.inspect(|here| installed.add(flow, *here)).is_some()
        });
        self.confirmed.drop_unchanged(&installed.no_longer_confirmed)?;
        self.half_open.insert(&installed.opening)?;
        self.confirmed.insert(&installed.open)?;
        self.half_open.drop(&installed.no_longer_half_open)?;
        trouble.map_or(Ok(()), Err)
    }

    /// Where there are records of a flow that what a peer tells of takes the place of; nothing if
    /// one of them is of a later packet. A flow seen a moment ago is believed without a look:
    /// nothing here can be later by more than the clock's step.
    fn find_earlier(&self, flow: &KernelFlow, now: u32) -> io::Result<Option<Here>> {
        let fresh = now.saturating_sub(flow.seen) < FRESH;
        let opens = flow.stage == FlowStage::Opening;
        if fresh && !opens {
            return Ok(Some(Here::UNKNOWN));
        }
        let key = flow.key.words();
        let seen = |value: Value| record(&value).seen.load();
        let found = self.confirmed.entries.get(&key)?;
        if flow.stage == FlowStage::Forgotten {
            // A record that packets have made or touched here is not the peer's to drop.
            let told = found.filter(|value| record(value).is_told());
            return Ok(told.map(|_| Here { confirmed: told, half_open: false }));
        }
        let confirmed = found.map(seen);
        // The opening and the packet behind it may have come in the same second, the latter here.
        if confirmed.is_some_and(|here| here > flow.seen || (opens && here == flow.seen)) {
            return Ok(None);
        }
        let half_open = if fresh { None } else { self.half_open.entries.get(&key)?.map(seen) };
        let later = half_open.is_some_and(|here| here > flow.seen);
        let here = Here { confirmed: found, half_open: half_open.is_some() };
        Ok((!later).then_some(here))
    }
}

// === impl Here ===

impl Here {
    const UNKNOWN: Self = Self { confirmed: None, half_open: true };
}

// === impl Installed ===

impl Installed {
    /// Sorts a flow in.
    fn add(&mut self, flow: &KernelFlow, here: Here) {
        let key = flow.key.words();
        let marks = FlowRecord::marks_word(flow.stage == FlowStage::Closing, FlowRecord::TOLD);
        let entry = (key, [flow.backend, flow.seen, flow.slot, marks]);
        match flow.stage {
            FlowStage::Forgotten => {
                self.no_longer_confirmed.extend(here.confirmed.map(|value| (key, value)));
            }
            FlowStage::Opening => {
                // What is confirmed is of an earlier flow between the same ports.
                self.no_longer_confirmed.extend(here.confirmed.map(|value| (key, value)));
                self.opening.push(entry);
            }
            FlowStage::Open | FlowStage::Closing => {
                self.open.push(entry);
                self.no_longer_half_open.extend(here.half_open.then_some(key));
            }
        }
    }
}
