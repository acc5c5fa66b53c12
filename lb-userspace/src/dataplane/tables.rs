//! The kernel's maps: made, adopted, checked, removed.

use std::{fs, io, os::fd::AsFd, path::Path, sync::Arc};

use aya::{
    Ebpf, EbpfLoader,
    maps::{MapData, MapInfo},
};
use lb_common::{
    echo::{EchoKey, Outcome, Responder},
    flow::mac_word,
    layout::{FRAGMENTS_MAX, SLOTS_PER_LINE},
    pace::Bucket,
    reason::Reason,
    steer::Stage,
};

use super::{
    TablesId,
    counters::Counters,
    error::Error,
    heartbeat::Heart,
    mapped::{Mapped, Pages},
    predecessor::Predecessor,
    sweep::Records,
    verify,
    virtual_macs::VirtualMacs,
};
use crate::{config::Limits, core::places::buckets_for};

/// The pinned maps, by name, each with its entries' size in bytes.
pub const MAPS: [(&str, u32); 18] = [
    ("SERVICES", 64),
    ("RING", 64),
    ("BACKENDS", 64),
    ("FLOWS", 16),
    ("HALF_OPEN", 16),
    ("ROTATIONS", 64),
    ("LOADS", 64),
    ("BACKEND_COUNTERS", 32),
    ("REASON_COUNTERS", 8),
    ("FLOW_NEWS", 0),
    ("FLOW_NEWS_LOST", 8),
    ("RECORD_COUNTERS", 24),
    ("HEARTBEAT", 64),
    ("ECHO_COUNTERS", 8),
    ("REJECT_PACE", 8),
    ("VIRTUAL_MACS", 64),
    ("PREDECESSOR", 64),
    ("FRAGMENTS", 32),
];

/// Bytes of the ring buffer that tells of recorded flows: room for some 37 000 of them, which a
/// daemon that is busy for half a second may find waiting. A power of two.
const FLOW_NEWS_BYTES: u32 = 2 << 20;

/// A set of tables in the kernel, mapped and ready.
#[derive(Debug)]
pub struct Tables {
    /// The tables that steering reads.
    pub mapped: Arc<Mapped>,
    /// The records of flows.
    pub records: Arc<Records>,
    /// What the program counts.
    pub counters: Arc<Counters>,
    /// The virtual routers that each interface is the master of.
    pub virtual_macs: VirtualMacs,
    /// What peers are told of this daemon.
    pub heart: Heart,
    /// Which balancer may know flows that are not known here.
    pub predecessor: Predecessor,
}

impl Tables {
    /// Opens the tables of an id, making those that are not there.
    ///
    /// # Errors
    ///
    /// [`Error`] if the kernel refuses, or if what is there does not have the id's sizes.
    pub fn open(object: &[u8], id: &TablesId, bpf_dir: &Path) -> Result<Self, Error> {
        let directory = id.directory(bpf_dir);
        fs::create_dir_all(&directory)
            .map_err(Error::io(format!("making {}", directory.display())))?;
        // Loading the object makes and pins the maps; the programs come with each attachment.
        let _ebpf = load(object, id, bpf_dir, Ingress::NONE)?;
        // An older object, as benchmarks compare with, lacks the latest of them.
        let there = MAPS.into_iter().filter(|(name, _)| directory.join(name).exists());
        check(&directory, id.limits, &there.collect::<Vec<_>>())?;
        let mapped = map_arrays(&directory, id.limits)?;
        let counters = Arc::new(Counters::new(
            pinned(&directory, "BACKEND_COUNTERS")?,
            pinned(&directory, "REASON_COUNTERS")?,
            pinned(&directory, "RECORD_COUNTERS")?,
            pinned(&directory, "FLOW_NEWS_LOST")?,
            pinned(&directory, "ECHO_COUNTERS")?,
        )?);
        let heart = Heart::new(pages(&directory, "HEARTBEAT", id.limits)?);
        let predecessor = Predecessor::new(added(&directory, "PREDECESSOR", id.limits)?);
        let virtual_macs = VirtualMacs::new(pages(&directory, "VIRTUAL_MACS", id.limits)?);
        let records = Arc::new(Records::open(id, bpf_dir, Arc::clone(&counters))?);
        Ok(Self { mapped: Arc::new(mapped), records, counters, heart, predecessor, virtual_macs })
    }

