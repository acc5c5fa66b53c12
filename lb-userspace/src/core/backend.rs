//! One backend of a running service.

use std::time::{Duration, SystemTime};

use lb_common::layout::Life;

use super::{
    BackendState, Entry, Now,
    changes::{Admin, Desired},
    health::Health,
    saved::{SavedBackend, SavedHealth},
    settle::Kept,
    slow_start::{STEPS, SlowStart},
    suspicion::{Recovery, Trouble},
};
use crate::config::{Backend as Spec, CheckKind, HealthCheck};

/// A backend with all that is known of it.
#[derive(Debug, Clone)]
pub(super) struct Backend {
    /// What it shall be.
    pub(super) spec: Spec,
    /// What an operator wants of it.
    pub(super) admin: Admin,
    /// Its number in the tables.
    pub(super) number: u16,
    /// Its life, as in the tables.
    pub(super) life: Life,
    /// When it began to drain.
    pub(super) drains_since: Option<Duration>,
    /// Whether it is a backup, and others serve.
    pub(super) stands_by: bool,
    /// The weight by which its load is compared, as last written.
    pub(super) load_weight: Option<u16>,
    /// Its flows that the last sweep found recorded.
    pub(super) tracked: u32,
    /// How many flows were left when an event last told of its drain.
    pub(super) drain_told: Option<u32>,
    /// What its checks say.
    pub(super) health: Health,
    /// What the last failed check said.
    pub(super) failure: String,
    /// Whether it has ever served.
    pub(super) proven: bool,
    /// Since when it has been failing.
    pub(super) trouble: Trouble,
    /// How its last trouble ended, if it did.
    pub(super) recovery: Option<Recovery>,
    /// When its last failed check began.
    pub(super) failed_at: Duration,
    /// Why it serves although it fails, if so.
    pub(super) kept: Option<Kept>,
    /// How far its slow start has come.
    pub(super) slow_start: Option<SlowStart>,
    /// Its table entry as last written; none while there is no way to it.
    pub(super) written: Option<Entry>,
    /// Why there is no way to it at the moment, if so.
    pub(super) no_way: Option<String>,
    /// Its state, with what goes with it.
    pub(super) state: BackendState,
    pub(super) since: SystemTime,
    pub(super) reason: String,
    /// Slots it owns.
    pub(super) slots: u32,
    /// The weight with which the ring was last built.
    pub(super) given_weight: u16,
}

impl Backend {
    /// A backend that nothing is known of yet, with the number of its life.
    pub(super) fn new(desired: Desired, number: u16, life: u16, now: SystemTime) -> Self {
        Self {
            stands_by: desired.backend.backup,
            load_weight: None,
            spec: desired.backend,
            admin: desired.admin,
            number,
            life: Life::new(life, false, false),
            drains_since: None,
            tracked: 0,
            drain_told: None,
            health: Health::Unchecked,
            failure: String::new(),
            proven: false,
            trouble: Trouble::None,
            recovery: None,
            failed_at: Duration::ZERO,
            kept: None,
            slow_start: None,
            written: None,
            no_way: None,
            state: BackendState::Down,
            since: now,
            reason: "not checked yet".to_owned(),
            slots: 0,
            given_weight: 0,
        }
    }

    /// A backend as an earlier run left it, with its table entry.
    pub(super) fn adopt(
        desired: Desired,
        saved: &SavedBackend,
        (written, life): (Option<Entry>, Life),
        check: &HealthCheck,
        now: Now,
    ) -> Self {
        let health = match saved.health {
            SavedHealth::Unchecked => Health::Unchecked,
            SavedHealth::Up => Health::Up,
            SavedHealth::Down => Health::Down { passes: 0, began: None },
        };
        let mut backend = Self::new(desired, saved.number, life.number(), saved.since);
        backend.life = life;
        backend.health = health;
        backend.failure.clone_from(&saved.reason);
        backend.written = written;
        backend.proven = saved.proven || saved.health == SavedHealth::Up;
        backend.trouble = match (saved.health, saved.kept) {
            // If the machine is still suspected, the suspicion takes it in again.
            (SavedHealth::Down, true) => Trouble::Doubted(now.monotonic),
            (SavedHealth::Down, false) => Trouble::Believed,
            (SavedHealth::Up | SavedHealth::Unchecked, _) => Trouble::None,
        };
        let (state, reason) = backend.assess(check);
        (backend.state, backend.reason) = (state, reason);
        if state == BackendState::Draining {
            backend.drains_since = Some(now.monotonic);
            backend.reason = backend.drain_progress();
        }
        backend
    }

    pub(super) fn saved(&self) -> SavedBackend {
        SavedBackend {
            address: self.spec.address,
            number: self.number,
            health: match self.health {
                Health::Unchecked => SavedHealth::Unchecked,
                Health::Up | Health::Suspect { .. } => SavedHealth::Up,
                Health::Down { .. } => SavedHealth::Down,
            },
            since: self.since,
            reason: self.failure.clone(),
            proven: self.proven,
            kept: matches!(self.kept, Some(Kept::Machine | Kept::Doubt)),
            slow_start_ends: self.slow_start.map(|start| start.ends_at),
        }
    }

    /// The weight with which it takes part in the ring: none as long as it stands by.
    pub(super) fn ring_weight(&self) -> u16 {
        if self.stands_by { 0 } else { self.own_weight() }
    }

