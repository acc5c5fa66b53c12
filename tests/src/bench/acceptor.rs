//! The cheapest server that a check passes at: it accepts, and closes after the other side has.

use std::{
    collections::VecDeque,
    io,
    net::{TcpListener, TcpStream},
    os::fd::AsRawFd as _,
    thread::{self, JoinHandle},
};

use anyhow::{Context as _, Result};
use nix::sys::socket::{Shutdown, shutdown};
use rustix::process::setpriority_process;

use crate::{Namespace, line::open};

/// Connections that are kept for a while. Whoever closes first keeps a socket in `TIME_WAIT`; a
/// server waits for a request, so that is the one that checks.
const KEPT: usize = 64;
/// The daemon's own.
const PRIORITY: i32 = -10;

/// A thread that accepts; it ends when this is dropped.
#[derive(Debug)]
pub(super) struct Acceptor {
    listener: TcpListener,
    thread: Option<JoinHandle<()>>,
}

impl Acceptor {
    /// Listens on every address of the namespace.
    ///
    /// # Errors
    ///
    /// The port is taken.
    pub(super) fn start(namespace: &Namespace, port: u16) -> Result<Self> {
        let listener = namespace
            .enter(|| open(port))?
            .with_context(|| format!("listen on tcp port {port} in {namespace}"))?;
        // Nothing but to accept: the thread may wait in the kernel.
        listener.set_nonblocking(false)?;
        let accepting = listener.try_clone()?;
        let thread = thread::Builder::new().name("acceptor".to_owned()).spawn(move || {
            // A server would have a machine of its own: it does not wait for others of this one.
            // Without the right to say so it does, and checks that fail will tell.
            let _ = setpriority_process(None, PRIORITY);
            accept(&accepting);
        })?;
        Ok(Self { listener, thread: Some(thread) })
    }
}

impl Drop for Acceptor {
    fn drop(&mut self) {
        // Ends the wait for a connection.
        let _ = shutdown(self.listener.as_raw_fd(), Shutdown::Both);
        if let Some(thread) = self.thread.take() {
            // Only a panic of the thread is lost here, which has printed itself.
            let _ = thread.join();
        }
    }
}

fn accept(listener: &TcpListener) {
    let mut kept: VecDeque<TcpStream> = VecDeque::with_capacity(KEPT + 1);
    loop {
        match listener.accept() {
            Ok((stream, _)) => {
                kept.push_back(stream);
                if kept.len() > KEPT {
                    drop(kept.pop_front());
                }
            }
            // The other end of a connection may be gone by now.
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(_) => return,
        }
    }
}
