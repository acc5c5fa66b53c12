//! What goes out: orders to the keeper, reports and status to the daemon.

use std::time::Duration;

use tracing::warn;

use super::{
    Driver, Running,
    hosts::{self, Hosts},
    places,
};
use crate::{
    config::{Name, Tracked, Vrrp, is_virtual_home},
    dataplane::VirtualRouter,
    vrrp::{
        Report, VrrpStatus, announce,
        fence::Outcome,
        fsm::State,
        instance::{Instance, Told},
        keeper::{Mended, Orders, Place, VirtualLink, Wanted},
    },
};

/// How long frames to a virtual router are steered here after it went, at least.
const STEERED_AFTER: Duration = Duration::from_secs(1);

impl Driver {
    /// Lets instances go that are no longer configured and have left.
    pub(super) fn retire(&mut self) {
        let gone =
            |each: &Running| each.instance.retiring && each.instance.fsm.state() == State::Fault;
        if self.leaving.is_some() || !self.running.iter().any(gone) {
            return;
        }
        let all = std::mem::take(&mut self.running);
        let (gone, left): (Vec<_>, Vec<_>) = all.into_iter().partition(gone);
        self.running = left;
        for Running { instance, .. } in gone {
            self.drop_addresses(&instance.spec);
        }
    }

    pub(super) fn drop_addresses(&mut self, spec: &Vrrp) {
        self.dropped.extend(places(spec));
    }

    /// Tells the keeper what is to be where.
    pub(super) fn give_orders(&mut self) {
        let mut orders = Orders::default();
        for Running { instance, .. } in &self.running {
            let owner = instance.spec.priority == u8::MAX;
            let wanted = match instance.holds {
                None => None,
                Some(true) => Some(Wanted::On),
                Some(false) if owner => Some(Wanted::OffIfOurs),
                Some(false) => Some(Wanted::Off),
            };
            for place in places(&instance.spec) {
                self.dropped.remove(&place);
                if let Some(wanted) = wanted {
                    let known = orders.addresses.entry(place).or_insert(wanted);
                    // Of an instance that leaves and its successor, one may hold the address.
                    if wanted == Wanted::On {
                        *known = wanted;
                    }
                }
            }
            orders.interfaces.insert(instance.spec.interface.clone());
            order_link(instance, &mut orders);
            for track in &instance.spec.track {
                if let Tracked::Interface(name) = &track.what {
                    orders.interfaces.insert(name.clone());
                }
            }
        }
        for place in &self.dropped {
            orders.interfaces.insert(place.0.clone());
            if is_virtual_home(&place.0) {
                orders.links.entry(place.0.clone()).or_insert(None);
            }
            orders.addresses.insert(place.clone(), Wanted::Dropped);
        }
        self.orders.send_if_modified(|known| {
            let changed = *known != orders;
            *known = orders;
            changed
        });
        self.tell_program();
    }

    /// Tells the program whose frames are ours beside those to the interfaces' own addresses: those
    /// of virtual routers that we hold, or whose interface is still there. As long as it is, the
    /// kernel would answer what the program does not steer, and reset connections. And for a while
    /// after: what the kernel says when it takes the interface off (that it leaves multicast groups)
    /// comes from its address, and leads the switch here once more, until the master says the next.
    pub(super) fn tell_program(&mut self) {
        if !self.informed {
            // What an earlier daemon said holds on.
            return;
        }
        let now = self.now();
        let virtual_ones = self.running.iter().filter(|each| each.instance.spec.virtual_mac);
        for Running { instance, .. } in virtual_ones {
            let spec = &instance.spec;
            let ours = instance.holds == Some(true) || self.facts.links.contains_key(&spec.home());
            let (ipv4, router_id) = (spec.is_ipv4(), spec.router_id);
            if let Some(link) = self.facts.links.get(&spec.interface).filter(|_| ours) {
                let router = VirtualRouter { interface: link.index, ipv4, router_id };
                self.steered.insert(router, now + STEERED_AFTER.max(spec.interval * 2));
            }
        }
        self.steered.retain(|_, until| now < *until);
        self.macs.set(&self.steered.keys().copied().collect::<Vec<_>>());
    }

    pub(super) fn tell(&self, position: usize, told: Told) {
        let instance = self.running[position].instance.spec.name.clone();
        self.report(instance, told);
    }

    pub(super) fn tell_of(&self, mended: &Mended) {
        let Mended { place: (interface, prefix), what } = mended;
        let of = |spec: &&Vrrp| {
            spec.home() == *interface && spec.placed().any(|placed| placed == *prefix)
        };
        let specs = self.running.iter().map(|each| &each.instance.spec);
        if let Some(spec) = specs.clone().find(of) {
            let note = format!("{}: {what}", prefix.address);
            self.report(spec.name.clone(), Told::Note(note));
        } else {
            warn!("{} of {interface}: {what}", prefix.address);
        }
    }

    pub(super) fn tell_of_fence(&self, Outcome { instance, peer, result }: Outcome) {
        self.report(instance, Told::Fenced { peer, failure: result.err() });
    }

    pub(super) fn report(&self, instance: Name, told: Told) {
        if let Err(error) = self.reports.try_send(Report { instance, told }) {
            warn!("a report was lost, the daemon being busy: {error}");
        }
    }

    pub(super) fn tell_status(&self) {
        let status = self.current().map(|instance| {
            let hosts = |hosts: &Hosts| hosts.status(hosts::way(instance).as_ref());
            let hosts = self.hosts.as_ref().map(hosts).unwrap_or_default();
            let witnesses = self.witnesses.status(self.last_round);
            VrrpStatus { hosts, witnesses, ..instance.status() }
        });
        let status: Vec<VrrpStatus> = status.collect();
        self.status.send_if_modified(|known| {
            let changed = *known != status;
            *known = status;
            changed
        });
    }

    /// Says that all have left, once that is so, in the kernel too.
    pub(super) fn finish_leaving(&mut self) {
        let instances = || self.running.iter().map(|each| &each.instance);
        let there = |place: &Place| {
            let link = self.facts.links.get(&place.0);
            link.is_some_and(|link| {
                link.addresses.iter().any(|each| each.address == place.1.address)
            })
        };
        let gone = |instance: &Instance| {
            let owner = instance.spec.priority == u8::MAX;
            instance.fsm.state() == State::Fault
                && (owner || !places(&instance.spec).iter().any(there))
        };
        if self.leaving.is_some() && instances().all(gone) {
            // Whoever waited may have lost patience.
            let _ = self.leaving.take().map(|done| done.send(()));
        }
    }

    pub(super) fn current(&self) -> impl Iterator<Item = &Instance> {
        let leaving = self.leaving.is_some();
        let instances = self.running.iter().map(|each| &each.instance);
        instances.filter(move |instance| leaving || !instance.retiring)
    }
}

/// Orders the interface of a virtual router's own.
fn order_link(instance: &Instance, orders: &mut Orders) {
    let spec = &instance.spec;
    if !spec.virtual_mac {
        return;
    }
    let home = spec.home();
    orders.interfaces.insert(home.clone());
    let Some(held) = instance.holds else { return };
    let mac = announce::virtual_mac(spec.router_id, spec.is_ipv4());
    let link = VirtualLink { parent: spec.interface.clone(), mac };
    let known = orders.links.entry(home).or_insert(None);
    // Of an instance that leaves and its successor, one may hold the addresses.
    if held {
        *known = Some(link);
    }
}
