//! An echo request becomes its own answer: addresses exchanged, another type, a new time to live.
//! Checksums follow what has changed, so that one that was wrong stays wrong.

use crate::{
    answer::{is_one_machine, may_go_to, may_go_to_ipv6},
    checksum::replaced,
    packet::Packet,
};

/// The time to live, or hop limit, of answers.
const HOPS: u8 = 64;
/// Echo reply (RFC 792) and echo request, each with the code 0.
const REPLY: u16 = 0;
const REQUEST: u16 = 8 << 8;
/// The same of ICMPv6 (RFC 4443 section 4).
const REPLY_6: u16 = 129 << 8;
const REQUEST_6: u16 = 128 << 8;

/// Ethernet, IPv4 without options, and the beginning of an ICMP message.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct PingFrame {
    destination_mac: [u8; 6],
    source_mac: [u8; 6],
    /// `EtherType` to fragment offset.
    before: [u8; 10],
    hops_and_protocol: [u8; 2],
    ip_checksum: [u8; 2],
    source: [u8; 4],
    destination: [u8; 4],
    kind: [u8; 2],
    checksum: [u8; 2],
}

/// Ethernet, IPv6 without extension headers, and the beginning of an ICMPv6 message.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct PingFrame6 {
    destination_mac: [u8; 6],
    source_mac: [u8; 6],
    /// `EtherType` to next header.
    before: [u8; 9],
    hops: u8,
    source: [u8; 16],
    destination: [u8; 16],
    kind: [u8; 2],
    checksum: [u8; 2],
}

/// Turns an echo request round, as [`read_ipv4`](super::read_ipv4) found it; `false` if its sender
/// is nobody to answer.
#[inline(always)]
pub fn answer_ipv4(packet: &mut Packet<'_>) -> bool {
    let Some(frame) = packet.at_mut::<PingFrame>(0) else { return false };
    if !is_one_machine(frame.source_mac) || !may_go_to(frame.source, frame.destination) {
        return false;
    }
    (frame.destination_mac, frame.source_mac) = (frame.source_mac, frame.destination_mac);
    (frame.source, frame.destination) = (frame.destination, frame.source);
    let [_, protocol] = frame.hops_and_protocol;
    let before = u16::from_be_bytes(frame.hops_and_protocol);
    frame.hops_and_protocol = [HOPS, protocol];
    let after = u16::from_be_bytes(frame.hops_and_protocol);
    frame.ip_checksum = replaced(frame.ip_checksum, before, after);
    frame.kind = REPLY.to_be_bytes();
    frame.checksum = replaced(frame.checksum, REQUEST, REPLY);
    true
}

/// The same of ICMPv6, whose checksum covers both addresses, in any order.
#[inline(always)]
pub fn answer_ipv6(packet: &mut Packet<'_>) -> bool {
    let Some(frame) = packet.at_mut::<PingFrame6>(0) else { return false };
    if !is_one_machine(frame.source_mac) || !may_go_to_ipv6(frame.source, frame.destination) {
        return false;
    }
    (frame.destination_mac, frame.source_mac) = (frame.source_mac, frame.destination_mac);
    (frame.source, frame.destination) = (frame.destination, frame.source);
    frame.hops = HOPS;
    frame.kind = REPLY_6.to_be_bytes();
    frame.checksum = replaced(frame.checksum, REQUEST_6, REPLY_6);
    true
}

const _: () = assert!(size_of::<PingFrame>() == 14 + 20 + 4);
const _: () = assert!(size_of::<PingFrame6>() == 14 + 40 + 4);
