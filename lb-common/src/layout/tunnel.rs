//! The tunnel to a backend, in the words of its entry that other backends leave zero.

use crate::word::Word32;

/// A tunnel as it lies in a [`BackendEntry`](super::BackendEntry). The daemon writes these words
/// while the entry is closed; the MTU alone may change while it is open, since it is one word.
#[repr(C)]
#[derive(Debug)]
#[cfg_attr(not(target_arch = "bpf"), derive(Default))]
pub struct TunnelEntry {
    /// A [`TunnelKind`].
    pub kind: Word32,
    /// The largest outer packet that the way to the backend carries, in bytes from the outer IP
    /// header on.
    pub mtu: Word32,
    /// Which bits of the outer source's last word (the only one over IPv4) are taken from the
    /// flow's hash: host bits of the prefix over which the source is spread, else none.
    pub spread: Word32,
    /// The outer source as it stands in the packet; IPv4 fills the first word.
    pub source: [Word32; 4],
    /// The outer destination, in the same form: the backend's address.
    pub destination: [Word32; 4],
}

/// The same as plain values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tunnel {
    /// What is put before the packet.
    pub kind: TunnelKind,
    /// As [`TunnelEntry::mtu`].
    pub mtu: u32,
    /// As [`TunnelEntry::spread`].
    pub spread: u32,
    /// As [`TunnelEntry::source`].
    pub source: [u32; 4],
    /// As [`TunnelEntry::destination`].
    pub destination: [u32; 4],
}

/// What is put before a packet: the outer header's family, and whether UDP is in between.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TunnelKind(pub u32);

impl TunnelKind {
    const IPV6: u32 = 1;
    const GUE: u32 = 2;

    /// IP in IP, with an outer header of IPv6 or of IPv4.
    #[inline(always)]
    pub const fn ipip(ipv6: bool) -> Self {
        Self(if ipv6 { Self::IPV6 } else { 0 })
    }

    /// Generic UDP encapsulation to a port.
    #[inline(always)]
    pub const fn gue(ipv6: bool, port: u16) -> Self {
        Self(Self::ipip(ipv6).0 | Self::GUE | (port as u32) << 16)
    }

    /// Whether the outer header is IPv6's.
    #[inline(always)]
    pub const fn is_ipv6(self) -> bool {
        self.0 & Self::IPV6 != 0
    }

    /// Whether a UDP header stands between the two IP headers.
    #[inline(always)]
    pub const fn is_gue(self) -> bool {
        self.0 & Self::GUE != 0
    }

    /// The destination port of that UDP header.
    #[inline(always)]
    pub const fn port(self) -> u16 {
        (self.0 >> 16) as u16
    }
}

impl Tunnel {
    /// Whether another tunnel has another MTU, and is the same in all else.
    pub fn differs_in_mtu(&self, other: &Self) -> bool {
        self.mtu != other.mtu && Self { mtu: other.mtu, ..*self } == *other
    }
}

impl TunnelEntry {
    /// Writes all words; the caller sees to it that no packet reads them meanwhile.
    pub fn store(&self, tunnel: &Tunnel) {
        self.kind.store(tunnel.kind.0);
        self.mtu.store(tunnel.mtu);
        self.spread.store(tunnel.spread);
        for (word, value) in self.source.iter().zip(tunnel.source) {
            word.store(value);
        }
        for (word, value) in self.destination.iter().zip(tunnel.destination) {
            word.store(value);
        }
    }

    /// Reads all words.
    pub fn load(&self) -> Tunnel {
        Tunnel {
            kind: TunnelKind(self.kind.load()),
            mtu: self.mtu.load(),
            spread: self.spread.load(),
            source: self.source.each_ref().map(Word32::load),
            destination: self.destination.each_ref().map(Word32::load),
        }
    }
}

const _: () = assert!(size_of::<TunnelEntry>() == 44);
