//! The conversation with the kernel: questions on one socket, news on another.
//!
//! The news socket is read by hand, not through `rtnetlink`'s connection, whose queue has no bound:
//! when we are slow the kernel's own buffer fills, and the overrun it then reports is answered by
//! asking for everything again.

use std::{future::Future, io, time::Duration};

use futures_util::StreamExt;
use rtnetlink::{
    Handle, MulticastGroup,
    packet_core::{
        NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkBuffer,
        NetlinkMessage, NetlinkPayload,
    },
    packet_route::{
        AddressFamily, RouteNetlinkMessage as Message,
        link::LinkMessage,
        neighbour::{NeighbourAttribute, NeighbourFlags, NeighbourMessage},
        route::{RouteAttribute, RouteMessage},
    },
    sys::{AsyncSocket, AsyncSocketExt, SocketAddr, TokioSocket, protocols::NETLINK_ROUTE},
};

use super::{
    LinkReport,
    error::Error,
    hop::{Hop, Neighbour, Route},
    message,
};

/// The kernel answers in microseconds; this only keeps a fault from hanging us.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// Larger than any message the kernel sends to a group (it builds them in pages).
const NEWS_BYTES: usize = 64 * 1024;
/// A dump during which the table changed may lack entries; it is taken again, so many times.
const DUMP_TRIES: u32 = 5;

/// What can bear on the way to a backend.
pub(super) const ROUTE_GROUPS: [MulticastGroup; 9] = [
    MulticastGroup::Link,
    MulticastGroup::Neigh,
    MulticastGroup::Ipv4Ifaddr,
    MulticastGroup::Ipv4Route,
    MulticastGroup::Ipv4Rule,
    MulticastGroup::Ipv6Ifaddr,
    MulticastGroup::Ipv6Route,
    MulticastGroup::Ipv6Rule,
    MulticastGroup::Nexthop,
];

/// Something that changed.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum News {
    /// An interface is new or has changed.
    Link(LinkReport),
    /// An interface is gone.
    LinkGone(u32),
    /// A neighbour's entry changed, or was removed.
    Neighbour(Hop, Option<Neighbour>),
    /// Routes may lead elsewhere.
    Routes,
    /// News were lost.
    Overrun,
}

/// The news of links, neighbours and routes.
pub(crate) struct NewsSocket {
    socket: TokioSocket,
    buffer: Vec<u8>,
}

impl NewsSocket {
    /// Subscribes to groups of news.
    pub(crate) fn open(groups: &[MulticastGroup]) -> Result<Self, Error> {
        let open = || {
            let mut socket = TokioSocket::new(NETLINK_ROUTE)?;
            socket.socket_mut().bind(&SocketAddr::new(0, 0))?;
            for group in groups {
                socket.socket_ref().add_membership(*group as u32)?;
            }
            io::Result::Ok(socket)
        };
        Ok(Self { socket: open().map_err(Error::Socket)?, buffer: Vec::with_capacity(NEWS_BYTES) })
    }

    /// Waits for the next datagram. Dropping the future loses nothing.
    pub(super) async fn next(&mut self) -> Result<Vec<News>, Error> {
        self.buffer.clear();
        match self.socket.recv_from(&mut self.buffer).await {
            // It may have been cut.
            Ok(_) if self.buffer.len() >= NEWS_BYTES => Ok(vec![News::Overrun]),
            // Only the kernel speaks with port 0.
            Ok(sender) if sender.port_number() == 0 => Ok(parse_news(&self.buffer)),
            Ok(_) => Ok(Vec::new()),
            Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {
                self.drain();
                Ok(vec![News::Overrun])
            }
            Err(error) => Err(Error::Socket(error)),
        }
    }

    /// Waits until something of the groups has changed. Dropping the future loses nothing.
    pub(crate) async fn changed(&mut self) -> Result<(), Error> {
        self.next().await.map(drop)
    }

    /// Throws away what waits. After an overrun the kernel drops all news, without telling again,
    /// until the queue has been empty once (`NETLINK_S_CONGESTED`, `net/netlink/af_netlink.c`):
    /// what is read anew before that would miss them for ever. The queue is bounded.
    fn drain(&mut self) {
        loop {
            self.buffer.clear();
            match self.socket.socket_ref().recv(&mut self.buffer, libc::MSG_DONTWAIT) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.raw_os_error() != Some(libc::ENOBUFS) => return,
                _ => {}
            }
        }
    }
}

