//! Two balancers as people run them: one VIP that VRRP gives to either, and the same tables on both.

use std::{net::IpAddr, time::Duration};

use anyhow::{Result, bail, ensure};
use weir::{core::SyncStatus, sync::Key, vrrp::VrrpStatus};

use crate::{
    Lab, Service, Weir,
    router::describe,
    topology,
    vrrp::{INSTANCE, Member, Vrrp},
    wait,
};

/// The priorities, of the preferred master and the other.
pub const PRIORITIES: [u8; 2] = [150, 100];

/// The lab's first two balancers, the first of which is the preferred master.
#[derive(Debug)]
pub struct WeirPair {
    weirs: [Weir; 2],
    members: [Member; 2],
    /// The part of the configuration that stays: VRRP and `[sync]`.
    shared: [String; 2],
}

impl WeirPair {
    /// Starts both, and returns when their backends are up. The lab's VIP has to be unclaimed.
    ///
    /// # Errors
    ///
    /// A daemon does not start, or is not in order in time.
    pub fn start(lab: &Lab, vrrp: &Vrrp, services: &[Service]) -> Result<Self> {
        let [first, second, ..] = lab.balancers() else { bail!("the lab has one balancer") };
        let key = Key::generate();
        let member = |index: usize| vrrp.member(lab, index, PRIORITIES[index]);
        let members = [member(0), member(1)];
        let peers = &lab.balancers()[..2];
        let shared = [
            first.sync_section(&key, peers)? + &members[0].weir(),
            second.sync_section(&key, peers)? + &members[1].weir(),
        ];
        let weirs = [
            first.start_weir(&(first.config(services) + &shared[0]))?,
            second.start_weir(&(second.config(services) + &shared[1]))?,
        ];
        for weir in &weirs {
            weir.wait_until_up()?;
        }
        Ok(Self { weirs, members, shared })
    }

    /// The first daemon, or the second.
    pub fn weir(&self, index: usize) -> &Weir {
        &self.weirs[index]
    }

    /// The same, to be killed, stopped and started.
    pub fn weir_mut(&mut self, index: usize) -> &mut Weir {
        &mut self.weirs[index]
    }

    /// What VRRP says of a daemon's instance.
    ///
    /// # Errors
    ///
    /// It does not answer.
    pub fn vrrp(&self, index: usize) -> Result<VrrpStatus> {
        let mut all = self.weirs[index].status()?.vrrp;
        ensure!(!all.is_empty(), "there is no [[vrrp]]");
        Ok(all.remove(0))
    }

    /// What a daemon says of its peer.
    ///
    /// # Errors
    ///
    /// It does not answer.
    pub fn sync(&self, index: usize) -> Result<SyncStatus> {
        let sync = self.weirs[index].status()?.sync;
        sync.ok_or_else(|| anyhow::anyhow!("there is no [sync]"))
    }

    /// Which of the machines have the VIP.
    ///
    /// # Errors
    ///
    /// The kernel does not say.
    pub fn owners(&self) -> Result<[bool; 2]> {
        Ok([self.members[0].has_vip()?, self.members[1].has_vip()?])
    }

    /// Waits until the first and the second have the VIP, or not, as wanted.
    ///
    /// # Errors
    ///
    /// It is otherwise when the limit has passed; with both logs.
    pub fn wait_for_owners(&self, wanted: [bool; 2], limit: Duration) -> Result<()> {
        self.wait_for(limit, &format!("the VIP on {wanted:?}"), || Ok(self.owners()? == wanted))
    }

    /// Waits until both are there and have the same tables as a whole.
    ///
    /// # Errors
    ///
    /// They have not when the limit has passed; with both logs.
    pub fn wait_until_same(&self, limit: Duration) -> Result<String> {
        let mut digest = String::new();
        self.wait_for(limit, "the same tables on both", || {
            let both = [self.sync(0)?, self.sync(1)?];
            let whole = |sync: &SyncStatus| {
                sync.synced && sync.services_differ == 0 && sync.peers[0].connected
            };
            digest.clone_from(&both[0].digest);
            Ok(both.iter().all(whole) && both[0].digest == both[1].digest)
        })?;
        Ok(digest)
    }

    /// Waits until the first has the VIP alone, and both have the same tables.
    ///
    /// # Errors
    ///
    /// As for [`WeirPair::wait_until_same`].
    pub fn settle(&self, limit: Duration) -> Result<()> {
        self.wait_for_owners([true, false], limit)?;
        self.wait_until_same(limit).map(drop)
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
        let logs = || self.weirs.each_ref().map(Weir::log);
        wait::until(limit, what, condition, || Ok(describe(self.owners()?, &logs())))
    }

    /// The configuration of one of them with these services, for a reload.
    pub fn config(&self, index: usize, services: &[Service]) -> String {
        self.weirs[index].balancer().config(services) + &self.shared[index]
    }

    /// Has one of them give the VIP to the other (`weir vrrp release`).
    ///
    /// # Errors
    ///
    /// It refuses.
    pub fn release(&self, index: usize) -> Result<()> {
        self.weirs[index].cli(&["vrrp", "release", INSTANCE]).map(drop)
    }

    /// Has one of them take the VIP (`weir vrrp preempt`).
    ///
    /// # Errors
    ///
    /// It refuses.
    pub fn preempt(&self, index: usize) -> Result<()> {
        self.weirs[index].cli(&["vrrp", "preempt", INSTANCE]).map(drop)
    }
}

impl Lab {
    /// Cuts the balancers off from each other, and from nothing else: both reach clients and
    /// backends.
    ///
    /// # Errors
    ///
    /// The kernel refuses.
    pub fn part_balancers(&self) -> Result<()> {
        self.isolate_balancers("on")
    }

    /// Ends what [`Lab::part_balancers`] began.
    ///
    /// # Errors
    ///
    /// The kernel refuses.
    pub fn join_balancers(&self) -> Result<()> {
        self.isolate_balancers("off")
    }

    /// Which of the balancers has the VIP in the eyes of the client: its number, from 0.
    ///
    /// # Errors
    ///
    /// The kernel does not say.
    pub fn balancer_of_client(&self, vip: IpAddr) -> Result<Option<usize>> {
        let words = ["ip", "neighbour", "show", &vip.to_string(), "dev", "eth0"];
        let known = self.client().namespace().run(&words)?;
        let mut macs = (0..self.balancers().len()).map(topology::balancer_mac);
        Ok(macs.position(|mac| known.contains(&mac)))
    }
}
