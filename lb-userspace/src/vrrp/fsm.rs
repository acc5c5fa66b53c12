//! The state machine of one virtual router (RFC 9568 section 6.4, RFC 3768 section 6.4), without
//! I/O and without a clock: adverts, timers and wishes go in with the time, what is to be done
//! comes out.
//!
//! Where it goes beyond the RFCs:
//!
//! - *Make before break.* Who leaves in order advertises priority 0 and keeps the addresses until
//!   another router advertises itself, so that there is no moment without a master.
//! - *Priority 0 counts from the master alone.* From anyone else it says nothing of the master.
//! - *Answers have a pace.* A lower-priority master is answered at once, but a flood of its adverts
//!   is not answered with a flood.
//! - *Leftovers stay until it is known who owns them.* A daemon that was killed and comes back
//!   takes its addresses off when it hears a master, not before: there may be none.
//! - *Tables come first.* Where routers share tables, a master of lower priority is replaced once
//!   its tables are here (`tables.rs`).
//! - *Clients are called back.* Of two masters the one that gives way advertises itself once more,
//!   and the one that stays announces the addresses anew: clients may have learned the other's MAC
//!   address.

mod hearing;
mod leaving;
mod liveness;
mod model;
mod split;
mod tables;
mod wishes;
mod witness;

use std::{net::IpAddr, time::Duration};

pub use self::model::*;
use self::{
    leaving::{Leaving, Then},
    split::Watch,
    tables::Lower,
    witness::Question,
};
use super::packet::{PRIORITY_LEAVING, Version};

/// The priority of who owns the addresses.
pub const PRIORITY_OWNER: u8 = u8::MAX;

/// One virtual router.
#[derive(Debug, Clone)]
pub struct Fsm {
    settings: Settings,
    role: Role,
    /// The master's interval: ours in v2, in v3 the one it last advertised.
    master_interval: Duration,
    /// Whether the addresses were released by command: no master is preempted then.
    released: bool,
    /// What shows that two routers have the addresses.
    watch: Watch,
}

#[derive(Debug, Clone)]
enum Role {
    Fault(String),
    Backup(Backup),
    Master(Master),
}

#[derive(Debug, Clone)]
struct Backup {
    /// When it became a backup.
    since: Duration,
    /// When the master was last heard.
    heard: Duration,
    /// When it counts as gone (`Active_Down_Timer`).
    down: Duration,
    /// The latest other master, also one that is to be preempted.
    master: Option<Peer>,
    /// The master said that it leaves.
    left: Option<IpAddr>,
    /// The master has a lower priority, and is to be replaced.
    lower: Option<Lower>,
    /// The master is gone, the group's others do not agree yet.
    waiting: bool,
    /// Addresses that a killed daemon left may be there still.
    leftovers: bool,
    /// Since when the master's host answers no probe.
    silent: Option<Duration>,
    /// A stall of our own has lengthened the wait since the master was last heard.
    reprieved: bool,
    /// Whether we are cut off.
    question: Question,
}

#[derive(Debug, Clone)]
struct Master {
    /// When it became the master.
    since: Duration,
    /// The next advert (`Adver_Timer`).
    advert: Duration,
    /// No answer before.
    quiet_until: Duration,
    /// When a peer or a witness last showed that we are not cut off.
    seen: Duration,
    leaving: Option<Leaving>,
    /// The addresses are announced anew at this time at the latest.
    announce: Option<Duration>,
}

impl Fsm {
    /// A virtual router that takes no part yet.
    pub fn new(settings: Settings) -> Self {
        let role = Role::Fault("starting".to_owned());
        let watch = Watch::default();
        Self { master_interval: settings.interval, settings, role, released: false, watch }
    }

