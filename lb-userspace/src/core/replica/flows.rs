//! Recorded flows between this node's tables, which count, and messages, which name.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    net::IpAddr,
};

use lb_common::layout::{FlowKey, FlowRecord};

use super::{Listed, addresses, number_of};
use crate::{
    config::Name,
    core::{Action, Core, Now, Write, service::Service, sweep::is_silent},
    sync::packet::{FLOWS_MAX, Flow, FlowStage, Flows, Message},
};

/// A flow as the kernel's tables have it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KernelFlow {
    /// Which.
    pub key: FlowKey,
    /// Its backend's number and life: [`FlowRecord::backend`].
    pub backend: u32,
    /// When its last packet came: [`FlowRecord::seen`].
    pub seen: u32,
    /// Its slot, by index in the ring map.
    pub slot: u32,
    /// What is known of it.
    pub stage: FlowStage,
}

impl KernelFlow {
    /// The number of its backend.
    #[allow(clippy::cast_possible_truncation, reason = "the low half is the number")]
    pub fn number(&self) -> u16 {
        self.backend as u16
    }
}

/// A service, as far as its flows need it.
struct Place<'c> {
    name: &'c Name,
    service: &'c Service,
    addresses: HashMap<u16, IpAddr>,
    idle_seconds: u32,
}

/// Leaves out the openings of flows whose next packet is among them as well: a flow that opens
/// while news is read is told of once, and costs its peer a third of the calls.
pub fn without_outrun_openings(flows: &mut Vec<KernelFlow>) {
    let mut confirmed: HashSet<FlowKey> = HashSet::new();
    let mut keep: Vec<bool> = flows
        .iter()
        .rev()
        .map(|flow| match flow.stage {
            FlowStage::Opening => !confirmed.contains(&flow.key),
            FlowStage::Open | FlowStage::Closing => {
                confirmed.insert(flow.key);
                true
            }
            FlowStage::Forgotten => true,
        })
        .collect();
    flows.retain(|_| keep.pop().unwrap_or(true));
}

impl Core {
    /// What to say of these flows. `now` is the kernel's clock in seconds, by which they are
    /// stamped. Flows of backends and lives that are over are left out, and those that were silent
    /// for too long: a node that returns has many of them.
    pub fn say_flows(&self, flows: &[KernelFlow], now: u32) -> Vec<Message> {
        let mut places: HashMap<u32, Option<Place<'_>>> = HashMap::new();
        let mut lists: BTreeMap<u32, (Listed, Vec<Flow>)> = BTreeMap::new();
        let mut messages = Vec::new();
        for flow in flows {
            let index = flow.key.service();
            let place = places.entry(index).or_insert_with(|| self.place(index));
            let Some(place) = place else { continue };
            let Some((address, position)) = place.find(flow, now) else { continue };
            let (listed, list) = lists.entry(index).or_default();
            list.push(Flow {
                source: flow.key.source,
                ports: flow.key.ports(),
                position,
                backend: listed.index(address),
                age: now.saturating_sub(flow.seen),
                stage: flow.stage,
            });
            if list.len() == FLOWS_MAX {
                messages.extend(lists.remove(&index).map(|full| place.message(full)));
            }
        }
        for (index, list) in lists {
            if let Some(Some(place)) = places.get(&index) {
                messages.push(place.message(list));
            }
        }
        messages
    }

    /// What a peer says of flows, in this node's numbers. Flows of backends that are not here, or
    /// do not live, are left out.
    pub fn understand_flows(&self, heard: &Flows, now: u32) -> Vec<KernelFlow> {
        let Some(service) = self.services.get(&heard.service) else { return Vec::new() };
        let span = service.ring.span();
        if span.length != heard.length {
            return Vec::new();
        }
        let everyone = || service.backends.values().chain(service.leaving.values());
        let lives: HashMap<u16, _> =
            everyone().filter(|b| b.life.lives()).map(|b| (b.number, b.life)).collect();
        let backends: Vec<Option<u32>> = heard
            .backends
            .iter()
            .map(|address| {
                let number = number_of(service, *address)?;
                Some(FlowRecord::backend_word(number, *lives.get(&number)?))
            })
            .collect();
        let understand = |flow: &Flow| {
            let backend = backends.get(usize::from(flow.backend)).copied().flatten()?;
            Some(KernelFlow {
                key: FlowKey::from_parts(flow.source, flow.ports, service.index),
                backend,
                seen: now.saturating_sub(flow.age),
                slot: span.base + flow.position,
                stage: flow.stage,
            })
        };
        heard.list.iter().filter_map(understand).collect()
    }

    /// Has settled slots remember flows that a peer has recorded for others than their owners:
    /// both nodes decided for themselves for a while. A follower leaves that to its leader.
    pub fn remember_flows(&mut self, flows: &[KernelFlow], now: Now) {
        if self.is_following() {
            return;
        }
        let mut by_service: HashMap<u32, Vec<&KernelFlow>> = HashMap::new();
        for flow in flows.iter().filter(|flow| flow.stage != FlowStage::Forgotten) {
            by_service.entry(flow.key.service()).or_default().push(flow);
        }
        for service in self.services.values_mut() {
            let Some(flows) = by_service.get(&service.index) else { continue };
            let remembered = service.ring.remember(flows, now.monotonic);
            if !remembered.is_empty() {
                service.count_slots();
                self.actions.push(Action::Write(Write::Slots(remembered)));
            }
        }
    }

    fn place(&self, index: u32) -> Option<Place<'_>> {
        let (name, service) = self.services.iter().find(|(_, s)| s.index == index)?;
        let idle_seconds = self.swept_as(service).idle_seconds;
        Some(Place { name, service, addresses: addresses(service), idle_seconds })
    }
}

impl Place<'_> {
    /// A flow's backend and its slot's position, if both are the service's and the flow is not over.
    fn find(&self, flow: &KernelFlow, now: u32) -> Option<(IpAddr, u32)> {
        if flow.stage == FlowStage::Forgotten {
            // Nothing but its key is known; any backend will do.
            return Some((*self.addresses.values().next()?, 0));
        }
        let closing = flow.stage == FlowStage::Closing;
        if is_silent(flow.seen, closing, now, self.idle_seconds) {
            return None;
        }
        let address = self.addresses.get(&flow.number())?;
        let span = self.service.ring.span();
        let position = flow.slot.checked_sub(span.base).filter(|p| *p < span.length)?;
        Some((*address, position))
    }

    fn message(&self, (listed, list): (Listed, Vec<Flow>)) -> Message {
        Message::Flows(Flows {
            service: self.name.clone(),
            length: self.service.ring.span().length,
            backends: listed.list,
            list,
        })
    }
}
