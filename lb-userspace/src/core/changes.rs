//! Changes made at run time, and how they live with an edited configuration.
//!
//! The rule: *the later edit wins, backend by backend.* Each change remembers what the
//! configuration said of its backend when it was made. As long as the configuration still says
//! that, the change holds, over restarts and reloads. Once the configuration says something else,
//! someone has edited it since: the change is dropped, and `status` says so. Maintenance is no
//! edit: it lasts until `enable`, or until the backend is gone.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::BackendId;
use crate::config::{Backend, Name, Service};

/// All changes in force.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Changes(BTreeMap<Name, BTreeMap<Name, Change>>);

/// The changes to one backend.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// What replaces the configuration's word, if anything does.
    pub edit: Option<Edit>,
    /// Whether an operator has taken it out of service.
    pub maintenance: bool,
}

/// A change to what a backend is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Edit {
    /// What the configuration said when this was made; nothing for a backend it does not have.
    pub base: Option<Backend>,
    /// What holds instead; nothing for a removed backend.
    pub wanted: Option<Backend>,
}

/// A backend as it shall be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Desired {
    /// What it is.
    pub backend: Backend,
    /// Whether an operator has taken it out of service.
    pub maintenance: bool,
}

impl Changes {
    /// The backends that a service shall have, by name.
    pub fn apply(&self, service: &Service) -> BTreeMap<Name, Desired> {
        let none = BTreeMap::new();
        let changes = self.0.get(&service.name).unwrap_or(&none);
        let maintenance = |name: &Name| changes.get(name).is_some_and(|c| c.maintenance);
        let mut desired: BTreeMap<Name, Desired> = service
            .backends
            .iter()
            .map(|b| (b.name.clone(), b.clone()))
            .map(|(name, backend)| {
                let maintenance = maintenance(&name);
                (name, Desired { backend, maintenance })
            })
            .collect();
        for (name, change) in changes {
            match change.edit.as_ref().map(|edit| &edit.wanted) {
                Some(Some(wanted)) => {
                    let maintenance = change.maintenance;
                    desired.insert(name.clone(), Desired { backend: wanted.clone(), maintenance });
                }
                Some(None) => {
                    desired.remove(name);
                }
                None => {}
            }
        }
        desired
    }

    /// Drops what a new configuration has overruled, and what belongs to backends and services
    /// that no longer exist. Returns a sentence for each edit that was dropped.
    pub fn settle(&mut self, services: &[Service]) -> Vec<String> {
        let mut notices = Vec::new();
        self.0.retain(|service, changes| {
            let Some(configured) = services.iter().find(|s| s.name == *service) else {
                notices.push(format!(
                    "service {service} is gone from the configuration, and its run-time changes \
                     with it"
                ));
                return false;
            };
            changes.retain(|name, change| {
                let current = configured.backends.iter().find(|b| b.name == *name);
                if change.edit.as_ref().is_some_and(|edit| edit.base.as_ref() != current) {
                    change.edit = None;
                    notices.push(format!(
                        "the configuration of {service}/{name} was edited after it was changed \
                         at run time: the edit holds"
                    ));
                }
                let exists = change.edit.as_ref().map_or(current.is_some(), |e| e.wanted.is_some());
                change.maintenance &= exists;
                change.edit.is_some() || change.maintenance
            });
            !changes.is_empty()
        });
        notices
    }

    /// Makes a backend what a command wants; nothing removes it.
    pub fn edit(&mut self, service: &Service, name: &Name, wanted: Option<Backend>) {
        let base = service.backends.iter().find(|b| b.name == *name).cloned();
        let change = self.change(&service.name, name);
        // Back to what the configuration says is no change at all.
        change.edit = (base != wanted).then_some(Edit { base, wanted });
        self.forget_if_void(&service.name, name);
    }

    /// Starts or ends maintenance.
    pub fn maintain(&mut self, id: &BackendId, maintenance: bool) {
        self.change(&id.service, &id.backend).maintenance = maintenance;
        self.forget_if_void(&id.service, &id.backend);
    }

    fn change(&mut self, service: &Name, name: &Name) -> &mut Change {
        self.0.entry(service.clone()).or_default().entry(name.clone()).or_default()
    }

    fn forget_if_void(&mut self, service: &Name, name: &Name) {
        if let Some(changes) = self.0.get_mut(service) {
            changes.retain(|n, change| n != name || *change != Change::default());
            if changes.is_empty() {
                self.0.remove(service);
            }
        }
    }
}
