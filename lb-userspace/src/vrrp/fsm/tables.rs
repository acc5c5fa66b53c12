//! What waits for the tables of another router: a backup that is to replace it, and a master that is
//! to have clients leave it.
//!
//! Both wait [`TABLES_WAIT`] at most. A router that cannot be reached, or has no tables to share, is
//! replaced all the same; one that is silent is not waited for at all.

use std::time::Duration;

use super::{Fsm, Output, Peer, Role};

/// The longest wait for another router's tables.
pub(super) const TABLES_WAIT: Duration = Duration::from_secs(10);

/// A master of lower priority, as a backup knows it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Lower {
    /// When it was first heard.
    since: Duration,
    /// It was said that its tables are waited for.
    awaited: bool,
    /// Its adverts are discarded: it is replaced when the timer runs out.
    pub(super) replaced: bool,
}

impl Fsm {
    /// Whether a backup lets a master be: one that goes first always, one of lower priority for
    /// `preempt_delay`, and until its tables are here.
    pub(super) fn lets_be(&mut self, peer: Peer, now: Duration, out: &mut Vec<Output>) -> bool {
        let lower = peer.priority < self.settings.priority;
        let preempts = lower && self.settings.preempt && !self.released;
        let Role::Backup(backup) = &mut self.role else { return true };
        if !preempts {
            backup.lower = None;
            return true;
        }
        let first = Lower { since: now, awaited: false, replaced: false };
        let lower = backup.lower.get_or_insert(first);
        let waits = self.settings.lacks_tables && now < lower.since + TABLES_WAIT;
        if waits && !std::mem::replace(&mut lower.awaited, true) {
            out.push(Output::Awaits(peer));
        }
        lower.replaced = !waits && now >= lower.since + self.settings.preempt_delay;
        !lower.replaced
    }

    /// A master has heard another one that gives way: clients may know that one's MAC address, so
    /// they are told anew whose the addresses are, once what it knows of their flows is here.
    pub(super) fn has_rival(&mut self, now: Duration, out: &mut Vec<Output>) {
        if let Role::Master(master) = &mut self.role {
            master.announce.get_or_insert(now + TABLES_WAIT);
        }
        self.announce_in_time(now, out);
    }

    /// Announces the addresses anew, if that is to be done and waits for nothing any more.
    pub(super) fn announce_in_time(&mut self, now: Duration, out: &mut Vec<Output>) {
        let lacks_tables = self.settings.lacks_tables;
        if let Role::Master(master) = &mut self.role
            && master.announce.is_some_and(|latest| !lacks_tables || now >= latest)
        {
            master.announce = None;
            out.push(Output::Announce);
        }
    }
}
