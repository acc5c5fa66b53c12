//! Arbitrary packets: the program in the kernel does with each what the same rules do on the host,
//! and neither changes a packet that it does not forward, nor more of it than it should.

use std::{cell::RefCell, rc::Rc};

use etherparse::{Icmpv4Type, Icmpv6Type, IpHeaders, PacketBuilder, PacketBuilderStep, icmpv4};
use lb_common::{
    fragment::Fragments,
    layout::{
        BackendEntry, FlowKey, FlowRecord, FragmentKey, FragmentRecord, Load, Rotation,
        ServiceBucket, Tunnel, TunnelKind,
    },
    reason::{Reason, Refusal},
    slot::Slot,
    steer::{Flows, Stage, Tables},
};
use nix::time::{ClockId, clock_gettime};
use proptest::{collection::vec, prelude::*};
use weir_lab::{
    datagrams::Datagrams,
    host,
    program::{INGRESS, OWN_MAC, Program, Verdict},
};

use crate::scene::{CLIENT_MAC, open_tunnel, program_of};

/// Settled slots alone, so that nothing depends on what came before.
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
port = 80
ping = true
ring = 1009
backend = [{ name = "a", address = "10.0.0.1" }, { name = "b", address = "10.0.0.2" }]
[[service]]
name = "six"
address = "2001:db8::10"
port = 0
ping = true
protocol = "udp"
ring = 1009
health = { type = "none" }
backend = [{ name = "a", address = "2001:db8:1::1" }, { name = "b", address = "2001:db8:1::2" }]
[[service]]
name = "empty"
address = "192.0.2.30"
port = 80
ring = 1009
[[service]]
name = "empty-six"
address = "2001:db8::30"
port = 80
ring = 1009
on_empty = "reject"
"#;

const VIP6: [u8; 16] = [0x20, 0x01, 0x0D, 0xB8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10];

/// The kernel's tables as they are on the host, without flows' records, and with others of datagrams.
struct Host<'t>(&'t dyn Tables, &'t Datagrams);

impl Tables for Host<'_> {
    fn bucket(&self, place: u32) -> Option<&ServiceBucket> {
        self.0.bucket(place)
    }

    fn slot(&self, index: u32) -> Option<Slot> {
        self.0.slot(index)
    }

    fn backend(&self, number: u16) -> Option<&BackendEntry> {
        self.0.backend(number)
    }

    fn rotation(&self, service: u32) -> Option<&Rotation> {
        self.0.rotation(service)
    }

    fn load(&self, number: u16) -> Option<&Load> {
        self.0.load(number)
    }
}

impl Flows for Host<'_> {
    type Record<'t>
        = &'t FlowRecord
    where
        Self: 't;

    fn now(&self) -> u32 {
        let now = clock_gettime(ClockId::CLOCK_MONOTONIC).unwrap();
        now.tv_sec().try_into().unwrap()
    }

    fn beat(&self) -> u32 {
        panic!("a settled slot asks for no time")
    }

    fn record(&self, _: Stage, _: &FlowKey) -> Option<&FlowRecord> {
        panic!("a settled slot asks for no record")
    }

    fn keep(&self, _: Stage, _: &FlowKey, _: &FlowRecord) {}

    fn forget(&self, _: Stage, _: &FlowKey) {}

    fn turn_to(&self, _: &Rotation, _: u32) {}

    fn count(&self, _: &Load, _: i64) {}

    fn has_second_chance(&self) -> bool {
        panic!("a settled slot asks nobody else")
    }
}

impl Fragments for Host<'_> {
    type Datagram<'t>
        = Rc<FragmentRecord>
    where
        Self: 't;

    fn datagram(&self, key: &FragmentKey) -> Option<Rc<FragmentRecord>> {
        self.1.find(key)
    }

    fn learn(&self, key: &FragmentKey, record: &FragmentRecord) {
        self.1.learn(key, record);
    }

    fn forget_datagram(&self, key: &FragmentKey) {
        self.1.forget(key);
    }
}

/// What the rules make of a frame on the host.
fn on_the_host(
    program: &Program,
    datagrams: &Datagrams,
    frame: &[u8],
) -> (Result<u32, Reason>, Vec<u8>) {
    let host = Host(&*program.tables.mapped, datagrams);
    host::forward(&host, &program.id.parameters(), frame)
}

