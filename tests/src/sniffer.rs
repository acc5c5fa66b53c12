//! What VRRP routers put on the wire, seen where their cables end in the switch: by multicast or
//! to one peer, delivered or not.

use std::{
    io::IoSliceMut,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::{
        fd::{AsFd as _, AsRawFd as _, OwnedFd},
        unix::net::UnixStream,
    },
    sync::{Arc, Mutex, PoisonError},
    thread::{self, JoinHandle},
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context as _, Result, ensure};
use nix::{
    libc::PACKET_OUTGOING,
    net::if_::if_nametoindex,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::socket::{
        AddressFamily, LinkAddr, MsgFlags, SockFlag, SockProtocol, SockType, recvmsg, setsockopt,
        socket, sockopt::RcvBufForce,
    },
};

use crate::{Lab, Namespace};

/// IP protocol number of VRRP (RFC 9568, section 5.1.1.4).
const VRRP: u8 = 112;
/// Later frames are not kept.
const FRAMES_LIMIT: usize = 100_000;
/// Room for the client's datagrams, which the socket sees too, while the thread waits for a CPU.
const RECEIVE_BUFFER: usize = 8 << 20;
const LOOK_AGAIN: Duration = Duration::from_millis(2);

/// A listener at the switch's ends of the balancers' cables. Ends when dropped.
#[derive(Debug)]
pub struct Sniffer {
    frames: Arc<Mutex<Vec<Frame>>>,
    /// Closing it wakes and ends the thread.
    stop: Option<UnixStream>,
    thread: Option<JoinHandle<()>>,
}

/// A frame with a VRRP advert.
#[derive(Debug, Clone)]
pub struct Frame {
    /// When it was seen.
    pub at: SystemTime,
    /// The role of the machine that sent it.
    pub from: Arc<str>,
    /// All of it, from the Ethernet header on.
    pub bytes: Vec<u8>,
}

/// What an advert says, read here with nothing of the program under test.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Advert {
    /// The role of the machine that sent it.
    pub from: Arc<str>,
    /// The sender's address in the IP header.
    pub source: IpAddr,
    /// Where it was sent to: the group, or a peer.
    pub destination: IpAddr,
    /// 2 or 3.
    pub version: u8,
    /// The virtual router's id.
    pub router_id: u8,
    /// 0 says that the master leaves.
    pub priority: u8,
    /// Between two adverts, as the sender says.
    pub interval: Duration,
}

// === impl Sniffer ===

impl Sniffer {
    pub(crate) fn start(bridge: &Namespace, ports: &[(String, Arc<str>)]) -> Result<Self> {
        let (socket, ports) = bridge.enter(|| -> Result<_> {
            // Sees every frame of every interface; of one that is in a bridge before the bridge.
            let (family, protocol) = (AddressFamily::Packet, SockProtocol::EthAll);
            let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
            let socket = socket(family, SockType::Raw, flags, protocol)?;
            setsockopt(&socket, RcvBufForce, &RECEIVE_BUFFER)?;
            let indexed = ports.iter().map(|(port, role)| {
                Ok((usize::try_from(if_nametoindex(port.as_str())?)?, Arc::clone(role)))
            });
            Ok((socket, indexed.collect::<Result<Vec<_>>>()?))
        })??;
        let (stop, stopped) = UnixStream::pair()?;
        let frames = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&frames);
        let thread = thread::Builder::new()
            .name("sniffer".to_owned())
            .spawn(move || listen(&socket, &stopped, &ports, &kept))?;
        Ok(Self { frames, stop: Some(stop), thread: Some(thread) })
    }

    /// All frames with adverts so far.
    pub fn frames(&self) -> Vec<Frame> {
        self.frames.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// All adverts so far, in order.
    ///
    /// # Errors
    ///
    /// One is too short to be read.
    pub fn adverts(&self) -> Result<Vec<Advert>> {
        self.frames().iter().map(Advert::read).collect()
    }

    /// Waits until one more advert is as `wanted` than at the call, and returns it.
    ///
    /// # Errors
    ///
    /// None was within the limit; with the last of what was seen instead.
    pub fn wait_for(
        &self,
        what: &str,
        limit: Duration,
        wanted: impl Fn(&Advert) -> bool,
    ) -> Result<Advert> {
        let (before, end) = (self.frames().len(), Instant::now() + limit);
        loop {
            let adverts = self.adverts()?;
            let new = &adverts[before..];
            if let Some(found) = new.iter().find(|advert| wanted(advert)) {
                return Ok(found.clone());
            }
            ensure!(
                Instant::now() < end,
                "{what}: no such advert within {limit:?}; {} others, the last {:?}",
                new.len(),
                new.last()
            );
            thread::sleep(LOOK_AGAIN);
        }
    }
}

