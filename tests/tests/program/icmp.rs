//! ICMP for VIPs: errors reach the backend of the flow they are about, echo requests are answered.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use etherparse::{
    Icmpv4Type, Icmpv6Type, PacketBuilder, SlicedPacket, TransportSlice, icmpv4, icmpv6,
};
use weir_lab::program::{OWN_MAC, Program, Verdict, mac_of};

use crate::scene::{
    CLIENT, CLIENT_MAC, assert_passes_untouched, count, now, program_of, readdressed,
};

/// Every kind of service twice: once for each family.
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
ping = true
backend = [{ name = "a", address = "10.0.0.1" }, { name = "b", address = "10.0.0.2" }]
[[service]]
name = "dns"
address = "192.0.2.10"
port = 53
protocol = "udp"
backend = [{ name = "a", address = "10.0.0.3" }, { name = "b", address = "10.0.0.4" }]
[[service]]
name = "turns"
address = "192.0.2.40"
port = 80
algorithm = "round_robin"
ring = 1009
backend = [{ name = "a", address = "10.0.0.5" }, { name = "b", address = "10.0.0.6" }]
[[service]]
name = "empty"
address = "192.0.2.30"
port = 80
on_empty = "drop"
[[service]]
name = "web6"
address = "2001:db8::10"
port = 80
ping = true
backend = [{ name = "a", address = "2001:db8:1::1" }, { name = "b", address = "2001:db8:1::2" }]
[[service]]
name = "dns6"
address = "2001:db8::20"
port = 53
protocol = "udp"
backend = [{ name = "a", address = "2001:db8:1::3" }, { name = "b", address = "2001:db8:1::4" }]
"#;

/// Who reports the errors.
const ROUTER: [u8; 4] = [203, 0, 113, 1];
const VIP: [u8; 4] = [192, 0, 2, 10];
const CLIENT6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xDB8, 0xC, 0, 0, 0, 0, 7);
const ROUTER6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xDB8, 0xF, 0, 0, 0, 0, 1);

const fn vip6(last: u16) -> Ipv6Addr {
    Ipv6Addr::new(0x2001, 0xDB8, 0, 0, 0, 0, 0, last)
}

fn program() -> Program {
    program_of(CONFIG)
}

/// A packet between two hosts, of IPv4 or IPv6, without its Ethernet header.
fn datagram(udp: bool, source: (IpAddr, u16), destination: (IpAddr, u16)) -> Vec<u8> {
    let (from, to) = (source.1, destination.1);
    let builder = match (source.0, destination.0) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            PacketBuilder::ipv4(source.octets(), destination.octets(), 64)
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            PacketBuilder::ipv6(source.octets(), destination.octets(), 64)
        }
        _ => panic!("two families"),
    };
    let mut packet = Vec::new();
    if udp {
        builder.udp(from, to).write(&mut packet, &[7; 600]).unwrap();
    } else {
        builder.tcp(from, to, 1, 1024).ack(1).write(&mut packet, &[7; 600]).unwrap();
    }
    packet
}

/// The same to the program.
fn framed(packet: &[u8]) -> Vec<u8> {
    let ether_type: [u8; 2] = if packet[0] >> 4 == 4 { [0x08, 0x00] } else { [0x86, 0xDD] };
    [&OWN_MAC[..], &CLIENT_MAC, &ether_type, packet].concat()
}

/// An error of a router to `vip` that quotes a packet.
fn error(kind: Icmpv4Type, vip: [u8; 4], quote: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    let builder = PacketBuilder::ethernet2(CLIENT_MAC, OWN_MAC).ipv4(ROUTER, vip, 60);
    builder.icmpv4(kind).write(&mut frame, quote).unwrap();
    frame
}

fn error6(kind: Icmpv6Type, vip: Ipv6Addr, quote: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    let addresses = (ROUTER6.octets(), vip.octets());
    let builder = PacketBuilder::ethernet2(CLIENT_MAC, OWN_MAC).ipv6(addresses.0, addresses.1, 60);
    builder.icmpv6(kind).write(&mut frame, quote).unwrap();
    frame
}

fn too_big() -> Icmpv4Type {
    let header = icmpv4::DestUnreachableHeader::FragmentationNeeded { next_hop_mtu: 1400 };
    Icmpv4Type::DestinationUnreachable(header)
}

/// Each error that is steered, of IPv4.
fn errors() -> Vec<Icmpv4Type> {
    vec![
        too_big(),
        Icmpv4Type::DestinationUnreachable(icmpv4::DestUnreachableHeader::Host),
        Icmpv4Type::TimeExceeded(icmpv4::TimeExceededCode::TtlExceededInTransit),
        Icmpv4Type::ParameterProblem(icmpv4::ParameterProblemHeader::PointerIndicatesError(1)),
    ]
}

