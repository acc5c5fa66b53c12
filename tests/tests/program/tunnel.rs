//! Tunnels: what is put before a packet, byte for byte.

use std::collections::HashSet;

use etherparse::{
    EtherType, Ethernet2Header, IpDscp, IpEcn, IpHeaders, IpNumber, Ipv4Extensions, Ipv4Header,
    Ipv6Extensions, Ipv6FlowLabel, Ipv6Header, PacketBuilder, UdpHeader,
};
use lb_common::layout::{Tunnel, TunnelKind};
use weir::core::NextHop;
use weir_lab::program::{INGRESS, OWN_MAC, Program, Verdict, same_interface, to_us};

use crate::scene::{CLIENT_MAC, backend_mac, count, open_tunnel, program_by, program_of};

/// A backend a service, numbered from 0.
const CONFIG: &str = r#"
[limits]
services = 64
backends = 64
ring_slots = 8192
[[interface]]
name = "lo"
[[service]]
name = "four"
address = "192.0.2.10"
port = 0
ring = 1009
health.port = 22
backend = [{ name = "a", address = "10.0.0.1" }]
[[service]]
name = "six"
address = "2001:db8::10"
port = 0
ring = 1009
health.port = 22
backend = [{ name = "a", address = "2001:db8:1::1" }]
[[service]]
name = "gue"
address = "192.0.2.10"
port = 6080
protocol = "udp"
ring = 1009
backend = [{ name = "a", address = "10.0.0.1" }]
"#;

pub(crate) const VIP: [u8; 4] = [192, 0, 2, 10];
pub(crate) const VIP6: [u8; 16] = [0x20, 0x01, 0x0D, 0xB8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10];
const PORT: u16 = 6080;

const SOURCE: [u8; 4] = [10, 0, 0, 254];
const DESTINATION: [u8; 4] = [10, 9, 8, 7];
const SOURCE6: [u8; 16] = [0x20, 0x01, 0x0D, 0xB8, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xFE];
const DESTINATION6: [u8; 16] = [0x20, 0x01, 0x0D, 0xB8, 0, 9, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x07];

pub(crate) fn program() -> Program {
    program_of(CONFIG)
}

/// A frame of TCP of either family, its DSCP and ECN in one byte.
pub(crate) fn frame(ipv6: bool, source_port: u16, service: u8, payload: &[u8]) -> Vec<u8> {
    let ethernet = PacketBuilder::ethernet2(CLIENT_MAC, OWN_MAC);
    let mut frame = Vec::new();
    if ipv6 {
        let header = Ipv6Header {
            traffic_class: service,
            hop_limit: 9,
            source: [7; 16],
            destination: VIP6,
            ..Ipv6Header::default()
        };
        let ip = IpHeaders::Ipv6(header, Ipv6Extensions::default());
        ethernet.ip(ip).tcp(source_port, 80, 1, 1024).write(&mut frame, payload).unwrap();
    } else {
        let header = Ipv4Header {
            dscp: IpDscp::try_new(service >> 2).unwrap(),
            ecn: IpEcn::try_new(service & 3).unwrap(),
            dont_fragment: true,
            time_to_live: 9,
            source: [198, 51, 100, 7],
            destination: VIP,
            ..Ipv4Header::default()
        };
        let ip = IpHeaders::Ipv4(header, Ipv4Extensions::default());
        ethernet.ip(ip).tcp(source_port, 80, 1, 1024).write(&mut frame, payload).unwrap();
    }
    frame
}

pub(crate) fn tunnel(kind: TunnelKind) -> Tunnel {
    let four = |address| [u32::from_le_bytes(address), 0, 0, 0];
    let six = |address: [u8; 16]| {
        std::array::from_fn(|n| u32::from_le_bytes(address[n * 4..][..4].try_into().unwrap()))
    };
    let [source, destination] = if kind.is_ipv6() {
        [six(SOURCE6), six(DESTINATION6)]
    } else {
        [four(SOURCE), four(DESTINATION)]
    };
    Tunnel { kind, mtu: 1500, spread: 0, source, destination }
}

/// Both tunnels with an outer header of either family.
pub(crate) fn kinds() -> [TunnelKind; 4] {
    let [four, six] = [false, true];
    [
        TunnelKind::ipip(four),
        TunnelKind::ipip(six),
        TunnelKind::gue(four, PORT),
        TunnelKind::gue(six, PORT),
    ]
}