impl Drop for Sniffer {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // Only a panic of the thread is lost here, which has printed itself.
            let _ = thread.join();
        }
    }
}

impl Lab {
    /// Listens to what the balancers send.
    ///
    /// # Errors
    ///
    /// The kernel refuses the socket.
    pub fn sniff(&self) -> Result<Sniffer> {
        let ports: Vec<_> = self.front_ports().collect();
        Sniffer::start(self.namespace("bridge"), &ports)
    }
}

// === impl Advert ===

impl Advert {
    /// Reads a frame that [`is_advert`].
    fn read(frame: &Frame) -> Result<Self> {
        Self::parse(frame).with_context(|| format!("an advert cut short: {frame:02x?}"))
    }

    fn parse(frame: &Frame) -> Option<Self> {
        let ip = frame.bytes.get(14..)?;
        let (source, destination, message): (IpAddr, IpAddr, _) = if ip.first()? >> 4 == 4 {
            let header = usize::from(ip.first()? & 0xf) * 4;
            let address = |at: usize| {
                let bytes: [u8; 4] = ip.get(at..at + 4)?.try_into().ok()?;
                Some(Ipv4Addr::from(bytes).into())
            };
            (address(12)?, address(16)?, ip.get(header..)?)
        } else {
            let address = |at: usize| {
                let bytes: [u8; 16] = ip.get(at..at + 16)?.try_into().ok()?;
                Some(Ipv6Addr::from(bytes).into())
            };
            (address(8)?, address(24)?, ip.get(40..)?)
        };
        let &[kind, router_id, priority, _count, high, low, ..] = message else { return None };
        // Version 2 has a byte of authentication type, then seconds in a byte; version 3 has
        // twelve bits of hundredths (RFC 3768, section 5.1; RFC 9568, section 5.1).
        let interval = match kind >> 4 {
            2 => Duration::from_secs(low.into()),
            _ => Duration::from_millis(u64::from(u16::from_be_bytes([high & 0xf, low])) * 10),
        };
        let (from, version) = (Arc::clone(&frame.from), kind >> 4);
        Some(Self { from, source, destination, version, router_id, priority, interval })
    }
}

// === helpers ===

fn listen(
    socket: &OwnedFd,
    stopped: &UnixStream,
    ports: &[(usize, Arc<str>)],
    frames: &Mutex<Vec<Frame>>,
) {
    let mut buffer = [0; 2048];
    loop {
        let mut waiting =
            [socket.as_fd(), stopped.as_fd()].map(|fd| PollFd::new(fd, PollFlags::POLLIN));
        let waited = poll(&mut waiting, PollTimeout::NONE);
        let stop = waiting[1].any() == Some(true);
        if stop || waited.is_err_and(|error| error != nix::errno::Errno::EINTR) {
            return;
        }
        while let Some((length, port)) = receive(socket, &mut buffer) {
            let bytes = &buffer[..length];
            let from = ports.iter().find(|(index, _)| *index == port);
            if let Some((_, role)) = from.filter(|_| is_advert(bytes)) {
                let frame =
                    Frame { at: SystemTime::now(), from: Arc::clone(role), bytes: bytes.to_vec() };
                let mut frames = frames.lock().unwrap_or_else(PoisonError::into_inner);
                if frames.len() < FRAMES_LIMIT {
                    frames.push(frame);
                }
            }
        }
    }
}

/// The next frame: its length, and the interface that it came in by, 0 for one that went out.
fn receive(socket: &OwnedFd, buffer: &mut [u8]) -> Option<(usize, usize)> {
    let mut parts = [IoSliceMut::new(buffer)];
    let received =
        recvmsg::<LinkAddr>(socket.as_raw_fd(), &mut parts, None, MsgFlags::empty()).ok()?;
    let address = received.address?;
    let incoming = address.pkttype() != PACKET_OUTGOING;
    Some((received.bytes, if incoming { address.ifindex() } else { 0 }))
}

/// Whether the frame's IP header names VRRP.
fn is_advert(frame: &[u8]) -> bool {
    let protocol = match frame.get(12..14) {
        Some([0x08, 0x00]) => frame.get(14 + 9),
        Some([0x86, 0xdd]) => frame.get(14 + 6),
        _ => None,
    };
    protocol == Some(&VRRP)
}
