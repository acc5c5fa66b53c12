//! Fragments of services' packets. Only the first one of a datagram names the ports; it teaches them to a
//! table, and the later ones follow it to the same backend.
//!
//! ```text
//! first    ports · SYN, FIN, RST     a record is made, of what part of the datagram has come
//! later                              ports from the record; the part is added to it
//! ```
//!
//! One that comes before the first goes nowhere, since nobody knows where. Nor does one that no sender
//! makes, or that brings again what has come: such ones try to have two hosts read two different
//! datagrams (RFC 1858, RFC 3128, RFC 5722). Whether a fragment is for a service at all, two words of
//! its header tell: its destination and its protocol stand in the service table under a
//! [key](key_ipv4) of their own. All others are none of ours.
//!
//! A service may take [any](any_word) fragments, known or not. Those of which nothing is known go to the
//! slot of the client's address. Where the ports pick the slot too, the first ones go there as well, and
//! teach nothing, so that a datagram stays whole; with `ip_hash` it is one slot anyway.
//!
//! The table is small, and its least recently used records give way. A record lives no longer than
//! [`LIFETIME`], since identifications come again.

use core::ops::Deref;

use network_types::{ip::Ipv4Hdr, tcp::TcpHdr};

use crate::{
    flow::{
        ETHERNET_LENGTH, FRAGMENT, Flow, IPV6_HEADER, IPV6_OFFSET_MASK, OFFSET_MASK, TCP, TcpFlags,
        Transport, parse_transport, skip_extensions, to_fragment_header, words,
    },
    layout::{FragmentKey, FragmentRecord, Part, ServiceKey},
    packet::{ExtensionHead, Ipv6Head, Packet},
    reason::Reason,
    steer::{Constants, Flows, find_key},
};

/// For how many seconds after its first fragment a datagram is remembered: the time after which a
/// receiver gives it up, as RFC 791 section 3.2 advises. Later fragments come within milliseconds.
pub const LIFETIME: u32 = 15;

/// The unit of fragments' offsets in bytes (RFC 791 section 3.1).
const UNIT: u32 = 8;
/// The longest datagram in bytes; of IPv6, what follows the fixed header.
const LONGEST: u32 = 65_535;
/// "More fragments" (RFC 791 section 3.1).
const MORE: u16 = 0x2000;
/// The same in IPv6's fragment header (RFC 8200 section 4.5), whose offset stands for bytes as it is.
const MORE_IPV6: u16 = 1;

/// A transport header that the frame does not hold: longer than any fragment. In place of `None`, which
/// would leave the ports without a value, as older verifiers do not allow them to be passed on.
const ABSENT: Transport = Transport { ports: 0, flags: TcpFlags(0), length: LONGEST as usize + 1 };

/// Where datagrams are remembered.
pub trait Fragments: Flows {
    /// A way to a record as it lies in its table.
    type Datagram<'t>: Deref<Target = FragmentRecord>
    where
        Self: 't;

    /// The record of a datagram.
    fn datagram(&self, key: &FragmentKey) -> Option<Self::Datagram<'_>>;
    /// Remembers a datagram. A full table gives up an older one.
    fn learn(&self, key: &FragmentKey, record: &FragmentRecord);
    /// Forgets a datagram.
    fn forget_datagram(&self, key: &FragmentKey);
}

/// The key under which an address and a protocol stand in the service table, if some service has both.
/// Fragments do not name their port, so its place holds the protocol, and that of the protocol, in which
/// services have TCP or UDP, the number of IPv6's fragment header.
pub const fn key_ipv4(address: [u8; 4], protocol: u8) -> ServiceKey {
    ServiceKey::ipv4(u32::from_le_bytes(address), protocol as u16, FRAGMENT)
}

/// The same of IPv6.
pub const fn key_ipv6(address: [u8; 16], protocol: u8) -> ServiceKey {
    ServiceKey::ipv6(address, protocol as u16, FRAGMENT)
}

