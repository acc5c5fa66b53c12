//! What peers say to each other, and how it looks on the wire.
//!
//! A connection begins with eight bytes in the clear from each side ([`preamble`]), so that another
//! version or another program is told from a wrong key. Then comes the Noise handshake, and after
//! it one [`Message`] a frame: two bytes of length, then at most 65 535 bytes of ciphertext.
//!
//! Messages name services by name and backends by address, which are the same on every node.
//! Numbers of a node's own tables never leave it. A message that names backends often has a list of
//! them in front, and counts in that list.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::{
    config::Name,
    core::changes::{Change, Stamp},
};

/// The version of everything in this module: peers of another one are refused.
pub const VERSION: u16 = 1;
const MAGIC: [u8; 6] = *b"weirsy";

/// The largest message in bytes, before encryption.
pub const MESSAGE_MAX: usize = 60 << 10;
/// Slots in one message: with every backend another, and long addresses, it still fits.
pub const SLOTS_MAX: usize = 1024;
/// Flows in one message, by the same measure.
pub const FLOWS_MAX: usize = 1024;
/// Backends in one [`Message::Backends`].
pub const BACKENDS_MAX: usize = 1024;
/// Services in one [`Message::Digests`] or [`Message::Wanted`].
pub const NAMES_MAX: usize = 512;
/// Bytes of configuration in one [`Message::Config`].
pub const CONFIG_BYTES_MAX: usize = 32 << 10;
/// A longer text about the sender is no version.
const TEXT_MAX: usize = 64;

/// One thing that a peer says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Message {
    /// The first one: who speaks.
    Hello(Hello),
    /// That the sender lives, and in which state.
    Beat(Beat),
    /// Everything up to a beat has been taken in.
    Ack {
        /// The beat's.
        sequence: u64,
    },
    /// Send these services' slots; without any, everything.
    Wanted(Vec<Name>),
    /// Everything that was wanted has been said.
    Done {
        /// Whether the sender led, so that slots were part of it.
        leads: bool,
    },
    /// The state of backends, as the leader sees it.
    Backends(Backends),
    /// Slots that changed hands, or their present state.
    Slots(Slots),
    /// Flows that were recorded, or seen again, or forgotten.
    Flows(Flows),
    /// An operator's change to one backend.
    Change(Stamped),
    /// Say the digest of every service.
    Compare,
    /// The digests of services.
    Digests {
        /// Each with its service.
        list: Vec<(Name, u64)>,
        /// Whether these are the last ones.
        last: bool,
    },
    /// Say what is configured.
    Configured,
    /// The sender's configuration, as far as peers should agree on it.
    Config {
        /// One line a setting.
        lines: Vec<String>,
        /// Whether these are the last ones.
        last: bool,
    },
}

/// Who speaks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// The node's name.
    pub node: Name,
    /// Drawn at the daemon's start: tells a restarted node, and ourselves, from another.
    pub instance: u64,
    /// Weir's version.
    pub version: String,
    /// What every beat says as well.
    pub standing: Standing,
}

/// What decides who leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standing {
    /// Whether the node has the addresses; nothing where nobody decides that (no VRRP).
    pub leads: Option<bool>,
    /// Whether its tables are worth following: it has joined, or was alone.
    pub ready: bool,
}

/// A heartbeat. It travels behind all that was said before, so its answer measures the lag.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Beat {
    /// Counts up.
    pub sequence: u64,
    /// What decides who leads.
    pub standing: Standing,
    /// The digest of all tables, now and then.
    pub digest: Option<u64>,
    /// Services whose slots differ from the leader's, as the sender found.
    pub differ: u32,
    /// The hash of the configuration.
    pub config: u64,
}

/// The state of some backends of a service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backends {
    /// The service.
    pub service: Name,
    /// Its backends.
    pub list: Vec<BackendLife>,
}

/// The state of one backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackendLife {
    /// Its address.
    pub address: IpAddr,
    /// Whether its flows are worth keeping.
    pub lives: bool,
    /// Whether it takes new flows.
    pub takes_new: bool,
}

/// Some slots of a service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Slots {
    /// The service.
    pub service: Name,
    /// The length of its ring: slots of another length mean other flows.
    pub length: u32,
    /// The backends that `changes` count in.
    pub backends: Vec<IpAddr>,
    /// The slots.
    pub changes: Vec<SlotChange>,
}

/// One slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotChange {
    /// Its position in the ring.
    pub position: u32,
    /// Who gets new flows, if anybody does.
    pub owner: Option<u16>,
    /// What it remembers.
    pub past: Past,
}

