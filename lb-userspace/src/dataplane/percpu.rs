//! Per-CPU arrays of the kernel, read many entries at a time.
//!
//! A system call an entry makes a look at the counters of 5 000 backends cost tens of milliseconds;
//! in batches it costs about one. `BPF_MAP_LOOKUP_BATCH` knows per-CPU arrays since Linux 5.13;
//! before, entries are read one by one.

#![allow(unsafe_code, reason = "system calls that write our memory by address")]

use std::{fmt, io};

use aya::maps::{MapData, MapError, MapType};

use super::{
    batch::Plain,
    bpf::{BatchAttr, Command, SingleAttr, address, address_mut, bpf, count},
    error::Error,
};

/// Entries a call: with 64 CPUs and 32 bytes, half a megabyte.
const BATCH: usize = 256;

/// A map of `BPF_MAP_TYPE_PERCPU_ARRAY` whose values are arrays of `N` words.
pub(super) struct PerCpuTable<const N: usize> {
    map: MapData,
    max_entries: usize,
    cpus: usize,
    batched: bool,
}

impl<const N: usize> fmt::Debug for PerCpuTable<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PerCpuTable")
            .field("max_entries", &self.max_entries)
            .finish_non_exhaustive()
    }
}

// === impl PerCpuTable ===

impl<const N: usize> PerCpuTable<N> {
    /// Takes a map.
    ///
    /// # Errors
    ///
    /// [`Error::Refused`] if it is a map of another type or of other sizes.
    pub(super) fn new(map: MapData) -> Result<Self, Error> {
        let unknown = |error: MapError| Error::from_load("a table of counters", &error);
        // What the kernel says, not what a MapData was made with: our buffers have these sizes.
        let info = map.info().map_err(unknown)?;
        let what = format!("the table {}", info.name_as_str().unwrap_or_default());
        let map_type = info.map_type().map_err(unknown)?;
        let found = (info.key_size() as usize, info.value_size() as usize);
        let wanted = (size_of::<u32>(), size_of::<[u64; N]>());
        if map_type != MapType::PerCpuArray || found != wanted {
            let cause = format!(
                "it is a {map_type:?} of keys and values of {} and {} bytes, not a PerCpuArray of \
                 {} and {}",
                found.0, found.1, wanted.0, wanted.1
            );
            return Err(Error::Refused { what, cause });
        }
        let cpus = aya::util::nr_cpus()
            .map_err(|(path, error)| Error::io(format!("counting the CPUs in {path}"))(error))?;
        let mut table = Self { map, max_entries: info.max_entries() as usize, cpus, batched: true };
        // Kernels without the call refuse it whatever it asks for.
        table.batched = table.batch(None, &mut [0], &mut vec![[0; N]; cpus]).is_ok();
        Ok(table)
    }

    /// The first `len` entries, each summed over the CPUs.
    ///
    /// # Errors
    ///
    /// The kernel's word.
    pub(super) fn sums(&self, len: usize) -> io::Result<Vec<[u64; N]>> {
        let len = len.min(self.max_entries);
        let mut sums = Vec::with_capacity(len);
        let mut keys = vec![0; BATCH];
        let mut values = vec![[0; N]; BATCH * self.cpus];
        let mut position = None;
        while sums.len() < len {
            let wanted = (len - sums.len()).min(BATCH);
            let values = &mut values[..wanted * self.cpus];
            if !self.batched {
                sums.push(self.one(count(sums.len()))?);
                continue;
            }
            let (read, next) = self.batch(position, &mut keys[..wanted], values)?;
            position = Some(next);
            if read == 0 {
                break;
            }
            sums.extend(values.chunks_exact(self.cpus).take(read).map(sum));
        }
        Ok(sums)
    }

    /// One entry, summed over the CPUs.
    ///
    /// # Errors
    ///
    /// The kernel's word.
    pub(super) fn one(&self, index: u32) -> io::Result<[u64; N]> {
        let mut values = vec![[0; N]; self.cpus];
        let mut attr =
            SingleAttr::new(&self.map, address(&index), address_mut(values.as_mut_slice()));
        // SAFETY: there is room for a value of every CPU; both live through the call.
        unsafe { bpf(Command::Lookup, &mut attr) }?;
        Ok(sum(&values))
    }

