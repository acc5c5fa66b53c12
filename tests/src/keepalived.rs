//! keepalived, the router that weir is compared and has to get along with.

use std::{fs, path::PathBuf, time::Duration};

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;

use crate::{Process, Router, requirements, vrrp::Member};

/// Reading a page of configuration and asking the kernel for interfaces.
const START_LIMIT: Duration = Duration::from_secs(10);
/// It waits a second of its own accord before it ends.
const STOP_LIMIT: Duration = Duration::from_secs(10);
/// What it logs when it has opened its sockets.
const STARTED: &str = "Startup complete";
/// Added to a priority, it makes 1 of any.
const LOWEST: &str = "-253";

/// keepalived with one VRRP instance, and no part in anything else. Dropping it kills it.
#[derive(Debug)]
pub struct Keepalived {
    member: Member,
    process: Option<Process>,
}

impl Keepalived {
    /// keepalived for a balancer, not yet started.
    ///
    /// # Errors
    ///
    /// It is not installed.
    pub fn new(member: Member) -> Result<Self> {
        requirements::require(&[("keepalived", "keepalived")])?;
        Ok(Self { member, process: None })
    }

    /// The priority follows a number in a file: its documented way to hand over without a stop.
    fn configuration(&self) -> String {
        let file = self.file("priority");
        let instance = self.member.keepalived(" track_file {\n  handover weight 1\n }\n");
        format!(
            "global_defs {{\n router_id {}\n}}\n\
             track_file handover {{\n file \"{}\"\n init_file 0 overwrite\n}}\n{instance}",
            self.member.namespace(),
            file.display(),
        )
    }

    fn set_handover(&self, value: &str) -> Result<()> {
        let file = self.file("priority");
        fs::write(&file, value).with_context(|| format!("write {}", file.display()))
    }

    fn running(&self) -> Result<&Process> {
        self.process.as_ref().context("keepalived does not run")
    }

    /// Where [`Namespace::spawn`](crate::Namespace::spawn) puts its output.
    fn log_file(&self) -> PathBuf {
        self.file("log")
    }

    fn file(&self, name: &str) -> PathBuf {
        self.member.namespace().directory().join(format!("keepalived.{name}"))
    }
}

impl Router for Keepalived {
    fn member(&self) -> &Member {
        &self.member
    }

    fn start(&mut self) -> Result<()> {
        ensure!(self.process.is_none(), "keepalived runs on {}", self.member.namespace());
        let [config, pid, child] = ["conf", "pid", "vrrp.pid"].map(|name| self.file(name));
        fs::write(&config, self.configuration())
            .with_context(|| format!("write {}", config.display()))?;
        for file in [&pid, &child] {
            // Of a killed run, whose process ids may still be somebody's or a zombie's: it would
            // refuse to start.
            let _ = fs::remove_file(file);
        }
        let words = [
            "keepalived".as_ref(),
            "--dont-fork".as_ref(),
            "--log-console".as_ref(),
            "--log-detail".as_ref(),
            "--vrrp".as_ref(),
            "--use-file".as_ref(),
            config.as_os_str(),
            "--pid".as_ref(),
            pid.as_os_str(),
            "--vrrp_pid".as_ref(),
            child.as_os_str(),
        ];
        let before = starts(&self.log());
        let mut process = self.member.namespace().spawn("keepalived", &words)?;
        let log = self.log_file();
        process.wait_until(START_LIMIT, || {
            ensure!(starts(&fs::read_to_string(&log)?) > before, "no \"{STARTED}\" in its log");
            Ok(())
        })?;
        self.process = Some(process);
        Ok(())
    }

    fn stop(&mut self) -> Result<()> {
        self.process.take().context("keepalived does not run")?.terminate(STOP_LIMIT)
    }

    fn kill(&mut self) {
        self.process = None;
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        self.running()?.signal(signal)
    }

    fn release(&mut self) -> Result<()> {
        self.set_handover(LOWEST)
    }

    fn reclaim(&mut self) -> Result<()> {
        self.set_handover("0")
    }

    fn log(&self) -> String {
        fs::read_to_string(self.log_file()).unwrap_or_default()
    }
}

/// How often it was started, by its log.
fn starts(log: &str) -> usize {
    log.matches(STARTED).count()
}
