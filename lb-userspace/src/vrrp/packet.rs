//! Adverts on the wire: VRRP v2 (RFC 3768 section 5) and v3 (RFC 9568 section 5).
//!
//! What arrives is either an [`Advert`] of the instance that asked, or it is discarded with a
//! [`Discard`] that is counted, and nothing else happens: a discarded packet touches no timer.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::Duration,
};

use super::auth::{Authentication, DATA_LENGTH};

/// The protocol's number (IANA).
pub const PROTOCOL: u8 = 112;
/// Where adverts go (RFC 9568 section 5.1.1.2).
pub const GROUP_V4: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 18);
/// Where adverts go (RFC 9568 section 5.1.2.2).
pub const GROUP_V6: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0x12);
/// The TTL or hop limit that shows that a packet has passed no router (RFC 9568 section 5.1.1.3).
pub const HOP_LIMIT: u8 = 255;
/// The largest message there is room for: 255 IPv6 addresses.
pub const LENGTH_MAX: usize = HEADER_LENGTH + 255 * 16;
/// The priority of a router that stops (RFC 9568 section 5.2.4).
pub const PRIORITY_LEAVING: u8 = 0;

/// Version and type, router id, priority, address count, two octets that differ, checksum.
const HEADER_LENGTH: usize = 8;
const CHECKSUM_AT: usize = 6;
const TYPE_ADVERTISEMENT: u8 = 1;
const IPV4_HEADER_LENGTH: usize = 20;

/// The protocol's version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// RFC 3768: IPv4, whole seconds, a password.
    V2,
    /// RFC 9568: IPv4 and IPv6, hundredths of a second.
    V3,
}

/// What a v3 checksum over IPv4 covers: RFC 5798 could be read either way. Over IPv6 it always
/// covers the pseudo-header, in v2 never.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Coverage {
    /// The message and the pseudo-header, as keepalived has it.
    PseudoHeader,
    /// The message alone.
    Message,
}

/// What an advert says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Advert {
    /// The virtual router (VRID).
    pub router_id: u8,
    /// The sender's priority; 0 says that it stops.
    pub priority: u8,
    /// Time between its adverts: whole seconds in v2, hundredths of a second in v3.
    pub interval: Duration,
    /// The addresses that it stands for, in the sender's order.
    pub addresses: Vec<IpAddr>,
}

/// How an instance writes its adverts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Format {
    /// The version.
    pub version: Version,
    /// What a v3 checksum over IPv4 covers.
    pub coverage: Coverage,
    /// The authentication of v2.
    pub authentication: Authentication,
}

/// What an instance takes for an advert of its own virtual router.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter {
    /// The version.
    pub version: Version,
    /// The authentication of v2.
    pub authentication: Authentication,
    /// The virtual router.
    pub router_id: u8,
    /// The configured interval, which v2 adverts have to match.
    pub interval: Duration,
    /// The configured addresses, which v2 adverts have to match unless their owner sent them.
    pub addresses: Vec<IpAddr>,
    /// With unicast, the only ones who are heard; empty with multicast.
    pub peers: Vec<IpAddr>,
    /// The interface's own addresses: what they send is our own echo.
    pub own: Vec<IpAddr>,
}

/// A VRRP message as it arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Datagram<'p> {
    /// Who sent it.
    pub source: IpAddr,
    /// To whom: the group, or one of our addresses.
    pub destination: IpAddr,
    /// The TTL or hop limit with which it arrived.
    pub hop_limit: u8,
    /// The VRRP message.
    pub message: &'p [u8],
}

