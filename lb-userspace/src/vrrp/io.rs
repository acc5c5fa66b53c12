//! The sockets: raw ones for adverts, one for announcements.

use std::{
    io::{self, IoSlice, IoSliceMut},
    net::{IpAddr, SocketAddrV4, SocketAddrV6},
    os::fd::AsRawFd,
    task::{Context, Poll},
    time::{Duration, SystemTime},
};

use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, SockaddrIn, SockaddrIn6, SockaddrStorage,
    recvmsg, sendmsg,
};
use socket2::{Domain, InterfaceIndexOrAddress, Protocol, SockAddr, SockAddrStorage, Socket, Type};
use tokio::io::{Interest, unix::AsyncFd};

use super::{
    announce::Mac,
    error::Error,
    packet::{Datagram, Discard, GROUP_V4, GROUP_V6, HOP_LIMIT, LENGTH_MAX, PROTOCOL},
};

/// Internetwork control: routers send their own traffic first (RFC 791).
const PRECEDENCE: u32 = 0xc0;
/// An IPv4 header with all options, and a message.
const BUFFER_LENGTH: usize = 60 + LENGTH_MAX;

/// The socket of one instance: on its interface alone, of its family.
#[derive(Debug)]
pub(super) struct AdvertSocket {
    socket: AsyncFd<Socket>,
    index: u32,
    ipv4: bool,
}

/// Where a datagram is put, so that nothing is allocated for each.
#[derive(Debug)]
pub(super) struct Buffer(Box<[u8; BUFFER_LENGTH]>);

impl Default for Buffer {
    fn default() -> Self {
        Self(Box::new([0; BUFFER_LENGTH]))
    }
}

impl AdvertSocket {
    /// Opens the socket, and joins the group unless adverts are unicast.
    pub(super) fn open(
        interface: &str,
        index: u32,
        ipv4: bool,
        multicast: bool,
    ) -> Result<Self, Error> {
        let open = || {
            let domain = if ipv4 { Domain::IPV4 } else { Domain::IPV6 };
            let protocol = Protocol::from(i32::from(PROTOCOL));
            let socket = Socket::new(domain, Type::RAW.nonblocking(), Some(protocol))?;
            socket.bind_device(Some(interface.as_bytes()))?;
            nix::sys::socket::setsockopt(
                &socket,
                nix::sys::socket::sockopt::ReceiveTimestampns,
                &true,
            )?;
            let hops = u32::from(HOP_LIMIT);
            if ipv4 {
                socket.set_ttl_v4(hops)?;
                socket.set_multicast_ttl_v4(hops)?;
                socket.set_multicast_loop_v4(false)?;
                socket.set_tos_v4(PRECEDENCE)?;
                if multicast {
                    let index = InterfaceIndexOrAddress::Index(index);
                    socket.join_multicast_v4_n(&GROUP_V4, &index)?;
                }
            } else {
                socket.set_unicast_hops_v6(hops)?;
                socket.set_multicast_hops_v6(hops)?;
                socket.set_multicast_loop_v6(false)?;
                socket.set_multicast_if_v6(index)?;
                socket.set_tclass_v6(PRECEDENCE)?;
                socket.set_recv_hoplimit_v6(true)?;
                nix::sys::socket::setsockopt(
                    &socket,
                    nix::sys::socket::sockopt::Ipv6RecvPacketInfo,
                    &true,
                )?;
                if multicast {
                    socket.join_multicast_v6(&GROUP_V6, index)?;
                }
            }
            register(socket)
        };
        let socket = open().map_err(|cause| Error::socket(interface, cause))?;
        Ok(Self { socket, index, ipv4 })
    }

    /// The index of the interface it is on.
    pub(super) fn index(&self) -> u32 {
        self.index
    }

    /// Ready when there may be something to receive.
    pub(super) fn poll_ready(&self, context: &mut Context<'_>) -> Poll<()> {
        self.socket.poll_read_ready(context).map(|_| ())
    }