/// What a slot remembers: see [`lb_common::slot::Prior`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Past {
    /// Nothing.
    Settled,
    /// That some flows are recorded for others than the owner.
    Exceptions,
    /// That flows which are not recorded belong to this backend.
    Moving(u16),
}

/// Flows of a service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Flows {
    /// The service.
    pub service: Name,
    /// The length of its ring.
    pub length: u32,
    /// The backends that `list` counts in.
    pub backends: Vec<IpAddr>,
    /// The flows.
    pub list: Vec<Flow>,
}

/// One flow of a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Flow {
    /// The client's address, as in [`lb_common::layout::FlowKey`].
    pub source: [u64; 2],
    /// Both ports, as there.
    pub ports: u32,
    /// Its slot's position in the ring.
    pub position: u32,
    /// Its backend.
    pub backend: u16,
    /// Seconds since its last packet.
    pub age: u32,
    /// What is known of it.
    pub stage: FlowStage,
}

/// What is known of a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum FlowStage {
    /// Its opening packet was seen.
    Opening,
    /// A later packet was seen.
    Open,
    /// A FIN or RST was seen.
    Closing,
    /// Its record was dropped, since its backend takes it no longer.
    Forgotten,
}

/// An operator's change to one backend, and when it was made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stamped {
    /// The service.
    pub service: Name,
    /// The backend.
    pub backend: Name,
    /// When, and where.
    pub stamp: Stamp,
    /// What holds since; nothing in it is a change taken back.
    pub change: Change,
}

/// Why bytes are no message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PacketError {
    /// They make no sense.
    #[error("a message makes no sense: {0}")]
    Malformed(String),
    /// More than a message may hold.
    #[error("a message is too large: {0} bytes")]
    TooLarge(usize),
}

/// The bytes with which a connection begins.
pub fn preamble() -> [u8; 8] {
    let [a, b, c, d, e, f] = MAGIC;
    let [high, low] = VERSION.to_be_bytes();
    [a, b, c, d, e, f, high, low]
}

/// The version in the other side's preamble, if it is one.
pub fn version_in(preamble: [u8; 8]) -> Option<u16> {
    let [magic @ .., high, low] = preamble;
    (magic == MAGIC).then(|| u16::from_be_bytes([high, low]))
}

// === impl Message ===

impl Message {
    /// The bytes of a frame, before encryption.
    ///
    /// # Errors
    ///
    /// [`PacketError::TooLarge`].
    pub fn encode(&self) -> Result<Vec<u8>, PacketError> {
        let malformed = |error: postcard::Error| PacketError::Malformed(error.to_string());
        let bytes = postcard::to_stdvec(self).map_err(malformed)?;
        if bytes.len() > MESSAGE_MAX {
            return Err(PacketError::TooLarge(bytes.len()));
        }
        Ok(bytes)
    }

    /// The message in the bytes of a frame.
    ///
    /// # Errors
    ///
    /// [`PacketError`], also if it names a backend that is not in its list.
    pub fn decode(bytes: &[u8]) -> Result<Self, PacketError> {
        if bytes.len() > MESSAGE_MAX {
            return Err(PacketError::TooLarge(bytes.len()));
        }
        let malformed = |text: &str| PacketError::Malformed(text.to_owned());
        let (message, rest) = postcard::take_from_bytes::<Self>(bytes)
            .map_err(|error| PacketError::Malformed(error.to_string()))?;
        if !rest.is_empty() {
            return Err(malformed("bytes after its end"));
        }
        if !message.is_consistent() {
            return Err(malformed("it counts beyond its own lists"));
        }
        Ok(message)
    }

