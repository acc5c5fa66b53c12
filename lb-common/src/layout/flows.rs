//! A recorded flow: how it is found, what is remembered of it, and what peers are told.

use super::Life;
use crate::word::Word32;

/// Which flow a record is of: 24 bytes without padding, since the kernel hashes them all.
///
/// Three whole words, because a key is built on the program's stack, where the verifier allows
/// aligned stores alone, and the compiler joins smaller neighbouring ones as it likes.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FlowKey {
    /// The source address; IPv4 fills the lower half of the first word.
    pub source: [u64; 2],
    /// Source port and destination port, as they stand in the packet (low half), and the
    /// service's number, which stands for its address and protocol (high half).
    pub ports_and_service: u64,
}

impl FlowKey {
    /// The key of a flow with a service.
    #[inline(always)]
    pub const fn new(source: [u32; 4], ports: u32, service: u32) -> Self {
        Self {
            source: [
                source[0] as u64 | (source[1] as u64) << 32,
                source[2] as u64 | (source[3] as u64) << 32,
            ],
            ports_and_service: ports as u64 | (service as u64) << 32,
        }
    }

    /// The service's number.
    #[inline(always)]
    pub const fn service(self) -> u32 {
        (self.ports_and_service >> 32) as u32
    }

    /// The key from its parts, the source as it lies in a key.
    #[cfg(not(target_arch = "bpf"))]
    pub const fn from_parts(source: [u64; 2], ports: u32, service: u32) -> Self {
        Self { source, ports_and_service: ports as u64 | (service as u64) << 32 }
    }

    /// Both ports, as they stand in the packet.
    #[cfg(not(target_arch = "bpf"))]
    pub const fn ports(self) -> u32 {
        self.ports_and_service as u32
    }

    /// The key as 32-bit words, as it lies in the table.
    #[cfg(not(target_arch = "bpf"))]
    pub fn words(self) -> [u32; 6] {
        let halves = |word: u64| [word as u32, (word >> 32) as u32];
        let [a, b] = self.source.map(halves);
        let c = halves(self.ports_and_service);
        [a[0], a[1], b[0], b[1], c[0], c[1]]
    }
}

/// Where a flow belongs, whatever its slot says.
#[repr(C, align(8))]
#[derive(Debug)]
#[cfg_attr(not(target_arch = "bpf"), derive(Default))]
pub struct FlowRecord {
    /// The backend's number (low half) and the number of its life (high half).
    pub backend: Word32,
    /// When its last packet came, in seconds of the kernel's monotonic clock.
    pub seen: Word32,
    /// The slot, by index in the ring map.
    pub slot: Word32,
    /// Whether a FIN or RST was seen (the lowest bit), and the [beat](crate::steer::Flows::beat) in
    /// which `seen` was last written (the others).
    pub marks: Word32,
}

impl FlowRecord {
    /// In place of a beat, that a peer told of the flow. A packet in that very beat, once in years,
    /// is told of with the flow's next one.
    pub const TOLD: u32 = 0;

    /// The record as it is now, apart from its table.
    #[inline(always)]
    #[must_use]
    pub fn copied(&self) -> Self {
        Self {
            backend: Word32::new(self.backend.load()),
            seen: Word32::new(self.seen.load()),
            slot: Word32::new(self.slot.load()),
            marks: Word32::new(self.marks.load()),
        }
    }

    /// The [`backend`](Self::backend) word.
    #[inline(always)]
    pub const fn backend_word(number: u16, life: Life) -> u32 {
        number as u32 | (life.number() as u32) << 16
    }

    /// The [`marks`](Self::marks) word.
    #[inline(always)]
    pub const fn marks_word(closing: bool, beat: u32) -> u32 {
        closing as u32 | beat << 1
    }

    /// Whether a FIN or RST was seen.
    #[inline(always)]
    pub fn is_closing(&self) -> bool {
        self.marks.load() & 1 != 0
    }

    /// Whether it is as a peer told of it: no packet of the flow has come this way since.
    #[cfg(not(target_arch = "bpf"))]
    pub fn is_told(&self) -> bool {
        self.marks.load() >> 1 == Self::TOLD
    }

    /// The number of its backend.
    #[inline(always)]
    pub fn number(&self) -> u16 {
        self.backend.load() as u16
    }

    /// The number of the backend's life in which it was made.
    #[inline(always)]
    pub fn life(&self) -> u16 {
        (self.backend.load() >> 16) as u16
    }
}

/// What the program tells of a record that it has just made or dropped, for peers: whole words,
/// since it is built where the verifier allows aligned stores alone.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FlowNews {
    /// Which flow.
    pub key: FlowKey,
    /// [`FlowRecord::backend`] (low half) and [`FlowRecord::seen`] (high half).
    pub backend_and_seen: u64,
    /// [`FlowRecord::slot`] (low half) and one of the kinds below (high half).
    pub slot_and_kind: u64,
}

impl FlowNews {
    /// Its opening packet was seen.
    pub const OPENING: u32 = 0;
    /// A later packet was seen.
    pub const OPEN: u32 = 1;
    /// A FIN or RST was seen.
    pub const CLOSING: u32 = 2;
    /// Its record was dropped.
    pub const FORGOTTEN: u32 = 3;

    /// News of one of these kinds.
    #[inline(always)]
    pub const fn new(key: FlowKey, backend: u32, seen: u32, slot: u32, kind: u32) -> Self {
        Self {
            key,
            backend_and_seen: backend as u64 | (seen as u64) << 32,
            slot_and_kind: slot as u64 | (kind as u64) << 32,
        }
    }

    /// The backend's number and life.
    pub const fn backend(&self) -> u32 {
        self.backend_and_seen as u32
    }

    /// When the packet came.
    pub const fn seen(&self) -> u32 {
        (self.backend_and_seen >> 32) as u32
    }

    /// The slot, by index in the ring map.
    pub const fn slot(&self) -> u32 {
        self.slot_and_kind as u32
    }

    /// One of the kinds above.
    pub const fn kind(&self) -> u32 {
        (self.slot_and_kind >> 32) as u32
    }
}

const _: () = assert!(size_of::<FlowKey>() == 24);
const _: () = assert!(size_of::<FlowRecord>() == 16);
const _: () = assert!(size_of::<FlowNews>() == 40);