/// Good packets, of which arbitrary ones are made.
fn seeds() -> Vec<Vec<u8>> {
    let ethernet = || PacketBuilder::ethernet2(CLIENT_MAC, OWN_MAC);
    let four = |last| ethernet().ipv4([198, 51, 100, 7], [192, 0, 2, last], 64);
    let six = |last| {
        let mut destination = VIP6;
        destination[15] = last;
        ethernet().ipv6([9; 16], destination, 64)
    };
    let mut frames = Vec::new();
    for last in [10, 30] {
        for udp in [false, true] {
            frames.extend([written(four(last), udp), written(six(last), udp)]);
        }
    }
    // IPv4 options; every extension header that is read over.
    let mut options = frames[0].clone();
    options[14] = 0x47;
    options[17] += 8;
    options.splice(34..34, [1; 8]);
    frames.push(options);
    for number in [0, 43, 44, 60] {
        let mut extended = frames[3].clone();
        extended.splice(54..54, [extended[20], 0, 0, 0, 0, 0, 0, 0]);
        extended[19] += 8;
        extended[20] = number;
        frames.push(extended.clone());
        extended.splice(54..54, [number, 0, 0, 0, 0, 0, 0, 0]);
        extended[19] += 8;
        extended[20] = 60;
        frames.push(extended);
    }
    frames.extend(messages(&frames));
    frames.extend(fragments(&frames));
    frames
}

/// Parts of some of them: the first, the middle and the last one.
fn fragments(seeds: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let mut frames = Vec::new();
    for seed in seeds {
        let (header, length) = if seed[12] == 8 { (20, [16, 17]) } else { (40, [18, 19]) };
        for (offset, more) in [(0u16, 1u16), (3, 1), (6, 0)] {
            let mut frame = seed[..14 + header].to_vec();
            if header == 20 {
                frame[20..22].copy_from_slice(&(offset | more << 13).to_be_bytes());
            } else {
                let [high, low] = (offset << 3 | more).to_be_bytes();
                frame.extend([frame[20], 0, high, low, 1, 2, 3, 4]);
                frame[20] = 44;
            }
            let mut payload = seed[14 + header..].to_vec();
            payload.resize(24, 0);
            frame.extend(payload);
            let counted = frame.len() - if header == 20 { 14 } else { 54 };
            let bytes = u16::try_from(counted).unwrap().to_be_bytes();
            for (place, byte) in length.into_iter().zip(bytes) {
                frame[place] = byte;
            }
            frames.push(frame);
        }
    }
    frames
}

/// Errors that quote answers to the seeds, and pings.
fn messages(seeds: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let ethernet = || PacketBuilder::ethernet2(CLIENT_MAC, OWN_MAC);
    let mut frames = Vec::new();
    for seed in seeds {
        let mut quote = seed[14..].to_vec();
        let mut frame = Vec::new();
        if quote[0] >> 4 == 4 {
            let header = usize::from(quote[0] & 0x0F) * 4;
            let vip: [u8; 4] = quote[16..20].try_into().unwrap();
            quote[12..20].rotate_left(4);
            quote[header..header + 4].rotate_left(2);
            let kind = icmpv4::DestUnreachableHeader::FragmentationNeeded { next_hop_mtu: 1400 };
            let builder = ethernet().ipv4([203, 0, 113, 1], vip, 60);
            let builder = builder.icmpv4(Icmpv4Type::DestinationUnreachable(kind));
            builder.write(&mut frame, &quote).unwrap();
        } else {
            let vip: [u8; 16] = quote[24..40].try_into().unwrap();
            quote[8..40].rotate_left(16);
            let ports = quote.len() - if quote[6] == 6 { 25 } else { 13 };
            quote[ports..ports + 4].rotate_left(2);
            let builder = ethernet().ipv6([8; 16], vip, 60);
            let builder = builder.icmpv6(Icmpv6Type::PacketTooBig { mtu: 1400 });
            builder.write(&mut frame, &quote).unwrap();
        }
        frames.push(frame);
    }
    let mut ping = Vec::new();
    let builder = ethernet().ipv4([198, 51, 100, 7], [192, 0, 2, 10], 64);
    builder.icmpv4_echo_request(1, 2).write(&mut ping, b"hello").unwrap();
    frames.push(ping);
    let mut ping = Vec::new();
    ethernet()
        .ipv6([9; 16], VIP6, 64)
        .icmpv6_echo_request(1, 2)
        .write(&mut ping, b"hello")
        .unwrap();
    frames.push(ping);
    frames
}

