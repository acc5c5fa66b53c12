//! IPv6: what is steered, by which of its headers, and what is passed.

use std::{collections::HashSet, net::Ipv6Addr};

use etherparse::{Icmpv6Type, PacketBuilder};
use weir_lab::program::{OWN_MAC, Program, Verdict, mac_of};

use crate::scene::{CLIENT_MAC, assert_passes_untouched, count, program_of, readdressed};

/// Services whose VIPs have the same first four bytes, or differ in one group alone.
const CONFIG: &str = r#"
[limits]
services = 64
backends = 64
ring_slots = 524288
[[interface]]
name = "lo"
[[service]]
name = "web"
address = "2001:db8::10"
port = 80
backend = [{ name = "w1", address = "2001:db8:1::1" }, { name = "w2", address = "2001:db8:1::2" }]
[[service]]
name = "dns"
address = "2001:db8::10"
port = 53
protocol = "udp"
algorithm = "ip_hash"
backend = [{ name = "d1", address = "2001:db8:1::3" }, { name = "d2", address = "2001:db8:1::4" }]
[[service]]
name = "every-port"
address = "2001:db8:0:1::10"
port = 0
health.port = 22
backend = [{ name = "a1", address = "2001:db8:1::5" }]
[[service]]
name = "other-group"
address = "2001:db8::1:10"
port = 80
backend = [{ name = "a1", address = "2001:db8:1::6" }]
[[service]]
name = "turns"
address = "2001:db8::40"
port = 80
algorithm = "round_robin"
ring = 1009
backend = [{ name = "t1", address = "2001:db8:1::7" }, { name = "t2", address = "2001:db8:1::8" }]
[[service]]
name = "empty"
address = "2001:db8::30"
port = 80
on_empty = "drop"
[[service]]
name = "empty-pass"
address = "2001:db8::31"
port = 80
on_empty = "pass"
"#;

const CLIENT: Ipv6Addr = Ipv6Addr::new(0x2001, 0xDB8, 0xC, 0, 0, 0, 0, 7);
const VIP: Ipv6Addr = vip(0x10);

const HOP_BY_HOP: u8 = 0;
const TCP: u8 = 6;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const DESTINATION: u8 = 60;
/// Where the next header is named, and where what follows the fixed header begins.
const NEXT_HEADER: usize = 14 + 6;
const BEHIND: usize = 14 + 40;

const fn vip(last: u16) -> Ipv6Addr {
    Ipv6Addr::new(0x2001, 0xDB8, 0, 0, 0, 0, 0, last)
}

fn program() -> Program {
    program_of(CONFIG)
}

fn backend_mac(last: u16) -> [u8; 6] {
    mac_of(Ipv6Addr::new(0x2001, 0xDB8, 1, 0, 0, 0, 0, last).into())
}

fn tcp(source: Ipv6Addr, source_port: u16, destination: Ipv6Addr, port: u16) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2(CLIENT_MAC, OWN_MAC)
        .ipv6(source.octets(), destination.octets(), 64)
        .tcp(source_port, port, 1, 1024)
        .ack(1);
    let mut frame = Vec::new();
    builder.write(&mut frame, b"hello").unwrap();
    frame
}

fn syn(source: Ipv6Addr, source_port: u16, destination: Ipv6Addr) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2(CLIENT_MAC, OWN_MAC)
        .ipv6(source.octets(), destination.octets(), 64)
        .tcp(source_port, 80, 1, 1024)
        .syn();
    let mut frame = Vec::new();
    builder.write(&mut frame, b"").unwrap();
    frame
}

fn udp(source: Ipv6Addr, source_port: u16, port: u16) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2(CLIENT_MAC, OWN_MAC)
        .ipv6(source.octets(), VIP.octets(), 64)
        .udp(source_port, port);
    let mut frame = Vec::new();
    builder.write(&mut frame, b"").unwrap();
    frame
}

