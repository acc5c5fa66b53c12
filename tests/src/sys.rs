//! The system calls that Rust cannot check: the only unsafe code of the lab.

#![allow(unsafe_code, reason = "pre_exec, bpf(2) and sched_setscheduler(2) have no safe wrapper")]

use std::{
    ffi::CStr,
    io,
    os::{
        fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
        unix::process::CommandExt,
    },
    process::Command,
    sync::Arc,
};

use nix::sched::{CloneFlags, setns};

use crate::xdp::Instruction;

/// `enum bpf_cmd`
const BPF_MAP_CREATE: libc::c_long = 0;
const BPF_MAP_UPDATE_ELEM: libc::c_long = 2;
const BPF_PROG_LOAD: libc::c_long = 5;
const BPF_PROG_TEST_RUN: libc::c_long = 10;
const BPF_LINK_CREATE: libc::c_long = 28;
/// `enum bpf_prog_type`
const BPF_PROG_TYPE_XDP: u32 = 6;
/// `enum bpf_attach_type`
const BPF_XDP: u32 = 37;
/// In the driver: the generic hook hides what veth does to XDP frames.
const XDP_FLAGS_DRV_MODE: u32 = 1 << 2;
const BPF_F_TEST_XDP_LIVE_FRAMES: u32 = 1 << 1;
/// As many frames as a driver takes at a time.
const LIVE_BATCH: u32 = 64;

/// The start of `union bpf_attr` for `BPF_PROG_LOAD`.
#[repr(C)]
struct ProgramLoad {
    kind: u32,
    instruction_count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
    name: [u8; 16],
    interface: u32,
    expected_attach_type: u32,
}

/// The start of `union bpf_attr` for `BPF_MAP_CREATE`.
#[repr(C)]
struct MapCreate {
    kind: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    flags: u32,
}

/// The start of `union bpf_attr` for `BPF_MAP_UPDATE_ELEM`.
#[repr(C)]
struct MapUpdate {
    map: u32,
    pad: u32,
    key: u64,
    value: u64,
    flags: u64,
}

/// The start of `union bpf_attr` for `BPF_PROG_TEST_RUN`. What an older kernel does not know of it
/// may be zero.
#[repr(C)]
#[derive(Default)]
struct TestRun {
    program: u32,
    return_value: u32,
    data_size_in: u32,
    data_size_out: u32,
    data_in: u64,
    data_out: u64,
    repeat: u32,
    duration_ns: u32,
    context_size_in: u32,
    context_size_out: u32,
    context_in: u64,
    context_out: u64,
    flags: u32,
    cpu: u32,
    batch_size: u32,
    pad: u32,
}

/// The start of `union bpf_attr` for `BPF_LINK_CREATE`.
#[repr(C)]
struct LinkCreate {
    program: u32,
    interface: u32,
    attach_type: u32,
    flags: u32,
}

/// Makes the command's process start in another network namespace.
///
/// Only the network namespace changes, unlike `ip netns exec`, whose fresh `/sys` hides the bpffs.
pub(crate) fn start_in(command: &mut Command, namespace: Arc<OwnedFd>) {
    // SAFETY: between fork and exec only async-signal-safe calls are allowed; this makes one bare
    // system call on a descriptor that the closure keeps open, and does not allocate.
    unsafe {
        command.pre_exec(move || {
            setns(&*namespace, CloneFlags::CLONE_NEWNET).map_err(io::Error::from)
        });
    }
}

/// Lets the calling thread run before all ordinary ones, for those that measure or are measured
/// against and do little. Without the privilege it stays as it is.
pub(crate) fn run_first() {
    let lowest = libc::sched_param { sched_priority: 1 };
    // SAFETY: 0 names the calling thread, and the kernel only reads the parameter.
    unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO, &raw const lowest) };
}

/// Loads an XDP program. The error of a program that the verifier refuses carries its log.
pub(crate) fn load_xdp(instructions: &[Instruction], license: &CStr) -> io::Result<OwnedFd> {
    let mut log = vec![0_u8; 16 * 1024];
    let mut attributes = ProgramLoad {
        kind: BPF_PROG_TYPE_XDP,
        instruction_count: u32::try_from(instructions.len()).map_err(io::Error::other)?,
        instructions: instructions.as_ptr().addr() as u64,
        license: license.as_ptr().addr() as u64,
        log_level: 1,
        log_size: u32::try_from(log.len()).map_err(io::Error::other)?,
        log: log.as_mut_ptr().expose_provenance() as u64,
        kernel_version: 0,
        flags: 0,
        name: [0; 16],
        interface: 0,
        // Programs that call each other must agree in it.
        expected_attach_type: BPF_XDP,
    };
    // SAFETY: the attributes have the layout of their command, and the buffers that they point to
    // outlive the call with the lengths that they say.
    unsafe { bpf_descriptor(BPF_PROG_LOAD, &mut attributes) }.map_err(|error| {
        let text = log.split(|byte| *byte == 0).next().unwrap_or_default();
        io::Error::new(error.kind(), format!("{error}\n{}", String::from_utf8_lossy(text)))
    })
}

