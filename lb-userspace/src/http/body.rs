//! Bodies: reading those of requests within limits, making those of answers.

use std::{convert::Infallible, error::Error};

use futures_util::{Stream, StreamExt};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited, StreamBody, combinators};
use hyper::{
    StatusCode,
    body::{Bytes, Frame, Incoming},
    header,
};
use serde::{Serialize, de::DeserializeOwned};

use super::{Failure, Limits};

/// The body of an answer.
pub type Body = combinators::UnsyncBoxBody<Bytes, Infallible>;

/// An answer.
pub type Response = hyper::Response<Body>;

/// The media type of one JSON object a line.
const LINES: &str = "application/x-ndjson";

/// Marks an answer that goes on until the client leaves, among the answer's extensions.
#[derive(Debug, Clone, Copy)]
pub struct Endless;

/// Reads a request's body as JSON.
///
/// # Errors
///
/// 413 for a body over the limit, 408 for one that does not arrive in time, 400 for one that is
/// no JSON, 422 for JSON that does not say what is expected; both with line and column.
pub async fn read_json<T: DeserializeOwned>(body: Incoming, limits: &Limits) -> Result<T, Failure> {
    let read = Limited::new(body, limits.body_bytes).collect();
    let bytes = match tokio::time::timeout(limits.body_timeout, read).await {
        Ok(Ok(collected)) => collected.to_bytes(),
        Ok(Err(error)) => return Err(unreadable(error.as_ref(), limits)),
        Err(_elapsed) => {
            let message = format!("the body did not arrive within {:?}", limits.body_timeout);
            return Err(Failure::new(StatusCode::REQUEST_TIMEOUT, "timeout", message));
        }
    };
    serde_json::from_slice(&bytes).map_err(|error| {
        if error.is_data() {
            Failure::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid", error.to_string())
        } else {
            let message = format!("the body is not JSON: {error}");
            Failure::new(StatusCode::BAD_REQUEST, "malformed", message)
        }
    })
}

fn unreadable(error: &(dyn Error + Send + Sync + 'static), limits: &Limits) -> Failure {
    if error.is::<LengthLimitError>() {
        let message = format!("the body is larger than {} bytes", limits.body_bytes);
        Failure::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", message)
    } else {
        Failure::new(StatusCode::BAD_REQUEST, "malformed", format!("broken body: {error}"))
    }
}

/// An answer of JSON, with a newline at its end for those who read it in a terminal.
pub fn json<T: Serialize>(status: StatusCode, value: &T) -> Response {
    whole(status, "application/json", line(value))
}

/// JSON with a newline at its end.
///
/// # Panics
///
/// If the value's own `Serialize` fails; ours do not.
pub fn line<T: Serialize>(value: &T) -> Bytes {
    let mut bytes = serde_json::to_vec(value)
        .expect("our own types have string keys and serializers that do not fail");
    bytes.push(b'\n');
    bytes.into()
}

/// An answer of text.
pub fn text(status: StatusCode, content_type: &'static str, text: String) -> Response {
    whole(status, content_type, text.into())
}

/// An answer of one JSON object a line.
pub fn lines(lines: impl Iterator<Item = Bytes>) -> Response {
    whole(StatusCode::OK, LINES, lines.collect::<Vec<_>>().concat().into())
}

/// The same, sent line by line until the stream ends.
pub fn stream_lines(lines: impl Stream<Item = Bytes> + Send + 'static) -> Response {
    let frames = lines.map(|line| Ok(Frame::data(line)));
    let mut response = typed(StatusCode::OK, LINES, StreamBody::new(frames).boxed_unsync());
    response.extensions_mut().insert(Endless);
    response
}

fn whole(status: StatusCode, content_type: &'static str, bytes: Bytes) -> Response {
    typed(status, content_type, Full::new(bytes).boxed_unsync())
}

fn typed(status: StatusCode, content_type: &'static str, body: Body) -> Response {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, header::HeaderValue::from_static(content_type));
    response
}