fn errors6() -> Vec<Icmpv6Type> {
    vec![
        Icmpv6Type::DestinationUnreachable(icmpv6::DestUnreachableCode::NoRoute),
        Icmpv6Type::PacketTooBig { mtu: 1400 },
        Icmpv6Type::TimeExceeded(icmpv6::TimeExceededCode::HopLimitExceeded),
        Icmpv6Type::Unknown { type_u8: 4, code_u8: 0, bytes5to8: [0, 0, 0, 6] },
    ]
}

/// Where a frame goes, which must be a backend, byte for byte.
#[track_caller]
fn reached(program: &mut Program, frame: &[u8]) -> [u8; 6] {
    let (verdict, out) = program.run(frame).unwrap();
    assert_eq!(verdict, Verdict::Tx);
    let destination = out[..6].try_into().unwrap();
    assert_ne!(destination, CLIENT_MAC);
    assert_eq!(out, readdressed(frame, destination, OWN_MAC));
    destination
}

#[test]
fn an_error_reaches_the_backend_whose_packet_it_quotes() {
    let mut program = program();
    for udp in [false, true] {
        let service = if udp { 53 } else { 80 };
        let (vip, vip_6) = (IpAddr::from(VIP), vip6(if udp { 0x20 } else { 0x10 }));
        for port in 2000..2040 {
            let asked = datagram(udp, (CLIENT.into(), port), (vip, service));
            let backend = reached(&mut program, &framed(&asked));
            let answer = datagram(udp, (vip, service), (CLIENT.into(), port));
            for kind in errors() {
                // As little as RFC 792 asks for, and as much as there is.
                for length in [28, answer.len()] {
                    let frame = error(kind.clone(), VIP, &answer[..length]);
                    assert_eq!(reached(&mut program, &frame), backend, "{kind:?}");
                }
            }
            let asked = datagram(udp, (CLIENT6.into(), port), (vip_6.into(), service));
            let backend = reached(&mut program, &framed(&asked));
            let answer = datagram(udp, (vip_6.into(), service), (CLIENT6.into(), port));
            for kind in errors6() {
                for length in [48, answer.len()] {
                    let frame = error6(kind, vip_6, &answer[..length]);
                    assert_eq!(reached(&mut program, &frame), backend, "{kind:?}");
                }
            }
        }
    }
}

#[test]
fn an_error_follows_a_recorded_flow_and_records_nothing_itself() {
    let mut program = program();
    let vip = IpAddr::from([192, 0, 2, 40]);
    let ends = |port| ((IpAddr::from(CLIENT), port), (vip, 80));
    let report = |port| {
        let (client, service) = ends(port);
        error(too_big(), [192, 0, 2, 40], &datagram(false, service, client))
    };
    for port in 3000..3020 {
        let (client, service) = ends(port);
        let mut syn = framed(&datagram(false, client, service));
        syn[47] = 0x02;
        let backend = reached(&mut program, &syn);
        assert_eq!(reached(&mut program, &report(port)), backend);
        let later = framed(&datagram(false, client, service));
        assert_eq!(reached(&mut program, &later), backend);
        assert_eq!(reached(&mut program, &report(port)), backend);
    }
    let before = program.tables.records.count().unwrap();
    assert_eq!(before, (0, 20), "each confirmed by its own packet");
    for port in 4000..4100 {
        reached(&mut program, &report(port));
    }
    assert_eq!(program.tables.records.count().unwrap(), before, "forged ones leave nothing");
}

#[test]
fn options_and_extension_headers_do_not_hide_what_is_quoted() {
    let mut program = program();
    let asked = datagram(false, (CLIENT.into(), 2000), (VIP.into(), 80));
    let backend = reached(&mut program, &framed(&asked));
    let answer = datagram(false, (VIP.into(), 80), (CLIENT.into(), 2000));
    for (outer, inner) in [(1, 0), (0, 1), (10, 10)] {
        let mut quote = answer.clone();
        quote.splice(20..20, std::iter::repeat_n(1, inner * 4));
        quote[0] += u8::try_from(inner).unwrap();
        let mut frame = error(too_big(), VIP, &quote);
        frame.splice(34..34, std::iter::repeat_n(1, outer * 4));
        frame[14] += u8::try_from(outer).unwrap();
        let total = u16::try_from(frame.len() - 14).unwrap();
        frame[16..18].copy_from_slice(&total.to_be_bytes());
        assert_eq!(reached(&mut program, &frame), backend);
    }

    let asked = datagram(true, (CLIENT6.into(), 2000), (vip6(0x20).into(), 53));
    let backend = reached(&mut program, &framed(&asked));
    let mut quote = datagram(true, (vip6(0x20).into(), 53), (CLIENT6.into(), 2000));
    // The first fragment of a large answer, behind destination options.
    quote.splice(40..40, [44, 0, 1, 4, 0, 0, 0, 0, 17, 0, 0, 1, 9, 9, 9, 9]);
    quote[6] = 60;
    let frame = error6(Icmpv6Type::PacketTooBig { mtu: 1280 }, vip6(0x20), &quote);
    assert_eq!(reached(&mut program, &frame), backend);
    // A later one has no ports.
    quote[51] = 0x09;
    let frame = error6(Icmpv6Type::PacketTooBig { mtu: 1280 }, vip6(0x20), &quote);
    assert_passes_untouched(&mut program, &frame, "icmp");
}

