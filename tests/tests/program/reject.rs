//! Services without backends that say so: resets, "port unreachable", and who gets none.

use std::net::Ipv6Addr;

use etherparse::{
    Icmpv4Type, Icmpv6Type, PacketBuilder, PacketBuilderStep, TcpHeader, icmpv4, icmpv6,
};
use lb_common::pace::Bucket;
use weir_lab::program::{OWN_MAC, Program, Verdict};

use crate::scene::{CLIENT, CLIENT_MAC, assert_dropped, count, program_of, readdressed, set_pace};

const CONFIG: &str = r#"
[limits]
services = 64
backends = 64
ring_slots = 524288
[[interface]]
name = "lo"
[[service]]
name = "tcp"
address = "192.0.2.30"
port = 80
on_empty = "reject"
[[service]]
name = "udp"
address = "192.0.2.30"
port = 53
protocol = "udp"
[[service]]
name = "tcp6"
address = "2001:db8::30"
port = 80
[[service]]
name = "udp6"
address = "2001:db8::30"
port = 53
protocol = "udp"
"#;

const VIP: [u8; 4] = [192, 0, 2, 30];
const CLIENT6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xDB8, 0xC, 0, 0, 0, 0, 7);
const VIP6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xDB8, 0, 0, 0, 0, 0, 0x30);
const PORT: u16 = 40_000;

fn program() -> Program {
    program_of(CONFIG)
}

type Ip = PacketBuilderStep<etherparse::IpHeaders>;

fn from_client(ipv6: bool) -> Ip {
    let builder = PacketBuilder::ethernet2(CLIENT_MAC, OWN_MAC);
    if ipv6 {
        builder.ipv6(CLIENT6.octets(), VIP6.octets(), 33)
    } else {
        builder.ipv4(CLIENT, VIP, 33)
    }
}

fn to_client(ipv6: bool) -> Ip {
    let builder = PacketBuilder::ethernet2(OWN_MAC, CLIENT_MAC);
    if ipv6 {
        builder.ipv6(VIP6.octets(), CLIENT6.octets(), 64)
    } else {
        builder.ipv4(VIP, CLIENT, 64)
    }
}

/// A segment to the service, with options if there is room for them.
fn segment(ipv6: bool, change: impl Fn(&mut TcpHeader), payload: &[u8]) -> Vec<u8> {
    let mut tcp = TcpHeader::new(PORT, 80, 1_000_000, 4096);
    change(&mut tcp);
    let mut frame = Vec::new();
    from_client(ipv6).tcp_header(tcp).write(&mut frame, payload).unwrap();
    frame
}

/// The reset that answers it, as large as a smallest frame if it was.
fn reset(ipv6: bool, sequence: u32, acknowledgement: Option<u32>, to: &[u8]) -> Vec<u8> {
    let mut tcp = TcpHeader::new(80, PORT, sequence, 0);
    tcp.rst = true;
    if let Some(number) = acknowledgement {
        (tcp.ack, tcp.acknowledgment_number) = (true, number);
    }
    let mut frame = Vec::new();
    to_client(ipv6).tcp_header(tcp).write(&mut frame, &[]).unwrap();
    if to.len() >= 60 {
        frame.resize(frame.len().max(60), 0);
    }
    frame
}

fn datagram(ipv6: bool, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    from_client(ipv6).udp(PORT, 53).write(&mut frame, payload).unwrap();
    frame
}

fn unreachable(ipv6: bool, about: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    if ipv6 {
        let kind = Icmpv6Type::DestinationUnreachable(icmpv6::DestUnreachableCode::Port);
        to_client(true).icmpv6(kind).write(&mut frame, &about[14..14 + 48]).unwrap();
    } else {
        let kind = Icmpv4Type::DestinationUnreachable(icmpv4::DestUnreachableHeader::Port);
        to_client(false).icmpv4(kind).write(&mut frame, &about[14..14 + 28]).unwrap();
    }
    frame
}

#[track_caller]
fn assert_answered(program: &mut Program, frame: &[u8], answer: &[u8]) {
    let (verdict, out) = program.run(frame).unwrap();
    assert_eq!((verdict, out.as_slice()), (Verdict::Tx, answer));
}

#[test]
fn a_segment_is_answered_with_a_reset_that_its_sender_accepts() {
    let mut program = program();
    let options = |tcp: &mut TcpHeader| {
        tcp.set_options_raw(&[2, 4, 5, 180, 1, 1, 4, 2, 1, 3, 3, 7]).unwrap();
    };
    for ipv6 in [false, true] {
        for length in [0, 1, 2, 5, 6, 7, 1000] {
            let payload = vec![7; length];
            let bytes = u32::try_from(length).unwrap();
            // Opening, with and without options; with data, as TCP Fast Open has it.
            let frame = segment(ipv6, |tcp| tcp.syn = true, &payload);
            assert_answered(&mut program, &frame, &reset(ipv6, 0, Some(1_000_001 + bytes), &frame));
            let frame = segment(
                ipv6,
                |tcp| {
                    tcp.syn = true;
                    options(tcp);
                },
                &payload,
            );
            assert_answered(&mut program, &frame, &reset(ipv6, 0, Some(1_000_001 + bytes), &frame));
            // In the middle of a connection: what the sender has acknowledged is the place.
            let ack = |tcp: &mut TcpHeader| {
                (tcp.ack, tcp.acknowledgment_number, tcp.psh) = (true, 77_777, true);
            };
            let frame = segment(ipv6, ack, &payload);
            assert_answered(&mut program, &frame, &reset(ipv6, 77_777, None, &frame));
            // A last segment, and what no TCP sends.
            let frame = segment(ipv6, |tcp| tcp.fin = true, &payload);
            assert_answered(&mut program, &frame, &reset(ipv6, 0, Some(1_000_001 + bytes), &frame));
            let frame = segment(ipv6, |_| {}, &payload);
            assert_answered(&mut program, &frame, &reset(ipv6, 0, Some(1_000_000 + bytes), &frame));
        }
    }
    let wraps = segment(false, |tcp| (tcp.syn, tcp.sequence_number) = (true, u32::MAX), b"");
    assert_answered(&mut program, &wraps, &reset(false, 0, Some(0), &wraps));
    assert_eq!(count(&program, "rejected"), 71);
}

