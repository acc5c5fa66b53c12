//! The system call bpf(2), as far as aya has no way to it: entries of maps, many at a time.

#![allow(unsafe_code, reason = "a system call that reads and writes our memory by address")]

use std::{
    io,
    os::fd::{AsFd as _, AsRawFd as _},
};

use aya::maps::MapData;

/// Commands of bpf(2), from `linux/bpf.h`.
#[derive(Debug, Clone, Copy)]
pub(super) enum Command {
    Lookup = 1,
    Update = 2,
    Delete = 3,
    NextKey = 4,
    /// `BPF_MAP_LOOKUP_AND_DELETE_ELEM`
    Take = 21,
    LookupBatch = 24,
    UpdateBatch = 26,
    DeleteBatch = 27,
}

/// `union bpf_attr` for one entry. `value` is the next key's place for [`Command::NextKey`].
#[repr(C)]
pub(super) struct SingleAttr {
    map_fd: u32,
    pad: u32,
    key: u64,
    value: u64,
    pub(super) flags: u64,
}

/// `union bpf_attr` for many entries.
#[repr(C)]
#[derive(Default)]
pub(super) struct BatchAttr {
    pub(super) in_batch: u64,
    pub(super) out_batch: u64,
    pub(super) keys: u64,
    pub(super) values: u64,
    pub(super) count: u32,
    pub(super) map_fd: u32,
    pub(super) elem_flags: u64,
    pub(super) flags: u64,
}

impl SingleAttr {
    pub(super) fn new(map: &MapData, key: u64, value: u64) -> Self {
        Self { map_fd: raw_fd(map), pad: 0, key, value, flags: 0 }
    }
}

impl BatchAttr {
    /// Reads up to `len` entries from a position on into buffers for keys and values, given by
    /// their addresses; `next` becomes the position after them.
    pub(super) fn reading(
        map: &MapData,
        position: Option<&u32>,
        next: &mut u32,
        [keys, values]: [u64; 2],
        len: usize,
    ) -> Self {
        Self {
            in_batch: position.map_or(0, address),
            out_batch: address_mut(next),
            keys,
            values,
            count: count(len),
            map_fd: raw_fd(map),
            ..Self::default()
        }
    }

    /// How many of `len` entries were done. Kernels before 6.8 leave the count as it was where they
    /// fail before the first entry, so it is believed only with errors that an entry raised.
    pub(super) fn done(&self, len: usize, result: &io::Result<()>) -> usize {
        match result {
            Err(error) if !is_absent(error) && !is_busy(error) => 0,
            _ => len.min(self.count as usize),
        }
    }
}

/// # Safety
///
/// `attr` is the layout of the command, and each address in it leads to memory that the kernel may
/// read, or write where the command answers there, as far as the map's sizes and the count go.
pub(super) unsafe fn bpf<A>(command: Command, attr: &mut A) -> io::Result<()> {
    // SAFETY: the caller's promise; attr is exclusive and of the size given.
    let answer = unsafe {
        libc::syscall(libc::SYS_bpf, command as libc::c_int, &raw mut *attr, size_of::<A>())
    };
    if answer == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

pub(super) fn address<T: ?Sized>(memory: &T) -> u64 {
    (&raw const *memory).cast::<u8>().expose_provenance() as u64
}

pub(super) fn address_mut<T: ?Sized>(memory: &mut T) -> u64 {
    (&raw mut *memory).cast::<u8>().expose_provenance() as u64
}

pub(super) fn raw_fd(map: &MapData) -> u32 {
    map.fd().as_fd().as_raw_fd().cast_unsigned()
}

/// A batch's length; what is above the field's range is left for later calls.
pub(super) fn count(len: usize) -> u32 {
    u32::try_from(len).unwrap_or(u32::MAX)
}

/// A bucket's lock was taken: `EBUSY` until Linux 6.14, the others since.
pub(super) fn is_busy(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EBUSY | libc::EDEADLK | libc::ETIMEDOUT))
}

/// The kernel does not have the call, or not for this kind of map.
pub(super) fn is_unknown(error: &io::Error) -> bool {
    /// The kernel's own number, which libc does not name.
    const ENOTSUPP: i32 = 524;
    matches!(error.raw_os_error(), Some(libc::EINVAL | ENOTSUPP))
}

pub(super) fn is_absent(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::ENOENT)
}