/// The frame that should come of another, but for what its flow's hash decides: the source port
/// and the flow label, which are taken from what came.
fn expected(frame: &[u8], kind: TunnelKind, service: u8, came: &[u8]) -> Vec<u8> {
    let mut packet = frame[14..].to_vec();
    let carries_ipv6 = packet[0] >> 4 == 6;
    let mut protocol = if carries_ipv6 { IpNumber::IPV6 } else { IpNumber::IPV4 };
    let header = if kind.is_ipv6() { 40 } else { 20 };
    if kind.is_gue() {
        let source_port = u16::from_be_bytes([came[14 + header], came[15 + header]]);
        assert!(source_port >= 49_152, "a dynamic port");
        let length = u16::try_from(8 + packet.len()).unwrap();
        let udp = UdpHeader { source_port, destination_port: PORT, length, checksum: 0 };
        packet = [&udp.to_bytes()[..], &packet].concat();
        protocol = IpNumber::UDP;
    }
    let (ether_type, outer) = if kind.is_ipv6() {
        let label = u32::from_be_bytes([0, came[15] & 0xF, came[16], came[17]]);
        let header = Ipv6Header {
            traffic_class: service,
            flow_label: Ipv6FlowLabel::try_new(label).unwrap(),
            payload_length: packet.len().try_into().unwrap(),
            next_header: protocol,
            hop_limit: 64,
            source: SOURCE6,
            destination: DESTINATION6,
        };
        (EtherType::IPV6, header.to_bytes().to_vec())
    } else {
        let mut header = Ipv4Header {
            dscp: IpDscp::try_new(service >> 2).unwrap(),
            ecn: IpEcn::try_new(service & 3).unwrap(),
            total_len: (20 + packet.len()).try_into().unwrap(),
            dont_fragment: true,
            time_to_live: 64,
            protocol,
            source: SOURCE,
            destination: DESTINATION,
            ..Ipv4Header::default()
        };
        header.header_checksum = header.calc_header_checksum();
        (EtherType::IPV4, header.to_bytes().to_vec())
    };
    let destination = if carries_ipv6 {
        weir_lab::program::mac_of("2001:db8:1::1".parse().unwrap())
    } else {
        backend_mac(1)
    };
    let ethernet = Ethernet2Header { source: OWN_MAC, destination, ether_type };
    [&ethernet.to_bytes()[..], &outer, &packet].concat()
}

#[test]
fn either_family_goes_in_either_with_its_dscp_and_ecn() {
    let mut program = program();
    for kind in kinds() {
        for (number, ipv6) in [(0, false), (1, true)] {
            open_tunnel(&program, number, &tunnel(kind));
            for service in [0, 1, 2, 3, 0xB8, 0xFF] {
                let frame = frame(ipv6, 4000, service, b"hello");
                let (verdict, out) = program.run(&frame).unwrap();
                assert_eq!(verdict, Verdict::Tx, "{kind:?}");
                assert_eq!(out, expected(&frame, kind, service, &out), "{kind:?}, IPv6: {ipv6}");
            }
        }
    }
}

#[test]
fn a_configured_tunnel_begins_at_this_host_or_in_its_network_and_ends_at_the_backend() {
    let text = r#"
[limits]
services = 64
backends = 64
ring_slots = 8192
[[interface]]
name = "lo"
[[service]]
name = "web"
address = "192.0.2.10"
port = 80
ring = 1009
forward = "ipip"
backend = [{ name = "a", address = "2001:db8:9::7" }]
[[service]]
name = "mail"
address = "2001:db8::10"
port = 80
ring = 1009
forward = "gue"
tunnel = { port = 5555, source = ["10.255.0.0/16"] }
backend = [{ name = "a", address = "10.9.8.7" }]
"#;
    let mut program = program_of(text);
    let (_, out) = program.run(&frame(false, 4000, 0, b"hello")).unwrap();
    let (outer, _) = Ipv6Header::from_slice(&out[14..]).unwrap();
    let [source, destination] = [outer.source_addr(), outer.destination_addr()];
    assert_eq!(
        (source, destination),
        (weir_lab::program::SOURCE6, "2001:db8:9::7".parse().unwrap())
    );
    let (_, out) = program.run(&frame(true, 4000, 0, b"hello")).unwrap();
    let (outer, rest) = Ipv4Header::from_slice(&out[14..]).unwrap();
    assert_eq!((&outer.source[..2], outer.destination), (&[10, 255][..], [10, 9, 8, 7]));
    assert_eq!(UdpHeader::from_slice(rest).unwrap().0.destination_port, 5555);
}

