//! Operators' changes on all nodes: of two changes to one backend, the later one holds everywhere.

use std::{
    collections::BTreeMap,
    time::{SystemTime, UNIX_EPOCH},
};

use serde::{Deserialize, Serialize};

use crate::{
    config::{Name, Service as ServiceSpec},
    core::{
        Action, BackendId, Core, Now, Unsaved,
        changes::{Change, Stamp},
        commands::WEIGHT_MAX,
    },
    sync::packet::{Message, Stamped},
};

/// Backends whose last change is remembered.
const STAMPS_MAX: usize = 65_536;

/// When each backend was last changed. It outlives the change: one that was taken back must not
/// come back from a node that was away.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stamps(BTreeMap<Name, BTreeMap<Name, Stamp>>);

impl Core {
    /// Marks a change as made here and now, and says it to the peers.
    pub(in crate::core) fn stamp(&mut self, id: &BackendId, now: Now) {
        let Some(replica) = &mut self.replica else { return };
        let millis = millis(now.wall).max(replica.stamps.latest().saturating_add(1));
        let stamp = Stamp { millis, node: replica.node.clone() };
        replica.stamps.set(id, stamp.clone());
        let change = self.changes.of(id).cloned().unwrap_or_default();
        let BackendId { service, backend } = id.clone();
        let message = Message::Change(Stamped { service, backend, stamp, change });
        self.actions.push(Action::Publish(message));
    }

    /// All changes with their times, those that were taken back included.
    pub fn say_changes(&self) -> Vec<Message> {
        let Some(replica) = &self.replica else { return Vec::new() };
        let each = replica.stamps.0.iter().flat_map(|(service, backends)| {
            backends.iter().map(move |(backend, stamp)| (service.clone(), backend.clone(), stamp))
        });
        each.map(|(service, backend, stamp)| {
            let id = BackendId { service, backend };
            let change = self.changes.of(&id).cloned().unwrap_or_default();
            let BackendId { service, backend } = id;
            Message::Change(Stamped { service, backend, stamp: stamp.clone(), change })
        })
        .collect()
    }

    /// Takes over a change that another node heard of, if it is later than what is known here.
    /// Returns whether it was.
    ///
    /// # Errors
    ///
    /// Why it cannot be here, in a sentence.
    pub fn take_change(&mut self, stamped: &Stamped, now: Now) -> Result<bool, String> {
        let Stamped { service, backend, stamp, change } = stamped;
        let id = BackendId { service: service.clone(), backend: backend.clone() };
        let Some(spec) = self.config.services.iter().find(|spec| spec.name == *service).cloned()
        else {
            return Err(format!("there is no service {service} here"));
        };
        let Some(replica) = &mut self.replica else { return Ok(false) };
        if replica.stamps.get(&id).is_some_and(|known| known >= stamp) {
            return Ok(false);
        }
        check(&spec, change)?;
        if !replica.stamps.set(&id, stamp.clone()) {
            return Err("too many backends were changed at run time".to_owned());
        }
        if self.changes.of(&id).cloned().unwrap_or_default() == *change {
            self.unsaved = Unsaved::Places;
            return Ok(true);
        }
        let mut changes = self.changes.clone();
        changes.replace(&id, change.clone());
        self.adopt_changes(changes, service, now).map_err(|error| error.to_string())?;
        Ok(true)
    }

    /// Forgets when backends of services that are configured no more were changed.
    pub(in crate::core) fn forget_stamps(&mut self) {
        if let Some(replica) = &mut self.replica {
            let services = &self.config.services;
            replica.stamps.0.retain(|name, _| services.iter().any(|spec| spec.name == *name));
        }
    }

    /// When each change was made, to keep across restarts.
    pub(in crate::core) fn stamps(&self) -> Stamps {
        self.replica.as_ref().map(|replica| replica.stamps.clone()).unwrap_or_default()
    }
}

/// Whether a change is one that a command here could have made.
fn check(spec: &ServiceSpec, change: &Change) -> Result<(), String> {
    let Some(wanted) = change.edit.as_ref().and_then(|edit| edit.wanted.as_ref()) else {
        return Ok(());
    };
    if wanted.weight > WEIGHT_MAX {
        return Err(format!("weight {} is above {WEIGHT_MAX}", wanted.weight));
    }
    if wanted.address.is_ipv4() != spec.address.is_ipv4() || wanted.address == spec.address {
        return Err(format!("{} cannot be a backend of {}", wanted.address, spec.name));
    }
    Ok(())
}

fn millis(wall: SystemTime) -> u64 {
    let since = wall.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

// === impl Stamps ===

impl Stamps {
    fn get(&self, id: &BackendId) -> Option<&Stamp> {
        self.0.get(&id.service)?.get(&id.backend)
    }

    /// Remembers a time; false if there is no room for another backend.
    fn set(&mut self, id: &BackendId, stamp: Stamp) -> bool {
        let known = self.get(id).is_some();
        if !known && self.0.values().map(BTreeMap::len).sum::<usize>() >= STAMPS_MAX {
            return false;
        }
        self.0.entry(id.service.clone()).or_default().insert(id.backend.clone(), stamp);
        true
    }

    fn latest(&self) -> u64 {
        let all = self.0.values().flat_map(BTreeMap::values);
        all.map(|stamp| stamp.millis).max().unwrap_or(0)
    }
}
