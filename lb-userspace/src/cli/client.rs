//! HTTP over the daemon's Unix socket.

use std::{
    io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::Duration,
};

use http_body_util::{BodyExt, Full, Limited};
use hyper::{
    Method, Request, Response,
    body::{Bytes, Incoming},
    client::conn::http1,
    header,
};
use hyper_util::rt::TokioIo;
use nix::unistd::{Gid, Group};
use tokio::{net::UnixStream, time};

use crate::http::failure::ErrorBody;

/// How long a connection may take. A daemon with all its places taken lets us wait.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// How long an answer may take; longer than the daemon's own patience, so that it can say so.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(15);

/// The largest answer or line that is read, in bytes: the status of the largest tables fits.
const ANSWER_BYTES: usize = 64 * 1024 * 1024;

/// The way to a daemon.
#[derive(Debug)]
pub struct Client {
    socket: PathBuf,
}

/// Why there is no answer, or one that says no.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nobody listens.
    #[error(
        "weir does not answer on {0}; is `weir run` running? (`--socket` names another socket)"
    )]
    Absent(PathBuf),
    /// We may not use the socket.
    #[error("you may not use {socket}; {remedy}")]
    Forbidden {
        /// The socket.
        socket: PathBuf,
        /// Who may.
        remedy: String,
    },
    /// It takes too long.
    #[error("weir did not answer on {0} within {1:?}; is the daemon stuck? See its log")]
    Slow(PathBuf, Duration),
    /// The connection broke, or no daemon of ours is at its end.
    #[error("the connection to {0} broke: {1}; see the daemon's log")]
    Broken(PathBuf, String),
    /// The daemon says no, and why.
    #[error("{0}")]
    Refused(String),
}

impl Client {
    /// A client of the daemon on a socket.
    pub fn new(socket: PathBuf) -> Self {
        Self { socket }
    }

    /// Sends a request and reads its answer.
    ///
    /// # Errors
    ///
    /// [`Error`]
    pub async fn ask(
        &self,
        method: Method,
        path: &str,
        condition: Option<header::HeaderName>,
        body: Vec<u8>,
    ) -> Result<Bytes, Error> {
        let answered = async {
            let response = self.send(method, path, condition, body).await?;
            let status = response.status();
            let bytes = self.read(response).await?;
            if status.is_success() { Ok(bytes) } else { Err(self.refusal(status, &bytes)) }
        };
        self.in_time(ANSWER_TIMEOUT, answered).await
    }

    /// Sends a GET and leaves its answer to be read bit by bit.
    ///
    /// # Errors
    ///
    /// [`Error`]
    pub async fn stream(&self, path: &str) -> Result<Lines<'_>, Error> {
        let answered = self.send(Method::GET, path, None, Vec::new());
        let response = self.in_time(ANSWER_TIMEOUT, answered).await?;
        let status = response.status();
        if !status.is_success() {
            let bytes = self.in_time(ANSWER_TIMEOUT, self.read(response)).await?;
            return Err(self.refusal(status, &bytes));
        }
        Ok(Lines { client: self, body: response.into_body(), unread: Vec::new() })
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        condition: Option<header::HeaderName>,
        body: Vec<u8>,
    ) -> Result<Response<Incoming>, Error> {
        let connected = async {
            UnixStream::connect(&self.socket).await.map_err(|error| self.unreachable(&error))
        };
        let stream = self.in_time(CONNECT_TIMEOUT, connected).await?;
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|error| self.broken(&error))?;
        // Ends with the connection; its errors reach us through the answer.
        tokio::spawn(connection);
        let mut request = Request::builder().method(method).uri(path).header(header::HOST, "weir");
        if let Some(condition) = condition {
            request = request.header(condition, "*");
        }
        let request = request.body(Full::new(Bytes::from(body))).map_err(|e| self.broken(&e))?;
        sender.send_request(request).await.map_err(|error| self.broken(&error))
    }

    async fn read(&self, response: Response<Incoming>) -> Result<Bytes, Error> {
        let collected = Limited::new(response.into_body(), ANSWER_BYTES).collect().await;
        Ok(collected.map_err(|error| self.broken(&error))?.to_bytes())
    }

    async fn in_time<T>(
        &self,
        limit: Duration,
        work: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        let late = |_| Err(Error::Slow(self.socket.clone(), limit));
        time::timeout(limit, work).await.unwrap_or_else(late)
    }

    fn unreachable(&self, error: &io::Error) -> Error {
        match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                Error::Absent(self.socket.clone())
            }
            io::ErrorKind::PermissionDenied => {
                Error::Forbidden { socket: self.socket.clone(), remedy: remedy(&self.socket) }
            }
            _ => self.broken(error),
        }
    }

    fn broken(&self, error: &dyn ToString) -> Error {
        Error::Broken(self.socket.clone(), error.to_string())
    }

    fn refusal(&self, status: hyper::StatusCode, body: &[u8]) -> Error {
        match serde_json::from_slice::<ErrorBody>(body) {
            Ok(body) => Error::Refused(body.error.message),
            Err(_) => self.broken(&format!("it answers {status}, not as weir would")),
        }
    }
}

/// Who may use a socket that we may not.
fn remedy(socket: &Path) -> String {
    // Without permission on its directory we cannot even see whose it is.
    let group = socket.metadata().ok().map(|metadata| metadata.gid()).filter(|gid| *gid != 0);
    let name = group.and_then(|gid| Group::from_gid(Gid::from_raw(gid)).ok().flatten());
    match name {
        Some(group) => format!("be root or join its group: `usermod -aG {} USER`", group.name),
        None => "only root may".to_owned(),
    }
}

/// An answer that is read line by line.
#[derive(Debug)]
pub struct Lines<'c> {
    client: &'c Client,
    body: Incoming,
    unread: Vec<u8>,
}

impl Lines<'_> {
    /// The next line without its end, or nothing after the last.
    ///
    /// # Errors
    ///
    /// [`Error::Broken`] if the connection breaks or a line is absurdly long.
    pub async fn next(&mut self) -> Result<Option<Vec<u8>>, Error> {
        loop {
            if let Some(end) = self.unread.iter().position(|byte| *byte == b'\n') {
                let rest = self.unread.split_off(end + 1);
                let mut line = std::mem::replace(&mut self.unread, rest);
                line.pop();
                return Ok(Some(line));
            }
            if self.unread.len() > ANSWER_BYTES {
                return Err(self.client.broken(&"a line without end"));
            }
            match self.body.frame().await {
                None => return Ok(None),
                Some(Err(error)) => return Err(self.client.broken(&error)),
                Some(Ok(frame)) => {
                    if let Some(data) = frame.data_ref() {
                        self.unread.extend_from_slice(data);
                    }
                }
            }
        }
    }
}
