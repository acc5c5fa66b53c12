//! The kernel's tables, in memory.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    rc::Rc,
    time::Duration,
};

use lb_common::{
    flow::Flow,
    fragment::Fragments,
    layout::{
        BackendEntry, FlowKey, FlowRecord, FragmentKey, FragmentRecord, Load, Rotation,
        ServiceBucket, ServiceEntry, ServiceKey, ServiceMeta,
    },
    slot::Slot,
    steer::{self, Flows, Stage, Tables},
};
use weir::core::places::Place;

use super::{BACKENDS, PARAMETERS, Protocol, SPAN, TURNS};
use crate::datagrams::Datagrams;

/// Tables in memory.
#[derive(Debug)]
pub(crate) struct Memory {
    pub(crate) buckets: Vec<ServiceBucket>,
    pub(crate) slots: Vec<Cell<Slot>>,
    pub(crate) backends: Vec<BackendEntry>,
    pub(crate) rotation: Rotation,
    pub(crate) loads: Vec<Load>,
    pub(crate) half_open: RefCell<HashMap<FlowKey, Rc<FlowRecord>>>,
    pub(crate) confirmed: RefCell<HashMap<FlowKey, Rc<FlowRecord>>>,
    pub(crate) datagrams: Datagrams,
    pub(crate) now: Cell<Duration>,
    /// A packet that another CPU steers once this one has looked for a confirmed record in vain.
    pub(crate) meanwhile: Cell<Option<Flow>>,
    /// Whether it did.
    pub(crate) overlapped: Cell<bool>,
}

impl Memory {
    pub(crate) fn new(key: ServiceKey) -> Self {
        let buckets: Vec<ServiceBucket> = (0..2).map(|_| ServiceBucket::default()).collect();
        let entry = &buckets[key.places().first(PARAMETERS.place_mask) as usize].0[0];
        entry.ring.store(SPAN.to_word());
        entry.meta.store(ServiceMeta::default().0);
        entry.head.store(key.head);
        let slots = (0..TURNS.base + TURNS.length).map(|_| Cell::new(Slot::settled(Slot::NONE)));
        Self {
            buckets,
            slots: slots.collect(),
            backends: (0..BACKENDS).map(|_| BackendEntry::default()).collect(),
            rotation: Rotation::default(),
            loads: (0..BACKENDS).map(|_| Load::default()).collect(),
            half_open: RefCell::default(),
            confirmed: RefCell::default(),
            datagrams: Datagrams::default(),
            now: Cell::new(Duration::from_secs(1000)),
            meanwhile: Cell::new(None),
            overlapped: Cell::new(false),
        }
    }

    /// Has the service table hold one more key, without a ring.
    pub(crate) fn add(&self, key: ServiceKey) {
        let places = key.places().both(PARAMETERS.place_mask);
        let mut entries = places.iter().flat_map(|place| &self.buckets[*place as usize].0);
        let entry = entries.find(|entry| entry.head.load() == 0).expect("a free place");
        entry.head.store(key.head);
    }

    pub(crate) fn entry(&self, protocol: Protocol) -> &ServiceEntry {
        let Place { bucket, half } = place(protocol);
        &self.buckets[bucket as usize].0[usize::from(half)]
    }

    pub(crate) fn table(&self, stage: Stage) -> &RefCell<HashMap<FlowKey, Rc<FlowRecord>>> {
        match stage {
            Stage::HalfOpen => &self.half_open,
            Stage::Confirmed => &self.confirmed,
        }
    }
}

impl Tables for Memory {
    fn bucket(&self, place: u32) -> Option<&ServiceBucket> {
        self.buckets.get(place as usize)
    }

    fn slot(&self, index: u32) -> Option<Slot> {
        self.slots.get(index as usize).map(Cell::get)
    }

    fn backend(&self, number: u16) -> Option<&BackendEntry> {
        self.backends.get(usize::from(number))
    }

    fn rotation(&self, service: u32) -> Option<&Rotation> {
        (service == 0).then_some(&self.rotation)
    }

    fn load(&self, number: u16) -> Option<&Load> {
        self.loads.get(usize::from(number))
    }
}

impl Flows for Memory {
    type Record<'t> = Rc<FlowRecord>;

    fn now(&self) -> u32 {
        u32::try_from(self.now.get().as_secs()).unwrap_or(u32::MAX)
    }

    /// As rare as in a kernel of a hundred ticks a second.
    fn beat(&self) -> u32 {
        u32::try_from(self.now.get().as_millis() / 640).unwrap_or(u32::MAX)
    }

    fn record(&self, stage: Stage, key: &FlowKey) -> Option<Rc<FlowRecord>> {
        let found = self.table(stage).borrow().get(key).cloned();
        // At the first look alone: later ones may find that both record the flow, which counts it twice
        // until the next sweep.
        if stage == Stage::Confirmed
            && let Some(packet) = self.meanwhile.take()
            && found.is_none()
        {
            self.overlapped.set(true);
            // Where it goes is where this one must go.
            let _ = steer::steer(self, &PARAMETERS, &packet);
        }
        found
    }

    fn keep(&self, stage: Stage, key: &FlowKey, record: &FlowRecord) {
        self.table(stage).borrow_mut().insert(*key, Rc::new(record.copied()));
    }

    fn forget(&self, stage: Stage, key: &FlowKey) {
        self.table(stage).borrow_mut().remove(key);
    }

    fn turn_to(&self, rotation: &Rotation, position: u32) {
        rotation.turn.store(position);
    }

    fn count(&self, load: &Load, change: i64) {
        load.active.add(change);
    }

    fn has_second_chance(&self) -> bool {
        false
    }
}

impl Fragments for Memory {
    type Datagram<'t> = Rc<FragmentRecord>;

    fn datagram(&self, key: &FragmentKey) -> Option<Rc<FragmentRecord>> {
        self.datagrams.find(key)
    }

    fn learn(&self, key: &FragmentKey, record: &FragmentRecord) {
        self.datagrams.learn(key, record);
    }

    fn forget_datagram(&self, key: &FragmentKey) {
        self.datagrams.forget(key);
    }
}

/// The model's service.
pub fn service_key(protocol: Protocol) -> ServiceKey {
    let port = u16::from_le_bytes(80u16.to_be_bytes());
    ServiceKey::ipv4(
        u32::from_le_bytes([192, 0, 2, 10]),
        port,
        if protocol.is_udp() { 17 } else { 6 },
    )
}

/// The service's place in the service table.
pub fn place(protocol: Protocol) -> Place {
    Place { bucket: service_key(protocol).places().first(PARAMETERS.place_mask), half: 0 }
}