/// Why a packet was discarded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, thiserror::Error)]
pub enum Discard {
    /// The IPv4 header is cut or makes no sense.
    #[error("its IP header makes no sense")]
    IpHeader,
    /// The source address is one of ours.
    #[error("it is our own, come back")]
    OwnEcho,
    /// With unicast: the sender is no configured peer.
    #[error("its sender is no configured peer")]
    UnknownPeer,
    /// It has passed a router, or pretends to.
    #[error("its TTL is not 255")]
    HopLimit,
    /// Shorter than what it says it holds, or than any advert.
    #[error("it is cut short")]
    Truncated,
    /// An advert of another virtual router.
    #[error("it is for another router id")]
    RouterId,
    /// Another version than the instance's.
    #[error("it has another version")]
    Version,
    /// No advertisement.
    #[error("it is no advertisement")]
    Type,
    /// It names no address.
    #[error("it names no address")]
    Count,
    /// Longer than what it says it holds.
    #[error("its length does not fit its address count")]
    Length,
    /// The checksum is wrong.
    #[error("its checksum is wrong")]
    Checksum,
    /// v2: another kind of authentication.
    #[error("its authentication type is another")]
    AuthenticationType,
    /// v2: another password.
    #[error("its password is another")]
    Password,
    /// v3: no time between adverts.
    #[error("its interval is zero")]
    IntervalZero,
    /// v2: another interval than ours.
    #[error("its interval is another")]
    Interval,
    /// v2: other addresses than ours, and the sender does not own them.
    #[error("its addresses are others")]
    Addresses,
}

impl Discard {
    /// All reasons.
    pub const ALL: [Self; 16] = [
        Self::IpHeader,
        Self::OwnEcho,
        Self::UnknownPeer,
        Self::HopLimit,
        Self::Truncated,
        Self::RouterId,
        Self::Version,
        Self::Type,
        Self::Count,
        Self::Length,
        Self::Checksum,
        Self::AuthenticationType,
        Self::Password,
        Self::IntervalZero,
        Self::Interval,
        Self::Addresses,
    ];

    /// Whether it says that two routers are configured differently, and not that somebody sends
    /// nonsense.
    pub const fn is_of_configuration(self) -> bool {
        matches!(
            self,
            Self::UnknownPeer
                | Self::Version
                | Self::AuthenticationType
                | Self::Password
                | Self::Interval
                | Self::Addresses
        )
    }

    /// Its name in metrics and `status`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::IpHeader => "ip_header",
            Self::OwnEcho => "own_echo",
            Self::UnknownPeer => "unknown_peer",
            Self::HopLimit => "ttl",
            Self::Truncated => "truncated",
            Self::RouterId => "router_id",
            Self::Version => "version",
            Self::Type => "type",
            Self::Count => "count",
            Self::Length => "length",
            Self::Checksum => "checksum",
            Self::AuthenticationType => "auth_type",
            Self::Password => "password",
            Self::IntervalZero => "interval_zero",
            Self::Interval => "interval",
            Self::Addresses => "addresses",
        }
    }
}

impl<'p> Datagram<'p> {
    /// Takes the IPv4 header off, as raw sockets deliver it.
    ///
    /// # Errors
    ///
    /// [`Discard::IpHeader`] or [`Discard::Truncated`].
    pub fn from_ipv4(packet: &'p [u8]) -> Result<Self, Discard> {
        let header = packet.first_chunk::<IPV4_HEADER_LENGTH>().ok_or(Discard::IpHeader)?;
        let header_length = usize::from(header[0] & 0x0f) * 4;
        let total_length = usize::from(u16::from_be_bytes([header[2], header[3]]));
        let is_vrrp = header[0] >> 4 == 4 && header[9] == PROTOCOL;
        if !is_vrrp || header_length < IPV4_HEADER_LENGTH || total_length < header_length {
            return Err(Discard::IpHeader);
        }
        let address = |at: usize| {
            Ipv4Addr::new(header[at], header[at + 1], header[at + 2], header[at + 3]).into()
        };
        Ok(Self {
            source: address(12),
            destination: address(16),
            hop_limit: header[8],
            message: packet.get(header_length..total_length).ok_or(Discard::Truncated)?,
        })
    }

