//! The kernel tables, word by word. Sizes and offsets here are the contract between the program,
//! the controller and pinned state; [`VERSION`] changes with them.
//!
//! | map | entry | read |
//! |---|---|---|
//! | `SERVICES` | [`ServiceBucket`], 64 bytes | one or two a packet |
//! | `RING` | [`RingLine`], 64 bytes of 16 slots | one a packet |
//! | `BACKENDS` | [`BackendEntry`], 64 bytes | one a packet |
//! | `FLOWS` | [`FlowKey`] to [`FlowRecord`] | none, unless the slot is not settled |
//! | `HALF_OPEN` | [`FlowKey`] to [`FlowRecord`] | none, unless the slot is not settled |
//! | `FRAGMENTS` | [`FragmentKey`] to [`FragmentRecord`] | none, unless the packet is a fragment |
//! | `ROTATIONS` | [`Rotation`], 64 bytes | none, unless a flow opens by `round_robin` |
//! | `LOADS` | [`Load`], 64 bytes | none, unless a flow opens or ends by `least_conn` |
//! | `ANSWER` | [`Answer`] | none: `weir explain` alone |
//! | `FLOW_NEWS` | [`FlowNews`], a ring buffer | none, unless a flow is recorded and peers listen |
//! | `FLOW_NEWS_LOST` | `u64`, a CPU | none, unless that is full |
//! | `BACKEND_COUNTERS` | [`BackendCounters`], a CPU | one a forwarded packet |
//! | `REASON_COUNTERS` | `u64`, a CPU | one a packet not forwarded |
//! | `RECORD_COUNTERS` | [`RecordCounters`], a CPU | one a flow that is recorded or dropped |
//! | `HEARTBEAT` | [`Heartbeat`], 64 bytes | none, unless a peer probes |
//! | `PREDECESSOR` | [`Predecessor`], 64 bytes | none, unless a flow is not known in a slot that is not settled |
//! | `VIRTUAL_MACS` | [`VirtualMacs`], 64 bytes | none, unless a frame is for a virtual router |
//! | `ECHO_COUNTERS` | `u64`, a CPU | one a datagram to the echo's port |
//! | `REJECT_PACE` | `u64`, a CPU: see [`crate::pace`] | none, unless a service without backends rejects, or a packet does not fit its tunnel |

mod decapsulation;
mod flows;
mod fragments;
mod tunnel;

pub use self::{
    decapsulation::{Network, SOURCES_MAX, VIPS_MAX},
    flows::{FlowKey, FlowNews, FlowRecord},
    fragments::{FRAGMENTS_MAX, FragmentKey, FragmentRecord, Part},
    tunnel::{Tunnel, TunnelEntry, TunnelKind},
};
use crate::{
    hash::{SPREAD_SHIFT, mix, spread},
    slot::Slot,
    word::{Word32, Word64},
};

/// The version of everything in this module; pinned tables of another version are not adopted.
pub const VERSION: u32 = 12;

/// Slots in one entry of the ring map: the kernel pads array entries to 8 bytes, so a slot alone
/// would take twice its size.
pub const SLOTS_PER_LINE: u32 = 16;

/// The largest number of backends that a 16-bit slot half can name.
pub const BACKENDS_MAX: u32 = Slot::NONE as u32;

/// The address, port and protocol that a service answers to, as two machine words.
///
/// `head` holds, from the low end: the first four address bytes as they stand in the packet, the
/// protocol number, the family (4 or 6), and the port in network order. That is how address and
/// destination port lie in an IPv4 packet without options, with the source port between them
/// written over. IPv4 services differ in `head` alone, which makes their comparison one
/// instruction; `tail` is the rest of an IPv6 address. A `head` of zero is no service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ServiceKey {
    /// Address start, protocol, family, port.
    pub head: u64,
    /// The last twelve bytes of an IPv6 address; none for IPv4, which a packet's path need not ask.
    pub tail: Option<[u32; 3]>,
}

