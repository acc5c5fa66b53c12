//! What the tables of two balancers cost while flows are recorded without pause: how far the
//! follower is behind, what strangers at the port change in that, and how soon a follower that was
//! away is back.
//!
//! Flows are made in the leader's own kernel: the program that its daemon has attached is run on
//! frames, an opening and a second packet for each flow (`load.rs`). A flow counts as told when the
//! follower's kernel has its record, by a look into the table itself.

mod load;
mod strangers;

use std::{
    fmt::Write as _,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use aya::maps::{HashMap, Map, MapData};
use serde::Serialize;
use weir::sync::Key;

use self::{load::Load, strangers::Strangers};
use super::{generator::FIRST_VIP, quantile};
use crate::{Balancer, Lab, Weir};

/// Recorded flows a second.
pub const RATE: u32 = 50_000;
/// The service's port.
const PORT: u16 = 80;
/// How long the follower is away.
const AWAY: Duration = Duration::from_secs(10);
/// Between two flows that are looked for.
const LOOK: Duration = Duration::from_millis(20);
/// What is not seen yet is looked for again: a flow in a table, and the follower's word that it has all,
/// each of which costs it a request.
const LOOK_AGAIN: Duration = Duration::from_micros(200);
const ASK_AGAIN: Duration = Duration::from_millis(1);
/// Every so many flows, one may be looked for: so they are made among hundreds.
const AHEAD: usize = 300;
/// A flow that was not told by then was never told.
const LOST: Duration = Duration::from_secs(10);
const PATIENCE: Duration = Duration::from_secs(60);

/// Confirmed flows, as a balancer pins them.
type Confirmed = HashMap<MapData, [u32; 6], [u32; 4]>;

/// The report, as `--json` prints it.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// Flows a second that were recorded.
    pub flows_per_second: f64,
    /// Undisturbed.
    pub quiet: Lag,
    /// With strangers at the port: wrong key, garbage, half-open.
    pub beside_strangers: Lag,
    /// Connections that were turned away meanwhile.
    pub turned_away: u64,
    /// How long the follower was away, in seconds, under the same load.
    pub away_s: f64,
    /// From its being ready until it had the leader's tables as a whole.
    pub converged_s: f64,
    /// How often a peer was told everything without having been away.
    pub told_anew: u64,
}

/// How long flows took from the leader's kernel to the follower's, in milliseconds.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Lag {
    /// Flows that were looked for.
    pub flows: usize,
    /// The median.
    pub ms_median: f64,
    /// What 99 of a hundred stayed below.
    pub ms_p99: f64,
    /// The longest.
    pub ms_worst: f64,
}

/// Records flows for so long, with this `weir` on both balancers.
///
/// # Errors
///
/// The lab cannot be built, a daemon does not come up, or a flow is never told of.
pub fn measure(weir: &Path, time: Duration, mut progress: impl FnMut(&str)) -> Result<Report> {
    let lab = Lab::builder().balancers(3).backends(2).build()?;
    let [first, second, stranger] = lab.balancers() else { bail!("three balancers") };
    let peers = [first.clone(), second.clone()];
    let key = Key::generate();
    let config = |balancer: &Balancer| -> Result<String> {
        Ok(configuration(&lab, balancer) + &balancer.sync_section(&key, &peers)?)
    };
    let leader = first.start_weir_at(weir, &config(first)?)?;
    let mut follower = second.start_weir_at(weir, &config(second)?)?;
    for weir in [&leader, &follower] {
        weir.wait_until_up()?;
    }
    wait_until_whole(&follower)?;

    let load = Load::start(first, PORT, RATE)?;
    progress(&format!("{RATE} flows a second for {time:?}"));
    let quiet = look(&load, [first, second], time)?;
    let told_anew = snapshots(&leader)?.saturating_sub(1);

    progress("with strangers at the port");
    let before = refused(&leader)?;
    let strangers = Strangers::start(&lab, stranger, &peers, weir)?;
    let beside_strangers = look(&load, [first, second], time / 2)?;
    let turned_away = refused(&leader)?.saturating_sub(before);
    drop(strangers);

    progress(&format!("the follower stops for {AWAY:?}"));
    follower.stop()?;
    thread::sleep(AWAY);
    follower.start()?;
    let ready = Instant::now();
    wait_until_whole(&follower)?;
    let converged_s = ready.elapsed().as_secs_f64();
    let flows_per_second = load.stop()?;
    Ok(Report {
        flows_per_second,
        quiet,
        beside_strangers,
        turned_away,
        away_s: AWAY.as_secs_f64(),
        converged_s,
        told_anew,
    })
}

