//! Fragments: the later ones go where the first one goes, and what no sender makes goes nowhere.

use aya::maps::{HashMap, Map, MapData};
use etherparse::PacketBuilder;
use lb_common::{
    fragment::LIFETIME,
    layout::{Tunnel, TunnelKind},
};
use weir_lab::program::{OWN_MAC, Program, Verdict};

use crate::scene::{
    CLIENT, CLIENT_MAC, assert_dropped, assert_passes_untouched, open_tunnel, program_of,
    readdressed,
};

const CONFIG: &str = r#"
[limits]
services = 64
backends = 64
ring_slots = 65536
[[interface]]
name = "lo"
[[service]]
name = "four"
address = "192.0.2.10"
port = 80
ring = 1009
backend = [{ name = "a", address = "10.0.0.1" }, { name = "b", address = "10.0.0.2" }]
[[service]]
name = "four-udp"
address = "192.0.2.10"
port = 80
protocol = "udp"
ring = 1009
backend = [{ name = "a", address = "10.0.0.3" }, { name = "b", address = "10.0.0.4" }]
[[service]]
name = "six"
address = "2001:db8::a"
port = 80
ring = 1009
backend = [{ name = "a", address = "2001:db8:1::3" }, { name = "b", address = "2001:db8:1::4" }]
[[service]]
name = "six-udp"
address = "2001:db8::a"
port = 80
protocol = "udp"
ring = 1009
health = { type = "none" }
backend = [{ name = "a", address = "2001:db8:1::1" }, { name = "b", address = "2001:db8:1::2" }]
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
protocol = "udp"
ring = 1009
health = { type = "none" }
"#;

/// The last byte of the VIP that has services with backends.
const VIP: u8 = 10;
/// Bytes behind the IP header of the datagrams that are cut, and how: into three.
pub(crate) const LENGTH: usize = 100;
pub(crate) const CUTS: [(usize, usize); 3] = [(0, 48), (48, 80), (80, LENGTH)];
/// Six orders.
pub(crate) const ORDERS: [[usize; 3]; 6] =
    [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]];

/// What a datagram is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Kind {
    pub(crate) ipv6: bool,
    pub(crate) udp: bool,
}

pub(crate) const KINDS: [Kind; 4] = [
    Kind { ipv6: false, udp: false },
    Kind { ipv6: false, udp: true },
    Kind { ipv6: true, udp: false },
    Kind { ipv6: true, udp: true },
];
const FOUR_UDP: Kind = KINDS[1];

/// A whole datagram.
#[derive(Debug, Clone)]
pub(crate) struct Datagram {
    pub(crate) kind: Kind,
    pub(crate) frame: Vec<u8>,
}

impl Kind {
    /// A datagram from a port to port 80 of a VIP.
    pub(crate) fn datagram(self, source: u16, vip: u8) -> Datagram {
        let ethernet = PacketBuilder::ethernet2(CLIENT_MAC, OWN_MAC);
        let builder = if self.ipv6 {
            let mut destination = [0; 16];
            destination[..4].copy_from_slice(&[0x20, 0x01, 0x0D, 0xB8]);
            destination[15] = vip;
            ethernet.ipv6([9; 16], destination, 64)
        } else {
            ethernet.ipv4(CLIENT, [192, 0, 2, vip], 64)
        };
        let bytes: Vec<u8> = (0..100).collect();
        let mut frame = Vec::new();
        if self.udp {
            builder.udp(source, 80).write(&mut frame, &bytes[8..]).unwrap();
        } else {
            builder.tcp(source, 80, 1, 1024).ack(1).write(&mut frame, &bytes[20..]).unwrap();
        }
        Datagram { kind: self, frame }
    }
}

impl Datagram {
    /// What lies behind the IP header.
    pub(crate) fn payload(&self) -> &[u8] {
        &self.frame[if self.kind.ipv6 { 54 } else { 34 }..]
    }

    /// The fragment that holds bytes `from..to` of the payload.
    pub(crate) fn fragment(&self, identification: u16, (from, to): (usize, usize)) -> Vec<u8> {
        let more = to < self.payload().len();
        self.piece(identification, from, &self.payload()[from..to], more)
    }

