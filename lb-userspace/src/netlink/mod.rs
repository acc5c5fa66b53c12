//! The way to the backends, as the kernel knows it and as it changes: from an address to the
//! interface and the Ethernet addresses of its next hop. Nobody types a MAC address.
//!
//! The kernel's routes, links and neighbours are read over netlink (`io`), reduced to facts
//! (`message`), kept in one table that decides without I/O what they mean for each address
//! (`table`, `hop`), and followed by the task in this file.

mod address;
mod error;
mod hop;
mod io;
mod message;
mod table;
mod virtual_link;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use tokio::{
    sync::{mpsc, watch},
    time::sleep_until,
};

pub use self::error::Error;
pub(crate) use self::{
    hop::{Hop, Neighbour, Route},
    io::{Kernel, NewsSocket},
};
use self::{io::News, table::Table};
use crate::core::NextHopReport;

/// How long news of routes and interfaces are gathered before the routes are looked up again.
/// Counted from the first, so that a stream of them cannot put it off.
const SETTLE: Duration = Duration::from_millis(10);
/// After a round of look-ups that took `t` the next waits `PAUSE × t`: a router whose tables never
/// rest costs us a fifth of a processor at most.
const PAUSE: u32 = 4;
/// Look-ups or questions under way at once; in between, news of neighbours have their turn.
const BATCH: usize = 64;
/// The pause before the sockets are opened anew after a failure.
const REOPEN: Duration = Duration::from_secs(1);

/// What the resolver tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NetlinkReport {
    /// The way to a watched address.
    NextHop(NextHopReport),
    /// An interface is there, or has changed (its name, too: the index identifies it).
    Link(LinkReport),
    /// An interface is gone, or was moved out of this network namespace.
    LinkGone {
        /// Its index.
        index: u32,
        /// Its last name.
        name: String,
    },
}

/// The facts about a network interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkReport {
    /// Its index.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Its Ethernet address; zeros where it has none.
    pub mac: [u8; 6],
    /// The largest packet it carries, in bytes, without the Ethernet header.
    pub mtu: u32,
    /// Whether it can carry traffic: switched on, and with a carrier.
    pub up: bool,
    /// Whether it is Ethernet with ARP; loopback and tunnels are not.
    pub ethernet: bool,
}

/// The facts about one interface, now.
///
/// # Errors
///
/// [`Error::NoInterface`] names those that exist; others tell that netlink does not work.
pub async fn interface(name: &str) -> Result<LinkReport, Error> {
    let links = Kernel::open()?.links().await?;
    match links.iter().find(|link| link.name == name) {
        Some(link) => Ok(link.clone()),
        None => Err(Error::NoInterface {
            name: name.to_owned(),
            existing: links.into_iter().map(|link| link.name).collect(),
        }),
    }
}

/// The handle of the background task; dropping it ends the task.
#[derive(Debug)]
pub struct Resolver {
    wanted: watch::Sender<Wanted>,
}

/// The watched addresses, each with the number of the call that put it in: an address taken off
/// and put back is told again even if the task saw neither.
#[derive(Debug, Default)]
struct Wanted {
    calls: u64,
    addresses: BTreeMap<IpAddr, u64>,
}

impl Resolver {
    /// Starts following routes, neighbours and links. Every interface is reported at once and at
    /// each change. While `reports` is full the task waits; nothing is lost but time.
    ///
    /// # Errors
    ///
    /// If netlink cannot be used at all. Later failures are logged and mended.
    pub async fn start(reports: mpsc::Sender<NetlinkReport>) -> Result<Self, Error> {
        let session = Session::open().await?;
        let (wanted, watching) = watch::channel(Wanted::default());
        let follower = Follower {
            reports,
            wanted: watching,
            table: Table::default(),
            unrouted: BTreeSet::new(),
            settle: None,
            rest_until: Instant::now(),
        };
        tokio::spawn(follower.run(session));
        Ok(Self { wanted })
    }

    /// Sets the addresses whose next hops are wanted. Each new one is reported at once and each
    /// at every change; reports on addresses no longer wanted may still wait in the channel.
    pub fn watch(&self, addresses: BTreeSet<IpAddr>) {
        self.wanted.send_modify(|wanted| {
            wanted.calls += 1;
            let number =
                |address| (address, *wanted.addresses.get(&address).unwrap_or(&wanted.calls));
            wanted.addresses = addresses.into_iter().map(number).collect();
        });
    }
}

/// Open sockets, and what the kernel said first.
struct Session {
    kernel: Kernel,
    news: NewsSocket,
}

impl Session {
    /// Subscribes before anything is read, so that no change falls in between; asks once, so that
    /// a kernel that does not answer is found out here.
    async fn open() -> Result<Self, Error> {
        let session = Self { news: NewsSocket::open(&io::ROUTE_GROUPS)?, kernel: Kernel::open()? };
        session.kernel.links().await?;
        Ok(session)
    }
}

/// What the next round after [`SETTLE`] does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Round {
    /// Look up every route.
    Routes,
    /// Read everything.
    Resync,
}

/// Why the following stopped.
enum Stop {
    /// Nobody listens any more.
    Done,
    /// The kernel cannot be heard or asked.
    Broken(Error),
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Self::Broken(error)
    }
}