impl ServiceKey {
    /// The key of an IPv4 service, from fields as they stand in the packet (network order,
    /// loaded as little-endian words).
    #[inline(always)]
    pub const fn ipv4(address: u32, port: u16, protocol: u8) -> Self {
        Self::from_packet(address as u64 | (port as u64) << 48, protocol)
    }

    /// The key of an IPv4 service, from the eight bytes of a packet in which the destination
    /// address, the source port and the destination port follow each other.
    #[inline(always)]
    pub const fn from_packet(destination_and_ports: u64, protocol: u8) -> Self {
        let destination = destination_and_ports & !(0xFFFF << 32);
        Self { head: destination | (protocol as u64) << 32 | 4 << 40, tail: None }
    }

    /// The key of an IPv6 service: its address as bytes, the port in network order as a
    /// little-endian word.
    #[inline(always)]
    pub const fn ipv6(address: [u8; 16], port: u16, protocol: u8) -> Self {
        let bits = u128::from_le_bytes(address);
        let head = bits as u32 as u64 | (protocol as u64) << 32 | 6 << 40 | (port as u64) << 48;
        let tail = [(bits >> 32) as u32, (bits >> 64) as u32, (bits >> 96) as u32];
        Self { head, tail: Some(tail) }
    }

    /// The key with port 0, under which a service for every port is stored.
    #[inline(always)]
    #[must_use]
    pub const fn any_port(self) -> Self {
        Self { head: self.head & !(0xFFFF << 48), tail: self.tail }
    }

    /// The two places where this key may be stored, of which it occupies one.
    #[inline(always)]
    pub const fn places(self) -> Places {
        let tail = match self.tail {
            None => 0,
            // Each part by a multiplication of its own, or addresses that count alike in two places
            // (`2001:db8:0:7::7`) would all share theirs.
            Some([a, b, c]) => {
                spread(a as u64 | (b as u64) << 32).rotate_left(32) ^ spread(c as u64)
            }
        };
        // Multiplication carries upwards: what keys differ in most, the port, must be at the bottom.
        Places(spread((self.head ^ tail).swap_bytes()))
    }
}

/// The two places of a key in the service table: a hash that gives the first at once, and the
/// second, which is rarely asked for, after another round.
#[derive(Debug, Clone, Copy)]
pub struct Places(u64);

impl Places {
    /// The first place, in a table of `mask` + 1 buckets.
    #[inline(always)]
    pub const fn first(self, mask: u32) -> u32 {
        (self.0 >> SPREAD_SHIFT) as u32 & mask
    }

    /// The second place.
    #[inline(always)]
    pub const fn second(self, mask: u32) -> u32 {
        mix(self.0) as u32 & mask
    }

    /// Both.
    pub const fn both(self, mask: u32) -> [u32; 2] {
        [self.first(mask), self.second(mask)]
    }
}

/// A service's part of the ring: first slot (a multiple of [`SLOTS_PER_LINE`]) and length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RingSpan {
    /// Index of the first slot.
    pub base: u32,
    /// Number of slots.
    pub length: u32,
}

impl RingSpan {
    /// The span as the one word that the kernel reads.
    #[inline(always)]
    pub const fn to_word(self) -> u64 {
        self.base as u64 | (self.length as u64) << 32
    }

    /// The span in a word.
    #[inline(always)]
    pub const fn from_word(word: u64) -> Self {
        Self { base: word as u32, length: (word >> 32) as u32 }
    }
}

/// What a service wants of the fast path: its number and its flags in one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ServiceMeta(pub u32);

