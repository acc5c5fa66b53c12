//! A frame as bytes with a checked end: the one primitive through which packets are touched.

#![allow(unsafe_code, reason = "the one place that turns packet bounds into references")]

use core::marker::PhantomData;

use network_types::ip::Ipv4Hdr;

use crate::{
    echo::EchoFrame,
    icmp::{PingFrame, PingFrame6},
    tunnel::{OuterIpv4, OuterIpv6, OuterUdp},
};

/// A type that may be laid over packet bytes at any offset.
///
/// # Safety
///
/// Every bit pattern is a valid value, and the alignment is 1.
pub unsafe trait Wire {}

// SAFETY: bytes.
unsafe impl<const N: usize> Wire for [u8; N] {}
// SAFETY: bytes.
unsafe impl<const N: usize, const M: usize> Wire for [[u8; N]; M] {}
// SAFETY: all fields are bytes or arrays of bytes.
unsafe impl Wire for Ipv4Hdr {}
// SAFETY: all fields are arrays of bytes.
unsafe impl<const N: usize> Wire for TransportWords<N> {}
// SAFETY: all fields are arrays of bytes.
unsafe impl Wire for EthernetWords {}
// SAFETY: all fields are bytes or arrays of bytes.
unsafe impl Wire for PlainHead {}
// SAFETY: all fields are bytes or arrays of bytes.
unsafe impl Wire for Ipv6Head {}
// SAFETY: all fields are bytes or arrays of bytes.
unsafe impl Wire for ExtensionHead {}
// SAFETY: all fields are bytes or arrays of bytes.
unsafe impl Wire for EchoFrame {}
// SAFETY: all fields are bytes or arrays of bytes.
unsafe impl Wire for PingFrame {}
// SAFETY: all fields are bytes or arrays of bytes.
unsafe impl Wire for PingFrame6 {}
// SAFETY: all fields are bytes or arrays of bytes.
unsafe impl Wire for OuterIpv4 {}
// SAFETY: all fields are bytes or arrays of bytes.
unsafe impl Wire for OuterIpv6 {}
// SAFETY: all fields are arrays of bytes.
unsafe impl Wire for OuterUdp {}

const _: () = assert!(align_of::<Ipv4Hdr>() == 1);
const _: () = assert!(align_of::<TransportWords<16>>() == 1);
const _: () = assert!(align_of::<EthernetWords>() == 1);
const _: () = assert!(align_of::<PlainHead>() == 1);
const _: () = assert!(align_of::<Ipv6Head>() == 1);
const _: () = assert!(align_of::<ExtensionHead>() == 1);
const _: () = assert!(align_of::<EchoFrame>() == 1);
const _: () = assert!(align_of::<PingFrame>() == 1);
const _: () = assert!(align_of::<PingFrame6>() == 1);
const _: () = assert!(align_of::<OuterIpv4>() == 1);
const _: () = assert!(align_of::<OuterIpv6>() == 1);
const _: () = assert!(align_of::<OuterUdp>() == 1);
const _: () = assert!(size_of::<OuterIpv4>() == 34);
const _: () = assert!(size_of::<OuterIpv6>() == 54);
const _: () = assert!(size_of::<PlainHead>() == 54);
const _: () = assert!(size_of::<Ipv6Head>() == 54);
const _: () = assert!(size_of::<ExtensionHead>() == 8);

/// The Ethernet header cut the way the fast path copies it: both addresses in two words.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct EthernetWords {
    /// Destination address, then the first two bytes of the source address.
    pub first: [u8; 8],
    /// The last four bytes of the source address.
    pub second: [u8; 4],
    /// The `EtherType`, in network order.
    pub ether_type: [u8; 2],
}

/// A TCP or UDP header: both ports in one word, then the other `N` bytes.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct TransportWords<const N: usize> {
    /// Source port, destination port, each in network order.
    pub ports: [u8; 4],
    /// What follows the ports.
    pub rest: [u8; N],
}

/// Ethernet, IPv4 without options and TCP (or UDP and twelve more bytes, which a smallest frame
/// has too), cut the way the fast path compares them: what is asked together lies in one word.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct PlainHead {
    /// Destination address, then the first two bytes of the source address.
    pub first: [u8; 8],
    /// The last four bytes of the source address.
    pub second: [u8; 4],
    /// `EtherType`, IP version and header length, type of service.
    pub kind: [u8; 4],
    /// The datagram's length, in network order.
    pub total_length: [u8; 2],
    /// The datagram's identification.
    pub identification: [u8; 2],
    /// Fragment flags and offset, time to live, protocol.
    pub protocol: [u8; 4],
    /// The IP header's checksum.
    pub checksum: [u8; 2],
    /// Source address.
    pub source: [u8; 4],
    /// Destination address, source port, destination port: each in network order.
    pub destination_and_ports: [u8; 8],
    /// TCP: sequence and acknowledgement numbers, data offset.
    pub numbers: [u8; 9],
    /// TCP: the flags.
    pub tcp_flags: u8,
    /// TCP: window, checksum, urgent pointer.
    pub rest: [u8; 6],
}

