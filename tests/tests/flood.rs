//! Openings from everywhere, at a service that is settled and at one whose slots are moving: the
//! settled one keeps nothing of them, and the other nothing that a flow in use could miss.

#![allow(clippy::unwrap_used, reason = "a test says what it expects by unwrapping it")]

use std::{collections::BTreeMap, net::Ipv4Addr};

use etherparse::PacketBuilder;
use lb_common::{
    layout::RingSpan,
    slot::{Prior, Slot},
    steer::Tables as _,
};
use weir::{
    config,
    core::{
        Write,
        sweep::{Order, Swept},
    },
};
use weir_lab::{
    bench::generator::{self, FIRST_VIP, Family, Generator, Target, Traffic},
    program::{OWN_MAC, Program, SMALL, Verdict, object, same_interface},
};

/// Openings at each of the two services.
const FLOOD: u32 = 2_000_000;
/// Flows in use at each of them.
const FLOWS: u16 = 500;
const PORT: u16 = 80;
/// What a sweep is told of a service whose flows may be silent for an hour.
const HOUR: Swept = Swept { idle_seconds: 3_600, every_flow: false, refresh_seconds: None };

/// A client whose flows are in use; the flood comes from other addresses.
const CLIENT: [u8; 4] = [203, 0, 113, 9];

#[test]
fn a_flood_of_openings_pushes_out_no_flow_in_use() {
    weir_lab::require_root().unwrap();
    let mut program = program();
    let [settled, moving] = rings(&program);
    let from_the_next =
        |slot: Slot| Slot::new(slot.owner(), Prior::Moving(4 + (slot.owner() + 1) % 4));
    set_slots(&program, moving, from_the_next);
    let before = backends(&mut program);
    // Those of the settled service are there already; those of the other were recorded.
    assert_eq!(program.tables.records.count().unwrap(), (0, u64::from(FLOWS)));

    flood(&program);

    let (half_open, confirmed) = program.tables.records.count().unwrap();
    assert_eq!(confirmed, u64::from(FLOWS), "flows in use that are recorded");
    let limit = u64::from(program.id.limits.flows.div_ceil(4));
    assert!((1..=limit).contains(&half_open), "{half_open} of {limit} half-open records");
    let order = Order { services: [(0, HOUR), (1, HOUR)].into(), ..Order::default() };
    let findings = program.tables.records.sweep(&program.tables.mapped, &order).unwrap();
    let of = |ring: RingSpan| findings.recorded.walk(ring).rest().len();
    assert_eq!(of(settled), 0, "slots of the settled service with records");
    assert!(of(moving) > 0);
    assert_eq!(findings.lost.confirmed, 0);
    // Each opening at the moving service was recorded, and pushed out by later ones or not.
    let lost = findings.lost.half_open;
    assert!(
        lost + half_open <= u64::from(FLOOD) + 1 && lost >= u64::from(FLOOD) / 2,
        "{lost} lost"
    );
    assert_eq!(backends(&mut program), before, "flows in use went elsewhere");
}

/// Two services with four backends each.
fn program() -> Program {
    let mut text = format!(
        "[limits]\nservices = 4\nbackends = 16\nring_slots = {}\nflows = 65536\n\
         [[interface]]\nname = \"lo\"\n",
        SMALL.ring_slots
    );
    for service in 0..2 {
        let vip = Ipv4Addr::from_bits(FIRST_VIP + service);
        text += &format!(
            "[[service]]\nname = \"s{service}\"\naddress = \"{vip}\"\nport = {PORT}\n\
             protocol = \"tcp\"\nring = 4093\n"
        );
        for backend in 0..4 {
            text += &format!(
                "[[service.backend]]\nname = \"b{backend}\"\naddress = \"10.0.{service}.{backend}\"\n"
            );
        }
    }
    Program::new(config::parse(&text, "test").unwrap(), same_interface).unwrap()
}

/// The rings of the two services: the slots whose owners are their backends.
fn rings(program: &Program) -> [RingSpan; 2] {
    [0..4, 4..8].map(|numbers| {
        let owned = |index: &u32| {
            let slot = program.tables.mapped.slot(*index).unwrap();
            // What is in no ring is zero, and not settled.
            slot.is_settled() && numbers.contains(&slot.owner())
        };
        let slots: Vec<u32> = (0..program.id.limits.ring_slots).filter(owned).collect();
        assert_eq!(slots.len(), 4093, "the backends are numbered service by service");
        RingSpan { base: slots[0], length: 4093 }
    })
}

fn set_slots(program: &Program, ring: RingSpan, change: impl Fn(Slot) -> Slot) {
    let mapped = &program.tables.mapped;
    let slots = ring.base..ring.base + ring.length;
    let slots = slots.map(|index| (index, change(mapped.slot(index).unwrap()))).collect();
    mapped.write(&Write::Slots(slots));
}

/// Where a packet of each flow in use goes, by VIP and source port.
fn backends(program: &mut Program) -> BTreeMap<(Ipv4Addr, u16), [u8; 6]> {
    let mut found = BTreeMap::new();
    for vip in [FIRST_VIP, FIRST_VIP + 1].map(Ipv4Addr::from_bits) {
        for port in 30_000..30_000 + FLOWS {
            let mut frame = Vec::new();
            PacketBuilder::ethernet2([2, 0, 0, 0, 0, 9], OWN_MAC)
                .ipv4(CLIENT, vip.octets(), 64)
                .tcp(port, PORT, 1, 1024)
                .ack(1)
                .write(&mut frame, b"")
                .unwrap();
            let (verdict, out) = program.run(&frame).unwrap();
            assert_eq!(verdict, Verdict::Tx);
            found.insert((vip, port), out[..6].try_into().unwrap());
        }
    }
    found
}

/// Openings from random addresses and ports, as many at each service.
fn flood(program: &Program) {
    let instance = program.instance(&object().unwrap()).unwrap();
    let [empty, weir] = ["empty_tx", "weir"].map(|name| instance.program(name).unwrap());
    let generator = Generator::new(Family::V4, empty, weir).unwrap();
    let order = generator::Order::Random;
    let traffic = Traffic { flows: 1 << 31, services: 2, port: PORT, order, mac: OWN_MAC };
    let mut syn = Vec::new();
    PacketBuilder::ethernet2([2, 0, 0, 0, 0, 9], OWN_MAC)
        .ipv4([0; 4], [0; 4], 64)
        .tcp(0, 0, 1, 1024)
        .syn()
        .write(&mut syn, b"")
        .unwrap();
    syn.resize(60, 0);
    let (verdict, _) = generator.run(Target::Measured, traffic, &syn, 2 * FLOOD).unwrap();
    assert_eq!(Verdict::from_action(verdict).unwrap(), Verdict::Tx);
}