/// The questions. Clones share the socket.
#[derive(Clone)]
pub(crate) struct Kernel(Handle);

impl Kernel {
    /// Opens the socket; it closes when the last clone is gone.
    pub(crate) fn open() -> Result<Self, Error> {
        let (mut connection, handle, _) = rtnetlink::new_connection().map_err(Error::Socket)?;
        // The ends of answers, so that one cut short by a closed socket is not taken for whole.
        connection.set_forward_done(true);
        connection.set_forward_ack(true);
        tokio::spawn(connection);
        Ok(Self(handle))
    }

    /// All interfaces.
    pub(crate) async fn links(&self) -> Result<Vec<LinkReport>, Error> {
        let answers =
            self.dump("list interfaces", Message::GetLink(LinkMessage::default())).await?;
        let link = |answer| match answer {
            Message::NewLink(message) => message::link(&message),
            _ => None,
        };
        Ok(answers.into_iter().filter_map(link).collect())
    }

    /// All neighbours.
    pub(crate) async fn neighbours(&self) -> Result<Vec<(Hop, Neighbour)>, Error> {
        let question = Message::GetNeighbour(NeighbourMessage::default());
        let neighbour = |answer| match answer {
            Message::NewNeighbour(message) => message::neighbour(&message),
            _ => None,
        };
        let answers = self.dump("list neighbours", question).await?;
        Ok(answers.into_iter().filter_map(neighbour).collect())
    }

    /// The first hop to an address, as the kernel would route it; or, inside, why there is none.
    pub(crate) async fn route(
        &self,
        address: std::net::IpAddr,
    ) -> Result<Result<Route, String>, Error> {
        let mut question = RouteMessage::default();
        (question.header.address_family, question.header.destination_prefix_length) =
            if address.is_ipv4() { (AddressFamily::Inet, 32) } else { (AddressFamily::Inet6, 128) };
        question.attributes.push(RouteAttribute::Destination(address.into()));
        match self.exchange("look up a route", Message::GetRoute(question), NLM_F_REQUEST).await {
            Ok((answers, _)) => match answers.first() {
                Some(Message::NewRoute(route)) => Ok(message::route(address, route)),
                _ => Err(Error::Closed),
            },
            Err(Error::Refused { cause, .. }) => {
                Ok(Err(message::no_route(address, cause.raw_os_error().unwrap_or_default())))
            }
            Err(error) => Err(error),
        }
    }

    /// Has the kernel find a neighbour's address, or check it if it has one (as `ip neigh add …
    /// use` does). The answer comes as news.
    pub(super) async fn ask(&self, hop: Hop) -> Result<(), Error> {
        let mut question = NeighbourMessage::default();
        question.header.family =
            if hop.address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
        question.header.ifindex = hop.interface;
        question.header.flags = NeighbourFlags::Use;
        question.attributes.push(NeighbourAttribute::Destination(hop.address.into()));
        let question = Message::NewNeighbour(question);
        let flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE;
        match self.exchange("resolve a neighbour", question, flags).await {
            Ok(_) => Ok(()),
            Err(Error::Refused { cause, .. }) if cause.raw_os_error() == Some(libc::EPERM) => {
                Err(Error::Permission)
            }
            Err(error) => Err(error),
        }
    }

    pub(super) async fn dump(
        &self,
        what: &'static str,
        question: Message,
    ) -> Result<Vec<Message>, Error> {
        let mut tries = 1;
        loop {
            let flags = NLM_F_REQUEST | NLM_F_DUMP;
            let (answers, consistent) = self.exchange(what, question.clone(), flags).await?;
            if consistent || tries == DUMP_TRIES {
                return Ok(answers);
            }
            tries += 1;
        }
    }

