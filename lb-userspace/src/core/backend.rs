//! One backend of a running service.

use std::time::SystemTime;

use super::{
    BackendState,
    changes::Desired,
    health::Health,
    saved::{SavedBackend, SavedHealth},
};
use crate::config::{Backend as Spec, CheckKind, HealthCheck};

/// A backend with all that is known of it.
#[derive(Debug, Clone)]
pub(super) struct Backend {
    /// What it shall be.
    pub(super) spec: Spec,
    /// Whether an operator has taken it out.
    pub(super) maintenance: bool,
    /// Its number in the tables.
    pub(super) number: u16,
    /// What its checks say.
    pub(super) health: Health,
    /// What the last failed check said.
    pub(super) failure: String,
    /// The two words of its table entry as last written; none while there is no way to it.
    pub(super) written: Option<[u64; 2]>,
    /// Why there is no way to it at the moment, if so.
    pub(super) no_way: Option<String>,
    /// Its state, with what goes with it.
    pub(super) state: BackendState,
    pub(super) since: SystemTime,
    pub(super) reason: String,
    /// Slots it owns.
    pub(super) slots: u32,
}

impl Backend {
    pub(super) fn new(desired: Desired, number: u16, now: SystemTime) -> Self {
        Self {
            spec: desired.backend,
            maintenance: desired.maintenance,
            number,
            health: Health::Unchecked,
            failure: String::new(),
            written: None,
            no_way: None,
            state: BackendState::Down,
            since: now,
            reason: "not checked yet".to_owned(),
            slots: 0,
        }
    }

    /// A backend as an earlier run left it, with its table entry.
    pub(super) fn adopt(
        desired: Desired,
        saved: &SavedBackend,
        written: Option<[u64; 2]>,
        check: &HealthCheck,
    ) -> Self {
        let health = match saved.health {
            SavedHealth::Unchecked => Health::Unchecked,
            SavedHealth::Up => Health::Up,
            SavedHealth::Down => Health::Down { passes: 0, began: None },
        };
        let mut backend = Self::new(desired, saved.number, saved.since);
        backend.health = health;
        backend.failure.clone_from(&saved.reason);
        backend.written = written;
        let (state, reason) = backend.assess(check);
        (backend.state, backend.reason) = (state, reason);
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
        }
    }

    /// The weight with which it takes part in the ring.
    pub(super) fn ring_weight(&self) -> u16 {
        match self.state {
            BackendState::Up | BackendState::Suspect => self.spec.weight,
            BackendState::Down | BackendState::Draining | BackendState::Maintenance => 0,
        }
    }

    /// The state that follows from all that is known, and why.
    pub(super) fn assess(&self, check: &HealthCheck) -> (BackendState, String) {
        if self.maintenance {
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
            Health::Suspect { failures, .. } => {
                let reason =
                    format!("{failures} of {} checks failed: {}", check.fall, self.failure);
                (BackendState::Suspect, reason)
            }
            Health::Up if check.kind == CheckKind::None => {
                (BackendState::Up, "not checked".to_owned())
            }
            Health::Up => (BackendState::Up, "checks pass".to_owned()),
        }
    }

    /// Whether no packet can reach it. A lost next hop counts only where nothing else checks the
    /// backend: the kernel forgets neighbours that are alive, and a check that passes proves that
    /// the entry as last written still leads there.
    fn is_cut_off(&self, check: &HealthCheck) -> bool {
        self.written.is_none() || (check.kind == CheckKind::None && self.no_way.is_some())
    }
}
