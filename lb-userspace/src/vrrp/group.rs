//! Sync groups: instances that move together, by name, without I/O.
//!
//! What one needs, all need; what lowers the priority of one, lowers that of all. A backup takes
//! over when all have lost their masters, and when one becomes master or gives way, the others
//! follow.

use std::collections::{BTreeMap, BTreeSet};

use super::{fsm::State, instance::Instance, track::Assessment};
use crate::config::{Name, Vrrp};

/// Joins the assessments of each group's members.
pub(super) fn join(each: &mut [(&Vrrp, Assessment)]) {
    let mut groups: BTreeMap<&Name, Assessment> = BTreeMap::new();
    for (instance, assessment) in each.iter() {
        let Some(group) = &instance.sync_group else { continue };
        let mut shared = assessment.clone();
        shared.fault = shared.fault.map(|reason| {
            format!("{} of sync group {group} takes no part: {reason}", instance.name)
        });
        groups.entry(group).or_default().join(shared);
    }
    for (instance, assessment) in each {
        if let Some(shared) = instance.sync_group.as_ref().and_then(|group| groups.get(group)) {
            // Its own reason goes first.
            assessment.join(shared.clone());
        }
    }
}

/// The groups of which every member has lost its master, or is the master already.
pub(super) fn agreed<'i>(instances: impl Iterator<Item = &'i Instance>) -> BTreeSet<Name> {
    let mut groups: BTreeMap<Name, (bool, bool)> = BTreeMap::new();
    for instance in instances {
        let Some(group) = &instance.spec.sync_group else { continue };
        let (all, any) = groups.entry(group.clone()).or_insert((true, false));
        let waits = instance.fsm.is_waiting();
        let is_master = instance.fsm.state() == State::Master && !instance.fsm.is_leaving();
        *all &= waits || is_master;
        *any |= waits;
    }
    groups.into_iter().filter(|(_, (all, any))| *all && *any).map(|(group, _)| group).collect()
}

/// What a change of one member asks of the others.
pub(super) fn follows(from: State, to: State) -> Option<State> {
    match (from, to) {
        (_, State::Master) => Some(State::Master),
        (State::Master, State::Backup) => Some(State::Backup),
        _ => None,
    }
}