impl PlainHead {
    /// What [`kind`](Self::kind) is compared in: all but the type of service.
    pub const KIND_MASK: u32 = u32::from_le_bytes([0xFF, 0xFF, 0xFF, 0]);
    /// IPv4, a header of 20 bytes.
    pub const IPV4: u32 = u32::from_le_bytes([0x08, 0x00, 0x45, 0]);
    /// What [`protocol`](Self::protocol) is compared in: "more fragments", the fragment offset (RFC
    /// 791 section 3.1), and the protocol.
    pub const PROTOCOL_MASK: u32 = u32::from_le_bytes([0x3F, 0xFF, 0, 0xFF]);
    /// TCP, no fragment.
    pub const TCP: u32 = u32::from_le_bytes([0, 0, 0, 6]);
    /// UDP, no fragment.
    pub const UDP: u32 = u32::from_le_bytes([0, 0, 0, 17]);
}

/// Ethernet and the fixed header of IPv6 (RFC 8200 section 3).
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct Ipv6Head {
    /// The Ethernet header.
    pub ethernet: EthernetWords,
    /// The version, and the upper half of the traffic class.
    pub version_and_class: u8,
    /// The rest of the traffic class, and the flow label.
    pub class_and_label: [u8; 3],
    /// The length of what follows this header, in network order.
    pub payload_length: [u8; 2],
    /// What follows this header.
    pub next_header: u8,
    /// The hop limit.
    pub hop_limit: u8,
    /// Source address.
    pub source: [u8; 16],
    /// Destination address.
    pub destination: [u8; 16],
}

/// The first eight bytes of an IPv6 extension header, which each of them has (RFC 8200 section 4).
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct ExtensionHead {
    /// What follows this header.
    pub next: u8,
    /// This header's length in units of eight bytes, less the first; reserved in a fragment header.
    pub length: u8,
    /// Fragment header: offset, two reserved bits, "more fragments", in network order.
    /// Routing header: its type, and how many addresses it still goes to.
    pub fragment: [u8; 2],
    /// Fragment header: the identification, in network order.
    pub identification: [u8; 4],
}

impl ExtensionHead {
    /// Routing header: how many addresses the packet still goes to.
    #[inline(always)]
    pub const fn segments_left(&self) -> u8 {
        self.fragment[1]
    }
}

/// A frame in memory, from the Ethernet header to its last byte.
#[derive(Debug)]
pub struct Packet<'a> {
    start: usize,
    end: usize,
    frame: PhantomData<&'a mut [u8]>,
}

impl<'a> Packet<'a> {
    /// A frame held by the host: tests, the model, `explain`.
    pub fn new(frame: &'a mut [u8]) -> Self {
        let range = frame.as_mut_ptr_range();
        Self { start: range.start as usize, end: range.end as usize, frame: PhantomData }
    }

    /// A frame given by its bounds, as an XDP context gives them.
    ///
    /// # Safety
    ///
    /// `start..end` is readable and writable memory that nothing else touches during `'a`.
    #[inline(always)]
    pub unsafe fn from_bounds(start: usize, end: usize) -> Self {
        Self { start, end, frame: PhantomData }
    }

    /// The frame's bounds, as [`from_bounds`](Self::from_bounds) takes them.
    #[inline(always)]
    pub fn bounds(&self) -> (usize, usize) {
        (self.start, self.end)
    }

    /// The frame's length in bytes.
    #[inline(always)]
    pub fn length(&self) -> usize {
        self.end - self.start
    }

    /// The header of type `T` at `offset`, if the frame holds all of it.
    #[inline(always)]
    pub fn at<T: Wire>(&self, offset: usize) -> Option<&T> {
        let at = self.start + offset;
        if at + size_of::<T>() > self.end {
            return None;
        }
        // SAFETY: within the frame by the check above; `Wire` allows any bytes at any alignment.
        Some(unsafe { &*(at as *const T) })
    }

    /// Like [`at`](Self::at), to write.
    #[inline(always)]
    pub fn at_mut<T: Wire>(&mut self, offset: usize) -> Option<&mut T> {
        let at = self.start + offset;
        if at + size_of::<T>() > self.end {
            return None;
        }
        // SAFETY: as in `at`, and `&mut self` makes this the only reference into the frame.
        Some(unsafe { &mut *(at as *mut T) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_that_ends_with_the_frame_is_read_and_one_byte_more_is_not() {
        let mut frame = [7u8; 34];
        let packet = Packet::new(&mut frame);
        assert_eq!(packet.at::<[u8; 20]>(14), Some(&[7; 20]));
        assert!(packet.at::<[u8; 20]>(15).is_none());
        assert!(packet.at::<[u8; 1]>(usize::from(u16::MAX)).is_none());
    }
}
