//! VIPs whose echo requests the program answers: each a place in the service table, without a ring,
//! under the protocol ICMP.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use lb_common::{
    icmp,
    layout::{RingSpan, ServiceKey, ServiceMeta},
    steer::Tables,
};

use super::{
    Core, Write,
    apply::full,
    places::{Place, Places},
};

/// An entry needs none.
const NO_RING: RingSpan = RingSpan { base: 0, length: 0 };

/// Where each of the addresses stands.
pub(super) type Pings = BTreeMap<IpAddr, Place>;

fn key(address: IpAddr) -> ServiceKey {
    match address {
        IpAddr::V4(v4) => icmp::echo_key(v4.octets()),
        IpAddr::V6(v6) => icmp::echo_key_ipv6(v6.octets()),
    }
}

impl Core {
    /// Has the program answer for the addresses for which a service wants it, and for no others.
    pub(super) fn apply_pings(&mut self) -> Result<(), String> {
        let services = self.config.services.iter();
        let wanted: BTreeSet<IpAddr> =
            services.filter(|spec| spec.ping).map(|spec| spec.address).collect();
        let gone: Vec<IpAddr> =
            self.pings.keys().filter(|address| !wanted.contains(address)).copied().collect();
        for address in gone {
            if let Some(place) = self.pings.remove(&address) {
                self.places.remove(key(address));
                self.write(Write::ServiceGone(place));
            }
        }
        for address in wanted {
            if !self.pings.contains_key(&address) {
                let key = key(address);
                let place = self.make_place(key).ok_or_else(|| full("services"))?;
                let (ring, meta) = (NO_RING.to_word(), ServiceMeta::default());
                self.write(Write::Service { place, key, ring, meta });
                self.pings.insert(address, place);
            }
        }
        Ok(())
    }

    /// Takes over the entries that an earlier run has left in these very tables.
    pub(super) fn adopt_pings(&mut self, theirs: &Places, tables: &dyn Tables) {
        let services = self.config.services.iter();
        let wanted: BTreeSet<IpAddr> =
            services.filter(|spec| spec.ping).map(|spec| spec.address).collect();
        for address in wanted {
            if let Some((place, _)) = theirs.find(key(address), NO_RING, tables) {
                self.places.adopt(key(address), place);
                self.pings.insert(address, place);
            }
        }
    }

    /// Who stands at a place has another one from now on.
    pub(super) fn move_ping(&mut self, from: Place, to: Place) -> Option<Write> {
        let (address, place) = self.pings.iter_mut().find(|(_, place)| **place == from)?;
        *place = to;
        let (ring, meta) = (NO_RING.to_word(), ServiceMeta::default());
        Some(Write::Service { place: to, key: key(*address), ring, meta })
    }
}
