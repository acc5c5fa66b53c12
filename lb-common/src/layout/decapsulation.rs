//! What a backend's decapsulating program lets in, word by word. Its tables are made for it alone,
//! filled before it is attached, and replaced with it; so they are plain values.

/// How many networks of balancers can be told.
pub const SOURCES_MAX: u32 = 32;
/// How many VIPs can be told.
pub const VIPS_MAX: u32 = 256;

/// A network, or one address; zeros end a list.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Network {
    /// 4 or 6.
    pub family: u32,
    /// The address as it stands in packets; IPv4 fills the first word.
    pub address: [u32; 4],
    /// Which of its bits count.
    pub mask: [u32; 4],
    /// Not used.
    pub reserved: u32,
}

impl Network {
    /// Whether an address belongs to the network.
    #[inline(always)]
    pub const fn has(&self, family: u32, address: [u32; 4]) -> bool {
        self.family == family
            && (address[0] ^ self.address[0]) & self.mask[0] == 0
            && (address[1] ^ self.address[1]) & self.mask[1] == 0
            && (address[2] ^ self.address[2]) & self.mask[2] == 0
            && (address[3] ^ self.address[3]) & self.mask[3] == 0
    }
}

const _: () = assert!(size_of::<Network>() == 40);