#[test]
fn ip_options_and_padding_are_left_out_of_a_reset() {
    let mut program = program();
    let plain = segment(false, |tcp| tcp.syn = true, b"");
    for words in 1..=10usize {
        let mut frame = plain.clone();
        frame.splice(34..34, std::iter::repeat_n(1, words * 4));
        frame[14] = 0x45 + u8::try_from(words).unwrap();
        let total = u16::try_from(frame.len() - 14).unwrap();
        frame[16..18].copy_from_slice(&total.to_be_bytes());
        assert_answered(&mut program, &frame, &reset(false, 0, Some(1_000_001), &frame));
    }
    let padded = [&plain[..], &[0xAA; 6]].concat();
    assert_answered(&mut program, &padded, &reset(false, 0, Some(1_000_001), &padded));
}

#[test]
fn a_datagram_is_answered_with_port_unreachable() {
    let mut program = program();
    for ipv6 in [false, true] {
        for length in [0, 1, 18, 512, 1400] {
            let frame = datagram(ipv6, &vec![7; length]);
            let answer = unreachable(ipv6, &frame);
            assert_answered(&mut program, &frame, &answer);
        }
        let mut padded = datagram(ipv6, b"");
        padded.resize(80, 0);
        let answer = unreachable(ipv6, &padded);
        assert_answered(&mut program, &padded, &answer);
    }
    assert_eq!(count(&program, "rejected"), 12);
}

#[test]
fn resets_errors_and_what_comes_from_no_host_are_not_answered() {
    let mut program = program();
    for ipv6 in [false, true] {
        assert_dropped(&mut program, &segment(ipv6, |tcp| tcp.rst = true, b""), "no_backend");
        let both = |tcp: &mut TcpHeader| (tcp.rst, tcp.ack) = (true, true);
        assert_dropped(&mut program, &segment(ipv6, both, b""), "no_backend");
        let group = [0x01, 0, 0x5E, 0, 0, 1];
        let frame = segment(ipv6, |tcp| tcp.syn = true, b"");
        assert_dropped(&mut program, &readdressed(&frame, OWN_MAC, group), "no_backend");
        assert_dropped(
            &mut program,
            &readdressed(&datagram(ipv6, b"x"), OWN_MAC, group),
            "no_backend",
        );
        // A header that claims to be longer than the segment.
        let mut frame = frame;
        let offset = frame.len() - 8;
        frame[offset] = 0x60;
        assert_dropped(&mut program, &frame, "no_backend");
    }
    for source in [[0; 4], [127, 0, 0, 1], [224, 0, 0, 1], [255; 4], VIP] {
        for mut frame in [segment(false, |tcp| tcp.syn = true, b""), datagram(false, b"x")] {
            frame[26..30].copy_from_slice(&source);
            assert_dropped(&mut program, &frame, "no_backend");
        }
    }
    for source in [Ipv6Addr::UNSPECIFIED, Ipv6Addr::LOCALHOST, "ff02::1".parse().unwrap(), VIP6] {
        for mut frame in [segment(true, |tcp| tcp.syn = true, b""), datagram(true, b"x")] {
            frame[22..38].copy_from_slice(&source.octets());
            assert_dropped(&mut program, &frame, "no_backend");
        }
    }
    let answer = unreachable(false, &datagram(false, b"x"));
    let mut error = readdressed(&answer, OWN_MAC, CLIENT_MAC);
    // As if a client had been told by us, and told us.
    error[26..34].rotate_left(4);
    error[54..62].rotate_left(4);
    error[62..66].rotate_left(2);
    assert_dropped(&mut program, &error, "no_backend");
    assert_eq!(count(&program, "rejected"), 0);
}

#[test]
fn more_than_the_rate_are_dropped_and_counted() {
    let mut program = program();
    let frames = [segment(false, |tcp| tcp.syn = true, b""), datagram(true, b"x")];
    set_pace(&program, Bucket::Rejected, u64::MAX / 2);
    for frame in &frames {
        assert_eq!(program.run(frame).unwrap(), (Verdict::Drop, frame.clone()));
    }
    assert_eq!((count(&program, "reject_limited"), count(&program, "rejected")), (2, 0));
    set_pace(&program, Bucket::Rejected, 0);
    set_pace(&program, Bucket::TooBig, u64::MAX / 2);
    for frame in &frames {
        assert_eq!(program.run(frame).unwrap().0, Verdict::Tx);
    }
    assert_eq!((count(&program, "reject_limited"), count(&program, "rejected")), (2, 2));
}
