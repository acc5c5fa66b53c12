//! Connections with peers: accepted, dialled, dialled again, and what came of each.
//!
//! Every connection is one task that reads and writes. It tells the daemon's task what it reads,
//! through one bounded channel: while that is full, nothing is read, and the peer's own queue
//! ([`Outbox`]) grows to its bound.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    io,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch},
    task::JoinSet,
    time::{Instant, sleep, timeout},
};
use tracing::{info, warn};

use super::{
    channel::{self, HANDSHAKE_LIMIT, Reader, Side, Writer},
    error::Error,
    fsm::SessionId,
    key::Key,
    outbox::{Next, Outbox},
    packet::Message,
};
use crate::config::{Name, Sync as Config};

/// What the daemon's task may have waiting for it.
const INCOMING_MAX: usize = 256;
/// Connections at once that have not shown that they have the key.
const STRANGERS_MAX: usize = 16;
/// Connections at once that have; more than two balancers, each twice, never need more.
const SESSIONS_MAX: usize = 32;
/// Between two attempts to reach a peer: the first, and the longest.
const RETRY: [Duration; 2] = [Duration::from_millis(100), Duration::from_secs(1)];
/// A connection that lasted longer was a good one.
const SETTLED: Duration = Duration::from_secs(3);
/// For a peer to take what it is sent, of which the kernel has much in its own buffers.
const SEND_LIMIT: Duration = Duration::from_secs(5);
/// Bytes that are encrypted and sent in one go.
const BATCH: usize = 256 << 10;
/// Refusals that are remembered, so as to be logged once.
const LOGGED_MAX: usize = 256;

type TcpReader = Reader<OwnedReadHalf>;
type TcpWriter = Writer<OwnedWriteHalf>;

/// What comes from the connections.
#[derive(Debug)]
pub enum Incoming {
    /// Somebody who has the key.
    Opened {
        /// The connection.
        session: SessionId,
        /// Whether we opened it, to this address of the configuration; else who did.
        remote: SocketAddr,
        /// Whether we did.
        dialled: bool,
        /// What to say to it.
        outbox: Outbox,
    },
    /// What it says.
    Message(SessionId, Message),
    /// There is room in its outbox again.
    Room(SessionId),
    /// It is gone.
    Closed(SessionId, Error),
    /// This host was turned away, for the first time since it was taken in, and why.
    Refused(IpAddr, String),
}

/// The connections of this node.
#[derive(Debug)]
pub struct Connections {
    incoming: mpsc::Receiver<Incoming>,
    shared: Arc<Shared>,
    /// Ends the tasks when it is dropped.
    _tasks: JoinSet<()>,
}

/// What the tasks have in common.
#[derive(Debug)]
struct Shared {
    key: Key,
    next_session: AtomicU64,
    sender: mpsc::Sender<Incoming>,
    strangers: Arc<Semaphore>,
    sessions: Arc<Semaphore>,
    refusals: Mutex<Refusals>,
    /// The last thing that went wrong with each peer that we dial.
    troubles: Mutex<BTreeMap<SocketAddr, String>>,
    /// The nodes that are there: they need not be dialled.
    present: watch::Sender<BTreeSet<Name>>,
}

/// Who was turned away, and why.
#[derive(Debug, Default)]
struct Refusals {
    counts: BTreeMap<&'static str, u64>,
    logged: HashSet<(IpAddr, &'static str)>,
}

/// Why this node cannot listen for peers.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen for peers on {address}: {error}; set another sync.listen")]
pub struct BindError {
    address: SocketAddr,
    error: io::Error,
}

// === impl Connections ===

impl Connections {
    /// Listens for peers, and dials them.
    ///
    /// # Errors
    ///
    /// [`BindError`].
    pub async fn start(config: &Config, key: Key) -> Result<Self, BindError> {
        let address = config.listen;
        let bound = TcpListener::bind(address).await;
        let listener = bound.map_err(|error| BindError { address, error })?;
        Ok(Self::over(listener, &config.peers, key))
    }

