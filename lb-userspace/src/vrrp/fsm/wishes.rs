//! What the configuration, operators and the rest of a group want.

use std::time::Duration;

use super::{Backup, Fsm, Master, Output, Refusal, Role, Settings, State, Why, leaving::Then};
use crate::vrrp::packet::Version;

impl Fsm {
    /// Changes the settings: a new priority or interval is advertised at once, and a backup's
    /// timer follows from when the master was last heard.
    pub fn configure(&mut self, settings: Settings, now: Duration) -> Vec<Output> {
        if settings == self.settings {
            return Vec::new();
        }
        let old_down_interval = self.master_down_interval();
        let old = std::mem::replace(&mut self.settings, settings);
        let Settings { version, priority, interval, own, .. } = self.settings;
        if version == Version::V2 || self.other_master().is_none() {
            self.master_interval = interval;
        }
        let down_interval = self.master_down_interval();
        let mut out = Vec::new();
        match &mut self.role {
            Role::Fault(_) => {}
            Role::Backup(backup) => {
                if backup.left.is_none() && down_interval != old_down_interval {
                    backup.down = backup.heard + down_interval;
                }
            }
            Role::Master(master) => {
                let changed = (old.priority, old.interval, old.own) != (priority, interval, own);
                if changed && master.leaving.is_none() {
                    master.advert = now + interval;
                    out.push(Output::Send(priority));
                }
            }
        }
        self.announce_in_time(now, &mut out);
        out
    }

    /// Becomes the master now (`weir vrrp preempt`).
    ///
    /// # Errors
    ///
    /// [`Refusal`]: the master would win the addresses back with its next advert.
    pub fn preempt(&mut self, now: Duration) -> Result<Vec<Output>, Refusal> {
        self.preempts()?;
        let mut out = Vec::new();
        match &mut self.role {
            Role::Fault(_) => {}
            Role::Backup(_) => self.become_master(Why::Asked, now, &mut out),
            Role::Master(master) => {
                if master.leaving.take().is_some() {
                    master.advert = now + self.settings.interval;
                    out.push(Output::Send(self.settings.priority));
                }
            }
        }
        self.released = false;
        Ok(out)
    }

    /// Whether [`Fsm::preempt`] would be refused.
    ///
    /// # Errors
    ///
    /// [`Refusal`]
    pub fn preempts(&self) -> Result<(), Refusal> {
        match &self.role {
            Role::Fault(reason) => Err(Refusal::Fault(reason.clone())),
            Role::Backup(Backup { master: Some(master), left: None, .. })
                if !self.outranks(*master) =>
            {
                Err(Refusal::Outranked { master: *master, own: self.settings.priority })
            }
            _ => Ok(()),
        }
    }

    /// Gives the addresses up as soon as another router takes them, and leaves it alone then
    /// (`weir vrrp release`).
    ///
    /// # Errors
    ///
    /// [`Refusal`]
    pub fn release(&mut self, now: Duration) -> Result<Vec<Output>, Refusal> {
        match &self.role {
            Role::Fault(reason) => Err(Refusal::Fault(reason.clone())),
            Role::Backup(_) => Err(Refusal::NotMaster),
            Role::Master(_) => {
                self.released = true;
                let mut out = Vec::new();
                self.begin_leaving(Then::Stay, now, &mut out);
                Ok(out)
            }
        }
    }

    /// Moves as the rest of its group did.
    pub fn follow(&mut self, state: State, now: Duration) -> Vec<Output> {
        let mut out = Vec::new();
        match (&self.role, state) {
            (Role::Backup(_), State::Master) => {
                let why = self.end_of_master(now);
                let why = if self.is_waiting() { why } else { Why::Group };
                self.become_master(why, now, &mut out);
            }
            (Role::Master(Master { leaving: None, .. }), State::Backup) => {
                self.begin_leaving(Then::Backup, now, &mut out);
            }
            _ => {}
        }
        out
    }
}
