//! What Weir costs: a packet in the program (`program`), a change in the controller ([`control`]),
//! a large configuration in the daemon ([`daemon`]), flows that are told to a peer ([`sync`]).

mod acceptor;
mod case;
pub mod control;
pub mod daemon;
pub mod generator;
mod program;
mod report;
pub mod sync;

use std::time::Duration;

use anyhow::{Context as _, Result};
use nix::time::{ClockId, clock_gettime};

pub use self::{
    generator::Family,
    program::{Effort, measure},
    report::{Counts, Measured, Packet, Report, State},
};

/// The value below which so many percent of the samples lie; not a number without samples.
fn quantile(samples: &[f64], percent: usize) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = sorted.len().saturating_sub(1) * percent / 100;
    sorted.get(rank).copied().unwrap_or(f64::NAN)
}

/// What this thread has computed so far. Unlike the time that has gone by, it knows nothing of
/// others who had the CPU meanwhile.
fn cpu_time() -> Result<Duration> {
    let time = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).context("the thread's clock")?;
    Ok(Duration::from(time))
}
