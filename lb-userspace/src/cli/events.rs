//! Events as lines for people.

use std::fmt::Write as _;

use serde::Deserialize;

use super::{
    style::{Style, state_name},
    time::rfc3339,
};
use crate::core::{Event, EventKind, Fullness, Phases};

/// The line that stands for events that a follower was too slow for.
#[derive(Deserialize)]
struct Missed {
    missed: u64,
}

/// One line of JSON as text. An event of a newer daemon is shown as it came.
pub(super) fn text(json: &[u8], style: Style) -> String {
    if let Ok(event) = serde_json::from_slice::<Event>(json) {
        return describe(&event, style);
    }
    match serde_json::from_slice::<Missed>(json) {
        Ok(Missed { missed }) => format!("({missed} events were missed here: read too slowly)"),
        Err(_) => String::from_utf8_lossy(json).into_owned(),
    }
}

fn describe(event: &Event, style: Style) -> String {
    let mut line = format!("{}  {}", rfc3339(event.time), what(&event.kind, style));
    if let Some(Phases { detect, decide, apply }) = event.phases {
        let millis = |seconds: f64| seconds * 1000.0;
        let (detect, decide, apply) = (millis(detect), millis(decide), millis(apply));
        // Writing to a String cannot fail.
        let _ = write!(
            line,
            " [detected in {detect:.1} ms, decided in {decide:.3} ms, applied in {apply:.3} ms]"
        );
    }
    line
}

fn what(kind: &EventKind, style: Style) -> String {
    match kind {
        EventKind::Started { adopted: true } => "started, took over the running tables".to_owned(),
        EventKind::Started { adopted: false } => "started with new tables".to_owned(),
        EventKind::Backend { service, backend, from, to, reason, slots_moved } => {
            let from = style.state(*from, state_name(*from));
            let to = style.state(*to, state_name(*to));
            format!("{service}/{backend} {from} → {to}: {reason}; {slots_moved} slots moved")
        }
        EventKind::MachineSuspected { failing, servers } => format!(
            "{failing} of {servers} servers failed together: this machine is suspected, the tables \
             stay as they were"
        ),
        EventKind::MachineTrusted { why } => format!("this machine is trusted again: {why}"),
        EventKind::Panic { service, healthy, of } => format!(
            "{service} panics: {healthy} of {of} backends are healthy, flows go to all of them"
        ),
        EventKind::PanicOver { service } => {
            format!("{service} panics no longer: flows go to healthy backends alone")
        }
        EventKind::Draining { service, backend, tracked_flows } => {
            format!("{service}/{backend} drains: {tracked_flows} old flows are left")
        }
        EventKind::Drained { service, backend } => {
            format!("{service}/{backend} is drained: no old flow is left")
        }
        EventKind::Changed { service, backend, what } => format!("{service}/{backend} {what}"),
        EventKind::Service { service, what } => format!("{service} {what}"),
        EventKind::NextHop { service, backend, what } => {
            format!("{service}/{backend} next hop: {what}")
        }
        EventKind::Vrrp { instance, from, to, reason } => {
            format!("vrrp {instance} {from} → {to}: {reason}")
        }
        EventKind::VrrpNote { instance, what } => format!("vrrp {instance}: {what}"),
        EventKind::VrrpFence { instance, peer, failure: None } => {
            format!("vrrp {instance}: the fence for {peer} is done")
        }
        EventKind::VrrpFence { instance, peer, failure: Some(failure) } => {
            format!("vrrp {instance}: the fence for {peer} failed: {failure}")
        }
        EventKind::VrrpSplit { instance, over: false, what, .. } => {
            format!("vrrp {instance} split brain: {what}")
        }
        EventKind::VrrpSplit { instance, over: true, what, .. } => {
            format!("vrrp {instance} split brain is over; it was: {what}")
        }
        EventKind::Flows { fullness, recorded, limit, lost } => {
            let in_use = format!("{recorded} of {limit} flows recorded");
            match fullness {
                Fullness::Roomy => format!("the table of flows has room again: {in_use}"),
                Fullness::Filling => format!(
                    "the table of flows fills: {in_use}; raise limits.flows, or change less at once"
                ),
                Fullness::Overflowing => format!(
                    "the table of flows is full: {in_use}, {lost} lost, the oldest first; raise \
                     limits.flows"
                ),
            }
        }
        EventKind::Reloaded { what } => format!("configuration reloaded: {what}"),
        EventKind::ReloadRefused { reason } => {
            format!("configuration refused, nothing changed: {reason}")
        }
        EventKind::StateNotKept { reason } => {
            format!("the state is not kept, a restart would lose changes: {reason}")
        }
        EventKind::StateKept => "the state is kept again".to_owned(),
        EventKind::Sync { peer: Some(peer), what } => format!("peer {peer}: {what}"),
        EventKind::Sync { peer: None, what } => format!("sync: {what}"),
        EventKind::Stopped => "stopped; packets go on".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;
    use crate::{config::Name, core::BackendState};

    #[test]
    fn a_failure_is_one_line_with_its_times() {
        let event = Event {
            sequence: 7,
            time: UNIX_EPOCH + Duration::from_millis(951_782_399_999),
            kind: EventKind::Backend {
                service: Name::new("web").expect("a name"),
                backend: Name::new("a").expect("a name"),
                from: BackendState::Suspect,
                to: BackendState::Down,
                reason: "connection refused".to_owned(),
                slots_moved: 21_845,
            },
            phases: Some(Phases { detect: 0.3012, decide: 0.000_02, apply: 0.0023 }),
        };
        let json = serde_json::to_vec(&event).expect("JSON");
        assert_eq!(
            text(&json, Style::Plain),
            "2000-02-28T23:59:59.999Z  web/a suspect → down: connection refused; 21845 slots \
             moved [detected in 301.2 ms, decided in 0.020 ms, applied in 2.300 ms]"
        );
    }

    #[test]
    fn what_is_no_event_is_shown_all_the_same() {
        let missed = text(br#"{"event":"missed","missed":5}"#, Style::Plain);
        assert!(missed.contains('5'), "{missed}");
        let unknown = r#"{"sequence":1,"time":0,"event":"from_the_future"}"#;
        assert_eq!(text(unknown.as_bytes(), Style::Plain), unknown);
    }
}
