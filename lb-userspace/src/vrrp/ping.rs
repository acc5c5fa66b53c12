//! The sockets by which witnesses are pinged: ICMP echo (RFC 792, RFC 4443), one for each, so that
//! the kernel hands us what comes from that host alone.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    os::fd::AsRawFd as _,
    task::{Context, Poll},
};

use nix::sys::socket::{MsgFlags, recv};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::unix::AsyncFd;

use super::{
    error::Error,
    io::{clear_ready, register},
    packet::sum,
    witness::Ping,
};

/// An echo's header and our data.
const LENGTH: usize = 16;
/// An IPv4 header with all options before it.
const BUFFER_LENGTH: usize = 60 + LENGTH;

/// A witness' socket.
#[derive(Debug)]
pub(super) struct PingSocket {
    socket: AsyncFd<Socket>,
    ipv4: bool,
}

/// What arrived at a witness' socket.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Received {
    /// The answer to a ping.
    Answer(Ping),
    /// Anything else.
    Other,
}

impl PingSocket {
    /// Opens it.
    pub(super) fn open(witness: IpAddr) -> Result<Self, Error> {
        let ipv4 = witness.is_ipv4();
        let open = || {
            let (domain, protocol) = if ipv4 {
                (Domain::IPV4, Protocol::ICMPV4)
            } else {
                (Domain::IPV6, Protocol::ICMPV6)
            };
            let socket = Socket::new(domain, Type::RAW.nonblocking(), Some(protocol))?;
            // A raw socket that is connected receives from that address alone (raw(7)).
            socket.connect(&SocketAddr::new(witness, 0).into())?;
            register(socket)
        };
        let socket = open().map_err(|cause| Error::Witness { witness, cause })?;
        Ok(Self { socket, ipv4 })
    }

    /// Ready when there may be something to receive.
    pub(super) fn poll_ready(&self, context: &mut Context<'_>) -> Poll<()> {
        self.socket.poll_read_ready(context).map(|_| ())
    }

    /// Sends a ping.
    pub(super) fn send(&self, ping: Ping) -> io::Result<()> {
        self.socket.get_ref().send(&request(ping, self.ipv4)).map(drop)
    }

    /// Receives what has arrived, if anything has.
    pub(super) fn receive(&self) -> Option<Received> {
        let mut bytes = [0; BUFFER_LENGTH];
        let Ok(length) = recv(self.socket.as_raw_fd(), &mut bytes, MsgFlags::MSG_DONTWAIT) else {
            // Nothing more; or a pending error, such as "no route to host".
            clear_ready(&self.socket);
            return None;
        };
        let ping = bytes.get(..length).and_then(|bytes| answer(bytes, self.ipv4));
        Some(ping.map_or(Received::Other, Received::Answer))
    }
}

/// An echo request. The kernel fills in the checksum of `ICMPv6`, which covers its addresses.
fn request(Ping { id, sequence, cookie }: Ping, ipv4: bool) -> [u8; LENGTH] {
    let mut message = [0; LENGTH];
    message[0] = if ipv4 { 8 } else { 128 };
    message[4..6].copy_from_slice(&id.to_be_bytes());
    message[6..8].copy_from_slice(&sequence.to_be_bytes());
    message[8..].copy_from_slice(&cookie.to_be_bytes());
    if ipv4 {
        let checksum = sum(&[&message]);
        message[2..4].copy_from_slice(&checksum.to_be_bytes());
    }
    message
}

/// The ping that an echo reply answers; the kernel leaves the header before that of IPv4 alone.
fn answer(bytes: &[u8], ipv4: bool) -> Option<Ping> {
    let header = if ipv4 { usize::from(bytes.first()? & 0x0f) * 4 } else { 0 };
    let message: &[u8; LENGTH] = bytes.get(header..)?.try_into().ok()?;
    let reply = if ipv4 { 0 } else { 129 };
    (message[..2] == [reply, 0]).then(|| Ping {
        id: u16::from_be_bytes([message[4], message[5]]),
        sequence: u16::from_be_bytes([message[6], message[7]]),
        cookie: message.last_chunk().map_or(0, |cookie| u64::from_be_bytes(*cookie)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PING: Ping = Ping { id: 0x1234, sequence: 5, cookie: 0x0102_0304_0506_0708 };

    #[test]
    fn a_request_byte_for_byte() {
        let message = request(PING, true);
        assert_eq!(message[..2], [8, 0]);
        assert_eq!(message[4..], [0x12, 0x34, 0, 5, 1, 2, 3, 4, 5, 6, 7, 8]);
        // A checksum over a message that holds its own is 0 (RFC 1071).
        assert_eq!(sum(&[&message]), 0);
        assert_eq!(request(PING, false)[..4], [128, 0, 0, 0]);
    }

    #[test]
    fn a_reply_alone_is_an_answer() {
        let mut reply = request(PING, true);
        reply[0] = 0;
        let packet = |header: u8, message: &[u8]| {
            let mut packet = vec![0; usize::from(header) * 4];
            packet[0] = 0x40 | header;
            packet.extend_from_slice(message);
            packet
        };
        assert_eq!(answer(&packet(5, &reply), true), Some(PING));
        assert_eq!(answer(&packet(15, &reply), true), Some(PING));
        assert_eq!(answer(&packet(5, &request(PING, true)), true), None);
        assert_eq!(answer(&packet(5, &reply[..15]), true), None);
        assert_eq!(answer(&[0x4f, 0], true), None);
        assert_eq!(answer(&[], true), None);
        let mut reply = request(PING, false);
        reply[0] = 129;
        assert_eq!(answer(&reply, false), Some(PING));
        reply[1] = 1;
        assert_eq!(answer(&reply, false), None);
    }
}