/// In the word that stands under such a key: there is a service that takes any fragments.
const TAKES_ANY: u64 = 1 << 16;
/// In it: the first ones go with them.
const FIRST_TOO: u64 = 1 << 17;

/// What stands under such a key, in place of a ring, if a service takes any fragments, else 0: its port
/// as it stands in packets, and whether that picks the slot of a packet that is whole.
#[inline(always)]
pub const fn any_word(port: u16, hashes_ports: bool) -> u64 {
    TAKES_ANY | if hashes_ports { FIRST_TOO } else { 0 } | port as u64
}

/// What is known of the flow that a fragment belongs to, in one word, which passes between functions in
/// a register: ports, flags, protocol, and whether the ports are to be hashed, from the low end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Learned(u64);

impl Learned {
    /// Nothing.
    pub const NOTHING: Self = Self(0);
    const SOMETHING: u64 = 1 << 63;
    const ANY: u64 = 1 << 62;

    #[inline(always)]
    const fn new(ports: u32, flags: TcpFlags, protocol: u8) -> Self {
        Self(Self::SOMETHING | ports as u64 | (flags.0 as u64) << 32 | (protocol as u64) << 40)
    }

    /// A fragment for a service that takes any, by the word under the key.
    #[inline(always)]
    const fn any(word: u64, flags: TcpFlags, protocol: u8) -> Self {
        Self(Self::new((word as u16 as u32) << 16, flags, protocol).0 | Self::ANY)
    }

    /// What is known as the word that it is. Those of numbers below 2^63 know nothing.
    #[inline(always)]
    pub const fn from_word(word: u64) -> Self {
        Self(word)
    }

    /// The word.
    #[inline(always)]
    pub const fn to_word(self) -> u64 {
        self.0
    }

    /// Whether anything is known.
    #[inline(always)]
    pub const fn is_something(self) -> bool {
        self.0 & Self::SOMETHING != 0
    }

    /// The flow of a fragment of IPv4.
    #[inline(always)]
    pub fn flow_ipv4(self, packet: &Packet<'_>) -> Result<Flow, Reason> {
        let Some(ip) = packet.at::<Ipv4Hdr>(ETHERNET_LENGTH) else {
            return Err(Reason::Malformed);
        };
        let source = [u32::from_le_bytes(ip.src_addr), 0, 0, 0];
        let port = (self.ports() >> 16) as u16;
        let service = ServiceKey::ipv4(u32::from_le_bytes(ip.dst_addr), port, self.protocol());
        Ok(Flow { service, source, ports: self.hashed_ports(), flags: self.flags() })
    }

    /// The same of IPv6.
    #[inline(always)]
    pub(crate) fn flow_ipv6(self, head: &Ipv6Head) -> Flow {
        let port = (self.ports() >> 16) as u16;
        let service = ServiceKey::ipv6(head.destination, port, self.protocol());
        let source = words(head.source);
        Flow { service, source, ports: self.hashed_ports(), flags: self.flags() }
    }

    #[inline(always)]
    const fn ports(self) -> u32 {
        self.0 as u32
    }

    #[inline(always)]
    const fn hashed_ports(self) -> u32 {
        if self.0 & Self::ANY != 0 { 0 } else { self.ports() }
    }

    #[inline(always)]
    const fn flags(self) -> TcpFlags {
        TcpFlags((self.0 >> 32) as u8)
    }

    #[inline(always)]
    const fn protocol(self) -> u8 {
        (self.0 >> 40) as u8
    }
}

/// A fragment, as its IP header tells.
///
/// Keys of its destination are made anew each time from the packet: one that was kept would lie on the
/// program's stack, and be copied there in words that the verifier finds misaligned.
struct Fragment<K> {
    /// Of which datagram.
    datagram: FragmentKey,
    /// Makes a key of its destination, of port and protocol.
    key: K,
    protocol: u8,
    /// Where it begins in its datagram, in bytes.
    offset: u32,
    /// How many bytes of the datagram it holds.
    length: u32,
    /// How many more its datagram has when it is whole, for the sake of its greatest length.
    headers: u32,
    is_last: bool,
}

