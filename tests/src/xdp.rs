//! XDP programs of a few instructions, written down here, so that the lab needs no object file.
//!
//! A veth drops, without a word or a counter, what an XDP program sends into it by `XDP_TX` or
//! `XDP_REDIRECT`, unless its peer polls its XDP receive ring. A program on the peer makes it do
//! so, even one that does nothing: [`Program::pass`], which the lab attaches to the bridge's end
//! of each balancer's links. (GRO on the peer would do for `XDP_REDIRECT`, but not for `XDP_TX`.)

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use anyhow::{Context, Result};
use nix::net::if_::if_nametoindex;

use crate::{Namespace, sys};

/// `XDP_PASS` of `enum xdp_action`.
const XDP_PASS: i32 = 2;

/// One instruction of eBPF, as the kernel reads it (RFC 9669, section 3).
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct Instruction {
    /// What it does.
    pub opcode: u8,
    /// The destination register in one half of the byte, the source in the other.
    pub registers: u8,
    /// Distance of a memory access or a jump.
    pub offset: i16,
    /// The constant operand.
    pub immediate: i32,
}

/// An XDP program in the kernel.
#[derive(Debug)]
pub struct Program(OwnedFd);

/// A program on an interface; dropping it detaches the program.
#[derive(Debug)]
pub struct Attachment {
    _link: OwnedFd,
}

impl Instruction {
    /// An instruction on two registers, 0 to 10.
    pub const fn new(opcode: u8, to: u8, from: u8, offset: i16, immediate: i32) -> Self {
        let registers =
            if cfg!(target_endian = "little") { from << 4 | to } else { to << 4 | from };
        Self { opcode, registers, offset, immediate }
    }
}

impl Program {
    /// Loads a program.
    ///
    /// # Errors
    ///
    /// What the verifier says, or that the caller lacks the privilege.
    pub fn load(instructions: &[Instruction]) -> Result<Self> {
        let program =
            sys::load_xdp(instructions, c"Dual MIT/GPL").context("load an XDP program")?;
        Ok(Self(program))
    }

    /// Loads the program that passes every packet.
    ///
    /// # Errors
    ///
    /// As for [`Program::load`].
    pub fn pass() -> Result<Self> {
        const RETURN_PASS: [Instruction; 2] = [
            Instruction::new(0xb7, 0, 0, 0, XDP_PASS), // r0 = XDP_PASS
            Instruction::new(0x95, 0, 0, 0, 0),        // exit
        ];
        Self::load(&RETURN_PASS)
    }

    /// The program's descriptor.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    /// Attaches the program natively to an interface of a namespace.
    ///
    /// # Errors
    ///
    /// There is no such interface, or it has a program already.
    pub fn attach(&self, namespace: &Namespace, interface: &str) -> Result<Attachment> {
        namespace
            .enter(|| -> Result<_> {
                Ok(Attachment {
                    _link: sys::attach_xdp(self.0.as_fd(), if_nametoindex(interface)?)?,
                })
            })?
            .with_context(|| format!("attach an XDP program to {interface} in {namespace}"))
    }
}
