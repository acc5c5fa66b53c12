//! Counting on this CPU's own lines: no atomics, no sharing.

use lb_common::{reason::Reason, steer::Stage};

use crate::maps;

/// Counts a packet that was not forwarded.
#[inline(always)]
pub(crate) fn refused(reason: Reason) {
    if let Some(counter) = maps::reason_counter(reason) {
        // SAFETY: the kernel returned this CPU's own entry, and a program is not preempted by
        // another instance of itself on the same CPU.
        unsafe { *counter += 1 };
    }
}

/// Counts a forwarded packet.
#[inline(always)]
pub(crate) fn forwarded(backend: u16, bytes: usize, opens: bool, redirected: bool) {
    let Some(counters) = maps::backend_counters(backend) else {
        return;
    };
    // SAFETY: as in `refused`.
    let counters = unsafe { &mut *counters };
    if redirected {
        counters.redirected += 1;
    } else {
        counters.sent += 1;
    }
    counters.bytes += bytes as u64;
    if opens {
        counters.new_flows += 1;
    }
}

/// Counts a flow that was recorded, or that its table did not take.
#[inline(always)]
pub(crate) fn kept(stage: Stage, taken: bool) {
    if let Some(counters) = maps::record_counters(stage) {
        // SAFETY: as in `refused`.
        let counters = unsafe { &mut *counters };
        if taken {
            counters.kept += 1;
        } else {
            counters.refused += 1;
        }
    }
}

/// Counts a record that was dropped.
#[inline(always)]
pub(crate) fn forgotten(stage: Stage) {
    if let Some(counters) = maps::record_counters(stage) {
        // SAFETY: as in `refused`.
        unsafe { (*counters).forgotten += 1 };
    }
}
