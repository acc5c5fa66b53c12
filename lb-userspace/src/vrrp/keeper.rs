//! Keeps the addresses where they belong: puts them on, takes them off, and mends what somebody
//! else changes. Tells what the kernel says of the interfaces as it changes.
//!
//! A task of its own: the kernel may take its time (a route table that is being rewritten holds
//! the same lock), and adverts must not wait for it.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use rtnetlink::MulticastGroup;
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep_until},
};

use super::{
    announce::{Mac, is_virtual_mac},
    track::LinkFacts,
};
use crate::{
    config::Prefix,
    netlink::{Error, Kernel, LinkReport, NewsSocket},
};

/// Changes that bear on addresses and interfaces.
const GROUPS: [MulticastGroup; 3] =
    [MulticastGroup::Link, MulticastGroup::Ipv4Ifaddr, MulticastGroup::Ipv6Ifaddr];
/// Between attempts to mend one address: whoever works against us shall not fill the log.
const MEND_PAUSE: Duration = Duration::from_secs(1);
/// The pause before netlink is opened anew after a failure.
const REOPEN: Duration = Duration::from_secs(1);

/// An address on an interface.
pub(super) type Place = (String, Prefix);

/// What is to be with an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wanted {
    /// It is there.
    On,
    /// It is not there, whoever put it there.
    Off,
    /// It is not there if it is ours: the owner's own address stays.
    OffIfOurs,
    /// It is taken off once: it is no longer configured, and what happens to it later is not ours.
    Dropped,
}

/// An interface of a virtual router's own, on top of another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct VirtualLink {
    /// The other.
    pub(super) parent: String,
    /// Its Ethernet address.
    pub(super) mac: Mac,
}

/// What the keeper is to do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Orders {
    /// The interfaces that matter.
    pub(super) interfaces: BTreeSet<String>,
    /// Virtual routers' own interfaces by name; those without anything are not to be there.
    pub(super) links: BTreeMap<String, Option<VirtualLink>>,
    /// The addresses.
    pub(super) addresses: BTreeMap<Place, Wanted>,
}

/// What the keeper tells beside the facts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mended {
    /// Where.
    pub(super) place: Place,
    /// What was done or could not be done, for people.
    pub(super) what: String,
}

/// The task.
#[derive(Debug)]
pub(super) struct Keeper {
    pub(super) orders: watch::Receiver<Orders>,
    pub(super) facts: watch::Sender<Option<BTreeMap<String, LinkFacts>>>,
    pub(super) mended: mpsc::Sender<Mended>,
    /// What we have put on or found as wanted.
    ours: BTreeSet<Place>,
    /// What was dropped and done with.
    dropped: BTreeSet<Place>,
    /// When each place may be mended again, and be spoken of.
    patience: BTreeMap<Place, Instant>,
    /// When to look again although nothing was heard.
    again: Option<Instant>,
}

impl Keeper {
    pub(super) fn new(
        orders: watch::Receiver<Orders>,
        facts: watch::Sender<Option<BTreeMap<String, LinkFacts>>>,
        mended: mpsc::Sender<Mended>,
    ) -> Self {
        let (ours, dropped, patience) = (BTreeSet::new(), BTreeSet::new(), BTreeMap::new());
        Self { orders, facts, mended, ours, dropped, patience, again: None }
    }

    /// Works until nobody gives orders any more.
    pub(super) async fn run(mut self) {
        loop {
            match self.keep().await {
                Ok(()) => return,
                Err(error) => {
                    tracing::warn!(%error, "lost touch with the kernel's addresses; trying again");
                }
            }
            tokio::time::sleep(REOPEN).await;
        }
    }

    async fn keep(&mut self) -> Result<(), Error> {
        // News first, so that no change falls in between.
        let mut news = NewsSocket::open(&GROUPS)?;
        let kernel = Kernel::open()?;
        loop {
            let orders = self.orders.borrow_and_update().clone();
            self.again = None;
            if !orders.interfaces.is_empty() {
                self.look(&kernel, &orders).await?;
            }
            tokio::select! {
                changed = self.orders.changed() => if changed.is_err() {
                    return Ok(());
                },
                news = news.changed(), if !orders.interfaces.is_empty() => news?,
                () = sleep_until(self.again.unwrap_or_else(Instant::now)), if self.again.is_some() => {}
            }
        }
    }

    /// Reads how things are, tells it, and makes them as they are to be.
    async fn look(&mut self, kernel: &Kernel, orders: &Orders) -> Result<(), Error> {
        let mut links = kernel.links().await?;
        if self.settle_links(kernel, orders, &links).await? {
            links = kernel.links().await?;
        }
        let addresses = kernel.addresses().await?;
        let facts: BTreeMap<String, LinkFacts> = links
            .into_iter()
            .filter(|link| orders.interfaces.contains(&link.name))
            .map(|link| {
                let here = addresses.iter().filter(|(index, _)| *index == link.index);
                let addresses = here.map(|(_, prefix)| *prefix).collect();
                let (index, mac, up) = (link.index, link.mac, link.up);
                (link.name, LinkFacts { index, mac, up, addresses })
            })
            .collect();
        for (place, wanted) in &orders.addresses {
            let (interface, prefix) = place;
            let Some(link) = facts.get(interface) else {
                self.ours.remove(place);
                continue;
            };
            // With another prefix length it answers just as well, or as badly.
            let there = link.addresses.iter().find(|each| each.address == prefix.address);
            self.settle(kernel, place, *wanted, link, there.copied()).await?;
        }
        self.forget(orders);
        self.facts.send_if_modified(|known| {
            let changed = known.as_ref() != Some(&facts);
            *known = Some(facts);
            changed
        });
        Ok(())
    }