    /// Takes in what happened at `now` and returns what is to be done.
    pub fn handle(&mut self, input: Input<'_>, now: Duration) -> Vec<Output> {
        let mut out = Vec::new();
        match input {
            Input::Start => self.start(now, &mut out),
            Input::Stop(reason) => self.stop(Why::Missing(reason), &mut out),
            Input::Leave => self.leave(now, &mut out),
            Input::Timer => {
                self.timer(now, &mut out);
                self.look_for_signs(now, &mut out);
                self.end_old_splits(now, &mut out);
            }
            Input::Arrived(packets) => self.packets_arrive(packets, now, &mut out),
            Input::Silent(silence) => self.host_falls_silent(silence),
            Input::Answers => self.host_answers(now),
            Input::Answered(sent) => self.answered(sent, now, &mut out),
            Input::Spoke(time) => self.spoke(time),
            Input::Stalled(late) => self.stalled(late, now),
            Input::Advert(from, advert) => {
                self.compare_masters(from, advert, now, &mut out);
                match &self.role {
                    Role::Fault(_) => {}
                    Role::Backup(_) => self.backup_hears(from, advert, now, &mut out),
                    Role::Master(_) => self.master_hears(from, advert, now, &mut out),
                }
            }
        }
        out
    }

    /// The state.
    pub fn state(&self) -> State {
        match self.role {
            Role::Fault(_) => State::Fault,
            Role::Backup(_) => State::Backup,
            Role::Master(_) => State::Master,
        }
    }

    /// Why it takes no part, if so.
    pub fn fault(&self) -> Option<&str> {
        match &self.role {
            Role::Fault(reason) => Some(reason),
            _ => None,
        }
    }

    /// When [`Input::Timer`] is due.
    pub fn deadline(&self) -> Option<Duration> {
        let signs = [self.given_up_at(), self.cut_off_at()].into_iter().flatten();
        self.role_deadline().into_iter().chain(signs).chain(self.watch.deadline()).min()
    }

    fn role_deadline(&self) -> Option<Duration> {
        match &self.role {
            Role::Fault(_) => None,
            Role::Backup(Backup { waiting, question, down, .. }) => {
                (!waiting && question.asked.is_none()).then_some(*down)
            }
            Role::Master(Master { advert, leaving, announce, .. }) => {
                let until = leaving.as_ref().map(|leaving| leaving.until);
                [Some(*advert), until, *announce].into_iter().flatten().min()
            }
        }
    }

    /// The settings in force.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The router that has the addresses, as far as we know; nothing if we have them.
    pub fn other_master(&self) -> Option<Peer> {
        match &self.role {
            Role::Backup(backup) => backup.master,
            _ => None,
        }
    }

    /// Whether it would be the master if its group agreed.
    pub fn is_waiting(&self) -> bool {
        matches!(&self.role, Role::Backup(backup) if backup.waiting)
    }

    /// Whether it is about to give its addresses up.
    pub fn is_leaving(&self) -> bool {
        matches!(&self.role, Role::Master(master) if master.leaving.is_some())
    }

    /// Whether the addresses were released by command, so that no master is preempted.
    pub fn is_released(&self) -> bool {
        self.released
    }

    // === Inputs ===

    /// RFC 9568 section 6.4.1.
    fn start(&mut self, now: Duration, out: &mut Vec<Output>) {
        if self.state() != State::Fault {
            return;
        }
        let owner = self.settings.priority == PRIORITY_OWNER && !self.settings.grouped;
        if owner && self.settings.patience.is_none() {
            return self.become_master(Why::Owner, now, out);
        }
        self.master_interval = self.settings.interval;
        self.become_backup(None, Why::Started, now, out);
        if let Role::Backup(backup) = &mut self.role
            && owner
        {
            // It waits for a sign alone.
            backup.down = now;
        }
    }

    /// The Shutdown event of RFC 9568 sections 6.4.2 and 6.4.3.
    fn stop(&mut self, why: Why, out: &mut Vec<Output>) {
        let from = self.state();
        if from == State::Master {
            out.push(Output::Send(PRIORITY_LEAVING));
        }
        out.push(Output::Withdraw);
        self.role = Role::Fault(why.to_string());
        if from != State::Fault {
            out.push(Output::Changed { from, to: State::Fault, why });
        }
        self.end_splits(out);
    }

    fn leave(&mut self, now: Duration, out: &mut Vec<Output>) {
        if self.state() == State::Master {
            self.begin_leaving(Then::Fault, now, out);
        } else {
            self.stop(Why::Stopped, out);
        }
    }

