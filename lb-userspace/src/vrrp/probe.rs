//! The socket that probes go out by and answers come in by.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    os::fd::AsRawFd as _,
    task::{Context, Poll},
};

use lb_common::echo::{EchoKey, LENGTH, Message};
use nix::sys::socket::{SockaddrIn, recvfrom};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::unix::AsyncFd;

use super::{
    Echo,
    error::Error,
    io::{clear_ready, register},
};

/// Probes come from the segment (RFC 5082), as adverts do.
const HOPS: u32 = 255;
/// Internetwork control (RFC 791): ahead of the traffic that they are to tell of.
const PRECEDENCE: u32 = 0xc0;

/// A socket on one interface, with the address that adverts come from.
#[derive(Debug)]
pub(super) struct ProbeSocket {
    socket: AsyncFd<Socket>,
    index: u32,
    own: Ipv4Addr,
    port: u16,
    key: EchoKey,
    node: u64,
}

/// What arrived at the probes' socket.
#[derive(Debug)]
pub(super) enum Received {
    /// A peer's answer.
    Answer(Ipv4Addr, Message),
    /// Anything else.
    Other,
}

impl ProbeSocket {
    /// Opens it.
    pub(super) fn open(
        interface: &str,
        index: u32,
        own: Ipv4Addr,
        echo: &Echo,
    ) -> Result<Self, Error> {
        let open = || {
            let socket = Socket::new(Domain::IPV4, Type::DGRAM.nonblocking(), Some(Protocol::UDP))?;
            socket.bind_device(Some(interface.as_bytes()))?;
            socket.set_ttl_v4(HOPS)?;
            socket.set_tos_v4(PRECEDENCE)?;
            socket.bind(&SocketAddr::from((own, echo.port)).into())?;
            register(socket)
        };
        let socket = open().map_err(|cause| Error::socket(interface, cause))?;
        Ok(Self { socket, index, own, port: echo.port, key: echo.key, node: echo.node })
    }

    /// The index of the interface it is on.
    pub(super) fn index(&self) -> u32 {
        self.index
    }

    /// Ready when there may be something to receive.
    pub(super) fn poll_ready(&self, context: &mut Context<'_>) -> Poll<()> {
        self.socket.poll_read_ready(context).map(|_| ())
    }

    /// Sends a probe.
    pub(super) fn send(&self, nonce: u64, to: Ipv4Addr) -> io::Result<()> {
        let message = Message { answer: false, sender: self.node, nonce, age: 0 };
        let bytes = message.to_bytes(self.key, self.own.octets(), to.octets());
        let to = SocketAddr::from((to, self.port));
        self.socket.get_ref().send_to(&bytes, &to.into()).map(drop)
    }

    /// Receives what has arrived, if anything has.
    pub(super) fn receive(&self) -> Option<Received> {
        // One byte more than a message, so that a longer datagram is none.
        let mut bytes = [0; LENGTH + 1];
        let Ok((length, from)) = recvfrom::<SockaddrIn>(self.socket.as_raw_fd(), &mut bytes) else {
            // Nothing more; or a pending error, such as an ICMP message from a host without us.
            clear_ready(&self.socket);
            return None;
        };
        let said = from.zip(bytes.get(..length)).and_then(|(from, bytes)| {
            let (from, own) = (from.ip(), self.own.octets());
            let message = Message::from_bytes(bytes, self.key, from.octets(), own)?;
            message.answer.then_some((from, message))
        });
        Some(said.map_or(Received::Other, |(from, message)| Received::Answer(from, message)))
    }
}