fn written(builder: PacketBuilderStep<IpHeaders>, udp: bool) -> Vec<u8> {
    let mut frame = Vec::new();
    if udp {
        builder.udp(4000, 80).write(&mut frame, b"hello").unwrap();
    } else {
        builder.tcp(4000, 80, 1, 1024).write(&mut frame, b"hello").unwrap();
    }
    frame
}

/// A good packet with some bytes changed, most of them in its headers, and another end.
fn arbitrary() -> impl Strategy<Value = Vec<u8>> {
    let byte = prop_oneof![any::<u8>(), Just(0), Just(0xFF), Just(6), Just(17), Just(44), Just(60)];
    let changes = vec((12..130usize, byte), 0..5);
    let end = prop_oneof![4 => Just(None), 1 => (14..160usize).prop_map(Some)];
    let changed =
        (prop::sample::select(seeds()), changes, end).prop_map(|(frame, changes, end)| {
            let mut frame = frame;
            frame.resize(end.unwrap_or(frame.len()), 0);
            for (place, value) in changes {
                if let Some(byte) = frame.get_mut(place) {
                    *byte = value;
                }
            }
            frame
        });
    let noise =
        vec(any::<u8>(), 2..200).prop_map(|noise| [&OWN_MAC[..], &CLIENT_MAC, &noise].concat());
    prop_oneof![9 => changed, 1 => noise]
}

/// The reason under which the program counted its last packet, if it did.
fn newly_counted(program: &Program, before: &[u64]) -> Option<Reason> {
    let counts = program.tables.counters.reasons();
    let mut risen = counts.iter().zip(before).filter(|(count, before)| count.packets > **before);
    risen.next().map(|(count, _)| count.reason)
}

/// Asks both, and compares.
fn agree(program: Program, cases: u32) {
    let program = RefCell::new(program);
    let datagrams = Datagrams::default();
    let cases = ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() };
    proptest!(cases, |(frame in arbitrary())| {
        let mut program = program.borrow_mut();
        let (outcome, expected) = on_the_host(&program, &datagrams, &frame);
        let counts = program.tables.counters.reasons();
        let before: Vec<u64> = counts.iter().map(|count| count.packets).collect();
        let (verdict, out) = program.run(&frame).unwrap();
        match outcome {
            Ok(interface) => {
                prop_assert_eq!((interface, verdict), (INGRESS, Verdict::Tx));
                prop_assert_eq!(&out[out.len() - frame.len() + 14..], &frame[14..]);
            }
            Err(reason) => {
                prop_assert_eq!(Some(reason), newly_counted(&program, &before));
                let refusal = match reason.refusal() {
                    Refusal::Pass => Verdict::Pass,
                    Refusal::Drop => Verdict::Drop,
                    Refusal::Answer | Refusal::HandOn => Verdict::Tx,
                };
                prop_assert_eq!(verdict, refusal);
                prop_assert_eq!(expected == frame, refusal != Verdict::Tx);
            }
        }
        prop_assert_eq!(out, expected);
    });
}

#[test]
fn kernel_and_host_agree_on_every_packet_and_change_none_that_stays() {
    agree(program_of(CONFIG), 4000);
}

#[test]
fn so_they_do_on_what_goes_through_tunnels() {
    let program = program_of(CONFIG);
    let kinds = [
        TunnelKind::ipip(false),
        TunnelKind::gue(true, 6080),
        TunnelKind::ipip(true),
        TunnelKind::gue(false, 6080),
    ];
    for (number, kind) in (0..).zip(kinds) {
        // Some of the packets are larger.
        let mtu = 110;
        let spread = u32::from_le_bytes([0, 0, 0xFF, 0xFF]);
        let [source, destination] =
            [1, 2].map(|n| if kind.is_ipv6() { [n; 4] } else { [n, 0, 0, 0] });
        let tunnel = Tunnel { kind, mtu, spread, source, destination };
        open_tunnel(&program, number, &tunnel);
    }
    agree(program, 2000);
}
