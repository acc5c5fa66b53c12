//! What the controller does to the model's tables: the real ring, under the real rules.

use std::cell::Cell;

use lb_common::{
    layout::{FlowRecord, Life, ServiceMeta},
    slot::Slot,
    steer::{Flows as _, Stage},
};
use weir::core::{
    Write,
    maglev::{self, Candidate},
    recorded::Staying,
    ring::{Ring, Tracking},
    rotation,
    sweep::{self, Findings},
};

use super::{BACKENDS, Balance, Broken, Client, IDLE, Mirror, SLOTS, SPAN, TURNS, World, place};

impl World {
    pub(super) fn life(&self, number: u16) -> Life {
        // A model without one of its rules may well ask for one that is none.
        self.backends.get(usize::from(number)).map_or(Life(0), |backend| backend.life)
    }

    pub(super) fn set_life(
        &mut self,
        number: u16,
        new: impl Fn(Life) -> Life,
        mirror: &mut impl Mirror,
    ) {
        let life = new(self.life(number));
        self.backends[usize::from(number)].life = life;
        self.tables.backends[usize::from(number)].life.store(life.0);
        mirror.write(&Write::Life(number, life));
    }

    pub(super) fn fall(&mut self, number: u16, mirror: &mut impl Mirror) {
        // Its records lead nowhere, and are still counted until the next sweep.
        self.loads_hold = false;
        self.set_life(
            number,
            |life| Life::new(life.number().wrapping_add(1), false, false),
            mirror,
        );
    }

    pub(super) fn give(&mut self, mirror: &mut impl Mirror) {
        let candidates: Vec<Candidate> = (0..)
            .zip(&self.backends)
            .map(|(number, backend)| Candidate {
                identity: u64::from(number),
                weight: if backend.life.lives() && backend.life.takes_new() {
                    backend.weight.into()
                } else {
                    0
                },
                number,
            })
            .collect();
        match self.balance {
            Balance::Ring | Balance::Loose => {}
            Balance::Turns => self.take_turns(&candidates, mirror),
            Balance::Load => {
                for candidate in &candidates {
                    let weight = candidate.weight;
                    self.tables.loads[usize::from(candidate.number)].weight.store(weight.into());
                    mirror.write(&Write::Weight(candidate.number, weight));
                }
            }
        }
        let owners = maglev::build(&candidates, SLOTS);
        let lives = |number: u16| self.backends[usize::from(number)].life.lives();
        let changed = self.ring.give(&owners, lives, self.tables.now.get());
        self.write(&changed.slots, mirror);
    }

    fn take_turns(&mut self, candidates: &[Candidate], mirror: &mut impl Mirror) {
        let changed = self.rotation.set(candidates);
        self.write(&changed.slots, mirror);
        if let Some(order) = changed.order {
            self.tables.rotation.order.store(order.to_word());
            mirror.write(&Write::Order(0, order.to_word()));
        }
    }

    /// As `core/apply.rs` does it: slots before the flags on the way to records of every flow,
    /// after them on the way back.
    pub(super) fn balance(&mut self, balance: Balance, mirror: &mut impl Mirror) {
        if balance == Balance::Loose && !self.protocol.is_udp() {
            return;
        }
        self.balance = balance;
        self.loads_hold = false;
        let tracking = self.tracking();
        if tracking == Tracking::EveryFlow {
            self.track(tracking, mirror);
        }
        let meta = self.meta();
        self.tables.entry(self.protocol).meta.store(meta.0);
        mirror.write(&Write::ServiceMeta(place(self.protocol), meta));
        if tracking != Tracking::EveryFlow {
            self.track(tracking, mirror);
        }
        self.give(mirror);
    }

    fn track(&mut self, tracking: Tracking, mirror: &mut impl Mirror) {
        if self.ring.wanted_tracking() != tracking {
            let changed = self.ring.track(tracking, IDLE, self.tables.now.get());
            self.write(&changed, mirror);
        }
    }

    fn tracking(&self) -> Tracking {
        match self.balance {
            Balance::Ring => Tracking::Moves,
            Balance::Loose => Tracking::Nothing,
            Balance::Turns | Balance::Load => Tracking::EveryFlow,
        }
    }