/// The frame with extension headers: each its number, and its bytes but for the next header's.
fn extended(frame: &[u8], extensions: &[(u8, Vec<u8>)]) -> Vec<u8> {
    let mut frame = frame.to_vec();
    let mut next = frame[NEXT_HEADER];
    for (number, rest) in extensions.iter().rev() {
        frame.splice(BEHIND..BEHIND, [&[next], &rest[..]].concat());
        next = *number;
    }
    frame[NEXT_HEADER] = next;
    let payload = u16::try_from(frame.len() - BEHIND).unwrap();
    frame[18..20].copy_from_slice(&payload.to_be_bytes());
    frame
}

/// The length byte and padding of an extension header of `bytes` bytes (RFC 8200 section 4.2).
fn padding(bytes: usize) -> Vec<u8> {
    let mut rest = vec![u8::try_from(bytes / 8 - 1).unwrap()];
    let mut left = bytes - 2;
    while left > 0 {
        let option = left.min(257);
        // One byte of padding has no length, others have (RFC 8200 section 4.2).
        if option == 1 {
            rest.push(0);
        } else {
            rest.extend([1, u8::try_from(option - 2).unwrap()]);
            rest.resize(rest.len() + option - 2, 0);
        }
        left -= option;
    }
    rest
}

/// A routing header that still has so many addresses to go to.
fn routing(segments_left: u8) -> (u8, Vec<u8>) {
    let mut rest = vec![2, 4, segments_left, 0, 0, 0, 0];
    rest.extend(CLIENT.octets());
    (ROUTING, rest)
}

/// A fragment header with this offset, and whether more follow.
fn fragment(offset: u16, more: bool) -> (u8, Vec<u8>) {
    let [high, low] = (offset << 3 | u16::from(more)).to_be_bytes();
    // The byte before is a length in other headers, and reserved in this one.
    (FRAGMENT, vec![0xFF, high, low, 1, 2, 3, 4])
}

#[test]
fn a_packet_of_a_service_leaves_for_its_backend_byte_for_byte() {
    let mut program = program();
    for port in [1025, 40_000, 65_535] {
        for frame in [tcp(CLIENT, port, VIP, 80), udp(CLIENT, port, 53)] {
            let (verdict, out) = program.run(&frame).unwrap();
            assert_eq!(verdict, Verdict::Tx);
            let destination: [u8; 6] = out[..6].try_into().unwrap();
            assert!((1..=4).map(backend_mac).any(|mac| mac == destination), "{destination:x?}");
            assert_eq!(out, readdressed(&frame, destination, OWN_MAC));
        }
    }
}

#[test]
fn every_part_of_an_address_and_the_ports_spread_flows_and_each_stays() {
    let mut program = program();
    let mut spread = |frames: Vec<Vec<u8>>| {
        let mut first = 0;
        for frame in &frames {
            let (_, out) = program.run(frame).unwrap();
            assert_eq!(program.run(frame).unwrap().1, out);
            first += usize::from(out[..6] == backend_mac(1));
        }
        // Fair coins: five standard deviations of 1000 are 79.
        assert!((421..579).contains(&first), "{first} of {} flows on w1", frames.len());
    };
    spread((10_000..11_000).map(|port| tcp(CLIENT, port, VIP, 80)).collect());
    for group in 0..8 {
        let frame = |n: u16| {
            let mut groups = CLIENT.segments();
            groups[group] ^= n;
            tcp(groups.into(), 4000, VIP, 80)
        };
        spread((0..1000).map(frame).collect());
    }
}

#[test]
fn ip_hash_keeps_a_client_on_one_backend_whatever_its_port() {
    let mut program = program();
    let mut seen = HashSet::new();
    for host in 1..100 {
        let source = Ipv6Addr::new(0x2001, 0xDB8, 0xC, 0, 0, 0, 0, host);
        let macs: HashSet<Vec<u8>> = (2000..2010)
            .map(|port| program.run(&udp(source, port, 53)).unwrap().1[..6].to_vec())
            .collect();
        assert_eq!(macs.len(), 1);
        seen.extend(macs);
    }
    assert_eq!(seen.len(), 2, "both backends have clients");
}

