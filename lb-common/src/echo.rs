//! The liveness echo: a peer's probe, which the XDP program turns round by itself (as S-BFD's
//! reflector does, RFC 7880). So a host that forwards answers, whether its daemon lives or not;
//! how long ago that gave its last sign of life stands in the answer.
//!
//! A probe is a UDP datagram over IPv4 of exactly this form, and its answer is the same frame with
//! addresses and ports exchanged and another message, so that nobody gains by having one sent
//! elsewhere:
//!
//! ```text
//!  0  kind     "weirecho" in a probe, "WEIRECHO" in an answer
//!  8  sender   the number of the node that sends it
//! 16  nonce    the prober's, returned as it is
//! 24  age      of the last heartbeat of the daemon in nanoseconds; 0 in a probe
//! 32  seal     SipHash-2-4 over both IP addresses and the four words above
//! ```
//!
//! Words are little-endian. Who has the key is a peer; a stranger gets no answer at all. The time
//! to live is 255, so a probe comes from the segment (RFC 5082). A node does not answer its own
//! number: what it has sent itself cannot be made to answer for its peer.

use crate::{
    flow::{ETHER_TYPE_IPV4, UDP},
    packet::Packet,
};

/// The length of the message in bytes.
pub const LENGTH: usize = 40;
/// The age of a heartbeat that there never was.
pub const NEVER: u64 = u64::MAX;

const PROBE: u64 = u64::from_le_bytes(*b"weirecho");
const ANSWER: u64 = u64::from_le_bytes(*b"WEIRECHO");
const HOPS: u8 = 255;
const IP_LENGTH: [u8; 2] = (20 + 8 + LENGTH as u16).to_be_bytes();
const UDP_LENGTH: [u8; 2] = (8 + LENGTH as u16).to_be_bytes();

/// The secret that peers share.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct EchoKey(pub [u64; 2]);

/// Who answers probes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Responder {
    /// The UDP port; 0 for no answers.
    pub port: u16,
    /// The node's number.
    pub node: u64,
    /// The peers' key.
    pub key: EchoKey,
}

/// What a probe or an answer says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Message {
    /// Whether it is an answer.
    pub answer: bool,
    /// The number of the node that sends it.
    pub sender: u64,
    /// The prober's choice.
    pub nonce: u64,
    /// Nanoseconds since the answering daemon's last heartbeat, or [`NEVER`]; 0 in a probe.
    pub age: u64,
}

/// What became of a datagram to the echo's port. The number is the index of its counter.
#[repr(u32)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// A peer's probe: turned round.
    Answered = 0,
    /// A peer's answer: the daemon's.
    Answer = 1,
    /// It has not the exact form.
    Malformed = 2,
    /// Its seal is wrong: it was made without the key, or for other addresses.
    Forged = 3,
    /// A probe of this very node.
    Own = 4,
}

/// A whole frame with a message.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct EchoFrame {
    destination_mac: [u8; 6],
    source_mac: [u8; 6],
    ether_type: [u8; 2],
    version_and_header: u8,
    service: u8,
    ip_length: [u8; 2],
    identification: [u8; 2],
    fragment: [u8; 2],
    hops: u8,
    protocol: u8,
    ip_checksum: [u8; 2],
    source: [u8; 4],
    destination: [u8; 4],
    source_port: [u8; 2],
    destination_port: [u8; 2],
    udp_length: [u8; 2],
    udp_checksum: [u8; 2],
    message: [[u8; 8]; 5],
}