    fn meta(&self) -> ServiceMeta {
        let balance = match self.balance {
            Balance::Ring | Balance::Loose => return ServiceMeta::default(),
            Balance::Turns => ServiceMeta::ROUND_ROBIN,
            Balance::Load => ServiceMeta::LEAST_CONN,
        };
        ServiceMeta(balance | if self.protocol.is_udp() { ServiceMeta::UNANNOUNCED } else { 0 })
    }

    pub(super) fn restart(&mut self, mirror: &mut impl Mirror) {
        let leaves_nothing = self.ring.tracking() == Tracking::Nothing;
        if leaves_nothing && self.ring.wanted_tracking() != Tracking::Nothing {
            // A successor does not know what was about to change and takes it for changed. That is
            // right but for the seconds after `affinity = false` was taken back.
            return;
        }
        let range = SPAN.base as usize..(SPAN.base + SPAN.length) as usize;
        let slots = self.tables.slots[range].iter().map(Cell::get).collect();
        self.ring = Ring::adopt(SPAN, self.tracking(), slots, self.tables.now.get());
        self.rotation = rotation::Rotation::new(TURNS);
        self.give(mirror);
    }

    /// What packets have counted is what the records say, here and in the mirror.
    pub(super) fn check_loads(&self, mirror: &impl Mirror) -> Result<(), Broken> {
        if !self.loads_hold || self.balance != Balance::Load {
            return Ok(());
        }
        for number in 0..BACKENDS {
            let load = self.tables.loads[usize::from(number)].active.load();
            let active = [Stage::HalfOpen, Stage::Confirmed].map(|stage| {
                let table = self.tables.table(stage).borrow();
                table.values().filter(|record| self.is_active(record, number)).count()
            });
            let mirrored = mirror.load(number).unwrap_or(load);
            let recorded = active.into_iter().sum::<usize>();
            if load != recorded as u64 || mirrored != load {
                return Err(Broken(format!(
                    "backend {number} has {recorded} active records, a load of {load}, and one of \
                     {mirrored} in the mirror"
                )));
            }
        }
        Ok(())
    }

    fn is_active(&self, record: &FlowRecord, number: u16) -> bool {
        let same_life = record.life() == self.life(number).number();
        record.number() == number && same_life && !record.is_closing()
    }

    pub(super) fn sweep(&mut self, mirror: &mut impl Mirror) {
        let now = self.tables.now.get();
        let mut findings = Findings::default();
        let mut staying = Vec::new();
        let idle_seconds = u32::try_from(IDLE.as_secs()).unwrap_or(u32::MAX);
        let every_flow = self.ring.tracking() == Tracking::EveryFlow;
        for stage in [Stage::HalfOpen, Stage::Confirmed] {
            let mut done = Vec::new();
            for (key, record) in self.tables.table(stage).borrow().iter() {
                let slot = || self.tables.slots[record.slot.load() as usize].get();
                let slot = (!every_flow).then(slot);
                let life = self.life(record.number());
                if sweep::is_done(record, slot, life, self.tables.now(), idle_seconds) {
                    done.push(*key);
                } else {
                    staying.push(Staying::new(record));
                }
            }
            for key in &done {
                self.tables.forget(stage, key);
            }
            mirror.forget(stage, &done);
        }
        findings.take(staying);
        if self.balance == Balance::Load {
            for (number, load) in (0..).zip(&self.tables.loads) {
                let counted = findings.by_backend.get(&number).map_or(0, |count| count.active);
                let before = load.active.load();
                let change = sweep::correction(counted, before, before);
                load.active.add(change);
                mirror.correct(number, change);
            }
            self.loads_hold = true;
        }
        let loose = self.ring.tracking() == Tracking::Nothing;
        let changed = self.ring.sweep(&findings.recorded, IDLE, now, now);
        if loose && self.ring.tracking() != Tracking::Nothing {
            // Who was promised nothing has no claim now.
            self.clients.fill(Client::default());
        }
        self.write(&changed, mirror);
    }

    fn write(&self, slots: &[(u32, Slot)], mirror: &mut impl Mirror) {
        for (index, slot) in slots {
            self.tables.slots[*index as usize].set(*slot);
        }
        mirror.write(&Write::Slots(slots.to_vec()));
    }
}
