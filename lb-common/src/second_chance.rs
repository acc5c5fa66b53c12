//! Handing a packet on to the balancer that had the virtual address before, which may know its flow.
//!
//! That one is on the same segment, so the frame goes there as it is, between other Ethernet
//! addresses. It comes from the address that answers to probes come from, by which each balancer
//! knows what the other has handed on, and does not hand it back.

use crate::packet::{EthernetWords, Packet};

/// The source of a frame, as [`crate::flow::mac_word`] makes it; 0 if there is no whole header.
#[inline(always)]
pub fn source(packet: &Packet<'_>) -> u64 {
    let Some(ethernet) = packet.at::<EthernetWords>(0) else { return 0 };
    let start = u64::from_le_bytes(ethernet.first) >> 48;
    start << 16 | u64::from(u32::from_le_bytes(ethernet.second)) << 32
}

/// Addresses a frame to `destination`, from `source`; `None` if there is no whole header.
#[inline(always)]
pub fn address(packet: &mut Packet<'_>, destination: u64, source: u64) -> Option<()> {
    let ethernet = packet.at_mut::<EthernetWords>(0)?;
    ethernet.first = (destination >> 16 | source << 32 & 0xFFFF << 48).to_le_bytes();
    ethernet.second = ((source >> 32) as u32).to_le_bytes();
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::mac_word;

    const HERE: [u8; 6] = [2, 11, 12, 13, 14, 15];
    const THERE: [u8; 6] = [6, 21, 22, 23, 24, 25];

    #[test]
    fn a_frame_goes_from_here_to_there_and_says_so() {
        let mut frame = [0xEE; 20];
        let mut packet = Packet::new(&mut frame);
        assert_eq!(address(&mut packet, mac_word(THERE), mac_word(HERE)), Some(()));
        assert_eq!(source(&packet), mac_word(HERE));
        assert_eq!(frame[..6], THERE);
        assert_eq!(frame[6..12], HERE);
        assert_eq!(frame[12..], [0xEE; 8]);
    }

    #[test]
    fn what_is_no_frame_is_left_alone() {
        let mut bytes = [0xEE; 13];
        let mut packet = Packet::new(&mut bytes);
        assert_eq!(address(&mut packet, mac_word(THERE), mac_word(HERE)), None);
        assert_eq!(source(&packet), 0);
        assert_eq!(bytes, [0xEE; 13]);
    }
}
