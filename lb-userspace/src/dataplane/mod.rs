//! The kernel's half: program, tables and links, and the only module that touches them.
//!
//! Tables live in one directory of bpffs for each [`TablesId`]; links beside them, one an
//! interface. All are pinned, so packets go on when the daemon is gone, and the next run adopts
//! them:
//!
//! ```text
//! /sys/fs/bpf/weir/tables-4f2a90c1d37be855/SERVICES, RING, BACKENDS, …
//! /sys/fs/bpf/weir/links/3-native            interface index and mode
//! ```

mod attach;
pub mod batch;
mod bpf;
mod counters;
mod decapsulator;
mod earlier;
mod error;
mod explain;
mod grace;
mod heartbeat;
mod mapped;
mod packet_log;
mod percpu;
mod predecessor;
mod recorded;
mod sweep;
mod tables;
mod verify;
mod virtual_macs;

use std::path::{Path, PathBuf};

use lb_common::{hash::Seed, layout, steer::Parameters};

pub use self::{
    attach::{Attached, Attachment, Undo, detach, keep_only},
    counters::{Counters, EchoCount, ReasonCount},
    decapsulator::{Entrance, decapsulator, load_decapsulator},
    earlier::{Earlier, OLDEST_READABLE, Unreadable},
    error::Error,
    explain::Explainer,
    grace::kernel_tells_grace_periods,
    heartbeat::{Heart, kernel_nanoseconds},
    mapped::Mapped,
    packet_log::{PACKET_LOG, PacketLog},
    predecessor::Predecessor,
    recorded::RecordedFlows,
    sweep::{Records, kernel_seconds},
    tables::{Ingress, MAPS, Tables, load, prepare},
    virtual_macs::{VirtualMacs, VirtualRouter},
};
use crate::{config::Limits, core::places::buckets_for};

/// The XDP program that comes with this version.
pub static OBJECT: &[u8] = aya::include_bytes_aligned!("../../../lb-ebpf/object/weir.bpf.o");

/// Which tables these are: everything that must be equal for a run to adopt those of another.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct TablesId {
    /// A random number that names their directory.
    pub id: u64,
    /// [`layout::VERSION`].
    pub layout: u32,
    /// The sizes they were made with.
    pub limits: Limits,
    /// The secret of the flow hash, kept when tables are made anew.
    pub seed: [u64; 2],
    /// Whether the program tells of the flows that it records, for peers.
    #[serde(default)]
    pub tells: bool,
}

impl TablesId {
    /// New tables with these sizes.
    pub fn new(limits: Limits, seed: [u64; 2]) -> Self {
        Self { id: rand::random(), layout: layout::VERSION, limits, seed, tells: false }
    }

    /// Whether this version can work with these tables under these limits.
    pub fn fits(&self, limits: Limits) -> bool {
        self.layout == layout::VERSION && self.limits == limits
    }

    /// Their directory below the configured one.
    pub fn directory(&self, bpf_dir: &Path) -> PathBuf {
        bpf_dir.join(format!("tables-{:016x}", self.id))
    }

    /// What the program is told at load.
    pub fn parameters(&self) -> Parameters {
        Parameters { seed: Seed(self.seed), place_mask: buckets_for(self.limits.services) - 1 }
    }
}
