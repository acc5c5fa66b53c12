//! The daemon and its VRRP: what it tells, and what it is told.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use tracing::warn;

use super::driver::Daemon;
use crate::{
    core::EventKind,
    vrrp::{DaemonFacts, HeldAddress, Report, Told, fsm::State},
};

/// How long leaving in order may take: VRRP's own three seconds and the kernel's time.
const LEAVE_PATIENCE: Duration = Duration::from_secs(6);

impl Daemon {
    /// Puts VRRP to work: addresses come where the program is, and not before.
    pub(super) fn start_vrrp(&mut self, leftovers: &[HeldAddress]) {
        self.inform_vrrp();
        self.edges.vrrp.configure(self.config.vrrp.clone(), leftovers);
    }

    /// Tells everyone what happened to an instance.
    pub(super) fn vrrp(&mut self, report: Report) {
        let Report { instance, told } = report;
        let kind = match told {
            Told::Changed { from, to, reason } => EventKind::Vrrp { instance, from, to, reason },
            Told::Note(what) => EventKind::VrrpNote { instance, what },
            Told::Fenced { peer, failure } => EventKind::VrrpFence { instance, peer, failure },
            Told::Split { split, over } => EventKind::VrrpSplit {
                instance,
                sign: split.sign().to_owned(),
                other: split.other(),
                over,
                what: split.to_string(),
            },
        };
        self.publish(kind, None);
        self.tell_who_has_the_addresses();
    }

    /// Tells VRRP what it follows.
    pub(super) fn inform_vrrp(&mut self) {
        if self.config.vrrp.is_empty() {
            return;
        }
        let lacks_tables = self.lacks_tables();
        self.lacked_tables = Some(lacks_tables);
        let attached = |name: &String| *self.ready.borrow() && !self.unattached.contains(name);
        let names = self.attachments.iter().map(|attachment| &attachment.name);
        self.edges.vrrp.set_facts(DaemonFacts {
            services: self.core.serving(),
            machine_suspected: self.core.machine_suspected(),
            lacks_tables,
            attached: names.map(|name| (name.clone(), attached(name))).collect(),
        });
    }

    /// Whether peers know what this node does not know yet: time alone may change that.
    pub(super) fn lacks_tables(&self) -> bool {
        let now = self.clock.now().monotonic;
        self.replication.as_ref().is_some_and(|peers| peers.lacks_tables(now))
    }

    /// Has the packets counted that arrive for the addresses of backups, by a thread that may wait
    /// for the kernel.
    pub(super) fn count_arrivals(&mut self) {
        let backups = self.edges.vrrp.status().into_iter();
        let mut backups = backups.filter(|instance| instance.state == State::Backup);
        let counting = self.arrivals.as_ref().is_some_and(|count| !count.is_finished());
        if counting || backups.next().is_none() {
            return;
        }
        let numbers: Vec<_> = self.core.numbers_by_address().collect();
        let (counters, arrived) = (Arc::clone(&self.tables.counters), self.edges.vrrp.arrived());
        self.arrivals = Some(tokio::task::spawn_blocking(move || {
            let end = numbers.iter().map(|(_, number)| usize::from(*number) + 1).max();
            let traffic = counters.backends(end.unwrap_or(0));
            let mut sums = BTreeMap::new();
            for (address, number) in numbers {
                let forwarded = traffic.get(usize::from(number)).copied().unwrap_or_default();
                *sums.entry(address).or_insert(0) += forwarded.sent + forwarded.redirected;
            }
            arrived.send_replace(sums);
        }));
    }

    /// Gives the addresses to others, if there are any who want them.
    pub(super) async fn leave_vrrp(&mut self) {
        if self.config.vrrp.is_empty() {
            return;
        }
        let mut left = self.edges.vrrp.leave();
        let patience = tokio::time::sleep(LEAVE_PATIENCE);
        tokio::pin!(patience);
        loop {
            tokio::select! {
                biased;
                report = self.edges.vrrp.report() => self.vrrp(report),
                _ = &mut left => break,
                () = &mut patience => {
                    warn!("VRRP did not leave in time: its addresses may be on still");
                    return;
                }
            }
        }
        // Nothing is left that a next run would have to take off.
        self.config.vrrp.clear();
    }
}
