//! What a peer tells of flows, beside what is recorded of them here.
//!
//! Of a flow that both nodes have a record of, the one that saw it later is right. A peer that was
//! away, or has lost the addresses, tells of flows as it last saw them; a record made older by that
//! would look done to the next sweep while its flow lives.

use std::io;

use lb_common::layout::FlowRecord;

use super::{Key, Records, Table, Value, record};
use crate::{core::KernelFlow, sync::packet::FlowStage};

/// Seconds within which two nodes' sightings of a flow count as one.
const FRESH: u32 = 2;

/// What a peer's word of a flow is beside the record of it that is here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum News {
    /// There is no confirmed record of it.
    Adds,
    /// It is later, or may be.
    Replaces,
    /// It is of an earlier packet.
    Outdated,
}

/// Flows of a peer as they go into the tables, in this order.
#[derive(Debug, Default)]
struct Installed {
    /// No longer confirmed.
    gone: Vec<Key>,
    opening: Vec<(Key, Value)>,
    open: Vec<(Key, Value)>,
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
        flows.retain(|flow| match self.compare(flow, now) {
            Ok(news) => installed.add(flow, news),
            Err(error) => {
                trouble = Some(error);
                installed.add(flow, News::Replaces)
            }
        });
        let Installed { gone, opening, open } = installed;
        self.confirmed.drop(&gone)?;
        self.half_open.insert(&opening)?;
        self.confirmed.insert(&open)?;
        let confirmed: Vec<_> = open.iter().map(|(key, _)| *key).collect();
        self.half_open.drop(&confirmed)?;
        trouble.map_or(Ok(()), Err)
    }

    /// Compares what a peer tells of a flow with what is here. That of a flow seen a moment ago is
    /// believed without a look: nothing here can be later by more than the clock's step.
    fn compare(&self, flow: &KernelFlow, now: u32) -> io::Result<News> {
        let fresh = now.saturating_sub(flow.seen) < FRESH;
        let opens = flow.stage == FlowStage::Opening;
        if flow.stage == FlowStage::Forgotten || (fresh && !opens) {
            return Ok(News::Replaces);
        }
        let key = flow.key.words();
        let seen = |table: &Table| {
            let value = table.entries.get(&key)?;
            io::Result::Ok(value.map(|value| record(&value).seen.load()))
        };
        let confirmed = seen(&self.confirmed)?;
        // The opening and the packet behind it may have come in the same second, the latter here.
        let later = |here| here > flow.seen || (opens && here == flow.seen);
        if confirmed.is_some_and(later) {
            return Ok(News::Outdated);
        }
        if !fresh && seen(&self.half_open)?.is_some_and(|here| here > flow.seen) {
            return Ok(News::Outdated);
        }
        Ok(if confirmed.is_some() { News::Replaces } else { News::Adds })
    }
}

// === impl Installed ===

impl Installed {
    /// Sorts a flow in; false if it is none to record.
    fn add(&mut self, flow: &KernelFlow, news: News) -> bool {
        let key = flow.key.words();
        let marks = FlowRecord::marks_word(flow.stage == FlowStage::Closing, FlowRecord::TOLD);
        let entry = (key, [flow.backend, flow.seen, flow.slot, marks]);
        match (flow.stage, news) {
            (_, News::Outdated) => return false,
            (FlowStage::Forgotten, _) => self.gone.push(key),
            (FlowStage::Open | FlowStage::Closing, _) => self.open.push(entry),
            (FlowStage::Opening, News::Adds) => self.opening.push(entry),
            (FlowStage::Opening, News::Replaces) => {
                // What is confirmed is of an earlier flow between the same ports.
                self.gone.push(key);
                self.opening.push(entry);
            }
        }
        true
    }
}
