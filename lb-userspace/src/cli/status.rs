//! `weir status` as a table.

use std::{fmt::Write as _, net::SocketAddr, time::SystemTime};

use super::{
    style::{Style, state_name},
    time::age,
    vrrp,
};
use crate::{
    config::AttachMode,
    core::{
        BackendState, BackendStatus, FlowsStatus, Health, PacketStatus, ServiceStatus, SlotsStatus,
        Status, SyncRole, SyncStatus,
    },
};

/// An earlier state, and how long ago it was: what rates are made of.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sample<'s> {
    pub(super) status: &'s Status,
    pub(super) seconds: f64,
}

/// The whole state as text; with an earlier one, with rates in place of totals.
pub(super) fn text(
    status: &Status,
    before: Option<Sample<'_>>,
    now: SystemTime,
    style: Style,
) -> String {
    let interfaces: Vec<String> =
        status.interfaces.iter().map(|i| format!("{} ({})", i.name, mode(i.mode))).collect();
    let mut out = format!("{}  weir {}  {}\n", status.node, status.version, interfaces.join(", "));
    if status.machine_suspected {
        out.push_str(
            "note: this machine is suspected: most servers failed together, so none is taken out\n",
        );
    }
    for notice in &status.notices {
        // Writing to a String cannot fail.
        let _ = writeln!(out, "note: {notice}");
    }
    out.push_str(&vrrp::text(&status.vrrp, now, style));
    if let Some(sync) = &status.sync {
        out.push_str(&sync_text(sync));
    }
    for service in &status.services {
        out.push('\n');
        out.push_str(&service_text(service, before, now, style));
    }
    out.push('\n');
    out.push_str(&flows(&status.flows));
    out.push_str(&packets(&status.packets));
    out
}

/// A line on this node among its peers, and one on each peer.
fn sync_text(sync: &SyncStatus) -> String {
    let role = match (sync.role, &sync.leader) {
        (SyncRole::Joining, _) => "looks for peers".to_owned(),
        (SyncRole::Leader, _) => "leads".to_owned(),
        (SyncRole::Follower, leader) => {
            format!("follows {}", leader.as_deref().unwrap_or("its leader"))
        }
    };
    let tables = match (sync.services_differ, sync.synced) {
        (0, true) => "same tables".to_owned(),
        (0, false) => "tables not here yet".to_owned(),
        (n, _) => format!("{n} services differ"),
    };
    let mut out = format!("sync: {role}, {tables}\n");
    for node in &sync.split {
        // Writing to a String cannot fail.
        let _ = writeln!(out, "sync: split brain: {node} has the addresses as well");
    }
    if let Some(changes) = &sync.taken_over {
        let _ = writeln!(out, "sync: taken over, made while apart, from {changes}");
    }
    for peer in &sync.peers {
        let state = match (&peer.node, &peer.error) {
            (Some(node), _) => {
                let lag = peer.lag_seconds.unwrap_or_default() * 1000.0;
                format!("{node}, connected, {lag:.1} ms behind")
            }
            (None, Some(error)) => format!("not connected: {error}"),
            (None, None) => "not connected".to_owned(),
        };
        let _ = writeln!(out, "  peer {}: {state}", peer.address);
        for difference in &peer.config_differs {
            let _ = writeln!(out, "    differs: {difference}");
        }
    }
    out
}

fn service_text(
    service: &ServiceStatus,
    before: Option<Sample<'_>>,
    now: SystemTime,
    style: Style,
) -> String {
    let up = service.backends.iter().filter(|b| b.state == BackendState::Up).count();
    let mut out = format!(
        "{}  {}  {} {}  {}  {}  {up} of {} up{}\n",
        service.name,
        style.health(service.health, health(service.health)),
        service.protocol,
        vip(service),
        algorithm(service),
        service.forward.name(),
        service.backends.len(),
        if service.panic { "  panic: flows go to all" } else { "" },
    );
    let SlotsStatus { settled, moving, exceptions } = service.slots;
    if moving + exceptions > 0 {
        // Writing to a String cannot fail.
        let _ = writeln!(
            out,
            "  slots: {settled} settled, {moving} moving, {exceptions} with exceptions"
        );
    }
    if service.backends.is_empty() {
        out.push_str("  no backends; add one with `weir backend add`\n");
        out.push_str(&leaving(service));
        return out;
    }
    let mut rows = vec![heads(before.is_some())];
    rows.extend(service.backends.iter().map(|backend| row(service, backend, before, now)));
    let states = service.backends.iter().map(|backend| Some(backend.state));
    table(&mut out, &rows, std::iter::once(None).chain(states), style);
    out.push_str(&leaving(service));
    out
}

