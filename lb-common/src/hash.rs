//! The two hashes of the packet's path: a flow's slot, and a service's places in its table.
//!
//! Both are a few multiplications and shifts, without a loop or a helper call. Multiplication by
//! an odd constant and a shift-xor mix bits upwards and down again, as in the finalizers of
//! `MurmurHash3` and `SplitMix64`.

/// The secret half of the flow hash, drawn once a node (or shared by a pair), so that outsiders
/// cannot choose ports that all lead to one backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seed(pub [u64; 2]);

const M1: u64 = 0x9E37_79B9_7F4A_7C15;
const M2: u64 = 0xBF58_476D_1CE4_E5B9;
const M3: u64 = 0x94D0_49BB_1331_11EB;

/// Hashes two words with a seed; every bit of the input reaches every bit of the 32-bit result.
#[inline(always)]
pub fn hash(seed: Seed, a: u64, b: u64) -> u32 {
    let mut h = (a ^ seed.0[0]).wrapping_mul(M1);
    h ^= h >> 32;
    // One round of its own for `b`, whose upper bits would else have one multiplication less to
    // spread by. IPv4 flows have no `b`, and the compiler leaves it out.
    let b = b.wrapping_mul(M1).rotate_left(32);
    h = (h ^ b ^ seed.0[1]).wrapping_mul(M2);
    h ^= h >> 32;
    h = h.wrapping_mul(M3);
    (h >> 32) as u32
}

/// Folds the last word of an IPv6 address into the two before it, for [`hash`]. Within one network
/// no two hosts' words become the same; elsewhere it takes the seed to find such. IPv4's zeros stay
/// zero.
#[inline(always)]
pub fn fold(seed: Seed, words: u64, last: u32) -> u64 {
    words ^ u64::from(last).wrapping_mul(seed.0[1] | 1)
}

/// Scales a hash to `0..length` without a division.
#[inline(always)]
pub fn scale(hash: u32, length: u32) -> u32 {
    ((u64::from(hash) * u64::from(length)) >> 32) as u32
}

/// The first round of [`mix`] alone: one multiplication carries every bit upwards, so that the bits
/// from [`SPREAD_SHIFT`] on depend on all of the word's lower ones.
#[inline(always)]
pub const fn spread(word: u64) -> u64 {
    word.wrapping_mul(M1)
}

/// Where the bits of [`spread`] that are worth using begin: high enough for a service's port and
/// address to reach them, and twenty of them.
pub const SPREAD_SHIFT: u32 = 44;

/// A 64-bit mix of one word, a bijection: for table places and identities, not for secrets.
#[inline(always)]
pub const fn mix(word: u64) -> u64 {
    let mut h = word.wrapping_mul(M1);
    h ^= h >> 32;
    h = h.wrapping_mul(M2);
    h ^ (h >> 29)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEED: Seed = Seed([0x0123_4567_89AB_CDEF, 0xFEDC_BA98_7654_3210]);

    /// One flipped input bit flips each output bit about half the time.
    #[test]
    fn every_input_bit_reaches_the_slot() {
        const SAMPLES: u64 = 4_000;
        for bit in 0..128u32 {
            let mut flips = [0u32; 32];
            for sample in 0..SAMPLES {
                let (a, b) = (mix(sample), mix(sample ^ 0xABCD));
                let (a2, b2) =
                    if bit < 64 { (a ^ (1 << bit), b) } else { (a, b ^ (1 << (bit - 64))) };
                let difference = hash(SEED, a, b) ^ hash(SEED, a2, b2);
                for (out, count) in flips.iter_mut().enumerate() {
                    *count += (difference >> out) & 1;
                }
            }
            for (out, count) in flips.iter().enumerate() {
                let share = f64::from(*count) / SAMPLES as f64;
                assert!((0.4..0.6).contains(&share), "input bit {bit}, output bit {out}: {share}");
            }
        }
    }

    /// Clients count their ports up one by one; their flows must spread like random ones.
    #[test]
    fn consecutive_ports_spread_over_the_ring() {
        const BINS: u32 = 64;
        let mut bins = [0u32; BINS as usize];
        for port in 0..64_000u64 {
            bins[scale(hash(SEED, (port << 16) | 0x50, 0x0A00_0001), BINS) as usize] += 1;
        }
        let expected = 1_000.0;
        let chi: f64 = bins.iter().map(|n| (f64::from(*n) - expected).powi(2) / expected).sum();
        // 63 degrees of freedom: above 110 has a chance of about two in ten thousand.
        assert!(chi < 110.0, "chi square {chi}");
    }

    #[test]
    fn scale_stays_below_the_length() {
        assert_eq!(scale(u32::MAX, 65_537), 65_536);
        assert_eq!(scale(0, 65_537), 0);
        assert_eq!(scale(u32::MAX, 1), 0);
    }
}
