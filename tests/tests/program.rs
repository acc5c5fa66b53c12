//! The program in the kernel: a packet in, a verdict and a packet out.

#![allow(clippy::unwrap_used, reason = "a test says what it expects by unwrapping it")]

use std::net::{IpAddr, Ipv4Addr};

use etherparse::PacketBuilder;
use weir::core::{BackendId, HealthReport, NextHop, NextHopReport, Now};
use weir_lab::program::{OWN_MAC, Program, Verdict, mac_of, same_interface};

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
protocol = "tcp"
[[service.backend]]
name = "w1"
address = "10.0.0.1"
[[service.backend]]
name = "w2"
address = "10.0.0.2"
[[service]]
name = "dns"
address = "192.0.2.10"
port = 53
protocol = "udp"
algorithm = "ip_hash"
[[service.backend]]
name = "d1"
address = "10.0.0.3"
[[service.backend]]
name = "d2"
address = "10.0.0.4"
[[service]]
name = "all"
address = "192.0.2.20"
port = 0
protocol = "tcp"
[service.health]
port = 22
[[service.backend]]
name = "a1"
address = "10.0.0.5"
[[service]]
name = "empty"
address = "192.0.2.30"
port = 80
protocol = "tcp"
[[service]]
name = "empty-pass"
address = "192.0.2.31"
port = 80
protocol = "tcp"
on_empty = "pass"
[[service]]
name = "turns"
address = "192.0.2.40"
port = 80
protocol = "tcp"
algorithm = "round_robin"
ring = 1009
[[service.backend]]
name = "t1"
address = "10.0.0.6"
[[service.backend]]
name = "t2"
address = "10.0.0.7"
[[service]]
name = "loads"
address = "192.0.2.50"
port = 80
protocol = "tcp"
algorithm = "least_conn"
ring = 1009
[[service.backend]]
name = "l1"
address = "10.0.0.8"
[[service.backend]]
name = "l2"
address = "10.0.0.9"
"#;

const CLIENT_MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 0xC1];
const CLIENT: [u8; 4] = [198, 51, 100, 7];
const VIP: [u8; 4] = [192, 0, 2, 10];

fn program() -> Program {
    let config = weir::config::parse(CONFIG, "test.toml").expect("the configuration is right");
    Program::new(config, same_interface).expect("the kernel takes the program")
}

fn tcp(source_port: u16, destination: [u8; 4], port: u16) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2(CLIENT_MAC, OWN_MAC)
        .ipv4(CLIENT, destination, 64)
        .tcp(source_port, port, 1, 1024)
        .ack(1);
    let mut frame = Vec::new();
    builder.write(&mut frame, b"hello").unwrap();
    frame
}

fn syn(source_port: u16, destination: [u8; 4], port: u16) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2(CLIENT_MAC, OWN_MAC)
        .ipv4(CLIENT, destination, 64)
        .tcp(source_port, port, 1, 1024)
        .syn();
    let mut frame = Vec::new();
    builder.write(&mut frame, b"").unwrap();
    frame
}

fn fin(source_port: u16, destination: [u8; 4], port: u16) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2(CLIENT_MAC, OWN_MAC)
        .ipv4(CLIENT, destination, 64)
        .tcp(source_port, port, 1, 1024)
        .ack(1)
        .fin();
    let mut frame = Vec::new();
    builder.write(&mut frame, b"").unwrap();
    frame
}

fn udp(source: [u8; 4], source_port: u16, port: u16) -> Vec<u8> {
    let builder =
        PacketBuilder::ethernet2(CLIENT_MAC, OWN_MAC).ipv4(source, VIP, 64).udp(source_port, port);
    let mut frame = Vec::new();
    builder.write(&mut frame, b"query").unwrap();
    frame
}

/// The frame with other Ethernet addresses and nothing else changed.
fn readdressed(frame: &[u8], destination: [u8; 6], source: [u8; 6]) -> Vec<u8> {
    [destination.as_slice(), source.as_slice(), &frame[12..]].concat()
}

fn backend_mac(last: u8) -> [u8; 6] {
    mac_of(IpAddr::V4(Ipv4Addr::new(10, 0, 0, last)))
}

#[track_caller]
fn assert_passes_untouched(program: &mut Program, frame: &[u8], reason: &str) {
    let before = count(program, reason);
    assert_eq!(program.run(frame).unwrap(), (Verdict::Pass, frame.to_vec()), "{reason}");
    assert_eq!(count(program, reason), before + 1, "counted as {reason}");
}

fn count(program: &Program, reason: &str) -> u64 {
    let counts = program.tables.counters.reasons();
    counts.iter().find(|c| c.reason.name() == reason).expect("a known reason").packets
}

