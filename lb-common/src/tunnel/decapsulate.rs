//! The other end of a tunnel, on a backend: the outer header is taken off a packet that a balancer
//! has sent, and the host's own stack gets the packet inside. Everything else is left as it is.
//!
//! Two steps, as in [`super::plan`]: [`inspect`] looks, the caller takes the outer header off, and
//! [`Inside::write`] completes the frame.

use super::{IPV4_LENGTH, IPV6_LENGTH, OuterIpv4, OuterIpv6, UDP_LENGTH, inner, udp};
use crate::{
    flow::{ETHER_TYPE_IPV4, ETHER_TYPE_IPV6, ETHERNET_LENGTH},
    layout::{Network, SOURCES_MAX, VIPS_MAX},
    packet::{EthernetWords, Packet},
};

/// What is let in.
pub trait Rules {
    /// The networks that balancers send from.
    fn source(&self, index: u32) -> Option<&Network>;
    /// The addresses that packets inside may go to.
    fn vip(&self, index: u32) -> Option<&Network>;
    /// The UDP port of GUE.
    fn port(&self) -> u16;
}

/// What becomes of a packet whose outer header is not taken off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// It is no business of ours: the host's stack gets it as it came.
    Pass,
    /// It met congestion, and its ends do not know of that signal (RFC 6040 section 4.2): dropped.
    Congestion,
}

/// A packet inside another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Inside {
    first: [u8; 8],
    second: [u8; 4],
    ipv6: bool,
    /// Bytes to take off.
    outer: usize,
    /// The ECN bits that the packet is to have, if others than it has.
    ecn: Option<u8>,
}

/// An outer header.
struct Outer {
    family: u32,
    source: [u32; 4],
    protocol: u8,
    service: u8,
    length: usize,
}

const FAMILY4: u32 = 4;
const FAMILY6: u32 = 6;

/// Looks at a frame: what is inside, if a balancer sent it.
#[inline(always)]
pub fn inspect(packet: &Packet<'_>, rules: &impl Rules) -> Result<Inside, Refused> {
    let Some(mut outer) = outer(packet) else { return Err(Refused::Pass) };
    if outer.protocol == udp::PROTOCOL {
        let Some(header) = packet.at::<[u8; UDP_LENGTH]>(ETHERNET_LENGTH + outer.length) else {
            return Err(Refused::Pass);
        };
        if u16::from_be_bytes([header[2], header[3]]) != rules.port() {
            return Err(Refused::Pass);
        }
        outer.length += UDP_LENGTH;
    }
    let Some((ipv6, destination, service)) = inside(packet, &outer) else {
        return Err(Refused::Pass);
    };
    let family = if ipv6 { FAMILY6 } else { FAMILY4 };
    let from_balancer = any(SOURCES_MAX, outer.family, outer.source, |index| rules.source(index));
    if !from_balancer || !any(VIPS_MAX, family, destination, |index| rules.vip(index)) {
        return Err(Refused::Pass);
    }
    let ecn = ecn(service & 3, outer.service & 3)?;
    let Some(ethernet) = packet.at::<EthernetWords>(0) else { return Err(Refused::Pass) };
    let (first, second) = (ethernet.first, ethernet.second);
    Ok(Inside { first, second, ipv6, outer: outer.length, ecn })
}

impl Inside {
    /// How many bytes are taken off the frame's beginning.
    #[inline(always)]
    pub fn outer_length(&self) -> usize {
        self.outer
    }

    /// Completes the frame, which begins [`outer_length`](Self::outer_length) bytes later than the
    /// one that was looked at. False if it is too short, which the look has excluded.
    #[inline(always)]
    pub fn write(&self, packet: &mut Packet<'_>) -> bool {
        let Some(ethernet) = packet.at_mut::<EthernetWords>(0) else { return false };
        ethernet.first = self.first;
        ethernet.second = self.second;
        ethernet.ether_type = if self.ipv6 { ETHER_TYPE_IPV6 } else { ETHER_TYPE_IPV4 };
        let Some(ecn) = self.ecn else { return true };
        let Some(head) = packet.at_mut::<[u8; 20]>(ETHERNET_LENGTH) else { return false };
        if self.ipv6 {
            head[1] = head[1] & !0x30 | ecn << 4;
            return true;
        }
        let service = head[1] & !3 | ecn;
        // RFC 1624: the checksum without the old word, and with the new one.
        let (old, new) =
            (u16::from_be_bytes([head[0], head[1]]), u16::from_be_bytes([head[0], service]));
        let sum =
            u32::from(!u16::from_be_bytes([head[10], head[11]])) + u32::from(!old) + u32::from(new);
        let sum = (sum & 0xFFFF) + (sum >> 16);
        let [high, low] = (!((sum & 0xFFFF) + (sum >> 16)) as u16).to_be_bytes();
        (head[1], head[10], head[11]) = (service, high, low);
        true
    }
}

