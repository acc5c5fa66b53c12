//! The program in the kernel: a packet in, a verdict and a packet out.

#![allow(clippy::unwrap_used, reason = "a test says what it expects by unwrapping it")]

mod any_fragments;
mod arbitrary;
mod fragments;
mod icmp;
mod ipv6;
mod loading;
mod passing;
mod records;
mod reject;
mod scene;
mod second_chance;
mod steering;
mod too_big;
mod tunnel;
mod virtual_macs;
