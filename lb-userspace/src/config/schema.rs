//! The sections of the file and their keys, with defaults: one function a section.
//!
//! Every function asks for all its keys before it gives up on any, so that all faults come out.

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use lb_common::layout::BACKENDS_MAX;
use toml::de::DeTable;

use super::{
    checks::{Demand, Once},
    fault::Report,
    health::{Checked, health},
    model::{
        Admin, Algorithm, AttachMode, Backend, Config, Control, DEFAULT_SOCKET, Forward, Fragments,
        Interface, Limits, Name, Node, OnEmpty, Protocol, Service, Share, Sync,
    },
    reader::Table,
    schedule::program_or_none,
    tunnel, values, vrrp,
};

const SECOND: Duration = Duration::from_secs(1);
/// Time between two probes, unless said otherwise, and the least.
const PROBE: Duration = Duration::from_millis(10);
const PROBE_LEAST: Duration = Duration::from_millis(2);
/// Each is pinged four times a second.
const WITNESSES_MAX: usize = 8;
const HOUR: Duration = Duration::from_secs(3600);
const EXPECTED_PEERS: &str =
    "a list of the other balancers' addresses and ports, such as [\"192.168.1.2:9751\"]";

const ALGORITHMS: [(&str, Algorithm); 4] = [
    (Algorithm::Maglev.name(), Algorithm::Maglev),
    (Algorithm::IpHash.name(), Algorithm::IpHash),
    (Algorithm::RoundRobin.name(), Algorithm::RoundRobin),
    (Algorithm::LeastConn.name(), Algorithm::LeastConn),
];

const FORWARDS: [(&str, Forward); 3] = [
    (Forward::L2.name(), Forward::L2),
    (Forward::Ipip.name(), Forward::Ipip),
    (Forward::Gue.name(), Forward::Gue),
];

/// The whole file.
pub(super) fn read(tree: &DeTable<'_>, report: &Report) -> Option<Config> {
    Table::root(tree, report, |root| {
        let node = root.section("node", "in [node]", node);
        let control = root.section("control", "in [control]", control);
        let admin = root.section("admin", "in [admin]", admin);
        let limits = root.section("limits", "in [limits]", limits);
        let interfaces = interfaces(root);
        let services = services(root, limits.as_ref());
        let vrrp = vrrp::instances(root, services.as_deref());
        let sync = sync(root);
        Some(Config {
            node: node?,
            control: control?,
            admin: admin?,
            limits: limits?,
            interfaces: interfaces?,
            sync: sync?,
            services: services?,
            vrrp: vrrp?,
        })
    })
}

fn node(table: &mut Table<'_>) -> Option<Node> {
    let name = table.optional("name", values::name).map(|name| name.to_string());
    let name = if table.has("name") { name } else { host_name(table) };
    let state_dir = table.or("state_dir", values::path, PathBuf::from("/var/lib/weir"));
    let bpf_dir = table.or("bpf_dir", values::path, PathBuf::from("/sys/fs/bpf/weir"));
    Some(Node { name: name?, state_dir: state_dir?, bpf_dir: bpf_dir? })
}

fn host_name(table: &Table<'_>) -> Option<String> {
    let name = nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok());
    let name = name.filter(|name| Name::new(name).is_ok());
    if name.is_none() {
        table.missing_here("this host's name cannot name the node; give [node] a name");
    }
    name
}

fn control(table: &mut Table<'_>) -> Option<Control> {
    let socket = table.or("socket", values::socket_path, PathBuf::from(DEFAULT_SOCKET));
    let group = table.or("group", values::text, "weir".to_owned());
    Some(Control { socket: socket?, group: group? })
}

fn admin(table: &mut Table<'_>) -> Option<Admin> {
    let listen = table.or("listen", values::socket_address, ([127, 0, 0, 1], 9750).into());
    Some(Admin { listen: listen? })
}