    /// Reads the advert that it is, if it is one of the filter's virtual router
    /// (RFC 9568 section 7.1, RFC 3768 section 7.1).
    ///
    /// Two checks of those sections are left to the state machine, which does better than to
    /// discard: what other routers say to an address owner (two owners would never find out), and
    /// v3 adverts with another interval or other addresses, which are learned and reported.
    ///
    /// # Errors
    ///
    /// The first [`Discard`] that applies.
    pub fn advert(&self, filter: &Filter) -> Result<Advert, Discard> {
        if filter.own.contains(&self.source) {
            return Err(Discard::OwnEcho);
        }
        if !filter.peers.is_empty() && !filter.peers.contains(&self.source) {
            return Err(Discard::UnknownPeer);
        }
        if self.hop_limit != HOP_LIMIT {
            return Err(Discard::HopLimit);
        }
        let header = self.message.first_chunk::<HEADER_LENGTH>().ok_or(Discard::Truncated)?;
        if header[1] != filter.router_id {
            return Err(Discard::RouterId);
        }
        if header[0] >> 4 != filter.version.number() {
            return Err(Discard::Version);
        }
        if header[0] & 0x0f != TYPE_ADVERTISEMENT {
            return Err(Discard::Type);
        }
        let (addresses, rest) = self.split(header[3])?;
        let advert = Advert {
            router_id: header[1],
            priority: header[2],
            interval: filter.version.interval([header[4], header[5]]),
            addresses,
        };
        match filter.version {
            Version::V2 => self.check_v2(&advert, header[4], rest, filter)?,
            Version::V3 => self.check_v3(&advert, rest)?,
        }
        Ok(advert)
    }

    /// The addresses behind the header, and what follows them.
    fn split(&self, count: u8) -> Result<(Vec<IpAddr>, &'p [u8]), Discard> {
        if count == 0 {
            return Err(Discard::Count);
        }
        let width = if self.source.is_ipv4() { 4 } else { 16 };
        let body = self.message.get(HEADER_LENGTH..).ok_or(Discard::Truncated)?;
        let (addresses, rest) =
            body.split_at_checked(usize::from(count) * width).ok_or(Discard::Truncated)?;
        Ok((addresses.chunks_exact(width).filter_map(address).collect(), rest))
    }

    fn check_v2(
        &self,
        advert: &Advert,
        authentication: u8,
        rest: &[u8],
        filter: &Filter,
    ) -> Result<(), Discard> {
        if rest.len() < DATA_LENGTH {
            return Err(Discard::Truncated);
        }
        if rest.len() > DATA_LENGTH {
            return Err(Discard::Length);
        }
        if sum(&[self.message]) != 0 {
            return Err(Discard::Checksum);
        }
        if authentication != filter.authentication.kind() {
            return Err(Discard::AuthenticationType);
        }
        // Without a password the data is zero when sent and ignored when received.
        if authentication != 0 && *rest != filter.authentication.data() {
            return Err(Discard::Password);
        }
        if advert.interval != filter.interval {
            return Err(Discard::Interval);
        }
        let owner = advert.priority == u8::MAX;
        if !owner && !same_addresses(&advert.addresses, &filter.addresses) {
            return Err(Discard::Addresses);
        }
        Ok(())
    }

    fn check_v3(&self, advert: &Advert, rest: &[u8]) -> Result<(), Discard> {
        if !rest.is_empty() {
            return Err(Discard::Length);
        }
        let pseudo = pseudo_header(self.source, self.destination, self.message.len());
        let message_alone = self.source.is_ipv4() && sum(&[self.message]) == 0;
        if !message_alone && sum(&[&pseudo, self.message]) != 0 {
            return Err(Discard::Checksum);
        }
        if advert.interval.is_zero() {
            return Err(Discard::IntervalZero);
        }
        Ok(())
    }
}

