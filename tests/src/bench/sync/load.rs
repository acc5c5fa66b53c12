//! Flows that are opened and confirmed in a balancer's kernel, so many a second.

use std::{
    os::fd::AsFd as _,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow, ensure};
use aya::programs::loaded_programs;
use lb_common::layout::FlowKey;

use crate::{
    Balancer,
    bench::{
        case::{Packet, frame},
        generator::{Family, Generator, Order, Target, Traffic, client_of},
    },
    xdp::Program,
};

/// How often a batch is made.
const BEAT: Duration = Duration::from_millis(10);
/// Flows of one batch at most: whoever is late catches up by and by.
const BATCH_MAX: u32 = 5_000;
/// More than are made in ten minutes.
const FLOWS: u32 = 1 << 25;
/// The one service of the tables.
const SERVICE: u32 = 0;

/// A thread that makes flows until this is dropped.
#[derive(Debug)]
pub(super) struct Load {
    port: u16,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<Result<f64>>>,
}

#[derive(Debug, Default)]
struct Shared {
    stop: AtomicBool,
    /// How many flows have been made.
    made: AtomicU32,
}

impl Load {
    /// Starts to make flows by the program that is attached to a balancer.
    ///
    /// # Errors
    ///
    /// There is no such program, or the kernel refuses to run it.
    pub(super) fn start(balancer: &Balancer, port: u16, rate: u32) -> Result<Self> {
        let shared = Arc::new(Shared::default());
        let maker = Maker::new(balancer, port, rate)?;
        let there = Arc::clone(&shared);
        let thread =
            thread::Builder::new().name("load".to_owned()).spawn(move || maker.run(&there))?;
        Ok(Self { port, shared, thread: Some(thread) })
    }

    /// The number of the latest flow.
    pub(super) fn latest(&self) -> Result<u32> {
        let ended = self.thread.as_ref().is_none_or(JoinHandle::is_finished);
        ensure!(!ended, "no flows are made any more");
        Ok(self.shared.made.load(Ordering::Relaxed))
    }

    /// A flow's key in the tables.
    pub(super) fn key(&self, flow: u32) -> [u32; 6] {
        let (address, from) = client_of(flow);
        let source = u32::from_ne_bytes(address.octets());
        let ([a, b], [c, d]) = (from.to_be_bytes(), self.port.to_be_bytes());
        FlowKey::new([source, 0, 0, 0], u32::from_ne_bytes([a, b, c, d]), SERVICE).words()
    }

    /// Ends it, and says how many flows a second there were.
    pub(super) fn stop(mut self) -> Result<f64> {
        self.shared.stop.store(true, Ordering::Relaxed);
        let thread = self.thread.take().context("the load was stopped before")?;
        thread.join().map_err(|_| anyhow!("the thread that makes flows panicked"))?
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // Whoever drops it without `stop` does not want to know.
            let _ = thread.join();
        }
    }
}

/// What the thread works with.
struct Maker {
    generator: Generator,
    mac: [u8; 6],
    port: u16,
    rate: u32,
}

impl Maker {
    fn new(balancer: &Balancer, port: u16, rate: u32) -> Result<Self> {
        let words = ["ip", "-json", "link", "show", "dev", "eth0"];
        let links: serde_json::Value = serde_json::from_str(&balancer.namespace().run(&words)?)?;
        let id = links[0]["xdp"]["prog"]["id"].as_u64().context("no XDP program on eth0")?;
        let mut programs = loaded_programs().filter_map(std::result::Result::ok);
        let program = programs.find(|program| u64::from(program.id()) == id);
        let program = program.context("the program is gone")?.fd()?;
        let mac = links[0]["address"].as_str().and_then(mac).context("eth0 has no MAC address")?;
        let pass = Program::pass()?;
        let generator = Generator::new(Family::V4, pass.fd(), program.as_fd())?;
        Ok(Self { generator, mac, port, rate })
    }

    fn run(&self, shared: &Shared) -> Result<f64> {
        let (start, mut made) = (Instant::now(), 0);
        while !shared.stop.load(Ordering::Relaxed) {
            let due = start.elapsed().as_secs_f64() * f64::from(self.rate);
            #[allow(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "ten minutes of flows fit"
            )]
            let number = (due as u32).saturating_sub(made).min(BATCH_MAX);
            if number > 0 {
                for packet in [Packet::Syn, Packet::Ack] {
                    let traffic = Traffic {
                        flows: FLOWS,
                        services: 1,
                        port: self.port,
                        order: Order::Sequence { after: made },
                        mac: self.mac,
                    };
                    self.generator.run(
                        Target::Measured,
                        traffic,
                        &frame(Family::V4, packet),
                        number,
                    )?;
                }
                made += number;
                shared.made.store(made, Ordering::Relaxed);
            }
            thread::sleep(BEAT);
        }
        Ok(f64::from(made) / start.elapsed().as_secs_f64())
    }
}

fn mac(text: &str) -> Option<[u8; 6]> {
    let bytes: Option<Vec<u8>> =
        text.split(':').map(|byte| u8::from_str_radix(byte, 16).ok()).collect();
    bytes?.try_into().ok()
}
