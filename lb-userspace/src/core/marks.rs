//! What the program asks of VIPs besides their services: each a place in the service table, under a
//! protocol that no service has. In place of a ring stands a word of its own.

use std::{collections::BTreeMap, net::IpAddr};

use lb_common::{
    fragment, icmp,
    layout::{RingSpan, ServiceKey, ServiceMeta},
    steer::Tables,
};

use super::{
    Core, Write,
    apply::full,
    places::{Place, Places},
};
use crate::config::{Algorithm, Fragments, Protocol, Service as Spec};

/// What holds of a VIP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Mark {
    /// Its echo requests are answered.
    Ping(IpAddr),
    /// Fragments of this protocol may be some service's.
    Fragments(IpAddr, Protocol),
}

/// Where a mark stands, and what is said of it there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Standing {
    pub(super) place: Place,
    word: u64,
}

/// All of them.
pub(super) type Marks = BTreeMap<Mark, Standing>;

impl Mark {
    pub(super) fn key(self) -> ServiceKey {
        match self {
            Self::Ping(IpAddr::V4(v4)) => icmp::echo_key(v4.octets()),
            Self::Ping(IpAddr::V6(v6)) => icmp::echo_key_ipv6(v6.octets()),
            Self::Fragments(IpAddr::V4(v4), protocol) => {
                fragment::key_ipv4(v4.octets(), protocol.number())
            }
            Self::Fragments(IpAddr::V6(v6), protocol) => {
                fragment::key_ipv6(v6.octets(), protocol.number())
            }
        }
    }

    fn write(self, Standing { place, word }: Standing) -> Write {
        Write::Service { place, key: self.key(), ring: word, meta: ServiceMeta::default() }
    }
}

impl Core {
    /// Has the program find the marks that services want, and no others.
    pub(super) fn apply_marks(&mut self) -> Result<(), String> {
        let wanted = self.wanted_marks();
        let gone: Vec<Mark> =
            self.marks.keys().filter(|mark| !wanted.contains_key(mark)).copied().collect();
        for mark in gone {
            if let Some(Standing { place, .. }) = self.marks.remove(&mark) {
                self.places.remove(mark.key());
                self.write(Write::ServiceGone(place));
            }
        }
        for (mark, word) in wanted {
            let place = match self.marks.get(&mark) {
                Some(standing) if standing.word == word => continue,
                Some(standing) => {
                    let place = standing.place;
                    self.write(Write::ServiceRing(place, word));
                    place
                }
                None => {
                    let Some(place) = self.make_place(mark.key()) else {
                        self.lack(mark)?;
                        continue;
                    };
                    self.write(mark.write(Standing { place, word }));
                    place
                }
            };
            self.marks.insert(mark, Standing { place, word });
        }
        Ok(())
    }

    /// Takes over the entries that an earlier run has left in these very tables.
    pub(super) fn adopt_marks(&mut self, theirs: &Places, tables: &dyn Tables) {
        for (mark, word) in self.wanted_marks() {
            if let Some((place, _)) = theirs.find(mark.key(), RingSpan::from_word(word), tables) {
                self.places.adopt(mark.key(), place);
                self.marks.insert(mark, Standing { place, word });
            }
        }
    }

    /// Who stands at a place has another one from now on.
    pub(super) fn move_mark(&mut self, from: Place, to: Place) -> Option<Write> {
        let (mark, standing) = self.marks.iter_mut().find(|(_, each)| each.place == from)?;
        standing.place = to;
        Some(mark.write(*standing))
    }

    /// There is no place for a mark, which happens in the smallest of tables.
    fn lack(&mut self, mark: Mark) -> Result<(), String> {
        match mark {
            Mark::Ping(_) => Err(full("services")),
            Mark::Fragments(address, protocol) => {
                self.notice(format!(
                    "fragments of {protocol} for {address} are not forwarded: {}",
                    full("services")
                ));
                Ok(())
            }
        }
    }

    fn wanted_marks(&self) -> BTreeMap<Mark, u64> {
        let services = &self.config.services;
        let pings = services.iter().filter(|spec| spec.ping).map(|spec| Mark::Ping(spec.address));
        let fragments = |spec: &Spec| Mark::Fragments(spec.address, spec.protocol);
        let follow = services.iter().map(fragments);
        let any = services.iter().filter(|spec| spec.fragments == Fragments::Any);
        // The last word of a mark holds.
        let nothing = pings.chain(follow).map(|mark| (mark, 0));
        nothing.chain(any.map(|spec| (fragments(spec), any_word(spec)))).collect()
    }
}

/// What the program reads of a service that takes any fragments.
fn any_word(spec: &Spec) -> u64 {
    let port = u16::from_le_bytes(spec.port.to_be_bytes());
    fragment::any_word(port, spec.algorithm != Algorithm::IpHash)
}
