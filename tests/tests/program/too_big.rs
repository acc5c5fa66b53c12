//! Packets that do not fit their tunnel: what their senders are told, and who is told nothing.

use std::net::Ipv6Addr;

use etherparse::{Icmpv4Type, Icmpv6Type, PacketBuilder, icmpv4};
use lb_common::{
    layout::{Tunnel, TunnelKind},
    pace::Bucket,
    tunnel::overhead,
};
use weir_lab::program::{OWN_MAC, Program, Verdict};

use crate::{
    scene::{CLIENT, CLIENT_MAC, assert_dropped, count, open_tunnel, readdressed, set_pace},
    tunnel::{VIP, VIP6, frame, kinds, program, tunnel},
};

const CLIENT6: [u8; 16] = [7; 16];

/// A frame of TCP whose IP packet is so long.
fn sized(ipv6: bool, total: usize) -> Vec<u8> {
    let headers = if ipv6 { 60 } else { 40 };
    let payload: Vec<u8> = (0..=u8::MAX).cycle().take(total - headers).collect();
    frame(ipv6, 4000, 0, &payload)
}

/// Both services' tunnels carry packets of this size, and no larger ones.
fn narrow(program: &Program, kind: TunnelKind, fits: usize) {
    let mtu = u32::try_from(fits + overhead(kind)).unwrap();
    for number in [0, 1] {
        open_tunnel(program, number, &Tunnel { mtu, ..tunnel(kind) });
    }
}

/// What the sender of a frame of IPv4 is told.
fn fragmentation_needed(about: &[u8], next_hop_mtu: u16, quote: usize) -> Vec<u8> {
    let kind = icmpv4::DestUnreachableHeader::FragmentationNeeded { next_hop_mtu };
    let mut frame = Vec::new();
    PacketBuilder::ethernet2(OWN_MAC, CLIENT_MAC)
        .ipv4(VIP, CLIENT, 64)
        .icmpv4(Icmpv4Type::DestinationUnreachable(kind))
        .write(&mut frame, &about[14..14 + quote])
        .unwrap();
    frame
}

/// The same of IPv6: as much as fits into 1 280 bytes.
fn packet_too_big(about: &[u8], mtu: u32) -> Vec<u8> {
    let mut frame = Vec::new();
    PacketBuilder::ethernet2(OWN_MAC, CLIENT_MAC)
        .ipv6(VIP6, CLIENT6, 64)
        .icmpv6(Icmpv6Type::PacketTooBig { mtu })
        .write(&mut frame, &about[14..14 + 1232])
        .unwrap();
    assert_eq!(frame.len(), 14 + 1280);
    frame
}

#[track_caller]
fn assert_told(program: &mut Program, frame: &[u8], answer: &[u8]) {
    let before = count(program, "too_big_answered");
    let (verdict, out) = program.run(frame).unwrap();
    assert_eq!((verdict, out.as_slice()), (Verdict::Tx, answer));
    assert_eq!(count(program, "too_big_answered"), before + 1);
}

#[test]
fn the_sender_is_told_what_fits() {
    let mut program = program();
    for kind in kinds() {
        let (four, six) = (sized(false, 1400), sized(true, 1400));
        narrow(&program, kind, 1400);
        for frame in [&four, &six] {
            let (verdict, out) = program.run(frame).unwrap();
            assert_eq!((verdict, out.len()), (Verdict::Tx, frame.len() + overhead(kind)));
        }
        narrow(&program, kind, 1399);
        assert_told(&mut program, &four, &fragmentation_needed(&four, 1399, 548));
        assert_told(&mut program, &six, &packet_too_big(&six, 1399));
    }
}

#[test]
fn the_quote_is_as_long_as_the_rfcs_ask() {
    let mut program = program();
    let kind = TunnelKind::ipip(false);
    for (total, quote) in [(549, 548), (548, 548), (547, 68), (100, 68), (69, 68)] {
        let frame = sized(false, total);
        narrow(&program, kind, total - 1);
        let mtu = u16::try_from(total - 1).unwrap();
        assert_told(&mut program, &frame, &fragmentation_needed(&frame, mtu, quote));
    }
    // The longest header is quoted as a whole, with the ports.
    let mut options = sized(false, 500);
    options.splice(34..34, [1; 40]);
    options[14] = 0x4F;
    options[16..18].copy_from_slice(&540u16.to_be_bytes());
    narrow(&program, kind, 539);
    assert_told(&mut program, &options, &fragmentation_needed(&options, 539, 68));
    // No link carries less.
    let smallest = sized(false, 68);
    narrow(&program, kind, 67);
    assert_dropped(&mut program, &smallest, "too_big");
}

