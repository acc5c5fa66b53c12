//! What an event did to the held connections.

use std::{fmt, time::Duration};

use serde::Serialize;

use super::{Account, Event};

/// The judgement on one event, in the form of `cargo xtask hold --json`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Outcome {
    /// Its name.
    pub event: &'static str,
    /// Connections that were open before it.
    pub connections: usize,
    /// Connections that broke although their backend stayed.
    pub broken: usize,
    /// The longest wait for an answer on a connection that did not break.
    pub longest_stall_ms: f64,
    /// The same on a connection past the balancer: what the machine itself adds.
    pub control_stall_ms: f64,
    /// Connections that ended with the backend that was killed or removed.
    pub ended_with_backend: usize,
    /// How long after the beginning of the event the last of those ended.
    pub longest_end_ms: f64,
    /// Attempts to open a connection that failed.
    pub failed_to_open: u64,
    /// Segments that the client or a backend sent again, where that was counted: none, unless one
    /// was lost, or thought so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resent_segments: Option<u64>,
    /// What else there is to say, for people.
    pub note: String,
}

impl Outcome {
    /// Judges an account; connections of the backend that `leaves` may have broken.
    pub(super) fn new(
        event: &'static str,
        connections: usize,
        account: &Account,
        leaves: Option<&str>,
    ) -> Self {
        let with_it = account.broken(|backend| leaves == Some(backend));
        Self {
            event,
            connections,
            broken: account.broken(|backend| leaves != Some(backend)).number,
            longest_stall_ms: milliseconds(account.longest_stall),
            control_stall_ms: milliseconds(account.longest_control_stall),
            ended_with_backend: with_it.number,
            longest_end_ms: milliseconds(with_it.last),
            failed_to_open: account.failed_to_open.values().sum(),
            resent_segments: None,
            note: note(account, leaves),
        }
    }

    /// Says something more of it.
    pub(super) fn add(&mut self, what: &str) {
        let separator = if self.note.is_empty() { "" } else { "; " };
        self.note += &format!("{separator}{what}");
    }

    /// Whether nothing broke that should not, and nobody was turned away but by a backend that
    /// died.
    pub fn is_flawless(&self) -> bool {
        self.broken == 0 && (self.failed_to_open == 0 || self.event == Event::KillBackend.name())
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { event, connections, broken, longest_stall_ms, control_stall_ms, .. } = self;
        write!(
            f,
            "{event}: {broken} of {connections} connections broken, longest stall \
             {longest_stall_ms:.0} ms ({control_stall_ms:.0} ms past the balancer)"
        )?;
        if !self.note.is_empty() {
            write!(f, ", {}", self.note)?;
        }
        Ok(())
    }
}

/// Who broke and how, and why connections could not be opened.
fn note(account: &Account, leaves: Option<&str>) -> String {
    let with_it = account.broken(|backend| leaves == Some(backend));
    let gone = leaves.map(|backend| {
        let last = milliseconds(with_it.last);
        format!("{} ended with {backend}, the last after {last:.0} ms", with_it.number)
    });
    let broken = account.ended.iter().filter(|((backend, _), _)| leaves != Some(backend));
    let broken =
        broken.map(|((backend, end), ended)| format!("{} of {backend} {end}", ended.number));
    let failed = account.failed_to_open.iter();
    let failed = failed.map(|(why, number)| format!("{number} not opened: {why}"));
    gone.into_iter().chain(broken).chain(failed).collect::<Vec<_>>().join("; ")
}

/// To a tenth: more is noise.
fn milliseconds(time: Duration) -> f64 {
    (time.as_secs_f64() * 10_000.0).round() / 10.0
}
