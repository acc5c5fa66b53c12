//! What a command would move, without doing it: the command is carried out on a copy.

use std::{collections::BTreeMap, sync::Arc};

use lb_common::slot::Slot;
use serde::{Deserialize, Serialize};

use super::{
    BackendId, BackendState, Checks, Command, CommandError, Core, Entry, Now, recorded::Recorded,
    service::Service,
};
use crate::config::Name;

/// What a command would do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// What the command would say that it did.
    pub message: String,
    /// The service.
    pub service: Name,
    /// Slots of its ring.
    pub slots: u32,
    /// Those that would have another owner.
    pub slots_moved: u32,
    /// Flows that are recorded now on the slots that would move. Others of these slots are
    /// recorded as they send packets, and stay where they are as well.
    pub recorded_flows: u64,
    /// From whom to whom slots would move, most slots first.
    pub moves: Vec<Move>,
    /// Backends whose connections would break.
    pub breaks: Vec<Name>,
    /// What was assumed, and what else to know.
    pub notes: Vec<String>,
}

/// Slots that would move from one backend to another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Move {
    /// Who has them; nobody, if new flows reach no backend now.
    pub from: Option<Name>,
    /// Who would get them; nobody, if new flows would reach no backend.
    pub to: Option<Name>,
    /// How many.
    pub slots: u32,
    /// Flows that are recorded on them.
    pub recorded_flows: u64,
}

impl Core {
    /// Says what a command would move. Changes nothing.
    ///
    /// A new backend is taken to be found and healthy, and slow start to be over.
    ///
    /// # Errors
    ///
    /// As the command's own.
    pub fn plan(&self, command: Command, now: Now) -> Result<Plan, CommandError> {
        let id = command.id().clone();
        let mut after = self.clone();
        let message = after.command(command, now)?;
        let mut notes = Vec::new();
        if after.assume_healthy(&id, now) {
            notes.push(format!("taking it that {id} is found and its checks pass"));
        }
        if let Some(service) = after.services.get_mut(&id.service) {
            let starting =
                service.backends.values_mut().filter_map(|b| b.slow_start.take()).count();
            if starting > 0 {
                notes.push(format!("in steps, over {:?}", service.spec.slow_start));
            }
            service.warm_until = None;
            service.stale = true;
        }
        let _not_carried_out = after.commit();
        let (Some(old), Some(new)) =
            (self.services.get(&id.service), after.services.get(&id.service))
        else {
            return Err(CommandError::NoService(id.service));
        };
        notes.extend(why_nothing(new, &id));
        Ok(compare(old, new, &self.recorded, message, notes))
    }

    /// Makes a backend that was not checked yet, or not found, a healthy one.
    fn assume_healthy(&mut self, id: &BackendId, now: Now) -> bool {
        let Some(service) = self.services.get_mut(&id.service) else { return false };
        let Some(backend) = service.backends.get_mut(&id.backend) else { return false };
        if backend.health != Checks::Unchecked {
            return false;
        }
        backend.health = Checks::Up;
        backend.written.get_or_insert(Entry::assumed());
        self.reassess(id, None, now);
        true
    }
}

/// Why a backend has no slots although nothing an operator said forbids it.
fn why_nothing(service: &Service, id: &BackendId) -> Option<String> {
    let backend = service.backends.get(&id.backend)?;
    (backend.state == BackendState::Down && backend.is_wanted() && backend.kept.is_none())
        .then(|| format!("{id} is down ({}): it gets slots when it is up", backend.reason))
}

fn compare(
    old: &Service,
    new: &Service,
    recorded: &Arc<Recorded>,
    message: String,
    notes: Vec<String>,
) -> Plan {
    let mut moved: BTreeMap<(u16, u16), (u32, u64)> = BTreeMap::new();
    let mut walk = recorded.walk(old.ring.span());
    for ((index, before), after) in old.ring.indexed().into_iter().zip(new.ring.slots()) {
        if before.owner() != after.owner() {
            let (slots, flows) = moved.entry((before.owner(), after.owner())).or_default();
            *slots += 1;
            *flows += walk.at(index).iter().map(|here| u64::from(here.flows)).sum::<u64>();
        }
    }
    let name = |number: u16| {
        let who = new.known(number).or_else(|| old.known(number));
        who.filter(|_| number != Slot::NONE).map(|backend| backend.spec.name.clone())
    };
    let mut moves: Vec<Move> = moved
        .into_iter()
        .map(|((from, to), (slots, recorded_flows))| Move {
            from: name(from),
            to: name(to),
            slots,
            recorded_flows,
        })
        .collect();
    moves.sort_by_key(|a_move| std::cmp::Reverse(a_move.slots));
    let lives_on = |number| new.known(number).is_some_and(|backend| backend.life.lives());
    let breaks = old.backends.values().chain(old.leaving.values());
    let breaks = breaks.filter(|backend| backend.life.lives() && !lives_on(backend.number));
    Plan {
        message,
        service: old.spec.name.clone(),
        slots: old.ring.span().length,
        slots_moved: moves.iter().map(|a_move| a_move.slots).sum(),
        recorded_flows: moves.iter().map(|a_move| a_move.recorded_flows).sum(),
        breaks: breaks.map(|backend| backend.spec.name.clone()).collect(),
        moves,
        notes,
    }
}
