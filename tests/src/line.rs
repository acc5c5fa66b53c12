//! A server that keeps connections: it answers each line with its own name and that line.

use std::{
    io,
    net::{Ipv6Addr, SocketAddrV6, TcpListener},
    os::fd::AsRawFd as _,
    sync::Arc,
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context, Result};
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrIn6, bind, listen, setsockopt, socket,
    sockopt,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    runtime,
    sync::{oneshot, watch},
    time::sleep,
};

use crate::Namespace;

/// Connections that the kernel completes before they are accepted: clients come in thousands.
const BACKLOG: i32 = 4096;
/// Silence after which the client is asked whether it still knows the connection.
const FORGOTTEN_AFTER_SECS: u32 = 10;
/// Nobody has reason to send a longer line.
const LINE_LIMIT: usize = 1024;
/// Before accepting again when the process is out of descriptors.
const ACCEPT_AGAIN: Duration = Duration::from_millis(10);

/// Answers `TEXT\n` with `NAME TEXT\n`. When dropped, it closes all its sockets, as the kernel does
/// for a killed process: its connections end, later packets of them are answered with a reset.
#[derive(Debug)]
pub(crate) struct LineServer {
    suspended: watch::Sender<bool>,
    /// Closing it ends the thread.
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl LineServer {
    /// Listens on every address of the namespace, of both families.
    pub(crate) fn start(namespace: &Namespace, name: &str, port: u16) -> Result<Self> {
        let listener = namespace
            .enter(|| open(port))?
            .with_context(|| format!("listen on tcp port {port} in {namespace}"))?;
        let (stop, stopped) = oneshot::channel();
        let (suspended, seen) = watch::channel(false);
        // Timers are for the rare pause in `accept` only.
        let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
        let server: Arc<str> = name.into();
        let thread = thread::Builder::new().name(format!("lines {name}")).spawn(move || {
            let ended = runtime.block_on(async {
                tokio::select! {
                    ended = accept(listener, server, seen) => ended,
                    _ = stopped => Ok(()),
                }
            });
            // Here the runtime is dropped, and with it every connection.
            drop(runtime);
            if let Err(error) = ended {
                eprintln!("a server of lines ended: {error}");
            }
        })?;
        Ok(Self { suspended, stop: Some(stop), thread: Some(thread) })
    }

    /// While suspended, it answers nothing; the kernel goes on accepting and receiving for it.
    pub(crate) fn suspend(&self, suspended: bool) {
        self.suspended.send_replace(suspended);
    }
}

impl Drop for LineServer {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // Only a panic of the thread is lost here, which has printed itself.
            let _ = thread.join();
        }
    }
}

/// The standard library's listener has a backlog of 128.
pub(crate) fn open(port: u16) -> io::Result<TcpListener> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket(AddressFamily::Inet6, SockType::Stream, flags, None)?;
    // Connections of the server before it may linger on the port.
    setsockopt(&socket, sockopt::ReuseAddr, &true)?;
    setsockopt(&socket, sockopt::Ipv6V6Only, &false)?;
    // Accepted sockets inherit these. A client whose connection was broken on the way has forgotten
    // it, and this end would stay for ever.
    setsockopt(&socket, sockopt::KeepAlive, &true)?;
    setsockopt(&socket, sockopt::TcpKeepIdle, &FORGOTTEN_AFTER_SECS)?;
    setsockopt(&socket, sockopt::TcpKeepInterval, &1)?;
    setsockopt(&socket, sockopt::TcpKeepCount, &3)?;
    let address = SocketAddrV6::new(Ipv6Addr::UNSPECIFIED, port, 0, 0);
    bind(socket.as_raw_fd(), &SockaddrIn6::from(address))?;
    listen(&socket, Backlog::new(BACKLOG)?)?;
    Ok(socket.into())
}

async fn accept(
    listener: TcpListener,
    name: Arc<str>,
    suspended: watch::Receiver<bool>,
) -> io::Result<()> {
    let listener = tokio::net::TcpListener::from_std(listener)?;
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let (name, suspended) = (Arc::clone(&name), suspended.clone());
                tokio::spawn(async move {
                    // A connection that breaks is the client's to notice.
                    let _ = converse(stream, &name, suspended).await;
                });
            }
            // Of one connection, or for lack of descriptors: others may still come.
            Err(_) => sleep(ACCEPT_AGAIN).await,
        }
    }
}

async fn converse(
    mut stream: TcpStream,
    name: &str,
    mut suspended: watch::Receiver<bool>,
) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let (mut received, mut answer) = (Vec::new(), Vec::new());
    while received.len() < LINE_LIMIT && stream.read_buf(&mut received).await? > 0 {
        // The sender is dropped only while the server ends, and this task with it.
        let _ = suspended.wait_for(|suspended| !suspended).await;
        while let Some(end) = received.iter().position(|byte| *byte == b'\n') {
            answer.extend_from_slice(name.as_bytes());
            answer.push(b' ');
            answer.extend(received.drain(..=end));
        }
        stream.write_all(&answer).await?;
        answer.clear();
    }
    Ok(())
}
