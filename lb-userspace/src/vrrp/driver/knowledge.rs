//! What is wanted and what is known, and the conclusions for each instance.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::Duration,
};

use tracing::error;

use super::{Driver, Running};
use crate::{
    config::{Prefix, TrackScript, Tracked, Vrrp},
    vrrp::{
        HeldAddress, Wanted,
        fsm::Input,
        group,
        instance::Instance,
        io::AdvertSocket,
        track::{Assessment, LinkFacts},
    },
};

/// Until a socket that could not be opened is tried again.
const REOPEN: Duration = Duration::from_secs(1);

impl Driver {
    pub(super) fn configure(&mut self, wanted: Wanted) {
        let now = self.clock.now();
        for HeldAddress { interface, address, length } in wanted.leftovers {
            self.dropped.insert((interface, Prefix { address, length }));
        }
        let mut before = std::mem::take(&mut self.running);
        for spec in wanted.instances {
            let same = |each: &Running| {
                each.instance.is_same_router(&spec)
                    && each.instance.spec.name == spec.name
                    && !each.instance.retiring
            };
            let running = if let Some(position) = before.iter().position(same) {
                let mut running = before.remove(position);
                let old = running.instance.spec.clone();
                if old != spec {
                    self.drop_addresses(&old);
                    running.instance.reconfigure(spec);
                    running.instance.announce_new(&old, now.monotonic);
                }
                running
            } else {
                let instance = Instance::new(spec, self.patience, now);
                Running { instance, socket: None, deaf: None }
            };
            self.running.push(running);
        }
        let mut leaving = Vec::new();
        for mut running in before {
            if !running.instance.retiring {
                running.instance.retiring = true;
                leaving.push(self.running.len());
            }
            self.running.push(running);
        }
        for position in leaving {
            let instance = &mut self.running[position].instance;
            let outputs = instance.fsm.handle(Input::Leave, now.monotonic);
            self.carry_out(position, outputs);
        }
        let scripts: Vec<TrackScript> =
            self.current().flat_map(|instance| tracked_scripts(&instance.spec)).collect();
        self.facts.scripts.retain(|script, _| scripts.contains(script));
        self.scripts.set(scripts.into_iter());
        self.give_orders();
        self.assess();
    }

    pub(super) fn learn_links(&mut self, links: Option<BTreeMap<String, LinkFacts>>) {
        if let Some(links) = links {
            self.facts.links = links;
            self.informed = true;
            self.assess();
        }
    }

    /// Takes note of how many packets have arrived for each address.
    pub(super) fn count_packets(&mut self, arrived: &BTreeMap<IpAddr, u64>) {
        let now = self.now();
        for position in 0..self.running.len() {
            let outputs = self.running[position].instance.count_packets(arrived, now);
            self.carry_out(position, outputs);
        }
    }

    /// Draws the conclusions from what is known.
    pub(super) fn assess(&mut self) {
        // What is not told yet is not missing.
        if !self.informed {
            return;
        }
        self.open_sockets();
        let (now, cannot_ask) = (self.now(), self.cannot_ask());
        let virtual_addresses: BTreeSet<IpAddr> = (self.running.iter())
            .flat_map(|each| each.instance.spec.addresses.iter().map(|prefix| prefix.address))
            .collect();
        let mut sources = Vec::with_capacity(self.running.len());
        let mut assessments: Vec<(&Vrrp, Assessment)> = Vec::with_capacity(self.running.len());
        for Running { instance, deaf, .. } in &self.running {
            let spec = &instance.spec;
            let mut assessment = self.facts.assess(spec);
            assessment.lacks_tables |= cannot_ask;
            let source = self.facts.source(spec, &virtual_addresses);
            if let (None, Some(reason)) = (&assessment.fault, deaf) {
                assessment.fault = Some(reason.clone());
            }
            if assessment.fault.is_none() && source.is_none() {
                let family = if spec.is_ipv4() { "IPv4" } else { "link-local IPv6" };
                let interface = &spec.interface;
                assessment.fault =
                    Some(format!("{interface} has no {family} address to send adverts from"));
            }
            sources.push(source);
            assessments.push((spec, assessment));
        }
        group::join(&mut assessments);
        let assessments: Vec<Assessment> = assessments.into_iter().map(|(_, each)| each).collect();
        for (position, (assessment, source)) in assessments.into_iter().zip(sources).enumerate() {
            let instance = &mut self.running[position].instance;
            let link = self.facts.links.get(&instance.spec.interface);
            let local = link.map(|link| link.addresses.iter().map(|each| each.address).collect());
            let outputs = instance.assess(assessment, source, local.unwrap_or_default(), now);
            self.carry_out(position, outputs);
        }
    }

    /// Opens the sockets of instances whose interface is there, and anew where it was replaced.
    pub(super) fn open_sockets(&mut self) {
        self.reopen_at = None;
        let again = self.clock.now().monotonic + REOPEN;
        for Running { instance, socket, deaf } in &mut self.running {
            let spec = &instance.spec;
            let Some(link) = self.facts.links.get(&spec.interface) else {
                *socket = None;
                continue;
            };
            if socket.as_ref().is_some_and(|socket| socket.index() == link.index) {
                continue;
            }
            let multicast = spec.unicast_peers.is_empty();
            let (interface, ipv4) = (&spec.interface, spec.is_ipv4());
            match AdvertSocket::open(interface, link.index, ipv4, multicast) {
                Ok(opened) => (*socket, *deaf) = (Some(opened), None),
                Err(error) => {
                    let reason = error.to_string();
                    if deaf.as_ref() != Some(&reason) {
                        error!(instance = %spec.name, "{reason}");
                    }
                    (*socket, *deaf) = (None, Some(reason));
                    self.reopen_at = Some(again);
                }
            }
        }
    }
}

fn tracked_scripts(spec: &Vrrp) -> Vec<TrackScript> {
    let scripts = spec.track.iter().filter_map(|track| match &track.what {
        Tracked::Script(script) => Some(script.clone()),
        _ => None,
    });
    scripts.collect()
}
