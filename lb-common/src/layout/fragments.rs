//! What is remembered of a datagram whose first fragment has come, so that the others follow it.

use crate::word::Word32;

/// How many datagrams are remembered at once. Each is forgotten when it is whole, so these are those of
/// which fragments are on their way, or lost.
pub const FRAGMENTS_MAX: u32 = 16_384;

/// Which datagram a fragment is of: 40 bytes without padding, since the kernel hashes them all. Whole
/// words, as in [`FlowKey`](super::FlowKey).
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FragmentKey {
    /// The source address; IPv4 fills the lower half of the first word.
    pub source: [u64; 2],
    /// The destination address, likewise.
    pub destination: [u64; 2],
    /// The identification as it stands in the packet (low half), the protocol, and the version of IP.
    pub identification: u64,
}

impl FragmentKey {
    /// A datagram of IPv4: the protocol tells two with the same identification apart (RFC 791 section
    /// 3.2).
    #[inline(always)]
    pub const fn ipv4(source: u32, destination: u32, identification: u16, protocol: u8) -> Self {
        Self {
            source: [source as u64, 0],
            destination: [destination as u64, 0],
            identification: identification as u64 | (protocol as u64) << 32 | 4 << 40,
        }
    }

    /// One of IPv6: addresses and identification alone, since fragments after the first may name
    /// another protocol (RFC 8200 section 4.5).
    #[inline(always)]
    pub const fn ipv6(source: [u8; 16], destination: [u8; 16], identification: u32) -> Self {
        let (source, destination) = (u128::from_le_bytes(source), u128::from_le_bytes(destination));
        Self {
            source: [source as u64, (source >> 64) as u64],
            destination: [destination as u64, (destination >> 64) as u64],
            identification: identification as u64 | 6 << 40,
        }
    }
}

/// What is remembered of a datagram. Its parts are counted in units of eight bytes, as fragments' offsets
/// are, and the last part's end is rounded up.
///
/// Two processors that read fragments of one datagram at once may lose a part; then an overlap with it
/// is not seen, and the record stays for its time.
///
/// What is zero in a new record lies in whole words of eight bytes: see [`FlowKey`](super::FlowKey).
#[repr(C, align(8))]
#[derive(Debug)]
#[cfg_attr(not(target_arch = "bpf"), derive(Default))]
pub struct FragmentRecord {
    /// Source port (low half) and destination port (high half), as they stand in the packet.
    pub ports: Word32,
    /// When the first fragment came, in seconds of the kernel's monotonic clock.
    pub made: Word32,
    /// The transport protocol.
    pub protocol: Word32,
    /// Up to four parts that have come, no two of which touch: the beginning (low half) and the end
    /// (high half) of each, 0 for none.
    pub seen: [Word32; 4],
    /// Where the datagram ends, once the last fragment has come; 0 before.
    pub end: Word32,
}

/// What a part is to those that came before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// It is one more.
    New,
    /// With it, the datagram is whole.
    Completes,
    /// Some of it has come before, or something lies beyond the datagram's end.
    Overlaps,
}

impl FragmentRecord {
    /// A record of a first fragment that ends at `end`.
    #[inline(always)]
    pub const fn new(ports: u32, protocol: u8, made: u32, end: u32) -> Self {
        Self {
            ports: Word32::new(ports),
            made: Word32::new(made),
            protocol: Word32::new(protocol as u32),
            seen: [Word32::new(end << 16), Word32::new(0), Word32::new(0), Word32::new(0)],
            end: Word32::new(0),
        }
    }

    /// The record as it is now, apart from its table.
    #[cfg(not(target_arch = "bpf"))]
    #[must_use]
    pub fn copied(&self) -> Self {
        Self {
            ports: Word32::new(self.ports.load()),
            made: Word32::new(self.made.load()),
            protocol: Word32::new(self.protocol.load()),
            seen: self.seen.each_ref().map(|word| Word32::new(word.load())),
            end: Word32::new(self.end.load()),
        }
    }