    fn over(listener: TcpListener, peers: &[SocketAddr], key: Key) -> Self {
        let (sender, incoming) = mpsc::channel(INCOMING_MAX);
        let shared = Arc::new(Shared {
            key,
            next_session: AtomicU64::new(1),
            sender,
            strangers: Arc::new(Semaphore::new(STRANGERS_MAX)),
            sessions: Arc::new(Semaphore::new(SESSIONS_MAX)),
            refusals: Mutex::default(),
            troubles: Mutex::default(),
            present: watch::Sender::new(BTreeSet::new()),
        });
        let mut tasks = JoinSet::new();
        tasks.spawn(Arc::clone(&shared).accept(listener));
        for peer in peers {
            tasks.spawn(Arc::clone(&shared).dial(*peer));
        }
        Self { incoming, shared, _tasks: tasks }
    }

    /// Waits for what comes next; adds up to `limit` things to `all`. Cancel safe.
    pub async fn next(&mut self, all: &mut Vec<Incoming>, limit: usize) {
        self.incoming.recv_many(all, limit).await;
    }

    /// Says which nodes are there.
    pub fn set_present(&self, nodes: BTreeSet<Name>) {
        self.shared.present.send_if_modified(|present| {
            let changed = *present != nodes;
            *present = nodes;
            changed
        });
    }

    /// Counts, and logs once, that somebody with the key was turned away.
    pub fn refuse(&self, remote: SocketAddr, why: &Error) {
        self.shared.refuse(remote, why);
    }

    /// Somebody was taken in: what goes wrong with them from now on is news again.
    pub fn welcome(&self, remote: SocketAddr) {
        lock(&self.shared.refusals).logged.retain(|(address, _)| *address != remote.ip());
        lock(&self.shared.troubles).retain(|peer, _| peer.ip() != remote.ip());
    }

    /// What last went wrong with a peer that is dialled, if it is not there.
    pub fn trouble(&self, peer: SocketAddr) -> Option<String> {
        lock(&self.shared.troubles).get(&peer).cloned()
    }

    /// How many were turned away, by reason.
    pub fn refusals(&self) -> BTreeMap<&'static str, u64> {
        lock(&self.shared.refusals).counts.clone()
    }
}

// === impl Shared ===

