//! What the core wants done. The daemon does it in this order, and nothing else.

use lb_common::{
    layout::{Life, RingSpan, ServiceKey, ServiceMeta},
    slot::Slot,
};

use super::{BackendId, Entry, EventKind, Now, places::Place};
use crate::sync::packet::Message;

/// One thing to do.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Change the kernel's tables.
    Write(Write),
    /// The wanted health checks or next hops changed: ask [`super::Core::targets`] and
    /// [`super::Core::addresses`].
    Targets,
    /// Keep [`super::Core::saved`].
    Persist,
    /// Tell everyone.
    Event(EventKind, Option<Cause>),
    /// Say this to all peers.
    Publish(Message),
    /// A backend is gone: its counters and metrics end. The number is the one it had.
    Forget(BackendId, u16),
}

/// The run of checks that led to an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cause {
    /// When the first check of the run began.
    pub began: Now,
    /// When the outcome of the deciding one was known.
    pub decided: Now,
}

/// One change to the kernel's tables. Each is safe for packets that are handled meanwhile: they
/// see the state before it or after it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Write {
    /// Slots of the ring map, by index in the map.
    Slots(Vec<(u32, Slot)>),
    /// The same for every slot of a span: a ring that nobody owns yet.
    Fill(RingSpan, Slot),
    /// A service at a free place.
    Service {
        /// Where.
        place: Place,
        /// What it answers to.
        key: ServiceKey,
        /// Its ring, as [`lb_common::layout::RingSpan::to_word`].
        ring: u64,
        /// Its number and flags.
        meta: ServiceMeta,
    },
    /// Another ring for the service at a place.
    ServiceRing(Place, u64),
    /// Other flags for the service at a place.
    ServiceMeta(Place, ServiceMeta),
    /// The place holds no service from now on.
    ServiceGone(Place),
    /// A backend at a number that no slot names, or that is closed.
    Backend(u16, Entry),
    /// Another destination address for a backend in use: its first word.
    BackendFirst(u16, u64),
    /// Another MTU for the tunnel of a backend in use.
    BackendMtu(u16, u32),
    /// No way to the backend for now.
    BackendClosed(u16),
    /// A backend's life.
    Life(u16, Life),
    /// The order of turns of a service, by its number: a span of the ring map, as
    /// [`lb_common::layout::RingSpan::to_word`].
    Order(u32, u64),
    /// The weight by which a backend's load is compared.
    Weight(u16, u16),
    /// Zero the counters of a number that no slot names.
    Counters(u16),
    /// Wait until every packet that may have seen the tables as they were before is through.
    Grace,
}