/// The background task.
struct Follower {
    reports: mpsc::Sender<NetlinkReport>,
    wanted: watch::Receiver<Wanted>,
    table: Table,
    /// Addresses whose routes are to be looked up.
    unrouted: BTreeSet<IpAddr>,
    /// The round to come, and when.
    settle: Option<(Instant, Round)>,
    /// No round before this.
    rest_until: Instant,
}

impl Follower {
    async fn run(mut self, session: Session) {
        let mut session = Some(session);
        loop {
            let stop = match session.take() {
                Some(session) => self.follow(session).await,
                None => match Session::open().await {
                    Ok(session) => self.follow(session).await,
                    Err(error) => Err(Stop::Broken(error)),
                },
            };
            match stop {
                Ok(()) | Err(Stop::Done) => return,
                Err(Stop::Broken(error)) => {
                    tracing::warn!(%error, "lost touch with the kernel's routes; trying again");
                }
            }
            tokio::select! {
                () = self.reports.closed() => return,
                () = tokio::time::sleep(REOPEN) => {}
            }
        }
    }

    /// Follows until something ends. Each branch is short, so that a neighbour's new address is
    /// passed on in a few milliseconds whatever else goes on.
    async fn follow(&mut self, mut session: Session) -> Result<(), Stop> {
        self.resync(&session.kernel).await?;
        self.rewatch();
        loop {
            self.deliver().await?;
            let question_due = self.table.next_question();
            tokio::select! {
                news = session.news.next() => news?.into_iter().for_each(|news| self.learn(news)),
                changed = self.wanted.changed() => match changed {
                    Ok(()) => self.rewatch(),
                    Err(_) => return Ok(()),
                },
                () = self.reports.closed() => return Ok(()),
                () = at(self.settle.map(|(when, _)| when)) => self.round(&session.kernel).await?,
                () = at(question_due) => self.ask(&session.kernel).await?,
                // Always ready while routes are missing; select's fair draw lets the others pass.
                () = std::future::ready(()), if !self.unrouted.is_empty() => {
                    self.look_up(&session.kernel).await?;
                }
            }
        }
    }

    fn learn(&mut self, news: News) {
        let now = Instant::now();
        match news {
            News::Neighbour(hop, state) => self.table.neighbour(hop, state, now),
            News::Link(link) => {
                self.table.link(link, now);
                self.plan(Round::Routes);
            }
            News::LinkGone(index) => {
                self.table.unlink(index, now);
                self.plan(Round::Routes);
            }
            News::Routes => self.plan(Round::Routes),
            News::Overrun => {
                tracing::debug!("the kernel's news came faster than we read; reading all anew");
                self.plan(Round::Resync);
            }
        }
    }

    fn plan(&mut self, round: Round) {
        let when = (Instant::now() + SETTLE).max(self.rest_until);
        self.settle = Some(match self.settle {
            Some((planned, other)) => (planned, other.max(round)),
            None => (when, round),
        });
    }

    async fn round(&mut self, kernel: &Kernel) -> Result<(), Error> {
        let begun = Instant::now();
        match self.settle.take() {
            Some((_, Round::Resync)) => self.resync(kernel).await?,
            _ => self.unrouted.extend(self.table.addresses()),
        }
        self.rest_after(begun);
        Ok(())
    }

    async fn resync(&mut self, kernel: &Kernel) -> Result<(), Error> {
        let links = kernel.links().await?;
        let neighbours = kernel.neighbours().await?;
        let now = Instant::now();
        self.table.set_links(links, now);
        self.table.set_neighbours(neighbours, now);
        self.unrouted.extend(self.table.addresses());
        Ok(())
    }

    fn rewatch(&mut self) {
        let new = self.table.watch(&self.wanted.borrow_and_update().addresses);
        self.unrouted.extend(new);
    }

    async fn look_up(&mut self, kernel: &Kernel) -> Result<(), Error> {
        let begun = Instant::now();
        let batch: Vec<IpAddr> = self.unrouted.iter().take(BATCH).copied().collect();
        let routes = join_all(batch.iter().map(|address| kernel.route(*address))).await;
        let now = Instant::now();
        for (address, route) in batch.into_iter().zip(routes) {
            self.table.route(address, route?, now);
            self.unrouted.remove(&address);
        }
        self.rest_after(begun);
        Ok(())
    }

    async fn ask(&mut self, kernel: &Kernel) -> Result<(), Error> {
        let hops = self.table.questions(Instant::now(), BATCH);
        let outcomes = join_all(hops.iter().map(|hop| kernel.ask(*hop))).await;
        let now = Instant::now();
        for (hop, outcome) in hops.into_iter().zip(outcomes) {
            let outcome = match outcome {
                Ok(()) => Ok(()),
                Err(error @ (Error::Closed | Error::Timeout { .. })) => return Err(error),
                Err(error) => {
                    tracing::debug!(neighbour = %hop.address, %error, "cannot ask");
                    Err(error.to_string())
                }
            };
            self.table.asked(hop, outcome, now);
        }
        Ok(())
    }

    fn rest_after(&mut self, begun: Instant) {
        let now = Instant::now();
        self.rest_until = self.rest_until.max(now) + (now - begun) * PAUSE;
    }

    async fn deliver(&mut self) -> Result<(), Stop> {
        for report in self.table.take_reports() {
            self.reports.send(report).await.map_err(|_| Stop::Done)?;
        }
        Ok(())
    }
}

/// Sleeps until then; for ever without a time.
async fn at(when: Option<Instant>) {
    match when {
        Some(when) => sleep_until(when.into()).await,
        None => std::future::pending().await,
    }
}