#[test]
fn a_quote_that_ends_before_the_ports_passes_and_is_counted() {
    let mut program = program();
    let answer = datagram(false, (VIP.into(), 80), (CLIENT.into(), 2000));
    for length in 0..24 {
        let frame = error(too_big(), VIP, &answer[..length]);
        assert_passes_untouched(&mut program, &frame, "truncated_quote");
        // A short frame is padded, and padding is no quote.
        let padded = [&frame[..], &answer[length..60]].concat();
        assert_passes_untouched(&mut program, &padded, "truncated_quote");
    }
    let answer = datagram(false, (vip6(0x10).into(), 80), (CLIENT6.into(), 2000));
    for length in 0..44 {
        let frame = error6(Icmpv6Type::PacketTooBig { mtu: 1280 }, vip6(0x10), &answer[..length]);
        assert_passes_untouched(&mut program, &frame, "truncated_quote");
    }
}

#[test]
fn errors_about_others_packets_pass() {
    let mut program = program();
    let other = IpAddr::from([192, 0, 2, 11]);
    let about = |source, udp, port| datagram(udp, (source, port), (CLIENT.into(), 2000));
    // Of another address; of no service; quoted to another than its sender; the request itself.
    for (vip, quote) in [
        ([192, 0, 2, 11], about(other, false, 80)),
        (VIP, about(VIP.into(), false, 81)),
        (VIP, about(VIP.into(), true, 80)),
        (VIP, about(other, false, 80)),
        (VIP, datagram(false, (CLIENT.into(), 2000), (VIP.into(), 80))),
    ] {
        assert_passes_untouched(&mut program, &error(too_big(), vip, &quote), "icmp");
    }
    // Of another protocol; a later fragment; of a version that there is not.
    for (place, value) in [(9, 1), (9, 47), (7, 1), (0, 0x55), (0, 0x44)] {
        let mut quote = about(VIP.into(), false, 80);
        quote[place] = value;
        assert_passes_untouched(&mut program, &error(too_big(), VIP, &quote), "icmp");
    }
    // Messages that are no errors, and errors that nobody sends any more.
    for type_u8 in [0, 4, 5, 9, 10, 13, 14, 17, 42] {
        let kind = Icmpv4Type::Unknown { type_u8, code_u8: 0, bytes5to8: [0; 4] };
        let frame = error(kind, VIP, &about(VIP.into(), false, 80));
        assert_passes_untouched(&mut program, &frame, "icmp");
    }
    for type_u8 in [0, 5, 100, 127, 129, 130, 133, 134, 135, 136, 137] {
        let quote = datagram(false, (vip6(0x10).into(), 80), (CLIENT6.into(), 2000));
        let kind = Icmpv6Type::Unknown { type_u8, code_u8: 0, bytes5to8: [0; 4] };
        let frame = error6(kind, vip6(0x10), &quote);
        assert_passes_untouched(&mut program, &frame, "icmp");
    }
}

#[test]
fn an_error_about_a_service_without_backends_is_dropped() {
    let mut program = program();
    let vip = [192, 0, 2, 30];
    let quote = datagram(false, (vip.into(), 80), (CLIENT.into(), 2000));
    assert_eq!(program.run(&error(too_big(), vip, &quote)).unwrap().0, Verdict::Drop);
    assert_eq!(count(&program, "no_backend"), 1);
}

fn ping(source: [u8; 4], vip: [u8; 4], ttl: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    let builder = PacketBuilder::ethernet2(CLIENT_MAC, OWN_MAC).ipv4(source, vip, ttl);
    builder.icmpv4_echo_request(0x1234, 5).write(&mut frame, payload).unwrap();
    frame
}

