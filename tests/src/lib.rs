//! A network on one machine: a client, balancers and backends in network namespaces of their own,
//! plugged into a bridge.
//!
//! ```no_run
//! # fn main() -> anyhow::Result<()> {
//! use weir_lab::Lab;
//!
//! let lab = Lab::builder().backends(3).build()?;
//! let weir = lab.balancer().start_weir(&lab.balancer().config(&[lab.service("web", 80)]))?;
//! let tally = lab.client().requests(lab.vip(80), 10_000, 4)?;
//! assert_eq!(tally.failed, 0, "{tally}");
//! # Ok(()) }
//! ```
//!
//! Everything is removed when the [`Lab`] is dropped, also by a panic; what a killed process left
//! is removed by the next lab. Labs do not disturb each other, so tests run in parallel.
//!
//! [`lab`] builds the network, drawn in `topology.rs`, out of [`namespace`]s and [`process`]es;
//! [`backend`], [`client`] and [`weir`] are what runs in it; [`mod@hold`] keeps connections open
//! through what happens to them; [`xdp`] makes veth pairs carry what XDP programs send. Without a
//! network, [`program`] runs the real XDP program packet by packet, [`host`] the same rules here
//! ([`datagrams`] for its table of fragments), and [`mod@bench`] times it.
//! [`features`] tells what of Weir this kernel can do; [`fuzz`] has the readers of bytes from outside,
//! for made-up ones; [`pktgen`] measures beside what else forwards.

pub mod backend;
pub mod bench;
pub mod client;
pub mod datagrams;
pub mod failover;
pub mod features;
pub mod fuzz;
pub mod hold;
pub mod host;
mod http;
pub mod keepalived;
pub mod lab;
mod line;
pub mod model;
pub mod namespace;
mod nginx;
mod observe;
pub mod pair;
pub mod pktgen;
pub mod process;
pub mod program;
mod requirements;
pub mod router;
mod service;
pub mod sniffer;
mod snmp;
mod sweep;
mod sync;
mod sys;
pub mod tally;
mod topology;
pub mod tshark;
mod udp;
pub mod vrrp;
mod wait;
pub mod weir;
mod words;
pub mod xdp;

pub use crate::{
    backend::Backend,
    client::{Client, Response, Traffic, WrkReport},
    keepalived::Keepalived,
    lab::{Lab, LabBuilder},
    namespace::Namespace,
    pair::WeirPair,
    process::Process,
    requirements::require_root,
    router::{Pair, Router, WeirRouter},
    service::Service,
    tally::Tally,
    wait::eventually,
    weir::{Balancer, Weir},
};
