//! From the kernel's messages to the few facts that we keep.

use std::net::IpAddr;

use rtnetlink::packet_route::{
    AddressFamily,
    link::{LinkAttribute, LinkFlags, LinkLayerType, LinkMessage},
    neighbour::{
        NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
    },
    route::{
        RouteAddress, RouteAttribute, RouteLwEnCapType, RouteMessage, RouteMetric,
        RouteType as Kind, RouteVia,
    },
};

use super::{
    LinkReport,
    hop::{Hop, Neighbour, Route},
};

/// The interface a message tells of. None for messages that are about something else: a bridge's
/// view of its ports (a port that leaves a bridge is "deleted" there), wireless events.
pub(super) fn link(message: &LinkMessage) -> Option<LinkReport> {
    if message.header.interface_family != AddressFamily::Unspec {
        return None;
    }
    let flags = message.header.flags;
    let ethernet =
        message.header.link_layer_type == LinkLayerType::Ether && !flags.contains(LinkFlags::Noarp);
    let mut name = None;
    let mut report = LinkReport {
        index: message.header.index,
        name: String::new(),
        mac: [0; 6],
        mtu: 0,
        // IFF_RUNNING is the operational state (RFC 2863): a carrier, and an unblocked port.
        up: flags.contains(LinkFlags::Up | LinkFlags::Running),
        ethernet,
    };
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(text) => name = Some(text.clone()),
            LinkAttribute::Mtu(mtu) => report.mtu = *mtu,
            LinkAttribute::Address(bytes) => {
                report.mac = bytes.as_slice().try_into().unwrap_or_default();
            }
            _ => {}
        }
    }
    Some(LinkReport { name: name?, ..report })
}

/// A neighbour and its state. None for entries that are no neighbours of ours: a bridge's
/// forwarding table, addresses that we answer for.
pub(super) fn neighbour(message: &NeighbourMessage) -> Option<(Hop, Neighbour)> {
    if message.header.flags.contains(NeighbourFlags::Proxy) {
        return None;
    }
    let mut address = None;
    let mut mac = None;
    for attribute in &message.attributes {
        match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(v4)) => {
                address = Some(IpAddr::V4(*v4));
            }
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(v6)) => {
                address = Some(IpAddr::V6(*v6));
            }
            NeighbourAttribute::LinkLayerAddress(bytes) => {
                mac = bytes.as_slice().try_into().ok();
            }
            _ => {}
        }
    }
    let state = match (message.header.state, mac) {
        (NeighbourState::Failed, _) => Neighbour::Failed,
        (NeighbourState::Stale, Some(mac)) => Neighbour::Stale(mac),
        (
            NeighbourState::Reachable
            | NeighbourState::Delay
            | NeighbourState::Probe
            | NeighbourState::Permanent
            | NeighbourState::Noarp,
            Some(mac),
        ) => Neighbour::Kept(mac),
        _ => Neighbour::Incomplete,
    };
    Some((Hop { interface: message.header.ifindex, address: address? }, state))
}

/// The first hop of the kernel's route to `address`, or why a frame cannot be sent along it.
pub(super) fn route(address: IpAddr, message: &RouteMessage) -> Result<Route, String> {
    match message.header.kind {
        Kind::Unicast => {}
        Kind::Local | Kind::Anycast => {
            return Err(format!("{address} is an address of this machine"));
        }
        Kind::Broadcast => return Err(format!("{address} is a broadcast address")),
        Kind::Multicast => return Err(format!("{address} is a multicast address")),
        Kind::BlackHole => return Err(format!("the route to {address} is a blackhole")),
        Kind::Prohibit => return Err(format!("the route to {address} is prohibited")),
        Kind::Unreachable => return Err(format!("the route to {address} is unreachable")),
        _ => return Err(NO_ROUTE.to_owned()),
    }
    let mut interface = None;
    let mut gateway = None;
    let (mut source, mut mtu) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Oif(index) => interface = Some(*index),
            RouteAttribute::Gateway(RouteAddress::Inet(v4))
            | RouteAttribute::Via(RouteVia::Inet(v4)) => gateway = Some(IpAddr::V4(*v4)),
            RouteAttribute::Gateway(RouteAddress::Inet6(v6))
            | RouteAttribute::Via(RouteVia::Inet6(v6)) => gateway = Some(IpAddr::V6(*v6)),
            RouteAttribute::PrefSource(RouteAddress::Inet(v4)) => source = Some(IpAddr::V4(*v4)),
            RouteAttribute::PrefSource(RouteAddress::Inet6(v6)) => source = Some(IpAddr::V6(*v6)),
            RouteAttribute::Metrics(metrics) => {
                mtu = metrics.iter().find_map(|metric| match metric {
                    RouteMetric::Mtu(mtu) => Some(*mtu),
                    _ => None,
                });
            }
            RouteAttribute::EncapType(kind) if *kind != RouteLwEnCapType::None => {
                return Err(format!("the route to {address} goes into a tunnel"));
            }
            _ => {}
        }
    }
    let interface = interface.ok_or_else(|| NO_ROUTE.to_owned())?;
    let hop = Hop { interface, address: gateway.unwrap_or(address) };
    Ok(Route { hop, source, mtu })
}

/// What the kernel means when it refuses to look up a route: its route types have an error each
/// (`fib_props` in `net/ipv4/fib_semantics.c`).
pub(super) fn no_route(address: IpAddr, errno: i32) -> String {
    match errno {
        libc::EHOSTUNREACH => format!("the route to {address} is unreachable"),
        libc::EACCES => format!("the route to {address} is prohibited"),
        libc::EINVAL => format!("the route to {address} is a blackhole"),
        _ => NO_ROUTE.to_owned(),
    }
}