    /// The weight that its state gives it. Doubled, so that a suspect backend can have half of it.
    pub(super) fn own_weight(&self) -> u16 {
        match self.state {
            BackendState::Up => self.spec.weight * 2,
            BackendState::Suspect | BackendState::Down
                if self.kept.is_some() && self.is_wanted() =>
            {
                self.spec.weight * 2
            }
            BackendState::Suspect => self.spec.weight,
            BackendState::Down | BackendState::Draining | BackendState::Maintenance => 0,
        }
    }

    /// Whether an operator wants it to take new flows.
    pub(super) fn is_wanted(&self) -> bool {
        self.admin == Admin::Serve && self.spec.weight > 0
    }

    /// Whether it is suspect or down.
    pub(super) fn is_failing(&self) -> bool {
        matches!(self.state, BackendState::Suspect | BackendState::Down)
    }

    /// Takes note of when it began to fail, if it served before.
    pub(super) fn note_trouble(&mut self, check: &HealthCheck, began: Duration) {
        self.proven |= self.state.serves() || self.state == BackendState::Draining;
        let checks_fail = matches!(self.health, Health::Suspect { .. } | Health::Down { .. });
        let fails = self.proven && (checks_fail || self.is_cut_off(check));
        if !fails {
            self.recovery = self.trouble.recovery(began).or(self.recovery);
        }
        self.trouble = match self.trouble {
            _ if !fails => Trouble::None,
            // What fails while an operator works on it says nothing about this machine.
            Trouble::None if self.admin == Admin::Maintenance => Trouble::Believed,
            Trouble::None => Trouble::Since(began),
            known => known,
        };
    }

    /// Whether it fails, where `counts` says since when that counts, or serves; nothing if it did not
    /// serve before.
    pub(super) fn verdict(&self, counts: impl FnOnce(Duration) -> bool) -> Option<bool> {
        match self.trouble {
            Trouble::None if self.state.serves() => Some(false),
            Trouble::Since(began) if counts(began) => Some(true),
            _ => None,
        }
    }

    /// Believes a failed check that began after the backend was given the benefit of the doubt.
    /// Returns whether that is news.
    pub(super) fn dispel_doubt(&mut self, started: Duration) -> bool {
        let dispelled = matches!(self.trouble, Trouble::Doubted(since) if started > since);
        if dispelled {
            self.trouble = Trouble::Believed;
        }
        dispelled
    }

    /// The life that follows from its state: a death ends all records of the life before.
    pub(super) fn next_life(&self) -> Life {
        let lives =
            self.state.serves() || self.state == BackendState::Draining || self.kept.is_some();
        let dies = self.life.lives() && !lives;
        let number = self.life.number().wrapping_add(u16::from(dies));
        Life::new(number, lives, self.ring_weight() > 0)
    }

    /// The state that follows from all that is known, and why.
    pub(super) fn assess(&self, check: &HealthCheck) -> (BackendState, String) {
        if self.admin == Admin::Maintenance {
            return (BackendState::Maintenance, "taken out by an operator".to_owned());
        }
        match &self.health {
            Health::Unchecked => (BackendState::Down, "not checked yet".to_owned()),
            Health::Down { passes: 0, .. } => (BackendState::Down, self.failure.clone()),
            Health::Down { passes, .. } => {
                let reason = format!("{passes} of {} checks passed again", check.rise);
                (BackendState::Down, reason)
            }
            Health::Up | Health::Suspect { .. } if self.is_cut_off(check) => {
                let reason = self.no_way.as_deref().unwrap_or("looking for the way to it");
                (BackendState::Down, reason.to_owned())
            }
            Health::Up | Health::Suspect { .. } if self.admin == Admin::Drain => {
                (BackendState::Draining, self.drain_progress())
            }
            Health::Suspect { failures, .. } => {
                let reason =
                    format!("{failures} of {} checks failed: {}", check.fall, self.failure);
                (BackendState::Suspect, reason)
            }
            Health::Up if check.kind == CheckKind::None => {
                (BackendState::Up, format!("not checked{}", self.backup_note()))
            }
            Health::Up => (BackendState::Up, format!("{}{}", self.progress(), self.backup_note())),
        }
    }

    /// What a backup is doing.
    fn backup_note(&self) -> &'static str {
        match (self.spec.backup, self.stands_by) {
            (false, _) => "",
            (true, true) => "; a backup: it stands by while others serve",
            (true, false) => "; a backup: it serves while no other can",
        }
    }

    /// Whether it drains and is not done yet.
    pub(super) fn drains(&self) -> bool {
        self.drains_since.is_some()
    }

    fn progress(&self) -> String {
        match &self.slow_start {
            Some(start) => format!("checks pass; slow start, step {} of {STEPS}", start.step),
            None => "checks pass".to_owned(),
        }
    }

    fn drain_progress(&self) -> String {
        match self.tracked {
            0 if self.drains_since.is_none() && self.state == BackendState::Draining => {
                "drained: no old flow is left".to_owned()
            }
            0 => "takes no new flows".to_owned(),
            1 => "takes no new flows; 1 old one is left".to_owned(),
            n => format!("takes no new flows; {n} old ones are left"),
        }
    }

    /// Whether no packet can reach it. A lost next hop counts only where nothing else checks the
    /// backend: the kernel forgets neighbours that are alive, and a check that passes proves that
    /// the entry as last written still leads there.
    fn is_cut_off(&self, check: &HealthCheck) -> bool {
        self.written.is_none() || (check.kind == CheckKind::None && self.no_way.is_some())
    }
}
