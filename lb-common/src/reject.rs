//! What a service without backends says (`on_empty = "reject"`): a reset to TCP (RFC 9293 section
//! 3.10.7.1), "port unreachable" to UDP (RFC 1122 section 4.1.3.1, RFC 4443 section 3.1). So a client
//! knows at once what it would else find out by waiting.
//!
//! ```text
//! TCP | Ethernet | IP | TCP, without options or data     in place of what there was
//! UDP | Ethernet | IP | ICMP | IP, UDP                   as they came, 28 or 48 bytes further on
//! ```
//!
//! The quote is as long as the receiver needs to find its socket.

use crate::{
    answer::{Ipv4, Ipv6, Plan, Version, write_error},
    checksum::Sum,
    flow::{ETHERNET_LENGTH, TCP, TcpFlags, UDP},
    packet::Packet,
};

/// The length of a TCP header without options.
const TCP_HEADER: usize = 20;
/// The length of a UDP header.
const UDP_HEADER: usize = 8;
/// A smallest Ethernet frame, without its checksum (IEEE 802.3 section 4A.4.2): one that has been as
/// long is not made shorter.
const SMALLEST: usize = 60;
/// What the shortest answer, a reset over IPv4, lacks to that.
const PADDING: usize = 6;
/// Destination unreachable, port unreachable (RFC 792; RFC 4443 section 3.1).
const UNREACHABLE_IPV4: [u8; 2] = [3, 3];
const UNREACHABLE_IPV6: [u8; 2] = [1, 4];

/// What is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// To TCP: a reset.
    Reset(Reset),
    /// To UDP: "port unreachable".
    Unreachable,
}

/// What to answer to a packet that [`crate::flow`] has read; nothing to a reset, to what has options
/// before UDP, to a later fragment, and to what claims to come from no single host.
#[inline(always)]
pub fn plan_ipv4(packet: &Packet<'_>) -> Option<Plan<Answer>> {
    plan::<Ipv4>(packet)
}

/// The same of IPv6; nothing to what has extension headers.
#[inline(always)]
pub fn plan_ipv6(packet: &Packet<'_>) -> Option<Plan<Answer>> {
    plan::<Ipv6>(packet)
}

/// Writes the answer into the frame, which has become what the plan says.
#[inline(always)]
pub fn write_ipv4(packet: &mut Packet<'_>, answer: &Answer) -> Option<()> {
    write::<Ipv4, { Ipv4::HEADER + UDP_HEADER }>(packet, answer, UNREACHABLE_IPV4)
}

/// The same of IPv6.
#[inline(always)]
pub fn write_ipv6(packet: &mut Packet<'_>, answer: &Answer) -> Option<()> {
    write::<Ipv6, { Ipv6::HEADER + UDP_HEADER }>(packet, answer, UNREACHABLE_IPV6)
}

#[inline(always)]
fn plan<V: Version>(packet: &Packet<'_>) -> Option<Plan<Answer>> {
    let asked = V::read(packet)?;
    if asked.protocol == TCP {
        let tcp = packet.at::<[u8; TCP_HEADER]>(ETHERNET_LENGTH + asked.header)?;
        let answer = Answer::Reset(Reset::to(tcp, asked.bytes)?);
        let reset = ETHERNET_LENGTH + V::HEADER + TCP_HEADER;
        let length = if packet.length() < SMALLEST { reset } else { reset.max(SMALLEST) };
        return Some(Plan { before: 0, length, answer });
    }
    if asked.protocol != UDP || asked.header != V::HEADER {
        return None;
    }
    Plan::error::<V>(packet, V::HEADER + UDP_HEADER, Answer::Unreachable)
}

#[inline(always)]
fn write<V: Version, const QUOTE: usize>(
    packet: &mut Packet<'_>,
    answer: &Answer,
    unreachable: [u8; 2],
) -> Option<()> {
    match answer {
        Answer::Reset(reset) => write_reset::<V>(packet, *reset),
        Answer::Unreachable => write_error::<V, QUOTE>(packet, unreachable, [0; 4]),
    }
}

#[inline(always)]
fn write_reset<V: Version>(packet: &mut Packet<'_>, reset: Reset) -> Option<()> {
    let pseudo = V::turn(packet, 0, TCP, TCP_HEADER)?;
    let place = ETHERNET_LENGTH + V::HEADER;
    *packet.at_mut(place)? = reset.segment(pseudo);
    if let Some(padding) = packet.at_mut::<[u8; PADDING]>(place + TCP_HEADER) {
        *padding = [0; PADDING];
    }
    Some(())
}

/// What a reset says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reset {
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
        [tcp[16], tcp[17]] = pseudo.with(&tcp).checksum();
        tcp
    }
}