    /// Adds the part from `from` to `to`, of which there is something. A fifth part that touches no
    /// other is not remembered.
    #[inline(always)]
    pub fn add(&self, from: u32, to: u32, is_last: bool) -> Part {
        let whole = self.end.load();
        if whole != 0 && (is_last || to > whole) {
            return Part::Overlaps;
        }
        for word in &self.seen {
            let (begins, ends) = bounds(word.load());
            if (from < ends && begins < to) || (is_last && ends > to) {
                return Part::Overlaps;
            }
        }
        let whole = if is_last { to } else { whole };
        if is_last {
            self.end.store(to);
        }
        let (mut from, mut to) = (from, to);
        for word in &self.seen {
            let (begins, ends) = bounds(word.load());
            let touches_before = ends == from && ends != 0;
            let touches_behind = begins == to;
            if touches_before {
                from = begins;
            }
            if touches_behind {
                to = ends;
            }
            if touches_before || touches_behind {
                word.store(0);
            }
        }
        for word in &self.seen {
            if word.load() == 0 {
                word.store(from | to << 16);
                break;
            }
        }
        if from == 0 && to == whole { Part::Completes } else { Part::New }
    }
}

/// Where a part begins and ends.
#[inline(always)]
const fn bounds(word: u32) -> (u32, u32) {
    (word & 0xFFFF, word >> 16)
}

const _: () = assert!(size_of::<FragmentKey>() == 40);
const _: () = assert!(size_of::<FragmentRecord>() == 32);

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    /// Bits of the units that have come.
    struct Model {
        seen: u64,
        end: Option<u32>,
    }

    fn bits(from: u32, to: u32) -> u64 {
        (from..to).map(|unit| 1 << unit).sum()
    }

    /// How many parts there are that do not touch.
    fn parts(seen: u64) -> u32 {
        (seen & !(seen << 1)).count_ones()
    }

    proptest! {
        /// As long as the parts can be remembered, each overlap is found, and the end is.
        #[test]
        fn parts_are_what_a_map_of_bits_says(
            first in 1..20u32,
            pieces in vec((0..60u32, 1..12u32, prop::bool::weighted(0.1)), 0..30),
        ) {
            let record = FragmentRecord::new(7, 17, 1, first);
            let mut model = Model { seen: bits(0, first), end: None };
            for (from, length, is_last) in pieces {
                let to = (from + length).min(60);
                let part = record.add(from, to, is_last);
                let beyond = model.end.is_some_and(|end| is_last || to > end)
                    || (is_last && model.seen >> to != 0);
                if beyond || model.seen & bits(from, to) != 0 {
                    prop_assert_eq!(part, Part::Overlaps);
                    continue;
                }
                model.seen |= bits(from, to);
                model.end = model.end.or(is_last.then_some(to));
                let whole = model.end.is_some_and(|end| model.seen == bits(0, end));
                prop_assert_eq!(part, if whole { Part::Completes } else { Part::New });
                if parts(model.seen) > 4 || whole {
                    break;
                }
            }
        }

        /// However many parts there are: what has not come before is no overlap.
        #[test]
        fn nothing_new_is_taken_for_an_overlap(
            pieces in Just((1..64u32).collect::<Vec<_>>()).prop_shuffle(),
        ) {
            let record = FragmentRecord::new(7, 17, 1, 1);
            for unit in pieces {
                prop_assert_ne!(record.add(unit, unit + 1, false), Part::Overlaps);
            }
        }
    }

    #[test]
    fn the_longest_datagram_is_whole() {
        let record = FragmentRecord::new(7, 17, 1, 1);
        assert_eq!(record.add(8191, 8192, true), Part::New);
        assert_eq!(record.add(2, 8191, false), Part::New);
        assert_eq!(record.add(1, 2, false), Part::Completes);
    }
}