impl<K: Fn(u16, u8) -> ServiceKey> Fragment<K> {
    /// What stands in the service table under its destination and protocol; `None` if nothing.
    #[inline(always)]
    fn mark<T: Fragments>(&self, tables: &T, constants: &impl Constants) -> Option<u64> {
        let key = (self.key)(u16::from(self.protocol), FRAGMENT);
        find_key(tables, constants, key).map(|entry| entry.ring.load())
    }

    /// Whether no sender makes such a one.
    #[inline(always)]
    const fn is_odd(&self) -> bool {
        self.length == 0
            || (!self.is_last && !self.length.is_multiple_of(UNIT))
            || self.headers + self.offset + self.length > LONGEST
    }

    /// The same of one behind the first, which must not lie within the transport header that the first
    /// one holds: a port or a flag might be written over (RFC 3128).
    #[inline(always)]
    const fn is_odd_behind(&self, protocol: u8) -> bool {
        let header = if protocol == TCP { TcpHdr::LEN as u32 } else { UNIT };
        self.offset < header || self.is_odd()
    }

    /// The part of the datagram that it is, in units.
    #[inline(always)]
    const fn part(&self) -> (u32, u32) {
        (self.offset / UNIT, (self.offset + self.length).div_ceil(UNIT))
    }
}

/// Finds out about a packet of which [`crate::flow`] has said that it is a fragment, and remembers what
/// it teaches.
#[inline(always)]
pub fn learn_ipv4<T: Fragments>(
    tables: &T,
    constants: &impl Constants,
    packet: &Packet<'_>,
) -> Result<Learned, Reason> {
    let Some(ip) = packet.at::<Ipv4Hdr>(ETHERNET_LENGTH) else {
        return Err(Reason::Malformed);
    };
    let header = usize::from(ip.vihl & 0x0F) * 4;
    let word = u16::from_be_bytes(ip.frags);
    let is_first = word & OFFSET_MASK == 0;
    // Bounds first: see `parse_transport`.
    let mut transport = ABSENT;
    if is_first && let Ok(found) = parse_transport(packet, ip.proto, ETHERNET_LENGTH + header) {
        transport = found;
    }
    let total = usize::from(u16::from_be_bytes(ip.tot_len));
    if ip.vihl >> 4 != 4
        || header < Ipv4Hdr::LEN
        || total < header
        || total > packet.length() - ETHERNET_LENGTH
    {
        return Err(Reason::Malformed);
    }
    let source = u32::from_le_bytes(ip.src_addr);
    let destination = u32::from_le_bytes(ip.dst_addr);
    let identification = u16::from_le_bytes(ip.id);
    let fragment = Fragment {
        datagram: FragmentKey::ipv4(source, destination, identification, ip.proto),
        key: move |port, protocol| ServiceKey::ipv4(destination, port, protocol),
        protocol: ip.proto,
        offset: u32::from(word & OFFSET_MASK) * UNIT,
        length: (total - header) as u32,
        headers: header as u32,
        is_last: word & MORE == 0,
    };
    if is_first {
        first(tables, constants, &fragment, transport, 0)
    } else {
        later(tables, constants, &fragment)
    }
}

