//! Waiting until no packet holds what the tables held before.

#![allow(unsafe_code, reason = "a system call that libc has no function for")]

use std::{thread, time::Duration};

/// `MEMBARRIER_CMD_GLOBAL`: the kernel answers after an RCU grace period, and XDP programs run
/// within RCU read sections (membarrier(2); `kernel/sched/membarrier.c` calls `synchronize_rcu`).
const MEMBARRIER_GLOBAL: libc::c_int = 1;

/// Far above any packet's time in the program; for kernels whose full-dynticks mode refuses the
/// system call.
const FALLBACK: Duration = Duration::from_millis(100);

/// Returns when every packet that was in the program at the call is through.
pub(super) fn wait() {
    // SAFETY: the call takes plain numbers and touches no memory of ours.
    let answer = unsafe { libc::syscall(libc::SYS_membarrier, MEMBARRIER_GLOBAL, 0, 0) };
    if answer != 0 {
        thread::sleep(FALLBACK);
    }
}
