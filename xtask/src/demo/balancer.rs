//! The active balancer dies and comes back: first its daemon, then the whole machine.

use std::{net::SocketAddr, time::Instant};

use anyhow::Result;
use weir_lab::{Lab, Tally, Traffic, WeirPair};

use super::{
    PATIENCE, SOME, THREADS,
    verdict::{Millis, Verdict},
};
use crate::process;

/// Kills the active daemon. Its program goes on, so that nothing is lost until the other balancer
/// has the address, nor when it comes back.
pub(super) fn daemon_killed(
    lab: &Lab,
    pair: &mut WeirPair,
    vip: SocketAddr,
    verdict: &mut Verdict,
) -> Result<()> {
    process::announce("killing the active balancer's daemon (SIGKILL) under traffic");
    let traffic = start_traffic(lab, vip)?;
    let killed = Instant::now();
    pair.weir_mut(0).kill();
    pair.wait_for_owners([true, true], PATIENCE)?;
    println!("  the other has the address {} after the kill", Millis(killed.elapsed()));
    let tally = finish(traffic)?;
    verdict.check(tally.failed == 0, "no request fails");

    process::announce("starting it again");
    let traffic = start_traffic(lab, vip)?;
    let started = Instant::now();
    pair.weir_mut(0).start()?;
    pair.settle(PATIENCE)?;
    println!("  it has the tables and the address {} after its start", Millis(started.elapsed()));
    let tally = finish(traffic)?;
    verdict.check(tally.failed == 0, "no request fails");
    Ok(())
}

/// Lets the active machine fall silent. A request that was under way is lost with it.
pub(super) fn powered_off(
    lab: &Lab,
    pair: &WeirPair,
    vip: SocketAddr,
    verdict: &mut Verdict,
) -> Result<()> {
    process::announce("cutting the power of the active balancer under traffic");
    let first = lab.balancers()[0].namespace().role();
    let traffic = start_traffic(lab, vip)?;
    let cut = Instant::now();
    lab.power_off(first)?;
    pair.wait_for_owners([true, true], PATIENCE)?;
    println!("  the other has the address {} after the cut", Millis(cut.elapsed()));
    println!("  (what was lost meanwhile, the client's TCP repeats after a second)");
    let tally = finish(traffic)?;
    // Each of the client's threads has one under way, and gives it up after a second.
    let under_way = tally.failed <= THREADS as u64;
    verdict.check(under_way, "no request fails but those under way");

    process::announce("and back");
    let traffic = start_traffic(lab, vip)?;
    let back = Instant::now();
    lab.power_on(first)?;
    pair.settle(PATIENCE)?;
    println!("  it has the tables and the address {} later", Millis(back.elapsed()));
    let tally = finish(traffic)?;
    verdict.check(tally.failed == 0, "no request fails");
    let same = pair.wait_until_same(PATIENCE).is_ok();
    verdict.check(same, "both balancers have the same tables");
    Ok(())
}

fn start_traffic(lab: &Lab, vip: SocketAddr) -> Result<Traffic> {
    let traffic = lab.client().traffic(vip, THREADS)?;
    traffic.wait_for_more(SOME, PATIENCE)?;
    Ok(traffic)
}

/// Ends the traffic when it has gone on for a while after what happened.
fn finish(traffic: Traffic) -> Result<Tally> {
    traffic.wait_for_more(SOME, PATIENCE)?;
    let tally = traffic.stop()?;
    println!("  {tally}");
    Ok(tally)
}