    /// Sets an entry to zero on every CPU.
    ///
    /// # Errors
    ///
    /// The kernel's word.
    pub(super) fn clear(&self, index: u32) -> io::Result<()> {
        let zeros = vec![[0_u64; N]; self.cpus];
        let mut attr = SingleAttr::new(&self.map, address(&index), address(zeros.as_slice()));
        // SAFETY: the value has the map's size on every CPU; both live through the call.
        unsafe { bpf(Command::Update, &mut attr) }
    }

    /// Reads entries from a position on; returns how many, and the position after them.
    fn batch(
        &self,
        position: Option<u32>,
        keys: &mut [u32],
        values: &mut [[u64; N]],
    ) -> io::Result<(usize, u32)> {
        let len = keys.len().min(values.len() / self.cpus);
        let mut next = 0_u32;
        let buffers = [address_mut(keys), address_mut(values)];
        let mut attr = BatchAttr::reading(&self.map, position.as_ref(), &mut next, buffers, len);
        // SAFETY: the buffers have room for `count` keys, and values of every CPU; a position of
        // an array is its index, a u32. All live through the call.
        let result = unsafe { bpf(Command::LookupBatch, &mut attr) };
        match result {
            // The end of the array.
            Err(error) if error.raw_os_error() != Some(libc::ENOENT) => Err(error),
            _ => Ok((len.min(attr.count as usize), next)),
        }
    }
}

fn sum<const N: usize>(cpus: &[[u64; N]]) -> [u64; N] {
    std::array::from_fn(|field| cpus.iter().map(|value| value[field]).sum())
}

// SAFETY: an array of integers has neither padding nor invalid patterns.
unsafe impl<const N: usize> Plain for [u64; N] {
    const ZERO: Self = [0; N];
}

#[cfg(test)]
mod tests {
    use std::os::fd::{FromRawFd, OwnedFd};

    use super::*;

    const PER_CPU_ARRAY: u32 = 6;

    fn table(entries: u32) -> PerCpuTable<3> {
        const CREATE: libc::c_int = 0;
        let mut attr = [PER_CPU_ARRAY, 4, 24, entries, 0];
        let size = size_of_val(&attr);
        // SAFETY: the first five fields of `union bpf_attr` for BPF_MAP_CREATE, without addresses.
        let fd = unsafe { libc::syscall(libc::SYS_bpf, CREATE, attr.as_mut_ptr(), size) };
        let fd = i32::try_from(fd).expect("a descriptor");
        assert!(fd >= 0, "making a map: {}", io::Error::last_os_error());
        // SAFETY: a file descriptor just made, which nobody else has.
        let map = MapData::from_fd(unsafe { OwnedFd::from_raw_fd(fd) }).expect("a map");
        PerCpuTable::new(map).expect("a table")
    }

    fn set(table: &PerCpuTable<3>, index: u32) {
        let value = [u64::from(index), 7, u64::MAX / 1024];
        let values = vec![value; table.cpus];
        let mut attr = SingleAttr::new(&table.map, address(&index), address(values.as_slice()));
        // SAFETY: the value has the map's size on every CPU; both live through the call.
        unsafe { bpf(Command::Update, &mut attr) }.expect("written");
    }

    #[test]
    fn batches_and_single_entries_read_the_same() {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("skipped: kernel maps need root");
            return;
        }
        let entries = u32::try_from(2 * BATCH + 5).expect("a small number");
        let batched = table(entries);
        assert!(batched.batched, "this kernel has batches");
        (0..entries).for_each(|index| set(&batched, index));
        let cpus = batched.cpus as u64;
        let all = batched.sums(usize::MAX).expect("read");
        let wanted = (0..u64::from(entries)).map(|n| [n * cpus, 7 * cpus, u64::MAX / 1024 * cpus]);
        assert!(all.iter().copied().eq(wanted), "{all:?}");
        assert_eq!(batched.sums(3).expect("read"), all[..3]);

        batched.clear(1).expect("cleared");
        let single = PerCpuTable { batched: false, ..batched };
        let all = [&all[..1], &[[0; 3]], &all[2..]].concat();
        assert_eq!(single.sums(usize::MAX).expect("read"), all);
    }
}
