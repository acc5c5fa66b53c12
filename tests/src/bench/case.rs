//! The cases that are measured, and the tables and frames of each.

use std::fmt::Write as _;

use serde::Serialize;

use super::generator::{FIRST_VIP, Family, Order, Traffic};
use crate::program::OWN_MAC;

/// The packet of a case.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Packet {
    /// TCP, opening its flow.
    Syn,
    /// TCP, in the middle of its flow.
    Ack,
    /// UDP.
    Udp,
}

/// The state of the slots that a case's packets meet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Settled.
    Settled,
    /// Moving, and each packet is its flow's first: it is recorded, in a table that is full.
    Moving,
    /// With exceptions, none of which is the packet's flow.
    Exceptions,
    /// With exceptions, all of which are the packets' flows.
    Recorded,
    /// As in every `round_robin` service: each packet opens a flow, which gets its turn and is
    /// recorded, in a table that is full.
    Turns,
    /// The same of `least_conn`: each gets the less loaded of two.
    Loads,
    /// No service has the packet's port.
    Miss,
}

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Case {
    pub(super) family: Family,
    pub(super) packet: Packet,
    pub(super) state: State,
    pub(super) flows: u32,
    pub(super) services: u32,
    /// Of each service.
    pub(super) backends: u32,
}

/// The numbers of flows at which curves are drawn.
const FLOWS: [u32; 4] = [1, 1_000, 100_000, 524_288];
/// A port that no service has.
const NO_SERVICE: u16 = 81;
const ONE_BY_ONE: Order = Order::Sequence { after: 0 };
const SERVICE: u16 = 80;
/// Among these many flows, none comes twice.
const ALWAYS_NEW: u32 = 1 << 31;

/// Every case, in the order of the report.
pub(super) fn all() -> Vec<Case> {
    use Packet::{Ack, Syn, Udp};
    use State::{Exceptions, Loads, Miss, Moving, Recorded, Settled, Turns};
    let typical = |packet, state, flows| Case {
        family: Family::V4,
        packet,
        state,
        flows,
        services: 1,
        backends: 100,
    };
    let few_and_many = [FLOWS[0], FLOWS[3]];
    let mut cases = Vec::new();
    for (packet, state) in [
        (Ack, Settled),
        (Syn, Settled),
        (Udp, Settled),
        (Ack, Exceptions),
        (Ack, Recorded),
        (Udp, Recorded),
    ] {
        cases.extend(FLOWS.map(|flows| typical(packet, state, flows)));
    }
    cases.push(typical(Ack, Settled, 4_194_304));
    cases.extend([Ack, Syn, Udp].map(|packet| typical(packet, Moving, ALWAYS_NEW)));
    cases.extend([Turns, Loads].map(|state| typical(Syn, state, ALWAYS_NEW)));
    for backends in [1, 1_000] {
        cases.extend(few_and_many.map(|flows| Case { backends, ..typical(Ack, Settled, flows) }));
    }
    for services in [64, 1_000] {
        let backends = 16;
        cases.extend(few_and_many.map(|flows| Case {
            services,
            backends,
            ..typical(Ack, Settled, flows)
        }));
    }
    cases.extend(few_and_many.map(|flows| Case { services: 64, ..typical(Ack, Miss, flows) }));
    let six = |case| Case { family: Family::V6, ..case };
    cases.extend(FLOWS.map(|flows| six(typical(Ack, Settled, flows))));
    for (packet, state) in [(Syn, Settled), (Udp, Settled), (Ack, Recorded), (Ack, Miss)] {
        cases.extend(few_and_many.map(|flows| six(typical(packet, state, flows))));
    }
    cases
}

impl Case {
    /// The configuration whose tables the packets meet: sizes as a production host has them.
    pub(super) fn configuration(&self) -> String {
        let flows = match self.state {
            State::Recorded => (self.flows / 4 * 5).max(262_144),
            _ => 262_144,
        };
        // One service has the default ring; a thousand share the default number of slots.
        let ring = if self.services == 1 { 65_537 } else { 4_093 };
        let protocol = if self.packet == Packet::Udp { "udp" } else { "tcp" };
        let algorithm = match self.state {
            State::Turns => "round_robin",
            State::Loads => "least_conn",
            _ => "maglev",
        };
        let mut text = format!("[limits]\nflows = {flows}\n[[interface]]\nname = \"lo\"\n");
        for service in 0..self.services {
            let vip = self.family.address(FIRST_VIP + service);
            // Writing to a string cannot fail.
            let _ = write!(
                text,
                "[[service]]\nname = \"s{service}\"\naddress = \"{vip}\"\nport = {SERVICE}\n\
                 protocol = \"{protocol}\"\nring = {ring}\nalgorithm = \"{algorithm}\"\n"
            );
            for backend in 0..self.backends {
                let address = self.family.address(0x0A00_0001 + backend);
                let _ = write!(
                    text,
                    "[[service.backend]]\nname = \"b{backend}\"\naddress = \"{address}\"\n"
                );
            }
        }
        text
    }

    /// The flows of the case's packets.
    pub(super) fn traffic(&self) -> Traffic {
        Traffic {
            flows: self.flows,
            services: self.services,
            port: if self.state == State::Miss { NO_SERVICE } else { SERVICE },
            order: if self.is_always_new() { ONE_BY_ONE } else { Order::Random },
            mac: OWN_MAC,
        }
    }

    /// Whether each packet belongs to a flow of its own.
    pub(super) fn is_always_new(&self) -> bool {
        matches!(self.state, State::Moving | State::Turns | State::Loads)
    }

    /// The traffic that has every flow recorded, where slots are moving.
    pub(super) fn rehearsal(&self) -> Traffic {
        Traffic { order: ONE_BY_ONE, ..self.traffic() }
    }

    /// A smallest packet of the case's kind. The generator completes its addresses.
    pub(super) fn frame(&self) -> Vec<u8> {
        frame(self.family, self.packet)
    }

    /// The frame that confirms a flow at once.
    pub(super) fn confirming_frame(&self) -> Vec<u8> {
        let packet = if self.packet == Packet::Syn { Packet::Ack } else { self.packet };
        frame(self.family, packet)
    }
}

/// A smallest packet of a kind, whose addresses the generator completes.
pub(super) fn frame(family: Family, packet: Packet) -> Vec<u8> {
    let (protocol, transport) = match packet {
        Packet::Udp => (17, vec![0, 0, 0, 0, 0, 8, 0, 0]),
        Packet::Syn | Packet::Ack => {
            let flags = if packet == Packet::Syn { 0x02 } else { 0x10 };
            let mut tcp = vec![0; 12];
            tcp.extend([0x50, flags, 4, 0, 0, 0, 0, 0]);
            (6, tcp)
        }
    };
    let length = if packet == Packet::Udp { 8 } else { 20 };
    let mut frame = [OWN_MAC, [0x02, 0, 0, 0, 0, 0xC1]].concat();
    match family {
        Family::V4 => {
            frame.extend([0x08, 0x00, 0x45, 0, 0, 20 + length]);
            frame.extend([0, 0, 0x40, 0, 64, protocol, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        }
        Family::V6 => {
            frame.extend([0x86, 0xDD, 0x60, 0, 0, 0, 0, length, protocol, 64]);
            let address = [0x20, 0x01, 0x0D, 0xB8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
            frame.extend([address; 2].concat());
        }
    }
    frame.extend(transport);
    frame.resize(family.frame_bytes().into(), 0);
    frame
}
