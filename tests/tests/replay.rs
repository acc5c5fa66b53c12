//! Random histories, packet by packet through the real program in the kernel: every decision must
//! be the model's.

#![allow(clippy::unwrap_used, reason = "a test says what it expects by unwrapping it")]

use std::{net::IpAddr, path::PathBuf};

use etherparse::PacketBuilder;
use lb_common::{
    flow::Flow,
    layout::{BackendEntry, FlowKey, ServiceMeta},
    reason::Reason,
    steer::{Stage, Tables as _},
};
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use weir::{
    config::Limits,
    core::{Entry, Write},
    dataplane::{Tables, TablesId},
};
use weir_lab::{
    model::{
        BACKENDS, Balance, Event, Mirror, PARAMETERS, Protocol, SPAN, World, place, service_key,
    },
    program::{OWN_MAC, Runner, Verdict, mac_of},
};

/// Histories, and the events of each.
const HISTORIES: u64 = 40;
const LENGTH: usize = 500;

/// The kernel's program over its own tables.
struct Kernel {
    runner: Runner,
    protocol: Protocol,
}

impl Kernel {
    fn new(protocol: Protocol) -> Self {
        let limits = Limits { services: 1, backends: 64, ring_slots: 1024, flows: 4096 };
        let id = TablesId::new(limits, PARAMETERS.seed.0);
        assert_eq!(id.parameters().place_mask, PARAMETERS.place_mask);
        let runner = Runner::new(id).unwrap();
        let key = service_key(protocol);
        let place = place(protocol);
        let (ring, meta) = (SPAN.to_word(), ServiceMeta::default());
        runner.tables.mapped.write(&Write::Service { place, key, ring, meta });
        for number in 0..BACKENDS {
            let words = BackendEntry::words(mac(number), OWN_MAC, weir_lab::program::INGRESS);
            runner.tables.mapped.write(&Write::Backend(number, Entry { words, tunnel: None }));
        }
        Self { runner, protocol }
    }
}

impl Mirror for Kernel {
    fn packet(&mut self, flow: &Flow) -> Option<Result<u16, Reason>> {
        let port = u16::from_be_bytes([flow.ports.to_le_bytes()[0], flow.ports.to_le_bytes()[1]]);
        let builder = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 9], OWN_MAC).ipv4(
            flow.source[0].to_le_bytes(),
            [192, 0, 2, 10],
            64,
        );
        let mut frame = Vec::new();
        if self.protocol.is_udp() {
            builder.udp(port, 80).write(&mut frame, b"x").unwrap();
        } else {
            let tcp = builder.tcp(port, 80, 1, 1024);
            let tcp = if flow.flags.opens() { tcp.syn() } else { tcp.ack(1) };
            let tcp = if flow.flags.closes() { tcp.fin() } else { tcp };
            tcp.write(&mut frame, b"").unwrap();
        }
        let (verdict, out) = self.runner.run(&frame).unwrap();
        Some(match verdict {
            Verdict::Tx => Ok((0..BACKENDS).find(|n| out[..6] == mac(*n)).unwrap()),
            Verdict::Drop => Err(Reason::NoBackend),
            other => panic!("a packet of the service has the verdict {other:?}"),
        })
    }

    fn write(&mut self, write: &Write) {
        self.runner.tables.mapped.write(write);
    }

    fn forget(&mut self, stage: Stage, keys: &[FlowKey]) {
        self.runner.tables.records.forget(stage, keys).unwrap();
    }

    fn correct(&mut self, number: u16, change: i64) {
        self.runner.tables.mapped.load(number).unwrap().active.add(change);
    }

    fn load(&self, number: u16) -> Option<u64> {
        Some(self.runner.tables.mapped.load(number).unwrap().active.load())
    }
}

fn mac(number: u16) -> [u8; 6] {
    mac_of(IpAddr::from([10, 0, 0, u8::try_from(number).unwrap()]))
}

#[test]
fn the_kernel_decides_as_the_model_does() {
    weir_lab::require_root().unwrap();
    for seed in 0..HISTORIES {
        // Not QUIC: the program takes its openings for any datagrams.
        let protocol = if seed % 4 == 0 { Protocol::Udp } else { Protocol::Tcp };
        let mut random = StdRng::seed_from_u64(seed);
        let mut kernel = Kernel::new(protocol);
        let mut world = World::new(protocol, &mut kernel);
        let balances = [Balance::Ring, Balance::Turns, Balance::Load];
        let first = Event::Balance(balances[random.random_range(0..balances.len())]);
        world.happen(first, &mut kernel).unwrap();
        for step in 0..LENGTH {
            let event = Event::random(&mut random);
            if let Err(broken) = world.happen(event, &mut kernel) {
                panic!("seed {seed}, step {step}, {event:?}: {broken}");
            }
        }
    }
}

/// The directory of a runner is its own, so that tests may run side by side.
#[test]
fn runners_leave_nothing_behind() {
    let limits = Limits { services: 1, backends: 1, ring_slots: 1024, flows: 64 };
    let runner = Runner::new(TablesId::new(limits, [1, 2])).unwrap();
    let directory: PathBuf = runner.bpf_dir().to_owned();
    assert!(Tables::exist(&runner.id, &directory));
    drop(runner);
    assert!(!directory.exists());
}
