//! Packets of flows that are not known here, on their way to the balancer that had the address before.

use std::{net::Ipv4Addr, time::Duration};

use etherparse::{Icmpv4Type, PacketBuilder, icmpv4};
use lb_common::{echo::Message, steer::Stage};
use weir_lab::program::{ECHO, OWN_MAC, Program, Verdict};

use crate::scene::{
    CLIENT, CLIENT_MAC, VIP, assert_passes_untouched, count, program_of, reached, readdressed,
    report, syn, tcp, udp,
};

const CONFIG: &str = r#"
[limits]
services = 64
backends = 256
ring_slots = 524288
[[interface]]
name = "lo"
[[service]]
name = "web"
address = "192.0.2.10"
port = 80
backend = [{ name = "w1", address = "10.0.0.1" }, { name = "w2", address = "10.0.0.2" }]
[[service]]
name = "settled"
address = "192.0.2.20"
port = 80
backend = [{ name = "s1", address = "10.0.0.3" }]
[[service]]
name = "turns"
address = "192.0.2.10"
port = 53
protocol = "udp"
algorithm = "round_robin"
ring = 1009
backend = [{ name = "t1", address = "10.0.0.4" }, { name = "t2", address = "10.0.0.5" }]
[[service]]
name = "turns6"
address = "2001:db8::10"
port = 80
algorithm = "round_robin"
ring = 1009
backend = [{ name = "t1", address = "2001:db8:1::1" }, { name = "t2", address = "2001:db8:1::2" }]
"#;

const SETTLED: [u8; 4] = [192, 0, 2, 20];
const PEER: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 3);
const PEER_MAC: [u8; 6] = [0x06, 0, 0, 0xAA, 0xBB, 3];
const OWN: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 2);
const LONG: Duration = Duration::from_secs(3600);

/// A peer's answer to a probe.
fn answer(from: Ipv4Addr, mac: [u8; 6]) -> Vec<u8> {
    let message = Message { answer: true, sender: ECHO.node + 1, nonce: 1, age: 0 };
    let bytes = message.to_bytes(ECHO.key, from.octets(), OWN.octets());
    let builder = PacketBuilder::ethernet2(mac, OWN_MAC)
        .ipv4(from.octets(), OWN.octets(), 255)
        .udp(ECHO.port, ECHO.port);
    let mut frame = Vec::new();
    builder.write(&mut frame, &bytes).unwrap();
    frame
}

/// The program after addresses came from a peer that answers probes. Half of the slots of "web"
/// move: from w2, which had them all for a moment, back to w1.
fn taken_over() -> Program {
    let mut program = program_of(CONFIG);
    report(&mut program, "w1", &Err("refused".to_owned()), 3);
    report(&mut program, "w1", &Ok(()), 2);
    program.tables.predecessor.is(PEER);
    assert_passes_untouched(&mut program, &answer(PEER, PEER_MAC), "no_service");
    program.tables.predecessor.hand_on_for(LONG);
    program
}

/// A port of a client whose flow's slot moves: an opening leads to w1, any other packet to w2.
fn moving(program: &mut Program) -> u16 {
    program.tables.predecessor.keep();
    let mut ports = 2000..2100;
    let found = ports.find(|port| {
        let frames = [syn(*port, VIP, 80), tcp(*port, VIP, 80)];
        frames.map(|frame| {
            let backend = reached(program, &frame);
            forget(program);
            backend
        }) == [1, 2]
    });
    program.tables.predecessor.hand_on_for(LONG);
    found.expect("half of the slots move")
}

/// Forgets every flow.
fn forget(program: &Program) {
    let records = &program.tables.records;
    let keys: Vec<_> = records.dump().unwrap().into_iter().map(|flow| flow.key).collect();
    for stage in Stage::ALL {
        records.forget(stage, &keys).unwrap();
    }
}

/// Asserts that the frame goes to the peer, as it is.
#[track_caller]
fn assert_handed_on(program: &mut Program, frame: &[u8]) {
    let before = count(program, "second_chance");
    let out = readdressed(frame, PEER_MAC, OWN_MAC);
    assert_eq!(program.run(frame).unwrap(), (Verdict::Tx, out));
    assert_eq!(count(program, "second_chance"), before + 1, "it is counted");
}