    fn is_consistent(&self) -> bool {
        match self {
            Self::Hello(hello) => hello.version.len() <= TEXT_MAX,
            Self::Slots(slots) => slots.changes.iter().all(|change| {
                let prior = match change.past {
                    Past::Moving(prior) => Some(prior),
                    Past::Settled | Past::Exceptions => None,
                };
                change.position < slots.length
                    && [change.owner, prior]
                        .into_iter()
                        .flatten()
                        .all(|backend| usize::from(backend) < slots.backends.len())
            }),
            Self::Flows(flows) => flows.list.iter().all(|flow| {
                flow.position < flows.length && usize::from(flow.backend) < flows.backends.len()
            }),
            _ => true,
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use std::net::Ipv6Addr;

    use proptest::prelude::*;

    use super::*;

    fn name(text: &str) -> Name {
        Name::new(text).unwrap()
    }

    fn far(number: u16) -> IpAddr {
        Ipv6Addr::new(0xFFFF, 1, 2, 3, 4, 5, 6, number).into()
    }

    fn slots(owner: Option<u16>, past: Past, position: u32) -> Message {
        let changes = vec![SlotChange { position, owner, past }];
        let backends = vec![far(1), far(2)];
        Message::Slots(Slots { service: name("web"), length: 1009, backends, changes })
    }

    #[test]
    fn messages_are_read_back() {
        let standing = Standing { leads: Some(true), ready: false };
        let hello = Hello { node: name("lb-1"), instance: 7, version: "0.1.0".into(), standing };
        let beat = Beat { sequence: 9, standing, digest: Some(u64::MAX), differ: 1, config: 3 };
        for message in [
            Message::Hello(hello),
            Message::Beat(beat),
            Message::Wanted(vec![name("web"), name("dns")]),
            slots(Some(1), Past::Moving(0), 1008),
            slots(None, Past::Exceptions, 0),
            Message::Config { lines: vec!["a = 1".into()], last: true },
        ] {
            let bytes = message.encode().unwrap();
            assert_eq!(Message::decode(&bytes).unwrap(), message);
        }
    }

    #[test]
    fn the_fullest_messages_fit_into_a_frame() {
        let backends: Vec<IpAddr> = (0..u16::MAX).map(far).collect();
        let changes = (0..SLOTS_MAX).map(|i| SlotChange {
            position: u32::MAX - 1,
            owner: Some(u16::try_from(2 * i).unwrap()),
            past: Past::Moving(u16::try_from(2 * i + 1).unwrap()),
        });
        let full = Slots {
            service: name(&"x".repeat(63)),
            length: u32::MAX,
            backends: backends[..2 * SLOTS_MAX].to_vec(),
            changes: changes.collect(),
        };
        Message::Slots(full).encode().unwrap();
        let flow = |i: usize| Flow {
            source: [u64::MAX; 2],
            ports: u32::MAX,
            position: u32::MAX - 1,
            backend: u16::try_from(i).unwrap(),
            age: u32::MAX,
            stage: FlowStage::Forgotten,
        };
        let full = Flows {
            service: name(&"x".repeat(63)),
            length: u32::MAX,
            backends: backends[..FLOWS_MAX].to_vec(),
            list: (0..FLOWS_MAX).map(flow).collect(),
        };
        Message::Flows(full).encode().unwrap();
        let list = vec![(name(&"x".repeat(63)), u64::MAX); NAMES_MAX];
        Message::Digests { list, last: false }.encode().unwrap();
        let life = BackendLife { address: far(1), lives: true, takes_new: true };
        let list = vec![life; BACKENDS_MAX];
        Message::Backends(Backends { service: name("web"), list }).encode().unwrap();
    }

    #[test]
    fn what_counts_beyond_its_lists_is_refused() {
        for message in [
            slots(Some(2), Past::Settled, 0),
            slots(None, Past::Moving(2), 0),
            slots(Some(0), Past::Settled, 1009),
        ] {
            let bytes = message.encode().unwrap();
            let error = Message::decode(&bytes).unwrap_err();
            assert!(error.to_string().contains("beyond"), "{error}");
        }
    }

    #[test]
    fn a_name_that_no_configuration_allows_is_refused() {
        let bytes = Message::Wanted(vec![name("web")]).encode().unwrap();
        let evil: Vec<u8> = bytes.iter().map(|b| if *b == b'e' { b'/' } else { *b }).collect();
        assert!(Message::decode(&evil).is_err());
    }

    #[test]
    fn more_than_a_frame_is_refused_unread() {
        assert!(
            Message::Config { lines: vec!["x".repeat(MESSAGE_MAX)], last: true }.encode().is_err()
        );
        assert!(matches!(
            Message::decode(&vec![0; MESSAGE_MAX + 1]),
            Err(PacketError::TooLarge(_))
        ));
    }

    #[test]
    fn only_our_preamble_has_a_version() {
        assert_eq!(version_in(preamble()), Some(VERSION));
        assert_eq!(version_in(*b"weirsy\x01\x00"), Some(256));
        assert_eq!(version_in(*b"GET / HT"), None);
    }

    proptest! {
        /// A list that claims to be long must not make us reserve memory for it.
        #[test]
        fn garbage_neither_panics_nor_grows(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(message) = Message::decode(&bytes) {
                prop_assert!(message.encode().is_ok());
            }
        }

        #[test]
        fn one_flipped_bit_is_survived(bit in 0usize..400) {
            let mut bytes = slots(Some(1), Past::Moving(0), 700).encode().unwrap();
            let bit = bit % (8 * bytes.len());
            bytes[bit / 8] ^= 1 << (bit % 8);
            let _ = Message::decode(&bytes);
        }
    }
}
