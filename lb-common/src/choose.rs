//! Whom a flow that opens gets where every flow is recorded: `round_robin` and `least_conn`.
//!
//! Nothing here is drawn by lot: the same flow over the same tables has the same answer, which is
//! what lets a model foretell the kernel.

use crate::{
    hash,
    layout::{RingSpan, ServiceMeta},
    slot::Slot,
    steer::{Flows, Service, Tables, Why, life_of},
};

/// In how many other slots another backend than the owner of a flow's own is looked for. With two
/// backends of equal weight one in 256 flows finds none, and goes to its owner.
const LOOKS: u32 = 8;

/// The backend for a flow that opens, and the rule that chose it; the owner of its slot, if the
/// one whose turn it would be takes no new flows (or no longer: the controller is about to say so).
#[inline(always)]
pub(crate) fn choose<T: Flows>(
    tables: &T,
    service: Service,
    slot_index: u32,
    slot: Slot,
) -> (u16, Why) {
    let (chosen, why) = if service.meta.has(ServiceMeta::ROUND_ROBIN) {
        (next_in_turn(tables, service.meta), Why::RoundRobin)
    } else {
        (Some(less_loaded(tables, service, slot_index, slot)), Why::LeastConn)
    };
    match chosen {
        Some(number) if life_of(tables, number).takes_new() => (number, why),
        _ => (slot.owner(), Why::NotRecorded),
    }
}

/// Whose turn it is. Two CPUs that ask in the same instant may get the same answer: to keep them
/// apart would cost every opening flow more than it is worth.
#[inline(always)]
fn next_in_turn<T: Flows>(tables: &T, meta: ServiceMeta) -> Option<u16> {
    let rotation = tables.rotation(meta.index())?;
    let order = RingSpan::from_word(rotation.order.load());
    if order.length == 0 {
        return None;
    }
    let turn = rotation.turn.load();
    let position = if turn < order.length { turn } else { 0 };
    tables.turn_to(rotation, position + 1);
    Some(tables.slot(order.base + position)?.owner())
}

/// The better of two choices (Mitzenmacher, "The Power of Two Choices in Randomized Load
/// Balancing", 2001): the owner of the flow's slot, and another that slots all over the ring name.
/// (Not those beside it: a backend's slots are spread evenly, hence in patterns.) Both are drawn by
/// weight, as the ring is.
#[inline(always)]
fn less_loaded<T: Tables>(tables: &T, service: Service, slot_index: u32, slot: Slot) -> u16 {
    let first = slot.owner();
    let mut random = u64::from(slot_index) + 1;
    for _ in 0..LOOKS {
        random = hash::mix(random);
        let position = hash::scale((random >> 32) as u32, service.ring.length);
        let Some(other) = tables.slot(service.ring.base + position) else { break };
        let second = other.owner();
        if second != first {
            return if is_less_loaded(tables, second, first) { second } else { first };
        }
    }
    first
}

/// Whether one more flow is a smaller burden for `this` than for `other`, by weight.
#[inline(always)]
fn is_less_loaded<T: Tables>(tables: &T, this: u16, other: u16) -> bool {
    let (Some(this), Some(other)) = (tables.load(this), tables.load(other)) else { return false };
    let (this_weight, other_weight) = (this.weight.load(), other.weight.load());
    (this.flows() + 1) * u64::from(other_weight) < (other.flows() + 1) * u64::from(this_weight)
}
