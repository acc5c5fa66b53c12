//! Hash tables of the kernel, read and cleaned many entries at a time.
//!
//! One system call an entry makes a walk over 262 144 flows cost half a million calls; in batches
//! it costs about seventy. The calls are `BPF_MAP_*_BATCH` of bpf(2), since Linux 5.6; where they
//! are missing, entries go one by one.

#![allow(unsafe_code, reason = "system calls that read and write our memory by address")]

use std::{collections::HashSet, hash::Hash, io, marker::PhantomData, path::Path, thread};

use aya::maps::{MapData, MapError, MapType};

use super::{
    bpf::{
        BatchAttr, Command, SingleAttr, address, address_mut, bpf, count, is_absent, is_busy,
        is_unknown, raw_fd,
    },
    error::Error,
};

/// Entries a call: some 200 KiB of flow records.
const BATCH: usize = 4096;

/// How often in a row the kernel may find a bucket's lock taken. It is held for nanoseconds, but
/// the kernel gives up at once where waiting could be for the interrupted self.
const BUSY_RETRIES: u32 = 16;

/// A key or value as the kernel keeps it.
///
/// # Safety
///
/// The type has no padding, every bit pattern is a valid value of it, and it borrows nothing.
pub unsafe trait Plain: Copy + Eq + Hash {
    /// A value to fill buffers with.
    const ZERO: Self;
}

// SAFETY: an array of integers has neither padding nor invalid patterns.
unsafe impl<const N: usize> Plain for [u32; N] {
    const ZERO: Self = [0; N];
}

/// A hash map in the kernel, of `BPF_MAP_TYPE_HASH` or `BPF_MAP_TYPE_LRU_HASH`.
///
/// Reading does not count as use: it keeps no entry of an LRU map from eviction.
#[derive(Debug)]
pub struct HashTable<K, V> {
    map: MapData,
    max_entries: usize,
    /// Whether the kernel has the batch calls.
    batched: bool,
    entries: PhantomData<fn(K) -> V>,
}

// === impl HashTable ===

impl<K: Plain, V: Plain> HashTable<K, V> {
    /// Opens a pinned map.
    ///
    /// # Errors
    ///
    /// [`Error`] if it cannot be opened, or as for [`HashTable::new`].
    pub fn from_pin(path: impl AsRef<Path>) -> Result<Self, Error> {
        let path = path.as_ref();
        let map = MapData::from_pin(path)
            .map_err(|error| Error::from_load(&path.display().to_string(), &error))?;
        Self::new(map)
    }

    /// Takes a map whose keys and values are as large as `K` and `V`.
    ///
    /// # Errors
    ///
    /// [`Error::Refused`] if it is a map of another type or of other sizes, or may not be read.
    pub fn new(map: MapData) -> Result<Self, Error> {
        let unknown = |error: MapError| Error::from_load("a hash table", &error);
        // What the kernel says, not what a MapData was made with: our buffers have these sizes.
        let info = map.info().map_err(unknown)?;
        let name = info.name_as_str().unwrap_or_default();
        let refused = |cause| Error::Refused { what: format!("the table {name}"), cause };

        let map_type = info.map_type().map_err(unknown)?;
        // Of a per-CPU map, the kernel would write a value for each CPU.
        if !matches!(map_type, MapType::Hash | MapType::LruHash) {
            return Err(refused(format!("it is a map of type {map_type:?}, not a hash map")));
        }
        let found = (info.key_size() as usize, info.value_size() as usize);
        let wanted = (size_of::<K>(), size_of::<V>());
        if found != wanted {
            return Err(refused(format!(
                "its keys and values have {} and {} bytes, not {} and {}",
                found.0, found.1, wanted.0, wanted.1
            )));
        }
        let batched = has_batches(&map).map_err(|error| refused(error.to_string()))?;
        let max_entries = info.max_entries() as usize;
        Ok(Self { map, max_entries, batched, entries: PhantomData })
    }

    /// Whether the kernel has calls for many entries at a time; else they go one by one.
    pub fn is_batched(&self) -> bool {
        self.batched
    }

    /// Calls `see` for every entry, and returns how many there were.
    ///
    /// No key is seen twice, and none that stays is missed; one that comes or goes meanwhile may
    /// be seen or not. A value that a packet is writing may be seen half written. `see` may
    /// change the table.
    ///
    /// # Errors
    ///
    /// The kernel's word. Entries before it were seen.
    pub fn for_each(&self, see: impl FnMut(&K, &V)) -> io::Result<u64> {
        if self.batched {
            self.for_each_batched(BATCH.min(self.max_entries), see)
        } else {
            self.for_each_singly(see)
        }
    }

    /// Removes these keys, and returns how many were there.
    ///
    /// # Errors
    ///
    /// The kernel's word. Keys before it are removed.
    pub fn remove(&self, keys: &[K]) -> io::Result<u64> {
        let mut removed = 0;
        let mut rest = keys;
        let mut patience = Patience::new();
        while !rest.is_empty() {
            let batch = &rest[..rest.len().min(self.batch_size())];
            let (done, result) = self.delete(batch);
            removed += done as u64;
            rest = &rest[done..];
            match result {
                // A key that is gone already stops the batch.
                Err(error) if is_absent(&error) => rest = rest.get(1..).unwrap_or_default(),
                result => patience.judge(done, result)?,
            }
        }
        Ok(removed)
    }