fn leaving(service: &ServiceStatus) -> String {
    let mut out = String::new();
    for gone in &service.leaving {
        // Writing to a String cannot fail.
        let _ = writeln!(
            out,
            "  removed: {} ({}) goes when its old flows have ended; {} recorded",
            gone.name, gone.address, gone.tracked_flows
        );
    }
    out
}

const COLUMNS: usize = 10;

/// Where the state stands in a row.
const STATE: usize = 2;

/// Columns of numbers are aligned to the right.
const NUMBERS: std::ops::Range<usize> = 4..9;

type Row = [String; COLUMNS];

fn heads(rates: bool) -> Row {
    let traffic =
        if rates { ["PACKETS/S", "BYTES/S", "FLOWS/S"] } else { ["PACKETS", "BYTES", "NEW FLOWS"] };
    let [packets, bytes, flows] = traffic;
    ["BACKEND", "ADDRESS", "STATE", "SINCE", "WEIGHT", "SHARE", packets, bytes, flows, "REASON"]
        .map(str::to_owned)
}

fn row(
    service: &ServiceStatus,
    backend: &BackendStatus,
    before: Option<Sample<'_>>,
    now: SystemTime,
) -> Row {
    let slots: u64 = service.backends.iter().map(|b| u64::from(b.slots)).sum();
    let share = f64::from(backend.slots) * 100.0 / as_f64(slots.max(1));
    let counts = [backend.packets, backend.bytes, backend.new_flows];
    let [packets, bytes, flows] = match before {
        None => counts.map(as_f64),
        Some(sample) => rates(counts, earlier(sample.status, service, backend), sample.seconds),
    };
    [
        backend.name.to_string(),
        backend.address.to_string(),
        state_name(backend.state).to_owned(),
        age(now.duration_since(backend.since).unwrap_or_default()),
        backend.weight.to_string(),
        format!("{share:.1} %"),
        scaled(packets),
        scaled(bytes),
        scaled(flows),
        backend.reason.clone(),
    ]
}

/// What the backend had counted at an earlier time; a new one starts where it is now.
fn earlier(status: &Status, service: &ServiceStatus, backend: &BackendStatus) -> [u64; 3] {
    let service = status.services.iter().find(|s| s.name == service.name);
    let before = service.and_then(|s| s.backends.iter().find(|b| b.name == backend.name));
    let then = before.unwrap_or(backend);
    [then.packets, then.bytes, then.new_flows]
}

fn rates(now: [u64; 3], then: [u64; 3], seconds: f64) -> [f64; 3] {
    std::array::from_fn(|i| as_f64(now[i].saturating_sub(then[i])) / seconds.max(0.001))
}

fn table(
    out: &mut String,
    rows: &[Row],
    states: impl Iterator<Item = Option<BackendState>>,
    style: Style,
) {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max();
    let widths: [usize; COLUMNS] = std::array::from_fn(|column| width(column).unwrap_or(0));
    for (row, state) in rows.iter().zip(states) {
        let mut line = String::new();
        for (column, (cell, width)) in row.iter().zip(widths).enumerate() {
            let padded = if NUMBERS.contains(&column) {
                format!("{cell:>width$}")
            } else {
                format!("{cell:<width$}")
            };
            let cell = match state {
                Some(state) if column == STATE => style.state(state, &padded),
                _ => padded,
            };
            line.push_str("  ");
            line.push_str(&cell);
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
}

/// Nothing, while nothing is recorded and nothing was lost.
fn flows(flows: &FlowsStatus) -> String {
    let FlowsStatus { recorded, half_open, limit, lost, half_open_lost } = *flows;
    if recorded + half_open + lost + half_open_lost == 0 {
        return String::new();
    }
    let lost = match lost {
        0 => String::new(),
        _ => format!(", {lost} lost: raise limits.flows"),
    };
    format!("flows: {recorded} of {limit} recorded, {half_open} half-open{lost}\n")
}

fn packets(packets: &PacketStatus) -> String {
    let reasons = |list: &[(String, u64)]| {
        let total: u64 = list.iter().map(|(_, count)| count).sum();
        let mut text = total.to_string();
        let parts: Vec<String> = list
            .iter()
            .filter(|(_, count)| *count > 0)
            .map(|(reason, count)| format!("{reason} {count}"))
            .collect();
        if !parts.is_empty() {
            // Writing to a String cannot fail.
            let _ = write!(text, " ({})", parts.join(", "));
        }
        text
    };
    let handed_on = match packets.handed_on {
        0 => String::new(),
        number => format!(", handed on {number}"),
    };
    format!(
        "packets: {} forwarded (tx {}, redirect {}), passed {}, dropped {}, answered {}{handed_on}\n",
        packets.tx + packets.redirect,
        packets.tx,
        packets.redirect,
        reasons(&packets.pass),
        reasons(&packets.drop),
        reasons(&packets.answer),
    )
}

// === words ===

fn vip(service: &ServiceStatus) -> String {
    match service.port {
        0 if service.address.is_ipv6() => format!("[{}]:*", service.address),
        0 => format!("{}:*", service.address),
        port => SocketAddr::new(service.address, port).to_string(),
    }
}

fn health(health: Health) -> &'static str {
    match health {
        Health::Green => "green",
        Health::Yellow => "yellow",
        Health::Red => "red",
    }
}

fn algorithm(service: &ServiceStatus) -> String {
    let name = service.algorithm.name();
    if service.affinity { name.to_owned() } else { format!("{name} without affinity") }
}

fn mode(mode: AttachMode) -> &'static str {
    match mode {
        AttachMode::Auto => "auto",
        AttachMode::Native => "native",
        AttachMode::Generic => "generic",
    }
}

