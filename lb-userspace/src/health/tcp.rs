//! `tcp`: does the backend accept a connection?

use std::net::SocketAddr;

use tokio::net::TcpStream;

use super::reason::Failure;

/// Opens a connection and closes it.
///
/// Closed the ordinary way, with a FIN. A reset (`SO_LINGER` of 0) would spare this machine a
/// socket in `TIME_WAIT`, but an application that has just accepted the connection logs a reset
/// as an error, at every check. And `TIME_WAIT` is no burden here: ports are used up for each
/// backend on its own, a check every 100 ms keeps 600 of 28 000 for a minute, and the kernel
/// holds about 200 bytes for each.
pub(super) async fn check(peer: SocketAddr) -> Result<(), Failure> {
    connect(peer).await.map(drop)
}

/// Opens a connection.
pub(super) async fn connect(peer: SocketAddr) -> Result<TcpStream, Failure> {
    not_itself(TcpStream::connect(peer).await?)
}

/// Refuses a connection that answers itself: one to a port of this machine on which nobody
/// listens may be given that very port as its own (simultaneous open, RFC 9293, section 3.5).
fn not_itself(stream: TcpStream) -> Result<TcpStream, Failure> {
    if stream.local_addr()? == stream.peer_addr()? {
        return Err(Failure::nobody());
    }
    Ok(stream)
}

#[cfg(test)]
mod tests {
    use tokio::{io::AsyncReadExt, net::TcpListener};

    use super::*;
    use crate::health::testing::{closed_port, loopback};

    #[tokio::test]
    async fn an_accepted_connection_passes_and_is_closed_without_a_reset() {
        let listener = TcpListener::bind(loopback()).await.unwrap();
        check(listener.local_addr().unwrap()).await.unwrap();
        let (mut stream, _) = listener.accept().await.unwrap();
        // A reset would be an error here.
        assert_eq!(stream.read(&mut [0; 16]).await.unwrap(), 0);
    }

    #[tokio::test]
    async fn a_port_without_a_listener_refuses() {
        let (_port, peer) = closed_port();
        let reason = check(peer).await.unwrap_err().to_string();
        assert_eq!(reason, "connection refused");
    }

    #[tokio::test]
    async fn ipv6_works_too() {
        let listener = TcpListener::bind("[::1]:0").await.unwrap();
        check(listener.local_addr().unwrap()).await.unwrap();
    }

    #[tokio::test]
    async fn a_connection_to_itself_is_no_answer() {
        // Bound and not listening: the kernel lets the socket connect to itself.
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind(loopback()).unwrap();
        let own = socket.local_addr().unwrap();
        let stream = socket.connect(own).await.unwrap();
        assert_eq!(not_itself(stream).unwrap_err().to_string(), "connection refused");
    }
}
