//! What a service without backends says (`on_empty = "reject"`): a reset to TCP (RFC 9293 section
//! 3.10.7.1), "port unreachable" to UDP (RFC 1122 section 4.1.3.1, RFC 4443 section 3.1). So a client
//! knows at once what it would else find out by waiting.
//!
//! ```text
//! TCP | Ethernet | IP | TCP, without options or data     in place of what there was
//! UDP | Ethernet | IP | ICMP | IP, UDP                   as they came, 28 or 48 bytes further on
//! ```
//!
//! The quote is as long as the receiver needs to find its socket, and always the same: its checksum
//! covers a fixed number of bytes.

mod ipv4;
mod ipv6;

pub use self::{
    ipv4::{plan as plan_ipv4, write as write_ipv4},
    ipv6::{plan as plan_ipv6, write as write_ipv6},
};
use crate::{checksum::Sum, flow::TcpFlags};

/// The length of a TCP header without options.
const TCP_HEADER: usize = 20;
/// The length of a UDP header.
const UDP_HEADER: usize = 8;
/// The time to live, or hop limit, of answers.
const HOPS: u8 = 64;

/// An answer, and what the frame has to become for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plan {
    /// Bytes to add before the frame.
    pub before: usize,
    /// The frame's length then; what is behind it is cut off.
    pub length: usize,
    /// The reset; else it is "port unreachable".
    reset: Option<Reset>,
}

/// What a reset says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Reset {
    /// The ports of the packet that it answers, as they stand there.
    ports: u32,
    sequence: u32,
    acknowledgement: u32,
    flags: TcpFlags,
}

impl Reset {
    /// The answer to a segment of so many bytes with its header; none to a reset, and to what has a
    /// header longer than itself.
    #[inline(always)]
    fn to(tcp: &[u8; TCP_HEADER], bytes: usize) -> Option<Self> {
        let [p0, p1, p2, p3, s0, s1, s2, s3, a0, a1, a2, a3, offset, flags, ..] = *tcp;
        let flags = TcpFlags(flags);
        let header = usize::from(offset >> 4) * 4;
        if header < TCP_HEADER || header > bytes || flags.0 & TcpFlags::RST.0 != 0 {
            return None;
        }
        let ports = u32::from_le_bytes([p0, p1, p2, p3]);
        if flags.0 & TcpFlags::ACK.0 != 0 {
            let sequence = u32::from_be_bytes([a0, a1, a2, a3]);
            return Some(Self { ports, sequence, acknowledgement: 0, flags: TcpFlags::RST });
        }
        // The segment's length, in which SYN and FIN count (RFC 9293 section 3.4).
        let marks =
            u32::from(flags.0 & TcpFlags::SYN.0 != 0) + u32::from(flags.0 & TcpFlags::FIN.0 != 0);
        let length = (bytes - header) as u32 + marks;
        Some(Self {
            ports,
            sequence: 0,
            acknowledgement: u32::from_be_bytes([s0, s1, s2, s3]).wrapping_add(length),
            flags: TcpFlags(TcpFlags::RST.0 | TcpFlags::ACK.0),
        })
    }

    /// The segment, with the sum of its pseudo-header.
    #[inline(always)]
    fn segment(self, pseudo: Sum) -> [u8; TCP_HEADER] {
        let [p0, p1, p2, p3] = self.ports.rotate_left(16).to_le_bytes();
        let [s0, s1, s2, s3] = self.sequence.to_be_bytes();
        let [a0, a1, a2, a3] = self.acknowledgement.to_be_bytes();
        let mut tcp = [0; TCP_HEADER];
        [tcp[0], tcp[1], tcp[2], tcp[3]] = [p0, p1, p2, p3];
        [tcp[4], tcp[5], tcp[6], tcp[7]] = [s0, s1, s2, s3];
        [tcp[8], tcp[9], tcp[10], tcp[11]] = [a0, a1, a2, a3];
        [tcp[12], tcp[13]] = [0x50, self.flags.0];
        let sum = pseudo.with_number(TCP_HEADER as u16).with_number(6).with(&tcp);
        [tcp[16], tcp[17]] = sum.checksum();
        tcp
    }
}

/// An Ethernet header back to where the one with these addresses came from.
#[inline(always)]
const fn ethernet_back(
    [d0, d1, d2, d3, d4, d5, s0, s1, s2, s3, s4, s5]: [u8; 12],
    [t0, t1]: [u8; 2],
) -> [u8; 14] {
    [s0, s1, s2, s3, s4, s5, d0, d1, d2, d3, d4, d5, t0, t1]
}

/// The source among the two addresses of an Ethernet header.
#[inline(always)]
const fn source_of([.., s0, s1, s2, s3, s4, s5]: [u8; 12]) -> [u8; 6] {
    [s0, s1, s2, s3, s4, s5]
}
