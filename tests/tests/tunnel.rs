//! Tunnels with real clients and servers: the backends are in a network of their own, behind a
//! router that knows nothing of the VIP's services, and take the outer header off in XDP.

#![allow(clippy::unwrap_used, reason = "a test says what it expects by unwrapping it")]

use std::{
    io::{Read as _, Write as _},
    net::{IpAddr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream},
    thread,
    time::Duration,
};

use weir::{
    config::Prefix,
    dataplane::{Entrance, decapsulator, load_decapsulator},
};
use weir_lab::{Lab, Weir, backend::UDP_PORT, program::object};

const PORT: u16 = 80;
const GUE: u16 = 6080;
/// Of servers that count what they get.
const COUNTING: u16 = 9000;
/// What is sent to them.
const UPLOAD: usize = 10_000_000;
/// What the way to the backends carries, and what of it an IPv4 header leaves.
const NARROW: u16 = 1400;
const FITS: u16 = 1380;
/// Longer than any pause of a connection that goes on.
const PATIENCE: Duration = Duration::from_secs(20);
/// The outer source is one of these, in services that say so.
const SPREAD: &str = "10.255.0.0";

/// A decapsulating program on each backend; it goes when this is dropped.
fn decapsulate(lab: &Lab, sources: &[Prefix]) -> Vec<aya::Ebpf> {
    let vips = vec![lab.vip(PORT).ip(), lab.vip6(PORT).ip()];
    let entrance = Entrance { sources: sources.to_vec(), vips, port: GUE };
    let attach = || {
        let mut ebpf = load_decapsulator(&object().unwrap(), &entrance).unwrap();
        let program = decapsulator(&mut ebpf).unwrap();
        program.attach("eth0", aya::programs::XdpMode::Driver).unwrap();
        ebpf
    };
    lab.backends().iter().map(|backend| backend.namespace().enter(attach).unwrap()).collect()
}

fn one(address: impl Into<IpAddr>) -> Prefix {
    let address = address.into();
    Prefix { address, length: if address.is_ipv4() { 32 } else { 128 } }
}

fn lab() -> Lab {
    weir_lab::require_root().unwrap();
    Lab::builder().backends(2).routed().build().unwrap()
}

/// Both VIPs, their backends reached over their own family or over the other.
fn config(lab: &Lab, forward: &str, across: bool, tunnel: &str) -> String {
    let services = [lab.service("four", PORT), lab.service6("six", PORT)].map(|service| {
        let service = if across { service.across(lab.backends()) } else { service };
        let service = service.set("forward", &format!("{forward:?}"));
        if tunnel.is_empty() { service } else { service.set("tunnel", tunnel) }
    });
    lab.balancer().config(&services)
}

fn assert_served(lab: &Lab, weir: &Weir, what: &str) {
    weir.wait_until_up().unwrap();
    for vip in [lab.vip(PORT), lab.vip6(PORT)] {
        let tally = lab.client().requests(vip, 200, 4).unwrap();
        assert_eq!((tally.failed, tally.answered()), (0, 200), "{what}, {vip}: {tally}");
        assert!(tally.by("b1") > 50 && tally.by("b2") > 50, "{what}, {vip}: {tally}");
    }
}

#[test]
fn clients_are_served_by_another_network_through_each_kind_of_tunnel() {
    let lab = lab();
    let balancer = lab.balancer();
    let _programs = decapsulate(&lab, &[one(balancer.address()), one(balancer.address6())]);
    let weir = balancer.start_weir(&config(&lab, "ipip", false, "")).unwrap();
    assert_served(&lab, &weir, "ipip");
    for (forward, across) in [("ipip", true), ("gue", false), ("gue", true)] {
        weir.reload(&config(&lab, forward, across, "")).unwrap();
        assert_served(&lab, &weir, &format!("{forward}, across families: {across}"));
    }
}

