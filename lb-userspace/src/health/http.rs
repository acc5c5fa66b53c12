//! `http`: does the backend answer a request as it should?

use std::{convert::Infallible, future::pending, net::SocketAddr};

use http_body_util::{BodyExt, Empty};
use hyper::{
    Request, Response,
    body::{Bytes, Incoming},
    client::conn::http1,
    header,
};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};

use super::{reason::Failure, tcp};
use crate::config::HttpCheck;

/// How much of a body is searched. A health page is smaller; whoever sends more is not read on.
const MAX_BODY_BYTES: usize = 1 << 20;

/// The largest head of an answer; also what one read may take.
const MAX_HEAD_BYTES: usize = 64 << 10;

const USER_AGENT: &str = concat!("weir/", env!("CARGO_PKG_VERSION"));

/// Sends the request over a new connection and judges the answer.
pub(super) async fn check(peer: SocketAddr, check: &HttpCheck) -> Result<(), Failure> {
    let stream = tcp::connect(peer).await?;
    exchange(stream, peer, check).await
}

/// Sends the request and judges the answer. Redirects are answers like any other.
pub(super) async fn exchange<S>(
    stream: S,
    peer: SocketAddr,
    check: &HttpCheck,
) -> Result<(), Failure>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let request = request(peer, check)?;
    let (mut sender, connection) = http1::Builder::new()
        .max_buf_size(MAX_HEAD_BYTES)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(|error| Failure::http(&error))?;
    let judged = async {
        let response = sender.send_request(request).await;
        judge(response.map_err(|error| Failure::http(&error))?, check).await
    };
    // The connection only moves bytes; what ends it shows in the answer. It is driven here and not
    // in a task of its own, so that it ends with the check.
    let driven = async {
        let _ = connection.await;
        pending::<Infallible>().await
    };
    tokio::select! {
        outcome = judged => outcome,
        never = driven => match never {},
    }
}

fn request(peer: SocketAddr, check: &HttpCheck) -> Result<Request<Empty<Bytes>>, Failure> {
    Request::builder()
        .method(check.method.as_str())
        .uri(check.path.as_str())
        .header(header::HOST, check.host.clone().unwrap_or_else(|| peer.to_string()))
        .header(header::USER_AGENT, USER_AGENT)
        .header(header::ACCEPT, "*/*")
        .header(header::CONNECTION, "close")
        .body(Empty::new())
        .map_err(|_| Failure::Request)
}

async fn judge(response: Response<Incoming>, check: &HttpCheck) -> Result<(), Failure> {
    let status = response.status().as_u16();
    if !check.expect.iter().any(|pattern| pattern.matches(status)) {
        return Err(Failure::Status { status, expected: check.expect.clone() });
    }
    match &check.body {
        Some(text) => find(response.into_body(), text).await,
        None => Ok(()),
    }
}

/// Reads the body until the text appears.
async fn find(mut body: Incoming, text: &str) -> Result<(), Failure> {
    let mut search = Search::new(text);
    let mut read_bytes = 0;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| Failure::http(&error))?;
        let Some(data) = frame.data_ref() else { continue };
        let data = &data[..data.len().min(MAX_BODY_BYTES - read_bytes)];
        if search.feed(data) {
            return Ok(());
        }
        read_bytes += data.len();
        if read_bytes == MAX_BODY_BYTES {
            let text = text.to_owned();
            return Err(Failure::LongBody { text, limit_bytes: MAX_BODY_BYTES });
        }
    }
    Err(Failure::Body(text.to_owned()))
}

/// Looks for a text in pieces, keeping no more of them than the text is long.
struct Search<'a> {
    text: &'a [u8],
    /// The end of what was seen: what the text's beginning may be in.
    tail: Vec<u8>,
}

impl<'a> Search<'a> {
    fn new(text: &'a str) -> Self {
        Self { text: text.as_bytes(), tail: Vec::new() }
    }

    /// Whether the text is complete with this piece.
    fn feed(&mut self, piece: &[u8]) -> bool {
        self.tail.extend_from_slice(piece);
        if self.text.is_empty() || self.tail.windows(self.text.len()).any(|w| w == self.text) {
            return true;
        }
        let keep = self.tail.len().min(self.text.len() - 1);
        self.tail.drain(..self.tail.len() - keep);
        false
    }
}

#[cfg(test)]
mod tests;
