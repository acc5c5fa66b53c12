//! The same decision as [`crate::weir`]'s, over the same tables, with nothing written: for
//! `weir explain`.

use core::ops::Deref;

use lb_common::{
    layout::{Answer, BackendEntry, FlowKey, FlowRecord, Load, Rotation, ServiceBucket},
    reason::Reason,
    slot::Slot,
    steer::{Flows, Stage, Tables, Way},
};

use crate::maps::KernelTables;

/// The kernel's maps, read only: records are copied, so that what steering writes into one goes
/// nowhere.
pub(crate) struct Unchanged<'c>(pub(crate) KernelTables<'c>);

/// A copy of a record.
pub(crate) struct Copied(FlowRecord);

impl Deref for Copied {
    type Target = FlowRecord;

    #[inline(always)]
    fn deref(&self) -> &FlowRecord {
        &self.0
    }
}

impl Tables for Unchanged<'_> {
    #[inline(always)]
    fn bucket(&self, place: u32) -> Option<&ServiceBucket> {
        self.0.bucket(place)
    }

    #[inline(always)]
    fn slot(&self, index: u32) -> Option<Slot> {
        self.0.slot(index)
    }

    #[inline(always)]
    fn backend(&self, number: u16) -> Option<&BackendEntry> {
        self.0.backend(number)
    }

    #[inline(always)]
    fn rotation(&self, service: u32) -> Option<&Rotation> {
        self.0.rotation(service)
    }

    #[inline(always)]
    fn load(&self, number: u16) -> Option<&Load> {
        self.0.load(number)
    }
}

impl Flows for Unchanged<'_> {
    type Record<'t>
        = Copied
    where
        Self: 't;

    #[inline(always)]
    fn now(&self) -> u32 {
        self.0.now()
    }

    #[inline(always)]
    fn beat(&self) -> u32 {
        self.0.beat()
    }

    #[inline(always)]
    fn record(&self, stage: Stage, key: &FlowKey) -> Option<Copied> {
        let record = self.0.record(stage, key)?;
        Some(Copied(record.copied()))
    }

    #[inline(always)]
    fn keep(&self, _stage: Stage, _key: &FlowKey, _record: &FlowRecord) {}

    #[inline(always)]
    fn forget(&self, _stage: Stage, _key: &FlowKey) {}

    #[inline(always)]
    fn turn_to(&self, _rotation: &Rotation, _position: u32) {}

    #[inline(always)]
    fn count(&self, _load: &Load, _change: i64) {}

    #[inline(always)]
    fn has_second_chance(&self) -> bool {
        self.0.has_second_chance()
    }
}

/// What became of a packet, in words that the controller reads.
#[inline(always)]
pub(crate) fn answer(outcome: Result<Way<'_>, Reason>) -> Answer {
    match outcome {
        Ok(way) => Answer {
            reason: Answer::FORWARDED,
            backend: u32::from(way.number),
            slot: way.slot,
            why: way.why as u32,
            service: way.service.index(),
            interface: BackendEntry::interface(way.backend.link.load()),
        },
        Err(reason) => Answer { reason: reason as u32, ..Answer::default() },
    }
}
