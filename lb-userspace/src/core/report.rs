//! What the core tells others of its state.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
};

use lb_common::slot::Prior;

use super::{
    BackendId, BackendState, BackendStatus, Checks, Core, LeavingStatus, PacketStatus,
    ServiceStatus, Status,
    backend::Backend,
    saved::{Saved, SavedService},
    service::Service,
    settle::Kept,
};
use crate::config::{HealthCheck, Name, Protocol};

/// A backend to be checked, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckTarget {
    /// Who.
    pub id: BackendId,
    /// Its address.
    pub address: IpAddr,
    /// The VIP and port of its service.
    pub service_address: IpAddr,
    /// The port of its service.
    pub service_port: u16,
    /// How.
    pub check: HealthCheck,
}

impl Core {
    /// The health checks that should run. Backends in maintenance are checked too, so that
    /// `status` shows whether they could come back.
    pub fn targets(&self) -> Vec<CheckTarget> {
        self.services
            .values()
            .flat_map(|service| {
                service.backends.values().map(|backend| CheckTarget {
                    id: BackendId {
                        service: service.spec.name.clone(),
                        backend: backend.spec.name.clone(),
                    },
                    address: backend.spec.address,
                    service_address: service.spec.address,
                    service_port: service.spec.port,
                    check: service.spec.health.clone(),
                })
            })
            .collect()
    }

    /// The addresses whose next hops are wanted.
    pub fn addresses(&self) -> BTreeSet<IpAddr> {
        self.services
            .values()
            .flat_map(|service| service.backends.values().map(|b| b.spec.address))
            .collect()
    }

    /// What to keep across restarts.
    pub fn saved(&self) -> Saved {
        let services = self.services.iter().map(|(n, s)| (n.clone(), saved_service(s))).collect();
        let machine_suspected = self.machine_suspected();
        let stamps = self.stamps();
        Saved { changes: self.changes.clone(), stamps, services, machine_suspected }
    }

    /// The whole state; traffic figures and interfaces are left for the daemon to fill in.
    pub fn status(&self) -> Status {
        Status {
            node: self.config.node.name.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            interfaces: Vec::new(),
            machine_suspected: self.machine_suspected(),
            sync: None,
            services: self.services.values().map(service_status).collect(),
            vrrp: Vec::new(),
            notices: self.notices.clone(),
            packets: PacketStatus::default(),
            flows: self.flow_table.status,
        }
    }

    /// The number of each backend in the tables.
    pub fn backend_numbers(&self) -> impl Iterator<Item = (BackendId, u16)> {
        self.ids().filter_map(|id| {
            let number = self.backend(&id)?.number;
            Some((id, number))
        })
    }

    /// The numbers of all backends, in the order of [`Core::status`].
    pub fn numbers(&self) -> Vec<u16> {
        self.services.values().flat_map(|s| s.backends.values().map(|b| b.number)).collect()
    }

    /// The numbers of all backends, each with the address of its service.
    pub fn numbers_by_address(&self) -> impl Iterator<Item = (IpAddr, u16)> {
        self.services.values().flat_map(|service| {
            service.backends.values().map(|backend| (service.spec.address, backend.number))
        })
    }

    /// The name of a backend, by its number in the tables.
    pub fn backend_named(&self, number: u16) -> Option<BackendId> {
        self.backend_numbers().find(|(_, n)| *n == number).map(|(id, _)| id)
    }

    /// The name of a service, by its number in the tables.
    pub fn service_named(&self, index: u32) -> Option<Name> {
        self.services.values().find(|s| s.index == index).map(|s| s.spec.name.clone())
    }

    /// `settled`, `moving` or `exceptions`: what a slot of a service's ring remembers.
    pub fn slot_state(&self, index: u32, slot: u32) -> Option<&'static str> {
        let service = self.services.values().find(|service| service.index == index)?;
        Some(match service.ring.slots().get(slot as usize)?.prior() {
            Prior::Settled => "settled",
            Prior::Moving(_) => "moving",
            Prior::Exceptions => "exceptions",
        })
    }

    /// The name of the service that answers to a VIP: by its port, else one for every port.
    pub fn service_at(&self, vip: SocketAddr, protocol: Protocol) -> Option<Name> {
        let with_port = |port: u16| {
            self.services.values().find(|service| {
                let spec = &service.spec;
                (spec.address, spec.port, spec.protocol) == (vip.ip(), port, protocol)
            })
        };
        let service = with_port(vip.port()).or_else(|| with_port(0))?;
        Some(service.spec.name.clone())
    }

    /// Whether every backend has been checked, and the way to those that serve is known.
    pub fn is_settled(&self) -> bool {
        self.services.values().flat_map(|s| s.backends.values()).all(|backend| {
            backend.health != Checks::Unchecked
                && (backend.written.is_some() || !backend.health.serves())
        })
    }

    /// The services, and whether each has a backend that serves.
    pub fn serving(&self) -> BTreeMap<Name, bool> {
        let serves = |service: &Service| {
            let states = service.backends.values().map(|backend| backend.state);
            states.into_iter().any(|s| matches!(s, BackendState::Up | BackendState::Suspect))
        };
        self.services.iter().map(|(name, service)| (name.clone(), serves(service))).collect()
    }

    /// Adds a notice for operators to `status`, until the next reload.
    pub fn notice(&mut self, notice: String) {
        self.notices.push(notice);
    }
}

fn saved_service(service: &Service) -> SavedService {
    SavedService {
        address: service.spec.address,
        port: service.spec.port,
        protocol: service.spec.protocol,
        index: service.index,
        ring_base: service.ring.span().base,
        ring_length: service.ring.span().length,
        rotation_base: service.rotation.as_ref().map(|rotation| rotation.span().base),
        backends: service.backends.iter().map(|(n, b)| (n.clone(), b.saved())).collect(),
        leaving: service
            .leaving
            .values()
            .map(|backend| (backend.spec.name.clone(), backend.saved()))
            .collect(),
    }
}

/// Why a backend is in its state, and why it serves all the same, if so.
fn reason(backend: &Backend) -> String {
    let serves = match backend.kept {
        None => return backend.reason.clone(),
        Some(Kept::Machine) => "this machine is suspected",
        Some(Kept::Doubt) => "most failed together until now, so its next check decides",
        Some(Kept::Panic) => "the service panics",
    };
    format!("{}; serves all the same: {serves}", backend.reason)
}

fn service_status(service: &Service) -> ServiceStatus {
    ServiceStatus {
        name: service.spec.name.clone(),
        address: service.spec.address,
        port: service.spec.port,
        protocol: service.spec.protocol,
        algorithm: service.spec.algorithm,
        affinity: service.spec.affinity,
        forward: service.spec.forward,
        health: service.light(),
        packets: 0,
        bytes: 0,
        panic: service.panic.is_some(),
        leaving: service
            .leaving
            .values()
            .map(|backend| LeavingStatus {
                name: backend.spec.name.clone(),
                address: backend.spec.address,
                tracked_flows: backend.tracked.into(),
            })
            .collect(),
        slots: service.ring.counts(),
        backends: service
            .backends
            .values()
            .map(|backend| BackendStatus {
                name: backend.spec.name.clone(),
                address: backend.spec.address,
                port: service.spec.health.port,
                weight: backend.spec.weight,
                backup: backend.spec.backup,
                state: backend.state,
                since: backend.since,
                reason: reason(backend),
                slots: backend.slots,
                packets: 0,
                bytes: 0,
                new_flows: 0,
                tracked_flows: backend.tracked.into(),
            })
            .collect(),
    }
}