#[test]
fn a_packet_of_a_service_leaves_for_its_backend_byte_for_byte() {
    let mut program = program();
    for port in [1025, 40_000, 65_535] {
        for frame in [tcp(port, VIP, 80), udp(CLIENT, port, 53)] {
            let (verdict, out) = program.run(&frame).unwrap();
            assert_eq!(verdict, Verdict::Tx);
            let destination: [u8; 6] = out[..6].try_into().unwrap();
            assert!((1..=4).map(backend_mac).any(|mac| mac == destination), "{destination:x?}");
            assert_eq!(out, readdressed(&frame, destination, OWN_MAC));
        }
    }
}

#[test]
fn flows_spread_over_the_backends_and_each_stays_with_one() {
    let mut program = program();
    let mut first = 0;
    for port in 10_000..12_000 {
        let (_, out) = program.run(&tcp(port, VIP, 80)).unwrap();
        let (_, again) = program.run(&tcp(port, VIP, 80)).unwrap();
        assert_eq!(out, again);
        first += usize::from(out[..6] == backend_mac(1));
    }
    // Two thousand fair coins: five standard deviations are 112.
    assert!((888..1112).contains(&first), "{first} of 2000 flows on w1");
}

#[test]
fn ip_hash_keeps_a_client_on_one_backend_whatever_its_port() {
    let mut program = program();
    let mut seen = std::collections::HashSet::new();
    for host in 1..100 {
        let source = [198, 51, 100, host];
        let macs: std::collections::HashSet<Vec<u8>> = (2000..2010)
            .map(|port| program.run(&udp(source, port, 53)).unwrap().1[..6].to_vec())
            .collect();
        assert_eq!(macs.len(), 1);
        seen.extend(macs);
    }
    assert_eq!(seen.len(), 2, "both backends have clients");
}

#[test]
fn port_zero_takes_every_port_that_no_other_service_has() {
    let mut program = program();
    for port in [1, 80, 65_535] {
        let frame = tcp(5000, [192, 0, 2, 20], port);
        let (verdict, out) = program.run(&frame).unwrap();
        assert_eq!((verdict, &out[..6]), (Verdict::Tx, backend_mac(5).as_slice()));
    }
}

#[test]
fn a_backend_behind_another_interface_is_reached_by_redirection() {
    let config = weir::config::parse(CONFIG, "test.toml").unwrap();
    let elsewhere = |address| NextHop { interface: 7, ..same_interface(address) };
    let mut program = Program::new(config, elsewhere).unwrap();
    let frame = tcp(1025, VIP, 80);
    let (verdict, out) = program.run(&frame).unwrap();
    assert_eq!(verdict, Verdict::Redirect);
    assert_eq!(out, readdressed(&frame, out[..6].try_into().unwrap(), OWN_MAC));
}

#[test]
fn what_is_no_business_of_ours_passes_untouched() {
    let mut program = program();
    let good = tcp(1025, VIP, 80);

    for mac in [[0xFF; 6], [0x01, 0, 0x5E, 0, 0, 18], [0x02, 0, 0, 0, 0, 0x99]] {
        assert_passes_untouched(&mut program, &readdressed(&good, mac, CLIENT_MAC), "not_for_us");
    }
    for ether_type in [[0x08, 0x06], [0x81, 0x00], [0x88, 0xCC]] {
        let mut frame = good.clone();
        frame[12..14].copy_from_slice(&ether_type);
        assert_passes_untouched(&mut program, &frame, "not_ip");
    }
    assert_passes_untouched(&mut program, &tcp(1025, VIP, 81), "no_service");
    assert_passes_untouched(&mut program, &tcp(1025, [192, 0, 2, 11], 80), "no_service");
    assert_passes_untouched(&mut program, &udp(CLIENT, 1025, 80), "no_service");
    for (protocol, reason) in [(1, "icmp"), (2, "protocol"), (112, "protocol"), (132, "protocol")] {
        let mut frame = good.clone();
        frame[23] = protocol;
        assert_passes_untouched(&mut program, &frame, reason);
    }
    // More fragments; an offset; both.
    for fragment in [[0x20, 0x00], [0x00, 0x01], [0x3F, 0xFF]] {
        let mut frame = good.clone();
        frame[20..22].copy_from_slice(&fragment);
        assert_passes_untouched(&mut program, &frame, "fragment");
    }
    let mut ipv6 = Vec::new();
    PacketBuilder::ethernet2(CLIENT_MAC, OWN_MAC)
        .ipv6([1; 16], [2; 16], 64)
        .tcp(1, 80, 0, 0)
        .write(&mut ipv6, b"")
        .unwrap();
    assert_passes_untouched(&mut program, &ipv6, "ipv6");
}