    /// Receives what has arrived, if anything has, with how long ago that was by the kernel's clock.
    pub(super) fn receive<'b>(
        &self,
        buffer: &'b mut Buffer,
    ) -> Option<(Result<Datagram<'b>, Discard>, Duration)> {
        let received = match self.receive_message(buffer) {
            Ok(received) => received,
            Err(error) => {
                if error.kind() != io::ErrorKind::WouldBlock {
                    // A pending error of the interface, such as "network is down": the links'
                    // news tell of that.
                    tracing::debug!(%error, "receiving adverts");
                }
                clear_ready(&self.socket);
                return None;
            }
        };
        let bytes = &buffer.0[..received.length];
        let Received { source, destination, hop_limit, age, .. } = received;
        if self.ipv4 {
            return Some((Datagram::from_ipv4(bytes), age));
        }
        let datagram = match (source, destination, hop_limit) {
            (Some(source), Some(destination), Some(hop_limit)) => {
                Ok(Datagram { source, destination, hop_limit, message: bytes })
            }
            _ => Err(Discard::IpHeader),
        };
        Some((datagram, age))
    }

    fn receive_message(&self, buffer: &mut Buffer) -> io::Result<Received> {
        let mut control = nix::cmsg_space!(libc::in6_pktinfo, libc::c_int, libc::timespec);
        let mut parts = [IoSliceMut::new(&mut buffer.0[..])];
        let message = recvmsg::<SockaddrStorage>(
            self.socket.as_raw_fd(),
            &mut parts,
            Some(&mut control),
            MsgFlags::MSG_DONTWAIT,
        )?;
        let mut received = Received { length: message.bytes, ..Received::default() };
        if let Some(source) = message.address.as_ref().and_then(SockaddrStorage::as_sockaddr_in6) {
            received.source = Some(source.ip().into());
        }
        for part in message.cmsgs()? {
            match part {
                ControlMessageOwned::Ipv6PacketInfo(info) => {
                    received.destination = Some(IpAddr::from(info.ipi6_addr.s6_addr));
                }
                ControlMessageOwned::Ipv6HopLimit(limit) => {
                    received.hop_limit = u8::try_from(limit).ok();
                }
                ControlMessageOwned::ScmTimestampns(arrived) => {
                    let arrived = SystemTime::UNIX_EPOCH + Duration::from(arrived);
                    // A clock that was set back meanwhile: it arrived just now.
                    received.age = arrived.elapsed().unwrap_or_default();
                }
                _ => {}
            }
        }
        Ok(received)
    }

    /// Sends a message from `source`, which is one of the interface's addresses.
    pub(super) fn send(&self, message: &[u8], source: IpAddr, to: IpAddr) -> io::Result<()> {
        let parts = [IoSlice::new(message)];
        let (socket, flags) = (self.socket.as_raw_fd(), MsgFlags::MSG_DONTWAIT);
        match (source, to) {
            (IpAddr::V4(source), IpAddr::V4(to)) => {
                let info = libc::in_pktinfo {
                    ipi_ifindex: self.index.cast_signed(),
                    ipi_spec_dst: libc::in_addr { s_addr: u32::from_ne_bytes(source.octets()) },
                    ipi_addr: libc::in_addr { s_addr: 0 },
                };
                let to = SockaddrIn::from(SocketAddrV4::new(to, 0));
                let control = [ControlMessage::Ipv4PacketInfo(&info)];
                sendmsg(socket, &parts, &control, flags, Some(&to))?;
            }
            (IpAddr::V6(source), IpAddr::V6(to)) => {
                let info = libc::in6_pktinfo {
                    ipi6_addr: libc::in6_addr { s6_addr: source.octets() },
                    ipi6_ifindex: self.index,
                };
                let to = SockaddrIn6::from(SocketAddrV6::new(to, 0, 0, self.index));
                let control = [ControlMessage::Ipv6PacketInfo(&info)];
                sendmsg(socket, &parts, &control, flags, Some(&to))?;
            }
            // Families are checked when the configuration is read.
            _ => return Err(io::ErrorKind::InvalidInput.into()),
        }
        Ok(())
    }
}