fn ping6(source: Ipv6Addr, vip: Ipv6Addr, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    let builder = PacketBuilder::ethernet2(CLIENT_MAC, OWN_MAC);
    let builder = builder.ipv6(source.octets(), vip.octets(), 33);
    builder.icmpv6_echo_request(0x1234, 5).write(&mut frame, payload).unwrap();
    frame
}

#[test]
fn an_echo_request_to_a_vip_comes_back_as_the_answer() {
    let mut program = program();
    for length in [0, 1, 56, 1400] {
        let payload: Vec<u8> = (0..=u8::MAX).cycle().take(length).collect();
        for ttl in [1, 64, 255] {
            let mut expected = Vec::new();
            let builder = PacketBuilder::ethernet2(OWN_MAC, CLIENT_MAC).ipv4(VIP, CLIENT, 64);
            builder.icmpv4_echo_reply(0x1234, 5).write(&mut expected, &payload).unwrap();
            let (verdict, out) = program.run(&ping(CLIENT, VIP, ttl, &payload)).unwrap();
            assert_eq!((verdict, out), (Verdict::Tx, expected), "{length} bytes, ttl {ttl}");
        }
        let mut expected = Vec::new();
        let addresses = (vip6(0x10).octets(), CLIENT6.octets());
        let builder = PacketBuilder::ethernet2(OWN_MAC, CLIENT_MAC);
        let builder = builder.ipv6(addresses.0, addresses.1, 64).icmpv6_echo_reply(0x1234, 5);
        builder.write(&mut expected, &payload).unwrap();
        let (verdict, out) = program.run(&ping6(CLIENT6, vip6(0x10), &payload)).unwrap();
        assert_eq!((verdict, &out), (Verdict::Tx, &expected), "{length} bytes");
        let sliced = SlicedPacket::from_ethernet(&out).unwrap();
        let Some(TransportSlice::Icmpv6(message)) = sliced.transport else { panic!("ICMPv6") };
        assert!(message.is_checksum_valid(addresses.0, addresses.1));
    }
    assert_eq!(count(&program, "ping"), 16);
}

#[test]
fn other_echo_requests_pass() {
    let mut program = program();
    for frame in [
        // Addresses without a service, and with one that does not ask for it.
        ping(CLIENT, [192, 0, 2, 11], 64, b"x"),
        ping(CLIENT, [192, 0, 2, 40], 64, b"x"),
        ping6(CLIENT6, vip6(0x20), b"x"),
        // From nobody, from everybody, from ourselves.
        ping([0; 4], VIP, 64, b"x"),
        ping([224, 0, 0, 1], VIP, 64, b"x"),
        ping([255; 4], VIP, 64, b"x"),
        ping(VIP, VIP, 64, b"x"),
        ping6(Ipv6Addr::UNSPECIFIED, vip6(0x10), b"x"),
        ping6("ff02::1".parse().unwrap(), vip6(0x10), b"x"),
        readdressed(&ping(CLIENT, VIP, 64, b"x"), OWN_MAC, [0xFF; 6]),
    ] {
        assert_passes_untouched(&mut program, &frame, "icmp");
    }
    let mut other_code = ping(CLIENT, VIP, 64, b"x");
    other_code[35] = 1;
    assert_passes_untouched(&mut program, &other_code, "icmp");
    let mut fragment = ping(CLIENT, VIP, 64, b"x");
    fragment[20] = 0x20;
    assert_passes_untouched(&mut program, &fragment, "fragment");
    for length in 38..42 {
        assert_passes_untouched(&mut program, &ping(CLIENT, VIP, 64, b"")[..length], "malformed");
    }
}

#[test]
fn a_reload_changes_which_addresses_are_answered() {
    let mut program = program();
    let answered = |program: &mut Program, vip: [u8; 4]| {
        program.run(&ping(CLIENT, vip, 64, b"x")).unwrap().0 == Verdict::Tx
    };
    assert_eq!([VIP, [192, 0, 2, 40]].map(|vip| answered(&mut program, vip)), [true, false]);
    let moved = CONFIG.replacen("ping = true\n", "", 1).replacen(
        "algorithm = \"round_robin\"",
        "algorithm = \"round_robin\"\nping = true",
        1,
    );
    let config = weir::config::parse(&moved, "test.toml").unwrap();
    program.with_core(|core| core.reload(config, now())).unwrap();
    assert_eq!([VIP, [192, 0, 2, 40]].map(|vip| answered(&mut program, vip)), [false, true]);
    let asked = datagram(false, (Ipv4Addr::from(CLIENT).into(), 9), (VIP.into(), 80));
    let web = [1, 2].map(|last| mac_of(Ipv4Addr::new(10, 0, 0, last).into()));
    assert!(web.contains(&reached(&mut program, &framed(&asked))), "services go on");
}
