//! Leaving in order: make before break. Priority 0 goes out, the addresses stay until another router
//! advertises itself, so that no moment is without a master.

use std::time::Duration;

use super::{Fsm, Output, Peer, Role, State, Why};
use crate::vrrp::packet::{PRIORITY_LEAVING, Version};

/// What a successor may need beyond its skew to be heard: a busy machine's delays.
const SUCCESSOR_SLACK: Duration = Duration::from_millis(250);
/// The longest that leaving in order may take, in all: systemd waits not much longer.
const LEAVING_MAX: Duration = Duration::from_secs(3);

#[derive(Debug, Clone)]
pub(super) struct Leaving {
    pub(super) until: Duration,
    pub(super) then: Then,
}

/// What a master that leaves becomes, should nobody take over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Then {
    /// Master as before.
    Stay,
    /// Backup all the same.
    Backup,
    /// Nothing: the daemon stops.
    Fault,
}

impl Fsm {
    pub(super) fn begin_leaving(&mut self, then: Then, now: Duration, out: &mut Vec<Output>) {
        // A successor waits for its skew, which is below one interval of ours (v3) or a second.
        let skew = match self.settings.version {
            Version::V2 => Duration::from_secs(1),
            Version::V3 => self.settings.interval,
        };
        let patience = skew + SUCCESSOR_SLACK;
        let patience = if then == Then::Fault { patience.min(LEAVING_MAX) } else { patience };
        let Role::Master(master) = &mut self.role else { return };
        master.advert = now + self.settings.interval;
        master.leaving = Some(Leaving { until: now + patience, then });
        out.push(Output::Send(PRIORITY_LEAVING));
    }

    /// Another router has taken over what is being left.
    pub(super) fn hand_over(
        &mut self,
        peer: Peer,
        then: Then,
        now: Duration,
        out: &mut Vec<Output>,
    ) {
        if then == Then::Fault {
            out.push(Output::Withdraw);
            self.role = Role::Fault(Why::Stopped.to_string());
            let (from, to) = (State::Master, State::Fault);
            out.push(Output::Changed { from, to, why: Why::TakenOver(peer) });
            self.end_splits(out);
        } else {
            self.become_backup(Some(peer), Why::TakenOver(peer), now, out);
        }
    }

    /// Nobody has.
    pub(super) fn end_leaving(&mut self, then: Then, now: Duration, out: &mut Vec<Output>) {
        match then {
            Then::Fault => self.stop(Why::Stopped, out),
            Then::Backup => self.become_backup(None, Why::Group, now, out),
            Then::Stay => {
                self.released = false;
                if let Role::Master(master) = &mut self.role {
                    master.leaving = None;
                    master.advert = now + self.settings.interval;
                }
                out.push(Output::Send(self.settings.priority));
                out.push(Output::Kept);
            }
        }
    }
}
