//! Weir's controller: what decides, and the edges that see and act.
//!
//! [`core`] owns all state and has neither clock nor I/O. Around it, one folder an edge:
//! [`config`] reads the file, [`health`] checks backends, [`netlink`] finds the way to them,
//! [`dataplane`] holds the kernel's program and tables, [`vrrp`] shares addresses with other
//! balancers, [`sync`] keeps their tables the same, [`control`] and [`admin`] answer people and
//! machines over [`http`], [`daemon`] ties them together, with the machine's [`resources`] and the
//! [`clock`], [`cli`] is the command line. [`doctor`] looks for what commonly breaks the traffic's way.
//! [`backend_setup`] is another machine's affair: it prepares
//! a backend.

pub mod admin;
pub mod backend_setup;
pub mod cli;
pub mod clock;
pub mod config;
pub mod control;
pub mod core;
pub mod daemon;
pub mod dataplane;
pub mod doctor;
mod files;
pub mod health;
pub mod http;
pub mod netlink;
pub mod resources;
pub mod sync;
pub mod vrrp;
