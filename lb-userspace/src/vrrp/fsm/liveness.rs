//! What is known of the master beside its adverts, and of ourselves: its host no longer answers
//! probes; we stalled.

use std::time::Duration;

use super::{Fsm, Role};
use crate::vrrp::echo::Silence;

/// Of a master: coming later than that, it has had no chance to see its peers.
const STALL_LEAST: Duration = Duration::from_millis(250);

impl Fsm {
    /// The master's host no longer answers: the wait for its adverts ends, unless one came since.
    ///
    /// The last probe has its time left to be answered, shortened by the priority as the skew of
    /// adverts is (RFC 9568 section 6.1), so that of several backups the best comes first.
    pub(super) fn host_falls_silent(&mut self, silence: Silence) {
        let rank = (256 - u32::from(self.settings.priority)).max(64);
        let until = silence.last + silence.interval * rank / 256;
        if let Role::Backup(backup) = &mut self.role
            && backup.heard < silence.since
            && backup.left.is_none()
        {
            backup.down = backup.down.min(until);
            backup.silent = Some(silence.since);
        }
    }

    /// The master's host answers again.
    pub(super) fn host_answers(&mut self, now: Duration) {
        let interval = self.master_down_interval();
        if let Role::Backup(backup) = &mut self.role
            && backup.silent.take().is_some()
        {
            backup.down = backup.heard + interval;
        }
        self.withdraw_question(now);
    }

    /// We came this much too late: adverts may have been lost with nobody to receive them, or the
    /// whole machine stood still. Once, the master is given the time for another one.
    pub(super) fn stalled(&mut self, late: Duration, now: Duration) {
        let (interval, skew) = (self.master_interval, self.skew());
        if let Role::Backup(backup) = &mut self.role
            && late > interval
            && backup.left.is_none()
            && !std::mem::replace(&mut backup.reprieved, true)
        {
            backup.down = backup.down.max(now + interval + skew);
        }
        self.withdraw_question(now);
        // The signs of that time wait to be taken in, or were not asked for.
        if late > STALL_LEAST {
            self.spoke(now);
        }
    }
}
