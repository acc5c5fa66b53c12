//! Every header is read back by a library that knows nothing of this crate.

use std::net::{Ipv4Addr, Ipv6Addr};

use etherparse::{Ethernet2Header, Ipv4Header, Ipv6Header, PacketBuilder, UdpHeader};
use proptest::prelude::*;

use super::{
    decapsulate::{Refused, Rules, inspect},
    *,
};
use crate::layout::{Network, Tunnel};

const OWN: [u8; 6] = [2, 0, 0, 0, 0, 1];
const NEXT: [u8; 6] = [2, 0, 0, 0, 0, 2];
const PORT: u16 = 6080;

fn words(address: u128) -> [u32; 4] {
    let bytes = address.to_be_bytes();
    std::array::from_fn(|n| u32::from_le_bytes(bytes[n * 4..][..4].try_into().unwrap()))
}

fn backend(tunnel: &Tunnel) -> BackendEntry {
    let entry = BackendEntry::default();
    let [first, link] = BackendEntry::words(NEXT, OWN, 7);
    entry.first.store(first);
    entry.link.store(link | BackendEntry::TUNNEL);
    entry.tunnel.store(tunnel);
    entry
}

/// A packet of a family, whose type of service or traffic class is `service`.
fn inner(ipv6: bool, service: u8, payload: usize) -> Vec<u8> {
    let mut frame = Vec::new();
    let ethernet = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 9], OWN);
    let payload = vec![7; payload];
    if ipv6 {
        let builder = ethernet.ipv6([1; 16], [3; 16], 9).tcp(4000, 80, 1, 1);
        builder.write(&mut frame, &payload).unwrap();
        frame[14] |= service >> 4;
        frame[15] |= service << 4;
    } else {
        let builder = ethernet.ipv4([198, 51, 100, 7], [192, 0, 2, 10], 9).udp(4000, 80);
        builder.write(&mut frame, &payload).unwrap();
        frame[15] = service;
    }
    frame
}

fn encapsulated(frame: &[u8], tunnel: &Tunnel, hash: u32) -> Result<Vec<u8>, Reason> {
    let entry = backend(tunnel);
    let mut frame = frame.to_vec();
    let plan = plan(&Packet::new(&mut frame), &entry, hash)?;
    let mut longer = [vec![0xEE; plan.overhead()], frame].concat();
    assert_eq!(plan.write(&mut Packet::new(&mut longer)), Ok(7), "the interface");
    Ok(longer)
}

proptest! {
    #[test]
    fn a_header_says_what_the_entry_and_the_packet_say(
        (ipv6, carries_ipv6, gue) in any::<(bool, bool, bool)>(),
        (service, payload, hash) in (any::<u8>(), 0..1200usize, any::<u32>()),
        (source, destination) in any::<(u128, u128)>(),
        host_bits in 0..33u32,
    ) {
        let kind = if gue { TunnelKind::gue(ipv6, PORT) } else { TunnelKind::ipip(ipv6) };
        let mask = u32::try_from((1u64 << host_bits) - 1).unwrap();
        let [source, destination] = [source, destination].map(|address| if ipv6 {
            words(address)
        } else {
            [words(address)[0], 0, 0, 0]
        });
        let mut network = source;
        network[if ipv6 { 3 } else { 0 }] &= !mask.swap_bytes();
        let tunnel =
            Tunnel { kind, mtu: 1500, spread: mask.swap_bytes(), source: network, destination };
        let frame = inner(carries_ipv6, service, payload);
        let out = encapsulated(&frame, &tunnel, hash).unwrap();

        let carried = if carries_ipv6 { 41 } else { 4 };
        let protocol = if gue { 17 } else { carried };
        let (ethernet, rest) = Ethernet2Header::from_slice(&out).unwrap();
        prop_assert_eq!((ethernet.destination, ethernet.source), (NEXT, OWN));
        let rest = if ipv6 {
            prop_assert_eq!(ethernet.ether_type.0, 0x86DD);
            let (header, rest) = Ipv6Header::from_slice(rest).unwrap();
            prop_assert_eq!(header.traffic_class, service);
            prop_assert_eq!(header.flow_label.value(), hash & 0xF_FFFF);
            prop_assert_eq!(usize::from(header.payload_length), rest.len());
            prop_assert_eq!((header.next_header.0, header.hop_limit), (protocol, 64));
            let [from, to] = [header.source_addr(), header.destination_addr()].map(Ipv6Addr::to_bits);
            let mask = u128::from(mask);
            prop_assert_eq!(words(from & !mask), network);
            prop_assert_eq!(from & mask, u128::from(hash) & mask);
            prop_assert_eq!(words(to), destination);
            rest
        } else {
            prop_assert_eq!(ethernet.ether_type.0, 0x0800);
            let (header, rest) = Ipv4Header::from_slice(rest).unwrap();
            prop_assert_eq!(header.header_checksum, header.calc_header_checksum());
            prop_assert_eq!(header.dscp.value() << 2 | header.ecn.value(), service);
            prop_assert_eq!(usize::from(header.payload_len().unwrap()), rest.len());
            prop_assert_eq!((header.protocol.0, header.time_to_live), (protocol, 64));
            prop_assert!(header.dont_fragment && !header.is_fragmenting_payload());
            let [from, to] = [header.source, header.destination].map(Ipv4Addr::from).map(u32::from);
            prop_assert_eq!((from & !mask).swap_bytes(), network[0]);
            prop_assert_eq!(from & mask, hash & mask);
            prop_assert_eq!(to.swap_bytes(), destination[0]);
            rest
        };
        let rest = if gue {
            let (header, carried) = UdpHeader::from_slice(rest).unwrap();
            prop_assert!(header.source_port >= 49_152);
            prop_assert_eq!((header.destination_port, header.checksum), (PORT, 0));
            prop_assert_eq!(usize::from(header.length), rest.len());
            carried
        } else {
            rest
        };
        prop_assert_eq!(rest, &frame[14..], "the packet itself is as it came");
    }
}