    /// Sends one question and gathers its answers; false beside them if the kernel says that they
    /// may not fit together.
    pub(super) async fn exchange(
        &self,
        what: &'static str,
        question: Message,
        flags: u16,
    ) -> Result<(Vec<Message>, bool), Error> {
        let mut question = NetlinkMessage::from(question);
        question.header.flags = flags;
        let mut stream = self.0.clone().request(question).map_err(|_| Error::Closed)?;
        let gather = async {
            let single = flags & (NLM_F_DUMP | NLM_F_ACK) == 0;
            let mut answers = Vec::new();
            let mut consistent = true;
            while let Some(answer) = stream.next().await {
                consistent &= answer.header.flags & NLM_F_DUMP_INTR == 0;
                let errno = match answer.payload {
                    NetlinkPayload::InnerMessage(message) => {
                        answers.push(message);
                        if !single {
                            continue;
                        }
                        0
                    }
                    NetlinkPayload::Error(error) => error.raw_code(),
                    NetlinkPayload::Done(done) => done.code,
                    _ => continue,
                };
                if errno != 0 {
                    let cause = io::Error::from_raw_os_error(errno.saturating_abs());
                    return Err(Error::Refused { what, cause });
                }
                return Ok((answers, consistent));
            }
            Err(Error::Closed)
        };
        within(what, gather).await
    }
}

async fn within<T>(
    what: &'static str,
    answer: impl Future<Output = Result<T, Error>>,
) -> Result<T, Error> {
    match tokio::time::timeout(ANSWER_TIMEOUT, answer).await {
        Ok(answer) => answer,
        Err(_) => Err(Error::Timeout { what, seconds: ANSWER_TIMEOUT.as_secs() }),
    }
}

/// The news in one datagram. What cannot be read is taken as a change of routes: looking once too
/// often costs little.
fn parse_news(mut datagram: &[u8]) -> Vec<News> {
    let mut news = Vec::new();
    while let Ok(header) = NetlinkBuffer::new_checked(datagram) {
        let length = header.length() as usize;
        match NetlinkMessage::<Message>::deserialize(datagram) {
            Ok(message) => news.extend(interpret(message.payload)),
            Err(_) => news.push(News::Routes),
        }
        // Messages start at multiples of four bytes (NLMSG_ALIGN).
        datagram = datagram.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    news
}

fn interpret(payload: NetlinkPayload<Message>) -> Option<News> {
    let NetlinkPayload::InnerMessage(message) = payload else { return None };
    match message {
        Message::NewLink(link) => message::link(&link).map(News::Link),
        Message::DelLink(link) => message::link(&link).map(|link| News::LinkGone(link.index)),
        Message::NewNeighbour(entry) => {
            message::neighbour(&entry).map(|(hop, state)| News::Neighbour(hop, Some(state)))
        }
        Message::DelNeighbour(entry) => {
            message::neighbour(&entry).map(|(hop, _)| News::Neighbour(hop, None))
        }
        _ => Some(News::Routes),
    }
}

#[cfg(test)]
mod tests {
    use rtnetlink::packet_route::{neighbour::NeighbourState, route::RouteMessage};

    use super::*;

    fn bytes(message: Message) -> Vec<u8> {
        let mut message = NetlinkMessage::from(message);
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        bytes
    }

    #[test]
    fn a_datagram_may_hold_several_messages() {
        let hop = Hop { interface: 3, address: "10.0.0.2".parse().expect("an address") };
        let mut entry = NeighbourMessage::default();
        entry.header.family = AddressFamily::Inet;
        entry.header.ifindex = hop.interface;
        entry.header.state = NeighbourState::Failed;
        entry.attributes.push(NeighbourAttribute::Destination(hop.address.into()));
        let mut datagram = bytes(Message::NewNeighbour(entry.clone()));
        datagram.extend(bytes(Message::DelRoute(RouteMessage::default())));
        datagram.extend(bytes(Message::DelNeighbour(entry)));
        let expected = [
            News::Neighbour(hop, Some(Neighbour::Failed)),
            News::Routes,
            News::Neighbour(hop, None),
        ];
        assert_eq!(parse_news(&datagram), expected);
    }

    #[test]
    fn bytes_cut_anywhere_do_no_harm() {
        let datagram = bytes(Message::NewNeighbour(NeighbourMessage::default()));
        for length in 0..datagram.len() {
            assert_eq!(parse_news(&datagram[..length]), []);
        }
    }
}
