//! `GET /v1/events`: the events kept, and the stream of those to come.
//!
//! A follower that reads too slowly loses events, never holds them up: it gets a line
//! `{"event":"missed","missed":N}` in place of those that it did not see.

use std::sync::Arc;

use futures_util::stream;
use hyper::{StatusCode, body::Bytes};
use serde_json::json;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, broadcast, watch};

use super::EventLog;
use crate::{
    core::Event,
    http::{Failure, Response, body},
};

/// The events kept, oldest first.
pub(super) fn kept(events: &EventLog) -> Response {
    let (kept, _feed) = events.subscribe();
    body::lines(kept.iter().map(|event| body::line(event.as_ref())))
}

/// The events kept and all to come, until the client leaves or the server stops.
///
/// # Errors
///
/// 503 if `followers` has no place left.
pub(super) fn followed(
    events: &EventLog,
    followers: Arc<Semaphore>,
    stop: watch::Receiver<bool>,
) -> Result<Response, Failure> {
    let Ok(place) = followers.try_acquire_owned() else {
        let message = "too many follow the events already; end one of them";
        return Err(Failure::new(StatusCode::SERVICE_UNAVAILABLE, "busy", message));
    };
    let (kept, feed) = events.subscribe();
    let follower = Follower { kept: kept.into_iter(), feed, stop, _place: place };
    Ok(body::stream_lines(stream::unfold(follower, Follower::next)))
}

/// One who reads events as they come.
struct Follower {
    kept: std::vec::IntoIter<Arc<Event>>,
    feed: broadcast::Receiver<Arc<Event>>,
    stop: watch::Receiver<bool>,
    _place: OwnedSemaphorePermit,
}

impl Follower {
    async fn next(mut self) -> Option<(Bytes, Self)> {
        if let Some(event) = self.kept.next() {
            return Some((body::line(event.as_ref()), self));
        }
        let received = tokio::select! {
            biased;
            received = self.feed.recv() => received,
            // Only once there is nothing left to receive: the select is biased.
            _ = self.stop.wait_for(|stop| *stop) => return None,
        };
        match received {
            Ok(event) => Some((body::line(event.as_ref()), self)),
            Err(broadcast::error::RecvError::Lagged(missed)) => {
                Some((body::line(&json!({ "event": "missed", "missed": missed })), self))
            }
            Err(broadcast::error::RecvError::Closed) => None,
        }
    }
}