#[test]
fn a_packet_fits_up_to_the_mtu_and_not_a_byte_more() {
    for (ipv6, gue, overhead) in
        [(false, false, 20), (true, false, 40), (false, true, 28), (true, true, 48)]
    {
        let kind = if gue { TunnelKind::gue(ipv6, PORT) } else { TunnelKind::ipip(ipv6) };
        assert_eq!(super::overhead(kind), overhead);
        let tunnel = |mtu| Tunnel { kind, mtu, spread: 0, source: [0; 4], destination: [0; 4] };
        for carries_ipv6 in [false, true] {
            let frame = inner(carries_ipv6, 0, 400);
            let length = u32::try_from(frame.len() - 14 + overhead).unwrap();
            assert!(encapsulated(&frame, &tunnel(length), 1).is_ok());
            assert_eq!(encapsulated(&frame, &tunnel(length - 1), 1), Err(Reason::TooBig));
        }
    }
}

#[test]
fn what_pads_a_short_frame_is_not_counted() {
    let mut frame = inner(false, 0, 1);
    frame.resize(60, 0);
    let kind = TunnelKind::gue(false, PORT);
    let tunnel = Tunnel { kind, mtu: 1500, spread: 0, source: [0; 4], destination: [0; 4] };
    let out = encapsulated(&frame, &tunnel, 1).unwrap();
    let (outer, rest) = Ipv4Header::from_slice(&out[14..]).unwrap();
    assert_eq!(outer.total_len, 20 + 8 + 29);
    assert_eq!(UdpHeader::from_slice(rest).unwrap().0.length, 8 + 29);
}

/// What a backend lets in.
struct Entrance {
    sources: Vec<Network>,
    vips: Vec<Network>,
}

impl Rules for Entrance {
    fn source(&self, index: u32) -> Option<&Network> {
        self.sources.get(index as usize)
    }

    fn vip(&self, index: u32) -> Option<&Network> {
        self.vips.get(index as usize)
    }

    fn port(&self) -> u16 {
        PORT
    }
}

const BALANCER: u32 = u32::from_le_bytes([10, 0, 0, 254]);

/// Balancers of both families, and the VIPs of [`inner`].
fn entrance() -> Entrance {
    let of = |family, address| Network { family, address, mask: [u32::MAX; 4], reserved: 0 };
    let vip = [u32::from_le_bytes([192, 0, 2, 10]), 0, 0, 0];
    Entrance {
        sources: vec![of(4, [1; 4]), of(4, [BALANCER, 0, 0, 0]), of(6, [5; 4])],
        vips: vec![of(6, [0x0303_0303; 4]), of(4, vip)],
    }
}

