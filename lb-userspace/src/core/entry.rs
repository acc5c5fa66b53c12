//! A backend's entry in the tables: made of the way to the backend, and changed under packets that
//! read it.

use std::net::IpAddr;

use lb_common::layout::{BackendEntry, Tunnel, TunnelKind};

use super::{NextHop, Write};
use crate::config::{Forward, Service as Spec};

/// The longest packet of IP.
const LONGEST: u32 = 65_535;

/// What stands in an entry that is open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// The two words of the next hop, as [`BackendEntry::words`] makes them.
    pub words: [u64; 2],
    /// The tunnel that leads to the backend, if one does.
    pub tunnel: Option<Tunnel>,
}

impl Entry {
    /// The entry of a backend at `address`, or why none can be made.
    pub(super) fn new(spec: &Spec, address: IpAddr, hop: &NextHop) -> Result<Self, String> {
        let [first, link] = BackendEntry::words(hop.destination, hop.source, hop.interface);
        if !spec.forward.is_tunnel() {
            return Ok(Self { words: [first, link], tunnel: None });
        }
        let tunnel = tunnel(spec, address, hop)?;
        Ok(Self { words: [first, link | BackendEntry::TUNNEL], tunnel: Some(tunnel) })
    }

    /// Any entry, for plans: nothing is sent by it.
    pub(super) fn assumed() -> Self {
        Self { words: BackendEntry::words([2; 6], [2; 6], 1), tunnel: None }
    }

    /// Reads an entry; none if it is closed.
    pub(super) fn load(entry: &BackendEntry) -> Option<Self> {
        let words = [entry.first.load(), entry.link.load()];
        let tunnel = (words[1] & BackendEntry::TUNNEL != 0).then(|| entry.tunnel.load());
        (BackendEntry::interface(words[1]) != 0).then_some(Self { words, tunnel })
    }

    /// The writes that bring an entry to this, safe for packets that read it meanwhile.
    pub(super) fn writes(self, number: u16, before: Option<Self>) -> Vec<Write> {
        let Some(old) = before else { return vec![Write::Backend(number, self)] };
        if old == self {
            return Vec::new();
        }
        let [first, link] = self.words;
        let ([old_first, old_link], new_tunnel) = (old.words, self.tunnel);
        if old_link == link && old.tunnel == new_tunnel {
            // A new neighbour or gateway on the same interface: one word, so nothing can be half.
            return vec![Write::BackendFirst(number, first)];
        }
        match (old.tunnel, new_tunnel) {
            // So is this one.
            (Some(old), Some(new))
                if self.words == [old_first, old_link] && old.differs_in_mtu(&new) =>
            {
                vec![Write::BackendMtu(number, new.mtu)]
            }
            // Several words. While the entry is closed, no packet reads them.
            _ => vec![Write::BackendClosed(number), Write::Grace, Write::Backend(number, self)],
        }
    }
}

/// The tunnel to a backend.
fn tunnel(spec: &Spec, address: IpAddr, hop: &NextHop) -> Result<Tunnel, String> {
    let (source, spread) = match (spec.tunnel.source_to(address), hop.local) {
        (Some(network), _) => {
            let longest = if network.address.is_ipv4() { 32 } else { 128 };
            // At most all bits of the last word.
            let host_bits = u32::from(longest - network.length).min(u32::BITS);
            let mask = u32::MAX.checked_shl(host_bits).map_or(u32::MAX, |network| !network);
            (network.address, u32::from_le_bytes(mask.to_be_bytes()))
        }
        (None, Some(local)) => (local, 0),
        (None, None) => return Err(format!("the route to {address} names no source address")),
    };
    let ipv6 = address.is_ipv6();
    let kind = match spec.forward {
        Forward::Gue => TunnelKind::gue(ipv6, spec.tunnel.port),
        Forward::Ipip | Forward::L2 => TunnelKind::ipip(ipv6),
    };
    let mtu = hop.mtu.min(LONGEST);
    Ok(Tunnel { kind, mtu, spread, source: words(source), destination: words(address) })
}

