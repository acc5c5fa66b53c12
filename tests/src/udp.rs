//! UDP: a server that says who it is, and a client that asks.

use std::{
    io::{self, ErrorKind},
    net::{SocketAddr, UdpSocket},
    os::{fd::AsFd, unix::net::UnixStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context, Result};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::{Namespace, http::Target, sys};

/// The longest datagram.
const LONGEST: usize = 65_536;

/// Answers each datagram with its own name, a space, and the datagram. Ends when dropped.
#[derive(Debug)]
pub(crate) struct EchoServer {
    suspended: Arc<AtomicBool>,
    /// Closing it wakes and ends the thread.
    stop: Option<UnixStream>,
    thread: Option<JoinHandle<()>>,
}

impl EchoServer {
    /// Listens on the addresses, each with a socket of its own, so that an answer comes from the
    /// address that was asked.
    pub(crate) fn start(
        namespace: &Namespace,
        name: &str,
        addresses: impl Iterator<Item = SocketAddr> + Send,
    ) -> Result<Self> {
        let sockets = namespace.enter(|| {
            let bind = |address| -> Result<_> {
                let socket =
                    UdpSocket::bind(address).with_context(|| format!("listen on udp {address}"))?;
                socket.set_nonblocking(true)?;
                Ok(socket)
            };
            addresses.map(bind).collect::<Result<Vec<_>>>()
        })??;
        let (stop, stopped) = UnixStream::pair()?;
        let suspended = Arc::new(AtomicBool::new(false));
        let (seen, name) = (Arc::clone(&suspended), name.to_owned());
        let thread = thread::Builder::new()
            .name(format!("udp echo {name}"))
            .spawn(move || serve(&name, &sockets, &stopped, &seen))?;
        Ok(Self { suspended, stop: Some(stop), thread: Some(thread) })
    }

    /// While suspended, it receives and does not answer.
    pub(crate) fn suspend(&self, suspended: bool) {
        self.suspended.store(suspended, Ordering::Relaxed);
    }
}

impl Drop for EchoServer {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // Only a panic of the thread is lost here, which has printed itself.
            let _ = thread.join();
        }
    }
}

fn serve(name: &str, sockets: &[UdpSocket], stopped: &UnixStream, suspended: &AtomicBool) {
    // What is measured is the way to it.
    sys::run_first();
    let mut buffer = vec![0; LONGEST];
    loop {
        let mut descriptors: Vec<_> =
            sockets.iter().map(|socket| PollFd::new(socket.as_fd(), PollFlags::POLLIN)).collect();
        descriptors.push(PollFd::new(stopped.as_fd(), PollFlags::POLLIN));
        let waited = poll(&mut descriptors, PollTimeout::NONE);
        let stop = descriptors.last().is_none_or(|stopped| stopped.any() == Some(true));
        if stop || waited.is_err_and(|error| error != nix::errno::Errno::EINTR) {
            return;
        }
        for socket in sockets {
            while let Ok((length, client)) = socket.recv_from(&mut buffer) {
                if !suspended.load(Ordering::Relaxed) {
                    let answer = [name.as_bytes(), b" ", &buffer[..length]].concat();
                    // Nobody waits for an answer that cannot be sent.
                    let _ = socket.send_to(&answer, client);
                }
            }
        }
    }
}

/// Asks once, from a new socket, and returns the server's name.
pub(crate) fn request(target: Target, limit: Duration) -> io::Result<String> {
    ask(target, "who are you?", limit)
}

/// Asks this, from a new socket, and returns the server's name.
pub(crate) fn ask(target: Target, question: &str, limit: Duration) -> io::Result<String> {
    let socket = UdpSocket::bind(target.local())?;
    socket.connect(target.server)?;
    socket.set_read_timeout(Some(limit))?;
    socket.send(question.as_bytes())?;
    let mut buffer = vec![0; LONGEST];
    let length = socket.recv(&mut buffer).map_err(|error| match error.kind() {
        ErrorKind::WouldBlock => io::Error::new(ErrorKind::TimedOut, "no answer"),
        _ => error,
    })?;
    let answer = String::from_utf8_lossy(&buffer[..length]);
    match answer.split_once(' ') {
        Some((name, told)) if told == question => Ok(name.to_owned()),
        _ => Err(io::Error::new(ErrorKind::InvalidData, format!("unexpected answer {answer:?}"))),
    }
}
