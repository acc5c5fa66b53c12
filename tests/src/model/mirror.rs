//! Where a history is repeated.

use lb_common::{flow::Flow, layout::FlowKey, reason::Reason, steer::Stage};
use weir::core::Write;

/// Where every event is repeated, and whose answers must be the model's.
pub trait Mirror {
    /// Sends a packet of a flow; the number of the backend that it reaches, or nothing if the
    /// mirror has no opinion.
    fn packet(&mut self, flow: &Flow) -> Option<Result<u16, Reason>>;
    /// Changes its tables.
    fn write(&mut self, write: &Write);
    /// Drops records.
    fn forget(&mut self, stage: Stage, keys: &[FlowKey]);
    /// Adds to the load of a backend.
    fn correct(&mut self, number: u16, change: i64);
    /// The load of a backend, if the mirror knows it.
    fn load(&self, number: u16) -> Option<u64>;
}

/// The mirror of those who want none.
#[derive(Debug)]
pub struct Nothing;

impl Mirror for Nothing {
    fn packet(&mut self, _flow: &Flow) -> Option<Result<u16, Reason>> {
        None
    }

    fn write(&mut self, _write: &Write) {}

    fn forget(&mut self, _stage: Stage, _keys: &[FlowKey]) {}

    fn correct(&mut self, _number: u16, _change: i64) {}

    fn load(&self, _number: u16) -> Option<u64> {
        None
    }
}