/// Exact up to a few millions, which people compare digit by digit; beyond that in powers of 1000.
fn scaled(number: f64) -> String {
    const UNITS: [(f64, &str); 3] = [(1e15, "P"), (1e12, "T"), (1e9, "G")];
    if number < 1e7 {
        return format!("{number:.0}");
    }
    let (unit, name) = UNITS.into_iter().find(|(unit, _)| number >= *unit).unwrap_or((1e6, "M"));
    format!("{:.2} {name}", number / unit)
}

#[expect(clippy::cast_precision_loss, reason = "shown with few digits")]
fn as_f64(number: u64) -> f64 {
    number as f64
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{core::LeavingStatus, http::testing};

    fn later() -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(3_725)
    }

    #[test]
    fn a_table_says_what_is_up_and_why_not() {
        let text = text(&testing::status(), None, later(), Style::Plain);
        assert_eq!(
            text,
            "\
lb-1  weir 0.1.0  eth0 (native)

web  yellow  tcp 192.0.2.10:80  maglev  l2  1 of 2 up
  slots: 60000 settled, 5000 moving, 537 with exceptions
  BACKEND  ADDRESS   STATE  SINCE  WEIGHT    SHARE  PACKETS  BYTES  NEW FLOWS  REASON
  a        10.0.0.1  up     1h 2m       1  100.0 %       30   3000          2  connection refused
  b        10.0.0.1  down   1h 2m       1    0.0 %       30   3000          2  connection refused

flows: 42 of 65536 recorded, 3 half-open, 1 lost: raise limits.flows
packets: 70 forwarded (tx 60, redirect 10), passed 7 (not_ip 3, icmp 4), dropped 5 (no_backend 5), answered 6 (ping 6), handed on 7
"
        );
    }

    #[test]
    fn what_serves_in_spite_of_failures_and_what_leaves_is_said() {
        let mut status = testing::status();
        status.machine_suspected = true;
        status.services[0].panic = true;
        status.services[0].leaving = vec![LeavingStatus {
            name: testing::name("old"),
            address: [10, 0, 0, 9].into(),
            tracked_flows: 3,
        }];
        let text = text(&status, None, later(), Style::Plain);
        for line in [
            "note: this machine is suspected",
            "1 of 2 up  panic: flows go to all\n",
            "removed: old (10.0.0.9) goes when its old flows have ended; 3 recorded\n",
        ] {
            assert!(text.contains(line), "{line}\n{text}");
        }
    }

    #[test]
    fn two_samples_make_rates() {
        let before = testing::status();
        let mut after = before.clone();
        after.services[0].backends[0].packets += 5_000;
        let sample = Sample { status: &before, seconds: 2.0 };
        let text = text(&after, Some(sample), later(), Style::Plain);
        let row = text.lines().find(|line| line.starts_with("  a ")).expect("a row");
        assert!(text.contains("PACKETS/S") && row.contains(" 2500 "), "{text}");
    }

    #[test]
    fn colours_do_not_move_the_columns() {
        let plain = text(&testing::status(), None, later(), Style::Plain);
        let mut coloured = text(&testing::status(), None, later(), Style::Colour);
        assert_ne!(plain, coloured);
        for code in ["\x1b[31m", "\x1b[32m", "\x1b[33m", "\x1b[0m"] {
            coloured = coloured.replace(code, "");
        }
        assert_eq!(plain, coloured);
    }

    #[test]
    fn numbers_stay_readable() {
        for (number, text) in
            [(0.0, "0"), (9_999_999.0, "9999999"), (1.5e7, "15.00 M"), (2e12, "2.00 T")]
        {
            assert_eq!(scaled(number), text);
        }
    }
}