#[test]
fn a_flow_keeps_its_source_port_and_flows_spread_over_many() {
    let mut program = program();
    open_tunnel(&program, 0, &tunnel(TunnelKind::gue(false, PORT)));
    let mut source_port = |client_port| {
        let (_, out) = program.run(&frame(false, client_port, 0, b"")).unwrap();
        u16::from_be_bytes([out[34], out[35]])
    };
    let ports: HashSet<u16> = (1000..1256).map(&mut source_port).collect();
    // Of 16 384 ports, 256 flows meet on two or so.
    assert!(ports.len() > 240, "{} ports", ports.len());
    assert_eq!(source_port(1000), source_port(1000));
}

#[test]
fn the_outer_source_is_spread_over_its_prefix_alone() {
    let mut program = program();
    let spread = u32::from_le_bytes([0, 0, 0, 0xFF]);
    let kind = TunnelKind::ipip(false);
    let source = [u32::from_le_bytes([10, 1, 2, 0]), 0, 0, 0];
    open_tunnel(&program, 0, &Tunnel { spread, source, ..tunnel(kind) });
    let mut sources = HashSet::new();
    for client_port in 1000..1256 {
        let (_, out) = program.run(&frame(false, client_port, 0, b"")).unwrap();
        assert_eq!(out[26..29], [10, 1, 2]);
        sources.insert(out[29]);
        let (header, _) = Ipv4Header::from_slice(&out[14..]).unwrap();
        assert_eq!(header.header_checksum, header.calc_header_checksum());
    }
    // As many as random ones would meet, about two thirds of 256.
    assert!(sources.len() > 128, "{} sources", sources.len());
}

/// The tunnel leads back into the service, so that each run puts a header before the packet of the
/// run before, until the room before it is used up.
#[test]
fn where_no_room_is_left_a_packet_is_dropped_and_counted() {
    let mut program = program_by(CONFIG, to_us);
    let kind = TunnelKind::gue(false, PORT);
    let destination = [u32::from_le_bytes(VIP), 0, 0, 0];
    open_tunnel(&program, 2, &Tunnel { destination, ..tunnel(kind) });
    let builder = PacketBuilder::ethernet2(CLIENT_MAC, OWN_MAC);
    let mut packet = Vec::new();
    builder.ipv4([198, 51, 100, 7], VIP, 64).udp(4000, PORT).write(&mut packet, b"in").unwrap();
    let mut headers = 0;
    let last = loop {
        let (verdict, out) = program.run_times(&packet, headers + 1).unwrap();
        if verdict != Verdict::Tx {
            assert_eq!(verdict, Verdict::Drop);
            break out;
        }
        headers += 1;
        assert!(headers < 100, "the kernel leaves 256 bytes");
    };
    assert!(headers > 0);
    assert_eq!(count(&program, "no_headroom"), 1);
    assert_eq!(last.len(), packet.len() + 28 * usize::try_from(headers).unwrap());
    assert_eq!(last[last.len() - packet.len() + 14..], packet[14..], "the drop changed nothing");
}

#[test]
fn it_leaves_by_the_interface_of_its_next_hop_and_is_counted_there() {
    let elsewhere = |address| NextHop { interface: INGRESS + 1, ..same_interface(address) };
    let mut program = program_by(CONFIG, elsewhere);
    open_tunnel(&program, 0, &tunnel(TunnelKind::ipip(false)));
    let packet = frame(false, 4000, 0, b"hello");
    let (verdict, out) = program.run(&packet).unwrap();
    assert_eq!(verdict, Verdict::Redirect);
    assert_eq!(out, expected(&packet, TunnelKind::ipip(false), 0, &out));
    let counters = program.tables.counters.backend(0);
    assert_eq!((counters.redirected, counters.sent), (1, 0));
    assert_eq!(counters.bytes, packet.len() as u64, "as it came");
}