/// An address as it stands in packets, in words.
fn words(address: IpAddr) -> [u32; 4] {
    match address {
        IpAddr::V4(v4) => [u32::from_le_bytes(v4.octets()), 0, 0, 0],
        IpAddr::V6(v6) => {
            let bytes = v6.octets();
            std::array::from_fn(|n| {
                let [a, b, c, d] = [0, 1, 2, 3].map(|part| bytes[n * 4 + part]);
                u32::from_le_bytes([a, b, c, d])
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;

    const BACKEND: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 9, 8, 7));

    fn spec(forward: &str, more: &str) -> Spec {
        let text = format!(
            "[[interface]]\nname = \"eth0\"\n[[service]]\nname = \"web\"\naddress = \"192.0.2.1\"\n\
             port = 80\nforward = \"{forward}\"\n{more}"
        );
        config::parse(&text, "test.toml").unwrap().services.remove(0)
    }

    fn hop() -> NextHop {
        let local = Some(IpAddr::from([10, 0, 0, 254]));
        NextHop { interface: 3, source: [2; 6], destination: [4; 6], local, mtu: 1500 }
    }

    fn entry(spec: &Spec, hop: &NextHop) -> Entry {
        Entry::new(spec, BACKEND, hop).unwrap()
    }

    #[test]
    fn a_tunnel_begins_at_the_hosts_address_or_anywhere_in_a_network() {
        let tunnel = entry(&spec("ipip", ""), &hop()).tunnel.unwrap();
        assert_eq!(tunnel.source, [u32::from_le_bytes([10, 0, 0, 254]), 0, 0, 0]);
        assert_eq!((tunnel.spread, tunnel.mtu), (0, 1500));
        assert_eq!(tunnel.destination, [u32::from_le_bytes([10, 9, 8, 7]), 0, 0, 0]);
        let networks = "tunnel.source = [\"10.255.0.0/16\", \"2001:db8::/64\"]";
        let spread = entry(&spec("gue", networks), &hop()).tunnel.unwrap();
        assert_eq!(spread.source, [u32::from_le_bytes([10, 255, 0, 0]), 0, 0, 0]);
        assert_eq!(spread.spread, u32::from_le_bytes([0, 0, 0xFF, 0xFF]));
        assert_eq!(spread.kind, TunnelKind::gue(false, 6080));
        let six: IpAddr = "2001:db8:9::7".parse().unwrap();
        let six = Entry::new(&spec("gue", networks), six, &hop()).unwrap().tunnel.unwrap();
        assert_eq!((six.source, six.spread), (words("2001:db8::".parse().unwrap()), u32::MAX));
        let lost = NextHop { local: None, ..hop() };
        assert!(Entry::new(&spec("ipip", ""), BACKEND, &lost).is_err());
        assert!(Entry::new(&spec("l2", ""), BACKEND, &lost).is_ok());
    }

    #[test]
    fn an_open_entry_changes_in_one_word_or_is_closed_first() {
        let (spec, other) = (spec("ipip", ""), spec("gue", ""));
        let old = entry(&spec, &hop());
        let writes = |new: Entry| new.writes(5, Some(old));
        assert_eq!(writes(old), []);
        let moved = entry(&spec, &NextHop { destination: [8; 6], ..hop() });
        assert_eq!(writes(moved), [Write::BackendFirst(5, moved.words[0])]);
        let narrower = entry(&spec, &NextHop { mtu: 1400, ..hop() });
        assert_eq!(writes(narrower), [Write::BackendMtu(5, 1400)]);
        let both = entry(&spec, &NextHop { mtu: 1400, destination: [8; 6], ..hop() });
        for closed in
            [both, entry(&other, &hop()), entry(&spec, &NextHop { interface: 4, ..hop() })]
        {
            assert_eq!(
                writes(closed),
                [Write::BackendClosed(5), Write::Grace, Write::Backend(5, closed)]
            );
        }
    }
}