impl Shared {
    async fn accept(self: Arc<Self>, listener: TcpListener) {
        let mut connections = JoinSet::new();
        loop {
            while connections.try_join_next().is_some() {}
            let (stream, remote) = match listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    warn!("accepting a peer failed: {error}");
                    sleep(RETRY[1]).await;
                    continue;
                }
            };
            let Ok(stranger) = Arc::clone(&self.strangers).try_acquire_owned() else {
                self.refuse(remote, &Error::Crowded);
                continue;
            };
            connections.spawn(Arc::clone(&self).accepted(stream, remote, stranger));
        }
    }

    async fn accepted(
        self: Arc<Self>,
        stream: TcpStream,
        remote: SocketAddr,
        stranger: OwnedSemaphorePermit,
    ) {
        let welcome = async {
            let (mut reader, writer) = self.shake_hands(stream, Side::Accepting).await?;
            // The handshake's first half may be a recording; only its owner can go on from here.
            let first = timeout(HANDSHAKE_LIMIT, reader.next()).await;
            let first = first.map_err(|_| Error::Silent(HANDSHAKE_LIMIT))??;
            Ok((reader, writer, first))
        };
        let (reader, writer, first) = match welcome.await {
            Ok(welcome) => welcome,
            Err(error) => return self.refuse(remote, &error),
        };
        let Ok(_session) = Arc::clone(&self.sessions).try_acquire_owned() else {
            return self.refuse(remote, &Error::Crowded);
        };
        drop(stranger);
        let _ = self.run(reader, writer, remote, false, Some(first)).await;
    }

    async fn dial(self: Arc<Self>, peer: SocketAddr) {
        let mut present = self.present.subscribe();
        let mut pause = RETRY[0];
        loop {
            let began = Instant::now();
            let error = match self.reach(peer).await {
                Ok((reader, writer)) => self.run(reader, writer, peer, true, None).await,
                Err(error) => error,
            };
            if began.elapsed() > SETTLED {
                pause = RETRY[0];
            }
            if let Error::Duplicate(node) = &error {
                lock(&self.troubles).remove(&peer);
                // It is here already. An error would mean that the daemon ends.
                let _ = present.wait_for(|nodes| !nodes.contains(node)).await;
                continue;
            }
            let text = error.to_string();
            let known = lock(&self.troubles).insert(peer, text.clone());
            if known.as_deref() != Some(&text) {
                info!("no connection with the peer {peer}: {text}; it is tried again");
            }
            if error.is_refusal() {
                self.refuse(peer, &error);
            }
            sleep(pause).await;
            pause = (2 * pause).min(RETRY[1]);
        }
    }

    async fn reach(&self, peer: SocketAddr) -> Result<(TcpReader, TcpWriter), Error> {
        let connected = timeout(HANDSHAKE_LIMIT, TcpStream::connect(peer)).await;
        let stream = connected.map_err(|_| Error::Silent(HANDSHAKE_LIMIT))??;
        self.shake_hands(stream, Side::Dialling).await
    }

    async fn shake_hands(
        &self,
        stream: TcpStream,
        side: Side,
    ) -> Result<(TcpReader, TcpWriter), Error> {
        stream.set_nodelay(true)?;
        let (reader, writer) = stream.into_split();
        channel::open(reader, writer, &self.key, side).await
    }

    /// Reads and writes until the connection ends, and returns why it did.
    async fn run(
        &self,
        mut reader: TcpReader,
        mut writer: TcpWriter,
        remote: SocketAddr,
        dialled: bool,
        first: Option<Message>,
    ) -> Error {
        let session = SessionId(self.next_session.fetch_add(1, Ordering::Relaxed));
        let outbox = Outbox::new();
        let opened = Incoming::Opened { session, remote, dialled, outbox: outbox.clone() };
        self.tell(opened).await;
        if let Some(first) = first {
            self.tell(Incoming::Message(session, first)).await;
        }
        let read = async {
            loop {
                match reader.next().await {
                    Ok(message) => self.tell(Incoming::Message(session, message)).await,
                    Err(error) => return error,
                }
            }
        };
        let write = async {
            loop {
                match outbox.next(BATCH).await {
                    Next::Send(frames, room) => {
                        if let Err(error) = writer.send(&frames, SEND_LIMIT).await {
                            return error;
                        }
                        if room {
                            self.tell(Incoming::Room(session)).await;
                        }
                    }
                    Next::Close(why) => return why.unwrap_or_else(ended),
                }
            }
        };
        let error = tokio::select! {
            error = read => error,
            error = write => error,
        };
        let copy = match &error {
            Error::Duplicate(node) => Error::Duplicate(node.clone()),
            other => Error::Io(io::Error::other(other.to_string())),
        };
        self.tell(Incoming::Closed(session, error)).await;
        copy
    }

    async fn tell(&self, incoming: Incoming) {
        // Nobody listens any more when the daemon ends, and this task with it.
        let _ = self.sender.send(incoming).await;
    }

    fn refuse(&self, remote: SocketAddr, why: &Error) {
        let mut refusals = lock(&self.refusals);
        let reason = why.reason();
        *refusals.counts.entry(reason).or_default() += 1;
        if refusals.logged.len() < LOGGED_MAX && refusals.logged.insert((remote.ip(), reason)) {
            warn!("refused {remote} as a peer: {why} (told once)");
            // A full queue has enough to tell.
            let _ = self.sender.try_send(Incoming::Refused(remote.ip(), why.to_string()));
        }
    }
}

fn ended() -> Error {
    Error::Io(io::ErrorKind::ConnectionAborted.into())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