/// The same of IPv6.
#[inline(always)]
pub fn learn_ipv6<T: Fragments>(
    tables: &T,
    constants: &impl Constants,
    packet: &Packet<'_>,
) -> Result<Learned, Reason> {
    const BEHIND: usize = ETHERNET_LENGTH + IPV6_HEADER;
    let Some(head) = packet.at::<Ipv6Head>(0) else {
        return Err(Reason::Malformed);
    };
    let header = to_fragment_header(packet, head.next_header, BEHIND)?;
    let begin = header + size_of::<ExtensionHead>();
    let Some(header) = packet.at::<ExtensionHead>(header) else {
        return Err(Reason::Malformed);
    };
    let word = u16::from_be_bytes(header.fragment);
    let is_first = word & IPV6_OFFSET_MASK == 0;
    let (mut protocol, mut transport, mut before) = (header.next, ABSENT, 0);
    if is_first && let Ok((found, offset)) = skip_extensions(packet, header.next, begin, false) {
        protocol = found;
        before = offset - begin;
        if let Ok(found) = parse_transport(packet, found, offset) {
            transport = found;
        }
    }
    let end = BEHIND + usize::from(u16::from_be_bytes(head.payload_length));
    if end < begin || end > packet.length() {
        return Err(Reason::Malformed);
    }
    let identification = u32::from_le_bytes(header.identification);
    let fragment = Fragment {
        datagram: FragmentKey::ipv6(head.source, head.destination, identification),
        key: move |port, protocol| ServiceKey::ipv6(head.destination, port, protocol),
        protocol,
        offset: u32::from(word & IPV6_OFFSET_MASK),
        length: (end - begin) as u32,
        headers: (begin - size_of::<ExtensionHead>() - BEHIND) as u32,
        is_last: word & MORE_IPV6 == 0,
    };
    if is_first {
        first(tables, constants, &fragment, transport, before as u32)
    } else {
        later(tables, constants, &fragment)
    }
}

/// The first fragment of a datagram, whose transport header lies behind its first `before` bytes.
#[inline(always)]
fn first<T: Fragments>(
    tables: &T,
    constants: &impl Constants,
    fragment: &Fragment<impl Fn(u16, u8) -> ServiceKey>,
    transport: Transport,
    before: u32,
) -> Result<Learned, Reason> {
    let Some(any) = fragment.mark(tables, constants) else {
        return Err(Reason::Fragment);
    };
    let protocol = fragment.protocol;
    let Transport { ports, flags, length } = transport;
    if fragment.length < before + length as u32 || fragment.is_odd() {
        return Err(Reason::TinyFragment);
    }
    if any & FIRST_TOO != 0 {
        let port = (ports >> 16) as u16;
        let own = (fragment.key)(port, protocol);
        // A service for every port has those that no other has.
        let is_its =
            any as u16 == port || (any as u16 == 0 && find_key(tables, constants, own).is_none());
        if is_its {
            return Ok(Learned::any(any, flags, protocol));
        }
    }
    if known(tables, &fragment.datagram).is_some() {
        return Err(Reason::OverlappingFragment);
    }
    let (_, to) = fragment.part();
    let record = FragmentRecord::new(ports, protocol, tables.now(), to);
    tables.learn(&fragment.datagram, &record);
    Ok(Learned::new(ports, flags, protocol))
}

/// Any other.
#[inline(always)]
fn later<T: Fragments>(
    tables: &T,
    constants: &impl Constants,
    fragment: &Fragment<impl Fn(u16, u8) -> ServiceKey>,
) -> Result<Learned, Reason> {
    let Some(record) = known(tables, &fragment.datagram) else {
        let Some(any) = fragment.mark(tables, constants) else {
            return Err(Reason::Fragment);
        };
        if any == 0 {
            return Err(Reason::UnknownFragment);
        }
        if fragment.is_odd_behind(fragment.protocol) {
            return Err(Reason::TinyFragment);
        }
        return Ok(Learned::any(any, TcpFlags::default(), fragment.protocol));
    };
    let (ports, protocol) = (record.ports.load(), record.protocol.load() as u8);
    if fragment.is_odd_behind(protocol) {
        return Err(Reason::TinyFragment);
    }
    let (from, to) = fragment.part();
    match record.add(from, to, fragment.is_last) {
        Part::New => {}
        Part::Completes => tables.forget_datagram(&fragment.datagram),
        Part::Overlaps => return Err(Reason::OverlappingFragment),
    }
    Ok(Learned::new(ports, TcpFlags::default(), protocol))
}

/// The record of a datagram, if it is not too old.
#[inline(always)]
fn known<'t, T: Fragments>(tables: &'t T, key: &FragmentKey) -> Option<T::Datagram<'t>> {
    let record = tables.datagram(key)?;
    (tables.now().wrapping_sub(record.made.load()) <= LIFETIME).then_some(record)
}