    /// Whether the tables of an id are all there, with their sizes.
    pub fn exist(id: &TablesId, bpf_dir: &Path) -> bool {
        check(&id.directory(bpf_dir), id.limits, &MAPS).is_ok()
    }

    /// Removes the tables of a start that failed, and what else it made: links' directory and
    /// `bpf_dir`, unless something is in them.
    pub fn discard(bpf_dir: &Path, id: Option<&TablesId>) {
        if let Some(id) = id {
            let _ = fs::remove_dir_all(id.directory(bpf_dir));
        }
        let _ = fs::remove_dir(bpf_dir.join("links"));
        let _ = fs::remove_dir(bpf_dir);
    }

    /// Removes all tables but those of `keep`.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] if bpffs refuses.
    pub fn sweep(bpf_dir: &Path, keep: Option<&TablesId>) -> Result<(), Error> {
        let keep = keep.map(|id| id.directory(bpf_dir));
        let entries = match fs::read_dir(bpf_dir) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(Error::io(format!("reading {}", bpf_dir.display()))(error)),
        };
        for entry in entries.flatten() {
            let path = entry.path();
            let ours = entry.file_name().to_string_lossy().starts_with("tables-");
            if ours && Some(&path) != keep.as_ref() {
                fs::remove_dir_all(&path)
                    .map_err(Error::io(format!("removing {}", path.display())))?;
            }
        }
        Ok(())
    }
}

/// Maps the tables that steering reads, which are arrays of the same sizes in every layout.
///
/// # Errors
///
/// [`Error`] if they are not there, or have other sizes.
pub(super) fn map_arrays(directory: &Path, limits: Limits) -> Result<Mapped, Error> {
    check(directory, limits, &[("SERVICES", 64), ("RING", 64), ("BACKENDS", 64)])?;
    Ok(Mapped::new(
        pages(directory, "SERVICES", limits)?,
        pages(directory, "RING", limits)?,
        pages(directory, "BACKENDS", limits)?,
        added(directory, "ROTATIONS", limits)?,
        added(directory, "LOADS", limits)?,
    ))
}

/// Maps a pinned table into memory.
fn pages<T>(directory: &Path, name: &str, limits: Limits) -> Result<Pages<T>, Error> {
    Pages::new(pinned(directory, name)?.fd().as_fd(), entries(name, limits), name)
}

/// Maps a table that earlier layouts lack.
fn added<T>(directory: &Path, name: &str, limits: Limits) -> Result<Pages<T>, Error> {
    if directory.join(name).exists() { pages(directory, name, limits) } else { Ok(Pages::none()) }
}

/// Makes the directory for everything that is pinned.
///
/// # Errors
///
/// [`Error::NoBpffs`] if it would not be on a bpffs; then nothing is made.
pub fn prepare(bpf_dir: &Path) -> Result<(), Error> {
    let absent = || Error::NoBpffs(bpf_dir.to_owned());
    let existing = bpf_dir.ancestors().find(|path| path.exists()).ok_or_else(absent)?;
    let kind = nix::sys::statfs::statfs(existing)
        .map_err(|errno| Error::io(format!("looking at {}", existing.display()))(errno.into()))?
        .filesystem_type();
    if kind != nix::sys::statfs::BPF_FS_MAGIC {
        return Err(absent());
    }
    fs::create_dir_all(bpf_dir).map_err(|error| match error.kind() {
        io::ErrorKind::PermissionDenied => Error::NotPermitted,
        _ => Error::io(format!("making {}", bpf_dir.display()))(error),
    })
}

/// The interface that a program is loaded for.
#[derive(Debug, Clone, Copy)]
pub struct Ingress {
    /// Its index.
    pub index: u32,
    /// Its own address: frames to others are not steered.
    pub mac: [u8; 6],
    /// Its place in the table of virtual routers.
    pub place: u32,
    /// How peers' probes are answered.
    pub echo: Responder,
    /// How much it tells of packets, in numbers of [`log::Level`]; 0 for nothing.
    pub log: u8,
}

