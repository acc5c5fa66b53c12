//! A client, two balancers and three web backends in namespaces: the demo, and the same network
//! left open to play with.

mod backend;
mod balancer;
mod verdict;

use std::{io, net::SocketAddr, time::Duration};

use anyhow::{Context, Result};
use weir_lab::{Lab, Weir, WeirPair, vrrp::Vrrp};

use self::verdict::Verdict;
use crate::{packages, process};

/// The service of the demo, and its port.
const SERVICE: &str = "web";
const PORT: u16 = 80;
/// Between two adverts of the balancers.
const INTERVAL: Duration = Duration::from_millis(100);
/// Requests that show the spread.
const REQUESTS: u64 = 3_000;
/// Client threads.
const THREADS: usize = 4;
/// Flows whose explanation is compared with where they really go.
const EXPLAINED: u16 = 20;
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

/// Sends real traffic, kills a backend, kills a balancer, and prints what the client saw.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    prepare()?;
    if process::again_as_root()? {
        return Ok(());
    }
    let mut verdict = Verdict::default();
    let (lab, mut pair) = start()?;
    let vip = lab.vip(PORT);
    spread(&lab, vip, &mut verdict)?;
    explained(&lab, pair.weir(0), vip, &mut verdict)?;
    backend::killed(&lab, pair.weir(0), vip, &mut verdict)?;
    balancer::daemon_killed(&lab, &mut pair, vip, &mut verdict)?;
    balancer::powered_off(&lab, &pair, vip, &mut verdict)?;
    verdict.conclude(arguments.check)
}

/// Sets up the demo's network and leaves it to its user.
pub(crate) fn lab() -> Result<()> {
    prepare()?;
    if process::again_as_root()? {
        return Ok(());
    }
    let (lab, _pair) = start()?;
    println!("a client, two balancers and three backends run in these network namespaces:");
    for role in ["client", "balancer", "balancer2", "b1", "b2", "b3"] {
        println!("  ip netns exec {} bash", lab.namespace(role).name());
    }
    println!("the VIP is http://{}/", lab.vip(PORT));
    for balancer in lab.balancers() {
        println!("a daemon's files are in {}", balancer.namespace().directory().display());
    }
    println!("press Enter to remove it all");
    io::stdin().read_line(&mut String::new()).context("waiting for Enter")?;
    Ok(())
}

/// Installs and builds what the lab needs, before any privilege is asked for.
fn prepare() -> Result<()> {
    packages::ensure_programs(&packages::LAB_PROGRAMS, "the demo")?;
    process::run(process::cargo().args(["build", "--quiet", "--locked", "--bin", "weir"]))
}

fn start() -> Result<(Lab, WeirPair)> {
    process::announce("making a network: client, two balancers, three web backends");
    let lab = Lab::builder().backends(3).balancers(2).unclaimed_vip().build()?;
    process::announce("starting weir on both balancers");
    let pair = WeirPair::start(&lab, &Vrrp::new(INTERVAL), &[lab.service(SERVICE, PORT)])?;
    pair.settle(PATIENCE)?;
    print!("{}", pair.weir(0).cli(&["status"])?);
    Ok((lab, pair))
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
