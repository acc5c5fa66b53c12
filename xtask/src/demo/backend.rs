//! A backend dies and comes back.

use std::{fmt, net::SocketAddr, time::Duration};

use anyhow::{Context as _, Result};
use weir::core::{BackendState, EventKind, Phases};
use weir_lab::{Lab, Weir};

use super::{
    PATIENCE, REQUESTS, SERVICE, SOME, THREADS,
    verdict::{Millis, Verdict},
};
use crate::process;

/// How often a backend is killed; the median of the repairs counts.
const KILLS: usize = 3;
/// The lab's services are checked every 200 ms, each check may take 200 ms, two decide; the rest
/// is room for a busy machine.
const DETECTION_LIMIT: Duration = Duration::from_millis(2 * 200 + 200 + 1000);

/// Kills a backend under traffic, several times over: one repair's time says as much of what else
/// the machine was doing as of the repair.
pub(super) fn killed(lab: &Lab, weir: &Weir, vip: SocketAddr, verdict: &mut Verdict) -> Result<()> {
    let mut repairs = Vec::with_capacity(KILLS);
    for kill in 1..=KILLS {
        process::announce(&format!("killing backend b2 under traffic ({kill} of {KILLS})"));
        let traffic = lab.client().traffic(vip, THREADS)?;
        traffic.wait_for_more(SOME, PATIENCE)?;
        lab.backend("b2").kill();
        let noticed = weir.wait_until_is(SERVICE, "b2", BackendState::Down, DETECTION_LIMIT)?;
        let during = traffic.stop()?;
        println!("  while it failed: {during}");
        println!("  out of the ring {} after the kill", Millis(noticed));
        let phases = last_phases(weir, BackendState::Down)?;
        println!("  {}", Shown(phases));
        repairs.push(phases.decide + phases.apply);

        let after = lab.client().requests(vip, REQUESTS, THREADS)?;
        println!("  afterwards: {after}");
        verdict.check(after.failed == 0 && after.by("b2") == 0, "afterwards no request fails");
        revived(lab, weir, vip, verdict)?;
    }
    repairs.sort_by(f64::total_cmp);
    let median = repairs[KILLS / 2];
    println!("  repaired {:.2} ms after the last check (median)", median * 1e3);
    verdict.check(median < 0.005, "repaired within 5 ms of the last check");
    Ok(())
}

fn revived(lab: &Lab, weir: &Weir, vip: SocketAddr, verdict: &mut Verdict) -> Result<()> {
    process::announce("reviving b2");
    lab.backend("b2").revive()?;
    let back = weir.wait_until_is(SERVICE, "b2", BackendState::Up, PATIENCE)?;
    println!("  back in the ring {} after it answers", Millis(back));
    let tally = lab.client().requests(vip, REQUESTS, THREADS)?;
    println!("  {tally}");
    verdict.check(tally.failed == 0 && tally.by("b2") > 0, "b2 serves again");
    Ok(())
}

/// The times of the last change of a backend to a state.
fn last_phases(weir: &Weir, wanted: BackendState) -> Result<Phases> {
    let events = weir.events()?;
    let found = events.iter().rev().find_map(|event| match event.kind {
        EventKind::Backend { to, .. } if to == wanted => event.phases,
        _ => None,
    });
    found.with_context(|| format!("no event tells of a backend that is {wanted:?}"))
}

/// The phases of a repair.
struct Shown(Phases);

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Phases { detect, decide, apply } = self.0;
        write!(
            f,
            "detected in {:.0} ms (first failed check to the deciding one), decided in {:.2} ms, \
             tables rewritten in {:.2} ms",
            detect * 1e3,
            decide * 1e3,
            apply * 1e3
        )
    }
}
