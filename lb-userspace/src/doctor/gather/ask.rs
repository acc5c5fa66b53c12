//! Who has an address? Asked of the segment itself, past the kernel's own tables: that hears all who
//! answer, where the kernel believes one.
//!
//! IPv4 is asked by ARP (RFC 826), IPv6 by neighbour solicitations (RFC 4861 section 4.3). The source
//! of a question is never one of the addresses in question, so nobody learns anything wrong from it.

use std::{
    collections::BTreeSet,
    io::{self, IoSliceMut},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddrV6},
    os::fd::AsRawFd as _,
    time::Duration,
};

use futures_util::future::join_all;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, SockaddrIn6, recvmsg};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::unix::AsyncFd;

use super::super::facts::Answer;
use crate::{
    config::Prefix,
    netlink::LinkReport,
    vrrp::{
        announce::{Mac, arp_reply, who_has},
        io::{arp_socket, register},
    },
};

/// Each question is asked so often, since a frame may be lost.
const TIMES: u32 = 3;
/// The pause after each, in which answers are heard.
const PAUSE: Duration = Duration::from_millis(500);
/// So many answers of one segment are kept.
const ANSWERS_MAX: usize = 65_536;
/// A neighbour advertisement with a few options, or an ARP frame.
const BUFFER_LENGTH: usize = 256;

const NEIGHBOUR_SOLICITATION: u8 = 135;
const NEIGHBOUR_ADVERTISEMENT: u8 = 136;
const OPTION_SOURCE_MAC: u8 = 1;
const OPTION_TARGET_MAC: u8 = 2;
/// What a host of the segment sends with; routers lower it (RFC 4861 section 7.1.2).
const HOPS: u32 = 255;

/// Addresses that one segment is asked for, in one family.
#[derive(Debug)]
pub(super) struct Questions {
    /// The interface.
    pub(super) link: LinkReport,
    /// Its own addresses, without those that other machines may have as well.
    pub(super) own: Vec<Prefix>,
    /// What is looked for.
    pub(super) addresses: BTreeSet<IpAddr>,
}

impl Questions {
    /// Who asks over IPv4: an address of the target's network, since some hosts answer their own
    /// network alone (`arp_ignore` 2), else any, else nobody.
    fn sender(&self, target: Ipv4Addr) -> Ipv4Addr {
        let near = |prefix: &&Prefix| prefix.contains(target.into());
        let v4 = |prefix: &Prefix| match prefix.address {
            IpAddr::V4(v4) => Some(v4),
            IpAddr::V6(_) => None,
        };
        let near = self.own.iter().find(near).and_then(v4);
        near.or_else(|| self.own.iter().find_map(v4)).unwrap_or(Ipv4Addr::UNSPECIFIED)
    }
}

/// Asks all segments at once; the answers, and what went wrong where.
pub(super) async fn all(questions: &[Questions]) -> (BTreeSet<Answer>, Vec<(String, io::Error)>) {
    let (mut answers, mut failures) = (BTreeSet::new(), Vec::new());
    let asked = join_all(questions.iter().map(one)).await;
    for (question, outcome) in questions.iter().zip(asked) {
        match outcome {
            Ok(heard) => answers.extend(heard),
            Err(error) => failures.push((question.link.name.clone(), error)),
        }
    }
    (answers, failures)
}

async fn one(questions: &Questions) -> io::Result<BTreeSet<Answer>> {
    let families = join_all([true, false].map(|ipv4| family(questions, ipv4))).await;
    let mut heard = BTreeSet::new();
    for answers in families {
        heard.extend(answers?);
    }
    Ok(heard)
}