#[test]
fn do_not_fragment_is_no_fragment() {
    let mut program = program();
    let mut frame = tcp(1025, VIP, 80);
    frame[20..22].copy_from_slice(&[0x40, 0x00]);
    assert_eq!(program.run(&frame).unwrap().0, Verdict::Tx);
}

#[test]
fn a_frame_cut_at_any_length_passes_untouched() {
    let mut program = program();
    for whole in [tcp(1025, VIP, 80), udp(CLIENT, 1025, 53)] {
        // Most kernels run no program on less than an Ethernet header; 5.10 does.
        for length in 0..14 {
            if let Ok((verdict, _)) = program.run(&whole[..length]) {
                assert_eq!(verdict, Verdict::Pass, "{length} bytes");
            }
        }
        for length in 14..=60.min(whole.len() - 1) {
            let frame = &whole[..length];
            assert_passes_untouched(&mut program, frame, "malformed");
        }
    }
}

#[test]
fn headers_that_contradict_the_frame_pass_untouched() {
    let mut program = program();
    let good = tcp(1025, VIP, 80);
    // Total length: none, shorter than the headers, longer than the frame.
    for total in [0u16, 20, 39, 46, 1500, u16::MAX] {
        let mut frame = good.clone();
        frame[16..18].copy_from_slice(&total.to_be_bytes());
        assert_passes_untouched(&mut program, &frame, "malformed");
    }
    // Header length below 20 bytes; a version that is not 4; options beyond the frame's end.
    for vihl in [0x40, 0x44, 0x55, 0x65, 0x05, 0x4F] {
        let mut frame = good.clone();
        frame[14] = vihl;
        assert_passes_untouched(&mut program, &frame, "malformed");
    }
}

#[test]
fn padding_behind_a_short_packet_is_no_fault() {
    let mut program = program();
    let mut frame = tcp(1025, VIP, 80);
    frame.resize(128, 0);
    let (verdict, out) = program.run(&frame).unwrap();
    assert_eq!((verdict, out.len()), (Verdict::Tx, 128));
}

#[test]
fn ip_options_do_not_hide_the_ports() {
    let mut program = program();
    let plain = tcp(1025, VIP, 80);
    for words in 1..=10usize {
        let mut frame = plain.clone();
        frame.splice(34..34, std::iter::repeat_n(1, words * 4));
        frame[14] = 0x45 + u8::try_from(words).unwrap();
        let total = u16::try_from(frame.len() - 14).unwrap();
        frame[16..18].copy_from_slice(&total.to_be_bytes());
        let (verdict, out) = program.run(&frame).unwrap();
        assert_eq!(verdict, Verdict::Tx, "{words} words of options");
        assert_eq!(out[..6], program.run(&plain).unwrap().1[..6], "the same flow");
    }
}

#[test]
fn a_service_without_backends_drops_or_passes_as_configured() {
    let mut program = program();
    let frame = tcp(1025, [192, 0, 2, 30], 80);
    assert_eq!(program.run(&frame).unwrap().0, Verdict::Drop);
    assert_eq!(count(&program, "no_backend"), 1);
    assert_passes_untouched(&mut program, &tcp(1, [192, 0, 2, 31], 80), "no_backend_pass");
}

#[test]
fn a_failed_backend_gets_nothing_and_a_recovered_one_new_flows_alone() {
    let mut program = program();
    let ports = 2000..2200;
    let first =
        |program: &mut Program, frame: &[u8]| program.run(frame).unwrap().1[..6] == backend_mac(1);
    let to_first = |program: &mut Program| {
        ports.clone().filter(|port| first(program, &tcp(*port, VIP, 80))).collect::<Vec<u16>>()
    };
    let before = to_first(&mut program);
    report(&mut program, "w1", &Err("refused".to_owned()), 3);
    assert_eq!(to_first(&mut program), [] as [u16; 0]);
    report(&mut program, "w1", &Ok(()), 2);
    assert_eq!(to_first(&mut program), [] as [u16; 0], "what w2 has meanwhile stays with w2");

    // The same ports, opened anew: w1's slots are w1's again, and the flows stay there. Those that
    // w2 keeps are recorded for it, and it takes new ones.
    for port in 3000..3200 {
        let opens_at_first = first(&mut program, &syn(port, VIP, 80));
        assert_eq!(first(&mut program, &tcp(port, VIP, 80)), opens_at_first, "port {port}");
    }
    let opened: Vec<u16> =
        (3000..3200).filter(|port| first(&mut program, &syn(*port, VIP, 80))).collect();
    assert!(opened.len().abs_diff(before.len()) < 50, "{} flows opened at w1", opened.len());
}