fn limits(table: &mut Table<'_>) -> Option<Limits> {
    let services = table.or("services", values::number(1..=65_536), 1024);
    let backends = table.or("backends", values::number(1..=BACKENDS_MAX), 16_384);
    let ring_slots = table.or("ring_slots", values::number(1024..=1 << 28), 4_194_304);
    let flows = table.or("flows", values::number(1..=1 << 28), 262_144);
    Some(Limits {
        services: services?,
        backends: backends?,
        ring_slots: ring_slots?,
        flows: flows?,
    })
}

/// The peers; `Some(None)` where there are none.
#[allow(clippy::option_option, reason = "refused, absent, there")]
fn sync(root: &mut Table<'_>) -> Option<Option<Sync>> {
    if !root.has("sync") {
        root.ignore(&["sync"]);
        return Some(None);
    }
    root.section("sync", "in [sync]", |table| {
        let listen = table.required("listen", values::socket_address);
        if !table.has("peers") {
            table.missing("peers");
        }
        let peers = table.list("peers", EXPECTED_PEERS, values::socket_address);
        let key_file = table.required("key_file", values::path);
        let probes = values::duration_or_zero(PROBE_LEAST..=SECOND);
        let probe = table.or("probe", probes, PROBE);
        let witness = witnesses(table, peers.as_deref());
        let fence = program_or_none(table, "fence", "/usr/local/bin/power-off-peer");
        if let Some(listen) = listen.filter(|listen| listen.port() == 0) {
            table.fault(
                "listen",
                format!("listen: found {listen}, expected a port that peers know"),
            );
        }
        if let Some(peers) = &peers {
            check_peers(table, listen, peers);
        }
        Some(Some(Sync {
            listen: listen?,
            peers: peers?,
            key_file: key_file?,
            probe: probe?,
            witness: witness?,
            fence: fence?,
        }))
    })
}

fn witnesses(table: &mut Table<'_>, peers: Option<&[SocketAddr]>) -> Option<Vec<IpAddr>> {
    let expected = "a list of addresses, such as [\"192.168.1.254\"] for the gateway";
    let witnesses = table.list_or_empty("witness", expected, values::address)?;
    if witnesses.len() > WITNESSES_MAX {
        let found = witnesses.len();
        let message = format!("witness: found {found}, expected at most {WITNESSES_MAX}");
        table.fault("witness", message);
    }
    for (position, witness) in witnesses.iter().enumerate() {
        if witnesses[..position].contains(witness) {
            table.fault("witness", format!("witness: {witness} is given twice"));
        }
        if matches!(witness, IpAddr::V6(address) if address.is_unicast_link_local()) {
            let message = format!(
                "witness: {witness} is link-local, which names no interface; expected an address \
                 that routes lead to"
            );
            table.fault("witness", message);
        }
        if peers.is_some_and(|peers| peers.iter().any(|peer| peer.ip() == *witness)) {
            let message = format!(
                "witness: {witness} is one of the peers; expected a host that is there when they \
                 are not"
            );
            table.fault("witness", message);
        }
    }
    Some(witnesses)
}

fn check_peers(table: &Table<'_>, listen: Option<SocketAddr>, peers: &[SocketAddr]) {
    for (position, peer) in peers.iter().enumerate() {
        if peers[..position].contains(peer) {
            table.fault("peers", format!("peers: {peer} is given twice"));
        }
        if Some(*peer) == listen {
            let message = format!(
                "peers: found {peer}, where this node listens itself; expected the others alone"
            );
            table.fault("peers", message);
        }
        if peer.port() == 0 || peer.ip().is_unspecified() {
            let message =
                format!("peers: found {peer}, expected the address and port of one balancer");
            table.fault("peers", message);
        }
    }
}

