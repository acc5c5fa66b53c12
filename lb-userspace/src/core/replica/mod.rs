//! The core's part of having the same tables on two balancers: what it says to peers of its slots
//! and backends, and what it makes of what the leader says.
//!
//! A leader decides as if it were alone, and what it decides is said to its peers. A follower
//! installs that as it is: its own view of its backends' health is kept, and shown, but changes
//! neither slots nor lives until it leads. Then all that differs follows by ordinary moves, so
//! that no flow to a backend that lives is sent elsewhere.

mod changes;
mod flows;
#[cfg(test)]
mod tests;

use std::{collections::HashMap, net::IpAddr, time::Duration};

use lb_common::{
    hash::mix,
    layout::Life,
    slot::{Prior, Slot},
};

pub use self::{
    changes::Stamps,
    flows::{KernelFlow, without_outrun_openings},
};
use super::{
    Action, BackendId, Checks, Core, Now, Write, backend::Backend, maglev, service::Service,
};
use crate::{
    config::Name,
    sync::packet::{
        BACKENDS_MAX, BackendLife, Backends, Message, Past, SLOTS_MAX, SlotChange, Slots,
    },
};

/// What the core keeps for its peers.
#[derive(Debug, Clone)]
pub(super) struct Replica {
    /// This node.
    pub(super) node: Name,
    /// Whether another node's tables hold here.
    following: bool,
    /// When each change was made.
    stamps: Stamps,
}

impl Replica {
    pub(super) fn new(node: Name, stamps: Stamps) -> Self {
        Self { node, following: false, stamps }
    }

    pub(super) fn is_following(&self) -> bool {
        self.following
    }
}

impl Core {
    /// Whether another node's tables hold here.
    pub fn is_following(&self) -> bool {
        self.replica.as_ref().is_some_and(Replica::is_following)
    }

    /// Lets another node's tables hold here from now on, or this node's own view.
    pub fn follow(&mut self, following: bool, now: Now) {
        let Some(replica) = &mut self.replica else { return };
        if std::mem::replace(&mut replica.following, following) == following || following {
            return;
        }
        let ids: Vec<BackendId> = self.ids().collect();
        for id in ids {
            self.reassess(&id, None, now);
        }
        for service in self.services.values_mut() {
            service.touched = true;
            service.stale = true;
        }
    }

    // === What is said ===

    /// What these writes, made by a leader, are to its followers.
    pub fn publications(&self, writes: &[Write]) -> Vec<Message> {
        let mut messages = Vec::new();
        for write in writes {
            match write {
                Write::Slots(slots) => messages.extend(self.slots_messages(slots)),
                Write::Fill(span, slot) => {
                    let slots = (span.base..).take(span.length as usize);
                    let slots: Vec<_> = slots.map(|index| (index, *slot)).collect();
                    messages.extend(self.slots_messages(&slots));
                }
                Write::Life(number, life) => messages.extend(self.life_message(*number, *life)),
                _ => {}
            }
        }
        messages
    }

    /// The names of all services.
    pub fn service_names(&self) -> Vec<Name> {
        self.services.keys().cloned().collect()
    }

    /// The states of a service's backends.
    pub fn say_backends(&self, name: &Name) -> Vec<Message> {
        let Some(service) = self.services.get(name) else { return Vec::new() };
        let lives: Vec<BackendLife> =
            everyone(service).map(|b| backend_life(b.spec.address, b.life)).collect();
        let chunks = lives.chunks(BACKENDS_MAX);
        chunks
            .map(|list| Message::Backends(Backends { service: name.clone(), list: list.to_vec() }))
            .collect()
    }

    /// A part of a service's slots, from a position on; nothing beyond the last one.
    pub fn say_slots(&self, name: &Name, from: u32) -> Option<Message> {
        let service = self.services.get(name)?;
        let slots = service.ring.slots().get(from as usize..).filter(|slots| !slots.is_empty())?;
        let some = slots.iter().take(SLOTS_MAX).copied();
        Some(slots_message(service, (from..).zip(some)))
    }

