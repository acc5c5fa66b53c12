//! What the daemon asks of the machine for itself, and does not pass on to the programs it starts.

#![allow(unsafe_code, reason = "a function of the C library that nothing else offers")]

use std::{io, sync::OnceLock};

use rustix::process::{
    Pid, Resource, Rlimit, getpriority_process, getrlimit, prlimit, setpriority_process, setrlimit,
};
use tracing::{debug, warn};

/// A failed backend is taken out of the ring by a few microseconds of work; on a machine whose
/// other programs keep every CPU busy, those should not wait for their turn.
const PRIORITY: i32 = -10;

/// The soft limit of open files and the priority that the daemon was started with.
static ORIGINAL: OnceLock<(Rlimit, i32)> = OnceLock::new();

/// Raises the limit of open files, since checks hold a socket for each backend, and the priority.
/// To be called before other threads start: they inherit it.
pub fn raise() {
    let files = getrlimit(Resource::Nofile);
    let priority = getpriority_process(None).unwrap_or(0);
    if ORIGINAL.set((files, priority)).is_err() {
        return;
    }
    if let Err(error) =
        setrlimit(Resource::Nofile, Rlimit { current: files.maximum, maximum: files.maximum })
    {
        warn!("the limit of open files stays as it is: {error}");
    }
    // Under systemd the unit's `Nice=` has done so, and the daemon may not.
    if priority > PRIORITY
        && let Err(error) = setpriority_process(None, PRIORITY)
    {
        debug!("the priority stays as it is: {error}");
    }
}

/// Gives memory back that was needed for a while: a large configuration, as it is read, takes more
/// than all that is kept of it.
pub fn give_back_memory() {
    // Other C libraries do so by themselves, or cannot.
    #[cfg(target_env = "gnu")]
    // SAFETY: it touches nothing but the allocator's own free pages, and locks them itself.
    let _ = unsafe { libc::malloc_trim(0) };
}

/// Gives a program that the daemon has started what it would have had without the daemon.
///
/// # Errors
///
/// If the program is gone already.
pub fn restore(program: u32) -> io::Result<()> {
    let Some((files, priority)) = ORIGINAL.get() else {
        return Ok(());
    };
    let id = i32::try_from(program).ok().and_then(Pid::from_raw).ok_or(io::ErrorKind::NotFound)?;
    prlimit(Some(id), Resource::Nofile, *files)?;
    // Without systemd's `Nice=` the priority was an ordinary one; with it, 0 is what a check needs.
    setpriority_process(Some(id), (*priority).max(0))?;
    Ok(())
}
