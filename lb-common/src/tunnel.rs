//! Forwarding through a tunnel: the packet as it came, behind a new outer header to the backend's
//! own address, which may be in another network. The backend takes the outer header off and answers
//! the client directly.
//!
//! ```text
//! forward = "ipip"   outer IP · packet                  RFC 2003 (4in4), RFC 2473 (in6), RFC 4213 (6in4)
//! forward = "gue"    outer IP · UDP · packet            draft-ietf-intarea-gue, variant 1
//! ```
//!
//! Any of the two IP versions carries any. The inner packet is not touched: its time to live too is
//! left alone, since the balancer answers for the address that the packet is sent to, and does not
//! forward it as a router would (RFC 2003 section 3.1).
//!
//! Two steps, since the room before the packet is made in between, by other means in the kernel
//! than on the host: [`plan`] looks at the packet and says how much, [`Plan::write`] fills it.

pub mod decapsulate;
mod inner;
mod ipv4;
mod ipv6;
mod udp;

use self::inner::Inner;
pub(crate) use self::{ipv4::OuterIpv4, ipv6::OuterIpv6, udp::OuterUdp};
use crate::{
    layout::{BackendEntry, TunnelKind},
    packet::{EthernetWords, Packet},
    reason::Reason,
};

/// The outer header's time to live, or hop limit.
const HOPS: u8 = 64;

const IPV4_LENGTH: usize = size_of::<OuterIpv4>() - size_of::<EthernetWords>();
const IPV6_LENGTH: usize = size_of::<OuterIpv6>() - size_of::<EthernetWords>();
const UDP_LENGTH: usize = size_of::<OuterUdp>();

/// The most bytes that a tunnel puts before a packet.
pub const OVERHEAD_MAX: usize = IPV6_LENGTH + UDP_LENGTH;

/// What is to be put before a packet.
#[derive(Debug)]
pub struct Plan<'t> {
    backend: &'t BackendEntry,
    kind: TunnelKind,
    hash: u32,
}

/// Looks at a packet that goes to `backend` through its tunnel; `hash` is its flow's.
#[inline(always)]
pub fn plan<'t>(
    packet: &Packet<'_>,
    backend: &'t BackendEntry,
    hash: u32,
) -> Result<Plan<'t>, Reason> {
    let Some(inner) = inner::read(packet, 0) else {
        return Err(Reason::Malformed);
    };
    let kind = TunnelKind(backend.tunnel.kind.load());
    if inner.length + overhead(kind) as u32 > backend.tunnel.mtu.load() {
        return Err(Reason::TooBig);
    }
    Ok(Plan { backend, kind, hash })
}

impl Plan<'_> {
    /// How many bytes come to stand before the packet.
    #[inline(always)]
    pub fn overhead(&self) -> usize {
        overhead(self.kind)
    }

    /// Fills the room: `packet` begins [`overhead`](Self::overhead) bytes before what was planned
    /// for. Returns the index of the interface through which the frame leaves.
    #[inline(always)]
    pub fn write(&self, packet: &mut Packet<'_>) -> Result<u32, Reason> {
        // Read anew, before the outer header takes the place of its Ethernet header: kept since
        // `plan`, it would take stack, of which older kernels count that of all callers too.
        let Some(inner) = inner::read(packet, self.overhead()) else {
            return Err(Reason::NoHeadroom);
        };
        let (protocol, udp) =
            if self.kind.is_gue() { (udp::PROTOCOL, UDP_LENGTH) } else { (inner.protocol, 0) };
        let udp_length = inner.length + udp as u32;
        let carried = Inner { protocol, length: udp_length, ..inner };
        let offset = if self.kind.is_ipv6() {
            ipv6::write(packet, self, carried)?;
            size_of::<OuterIpv6>()
        } else {
            ipv4::write(packet, self, carried)?;
            size_of::<OuterIpv4>()
        };
        if self.kind.is_gue() {
            udp::write(packet, offset, self, udp_length)?;
        }
        Ok(BackendEntry::interface(self.backend.link.load()))
    }

    /// The Ethernet header of the next hop, which is the backend's or that of the gateway to it.
    #[inline(always)]
    fn ethernet(&self, ether_type: [u8; 2]) -> EthernetWords {
        EthernetWords {
            first: self.backend.first.load().to_le_bytes(),
            second: (self.backend.link.load() as u32).to_le_bytes(),
            ether_type,
        }
    }

    /// The bits of the flow's hash that stand in the outer source. Read from the other end, so
    /// that they are others than those in the source port.
    #[inline(always)]
    fn spread(&self) -> u32 {
        self.hash.swap_bytes() & self.backend.tunnel.spread.load()
    }
}

/// How many bytes a tunnel puts before a packet.
#[inline(always)]
pub const fn overhead(kind: TunnelKind) -> usize {
    let udp = if kind.is_gue() { UDP_LENGTH } else { 0 };
    udp + if kind.is_ipv6() { IPV6_LENGTH } else { IPV4_LENGTH }
}

/// The largest packet that a backend's tunnel carries, in bytes from its IP header on.
#[inline(always)]
pub fn fits(backend: &BackendEntry) -> u32 {
    let kind = TunnelKind(backend.tunnel.kind.load());
    backend.tunnel.mtu.load().saturating_sub(overhead(kind) as u32)
}

#[cfg(test)]
mod tests;