/// The outer header, without options or extension headers: balancers send none.
#[inline(always)]
fn outer(packet: &Packet<'_>) -> Option<Outer> {
    let ethernet = packet.at::<EthernetWords>(0)?;
    if ethernet.ether_type == ETHER_TYPE_IPV4 {
        let head = packet.at::<OuterIpv4>(0)?;
        let [version, service] = head.version_and_service;
        let [_, [fragment, offset]] = head.identification_and_fragment;
        if version != 0x45 || fragment & 0x3F != 0 || offset != 0 {
            return None;
        }
        let source = [u32::from_le_bytes(head.source), 0, 0, 0];
        let protocol = head.hops_and_protocol[1];
        return Some(Outer { family: FAMILY4, source, protocol, service, length: IPV4_LENGTH });
    }
    if ethernet.ether_type != ETHER_TYPE_IPV6 {
        return None;
    }
    let head = packet.at::<OuterIpv6>(0)?;
    let [a, b, ..] = head.version_class_and_label;
    let [s0, s1, s2, s3] = head.source;
    let source = [
        u32::from_le_bytes(s0),
        u32::from_le_bytes(s1),
        u32::from_le_bytes(s2),
        u32::from_le_bytes(s3),
    ];
    let protocol = head.protocol_and_hops[0];
    let service = a << 4 | b >> 4;
    Some(Outer { family: FAMILY6, source, protocol, service, length: IPV6_LENGTH })
}

/// Whether the packet inside is IPv6, where it goes, and its DSCP and ECN.
#[inline(always)]
fn inside(packet: &Packet<'_>, outer: &Outer) -> Option<(bool, [u32; 4], u8)> {
    let offset = ETHERNET_LENGTH + outer.length;
    let head = packet.at::<[u8; 20]>(offset)?;
    let fits = |carried| outer.protocol == carried || outer.protocol == udp::PROTOCOL;
    if head[0] >> 4 == 4 && fits(inner::IPV4_IN_IP) {
        let destination = u32::from_le_bytes([head[16], head[17], head[18], head[19]]);
        return Some((false, [destination, 0, 0, 0], head[1]));
    }
    if head[0] >> 4 != 6 || !fits(inner::IPV6_IN_IP) {
        return None;
    }
    let service = head[0] << 4 | head[1] >> 4;
    let bits = u128::from_le_bytes(*packet.at::<[u8; 16]>(offset + 24)?);
    let destination = [bits as u32, (bits >> 32) as u32, (bits >> 64) as u32, (bits >> 96) as u32];
    Some((true, destination, service))
}

/// Whether one of a list's networks has the address.
#[inline(always)]
fn any<'n>(
    most: u32,
    family: u32,
    address: [u32; 4],
    network: impl Fn(u32) -> Option<&'n Network>,
) -> bool {
    for index in 0..most {
        match network(index) {
            Some(network) if network.has(family, address) => return true,
            Some(network) if network.family != 0 => {}
            _ => return false,
        }
    }
    false
}

/// The inner ECN that follows from both (RFC 6040 section 4.2, figure 4), if it changes.
#[inline(always)]
fn ecn(inner: u8, outer: u8) -> Result<Option<u8>, Refused> {
    const NOT_CAPABLE: u8 = 0;
    const CAPABLE_1: u8 = 1;
    const CAPABLE_0: u8 = 2;
    const CONGESTION: u8 = 3;
    match (inner, outer) {
        (NOT_CAPABLE, CONGESTION) => Err(Refused::Congestion),
        (CAPABLE_0 | CAPABLE_1, CONGESTION) => Ok(Some(CONGESTION)),
        (CAPABLE_0, CAPABLE_1) => Ok(Some(CAPABLE_1)),
        _ => Ok(None),
    }
}
