//! The loop around connections.

use std::{
    convert::Infallible,
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use hyper::{Request, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, UnixListener},
    sync::{Semaphore, watch},
    task::JoinSet,
    time,
};
use tracing::{debug, warn};

use super::{
    Limits,
    body::{Endless, Response},
};

/// How long exchanges under way may go on once the server shall stop.
const GRACE: Duration = Duration::from_secs(1);

/// How long to wait after a failure to accept, most likely for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Longest header of a request, in bytes; ours have no use for more.
const HEADER_BYTES: usize = 16 * 1024;

/// Something that connections come from.
pub trait Listener: Sync {
    /// A connection.
    type Connection: AsyncRead + AsyncWrite + Send + Unpin + 'static;

    /// Waits for the next one.
    fn next(&self) -> impl Future<Output = io::Result<Self::Connection>> + Send;
}

impl Listener for UnixListener {
    type Connection = tokio::net::UnixStream;

    async fn next(&self) -> io::Result<Self::Connection> {
        Ok(self.accept().await?.0)
    }
}

impl Listener for TcpListener {
    type Connection = tokio::net::TcpStream;

    async fn next(&self) -> io::Result<Self::Connection> {
        Ok(self.accept().await?.0)
    }
}

/// Answers requests until `shutdown` turns true (or its sender is gone), then lets exchanges
/// under way end within a second.
pub async fn serve<L, H, A>(
    listener: &L,
    limits: Limits,
    mut shutdown: watch::Receiver<bool>,
    handler: H,
) where
    L: Listener,
    H: Fn(Request<Incoming>) -> A + Clone + Send + Sync + 'static,
    A: Future<Output = Response> + Send + 'static,
{
    let places = Arc::new(Semaphore::new(limits.connections));
    let mut connections = JoinSet::new();
    // Completes when told to stop, and also when nobody is left who could tell.
    let stopped = async move { drop(shutdown.wait_for(|stop| *stop).await) };
    tokio::pin!(stopped);
    loop {
        while connections.try_join_next().is_some() {}
        let next = async {
            // Before accepting: whom we cannot serve yet waits in the kernel's bounded queue.
            let place = Arc::clone(&places).acquire_owned().await;
            (place, listener.next().await)
        };
        let (place, accepted) = tokio::select! {
            () = &mut stopped => break,
            next = next => next,
        };
        match accepted {
            Ok(connection) => {
                let exchange = exchange(connection, limits, handler.clone());
                connections.spawn(async move {
                    exchange.await;
                    drop(place);
                });
            }
            Err(error) => {
                warn!(%error, "cannot accept a connection");
                time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    let all_done = async { while connections.join_next().await.is_some() {} };
    // What is not done by then is cut off when the set is dropped.
    let _ = time::timeout(GRACE, all_done).await;
}

/// One connection: one request, one answer.
async fn exchange<C, H, A>(connection: C, limits: Limits, handler: H)
where
    C: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    H: Fn(Request<Incoming>) -> A,
    A: Future<Output = Response>,
{
    let endless = AtomicBool::new(false);
    let service = service_fn(|request| {
        let answer = handler(request);
        async {
            let response = answer.await;
            if response.extensions().get::<Endless>().is_some() {
                endless.store(true, Ordering::Relaxed);
            }
            Ok::<_, Infallible>(response)
        }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header_timeout)
        .max_header_size(HEADER_BYTES)
        .keep_alive(false)
        .serve_connection(TokioIo::new(connection), service);
    let too_long = async {
        time::sleep(limits.exchange_timeout).await;
        if endless.load(Ordering::Relaxed) {
            std::future::pending::<()>().await;
        }
    };
    tokio::select! {
        result = served => {
            if let Err(error) = result {
                debug!(%error, "a connection ended early");
            }
        }
        () = too_long => debug!("a connection took too long"),
    }
}