    /// The digest of each service's slots, which names backends by identity: the same on every
    /// node with the same tables.
    pub fn digests(&mut self) -> Vec<(Name, u64)> {
        let digest = |(name, service): (&Name, &mut Service)| {
            let digest = service.ring.known_digest().unwrap_or_else(|| {
                let ids = identities(service);
                let id = |number: u16| ids.get(usize::from(number)).copied().unwrap_or_default();
                service.ring.digest(id)
            });
            (name.clone(), digest)
        };
        self.services.iter_mut().map(digest).collect()
    }

    /// One digest of everything.
    pub fn digest(&mut self) -> u64 {
        let digests = self.digests();
        digests.iter().fold(0, |sum: u64, (name, digest)| {
            let name = name.as_str().bytes().fold(0, |h, byte| mix(h ^ u64::from(byte)));
            sum.wrapping_add(mix(name ^ digest))
        })
    }

    /// The services whose slots differ, by a peer's digests.
    pub fn differing(&mut self, theirs: Vec<(Name, u64)>) -> Vec<Name> {
        let theirs: HashMap<Name, u64> = theirs.into_iter().collect();
        let ours = self.digests();
        let mut differ: Vec<Name> = ours
            .iter()
            .filter(|(name, digest)| theirs.get(name) != Some(digest))
            .map(|(name, _)| name.clone())
            .collect();
        let missing = theirs.into_keys().filter(|name| !self.services.contains_key(name));
        differ.extend(missing);
        differ
    }

    /// What these slots of one service are to followers.
    fn slots_messages(&self, slots: &[(u32, Slot)]) -> Vec<Message> {
        let first = slots.first().map(|(index, _)| *index);
        let Some(service) = first.and_then(|index| self.service_of_slot(index)) else {
            return Vec::new();
        };
        let base = service.ring.span().base;
        let message = |some: &[(u32, Slot)]| {
            slots_message(service, some.iter().map(|(index, slot)| (index - base, *slot)))
        };
        slots.chunks(SLOTS_MAX).map(message).collect()
    }

    fn life_message(&self, number: u16, life: Life) -> Option<Message> {
        let (service, backend) = self.services.values().find_map(|service| {
            Some((service, everyone(service).find(|backend| backend.number == number)?))
        })?;
        let list = vec![backend_life(backend.spec.address, life)];
        Some(Message::Backends(Backends { service: service.spec.name.clone(), list }))
    }

    fn service_of_slot(&self, index: u32) -> Option<&Service> {
        self.services.values().find(|service| {
            let span = service.ring.span();
            (span.base..span.base + span.length).contains(&index)
        })
    }

    // === What is heard ===

    /// Installs slots as the leader has them. What names backends or rings that are not here is
    /// left as it was; the digests will tell.
    pub fn install_slots(&mut self, slots: &Slots, now: Now) {
        self.now = now.monotonic;
        let Some(service) = self.services.get_mut(&slots.service) else { return };
        if service.ring.span().length != slots.length {
            return;
        }
        let numbers: Vec<Option<u16>> =
            slots.backends.iter().map(|address| number_of(service, *address)).collect();
        let number = |index: u16| numbers.get(usize::from(index)).copied().flatten();
        let translate = |change: &SlotChange| {
            let owner = match change.owner {
                None => Slot::NONE,
                Some(owner) => number(owner)?,
            };
            let prior = match change.past {
                Past::Settled => Prior::Settled,
                Past::Exceptions => Prior::Exceptions,
                Past::Moving(prior) => number(prior).map_or(Prior::Exceptions, Prior::Moving),
            };
            Some((change.position, Slot::new(owner, prior)))
        };
        let wanted: Vec<(u32, Slot)> = slots.changes.iter().filter_map(translate).collect();
        let changed = service.ring.install(&wanted, now.monotonic);
        service.warm_until = None;
        if !changed.is_empty() {
            service.count_slots();
            self.actions.push(Action::Write(Write::Slots(changed)));
        }
    }

