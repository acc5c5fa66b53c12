//! A balancer without a fault: one service, one backend in its segment, the VIP on `eth0`.

use std::{
    net::{IpAddr, Ipv4Addr},
    time::SystemTime,
};

use super::{Facts, Finding, Scope};
use crate::{
    config::{Algorithm, AttachMode, Forward, Name, Prefix, Protocol},
    core::{
        BackendState, Status,
        status::{BackendStatus, Health, InterfaceStatus, ServiceStatus, SlotsStatus},
    },
    doctor::{facts::Found, finding::Kind},
    netlink::{Hop, LinkReport, Route},
    vrrp::{VrrpStatus, announce::Mac, fsm::State},
};

/// The index of `eth0`.
pub(super) const ETH0: u32 = 2;
pub(super) const VIP: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 10));
pub(super) const BACKEND: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 21));
pub(super) const HOP: Hop = Hop { interface: ETH0, address: BACKEND };
pub(super) const OWN_MAC: Mac = [2, 0, 0, 0, 0, 1];
pub(super) const BACKEND_MAC: Mac = [2, 0, 0, 0, 0, 0x21];

pub(super) fn scope(status: &Status) -> Scope<'_> {
    Scope { status, service: None }
}

pub(super) fn kinds(findings: &[Finding]) -> Vec<Kind> {
    findings.iter().map(|finding| finding.finding).collect()
}

fn name(text: &str) -> Name {
    Name::new(text).expect("a name")
}

pub(super) fn status() -> Status {
    let backend = BackendStatus {
        name: name("b1"),
        address: BACKEND,
        port: 80,
        weight: 1,
        backup: false,
        state: BackendState::Up,
        since: SystemTime::UNIX_EPOCH,
        reason: String::new(),
        slots: 1,
        packets: 0,
        bytes: 0,
        new_flows: 0,
        tracked_flows: 0,
    };
    let service = ServiceStatus {
        name: name("web"),
        address: VIP,
        port: 80,
        protocol: Protocol::Tcp,
        algorithm: Algorithm::Maglev,
        affinity: true,
        forward: Forward::L2,
        health: Health::Green,
        packets: 0,
        bytes: 0,
        panic: false,
        slots: SlotsStatus::default(),
        backends: vec![backend],
        leaving: Vec::new(),
    };
    Status {
        node: "lb-1".to_owned(),
        version: String::new(),
        interfaces: vec![InterfaceStatus { name: "eth0".to_owned(), mode: AttachMode::Native }],
        sync: None,
        services: vec![service],
        machine_suspected: false,
        vrrp: Vec::new(),
        notices: Vec::new(),
        packets: crate::core::status::PacketStatus::default(),
        flows: crate::core::status::FlowsStatus::default(),
    }
}

/// The instance that has the VIP.
pub(super) fn instance(state: State, master: Option<IpAddr>) -> VrrpStatus {
    VrrpStatus {
        name: name("front"),
        interface: "eth0".to_owned(),
        router_id: 51,
        version: 3,
        state,
        reason: String::new(),
        since: SystemTime::UNIX_EPOCH,
        priority: 100,
        penalties: [].into(),
        addresses: vec![format!("{VIP}/24")],
        master,
        released: false,
        transitions: 0,
        sent: 0,
        received: 0,
        discarded: [].into(),
        hosts: Vec::new(),
        cut_off: false,
        witnesses: Vec::new(),
        split: Vec::new(),
    }
}

/// `eth0`, and `eth1` that nothing leads to.
pub(super) fn facts() -> Facts {
    let link = |index, name: &str, mac| LinkReport {
        index,
        name: name.to_owned(),
        mac,
        mtu: 1500,
        up: true,
        ethernet: true,
    };
    let prefix = |address, length| (ETH0, Prefix { address, length });
    let own = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
    Facts {
        links: vec![link(ETH0, "eth0", OWN_MAC), link(3, "eth1", [2, 0, 0, 0, 0, 2])],
        addresses: vec![prefix(own, 24), prefix(VIP, 32)],
        routes: [(BACKEND, Ok(Route { hop: HOP, source: Some(own), mtu: None }))].into(),
        neighbours: [(HOP, Found::At(BACKEND_MAC))].into(),
        ..Facts::default()
    }
}