    /// A fragment that holds these bytes.
    pub(crate) fn piece(
        &self,
        identification: u16,
        from: usize,
        bytes: &[u8],
        more: bool,
    ) -> Vec<u8> {
        let id = identification.to_be_bytes();
        let units = u16::try_from(from / 8).unwrap();
        if self.kind.ipv6 {
            let mut frame = self.frame[..54].to_vec();
            let [high, low] = (units << 3 | u16::from(more)).to_be_bytes();
            // Which the protocol does not tell apart: it is part of the identification here.
            frame.extend([frame[20], 0, high, low, 0, frame[20], id[0], id[1]]);
            frame[20] = 44;
            frame[18..20].copy_from_slice(&u16::try_from(8 + bytes.len()).unwrap().to_be_bytes());
            return [&frame, bytes].concat();
        }
        let mut frame = self.frame[..34].to_vec();
        frame[16..18].copy_from_slice(&u16::try_from(20 + bytes.len()).unwrap().to_be_bytes());
        frame[18..20].copy_from_slice(&id);
        frame[20..22].copy_from_slice(&(units | u16::from(more) << 13).to_be_bytes());
        [&frame, bytes].concat()
    }
}

fn program() -> Program {
    program_of(CONFIG)
}

/// The fragment leaves as it is, between other Ethernet addresses: the backend's of the whole datagram.
#[track_caller]
pub(crate) fn assert_follows(program: &mut Program, datagram: &Datagram, fragment: &[u8]) {
    let (verdict, whole) = program.run(&datagram.frame).unwrap();
    assert_eq!(verdict, Verdict::Tx);
    let backend = whole[..6].try_into().unwrap();
    let expected = (Verdict::Tx, readdressed(fragment, backend, OWN_MAC));
    assert_eq!(program.run(fragment).unwrap(), expected);
}

#[test]
fn fragments_go_where_the_whole_datagram_would_byte_for_byte() {
    let mut program = program();
    for kind in KINDS {
        for source in 1000..1040 {
            let datagram = kind.datagram(source, VIP);
            for cut in CUTS {
                assert_follows(&mut program, &datagram, &datagram.fragment(source, cut));
            }
        }
    }
}

#[test]
fn in_any_order_those_behind_the_first_follow_and_those_before_it_are_dropped() {
    let mut program = program();
    for kind in KINDS {
        for (id, order) in (1..).zip(ORDERS) {
            let datagram = kind.datagram(4000, VIP);
            let mut is_known = false;
            for cut in order.map(|index| CUTS[index]) {
                is_known |= cut.0 == 0;
                let fragment = datagram.fragment(id, cut);
                if is_known {
                    assert_follows(&mut program, &datagram, &fragment);
                } else {
                    assert_dropped(&mut program, &fragment, "unknown_fragment");
                }
            }
        }
    }
}

#[test]
fn a_datagram_that_is_whole_is_forgotten_and_its_identification_may_come_again() {
    let mut program = program();
    for kind in KINDS {
        for source in [1000, 2000, 3000] {
            let datagram = kind.datagram(source, VIP);
            for cut in CUTS {
                assert_follows(&mut program, &datagram, &datagram.fragment(7, cut));
            }
            let again = datagram.fragment(7, CUTS[1]);
            assert_dropped(&mut program, &again, "unknown_fragment");
        }
    }
}

#[test]
fn no_other_datagram_is_taken_for_it() {
    let mut program = program();
    for kind in KINDS {
        let datagram = kind.datagram(4000, VIP);
        assert_follows(&mut program, &datagram, &datagram.fragment(7, CUTS[0]));
        let later = datagram.fragment(8, CUTS[1]);
        assert_dropped(&mut program, &later, "unknown_fragment");
        let (source, identification) = if kind.ipv6 { (22..38, 58..62) } else { (26..30, 18..20) };
        for place in source.chain(identification) {
            let mut later = datagram.fragment(7, CUTS[1]);
            later[place] ^= 0x80;
            assert_dropped(&mut program, &later, "unknown_fragment");
        }
    }
    // Of IPv4, by the protocol too.
    let [tcp, udp] = [KINDS[0], KINDS[1]].map(|kind| kind.datagram(4001, VIP));
    assert_follows(&mut program, &tcp, &tcp.fragment(9, CUTS[0]));
    assert_dropped(&mut program, &udp.fragment(9, CUTS[1]), "unknown_fragment");
    assert_follows(&mut program, &tcp, &tcp.fragment(9, CUTS[1]));
}