impl ServiceMeta {
    /// The client's address alone picks the slot (`algorithm = "ip_hash"`).
    pub const HASH_ADDRESS: u32 = 1 << 24;
    /// Without a backend, packets pass to the kernel (`on_empty = "pass"`).
    pub const EMPTY_PASSES: u32 = 1 << 25;
    /// New flows go to the backends in turn (`algorithm = "round_robin"`). A service with this or
    /// the next flag has no settled slot, so the settled path need not ask.
    pub const ROUND_ROBIN: u32 = 1 << 26;
    /// New flows go to the less loaded of two backends (`algorithm = "least_conn"`).
    pub const LEAST_CONN: u32 = 1 << 27;
    /// Beside one of the two above: the protocol has no opening packet (UDP), so a flow that is
    /// not recorded is new, unless its slot is moving.
    pub const UNANNOUNCED: u32 = 1 << 28;
    /// Without a backend, packets are answered: reset or unreachable (`on_empty = "reject"`).
    pub const EMPTY_REJECTS: u32 = 1 << 29;

    /// The service's number, below 2^24.
    #[inline(always)]
    pub const fn index(self) -> u32 {
        self.0 & 0x00FF_FFFF
    }

    /// Whether each flow is given to a backend of its own choice, and recorded.
    #[inline(always)]
    pub const fn is_per_flow(self) -> bool {
        self.has(Self::ROUND_ROBIN | Self::LEAST_CONN)
    }

    /// The same without a flag.
    #[inline(always)]
    #[must_use]
    pub const fn without(self, flag: u32) -> Self {
        Self(self.0 & !flag)
    }

    /// Whether a flag is set, or one of several.
    #[inline(always)]
    pub const fn has(self, flag: u32) -> bool {
        self.0 & flag != 0
    }
}

/// One service in the service table: 32 bytes.
///
/// The controller writes `head` last and clears it first, so that an entry is whole or absent.
#[repr(C)]
#[derive(Debug)]
#[cfg_attr(not(target_arch = "bpf"), derive(Default))]
pub struct ServiceEntry {
    /// [`ServiceKey::head`], or 0 for an empty place.
    pub head: Word64,
    /// A [`RingSpan`].
    pub ring: Word64,
    /// [`ServiceKey::tail`], zeros for none.
    pub tail: [Word32; 3],
    /// A [`ServiceMeta`].
    pub meta: Word32,
}

impl ServiceEntry {
    /// Whether it is the service with this key. IPv4 keys differ in their head alone.
    #[inline(always)]
    pub fn is(&self, key: ServiceKey) -> bool {
        self.head.load() == key.head
            && match key.tail {
                None => true,
                Some([a, b, c]) => {
                    let [x, y, z] = &self.tail;
                    x.load() == a && y.load() == b && z.load() == c
                }
            }
    }
}

/// One line of the service table: two services that share a place.
#[repr(C, align(64))]
#[derive(Debug)]
#[cfg_attr(not(target_arch = "bpf"), derive(Default))]
pub struct ServiceBucket(pub [ServiceEntry; 2]);

/// One line of the ring: sixteen slots.
#[repr(C, align(64))]
#[derive(Debug)]
#[cfg_attr(not(target_arch = "bpf"), derive(Default))]
pub struct RingLine(pub [Word32; SLOTS_PER_LINE as usize]);

/// A backend, ready to copy into the frame: one cache line.
///
/// `link` is written last and cleared first: a zero interface means that there is no way to the
/// backend at the moment. A changed neighbour changes `first` alone, which is one word.
#[repr(C, align(64))]
#[derive(Debug)]
#[cfg_attr(not(target_arch = "bpf"), derive(Default))]
pub struct BackendEntry {
    /// Destination address and the first two bytes of the source address.
    pub first: Word64,
    /// The last four bytes of the source address (low half) and the interface index (high half),
    /// with [`TUNNEL`](Self::TUNNEL) above it.
    pub link: Word64,
    /// A [`Life`]: read only where a slot is not settled.
    pub life: Word32,
    /// Read only where `link` says so.
    pub tunnel: TunnelEntry,
}

/// Whether a backend lives, and which of its lives this is. Records of an earlier life lead
/// nowhere, so a backend's death ends them all in one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Life(pub u32);

impl Life {
    const LIVES: u32 = 1 << 16;
    const TAKES_NEW: u32 = 1 << 17;