#[test]
fn a_backend_lets_in_what_comes_from_its_balancers_alone() {
    let lab = lab();
    let network: IpAddr = SPREAD.parse().unwrap();
    let _programs = decapsulate(&lab, &[Prefix { address: network, length: 16 }]);
    let services = |tunnel: &str| {
        let service = lab.service("four", PORT).set("forward", "\"gue\"");
        let service = if tunnel.is_empty() { service } else { service.set("tunnel", tunnel) };
        lab.balancer().config(&[service])
    };
    let spread = format!("{{ source = [\"{SPREAD}/16\"] }}");
    let weir = lab.balancer().start_weir(&services(&spread)).unwrap();
    weir.wait_until_up().unwrap();
    let tally = lab.client().requests(lab.vip(PORT), 200, 4).unwrap();
    assert_eq!((tally.failed, tally.answered()), (0, 200), "{tally}");
    // The balancer's own address is not among those that are let in.
    weir.reload(&services("")).unwrap();
    weir.wait_until_up().unwrap();
    assert!(lab.client().request_from(0, lab.vip(PORT)).is_err(), "a stranger's packet was let in");
}

/// Each backend answers a connection with the number of bytes that it got by it.
fn count_bytes(lab: &Lab) {
    for backend in lab.backends() {
        let bind = || TcpListener::bind((Ipv6Addr::UNSPECIFIED, COUNTING));
        let listener = backend.namespace().enter(bind).unwrap().unwrap();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let mut bytes = Vec::new();
                stream.read_to_end(&mut bytes).unwrap();
                write!(stream, "{}", bytes.len()).unwrap();
            }
        });
    }
}

fn upload(server: SocketAddr) -> String {
    let mut stream = TcpStream::connect_timeout(&server, PATIENCE).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(&vec![7; UPLOAD]).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut told = String::new();
    stream.read_to_string(&mut told).unwrap();
    told
}

#[test]
fn uploads_shrink_to_what_the_way_to_the_backends_carries() {
    let lab = lab();
    let balancer = lab.balancer();
    let _programs = decapsulate(&lab, &[one(balancer.address())]);
    count_bytes(&lab);
    // The router's link to the backends, behind which both ends believe in 1 500 bytes.
    let narrow = NARROW.to_string();
    lab.namespace("bridge").run(&["ip", "link", "set", "back", "mtu", &narrow]).unwrap();
    for backend in lab.backends() {
        let address = backend.address().to_string();
        let route = ["ip", "route", "add", &address, "via", "10.77.0.1", "mtu", &narrow];
        balancer.namespace().run(&route).unwrap();
    }
    // IPv6's packets go to the same addresses.
    let services = [
        lab.service("four", COUNTING).health("type = \"none\"").set("forward", "\"ipip\""),
        lab.service6("six", COUNTING)
            .across(lab.backends())
            .health("type = \"none\"")
            .set("forward", "\"ipip\""),
    ];
    let weir = balancer.start_weir(&balancer.config(&services)).unwrap();
    weir.wait_until_up().unwrap();
    let client = lab.client().namespace();
    for vip in [lab.vip(COUNTING), lab.vip6(COUNTING)] {
        assert_eq!(client.enter(|| upload(vip)).unwrap(), UPLOAD.to_string(), "{vip}");
        let way = client.run(&["ip", "route", "get", &vip.ip().to_string()]).unwrap();
        assert!(way.contains(&format!("mtu {FITS}")), "{vip}: {way}");
    }
    let answers = weir.status().unwrap().packets.answer;
    assert!(answers.iter().any(|(reason, n)| reason.starts_with("too") && *n >= 2), "{answers:?}");
}

#[test]
fn datagrams_in_fragments_that_fit_go_through() {
    let lab = lab();
    let balancer = lab.balancer();
    let _programs = decapsulate(&lab, &[one(balancer.address()), one(balancer.address6())]);
    let services = [lab.service("four", UDP_PORT), lab.service6("six", UDP_PORT)]
        .map(|service| service.udp().health("type = \"none\"").set("forward", "\"gue\""));
    let weir = balancer.start_weir(&balancer.config(&services)).unwrap();
    weir.wait_until_up().unwrap();
    let narrow = NARROW.to_string();
    for vip in [lab.vip(UDP_PORT), lab.vip6(UDP_PORT)] {
        let way = ["ip", "route", "add", &vip.ip().to_string(), "dev", "eth0", "mtu", &narrow];
        lab.client().namespace().run(&way).unwrap();
        for _ in 0..20 {
            lab.client().long_udp_request(vip, 4000).unwrap();
        }
    }
}