/// Turns a probe round; `age` tells how old the daemon's last heartbeat is. `None` says that the
/// packet is not for the echo's port.
#[inline(always)]
pub fn answer(
    packet: &mut Packet<'_>,
    responder: &Responder,
    age: impl FnOnce() -> u64,
) -> Option<Outcome> {
    let length = packet.length();
    let frame = packet.at_mut::<EchoFrame>(0)?;
    if frame.ether_type != ETHER_TYPE_IPV4
        || frame.version_and_header != 0x45
        || frame.protocol != UDP
        || u16::from_be_bytes(frame.destination_port) != responder.port
    {
        return None;
    }
    if length != size_of::<EchoFrame>() || !frame.is_exact() {
        return Some(Outcome::Malformed);
    }
    let (key, addresses) = (responder.key, frame.addresses());
    let [kind, sender, nonce, claimed, seal] = frame.message.map(u64::from_le_bytes);
    if seal != key.seal(addresses, [kind, sender, nonce, claimed]) {
        return Some(Outcome::Forged);
    }
    if kind == ANSWER {
        return Some(Outcome::Answer);
    }
    if kind != PROBE {
        return Some(Outcome::Malformed);
    }
    if sender == responder.node {
        return Some(Outcome::Own);
    }
    let said = [ANSWER, responder.node, nonce, age()];
    frame.turn_round();
    let [kind, sender, nonce, age] = said.map(u64::to_le_bytes);
    let seal = key.seal(frame.addresses(), said).to_le_bytes();
    frame.message = [kind, sender, nonce, age, seal];
    Some(Outcome::Answered)
}

/// The address that a message comes from, as it stands in the packet; 0 if it is none.
#[inline(always)]
pub fn source(packet: &Packet<'_>) -> u32 {
    packet.at::<EchoFrame>(0).map_or(0, |frame| u32::from_le_bytes(frame.source))
}

// === impl EchoFrame ===

impl EchoFrame {
    /// Whether it is one datagram from this segment, as long as a message.
    #[inline(always)]
    fn is_exact(&self) -> bool {
        // "Don't fragment" may be set, nothing else (RFC 791 section 3.1).
        let whole = u16::from_be_bytes(self.fragment) & !0x4000 == 0;
        whole && self.hops == HOPS && self.ip_length == IP_LENGTH && self.udp_length == UDP_LENGTH
    }

    #[inline(always)]
    fn addresses(&self) -> u64 {
        address_word(self.source, self.destination)
    }

    /// Back to where it came from. The IP header's checksum is a sum, which does not change.
    #[inline(always)]
    fn turn_round(&mut self) {
        (self.destination_mac, self.source_mac) = (self.source_mac, self.destination_mac);
        (self.source, self.destination) = (self.destination, self.source);
        (self.source_port, self.destination_port) = (self.destination_port, self.source_port);
        // None (RFC 768): the seal says more.
        self.udp_checksum = [0; 2];
    }
}

// === impl Message ===

impl Message {
    /// The message as it is sent from `source` to `destination`, IPv4 addresses.
    pub fn to_bytes(&self, key: EchoKey, source: [u8; 4], destination: [u8; 4]) -> [u8; LENGTH] {
        let words = [if self.answer { ANSWER } else { PROBE }, self.sender, self.nonce, self.age];
        let seal = key.seal(address_word(source, destination), words);
        let [kind, sender, nonce, age] = words;
        let mut bytes = [0; LENGTH];
        for (part, word) in bytes.chunks_exact_mut(8).zip([kind, sender, nonce, age, seal]) {
            part.copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }

    /// Reads a message that came from `source` to `destination`; `None` if it is none, or was
    /// sealed with another key or for other addresses.
    pub fn from_bytes(
        bytes: &[u8],
        key: EchoKey,
        source: [u8; 4],
        destination: [u8; 4],
    ) -> Option<Self> {
        let bytes: &[u8; LENGTH] = bytes.try_into().ok()?;
        let mut words = [0; LENGTH / 8];
        for (word, part) in words.iter_mut().zip(bytes.as_chunks::<8>().0) {
            *word = u64::from_le_bytes(*part);
        }
        let [kind, sender, nonce, age, seal] = words;
        let answer = kind == ANSWER;
        let right = key.seal(address_word(source, destination), [kind, sender, nonce, age]);
        (seal == right && (answer || kind == PROBE)).then_some(Self { answer, sender, nonce, age })
    }
}

// === impl Outcome ===

impl Outcome {
    /// Every outcome, in the order of their counters.
    pub const ALL: [Self; 5] =
        [Self::Answered, Self::Answer, Self::Malformed, Self::Forged, Self::Own];

    /// The outcome's name in metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Answered => "answered",
            Self::Answer => "answer",
            Self::Malformed => "malformed",
            Self::Forged => "forged",
            Self::Own => "own",
        }
    }
}

// === impl EchoKey ===

