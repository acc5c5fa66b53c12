//! Answers that say no: `{"error": {"code": …, "message": …}}` with a fitting status.

use hyper::{StatusCode, header};
use serde::{Deserialize, Serialize};

use super::body::{self, Response};

/// Why a request was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// The status of the answer.
    pub status: StatusCode,
    /// The reason for machines, in snake case.
    pub code: &'static str,
    /// The reason for people, with the remedy.
    pub message: String,
    /// The methods that the path has, for the `Allow` header of a 405.
    pub allow: Option<&'static str>,
}

/// The body of such an answer.
#[derive(Debug, Serialize, Deserialize)]
pub struct ErrorBody {
    /// The only member.
    pub error: ErrorDetail,
}

/// What went wrong.
#[derive(Debug, Serialize, Deserialize)]
pub struct ErrorDetail {
    /// For machines.
    pub code: String,
    /// For people.
    pub message: String,
}

impl Failure {
    /// A failure with a status, a code and a message.
    pub fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, code, message: message.into(), allow: None }
    }

    /// 405: the path exists, but not for this method.
    pub fn method_not_allowed(allow: &'static str) -> Self {
        let message = format!("this path answers {allow} only");
        let failure = Self::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", message);
        Self { allow: Some(allow), ..failure }
    }
}

impl From<Failure> for Response {
    fn from(failure: Failure) -> Self {
        let detail = ErrorDetail { code: failure.code.to_owned(), message: failure.message };
        let mut response = body::json(failure.status, &ErrorBody { error: detail });
        if let Some(allow) = failure.allow {
            response.headers_mut().insert(header::ALLOW, header::HeaderValue::from_static(allow));
        }
        response
    }
}