    fn timer(&mut self, now: Duration, out: &mut Vec<Output>) {
        if self.role_deadline().is_none_or(|deadline| now < deadline) {
            return;
        }
        match &mut self.role {
            Role::Fault(_) => {}
            Role::Backup(_) => {
                if !self.asks(now, out) {
                    self.replace_master(now, out);
                }
            }
            Role::Master(Master { leaving: Some(leaving), .. }) if now >= leaving.until => {
                let then = leaving.then;
                self.end_leaving(then, now, out);
            }
            Role::Master(master) if now < master.advert => self.announce_in_time(now, out),
            Role::Master(master) => {
                // On the beat, unless so late that adverts would come in a burst.
                let next = master.advert + self.settings.interval;
                master.advert = if next > now { next } else { now + self.settings.interval };
                let leaving = master.leaving.is_some();
                let priority = if leaving { PRIORITY_LEAVING } else { self.settings.priority };
                out.push(Output::Send(priority));
            }
        }
    }

    /// The master is gone: becomes the master, or waits for its group.
    fn replace_master(&mut self, now: Duration, out: &mut Vec<Output>) {
        match &mut self.role {
            Role::Backup(backup) if self.settings.grouped => backup.waiting = true,
            _ => {
                let why = self.end_of_master(now);
                self.become_master(why, now, out);
            }
        }
    }

    // === Changes of state ===

    fn become_master(&mut self, why: Why, now: Duration, out: &mut Vec<Output>) {
        let from = self.state();
        let advert = now + self.settings.interval;
        let (since, quiet_until, seen) = (now, now, now);
        let (leaving, announce) = (None, None);
        self.role = Role::Master(Master { since, advert, quiet_until, seen, leaving, announce });
        self.released = false;
        out.push(Output::Send(self.settings.priority));
        out.push(Output::Take);
        out.push(Output::Changed { from, to: State::Master, why });
        self.end_splits(out);
    }

    fn become_backup(
        &mut self,
        master: Option<Peer>,
        why: Why,
        now: Duration,
        out: &mut Vec<Output>,
    ) {
        let from = self.state();
        if from == State::Master {
            out.push(Output::Withdraw);
        }
        self.role = Role::Backup(Backup {
            since: now,
            heard: now,
            down: now + self.master_down_interval(),
            master,
            left: None,
            lower: None,
            waiting: false,
            leftovers: from == State::Fault,
            silent: None,
            reprieved: false,
            question: Question::default(),
        });
        out.push(Output::Changed { from, to: State::Backup, why });
        self.end_splits(out);
    }

    // === What inputs have in common ===

    /// Why the master is no longer followed when its timer has run out.
    fn end_of_master(&self, now: Duration) -> Why {
        let Role::Backup(backup) = &self.role else { return Why::Started };
        match (backup.left, backup.master) {
            (Some(address), _) => Why::Left(address),
            (None, Some(peer)) if backup.lower.is_some_and(|lower| lower.replaced) => {
                let lacks = self.settings.lacks_tables;
                if lacks { Why::PreemptsWithout(peer) } else { Why::Preempts(peer) }
            }
            (None, Some(Peer { address, .. })) if backup.silent.is_some() => {
                let since = backup.silent.unwrap_or(now);
                Why::Unanswered(address, now.saturating_sub(since))
            }
            (None, master) => {
                let silence = now.saturating_sub(backup.heard);
                Why::Silence(master.map(|master| master.address), silence)
            }
        }
    }

    /// Whether we are to be the master of the two. Addresses compare as unsigned numbers.
    fn outranks(&self, peer: Peer) -> bool {
        Peer { address: self.settings.own, priority: self.settings.priority }.outranks(peer)
    }

    /// `Skew_Time` (RFC 9568 section 6.1; RFC 3768 section 6.1: parts of a second).
    fn skew(&self) -> Duration {
        let whole = match self.settings.version {
            Version::V2 => Duration::from_secs(1),
            Version::V3 => self.master_interval,
        };
        whole * (256 - u32::from(self.settings.priority)) / 256
    }

    /// `Active_Down_Interval`
    fn master_down_interval(&self) -> Duration {
        self.master_interval * 3 + self.skew()
    }
}

#[cfg(test)]
mod tests;
