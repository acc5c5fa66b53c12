//! What the kernel program and the controller share, compiled for both.
//!
//! A packet's way through this crate: [`packet`] reads the frame, [`flow`] says which flow it is,
//! [`steer`] finds the flow's service, slot and backend in the tables of [`layout`], and
//! [`rewrite`] turns the frame towards that backend, or [`tunnel`] puts a header to it before the packet. The XDP program supplies the kernel's maps as
//! [`steer::Tables`]; the controller supplies the same memory, mapped; tests supply vectors. The
//! rules exist once.

#![cfg_attr(target_arch = "bpf", no_std)]
#![cfg_attr(target_arch = "bpf", feature(asm_experimental_arch))]
#![allow(
    clippy::cast_possible_truncation,
    clippy::missing_errors_doc,
    reason = "words are taken apart into their halves on purpose; an error is a `Reason`, which \
              says why in its own documentation"
)]

pub mod answer;
pub mod checksum;
mod choose;
pub mod echo;
pub mod flow;
pub mod fragment;
pub mod hash;
pub mod icmp;
pub mod layout;
pub mod pace;
pub mod packet;
pub mod reason;
pub mod reject;
pub mod rewrite;
pub mod second_chance;
pub mod slot;
pub mod steer;
pub mod too_big;
pub mod tunnel;
pub mod word;
