//! Another flow for each run: `BPF_PROG_TEST_RUN` repeats a program on one frame and does not
//! restore it, so a small program goes before the measured one, which makes the frame whole again,
//! puts the next flow's addresses and ports into it, and calls the measured program.
//!
//! Its own cost is in the measured time; measured again with an empty program behind it, it goes
//! off with that. It stores whole words, as wide as the words that the measured program reads (a
//! load that spans two fresh stores waits for both), and draws the next flow after them, so that
//! the stores are done when they are read.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
};

use anyhow::{Context, Result, ensure};

use super::cpu_time;
use crate::{
    sys,
    xdp::{Instruction, Program},
};

/// Where flows come from and go to: what the frame needs of it is drawn from a flow's number.
#[derive(Debug, Clone, Copy)]
pub struct Traffic {
    /// How many flows.
    pub flows: u32,
    /// How many services they are spread over: VIPs that follow each other.
    pub services: u32,
    /// The destination port.
    pub port: u16,
    /// Which flow comes next.
    pub order: Order,
    /// The MAC address that frames go to.
    pub mac: [u8; 6],
}

/// The family of a generator's frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// IPv4, without options.
    V4 = 4,
    /// IPv6, without extension headers.
    V6 = 6,
}

/// Which flow comes next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// Any.
    Random,
    /// One after the other, each once before any comes again.
    Sequence {
        /// The number of the one before the first.
        after: u32,
    },
}

/// What the generator calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// The program that does nothing.
    Empty = 0,
    /// The measured program.
    Measured = 1,
}

/// The first VIP; the others follow it. Over IPv6, it is the end of an address.
pub const FIRST_VIP: u32 = 0xC633_6400;
/// The first client's address; each of them has the ports from 1024 on, as many as `PORTS`.
const FIRST_CLIENT: u32 = 0x0A40_0000;
const FIRST_PORT: i32 = 1024;
const PORT_BITS: i32 = 14;
/// What each client opens flows from.
const PORTS: u32 = 1 << PORT_BITS;

/// A flow's address and port, of services that are no more than one.
pub(super) fn client_of(flow: u32) -> (Ipv4Addr, u16) {
    let port = FIRST_PORT.cast_unsigned() + flow % PORTS;
    let port = u16::try_from(port).expect("the last port is 1024 + 16383");
    (Ipv4Addr::from_bits(FIRST_CLIENT + flow / PORTS), port)
}

/// What addresses of IPv6 begin with; the frame has it already.
const PREFIX: u128 = 0x2001_0DB8 << 96;

/// The generator in the kernel, in front of a program.
#[derive(Debug)]
pub struct Generator {
    family: Family,
    program: Program,
    state: OwnedFd,
    _targets: OwnedFd,
}

/// What the generator reads and keeps, a word each.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
struct State {
    /// From which the next flow's number is drawn: times `multiplier` + `step`, of which the
    /// upper half, scaled, is the number.
    drawn: u64,
    multiplier: u64,
    step: u64,
    flows: u64,
    services: u64,
    /// The destination port as it stands in the packet, in the upper half of the ports' word.
    port: u64,
    target: u64,
    /// The frame's first twelve bytes.
    first: u64,
    second: u64,
    /// The next flow: both addresses, both ports. Over IPv6, the second half of each address.
    addresses: u64,
    destination: u64,
    ports: u64,
}

// === impl Generator ===

impl Generator {
    /// Puts a generator in front of a program, with an empty one beside that.
    ///
    /// # Errors
    ///
    /// If the kernel refuses.
    pub fn new(family: Family, empty: BorrowedFd<'_>, measured: BorrowedFd<'_>) -> Result<Self> {
        const ARRAY: u32 = 2;
        const PROG_ARRAY: u32 = 3;
        let state = sys::create_map(ARRAY, size_of::<State>(), 1).context("the state's map")?;
        let targets = sys::create_map(PROG_ARRAY, 4, 2).context("the map of programs")?;
        for (target, program) in [(Target::Empty, empty), (Target::Measured, measured)] {
            set_target(targets.as_fd(), target, program)?;
        }
        let program = Program::load(&instructions(family, &state, &targets))?;
        Ok(Self { family, program, state, _targets: targets })
    }

    /// Runs a target on so many packets of this traffic. Returns its verdict on the last, and the
    /// nanoseconds that one took on average.
    ///
    /// # Errors
    ///
    /// If the frame is shorter than [`Family::frame_bytes`], or the kernel refuses.
    pub fn run(
        &self,
        target: Target,
        traffic: Traffic,
        frame: &[u8],
        packets: u32,
    ) -> Result<(u32, f64)> {
        let least = self.family.frame_bytes();
        ensure!(frame.len() >= usize::from(least), "a frame has {least} bytes at least");
        self.set(&State::new(target, traffic))?;
        // Draws the first flow; the frame's own is sent meanwhile.
        sys::test_run(self.program.fd(), frame, 1)?;
        let start = cpu_time()?;
        let verdict = sys::test_run(self.program.fd(), frame, packets)?;
        // The kernel's own figure is cut to whole nanoseconds, and has in it who else ran.
        Ok((verdict, cpu_time()?.saturating_sub(start).as_nanos() as f64 / f64::from(packets)))
    }

