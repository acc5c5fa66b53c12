//! `[service.health]`: its keys depend on what a check does.

use std::time::Duration;

use super::{
    model::{CheckKind, HealthCheck, HttpCheck, Protocol, StatusPattern},
    reader::Table,
    schedule::{Bounds, Schedule, program, schedule},
    values,
};

/// What the check needs to know of its service; `None` where that was refused.
#[derive(Debug, Clone, Copy)]
pub(super) struct Checked {
    pub(super) port: Option<u16>,
    pub(super) protocol: Option<Protocol>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Type {
    Tcp,
    Http,
    Https,
    Script,
    None,
}

const TYPES: &[(&str, Type)] = &[
    ("tcp", Type::Tcp),
    ("http", Type::Http),
    ("https", Type::Https),
    ("script", Type::Script),
    ("none", Type::None),
];
const HTTP_KEYS: [&str; 5] = ["path", "method", "host", "expect", "body"];
const BOUNDS: Bounds = Bounds {
    least_interval: Duration::from_millis(10),
    least_timeout: Duration::from_millis(1),
    default_interval: Duration::from_secs(3),
};

pub(super) fn health(table: &mut Table<'_>, service: Checked) -> Option<HealthCheck> {
    let check_type = check_type(table, service.protocol);
    let port = port(table, service.port, check_type);
    let kind = kind(table, check_type);
    let schedule = schedule(table, BOUNDS);
    let (kind, port) = (kind?, port?);
    let Schedule { interval, timeout, rise, fall } = schedule?;
    Some(HealthCheck { kind, port, interval, timeout, rise, fall })
}

fn check_type(table: &mut Table<'_>, protocol: Option<Protocol>) -> Option<Type> {
    let parse = values::word(TYPES, &[]);
    match protocol {
        Some(Protocol::Tcp) => table.or("type", parse, Type::Tcp),
        Some(Protocol::Udp) => table.or("type", parse, Type::None),
        None => table.optional("type", parse),
    }
}

fn port(table: &mut Table<'_>, service: Option<u16>, check: Option<Type>) -> Option<u16> {
    let configured = table.optional("port", values::number16(1..=u16::MAX));
    if table.has("port") {
        return configured;
    }
    if service == Some(0) && matches!(check, Some(Type::Tcp | Type::Http | Type::Https)) {
        table.missing_here(
            "the service has every port (port = 0), so its health check needs a port of its own; \
             give [service.health] a port, or type = \"none\"",
        );
    }
    service
}

fn kind(table: &mut Table<'_>, check: Option<Type>) -> Option<CheckKind> {
    let Some(check) = check else {
        table.ignore(&HTTP_KEYS);
        table.ignore(&["command"]);
        return None;
    };
    if !matches!(check, Type::Http | Type::Https) {
        for key in HTTP_KEYS {
            refuse_misfit(table, key, "\"http\" or \"https\"", check);
        }
    }
    if check != Type::Script {
        refuse_misfit(table, "command", "\"script\"", check);
    }
    match check {
        Type::None => Some(CheckKind::None),
        Type::Tcp => Some(CheckKind::Tcp),
        Type::Http => http(table).map(CheckKind::Http),
        Type::Https => http(table).map(CheckKind::Https),
        Type::Script => command(table).map(CheckKind::Script),
    }
}

fn refuse_misfit(table: &mut Table<'_>, key: &'static str, owner: &str, check: Type) {
    let name = TYPES.iter().find(|(_, each)| *each == check).map_or("", |(name, _)| *name);
    let why = format!("{key} belongs to checks of type {owner}, this one has type {name:?}");
    table.refuse_key(key, &why);
}

fn http(table: &mut Table<'_>) -> Option<HttpCheck> {
    let method = table.or("method", values::http_method, "GET".to_owned());
    let path = table.or("path", values::http_path, "/".to_owned());
    let host = table.optional("host", values::host);
    let body = table.optional("body", values::text);
    let statuses = "a list of statuses such as [\"2xx\", 301]";
    let expect = table.list("expect", statuses, values::status_pattern);
    let expect = if table.has("expect") {
        expect
    } else {
        Some(vec![StatusPattern::Class(2), StatusPattern::Class(3)])
    };
    Some(HttpCheck { method: method?, path: path?, host, expect: expect?, body })
}

fn command(table: &mut Table<'_>) -> Option<Vec<String>> {
    if !table.has("command") {
        table.missing("command");
    }
    program(table, "command", "/usr/local/bin/check")
}
