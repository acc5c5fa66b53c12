//! A client, a balancer and three web backends in namespaces: the demo, and the same network left
//! open to play with.

use std::{
    fmt,
    io::{self, Write as _},
    net::SocketAddr,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use weir::core::{BackendState, EventKind, Phases};
use weir_lab::{Lab, Tally, Weir};

use crate::{packages, process};

/// The service of the demo, and its port.
const SERVICE: &str = "web";
const PORT: u16 = 80;
/// Requests that show the spread.
const REQUESTS: u64 = 3_000;
/// Client threads.
const THREADS: usize = 4;
/// How often a backend is killed; the median of the repairs counts.
const KILLS: usize = 3;
/// Flows whose explanation is compared with where they really go.
const EXPLAINED: u16 = 20;
/// The lab's services are checked every 200 ms, each check may take 200 ms, two decide; the rest
/// is room for a busy machine.
const DETECTION_LIMIT: Duration = Duration::from_millis(2 * 200 + 200 + 1000);
/// Answers that show that traffic flows.
const SOME: u64 = 200;
const PATIENCE: Duration = Duration::from_secs(20);

/// `cargo xtask demo`
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Exit non-zero unless everything went as it should
    #[arg(long)]
    pub(crate) check: bool,
}

/// What is judged: every line is shown, and with `--check` every line must hold.
#[derive(Debug, Default)]
struct Verdict {
    failed: Vec<String>,
}

/// Sends real traffic, kills a backend, kills the daemon, and prints what the client saw.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    prepare()?;
    if process::again_as_root()? {
        return Ok(());
    }
    let mut verdict = Verdict::default();
    let (lab, mut weir) = start()?;
    let vip = lab.vip(PORT);
    spread(&lab, vip, &mut verdict)?;
    explained(&lab, &weir, vip, &mut verdict)?;
    backend_killed(&lab, &weir, vip, &mut verdict)?;
    daemon_killed(&lab, &mut weir, vip, &mut verdict)?;
    verdict.conclude(arguments.check)
}

/// Sets up the demo's network and leaves it to its user.
pub(crate) fn lab() -> Result<()> {
    prepare()?;
    if process::again_as_root()? {
        return Ok(());
    }
    let (lab, weir) = start()?;
    println!("a client, a balancer and three backends run in these network namespaces:");
    for role in ["client", "balancer", "b1", "b2", "b3"] {
        println!("  ip netns exec {} bash", lab.namespace(role).name());
    }
    println!("the VIP is http://{}/", lab.vip(PORT));
    println!("the daemon's files are in {}", lab.balancer().namespace().directory().display());
    println!("\n{}", weir.cli(&["status"])?);
    println!("press Enter to remove it all");
    io::stdin().read_line(&mut String::new()).context("waiting for Enter")?;
    Ok(())
}

/// Installs and builds what the lab needs, before any privilege is asked for.
fn prepare() -> Result<()> {
    packages::ensure_programs(&packages::LAB_PROGRAMS, "the demo")?;
    process::run(process::cargo().args(["build", "--quiet", "--locked", "--bin", "weir"]))
}

fn start() -> Result<(Lab, Weir)> {
    process::announce("making a network: client, balancer, three web backends");
    let lab = Lab::builder().backends(3).build()?;
    let config = lab.balancer().config(&[lab.service(SERVICE, PORT)]);
    process::announce("starting weir on the balancer");
    let weir = lab.balancer().start_weir(&config)?;
    weir.wait_until_up()?;
    print!("{}", weir.cli(&["status"])?);
    Ok((lab, weir))
}

fn spread(lab: &Lab, vip: SocketAddr, verdict: &mut Verdict) -> Result<()> {
    process::announce(&format!("{REQUESTS} requests, each on a connection of its own"));
    let tally = lab.client().requests(vip, REQUESTS, THREADS)?;
    println!("  {tally}");
    verdict.check(tally.failed == 0, "every request is answered");
    // A third each; five standard deviations of a fair draw.
    let even =
        tally.answers.len() == 3 && tally.answers.values().all(|n| n.abs_diff(REQUESTS / 3) < 130);
    verdict.check(even, "the three backends share them evenly");
    Ok(())
}

fn explained(lab: &Lab, weir: &Weir, vip: SocketAddr, verdict: &mut Verdict) -> Result<()> {
    process::announce(&format!("{EXPLAINED} flows: what `weir explain` says, and who answers"));
    let client = lab.client().address();
    let mut right = 0;
    for port in 30_000..30_000 + EXPLAINED {
        let source = SocketAddr::new(client.into(), port);
        let said = weir.explain("tcp", source, vip)?;
        let answered = lab.client().request_from(port, vip)?;
        right += u16::from(said.backend.is_some_and(|name| name.as_str() == answered));
    }
    println!("  {right} of {EXPLAINED} reach the backend that was named");
    verdict.check(right == EXPLAINED, "every flow reaches the backend that explain names");
    Ok(())
}

/// Kills a backend under traffic, several times over: one repair's time says as much of what else
/// the machine was doing as of the repair.
fn backend_killed(lab: &Lab, weir: &Weir, vip: SocketAddr, verdict: &mut Verdict) -> Result<()> {
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
        backend_revived(lab, weir, vip, verdict)?;
    }
    repairs.sort_by(f64::total_cmp);
    let median = repairs[KILLS / 2];
    println!("  repaired {:.2} ms after the last check (median)", median * 1e3);
    verdict.check(median < 0.005, "repaired within 5 ms of the last check");
    Ok(())
}

fn backend_revived(lab: &Lab, weir: &Weir, vip: SocketAddr, verdict: &mut Verdict) -> Result<()> {
    process::announce("reviving b2");
    lab.backend("b2").revive()?;
    let back = weir.wait_until_is(SERVICE, "b2", BackendState::Up, PATIENCE)?;
    println!("  back in the ring {} after it answers", Millis(back));
    let tally = lab.client().requests(vip, REQUESTS, THREADS)?;
    println!("  {tally}");
    verdict.check(tally.failed == 0 && tally.by("b2") > 0, "b2 serves again");
    Ok(())
}

fn daemon_killed(lab: &Lab, weir: &mut Weir, vip: SocketAddr, verdict: &mut Verdict) -> Result<()> {
    process::announce("killing the daemon (SIGKILL) under traffic, and starting it again");
    let traffic = lab.client().traffic(vip, THREADS)?;
    traffic.wait_for_more(SOME, PATIENCE)?;
    weir.kill();
    traffic.wait_for_more(SOME, PATIENCE)?;
    weir.start()?;
    traffic.wait_for_more(SOME, PATIENCE)?;
    let tally: Tally = traffic.stop()?;
    println!("  {tally}");
    verdict.check(tally.failed == 0, "no request fails");
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

// === impl Verdict ===

impl Verdict {
    fn check(&mut self, holds: bool, what: &str) {
        println!("  [{}] {what}", if holds { "ok" } else { "FAILED" });
        if !holds {
            self.failed.push(what.to_owned());
        }
    }

    fn conclude(self, check: bool) -> Result<()> {
        io::stdout().flush()?;
        if self.failed.is_empty() {
            println!("\nall went as it should");
        } else if check {
            bail!("not as it should: {}", self.failed.join("; "));
        }
        Ok(())
    }
}

/// Milliseconds.
struct Millis(Duration);

impl fmt::Display for Millis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.0} ms", self.0.as_secs_f64() * 1e3)
    }
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