#[test]
fn an_unknown_flow_of_a_moving_slot_is_the_predecessors_to_steer() {
    let mut program = taken_over();
    let port = moving(&mut program);
    let later = tcp(port, VIP, 80);
    for _ in 0..2 {
        assert_handed_on(&mut program, &later);
    }
    assert_eq!(program.tables.records.count().unwrap(), (0, 0), "and that one's to record");
    // What opens now is known.
    assert_eq!(reached(&mut program, &syn(port, VIP, 80)), 1);
    assert_eq!(reached(&mut program, &later), 1);
}

#[test]
fn nothing_is_handed_back_to_where_it_comes_from() {
    let mut program = taken_over();
    let port = moving(&mut program);
    let handed_on = readdressed(&tcp(port, VIP, 80), OWN_MAC, PEER_MAC);
    assert_eq!(reached(&mut program, &handed_on), 2, "to the prior, as without a predecessor");
}

#[test]
fn a_settled_slot_asks_nobody() {
    let mut program = taken_over();
    for port in 2000..2010 {
        assert_eq!(reached(&mut program, &tcp(port, SETTLED, 80)), 3);
    }
}

#[test]
fn a_service_that_records_every_flow_asks_about_each_that_it_does_not_know() {
    let mut program = taken_over();
    let query = udp(CLIENT, 2000, 53);
    assert_handed_on(&mut program, &query);
    program.tables.predecessor.keep();
    let backend = reached(&mut program, &query);
    program.tables.predecessor.hand_on_for(LONG);
    assert_eq!(reached(&mut program, &query), backend, "recorded");
    let mut six = Vec::new();
    PacketBuilder::ethernet2(CLIENT_MAC, OWN_MAC)
        .ipv6([9; 16], [0x20, 1, 0x0D, 0xB8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10], 64)
        .tcp(2000, 80, 1, 1024)
        .ack(1)
        .write(&mut six, b"hello")
        .unwrap();
    assert_handed_on(&mut program, &six);
}

#[test]
fn an_error_about_an_unknown_flow_is_handed_on_with_it() {
    let mut program = taken_over();
    let port = moving(&mut program);
    // The flow's packets from the VIP, as a router quotes them.
    let mut quoted = Vec::new();
    PacketBuilder::ipv4(VIP, CLIENT, 64)
        .tcp(80, port, 1, 1024)
        .write(&mut quoted, b"hello")
        .unwrap();
    let too_big = icmpv4::DestUnreachableHeader::FragmentationNeeded { next_hop_mtu: 1400 };
    let mut error = Vec::new();
    PacketBuilder::ethernet2(CLIENT_MAC, OWN_MAC)
        .ipv4([203, 0, 113, 1], VIP, 64)
        .icmpv4(Icmpv4Type::DestinationUnreachable(too_big))
        .write(&mut error, &quoted)
        .unwrap();
    assert_handed_on(&mut program, &error);
}

#[test]
fn it_ends_when_it_is_not_renewed() {
    let mut program = taken_over();
    let port = moving(&mut program);
    program.tables.predecessor.hand_on_for(Duration::ZERO);
    assert_eq!(reached(&mut program, &tcp(port, VIP, 80)), 2);
}

#[test]
fn only_an_answer_of_the_predecessor_says_where_that_is() {
    let mut program = taken_over();
    let port = moving(&mut program);
    let later = tcp(port, VIP, 80);
    let other = Ipv4Addr::new(10, 77, 0, 4);
    let mut forged = answer(PEER, CLIENT_MAC);
    *forged.last_mut().unwrap() ^= 1;
    for frame in [answer(other, CLIENT_MAC), forged] {
        assert_passes_untouched(&mut program, &frame, "no_service");
        assert_handed_on(&mut program, &later);
    }
    // Another predecessor, of which nothing was heard yet.
    program.tables.predecessor.is(other);
    program.tables.predecessor.hand_on_for(LONG);
    assert_eq!(reached(&mut program, &later), 2);
}
