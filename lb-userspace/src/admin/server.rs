//! The listener, and what its three paths answer.

use std::{io, net::SocketAddr, time::Duration};

use hyper::{Method, Request, StatusCode, body::Incoming};
use tokio::{net::TcpListener, sync::watch};

use super::{Metrics, scrape};
use crate::{
    control::Handle,
    http::{self, Failure, Limits, Response, body},
};

/// How long the daemon may take before `/healthz` calls it ill: a supervisor's probe gives up
/// sooner than people do.
const HEALTH_PATIENCE: Duration = Duration::from_secs(2);

/// The media type of `OpenMetrics` 1.0.
const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

const PLAIN: &str = "text/plain; charset=utf-8";

/// The admin endpoint, listening.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    limits: Limits,
}

/// Why there is no admin endpoint.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}: {error}; set another admin.listen")]
pub struct Error {
    address: SocketAddr,
    error: io::Error,
}

impl Server {
    /// Listens on an address.
    ///
    /// # Errors
    ///
    /// [`Error`], if the system refuses.
    pub async fn bind(address: SocketAddr) -> Result<Self, Error> {
        let listener =
            TcpListener::bind(address).await.map_err(|error| Error { address, error })?;
        Ok(Self { listener, limits: Limits::default() })
    }

    /// The same server with other limits.
    #[must_use]
    pub fn with_limits(self, limits: Limits) -> Self {
        Self { limits, ..self }
    }

    /// Where it listens; the port is the one the system chose if it was bound to port 0.
    ///
    /// # Errors
    ///
    /// Those of the system.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Answers until `shutdown` turns true. `ready` says whether the program is attached.
    pub async fn run(
        self,
        handle: Handle,
        metrics: Metrics,
        ready: watch::Receiver<bool>,
        shutdown: watch::Receiver<bool>,
    ) {
        let limits = self.limits;
        let endpoint = Endpoint { handle, metrics, ready, limits };
        http::serve(&self.listener, limits, shutdown, move |request| {
            let endpoint = endpoint.clone();
            async move { endpoint.answer(&request).await.unwrap_or_else(Response::from) }
        })
        .await;
    }
}

/// What an answer is made of.
#[derive(Debug, Clone)]
struct Endpoint {
    handle: Handle,
    metrics: Metrics,
    ready: watch::Receiver<bool>,
    limits: Limits,
}

impl Endpoint {
    async fn answer(&self, request: &Request<Incoming>) -> Result<Response, Failure> {
        let path = request.uri().path();
        if !matches!(path, "/metrics" | "/healthz" | "/readyz") {
            let message = "here are /metrics, /healthz and /readyz";
            return Err(Failure::new(StatusCode::NOT_FOUND, "no_path", message));
        }
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            return Err(Failure::method_not_allowed("GET, HEAD"));
        }
        match path {
            "/metrics" => self.metrics().await,
            "/healthz" => Ok(self.health().await),
            _ => Ok(self.readiness()),
        }
    }

    async fn metrics(&self) -> Result<Response, Failure> {
        let status = self.handle.status(self.limits.answer_timeout).await?;
        let text = scrape::text(status, &self.metrics).map_err(|_unlikely| {
            let message = "the metrics cannot be written";
            Failure::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", message)
        })?;
        Ok(body::text(StatusCode::OK, OPENMETRICS, text))
    }

    async fn health(&self) -> Response {
        match self.handle.status(HEALTH_PATIENCE.min(self.limits.answer_timeout)).await {
            Ok(_status) => body::text(StatusCode::OK, PLAIN, "ok\n".to_owned()),
            Err(error) => body::text(StatusCode::SERVICE_UNAVAILABLE, PLAIN, format!("{error}\n")),
        }
    }

    fn readiness(&self) -> Response {
        if *self.ready.borrow() {
            body::text(StatusCode::OK, PLAIN, "ready\n".to_owned())
        } else {
            let reason = "not ready: the program is not attached to every interface\n".to_owned();
            body::text(StatusCode::SERVICE_UNAVAILABLE, PLAIN, reason)
        }
    }
}