impl Advert {
    /// The message as it goes on the wire.
    pub fn message(&self, format: &Format, source: IpAddr, destination: IpAddr) -> Vec<u8> {
        // At most 64 addresses are configured; the count of a longer list would lie.
        let count = u8::try_from(self.addresses.len()).unwrap_or(u8::MAX);
        let kind = format.version.number() << 4 | TYPE_ADVERTISEMENT;
        let [fifth, sixth] = match format.version {
            Version::V2 => {
                let seconds = u8::try_from(self.interval.as_secs()).unwrap_or(u8::MAX);
                [format.authentication.kind(), seconds]
            }
            Version::V3 => {
                let hundredths = (self.interval.as_millis() / 10).min(CENTISECONDS_MASK.into());
                u16::try_from(hundredths).unwrap_or(CENTISECONDS_MASK).to_be_bytes()
            }
        };
        let mut message = vec![kind, self.router_id, self.priority, count, fifth, sixth, 0, 0];
        for address in self.addresses.iter().take(count.into()) {
            match address {
                IpAddr::V4(v4) => message.extend(v4.octets()),
                IpAddr::V6(v6) => message.extend(v6.octets()),
            }
        }
        if format.version == Version::V2 {
            message.extend(format.authentication.data());
        }
        let message_alone = format.version == Version::V2
            || (source.is_ipv4() && format.coverage == Coverage::Message);
        let checksum = if message_alone {
            sum(&[&message])
        } else {
            sum(&[&pseudo_header(source, destination, message.len()), &message])
        };
        message[CHECKSUM_AT..HEADER_LENGTH].copy_from_slice(&checksum.to_be_bytes());
        message
    }
}

/// The field for the interval has twelve bits.
const CENTISECONDS_MASK: u16 = 0x0fff;

impl Version {
    /// The number in the packet.
    pub const fn number(self) -> u8 {
        match self {
            Self::V2 => 2,
            Self::V3 => 3,
        }
    }

    /// What the fifth and sixth octet say of the interval.
    fn interval(self, octets: [u8; 2]) -> Duration {
        match self {
            Self::V2 => Duration::from_secs(octets[1].into()),
            // The upper four bits are reserved, and ignored when received.
            Self::V3 => {
                let hundredths = u16::from_be_bytes(octets) & CENTISECONDS_MASK;
                Duration::from_millis(u64::from(hundredths) * 10)
            }
        }
    }
}

/// Whether two lists name the same addresses, in any order.
pub(super) fn same_addresses(one: &[IpAddr], other: &[IpAddr]) -> bool {
    let within = |one: &[IpAddr], other: &[IpAddr]| one.iter().all(|each| other.contains(each));
    one.len() == other.len() && within(one, other) && within(other, one)
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from),
        _ => <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from),
    }
}

/// RFC 9293 section 3.1 for IPv4, RFC 8200 section 8.1 for IPv6.
fn pseudo_header(source: IpAddr, destination: IpAddr, length: usize) -> Vec<u8> {
    // At most `LENGTH_MAX`.
    let length = u16::try_from(length).unwrap_or(u16::MAX).to_be_bytes();
    match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            [&source.octets()[..], &destination.octets(), &[0, PROTOCOL], &length].concat()
        }
        (source, destination) => {
            let octets = |address| match address {
                IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
                IpAddr::V6(v6) => v6.octets(),
            };
            let (source, destination) = (octets(source), octets(destination));
            [&source[..], &destination, &[0, 0], &length, &[0, 0, 0, PROTOCOL]].concat()
        }
    }
}

/// The Internet checksum (RFC 1071) of parts of even length but for the last; 0 over a message
/// that holds its own.
pub(super) fn sum(parts: &[&[u8]]) -> u16 {
    let mut sum: u32 = 0;
    for part in parts {
        for word in part.chunks(2) {
            // At most 65 535 octets, so that 32 bits never overflow.
            sum += u32::from(u16::from_be_bytes([word[0], word.get(1).copied().unwrap_or(0)]));
        }
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).expect("folded into 16 bits")
}

#[cfg(test)]
pub(super) mod tests;