#[test]
fn round_robin_gives_each_opening_its_turn_and_later_packets_follow_it() {
    let vip = [192, 0, 2, 40];
    let mut program = program();
    let ports = 2000..2100;
    let opened: Vec<u8> = ports.clone().map(|p| reached(&mut program, &syn(p, vip, 80))).collect();
    assert!(opened.windows(2).all(|pair| pair[0] != pair[1]), "{opened:?}");
    for _ in 0..2 {
        let later = ports.clone().map(|port| reached(&mut program, &tcp(port, vip, 80)));
        assert!(later.eq(opened.iter().copied()), "each flow stays");
    }
    assert_eq!(program.tables.records.count().unwrap(), (0, 100), "and is recorded");
    // A flow that nobody recorded goes by the ring: anywhere, and always there.
    for port in 3000..3020 {
        let frame = tcp(port, vip, 80);
        assert_eq!(reached(&mut program, &frame), reached(&mut program, &frame));
    }
    assert_eq!(program.tables.records.count().unwrap(), (0, 100), "without a record");
}

#[test]
fn least_conn_evens_out_what_ended_at_one_backend() {
    let vip = [192, 0, 2, 50];
    let mut program = program();
    let mut flows: Vec<(u16, u8)> = Vec::new();
    for port in 2000..2200 {
        flows.push((port, reached(&mut program, &syn(port, vip, 80))));
        reached(&mut program, &tcp(port, vip, 80));
    }
    let at = |flows: &[(u16, u8)], last| flows.iter().filter(|(_, to)| *to == last).count();
    // One in 256 flows is not offered the other backend.
    assert!(at(&flows, 8).abs_diff(100) < 10, "{} of 200 flows", at(&flows, 8));

    for (port, _) in flows.extract_if(.., |(_, to)| *to == 8) {
        assert_eq!(reached(&mut program, &fin(port, vip, 80)), 8, "the last packet follows too");
    }
    let next: Vec<(u16, u8)> =
        (3000..3080).map(|port| (port, reached(&mut program, &syn(port, vip, 80)))).collect();
    assert!(at(&next, 8) > 70, "{} of 80 flows go to who has none", at(&next, 8));
    for (port, to) in flows {
        assert_eq!(reached(&mut program, &tcp(port, vip, 80)), to, "and no other moves");
    }
}

#[test]
fn a_new_neighbour_is_followed_and_a_lost_interface_never_half() {
    let mut program = program();
    report(&mut program, "w2", &Err("refused".to_owned()), 3);
    let address = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));
    let hop = NextHop { destination: [0x02, 9, 9, 9, 9, 9], ..same_interface(address) };
    program.with_core(|core| core.next_hop(NextHopReport { address, outcome: Ok(hop) }, now()));
    let frame = tcp(1025, VIP, 80);
    assert_eq!(program.run(&frame).unwrap().1[..6], hop.destination);

    let hop = NextHop { interface: 9, source: [2, 8, 8, 8, 8, 8], destination: [2, 7, 7, 7, 7, 7] };
    program.with_core(|core| core.next_hop(NextHopReport { address, outcome: Ok(hop) }, now()));
    let (verdict, out) = program.run(&frame).unwrap();
    assert_eq!(verdict, Verdict::Redirect);
    assert_eq!(out, readdressed(&frame, hop.destination, hop.source));
}

#[test]
fn traffic_is_counted_by_backend() {
    let mut program = program();
    let syn = syn(1025, [192, 0, 2, 20], 443);
    let data = tcp(1025, [192, 0, 2, 20], 443);
    program.run(&syn).unwrap();
    program.run(&data).unwrap();
    let number = (0..16).find(|n| program.backend(*n).as_deref() == Some("a1")).unwrap();
    let counters = program.tables.counters.backend(number);
    assert_eq!((counters.sent, counters.redirected, counters.new_flows), (2, 0, 1));
    assert_eq!(counters.bytes, (syn.len() + data.len()) as u64);
}

/// The last byte of the address of the backend that a frame reaches.
#[track_caller]
fn reached(program: &mut Program, frame: &[u8]) -> u8 {
    let (verdict, out) = program.run(frame).unwrap();
    assert_eq!(verdict, Verdict::Tx);
    (1..=9).find(|last| out[..6] == backend_mac(*last)).expect("a backend's address")
}

fn report(program: &mut Program, backend: &str, outcome: &Result<(), String>, times: usize) {
    let name = |text| weir::config::Name::new(text).unwrap();
    let id = BackendId { service: name("web"), backend: name(backend) };
    for _ in 0..times {
        let (id, outcome) = (id.clone(), outcome.clone());
        let report = HealthReport { id, outcome, started: now(), finished: now() };
        program.with_core(|core| core.health(&report, now()));
    }
}

fn now() -> Now {
    Now { monotonic: std::time::Duration::ZERO, wall: std::time::SystemTime::UNIX_EPOCH }
}