fn interfaces(root: &mut Table<'_>) -> Option<Vec<Interface>> {
    let mut names = Once::default();
    let interfaces = root.sections("interface", "in [[interface]]", |table| {
        let name = table.required("name", values::interface_name);
        let modes = &[
            ("auto", AttachMode::Auto),
            ("native", AttachMode::Native),
            ("generic", AttachMode::Generic),
        ];
        let mode = table.or("mode", values::word(modes, &[]), AttachMode::Auto);
        if let Some(name) = &name {
            names.check(table, "name", name.clone(), &format!("interface {name:?}"));
        }
        Some(Interface { name: name?, mode: mode? })
    });
    if interfaces.as_ref().is_some_and(Vec::is_empty) {
        root.missing_here(
            "no [[interface]] is given; Weir needs the name of at least one to receive packets on",
        );
    }
    interfaces
}

fn services(root: &mut Table<'_>, limits: Option<&Limits>) -> Option<Vec<Service>> {
    let mut names = Once::default();
    let mut places = Once::default();
    let mut any_fragments = Once::default();
    let mut demand = Demand::new(limits);
    root.sections("service", "in [[service]]", |table| {
        let service = service(table, &mut names, &mut places)?;
        if service.fragments == Fragments::Any {
            let Service { address, protocol, .. } = service;
            let what = format!("fragments = \"any\" for {address} {protocol}");
            any_fragments.check(table, "fragments", (address, protocol), &what);
        }
        demand.add(table, &service);
        Some(service)
    })
}

fn service(
    table: &mut Table<'_>,
    names: &mut Once<Name>,
    places: &mut Once<(IpAddr, u16, Protocol)>,
) -> Option<Service> {
    let name = table.required("name", values::name);
    let address = table.required("address", values::reachable_address);
    let port = table.required("port", values::number16(0..=u16::MAX));
    let protocols = &[("tcp", Protocol::Tcp), ("udp", Protocol::Udp)];
    let protocol = table.or("protocol", values::word(protocols, &[]), Protocol::Tcp);
    let algorithm = table.or("algorithm", values::word(&ALGORITHMS, &[]), Algorithm::Maglev);
    let affinity = affinity(table, protocol, algorithm);
    let fragments = fragments(table, protocol, algorithm);
    let forward = table.or("forward", values::word(&FORWARDS, &["nat"]), Forward::L2);
    let tunnel = tunnel::tunnel(table, forward);
    let ring = table.or("ring", values::ring, 65_537);
    let idle_timeout = idle_timeout(table, protocol);
    let on_empty = &[("reject", OnEmpty::Reject), ("drop", OnEmpty::Drop), ("pass", OnEmpty::Pass)];
    let on_empty = table.or("on_empty", values::word(on_empty, &[]), OnEmpty::Reject);
    let ping = table.or("ping", values::boolean, false);
    let slow_start =
        table.or("slow_start", values::duration_or_zero(SECOND..=HOUR), Duration::ZERO);
    let panic_threshold = table.or("panic_threshold", values::share, Share::HALF);
    let checked = Checked { port, protocol };
    let health = table.section("health", "in [service.health]", |table| health(table, checked));
    let backends = backends(table, address, forward);

    if let Some(name) = &name {
        names.check(table, "name", name.clone(), &format!("service \"{name}\""));
    }
    if let (Some(address), Some(port), Some(protocol)) = (address, port, protocol) {
        let what = format!("a service at {address} port {port} {protocol}");
        places.check(table, "address", (address, port, protocol), &what);
    }
    Some(Service {
        name: name?,
        address: address?,
        port: port?,
        protocol: protocol?,
        algorithm: algorithm?,
        affinity: affinity?,
        fragments: fragments?,
        forward: forward?,
        tunnel: tunnel?,
        ring: ring?,
        idle_timeout: idle_timeout?,
        on_empty: on_empty?,
        ping: ping?,
        slow_start: slow_start?,
        panic_threshold: panic_threshold?,
        health: health?,
        backends: backends?,
    })
}

