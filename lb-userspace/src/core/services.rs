//! The running services, and which of them may have changed.
//!
//! Whoever takes a service to change it leaves its name behind. So conclusions are drawn for those
//! few, however many services there are: each report of a check may be followed by a commit.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Deref,
};

use super::service::Service;
use crate::config::Name;

/// All services, in the order of their names; to be read as the map that they are.
#[derive(Debug, Clone, Default)]
pub(super) struct Services {
    all: BTreeMap<Name, Service>,
    /// Who may have changed since it was last forgotten that they did.
    changed: BTreeSet<Name>,
}

impl Services {
    /// Adds a service.
    pub(super) fn insert(&mut self, name: Name, service: Service) {
        self.changed.insert(name.clone());
        self.all.insert(name, service);
    }

    /// Removes a service.
    pub(super) fn remove(&mut self, name: &Name) {
        self.changed.remove(name);
        self.all.remove(name);
    }

    /// A service, to be changed.
    pub(super) fn get_mut(&mut self, name: &Name) -> Option<&mut Service> {
        let service = self.all.get_mut(name)?;
        if !self.changed.contains(name) {
            self.changed.insert(name.clone());
        }
        Some(service)
    }

    /// All services, to be changed.
    pub(super) fn values_mut(&mut self) -> impl Iterator<Item = &mut Service> {
        self.iter_mut().map(|(_, service)| service)
    }

    /// All services with their names, to be changed.
    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = (&Name, &mut Service)> {
        self.changed.extend(self.all.keys().cloned());
        self.all.iter_mut()
    }

    /// The names of those for which something holds.
    pub(super) fn names(&self, holds: impl Fn(&Name, &Service) -> bool) -> Vec<Name> {
        let all = self.all.iter().filter(|(name, service)| holds(name, service));
        all.map(|(name, _)| name.clone()).collect()
    }

    /// The names of those that may have changed.
    pub(super) fn changed(&self) -> Vec<Name> {
        self.changed.iter().cloned().collect()
    }

    /// The same, forgotten by this.
    pub(super) fn take_changed(&mut self) -> BTreeSet<Name> {
        std::mem::take(&mut self.changed)
    }

    /// A service, to be changed by what follows from its changes: nothing more does.
    pub(super) fn concluded_mut(&mut self, name: &Name) -> Option<&mut Service> {
        self.all.get_mut(name)
    }
}

impl Deref for Services {
    type Target = BTreeMap<Name, Service>;

    fn deref(&self) -> &Self::Target {
        &self.all
    }
}