#[test]
fn nobody_is_asked_for_less_than_every_link_of_ipv6_carries() {
    let mut program = program();
    for kind in kinds() {
        for (total, fits, told) in [(1281, 1280, 1280), (1500, 1281, 1281), (1500, 1000, 1280)] {
            let frame = sized(true, total);
            narrow(&program, kind, fits);
            assert_told(&mut program, &frame, &packet_too_big(&frame, told));
        }
        narrow(&program, kind, 1279);
        assert_dropped(&mut program, &sized(true, 1280), "too_big");
    }
}

#[test]
fn what_may_be_cut_and_what_comes_from_no_host_is_not_answered() {
    let mut program = program();
    narrow(&program, TunnelKind::ipip(false), 1299);
    let (four, six) = (sized(false, 1300), sized(true, 1300));
    let mut may_be_cut = four.clone();
    may_be_cut[20] = 0;
    assert_dropped(&mut program, &may_be_cut, "too_big");
    for frame in [&four, &six] {
        assert_dropped(
            &mut program,
            &readdressed(frame, OWN_MAC, [0x01, 0, 0x5E, 0, 0, 1]),
            "too_big",
        );
    }
    for source in [[0; 4], [127, 0, 0, 1], [224, 0, 0, 1], [255; 4], VIP] {
        let mut frame = four.clone();
        frame[26..30].copy_from_slice(&source);
        assert_dropped(&mut program, &frame, "too_big");
    }
    let multicast: Ipv6Addr = "ff02::1".parse().unwrap();
    for source in [Ipv6Addr::UNSPECIFIED, Ipv6Addr::LOCALHOST, multicast, VIP6.into()] {
        let mut frame = six.clone();
        frame[22..38].copy_from_slice(&source.octets());
        assert_dropped(&mut program, &frame, "too_big");
    }
    assert_eq!(count(&program, "too_big_answered"), 0);
}

#[test]
fn errors_are_not_answered() {
    let mut program = program();
    narrow(&program, TunnelKind::ipip(false), 500);
    // As if a router had quoted a backend's answer to these.
    let mut quote = sized(false, 1000)[14..].to_vec();
    quote[12..20].rotate_left(4);
    quote[20..24].rotate_left(2);
    let kind = icmpv4::DestUnreachableHeader::FragmentationNeeded { next_hop_mtu: 1400 };
    let mut error = Vec::new();
    PacketBuilder::ethernet2(CLIENT_MAC, OWN_MAC)
        .ipv4([203, 0, 113, 1], VIP, 60)
        .icmpv4(Icmpv4Type::DestinationUnreachable(kind))
        .write(&mut error, &quote)
        .unwrap();
    assert_dropped(&mut program, &error, "too_big");
    let mut quote = sized(true, 1400)[14..].to_vec();
    quote[8..40].rotate_left(16);
    quote[40..44].rotate_left(2);
    let mut error = Vec::new();
    PacketBuilder::ethernet2(CLIENT_MAC, OWN_MAC)
        .ipv6([8; 16], VIP6, 60)
        .icmpv6(Icmpv6Type::PacketTooBig { mtu: 1400 })
        .write(&mut error, &quote)
        .unwrap();
    assert_dropped(&mut program, &error, "too_big");
    assert_eq!(count(&program, "too_big_answered"), 0);
}

#[test]
fn more_than_the_rate_are_dropped_and_rejections_are_not_among_them() {
    let mut program = program();
    narrow(&program, TunnelKind::gue(true, 6080), 1299);
    let frames = [sized(false, 1300), sized(true, 1300)];
    set_pace(&program, Bucket::TooBig, u64::MAX / 2);
    for frame in &frames {
        assert_dropped(&mut program, frame, "too_big");
    }
    set_pace(&program, Bucket::TooBig, 0);
    set_pace(&program, Bucket::Rejected, u64::MAX / 2);
    assert_told(&mut program, &frames[0], &fragmentation_needed(&frames[0], 1299, 548));
    assert_told(&mut program, &frames[1], &packet_too_big(&frames[1], 1299));
}
