//! The ring of a service: Maglev hashing, weighted.
//!
//! Each backend has its own permutation of the slots, drawn from its identity, and takes the next
//! free slot of it when its turn comes, until no slot is free (Eisenbud et al., "Maglev", NSDI
//! 2016, section 3.4). Turns come in proportion to weight. The result depends on the set of
//! backends alone, not on their order or history, so every balancer builds the same ring.

use std::net::IpAddr;

use lb_common::{hash::mix, slot::Slot};

/// A backend as the ring sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Candidate {
    /// Who it is, the same on every balancer: see [`identity`].
    pub identity: u64,
    /// Its share of the slots, relative to the others'; one with 0 gets none.
    pub weight: u16,
    /// Its number in the kernel's tables, which differs between balancers.
    pub number: u16,
}

/// A backend's identity: its address. A renamed backend keeps its slots.
pub fn identity(address: IpAddr) -> u64 {
    match address {
        IpAddr::V4(v4) => mix(u64::from(v4.to_bits())),
        IpAddr::V6(v6) => v6.segments().iter().fold(0, |h, part| mix(h ^ u64::from(*part))),
    }
}

/// Fills a ring of `length` slots (a prime) with the numbers of their owners; all
/// [`Slot::NONE`] if no candidate has a weight.
pub fn build(candidates: &[Candidate], length: u32) -> Vec<u16> {
    let mut owners = vec![Slot::NONE; length as usize];
    let Some(heaviest) = candidates.iter().map(|c| c.weight).max().filter(|w| *w > 0) else {
        return owners;
    };
    let mut turns: Vec<Turn> = candidates
        .iter()
        .filter(|candidate| candidate.weight > 0)
        .map(|candidate| Turn::new(*candidate, length))
        .collect();
    turns.sort_unstable_by_key(|turn| turn.identity);
    let mut taken = Taken::new(length);
    loop {
        for turn in &mut turns {
            // The heaviest takes one slot a round, the others one whenever they have saved a
            // whole one up.
            turn.credit += u32::from(turn.weight);
            if turn.credit < u32::from(heaviest) {
                continue;
            }
            turn.credit -= u32::from(heaviest);
            owners[turn.take(&mut taken) as usize] = turn.number;
            if taken.free == 0 {
                return owners;
            }
        }
    }
}

/// A backend's walk through its own permutation of the slots.
struct Turn {
    identity: u64,
    number: u16,
    weight: u16,
    credit: u32,
    position: u32,
    skip: u32,
    length: u32,
}

/// One bit a slot: the walk's random reads stay within the first-level cache.
struct Taken {
    bits: Vec<u64>,
    free: u32,
}

// === impl Turn ===

impl Turn {
    fn new(candidate: Candidate, length: u32) -> Self {
        let scaled = |salt: u64, range: u32| {
            u32::try_from(mix(candidate.identity ^ salt) % u64::from(range))
                .expect("a remainder is below its 32-bit divisor")
        };
        Self {
            identity: candidate.identity,
            number: candidate.number,
            weight: candidate.weight,
            credit: 0,
            position: scaled(0x6F66_6673_6574, length),
            skip: scaled(0x736B_6970, length - 1) + 1,
            length,
        }
    }

    /// Takes the next free slot. Ends, because `length` is prime: the walk visits every slot.
    fn take(&mut self, taken: &mut Taken) -> u32 {
        loop {
            let slot = self.position;
            self.position += self.skip;
            if self.position >= self.length {
                self.position -= self.length;
            }
            if taken.take(slot) {
                return slot;
            }
        }
    }
}

// === impl Taken ===

impl Taken {
    fn new(length: u32) -> Self {
        Self { bits: vec![0; (length as usize).div_ceil(64)], free: length }
    }

    /// Takes a slot; false if it was taken.
    fn take(&mut self, slot: u32) -> bool {
        let word = &mut self.bits[slot as usize / 64];
        let bit = 1 << (slot % 64);
        if *word & bit != 0 {
            return false;
        }
        *word |= bit;
        self.free -= 1;
        true
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    const LENGTH: u32 = 65_537;

    fn candidates(count: u16) -> Vec<Candidate> {
        (0..count)
            .map(|i| Candidate {
                identity: identity(IpAddr::V4(Ipv4Addr::from_bits(0x0A00_0001 + u32::from(i)))),
                weight: 1,
                number: i,
            })
            .collect()
    }

    fn shares(ring: &[u16], count: usize) -> Vec<u32> {
        let mut shares = vec![0; count];
        for owner in ring {
            shares[usize::from(*owner)] += 1;
        }
        shares
    }

    #[test]
    fn equal_backends_share_within_two_percent() {
        for count in [1, 2, 3, 10, 50, 100, 250, 500] {
            let shares = shares(&build(&candidates(count), LENGTH), usize::from(count));
            let (least, most) = (*shares.iter().min().unwrap(), *shares.iter().max().unwrap());
            assert!(
                f64::from(most) / f64::from(least) < 1.02,
                "{count} backends: {least} to {most} slots"
            );
        }
    }

    #[test]
    fn weights_are_kept_within_two_percent_of_their_ratio() {
        for weights in [vec![1, 2, 4], vec![256, 1, 128, 7], vec![3; 40], vec![100, 99, 98, 1]] {
            let mut set = candidates(u16::try_from(weights.len()).unwrap());
            for (candidate, weight) in set.iter_mut().zip(&weights) {
                candidate.weight = *weight;
            }
            let shares = shares(&build(&set, LENGTH), weights.len());
            let sum: f64 = weights.iter().map(|w| f64::from(*w)).sum();
            for (share, weight) in shares.iter().zip(&weights) {
                let expected = f64::from(LENGTH) * f64::from(*weight) / sum;
                let error = (f64::from(*share) - expected).abs() / expected;
                assert!(error < 0.02, "weights {weights:?}: {share} slots for weight {weight}");
            }
        }
    }

    #[test]
    fn a_removal_moves_few_slots_of_the_others() {
        for count in [3, 10, 50, 100, 500] {
            let all = candidates(count);
            let before = build(&all, LENGTH);
            for removed in [0, count / 2, count - 1] {
                let rest: Vec<_> = all.iter().copied().filter(|c| c.number != removed).collect();
                let after = build(&rest, LENGTH);
                let kept = before.iter().filter(|owner| **owner != removed).count();
                let moved = before
                    .iter()
                    .zip(&after)
                    .filter(|(old, new)| **old != removed && old != new)
                    .count();
                let share = moved as f64 / kept as f64;
                assert!(share < 0.015, "{count} backends without {removed}: {share} moved");
            }
        }
    }

    #[test]
    fn the_ring_depends_on_the_set_and_not_on_its_order() {
        let mut set = candidates(20);
        let ring = build(&set, 1_009);
        set.reverse();
        assert_eq!(build(&set, 1_009), ring);
    }

    #[test]
    fn without_weight_no_slot_has_an_owner() {
        let mut set = candidates(2);
        for candidate in &mut set {
            candidate.weight = 0;
        }
        assert!(build(&set, 1_009).iter().all(|owner| *owner == Slot::NONE));
        assert!(build(&[], 1_009).iter().all(|owner| *owner == Slot::NONE));
    }
}
