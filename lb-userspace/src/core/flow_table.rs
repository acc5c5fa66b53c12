//! The table of recorded flows at a glance: how full it is, and what it could not keep.
//!
//! A full table gives up the record that was used longest ago, and with it maybe a connection. So
//! operators hear of it before: an event says when three quarters of `limits.flows` are in use,
//! another when the first confirmed record was pushed out or not taken, a third when less than
//! half of the table is in use again. Half-open records have a table of their own, which a flood
//! of openings fills by design: their losses are counted, and are no event.

use serde::{Deserialize, Serialize};

use super::{Action, EventKind, FlowsStatus, sweep::Findings};

/// How full the table of confirmed records is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Fullness {
    /// It takes what comes.
    #[default]
    Roomy,
    /// Three quarters are in use.
    Filling,
    /// Records were lost.
    Overflowing,
}

/// What is known of it.
#[derive(Debug, Clone)]
pub(super) struct FlowTable {
    pub(super) status: FlowsStatus,
    fullness: Fullness,
}

impl FlowTable {
    /// An empty table of this size.
    pub(super) fn new(limit: u32) -> Self {
        let status = FlowsStatus { limit: limit.into(), ..FlowsStatus::default() };
        Self { status, fullness: Fullness::default() }
    }

    /// Whether the last sweep left no record.
    pub(super) fn is_empty(&self) -> bool {
        self.status.recorded == 0 && self.status.half_open == 0
    }

    /// Takes over what a sweep found; returns what is to be told of it.
    pub(super) fn swept(&mut self, findings: &Findings) -> Option<Action> {
        let loses = findings.lost.confirmed > self.status.lost;
        self.status = FlowsStatus {
            recorded: findings.confirmed,
            half_open: findings.half_open,
            limit: self.status.limit,
            lost: findings.lost.confirmed,
            half_open_lost: findings.lost.half_open,
        };
        let FlowsStatus { recorded, limit, lost, .. } = self.status;
        let fullness = match self.fullness {
            _ if loses => Fullness::Overflowing,
            before if recorded * 4 >= limit * 3 => before.max(Fullness::Filling),
            _ if recorded * 2 < limit => Fullness::Roomy,
            before => before,
        };
        if fullness == self.fullness {
            return None;
        }
        self.fullness = fullness;
        Some(Action::Event(EventKind::Flows { fullness, recorded, limit, lost }, None))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::sweep::Lost;

    /// What is told after each of these sweeps, given as records found and records lost until then.
    fn told(sweeps: &[(u64, u64)]) -> Vec<Option<Fullness>> {
        let mut table = FlowTable::new(100);
        let tell = |(recorded, lost): &(u64, u64)| {
            let lost = Lost { confirmed: *lost, half_open: 50 };
            match table.swept(&Findings { confirmed: *recorded, lost, ..Findings::default() }) {
                Some(Action::Event(EventKind::Flows { fullness, .. }, None)) => Some(fullness),
                Some(other) => panic!("{other:?}"),
                None => None,
            }
        };
        sweeps.iter().map(tell).collect()
    }

    #[test]
    fn operators_hear_of_it_before_a_record_is_lost() {
        let (roomy, filling) = (Some(Fullness::Roomy), Some(Fullness::Filling));
        let overflowing = Some(Fullness::Overflowing);
        assert_eq!(told(&[(74, 0), (75, 0), (90, 0)]), [None, filling, None]);
        // Once a time that it fills, and when it has emptied.
        assert_eq!(told(&[(80, 0), (60, 0), (80, 0), (49, 0)]), [filling, None, None, roomy]);
        assert_eq!(told(&[(99, 0), (99, 3), (98, 9)]), [filling, overflowing, None]);
        assert_eq!(told(&[(99, 3), (20, 3), (99, 3)]), [overflowing, roomy, filling]);
    }
}
