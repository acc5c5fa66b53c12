//! VRRP routers, whatever program they are, and two of them that share the lab's VIP.

use std::{fmt::Debug, time::Duration};

use anyhow::{Context as _, Result};
use nix::sys::signal::Signal;

use crate::{
    Balancer, Weir,
    vrrp::{INSTANCE, Member},
    wait,
};

/// A program that speaks VRRP on one of the lab's balancers.
pub trait Router: Debug {
    /// What it is told of the virtual router.
    fn member(&self) -> &Member;

    /// Starts it, and returns when it takes part.
    ///
    /// # Errors
    ///
    /// It runs already, or it ends or is not ready in time; with its log.
    fn start(&mut self) -> Result<()>;

    /// Asks it to leave in order (SIGTERM), and waits for its end.
    ///
    /// # Errors
    ///
    /// It does not end in time, or not well; with its log.
    fn stop(&mut self) -> Result<()>;

    /// Kills it (SIGKILL).
    fn kill(&mut self);

    /// Sends a signal to all its processes.
    ///
    /// # Errors
    ///
    /// It does not run.
    fn signal(&self, signal: Signal) -> Result<()>;

    /// Has it give the VIP to its peer, as one does before maintenance.
    ///
    /// # Errors
    ///
    /// It refuses.
    fn release(&mut self) -> Result<()>;

    /// Ends a [`release`](Router::release): what its priority says holds again.
    ///
    /// # Errors
    ///
    /// It refuses.
    fn reclaim(&mut self) -> Result<()>;

    /// All that it logged.
    fn log(&self) -> String;
}

/// Two routers that share the lab's VIP, on its first and its second balancer.
#[derive(Debug)]
pub struct Pair(pub [Box<dyn Router>; 2]);

/// `weir` as a VRRP router.
#[derive(Debug)]
pub struct WeirRouter {
    member: Member,
    balancer: Balancer,
    config: String,
    weir: Option<Weir>,
}

// === impl Pair ===

impl Pair {
    /// Starts both.
    ///
    /// # Errors
    ///
    /// As for [`Router::start`].
    pub fn start(&mut self) -> Result<()> {
        self.0.iter_mut().try_for_each(|router| router.start())
    }

    /// Which of them have the VIP.
    ///
    /// # Errors
    ///
    /// The kernel does not say.
    pub fn owners(&self) -> Result<[bool; 2]> {
        let [first, second] = &self.0;
        Ok([first.member().has_vip()?, second.member().has_vip()?])
    }

    /// Waits until the first and the second have the VIP, or not, as wanted.
    ///
    /// # Errors
    ///
    /// It is otherwise when the limit has passed; with their logs.
    pub fn wait_for_owners(&self, wanted: [bool; 2], limit: Duration) -> Result<()> {
        self.wait_for(limit, &format!("the VIP on {wanted:?}"), || Ok(self.owners()? == wanted))
    }

    /// Waits until `condition` holds.
    ///
    /// # Errors
    ///
    /// It does not within the limit, with both logs; or its own.
    pub fn wait_for(
        &self,
        limit: Duration,
        what: &str,
        condition: impl FnMut() -> Result<bool>,
    ) -> Result<()> {
        let logs = || self.0.each_ref().map(|router| router.log());
        wait::until(limit, what, condition, || Ok(describe(self.owners()?, &logs())))
    }
}

/// Who of two has the VIP, and what both said.
pub(crate) fn describe(owners: [bool; 2], [first, second]: &[String; 2]) -> String {
    format!("the VIP is on {owners:?}\n--- first\n{first}\n--- second\n{second}")
}

// === impl WeirRouter ===

impl WeirRouter {
    /// A daemon for a balancer; `config` is what it does besides.
    pub fn new(balancer: &Balancer, member: Member, config: &str) -> Self {
        let config = format!("{config}{}", member.weir());
        Self { member, balancer: balancer.clone(), config, weir: None }
    }

    /// The daemon.
    ///
    /// # Errors
    ///
    /// It was never started.
    pub fn daemon(&self) -> Result<&Weir> {
        self.weir.as_ref().context("weir was not started")
    }
}

impl Router for WeirRouter {
    fn member(&self) -> &Member {
        &self.member
    }

    fn start(&mut self) -> Result<()> {
        match &mut self.weir {
            Some(weir) => weir.start()?,
            None => self.weir = Some(self.balancer.start_weir(&self.config)?),
        }
        Ok(())
    }

    fn stop(&mut self) -> Result<()> {
        self.weir.as_mut().context("weir was not started")?.stop()
    }

    fn kill(&mut self) {
        if let Some(weir) = &mut self.weir {
            weir.kill();
        }
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        self.daemon()?.signal(signal)
    }

    fn release(&mut self) -> Result<()> {
        self.daemon()?.cli(&["vrrp", "release", INSTANCE]).map(drop)
    }

    fn reclaim(&mut self) -> Result<()> {
        self.daemon()?.cli(&["vrrp", "preempt", INSTANCE]).map(drop)
    }

    fn log(&self) -> String {
        self.weir.as_ref().map(Weir::log).unwrap_or_default()
    }
}
