//! Connections over loopback: found, lost, found again; and strangers.

use std::{net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

use crate::{
    config::Sync as Config,
    sync::{Connections, Error, Frame, Incoming, Key, Message, Outbox, SessionId, packet},
};

const PATIENCE: Duration = Duration::from_secs(30);

/// One end, as the daemon's task has it.
struct End {
    connections: Connections,
    waiting: std::collections::VecDeque<Incoming>,
}

impl End {
    async fn start(listen: SocketAddr, peer: SocketAddr, key: &Key) -> Self {
        let config = Config {
            listen,
            peers: vec![peer],
            key_file: "/unused".into(),
            probe: Duration::ZERO,
            witness: Vec::new(),
            fence: Vec::new(),
        };
        let connections = Connections::start(&config, key.clone()).await.unwrap();
        Self { connections, waiting: std::collections::VecDeque::new() }
    }

    async fn next(&mut self) -> Incoming {
        if self.waiting.is_empty() {
            let mut all = Vec::new();
            timeout(PATIENCE, self.connections.next(&mut all, 16)).await.expect("something comes");
            self.waiting.extend(all);
        }
        self.waiting.pop_front().unwrap()
    }

    async fn opened(&mut self) -> (SessionId, bool, Outbox) {
        loop {
            if let Incoming::Opened { session, dialled, outbox, .. } = self.next().await {
                return (session, dialled, outbox);
            }
        }
    }

    async fn refused(&self, reason: &str) -> u64 {
        let counted = async {
            loop {
                if let Some(count) = self.connections.refusals().get(reason) {
                    return *count;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(PATIENCE, counted).await.expect("it is counted")
    }
}

/// Two addresses that are free at the moment.
async fn addresses() -> [SocketAddr; 2] {
    let bind = || tokio::net::TcpListener::bind("127.0.0.1:0");
    let (a, b) = (bind().await.unwrap(), bind().await.unwrap());
    [a.local_addr().unwrap(), b.local_addr().unwrap()]
}

fn frame(sequence: u64) -> Frame {
    Frame::new(&Message::Ack { sequence }).unwrap()
}

/// Somewhere that nobody listens.
fn nowhere() -> SocketAddr {
    "127.0.0.1:1".parse().unwrap()
}

#[tokio::test]
async fn two_find_each_other_and_find_each_other_again() {
    let key = Key::generate();
    let [a, b] = addresses().await;
    let mut first = End::start(a, b, &key).await;
    let mut second = End::start(b, nowhere(), &key).await;
    let (_, dialled, outbox) = first.opened().await;
    assert!(dialled);
    outbox.push(frame(1));
    let (session, dialled, back) = second.opened().await;
    assert!(!dialled);
    assert!(matches!(
        second.next().await,
        Incoming::Message(from, Message::Ack { sequence: 1 }) if from == session
    ));
    back.push(frame(2));
    assert!(matches!(first.next().await, Incoming::Message(_, Message::Ack { sequence: 2 })));

    drop(second);
    assert!(matches!(first.next().await, Incoming::Closed(..)));
    let mut second = End::start(b, nowhere(), &key).await;
    let (_, _, outbox) = first.opened().await;
    outbox.push(frame(3));
    second.opened().await;
}

#[tokio::test]
async fn what_is_said_arrives_in_order_and_whole() {
    let key = Key::generate();
    let [a, b] = addresses().await;
    let mut first = End::start(a, b, &key).await;
    let mut second = End::start(b, nowhere(), &key).await;
    let (_, _, outbox) = first.opened().await;
    for sequence in 0..5_000 {
        outbox.push(frame(sequence));
    }
    second.opened().await;
    for expected in 0..5_000 {
        let incoming = second.next().await;
        assert!(
            matches!(incoming, Incoming::Message(_, Message::Ack { sequence }) if sequence == expected),
            "{incoming:?} in place of {expected}"
        );
    }
}

#[tokio::test]
async fn another_key_is_refused_and_counted_on_both_sides() {
    let [a, b] = addresses().await;
    let mut first = End::start(a, b, &Key::generate()).await;
    let mut second = End::start(b, nowhere(), &Key::generate()).await;
    assert!(second.refused("key").await > 0);
    assert!(first.refused("key").await > 0);
    for end in [&mut first, &mut second] {
        // It is tried again and again, and told of once.
        while end.refused("key").await < 3 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let told = end.next().await;
        assert!(
            matches!(&told, Incoming::Refused(_, why) if why.contains("another key")),
            "{told:?}"
        );
        assert!(end.waiting.is_empty(), "{:?}", end.waiting);
    }
    assert!(first.connections.trouble(b).unwrap().contains("another key"));
}

#[tokio::test]
async fn strangers_are_refused_and_cost_nothing() {
    let key = Key::generate();
    let [a, b] = addresses().await;
    let end = End::start(a, nowhere(), &key).await;
    let mut newer = packet::preamble();
    newer[7] += 1;
    for (bytes, reason) in [(&b"GET / HTTP/1.1\r\n\r\n"[..], "garbage"), (&newer, "version")] {
        let mut stranger = TcpStream::connect(a).await.unwrap();
        stranger.write_all(bytes).await.unwrap();
        assert_eq!(end.refused(reason).await, 1);
        // Beyond its own preamble it says nothing, and hangs up.
        let mut said = Vec::new();
        let _ = timeout(PATIENCE, stranger.read_to_end(&mut said)).await.unwrap();
        assert!(said.len() <= 8, "{said:?}");
    }

    // Many that say nothing leave room for one that has the key, once they had their time.
    let mut silent = Vec::new();
    for _ in 0..40 {
        silent.push(TcpStream::connect(a).await.unwrap());
    }
    assert!(end.refused("crowded").await > 0);
    let mut peer = End::start(b, a, &key).await;
    let (_, dialled, _) = peer.opened().await;
    assert!(dialled);
    assert!(end.refused("silent").await > 0);
}

#[tokio::test]
async fn a_connection_that_is_a_duplicate_is_not_dialled_again_while_its_node_is_there() {
    let key = Key::generate();
    let [a, b] = addresses().await;
    let mut first = End::start(a, b, &key).await;
    let _second = End::start(b, nowhere(), &key).await;
    let node = crate::config::Name::new("lb-2").unwrap();
    first.connections.set_present([node.clone()].into());
    let (session, _, outbox) = first.opened().await;
    outbox.close(Some(Error::Duplicate(node)));
    let closed = first.next().await;
    assert!(matches!(closed, Incoming::Closed(id, Error::Duplicate(_)) if id == session));
    let quiet = timeout(Duration::from_millis(500), first.next()).await;
    assert!(quiet.is_err(), "{quiet:?}");
    first.connections.set_present([].into());
    first.opened().await;
}

#[tokio::test]
async fn a_peer_that_asks_for_more_than_it_takes_is_given_up() {
    let key = Key::generate();
    let [a, b] = addresses().await;
    let mut first = End::start(a, b, &key).await;
    // Nobody takes what comes out of its connections.
    let _second = End::start(b, nowhere(), &key).await;
    let (_, _, outbox) = first.opened().await;
    let line = "x".repeat(30_000);
    let bulk = Message::Config { lines: vec![line], last: false };
    // Of a kind that cannot be told anew later.
    let bulk = Frame::new(&bulk).unwrap();
    let pushed = (0..10_000).take_while(|_| outbox.push(bulk.clone())).count();
    assert!(pushed < 10_000, "the queue has a bound");
    assert!(matches!(first.next().await, Incoming::Closed(_, Error::Greedy)));
}