#[test]
fn fragments_for_no_service_pass_untouched() {
    let mut program = program();
    for kind in KINDS {
        for cut in CUTS {
            let elsewhere = kind.datagram(4000, 99);
            assert_passes_untouched(&mut program, &elsewhere.fragment(1, cut), "fragment");
            // The VIP, and a port that no service has.
            let mut unserved = kind.datagram(4000, VIP);
            let port = if kind.ipv6 { 56 } else { 36 };
            unserved.frame[port] ^= 1;
            assert_passes_untouched(&mut program, &unserved.fragment(1, cut), "no_service");
        }
        // Odd ones as well, and other protocols.
        let elsewhere = kind.datagram(4000, 99);
        assert_passes_untouched(&mut program, &elsewhere.piece(2, 0, &[7; 4], true), "fragment");
        for cut in CUTS {
            let mut fragment = kind.datagram(4000, VIP).fragment(3, cut);
            fragment[if kind.ipv6 { 54 } else { 23 }] = if kind.ipv6 { 58 } else { 1 };
            assert_passes_untouched(&mut program, &fragment, "fragment");
        }
    }
    assert_passes_untouched(
        &mut program,
        &KINDS[0].datagram(1, 30).fragment(1, CUTS[1]),
        "fragment",
    );
}

#[test]
fn what_no_sender_makes_is_dropped() {
    let mut program = program();
    for kind in KINDS {
        let datagram = kind.datagram(4000, VIP);
        let header = if kind.udp { 8 } else { 20 };
        let payload = datagram.payload();
        // A first one without all of the transport header; behind it nothing is known.
        for end in (0..header).step_by(8) {
            let fragment = datagram.piece(1, 0, &payload[..end], true);
            assert_dropped(&mut program, &fragment, "tiny_fragment");
            let later = datagram.fragment(1, (48, 80));
            assert_dropped(&mut program, &later, "unknown_fragment");
            // Padded to the shortest frame, which says no more.
            let padded = [&fragment[..], &[0; 60]].concat();
            assert_dropped(&mut program, &padded, "tiny_fragment");
        }
        assert_dropped(&mut program, &datagram.piece(1, 0, &payload[..47], true), "tiny_fragment");
        assert_follows(&mut program, &datagram, &datagram.fragment(2, CUTS[0]));
        // Of no whole number of units, though more follow; with nothing in it; longer than datagrams are.
        for (bytes, more) in [(31, true), (0, true), (0, false)] {
            let odd = datagram.piece(2, 48, &payload[48..48 + bytes], more);
            assert_dropped(&mut program, &odd, "tiny_fragment");
        }
        let beyond = datagram.piece(2, 65_528, &payload[..8], false);
        assert_dropped(&mut program, &beyond, "tiny_fragment");
        // Within a TCP header.
        if !kind.udp {
            for from in [8, 16] {
                let within = datagram.piece(2, from, &payload[from..48], true);
                assert_dropped(&mut program, &within, "tiny_fragment");
            }
        }
        assert_follows(&mut program, &datagram, &datagram.fragment(2, CUTS[1]));
    }
}

#[test]
fn what_has_come_before_is_dropped() {
    let mut program = program();
    for kind in KINDS {
        let datagram = kind.datagram(4000, VIP);
        assert_follows(&mut program, &datagram, &datagram.fragment(1, CUTS[0]));
        let overlaps = |program: &mut Program, from_to| {
            assert_dropped(program, &datagram.fragment(1, from_to), "overlapping_fragment");
        };
        // The first one again; one with other ports.
        overlaps(&mut program, CUTS[0]);
        let other = kind.datagram(4001, VIP);
        assert_dropped(&mut program, &other.fragment(1, CUTS[0]), "overlapping_fragment");
        overlaps(&mut program, (40, 56));
        overlaps(&mut program, (24, 48));
        assert_follows(&mut program, &datagram, &datagram.fragment(1, (56, 64)));
        for from_to in [(48, 64), (56, 64), (48, 72), (56, 72), (56, 100)] {
            overlaps(&mut program, from_to);
        }
        assert_follows(&mut program, &datagram, &datagram.fragment(1, CUTS[2]));
        overlaps(&mut program, CUTS[2]);
        // Behind the last one.
        let behind = datagram.piece(1, 104, &[7; 8], true);
        assert_dropped(&mut program, &behind, "overlapping_fragment");
        for from_to in [(48, 56), (64, 80)] {
            assert_follows(&mut program, &datagram, &datagram.fragment(1, from_to));
        }
    }
}

#[test]
fn what_contradicts_the_frame_passes_untouched() {
    let mut program = program();
    for kind in KINDS {
        let datagram = kind.datagram(4000, VIP);
        for cut in CUTS {
            let fragment = datagram.fragment(1, cut);
            for length in 14..fragment.len() {
                let cut = &fragment[..length];
                assert_passes_untouched(&mut program, cut, "malformed");
            }
        }
        assert_follows(&mut program, &datagram, &datagram.fragment(1, CUTS[0]));
        let whole = datagram.fragment(1, CUTS[1]);
        for length in 14..whole.len() {
            assert_passes_untouched(&mut program, &whole[..length], "malformed");
        }
        assert_follows(&mut program, &datagram, &whole);
    }
}