    fn set(&self, state: &State) -> Result<()> {
        #[allow(unsafe_code, reason = "the map was made with values of this type's size")]
        // SAFETY: twelve words without padding; `new` made the map for them.
        let written = unsafe { sys::update_map(self.state.as_fd(), 0, state) };
        written.context("write the generator's state")
    }
}

fn set_target(targets: BorrowedFd<'_>, target: Target, program: BorrowedFd<'_>) -> Result<()> {
    let value = program.as_raw_fd();
    #[allow(unsafe_code, reason = "the map was made with values of four bytes")]
    // SAFETY: a descriptor has four bytes, as the map's values do.
    let written = unsafe { sys::update_map(targets, target as u32, &value) };
    written.context("put a program into the map of programs")
}

// === impl State ===

impl State {
    fn new(target: Target, traffic: Traffic) -> Self {
        let Traffic { flows, services, port, order, mac } = traffic;
        // Of one flow, 2^64, which is none: its number is 0 whatever is drawn.
        let each = (u64::MAX / u64::from(flows)).wrapping_add(1);
        let (drawn, multiplier, step) = match order {
            // Knuth's linear congruential generator.
            Order::Random => {
                (0x9E37_79B9_7F4A_7C15, 6_364_136_223_846_793_005, 1_442_695_040_888_963_407)
            }
            // Half a step off, so that rounding leads to no neighbour.
            Order::Sequence { after } => {
                ((each / 2).wrapping_add(each.wrapping_mul(after.into())), 1, each)
            }
        };
        let [a, b, c, d, e, f] = mac;
        Self {
            drawn,
            multiplier,
            step,
            flows: flows.into(),
            services: services.into(),
            port: u64::from(port.swap_bytes()) << 16,
            target: target as u64,
            first: u64::from_le_bytes([a, b, c, d, e, f, 2, 0]),
            second: u32::from_le_bytes([0, 0, 0, 0xC1]).into(),
            ..Self::default()
        }
    }
}

// === impl Family ===

impl Family {
    /// An Ethernet, an IP and a TCP header, padded.
    pub const fn frame_bytes(self) -> u8 {
        match self {
            Self::V4 => 60,
            Self::V6 => 74,
        }
    }

    /// An address that ends so: of the VIPs, or of any other host.
    pub fn address(self, end: u32) -> IpAddr {
        match self {
            Self::V4 => Ipv4Addr::from_bits(end).into(),
            Self::V6 => Ipv6Addr::from_bits(PREFIX | u128::from(end)).into(),
        }
    }
}

/// Offset of a field of [`State`].
macro_rules! field {
    ($name:ident) => {
        const { offset(std::mem::offset_of!(State, $name)) }
    };
}

const fn offset(bytes: usize) -> i16 {
    assert!(bytes < size_of::<State>(), "a field lies in its struct");
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_possible_wrap,
        reason = "the struct has less than a hundred bytes"
    )]
    {
        bytes as i16
    }
}