impl Ingress {
    /// For an instance that is attached nowhere.
    pub const NONE: Self = Self {
        index: 0,
        mac: [0; 6],
        place: 0,
        echo: Responder { port: 0, node: 0, key: EchoKey([0; 2]) },
        log: 0,
    };
}

/// Loads the object over the tables of an id, for one interface.
///
/// # Errors
///
/// [`Error`] if the kernel refuses.
pub fn load(object: &[u8], id: &TablesId, bpf_dir: &Path, own: Ingress) -> Result<Ebpf, Error> {
    let directory = id.directory(bpf_dir);
    let parameters = id.parameters();
    let [seed_low, seed_high] = parameters.seed.0;
    let (own_mac, tells) = (mac_word(own.mac), u32::from(id.tells));
    let Responder { port, node, key: EchoKey([key_low, key_high]) } = own.echo;
    let port = u32::from(port);
    let mut loader = EbpfLoader::new();
    for (name, _) in MAPS {
        loader.map_max_entries(name, entries(name, id.limits));
        loader.map_pin_path(name, directory.join(name));
    }
    loader
        .override_global("OWN_MAC", &own_mac, true)
        .override_global("OWN_INDEX", &own.index, true)
        .override_global("OWN_PLACE", &own.place, true)
        .override_global(aya_log::LEVEL, &own.log, true)
        .override_global("SEED_LOW", &seed_low, true)
        .override_global("SEED_HIGH", &seed_high, true)
        .override_global("PLACE_MASK", &parameters.place_mask, true)
        .override_global("TELLS", &tells, true)
        .override_global("ECHO_PORT", &port, true)
        .override_global("ECHO_NODE", &node, true)
        .override_global("ECHO_KEY_LOW", &key_low, true)
        .override_global("ECHO_KEY_HIGH", &key_high, true);
    verify::object(&mut loader, object, "the tables")
}

fn entries(name: &str, limits: Limits) -> u32 {
    match name {
        "SERVICES" => buckets_for(limits.services),
        "ROTATIONS" => limits.services,
        "RING" => limits.ring_slots.div_ceil(SLOTS_PER_LINE),
        "FLOWS" => limits.flows,
        // Openings wait here for their flow's next packet, a round trip at most.
        "HALF_OPEN" => limits.flows.div_ceil(4),
        "FLOW_NEWS" => FLOW_NEWS_BYTES,
        "FRAGMENTS" => FRAGMENTS_MAX,
        "VIRTUAL_MACS" => 2 * lb_common::layout::VirtualMacs::PLACES,
        "FLOW_NEWS_LOST" | "HEARTBEAT" | "PREDECESSOR" => 1,
        "REJECT_PACE" => u32::try_from(Bucket::ALL.len()).unwrap_or(u32::MAX),
        "ECHO_COUNTERS" => u32::try_from(Outcome::ALL.len()).unwrap_or(u32::MAX),
        "REASON_COUNTERS" => u32::try_from(Reason::ALL.len()).unwrap_or(u32::MAX),
        "RECORD_COUNTERS" => u32::try_from(Stage::ALL.len()).unwrap_or(u32::MAX),
        _ => limits.backends,
    }
}

/// aya takes a pinned map of other sizes without a word, so they are compared here.
fn check(directory: &Path, limits: Limits, maps: &[(&str, u32)]) -> Result<(), Error> {
    for &(name, size) in maps {
        let info = MapInfo::from_pin(directory.join(name))
            .map_err(|error| Error::from_load(name, &error))?;
        let (found, wanted) =
            ((info.max_entries(), info.value_size()), (entries(name, limits), size));
        if found != wanted {
            return Err(Error::Refused {
                what: format!("the pinned table {name}"),
                cause: format!(
                    "it has {} entries of {} bytes, not {} of {}; `weir detach` removes it",
                    found.0, found.1, wanted.0, wanted.1
                ),
            });
        }
    }
    Ok(())
}

fn pinned(directory: &Path, name: &str) -> Result<MapData, Error> {
    MapData::from_pin(directory.join(name)).map_err(|error| Error::from_load(name, &error))
}
