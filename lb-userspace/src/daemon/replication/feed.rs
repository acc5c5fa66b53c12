//! Everything there is to say to a peer, said part by part as it takes it.

use std::{collections::VecDeque, io, sync::Arc};

use tracing::{error, warn};

use super::{Daemon, FLOWS_BATCH, Replication};
use crate::{
    config::Name,
    core::KernelFlow,
    sync::{Message, Role, SessionId},
};

/// Everything that is to be said to one peer, part by part, as it takes it.
#[derive(Debug, Default)]
pub(super) struct Feed {
    changes: bool,
    services: VecDeque<Name>,
    /// The next slot of the first of them.
    position: u32,
    flows: FlowsFeed,
}

#[derive(Debug, Default)]
pub(super) enum FlowsFeed {
    #[default]
    None,
    Wanted,
    Coming,
    Here(std::vec::IntoIter<KernelFlow>),
}

impl Daemon {
    /// Says all flows anew if the kernel had more news of them than it could keep for us.
    pub(super) fn look_for_lost_flows(&mut self) {
        let lost = self.tables.counters.lost_flow_news();
        let Some(replication) = &mut self.replication else { return };
        if std::mem::replace(&mut replication.lost, lost) >= lost {
            return;
        }
        warn!("flows are recorded faster than they are read: peers are told all of them anew");
        let sessions = replication.peers.established();
        for id in &sessions {
            if let Some(link) = replication.links.get_mut(id) {
                link.feed.get_or_insert_default().flows = FlowsFeed::Wanted;
            }
            replication.counts.snapshots += 1;
        }
        for id in sessions {
            self.feed(id);
        }
    }

    pub(super) fn dumped(&mut self, id: SessionId, dump: io::Result<Vec<KernelFlow>>) {
        let flows = dump.unwrap_or_else(|error| {
            error!("reading the recorded flows failed: {error}");
            Vec::new()
        });
        let link = self.replication.as_mut().and_then(|r| r.links.get_mut(&id));
        if let Some(feed) = link.and_then(|link| link.feed.as_mut()) {
            feed.flows = FlowsFeed::Here(flows.into_iter());
            self.feed(id);
        }
    }

    pub(super) fn has_room(&mut self, id: SessionId) {
        let names = self.core.service_names();
        let Some(replication) = &mut self.replication else { return };
        let Some(link) = replication.links.get_mut(&id) else { return };
        if std::mem::take(&mut link.behind) {
            link.outbox.catch_up();
            replication.begin(id, Vec::new(), names);
        }
        self.feed(id);
    }

    /// Says more of what there is to say to a peer, as long as there is room.
    pub(super) fn feed(&mut self, id: SessionId) {
        loop {
            let Some(replication) = &mut self.replication else { return };
            let leads = !matches!(replication.peers.role(), Role::Follower(_));
            let Some(link) = replication.links.get_mut(&id) else { return };
            let Some(feed) = link.feed.as_mut() else { return };
            if link.behind || !link.outbox.has_room() {
                return;
            }
            let mut messages = Vec::new();
            if std::mem::take(&mut feed.changes) {
                messages = self.core.say_changes();
            } else if let Some(service) = feed.services.front().filter(|_| leads) {
                if feed.position == 0 {
                    messages = self.core.say_backends(service);
                }
                let slots = self.core.say_slots(service, feed.position);
                if let Some(Message::Slots(slots)) = slots {
                    feed.position += u32::try_from(slots.changes.len()).unwrap_or(u32::MAX);
                    messages.push(Message::Slots(slots));
                } else {
                    feed.services.pop_front();
                    feed.position = 0;
                }
            } else {
                if !self.feed_flows(id, leads) {
                    return;
                }
                continue;
            }
            let Some(replication) = &mut self.replication else { return };
            for message in &messages {
                replication.say(id, message);
            }
        }
    }

    /// Says some of the flows, the last of what there is to say; false if there is nothing more to
    /// say at the moment.
    fn feed_flows(&mut self, id: SessionId, leads: bool) -> bool {
        let Some(replication) = &mut self.replication else { return false };
        let Some(link) = replication.links.get_mut(&id) else { return false };
        let Some(feed) = link.feed.as_mut() else { return false };
        feed.services.clear();
        match &mut feed.flows {
            FlowsFeed::None => {
                link.feed = None;
                let asks = std::mem::take(&mut link.asks);
                replication.say(id, &Message::Done { leads });
                if asks {
                    replication.say(id, &Message::Wanted(Vec::new()));
                }
                false
            }
            FlowsFeed::Wanted => {
                feed.flows = FlowsFeed::Coming;
                let records = Arc::clone(&self.tables.records);
                let dumps = replication.dumps.0.clone();
                tokio::spawn(async move {
                    let dump = tokio::task::spawn_blocking(move || records.dump()).await;
                    let dump = dump.unwrap_or_else(|error| Err(io::Error::other(error)));
                    // Nobody listens any more when the daemon ends.
                    let _ = dumps.send((id, dump)).await;
                });
                false
            }
            FlowsFeed::Coming => false,
            FlowsFeed::Here(flows) => {
                let some: Vec<KernelFlow> = flows.by_ref().take(FLOWS_BATCH).collect();
                if some.is_empty() {
                    feed.flows = FlowsFeed::None;
                } else {
                    self.say_flows(&some, Some(id));
                }
                true
            }
        }
    }
}

impl Replication {
    /// Begins to say all flows, after which everything is asked for.
    pub(super) fn exchange(&mut self, id: SessionId) {
        let Some(link) = self.links.get_mut(&id) else { return };
        link.asks = true;
        link.feed.get_or_insert_default().flows = FlowsFeed::Wanted;
    }

    /// Begins to say these services, or everything there is.
    pub(super) fn begin(&mut self, id: SessionId, names: Vec<Name>, all: Vec<Name>) {
        let Some(link) = self.links.get_mut(&id) else { return };
        if names.is_empty() {
            self.counts.snapshots += 1;
            let flows = FlowsFeed::Wanted;
            link.feed = Some(Feed { changes: true, services: all.into(), position: 0, flows });
        } else {
            link.feed.get_or_insert_default().services.extend(names);
        }
    }
}