async fn family(questions: &Questions, ipv4: bool) -> io::Result<BTreeSet<Answer>> {
    let addresses = questions.addresses.iter().filter(|address| address.is_ipv4() == ipv4);
    let addresses: Vec<IpAddr> = addresses.copied().collect();
    let mut heard = BTreeSet::new();
    if addresses.is_empty() {
        return Ok(heard);
    }
    let wire = Wire::open(&questions.link, ipv4)?;
    let interface = questions.link.index;
    for _ in 0..TIMES {
        for address in &addresses {
            match wire.send(*address, questions) {
                // A full queue; it is asked again.
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                outcome => outcome?,
            }
        }
        let end = tokio::time::sleep(PAUSE);
        tokio::pin!(end);
        loop {
            tokio::select! {
                biased;
                () = &mut end => break,
                answer = wire.receive() => if let Some((address, mac)) = answer
                    && questions.addresses.contains(&address)
                    && heard.len() < ANSWERS_MAX
                {
                    heard.insert(Answer { interface, address, mac });
                },
            }
        }
    }
    Ok(heard)
}

/// One segment in one family.
#[derive(Debug)]
enum Wire {
    /// ARP, as whole frames.
    Arp(AsyncFd<Socket>),
    /// Neighbour discovery: a raw socket, to which the kernel copies `ICMPv6` and which checks sums.
    Nd(AsyncFd<Socket>),
}

impl Wire {
    fn open(link: &LinkReport, ipv4: bool) -> io::Result<Self> {
        if ipv4 {
            return arp_socket(link.index).map(Self::Arp);
        }
        let socket = Socket::new(Domain::IPV6, Type::RAW.nonblocking(), Some(Protocol::ICMPV6))?;
        socket.bind_device(Some(link.name.as_bytes()))?;
        socket.set_multicast_hops_v6(HOPS)?;
        socket.set_multicast_if_v6(link.index)?;
        socket.set_multicast_loop_v6(false)?;
        socket.set_recv_hoplimit_v6(true)?;
        register(socket).map(Self::Nd)
    }

    fn send(&self, address: IpAddr, questions: &Questions) -> io::Result<()> {
        let link = &questions.link;
        match (self, address) {
            (Self::Arp(socket), IpAddr::V4(target)) => {
                let request = who_has(target, questions.sender(target), link.mac);
                socket.get_ref().send(&request).map(drop)
            }
            (Self::Nd(socket), IpAddr::V6(target)) => {
                let group = SocketAddrV6::new(solicited_node(target), 0, 0, link.index);
                socket.get_ref().send_to(&solicitation(target, link.mac), &group.into()).map(drop)
            }
            // The families are kept apart in `family`.
            _ => Err(io::ErrorKind::InvalidInput.into()),
        }
    }

    /// Waits for what comes next: an answer, or something else. Dropping the future loses nothing.
    async fn receive(&self) -> Option<(IpAddr, Mac)> {
        let (Self::Arp(socket) | Self::Nd(socket)) = self;
        // Only a runtime that ends makes this fail.
        let mut ready = socket.readable().await.ok()?;
        let mut bytes = [0; BUFFER_LENGTH];
        let Some((length, hops)) = receive(socket, &mut bytes) else {
            // Nothing more; or a pending error, such as "network is down".
            ready.clear_ready();
            return None;
        };
        let bytes = bytes.get(..length)?;
        match self {
            Self::Arp(_) => arp_reply(bytes).map(|(address, mac)| (address.into(), mac)),
            Self::Nd(_) if hops == i32::try_from(HOPS).ok() => {
                advertisement(bytes).map(|(address, mac)| (address.into(), mac))
            }
            Self::Nd(_) => None,
        }
    }
}

/// The next datagram, with its hop limit where that is told.
fn receive(socket: &AsyncFd<Socket>, bytes: &mut [u8]) -> Option<(usize, Option<i32>)> {
    let mut control = nix::cmsg_space!(libc::c_int);
    let mut parts = [IoSliceMut::new(bytes)];
    let (socket, flags) = (socket.get_ref().as_raw_fd(), MsgFlags::MSG_DONTWAIT);
    let message = recvmsg::<SockaddrIn6>(socket, &mut parts, Some(&mut control), flags).ok()?;
    let hops = message.cmsgs().ok()?.find_map(|part| match part {
        ControlMessageOwned::Ipv6HopLimit(hops) => Some(hops),
        _ => None,
    });
    Some((message.bytes, hops))
}