    /// Takes over the states of backends as the leader has them.
    pub fn install_backends(&mut self, backends: &Backends, now: Now) {
        for life in &backends.list {
            self.install_backend(&backends.service, *life, now);
        }
    }

    fn install_backend(&mut self, service_name: &Name, heard: BackendLife, now: Now) {
        let Some(service) = self.services.get_mut(service_name) else { return };
        let Some(number) = number_of(service, heard.address) else { return };
        let mut everyone = service.backends.values_mut().chain(service.leaving.values_mut());
        let Some(backend) = everyone.find(|backend| backend.number == number) else { return };
        let dies = backend.life.lives() && !heard.lives;
        let life = backend.life.number().wrapping_add(u16::from(dies));
        let life = Life::new(life, heard.lives, heard.takes_new);
        // Until our own checks have been there, the leader's are the best that is known.
        let believed = heard.lives && backend.health == Checks::Unchecked;
        if believed {
            backend.health = Checks::Up;
        }
        let name = backend.spec.name.clone();
        if life != backend.life {
            backend.life = life;
            self.lives.insert(number, life.number());
            self.actions.push(Action::Write(Write::Life(number, life)));
        }
        if believed {
            let id = BackendId { service: service_name.clone(), backend: name };
            self.reassess(&id, None, now);
        }
    }
}

fn everyone(service: &Service) -> impl Iterator<Item = &Backend> {
    service.backends.values().chain(service.leaving.values())
}

/// The number of the backend with an address: one that is wanted before one that leaves.
fn number_of(service: &Service, address: IpAddr) -> Option<u16> {
    everyone(service).find(|backend| backend.spec.address == address).map(|b| b.number)
}

/// The address of each backend, by its number.
fn addresses(service: &Service) -> HashMap<u16, IpAddr> {
    everyone(service).map(|backend| (backend.number, backend.spec.address)).collect()
}

/// The identity of each backend, by its number, in a flat table.
fn identities(service: &Service) -> Vec<u64> {
    let mut ids = Vec::new();
    for backend in everyone(service) {
        let number = usize::from(backend.number);
        ids.resize(ids.len().max(number + 1), 0);
        ids[number] = maglev::identity(backend.spec.address);
    }
    ids
}

fn backend_life(address: IpAddr, life: Life) -> BackendLife {
    BackendLife { address, lives: life.lives(), takes_new: life.takes_new() }
}

fn slots_message(service: &Service, slots: impl Iterator<Item = (u32, Slot)>) -> Message {
    let addresses = addresses(service);
    let mut listed = Listed::default();
    let mut changes = Vec::new();
    for (position, slot) in slots {
        let owner = addresses.get(&slot.owner()).map(|address| listed.index(*address));
        let past = match slot.prior() {
            Prior::Settled => Past::Settled,
            Prior::Exceptions => Past::Exceptions,
            Prior::Moving(prior) => match addresses.get(&prior) {
                Some(address) => Past::Moving(listed.index(*address)),
                None => Past::Exceptions,
            },
        };
        changes.push(SlotChange { position, owner, past });
    }
    let length = service.ring.span().length;
    let (service, backends) = (service.spec.name.clone(), listed.list);
    Message::Slots(Slots { service, length, backends, changes })
}

/// The list of backends in front of a message, as it grows.
#[derive(Debug, Default)]
struct Listed {
    list: Vec<IpAddr>,
    known: HashMap<IpAddr, u16>,
}

impl Listed {
    fn index(&mut self, address: IpAddr) -> u16 {
        *self.known.entry(address).or_insert_with(|| {
            self.list.push(address);
            u16::try_from(self.list.len() - 1).expect("a message has no more than 2048 entries")
        })
    }
}

/// How long after it should be done a record is kept where peers tell each other of flows: each
/// record is told of anew once in such a time, if its flow was seen since.
pub fn refresh_period(idle_timeout: Duration) -> Duration {
    (idle_timeout / 3).max(Duration::from_secs(1))
}
