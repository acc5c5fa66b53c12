//! What drivers tell of their adapters: the ioctls of ethtool(8) (`linux/ethtool.h`). Reading needs no
//! privilege.

use std::io;

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
use std::os::fd::{AsRawFd as _, OwnedFd};

use super::super::facts::{Adapter, Queues, Ring};

/// `SIOCETHTOOL` (`linux/sockios.h`).
const SIOCETHTOOL: libc::Ioctl = 0x8946;
// Commands.
const GDRVINFO: u32 = 0x03;
const GRINGPARAM: u32 = 0x10;
const GSTRINGS: u32 = 0x1b;
const GSSET_INFO: u32 = 0x37;
const GFEATURES: u32 = 0x3a;
const GCHANNELS: u32 = 0x3c;

/// The set of strings that names features.
const FEATURES: u32 = 4;
/// The length of a name in it, in bytes.
const NAME_LENGTH: usize = 32;
/// More than a kernel has features: it keeps them in 64 bits.
const FEATURES_MAX: usize = 512;

/// Features that put several received packets into one. Software GRO is none of these: it works behind
/// the program of native mode, and leaves an interface with a generic one alone (`netif_elide_gro`).
const MERGING: [&str; 2] = ["rx-lro", "rx-gro-hw"];

/// Reads about interfaces.
#[derive(Debug)]
pub(super) struct Ethtool(OwnedFd);

impl Ethtool {
    /// Opens the socket that carries the questions.
    pub(super) fn open() -> io::Result<Self> {
        let flags = SockFlag::SOCK_CLOEXEC;
        Ok(Self(socket(AddressFamily::Inet, SockType::Datagram, flags, None)?))
    }

    /// What is known of the adapter behind an interface; what its driver does not tell is left out.
    pub(super) fn adapter(&self, interface: &str) -> Adapter {
        let mut info = [0; 196];
        let known = self.ask(interface, GDRVINFO, &mut info).is_ok();
        let driver = if known { text(&info[4..36]) } else { String::new() };
        let bus = if known { text(&info[100..132]) } else { String::new() };
        Adapter {
            driver,
            device: !["", "N/A", "tap", "tun"].contains(&bus.as_str()),
            queues: self.queues(interface),
            rings: self.rings(interface),
            merging: self.merging(interface).unwrap_or_default(),
        }
    }

    /// `struct ethtool_channels`: at most and now, of rx, tx, other, combined.
    fn queues(&self, interface: &str) -> Option<Queues> {
        let mut channels = [0; 36];
        self.ask(interface, GCHANNELS, &mut channels).ok()?;
        let [_, max_rx, _, _, max_combined, rx, _, _, combined] = words(&channels);
        Some(if max_combined > 0 {
            Queues { now: combined, max: max_combined, combined: true }
        } else {
            Queues { now: rx, max: max_rx, combined: false }
        })
    }

    /// `struct ethtool_ringparam`: at most and now, of rx, mini, jumbo, tx.
    fn rings(&self, interface: &str) -> Option<[Ring; 2]> {
        let mut rings = [0; 36];
        self.ask(interface, GRINGPARAM, &mut rings).ok()?;
        let [_, max_rx, _, _, max_tx, rx, _, _, tx] = words(&rings);
        Some([Ring { now: rx, max: max_rx }, Ring { now: tx, max: max_tx }])
    }

    /// Those of [`MERGING`] that are on.
    fn merging(&self, interface: &str) -> io::Result<Vec<String>> {
        // `struct ethtool_sset_info`: a mask of sets, then the length of each.
        let mut set = [0; 20];
        set[8..16].copy_from_slice(&(1_u64 << FEATURES).to_ne_bytes());
        self.ask(interface, GSSET_INFO, &mut set)?;
        let [_, _, _, _, count] = words::<5>(&set);
        let count = usize::try_from(count).unwrap_or(usize::MAX).min(FEATURES_MAX);
        // `struct ethtool_gstrings`: the set, the length, the names. The kernel writes as many as it
        // has, whatever is asked.
        let mut names = vec![0; 12 + FEATURES_MAX * NAME_LENGTH];
        names[4..8].copy_from_slice(&FEATURES.to_ne_bytes());
        self.ask(interface, GSTRINGS, &mut names)?;
        // `struct ethtool_gfeatures`: the number of blocks; each has, for 32 features, which there
        // are, are wanted, are on, never change.
        let blocks = count.div_ceil(32);
        let mut features = vec![0; 8 + blocks * 16];
        features[4..8].copy_from_slice(&u32::try_from(blocks).unwrap_or(0).to_ne_bytes());
        self.ask(interface, GFEATURES, &mut features)?;
        let on = |number: usize| {
            let block =
                features.get(8 + number / 32 * 16 + 8..).and_then(|rest| rest.first_chunk());
            block.is_some_and(|block| u32::from_ne_bytes(*block) >> (number % 32) & 1 == 1)
        };
        let all = names[12..].chunks(NAME_LENGTH).take(count).enumerate();
        let merging = all.map(|(number, name)| (number, text(name)));
        Ok(merging
            .filter(|(number, name)| MERGING.contains(&name.as_str()) && on(*number))
            .map(|(_, name)| name)
            .collect())
    }

    /// Puts a question, whose answer comes into its place. `buffer` is at least as long as the kernel
    /// makes it of this command.
    #[allow(unsafe_code, reason = "neither nix nor socket2 has this ioctl")]
    fn ask(&self, interface: &str, command: u32, buffer: &mut [u8]) -> io::Result<()> {
        buffer[..4].copy_from_slice(&command.to_ne_bytes());
        let mut name = [0; libc::IFNAMSIZ];
        // The last byte stays zero.
        for (place, byte) in name[..libc::IFNAMSIZ - 1].iter_mut().zip(interface.bytes()) {
            *place = byte.cast_signed();
        }
        let data = libc::__c_anonymous_ifr_ifru { ifru_data: buffer.as_mut_ptr().cast() };
        let mut request = libc::ifreq { ifr_name: name, ifr_ifru: data };
        // SAFETY: the request outlives the call. Its pointer leads to `buffer`, which is borrowed
        // mutably and into which the kernel writes the structure of this command: the callers' buffers
        // have their sizes (`linux/ethtool.h`), and that of GSTRINGS room for more names than a kernel
        // has.
        let result = unsafe { libc::ioctl(self.0.as_raw_fd(), SIOCETHTOOL, &raw mut request) };
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }
}

/// A structure of 32-bit words.
fn words<const N: usize>(bytes: &[u8]) -> [u32; N] {
    let mut words = [0; N];
    for (word, bytes) in words.iter_mut().zip(bytes.chunks_exact(4)) {
        *word = u32::from_ne_bytes(bytes.try_into().expect("four bytes"));
    }
    words
}

/// The text up to the first zero.
fn text(bytes: &[u8]) -> String {
    let text = bytes.split(|byte| *byte == 0).next().unwrap_or_default();
    String::from_utf8_lossy(text).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loopback_interface_is_no_device() {
        let ethtool = Ethtool::open().unwrap();
        assert!(!ethtool.adapter("lo").device);
        // The kernel knows features of each interface, whatever is behind it.
        assert_eq!(ethtool.merging("lo").unwrap(), Vec::<String>::new());
        assert!(ethtool.merging("no such one").is_err());
    }

    #[test]
    fn structures_are_read_in_the_machines_order() {
        let bytes = [1_u32, 7].map(u32::to_ne_bytes).concat();
        assert_eq!(words::<2>(&bytes), [1, 7]);
        assert_eq!(text(b"veth\0\0junk"), "veth");
    }
}