/// Attaches an XDP program natively to an interface of the calling thread's namespace, until the
/// returned link is closed.
pub(crate) fn attach_xdp(program: BorrowedFd<'_>, interface: u32) -> io::Result<OwnedFd> {
    let mut attributes = LinkCreate {
        program: program.as_raw_fd().cast_unsigned(),
        interface,
        attach_type: BPF_XDP,
        flags: XDP_FLAGS_DRV_MODE,
    };
    // SAFETY: the attributes have the layout of their command and hold no pointer.
    unsafe { bpf_descriptor(BPF_LINK_CREATE, &mut attributes) }
}

/// Makes an array-like map with keys of four bytes.
pub(crate) fn create_map(kind: u32, value_size: usize, entries: u32) -> io::Result<OwnedFd> {
    let value_size = u32::try_from(value_size).map_err(io::Error::other)?;
    let mut attributes =
        MapCreate { kind, key_size: 4, value_size, max_entries: entries, flags: 0 };
    // SAFETY: the attributes have the layout of their command and hold no pointer.
    unsafe { bpf_descriptor(BPF_MAP_CREATE, &mut attributes) }
}

/// Writes one entry of such a map, whose values are as large as `T`.
///
/// # Safety
///
/// `T` has no padding, and the map's values have its size.
pub(crate) unsafe fn update_map<T>(map: BorrowedFd<'_>, index: u32, value: &T) -> io::Result<()> {
    let mut attributes = MapUpdate {
        map: map.as_raw_fd().cast_unsigned(),
        pad: 0,
        key: std::ptr::from_ref(&index).expose_provenance() as u64,
        value: std::ptr::from_ref(value).expose_provenance() as u64,
        flags: 0,
    };
    // SAFETY: key and value outlive the call and, by the caller's word, have the map's sizes.
    unsafe { bpf(BPF_MAP_UPDATE_ELEM, &mut attributes) }.map(drop)
}

/// Runs a program on a frame so many times. Returns what the last run returned.
pub(crate) fn test_run(program: BorrowedFd<'_>, frame: &[u8], repeat: u32) -> io::Result<u32> {
    let mut attributes = TestRun {
        program: program.as_raw_fd().cast_unsigned(),
        data_size_in: u32::try_from(frame.len()).map_err(io::Error::other)?,
        data_in: frame.as_ptr().expose_provenance() as u64,
        repeat,
        ..TestRun::default()
    };
    // SAFETY: the attributes have the layout of their command; the frame outlives the call.
    unsafe { bpf(BPF_PROG_TEST_RUN, &mut attributes) }?;
    Ok(attributes.return_value)
}

/// Runs a program so many times on frames of its own, with which the kernel does what the program
/// says (`Documentation/bpf/bpf_prog_run.rst`, since Linux 5.18). The program redirects between the
/// interfaces of the calling thread's namespace.
pub(crate) fn live_run(program: BorrowedFd<'_>, frame: &[u8], repeat: u32) -> io::Result<()> {
    let mut attributes = TestRun {
        program: program.as_raw_fd().cast_unsigned(),
        data_size_in: u32::try_from(frame.len()).map_err(io::Error::other)?,
        data_in: frame.as_ptr().expose_provenance() as u64,
        repeat,
        flags: BPF_F_TEST_XDP_LIVE_FRAMES,
        batch_size: LIVE_BATCH,
        ..TestRun::default()
    };
    // SAFETY: the attributes have the layout of their command; the frame outlives the call.
    unsafe { bpf(BPF_PROG_TEST_RUN, &mut attributes) }.map(drop)
}

/// `bpf(2)` for the commands that return a new descriptor.
///
/// # Safety
///
/// As for [`bpf`].
unsafe fn bpf_descriptor<T>(command: libc::c_long, attributes: &mut T) -> io::Result<OwnedFd> {
    // SAFETY: the caller vouches for the attributes.
    let result = unsafe { bpf(command, attributes) }?;
    let descriptor = i32::try_from(result).map_err(io::Error::other)?;
    // SAFETY: such a command returns a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

/// `bpf(2)`.
///
/// # Safety
///
/// `attributes` has the layout that the kernel expects for `command`, and its pointers are valid
/// for what the command does with them.
unsafe fn bpf<T>(command: libc::c_long, attributes: &mut T) -> io::Result<libc::c_long> {
    // SAFETY: the caller vouches for the attributes; the size is theirs.
    let result = unsafe {
        libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attributes), size_of::<T>())
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}
