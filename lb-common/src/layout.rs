//! The kernel tables, word by word. Sizes and offsets here are the contract between the program,
//! the controller and pinned state; [`VERSION`] changes with them.
//!
//! | map | entry | read |
//! |---|---|---|
//! | `SERVICES` | [`ServiceBucket`], 64 bytes | one or two a packet |
//! | `RING` | [`RingLine`], 64 bytes of 16 slots | one a packet |
//! | `BACKENDS` | [`BackendEntry`], 64 bytes | one a packet |
//! | `BACKEND_COUNTERS` | [`BackendCounters`], a CPU | one a forwarded packet |
//! | `REASON_COUNTERS` | `u64`, a CPU | one a packet not forwarded |

use crate::{
    hash::mix,
    word::{Word32, Word64},
};

/// The version of everything in this module; pinned tables of another version are not adopted.
pub const VERSION: u32 = 1;

/// Slots in one entry of the ring map: the kernel pads array entries to 8 bytes, so a slot alone
/// would take twice its size.
pub const SLOTS_PER_LINE: u32 = 16;

/// The largest number of backends that a 16-bit slot half can name.
pub const BACKENDS_MAX: u32 = Slot::NONE as u32;

/// The address, port and protocol that a service answers to, as two machine words.
///
/// `head` holds, from the low end: the first four address bytes as they stand in the packet, the
/// port in network order, the protocol number, and the family (4 or 6). IPv4 services differ in
/// `head` alone, which makes their comparison one instruction; `tail` is the rest of an IPv6
/// address. A `head` of zero is no service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ServiceKey {
    /// Address start, port, protocol, family.
    pub head: u64,
    /// The last twelve bytes of an IPv6 address, zero for IPv4.
    pub tail: [u32; 3],
}

impl ServiceKey {
    /// The key of an IPv4 service, from fields as they stand in the packet (network order,
    /// loaded as little-endian words).
    #[inline(always)]
    pub const fn ipv4(address: u32, port: u16, protocol: u8) -> Self {
        let head = address as u64 | (port as u64) << 32 | (protocol as u64) << 48 | 4 << 56;
        Self { head, tail: [0; 3] }
    }

    /// The key of an IPv6 service: its address as bytes, the port in network order as a
    /// little-endian word.
    #[inline(always)]
    pub const fn ipv6(address: [u8; 16], port: u16, protocol: u8) -> Self {
        let bits = u128::from_le_bytes(address);
        let head = bits as u32 as u64 | (port as u64) << 32 | (protocol as u64) << 48 | 6 << 56;
        let tail = [(bits >> 32) as u32, (bits >> 64) as u32, (bits >> 96) as u32];
        Self { head, tail }
    }

    /// The key with port 0, under which a service for every port is stored.
    #[inline(always)]
    #[must_use]
    pub const fn any_port(self) -> Self {
        Self { head: self.head & !(0xFFFF << 32), tail: self.tail }
    }

    /// The two places where this key may be stored, of which it occupies one.
    #[inline(always)]
    pub const fn places(self, mask: u32) -> [u32; 2] {
        let tail = (self.tail[0] as u64 | (self.tail[1] as u64) << 32) ^ self.tail[2] as u64;
        let h = mix(self.head ^ tail);
        [h as u32 & mask, (h >> 32) as u32 & mask]
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

    /// The service's number, below 2^24.
    #[inline(always)]
    pub const fn index(self) -> u32 {
        self.0 & 0x00FF_FFFF
    }

    /// Whether a flag is set.
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
    /// [`ServiceKey::tail`].
    pub tail: [Word32; 3],
    /// A [`ServiceMeta`].
    pub meta: Word32,
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

/// A ring slot: who gets new flows, and what there is to remember of who had them before.
///
/// The low half is the owner's backend number, or [`Slot::NONE`]; the high half the prior.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slot(pub u32);

impl Slot {
    /// The owner of a slot of a service without backends.
    pub const NONE: u16 = 0xFFFD;
    /// Prior: the move is over, some old flows live on and are recorded.
    pub const EXCEPTIONS: u16 = 0xFFFE;
    /// Prior: nothing to remember.
    pub const SETTLED: u16 = 0xFFFF;

    /// A settled slot.
    #[inline(always)]
    pub const fn settled(owner: u16) -> Self {
        Self(owner as u32 | (Self::SETTLED as u32) << 16)
    }

    /// The backend that new flows get.
    #[inline(always)]
    pub const fn owner(self) -> u16 {
        self.0 as u16
    }

    /// A backend, [`Slot::EXCEPTIONS`] or [`Slot::SETTLED`].
    #[inline(always)]
    pub const fn prior(self) -> u16 {
        (self.0 >> 16) as u16
    }
}

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
    /// The last four bytes of the source address (low half) and the interface index (high half).
    pub link: Word64,
    /// For tunnels and NAT.
    pub reserved: [Word64; 6],
}

impl BackendEntry {
    /// The two words of an Ethernet next hop.
    pub const fn words(destination: [u8; 6], source: [u8; 6], interface: u32) -> [u64; 2] {
        let [d0, d1, d2, d3, d4, d5] = destination;
        let [s0, s1, s2, s3, s4, s5] = source;
        let first = u64::from_le_bytes([d0, d1, d2, d3, d4, d5, s0, s1]);
        let second = u32::from_le_bytes([s2, s3, s4, s5]) as u64;
        [first, second | (interface as u64) << 32]
    }
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

const _: () = assert!(size_of::<ServiceEntry>() == 32);
const _: () = assert!(size_of::<ServiceBucket>() == 64);
const _: () = assert!(size_of::<RingLine>() == 64);
const _: () = assert!(size_of::<BackendEntry>() == 64);
const _: () = assert!(size_of::<BackendCounters>() == 32);
const _: () = assert!(Slot::NONE < Slot::EXCEPTIONS);
