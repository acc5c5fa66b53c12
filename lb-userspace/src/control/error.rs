//! Refusals of the daemon and the core, as HTTP says them.

use hyper::StatusCode;

use super::Unanswered;
use crate::{
    core::{CommandError, Expect},
    http::Failure,
};

/// What a refused command is on the wire. A condition that the client itself made
/// (`If-None-Match`, `If-Match`) fails with 412; the code in the body is the same without it.
pub(super) fn refused(error: &CommandError, expect: Expect) -> Failure {
    let status = match (error, expect) {
        (CommandError::Exists(_), Expect::Absent)
        | (CommandError::NoBackend(_), Expect::Present) => StatusCode::PRECONDITION_FAILED,
        (CommandError::Exists(_) | CommandError::Refused(_), _) => StatusCode::CONFLICT,
        (
            CommandError::NoService(_) | CommandError::NoBackend(_) | CommandError::NoInstance(_),
            _,
        ) => StatusCode::NOT_FOUND,
        (CommandError::Invalid(_), _) => StatusCode::UNPROCESSABLE_ENTITY,
        (CommandError::Full(_), _) => StatusCode::INSUFFICIENT_STORAGE,
    };
    Failure::new(status, error.code(), error.to_string())
}

/// A reload that was refused: every fault, one a line.
pub(super) fn reload_refused(faults: &[String]) -> Failure {
    Failure::new(StatusCode::UNPROCESSABLE_ENTITY, "config", faults.join("\n"))
}

/// A value in the request that cannot be.
pub(super) fn invalid(message: impl Into<String>) -> Failure {
    Failure::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid", message)
}

/// A request that says nothing we understand.
pub(super) fn malformed(message: impl Into<String>) -> Failure {
    Failure::new(StatusCode::BAD_REQUEST, "malformed", message)
}

impl From<Unanswered> for Failure {
    fn from(error: Unanswered) -> Self {
        let code = match error {
            Unanswered::Busy(_) => "busy",
            Unanswered::Gone => "stopping",
        };
        Self::new(StatusCode::SERVICE_UNAVAILABLE, code, error.to_string())
    }
}