    /// A life by its number.
    #[inline(always)]
    pub const fn new(number: u16, lives: bool, takes_new: bool) -> Self {
        let lives = if lives { Self::LIVES } else { 0 };
        let takes_new = if takes_new { Self::TAKES_NEW } else { 0 };
        Self(number as u32 | lives | takes_new)
    }

    /// The life's number; it goes up by one at every death, and round.
    #[inline(always)]
    pub const fn number(self) -> u16 {
        self.0 as u16
    }

    /// Whether flows of the backend are worth keeping.
    #[inline(always)]
    pub const fn lives(self) -> bool {
        self.0 & Self::LIVES != 0
    }

    /// Whether a flow that opens anew may stay with the backend.
    #[inline(always)]
    pub const fn takes_new(self) -> bool {
        self.0 & Self::TAKES_NEW != 0
    }
}

/// How a service that balances by `round_robin` takes turns: one cache line, since every opening
/// flow writes to it.
#[repr(C, align(64))]
#[derive(Debug)]
#[cfg_attr(not(target_arch = "bpf"), derive(Default))]
pub struct Rotation {
    /// The order of turns: a [`RingSpan`] of the ring map, whose slots name the backends. None is
    /// given while its length is 0.
    pub order: Word64,
    /// The position in the order whose turn is next; the program moves it on.
    pub turn: Word32,
    /// Not used.
    pub reserved: [Word32; 13],
}

/// How busy a backend of a service is that balances by `least_conn`: one cache line, as above.
#[repr(C, align(64))]
#[derive(Debug)]
#[cfg_attr(not(target_arch = "bpf"), derive(Default))]
pub struct Load {
    /// Recorded flows that are not closing, counted by the program. Records also go without its
    /// knowledge, so each sweep corrects the number, and it may be below zero for a while.
    pub active: Word64,
    /// What the number is divided by when it is compared.
    pub weight: Word32,
    /// Not used.
    pub reserved: [Word32; 13],
}

impl Load {
    /// The flows that are active, as far as is known.
    #[inline(always)]
    pub fn flows(&self) -> u64 {
        let active = self.active.load();
        // In two's complement: below zero.
        if active >> 63 == 0 { active } else { 0 }
    }
}

/// The virtual routers of one family that an interface is the master of, for frames to their
/// Ethernet addresses. The entry of IPv4 lies at twice the interface's place, that of IPv6 behind it.
#[repr(C, align(64))]
#[derive(Debug)]
#[cfg_attr(not(target_arch = "bpf"), derive(Default))]
pub struct VirtualMacs {
    /// The interface's index: places may get other interfaces.
    pub interface: Word64,
    /// A bit for each virtual router id.
    pub owned: [Word64; 4],
    /// Not used.
    pub reserved: [Word64; 3],
}

impl VirtualMacs {
    /// How many interfaces have a place.
    pub const PLACES: u32 = 64;

    /// Whether the interface is the master of a virtual router.
    #[inline(always)]
    pub fn owns(&self, interface: u32, router_id: u8) -> bool {
        let word = &self.owned[usize::from(router_id >> 6)];
        self.interface.load() == u64::from(interface) && word.load() >> (router_id & 63) & 1 == 1
    }
}

/// When the daemon last gave a sign of life, for the peers' probes (see [`crate::echo`]).
#[repr(C, align(64))]
#[derive(Debug)]
#[cfg_attr(not(target_arch = "bpf"), derive(Default))]
pub struct Heartbeat {
    /// Nanoseconds of the kernel's monotonic clock (`bpf_ktime_get_ns`); 0 for never.
    pub time: Word64,
    /// Not used.
    pub reserved: [Word64; 7],
}

