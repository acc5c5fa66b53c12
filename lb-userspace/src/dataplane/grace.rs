//! Waiting until no packet holds what the tables held before.

#![allow(unsafe_code, reason = "a system call that libc has no function for")]

use std::{thread, time::Duration};

/// `MEMBARRIER_CMD_GLOBAL`: the kernel answers after an RCU grace period, and XDP programs run
/// within RCU read sections (membarrier(2); `kernel/sched/membarrier.c` calls `synchronize_rcu`).
const MEMBARRIER_GLOBAL: libc::c_int = 1;
/// `MEMBARRIER_CMD_QUERY`: which commands this kernel takes, as bits.
const MEMBARRIER_QUERY: libc::c_int = 0;

/// Far above any packet's time in the program; for kernels whose full-dynticks mode refuses the
/// system call.
const FALLBACK: Duration = Duration::from_millis(100);

/// Returns when every packet that was in the program at the call is through.
pub(super) fn wait() {
    if membarrier(MEMBARRIER_GLOBAL) != 0 {
        thread::sleep(FALLBACK);
    }
}

/// Whether the kernel says when a grace period is over; else a pause of 100 ms takes its place.
pub fn kernel_tells_grace_periods() -> bool {
    let commands = membarrier(MEMBARRIER_QUERY);
    commands > 0 && commands & libc::c_long::from(MEMBARRIER_GLOBAL) != 0
}

fn membarrier(command: libc::c_int) -> libc::c_long {
    // SAFETY: the call takes plain numbers and touches no memory of ours.
    unsafe { libc::syscall(libc::SYS_membarrier, command, 0, 0) }
}