    /// Removes these entries as far as they are still what they were when they were read, and returns
    /// how many.
    ///
    /// The kernel cannot compare and remove in one. An entry that was replaced since it was read is
    /// put back at once, and is not there for a microsecond: so read and remove few at a time.
    ///
    /// # Errors
    ///
    /// The kernel's word. Entries before it are removed.
    pub fn remove_unchanged(&self, entries: &[(K, V)]) -> io::Result<u64> {
        let mut removed = 0;
        for (key, value) in entries {
            match self.take(key)? {
                Some(taken) if taken != *value => self.put_back(key, &taken)?,
                taken => removed += u64::from(taken.is_some()),
            }
        }
        Ok(removed)
    }

    /// Inserts these entries, or replaces those that are there, and returns how many. A full LRU
    /// map evicts others for them.
    ///
    /// # Errors
    ///
    /// The kernel's word, `E2BIG` if a map that is not LRU is full. Entries before it are in.
    pub fn insert(&self, entries: &[(K, V)]) -> io::Result<u64> {
        for batch in entries.chunks(self.batch_size()) {
            let (keys, values): (Vec<K>, Vec<V>) = batch.iter().copied().unzip();
            let mut start = 0;
            let mut patience = Patience::new();
            while start < keys.len() {
                let (done, result) = self.update(&keys[start..], &values[start..]);
                start += done;
                patience.judge(done, result)?;
            }
        }
        Ok(entries.len() as u64)
    }

    /// The value of a key.
    ///
    /// # Errors
    ///
    /// The kernel's word.
    pub fn get(&self, key: &K) -> io::Result<Option<V>> {
        let mut value = V::ZERO;
        let mut attr = self.single(address(key), address_mut(&mut value));
        // SAFETY: key and value have the map's sizes and live through the call.
        found(unsafe { bpf(Command::Lookup, &mut attr) }).map(|found| found.then_some(value))
    }

    fn batch_size(&self) -> usize {
        if self.batched { BATCH } else { 1 }
    }

    fn for_each_batched(&self, batch: usize, mut see: impl FnMut(&K, &V)) -> io::Result<u64> {
        let mut keys = vec![K::ZERO; batch];
        let mut values = vec![V::ZERO; batch];
        let mut position = None;
        let mut seen = 0;
        let mut patience = Patience::new();
        loop {
            let (done, next, result) = self.lookup(position, &mut keys, &mut values);
            for (key, value) in keys.iter().zip(&values).take(done) {
                see(key, value);
            }
            seen += done as u64;
            match result {
                Err(error) if is_absent(&error) => return Ok(seen),
                // The next bucket holds more than the buffers do. No bucket holds more than all.
                Err(error)
                    if error.raw_os_error() == Some(libc::ENOSPC)
                        && keys.len() <= self.max_entries =>
                {
                    let larger = keys.len() * 2;
                    keys.resize(larger, K::ZERO);
                    values.resize(larger, V::ZERO);
                }
                result => {
                    patience.judge(done, result)?;
                    position = Some(next);
                }
            }
        }
    }

    /// The walk by `BPF_MAP_GET_NEXT_KEY`, which begins anew where its key was removed meanwhile.
    fn for_each_singly(&self, mut see: impl FnMut(&K, &V)) -> io::Result<u64> {
        let mut met = HashSet::new();
        let mut seen = 0;
        let mut next = self.next_key(None)?;
        for _ in 0..self.max_entries.saturating_mul(4) {
            let Some(key) = next else { return Ok(seen) };
            // Before `see`, which may well remove this key.
            next = self.next_key(Some(&key))?;
            if met.insert(key)
                && let Some(value) = self.get(&key)?
            {
                see(&key, &value);
                seen += 1;
            }
        }
        match next {
            None => Ok(seen),
            Some(_) => Err(io::Error::new(
                io::ErrorKind::ResourceBusy,
                "the table changes too fast to be read key by key: Linux 5.6 or newer reads it in \
                 batches",
            )),
        }
    }
}

// The calls, each with buffers that it checks. With an error comes how much was done before it.
impl<K: Plain, V: Plain> HashTable<K, V> {
    /// Reads entries from a position on; the second figure is the position after them.
    fn lookup(
        &self,
        position: Option<u32>,
        keys: &mut [K],
        values: &mut [V],
    ) -> (usize, u32, io::Result<()>) {
        let len = keys.len().min(values.len());
        let mut next = 0_u32;
        let buffers = [address_mut(keys), address_mut(values)];
        let mut attr = BatchAttr::reading(&self.map, position.as_ref(), &mut next, buffers, len);
        // SAFETY: the buffers have room for `count` of the map's keys and values; a position of a
        // hash map is a u32 (`kernel/bpf/hashtab.c`). All live through the call.
        let result = unsafe { bpf(Command::LookupBatch, &mut attr) };
        (attr.done(len, &result), next, result)
    }