/// One service that records every flow, and forgets it soon.
fn configuration(lab: &Lab, balancer: &Balancer) -> String {
    let vip = std::net::Ipv4Addr::from_bits(FIRST_VIP);
    let mut text = balancer.config(&[]).replace("flows = 65536", "flows = 2097152");
    // Writing to a string cannot fail.
    let _ = write!(
        text,
        "\n[[service]]\nname = \"load\"\naddress = \"{vip}\"\nport = {PORT}\n\
         algorithm = \"round_robin\"\nidle_timeout = \"5s\"\n\
         [service.health]\ntype = \"tcp\"\nport = 80\ninterval = \"1s\"\ntimeout = \"1s\"\n"
    );
    for backend in lab.backends() {
        let _ = write!(
            text,
            "[[service.backend]]\nname = \"{}\"\naddress = \"{}\"\n",
            backend.name(),
            backend.address()
        );
    }
    text
}

/// Looks for a flow that is made soon, in the leader's table and then in the follower's, over and
/// over. What lies between two looks counts as lag.
fn look(load: &Load, [leader, follower]: [&Balancer; 2], time: Duration) -> Result<Lag> {
    let (here, there) = (confirmed(leader)?, confirmed(follower)?);
    let (end, mut waits) = (Instant::now() + time, Vec::new());
    while Instant::now() < end {
        let latest = load.latest()?;
        // Of a batch that is just being made, some are there already.
        let mut to_come = (latest + 1..).step_by(AHEAD).map(|flow| load.key(flow));
        let key = to_come.find(|key| here.get(key, 0).is_err()).context("a flow to come")?;
        let made = last_absent(&here, &key).context("a flow is not made")?;
        last_absent(&there, &key).context("a flow is not told of")?;
        waits.push(made.elapsed().as_secs_f64() * 1e3);
        thread::sleep(LOOK);
    }
    Ok(Lag {
        flows: waits.len(),
        ms_median: quantile(&waits, 50),
        ms_p99: quantile(&waits, 99),
        ms_worst: quantile(&waits, 100),
    })
}

/// Waits until a flow is in a table; returns when it was looked for last and was not.
fn last_absent(table: &Confirmed, key: &[u32; 6]) -> Result<Instant> {
    let start = Instant::now();
    let mut absent = start;
    loop {
        let now = Instant::now();
        if table.get(key, 0).is_ok() {
            return Ok(absent);
        }
        absent = now;
        ensure!(start.elapsed() < LOST, "it is not in the table within {LOST:?}");
        thread::sleep(LOOK_AGAIN);
    }
}

/// A balancer's table of confirmed flows, as it is pinned.
fn confirmed(balancer: &Balancer) -> Result<Confirmed> {
    let directories = std::fs::read_dir(balancer.pins()).context("read the pins")?;
    let mut tables = directories.flatten().map(|entry| entry.path().join("FLOWS"));
    let path = tables.find(|path| path.exists()).context("no table of flows is pinned")?;
    let map = Map::LruHashMap(MapData::from_pin(path)?);
    Ok(HashMap::try_from(map)?)
}

fn wait_until_whole(follower: &Weir) -> Result<()> {
    let start = Instant::now();
    loop {
        let sync = follower.status()?.sync.context("there is a [sync]")?;
        let there = sync.peers.iter().any(|peer| peer.connected);
        if there && sync.leader.is_some() && sync.synced && sync.services_differ == 0 {
            return Ok(());
        }
        ensure!(start.elapsed() < PATIENCE, "the follower has not the leader's tables: {sync:?}");
        thread::sleep(ASK_AGAIN);
    }
}

fn snapshots(weir: &Weir) -> Result<u64> {
    Ok(weir.status()?.sync.context("there is a [sync]")?.snapshots)
}

fn refused(weir: &Weir) -> Result<u64> {
    Ok(weir
        .status()?
        .sync
        .context("there is a [sync]")?
        .refused
        .iter()
        .map(|(_, count)| count)
        .sum())
}

// === impl Report ===

impl Report {
    /// The report as a table for people.
    pub fn table(&self) -> String {
        let Lag { flows, ms_median, ms_p99, ms_worst } = self.quiet;
        format!(
            "{:.0} flows a second, each an opening and a second packet; {flows} of them looked for\n\n\
             lag, median                          {ms_median:8.1} ms\n\
             lag, 99 of 100                       {ms_p99:8.1} ms   (goal: below 50)\n\
             lag, worst                           {ms_worst:8.1} ms\n\
             lag, 99 of 100, beside strangers     {:8.1} ms   ({} turned away)\n\
             whole again after {:.0} s away          {:8.2} s    (goal: below 2)\n\
             told anew in between                 {:8}\n",
            self.flows_per_second,
            self.beside_strangers.ms_p99,
            self.turned_away,
            self.away_s,
            self.converged_s,
            self.told_anew,
        )
    }
}
