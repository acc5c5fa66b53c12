//! A backend: nginx on port 80, a UDP echo and a server of lines, which say its name, on a machine
//! of its own.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;

use crate::{
    Namespace, Process, line::LineServer, nginx, process, udp::EchoServer, weir::find_binary,
};

/// The port of the UDP echo.
pub const UDP_PORT: u16 = 53;
/// The port of the server of lines, which keeps its connections: TCP, on every address.
pub const LINE_PORT: u16 = 7000;

/// How long `weir backend-setup` may take.
const SETUP_LIMIT: Duration = Duration::from_secs(10);
/// How long a closed socket may still hold its port.
const FREE_LIMIT: Duration = Duration::from_secs(5);

/// A server behind the VIP. What is done to it takes effect before the call returns.
#[derive(Debug)]
pub struct Backend {
    namespace: Namespace,
    address: Ipv4Addr,
    address6: Ipv6Addr,
    vips: [IpAddr; 2],
    /// `None` while it is killed.
    servers: Mutex<Option<Servers>>,
}

#[derive(Debug)]
struct Servers {
    nginx: Process,
    echo: EchoServer,
    lines: LineServer,
}

impl Backend {
    pub(crate) fn start(
        namespace: Namespace,
        address: Ipv4Addr,
        address6: Ipv6Addr,
        vips: [IpAddr; 2],
    ) -> Result<Self> {
        nginx::configure(&namespace)?;
        let backend = Self { namespace, address, address6, vips, servers: Mutex::new(None) };
        backend.revive()?;
        Ok(backend)
    }

    /// Its name, which is also what it answers: `b1`, `b2`, …
    pub fn name(&self) -> &str {
        self.namespace.role()
    }

    /// Its own address.
    pub fn address(&self) -> Ipv4Addr {
        self.address
    }

    /// Its own IPv6 address.
    pub fn address6(&self) -> Ipv6Addr {
        self.address6
    }

    /// Its own address with a port.
    pub fn socket(&self, port: u16) -> SocketAddr {
        (self.address, port).into()
    }

    /// Its namespace.
    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// Kills its servers: connections are reset, new ones refused.
    pub fn kill(&self) {
        *self.servers() = None;
    }

    /// Starts its servers after a [kill](Self::kill), and waits until they answer.
    ///
    /// # Errors
    ///
    /// They run already, or cannot be started.
    pub fn revive(&self) -> Result<()> {
        let mut servers = self.servers();
        ensure!(servers.is_none(), "{} is alive", self.name());
        let own = [IpAddr::V4(self.address), IpAddr::V6(self.address6)];
        let addresses = own.into_iter().chain(self.vips).map(|ip| SocketAddr::new(ip, UDP_PORT));
        let (namespace, name) = (&self.namespace, self.name());
        let echo = once_free(|| EchoServer::start(namespace, name, addresses.clone()))?;
        let lines = once_free(|| LineServer::start(namespace, name, LINE_PORT))?;
        *servers = Some(Servers { nginx: nginx::start(&self.namespace)?, echo, lines });
        Ok(())
    }

    /// Stops its servers where they are (SIGSTOP): connections hang, and new ones are accepted by
    /// the kernel and hang too.
    ///
    /// # Errors
    ///
    /// It is killed.
    pub fn stop(&self) -> Result<()> {
        self.suspend(true)
    }

    /// Lets its servers go on after a [stop](Self::stop).
    ///
    /// # Errors
    ///
    /// It is killed.
    pub fn resume(&self) -> Result<()> {
        self.suspend(false)
    }

    /// Makes `/health` answer 200 or 503; the rest of it works on.
    ///
    /// # Errors
    ///
    /// The file that says so cannot be changed.
    pub fn set_healthy(&self, healthy: bool) -> Result<()> {
        nginx::set_healthy(&self.namespace, healthy)
    }

    /// Runs `weir backend-setup` here, with its state beside the other files, and returns what it
    /// prints.
    ///
    /// # Errors
    ///
    /// It fails; with its words.
    pub fn set_up(&self, arguments: &[&str]) -> Result<String> {
        let mut command = self.namespace.command(find_binary()?);
        let state = self.namespace.directory().join("setup");
        command.args(["backend-setup", "--state-dir"]).arg(state).args(arguments);
        process::run(command, SETUP_LIMIT).with_context(|| format!("on {}", self.name()))
    }

    /// nginx's access log, one line a request, in order: `10.77.0.10:40123 "GET / HTTP/1.1" 200`.
    ///
    /// # Errors
    ///
    /// It cannot be read.
    pub fn access_log(&self) -> Result<String> {
        nginx::access_log(&self.namespace)
    }

    fn suspend(&self, suspended: bool) -> Result<()> {
        let servers = self.servers();
        let Servers { nginx, echo, lines } =
            servers.as_ref().with_context(|| format!("{} is dead", self.name()))?;
        echo.suspend(suspended);
        lines.suspend(suspended);
        nginx.signal(if suspended { Signal::SIGSTOP } else { Signal::SIGCONT })
    }

    fn servers(&self) -> MutexGuard<'_, Option<Servers>> {
        self.servers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Starts a server, again as long as its port is in use: a program that another thread is starting
/// has copies of all sockets, also of those since closed, until it runs.
fn once_free<T>(start: impl Fn() -> Result<T>) -> Result<T> {
    let end = Instant::now() + FREE_LIMIT;
    loop {
        match start() {
            Err(error) if in_use(&error) && Instant::now() < end => {
                thread::sleep(Duration::from_millis(5));
            }
            outcome => return outcome,
        }
    }
}

fn in_use(error: &anyhow::Error) -> bool {
    let cause = error.root_cause().downcast_ref::<io::Error>();
    cause.is_some_and(|cause| cause.kind() == io::ErrorKind::AddrInUse)
}
