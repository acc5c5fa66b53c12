//! Adverts of other masters, as a backup and as the master.

use std::{net::IpAddr, time::Duration};

use super::{Fsm, Output, Peer, Role, Why, witness::Question};
use crate::vrrp::packet::{Advert, PRIORITY_LEAVING, Version};

/// Answers to others' adverts are at least this far apart: the shortest interval there is.
const ANSWER_PAUSE: Duration = Duration::from_millis(10);

impl Fsm {
    /// RFC 9568 section 6.4.2.
    pub(super) fn backup_hears(
        &mut self,
        from: IpAddr,
        advert: &Advert,
        now: Duration,
        out: &mut Vec<Output>,
    ) {
        let peer = Peer { address: from, priority: advert.priority };
        let skew = self.skew();
        let Role::Backup(backup) = &mut self.role else { return };
        if advert.priority == PRIORITY_LEAVING {
            if backup.master.is_none_or(|master| master.address == from) {
                // Never later than it would be without.
                backup.down = backup.down.min(now + skew);
                backup.left = Some(from);
            }
            return;
        }
        if std::mem::take(&mut backup.leftovers) {
            out.push(Output::Withdraw);
        }
        backup.master = Some(peer);
        if !self.lets_be(peer, now, out) {
            // Discarded: the timer runs on. But it is a sign, if we wait for one.
            return self.answered(now, now, out);
        }
        let Role::Backup(backup) = &mut self.role else { return };
        backup.heard = now;
        (backup.silent, backup.reprieved) = (None, false);
        backup.left = None;
        backup.waiting = false;
        backup.question = Question::default();
        self.learn(advert);
        let down_interval = self.master_down_interval();
        if let Role::Backup(backup) = &mut self.role {
            backup.down = now + down_interval;
        }
    }

    /// RFC 9568 section 6.4.3.
    pub(super) fn master_hears(
        &mut self,
        from: IpAddr,
        advert: &Advert,
        now: Duration,
        out: &mut Vec<Output>,
    ) {
        let peer = Peer { address: from, priority: advert.priority };
        let outranked = !self.outranks(peer);
        self.spoke(now);
        let Role::Master(master) = &mut self.role else { return };
        if let Some(leaving) = &master.leaving {
            if advert.priority != PRIORITY_LEAVING {
                let then = leaving.then;
                self.learn(advert);
                self.hand_over(peer, then, now, out);
            }
            return;
        }
        if advert.priority != PRIORITY_LEAVING && outranked {
            self.learn(advert);
            // Once more, so that the other one knows: clients may have learned our MAC address.
            out.push(Output::Send(self.settings.priority));
            return self.become_backup(Some(peer), Why::Outranked(peer), now, out);
        }
        if now < master.quiet_until {
            return;
        }
        master.quiet_until = now + ANSWER_PAUSE;
        if advert.priority == PRIORITY_LEAVING {
            master.advert = now + self.settings.interval;
        }
        out.push(Output::Send(self.settings.priority));
        self.has_rival(now, out);
    }

    /// A v3 master's interval is learned (RFC 9568 section 6.1, `Active_Adver_Interval`); in v2
    /// another than ours was discarded.
    fn learn(&mut self, advert: &Advert) {
        if self.settings.version == Version::V3 {
            self.master_interval = advert.interval;
        }
    }
}