    /// Makes virtual routers' interfaces, and removes them; returns whether anything changed.
    async fn settle_links(
        &mut self,
        kernel: &Kernel,
        orders: &Orders,
        links: &[LinkReport],
    ) -> Result<bool, Error> {
        let mut changed = false;
        let find = |name: &str| links.iter().find(|link| link.name == name);
        for (name, wanted) in &orders.links {
            let outcome = match (wanted, find(name)) {
                (Some(VirtualLink { parent, mac }), None) => {
                    let Some(below) = find(parent) else { continue };
                    kernel.add_virtual_link(name, *mac, (parent, below.index)).await
                }
                // Another's of this name, if there can be such a thing, is none of our business.
                (None, Some(link)) if is_virtual_mac(link.mac) => {
                    kernel.remove_link(link.index).await
                }
                _ => continue,
            };
            match outcome {
                Ok(()) => changed = true,
                Err(Error::Refused { what, cause }) => {
                    let of = |place: &&Place| place.0 == *name;
                    if let Some(place) = orders.addresses.keys().find(of)
                        && self.may_mend(place)
                    {
                        self.tell(place, format!("the kernel refused to {what}: {cause}"));
                    }
                    self.wake_at(Instant::now() + MEND_PAUSE);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(changed)
    }

    /// Makes one address as it is to be.
    async fn settle(
        &mut self,
        kernel: &Kernel,
        place: &Place,
        wanted: Wanted,
        link: &LinkFacts,
        there: Option<Prefix>,
    ) -> Result<(), Error> {
        if wanted != Wanted::Dropped {
            self.dropped.remove(place);
        }
        let ours = self.ours.contains(place);
        let outcome = match (wanted, there) {
            (Wanted::On, None) => {
                // Ours and gone: somebody took it off. On a link that is down it cannot be kept.
                if ours && !self.may_mend(place) {
                    return Ok(());
                }
                let outcome = kernel.add_address(link.index, place.1).await;
                if ours && outcome.is_ok() {
                    self.tell(place, format!("put back on {}: something removed it", place.0));
                }
                outcome
            }
            (Wanted::Off, Some(there)) => {
                if !ours && !self.may_mend(place) {
                    return Ok(());
                }
                let outcome = kernel.remove_address(link.index, there).await;
                if !ours && outcome.is_ok() {
                    let interface = &place.0;
                    let what = format!("taken off {interface}: this node is not the master");
                    self.tell(place, what);
                }
                outcome
            }
            (Wanted::OffIfOurs, Some(there)) if ours => {
                kernel.remove_address(link.index, there).await
            }
            (Wanted::Dropped, Some(there)) if !self.dropped.contains(place) => {
                kernel.remove_address(link.index, there).await
            }
            _ => Ok(true),
        };
        match outcome {
            Ok(_) => {
                match wanted {
                    // An owner's address that was there before is not ours.
                    Wanted::On if there.is_none() => drop(self.ours.insert(place.clone())),
                    Wanted::On => {}
                    _ => drop(self.ours.remove(place)),
                }
                if wanted == Wanted::Dropped {
                    self.dropped.insert(place.clone());
                }
                Ok(())
            }
            Err(Error::Refused { what, cause }) => {
                if self.may_mend(place) {
                    self.tell(place, format!("the kernel refused to {what}: {cause}"));
                }
                self.wake_at(Instant::now() + MEND_PAUSE);
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// Whether a place has its turn to be mended; if not, it is looked at again when it has.
    fn may_mend(&mut self, place: &Place) -> bool {
        let now = Instant::now();
        match self.patience.get(place) {
            Some(until) if now < *until => {
                let until = *until;
                self.wake_at(until);
                false
            }
            _ => {
                self.patience.insert(place.clone(), now + MEND_PAUSE);
                true
            }
        }
    }

    fn wake_at(&mut self, when: Instant) {
        self.again = Some(self.again.map_or(when, |again| again.min(when)));
    }

    fn tell(&self, place: &Place, what: String) {
        // A full queue has enough to tell.
        let _ = self.mended.try_send(Mended { place: place.clone(), what });
    }

    /// Forgets what no order speaks of.
    fn forget(&mut self, orders: &Orders) {
        self.ours.retain(|place| orders.addresses.contains_key(place));
        self.dropped.retain(|place| orders.addresses.contains_key(place));
        self.patience.retain(|place, _| orders.addresses.contains_key(place));
    }
}
