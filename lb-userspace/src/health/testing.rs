//! Servers, targets and waits for the tests of this folder.

use std::{
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncReadExt},
    net::{TcpListener, TcpSocket},
    time::{Instant, sleep, timeout},
};

use super::Target;
use crate::{
    config::{CheckKind, HealthCheck, HttpCheck, Name, StatusPattern},
    core::BackendId,
};

/// How long a test waits for what must come: far longer than it takes, so that only a fault runs
/// into it.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);

/// A free port of this machine.
pub(super) fn loopback() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, 0).into()
}

/// A port on which nobody listens, as long as the socket is kept.
pub(super) fn closed_port() -> (TcpSocket, SocketAddr) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(loopback()).unwrap();
    let address = socket.local_addr().unwrap();
    (socket, address)
}

/// A server that accepts connections, and says and does nothing.
pub(super) async fn silent_server() -> SocketAddr {
    let listener = TcpListener::bind(loopback()).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let mut kept = Vec::new();
        while let Ok(connection) = listener.accept().await {
            kept.push(connection);
        }
    });
    address
}

/// The head of a request, up to its empty line.
pub(super) async fn request_head(stream: &mut (impl AsyncRead + Unpin)) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    String::from_utf8(head).unwrap()
}

pub(super) fn http_check() -> HttpCheck {
    HttpCheck {
        method: "GET".to_owned(),
        path: "/health?deep=1".to_owned(),
        host: None,
        expect: vec![StatusPattern::Class(2), StatusPattern::Class(3)],
        body: None,
    }
}

/// A target on loopback, checked every 200 ms. Its timeout is one that only a fault runs into.
pub(super) fn target(backend: &str, port: u16, kind: CheckKind) -> Target {
    Target {
        id: BackendId { service: Name::new("web").unwrap(), backend: Name::new(backend).unwrap() },
        address: Ipv4Addr::LOCALHOST.into(),
        service_address: Ipv4Addr::new(192, 0, 2, 10).into(),
        service_port: 80,
        check: HealthCheck {
            kind,
            port,
            interval: Duration::from_millis(200),
            timeout: PATIENCE,
            rise: 2,
            fall: 3,
        },
    }
}

/// Waits until a condition holds.
///
/// # Panics
///
/// If it does not within [`PATIENCE`].
pub(super) async fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < PATIENCE, "waited in vain: {what}");
        sleep(Duration::from_millis(5)).await;
    }
}

/// Waits for something that must come.
pub(super) async fn soon<T>(future: impl Future<Output = T>) -> T {
    timeout(PATIENCE, future).await.expect("it comes in time")
}
