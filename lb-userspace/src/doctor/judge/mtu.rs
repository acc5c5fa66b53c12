//! Ways to backends that carry smaller packets than clients may send.

use std::{collections::BTreeMap, net::IpAddr};

use lb_common::{layout::TunnelKind, tunnel::overhead};

use super::{Facts, Finding, Scope, list};
use crate::{config::Forward, core::status::ServiceStatus, doctor::finding::Kind};

/// What TCP and IP put before a segment's data, in bytes.
const fn headers(ipv4: bool) -> u32 {
    if ipv4 { 40 } else { 60 }
}

pub(super) fn findings(scope: Scope<'_>, facts: &Facts) -> Vec<Finding> {
    scope.services().flat_map(|service| of_service(scope, facts, service)).collect()
}

/// One finding for all backends that have the same trouble.
fn of_service(scope: Scope<'_>, facts: &Facts, service: &ServiceStatus) -> Vec<Finding> {
    let segments = facts.segments(scope.status, service.address);
    let Some(arriving) = segments.iter().map(|link| link.mtu).max() else { return Vec::new() };
    let mut narrow: BTreeMap<(&str, u32, u32), Vec<String>> = BTreeMap::new();
    for backend in &service.backends {
        let route = facts.routes.get(&backend.address).and_then(|route| route.as_ref().ok());
        let Some((route, link)) =
            route.and_then(|route| Some((route, facts.link_at(route.hop.interface)?)))
        else {
            continue;
        };
        let carries = route.mtu.map_or(link.mtu, |mtu| mtu.min(link.mtu));
        let header = header(service.forward, backend.address);
        if carries < arriving + header {
            let name = format!("{}/{}", service.name, backend.name);
            narrow.entry((&link.name, carries, header)).or_default().push(name);
        }
    }
    let finding = |((interface, carries, header), names): ((&str, u32, u32), Vec<String>)| {
        let names = list(&names);
        let room = carries.saturating_sub(header);
        let with = match header {
            0 => String::new(),
            header => format!(" with the {header} bytes that {} adds", service.forward.name()),
        };
        let mss = room.saturating_sub(headers(service.address.is_ipv4()));
        Finding {
            finding: Kind::MtuTooSmall,
            what: format!(
                "clients' packets may have {arriving} bytes, and the way to {names} by {interface} \
                 carries {carries}{with}: those above {room} bytes do not fit"
            ),
            subject: names,
            remedy: format!(
                "an MTU of {} on {interface} and on all of that way; or have the backends ask for smaller \
                 segments: `ip route change default via GATEWAY advmss {mss}` on each",
                arriving + header
            ),
        }
    };
    narrow.into_iter().map(finding).collect()
}

/// How many bytes come to stand before a packet.
fn header(forward: Forward, backend: IpAddr) -> u32 {
    let ipv6 = backend.is_ipv6();
    let bytes = match forward {
        Forward::L2 => 0,
        Forward::Ipip => overhead(TunnelKind::ipip(ipv6)),
        // The port makes no difference.
        Forward::Gue => overhead(TunnelKind::gue(ipv6, 0)),
    };
    u32::try_from(bytes).expect("headers are a few dozen bytes")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::judge::testing::{BACKEND, facts, kinds, scope, status};

    #[test]
    fn within_one_segment_every_packet_fits() {
        let status = status();
        assert_eq!(findings(scope(&status), &facts()), []);
    }

    #[test]
    fn a_tunnel_needs_room_for_its_header() {
        let mut status = status();
        status.services[0].forward = Forward::Ipip;
        let mut facts = facts();
        let found = findings(scope(&status), &facts);
        assert_eq!(kinds(&found), [Kind::MtuTooSmall]);
        let what = "the way to web/b1 by eth0 carries 1500 with the 20 bytes that ipip adds: those \
                    above 1480 bytes";
        assert!(found[0].what.contains(what), "{}", found[0].what);
        assert!(found[0].remedy.starts_with("an MTU of 1520 on eth0"), "{}", found[0].remedy);
        assert!(found[0].remedy.contains("advmss 1440"), "{}", found[0].remedy);
        // Jumbo frames on the way there, which clients do not send.
        facts.links[1].mtu = 9000;
        facts.routes.get_mut(&BACKEND).unwrap().as_mut().unwrap().hop.interface = 3;
        assert_eq!(findings(scope(&status), &facts), []);
    }

    #[test]
    fn a_route_may_be_narrower_than_its_interface() {
        let status = status();
        let mut facts = facts();
        facts.routes.get_mut(&BACKEND).unwrap().as_mut().unwrap().mtu = Some(1400);
        let found = findings(scope(&status), &facts);
        assert!(found[0].what.contains("carries 1400: those above 1400 bytes"), "{found:?}");
    }

    #[test]
    fn each_kind_of_tunnel_has_its_header() {
        let (v4, v6) = (BACKEND, "2001:db8::21".parse().unwrap());
        let all =
            [Forward::L2, Forward::Ipip, Forward::Gue].map(|f| [header(f, v4), header(f, v6)]);
        assert_eq!(all, [[0, 0], [20, 40], [28, 48]]);
    }
}
