//! What a large configuration costs the daemon: its start, its memory, its checks, its answers. The
//! real daemon in a lab, with the clock and the accounts of the kernel.
//!
//! Every backend is one of a few addresses of one server, so that each check is a connection over
//! a link, and the server's work is another process's.

use std::{
    fmt::Write as _,
    fs,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use nix::unistd::{SysconfVar, sysconf};
use serde::Serialize;

use super::{acceptor::Acceptor, quantile};
use crate::{Lab, Namespace, Weir, snmp::tcp_counter};

/// Of the configuration.
pub const SERVICES: u32 = 1_000;
/// Of each service.
pub const BACKENDS: u32 = 20;
/// Between two checks of a backend.
const INTERVAL: Duration = Duration::from_secs(3);
/// How long it is watched, in intervals.
const INTERVALS: u32 = 4;
/// The port on which backends are checked.
const PORT: u16 = 7001;
/// How often each answer is asked for; the median counts.
const ANSWERS: usize = 9;
/// Until each backend has been checked twice.
const UP_LIMIT: Duration = Duration::from_secs(120);

/// The report, as `--json` prints it.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// How many services there are.
    pub services: u32,
    /// How many backends each has.
    pub backends: u32,
    /// Seconds from the start of the process to the answer that it is ready: all tables are
    /// written.
    pub start_s: f64,
    /// Resident megabytes, without the kernel's tables, which it has mapped.
    pub resident_mb: f64,
    /// Resident megabytes of the tables.
    pub tables_mb: f64,
    /// Checks a second that were begun.
    pub checks_per_second: f64,
    /// The share of one processor that the process used meanwhile, user and system time.
    pub processor: f64,
    /// Milliseconds until `weir status` has printed everything.
    pub status_ms: f64,
    /// Milliseconds until `/metrics` is read.
    pub metrics_ms: f64,
    /// Milliseconds until `weir events` has printed those that are kept.
    pub events_ms: f64,
}

/// Starts this `weir` with such a configuration and watches it.
///
/// # Errors
///
/// The lab cannot be built, or the daemon does not come up.
pub fn measure(weir: &Path, mut progress: impl FnMut(&str)) -> Result<Report> {
    let lab = Lab::builder().backends(1).build()?;
    let addresses = more_addresses(&lab)?;
    let config = configuration(&lab, &addresses);
    let _acceptor = Acceptor::start(lab.backend("b1").namespace(), PORT)?;
    let begun = Instant::now();
    let running = lab.balancer().start_weir_at(weir, &config)?;
    let start_s = begun.elapsed().as_secs_f64();
    progress(&format!("ready after {start_s:.2} s; waiting for two checks of each backend"));
    let balancer = lab.balancer().namespace();
    wait_for_checks(balancer, 2 * u64::from(SERVICES * BACKENDS))?;
    let (checks, used, clock) =
        (connections(balancer)?, processor_time(running.id())?, Instant::now());
    thread::sleep(INTERVAL * INTERVALS);
    let seconds = clock.elapsed().as_secs_f64();
    let used = processor_time(running.id())?.saturating_sub(used);
    let checks = connections(balancer)? - checks;
    let (resident, tables) = resident_kb(running.id())?;
    ensure_up(&running)?;
    Ok(Report {
        services: SERVICES,
        backends: BACKENDS,
        start_s,
        resident_mb: resident as f64 / 1024.0,
        tables_mb: tables as f64 / 1024.0,
        checks_per_second: checks as f64 / seconds,
        processor: used.as_secs_f64() / seconds,
        status_ms: answer_ms(|| running.cli(&["status"]).map(drop))?,
        metrics_ms: answer_ms(|| running.admin("/metrics").map(drop))?,
        events_ms: answer_ms(|| running.cli(&["events"]).map(drop))?,
    })
}

/// Checks that were begun and failed would say nothing.
fn ensure_up(running: &Weir) -> Result<()> {
    let status = running.json(&["status"])?;
    let services = status["services"].as_array().map_or(&[][..], Vec::as_slice);
    let backends = services.iter().filter_map(|service| service["backends"].as_array()).flatten();
    let up = backends.filter(|backend| backend["state"] == "up").count();
    ensure!(up == (SERVICES * BACKENDS) as usize, "{up} backends are up: {}", running.log());
    Ok(())
}

/// The median time of an answer.
fn answer_ms(ask: impl Fn() -> Result<()>) -> Result<f64> {
    let mut times = Vec::new();
    for _ in 0..ANSWERS {
        let asked = Instant::now();
        ask()?;
        times.push(asked.elapsed().as_secs_f64() * 1e3);
    }
    Ok(quantile(&times, 50))
}

/// Gives the lab's one server as many addresses as a service has backends.
fn more_addresses(lab: &Lab) -> Result<Vec<String>> {
    let server = lab.backend("b1");
    let [a, b, c, first] = server.address().octets();
    let all: Vec<String> = (u32::from(first)..)
        .take(BACKENDS as usize)
        .map(|last| format!("{a}.{b}.{c}.{last}"))
        .collect();
    let lines: Vec<String> =
        all.iter().skip(1).map(|address| format!("address add {address}/24 dev eth0")).collect();
    server.namespace().ip(&lines)?;
    Ok(all)
}

