//! With witnesses: a router that sees neither another router nor a witness is cut off. It gives the
//! addresses up, and does not take them; once it sees one of them, it takes part again.
//!
//! A backup whose time has come asks, and takes the addresses at the first answer to what was sent
//! after that: earlier ones say nothing of now. A master looks at the latest of all signs.

use std::time::Duration;

use super::{Backup, Fsm, Master, Output, Role, Why};
use crate::vrrp::packet::PRIORITY_LEAVING;

/// What a backup waits for, with witnesses.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Question {
    /// Since when it waits for a sign that we are not cut off, to replace the master then.
    pub(super) asked: Option<Duration>,
    /// There was none for long.
    pub(super) cut_off: bool,
}

impl Fsm {
    /// Whether it waits for a sign of a witness or another router.
    pub fn is_in_doubt(&self) -> bool {
        matches!(&self.role, Role::Backup(backup) if backup.question.asked.is_some())
    }

    /// Whether it has waited for one for so long that it takes itself for cut off.
    pub fn is_cut_off(&self) -> bool {
        matches!(&self.role, Role::Backup(backup) if backup.question.cut_off)
    }

    /// When a master has to give up, unless there is a sign.
    pub(super) fn given_up_at(&self) -> Option<Duration> {
        match (&self.role, self.settings.patience) {
            (Role::Master(Master { seen, leaving: None, .. }), Some(patience)) => {
                Some(*seen + patience)
            }
            _ => None,
        }
    }

    /// When a backup that waits for a sign says so.
    pub(super) fn cut_off_at(&self) -> Option<Duration> {
        let Role::Backup(Backup { question, .. }) = &self.role else { return None };
        let asked = question.asked.filter(|_| !question.cut_off)?;
        Some(asked + self.settings.patience?)
    }

    /// The master of a backup is gone: asks whether we are, if there are witnesses. Who said that it
    /// leaves was heard just now.
    pub(super) fn asks(&mut self, now: Duration, out: &mut Vec<Output>) -> bool {
        let Role::Backup(backup) = &mut self.role else { return false };
        if self.settings.patience.is_none() || backup.left.is_some() {
            return false;
        }
        if backup.question.asked.is_none() {
            backup.question.asked = Some(now);
            out.push(Output::Ask);
        }
        true
    }

    /// A host has answered what was sent to it at `sent`.
    pub(super) fn answered(&mut self, sent: Duration, now: Duration, out: &mut Vec<Output>) {
        self.spoke(sent);
        let Role::Backup(backup) = &mut self.role else { return };
        if backup.question.asked.is_some_and(|asked| sent >= asked) {
            backup.question = Question::default();
            self.replace_master(now, out);
        }
    }

    /// Another router has said something at `time`.
    pub(super) fn spoke(&mut self, time: Duration) {
        if let Role::Master(master) = &mut self.role {
            master.seen = master.seen.max(time);
        }
    }

    /// Looks at whether we are cut off.
    pub(super) fn look_for_signs(&mut self, now: Duration, out: &mut Vec<Output>) {
        if self.given_up_at().is_some_and(|time| now >= time) {
            out.push(Output::Send(PRIORITY_LEAVING));
            self.become_backup(None, Why::CutOff, now, out);
            if let Role::Backup(backup) = &mut self.role {
                backup.question.cut_off = true;
            }
        }
        if self.cut_off_at().is_some_and(|time| now >= time) {
            out.push(Output::CutOff);
            if let Role::Backup(backup) = &mut self.role {
                backup.question.cut_off = true;
            }
        }
    }

    /// There is more time for the master after all: what was asked is void.
    pub(super) fn withdraw_question(&mut self, now: Duration) {
        if let Role::Backup(backup) = &mut self.role
            && now < backup.down
        {
            backup.question.asked = None;
        }
    }
}