impl EchoKey {
    /// SipHash-2-4 (Aumasson and Bernstein) of five words: a keyed hash that cannot be made
    /// without the key, in additions and rotations alone.
    #[inline(always)]
    fn seal(self, addresses: u64, [kind, sender, nonce, age]: [u64; 4]) -> u64 {
        const LENGTH_WORD: u64 = 40 << 56;
        let Self([k0, k1]) = self;
        let mut state = [
            k0 ^ 0x736f_6d65_7073_6575,
            k1 ^ 0x646f_7261_6e64_6f6d,
            k0 ^ 0x6c79_6765_6e65_7261,
            k1 ^ 0x7465_6462_7974_6573,
        ];
        for word in [addresses, kind, sender, nonce, age, LENGTH_WORD] {
            state[3] ^= word;
            state = round(round(state));
            state[0] ^= word;
        }
        state[2] ^= 0xff;
        let [v0, v1, v2, v3] = round(round(round(round(state))));
        v0 ^ v1 ^ v2 ^ v3
    }
}

#[inline(always)]
fn round([v0, v1, v2, v3]: [u64; 4]) -> [u64; 4] {
    let v0 = v0.wrapping_add(v1);
    let v1 = v1.rotate_left(13) ^ v0;
    let v0 = v0.rotate_left(32);
    let v2 = v2.wrapping_add(v3);
    let v3 = v3.rotate_left(16) ^ v2;
    let v0 = v0.wrapping_add(v3);
    let v3 = v3.rotate_left(21) ^ v0;
    let v2 = v2.wrapping_add(v1);
    let v1 = v1.rotate_left(17) ^ v2;
    let v2 = v2.rotate_left(32);
    [v0, v1, v2, v3]
}

#[inline(always)]
fn address_word(source: [u8; 4], destination: [u8; 4]) -> u64 {
    u64::from(u32::from_le_bytes(source)) | u64::from(u32::from_le_bytes(destination)) << 32
}

/// Neither shown nor logged.
impl core::fmt::Debug for EchoKey {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("EchoKey(…)")
    }
}

#[cfg(test)]
mod tests {
    use core::hash::Hasher as _;

    use super::*;

    const KEY: EchoKey = EchoKey([0x0706_0504_0302_0100, 0x0F0E_0D0C_0B0A_0908]);
    const HERE: [u8; 4] = [10, 0, 0, 1];
    const THERE: [u8; 4] = [10, 0, 0, 2];
    const PROBE_OF_HERE: Message = Message { answer: false, sender: 1, nonce: 77, age: 0 };

    /// The standard library has had the same hash.
    #[test]
    #[allow(deprecated, reason = "deprecated as a hasher of maps, not as SipHash-2-4")]
    fn the_seal_is_siphash() {
        let EchoKey([k0, k1]) = KEY;
        for words in [[1, 2, 3, 4, 5], [0; 5], [u64::MAX; 5]] {
            let mut reference = core::hash::SipHasher::new_with_keys(k0, k1);
            for word in &words {
                reference.write(&word.to_le_bytes());
            }
            let [addresses, rest @ ..] = words;
            assert_eq!(KEY.seal(addresses, rest), reference.finish());
        }
    }

    #[test]
    fn a_message_is_read_as_it_was_written_and_in_no_other_way() {
        let bytes = PROBE_OF_HERE.to_bytes(KEY, HERE, THERE);
        assert_eq!(Message::from_bytes(&bytes, KEY, HERE, THERE), Some(PROBE_OF_HERE));
        assert_eq!(Message::from_bytes(&bytes, KEY, THERE, HERE), None);
        assert_eq!(Message::from_bytes(&bytes, EchoKey([1, 2]), HERE, THERE), None);
        assert_eq!(Message::from_bytes(&bytes[1..], KEY, HERE, THERE), None);
        for bit in 0..LENGTH * 8 {
            let mut other = bytes;
            other[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Message::from_bytes(&other, KEY, HERE, THERE), None, "bit {bit}");
        }
    }

    #[test]
    fn all_lists_every_outcome_at_its_counter() {
        for (index, outcome) in Outcome::ALL.iter().enumerate() {
            assert_eq!(*outcome as usize, index, "{}", outcome.name());
        }
    }

    #[test]
    fn the_frame_is_as_long_as_its_headers_say() {
        assert_eq!(size_of::<EchoFrame>(), 14 + 20 + 8 + LENGTH);
    }
}