    fn delete(&self, keys: &[K]) -> (usize, io::Result<()>) {
        if let ([key], false) = (keys, self.batched) {
            let mut attr = self.single(address(key), 0);
            // SAFETY: the key has the map's size and lives through the call.
            let result = unsafe { bpf(Command::Delete, &mut attr) };
            return (usize::from(result.is_ok()), result);
        }
        let mut attr = BatchAttr {
            keys: address(keys),
            count: count(keys.len()),
            map_fd: raw_fd(&self.map),
            ..BatchAttr::default()
        };
        // SAFETY: there are `count` keys of the map's size, and they live through the call.
        let result = unsafe { bpf(Command::DeleteBatch, &mut attr) };
        (attr.done(keys.len(), &result), result)
    }

    fn update(&self, keys: &[K], values: &[V]) -> (usize, io::Result<()>) {
        if let ([key], [value], false) = (keys, values, self.batched) {
            let mut attr = self.single(address(key), address(value));
            // SAFETY: key and value have the map's sizes and live through the call.
            let result = unsafe { bpf(Command::Update, &mut attr) };
            return (usize::from(result.is_ok()), result);
        }
        let len = keys.len().min(values.len());
        let mut attr = BatchAttr {
            keys: address(keys),
            values: address(values),
            count: count(len),
            map_fd: raw_fd(&self.map),
            ..BatchAttr::default()
        };
        // SAFETY: there are `count` keys and values of the map's sizes, and they live through the
        // call.
        let result = unsafe { bpf(Command::UpdateBatch, &mut attr) };
        (attr.done(len, &result), result)
    }

    /// Removes an entry and returns what it was. Before Linux 5.14 a hash map cannot do both: then it
    /// is taken to be what it was a moment before.
    fn take(&self, key: &K) -> io::Result<Option<V>> {
        let mut value = V::ZERO;
        let mut attr = self.single(address(key), address_mut(&mut value));
        // SAFETY: key and value have the map's sizes and live through the call.
        match patiently(|| unsafe { bpf(Command::Take, &mut attr) }) {
            Err(error) if is_unknown(&error) => {
                let before = self.get(key)?;
                self.remove(&[*key]).map(|removed| before.filter(|_| removed > 0))
            }
            result => found(result).map(|found| found.then_some(value)),
        }
    }

    /// Inserts an entry unless there is one with its key.
    fn put_back(&self, key: &K, value: &V) -> io::Result<()> {
        const NO_EXIST: u64 = 1;
        let mut attr = self.single(address(key), address(value));
        attr.flags = NO_EXIST;
        // SAFETY: key and value have the map's sizes and live through the call.
        match patiently(|| unsafe { bpf(Command::Update, &mut attr) }) {
            Err(error) if error.raw_os_error() == Some(libc::EEXIST) => Ok(()),
            result => result,
        }
    }

    /// The key after this one, or the first.
    fn next_key(&self, key: Option<&K>) -> io::Result<Option<K>> {
        let mut next = K::ZERO;
        let mut attr = self.single(key.map_or(0, address), address_mut(&mut next));
        // SAFETY: both keys have the map's size and live through the call.
        found(unsafe { bpf(Command::NextKey, &mut attr) }).map(|found| found.then_some(next))
    }

    fn single(&self, key: u64, value: u64) -> SingleAttr {
        SingleAttr::new(&self.map, key, value)
    }
}

/// Asks for no entries: a kernel with batch calls has nothing to say against that.
fn has_batches(map: &MapData) -> io::Result<bool> {
    let mut attr = BatchAttr { map_fd: raw_fd(map), ..BatchAttr::default() };
    // SAFETY: with a count of zero the kernel touches no buffer.
    match unsafe { bpf(Command::LookupBatch, &mut attr) } {
        Ok(()) => Ok(true),
        Err(error) if is_unknown(&error) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Repeats a call about one entry while the kernel finds a lock taken, for a while.
fn patiently(mut call: impl FnMut() -> io::Result<()>) -> io::Result<()> {
    let mut patience = Patience::new();
    loop {
        match call() {
            Err(error) if is_busy(&error) => patience.judge(0, Err(error))?,
            result => return result,
        }
    }
}

/// Counts how often in a row the kernel found a lock taken and nothing was done.
struct Patience(u32);

impl Patience {
    fn new() -> Self {
        Self(BUSY_RETRIES)
    }

    /// Lets success pass, and being busy for a while.
    fn judge(&mut self, done: usize, result: io::Result<()>) -> io::Result<()> {
        if done > 0 {
            self.0 = BUSY_RETRIES;
        }
        let Err(error) = result else { return Ok(()) };
        if self.0 == 0 || !is_busy(&error) {
            return Err(error);
        }
        self.0 -= 1;
        thread::yield_now();
        Ok(())
    }
}

fn found(result: io::Result<()>) -> io::Result<bool> {
    match result {
        Ok(()) => Ok(true),
        Err(error) if is_absent(&error) => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
#[path = "batch_tests.rs"]
mod tests;