#[test]
fn headers_before_the_ports_are_read_over() {
    let mut program = program();
    let four = FOUR_UDP.datagram(4000, VIP);
    let six = KINDS[3].datagram(4000, VIP);
    for cut in CUTS {
        let mut options = four.fragment(5, cut);
        options.splice(34..34, [1; 8]);
        options[14] = 0x47;
        options[17] += 8;
        assert_follows(&mut program, &four, &options);
        // Destination options before the fragment header, and behind it, which is part of the data: then
        // all fragments may name those as what follows.
        let mut before = six.fragment(5, cut);
        before.splice(54..54, [44, 0, 1, 4, 0, 0, 0, 0]);
        before[20] = 60;
        before[19] += 8;
        assert_follows(&mut program, &six, &before);
        let mut behind = six.fragment(6, cut);
        behind[54] = 60;
        if cut.0 == 0 {
            behind.splice(62..62, [17, 0, 1, 4, 0, 0, 0, 0]);
            behind[19] += 8;
        } else {
            behind[57] += 8;
        }
        assert_follows(&mut program, &six, &behind);
    }
}

#[test]
fn a_first_fragment_opens_its_flow() {
    let mut program = program();
    let mut datagram = KINDS[0].datagram(4000, 40);
    datagram.frame[47] = 0x02;
    let mut reached = Vec::new();
    for (cut, records) in CUTS.into_iter().zip([(1, 0), (0, 1), (0, 1)]) {
        let (verdict, out) = program.run(&datagram.fragment(1, cut)).unwrap();
        assert_eq!(verdict, Verdict::Tx);
        reached.push(out[..6].to_vec());
        assert_eq!(program.tables.records.count().unwrap(), records);
    }
    assert!(reached.iter().all(|mac| *mac == reached[0]), "{reached:x?}");
}

#[test]
fn a_datagram_is_not_waited_for_for_ever() {
    let mut program = program();
    let datagram = FOUR_UDP.datagram(4000, VIP);
    assert_follows(&mut program, &datagram, &datagram.fragment(1, CUTS[0]));
    grow_older(&program, LIFETIME - 5);
    assert_follows(&mut program, &datagram, &datagram.fragment(1, CUTS[1]));
    grow_older(&program, 6);
    assert_dropped(&mut program, &datagram.fragment(1, CUTS[2]), "unknown_fragment");
    // The identification comes again.
    for cut in CUTS {
        assert_follows(&mut program, &datagram, &datagram.fragment(1, cut));
    }
}

/// Has all that is remembered have come so many seconds earlier.
fn grow_older(program: &Program, seconds: u32) {
    let path = program.id.directory(program.bpf_dir()).join("FRAGMENTS");
    let map = Map::LruHashMap(MapData::from_pin(path).unwrap());
    let mut datagrams: HashMap<MapData, [u64; 5], [u32; 8]> = map.try_into().unwrap();
    let entries: Vec<_> = datagrams.iter().map(Result::unwrap).collect();
    assert_eq!(entries.len(), 1);
    for (key, mut record) in entries {
        record[1] -= seconds;
        datagrams.insert(key, record, 0).unwrap();
    }
}

#[test]
fn only_a_first_fragment_is_told_that_nobody_serves() {
    let mut program = program();
    let datagram = FOUR_UDP.datagram(4000, 30);
    let (verdict, out) = program.run(&datagram.fragment(1, CUTS[0])).unwrap();
    // Port unreachable.
    assert_eq!((verdict, &out[34..36]), (Verdict::Tx, &[3, 3][..]));
    for cut in &CUTS[1..] {
        assert_dropped(&mut program, &datagram.fragment(1, *cut), "no_backend");
    }
}

#[test]
fn the_shortest_fragment_goes_through_a_tunnel() {
    let mut program = program();
    let kind = TunnelKind::ipip(false);
    let tunnel = Tunnel { kind, mtu: 1500, spread: 0, source: [1; 4], destination: [2; 4] };
    for number in 0..8 {
        open_tunnel(&program, number, &tunnel);
    }
    for kind in KINDS {
        let datagram = kind.datagram(4000, VIP);
        let payload = datagram.payload();
        let first = datagram.fragment(1, CUTS[0]);
        let last = datagram.piece(1, 48, &payload[48..49], false);
        for fragment in [first, last] {
            let (verdict, out) = program.run(&fragment).unwrap();
            assert_eq!((verdict, out.len()), (Verdict::Tx, fragment.len() + 20));
            assert_eq!(out[34..], fragment[14..]);
        }
    }
}
