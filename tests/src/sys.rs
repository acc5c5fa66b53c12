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
const BPF_PROG_LOAD: libc::c_long = 5;
const BPF_LINK_CREATE: libc::c_long = 28;
/// `enum bpf_prog_type`
const BPF_PROG_TYPE_XDP: u32 = 6;
/// `enum bpf_attach_type`
const BPF_XDP: u32 = 37;
/// In the driver: the generic hook hides what veth does to XDP frames.
const XDP_FLAGS_DRV_MODE: u32 = 1 << 2;

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
    let attributes = ProgramLoad {
        kind: BPF_PROG_TYPE_XDP,
        instruction_count: u32::try_from(instructions.len()).map_err(io::Error::other)?,
        instructions: instructions.as_ptr().addr() as u64,
        license: license.as_ptr().addr() as u64,
        log_level: 1,
        log_size: u32::try_from(log.len()).map_err(io::Error::other)?,
        log: log.as_mut_ptr().expose_provenance() as u64,
    };
    // SAFETY: the attributes have the layout of their command, and the buffers that they point to
    // outlive the call with the lengths that they say.
    unsafe { bpf(BPF_PROG_LOAD, &attributes) }.map_err(|error| {
        let text = log.split(|byte| *byte == 0).next().unwrap_or_default();
        io::Error::new(error.kind(), format!("{error}\n{}", String::from_utf8_lossy(text)))
    })
}

/// Attaches an XDP program natively to an interface of the calling thread's namespace, until the
/// returned link is closed.
pub(crate) fn attach_xdp(program: BorrowedFd<'_>, interface: u32) -> io::Result<OwnedFd> {
    let attributes = LinkCreate {
        program: program.as_raw_fd().cast_unsigned(),
        interface,
        attach_type: BPF_XDP,
        flags: XDP_FLAGS_DRV_MODE,
    };
    // SAFETY: the attributes have the layout of their command and hold no pointer.
    unsafe { bpf(BPF_LINK_CREATE, &attributes) }
}

/// `bpf(2)` for the commands that return a new descriptor.
///
/// # Safety
///
/// `attributes` has the layout that the kernel expects for `command`, and its pointers are valid
/// for what the command does with them.
unsafe fn bpf<T>(command: libc::c_long, attributes: &T) -> io::Result<OwnedFd> {
    // SAFETY: the caller vouches for the attributes; the size is theirs.
    let result = unsafe {
        libc::syscall(libc::SYS_bpf, command, std::ptr::from_ref(attributes), size_of::<T>())
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    let descriptor = i32::try_from(result).map_err(io::Error::other)?;
    // SAFETY: both commands return a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}
