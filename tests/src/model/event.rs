//! What happens in a history.

use rand::Rng;

use super::{BACKENDS, FLOWS};

/// What the service's clients speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// Packets say that they open or close their flow.
    Tcp,
    /// No packet says anything of its flow.
    Udp,
    /// Over UDP, with openings that can be told and ends that cannot: as QUIC, whose Initial
    /// packets are marked, while all that follows is encrypted (RFC 9000 section 17).
    Quic,
}

/// How the service finds backends for its flows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Balance {
    /// By the ring (`maglev`).
    Ring,
    /// By the ring, and nothing is recorded (`affinity = false`); over UDP alone.
    Loose,
    /// In turn (`round_robin`).
    Turns,
    /// By load (`least_conn`).
    Load,
}

/// One thing that happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// A flow opens (a SYN, an Initial), or opens anew.
    Open(u16),
    /// A packet in the middle of a flow.
    Data(u16),
    /// Two of them at once, on two CPUs: while the one looks for the flow's record, the other goes
    /// its whole way.
    Twice(u16),
    /// A flow's last packet (FIN or RST, where there is such a thing).
    Close(u16),
    /// Time goes by, in seconds.
    Pass(u8),
    /// A backend starts to take flows, or takes them again.
    Up(u16),
    /// A backend dies: its flows are lost.
    Die(u16),
    /// The same, seen by packets before its slots are others'.
    Fall(u16),
    /// A backend takes no new flows and keeps its old ones.
    Drain(u16),
    /// A backend's weight.
    Weight(u16, u8),
    /// The service is balanced in another way from now on; `Loose` is no way for TCP.
    Balance(Balance),
    /// The controller looks through the records.
    Sweep,
    /// The controller is killed, and another takes the tables over.
    Restart,
}

impl Protocol {
    /// Each of them.
    pub const ALL: [Self; 3] = [Self::Tcp, Self::Udp, Self::Quic];

    /// Whether its packets are UDP datagrams.
    pub fn is_udp(self) -> bool {
        self != Self::Tcp
    }

    /// Whether a packet says that it opens its flow.
    pub fn tells_openings(self) -> bool {
        self != Self::Udp
    }

    /// Whether a packet says that it closes its flow.
    pub fn tells_ends(self) -> bool {
        self == Self::Tcp
    }
}

impl Event {
    /// Any event, each kind as often as histories need it.
    pub fn random(random: &mut impl Rng) -> Self {
        let (flow, backend) = (random.random_range(0..FLOWS), random.random_range(0..BACKENDS));
        let balances = [Balance::Ring, Balance::Loose, Balance::Turns, Balance::Load];
        match random.random_range(0..89) {
            0..12 => Self::Open(flow),
            12..52 => Self::Data(flow),
            52..56 => Self::Close(flow),
            56..66 => Self::Pass(random.random_range(1..60)),
            66..69 => Self::Up(backend),
            69..71 => Self::Die(backend),
            71 => Self::Fall(backend),
            72..74 => Self::Drain(backend),
            74..77 => Self::Weight(backend, random.random_range(0..4)),
            77..83 => Self::Sweep,
            83..87 => Self::Twice(flow),
            87 => Self::Balance(balances[random.random_range(0..balances.len())]),
            _ => Self::Restart,
        }
    }
}
