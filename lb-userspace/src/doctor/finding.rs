//! What is wrong, and what to do about it.

use serde::Serialize;

/// Something that breaks the traffic's way, or slows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Its kind, for scripts.
    pub finding: Kind,
    /// What it is about: `SERVICE/BACKEND`, several of them, a service, an interface, an address.
    pub subject: String,
    /// One sentence for people.
    pub what: String,
    /// What to do about it.
    pub remedy: String,
}

/// The kinds of findings. The names are those of the JSON, and of the table in `docs/operations.md`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A backend answers for a VIP on the wire.
    BackendAnswers,
    /// Some other machine does.
    StrangerAnswers,
    /// There is no way to a backend.
    NoNextHop,
    /// An interface that is needed cannot send.
    InterfaceDown,
    /// The way to a backend carries smaller packets than clients may send.
    MtuTooSmall,
    /// The program runs in the network stack, not in the driver.
    GenericMode,
    /// The adapter merges packets before the program sees them.
    FramesMerged,
    /// An adapter spreads its packets over fewer processors than there are.
    FewQueues,
    /// The driver has no rings of its own for what the program sends.
    NoXdpRings,
    /// A ring holds so few packets that a short burst overflows it.
    SmallRing,
}