/// The balancer that had the virtual addresses before this one, which may know flows that this one
/// does not: see [`crate::steer::Flows::has_second_chance`].
#[repr(C, align(64))]
#[derive(Debug)]
#[cfg_attr(not(target_arch = "bpf"), derive(Default))]
pub struct Predecessor {
    /// Its IPv4 address on the segment as it stands in a packet; 0 for none.
    pub address: Word64,
    /// Until when packets are handed to it, in nanoseconds of the kernel's monotonic clock
    /// (`bpf_ktime_get_ns`); 0 for not at all. Not far ahead, and moved on by the daemon as long as
    /// that host answers probes: who is gone gets nothing.
    pub until: Word64,
    /// Its Ethernet address as [`crate::flow::mac_word`] makes it, 0 for unknown: written by the
    /// program, which sees the answers to probes.
    pub mac: Word64,
    /// The address of the interface that it is reached by: written by the program, likewise.
    pub own_mac: Word64,
    /// The index of that interface: likewise.
    pub interface: Word64,
    /// Not used.
    pub reserved: [Word64; 3],
}

impl BackendEntry {
    /// In `link`: packets go through the entry's tunnel. In the word that every packet reads, as
    /// its sign, so that one comparison tells a plain Ethernet hop from this and from none at all.
    pub const TUNNEL: u64 = 1 << 63;

    /// The interface in a `link`; 0 while there is no way.
    #[inline(always)]
    pub const fn interface(link: u64) -> u32 {
        ((link & !Self::TUNNEL) >> 32) as u32
    }

    /// The two words of an Ethernet next hop.
    pub const fn words(destination: [u8; 6], source: [u8; 6], interface: u32) -> [u64; 2] {
        let [d0, d1, d2, d3, d4, d5] = destination;
        let [s0, s1, s2, s3, s4, s5] = source;
        let first = u64::from_le_bytes([d0, d1, d2, d3, d4, d5, s0, s1]);
        let second = u32::from_le_bytes([s2, s3, s4, s5]) as u64;
        [first, second | (interface as u64) << 32]
    }
}

/// What `weir explain` is told: see [`crate::steer::Way`].
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Answer {
    /// A [`crate::reason::Reason`]'s number, or [`Answer::FORWARDED`].
    pub reason: u32,
    /// The backend's number.
    pub backend: u32,
    /// The slot within the service's ring.
    pub slot: u32,
    /// A [`crate::steer::Why`]'s number.
    pub why: u32,
    /// The service's number.
    pub service: u32,
    /// The interface through which the packet leaves.
    pub interface: u32,
}

impl Answer {
    /// In place of a reason: the packet is forwarded.
    pub const FORWARDED: u32 = u32::MAX;
}

/// A backend's traffic on one CPU. Each forwarded packet is counted once, under `sent` if it left
/// by the interface it came from and under `redirected` otherwise.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct BackendCounters {
    /// Packets that left by the interface they came from (`XDP_TX`).
    pub sent: u64,
    /// Packets that left by another interface (`XDP_REDIRECT`).
    pub redirected: u64,
    /// Bytes of both, from the Ethernet header on.
    pub bytes: u64,
    /// Packets that open a flow (TCP SYN without ACK).
    pub new_flows: u64,
}

/// What became of the records of one [`Stage`](crate::steer::Stage) on one CPU. What was kept, less
/// what was forgotten, here or by the controller, less what is there, was pushed out.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RecordCounters {
    /// Records made.
    pub kept: u64,
    /// Records dropped by the program.
    pub forgotten: u64,
    /// Records that the table did not take.
    pub refused: u64,
}

const _: () = assert!(size_of::<ServiceEntry>() == 32);
const _: () = assert!(size_of::<ServiceBucket>() == 64);
const _: () = assert!(size_of::<RingLine>() == 64);
const _: () = assert!(size_of::<BackendEntry>() == 64);
const _: () = assert!(size_of::<Rotation>() == 64);
const _: () = assert!(size_of::<Load>() == 64);
const _: () = assert!(size_of::<Heartbeat>() == 64);
const _: () = assert!(size_of::<Predecessor>() == 64);
const _: () = assert!(size_of::<BackendCounters>() == 32);
const _: () = assert!(size_of::<RecordCounters>() == 24);
