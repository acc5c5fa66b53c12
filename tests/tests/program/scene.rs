//! The tables and the packets of these tests, and what is asked of both.

use std::net::{IpAddr, Ipv4Addr};

use aya::{
    maps::{Map, MapData, PerCpuArray, PerCpuValues},
    util::nr_cpus,
};
use etherparse::PacketBuilder;
use lb_common::{
    layout::{BackendEntry, Tunnel},
    pace::Bucket,
    steer::Tables as _,
};
use weir::core::{BackendId, HealthReport, NextHop, Now};
use weir_lab::program::{OWN_MAC, Program, Verdict, mac_of, same_interface};

pub(crate) const CONFIG: &str = r#"
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
on_empty = "drop"
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

pub(crate) const CLIENT_MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 0xC1];
pub(crate) const CLIENT: [u8; 4] = [198, 51, 100, 7];
pub(crate) const VIP: [u8; 4] = [192, 0, 2, 10];

pub(crate) fn program() -> Program {
    program_of(CONFIG)
}

/// The program with a configuration's tables, and every backend behind the interface that packets
/// come by.
pub(crate) fn program_of(config: &str) -> Program {
    program_by(config, same_interface)
}

/// The same with next hops of the test's own.
pub(crate) fn program_by(config: &str, hop: impl Fn(IpAddr) -> NextHop) -> Program {
    let config = weir::config::parse(config, "test.toml").expect("the configuration is right");
    Program::new(config, hop).expect("the kernel takes the program")
}

pub(crate) fn tcp(source_port: u16, destination: [u8; 4], port: u16) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2(CLIENT_MAC, OWN_MAC)
        .ipv4(CLIENT, destination, 64)
        .tcp(source_port, port, 1, 1024)
        .ack(1);
    let mut frame = Vec::new();
    builder.write(&mut frame, b"hello").unwrap();
    frame
}

pub(crate) fn syn(source_port: u16, destination: [u8; 4], port: u16) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2(CLIENT_MAC, OWN_MAC)
        .ipv4(CLIENT, destination, 64)
        .tcp(source_port, port, 1, 1024)
        .syn();
    let mut frame = Vec::new();
    builder.write(&mut frame, b"").unwrap();
    frame
}

pub(crate) fn fin(source_port: u16, destination: [u8; 4], port: u16) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2(CLIENT_MAC, OWN_MAC)
        .ipv4(CLIENT, destination, 64)
        .tcp(source_port, port, 1, 1024)
        .ack(1)
        .fin();
    let mut frame = Vec::new();
    builder.write(&mut frame, b"").unwrap();
    frame
}

pub(crate) fn udp(source: [u8; 4], source_port: u16, port: u16) -> Vec<u8> {
    let builder =
        PacketBuilder::ethernet2(CLIENT_MAC, OWN_MAC).ipv4(source, VIP, 64).udp(source_port, port);
    let mut frame = Vec::new();
    builder.write(&mut frame, b"query").unwrap();
    frame
}

/// The frame with other Ethernet addresses and nothing else changed.
pub(crate) fn readdressed(frame: &[u8], destination: [u8; 6], source: [u8; 6]) -> Vec<u8> {
    [destination.as_slice(), source.as_slice(), &frame[12..]].concat()
}

pub(crate) fn backend_mac(last: u8) -> [u8; 6] {
    mac_of(IpAddr::V4(Ipv4Addr::new(10, 0, 0, last)))
}

#[track_caller]
pub(crate) fn assert_passes_untouched(program: &mut Program, frame: &[u8], reason: &str) {
    let before = count(program, reason);
    assert_eq!(program.run(frame).unwrap(), (Verdict::Pass, frame.to_vec()), "{reason}");
    assert_eq!(count(program, reason), before + 1, "counted as {reason}");
}

#[track_caller]
pub(crate) fn assert_dropped(program: &mut Program, frame: &[u8], reason: &str) {
    let before = count(program, reason);
    assert_eq!(program.run(frame).unwrap(), (Verdict::Drop, frame.to_vec()), "{reason}");
    assert_eq!(count(program, reason), before + 1, "counted as {reason}");
}

pub(crate) fn count(program: &Program, reason: &str) -> u64 {
    let counts = program.tables.counters.reasons();
    counts.iter().find(|c| c.reason.name() == reason).expect("a known reason").packets
}

/// The last byte of the address of the backend that a frame reaches.
#[track_caller]
pub(crate) fn reached(program: &mut Program, frame: &[u8]) -> u8 {
    let (verdict, out) = program.run(frame).unwrap();
    assert_eq!(verdict, Verdict::Tx);
    (1..=9).find(|last| out[..6] == backend_mac(*last)).expect("a backend's address")
}

/// Has a backend's packets go through a tunnel.
pub(crate) fn open_tunnel(program: &Program, number: u16, tunnel: &Tunnel) {
    let entry = program.tables.mapped.backend(number).expect("the backend's entry");
    entry.tunnel.store(tunnel);
    entry.link.store(entry.link.load() | BackendEntry::TUNNEL);
}

/// Sets when a bucket of answers is full again, on every CPU.
pub(crate) fn set_pace(program: &Program, bucket: Bucket, full_at: u64) {
    let path = program.id.directory(program.bpf_dir()).join("REJECT_PACE");
    let map = Map::PerCpuArray(MapData::from_pin(path).unwrap());
    let mut pace: PerCpuArray<MapData, u64> = map.try_into().unwrap();
    let values = PerCpuValues::try_from(vec![full_at; nr_cpus().unwrap()]).unwrap();
    pace.set(bucket as u32, values, 0).unwrap();
}

pub(crate) fn report(
    program: &mut Program,
    backend: &str,
    outcome: &Result<(), String>,
    times: usize,
) {
    let name = |text| weir::config::Name::new(text).unwrap();
    let id = BackendId { service: name("web"), backend: name(backend) };
    for _ in 0..times {
        let (id, outcome) = (id.clone(), outcome.clone());
        let report = HealthReport { id, outcome, started: now(), finished: now() };
        program.with_core(|core| core.health(&report, now()));
    }
}

pub(crate) fn now() -> Now {
    Now { monotonic: std::time::Duration::ZERO, wall: std::time::SystemTime::UNIX_EPOCH }
}
