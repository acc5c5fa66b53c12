//! What waits to be sent to one peer: bounded, and never short of anything silently.
//!
//! A peer that takes too little finds its queue emptied of tables and flows. It is *behind* then:
//! nothing of the kind is queued for it any more, until all that is left has been sent and it is
//! told everything anew.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::Notify;

use super::{error::Error, packet::Message};

/// Bytes that may wait.
const BYTES_MAX: usize = 8 << 20;
/// With less than this waiting there is room for more of what can wait elsewhere.
const ROOM: usize = 1 << 20;

/// The two ends of one queue.
#[derive(Debug, Clone)]
pub struct Outbox(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    queue: Mutex<Queue>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct Queue {
    frames: VecDeque<Frame>,
    bytes: usize,
    behind: bool,
    /// Somebody waits for room.
    wanted: bool,
    closed: Option<Closing>,
}

/// That the connection is to end, and for which reason of ours, if it has one.
#[derive(Debug)]
struct Closing(Option<Error>);

/// An encoded message. Cheap to clone: it may go to several peers.
#[derive(Debug, Clone)]
pub struct Frame {
    bytes: Arc<[u8]>,
    /// Whether it is part of what a peer that is behind is told anew.
    repeatable: bool,
}

/// What the sending end is to do next.
#[derive(Debug)]
pub(super) enum Next {
    /// Send these, and tell whether there is room again.
    Send(Vec<Arc<[u8]>>, bool),
    /// End, for this reason if it is ours.
    Close(Option<Error>),
}

// === impl Frame ===

impl Frame {
    /// Encodes a message; nothing if it is too large, which no message that we make is.
    pub fn new(message: &Message) -> Option<Self> {
        let repeatable = matches!(
            message,
            Message::Slots(_)
                | Message::Backends(_)
                | Message::Flows(_)
                | Message::Change(_)
                | Message::Done { .. }
        );
        let bytes = message.encode().inspect_err(|error| tracing::error!("{error}")).ok()?;
        Some(Self { bytes: bytes.into(), repeatable })
    }
}

// === impl Outbox ===

impl Outbox {
    pub(super) fn new() -> Self {
        Self(Arc::new(Shared { queue: Mutex::default(), changed: Notify::new() }))
    }

    /// Queues a frame. False if the peer is behind, from this frame on or already: it must be told
    /// everything once there is room.
    pub fn push(&self, frame: Frame) -> bool {
        let mut queue = self.lock();
        if queue.behind && frame.repeatable {
            return false;
        }
        queue.bytes += frame.bytes.len();
        queue.frames.push_back(frame);
        if queue.bytes > BYTES_MAX {
            queue.behind = true;
            queue.wanted = true;
            queue.frames.retain(|frame| !frame.repeatable);
            queue.bytes = queue.frames.iter().map(|frame| frame.bytes.len()).sum();
            if queue.bytes > BYTES_MAX {
                queue.closed.get_or_insert(Closing(Some(Error::Greedy)));
            }
        }
        let kept = !queue.behind;
        drop(queue);
        self.0.changed.notify_one();
        kept
    }

    /// Whether there is room for more of what can wait; if not, word comes when there is.
    pub fn has_room(&self) -> bool {
        let mut queue = self.lock();
        let room = !queue.behind && queue.bytes < ROOM;
        queue.wanted |= !room;
        room
    }

    /// Takes the peer for up to date again: it is about to be told everything.
    pub fn catch_up(&self) {
        self.lock().behind = false;
    }

    /// Ends the connection.
    pub fn close(&self, why: Option<Error>) {
        self.lock().closed.get_or_insert(Closing(why));
        self.0.changed.notify_one();
    }

    /// Waits for something to do; up to so many bytes at once. Cancel safe.
    pub(super) async fn next(&self, bytes_max: usize) -> Next {
        loop {
            if let Some(next) = self.take(bytes_max) {
                return next;
            }
            self.0.changed.notified().await;
        }
    }

    fn take(&self, bytes_max: usize) -> Option<Next> {
        let mut queue = self.lock();
        if let Some(Closing(why)) = queue.closed.as_mut() {
            return Some(Next::Close(why.take()));
        }
        let mut frames = Vec::new();
        let mut bytes = 0;
        while bytes < bytes_max
            && let Some(frame) = queue.frames.pop_front()
        {
            bytes += frame.bytes.len();
            frames.push(frame.bytes);
        }
        queue.bytes -= bytes;
        let low = queue.bytes < ROOM / 2 && (!queue.behind || queue.frames.is_empty());
        let room = queue.wanted && low;
        if room {
            queue.wanted = false;
        }
        (room || !frames.is_empty()).then_some(Next::Send(frames, room))
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.0.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    fn bulk() -> Frame {
        let mut frame = Frame::new(&Message::Done { leads: true }).unwrap();
        frame.bytes = vec![0; 50_000].into();
        frame
    }

    fn beat() -> Frame {
        Frame::new(&Message::Ack { sequence: 1 }).unwrap()
    }

    fn sent(outbox: &Outbox) -> (usize, bool) {
        let (mut frames, mut room) = (0, false);
        while let Some(Next::Send(some, more)) = outbox.take(1 << 16) {
            frames += some.len();
            room |= more;
        }
        (frames, room)
    }

    #[test]
    fn a_peer_that_takes_nothing_costs_no_more_than_the_bound_and_is_behind() {
        let outbox = Outbox::new();
        assert!(outbox.push(beat()));
        let kept = (0..10_000).take_while(|_| outbox.push(bulk())).count();
        assert!((100..200).contains(&kept), "{kept}");
        assert!(!outbox.push(bulk()), "behind is behind until it is told everything");
        outbox.push(beat());
        assert!(outbox.lock().bytes < 1000);
        assert_eq!(sent(&outbox), (2, true), "beats go on, and word comes that there is room");
        outbox.catch_up();
        assert!(outbox.push(bulk()));
    }

    #[test]
    fn whoever_waits_for_room_hears_of_it_once() {
        let outbox = Outbox::new();
        while outbox.has_room() {
            assert!(outbox.push(bulk()));
        }
        let (frames, room) = sent(&outbox);
        assert!(frames > 10 && room);
        assert!(outbox.has_room());
        outbox.push(bulk());
        assert_eq!(sent(&outbox), (1, false));
    }

    #[test]
    fn a_closed_queue_says_why_once() {
        let outbox = Outbox::new();
        outbox.push(beat());
        outbox.close(Some(Error::Key));
        outbox.close(Some(Error::Garbage));
        assert!(matches!(outbox.take(1), Some(Next::Close(Some(Error::Key)))));
    }
}
