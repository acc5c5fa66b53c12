//! Whose frames are steered beside the interface's own: those of virtual routers that it is the master
//! of.

use std::sync::Arc;

use lb_common::layout::VirtualMacs as Entry;

use super::mapped::Pages;

/// A virtual router on an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct VirtualRouter {
    /// The interface's index.
    pub interface: u32,
    /// Its family: each has Ethernet addresses of its own.
    pub ipv4: bool,
    /// Its id.
    pub router_id: u8,
}

/// The table of virtual routers, written while packets are read.
#[derive(Debug, Clone)]
pub struct VirtualMacs(Arc<Pages<Entry>>);

// === impl VirtualMacs ===

impl VirtualMacs {
    pub(super) fn new(pages: Pages<Entry>) -> Self {
        Self(Arc::new(pages))
    }

    /// Gives a place to an interface; what another one had there is forgotten.
    pub fn claim(&self, place: u32, interface: u32) {
        for family in 0..2 {
            let Some(entry) = self.0.get(place as usize * 2 + family) else { return };
            if entry.interface.load() != u64::from(interface) {
                entry.interface.store(0);
                entry.owned.iter().for_each(|word| word.store(0));
                entry.interface.store(interface.into());
            }
        }
    }

    /// Has the frames to these virtual routers steered, and to no others, from the next packet on.
    ///
    /// Interfaces without a place are passed over, and one may get its place after this was said:
    /// whoever knows the routers says it again now and then.
    pub fn set(&self, routers: &[VirtualRouter]) {
        let entries = (0..).map_while(|index| Some((index % 2 == 0, self.0.get(index)?)));
        for (ipv4, entry) in entries.filter(|(_, entry)| entry.interface.load() != 0) {
            let interface = entry.interface.load();
            let mut owned = [0_u64; 4];
            for router in routers {
                if u64::from(router.interface) == interface && router.ipv4 == ipv4 {
                    owned[usize::from(router.router_id >> 6)] |= 1 << (router.router_id & 63);
                }
            }
            for (word, bits) in entry.owned.iter().zip(owned) {
                if word.load() != bits {
                    word.store(bits);
                }
            }
        }
    }
}
