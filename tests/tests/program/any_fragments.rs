//! Services that take any fragments: in whatever order they come, a datagram's all reach one backend.

use weir_lab::program::{Program, Verdict, mac_of};

use crate::{
    fragments::{CUTS, KINDS, Kind, LENGTH, ORDERS, assert_follows},
    scene::{assert_dropped, count, program_of},
};

const CONFIG: &str = r#"
[limits]
services = 64
backends = 64
ring_slots = 65536
[[interface]]
name = "lo"
[[service]]
name = "tcp"
address = "192.0.2.10"
port = 80
algorithm = "ip_hash"
fragments = "any"
ring = 1009
backend = [{ name = "a", address = "10.0.0.1" }, { name = "b", address = "10.0.0.2" }]
[[service]]
name = "udp"
address = "192.0.2.10"
port = 80
protocol = "udp"
fragments = "any"
ring = 1009
backend = [{ name = "a", address = "10.0.0.1" }, { name = "b", address = "10.0.0.2" }]
[[service]]
name = "udp-follows"
address = "192.0.2.10"
port = 81
protocol = "udp"
ring = 1009
backend = [{ name = "a", address = "10.0.0.3" }, { name = "b", address = "10.0.0.4" }]
[[service]]
name = "six"
address = "2001:db8::a"
port = 80
algorithm = "ip_hash"
fragments = "any"
ring = 1009
backend = [{ name = "a", address = "2001:db8:1::1" }, { name = "b", address = "2001:db8:1::2" }]
[[service]]
name = "six-udp"
address = "2001:db8::a"
port = 0
protocol = "udp"
health = { type = "none" }
fragments = "any"
ring = 1009
backend = [{ name = "a", address = "2001:db8:1::1" }, { name = "b", address = "2001:db8:1::2" }]
[[service]]
name = "six-udp-follows"
address = "2001:db8::a"
port = 81
protocol = "udp"
health = { type = "none" }
ring = 1009
backend = [{ name = "a", address = "2001:db8:1::3" }, { name = "b", address = "2001:db8:1::4" }]
"#;

const VIP: u8 = 10;

/// Where the last byte of the source address lies.
fn client_at(kind: Kind) -> usize {
    if kind.ipv6 { 37 } else { 29 }
}

/// The backend that a fragment goes to: 1 or 2.
#[track_caller]
fn reached(program: &mut Program, kind: Kind, fragment: &[u8]) -> u8 {
    let (verdict, out) = program.run(fragment).unwrap();
    assert_eq!(verdict, Verdict::Tx, "{kind:?}");
    assert_eq!(out[12..], fragment[12..]);
    let family = if kind.ipv6 { "2001:db8:1::" } else { "10.0.0." };
    let mac = |last: &u8| mac_of(format!("{family}{last}").parse().unwrap());
    (1..=2).find(|last| out[..6] == mac(last)).expect("a backend of the service")
}

#[test]
fn a_datagram_stays_whole_in_any_order() {
    let mut program = program_of(CONFIG);
    for kind in KINDS {
        let mut seen = Vec::new();
        for client in 1..40 {
            let mut backends = Vec::new();
            for (id, order) in (1..).zip(ORDERS) {
                // Each from another port, of which the backend does not depend.
                let datagram = kind.datagram(4000 + id, VIP);
                for cut in order.map(|index| CUTS[index]) {
                    let mut fragment = datagram.fragment(id, cut);
                    fragment[client_at(kind)] = client;
                    backends.push(reached(&mut program, kind, &fragment));
                }
            }
            assert!(
                backends.iter().all(|backend| *backend == backends[0]),
                "{kind:?} {backends:?}"
            );
            seen.push(backends[0]);
        }
        assert!(seen.contains(&1) && seen.contains(&2), "{kind:?} {seen:?}");
    }
    assert_eq!(count(&program, "unknown_fragment"), 0);
}

#[test]
fn by_the_clients_address_fragments_go_where_whole_packets_do() {
    let mut program = program_of(CONFIG);
    for kind in KINDS.into_iter().filter(|kind| !kind.udp) {
        for client in 1..40 {
            let mut datagram = kind.datagram(4000, VIP);
            datagram.frame[client_at(kind)] = client;
            for cut in [CUTS[2], CUTS[0], CUTS[1]] {
                assert_follows(&mut program, &datagram, &datagram.fragment(1, cut));
            }
        }
    }
}

#[test]
fn another_service_of_the_address_has_its_fragments_follow() {
    let mut program = program_of(CONFIG);
    for kind in KINDS.into_iter().filter(|kind| kind.udp) {
        for source in 4000..4040 {
            let mut datagram = kind.datagram(source, VIP);
            let port = if kind.ipv6 { 57 } else { 37 };
            datagram.frame[port] = 81;
            for cut in CUTS {
                assert_follows(&mut program, &datagram, &datagram.fragment(source, cut));
            }
        }
    }
}

#[test]
fn what_no_sender_makes_is_dropped_all_the_same() {
    let mut program = program_of(CONFIG);
    for kind in KINDS {
        let datagram = kind.datagram(4000, VIP);
        let payload = datagram.payload();
        let tiny = [
            datagram.piece(1, 0, &[], true),
            datagram.piece(1, 0, &payload[..47], true),
            datagram.piece(1, 48, &payload[48..79], true),
            datagram.piece(1, 65_528, &payload[..8], false),
        ];
        for fragment in tiny {
            assert_dropped(&mut program, &fragment, "tiny_fragment");
        }
    }
    let within = KINDS[0].datagram(4000, VIP).fragment(1, (8, LENGTH));
    assert_dropped(&mut program, &within, "tiny_fragment");
}
