//! Changes made at run time, and how they live with an edited configuration.
//!
//! The rule: *the later edit wins, backend by backend.* Each change remembers what the
//! configuration said of its backend when it was made. As long as the configuration still says
//! that, the change holds, over restarts and reloads. Once the configuration says something else,
//! someone has edited it since: the change is dropped, and `status` says so. Drain and maintenance
//! are no edits: they last until `enable`, or until the backend is gone.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::BackendId;
use crate::config::{Backend, Name, Service};

/// All changes in force.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Changes(BTreeMap<Name, BTreeMap<Name, Change>>);

/// When a change was made, and on which node. Of two changes to one backend the later one holds,
/// on every node.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Stamp {
    /// Milliseconds since 1970 by the node's clock, or one more than in the latest stamp it had
    /// seen if that is more: a clock that goes back makes no change older than one before it.
    pub millis: u64,
    /// The node, to decide between changes of the same moment.
    pub node: Name,
}

/// The changes to one backend.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// What replaces the configuration's word, if anything does.
    pub edit: Option<Edit>,
    /// What an operator wants of it.
    #[serde(default)]
    pub admin: Admin,
}

/// What an operator wants of a backend, whatever its checks say.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Admin {
    /// That it serves.
    #[default]
    Serve,
    /// That it takes no new flows and keeps its old ones.
    Drain,
    /// That it is out of service.
    Maintenance,
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
    /// What an operator wants of it.
    pub admin: Admin,
}

impl Changes {
    /// The backends that a service shall have, by name.
    pub fn apply(&self, service: &Service) -> BTreeMap<Name, Desired> {
        let none = BTreeMap::new();
        let changes = self.0.get(&service.name).unwrap_or(&none);
        let admin = |name: &Name| changes.get(name).map(|c| c.admin).unwrap_or_default();
        let mut desired: BTreeMap<Name, Desired> = service
            .backends
            .iter()
            .map(|b| (b.name.clone(), b.clone()))
            .map(|(name, backend)| {
                let admin = admin(&name);
                (name, Desired { backend, admin })
            })
            .collect();
        for (name, change) in changes {
            match change.edit.as_ref().map(|edit| &edit.wanted) {
                Some(Some(wanted)) => {
                    let admin = change.admin;
                    desired.insert(name.clone(), Desired { backend: wanted.clone(), admin });
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
                if !exists {
                    change.admin = Admin::Serve;
                }
                change.edit.is_some() || change.admin != Admin::Serve
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

    /// Says what an operator wants of a backend.
    pub fn administer(&mut self, id: &BackendId, admin: Admin) {
        self.change(&id.service, &id.backend).admin = admin;
        self.forget_if_void(&id.service, &id.backend);
    }

    /// The change to a backend, if there is one.
    pub fn of(&self, id: &BackendId) -> Option<&Change> {
        self.0.get(&id.service)?.get(&id.backend)
    }

    /// Takes over the change to a backend that another node made.
    pub fn replace(&mut self, id: &BackendId, change: Change) {
        *self.change(&id.service, &id.backend) = change;
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