#[test]
fn a_service_is_found_by_all_of_its_address() {
    let mut program = program();
    let every_port = Ipv6Addr::new(0x2001, 0xDB8, 0, 1, 0, 0, 0, 0x10);
    for port in [1, 80, 65_535] {
        let (verdict, out) = program.run(&tcp(CLIENT, 5000, every_port, port)).unwrap();
        assert_eq!((verdict, &out[..6]), (Verdict::Tx, backend_mac(5).as_slice()));
    }
    let other_group = Ipv6Addr::new(0x2001, 0xDB8, 0, 0, 0, 0, 1, 0x10);
    let (verdict, out) = program.run(&tcp(CLIENT, 5000, other_group, 80)).unwrap();
    assert_eq!((verdict, &out[..6]), (Verdict::Tx, backend_mac(6).as_slice()));

    for group in 0..8 {
        let mut groups = VIP.segments();
        groups[group] ^= 0x0200;
        let frame = tcp(CLIENT, 5000, groups.into(), 80);
        assert_passes_untouched(&mut program, &frame, "no_service");
    }
    assert_passes_untouched(&mut program, &tcp(CLIENT, 5000, VIP, 81), "no_service");
    assert_passes_untouched(&mut program, &udp(CLIENT, 5000, 80), "no_service");
}

#[test]
fn recorded_flows_are_told_apart_by_all_of_the_clients_address() {
    let mut program = program();
    let turns = vip(0x40);
    let clients: Vec<Ipv6Addr> = (0..8)
        .map(|group| {
            let mut groups = CLIENT.segments();
            groups[group] ^= 0x0100;
            groups.into()
        })
        .collect();
    let mut reached = |frame: &[u8]| program.run(frame).unwrap().1[..6].to_vec();
    let opened: Vec<_> = clients.iter().map(|client| reached(&syn(*client, 4000, turns))).collect();
    assert!(opened.windows(2).all(|pair| pair[0] != pair[1]), "in turn: {opened:x?}");
    for _ in 0..2 {
        let later = clients.iter().map(|client| reached(&tcp(*client, 4000, turns, 80)));
        assert!(later.eq(opened.iter().cloned()), "each flow stays");
    }
    assert_eq!(program.tables.records.count().unwrap(), (0, 8));
}

#[test]
fn extension_headers_do_not_hide_the_ports() {
    let mut program = program();
    let plain = [tcp(CLIENT, 1025, VIP, 80), udp(CLIENT, 1025, 53)];
    let one = |number| move |bytes| vec![(number, padding(bytes))];
    let mut chains: Vec<Vec<(u8, Vec<u8>)>> = Vec::new();
    chains.extend([8, 16, 24, 256, 1024, 2048].map(one(HOP_BY_HOP)));
    chains.extend([8, 1024, 2048].map(one(DESTINATION)));
    chains.push(vec![routing(0)]);
    chains.push(vec![fragment(0, false)]);
    chains.push(vec![
        (HOP_BY_HOP, padding(64)),
        (DESTINATION, padding(8)),
        routing(0),
        fragment(0, false),
    ]);
    chains.push(vec![fragment(0, false); 4]);
    chains.push((0..4).map(|_| (DESTINATION, padding(512))).collect());
    for frame in &plain {
        let expected = program.run(frame).unwrap().1[..6].to_vec();
        for chain in &chains {
            let frame = extended(frame, chain);
            let (verdict, out) = program.run(&frame).unwrap();
            assert_eq!(verdict, Verdict::Tx, "{chain:?}");
            assert_eq!(out, readdressed(&frame, expected[..].try_into().unwrap(), OWN_MAC));
        }
    }
}

#[test]
fn more_extension_headers_than_are_read_pass_and_are_counted() {
    let mut program = program();
    let plain = tcp(CLIENT, 1025, VIP, 80);
    let five: Vec<_> = (0..5).map(|_| (DESTINATION, padding(8))).collect();
    assert_passes_untouched(&mut program, &extended(&plain, &five), "extensions");
    let further = [routing(1)];
    assert_passes_untouched(&mut program, &extended(&plain, &further), "extensions");
}