/// The tunnels whose outer source is let in.
fn tunnels() -> [Tunnel; 4] {
    [(false, false), (false, true), (true, false), (true, true)].map(|(ipv6, gue)| Tunnel {
        kind: if gue { TunnelKind::gue(ipv6, PORT) } else { TunnelKind::ipip(ipv6) },
        mtu: 1500,
        spread: 0,
        source: if ipv6 { [5; 4] } else { [BALANCER, 0, 0, 0] },
        destination: [9; 4],
    })
}

fn decapsulated(frame: &[u8], rules: &Entrance) -> Result<Vec<u8>, Refused> {
    let mut frame = frame.to_vec();
    let inside = inspect(&Packet::new(&mut frame), rules)?;
    let mut shorter = frame.split_off(inside.outer_length());
    assert!(inside.write(&mut Packet::new(&mut shorter)));
    Ok(shorter)
}

#[test]
fn what_went_into_a_tunnel_comes_out_as_it_was() {
    for tunnel in tunnels() {
        for ipv6 in [false, true] {
            let frame = inner(ipv6, 0xB9, 100);
            let out = encapsulated(&frame, &tunnel, 77).unwrap();
            let back = decapsulated(&out, &entrance()).unwrap();
            assert_eq!(back[12..], frame[12..], "{:?}", tunnel.kind);
            assert_eq!(back[..12], out[..12], "the Ethernet addresses are the outer frame's");
            for length in 0..out.len() - 100 {
                // Cut short, it is left alone, or as much of it as there is comes out.
                let _ = decapsulated(&out[..length], &entrance());
            }
        }
    }
}

#[test]
fn what_is_no_balancers_or_goes_elsewhere_is_left_alone() {
    for tunnel in tunnels() {
        let out = encapsulated(&inner(false, 0, 10), &tunnel, 77).unwrap();
        let refused = |rules: &Entrance| decapsulated(&out, rules).unwrap_err();
        assert_eq!(refused(&Entrance { sources: Vec::new(), ..entrance() }), Refused::Pass);
        assert_eq!(refused(&Entrance { vips: Vec::new(), ..entrance() }), Refused::Pass);
        let stranger = Tunnel { source: [8; 4], ..tunnel };
        let strangers = encapsulated(&inner(false, 0, 10), &stranger, 77).unwrap();
        assert_eq!(decapsulated(&strangers, &entrance()), Err(Refused::Pass));
    }
    let plain = inner(false, 0, 10);
    assert_eq!(decapsulated(&plain, &entrance()), Err(Refused::Pass));
}

/// RFC 6040 section 4.2, figure 4.
#[test]
fn congestion_met_on_the_way_is_told_to_who_understands_it() {
    for tunnel in tunnels() {
        for ipv6 in [false, true] {
            for (inner_ecn, outer_ecn, expected) in [
                (0, 0, Some(0)),
                (0, 1, Some(0)),
                (0, 3, None),
                (2, 0, Some(2)),
                (2, 1, Some(1)),
                (2, 3, Some(3)),
                (1, 3, Some(3)),
                (1, 2, Some(1)),
                (3, 0, Some(3)),
            ] {
                let mut out = encapsulated(&inner(ipv6, inner_ecn, 10), &tunnel, 1).unwrap();
                // On the way a router has marked the outer header; its checksum is not looked at.
                if tunnel.kind.is_ipv6() {
                    out[15] = out[15] & !0x30 | outer_ecn << 4;
                } else {
                    out[15] = out[15] & !3 | outer_ecn;
                }
                let back = decapsulated(&out, &entrance());
                let Some(expected) = expected else {
                    assert_eq!(back, Err(Refused::Congestion));
                    continue;
                };
                let mut whole = inner(ipv6, expected, 10);
                if !ipv6 {
                    let (header, _) = Ipv4Header::from_slice(&whole[14..]).unwrap();
                    whole[24..26].copy_from_slice(&header.calc_header_checksum().to_be_bytes());
                    // The frame that was sent has the checksum that belongs to it, too.
                    let sent = inner(ipv6, inner_ecn, 10);
                    let (header, _) = Ipv4Header::from_slice(&sent[14..]).unwrap();
                    let at = out.len() - sent.len() + 24;
                    out[at..at + 2].copy_from_slice(&header.calc_header_checksum().to_be_bytes());
                }
                let back = decapsulated(&out, &entrance()).unwrap();
                assert_eq!(back[12..], whole[12..], "{inner_ecn} in {outer_ecn}");
            }
        }
    }
}
