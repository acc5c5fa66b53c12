//! The smallest HTTP client: one request a connection, fast enough for ten thousand of them.

use std::{
    io::{self, ErrorKind, Read, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream},
    os::fd::AsRawFd,
    thread,
    time::{Duration, Instant},
};

use nix::sys::{
    socket::{
        AddressFamily, SockFlag, SockType, SockaddrStorage, bind, connect, setsockopt, socket,
        sockopt,
    },
    time::TimeVal,
};

/// More than any answer: the metrics of 20 000 backends take 15 MB.
const ANSWER_LIMIT: u64 = 64 << 20;

/// Whom to ask, and from where.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Target {
    pub(crate) server: SocketAddr,
    /// 0: the kernel chooses.
    pub(crate) source_port: u16,
}

impl Target {
    pub(crate) fn new(server: SocketAddr) -> Self {
        Self { server, source_port: 0 }
    }

    /// What to bind to.
    pub(crate) fn local(self) -> SocketAddr {
        let any = match self.server {
            SocketAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            SocketAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        };
        SocketAddr::new(any, self.source_port)
    }
}

/// Gets a path over a new connection and returns status and body. Connecting, sending, and each
/// wait for more of the answer may take up to `limit`.
pub(crate) fn request(target: Target, path: &str, limit: Duration) -> io::Result<(u16, String)> {
    let mut stream = open(target, limit)?;
    let host = target.server.ip();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")?;
    let mut answer = Vec::with_capacity(512);
    stream.take(ANSWER_LIMIT).read_to_end(&mut answer).map_err(timed_out)?;
    parse(&String::from_utf8_lossy(&answer))
        .ok_or_else(|| io::Error::new(ErrorKind::InvalidData, "no whole HTTP answer"))
}

/// Connects. A port that was used a moment ago is free once the server has seen the last of the
/// old connection, so a chosen port is worth another try.
fn open(target: Target, limit: Duration) -> io::Result<TcpStream> {
    let end = Instant::now() + limit;
    loop {
        match try_open(target, limit) {
            Err(error) if is_port_taken(&error) && Instant::now() < end => {
                thread::sleep(Duration::from_millis(1));
            }
            outcome => return outcome,
        }
    }
}

fn is_port_taken(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::AddrInUse | ErrorKind::AddrNotAvailable)
}

/// Connects, from a given port if the target says so, which the standard library cannot.
fn try_open(target: Target, limit: Duration) -> io::Result<TcpStream> {
    let family = match target.server {
        SocketAddr::V4(_) => AddressFamily::Inet,
        SocketAddr::V6(_) => AddressFamily::Inet6,
    };
    let socket = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    let limit = TimeVal::new(limit.as_secs().cast_signed(), limit.subsec_micros().into());
    // The kernel applies the limit for sending to connecting too.
    setsockopt(&socket, sockopt::SendTimeout, &limit)?;
    setsockopt(&socket, sockopt::ReceiveTimeout, &limit)?;
    if target.source_port != 0 {
        setsockopt(&socket, sockopt::ReuseAddr, &true)?;
        bind(socket.as_raw_fd(), &SockaddrStorage::from(target.local()))?;
    }
    connect(socket.as_raw_fd(), &SockaddrStorage::from(target.server))
        .map_err(|errno| timed_out(errno.into()))?;
    Ok(socket.into())
}

/// A limit that passed shows as `EINPROGRESS` or `EAGAIN`.
fn timed_out(error: io::Error) -> io::Error {
    match error.raw_os_error() {
        Some(libc::EINPROGRESS | libc::EAGAIN) => ErrorKind::TimedOut.into(),
        _ => error,
    }
}

/// Status and body of an answer whose body is as long as it says.
fn parse(answer: &str) -> Option<(u16, String)> {
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let mut lines = head.lines();
    let status = lines.next()?.strip_prefix("HTTP/1.1 ")?.split(' ').next()?.parse().ok()?;
    let length = lines
        .filter_map(|line| line.split_once(": "))
        .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
        .and_then(|(_, value)| value.parse::<usize>().ok());
    (length.is_none_or(|length| length == body.len())).then(|| (status, body.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_has_status_and_body() {
        let answer = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nb1";
        assert_eq!(parse(answer), Some((200, "b1".to_owned())));
    }

    #[test]
    fn a_cut_answer_is_none() {
        assert_eq!(parse("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nb"), None);
        assert_eq!(parse("HTTP/1.1 200 OK\r\nContent-Le"), None);
        assert_eq!(parse(""), None);
    }
}