#[test]
fn neighbour_discovery_and_other_icmp_reach_the_kernel() {
    let mut program = program();
    let builder =
        || PacketBuilder::ethernet2(CLIENT_MAC, OWN_MAC).ipv6(CLIENT.octets(), VIP.octets(), 255);
    // Solicitation and advertisement (RFC 4861 sections 4.3 and 4.4), then an echo request.
    for kind in [135, 136] {
        let message = Icmpv6Type::Unknown { type_u8: kind, code_u8: 0, bytes5to8: [0; 4] };
        let mut frame = Vec::new();
        builder().icmpv6(message).write(&mut frame, &VIP.octets()).unwrap();
        assert_passes_untouched(&mut program, &frame, "icmp");
        let group = readdressed(&frame, [0x33, 0x33, 0xFF, 0, 0, 0x10], CLIENT_MAC);
        assert_passes_untouched(&mut program, &group, "not_for_us");
    }
    let mut echo = Vec::new();
    builder().icmpv6_echo_request(1, 1).write(&mut echo, b"").unwrap();
    assert_passes_untouched(&mut program, &echo, "icmp");
    // Multicast listener reports come behind a hop-by-hop header (RFC 3810 section 5).
    let behind = extended(&echo, &[(HOP_BY_HOP, padding(8))]);
    assert_passes_untouched(&mut program, &behind, "icmp");
}

#[test]
fn other_protocols_pass() {
    let mut program = program();
    for number in [4, 41, 47, 50, 51, 59, 112, 132] {
        let mut frame = tcp(CLIENT, 1025, VIP, 80);
        frame[NEXT_HEADER] = number;
        assert_passes_untouched(&mut program, &frame, "protocol");
    }
}

#[test]
fn a_frame_cut_at_any_length_passes_untouched() {
    let mut program = program();
    let chain = [(HOP_BY_HOP, padding(8)), (DESTINATION, padding(16)), fragment(0, false)];
    for plain in [tcp(CLIENT, 1025, VIP, 80), udp(CLIENT, 1025, 53)] {
        for whole in [extended(&plain, &chain), plain] {
            for length in 14..whole.len() {
                assert_passes_untouched(&mut program, &whole[..length], "malformed");
            }
        }
    }
}

#[test]
fn headers_that_contradict_the_frame_pass_untouched() {
    let mut program = program();
    let good = tcp(CLIENT, 1025, VIP, 80);
    // Payload length: none, shorter than the TCP header, longer than the frame.
    for payload in [0u16, 8, 19, 26, 1500, u16::MAX] {
        let mut frame = good.clone();
        frame[18..20].copy_from_slice(&payload.to_be_bytes());
        assert_passes_untouched(&mut program, &frame, "malformed");
    }
    for version in [0x00, 0x40, 0x50, 0x70, 0xF0] {
        let mut frame = good.clone();
        frame[14] = version;
        assert_passes_untouched(&mut program, &frame, "malformed");
    }
    // An extension header that claims to go on behind the frame's end.
    let mut frame = extended(&good, &[(DESTINATION, padding(8))]);
    frame[BEHIND + 1] = 0xFF;
    assert_passes_untouched(&mut program, &frame, "malformed");
    // One in which the next one claims to be TCP, and the length leaves half of that.
    let mut frame = extended(&good, &[(DESTINATION, padding(8))]);
    frame[NEXT_HEADER] = TCP;
    frame[BEHIND + 12] = 0x50;
    assert_passes_untouched(&mut program, &frame, "no_service");
}

#[test]
fn traffic_class_flow_label_and_padding_change_nothing() {
    let mut program = program();
    let plain = tcp(CLIENT, 1025, VIP, 80);
    let expected = program.run(&plain).unwrap().1[..6].to_vec();
    let mut frame = plain;
    frame[14..18].copy_from_slice(&[0x6F, 0xFF, 0xFF, 0xFF]);
    frame.resize(128, 0);
    let (verdict, out) = program.run(&frame).unwrap();
    assert_eq!((verdict, &out[..6]), (Verdict::Tx, &expected[..]));
}

#[test]
fn a_service_without_backends_drops_or_passes_as_configured() {
    let mut program = program();
    assert_eq!(program.run(&tcp(CLIENT, 1025, vip(0x30), 80)).unwrap().0, Verdict::Drop);
    assert_eq!(count(&program, "no_backend"), 1);
    assert_passes_untouched(&mut program, &tcp(CLIENT, 1, vip(0x31), 80), "no_backend_pass");
}
