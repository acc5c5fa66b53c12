//! Why a packet was not forwarded. Every such packet is counted under exactly one reason.

/// Why a packet passes to the kernel or is dropped. The number is the index of its counter.
#[repr(u32)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reason {
    /// The frame's destination is not this interface's address: flooded, broadcast, multicast.
    NotForUs = 0,
    /// Neither IPv4 nor IPv6: ARP, LLDP, VLAN tags.
    NotIp = 1,
    /// IPv6 with more extension headers than are read, or on its way through another address.
    Extensions = 2,
    /// The headers contradict the frame or each other; the kernel's own checks answer.
    Malformed = 3,
    /// A fragment of a packet that is no service's.
    Fragment = 4,
    /// ICMP that is no service's: neighbour discovery, pings of this host, errors about its own
    /// packets.
    Icmp = 5,
    /// An ICMP error whose quote ends before the ports.
    TruncatedQuote = 6,
    /// A transport protocol that no service can have, VRRP among them.
    Protocol = 7,
    /// No service has this address, port and protocol.
    NoService = 8,
    /// The service has no backend, and its `on_empty` says `pass`.
    NoBackendPass = 9,
    /// The service has no backend: dropped.
    NoBackend = 10,
    /// The backend's next hop is not known at the moment: dropped.
    NoNextHop = 11,
    /// A table entry points outside its table; never seen unless a table is corrupt: dropped.
    BadTable = 12,
    /// Behind its tunnel's header the packet is larger than the way to the backend carries, and is not
    /// one to answer, or too many were answered lately: dropped.
    TooBig = 13,
    /// The driver left too little room before the packet for a tunnel's or an answer's header: dropped.
    NoHeadroom = 14,
    /// The service has no backend and its `on_empty` says `reject`, but too many packets were answered
    /// lately: dropped.
    RejectLimited = 15,
    /// A fragment for a VIP of whose datagram the first one has not come: dropped.
    UnknownFragment = 16,
    /// A fragment for a VIP that no sender makes: without the whole transport header, of no whole number
    /// of units, longer than a datagram can be: dropped.
    TinyFragment = 17,
    /// A fragment for a VIP, part of which has come before: dropped.
    OverlappingFragment = 18,
    /// An echo request to a VIP that is to be pinged: answered.
    Ping = 19,
    /// The service has no backend, and its `on_empty` says `reject`: answered so.
    Rejected = 20,
    /// Behind its tunnel's header the packet is larger than the way to the backend carries: its sender
    /// was told what fits.
    TooBigAnswered = 21,
    /// The flow is not known, and the balancer that had the address until just now may know it: sent
    /// there.
    SecondChance = 22,
}

/// What happens to a packet that is not forwarded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// It goes on to the kernel, untouched.
    Pass,
    /// It is dropped.
    Drop,
    /// An answer goes back in its place.
    Answer,
    /// It goes to another balancer, as it is.
    HandOn,
}

impl Reason {
    /// Every reason, in the order of their counters.
    pub const ALL: [Self; 23] = [
        Self::NotForUs,
        Self::NotIp,
        Self::Extensions,
        Self::Malformed,
        Self::Fragment,
        Self::Icmp,
        Self::TruncatedQuote,
        Self::Protocol,
        Self::NoService,
        Self::NoBackendPass,
        Self::NoBackend,
        Self::NoNextHop,
        Self::BadTable,
        Self::TooBig,
        Self::NoHeadroom,
        Self::RejectLimited,
        Self::UnknownFragment,
        Self::TinyFragment,
        Self::OverlappingFragment,
        Self::Ping,
        Self::Rejected,
        Self::TooBigAnswered,
        Self::SecondChance,
    ];

    /// What happens to such a packet.
    #[inline(always)]
    pub const fn refusal(self) -> Refusal {
        if (self as u32) < Self::NoBackend as u32 {
            Refusal::Pass
        } else if (self as u32) < Self::Ping as u32 {
            Refusal::Drop
        } else if (self as u32) < Self::SecondChance as u32 {
            Refusal::Answer
        } else {
            Refusal::HandOn
        }
    }

    /// The reason's name in metrics and `explain`, in snake case.
    pub const fn name(self) -> &'static str {
        match self {
            Self::NotForUs => "not_for_us",
            Self::NotIp => "not_ip",
            Self::Extensions => "extensions",
            Self::Malformed => "malformed",
            Self::Fragment => "fragment",
            Self::Icmp => "icmp",
            Self::TruncatedQuote => "truncated_quote",
            Self::Protocol => "protocol",
            Self::NoService => "no_service",
            Self::NoBackendPass => "no_backend_pass",
            Self::NoBackend => "no_backend",
            Self::NoNextHop => "no_next_hop",
            Self::BadTable => "bad_table",
            Self::TooBig => "too_big",
            Self::RejectLimited => "reject_limited",
            Self::NoHeadroom => "no_headroom",
            Self::UnknownFragment => "unknown_fragment",
            Self::TinyFragment => "tiny_fragment",
            Self::OverlappingFragment => "overlapping_fragment",
            Self::Ping => "ping",
            Self::Rejected => "rejected",
            Self::TooBigAnswered => "too_big_answered",
            Self::SecondChance => "second_chance",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_lists_every_reason_at_its_counter() {
        for (index, reason) in Reason::ALL.iter().enumerate() {
            assert_eq!(*reason as usize, index, "{}", reason.name());
        }
    }
}