/// Has a socket's readiness wait for what comes next.
pub(super) fn clear_ready(socket: &AsyncFd<Socket>) {
    let nothing = |_: &Socket| Err::<(), _>(io::ErrorKind::WouldBlock.into());
    let _ = socket.try_io(Interest::READABLE, nothing);
}

#[allow(unsafe_code, reason = "tokio cannot know that a socket keeps its descriptor")]
pub(crate) fn register(socket: Socket) -> io::Result<AsyncFd<Socket>> {
    // SAFETY: a `Socket` owns its descriptor, names the same one as long as it lives, and closes it
    // when it is dropped, after the `AsyncFd` has let go of it.
    let registered = unsafe { AsyncFd::register_with_interest(socket, Interest::READABLE) };
    registered.map_err(io::Error::from)
}

#[derive(Debug, Default)]
struct Received {
    length: usize,
    source: Option<IpAddr>,
    destination: Option<IpAddr>,
    hop_limit: Option<u8>,
    /// How long it has waited.
    age: Duration,
}

/// The group of a family.
pub(super) fn group(ipv4: bool) -> IpAddr {
    if ipv4 { GROUP_V4.into() } else { GROUP_V6.into() }
}

/// A socket for an interface's ARP, as whole Ethernet frames, both ways: what is sent leaves there.
pub(crate) fn arp_socket(index: u32) -> io::Result<AsyncFd<Socket>> {
    // Protocol 0: nothing of other interfaces is copied to it before it is bound.
    let socket = Socket::new(Domain::PACKET, Type::RAW.nonblocking(), None)?;
    socket.bind(&link_address(index, [0; 6], ETHER_TYPE_ARP))?;
    register(socket)
}

/// The socket for whole Ethernet frames; it receives nothing.
#[derive(Debug)]
pub(super) struct FrameSocket(Socket);

impl FrameSocket {
    pub(super) fn open() -> Result<Self, Error> {
        // Protocol 0: no packet is copied to it.
        let socket = Socket::new(Domain::PACKET, Type::RAW.nonblocking(), None);
        socket.map(Self).map_err(|cause| Error::socket("any interface", cause))
    }

    /// Sends a frame by an interface.
    pub(super) fn send(&self, frame: &[u8], index: u32) -> io::Result<()> {
        let to = frame.first_chunk::<6>().copied().unwrap_or_default();
        self.0.send_to(frame, &link_address(index, to, 0)).map(drop)
    }
}

/// `ETH_P_ARP` (`linux/if_ether.h`).
const ETHER_TYPE_ARP: u16 = 0x0806;

/// `sockaddr_ll` for sending, or with an Ethernet type for receiving (packet(7)).
#[allow(unsafe_code, reason = "socket2 has no constructor for link-layer addresses")]
#[allow(clippy::cast_possible_truncation, reason = "two small constants of the kernel's interface")]
fn link_address(index: u32, mac: Mac, ether_type: u16) -> SockAddr {
    let mut storage = SockAddrStorage::zeroed();
    // SAFETY: `sockaddr_ll` fits into the storage, has no alignment above its, and is valid with
    // any bytes.
    let address = unsafe { storage.view_as::<libc::sockaddr_ll>() };
    address.sll_family = libc::AF_PACKET as libc::sa_family_t;
    address.sll_protocol = ether_type.to_be();
    address.sll_ifindex = index.cast_signed();
    address.sll_halen = 6;
    address.sll_addr[..6].copy_from_slice(&mac);
    let length = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
    // SAFETY: the storage holds an address of that family and length.
    unsafe { SockAddr::new(storage, length) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_those_of_the_rfc() {
        assert_eq!(group(true), "224.0.0.18".parse::<IpAddr>().unwrap());
        assert_eq!(group(false), "ff02::12".parse::<IpAddr>().unwrap());
    }
}
