//! The tables of the run before, where they are not ours to adopt: of other sizes, or of another
//! layout. They are read, to fill new ones from, and never written.
//!
//! Layouts from [`OLDEST_READABLE`] on differ in words that the older ones leave zero, and in
//! tables that the older ones lack; so one way of reading serves them all.

use std::{io, path::Path};

use aya::maps::{MapData, MapInfo};
use lb_common::layout::{self, FlowRecord};

use super::{
    TablesId,
    batch::HashTable,
    error::Error,
    mapped::Mapped,
    sweep::{Key, Records, Value},
    tables,
};
use crate::config::Limits;

/// The oldest [`layout::VERSION`] that new tables can be filled from. From it on, versions add
/// words where the ones before leave zeros, and tables: zero means "as before". A change that
/// breaks this rule raises the number, or brings code here that translates.
///
/// Version 2 added the life of a backend, `FLOWS` and `HALF_OPEN`; version 3 `ROTATIONS` and
/// `LOADS`, version 4 `HEARTBEAT` and `ECHO_COUNTERS`, version 5 the beat in a record's marks,
/// version 6 `VIRTUAL_MACS`, version 7 more reasons, version 8 the tunnel in a backend's entry, and
/// more reasons, version 9 `REJECT_PACE`, version 10 `PREDECESSOR`
/// and another reason, version 11 one more, and a second bucket in `REJECT_PACE`,
/// version 12 `FRAGMENTS` and more reasons.
pub const OLDEST_READABLE: u32 = 1;

/// Tables to fill others from.
#[derive(Debug)]
pub struct Earlier {
    /// The tables that steering reads.
    pub mapped: Mapped,
    /// Their sizes.
    pub limits: Limits,
    half_open: Option<Readable>,
    confirmed: Option<Readable>,
}

/// Why tables cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum Unreadable {
    /// They are gone, as after a reboot.
    #[error("they are gone")]
    Gone,
    /// Their layout is not known.
    #[error("their layout is version {0}, this version of weir reads {1} to {2}")]
    Layout(u32, u32, u32),
    /// The kernel or their sizes say no.
    #[error(transparent)]
    Refused(#[from] Error),
}

/// A table of records, by the words of its values.
#[derive(Debug)]
enum Readable {
    Words4(HashTable<Key, [u32; 4]>),
    Words6(HashTable<Key, [u32; 6]>),
    Words8(HashTable<Key, [u32; 8]>),
}

// === impl Earlier ===

impl Earlier {
    /// Opens the tables of an id.
    ///
    /// # Errors
    ///
    /// [`Unreadable`]; then new tables start with nothing.
    pub fn open(id: &TablesId, bpf_dir: &Path) -> Result<Self, Unreadable> {
        let directory = id.directory(bpf_dir);
        if !directory.exists() {
            return Err(Unreadable::Gone);
        }
        if !(OLDEST_READABLE..=layout::VERSION).contains(&id.layout) {
            let (oldest, newest) = (OLDEST_READABLE, layout::VERSION);
            return Err(Unreadable::Layout(id.layout, oldest, newest));
        }
        Ok(Self {
            mapped: tables::map_arrays(&directory, id.limits)?,
            limits: id.limits,
            half_open: Readable::open(&directory.join("HALF_OPEN"))?,
            confirmed: Readable::open(&directory.join("FLOWS"))?,
        })
    }

    /// Copies the records of flows, and returns how many.
    ///
    /// # Errors
    ///
    /// The kernel's word.
    pub fn copy_records(&self, to: &Records) -> io::Result<u64> {
        let read = |table: &Option<Readable>| match table {
            Some(table) => table.read(),
            None => Ok(Vec::new()),
        };
        to.insert(&read(&self.half_open)?, &read(&self.confirmed)?)
    }
}

// === impl Readable ===

impl Readable {
    /// Opens a table; none, if a layout lacks it.
    fn open(path: &Path) -> Result<Option<Self>, Error> {
        if !path.exists() {
            return Ok(None);
        }
        let unknown = |error| Error::from_load(&path.display().to_string(), &error);
        let info = MapInfo::from_pin(path).map_err(unknown)?;
        let map = MapData::from_pin(path).map_err(unknown)?;
        match info.value_size() {
            16 => Ok(Some(Self::Words4(HashTable::new(map)?))),
            24 => Ok(Some(Self::Words6(HashTable::new(map)?))),
            32 => Ok(Some(Self::Words8(HashTable::new(map)?))),
            size => Err(Error::Refused {
                what: path.display().to_string(),
                cause: format!("its records of {size} bytes are of no known layout"),
            }),
        }
    }

    fn read(&self) -> io::Result<Vec<(Key, Value)>> {
        let mut entries = Vec::new();
        match self {
            Self::Words4(table) => table.for_each(|key, old| entries.push((*key, grown(old))))?,
            Self::Words6(table) => table.for_each(|key, old| entries.push((*key, grown(old))))?,
            Self::Words8(table) => table.for_each(|key, old| entries.push((*key, grown(old))))?,
        };
        Ok(entries)
    }
}

/// A record in today's size: what a layout adds is zero in those before it.
fn grown(old: &[u32]) -> Value {
    let mut value = Value::default();
    let known = old.len().min(size_of::<FlowRecord>() / size_of::<u32>());
    value[..known].copy_from_slice(&old[..known]);
    value
}
