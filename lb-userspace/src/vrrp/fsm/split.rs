//! Two routers that have the addresses at once (split brain): what shows it, and when it is over.
//!
//! Weir's balancers send a flow to the same backend, so this breaks nothing by itself; but something
//! is wrong between the two, and whoever operates them is to know at once. It never decides who is
//! the master.
//!
//! What must not be taken for it:
//!
//! - *A change of masters.* An advert of the one before may cross the new one's first: that one is
//!   given an interval to be heard.
//! - *Packets that are late.* After a change, hosts and switches need a moment to learn it.

use std::{net::IpAddr, time::Duration};

use super::{Fsm, Master, Output, Peer, Role, Split};
use crate::vrrp::packet::{Advert, PRIORITY_LEAVING};

/// How long packets may go on arriving at a router that is no longer the master: the time of all
/// announcements, and of a host that takes them in late.
const LATE_PACKETS: Duration = Duration::from_secs(3);
/// How often in a row packets must have arrived.
const ARRIVALS: u32 = 2;
/// How long a sign of packets lasts: a little more than the time between two looks.
const PACKETS_LAST: Duration = Duration::from_secs(3);
/// A sign of adverts lasts for so many intervals, as a master does that is not heard any more.
const ADVERTS_LAST: u32 = 3;

/// What is known of other masters.
#[derive(Debug, Clone, Default)]
pub(super) struct Watch {
    /// Of the masters that a backup hears, the one that goes first.
    first: Option<Heard>,
    adverts: Option<Sign>,
    packets: Option<Sign>,
    /// How often in a row packets have arrived.
    arrivals: u32,
}

#[derive(Debug, Clone, Copy)]
struct Heard {
    peer: Peer,
    last: Duration,
    interval: Duration,
    /// When a master that goes after it was first heard beside it.
    beside: Option<Duration>,
}

#[derive(Debug, Clone, Copy)]
struct Sign {
    split: Split,
    until: Duration,
}

impl Watch {
    /// When the first sign ends if it is not seen again.
    pub(super) fn deadline(&self) -> Option<Duration> {
        self.signs().map(|sign| sign.until).min()
    }

    fn signs(&self) -> impl Iterator<Item = Sign> {
        [self.adverts, self.packets].into_iter().flatten()
    }
}

impl Fsm {
    /// What shows at the moment that two routers have the addresses.
    pub fn splits(&self) -> impl Iterator<Item = Split> {
        self.watch.signs().map(|sign| sign.split)
    }

    /// Whether an advert shows a second master.
    pub(super) fn compare_masters(
        &mut self,
        from: IpAddr,
        advert: &Advert,
        now: Duration,
        out: &mut Vec<Output>,
    ) {
        let peer = Peer { address: from, priority: advert.priority };
        if advert.priority == PRIORITY_LEAVING {
            self.watch.first = self.watch.first.filter(|first| first.peer.address != from);
            if self.watch.adverts.is_some_and(|sign| sign.split.other() == Some(from)) {
                out.extend(self.watch.adverts.take().map(|sign| Output::SplitOver(sign.split)));
            }
            return;
        }
        let split = match &self.role {
            Role::Master(Master { since, leaving: None, .. }) => {
                let heard = now > *since + self.settings.interval;
                (heard && self.outranks(peer)).then_some(Split::WithUs(peer))
            }
            Role::Backup(_) => self.watch.second_master(peer, advert.interval, now),
            Role::Master(_) | Role::Fault(_) => None,
        };
        if let Some(split) = split {
            let interval = self.settings.interval.max(advert.interval);
            raise(&mut self.watch.adverts, split, now + interval * ADVERTS_LAST, out);
        }
    }

    /// Whether packets for the addresses show that somebody takes us for their owner.
    pub(super) fn packets_arrive(&mut self, packets: u64, now: Duration, out: &mut Vec<Output>) {
        let Role::Backup(backup) = &self.role else { return };
        // While leftovers are on, this router may well be the only one.
        if packets == 0 || backup.leftovers || now < backup.since + LATE_PACKETS {
            self.watch.arrivals = 0;
            return;
        }
        self.watch.arrivals = (self.watch.arrivals + 1).min(ARRIVALS);
        if self.watch.arrivals == ARRIVALS {
            let split = Split::Packets(backup.master.map(|master| master.address));
            raise(&mut self.watch.packets, split, now + PACKETS_LAST, out);
        }
    }

    /// Ends the signs whose time is up.
    pub(super) fn end_old_splits(&mut self, now: Duration, out: &mut Vec<Output>) {
        for sign in [&mut self.watch.adverts, &mut self.watch.packets] {
            if sign.is_some_and(|sign| now >= sign.until) {
                out.extend(sign.take().map(|sign| Output::SplitOver(sign.split)));
            }
        }
    }

    /// Ends all of them: the state is another, and what they said of it is void.
    pub(super) fn end_splits(&mut self, out: &mut Vec<Output>) {
        let watch = std::mem::take(&mut self.watch);
        out.extend(watch.signs().map(|sign| Output::SplitOver(sign.split)));
    }
}

impl Watch {
    /// What a backup makes of a master's advert.
    fn second_master(&mut self, peer: Peer, interval: Duration, now: Duration) -> Option<Split> {
        match &mut self.first {
            Some(first) if first.peer.address == peer.address => {
                (first.peer, first.last, first.interval) = (peer, now, interval);
                None
            }
            Some(first) if now <= first.last + first.interval * 2 && first.peer.outranks(peer) => {
                // Who is preempted may be heard once more, and then has heard the other.
                let beside = *first.beside.get_or_insert(now);
                (first.last > beside).then_some(Split::Others(first.peer, peer))
            }
            first => {
                *first = Some(Heard { peer, last: now, interval, beside: None });
                None
            }
        }
    }
}

/// Sees a sign, and tells of it unless that was done: whoever makes adverts up shall not fill the
/// log.
fn raise(place: &mut Option<Sign>, split: Split, until: Duration, out: &mut Vec<Output>) {
    if let Some(sign) = place {
        sign.until = until;
    } else {
        *place = Some(Sign { split, until });
        out.push(Output::Split(split));
    }
}