/// The group that whoever has an address listens to (RFC 4291 section 2.7.1).
fn solicited_node(target: Ipv6Addr) -> Ipv6Addr {
    let low = u32::try_from(target.to_bits() & 0xff_ffff).expect("24 bits");
    Ipv6Addr::from_bits(0xff02_0000_0000_0000_0000_0001_ff00_0000 | u128::from(low))
}

/// A neighbour solicitation (RFC 4861 section 4.3). The kernel fills in its checksum.
fn solicitation(target: Ipv6Addr, mac: Mac) -> Vec<u8> {
    let head = [NEIGHBOUR_SOLICITATION, 0, 0, 0, 0, 0, 0, 0];
    [&head[..], &target.octets(), &[OPTION_SOURCE_MAC, 1], &mac].concat()
}

/// The address that a neighbour advertisement tells of, and where it is (RFC 4861 section 4.4). An
/// answer to a multicast question says where.
fn advertisement(message: &[u8]) -> Option<(Ipv6Addr, Mac)> {
    if !message.starts_with(&[NEIGHBOUR_ADVERTISEMENT, 0]) {
        return None;
    }
    let target = *message.get(8..)?.first_chunk::<16>()?;
    let mut options = message.get(24..)?;
    while let [kind, length, ..] = *options {
        // In units of eight bytes, and never 0 (RFC 4861 section 4.6).
        let length = usize::from(length) * 8;
        let option = options.get(..length).filter(|option| !option.is_empty())?;
        if kind == OPTION_TARGET_MAC {
            return Some((target.into(), *option.get(2..)?.first_chunk::<6>()?));
        }
        options = &options[length..];
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: Mac = [2, 0, 0, 0, 0, 7];

    #[test]
    fn a_solicitation_goes_to_the_groups_of_the_rfc() {
        let target: Ipv6Addr = "4037::1:800:200e:8c6c".parse().unwrap();
        assert_eq!(solicited_node(target), "ff02::1:ff0e:8c6c".parse::<Ipv6Addr>().unwrap());
        let message = solicitation(target, MAC);
        assert_eq!(message[..8], [135, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(message[8..24], target.octets());
        assert_eq!(message[24..], [1, 1, 2, 0, 0, 0, 0, 7]);
    }

    #[test]
    fn the_nearest_address_asks_and_without_one_nobody() {
        let prefix = |text: &str, length| Prefix { address: text.parse().unwrap(), length };
        let own = vec![prefix("fe80::1", 64), prefix("10.0.0.1", 24), prefix("192.0.2.1", 24)];
        let link = LinkReport {
            index: 2,
            name: "eth0".to_owned(),
            mac: MAC,
            mtu: 1500,
            up: true,
            ethernet: true,
        };
        let mut questions = Questions { link, own, addresses: BTreeSet::new() };
        assert_eq!(questions.sender([192, 0, 2, 10].into()), Ipv4Addr::new(192, 0, 2, 1));
        assert_eq!(questions.sender([198, 51, 100, 1].into()), Ipv4Addr::new(10, 0, 0, 1));
        questions.own.clear();
        assert_eq!(questions.sender([192, 0, 2, 10].into()), Ipv4Addr::UNSPECIFIED);
    }

    #[test]
    fn an_advertisement_is_read_past_other_options_and_cut_anywhere_does_no_harm() {
        let target: Ipv6Addr = "2001:db8::10".parse().unwrap();
        let head = [&[136, 0, 0, 0, 0x60, 0, 0, 0][..], &target.octets()].concat();
        let other = [14, 1, 0, 0, 0, 0, 0, 0];
        let whole = [&head[..], &other, &[2, 1], &MAC].concat();
        assert_eq!(advertisement(&whole), Some((target, MAC)));
        for length in 0..whole.len() {
            assert_eq!(advertisement(&whole[..length]), None, "{length}");
        }
        let endless = [&head[..], &[14, 0, 0, 0, 0, 0, 0, 0]].concat();
        assert_eq!(advertisement(&endless), None);
        assert_eq!(advertisement(&solicitation(target, MAC)), None, "a question is no answer");
    }
}
