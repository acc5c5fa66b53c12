//! Where each service sits in the service table: two-choice (cuckoo) hashing with two entries a
//! bucket.
//!
//! The table has four times as many entries as there may be services; with the marks of their addresses
//! (`marks.rs`) it is three quarters full at most. A key that finds neither of its buckets free needs a
//! chain of moves, which is short in tables that are not nearly full; one that cannot be found is
//! reported, and happens in tables of a few services alone.

use std::collections::{HashMap, HashSet, VecDeque};

use lb_common::{
    layout::{RingSpan, ServiceKey, ServiceMeta},
    steer::Tables,
};

/// An entry of the service table: a bucket and one of its two halves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Place {
    /// The bucket.
    pub bucket: u32,
    /// 0 or 1.
    pub half: u8,
}

/// How a new key gets its place: some others move first, each to a place that is free by then.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placement {
    /// The moves, in the order in which they must be made.
    pub moves: Vec<(ServiceKey, Place, Place)>,
    /// Where the key goes.
    pub place: Place,
    /// Whether that place held another key since the last grace period.
    pub vacated: bool,
}

/// Which key sits where.
#[derive(Debug, Clone)]
pub struct Places {
    mask: u32,
    keys: HashMap<Place, ServiceKey>,
    homes: HashMap<ServiceKey, Place>,
    vacated: HashSet<Place>,
}

/// The number of buckets for so many services: a power of two, at most a quarter of the entries
/// in use by them.
pub const fn buckets_for(services: u32) -> u32 {
    let buckets = (services * 2).next_power_of_two();
    if buckets < 2 { 2 } else { buckets }
}

impl Places {
    /// An empty table of `buckets` buckets, a power of two.
    pub fn new(buckets: u32) -> Self {
        Self {
            mask: buckets - 1,
            keys: HashMap::new(),
            homes: HashMap::new(),
            vacated: HashSet::new(),
        }
    }

    /// Records what a table adopted from an earlier run holds.
    pub fn adopt(&mut self, key: ServiceKey, place: Place) {
        self.keys.insert(place, key);
        self.homes.insert(key, place);
    }

    /// Where a key sits.
    pub fn place(&self, key: ServiceKey) -> Option<Place> {
        self.homes.get(&key).copied()
    }

    /// Finds room for a key and takes it; `None` if there is none within reach.
    pub fn insert(&mut self, key: ServiceKey) -> Option<Placement> {
        let chain = self.chain_to_free(key)?;
        // The chain runs from the key's own bucket to the free place; moves are made from its end.
        let mut moves = Vec::with_capacity(chain.len() - 1);
        for pair in chain.windows(2).rev() {
            let [from, to] = [pair[0], pair[1]];
            let moved = self.keys.remove(&from)?;
            self.adopt(moved, to);
            moves.push((moved, from, to));
            self.vacated.insert(from);
        }
        let place = *chain.first()?;
        self.adopt(key, place);
        Some(Placement { vacated: self.vacated.contains(&place), moves, place })
    }

    /// Gives a key's place back.
    pub fn remove(&mut self, key: ServiceKey) -> Option<Place> {
        let place = self.homes.remove(&key)?;
        self.keys.remove(&place);
        self.vacated.insert(place);
        Some(place)
    }

    /// A grace period has passed: no packet holds what places held before.
    pub fn release(&mut self) {
        self.vacated.clear();
    }

    /// Finds a key with this ring in the tables of an earlier run.
    pub fn find(
        &self,
        key: ServiceKey,
        ring: RingSpan,
        tables: &dyn Tables,
    ) -> Option<(Place, ServiceMeta)> {
        self.choices(key).into_iter().find_map(|place| {
            let entry = &tables.bucket(place.bucket)?.0[usize::from(place.half)];
            let same = entry.is(key) && entry.ring.load() == ring.to_word();
            same.then(|| (place, ServiceMeta(entry.meta.load())))
        })
    }

    /// The shortest chain of places, each one's key able to move to the next, the last one free.
    fn chain_to_free(&self, key: ServiceKey) -> Option<Vec<Place>> {
        let mut queue: VecDeque<Vec<Place>> =
            self.choices(key).into_iter().map(|place| vec![place]).collect();
        let mut seen: HashSet<Place> = self.choices(key).into_iter().collect();
        while let Some(chain) = queue.pop_front() {
            let last = *chain.last()?;
            let Some(occupant) = self.keys.get(&last) else {
                return Some(chain);
            };
            for next in self.choices(*occupant) {
                if next.bucket != last.bucket && seen.insert(next) {
                    queue.push_back(chain.iter().copied().chain([next]).collect());
                }
            }
        }
        None
    }

    fn choices(&self, key: ServiceKey) -> [Place; 4] {
        let [a, b] = key.places().both(self.mask);
        [(a, 0), (a, 1), (b, 0), (b, 1)].map(|(bucket, half)| Place { bucket, half })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(n: u32) -> ServiceKey {
        ServiceKey::ipv4(0x0A00_0000 + n / 50, (n % 50) as u16, 6)
    }

    /// Addresses that count in three places at once, as in `2001:db8:7::7:0:7`, fifty ports each.
    fn key6(n: u32) -> ServiceKey {
        let [high, low] = u16::try_from(n / 50).unwrap().to_be_bytes();
        let mut address = [0x20, 0x01, 0x0D, 0xB8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        for place in [4, 10, 14] {
            address[place..place + 2].copy_from_slice(&[high, low]);
        }
        ServiceKey::ipv6(address, u16::try_from(n % 50 + 1).unwrap(), 6)
    }

    #[test]
    fn every_key_is_in_one_of_its_two_buckets_up_to_the_limit() {
        for services in [1, 7, 64, 1_024, 20_000] {
            let buckets = buckets_for(services);
            for key in [key, key6] {
                let mut table = Places::new(buckets);
                for n in 0..services {
                    assert!(table.insert(key(n)).is_some(), "{n} of {services}");
                }
                for n in 0..services {
                    let place = table.place(key(n)).unwrap();
                    assert!(key(n).places().both(buckets - 1).contains(&place.bucket));
                    assert_eq!(table.keys[&place], key(n));
                }
            }
        }
    }

    /// Far above the design's load, so that chains of moves really happen.
    #[test]
    fn moves_lead_to_a_free_place_and_lose_no_key() {
        let mut table = Places::new(64);
        let mut shadow: HashMap<Place, ServiceKey> = HashMap::new();
        let (mut stored, mut moved) = (0, 0);
        for n in 0..128 {
            let Some(placement) = table.insert(key(n)) else { break };
            for (key, from, to) in placement.moves {
                assert_eq!(shadow.remove(&from), Some(key));
                assert_eq!(shadow.insert(to, key), None, "moved onto another key");
                moved += 1;
            }
            assert_eq!(shadow.insert(placement.place, key(n)), None);
            stored += 1;
        }
        assert!(stored > 100 && moved > 0, "{stored} stored, {moved} moved");
        assert_eq!(shadow, table.keys);
    }

    #[test]
    fn a_removed_key_leaves_its_place_free() {
        let mut table = Places::new(2);
        let stored: Vec<_> = (0..100).filter(|n| table.insert(key(*n)).is_some()).collect();
        assert!(!stored.is_empty() && stored.len() <= 4);
        for n in &stored {
            assert!(table.remove(key(*n)).is_some());
        }
        assert!(table.keys.is_empty() && table.homes.is_empty());
    }
}
