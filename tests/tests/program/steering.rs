//! Which backend a packet reaches.

use std::net::{IpAddr, Ipv4Addr};

use weir::core::{NextHop, NextHopReport};
use weir_lab::program::{OWN_MAC, Program, Verdict, same_interface};

use crate::scene::{
    CLIENT, CONFIG, VIP, backend_mac, fin, now, program, reached, readdressed, report, syn, tcp,
    udp,
};

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

    let hop = NextHop {
        interface: 9,
        source: [2, 8, 8, 8, 8, 8],
        destination: [2, 7, 7, 7, 7, 7],
        ..same_interface(address)
    };
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
