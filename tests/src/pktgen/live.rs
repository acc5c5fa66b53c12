//! Frames that `BPF_PROG_TEST_RUN` sends: a small program writes each of them and redirects it into
//! the balancer's link, where it arrives as a bare frame. No module is needed for it.

use std::{
    net::Ipv4Addr,
    os::fd::{AsFd, AsRawFd, OwnedFd},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
};

use anyhow::{Context, Result, anyhow};
use etherparse::PacketBuilder;
use nix::{
    sched::{CpuSet, sched_setaffinity},
    unistd::Pid,
};

use super::{
    Scenario,
    network::{self, Network},
};
use crate::{
    sys,
    xdp::{Instruction, Program},
};

/// Frames of one system call: it looks for a stop after each.
const FRAMES: u32 = 1 << 14;
/// The client: one address, so that the IP header is the same in each frame, and with it the
/// header's checksum, which the kernel looks at before it forwards.
const CLIENT: [u8; 4] = [10, 1, 0, 0];
/// What of a frame is written anew, since a frame that comes back has been changed on its way:
/// up to the ports.
const WORDS: usize = 5;
/// `BPF_MAP_TYPE_ARRAY`
const ARRAY: u32 = 2;

/// A thread that sends. Dropping it stops it.
pub(super) struct LiveFrames {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<()>>>,
}

impl LiveFrames {
    /// Starts sending, until it is dropped.
    pub(super) fn start(
        network: &Network,
        scenario: Scenario,
        destination: Ipv4Addr,
    ) -> Result<Self> {
        let frame = frame(scenario.size(), destination)?;
        let counter = sys::create_map(ARRAY, size_of::<u64>(), 1).context("the counter's map")?;
        let flows = scenario.flows().context("these flows do not come again")?;
        let program = Program::load(&instructions(&frame, &counter, flows, network.interface()))
            .context("loading the generator")?;
        let cpu = network::GENERATORS_CPU.parse().context("the generator's processor")?;
        let namespace = network.generator().clone();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            namespace.move_this_thread()?;
            let mut one = CpuSet::new();
            one.set(cpu)?;
            sched_setaffinity(Pid::from_raw(0), &one).context("choosing a processor")?;
            while !stopped.load(Ordering::Relaxed) {
                sys::live_run(program.fd(), &frame, FRAMES).context(
                    "sending frames through BPF_PROG_TEST_RUN, which is there since Linux 5.18",
                )?;
            }
            drop(counter);
            Ok(())
        });
        Ok(Self { stop, thread: Some(thread) })
    }

    /// Stops it, and tells what went wrong.
    pub(super) fn stop(mut self) -> Result<()> {
        self.end()
    }

    fn end(&mut self) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        match self.thread.take().map(JoinHandle::join) {
            Some(ended) => ended.map_err(|_| anyhow!("the generator's thread panicked"))?,
            None => Ok(()),
        }
    }
}

impl Drop for LiveFrames {
    fn drop(&mut self) {
        // There is nobody to tell of a failure.
        let _ = self.end();
    }
}

/// A UDP datagram of so many bytes with its headers, without a checksum of its own (RFC 768).
fn frame(size: u16, destination: Ipv4Addr) -> Result<Vec<u8>> {
    let headers = 14 + 20 + 8;
    let payload = vec![0; usize::from(size) - headers];
    let packet =
        PacketBuilder::ethernet2(mac(network::GENERATOR_MAC)?, mac(network::BALANCER_MAC)?)
            .ipv4(CLIENT, destination.octets(), 64)
            .udp(0, network::PORT);
    let mut frame = Vec::new();
    packet.write(&mut frame, &payload).context("writing a frame")?;
    frame[40..42].fill(0);
    Ok(frame)
}

fn mac(text: &str) -> Result<[u8; 6]> {
    let bytes: Result<Vec<u8>, _> =
        text.split(':').map(|byte| u8::from_str_radix(byte, 16)).collect();
    bytes?.try_into().map_err(|_| anyhow!("{text} is no MAC address"))
}

/// Writes the frame, with the next flow's number for its source port, and redirects it. Register 6
/// keeps the frame, 7 the counter.
fn instructions(frame: &[u8], counter: &OwnedFd, flows: u32, interface: i32) -> Vec<Instruction> {
    const MAP_VALUE: u8 = 2;
    const REDIRECT: i32 = 23;
    let op = Instruction::new;
    let length = i32::try_from(8 * WORDS).unwrap_or(i32::MAX);
    let mut code = vec![
        op(0x61, 6, 1, 0, 0), // r6 = (u32) data
        op(0x61, 3, 1, 4, 0), // r3 = (u32) data_end
        op(0xbf, 2, 6, 0, 0),
        op(0x07, 2, 0, 0, length),
        op(0xbd, 2, 3, 2, 0), // a frame that is long enough goes on
        op(0xb7, 0, 0, 0, 1), // XDP_DROP
        op(0x95, 0, 0, 0, 0),
        op(0x18, 7, MAP_VALUE, 0, counter.as_fd().as_raw_fd()),
        op(0, 0, 0, 0, 0),
        op(0x79, 4, 7, 0, 0), // r4 = the flow's number
        op(0xbf, 5, 4, 0, 0),
        op(0x07, 5, 0, 0, 1),
        op(0x7b, 7, 5, 0, 0), // one more for the next
        op(0x57, 4, 0, 0, (flows - 1).cast_signed()),
        op(0x67, 4, 0, 0, 16), // to where the source port is in the last word
    ];
    for (offset, word) in (0_i16..).step_by(8).zip(frame.chunks_exact(8).take(WORDS)) {
        let half =
            |at: usize| i32::from_ne_bytes([word[at], word[at + 1], word[at + 2], word[at + 3]]);
        code.extend([op(0x18, 2, 0, 0, half(0)), op(0, 0, 0, 0, half(4))]);
        if offset == 32 {
            code.push(op(0x4f, 2, 4, 0, 0)); // r2 |= r4
        }
        code.push(op(0x7b, 6, 2, offset, 0));
    }
    code.extend([
        op(0xb7, 1, 0, 0, interface),
        op(0xb7, 2, 0, 0, 0),
        op(0x85, 0, 0, 0, REDIRECT),
        op(0x95, 0, 0, 0, 0),
    ]);
    code
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_as_long_as_the_scenario_says_and_their_ports_are_open() {
        for scenario in Scenario::STEADY {
            let frame = frame(scenario.size(), Ipv4Addr::new(198, 18, 0, 100)).expect("a frame");
            assert_eq!(frame.len(), usize::from(scenario.size()));
            let parsed = etherparse::SlicedPacket::from_ethernet(&frame).expect("it is whole");
            assert!(parsed.transport.is_some(), "{scenario}");
            // What the program fills in.
            assert_eq!(frame[34..36], [0, 0]);
            let flows = scenario.flows().expect("they come again");
            assert!(flows.is_power_of_two() && flows <= 1 << 16, "{scenario}");
        }
    }
}
