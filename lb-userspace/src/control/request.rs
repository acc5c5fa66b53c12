//! What the servers ask of the daemon, and how they hear of events.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::sync::{broadcast, mpsc, oneshot};

use crate::{
    core::{Command, CommandError, Event, ExplainRequest, Explanation, Plan, Status},
    vrrp::VrrpCommand,
};

/// A question to the daemon's one task, with the place for its answer.
#[derive(Debug)]
pub enum Request {
    /// The whole state.
    Status(oneshot::Sender<Status>),
    /// A change to a backend. The answer is one sentence on what was done.
    Command(Command, oneshot::Sender<Result<String, CommandError>>),
    /// What that change would move.
    Plan(Command, oneshot::Sender<Result<Plan, CommandError>>),
    /// A wish to VRRP. The answer is one sentence on what was done.
    Vrrp(VrrpCommand, oneshot::Sender<Result<String, CommandError>>),
    /// Where a flow goes.
    Explain(ExplainRequest, oneshot::Sender<Explanation>),
    /// Read the configuration anew. The answer is one sentence on what changed, or every fault.
    Reload(oneshot::Sender<Result<String, Vec<String>>>),
}

/// The way to the daemon, cloned into every connection.
#[derive(Debug, Clone)]
pub struct Handle {
    /// Questions; bounded, so that a flood of them waits instead of growing.
    pub requests: mpsc::Sender<Request>,
    /// What happened.
    pub events: EventLog,
}

/// The latest events, and a feed of those to come.
#[derive(Debug, Clone)]
pub struct EventLog {
    recent: Arc<Mutex<VecDeque<Arc<Event>>>>,
    feed: broadcast::Sender<Arc<Event>>,
}

/// How many events are kept for `weir events`, and how far a follower may fall behind.
const EVENTS_KEPT: usize = 1024;

impl Default for EventLog {
    fn default() -> Self {
        Self {
            recent: Arc::new(Mutex::new(VecDeque::with_capacity(EVENTS_KEPT))),
            feed: broadcast::Sender::new(EVENTS_KEPT),
        }
    }
}

impl EventLog {
    /// Adds an event and wakes the followers.
    pub fn publish(&self, event: Event) {
        let event = Arc::new(event);
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        if recent.len() == EVENTS_KEPT {
            recent.pop_front();
        }
        recent.push_back(Arc::clone(&event));
        // Within the lock, so that a follower that subscribes sees each event exactly once. An
        // error means that nobody follows.
        let _ = self.feed.send(event);
    }

    /// The events kept, oldest first, and the feed of all that come after them.
    pub fn subscribe(&self) -> (Vec<Arc<Event>>, broadcast::Receiver<Arc<Event>>) {
        let recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        (recent.iter().cloned().collect(), self.feed.subscribe())
    }
}