fn affinity(
    table: &mut Table<'_>,
    protocol: Option<Protocol>,
    algorithm: Option<Algorithm>,
) -> Option<bool> {
    let affinity = table.or("affinity", values::boolean, true);
    if affinity == Some(false) {
        if protocol == Some(Protocol::Tcp) {
            let message = "affinity = false is for UDP services: a TCP connection whose packets \
                           go to two backends breaks";
            table.fault("affinity", message.to_owned());
        }
        if let Some(algorithm) = algorithm.filter(|algorithm| algorithm.is_per_flow()) {
            let name = algorithm.name();
            let message = format!(
                "affinity = false: {name:?} records every flow; use \"maglev\" or \"ip_hash\", \
                 which then record none"
            );
            table.fault("affinity", message);
        }
    }
    affinity
}

fn fragments(
    table: &mut Table<'_>,
    protocol: Option<Protocol>,
    algorithm: Option<Algorithm>,
) -> Option<Fragments> {
    let words = &[("follow", Fragments::Follow), ("any", Fragments::Any)];
    let fragments = table.or("fragments", values::word(words, &[]), Fragments::Follow);
    if fragments == Some(Fragments::Any) {
        match (protocol, algorithm) {
            (_, Some(algorithm)) if algorithm.is_per_flow() => {
                let name = algorithm.name();
                let message = format!(
                    "fragments = \"any\": {name:?} chooses per flow, which fragments do not tell; \
                     use \"maglev\" or \"ip_hash\""
                );
                table.fault("fragments", message);
            }
            (Some(Protocol::Tcp), Some(Algorithm::Maglev)) => {
                let message = "fragments = \"any\": a TCP connection of which some packets are \
                               fragments would go to two backends; use algorithm = \"ip_hash\"";
                table.fault("fragments", message.to_owned());
            }
            _ => {}
        }
    }
    fragments
}

fn idle_timeout(table: &mut Table<'_>, protocol: Option<Protocol>) -> Option<Duration> {
    let parse = values::duration(SECOND..=168 * HOUR);
    match protocol {
        Some(Protocol::Tcp) => table.or("idle_timeout", parse, HOUR),
        Some(Protocol::Udp) => table.or("idle_timeout", parse, 120 * SECOND),
        None => table.optional("idle_timeout", parse),
    }
}

fn backends(
    service: &mut Table<'_>,
    vip: Option<IpAddr>,
    forward: Option<Forward>,
) -> Option<Vec<Backend>> {
    let mut names = Once::default();
    let mut addresses = Once::default();
    service.sections("backend", "in [[service.backend]]", |table| {
        let name = table.required("name", values::name);
        let address = table.required("address", values::reachable_address);
        let weight = table.or("weight", values::number16(0..=256), 1);
        table.refuse_key(
            "port",
            "a backend's port is not supported by this version; use the service's port, on which \
             its backends are to listen",
        );
        let backup = table.or("backup", values::boolean, false);
        if let Some(name) = &name {
            let what = format!("backend \"{name}\" of this service");
            names.check(table, "name", name.clone(), &what);
        }
        if let Some(address) = address {
            let what = format!("a backend of this service at {address}");
            addresses.check(table, "address", address, &what);
            check_backend_address(table, address, vip, forward);
        }
        Some(Backend { name: name?, address: address?, weight: weight?, backup: backup? })
    })
}

fn check_backend_address(
    table: &Table<'_>,
    address: IpAddr,
    vip: Option<IpAddr>,
    forward: Option<Forward>,
) {
    let Some(vip) = vip else { return };
    if address.is_ipv4() != vip.is_ipv4() && !forward.is_some_and(Forward::is_tunnel) {
        let family = if vip.is_ipv4() { "an IPv4" } else { "an IPv6" };
        let message =
            format!("address: found {address}, expected {family} address like the service's {vip}");
        table.fault("address", message);
    } else if address == vip {
        let message = format!(
            "address: found the service's own {vip}, expected an address that the backend alone has"
        );
        table.fault("address", message);
    }
}