/// The reason when no route matches.
pub(super) const NO_ROUTE: &str = "no route";

#[cfg(test)]
mod tests {
    use super::*;

    const BACKEND: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 2));
    const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];

    fn link_message(family: AddressFamily, flags: LinkFlags) -> LinkMessage {
        let mut message = LinkMessage::default();
        message.header.interface_family = family;
        message.header.link_layer_type = LinkLayerType::Ether;
        message.header.index = 3;
        message.header.flags = flags;
        message.attributes = vec![
            LinkAttribute::IfName("eth0".to_owned()),
            LinkAttribute::Mtu(1500),
            LinkAttribute::Address(MAC.to_vec()),
        ];
        message
    }

    #[test]
    fn a_link_is_up_only_when_it_also_runs() {
        let up = LinkFlags::Up | LinkFlags::Running;
        let report = link(&link_message(AddressFamily::Unspec, up)).expect("a link");
        assert_eq!((report.name.as_str(), report.mac, report.mtu), ("eth0", MAC, 1500));
        assert!(report.up && report.ethernet);
        let no_carrier = link(&link_message(AddressFamily::Unspec, LinkFlags::Up));
        assert!(!no_carrier.expect("a link").up);
    }

    #[test]
    fn a_bridge_speaking_of_its_port_is_no_news_of_the_interface() {
        assert_eq!(link(&link_message(AddressFamily::Bridge, LinkFlags::Up)), None);
    }

    fn neighbour_message(state: NeighbourState, mac: Option<[u8; 6]>) -> NeighbourMessage {
        let mut message = NeighbourMessage::default();
        message.header.ifindex = 3;
        message.header.state = state;
        message.attributes.push(NeighbourAttribute::Destination(BACKEND.into()));
        message.attributes.extend(mac.map(|m| NeighbourAttribute::LinkLayerAddress(m.to_vec())));
        message
    }

    #[test]
    fn every_state_with_an_address_but_failed_is_usable() {
        use NeighbourState::{
            Delay, Failed, Incomplete, Noarp, Permanent, Probe, Reachable, Stale,
        };
        let state = |state, mac| neighbour(&neighbour_message(state, mac)).expect("an entry").1;
        for kept in [Reachable, Delay, Probe, Permanent, Noarp] {
            assert_eq!(state(kept, Some(MAC)), Neighbour::Kept(MAC), "{kept}");
        }
        assert_eq!(state(Stale, Some(MAC)), Neighbour::Stale(MAC));
        assert_eq!(state(Failed, Some(MAC)), Neighbour::Failed);
        assert_eq!(state(Incomplete, None), Neighbour::Incomplete);
        assert_eq!(state(Noarp, None), Neighbour::Incomplete, "nothing to send to");
    }

    fn route_message(kind: Kind, attributes: Vec<RouteAttribute>) -> RouteMessage {
        let mut message = RouteMessage::default();
        message.header.kind = kind;
        message.attributes = attributes;
        message
    }

    #[test]
    fn the_hop_is_the_gateway_or_the_address_itself() {
        let on_link = route_message(Kind::Unicast, vec![RouteAttribute::Oif(3)]);
        let hop = Hop { interface: 3, address: BACKEND };
        assert_eq!(route(BACKEND, &on_link), Ok(Route { hop, source: None, mtu: None }));
        let gateway: std::net::Ipv6Addr = "fe80::1".parse().expect("an address");
        let via = route_message(
            Kind::Unicast,
            vec![RouteAttribute::Via(RouteVia::Inet6(gateway)), RouteAttribute::Oif(4)],
        );
        let hop = Hop { interface: 4, address: gateway.into() };
        assert_eq!(route(BACKEND, &via).map(|route| route.hop), Ok(hop));
    }

    #[test]
    fn a_route_says_whence_its_packets_come_and_how_large_they_may_be() {
        let source = std::net::Ipv4Addr::new(10, 0, 0, 254);
        let message = route_message(
            Kind::Unicast,
            vec![
                RouteAttribute::Oif(3),
                RouteAttribute::PrefSource(RouteAddress::Inet(source)),
                RouteAttribute::Metrics(vec![RouteMetric::Advmss(1000), RouteMetric::Mtu(1400)]),
            ],
        );
        let route = route(BACKEND, &message).expect("a route");
        assert_eq!((route.source, route.mtu), (Some(source.into()), Some(1400)));
    }

    #[test]
    fn routes_that_lead_nowhere_say_so() {
        let reason = |kind| route(BACKEND, &route_message(kind, vec![])).expect_err("no way");
        assert_eq!(reason(Kind::Local), "10.0.0.2 is an address of this machine");
        assert_eq!(reason(Kind::BlackHole), "the route to 10.0.0.2 is a blackhole");
        assert_eq!(reason(Kind::Unicast), "no route", "a route without an interface");
        assert_eq!(no_route(BACKEND, libc::ENETUNREACH), "no route");
        assert_eq!(no_route(BACKEND, libc::EACCES), "the route to 10.0.0.2 is prohibited");
    }

    #[test]
    fn a_route_into_a_tunnel_is_refused() {
        let tunnel =
            vec![RouteAttribute::Oif(3), RouteAttribute::EncapType(RouteLwEnCapType::Mpls)];
        let reason = route(BACKEND, &route_message(Kind::Unicast, tunnel));
        assert_eq!(reason, Err("the route to 10.0.0.2 goes into a tunnel".to_owned()));
    }
}