/// One VIP, a port for each service, and rings of the size that fits so many into the default.
fn configuration(lab: &Lab, addresses: &[String]) -> String {
    let limits = "services = 1024\nbackends = 20480\nring_slots = 4194304";
    let mut text = lab
        .balancer()
        .config(&[])
        .replace("services = 64\nbackends = 256\nring_slots = 1048576", limits);
    let vip = lab.vip(80).ip();
    for number in 0..SERVICES {
        // Writing to a string cannot fail.
        let _ = write!(
            text,
            "\n[[service]]\nname = \"s{number}\"\naddress = \"{vip}\"\nport = {}\nring = 4093\n\
             [service.health]\ntype = \"tcp\"\nport = {PORT}\ninterval = \"{}s\"\ntimeout = \"2s\"\n\
             rise = 1\nfall = 3\n",
            10_000 + number,
            INTERVAL.as_secs(),
        );
        for (backend, address) in addresses.iter().enumerate() {
            let _ = write!(
                text,
                "[[service.backend]]\nname = \"b{backend}\"\naddress = \"{address}\"\n"
            );
        }
    }
    text
}

/// The first checks set every backend up, which costs once what the later ones do not.
fn wait_for_checks(namespace: &Namespace, number: u64) -> Result<()> {
    let (first, end) = (connections(namespace)?, Instant::now() + UP_LIMIT);
    loop {
        let begun = connections(namespace)? - first;
        if begun >= number {
            return Ok(());
        }
        ensure!(Instant::now() < end, "{begun} of {number} checks were begun in {UP_LIMIT:?}");
        thread::sleep(Duration::from_millis(200));
    }
}

/// Connections that were opened in a namespace.
fn connections(namespace: &Namespace) -> Result<u64> {
    tcp_counter(namespace, "ActiveOpens")
}

/// User and system time of a process, by `/proc/PID/stat`.
fn processor_time(process: u32) -> Result<Duration> {
    let text = fs::read_to_string(format!("/proc/{process}/stat"))?;
    let ticks = sysconf(SysconfVar::CLK_TCK)?.context("the kernel's tick")?;
    let used = used_ticks(&text).context("no times in /proc/PID/stat")?;
    Ok(Duration::from_secs_f64(used as f64 / ticks as f64))
}

/// The fields `utime` and `stime` of `proc_pid_stat(5)`; the name before them may hold anything.
fn used_ticks(text: &str) -> Option<u64> {
    let mut fields = text.rsplit_once(')')?.1.split_whitespace().skip(11);
    let mut next = || fields.next()?.parse::<u64>().ok();
    Some(next()? + next()?)
}

/// Resident kilobytes of a process: its own, and those of the tables that it has mapped.
fn resident_kb(process: u32) -> Result<(u64, u64)> {
    let text = fs::read_to_string(format!("/proc/{process}/smaps"))?;
    Ok(resident_by_owner(&text))
}

fn resident_by_owner(smaps: &str) -> (u64, u64) {
    let (mut own, mut tables, mut is_table) = (0, 0, false);
    for line in smaps.lines() {
        if let Some(size) = line.strip_prefix("Rss:") {
            let size: u64 =
                size.trim().trim_end_matches("kB").trim_end().parse().unwrap_or_default();
            *if is_table { &mut tables } else { &mut own } += size;
        } else if line.split_whitespace().next().is_some_and(|word| word.contains('-')) {
            is_table = line.contains("bpf-map") || line.contains("bpf_map");
        }
    }
    (own, tables)
}

// === impl Report ===

impl Report {
    /// The report as a table for people.
    pub fn table(&self) -> String {
        format!(
            "{} services of {} backends each, a TCP check of each every {} s\n\n\
             start until all tables are written  {:8.2} s    (goal: below 2)\n\
             resident, besides kernel tables     {:8.1} MB   (goal: below 120)\n\
             resident tables                     {:8.1} MB\n\
             checks a second                     {:8.0}\n\
             share of one processor              {:8.1} %    (goal: below 60)\n\
             `weir status`                       {:8.0} ms\n\
             `/metrics`                          {:8.0} ms\n\
             `weir events`                       {:8.0} ms\n",
            self.services,
            self.backends,
            INTERVAL.as_secs(),
            self.start_s,
            self.resident_mb,
            self.tables_mb,
            self.checks_per_second,
            100.0 * self.processor,
            self.status_ms,
            self.metrics_ms,
            self.events_ms,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_has_any_name_has_its_times() {
        let stat = "7 (a) b) S 1 7 7 0 -1 4194560 1 0 0 0 30 12 0 0 20 0 1 0 5 0";
        assert_eq!(used_ticks(stat), Some(42));
    }

    #[test]
    fn tables_are_told_from_the_processs_own_memory() {
        let smaps = "55d0-55d1 r-xp 00000000 fe:00 1 /usr/bin/weir\nSize: 4 kB\nRss: 3 kB\n\
            7f00-7f01 rw-s 00000000 00:0e 2 anon_inode:bpf-map\nRss:        100 kB\n\
            7f10-7f11 rw-p 00000000 00:00 0\nRss:   20 kB\nVmFlags: rd wr\n";
        assert_eq!(resident_by_owner(smaps), (23, 100));
    }
}