/// The program. Register 6 keeps the context, 7 the state, 8 the frame.
fn instructions(family: Family, state: &OwnedFd, targets: &OwnedFd) -> Vec<Instruction> {
    const MAP: u8 = 1;
    const MAP_VALUE: u8 = 2;
    const TAIL_CALL: i32 = 12;
    let op = Instruction::new;
    let load = |to, from, offset| op(0x79, to, from, offset, 0);
    let mut code = vec![
        op(0xbf, 6, 1, 0, 0), // r6 = r1
        op(0x61, 8, 1, 0, 0), // r8 = (u32) data
        op(0x61, 3, 1, 4, 0), // r3 = (u32) data_end
        op(0xbf, 2, 8, 0, 0),
        op(0x07, 2, 0, 0, family.frame_bytes().into()),
        op(0xbd, 2, 3, 2, 0), // a frame that is long enough goes on
        op(0xb7, 0, 0, 0, 0),
        op(0x95, 0, 0, 0, 0),
    ];
    code.extend(wide(7, MAP_VALUE, state));
    // The frame, with the flow that was drawn in the run before.
    code.extend([
        load(4, 7, field!(first)),
        op(0x7b, 8, 4, 0, 0),
        load(4, 7, field!(second)),
        op(0x63, 8, 4, 8, 0),
        load(4, 7, field!(addresses)),
    ]);
    code.extend(match family {
        Family::V4 => {
            vec![op(0x7b, 8, 4, 26, 0), load(4, 7, field!(ports)), op(0x63, 8, 4, 34, 0)]
        }
        Family::V6 => vec![
            op(0x7b, 8, 4, 30, 0),
            load(4, 7, field!(destination)),
            op(0x7b, 8, 4, 46, 0),
            load(4, 7, field!(ports)),
            op(0x63, 8, 4, 54, 0),
        ],
    });
    // The next flow's number, in register 4.
    code.extend([
        load(4, 7, field!(drawn)),
        load(5, 7, field!(multiplier)),
        op(0x2f, 4, 5, 0, 0), // r4 *= r5
        load(5, 7, field!(step)),
        op(0x0f, 4, 5, 0, 0), // r4 += r5
        op(0x7b, 7, 4, field!(drawn), 0),
        op(0x77, 4, 0, 0, 32), // r4 >>= 32
        load(5, 7, field!(flows)),
        op(0x2f, 4, 5, 0, 0),
        op(0x77, 4, 0, 0, 32),
    ]);
    // Source address and VIP.
    code.extend([
        op(0xbf, 5, 4, 0, 0),
        op(0x77, 5, 0, 0, PORT_BITS),
        op(0x07, 5, 0, 0, FIRST_CLIENT.cast_signed()),
        op(0xdc, 5, 0, 0, 32), // to network order
        op(0xbf, 2, 4, 0, 0),
        load(3, 7, field!(services)),
        op(0x9f, 2, 3, 0, 0),                       // r2 %= r3
        op(0xb4, 3, 0, 0, FIRST_VIP.cast_signed()), // w3 = the first
        op(0x0f, 2, 3, 0, 0),
        op(0xdc, 2, 0, 0, 32),
        op(0x67, 2, 0, 0, 32),
    ]);
    code.extend(match family {
        // r5 |= r2
        Family::V4 => vec![op(0x4f, 5, 2, 0, 0), op(0x7b, 7, 5, field!(addresses), 0)],
        // Before the last four bytes of each come four zeros.
        Family::V6 => vec![
            op(0x67, 5, 0, 0, 32),
            op(0x7b, 7, 5, field!(addresses), 0),
            op(0x7b, 7, 2, field!(destination), 0),
        ],
    });
    // Ports.
    code.extend([
        op(0x57, 4, 0, 0, (1 << PORT_BITS) - 1),
        op(0x07, 4, 0, 0, FIRST_PORT),
        op(0xdc, 4, 0, 0, 16),
        load(3, 7, field!(port)),
        op(0x4f, 4, 3, 0, 0),
        op(0x7b, 7, 4, field!(ports), 0),
    ]);
    code.push(op(0xbf, 1, 6, 0, 0));
    code.extend(wide(2, MAP, targets));
    code.extend([
        load(3, 7, field!(target)),
        op(0x85, 0, 0, 0, TAIL_CALL),
        op(0xb7, 0, 0, 0, 0), // nobody was there to be called
        op(0x95, 0, 0, 0, 0),
    ]);
    code
}

/// Loads a map, or its first value's address, into a register.
fn wide(register: u8, kind: u8, map: &OwnedFd) -> [Instruction; 2] {
    [Instruction::new(0x18, register, kind, 0, map.as_raw_fd()), Instruction::new(0, 0, 0, 0, 0)]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the program computes, in Rust.
    fn number(state: &mut State) -> usize {
        state.drawn = state.drawn.wrapping_mul(state.multiplier).wrapping_add(state.step);
        usize::try_from(((state.drawn >> 32) * state.flows) >> 32).unwrap()
    }

    #[test]
    fn a_sequence_meets_every_flow_once_a_round() {
        for flows in [1, 2, 1_000, 100_000, 524_288] {
            let traffic = Traffic {
                flows,
                services: 1,
                port: 80,
                order: Order::Sequence { after: 0 },
                mac: [2; 6],
            };
            let mut state = State::new(Target::Empty, traffic);
            for round in 0..2 {
                let mut met = vec![false; flows as usize];
                (0..flows).for_each(|_| met[number(&mut state)] = true);
                assert!(met.iter().all(|met| *met), "{flows} flows, round {round}");
            }
        }
    }

    #[test]
    fn random_flows_are_spread_over_all() {
        let traffic =
            Traffic { flows: PORTS, services: 1, port: 80, order: Order::Random, mac: [2; 6] };
        let mut state = State::new(Target::Empty, traffic);
        let mut met = vec![0_u32; PORTS as usize];
        (0..20 * PORTS).for_each(|_| met[number(&mut state)] += 1);
        assert!(met.iter().all(|times| (1..60).contains(times)), "{met:?}");
    }
}
